//! The caller's terminal: whether the program gets one, its size, raw mode.
//!
//! Invariant: a terminal that was made raw is restored when the guard is dropped, when the program
//! panics, and on every signal that dunix handles. (No program can do so for SIGKILL.)

use crate::cli::When;
use dunix_admin_api::TerminalSize;
use rustix::{
    process::getpgrp,
    stdio::{stdin, stdout},
    termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr},
};
use std::sync::{Mutex, Once, PoisonError};

const SIZE_DEFAULT: TerminalSize = TerminalSize { rows: 24, cols: 80 };

/// What to restore; `None` while the terminal is as it was.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);
static PANIC_HOOK: Once = Once::new();

/// Whether the program gets a terminal. A background job does not: it may not touch the caller's.
pub(super) fn is_wanted(when: When) -> bool {
    match when {
        When::Always => true,
        When::Never => false,
        When::Auto => isatty(stdin()) && isatty(stdout()) && is_foreground(),
    }
}

/// Whether the caller's process group may read from the terminal.
pub(super) fn is_foreground() -> bool {
    tcgetpgrp(stdin()).is_ok_and(|group| group == getpgrp())
}

/// The size of the caller's terminal.
pub(super) fn size() -> TerminalSize {
    match tcgetwinsize(stdin()).or_else(|_| tcgetwinsize(stdout())) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
            TerminalSize { rows: size.ws_row, cols: size.ws_col }
        }
        _ => SIZE_DEFAULT,
    }
}

/// The terminal is raw while this lives.
pub(super) struct RawMode(());

impl RawMode {
    /// Makes the terminal raw; does nothing if standard input is no terminal.
    pub(super) fn enter() -> RawMode {
        if let Ok(before) = tcgetattr(stdin()) {
            PANIC_HOOK.call_once(restore_on_panic);
            let mut raw = before.clone();
            raw.make_raw();
            *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
            // A terminal that went away meanwhile needs no raw mode.
            let _ = tcsetattr(stdin(), OptionalActions::Drain, &raw);
        }
        RawMode(())
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Some(before) = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // Nothing is left to do if the terminal is gone.
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &before);
    }
}

fn restore_on_panic() {
    let next = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        next(panic);
    }));
}
