//! Which pages of a process hold bytes of their own: `PAGEMAP_SCAN` (Linux 6.7), or the words of
//! `/proc/PID/pagemap` where the kernel lacks it.
//!
//! A page counts if it is present or swapped out, belongs to no file and is not the kernel's page
//! of zeros. Invariant: both ways report the same, except that without `CAP_SYS_ADMIN` the words do
//! not tell the page of zeros, which then counts.

use crate::{Errno, Result, check};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

const PAGE_BYTES: usize = 4096;
const PAGE: u64 = PAGE_BYTES as u64;

/// Regions that one request of `PAGEMAP_SCAN` reports.
const REGIONS_PER_REQUEST: usize = 256;
/// Words that one read of `/proc/PID/pagemap` takes.
const WORDS_PER_READ: usize = 512;

/// How the kernel is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// `PAGEMAP_SCAN`.
    Request,
    /// The words of `/proc/PID/pagemap`.
    Words,
}

/// The page table of one process.
#[derive(Debug)]
pub struct PageScan {
    file: File,
    method: Method,
    /// The number of the kernel's page of zeros, for [`Method::Words`].
    zero_frame: Option<u64>,
}

/// Struct `pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct Argument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_max: u64,
    pages_max: u64,
    inverted: u64,
    all_of: u64,
    any_of: u64,
    reported: u64,
}

/// Struct `page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `PAGEMAP_SCAN`.
const SCAN: u64 = (3 << 30) | ((size_of::<Argument>() as u64) << 16) | ((b'f' as u64) << 8) | 16;
/// `PAGE_IS_FILE`, `_PRESENT`, `_SWAPPED`, `_PFNZERO`.
const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_ZERO_FRAME: u64 = 1 << 5;

/// Bits of a word of `/proc/PID/pagemap`.
const WORD_PRESENT: u64 = 1 << 63;
const WORD_SWAPPED: u64 = 1 << 62;
const WORD_FILE: u64 = 1 << 61;
const WORD_FRAME: u64 = (1 << 55) - 1;

impl PageScan {
    /// Opens the page table of a process; the kernel is asked in the best way that it knows.
    ///
    /// # Errors
    /// [`Errno::NOENT`] if there is no such process, [`Errno::ACCESS`] without the right to trace it.
    pub fn of(process: u32) -> Result<PageScan> {
        let scan = PageScan::with(process, Method::Request)?;
        match scan.request(0..PAGE, 1, &mut Vec::new()) {
            Err(Errno::NOTTY) => PageScan::with(process, Method::Words),
            // Whatever else is wrong shows when it is used.
            _ => Ok(scan),
        }
    }

    /// Opens the page table of a process, to be asked in one way.
    ///
    /// # Errors
    /// As [`PageScan::of`].
    pub fn with(process: u32, method: Method) -> Result<PageScan> {
        let file = File::open(format!("/proc/{process}/pagemap")).map_err(|e| errno(&e))?;
        let zero_frame = match method {
            Method::Request => None,
            Method::Words => zero_frame(),
        };
        Ok(PageScan { file, method, zero_frame })
    }

    /// Returns how the kernel is asked.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// Appends the runs of pages between two addresses that hold bytes of their own, ascending.
    pub fn own_pages(&self, range: Range<u64>, runs: &mut Vec<Range<u64>>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            at = self.step(at..range.end, u64::MAX, runs)?;
        }
        Ok(())
    }

    /// The first run of such pages between two addresses, of at most `pages_max` pages.
    pub fn first_run(&self, range: Range<u64>, pages_max: u64) -> Result<Option<Range<u64>>> {
        let (mut at, mut runs) = (range.start, Vec::new());
        while at < range.end && runs.is_empty() {
            at = self.step(at..range.end, pages_max, &mut runs)?;
        }
        let first = runs.into_iter().next();
        Ok(first.map(|run| run.start..run.end.min(run.start + pages_max * PAGE)))
    }

    /// Asks the kernel once, for at least one page; returns where the next has to start.
    fn step(&self, range: Range<u64>, pages: u64, runs: &mut Vec<Range<u64>>) -> Result<u64> {
        let next = match self.method {
            Method::Request => self.request(range.clone(), pages, runs)?,
            Method::Words => self.words(range.start, range.end, runs)?,
        };
        if next > range.start { Ok(next) } else { Err(Errno::IO) }
    }

    /// One request; returns where the next has to start.
    fn request(&self, range: Range<u64>, pages: u64, runs: &mut Vec<Range<u64>>) -> Result<u64> {
        let mut regions = [Region::default(); REGIONS_PER_REQUEST];
        let mut argument = Argument {
            size: size_of::<Argument>() as u64,
            start: range.start,
            end: range.end,
            // 0 is no limit.
            pages_max: if pages == u64::MAX { 0 } else { pages },
            regions: regions.as_mut_ptr() as u64,
            regions_max: REGIONS_PER_REQUEST as u64,
            inverted: IS_FILE | IS_ZERO_FRAME,
            all_of: IS_FILE | IS_ZERO_FRAME,
            any_of: IS_PRESENT | IS_SWAPPED,
            reported: IS_FILE,
            ..Argument::default()
        };
        // SAFETY: `argument` has the layout and size that SCAN encodes and names room for as many
        // regions as it says; both live through the call.
        let got = unsafe { libc::ioctl(self.file.as_raw_fd(), SCAN, &raw mut argument) };
        let count = usize::try_from(check(got.into())?).unwrap_or(0);
        for region in regions.iter().take(count) {
            push(runs, region.start, region.end);
        }
        Ok(argument.walk_end)
    }

    /// One read; returns where the next has to start.
    fn words(&self, start: u64, end: u64, runs: &mut Vec<Range<u64>>) -> Result<u64> {
        let pages = usize::try_from((end - start) / PAGE).unwrap_or(usize::MAX).min(WORDS_PER_READ);
        let mut bytes = [0_u8; 8 * WORDS_PER_READ];
        let wanted = &mut bytes[..8 * pages];
        let got = self.file.read_at(wanted, start / PAGE * 8).map_err(|e| errno(&e))?;
        if got == 0 {
            return Ok(end);
        }
        let mut at = start;
        for word in wanted[..got].as_chunks::<8>().0 {
            if self.is_own(u64::from_ne_bytes(*word)) {
                push(runs, at, at + PAGE);
            }
            at += PAGE;
        }
        Ok(at)
    }

    fn is_own(&self, word: u64) -> bool {
        let frame = word & WORD_FRAME;
        let is_zeros = word & WORD_PRESENT != 0 && frame != 0 && self.zero_frame == Some(frame);
        word & (WORD_PRESENT | WORD_SWAPPED) != 0 && word & WORD_FILE == 0 && !is_zeros
    }
}

/// Appends a run, or lengthens the last.
fn push(runs: &mut Vec<Range<u64>>, start: u64, end: u64) {
    match runs.last_mut() {
        Some(last) if last.end == start => last.end = end,
        _ => runs.push(start..end),
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// The number of the kernel's page of zeros: that of a page which was only read. `None` without the
/// right to see it.
fn zero_frame() -> Option<u64> {
    let bytes = PAGE_BYTES;
    // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
    let page =
        unsafe { mmap_anonymous(core::ptr::null_mut(), bytes, ProtFlags::READ, MapFlags::PRIVATE) };
    let page = page.ok()?;
    // SAFETY: the mapping is readable and one page long; the read must not be left out, as it is
    // what maps the page of zeros.
    let zero = unsafe { core::ptr::read_volatile(page.cast::<u8>()) };
    let mut word = [0; 8];
    let file = File::open("/proc/self/pagemap").ok();
    let got = file.and_then(|file| file.read_at(&mut word, page as u64 / PAGE * 8).ok());
    // SAFETY: the mapping is ours, and nothing refers to it any more.
    let _ = unsafe { munmap(page, bytes) };
    let frame = u64::from_ne_bytes(word) & WORD_FRAME;
    (zero == 0 && got == Some(word.len()) && frame != 0).then_some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mm::{Advice, madvise};

    /// Pages that are mapped here for a test and freed at its end.
    struct Pages(*mut u8, usize);

    impl Pages {
        fn new(pages: usize) -> Pages {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            let bytes = pages * PAGE_BYTES;
            // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
            let at =
                unsafe { mmap_anonymous(core::ptr::null_mut(), bytes, prot, MapFlags::PRIVATE) };
            let at = at.unwrap();
            // SAFETY: advice about the new mapping only: small pages, so that the test can count.
            unsafe { madvise(at, bytes, Advice::LinuxNoHugepage) }.unwrap();
            Pages(at.cast(), bytes)
        }

        fn start(&self) -> u64 {
            self.0 as u64
        }

        fn write(&self, page: usize) {
            // SAFETY: the tests name pages inside the mapping, which is writable.
            unsafe { self.0.add(page * PAGE_BYTES).write_volatile(1) };
        }

        fn read(&self, page: usize) {
            // SAFETY: as above.
            unsafe { self.0.add(page * PAGE_BYTES).read_volatile() };
        }

        fn runs(&self, method: Method) -> Vec<Range<u64>> {
            let scan = PageScan::with(std::process::id(), method).unwrap();
            let mut runs = Vec::new();
            scan.own_pages(self.start()..self.start() + self.1 as u64, &mut runs).unwrap();
            runs.iter().map(|r| self.page(r.start)..self.page(r.end)).collect()
        }

        fn page(&self, address: u64) -> u64 {
            (address - self.start()) / PAGE
        }
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            // SAFETY: the mapping is ours, and nothing refers to it any more.
            let _ = unsafe { munmap(self.0.cast(), self.1) };
        }
    }

    #[test]
    fn written_pages_are_found_in_both_ways() {
        let pages = Pages::new(5000);
        for page in [0, 1, 7, 511, 512, 513, 1500, 4999] {
            pages.write(page);
        }
        pages.read(3);
        pages.read(1501);
        let expected = [0..2, 7..8, 511..514, 1500..1501, 4999..5000];
        let words = pages.runs(Method::Words);
        assert_eq!(words, expected);
        if PageScan::of(std::process::id()).unwrap().method() == Method::Words {
            println!("skipped: the kernel lacks PAGEMAP_SCAN");
            return;
        }
        assert_eq!(pages.runs(Method::Request), words);
    }

    #[test]
    fn the_first_run_is_as_long_as_asked() {
        let pages = Pages::new(2000);
        (700..800).for_each(|page| pages.write(page));
        let end = pages.start() + pages.1 as u64;
        let best = PageScan::of(std::process::id()).unwrap().method();
        for method in [Method::Words, best] {
            let scan = PageScan::with(std::process::id(), method).unwrap();
            let first = |page: u64, max| {
                let run = scan.first_run(pages.start() + page * PAGE..end, max).unwrap();
                run.map(|run| pages.page(run.start)..pages.page(run.end))
            };
            assert_eq!(first(0, 16), Some(700..716), "{method:?}");
            assert_eq!(first(710, 1000), Some(710..800), "{method:?}");
            assert_eq!(first(800, 16), None, "{method:?}");
        }
    }

    #[test]
    fn more_runs_than_one_request_holds() {
        let pages = Pages::new(4000);
        (0..2000).for_each(|page| pages.write(2 * page));
        let expected: Vec<_> = (0..2000).map(|page| 2 * page..2 * page + 1).collect();
        assert_eq!(pages.runs(Method::Words), expected);
        if PageScan::of(std::process::id()).unwrap().method() == Method::Request {
            assert_eq!(pages.runs(Method::Request), expected);
        }
    }

    #[test]
    fn pages_of_files_do_not_count_until_written() {
        let file = File::open("/proc/self/exe").unwrap();
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let bytes = 4 * PAGE_BYTES;
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let at = unsafe {
            rustix::mm::mmap(core::ptr::null_mut(), bytes, prot, MapFlags::PRIVATE, &file, 0)
        };
        let pages = Pages(at.unwrap().cast(), bytes);
        pages.read(0);
        pages.read(1);
        pages.write(2);
        let expected = Some(2..3);
        assert!(pages.runs(Method::Words).iter().eq(&expected));
        if PageScan::of(std::process::id()).unwrap().method() == Method::Request {
            assert!(pages.runs(Method::Request).iter().eq(&expected));
        }
    }
}
