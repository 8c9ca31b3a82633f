//! Per-thread state and stacks: fixed-size slots from `THREADS_START` on.
//!
//! ```text
//! slot:  guard (unmapped) | shim stack, grows down | Thread
//! ```
//! A handler finds its thread from its stack pointer, so nothing depends on registers that the
//! guest can change. At most [`SLOTS`] threads a process; more fail with `EAGAIN`.

use crate::arch::fast;
use crate::arch::frame::{AltStack, Resumable, SigInfo};
use crate::arch::gadget::PASS_RETURN_OFFSET;
use crate::calls::cpu_time::Spent;
use crate::doorbell::slot;
use crate::host;
use crate::process::{Process, has_daemon};
use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use dunix_guest_abi::layout;
use dunix_guest_abi::moving::ParkRecord;
use dunix_shim_core::signal::{SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK, SIGBUS, SIGSEGV, SigSet};
use dunix_shim_core::time::Time;
use dunix_shim_core::{Errno, nr};

/// Bytes of a slot; a power of two.
const SLOT_BYTES: u64 = layout::THREAD_BYTES;
const GUARD_BYTES: u64 = 4096;
/// Room for [`Thread`] at the slot's end.
const THREAD_BYTES: u64 = SLOT_BYTES - layout::THREAD_STATE;
/// Most threads of a process.
pub(crate) const SLOTS: usize = 8192;
/// Signals noted while the shim runs: one from the gadget, and forced ones sent by others.
const PENDING_MAX: usize = 8;

/// The state of one thread.
#[repr(C)]
pub(crate) struct Thread {
    this: Cell<u64>,
    /// Where the pass-on stub goes back to; read through GS.
    pub(crate) pass_return: Cell<u64>,
    /// Where stubs of rewritten sites jump to; read through GS.
    pub(crate) fast_entry: Cell<u64>,
    /// The context of the signal frame that a handler serves while the guest stands still, or 0; read by
    /// whoever traces.
    pub(crate) caught: Cell<u64>,
    /// Names the child of a fork to the daemon ([`OP_FORK_PREPARE`](dunix_guest_abi::doorbell::OP_FORK_PREPARE)); the
    /// child's own, if it shares this memory.
    pub(crate) fork_word: Cell<u64>,
    /// The call that the pass-on stub issues.
    pub(crate) pass_number: Cell<u64>,
    /// When the stub was entered, on the monotonic clock; zero if the call keeps no time.
    pub(crate) pass_start: Cell<Time>,
    /// The time stamp instead, for a call that came by the fast path: `pass_start` says so
    /// ([`crate::calls::passed`]).
    pub(crate) pass_tsc: Cell<u64>,
    /// The guest's registers on the fast path, while others are in their place.
    pub(crate) guest_rsp: Cell<u64>,
    pub(crate) guest_rdx: Cell<u64>,
    /// Where the fast path saves the guest's registers: at the top of the shim's stack.
    pub(crate) fast_frame: Cell<u64>,
    /// Where it leaves to.
    pub(crate) fast_target: Cell<u64>,
    /// The result that it leaves with, if the call was answered.
    pub(crate) fast_result: Cell<Option<i64>>,
    /// It runs Rust code, with the guest's signals accepted.
    pub(crate) is_fast: Cell<bool>,
    /// A signal came meanwhile: all others are blocked, and it leaves by a trap.
    pub(crate) has_kept: Cell<bool>,
    /// The guest blocks signals that faults raise: one of the shim's would end the process.
    faults_blocked: Cell<bool>,
    /// The mask that was replaced by blocking all.
    pub(crate) kept_mask: Cell<SigSet>,
    /// The flags of the process's slot of the arena (without a daemon, of a word that is 0).
    pub(crate) slot_flags: Cell<u64>,
    /// A move signal ended the gadget; [`crate::restart`] takes it back.
    pub(crate) poked: Cell<bool>,
    process: Cell<*const Process>,
    /// TID of the fabric (of the host when solo).
    pub(crate) tid: Cell<u32>,
    /// Not zero while a child that shares memory has neither ended nor executed; the kernel clears it.
    pub(crate) vfork_word: AtomicU32,
    /// The guest's alternate signal stack.
    pub(crate) altstack: Cell<AltStack>,
    /// The mask to restore if a call ran under a mask of its own.
    pub(crate) saved_mask: Cell<Option<SigSet>>,
    pending: UnsafeCell<[Option<SigInfo>; PENDING_MAX]>,
    /// The guest's robust list and the length it gave.
    pub(crate) robust: Cell<(u64, u64)>,
    /// The guest's word that the kernel clears when the thread ends, or 0.
    pub(crate) clear_tid: Cell<u64>,
    /// The guest's rseq area, its length and signature.
    pub(crate) rseq: Cell<(u64, u32, u32)>,
    /// CPU time that it used at other nodes.
    pub(crate) spent: Spent,
    /// What the daemon reads of the thread while it is parked.
    pub(crate) park_record: UnsafeCell<ParkRecord>,
    /// The guest has put the thread into strict mode (seccomp(2)).
    pub(crate) is_strict: Cell<bool>,
    /// A mapping that outlives an exec by a child that shares memory: start and bytes.
    pub(crate) scratch: Cell<(u64, u64)>,
    /// The thread is the child of a vfork: its process's state is its own.
    pub(crate) is_vfork_child: Cell<bool>,
    /// Nobody waits until such a child has left the memory: its slot is free once the kernel has cleared the word.
    pub(crate) is_left: AtomicBool,
    /// A context to resume: a new thread's first, or that of a guest's rt_sigreturn.
    pub(crate) resumable: UnsafeCell<Resumable>,
    own_process: UnsafeCell<Process>,
}

const _: () = assert!(size_of::<Thread>() as u64 <= THREAD_BYTES);
const _: () = assert!(core::mem::offset_of!(Thread, pass_return) == PASS_RETURN_OFFSET);
const _: () = assert!(PASS_RETURN_OFFSET as u64 == layout::THREAD_PASS_RETURN);
const _: () = assert!(core::mem::offset_of!(Thread, fork_word) as u64 == layout::THREAD_FORK_WORD);
const _: () = assert!(core::mem::offset_of!(Thread, caught) as u64 == layout::THREAD_CAUGHT);

static SHARES_FILES: AtomicBool = AtomicBool::new(false);
static USED: [AtomicU64; SLOTS / 64] = [const { AtomicU64::new(0) }; SLOTS / 64];
static MAPPED: [AtomicU64; SLOTS / 64] = [const { AtomicU64::new(0) }; SLOTS / 64];

const fn slot_start(index: usize) -> u64 {
    layout::THREADS_START + index as u64 * SLOT_BYTES
}

impl Thread {
    /// The thread whose shim stack the caller runs on.
    pub(crate) fn current() -> &'static Thread {
        let marker = 0u8;
        let slot = (&raw const marker as u64) & !(SLOT_BYTES - 1);
        // SAFETY: handlers and new threads run on the stack of a slot that holds a live `Thread`.
        unsafe { &*((slot + SLOT_BYTES - THREAD_BYTES) as *const Thread) }
    }

    /// Notes the mask that the kernel has for the thread, or is about to have.
    pub(crate) fn note_mask(&self, mask: SigSet) {
        self.faults_blocked.set(mask.has(SIGSEGV) || mask.has(SIGBUS));
    }

    /// The same after rt_sigprocmask(2) by the kernel itself; it may have unblocked more than is noted.
    pub(crate) fn note_mask_change(&self, how: u64, set: SigSet) {
        match how {
            SIG_SETMASK => self.note_mask(set),
            SIG_UNBLOCK if set.has(SIGSEGV) && set.has(SIGBUS) => self.faults_blocked.set(false),
            SIG_BLOCK if set.has(SIGSEGV) || set.has(SIGBUS) => self.faults_blocked.set(true),
            _ => {}
        }
    }

    /// Whether a fault of the calling thread would end the process. No thread of the guest's, no mask of
    /// the guest's.
    pub(crate) fn has_faults_blocked() -> bool {
        let marker = 0u8;
        let is_threads = (slot_start(0)..slot_start(SLOTS)).contains(&(&raw const marker as u64));
        is_threads && Thread::current().faults_blocked.get()
    }

    /// The thread in whose state `address` lies, if that is inside the range of thread states.
    pub(crate) fn at(address: u64) -> Option<&'static Thread> {
        let end = slot_start(SLOTS);
        let state = (address & !(SLOT_BYTES - 1)) + SLOT_BYTES - THREAD_BYTES;
        let is_inside = (layout::THREADS_START..end).contains(&address) && address >= state;
        // SAFETY: the caller knows that a thread lives there: the daemon, which names its record.
        is_inside.then(|| unsafe { &*(state as *const Thread) })
    }

    /// Takes a free slot and prepares it for a thread of `process`.
    ///
    /// # Errors
    /// `EAGAIN` if all slots are taken, `ENOMEM`.
    pub(crate) fn allocate(process: &Process) -> Result<&'static Thread, Errno> {
        let index = take_slot().ok_or(Errno::EAGAIN)?;
        if let Err(error) = map_slot(index) {
            free_slot(index);
            return Err(error);
        }
        let address = slot_start(index) + SLOT_BYTES - THREAD_BYTES;
        // SAFETY: the slot is mapped and ours alone; stale or zero bytes are set below before use.
        let thread = unsafe { &*(address as *const Thread) };
        thread.this.set(address);
        thread.process.set(process);
        thread.prepare_fast_path();
        thread.faults_blocked.set(false);
        thread.caught.set(0);
        thread.vfork_word.store(0, Ordering::Relaxed);
        thread.altstack.set(AltStack::NONE);
        thread.saved_mask.set(None);
        thread.poked.set(false);
        thread.robust.set((0, 0));
        thread.clear_tid.set(0);
        thread.rseq.set((0, 0, 0));
        thread.spent.reset();
        thread.scratch.set((0, 0));
        thread.is_strict.set(false);
        thread.is_vfork_child.set(false);
        thread.is_left.store(false, Ordering::Relaxed);
        // SAFETY: ours alone.
        unsafe { thread.pending.get().write([None; PENDING_MAX]) };
        Ok(thread)
    }

    /// Offset of the process's address, for machine code.
    pub(crate) const PROCESS_OFFSET: usize = core::mem::offset_of!(Thread, process);

    fn prepare_fast_path(&self) {
        let stack = self.shim_stack();
        self.fast_entry.set(fast::entry());
        self.fast_frame.set(stack.start + stack.bytes - size_of::<fast::Frame>() as u64);
        self.fast_result.set(None);
        self.is_fast.set(false);
        self.has_kept.set(false);
        self.note_slot();
    }

    /// Notes where the flags of the process's slot are, whenever that changes.
    pub(crate) fn note_slot(&self) {
        static NO_FLAGS: AtomicU32 = AtomicU32::new(0);
        let flags = if has_daemon() { &slot(self.process()).flags } else { &NO_FLAGS };
        self.slot_flags.set(flags.as_ptr() as u64);
    }

    fn index(&self) -> usize {
        ((self.this.get() - layout::THREADS_START) / SLOT_BYTES) as usize
    }

    /// The process that this thread belongs to.
    pub(crate) fn process(&self) -> &'static Process {
        // SAFETY: a thread's process outlives it: it is static, or in the slot of a vfork child
        // that the parent frees only when the child no longer uses this memory.
        unsafe { &*self.process.get() }
    }

    /// Gives a child that shares memory a process state of its own, copied from `parent`'s.
    pub(crate) fn detach_process(&self, parent: &Process, shares_actions: bool) {
        // SAFETY: the slot is ours alone until the child starts.
        unsafe { self.own_process.get().write(Process::new()) };
        // SAFETY: just written.
        let own = unsafe { &*self.own_process.get() };
        own.copy_from(parent, shares_actions);
        self.process.set(own);
        self.note_slot();
        self.is_vfork_child.set(true);
    }

    /// The shim's stack of this thread.
    pub(crate) fn shim_stack(&self) -> AltStack {
        let start = slot_start(self.index()) + GUARD_BYTES;
        AltStack::new(start, 0, SLOT_BYTES - GUARD_BYTES - THREAD_BYTES)
    }

    /// Makes the GS base lead here, for the pass-on stub.
    pub(crate) fn install_gs(&self) {
        const ARCH_SET_GS: u64 = 0x1001;
        let args = [ARCH_SET_GS, self.this.get(), 0, 0, 0, 0];
        // SAFETY: the shim itself does not use GS; the guest is refused its use.
        let _ = unsafe { host::call(nr::ARCH_PRCTL, args) };
    }

    /// Notes a signal for delivery at the end of the current call; drops it if there is no room
    /// (the kernel, too, keeps only one of each kind).
    pub(crate) fn note(&self, info: SigInfo) {
        // SAFETY: only the thread itself, and nested handlers run to their end.
        let pending = unsafe { &mut *self.pending.get() };
        if let Some(free) = pending.iter_mut().find(|entry| entry.is_none()) {
            *free = Some(info);
        }
    }

    /// The noted signal that comes first.
    pub(crate) fn first_noted(&self) -> Option<SigInfo> {
        // SAFETY: as for `note`.
        unsafe { (*self.pending.get())[0] }
    }

    /// Takes the noted signals in the order of their arrival.
    pub(crate) fn take_noted(&self) -> [Option<SigInfo>; PENDING_MAX] {
        // SAFETY: as for `note`.
        unsafe { core::mem::replace(&mut *self.pending.get(), [None; PENDING_MAX]) }
    }

    /// Frees the slots of children that shared this memory, had nobody wait for that, and have left it.
    pub(crate) fn free_left() {
        Thread::for_each(|thread| {
            let has_gone = thread.vfork_word.load(Ordering::Acquire) == 0;
            if has_gone && thread.is_left.swap(false, Ordering::AcqRel) {
                thread.free();
            }
        });
    }

    /// Frees the slot of a thread that never started or no longer runs.
    pub(crate) fn free(&self) {
        self.free_scratch();
        free_slot(self.index());
    }

    pub(crate) fn free_scratch(&self) {
        let (start, bytes) = self.scratch.replace((0, 0));
        if bytes > 0 {
            // SAFETY: mapped by the exec that this thread tried, and unused since.
            unsafe { host::munmap(start, bytes) };
        }
    }

    /// Ends the calling thread and frees its slot.
    pub(crate) fn exit(&self, status: u64) -> ! {
        let index = self.index();
        let keep = !(1u64 << (index % 64));
        // SAFETY: the mask keeps all other slots; the shim runs with signals blocked.
        unsafe { crate::arch::switch::release_and_exit(&USED[index / 64], keep, status) }
    }

    /// In the child of a fork: all other threads are gone.
    pub(crate) fn forget_others(&self) {
        for word in &USED {
            word.store(0, Ordering::Relaxed);
        }
        let index = self.index();
        USED[index / 64].store(1 << (index % 64), Ordering::Relaxed);
    }

    /// Whether nobody else uses its table of descriptors.
    pub(crate) fn has_own_files(&self) -> bool {
        let threads: u32 = USED.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum();
        !SHARES_FILES.load(Ordering::Relaxed) && (self.is_vfork_child.get() || threads == 1)
    }

    /// Notes that another process uses the table of descriptors too.
    pub(crate) fn share_files() {
        SHARES_FILES.store(true, Ordering::Relaxed);
    }

    /// Calls `visit` for every live thread of this address space.
    pub(crate) fn for_each(mut visit: impl FnMut(&Thread)) {
        for (word_index, word) in USED.iter().enumerate() {
            // One that was just taken may not be mapped yet.
            let mapped = MAPPED[word_index].load(Ordering::Acquire);
            let mut bits = word.load(Ordering::Relaxed) & mapped;
            while bits != 0 {
                let index = word_index * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let address = slot_start(index) + SLOT_BYTES - THREAD_BYTES;
                // SAFETY: the slot is mapped and holds a `Thread`, of zeros if none was there yet.
                visit(unsafe { &*(address as *const Thread) });
            }
        }
    }
}

fn take_slot() -> Option<usize> {
    for (word_index, word) in USED.iter().enumerate() {
        let mut bits = word.load(Ordering::Relaxed);
        while bits != u64::MAX {
            let bit = (!bits).trailing_zeros();
            match word.compare_exchange(bits, bits | 1 << bit, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return Some(word_index * 64 + bit as usize),
                Err(now) => bits = now,
            }
        }
    }
    None
}

fn free_slot(index: usize) {
    USED[index / 64].fetch_and(!(1 << (index % 64)), Ordering::AcqRel);
}

fn map_slot(index: usize) -> Result<(), Errno> {
    let (word, bit) = (&MAPPED[index / 64], 1u64 << (index % 64));
    if word.load(Ordering::Relaxed) & bit != 0 {
        return Ok(());
    }
    let flags = host::MAP_PRIVATE | host::MAP_ANONYMOUS | host::MAP_FIXED | host::MAP_NORESERVE;
    let prot = host::PROT_READ | host::PROT_WRITE;
    // SAFETY: the slot is reserved for us and was never mapped.
    unsafe {
        host::mmap(slot_start(index) + GUARD_BYTES, SLOT_BYTES - GUARD_BYTES, prot, flags, -1, 0)
    }?;
    word.fetch_or(bit, Ordering::Release);
    Ok(())
}
