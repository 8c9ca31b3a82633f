//! The receiving half of a stream's end: what has come, what is consumed, and what the sender must
//! be told.

use crate::{Tell, Violation};

/// How the bytes ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// End of file: everything came.
    Finished,
    /// The sender broke off.
    Aborted,
}

/// The receiving half of one end.
#[derive(Clone, Debug)]
pub struct Receiving {
    window: u64,
    received: u64,
    consumed: u64,
    /// The offset that the sender knows to be consumed.
    told: u64,
    /// The sender waits for the consumption of this offset.
    sync: Option<u64>,
    ended: Option<Ended>,
    stopped: bool,
}

impl Receiving {
    /// Starts with this window; both ends must use the same.
    #[must_use]
    pub fn new(window: u64) -> Receiving {
        Receiving {
            window,
            received: 0,
            consumed: 0,
            told: 0,
            sync: None,
            ended: None,
            stopped: false,
        }
    }

    /// Takes bytes from the sender. Returns whether they are wanted; if not, they are to be dropped.
    ///
    /// # Errors
    /// The sender had no credit for them, or had ended.
    pub fn handle_data(&mut self, count: u64) -> Result<bool, Violation> {
        if self.ended.is_some() {
            return Err(Violation::AfterEnd);
        }
        let received = self.received.saturating_add(count);
        let limit = self.told.saturating_add(self.window);
        if received > limit {
            return Err(Violation::Window { excess: received - limit });
        }
        self.received = received;
        self.check_invariants();
        Ok(!self.stopped)
    }

    /// The sender waits until all that it sent is consumed.
    ///
    /// # Errors
    /// The sender had ended.
    pub fn handle_sync(&mut self) -> Result<Option<Tell>, Violation> {
        if self.ended.is_some() {
            return Err(Violation::AfterEnd);
        }
        self.sync = Some(self.received);
        Ok(self.report())
    }

    /// End of file.
    ///
    /// # Errors
    /// The sender had ended before.
    pub fn handle_finish(&mut self) -> Result<Option<Tell>, Violation> {
        self.end(Ended::Finished)?;
        self.sync = Some(self.received);
        Ok(self.report())
    }

    /// The sender broke off.
    ///
    /// # Errors
    /// The sender had ended before.
    pub fn handle_abort(&mut self) -> Result<(), Violation> {
        self.end(Ended::Aborted)
    }

    fn end(&mut self, ended: Ended) -> Result<(), Violation> {
        if self.ended.is_some() {
            return Err(Violation::AfterEnd);
        }
        self.ended = Some(ended);
        Ok(())
    }

    /// The reader has put this many bytes where they belong. More than was received counts as all.
    pub fn consume(&mut self, count: u64) -> Option<Tell> {
        self.consumed = self.consumed.saturating_add(count).min(self.received);
        self.check_invariants();
        self.report()
    }

    /// The reader leaves.
    pub fn stop(&mut self) -> Option<Tell> {
        if self.stopped {
            return None;
        }
        self.stopped = true;
        let all_consumed = self.ended == Some(Ended::Finished) && self.consumed == self.received;
        let needless = all_consumed || self.ended == Some(Ended::Aborted);
        (!needless).then_some(Tell::Stop)
    }

    /// How the bytes ended, once they have.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// Whether nothing that the sender may still send has a meaning, and nothing is owed to it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stopped || (self.ended.is_some() && self.consumed == self.received)
    }

    /// Credit goes back a quarter of the window at a time, or at once when the sender waits for it.
    fn report(&mut self) -> Option<Tell> {
        let awaited = self.sync.is_some_and(|offset| self.consumed >= offset);
        let due = self.consumed - self.told >= self.window.div_ceil(4);
        if awaited {
            self.sync = None;
        }
        if self.stopped || self.told == self.consumed || !(awaited || due) {
            return None;
        }
        self.told = self.consumed;
        Some(Tell::Consumed(self.consumed))
    }

    /// Asserts what holds between any two calls.
    pub fn check_invariants(&self) {
        assert!(self.told <= self.consumed, "told more than consumed");
        assert!(self.consumed <= self.received, "consumed more than received");
        assert!(self.received - self.told <= self.window, "beyond the window");
    }
}
