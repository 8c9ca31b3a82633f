//! sendfile(2) with a descriptor of another node: the bytes go through a buffer of the shim's.

use super::{Answer, remote};
use crate::arch::frame::Context;
use crate::arch::gadget::{self, Request};
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::thread::Thread;
use dunix_shim_core::{Errno, nr};

/// Bytes that go at a time.
const CHUNK: usize = 8192;
const SEEK_SET: u64 = 0;
const SEEK_CUR: u64 = 1;

/// Handles the call if one of its descriptors lives at another node.
pub(crate) fn send_file(thread: &Thread, context: &Context, args: [u64; 6]) -> Option<Answer> {
    let remote = &thread.process().remote;
    let is_remote = |at: usize| remote.has(host::int_arg(args[at]));
    (is_remote(0) || is_remote(1)).then(|| Answer::Return(copy(thread, context, args)))
}

/// A call on a descriptor, wherever it lives.
fn call(thread: &Thread, context: &Context, number: u64, args: [u64; 6]) -> i64 {
    if remote::takes(thread, number, &args) {
        return remote::run(thread, context.mask, number, args);
    }
    let request = Request { mask: context.mask, nr: number, args };
    // SAFETY: the guest's own descriptor, a buffer of the shim's.
    unsafe { gadget::interruptible(&request) }
}

/// Reads at a place and writes: what is not written has not been read, so that nothing is lost.
#[inline(never)] // Its buffer would be on the stack of every call.
fn copy(thread: &Thread, context: &Context, args: [u64; 6]) -> i64 {
    let [to, from, offset_at, count, ..] = args;
    let start = if offset_at == 0 {
        call(thread, context, nr::LSEEK, [from, 0, SEEK_CUR, 0, 0, 0])
    } else {
        guest::read::<u64>(GuestAddr(offset_at)).map_or(Errno::EFAULT.as_result(), u64::cast_signed)
    };
    if start < 0 {
        // The kernel takes seekable input only.
        return if start == ESPIPE { Errno::EINVAL.as_result() } else { start };
    }
    let mut buffer = [0u8; CHUNK];
    let mut done: u64 = 0;
    let failed = loop {
        let bytes = (count - done).min(CHUNK as u64);
        let at = buffer.as_mut_ptr() as u64;
        let place = start.unsigned_abs() + done;
        let got = call(thread, context, nr::PREAD64, [from, at, bytes, place, 0, 0]);
        if got <= 0 {
            break got;
        }
        let put = call(thread, context, nr::WRITE, [to, at, got.unsigned_abs(), 0, 0, 0]);
        if put <= 0 {
            break put;
        }
        done += put.unsigned_abs();
        if put < got || done >= count || thread.first_noted().is_some() {
            break 0;
        }
    };
    if done == 0 {
        return failed;
    }
    let end = start.unsigned_abs() + done;
    if offset_at == 0 {
        call(thread, context, nr::LSEEK, [from, end, SEEK_SET, 0, 0, 0]);
    } else {
        let _ = guest::write(GuestAddr(offset_at), &end);
    }
    done.cast_signed()
}

const ESPIPE: i64 = -29;
