//! Limits of a child between fork and exec.

use crate::{Result, check};

/// Number of `RLIMIT_*` resources on Linux.
pub const LIMITS: usize = 16;

/// One resource's soft and hard limit; `u64::MAX` is none.
pub type Limit = (u64, u64);

/// Reads all resource limits of a process (0: this one).
pub fn limits_of(pid: u32) -> Result<[Limit; LIMITS]> {
    let mut all = [(0, 0); LIMITS];
    for (resource, limit) in (0_u32..).zip(all.iter_mut()) {
        *limit = prlimit(pid, resource, None)?;
    }
    Ok(all)
}

/// Sets one resource limit of this process.
pub fn set_limit(resource: u32, limit: Limit) -> Result<()> {
    prlimit(0, resource, Some(limit)).map(drop)
}

fn prlimit(pid: u32, resource: u32, new: Option<Limit>) -> Result<Limit> {
    let new = new.map(|(rlim_cur, rlim_max)| libc::rlimit64 { rlim_cur, rlim_max });
    let new_pointer = new.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `new_pointer` is null or a valid limit, `old` is writable.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            i64::from(pid),
            i64::from(resource),
            new_pointer,
            &raw mut old,
        )
    })?;
    Ok((old.rlim_cur, old.rlim_max))
}
