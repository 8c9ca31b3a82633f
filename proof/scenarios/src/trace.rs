//! What a run did: a hash over all of it, and the last of it in words, which a failure prints.
//!
//! A failed check may end the program at once (`panic = "abort"`), so the words are kept where a panic's hook
//! finds them. `DUNIX_WATCH=text` prints what contains the text as it happens.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt::{Debug, Write},
    sync::Once,
    time::Duration,
};

/// Events that a failure prints.
const RECENT_MAX: usize = 40;

thread_local! {
    static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
}

/// What a failure on this thread prints.
struct Last {
    repeat: String,
    step: u64,
    recent: VecDeque<String>,
}

/// The trace of one run; one at a time on a thread.
pub struct Trace {
    hash: u64,
    text: String,
    watched: Option<String>,
}

impl Trace {
    /// Begins one. `repeat` is the command that repeats the run, for people.
    #[must_use]
    pub fn new(repeat: String) -> Trace {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                before(panic);
                print_last();
            }));
        });
        LAST.set(Some(Last { repeat, step: 0, recent: VecDeque::new() }));
        // The offset basis of FNV-1a.
        let hash = 0xcbf2_9ce4_8422_2325;
        Trace { hash, text: String::new(), watched: std::env::var("DUNIX_WATCH").ok() }
    }

    /// Notes what happens at a time; returns it in words.
    pub fn note(&mut self, at: Duration, what: &impl Debug) -> &str {
        self.note_quietly(at, what);
        self.remember(at);
        &self.text
    }

    /// The same for what happens all the time: a failure does not print it.
    pub fn note_quietly(&mut self, at: Duration, what: &impl Debug) -> &str {
        self.text.clear();
        let _ = write!(self.text, "{what:?}");
        for byte in self.text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.watched.as_ref().is_some_and(|word| self.text.contains(word)) {
            eprintln!("{at:?} {}", self.text);
        }
        &self.text
    }

    fn remember(&self, at: Duration) {
        LAST.with_borrow_mut(|last| {
            let Some(last) = last else { return };
            let is_full = last.recent.len() == RECENT_MAX;
            let oldest = if is_full { last.recent.pop_front() } else { None };
            let mut line = oldest.unwrap_or_default();
            line.clear();
            let _ = write!(line, "{at:?} {}", self.text);
            last.recent.push_back(line);
        });
    }

    /// Notes that another step begins.
    pub fn begin_step(&mut self, step: u64) {
        LAST.with_borrow_mut(|last| {
            if let Some(last) = last {
                last.step = step;
            }
        });
    }

    /// The hash of all that was noted so far (FNV-1a).
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        LAST.set(None);
    }
}

fn print_last() {
    LAST.with_borrow(|last| {
        let Some(last) = last else { return };
        eprintln!("the last events:");
        last.recent.iter().for_each(|line| eprintln!("  {line}"));
        eprintln!("failed in step {}; again: {}", last.step, last.repeat);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(words: &[&str]) -> u64 {
        let mut trace = Trace::new(String::new());
        for word in words {
            trace.note(Duration::ZERO, word);
        }
        trace.hash()
    }

    #[test]
    fn the_hash_is_of_what_happened_in_its_order() {
        assert_eq!(hash(&["a", "b"]), hash(&["a", "b"]));
        assert_ne!(hash(&["a", "b"]), hash(&["b", "a"]));
    }

    #[test]
    fn the_last_events_are_kept() {
        let mut trace = Trace::new("again".to_owned());
        for number in 0..100 {
            trace.note(Duration::ZERO, &number);
        }
        LAST.with_borrow(|last| {
            let recent = &last.as_ref().expect("a run").recent;
            assert_eq!((recent.len(), recent[0].as_str()), (RECENT_MAX, "0ns 60"));
        });
    }
}
