//! The thread of one move's pages: answers faults, follows the changes of every address space that
//! lacks pages, places what comes.
//!
//! The kernel keeps a thread that forks or changes its mappings waiting until its event is read here,
//! and refuses pages (`EAGAIN`) until that thread has run on. So in what is read at once, events come
//! before faults, and whatever is refused is judged anew after the next events.

use super::frames::Item;
use super::pending::Pending;
use super::shared::{PagingEnd, Shared};
use super::space::{Done, Space};
use super::{Lost, SPACES_MAX};
use bytes::Bytes;
use dunix_ids::NodeId;
use dunix_linux::Errno;
use dunix_linux::userfault::{Event, Userfault};
use dunix_transport::StreamEnd;
use dunix_wire::processes::pages::WINDOW_BYTES;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a refused page waits before it is tried again, nanoseconds: about what a thread needs to
/// wake up.
const RETRY_NANOS: i64 = 30_000;
/// Longest time that pages may be refused without a pause; a thread that is on its way through the
/// kernel gets a processor much sooner.
const REFUSED_MAX: Duration = Duration::from_secs(30);
/// Refused pages and faults beyond which nothing new is taken from the inbox.
const REFUSED_ENTRIES_MAX: usize = 64;
/// Bytes placed before the stream is told so; it gives credit back in larger parts.
const PLACED_STEP: usize = 128 << 10;

/// The thread's state.
pub(super) struct Pager {
    shared: Arc<Shared>,
    source: NodeId,
    spaces: BTreeMap<u64, Space>,
    next_space: u64,
    refused: VecDeque<Refused>,
    refused_since: Option<Instant>,
    /// Windows at the source that were asked for; each is asked for once.
    wanted: BTreeSet<u64>,
    started: Instant,
}

/// What the kernel did not take because an event was under way.
enum Refused {
    Fault { space: u64, address: u64, is_write: bool },
    Pages { space: u64, source: u64, bytes: Bytes },
}

impl Pager {
    pub(super) fn new(
        shared: Arc<Shared>,
        source: NodeId,
        fault: Userfault,
        pending: Pending,
    ) -> Pager {
        let first = Space::new(fault, pending);
        Pager {
            shared,
            source,
            spaces: BTreeMap::from([(0, first)]),
            next_space: 1,
            refused: VecDeque::new(),
            refused_since: None,
            wanted: BTreeSet::new(),
            started: Instant::now(),
        }
    }

    /// Runs to the end. `kill` ends every process that lacks pages; it is called, if it is, before
    /// their memory is let go.
    pub(super) fn run(mut self, kill: impl FnOnce(&Lost)) {
        let end = loop {
            match self.turn() {
                Ok(false) => {}
                Ok(true) => break PagingEnd::Complete,
                Err(lost) => break PagingEnd::Lost(lost),
            }
        };
        self.shared.lock().figures.last_page = Some(self.started.elapsed());
        // Seen by children that are forked right now, before those that are known are killed.
        self.shared.end.send_replace(Some(end.clone()));
        if let PagingEnd::Lost(lost) = &end {
            kill(lost);
        }
        self.spaces.clear();
        self.shared.to_source.notify_one();
        self.shared.placed.notify_one();
    }

    /// Waits for something and deals with it; true if nothing lacks any more.
    fn turn(&mut self) -> Result<bool, Lost> {
        for space in self.wait()? {
            self.read_events(space)?;
        }
        self.retry()?;
        self.take_inbox()?;
        self.spaces.retain(|_, space| !space.pending.is_empty());
        let is_complete = self.spaces.is_empty();
        if !is_complete && self.refused.is_empty() {
            self.check_source()?;
        }
        Ok(is_complete)
    }

    /// Waits until a space or the inbox has something; the spaces that have.
    fn wait(&self) -> Result<Vec<u64>, Lost> {
        let mut polled = vec![PollFd::from_borrowed_fd(self.shared.bell(), PollFlags::IN)];
        polled.extend(self.spaces.values().map(|s| PollFd::new(&s.fault, PollFlags::IN)));
        let retry = Timespec { tv_sec: 0, tv_nsec: RETRY_NANOS };
        let timeout = (!self.refused.is_empty()).then_some(&retry);
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Lost::Host(error)),
        }
        let ready = self.spaces.keys().zip(&polled[1..]);
        Ok(ready.filter(|(_, fd)| !fd.revents().is_empty()).map(|(&space, _)| space).collect())
    }

    /// Takes all that a space has to tell.
    fn read_events(&mut self, id: u64) -> Result<(), Lost> {
        let mut events = Vec::new();
        match self.spaces.get(&id).map(|space| space.fault.read(&mut events)) {
            // Out of descriptors: the event stays; a space that is let go makes room.
            Some(Ok(()) | Err(Errno::AGAIN | Errno::INTR | Errno::MFILE)) | None => {}
            Some(Err(error)) => return Err(Lost::Host(error)),
        }
        let (faults, changes): (Vec<Event>, Vec<Event>) =
            events.into_iter().partition(|event| matches!(event, Event::Fault { .. }));
        let arrived: Vec<Range<u64>> = changes.iter().filter_map(new_place).collect();
        for change in changes {
            self.follow(id, change, &arrived)?;
        }
        for fault in faults {
            if let Event::Fault { address, is_write } = fault {
                self.answer(id, address, is_write)?;
            }
        }
        Ok(())
    }

    /// Follows a change of a space's mappings. `arrived`: see [`Space::unmap`].
    fn follow(&mut self, id: u64, change: Event, arrived: &[Range<u64>]) -> Result<(), Lost> {
        let Some(space) = self.spaces.get_mut(&id) else { return Ok(()) };
        match change {
            Event::Remap { from, to, bytes } => space.move_pages(from, to, bytes),
            Event::Remove { start, end } => space.forget(start, end),
            Event::Unmap { start, end } => space.unmap(start, end, arrived),
            Event::Fork(fault) => {
                let pending = space.pending.clone();
                return self.add_child(id, fault, pending);
            }
            Event::Fault { .. } => {}
        }
        Ok(())
    }

    /// A child lacks what its parent lacks, and is owed the same pages.
    fn add_child(&mut self, parent: u64, fault: Userfault, pending: Pending) -> Result<(), Lost> {
        let child = self.next_space;
        self.next_space += 1;
        self.spaces.insert(child, Space::new(fault, pending));
        if self.spaces.len() > SPACES_MAX {
            return Err(Lost::TooManySpaces);
        }
        let owed: Vec<Refused> = self
            .refused
            .iter()
            .filter_map(|refused| match refused {
                Refused::Pages { space, source, bytes } if *space == parent => {
                    Some(Refused::Pages { space: child, source: *source, bytes: bytes.clone() })
                }
                _ => None,
            })
            .collect();
        self.refused.extend(owed);
        self.shared.lock().figures.forks += 1;
        Ok(())
    }

    /// A thread waits for a page.
    fn answer(&mut self, id: u64, address: u64, is_write: bool) -> Result<(), Lost> {
        let Some(space) = self.spaces.get(&id) else { return Ok(()) };
        if let Some(source) = space.pending.source_of(address) {
            self.shared.lock().figures.faults += 1;
            self.want(source);
            return Ok(());
        }
        match space.give_zeros(address, is_write)? {
            Done::Yes => self.shared.lock().figures.zero_faults += 1,
            Done::Refused => {
                self.refused.push_back(Refused::Fault { space: id, address, is_write })
            }
            Done::SpaceGone => drop(self.spaces.remove(&id)),
        }
        Ok(())
    }

    fn want(&mut self, source: u64) {
        let window = source - source % WINDOW_BYTES;
        if self.wanted.insert(window) {
            self.shared.lock().wants.push_back(window..window + WINDOW_BYTES);
            self.shared.to_source.notify_one();
        }
    }

    /// Tries again what the kernel refused.
    fn retry(&mut self) -> Result<(), Lost> {
        let before = self.refused.len();
        for refused in std::mem::take(&mut self.refused) {
            match refused {
                Refused::Fault { space, address, is_write } => {
                    self.answer(space, address, is_write)?;
                }
                Refused::Pages { space, source, bytes } => self.place(space, source, bytes)?,
            }
        }
        if self.refused.len() < before || before == 0 {
            self.refused_since = None;
        }
        match self.refused_since {
            Some(since) if since.elapsed() > REFUSED_MAX => Err(Lost::Restless),
            Some(_) => Ok(()),
            None => {
                self.refused_since = (!self.refused.is_empty()).then(Instant::now);
                Ok(())
            }
        }
    }

    /// Takes what the source has sent.
    fn take_inbox(&mut self) -> Result<(), Lost> {
        self.shared.quieten();
        while self.refused.len() < REFUSED_ENTRIES_MAX {
            let item = self.shared.lock().inbox.pop_front();
            let Some(item) = item else { return Ok(()) };
            let bytes = match item {
                Item::Pages(source, bytes) => {
                    let count = bytes.len();
                    self.arrived(source, bytes)?;
                    count
                }
                Item::Zeros(range) => {
                    self.nothing_at(range);
                    0
                }
                Item::Staged => return Err(Lost::SourceFailed(self.source)),
            };
            self.account(bytes);
        }
        Ok(())
    }

    fn account(&self, bytes: usize) {
        let mut inner = self.shared.lock();
        inner.figures.bytes += bytes as u64;
        inner.unplaced_bytes -= bytes;
        inner.untold_bytes += bytes;
        let is_due = inner.untold_bytes >= PLACED_STEP || inner.inbox.is_empty();
        if is_due && inner.untold_bytes > 0 {
            inner.untold_bytes = 0;
            self.shared.placed.notify_one();
        }
    }

    /// The source has ended the stream: with everything here, or never to be.
    fn check_source(&self) -> Result<(), Lost> {
        let inner = self.shared.lock();
        match inner.source_end {
            _ if !inner.inbox.is_empty() => Ok(()),
            None => Ok(()),
            Some(StreamEnd::Broken) => Err(Lost::SourceDied(self.source)),
            Some(StreamEnd::Finished | StreamEnd::Aborted) => Err(Lost::SourceFailed(self.source)),
        }
    }

    /// Pages have come: every space gets them that lacks them.
    fn arrived(&mut self, source: u64, bytes: Bytes) -> Result<(), Lost> {
        let ids: Vec<u64> = self.spaces.keys().copied().collect();
        ids.into_iter().try_for_each(|id| self.place(id, source, bytes.clone()))
    }

    fn place(&mut self, id: u64, source: u64, bytes: Bytes) -> Result<(), Lost> {
        let Some(space) = self.spaces.get_mut(&id) else { return Ok(()) };
        match space.place(source, &bytes)? {
            Done::Yes => {}
            Done::Refused => self.refused.push_back(Refused::Pages { space: id, source, bytes }),
            Done::SpaceGone => drop(self.spaces.remove(&id)),
        }
        Ok(())
    }

    /// The source has nothing there: who waits for it looks again and is given zeros.
    fn nothing_at(&mut self, range: Range<u64>) {
        for space in self.spaces.values_mut() {
            for piece in space.pending.pieces_of(range.clone()) {
                space.pending.forget(piece.places());
                space.look_again(piece.place, piece.bytes);
            }
        }
    }
}

fn new_place(change: &Event) -> Option<Range<u64>> {
    match change {
        Event::Remap { to, bytes, .. } => Some(*to..to.saturating_add(*bytes)),
        _ => None,
    }
}
