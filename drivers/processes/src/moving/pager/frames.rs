//! Takes a stream's chunks apart into frames and their pages.
//!
//! The source sends each frame's pages as one chunk, which is then not copied here; but any cut is
//! understood.

use bytes::{Bytes, BytesMut};
use dunix_wire::Malformed;
use dunix_wire::processes::PageFrame;
use dunix_wire::processes::pages::FRAME_BYTES;
use std::ops::Range;

/// What a source sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Item {
    /// These bytes belong at this address of the source.
    Pages(u64, Bytes),
    /// The source has nothing there.
    Zeros(Range<u64>),
    /// What the process needs to run is complete.
    Staged,
}

/// The beginning of a frame whose rest has not come.
#[derive(Default, Debug)]
pub(crate) struct Frames {
    /// Bytes of an incomplete header, or of incomplete pages.
    carried: BytesMut,
    /// The pages that the carried and next bytes are.
    pages: Option<Range<u64>>,
}

impl Frames {
    /// Takes the next chunk and appends what is complete.
    ///
    /// # Errors
    /// The peer does not keep to the protocol.
    pub(crate) fn take(
        &mut self,
        mut chunk: Bytes,
        items: &mut Vec<Item>,
    ) -> Result<(), Malformed> {
        loop {
            let wanted = match &self.pages {
                Some(range) => usize::try_from(range.end - range.start).map_err(|_| Malformed)?,
                None => FRAME_BYTES,
            };
            let Some(whole) = self.complete(&mut chunk, wanted) else { return Ok(()) };
            match self.pages.take() {
                Some(range) => items.push(Item::Pages(range.start, whole)),
                None => self.begin(&whole, items)?,
            }
        }
    }

    /// Whether the stream may end here.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.carried.is_empty() && self.pages.is_none()
    }

    /// Bytes that wait for their frame's rest.
    pub(crate) fn carried(&self) -> usize {
        self.carried.len()
    }

    fn begin(&mut self, header: &Bytes, items: &mut Vec<Item>) -> Result<(), Malformed> {
        let header = header.as_ref().try_into().map_err(|_| Malformed)?;
        match PageFrame::try_decode(header)? {
            PageFrame::Pages(range) => self.pages = Some(range),
            PageFrame::Zeros(range) => items.push(Item::Zeros(range)),
            PageFrame::Staged => items.push(Item::Staged),
            PageFrame::Want(_) | PageFrame::Running => return Err(Malformed),
        }
        Ok(())
    }

    /// So many bytes, if they have all come; else they are carried.
    fn complete(&mut self, chunk: &mut Bytes, wanted: usize) -> Option<Bytes> {
        if self.carried.is_empty() && chunk.len() >= wanted {
            return Some(chunk.split_to(wanted));
        }
        let lacking = wanted - self.carried.len();
        let part = chunk.split_to(lacking.min(chunk.len()));
        self.carried.extend_from_slice(&part);
        (self.carried.len() == wanted).then(|| self.carried.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_items() {
        let mut stream = Vec::new();
        let pages = vec![7; 2 * 4096];
        stream.extend(PageFrame::Zeros(0..4096).encode());
        stream.extend(PageFrame::Pages(8192..16384).encode());
        stream.extend(&pages);
        stream.extend(PageFrame::Staged.encode());
        stream.extend(PageFrame::Pages(4096..8192).encode());
        stream.extend(&pages[..4096]);
        let expected = [
            Item::Zeros(0..4096),
            Item::Pages(8192, pages.clone().into()),
            Item::Staged,
            Item::Pages(4096, pages[..4096].to_vec().into()),
        ];
        for size in [1, 7, 16, 17, 4096, 5000, stream.len()] {
            let (mut frames, mut items) = (Frames::default(), Vec::new());
            for chunk in stream.chunks(size) {
                frames.take(Bytes::copy_from_slice(chunk), &mut items).unwrap();
            }
            assert!(frames.is_between_frames());
            assert_eq!(items, expected, "cut into {size}");
            frames.take(Bytes::from_static(&[1]), &mut items).unwrap();
            assert!(!frames.is_between_frames());
        }
    }

    #[test]
    fn a_source_asks_for_nothing() {
        let want = Bytes::copy_from_slice(&PageFrame::Want(0..4096).encode());
        assert_eq!(Frames::default().take(want, &mut Vec::new()), Err(Malformed));
    }
}
