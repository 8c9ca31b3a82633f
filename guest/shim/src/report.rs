//! Last words and hints on standard error.

use crate::host;
use core::sync::atomic::{AtomicBool, Ordering};
use dunix_shim_core::proc_path::write_number;

/// Exit status of a process that the shim had to give up.
const STATUS_FATAL: i32 = 125;

/// Says on standard error what went wrong inside the shim and ends the process.
pub(crate) fn fatal(what: &str, detail: &str, number: u64) -> ! {
    line(what, detail, number);
    host::exit_group(STATUS_FATAL)
}

/// Set at boot if the environment has [`VERBOSE_VARIABLE`]; cleared by the first hint.
static WANTS_HINTS: AtomicBool = AtomicBool::new(false);
/// Asks for a word on standard error when a program needs what Dunix cannot do yet.
pub(crate) const VERBOSE_VARIABLE: &[u8] = b"DUNIX_SHIM_VERBOSE=";

pub(crate) fn want_hints() {
    WANTS_HINTS.store(true, Ordering::Relaxed);
}

/// Says once, to those who asked for it, that a call is not supported yet.
pub(crate) fn unsupported(call: &str) {
    if WANTS_HINTS.swap(false, Ordering::Relaxed) {
        line("not supported yet", call, 0);
    }
}

/// Writes `dunix-shim: what: detail number` to standard error, in one write.
pub(crate) fn line(what: &str, detail: &str, number: u64) {
    let mut text = [0u8; 256];
    let mut at = 0;
    for part in ["dunix-shim: ", what, ": ", detail, " "] {
        let room = text.len().saturating_sub(at + 24);
        let part = &part.as_bytes()[..part.len().min(room)];
        text[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    at += write_number(number, &mut text[at..]).unwrap_or(0);
    text[at] = b'\n';
    host::write_all(2, &text[..=at]);
}
