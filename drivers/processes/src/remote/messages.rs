//! What peers say about processes.

use crate::launch::LaunchError;
use crate::node::Node;
use bytes::Bytes;
use dunix_ids::NodeId;
use dunix_migration::Input;
use dunix_proc_table::KillTarget;
use dunix_transport::{Handler, MeshStream, PeerEvent, Responder};
use dunix_wire::processes::{
    Errno, ProcMessage, ProcessBody, ProcessesAnswer, ProcessesCall, ProcessesMessage, StartStep,
    StreamOpening,
};
use dunix_wire::{decode, encode};
use std::sync::Arc;

/// The face that the mesh sees.
pub(crate) struct MeshFace(pub(crate) Arc<Node>);

impl Handler for MeshFace {
    fn handle_message(&self, from: NodeId, body: Bytes) {
        match decode::<ProcessesMessage>(&body) {
            Ok(ProcessesMessage::Move(message)) => self.0.hear_of_move(from, message),
            Ok(message) => self.0.hear(from, message),
            Err(error) => tracing::warn!(%from, %error, "a message is dropped"),
        }
    }

    fn handle_call(&self, from: NodeId, body: Bytes, reply: Responder) {
        let node = &self.0;
        match decode::<ProcessesCall>(&body) {
            Err(error) => {
                let reason = error.to_string();
                let (step, errno) = (StartStep::Other, Errno::PROTO);
                reply.send(encode(&ProcessesAnswer::Refused { step, errno, reason }));
            }
            Ok(ProcessesCall::Exec(image)) => {
                let node = node.clone();
                node.runtime.clone().spawn(async move {
                    let answer = match node.adopt(from, *image).await {
                        Ok(()) => ProcessesAnswer::Adopted,
                        Err(error) => refusal(&error),
                    };
                    reply.send(encode(&answer));
                });
            }
            Ok(ProcessesCall::Remote(request)) => {
                let node = node.clone();
                // Before the next message is taken: it may cancel this call.
                let cancelled = node.homes.begin_call(from, request.ticket);
                node.runtime.clone().spawn(async move {
                    let outcome = node.execute(from, request, cancelled).await;
                    reply.send(encode(&ProcessesAnswer::Remote(outcome)));
                });
            }
            Ok(ProcessesCall::Bear(message)) => {
                let node = node.clone();
                node.runtime.clone().spawn(async move {
                    let outcome = node.take_borne(from, message).await;
                    reply.send(encode(&ProcessesAnswer::Remote(outcome)));
                });
            }
            Ok(ProcessesCall::LetGo { object, times }) => {
                node.homes.release(object, from, i64::from(times));
                reply.send(encode(&ProcessesAnswer::Drained));
            }
            Ok(ProcessesCall::FindKeeper { name, claims, not }) => {
                let keeper = node.keeper_for(from, name, (claims, not));
                reply.send(encode(&ProcessesAnswer::Keeper(keeper)));
            }
            Ok(ProcessesCall::IsBound(name)) => {
                let keeper = Some(node.id).filter(|_| node.is_bound(&name));
                reply.send(encode(&ProcessesAnswer::Keeper(keeper)));
            }
            Ok(ProcessesCall::ConnectNamed(wish)) => {
                let node = node.clone();
                // Before the next message is taken: it may cancel this call.
                let cancelled = node.homes.begin_call(from, wish.ticket);
                node.runtime.clone().spawn(async move {
                    let outcome = node.connect_for(from, wish, cancelled).await;
                    reply.send(encode(&ProcessesAnswer::Remote(outcome)));
                });
            }
            Ok(ProcessesCall::OpenFifo(wish)) => {
                let node = node.clone();
                // Before the next message is taken: it may cancel this call.
                let cancelled = node.homes.begin_call(from, wish.ticket);
                node.runtime.clone().spawn(async move {
                    let outcome = node.open_fifo_for(from, wish, cancelled).await;
                    reply.send(encode(&ProcessesAnswer::Remote(outcome)));
                });
            }
            Ok(ProcessesCall::List) => {
                let node = node.clone();
                node.runtime.clone().spawn_blocking(move || {
                    let processes = node.list();
                    reply.send(encode(&ProcessesAnswer::Processes { node: node.id, processes }));
                });
            }
            Ok(ProcessesCall::OpenTerminal { pid, job, flags }) => {
                let node = node.clone();
                node.runtime.clone().spawn_blocking(move || {
                    let outcome = node.open_terminal(from, pid, job, flags);
                    reply.send(encode(&ProcessesAnswer::Remote(outcome)));
                });
            }
            Ok(ProcessesCall::Drain { object }) => {
                let node = node.clone();
                node.runtime.clone().spawn(async move {
                    // Boxed: the relays of one home may end where those of the next begin.
                    Box::pin(node.drain(node.written_to(object))).await;
                    reply.send(encode(&ProcessesAnswer::Drained));
                });
            }
            Ok(ProcessesCall::Explain(pid)) => {
                reply.send(encode(&ProcessesAnswer::Lines(node.explain(pid))));
            }
            Ok(ProcessesCall::Numbers) => {
                let (here, leased) = node.look(|state| state.table.known_processes());
                reply.send(encode(&ProcessesAnswer::Numbers { here, leased }));
            }
            Ok(ProcessesCall::ProcFile(question)) => {
                let node = node.clone();
                node.runtime.clone().spawn(async move {
                    let file = node.proc_file(question).await.map_err(crate::call::wire_errno);
                    reply.send(encode(&ProcessesAnswer::ProcFile(file)));
                });
            }
            Ok(ProcessesCall::Terminal { terminal }) => {
                reply.send(encode(&ProcessesAnswer::Terminal(node.terminal_here(terminal))));
            }
            Ok(ProcessesCall::Take(wish)) => {
                let node = node.clone();
                node.runtime.clone().spawn(async move { node.give_taken(from, wish, reply).await });
            }
            Ok(ProcessesCall::Move(request)) => {
                let node = node.clone();
                node.runtime.clone().spawn(async move {
                    let moved = node.move_away(request).await;
                    reply.send(encode(&ProcessesAnswer::Moved(moved)));
                });
            }
        }
    }

    fn handle_stream(&self, from: NodeId, header: Bytes, stream: MeshStream) {
        match decode(&header) {
            Ok(StreamOpening::Descriptor(header)) => self.0.serve_stream(from, header, stream),
            Ok(StreamOpening::Pages(header)) => {
                let _threads = self.0.page_threads.enter();
                self.0.offers.serve(from, header, stream);
            }
            Err(error) => tracing::warn!(%from, %error, "a stream is refused"),
        }
    }

    fn handle_peer(&self, event: &PeerEvent) {
        match event {
            PeerEvent::Up(peer) => {
                self.0.with(|state, now| state.table.handle_node_up(now, peer.node));
            }
            PeerEvent::Down(node) => {
                self.0.with(|state, now| state.table.handle_node_down(now, *node));
                self.0.advance_move(Input::NodeDown { node: *node });
                self.0.homes.release_all(*node);
                self.0.mirrors.lose(*node);
                self.0.names.node_gone(*node);
            }
        }
        // The table's next deadline may have come nearer.
        self.0.ring_bell();
    }
}

impl Node {
    /// Takes a one-way message.
    pub(crate) fn hear(&self, from: NodeId, message: ProcessesMessage) {
        match message {
            ProcessesMessage::Table(message) => {
                self.with(|state, now| {
                    if let Some(target) = checked_target(&message) {
                        state.refresh_targets(target, self.ids_base);
                    }
                    state.table.handle_message(now, from, message);
                });
                self.ring_bell();
            }
            ProcessesMessage::CancelRemoteCall { ticket } => self.homes.cancel_call(from, ticket),
            ProcessesMessage::RemoteClosed { object, times, .. } => {
                self.homes.release(object, from, i64::from(times));
            }
            ProcessesMessage::RemoteShared { object, with } => self.homes.share(object, with),
            ProcessesMessage::TerminalHangUp { session, terminal } => {
                if terminal.home == self.id {
                    self.extension.handle_hang_up(session, terminal);
                }
            }
            ProcessesMessage::RemoteWatch { object, events } => {
                self.homes.watch(object, from, events);
            }
            ProcessesMessage::RemoteReady(readiness) => self.mirrors.set(from, readiness, true),
            ProcessesMessage::RemoteUnshared { object, with } => {
                self.homes.release(object, with, 1);
            }
            ProcessesMessage::NameGone(name) => self.names.gone(from, &name),
            // A node has nothing to say to itself about its moves.
            ProcessesMessage::Move(_) => {}
        }
    }
}

/// Whom a message signals, if whether it may depends on who he is.
fn checked_target(message: &ProcMessage) -> Option<KillTarget> {
    let (target, request) = match message {
        ProcMessage::ToProcess { pid, body: ProcessBody::Signal { request, .. }, .. } => {
            (KillTarget::Process(*pid), request)
        }
        ProcMessage::SignalGroup { pgid, request, .. }
        | ProcMessage::SignalMembers { pgid, request, .. } => (KillTarget::Group(*pgid), request),
        ProcMessage::SignalAll { request, .. } => (KillTarget::All, request),
        _ => return None,
    };
    let is_checked = request.sender.pid.is_some() && request.sender.euid != crate::node::ROOT.euid;
    is_checked.then_some(target)
}

fn refusal(error: &LaunchError) -> ProcessesAnswer {
    let errno = crate::call::wire_errno(error.errno());
    ProcessesAnswer::Refused { step: error.step(), errno, reason: error.to_string() }
}
