//! Who else on a node has an open file description: other processes, and other nodes' holders.
//!
//! Looked up once, while the process in question is frozen. Descriptors on their way, in a socket or in this
//! daemon's hands, are no process's: while there may be any, nothing counts as alone.

use super::fdinfo::Descriptor;
use super::hands::has_passengers;
use crate::host;
use crate::node::{Node, State};
use dunix_linux::kcmp;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

/// What other processes of the node have open, by the text of their links.
#[derive(Debug, Default)]
pub(super) struct Others {
    by_link: BTreeMap<Vec<u8>, Vec<(u32, i32)>>,
    /// There are descriptors that nobody has received yet.
    are_some_on_their_way: bool,
}

impl Others {
    /// Looks up who else has what a process has.
    pub(super) fn of(node: &Node, host_pid: u32, descriptors: &[Descriptor]) -> Others {
        let link = |pid: u32, number: i32| host::link(pid, &format!("fd/{number}")).ok();
        let start = node.passing.hands().now();
        let mut others = Others::default();
        for descriptor in descriptors {
            if let Some(link) = link(host_pid, descriptor.number) {
                others.look_for_passengers(host_pid, descriptor.number, &link);
                others.by_link.insert(link, Vec::new());
            }
        }
        for other in node.look(State::host_pids).into_iter().filter(|&pid| pid != host_pid) {
            let Ok(entries) = std::fs::read_dir(format!("/proc/{other}/fd")) else { continue };
            let numbers = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
            for number in numbers {
                let Some(link) = link(other, number) else { continue };
                others.look_for_passengers(other, number, &link);
                if let Some(holders) = others.by_link.get_mut(&link) {
                    holders.push((other, number));
                }
            }
        }
        // The last question covers all that this daemon took out of queues meanwhile.
        others.are_some_on_their_way |= node.homes.have_passengers()
            || node.passing.hands().have_passengers()
            || node.passing.hands().had_any(start);
        others
    }

    fn look_for_passengers(&mut self, pid: u32, number: i32, link: &[u8]) {
        if !self.are_some_on_their_way && link.starts_with(b"socket:") {
            self.are_some_on_their_way = has_passengers(pid, number);
        }
    }

    /// Whether nobody but the process itself has the description of its descriptor `number`.
    pub(super) fn is_alone(&self, node: &Node, own: (u32, i32), fd: BorrowedFd<'_>) -> bool {
        if self.are_some_on_their_way || node.homes.has_description(fd) {
            return false;
        }
        let link = host::link(own.0, &format!("fd/{}", own.1)).unwrap_or_default();
        let Some(holders) = self.by_link.get(&link) else { return false };
        // A holder that has gone meanwhile holds it no more.
        !holders.iter().any(|&other| kcmp::same_description_of(own, other).unwrap_or(false))
    }
}
