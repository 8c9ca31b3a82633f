//! Signal numbers and sets.
//!
//! Invariant: a mask that reaches the kernel for guest code never holds [`UNMASKABLE`]: a forced
//! signal that is blocked kills the process.

use dunix_guest_abi::signal::MOVE_SIGNAL;

/// A set of signals; bit `n - 1` stands for signal `n`, as in the kernel's `sigset_t`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct SigSet(pub u64);

macro_rules! signals {
    ($($name:ident = $value:literal),* $(,)?) => {
        $(#[doc = concat!("`", stringify!($name), "` of signal(7).")]
        pub const $name: u32 = $value;)*
    };
}

signals! {
    SIGHUP = 1, SIGILL = 4, SIGTRAP = 5, SIGABRT = 6, SIGBUS = 7, SIGFPE = 8, SIGKILL = 9,
    SIGSEGV = 11, SIGPIPE = 13, SIGALRM = 14, SIGTERM = 15, SIGCHLD = 17, SIGCONT = 18,
    SIGSTOP = 19, SIGTSTP = 20, SIGTTIN = 21, SIGTTOU = 22, SIGURG = 23, SIGWINCH = 28,
    SIGSYS = 31,
}

/// Greatest signal number.
pub const SIGNAL_MAX: u32 = 64;

/// Signals that the processor or the filter raises in the middle of code, the shim's included:
/// never blocked while the shim runs.
pub const SYNCHRONOUS: SigSet =
    SigSet::EMPTY.with(SIGSEGV).with(SIGBUS).with(SIGILL).with(SIGFPE).with(SIGTRAP).with(SIGSYS);

/// Everything that is blocked while the shim runs.
pub const SHIM_MASK: SigSet = SigSet(!SYNCHRONOUS.0);

/// Never blocked, whatever the guest asks for.
pub const UNMASKABLE: SigSet =
    SigSet::EMPTY.with(SIGSYS).with(SIGILL).with(SIGKILL).with(SIGSTOP).with(MOVE_SIGNAL);

impl SigSet {
    /// No signal.
    pub const EMPTY: SigSet = SigSet(0);

    /// Returns the set with `signal` (1..=64) added; other numbers change nothing.
    #[must_use]
    pub const fn with(self, signal: u32) -> SigSet {
        if signal >= 1 && signal <= SIGNAL_MAX { SigSet(self.0 | 1 << (signal - 1)) } else { self }
    }

    /// Returns whether `signal` is in the set.
    #[must_use]
    pub const fn has(self, signal: u32) -> bool {
        signal >= 1 && signal <= SIGNAL_MAX && self.0 >> (signal - 1) & 1 == 1
    }

    /// Returns the union.
    #[must_use]
    pub const fn union(self, other: SigSet) -> SigSet {
        SigSet(self.0 | other.0)
    }

    /// Returns what is in `self` and not in `other`.
    #[must_use]
    pub const fn without(self, other: SigSet) -> SigSet {
        SigSet(self.0 & !other.0)
    }

    /// Returns the set as the kernel may have it: without the signals that must get through.
    #[must_use]
    pub const fn for_kernel(self) -> SigSet {
        self.without(UNMASKABLE)
    }
}

/// `how` of sigprocmask(2).
pub const SIG_BLOCK: u64 = 0;
/// `how` of sigprocmask(2).
pub const SIG_UNBLOCK: u64 = 1;
/// `how` of sigprocmask(2).
pub const SIG_SETMASK: u64 = 2;

/// Applies sigprocmask(2) to a mask, or `None` for an unknown `how`.
#[must_use]
pub const fn change_mask(old: SigSet, how: u64, set: SigSet) -> Option<SigSet> {
    match how {
        SIG_BLOCK => Some(old.union(set)),
        SIG_UNBLOCK => Some(old.without(set)),
        SIG_SETMASK => Some(set),
        _ => None,
    }
}

/// What the kernel does by default on a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Default {
    /// Nothing.
    Ignore,
    /// The process stops.
    Stop,
    /// The process goes on.
    Continue,
    /// The process ends, perhaps with a core.
    Kill,
}

/// Returns the default action of signal(7).
#[must_use]
pub const fn default_action(signal: u32) -> Default {
    match signal {
        SIGCHLD | SIGURG | SIGWINCH => Default::Ignore,
        SIGCONT => Default::Continue,
        SIGSTOP | SIGTSTP | SIGTTIN | SIGTTOU => Default::Stop,
        _ => Default::Kill,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shims_signals_never_reach_a_kernel_mask() {
        let all = SigSet(u64::MAX);
        assert!(!all.for_kernel().has(SIGSYS));
        assert!(all.for_kernel().has(SIGTERM));
        assert!(!SHIM_MASK.has(SIGSEGV) && SHIM_MASK.has(SIGTERM));
    }

    #[test]
    fn masks_change_as_sigprocmask_says() {
        let old = SigSet::EMPTY.with(1).with(2);
        let set = SigSet::EMPTY.with(2).with(64);
        assert_eq!(change_mask(old, SIG_BLOCK, set), Some(SigSet::EMPTY.with(1).with(2).with(64)));
        assert_eq!(change_mask(old, SIG_UNBLOCK, set), Some(SigSet::EMPTY.with(1)));
        assert_eq!(change_mask(old, SIG_SETMASK, set), Some(set));
        assert_eq!(change_mask(old, 3, set), None);
    }

    #[test]
    fn numbers_outside_the_set_are_not_members() {
        assert_eq!(SigSet::EMPTY.with(0).with(65), SigSet::EMPTY);
        assert!(!SigSet(u64::MAX).has(0) && !SigSet(u64::MAX).has(65));
    }
}
