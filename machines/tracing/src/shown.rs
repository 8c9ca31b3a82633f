//! A stop as the tracer is shown it.

use crate::options;

/// `SIGTRAP`.
const SIGTRAP: u32 = 5;
/// `SIGSTOP`.
const SIGSTOP: u32 = 19;

/// Events of ptrace(2), by the kernel's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Event {
    /// fork(2).
    Fork = 1,
    /// vfork(2).
    Vfork = 2,
    /// clone(2) of another kind.
    Clone = 3,
    /// execve(2).
    Exec = 4,
    /// The child of a vfork(2) has ended or executed.
    VforkDone = 5,
    /// The thread is about to end.
    Exit = 6,
    /// `PTRACE_INTERRUPT`, the first stop of a child, the end of a group stop.
    Stop = 128,
}

impl Event {
    /// The option without which nobody is told; 0 if it is always told.
    #[must_use]
    pub const fn option(self) -> u64 {
        match self {
            Event::Fork => options::FORK,
            Event::Vfork => options::VFORK,
            Event::Clone => options::CLONE,
            Event::Exec => options::EXEC,
            Event::VforkDone => options::VFORK_DONE,
            Event::Exit => options::EXIT,
            Event::Stop => 0,
        }
    }
}

/// What kind of stop it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Before a system call.
    Enter,
    /// After one; `is_cut` if a signal ended its wait.
    Exit {
        /// The result to show is `ERESTARTSYS`.
        is_cut: bool,
    },
    /// A signal is about to be delivered.
    Signal {
        /// Which.
        number: u8,
    },
    /// The process is stopped by this signal.
    Group {
        /// Which.
        signal: u8,
    },
    /// An event.
    Event(Event),
    /// A plain SIGTRAP: a step, or an exec that nobody asked to be told of otherwise.
    Trap {
        /// A step rather than an exec.
        is_step: bool,
    },
    /// A plain SIGSTOP: `PTRACE_ATTACH`, or the first stop of a child.
    Attached,
}

/// Where the guest's registers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    /// In the thread.
    Direct,
    /// In the frame of the shim's handler, which serves a call.
    Caught,
}

/// A stop as the tracer is shown it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shown {
    /// What it is.
    pub kind: Kind,
    /// Where the registers are.
    pub view: View,
}

impl Shown {
    /// The signal in the low byte and the event in the next, as a wait reports them.
    #[must_use]
    pub const fn status(self, is_seized: bool, wanted: u64) -> u32 {
        match self.kind {
            Kind::Enter | Kind::Exit { .. } if wanted & options::SYSGOOD != 0 => SIGTRAP | 0x80,
            Kind::Enter | Kind::Exit { .. } | Kind::Trap { .. } => SIGTRAP,
            Kind::Signal { number } => number as u32,
            Kind::Group { signal } if is_seized => signal as u32 | (Event::Stop as u32) << 8,
            Kind::Group { signal } => signal as u32,
            Kind::Event(event) => SIGTRAP | (event as u32) << 8,
            Kind::Attached => SIGSTOP,
        }
    }
}
