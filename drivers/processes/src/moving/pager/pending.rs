//! Which pages of an address space have not come yet, and where at the source they are.
//!
//! Pure: ranges in, ranges out. A *place* is an address in the process here, a *source* one in the
//! process that it was. They are the same until mremap(2) moves pages that have not come.
//!
//! Invariants: places do not overlap, sources do not overlap; both maps say the same; neighbours
//! that continue one another are one run.

use std::collections::BTreeMap;
use std::ops::Range;

/// Pages of one address space that are still at the source.
#[derive(Clone, Default, Debug)]
pub(crate) struct Pending {
    /// Start of a run here: its end, and where it starts at the source.
    places: BTreeMap<u64, Run>,
    /// Start of a run at the source: its end, and where it starts here.
    sources: BTreeMap<u64, Run>,
    bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    end: u64,
    other: u64,
}

/// A run of pages, at both ends of the move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// First address here.
    pub(crate) place: u64,
    /// First address at the source.
    pub(crate) source: u64,
    pub(crate) bytes: u64,
}

impl Piece {
    pub(crate) fn places(&self) -> Range<u64> {
        self.place..self.place + self.bytes
    }
}

impl Pending {
    /// Whether everything has come or is not wanted any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes that have not come.
    #[cfg(test)]
    fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds pages that are at the same address at the source; what was there before is forgotten.
    pub(crate) fn add(&mut self, range: Range<u64>) {
        self.insert(Piece { place: range.start, source: range.start, bytes: span(&range) });
    }

    /// The first run here.
    pub(crate) fn first(&self) -> Option<Range<u64>> {
        self.places.first_key_value().map(|(&start, run)| start..run.end)
    }

    /// Where at the source the page of an address is, if it has not come.
    pub(crate) fn source_of(&self, address: u64) -> Option<u64> {
        let (start, run) = self.places.range(..=address).next_back()?;
        (address < run.end).then(|| run.other + (address - start))
    }

    /// The parts of a range at the source that have not come.
    pub(crate) fn pieces_of(&self, source: Range<u64>) -> Vec<Piece> {
        let pieces = overlapping(&self.sources, &source);
        pieces.map(|(at, place, bytes)| Piece { place, source: at, bytes }).collect()
    }

    /// Forgets a range here: it has come, was given back or is mapped no more.
    pub(crate) fn forget(&mut self, range: Range<u64>) {
        let gone: Vec<Piece> = overlapping(&self.places, &range)
            .map(|(at, source, bytes)| Piece { place: at, source, bytes })
            .collect();
        for piece in gone {
            cut(&mut self.places, piece.place, piece.bytes);
            cut(&mut self.sources, piece.source, piece.bytes);
            self.bytes -= piece.bytes;
        }
    }

    /// Pages were moved here; what was at the new place is gone.
    pub(crate) fn remap(&mut self, from: u64, to: u64, bytes: u64) {
        let (Some(from_end), Some(to_end)) = (from.checked_add(bytes), to.checked_add(bytes))
        else {
            return;
        };
        let moved: Vec<Piece> = overlapping(&self.places, &(from..from_end))
            .map(|(at, source, bytes)| Piece { place: at - from + to, source, bytes })
            .collect();
        self.forget(from..from_end);
        self.forget(to..to_end);
        for piece in moved {
            self.insert(piece);
        }
    }

    fn insert(&mut self, piece: Piece) {
        let Piece { place, source, bytes } = piece;
        if bytes == 0 {
            return;
        }
        self.forget(piece.places());
        for stale in self.pieces_of(source..source + bytes) {
            self.forget(stale.places());
        }
        join(&mut self.places, place, bytes, source);
        join(&mut self.sources, source, bytes, place);
        self.bytes += bytes;
    }

    /// Panics if the invariants do not hold.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        for map in [&self.places, &self.sources] {
            let mut last: Option<(u64, Run)> = None;
            for (&start, &run) in map {
                assert!(start < run.end, "an empty run");
                if let Some((before, last)) = last {
                    assert!(last.end <= start, "runs overlap");
                    let continues =
                        last.end == start && last.other + (last.end - before) == run.other;
                    assert!(!continues, "neighbours are not joined");
                }
                last = Some((start, run));
            }
        }
        let turned: BTreeMap<u64, Run> = self
            .places
            .iter()
            .map(|(&place, run)| {
                (run.other, Run { end: run.other + (run.end - place), other: place })
            })
            .collect();
        assert_eq!(turned, self.sources, "the two maps differ");
        let bytes: u64 = self.places.iter().map(|(start, run)| run.end - start).sum();
        assert_eq!(bytes, self.bytes);
    }
}

fn span(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// The parts of a range that a map has, as (start, the other side's start, bytes).
fn overlapping<'a>(
    map: &'a BTreeMap<u64, Run>,
    range: &Range<u64>,
) -> impl Iterator<Item = (u64, u64, u64)> + use<'a> {
    let Range { start, end } = *range;
    let before = map.range(..start).next_back();
    let inside = map.range(start..end.max(start));
    before.into_iter().chain(inside).filter_map(move |(&at, run)| {
        let (first, last) = (at.max(start), run.end.min(end));
        (first < last).then(|| (first, run.other + (first - at), last - first))
    })
}

/// Takes a range out of the run that holds all of it.
fn cut(map: &mut BTreeMap<u64, Run>, start: u64, bytes: u64) {
    let Some((&at, &run)) = map.range(..=start).next_back() else { return };
    map.remove(&at);
    if at < start {
        map.insert(at, Run { end: start, other: run.other });
    }
    let end = start + bytes;
    if end < run.end {
        map.insert(end, Run { end: run.end, other: run.other + (end - at) });
    }
}

/// Adds a run where there is none, joined with neighbours that it continues.
fn join(map: &mut BTreeMap<u64, Run>, start: u64, bytes: u64, other: u64) {
    let (mut start, mut end, mut other) = (start, start + bytes, other);
    if let Some((&at, &run)) = map.range(..start).next_back()
        && run.end == start
        && run.other + (start - at) == other
    {
        map.remove(&at);
        (start, other) = (at, run.other);
    }
    if let Some(&run) = map.get(&end)
        && run.other == other + (end - start)
    {
        map.remove(&end);
        end = run.end;
    }
    map.insert(start, Run { end, other });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: u64 = 4096;
    /// Pages that the model's address space has.
    const PAGES: u64 = 64;

    /// What the kernel would do, page by page: for each place the source that is pending there.
    type Model = Vec<Option<u64>>;

    #[derive(Clone, Debug)]
    enum Step {
        Add(u64, u64),
        Forget(u64, u64),
        Remap(u64, u64, u64),
        Deliver(u64, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let run = || (0..PAGES, 1..PAGES / 3).prop_map(|(at, n)| (at, n.min(PAGES - at)));
        let step = prop_oneof![
            3 => run().prop_map(|(at, n)| Step::Forget(at, n)),
            2 => run().prop_map(|(at, n)| Step::Deliver(at, n)),
            1 => run().prop_map(|(at, n)| Step::Add(at, n)),
            // mremap refuses overlapping ranges.
            4 => (run(), 0..PAGES).prop_filter_map("overlap", |((from, n), to)| {
                let fits = to + n <= PAGES && (to + n <= from || from + n <= to);
                fits.then_some(Step::Remap(from, to, n))
            }),
        ];
        proptest::collection::vec(step, 0..40)
    }

    fn index(number: u64) -> usize {
        usize::try_from(number).unwrap()
    }

    fn apply(pending: &mut Pending, model: &mut Model, step: &Step) {
        let pages = |at: u64, n: u64| index(at)..index(at + n);
        match *step {
            Step::Add(at, n) => {
                // The source's pages are there once.
                model.iter_mut().for_each(|slot| {
                    *slot = slot.filter(|source| !(at..at + n).contains(source));
                });
                for page in at..at + n {
                    model[index(page)] = Some(page);
                }
                pending.add(at * PAGE..(at + n) * PAGE);
            }
            Step::Forget(at, n) => {
                model[pages(at, n)].fill(None);
                pending.forget(at * PAGE..(at + n) * PAGE);
            }
            Step::Remap(from, to, n) => {
                let moved = model[pages(from, n)].to_vec();
                model[pages(from, n)].fill(None);
                model[pages(to, n)].copy_from_slice(&moved);
                pending.remap(from * PAGE, to * PAGE, n * PAGE);
            }
            Step::Deliver(source, n) => {
                for piece in pending.pieces_of(source * PAGE..(source + n) * PAGE) {
                    for offset in (0..piece.bytes).step_by(index(PAGE)) {
                        let place = index((piece.place + offset) / PAGE);
                        assert_eq!(model[place], Some((piece.source + offset) / PAGE));
                    }
                    pending.forget(piece.places());
                }
                model.iter_mut().for_each(|slot| {
                    *slot = slot.filter(|page| !(source..source + n).contains(page));
                });
            }
        }
    }

    fn compare(pending: &Pending, model: &Model) {
        pending.check_invariants();
        for (place, expected) in (0..).zip(model) {
            let found = pending.source_of(place * PAGE + 7).map(|source| source / PAGE);
            assert_eq!(found, *expected, "page {place}");
        }
        let count = model.iter().flatten().count() as u64;
        assert_eq!(pending.bytes(), count * PAGE);
        assert_eq!(pending.is_empty(), count == 0);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_page_by_page_model(steps in steps()) {
            let (mut pending, mut model) = (Pending::default(), vec![None; index(PAGES)]);
            apply(&mut pending, &mut model, &Step::Add(0, PAGES));
            for step in &steps {
                apply(&mut pending, &mut model, step);
                compare(&pending, &model);
            }
        }

        /// A fork's child has what its parent had, and goes its own way.
        #[test]
        fn a_childs_pages_are_its_own(before in steps(), parent in steps(), child in steps()) {
            let (mut pending, mut model) = (Pending::default(), vec![None; index(PAGES)]);
            apply(&mut pending, &mut model, &Step::Add(0, PAGES));
            before.iter().for_each(|step| apply(&mut pending, &mut model, step));
            let (mut theirs, mut their_model) = (pending.clone(), model.clone());
            parent.iter().for_each(|step| apply(&mut pending, &mut model, step));
            child.iter().for_each(|step| apply(&mut theirs, &mut their_model, step));
            compare(&pending, &model);
            compare(&theirs, &their_model);
        }

        /// Every source page is asked for at one place at most, so one delivery settles it.
        #[test]
        fn delivering_everything_leaves_nothing(steps in steps()) {
            let (mut pending, mut model) = (Pending::default(), vec![None; index(PAGES)]);
            apply(&mut pending, &mut model, &Step::Add(0, PAGES));
            steps.iter().for_each(|step| apply(&mut pending, &mut model, step));
            apply(&mut pending, &mut model, &Step::Deliver(0, PAGES));
            prop_assert!(pending.is_empty());
        }
    }

    #[test]
    fn wild_ranges_do_nothing() {
        let mut pending = Pending::default();
        pending.add(PAGE..3 * PAGE);
        pending.remap(u64::MAX - PAGE, 0, 2 * PAGE);
        #[expect(clippy::reversed_empty_ranges, reason = "that is the point")]
        pending.forget(2 * PAGE..PAGE);
        assert_eq!(pending.bytes(), 2 * PAGE);
        assert_eq!(pending.source_of(0), None);
        assert_eq!(pending.source_of(3 * PAGE), None);
    }
}
