//! Signal frames as the kernel lays them out (`arch/x86/kernel/signal_64.c`), and the registers in them.

use crate::guest::{self, GuestAddr};
use dunix_shim_core::Errno;
use dunix_shim_core::signal::SigSet;

/// `stack_t` of sigaltstack(2).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct AltStack {
    /// Lowest address.
    pub(crate) start: u64,
    /// `SS_*` bits.
    pub(crate) flags: u32,
    pad: u32,
    /// Bytes.
    pub(crate) bytes: u64,
}

/// `SS_DISABLE`.
pub(crate) const SS_DISABLE: u32 = 2;
/// `SS_ONSTACK`.
pub(crate) const SS_ONSTACK: u32 = 1;
/// `SS_AUTODISARM`.
pub(crate) const SS_AUTODISARM: u32 = 1 << 31;

impl AltStack {
    /// No alternate stack.
    pub(crate) const NONE: AltStack = AltStack::new(0, SS_DISABLE, 0);

    pub(crate) const fn new(start: u64, flags: u32, bytes: u64) -> AltStack {
        AltStack { start, flags, pad: 0, bytes }
    }

    /// Whether a stack pointer lies on it.
    pub(crate) fn holds(&self, stack_pointer: u64) -> bool {
        self.flags & (SS_DISABLE | SS_AUTODISARM) == 0
            && stack_pointer > self.start
            && stack_pointer - self.start <= self.bytes
    }
}

/// `struct sigcontext`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Registers {
    pub(crate) r8: u64,
    pub(crate) r9: u64,
    pub(crate) r10: u64,
    pub(crate) r11: u64,
    pub(crate) r12: u64,
    pub(crate) r13: u64,
    pub(crate) r14: u64,
    pub(crate) r15: u64,
    pub(crate) rdi: u64,
    pub(crate) rsi: u64,
    pub(crate) rbp: u64,
    pub(crate) rbx: u64,
    pub(crate) rdx: u64,
    pub(crate) rax: u64,
    pub(crate) rcx: u64,
    pub(crate) rsp: u64,
    pub(crate) rip: u64,
    pub(crate) eflags: u64,
    /// cs, gs, fs, ss: 16 bits each.
    pub(crate) selectors: u64,
    pub(crate) err: u64,
    pub(crate) trapno: u64,
    pub(crate) oldmask: u64,
    pub(crate) cr2: u64,
    /// Address of the extended state, or 0.
    pub(crate) fpstate: u64,
    pub(crate) reserved: [u64; 8],
}

/// `ucontext_t` as the kernel sees it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Context {
    pub(crate) flags: u64,
    pub(crate) link: u64,
    pub(crate) stack: AltStack,
    pub(crate) regs: Registers,
    pub(crate) mask: SigSet,
}

/// `siginfo_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct SigInfo {
    pub(crate) signal: i32,
    pub(crate) errno: i32,
    pub(crate) code: i32,
    pub(crate) pad: i32,
    pub(crate) fields: [u64; 14],
}

/// What lies on the stack of a handler: `struct rt_sigframe`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) restorer: u64,
    pub(crate) context: Context,
    pub(crate) info: SigInfo,
}

const _: () = assert!(size_of::<Context>() == 304 && size_of::<SigInfo>() == 128);

const RED_ZONE: u64 = 128;
const LEGACY_FP_BYTES: usize = 512;
/// Offset of the software-reserved words in the legacy area, where the kernel notes its sizes.
const FP_SOFTWARE_AT: usize = 464;
const FP_MAGIC: u32 = 0x4650_5853;
/// Most bytes of extended state that the shim copies (AMX included).
pub(crate) const FP_BYTES_MAX: usize = 12 * 1024;
const EFLAGS_CLEARED: u64 = 1 << 8 | 1 << 10 | 1 << 16;
/// `MXCSR` after reset.
const MXCSR_INITIAL: u32 = 0x1f80;

impl Context {
    /// Number and arguments of the call that trapped here.
    pub(crate) fn call(&self) -> (u64, [u64; 6]) {
        let r = &self.regs;
        (r.rax, [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9])
    }

    pub(crate) fn set_result(&mut self, result: i64) {
        self.regs.rax = result.cast_unsigned();
    }

    /// Puts the context back onto its call instruction, or what stands in its place.
    pub(crate) fn rewind_call(&mut self) {
        self.regs.rip = crate::rewrite::before(self.regs.rip);
    }

    /// The extended state that belongs to this frame, which the kernel wrote on the shim's stack.
    fn fp_bytes(&self) -> usize {
        if self.regs.fpstate == 0 {
            return 0;
        }
        let area = self.regs.fpstate as *const u8;
        // SAFETY: the kernel wrote a legacy area at least at this address, on the shim's stack.
        let (magic, bytes) = unsafe {
            let software = area.add(FP_SOFTWARE_AT).cast::<u32>();
            (software.read_unaligned(), software.add(1).read_unaligned())
        };
        if magic == FP_MAGIC { (bytes as usize).max(LEGACY_FP_BYTES) } else { LEGACY_FP_BYTES }
    }

    /// Resets the extended state to that of a fresh program, as the kernel does for a handler.
    fn reset_fp(&mut self) {
        let bytes = self.fp_bytes();
        if bytes <= LEGACY_FP_BYTES + 64 {
            return;
        }
        let area = self.regs.fpstate as *mut u8;
        // SAFETY: the area holds a header after the legacy part, since it is longer than both.
        unsafe {
            area.add(24).cast::<u32>().write_unaligned(MXCSR_INITIAL);
            area.add(LEGACY_FP_BYTES).cast::<u64>().write_unaligned(0);
        }
    }

    /// Copies the context and its extended state to a place of the shim's own.
    ///
    /// # Safety
    /// `to` is valid for writes and nobody else uses it.
    pub(crate) unsafe fn copy_to(&self, to: *mut Resumable) -> Result<(), Errno> {
        let bytes = self.fp_bytes();
        if bytes > FP_BYTES_MAX {
            return Err(Errno::ENOMEM);
        }
        // SAFETY: `to` is the caller's to vouch for; the source is a kernel-written frame.
        unsafe {
            (*to).frame.context = *self;
            let area = (&raw mut (*to).fp.0).cast::<u8>();
            core::ptr::copy_nonoverlapping(self.regs.fpstate as *const u8, area, bytes);
            (*to).frame.context.regs.fpstate = if bytes == 0 { 0 } else { area as u64 };
        }
        Ok(())
    }
}

/// Extended state, aligned as the processor wants it.
#[repr(C, align(64))]
pub(crate) struct FpArea([u8; FP_BYTES_MAX]);

/// A context kept by the shim, to be resumed by rt_sigreturn.
#[repr(C)]
pub(crate) struct Resumable {
    pub(crate) fp: FpArea,
    pub(crate) frame: Frame,
}

/// What a handler is entered with.
pub(crate) struct Handler {
    pub(crate) address: u64,
    pub(crate) restorer: u64,
    /// The guest's alternate stack, if the handler wants it.
    pub(crate) stack: Option<AltStack>,
    /// What the frame remembers as the guest's alternate stack.
    pub(crate) saved_stack: AltStack,
    /// The mask that returning from the handler restores.
    pub(crate) saved_mask: SigSet,
    /// The mask during the handler.
    pub(crate) mask: SigSet,
}

/// Writes a handler's frame to the guest's stack and makes `context` enter the handler.
///
/// # Errors
/// `EFAULT` if the stack cannot be written; `context` is unchanged then.
pub(crate) fn enter_handler(
    context: &mut Context,
    info: &SigInfo,
    handler: &Handler,
) -> Result<(), Errno> {
    let top = match handler.stack {
        Some(stack) if !stack.holds(context.regs.rsp) => stack.start + stack.bytes,
        _ => context.regs.rsp.wrapping_sub(RED_ZONE),
    };
    let fp_bytes = context.fp_bytes();
    let fp_at = if fp_bytes == 0 { top } else { top.wrapping_sub(fp_bytes as u64) & !63 };
    let at = (fp_at.wrapping_sub(size_of::<Frame>() as u64).wrapping_add(8) & !15).wrapping_sub(8);
    if handler.stack.is_some_and(|s| s.start <= top && top <= s.start + s.bytes && at < s.start) {
        return Err(Errno::EFAULT);
    }
    let mut frame = Frame { restorer: handler.restorer, context: *context, info: *info };
    frame.context.stack = handler.saved_stack;
    frame.context.mask = handler.saved_mask;
    frame.context.link = 0;
    frame.context.regs.oldmask = handler.saved_mask.0;
    frame.context.regs.fpstate = if fp_bytes == 0 { 0 } else { fp_at };
    if fp_bytes > 0 {
        // SAFETY: the kernel wrote this many bytes at the frame's extended state.
        let state =
            unsafe { core::slice::from_raw_parts(context.regs.fpstate as *const u8, fp_bytes) };
        guest::write_bytes(GuestAddr(fp_at), state)?;
    }
    guest::write(GuestAddr(at), &frame)?;
    context.reset_fp();
    let r = &mut context.regs;
    r.rdi = u64::from(info.signal.unsigned_abs());
    r.rsi = at + core::mem::offset_of!(Frame, info) as u64;
    r.rdx = at + core::mem::offset_of!(Frame, context) as u64;
    r.rax = 0;
    r.rsp = at;
    r.rip = handler.address;
    r.eflags &= !EFLAGS_CLEARED;
    context.mask = handler.mask;
    Ok(())
}

/// Where the frame of the handler lies that a guest's rt_sigreturn ends.
pub(crate) fn frame_of_return(context: &Context) -> GuestAddr {
    GuestAddr(context.regs.rsp.wrapping_sub(8))
}
