//! Carrying out what the process table decided.

use crate::call::errno_of;
use crate::node::{Node, Pending, RootEnd};
use dunix_guest_abi::signal::{SI_KERNEL, SI_TKILL, encode};
use dunix_ids::{NodeId, Pid};
use dunix_linux::signal::{Payload, queue_to_process, queue_to_thread};
use dunix_proc_table::{Effect, HostTarget, Note, Token};
use dunix_wire::processes::{Answer, Errno, ProcMessage, ProcessesMessage, SignalInfo};
use dunix_wire::{Topic, encode as encode_message};

impl Node {
    /// Does one thing; never blocks.
    pub(crate) fn carry_out(&self, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.send_to_table(to, message),
            Effect::Signal { pid, target, signal, info, sender_pid, sender_uid } => {
                self.signal(pid, target, signal, &payload(info, sender_pid, sender_uid));
            }
            Effect::Wake { pid } => self.wake_waiters(pid),
            Effect::Arrived { .. } => self.arrived.notify_waiters(),
            Effect::Reply { token, result } => self.reply(token, result),
            Effect::RootExited { pid, status, rusage } => {
                let root = self.with(|state, _| state.roots.remove(&pid));
                if let Some(root) = root {
                    // Whoever ran it may have lost interest.
                    let _ = root.send(RootEnd { status, rusage });
                }
            }
            Effect::Gone { pid } => self.forget(pid),
            Effect::Regrouped { pid } | Effect::Orphaned { pid } => self.refresh_slot(pid),
            Effect::TerminalLost { pid } => {
                self.refresh_slot(pid);
                self.extension.handle_terminal_lost(pid);
            }
            Effect::HangUp { session, terminal } if terminal.home != self.id => {
                self.tell(terminal.home, &ProcessesMessage::TerminalHangUp { session, terminal });
            }
            Effect::HangUp { session, terminal } => {
                self.extension.handle_hang_up(session, terminal);
            }
            Effect::Fenced => self.fence(),
            Effect::Note(note) => {
                tracing::info!(node = %self.id, ?note, "process table");
                if matches!(note, Note::BlockGranted { .. }) {
                    self.numbers.notify_waiters();
                }
            }
        }
    }

    /// Tells a process that what it waits for may have come.
    pub(crate) fn wake(&self, pid: Pid) {
        if let Some(slot) = self.look(|state| state.locals.get(&pid).map(|local| local.slot)) {
            self.arena.wake(slot);
        }
    }

    fn wake_waiters(&self, pid: Pid) {
        if let Some(slot) = self.look(|state| state.locals.get(&pid).map(|local| local.slot)) {
            self.arena.wake_waiters(slot);
        }
    }

    fn send_to_table(&self, to: NodeId, message: ProcMessage) {
        let Some(mesh) = &self.mesh else { return };
        let body = encode_message(&ProcessesMessage::Table(message));
        if let Err(error) = mesh.send(to, Topic::Processes, body) {
            // The peer's death, which follows, settles what the message was about.
            tracing::debug!(node = %self.id, %to, %error, "a message to a table was not sent");
        }
    }

    fn signal(&self, pid: Pid, target: HostTarget, signal: u8, payload: &Payload) {
        // The host number of an ended process may already be another's.
        if self.look(|state| state.locals.get(&pid).is_none_or(|local| local.is_ending)) {
            return;
        }
        let payload = &Payload { uid: payload.uid.saturating_add(self.ids_base), ..*payload };
        let result = match target {
            HostTarget::Process(host) => queue_to_process(host, i32::from(signal), payload),
            HostTarget::Thread { process, thread } => {
                queue_to_thread(process, thread, i32::from(signal), payload)
            }
        };
        if let Err(errno) = result {
            tracing::debug!(node = %self.id, %pid, signal, %errno, "a signal was not delivered");
        }
    }

    fn reply(&self, token: Token, result: Result<Answer, Errno>) {
        let Some(pending) = self.with(|state, _| state.take_pending(token)) else { return };
        match (pending, result) {
            (Pending::End(inode), result) => self.end_was_watched(inode, result),
            (Pending::Pidfd(call, pid, flags), Ok(_)) => self.make_pidfd(call, pid, flags),
            (Pending::Call(call), Ok(answer)) => call.answer(value_of(answer)),
            (Pending::Location(call), Ok(_)) => call.refuse(dunix_linux::Errno::REMOTE),
            (
                Pending::Call(call) | Pending::Location(call) | Pending::Pidfd(call, ..),
                Err(errno),
            ) => {
                call.refuse(errno_of(errno));
            }
            (Pending::Daemon(sender), result) => drop(sender.send(result)),
        }
    }

    fn forget(&self, pid: Pid) {
        self.tracing.process_gone(pid);
        self.find_unnamed(pid);
        let (local, abandoned) = self.with(|state, now| {
            state.abandon_unnamed(now, pid);
            (state.forget(pid), state.forget_calls(pid))
        });
        for (home, ticket) in abandoned {
            self.tell(home, &ProcessesMessage::CancelRemoteCall { ticket });
        }
        if let Some(local) = local {
            self.child_ended(&local);
            self.release_remote(pid, local.remote);
            self.extension.handle_gone(pid);
        }
    }
}

fn value_of(answer: Answer) -> i64 {
    match answer {
        Answer::Done => 0,
        Answer::Pid(pid) => i64::from(pid.get()),
        Answer::Node(node) => i64::from(node.0),
    }
}

/// What a signal carries, with codes that the host accepts from a daemon.
fn payload(info: SignalInfo, pid: u32, uid: u32) -> Payload {
    let plain = |real| Payload { code: encode(real), pid, uid, value: 0 };
    match info {
        SignalInfo::User => plain(0),
        SignalInfo::Thread => plain(SI_TKILL),
        SignalInfo::Queued { code, value } if code < 0 && code != SI_TKILL => {
            Payload { code, pid, uid, value }
        }
        SignalInfo::Queued { value, .. } => Payload { value, ..plain(0) },
        SignalInfo::Kernel => Payload { pid: 0, uid: 0, ..plain(SI_KERNEL) },
        SignalInfo::Child { pid, uid, code, status } => Payload {
            code: encode(code),
            pid: pid.get(),
            uid,
            // `si_status` lies over the low half of `si_value`.
            value: u64::from(status.cast_unsigned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunix_guest_abi::signal::decode;

    #[test]
    fn codes_survive_the_private_form() {
        for (info, code) in [
            (SignalInfo::User, 0),
            (SignalInfo::Thread, SI_TKILL),
            (SignalInfo::Kernel, SI_KERNEL),
            (SignalInfo::Child { pid: Pid::INIT, uid: 0, code: 2, status: 9 }, 2),
        ] {
            assert_eq!(decode(payload(info, 7, 0).code), Some(code), "{info:?}");
        }
        let queued = payload(SignalInfo::Queued { code: -1, value: 42 }, 7, 3);
        assert_eq!((queued.code, queued.value, queued.pid, queued.uid), (-1, 42, 7, 3));
        let forged = payload(SignalInfo::Queued { code: 5, value: 42 }, 7, 3);
        assert_eq!(decode(forged.code), Some(0));
    }
}
