//! Status words of wait(2), made of the fields of waitid(2).

/// `si_code` of SIGCHLD: the child exited.
pub const CLD_EXITED: i32 = 1;
/// `si_code` of SIGCHLD: a signal killed the child.
pub const CLD_KILLED: i32 = 2;
/// `si_code` of SIGCHLD: a signal killed the child and it dumped core.
pub const CLD_DUMPED: i32 = 3;
/// `si_code` of SIGCHLD: a traced process stopped.
pub const CLD_TRAPPED: i32 = 4;
/// `si_code` of SIGCHLD: the child stopped.
pub const CLD_STOPPED: i32 = 5;
/// `si_code` of SIGCHLD: the child went on.
pub const CLD_CONTINUED: i32 = 6;

/// Options of wait4(2) and waitid(2).
pub const WNOHANG: u64 = 1;
/// Report stopped children.
pub const WUNTRACED: u64 = 2;
/// Report ended children (waitid).
pub const WEXITED: u64 = 4;
/// Report continued children.
pub const WCONTINUED: u64 = 8;
/// Leave the child waitable.
pub const WNOWAIT: u64 = 0x0100_0000;
/// The Linux-only bits `__WNOTHREAD | __WALL | __WCLONE`: every child of the fabric matches.
pub const WLINUX: u64 = 0xe000_0000;

/// Which children a wait means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Any child (`P_ALL`).
    Any,
    /// One child (`P_PID`).
    Pid(u32),
    /// The children of a group (`P_PGID`); 0 is the caller's own.
    Group(u32),
}

impl Target {
    /// Reads the first argument of wait4(2).
    #[must_use]
    pub fn of_wait4(pid: i32) -> Target {
        match pid {
            -1 => Target::Any,
            0 => Target::Group(0),
            1.. => Target::Pid(pid.unsigned_abs()),
            _ => Target::Group(pid.unsigned_abs()),
        }
    }

    /// Returns `P_*` and the id.
    #[must_use]
    pub const fn as_waitid(self) -> (u64, u64) {
        match self {
            Target::Any => (0, 0),
            Target::Pid(pid) => (1, pid as u64),
            Target::Group(group) => (2, group as u64),
        }
    }
}

/// Encodes the status word of wait4(2).
#[must_use]
pub const fn status_word(code: i32, status: i32) -> i32 {
    match code {
        CLD_EXITED => (status & 0xff) << 8,
        CLD_DUMPED => status & 0x7f | 0x80,
        // With the event in the high half.
        CLD_TRAPPED => status << 8 | 0x7f,
        CLD_STOPPED => (status & 0xff) << 8 | 0x7f,
        CLD_CONTINUED => 0xffff,
        _ => status & 0x7f,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_words_are_the_macros_of_wait2() {
        assert_eq!(status_word(CLD_EXITED, 3), 0x0300);
        assert_eq!(status_word(CLD_KILLED, 9), 9);
        assert_eq!(status_word(CLD_DUMPED, 11), 0x8b);
        assert_eq!(status_word(CLD_STOPPED, 20), 0x147f);
        assert_eq!(status_word(CLD_CONTINUED, 18), 0xffff);
    }

    #[test]
    fn wait4_names_children_by_sign() {
        assert_eq!(Target::of_wait4(-1), Target::Any);
        assert_eq!(Target::of_wait4(0), Target::Group(0));
        assert_eq!(Target::of_wait4(7), Target::Pid(7));
        assert_eq!(Target::of_wait4(-7), Target::Group(7));
    }
}
