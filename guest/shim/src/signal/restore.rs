//! rt_sigreturn(2): the end of a guest's handler.

use crate::arch::frame::{self, Context, Frame};
use crate::arch::switch;
use crate::guest;
use crate::rewrite;
use crate::thread::Thread;
use dunix_shim_core::signal::SIGSEGV;

/// Resumes what the frame on the guest's stack holds. Comes back only if the frame is unreadable.
pub(crate) fn rt_sigreturn(thread: &Thread, context: &Context) {
    let at = frame::frame_of_return(context);
    let Ok(mut frame) = guest::read::<Frame>(at) else {
        let info = frame::SigInfo {
            signal: SIGSEGV.cast_signed(),
            errno: 0,
            code: 128,
            pad: 0,
            fields: [0; 14],
        };
        thread.note(info);
        return;
    };
    super::action::restore_altstack(thread, frame.context.stack);
    frame.context.stack = thread.shim_stack();
    frame.context.regs.rip = rewrite::real(frame.context.regs.rip);
    frame.context.mask = frame.context.mask.for_kernel();
    thread.note_mask(frame.context.mask);
    // SAFETY: the area is this thread's, and nothing else is resumed from it at this time; the
    // kernel checks what the guest wrote.
    unsafe {
        let kept = &raw mut (*thread.resumable.get()).frame;
        kept.write(frame);
        switch::resume(kept)
    }
}
