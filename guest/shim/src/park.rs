//! Parking: every thread of a process that moves waits here, on its shim stack.

use crate::thread::Thread;

/// Parks the thread if its process is asked to; comes back when it goes on, here or elsewhere.
///
/// Called with all signals blocked and no lock held, on the thread's shim stack. Guest code may run
/// next, or the call that the thread was about to issue.
pub(crate) fn if_asked(_thread: &Thread) {}
