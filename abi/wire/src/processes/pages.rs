//! Pages of a process that has moved, on one stream per move.
//!
//! ```text
//! target (opens the stream)                      source (holds the frozen process)
//!   PagesHeader                          ----->
//!                                        <-----  Pages + bytes, Zeros: what it needs to run
//!                                        <-----  Staged
//!   Running                              ----->
//!   Want, as threads touch missing pages ----->
//!                                        <-----  Pages + bytes, Zeros: the rest, each page once
//!                                        <-----  end of file: all was sent
//!   end of file: all is in place         ----->
//! ```
//!
//! Frames are [`FRAME_BYTES`] bytes, in order: an address (a multiple of [`PAGE_BYTES`]) with the
//! kind in its low bits, then a number of pages, both little-endian.

use super::MoveId;
use crate::Malformed;
use core::ops::Range;
use serde::{Deserialize, Serialize};

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;
/// Bytes of an encoded [`PageFrame`].
pub const FRAME_BYTES: usize = 16;
/// Most pages that follow one frame, and what one fault asks for, aligned to itself.
pub const WINDOW_PAGES: u64 = 16;
/// Bytes of so many pages.
pub const WINDOW_BYTES: u64 = WINDOW_PAGES * PAGE_BYTES;
/// End of the addresses that a process can have.
pub const ADDRESS_END: u64 = 1 << 47;

/// First bytes of the stream, on [`Topic::Processes`](crate::Topic).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PagesHeader {
    pub id: MoveId,
}

/// What one end says to the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PageFrame {
    /// To the target: the bytes of these pages follow; 1 to [`WINDOW_PAGES`] pages.
    Pages(Range<u64>),
    /// To the target: the source has nothing there, they read as zeros.
    Zeros(Range<u64>),
    /// To the target: what must be there before the process runs has been sent.
    Staged,
    /// To the source: it runs, the rest may come.
    Running,
    /// To the source: somebody waits for one of these pages; 1 to [`WINDOW_PAGES`] pages.
    Want(Range<u64>),
}

const PAGES: u64 = 1;
const ZEROS: u64 = 2;
const WANT: u64 = 3;
const STAGED: u64 = 4;
const RUNNING: u64 = 5;

impl PageFrame {
    /// The bytes that travel.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_BYTES] {
        let (kind, range) = match self {
            PageFrame::Pages(range) => (PAGES, range),
            PageFrame::Zeros(range) => (ZEROS, range),
            PageFrame::Want(range) => (WANT, range),
            PageFrame::Staged => (STAGED, &(0..0)),
            PageFrame::Running => (RUNNING, &(0..0)),
        };
        let mut bytes = [0; FRAME_BYTES];
        let (address, pages) = bytes.split_at_mut(8);
        address.copy_from_slice(&(range.start | kind).to_le_bytes());
        pages.copy_from_slice(&((range.end - range.start) / PAGE_BYTES).to_le_bytes());
        bytes
    }

    /// Checks a peer's bytes.
    ///
    /// # Errors
    /// An unknown kind, no page, too many, or addresses that no process has.
    pub fn try_decode(bytes: &[u8; FRAME_BYTES]) -> Result<PageFrame, Malformed> {
        let word = |half: usize| {
            bytes.as_chunks::<8>().0.get(half).map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        let (start, kind) = (word(0) & !(PAGE_BYTES - 1), word(0) & (PAGE_BYTES - 1));
        let length = word(1).checked_mul(PAGE_BYTES).ok_or(Malformed)?;
        let end = start.checked_add(length).ok_or(Malformed)?;
        let is_range = length > 0 && end <= ADDRESS_END;
        let is_short = is_range && length <= WINDOW_BYTES;
        match kind {
            PAGES if is_short => Ok(PageFrame::Pages(start..end)),
            ZEROS if is_range => Ok(PageFrame::Zeros(start..end)),
            WANT if is_short => Ok(PageFrame::Want(start..end)),
            STAGED if end == 0 => Ok(PageFrame::Staged),
            RUNNING if end == 0 => Ok(PageFrame::Running),
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A peer's bytes are refused, or are what they would be encoded as.
        #[test]
        fn noise_is_refused_or_means_itself(
            address in prop_oneof![any::<u64>(), 0..ADDRESS_END, 0..16_u64],
            pages in prop_oneof![any::<u64>(), 0..20_u64],
            kind in 0..7_u64,
        ) {
            let mut bytes = [0; FRAME_BYTES];
            bytes[..8].copy_from_slice(&((address & !0xfff) | kind).to_le_bytes());
            bytes[8..].copy_from_slice(&pages.to_le_bytes());
            if let Ok(frame) = PageFrame::try_decode(&bytes) {
                prop_assert_eq!(frame.encode(), bytes);
                if let PageFrame::Pages(range) | PageFrame::Zeros(range) | PageFrame::Want(range) = frame {
                    prop_assert!(range.start < range.end && range.end <= ADDRESS_END);
                    prop_assert_eq!(range.end - range.start, pages * PAGE_BYTES);
                }
            }
        }

        #[test]
        fn frames_travel(start in 0..ADDRESS_END / PAGE_BYTES - 16, pages in 1..=WINDOW_PAGES) {
            let range = start * PAGE_BYTES..(start + pages) * PAGE_BYTES;
            for frame in
                [PageFrame::Pages(range.clone()), PageFrame::Zeros(range.clone()), PageFrame::Want(range)]
            {
                prop_assert_eq!(PageFrame::try_decode(&frame.encode()), Ok(frame));
            }
        }
    }

    #[test]
    fn words_travel() {
        for frame in [PageFrame::Staged, PageFrame::Running] {
            assert_eq!(PageFrame::try_decode(&frame.encode()), Ok(frame));
        }
    }

    #[test]
    fn limits_hold() {
        let long = 0..(WINDOW_PAGES + 1) * PAGE_BYTES;
        assert!(PageFrame::try_decode(&PageFrame::Zeros(long.clone()).encode()).is_ok());
        for refused in [
            PageFrame::Pages(long.clone()),
            PageFrame::Want(long),
            PageFrame::Zeros(0..0),
            PageFrame::Zeros(ADDRESS_END - PAGE_BYTES..ADDRESS_END + PAGE_BYTES),
        ] {
            assert_eq!(PageFrame::try_decode(&refused.encode()), Err(Malformed), "{refused:?}");
        }
    }
}
