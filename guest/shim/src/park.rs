//! Parking: every thread of a process that moves waits here, on its shim stack.
//!
//! ```text
//! if_asked -> switch::park (registers onto the stack) -> parked: OP_PARKED, scripts ... thaw -+
//!     elsewhere: arrive::resume -> switch::unpark ---> resumed: OP_SCRIPT_DONE, scripts -- thaw -+-> back
//! ```

use crate::arch::switch;
use crate::calls::cpu_time;
use crate::doorbell::{ring_raw, slot};
use crate::host;
use crate::process::has_daemon;
use crate::report;
use crate::script::{self, Role};
use crate::thread::Thread;
use core::sync::atomic::{AtomicU64, Ordering};
use dunix_guest_abi::arena::SLOT_PARK;
use dunix_guest_abi::doorbell::{OP_PARKED, OP_SCRIPT_DONE};
use dunix_guest_abi::moving::{PARK_SHARES_MEMORY, PARK_STRICT, ParkRecord};
use dunix_shim_core::nr;

/// Parks the thread if its process is asked to; comes back when it goes on, here or elsewhere.
///
/// Called with all signals blocked and no lock held, on the thread's shim stack. Guest code may run
/// next, or the call that the thread was about to issue.
pub(crate) fn if_asked(thread: &Thread) {
    while is_asked(thread) {
        let tid = u64::from(thread.tid.get());
        if thread.is_vfork_child.get() {
            let _ = ring_raw(OP_PARKED, [tid, 0, u64::from(PARK_SHARES_MEMORY), 0]);
            return;
        }
        if let Err(error) = script::map() {
            report::line("cannot park", "errno", u64::from(error.get()));
            return;
        }
        let record = describe(thread);
        cpu_time::note(thread);
        // SAFETY: the thread's own record; `parked` returns when the thread goes on.
        unsafe { switch::park(record, parked) };
        cpu_time::settle(thread);
        PARKS.fetch_add(1, Ordering::Relaxed);
    }
}

/// How often a thread of the process has parked.
static PARKS: AtomicU64 = AtomicU64::new(0);

/// Differs from an earlier answer if the process may have moved in between.
pub(crate) fn count() -> u64 {
    PARKS.load(Ordering::Relaxed)
}

/// Whether the thread's process is asked to park.
pub(crate) fn is_asked(thread: &Thread) -> bool {
    has_daemon() && slot(thread.process()).flags.load(Ordering::Acquire) & SLOT_PARK != 0
}

/// Writes the thread's record and returns its address.
fn describe(thread: &Thread) -> *mut ParkRecord {
    const ARCH_GET_FS: u64 = 0x1003;
    let mut fs_base = 0u64;
    // SAFETY: writes the word only.
    let _ =
        unsafe { host::call(nr::ARCH_PRCTL, [ARCH_GET_FS, &raw mut fs_base as u64, 0, 0, 0, 0]) };
    let (rseq_area, rseq_bytes, rseq_signature) = thread.rseq.get();
    let altstack = thread.altstack.get();
    let record = ParkRecord {
        tid: thread.tid.get(),
        flags: if shares_memory() { PARK_SHARES_MEMORY } else { 0 }
            | if thread.is_strict.get() { PARK_STRICT } else { 0 },
        stack_pointer: 0,
        fs_base,
        clear_tid: thread.clear_tid.get(),
        rseq_area,
        rseq_bytes,
        rseq_signature,
        robust_head: thread.robust.get().0,
        altstack_start: altstack.start,
        altstack_bytes: altstack.bytes,
        altstack_flags: u64::from(altstack.flags),
    };
    let at = thread.park_record.get();
    // SAFETY: only the thread itself writes its record.
    unsafe { at.write(record) };
    at
}

/// Whether a process made with `CLONE_VM` still uses this memory.
fn shares_memory() -> bool {
    let mut is_shared = false;
    Thread::for_each(|thread| {
        is_shared |= thread.is_vfork_child.get() && thread.vfork_word.load(Ordering::Acquire) != 0;
    });
    is_shared
}

/// The thread whose record lies at `address`, if one can.
pub(crate) fn thread_of(address: u64) -> Option<&'static Thread> {
    Thread::at(address).filter(|thread| thread.park_record.get() as u64 == address)
}

/// Waits, with the registers on the stack, until the thread may go on.
extern "C" fn parked(record: *const ParkRecord) {
    wait(record, None);
}

/// The same at the target, entered from an arrival stack.
pub(crate) extern "C" fn resumed(record: *const ParkRecord) {
    // SAFETY: the record that the caller resumes.
    let tid = u64::from(unsafe { (*record).tid });
    // Before the ring: after it the thread may be let go, and asked to park again.
    let epoch = slot(Thread::current().process()).park_epoch.load(Ordering::Acquire);
    let _ = ring_raw(OP_SCRIPT_DONE, [tid, u64::from(script::header().done), 0, 0]);
    wait(record, Some(epoch));
}

/// Serves scripts until `SLOT_PARK` is cleared. `rung` is the freeze that was answered already.
fn wait(record: *const ParkRecord, mut rung: Option<u32>) {
    let slot = slot(Thread::current().process());
    // SAFETY: the record of this thread.
    let (tid, flags) = unsafe { ((*record).tid, (*record).flags) };
    loop {
        let seen = slot.command_seq.load(Ordering::Acquire);
        if slot.flags.load(Ordering::Acquire) & SLOT_PARK == 0 {
            return;
        }
        let epoch = slot.park_epoch.load(Ordering::Acquire);
        if rung != Some(epoch) {
            let args = [u64::from(tid), record as u64, u64::from(flags), u64::from(epoch)];
            let _ = ring_raw(OP_PARKED, args);
            rung = Some(epoch);
        }
        if let Some(done) = script::run(tid, seen, Role::Parked) {
            let _ = ring_raw(OP_SCRIPT_DONE, [u64::from(tid), u64::from(done), 0, 0]);
        }
        host::futex_wait(&slot.command_seq, seen);
    }
}
