//! What a filter of the guest's own says about a call, told apart from what the shim's filter says.
//!
//! Of several filters the kernel obeys the strictest, and to trap, as the shim's filter does with most calls, is stricter
//! than to answer an errno. So the guest's errnos become traps as well: of equal verdicts the latest
//! filter's counts, which is the guest's, and the signal carries its data (seccomp(2), `si_errno`).
//!
//! ```text
//! data of a trap:  0                the shim's filter
//!                  01dd dddd dddd dddd   the guest's trap, with the lower 14 bits of its data
//!                  1000 eeee eeee eeee   the guest's errno
//!                  0010 0000 0000 0000   the guest's strict mode
//! ```
//! A filter that wants to notify or to trace has nobody who listens, so the kernel would answer `ENOSYS` for it: that is
//! an errno, too. Only verdicts that are constants are changed; programs that compute them keep the kernel's order.

use crate::Errno;
use crate::bpf::Instruction;

/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;
const ACTION: u32 = 0xffff_0000;
const DATA: u32 = 0xffff;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_NOTIFY: u32 = 0x7fc0_0000;
const RET_TRACE: u32 = 0x7ff0_0000;

const GUEST_ERRNO: u32 = 0x8000;
const GUEST_TRAP: u32 = 0x4000;
const GUEST_TRAP_DATA: u32 = GUEST_TRAP - 1;
/// Data of a trap by strict mode.
pub(crate) const STRICT: u32 = 0x2000;
/// Greatest errno that the kernel answers for a filter.
const ERRNO_MAX: u32 = 4095;

/// Who trapped a call, and what becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The shim's filter: the call is the shim's to handle.
    Shim,
    /// A filter of the guest's wants this result, zero or a negative errno.
    Result(i64),
    /// A filter of the guest's wants SIGSYS with this `si_errno`.
    Signal(i32),
    /// Strict mode wants the thread's end.
    End,
}

/// An instruction of a guest's filter as it is installed.
#[must_use]
pub fn installed(instruction: Instruction) -> Instruction {
    let Instruction { code, k, .. } = instruction;
    let k = match (code, k & ACTION) {
        (RETURN, RET_ERRNO) => RET_TRAP | GUEST_ERRNO | (k & DATA).min(ERRNO_MAX),
        (RETURN, RET_NOTIFY | RET_TRACE) => RET_TRAP | GUEST_ERRNO | Errno::ENOSYS.get() as u32,
        (RETURN, RET_TRAP) => RET_TRAP | GUEST_TRAP | k & GUEST_TRAP_DATA,
        _ => k,
    };
    Instruction { k, ..instruction }
}

/// Reads the data of a trap.
#[must_use]
pub fn of(data: i32) -> Verdict {
    let data = data.cast_unsigned() & DATA;
    if data & GUEST_ERRNO != 0 {
        Verdict::Result(-i64::from(data & ERRNO_MAX))
    } else if data & GUEST_TRAP != 0 {
        Verdict::Signal((data & GUEST_TRAP_DATA).cast_signed())
    } else if data & STRICT != 0 {
        Verdict::End
    } else {
        Verdict::Shim
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(k: u32) -> Verdict {
        let instruction = installed(Instruction { code: RETURN, jt: 0, jf: 0, k });
        assert_eq!(instruction.k & ACTION, RET_TRAP);
        of((instruction.k & DATA).cast_signed())
    }

    #[test]
    fn verdicts_of_the_guests_are_told_apart() {
        assert_eq!(told(RET_ERRNO | 13), Verdict::Result(-13));
        assert_eq!(told(RET_ERRNO), Verdict::Result(0));
        assert_eq!(told(RET_ERRNO | 0xffff), Verdict::Result(-4095));
        assert_eq!(told(RET_TRAP), Verdict::Signal(0));
        assert_eq!(told(RET_TRAP | 9), Verdict::Signal(9));
        assert_eq!(told(RET_TRAP | STRICT | 1), Verdict::Signal(0x2001));
        assert_eq!(of(STRICT.cast_signed()), Verdict::End);
        assert_eq!(of(0), Verdict::Shim);
    }

    #[test]
    fn nobody_listens() {
        assert_eq!(told(RET_NOTIFY), Verdict::Result(Errno::ENOSYS.as_result()));
        assert_eq!(told(RET_TRACE | 1), Verdict::Result(Errno::ENOSYS.as_result()));
    }

    #[test]
    fn everything_else_stays() {
        let others = [0x8000_0000, 0, 0x7ffc_0000, 0x7fff_0000];
        for k in others {
            let instruction = Instruction { code: RETURN, jt: 0, jf: 0, k };
            assert_eq!(installed(instruction), instruction);
        }
        let comparison = Instruction { code: 0x15, jt: 1, jf: 0, k: RET_ERRNO | 1 };
        assert_eq!(installed(comparison), comparison);
    }
}
