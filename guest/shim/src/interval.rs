//! `SCRIPT_START_REAL`: the timer of setitimer(2) goes on after a move when it would have.
//!
//! The kernel takes only spans. They count from now, so now is read here, next to the call.

use crate::arch::frame::SigInfo;
use crate::host;
use dunix_guest_abi::signal::SI_KERNEL;
use dunix_shim_core::signal::SIGALRM;
use dunix_shim_core::time::{Time, standing};
use dunix_shim_core::{Errno, nr};

const ITIMER_REAL: u64 = 0;
const NANOS: u64 = 1_000_000_000;
/// A span that is older than this when the kernel takes it is counted anew: the thread had to wait for
/// its processor.
const OLD_NANOS: u64 = 10_000;
/// How often it is counted at most; the last one counts.
const TRIES_MAX: usize = 8;

/// Lets it expire at `due` of the monotonic clock and then each `period`, in nanoseconds.
pub(crate) fn start(due: u64, period: u64) -> i64 {
    try_start(due, period).map_or_else(Errno::as_result, |()| 0)
}

fn try_start(due: u64, period: u64) -> Result<(), Errno> {
    for _ in 0..TRIES_MAX {
        let now = nanos(host::now());
        let standing = standing(due, period, now);
        if standing.has_expired {
            // One that waits already stays the only one.
            queue_alarm()?;
        }
        if standing.left == 0 {
            return Ok(());
        }
        set(period, standing.left)?;
        if nanos(host::now()).saturating_sub(now) < OLD_NANOS {
            break;
        }
    }
    Ok(())
}

fn nanos(time: Time) -> u64 {
    let part = |value: i64| value.unsigned_abs();
    part(time.seconds).saturating_mul(NANOS).saturating_add(part(time.nanos))
}

/// Rounds what is left up: no timer expires early, and 0 would stop it.
fn set(period: u64, left: u64) -> Result<(), Errno> {
    let micros = left.div_ceil(1000);
    let setting = [period / NANOS, period % NANOS / 1000, micros / 1_000_000, micros % 1_000_000];
    // SAFETY: reads the structure.
    unsafe { host::call(nr::SETITIMER, [ITIMER_REAL, setting.as_ptr() as u64, 0, 0, 0, 0]) }?;
    Ok(())
}

/// As the kernel's own: the first thread may send it to its process under the kernel's code.
fn queue_alarm() -> Result<(), Errno> {
    let signal = SIGALRM.cast_signed();
    let info = SigInfo { signal, errno: 0, code: SI_KERNEL, pad: 0, fields: [0; 14] };
    let args = [u64::from(host::getpid()), u64::from(SIGALRM), &raw const info as u64, 0, 0, 0];
    // SAFETY: reads the structure.
    unsafe { host::call(nr::RT_SIGQUEUEINFO, args) }?;
    Ok(())
}
