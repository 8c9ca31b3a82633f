//! The terminal calls of `tty_ioctl(4)`. Refuses: the check for background changes, which
//! [`access`](crate::access) makes before.

use crate::signal::{SIGCONT, SIGHUP};
use crate::{
    Caller, Controlling, Effect, JobControl, LEFT_MAX, Refusal, TERMINALS_MAX, TerminalId,
};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use dunix_ids::Pid;

/// One call on a descriptor of a terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// `TIOCSCTTY`, or an open without `O_NOCTTY` by a leader without a terminal.
    SetControlling {
        /// Take it from another session (argument 1).
        steal: bool,
        /// The descriptor is open for reading.
        readable: bool,
        /// The caller has `CAP_SYS_ADMIN`.
        privileged: bool,
        /// `TOSTOP` is set now.
        tostop: bool,
    },
    /// `TIOCNOTTY`.
    GiveUp,
    /// `TIOCGPGRP`; answers the foreground group.
    Foreground {
        /// The descriptor is the master's.
        master: bool,
    },
    /// `TIOCSPGRP`.
    SetForeground {
        /// The new group, as the guest gave it.
        group: i32,
        /// The session of that group's members, if it has any.
        session: Option<Pid>,
    },
    /// `TIOCGSID`; answers the session.
    Session {
        /// The descriptor is the master's.
        master: bool,
    },
}

impl JobControl {
    /// Handles a call of `caller` on `terminal`; returns what the ioctl answers (0, or a PID).
    ///
    /// # Errors
    /// As `tty_ioctl(4)` and `tcsetpgrp(3)`; nothing has changed then.
    pub fn handle_request(
        &mut self,
        caller: Caller,
        terminal: TerminalId,
        request: Request,
        effects: &mut Vec<Effect>,
    ) -> Result<u32, Refusal> {
        match request {
            Request::SetControlling { .. } => {
                self.set_controlling(caller, terminal, request, effects)
            }
            Request::GiveUp => self.give_up(caller, terminal, effects),
            Request::Foreground { master } => {
                // A pty without a session has no foreground group: Linux answers 0 at the master.
                let held = self.readable_by(caller, terminal, master)?;
                Ok(held.map_or(0, |held| held.foreground.get()))
            }
            Request::SetForeground { group, session } => {
                self.set_foreground(caller, terminal, group, session, effects)
            }
            Request::Session { master } => {
                let held = self.readable_by(caller, terminal, master)?;
                held.map(|held| held.session.get()).ok_or(Refusal::NotControlling)
            }
        }
    }

    fn readable_by(
        &self,
        caller: Caller,
        terminal: TerminalId,
        master: bool,
    ) -> Result<Option<&Controlling>, Refusal> {
        if !master && self.terminal_of(caller) != Some(terminal) {
            return Err(Refusal::NotControlling);
        }
        Ok(self.terminals.get(&terminal))
    }

    fn set_controlling(
        &mut self,
        caller: Caller,
        terminal: TerminalId,
        request: Request,
        effects: &mut Vec<Effect>,
    ) -> Result<u32, Refusal> {
        let Request::SetControlling { steal, readable, privileged, tostop } = request else {
            return Err(Refusal::Invalid);
        };
        let holder = self.session_of(terminal);
        if caller.is_leader() && holder == Some(caller.session) {
            return Ok(0);
        }
        let has_one = self.sessions.contains_key(&caller.session);
        let taken = holder.is_some() && !(steal && privileged);
        if !caller.is_leader() || has_one || taken || !(readable || privileged) {
            return Err(Refusal::NotPermitted);
        }
        if holder.is_none() && self.terminals.len() >= TERMINALS_MAX {
            return Err(Refusal::Busy);
        }
        self.release(terminal, effects);
        self.hung_up.remove(&caller.session);
        self.serial_last += 1;
        let held = Controlling {
            session: caller.session,
            serial: self.serial_last,
            foreground: caller.group,
            tostop,
            left: BTreeSet::new(),
        };
        self.terminals.insert(terminal, held);
        self.sessions.insert(caller.session, terminal);
        effects.push(Effect::Attach(terminal));
        self.publish(terminal, effects);
        Ok(0)
    }

    fn give_up(
        &mut self,
        caller: Caller,
        terminal: TerminalId,
        effects: &mut Vec<Effect>,
    ) -> Result<u32, Refusal> {
        if self.terminal_of(caller) != Some(terminal) {
            return Err(Refusal::NotControlling);
        }
        if caller.is_leader() {
            if let Some(held) = self.release(terminal, effects) {
                let group = held.foreground;
                effects.push(Effect::SignalGroup { group, signal: SIGHUP });
                effects.push(Effect::SignalGroup { group, signal: SIGCONT });
            }
            return Ok(0);
        }
        let held = self.terminals.get_mut(&terminal).ok_or(Refusal::NotControlling)?;
        if held.left.len() >= LEFT_MAX {
            return Err(Refusal::Busy);
        }
        held.left.insert(caller.pid);
        effects.push(Effect::Leave { session: caller.session, pid: caller.pid });
        Ok(0)
    }

    fn set_foreground(
        &mut self,
        caller: Caller,
        terminal: TerminalId,
        group: i32,
        session: Option<Pid>,
        effects: &mut Vec<Effect>,
    ) -> Result<u32, Refusal> {
        if self.terminal_of(caller) != Some(terminal) {
            return Err(Refusal::NotControlling);
        }
        let raw = u32::try_from(group).map_err(|_| Refusal::Invalid)?;
        let group = Pid::new(raw).ok_or(Refusal::NoSuchGroup)?;
        match session {
            None => return Err(Refusal::NoSuchGroup),
            Some(session) if session != caller.session => return Err(Refusal::NotPermitted),
            Some(_) => {}
        }
        let held = self.terminals.get_mut(&terminal).ok_or(Refusal::NotControlling)?;
        if held.foreground != group {
            held.foreground = group;
            self.publish(terminal, effects);
        }
        Ok(0)
    }
}
