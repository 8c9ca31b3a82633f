//! The sending half of a stream's end: how much may go out, and what became of it.

use crate::{Tell, Violation};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Open,
    Finished,
    Aborted,
    ReaderGone,
}

/// Why nothing more can be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The reader left.
    ReaderGone,
    /// This half was finished or broken off before.
    Ended,
}

/// The sending half of one end.
#[derive(Clone, Debug)]
pub struct Sending {
    state: State,
    window: u64,
    sent: u64,
    consumed: u64,
    /// The offset that the receiver was last asked to report.
    synced: Option<u64>,
}

impl Sending {
    /// Starts with this many bytes of credit; both ends must use the same window.
    #[must_use]
    pub fn new(window: u64) -> Sending {
        Sending { state: State::Open, window, sent: 0, consumed: 0, synced: None }
    }

    /// Returns how many bytes may be sent now.
    ///
    /// # Errors
    /// Says why none ever will.
    pub fn credit(&self) -> Result<u64, Refusal> {
        match self.state {
            State::Open => Ok(self.window - (self.sent - self.consumed)),
            State::ReaderGone => Err(Refusal::ReaderGone),
            State::Finished | State::Aborted => Err(Refusal::Ended),
        }
    }

    /// Accounts for bytes to send.
    ///
    /// # Errors
    /// Says why nothing may be sent. Sending beyond the credit sends what fits; the count is in
    /// the [`Tell::Data`] returned, `None` if nothing fits.
    pub fn send(&mut self, count: u64) -> Result<Option<Tell>, Refusal> {
        let fits = count.min(self.credit()?);
        self.sent += fits;
        self.check_invariants();
        Ok((fits > 0).then_some(Tell::Data(fits)))
    }

    /// Ends the direction in order.
    pub fn finish(&mut self) -> Option<Tell> {
        if self.state != State::Open {
            return None;
        }
        self.state = State::Finished;
        self.synced = Some(self.sent);
        Some(Tell::Finish)
    }

    /// Breaks the direction off; does nothing after [`Sending::finish`].
    pub fn abort(&mut self) -> Option<Tell> {
        if self.state != State::Open {
            return None;
        }
        self.state = State::Aborted;
        Some(Tell::Abort)
    }

    /// Whether everything sent is consumed.
    ///
    /// # Errors
    /// The rest never will be.
    pub fn drained(&self) -> Result<bool, Refusal> {
        match self.state {
            _ if self.consumed == self.sent => Ok(true),
            State::Open | State::Finished => Ok(false),
            State::ReaderGone => Err(Refusal::ReaderGone),
            State::Aborted => Err(Refusal::Ended),
        }
    }

    /// Makes the receiver report as soon as it has consumed everything sent so far.
    pub fn ask_drained(&mut self) -> Option<Tell> {
        let useful = self.state == State::Open && self.consumed < self.sent;
        if !useful || self.synced == Some(self.sent) {
            return None;
        }
        self.synced = Some(self.sent);
        Some(Tell::Sync)
    }

    /// Takes the peer's report.
    ///
    /// # Errors
    /// The peer reports what it cannot know.
    pub fn handle_consumed(&mut self, offset: u64) -> Result<(), Violation> {
        if offset > self.sent || offset < self.consumed {
            return Err(Violation::Offset { offset, sent: self.sent });
        }
        self.consumed = offset;
        self.check_invariants();
        Ok(())
    }

    /// The far reader is gone; nothing more is owed to it.
    pub fn handle_stop(&mut self) {
        if self.state != State::Aborted {
            self.state = State::ReaderGone;
        }
    }

    /// Whether no report of the peer can change anything any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        match self.state {
            State::Open => false,
            State::Finished => self.consumed == self.sent,
            State::Aborted | State::ReaderGone => true,
        }
    }

    /// Asserts what holds between any two calls.
    pub fn check_invariants(&self) {
        assert!(self.consumed <= self.sent, "more consumed than sent");
        assert!(self.sent - self.consumed <= self.window, "beyond the window");
        assert!(self.synced.is_none_or(|offset| offset <= self.sent), "asked for the future");
    }
}
