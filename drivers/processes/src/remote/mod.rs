//! Descriptors whose object lives at another node.

use crate::call::DoorbellCall;
use crate::node::{Node, Ticket};
use dunix_guest_abi::doorbell::ExecRequest;
use dunix_ids::{NodeId, Pid};
use dunix_linux::Errno;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct Homes;
impl Homes {
    pub(crate) fn new() -> Homes {
        Homes
    }
}
#[derive(Debug)]
pub(crate) struct Relay;
impl Relay {
    pub(crate) async fn drain(&self) {}
}
#[derive(Debug, Default)]
pub(crate) struct RemoteTable {
    fds: BTreeMap<i32, u64>,
}
impl RemoteTable {
    pub(crate) fn for_child(&self) -> RemoteTable {
        RemoteTable { fds: self.fds.clone() }
    }
    pub(crate) fn descriptors(&self) -> Vec<i32> {
        self.fds.keys().copied().collect()
    }
    pub(crate) fn outgoing(&self) -> Vec<Arc<Relay>> {
        Vec::new()
    }
}
impl Node {
    pub(crate) fn handle_remote(self: &Arc<Node>, call: DoorbellCall) {
        call.refuse(Errno::NOSYS);
    }
    pub(crate) fn handle_remote_cancel(self: &Arc<Node>, call: DoorbellCall) {
        call.refuse(Errno::NOSYS);
    }
    pub(crate) fn handle_remote_fd(self: &Arc<Node>, call: DoorbellCall) {
        call.refuse(Errno::NOSYS);
    }
    pub(crate) fn release_remote(&self, _pid: Pid, _table: RemoteTable) {}
    pub(crate) fn close_remote(&self, _pid: Pid, _number: i32) {}
    pub(crate) fn exec_at(
        self: &Arc<Node>,
        _node: NodeId,
        _must: bool,
        call: DoorbellCall,
        _request: ExecRequest,
        ticket: Ticket,
    ) {
        self.exec_here(call, ticket);
    }
}
