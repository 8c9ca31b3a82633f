//! One traced thread.
//!
//! ```text
//!            resume                      stop of the kernel
//!  shown ─────────────► running ─────────────────────────────► handled ──► shown
//!    ▲                     ▲                                      │
//!    └── more is owed ─────┴───────────── hidden ─────────────────┘
//! ```

use crate::options;
use crate::shown::{Event, Kind, Shown, View};

/// futex(2): how a parent waits for the child of its vfork(2).
const NR_FUTEX: u64 = 202;
/// execve(2).
const NR_EXECVE: u64 = 59;
/// Raised by the filter.
const SIGSYS: u8 = 31;
/// Raised by steps and watchpoints.
const SIGTRAP: u8 = 5;

/// What the tracer wants to see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Signals and events (`PTRACE_CONT`).
    Continue,
    /// System calls, too (`PTRACE_SYSCALL`).
    Calls,
    /// The next instruction (`PTRACE_SINGLESTEP`).
    Step,
}

/// How the kernel is to let the thread go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// Until a signal or an event.
    Continue,
    /// Until a system call, too.
    ToCall,
    /// For an instruction.
    Step,
}

/// Where a stop found the thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In guest code.
    Guest,
    /// In the shim, where it waits for the guest with the guest's signals accepted.
    Gadget,
    /// Anywhere else in the shim, perhaps with a lock.
    Shim,
}

/// Whose a signal is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nature {
    /// The filter's: the shim serves the call.
    Filter,
    /// The runtime's own; a SIGTRAP of it is nobody's.
    Own,
    /// A child's, to a guest that waits for one: a kernel would end the wait first.
    Child,
    /// The guest's, between the shim and a call that has not begun: a kernel would begin it first.
    Early,
    /// The guest's.
    Guest,
}

/// A stop of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Before a system call.
    Entry {
        /// Its number.
        number: u64,
        /// Where its instruction is.
        place: Place,
    },
    /// After one, or after the shim has gone back to where `place` says.
    Exit {
        /// Where.
        place: Place,
        /// The filter has trapped the call: SIGSYS is pending.
        is_trap: bool,
    },
    /// Before the delivery of a signal.
    Signal {
        /// Which.
        number: u8,
        /// Where.
        place: Place,
        /// Whose.
        nature: Nature,
    },
    /// The process is stopped by a signal.
    Group {
        /// Which.
        signal: u8,
        /// Where.
        place: Place,
    },
    /// The kernel's stop event: asked for, a child's first, or the end of a group stop.
    Interrupted {
        /// Where.
        place: Place,
        /// The call that the shim serves, if it does.
        number: u64,
    },
    /// A child or thread was made, by a call with this number.
    Born {
        /// What the guest's call was.
        event: Event,
        /// Its number.
        number: u64,
    },
    /// The shim was executed, and loads a program.
    Executed,
    /// The thread is about to end.
    Exiting {
        /// Where.
        place: Place,
    },
}

/// What to do about a stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// The tracer is told.
    Show(Shown),
    /// The thread goes on with this signal, or 0.
    Run(How, u8),
}

/// What is shown at the next arrival, or where it can be.
#[derive(Clone, Copy, Default, Debug)]
struct Owed {
    exec: bool,
    born: Option<Event>,
    vfork_done: bool,
    /// The first stop of a child that is traced from its start.
    first: bool,
    /// An exec in the old manner.
    trap: bool,
    /// An interruption that found the shim in the middle of something.
    interrupt: bool,
    /// A signal that the kernel was told to drop, and gets again.
    kept: Option<Kept>,
}

/// When a signal that was dropped is sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kept {
    /// At the end of the wait, or when the shim is about to wait again.
    Wait { number: u8, waits: u8 },
    /// When the call has begun.
    Call { number: u8 },
}

/// A traced thread.
#[derive(Clone, Debug)]
pub struct Tracee {
    /// By `PTRACE_SEIZE`.
    pub is_seized: bool,
    /// `options::*`.
    pub options: u64,
    mode: Mode,
    /// The call whose entry, fork or exec was seen and whose end was not.
    call: Option<u64>,
    /// The call whose wait a signal has ended, until the tracer has decided on the signal.
    cut: Option<u64>,
    /// The shim's handler runs.
    is_inside: bool,
    /// The kernel's stop is an arrival.
    is_arrived: bool,
    /// An interruption was asked for.
    is_interrupted: bool,
    is_stepping: bool,
    /// A signal that was kept is sent again: it is shown wherever it comes.
    is_let_in: bool,
    owed: Owed,
    /// The signal that the kernel gets when the thread goes on.
    inject: u8,
    shown: Option<Shown>,
}

impl Tracee {
    /// A thread that runs, and that its tracer has just named.
    #[must_use]
    pub fn new(is_seized: bool, options: u64) -> Tracee {
        Tracee {
            is_seized,
            options,
            mode: Mode::Continue,
            call: None,
            cut: None,
            is_inside: false,
            is_arrived: false,
            is_interrupted: false,
            is_stepping: false,
            is_let_in: false,
            owed: Owed::default(),
            inject: 0,
            shown: None,
        }
    }

    /// The child or thread that a tracee has just made: it stops before its first instruction.
    #[must_use]
    pub fn child(&self) -> Tracee {
        let mut child = Tracee::new(self.is_seized, self.options);
        child.owed.first = true;
        child.is_inside = true;
        child
    }

    /// What the tracer is shown now.
    #[must_use]
    pub fn shown(&self) -> Option<Shown> {
        self.shown
    }

    /// The call that the thread is in, as far as it was seen.
    #[must_use]
    pub fn call(&self) -> Option<u64> {
        self.call
    }

    /// Whether the shim's handler serves something.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        self.is_inside
    }

    /// `PTRACE_INTERRUPT`, and `PTRACE_ATTACH`: the next stop event is shown.
    pub fn interrupt(&mut self) {
        self.is_interrupted = true;
    }

    /// Whether the kernel is to be asked for the stop event again when the thread goes on: every other
    /// stop takes the place of one that was asked for.
    #[must_use]
    pub fn wants_interruption(&self) -> bool {
        self.is_interrupted && !self.owed.interrupt
    }

    /// `PTRACE_LISTEN`: the stop is seen no more, and the thread does not run.
    pub fn listen(&mut self) {
        self.shown = None;
    }

    /// Takes a stop of the kernel.
    pub fn handle(&mut self, stop: Stop) -> Act {
        self.is_arrived = false;
        self.inject = 0;
        self.cut = None;
        match stop {
            Stop::Entry { number, place: Place::Guest } => self.guest_calls(number),
            Stop::Entry { number, place } => self.shim_calls(number, place),
            Stop::Exit { place: Place::Guest, is_trap: true } => self.run(),
            Stop::Exit { place: Place::Guest, .. } => {
                self.is_inside = false;
                self.is_arrived = true;
                let has_stepped = self.is_stepping;
                self.next(has_stepped)
            }
            Stop::Exit { .. } => {
                self.is_inside = true;
                self.run()
            }
            Stop::Signal { number, place, nature } => self.signalled(number, place, nature),
            Stop::Group { signal, place } => self.show(Kind::Group { signal }, place),
            Stop::Interrupted { place, number } => {
                if place == Place::Gadget && self.call.is_none() {
                    self.cut = Some(number);
                }
                self.interrupted(place)
            }
            Stop::Born { event, number } => {
                self.is_inside = true;
                self.call = Some(number);
                self.owed.born = Some(event);
                self.owed.vfork_done = event == Event::Vfork;
                self.run()
            }
            Stop::Executed => {
                self.is_inside = true;
                self.call = Some(NR_EXECVE);
                self.owed = Owed { exec: true, interrupt: self.owed.interrupt, ..Owed::default() };
                self.run()
            }
            Stop::Exiting { place } => self.show(Kind::Event(Event::Exit), place),
        }
    }

    /// Lets a shown thread go on with a signal or 0; `None` if it is not shown.
    pub fn resume(&mut self, mode: Mode, signal: u8) -> Option<Act> {
        let shown = self.shown.take()?;
        self.mode = mode;
        self.is_stepping = mode == Mode::Step;
        match shown.kind {
            Kind::Exit { is_cut: true } => {
                self.cut = self.call.take();
                let number = self.inject;
                self.inject = 0;
                return Some(self.show_in(Kind::Signal { number }, shown.view));
            }
            Kind::Signal { number } => {
                self.inject = signal;
                self.is_inside = shown.view == View::Caught;
                if let Some(call) = self.cut.take()
                    && signal != number
                {
                    // The kernel puts the call back, as a new one.
                    self.call = Some(call);
                    if mode == Mode::Calls {
                        return Some(self.show_in(Kind::Enter, shown.view));
                    }
                }
            }
            Kind::Enter | Kind::Exit { .. } if self.inject == 0 => self.inject = signal,
            Kind::Event(Event::Stop) | Kind::Attached if self.cut.is_some() => {
                self.call = self.cut.take();
                // Natively, it would be made anew.
                if mode == Mode::Calls {
                    return Some(self.show_in(Kind::Enter, shown.view));
                }
            }
            _ => {}
        }
        Some(if self.is_arrived { self.next(false) } else { self.run() })
    }

    /// Panics if the state contradicts itself.
    pub fn check_invariants(&self) {
        assert!(!(self.is_arrived && self.is_inside), "back in guest code and in the shim");
        assert!(self.cut.is_none() || self.call.is_none(), "a call that is cut is over");
        assert!(!self.is_stepping || self.mode == Mode::Step, "a step that nobody asked for");
    }

    fn guest_calls(&mut self, number: u64) -> Act {
        self.is_inside = false;
        self.call = Some(number);
        if self.mode == Mode::Calls {
            return self.show_in(Kind::Enter, View::Direct);
        }
        self.run()
    }

    fn shim_calls(&mut self, number: u64, place: Place) -> Act {
        self.is_inside = true;
        if place == Place::Gadget && self.owed.interrupt {
            self.owed.interrupt = false;
            return self.show_interruption(View::Caught);
        }
        if let Some(number) = self.kept_until_call(place) {
            self.inject = number;
            return self.run();
        }
        // The parent waits for its child, which its tracer may hold: it has to know of it.
        if number == NR_FUTEX
            && let Some(event) = self.owed.born.take_if(|_| place == Place::Shim)
            && self.options & event.option() != 0
        {
            return self.show_in(Kind::Event(event), View::Caught);
        }
        self.run()
    }

    fn signalled(&mut self, number: u8, place: Place, nature: Nature) -> Act {
        match nature {
            Nature::Filter => {
                self.is_inside = true;
                self.inject = SIGSYS;
                self.run()
            }
            Nature::Own => {
                self.is_inside = true;
                self.inject = if number == SIGTRAP { 0 } else { number };
                self.run()
            }
            Nature::Child if place == Place::Gadget && !core::mem::take(&mut self.is_let_in) => {
                self.is_inside = true;
                self.owed.kept = Some(Kept::Wait { number, waits: 0 });
                self.run()
            }
            Nature::Early => {
                self.is_inside = true;
                self.owed.kept = Some(Kept::Call { number });
                self.run()
            }
            _ if place == Place::Guest => {
                self.is_inside = false;
                self.show_in(Kind::Signal { number }, View::Direct)
            }
            _ => {
                self.is_inside = true;
                if self.mode == Mode::Calls && self.call.is_some() {
                    self.inject = number;
                    return self.show_in(Kind::Exit { is_cut: true }, View::Caught);
                }
                self.call = None;
                self.show_in(Kind::Signal { number }, View::Caught)
            }
        }
    }

    /// The signal that was kept for this call of the shim's.
    fn kept_until_call(&mut self, place: Place) -> Option<u8> {
        /// The kernel makes the wait that it ended for the signal anew; the next is another.
        const WAITS: u8 = 2;
        match self.owed.kept.as_mut()? {
            Kept::Call { number } => {
                let number = *number;
                self.owed.kept = None;
                Some(number)
            }
            Kept::Wait { number, waits } if place == Place::Gadget => {
                *waits += 1;
                let (number, is_due) = (*number, *waits >= WAITS);
                self.is_let_in = is_due;
                self.owed.kept.take_if(|_| is_due).map(|_| number)
            }
            Kept::Wait { .. } => None,
        }
    }

    fn interrupted(&mut self, place: Place) -> Act {
        if self.owed.first {
            return self.run();
        }
        if !self.is_interrupted {
            // The end of a group stop, which only those hear of who seized.
            if self.is_seized {
                return self.show(Kind::Event(Event::Stop), place);
            }
            return self.run();
        }
        if place == Place::Shim {
            self.is_inside = true;
            self.owed.interrupt = true;
            return self.run();
        }
        self.is_inside = place != Place::Guest;
        self.show_interruption(if self.is_inside { View::Caught } else { View::Direct })
    }

    fn show_interruption(&mut self, view: View) -> Act {
        self.is_interrupted = false;
        let kind = if self.is_seized { Kind::Event(Event::Stop) } else { Kind::Attached };
        self.show_in(kind, view)
    }

    /// The next of what is owed at an arrival, which ends a step if there was one.
    fn next(&mut self, has_stepped: bool) -> Act {
        match self.next_kind() {
            Some(kind) => self.show_in(kind, View::Direct),
            None if has_stepped => self.show_in(Kind::Trap { is_step: true }, View::Direct),
            None => self.run(),
        }
    }

    fn next_kind(&mut self) -> Option<Kind> {
        let is_wanted = |event: Event, options: u64| event.option() & options != 0;
        if core::mem::take(&mut self.owed.exec) {
            if self.options & options::EXEC != 0 {
                return Some(Kind::Event(Event::Exec));
            }
            self.owed.trap = !self.is_seized;
        }
        if let Some(event) = self.owed.born.take()
            && is_wanted(event, self.options)
        {
            return Some(Kind::Event(event));
        }
        if core::mem::take(&mut self.owed.vfork_done) && is_wanted(Event::VforkDone, self.options) {
            return Some(Kind::Event(Event::VforkDone));
        }
        if core::mem::take(&mut self.owed.first) {
            return Some(if self.is_seized { Kind::Event(Event::Stop) } else { Kind::Attached });
        }
        if self.call.take().is_some() && self.mode == Mode::Calls {
            return Some(Kind::Exit { is_cut: false });
        }
        if core::mem::take(&mut self.owed.trap) {
            return Some(Kind::Trap { is_step: false });
        }
        if core::mem::take(&mut self.owed.interrupt) {
            self.is_interrupted = false;
            return Some(if self.is_seized { Kind::Event(Event::Stop) } else { Kind::Attached });
        }
        None
    }

    fn show(&mut self, kind: Kind, place: Place) -> Act {
        self.is_inside = place != Place::Guest;
        self.show_in(kind, if self.is_inside { View::Caught } else { View::Direct })
    }

    fn show_in(&mut self, kind: Kind, view: View) -> Act {
        let shown = Shown { kind, view };
        self.shown = Some(shown);
        if self.is_seized {
            // As natively; SIGSTOP of `PTRACE_ATTACH` is a signal, and comes all the same.
            (self.is_interrupted, self.owed.interrupt) = (false, false);
        }
        self.is_stepping = false;
        Act::Show(shown)
    }

    fn run(&mut self) -> Act {
        if self.is_arrived
            && let Some(Kept::Wait { number, .. } | Kept::Call { number }) = self.owed.kept.take()
        {
            self.inject = number;
        }
        self.is_arrived = false;
        let Owed { exec, born, vfork_done, first, interrupt, kept, .. } = self.owed;
        let is_owed = exec || born.is_some() || vfork_done || first || interrupt || kept.is_some();
        let how = match self.mode {
            Mode::Calls => How::ToCall,
            _ if is_owed => How::ToCall,
            Mode::Step if self.is_inside => How::ToCall,
            Mode::Step => How::Step,
            Mode::Continue => How::Continue,
        };
        Act::Run(how, core::mem::take(&mut self.inject))
    }
}

#[cfg(test)]
mod tests;
