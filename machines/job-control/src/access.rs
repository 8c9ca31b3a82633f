//! What happens to a background process that uses its terminal (POSIX, General Terminal
//! Interface, 11.1.4 "Terminal Access Control"; Linux `__tty_check_change`).

use crate::signal::{SIGTTIN, SIGTTOU};
use crate::{Caller, Effect, JobControl, TerminalId};
use alloc::vec::Vec;

/// How a terminal is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Reading.
    Read,
    /// Writing: stops only if `TOSTOP` is set.
    Write,
    /// Changing attributes, window state or the foreground group.
    Change,
}

impl Operation {
    /// Returns the signal that a background process gets for it.
    #[must_use]
    pub fn signal(self) -> u8 {
        match self {
            Operation::Read => SIGTTIN,
            Operation::Write | Operation::Change => SIGTTOU,
        }
    }
}

/// One use of a terminal, with what the process table and the shim know of the user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// How it is used.
    pub operation: Operation,
    /// The caller ignores or blocks [`Operation::signal`].
    pub shielded: bool,
    /// The caller's process group is orphaned.
    pub orphaned: bool,
}

/// What becomes of the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes on.
    Proceed,
    /// The caller's group was signalled; the call starts again after it.
    Signalled,
    /// It fails with `EIO`.
    Fail,
}

impl JobControl {
    /// Handles a use of `terminal` by `caller`.
    pub fn handle_access(
        &self,
        caller: Caller,
        terminal: TerminalId,
        access: Access,
        effects: &mut Vec<Effect>,
    ) -> Verdict {
        if self.terminal_of(caller) != Some(terminal) {
            return Verdict::Proceed;
        }
        let Some(held) = self.terminals.get(&terminal) else { return Verdict::Proceed };
        let stops = access.operation != Operation::Write || held.tostop;
        if held.foreground == caller.group || !stops {
            return Verdict::Proceed;
        }
        match (access.shielded, access.operation, access.orphaned) {
            (true, Operation::Read, _) => Verdict::Fail,
            (true, _, _) => Verdict::Proceed,
            (false, _, true) => Verdict::Fail,
            (false, _, false) => {
                let signal = access.operation.signal();
                effects.push(Effect::SignalGroup { group: caller.group, signal });
                Verdict::Signalled
            }
        }
    }
}
