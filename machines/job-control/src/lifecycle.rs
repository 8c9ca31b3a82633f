//! What happens to a controlling terminal from outside: its line's signals, hang-up, changed
//! attributes, and the births and deaths of its session's processes.

use crate::signal::{SIGCONT, SIGHUP};
use crate::{Effect, HUNG_UP_MAX, JobControl, LEFT_MAX, TerminalId};
use alloc::vec::Vec;
use dunix_ids::Pid;

impl JobControl {
    /// Handles a signal that the line discipline of `terminal` raised: SIGINT, SIGQUIT, SIGTSTP,
    /// SIGWINCH and what `TIOCSIG` sends go to the foreground group, SIGHUP is a hang-up.
    pub fn handle_line_signal(
        &mut self,
        terminal: TerminalId,
        signal: u8,
        effects: &mut Vec<Effect>,
    ) {
        match signal {
            SIGHUP => self.hang_up(terminal, effects),
            // It only follows the SIGHUP of a hang-up.
            SIGCONT => {}
            _ => {
                if let Some(held) = self.terminals.get(&terminal) {
                    effects.push(Effect::SignalGroup { group: held.foreground, signal });
                }
            }
        }
    }

    /// As Linux: the leader hears of the hang-up at once, the foreground group when the leader
    /// has exited, so that a leader that survives keeps its jobs.
    fn hang_up(&mut self, terminal: TerminalId, effects: &mut Vec<Effect>) {
        let Some(held) = self.release(terminal, effects) else { return };
        if self.hung_up.len() >= HUNG_UP_MAX {
            self.hung_up.pop_first();
        }
        self.hung_up.insert(held.session, held.foreground);
        effects.push(Effect::SignalProcess { pid: held.session, signal: SIGHUP });
        effects.push(Effect::SignalProcess { pid: held.session, signal: SIGCONT });
    }

    /// Handles that the terminal's attributes may have changed.
    pub fn handle_tostop(&mut self, terminal: TerminalId, tostop: bool, effects: &mut Vec<Effect>) {
        let Some(held) = self.terminals.get_mut(&terminal) else { return };
        if held.tostop != tostop {
            held.tostop = tostop;
            self.publish(terminal, effects);
        }
    }

    /// Handles that a session's leader exited: the foreground group gets SIGHUP and the terminal
    /// is free.
    pub fn handle_leader_exit(&mut self, session: Pid, effects: &mut Vec<Effect>) {
        if let Some(terminal) = self.sessions.get(&session).copied()
            && let Some(held) = self.release(terminal, effects)
        {
            effects.push(Effect::SignalGroup { group: held.foreground, signal: SIGHUP });
        }
        if let Some(group) = self.hung_up.remove(&session) {
            effects.push(Effect::SignalGroup { group, signal: SIGHUP });
            effects.push(Effect::SignalGroup { group, signal: SIGCONT });
        }
    }

    /// Handles a fork: the child of a process without its session's terminal has none either.
    /// At [`LEFT_MAX`] the child has the terminal after all.
    pub fn handle_fork(
        &mut self,
        session: Pid,
        parent: Pid,
        child: Pid,
        effects: &mut Vec<Effect>,
    ) {
        let Some(terminal) = self.sessions.get(&session) else { return };
        let Some(held) = self.terminals.get_mut(terminal) else { return };
        if held.left.contains(&parent) && held.left.len() < LEFT_MAX {
            held.left.insert(child);
            effects.push(Effect::Leave { session, pid: child });
        }
    }

    /// Handles that a process other than a session's leader exited or left `session`.
    pub fn handle_exit(&mut self, session: Pid, pid: Pid) {
        let Some(terminal) = self.sessions.get(&session) else { return };
        if let Some(held) = self.terminals.get_mut(terminal) {
            held.left.remove(&pid);
        }
    }

    /// Handles that the host refused to attach `terminal`: as if it had never been set.
    pub fn handle_attach_failed(&mut self, terminal: TerminalId, effects: &mut Vec<Effect>) {
        self.release(terminal, effects);
    }
}
