//! The parts of an ELF file that a loader believes, each checked first (ELF-64 Object File Format; elf(5)).
//!
//! Refuses: other classes, byte orders and machines (`ENOEXEC`), more than [`SEGMENTS_MAX`]
//! program headers, segments that wrap, are unaligned or reach into the reserved range.

use crate::Errno;
use dunix_guest_abi::layout;

/// Bytes of the ELF header.
pub const HEADER_BYTES: usize = 64;
/// Bytes of one program header.
pub const PROGRAM_HEADER_BYTES: usize = 56;
/// Most program headers of a program (Linux allows one page or 64 KiB worth; real programs have < 20).
pub const SEGMENTS_MAX: usize = 64;
/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// End of the user half of the address space.
pub const USER_END: u64 = 0x7fff_ffff_f000;

/// `p_type`: mapped memory.
pub const PT_LOAD: u32 = 1;
/// `p_type`: path of the program interpreter.
pub const PT_INTERP: u32 = 3;
/// `p_type`: the program headers themselves.
pub const PT_PHDR: u32 = 6;
/// `p_type`: whether the stack is executable.
pub const PT_GNU_STACK: u32 = 0x6474_e551;
/// `p_flags`: executable.
pub const PF_X: u32 = 1;
/// `p_flags`: writable.
pub const PF_W: u32 = 2;
/// `p_flags`: readable.
pub const PF_R: u32 = 4;

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;

/// What the ELF header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The file may lie at any address.
    pub is_relocatable: bool,
    /// First instruction, relative to the load bias.
    pub entry: u64,
    /// Where the program headers are in the file.
    pub segments_offset: u64,
    /// How many there are.
    pub segments: usize,
}

/// One program header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// `PT_*`.
    pub kind: u32,
    /// `PF_*` bits.
    pub flags: u32,
    /// Where it begins in the file.
    pub offset: u64,
    /// Where it begins in memory, relative to the load bias.
    pub address: u64,
    /// Bytes in the file.
    pub bytes_file: u64,
    /// Bytes in memory.
    pub bytes_memory: u64,
    /// Alignment.
    pub align: u64,
}

/// The address range of all loaded segments, page-aligned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// First page.
    pub start: u64,
    /// End of the last page.
    pub end: u64,
    /// Greatest alignment that a segment asks for.
    pub align: u64,
}

fn word16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn word64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Reads the ELF header at the start of a file.
///
/// # Errors
/// `ENOEXEC` for everything that is not a 64-bit little-endian x86-64 program.
pub fn header(head: &[u8]) -> Result<Header, Errno> {
    try_header(head).ok_or(Errno::ENOEXEC)
}

fn try_header(head: &[u8]) -> Option<Header> {
    if !head.starts_with(b"\x7fELF\x02\x01\x01") || word16(head, 18)? != EM_X86_64 {
        return None;
    }
    let kind = word16(head, 16)?;
    let segments = usize::from(word16(head, 56)?);
    let entry_bytes = usize::from(word16(head, 54)?);
    if !(kind == ET_EXEC || kind == ET_DYN)
        || entry_bytes != PROGRAM_HEADER_BYTES
        || !(1..=SEGMENTS_MAX).contains(&segments)
    {
        return None;
    }
    Some(Header {
        is_relocatable: kind == ET_DYN,
        entry: word64(head, 24)?,
        segments_offset: word64(head, 32)?,
        segments,
    })
}

/// Reads one program header; `None` if `bytes` are too few.
#[must_use]
pub fn segment(bytes: &[u8]) -> Option<Segment> {
    Some(Segment {
        kind: word32(bytes, 0)?,
        flags: word32(bytes, 4)?,
        offset: word64(bytes, 8)?,
        address: word64(bytes, 16)?,
        bytes_file: word64(bytes, 32)?,
        bytes_memory: word64(bytes, 40)?,
        align: word64(bytes, 48)?,
    })
}

/// Checks the loaded segments and returns what they span.
///
/// # Errors
/// `ENOEXEC` if nothing is loaded, or a segment wraps, is not congruent to its file offset, has
/// more file than memory, overlaps its predecessor, or (for a fixed program) lies in the reserved range.
pub fn span(segments: &[Segment], is_relocatable: bool) -> Result<Span, Errno> {
    let mut span: Option<Span> = None;
    for load in segments.iter().filter(|s| s.kind == PT_LOAD && s.bytes_memory > 0) {
        let end = checked_end(load).ok_or(Errno::ENOEXEC)?;
        let start = load.address & !(PAGE - 1);
        let align = if load.align.is_power_of_two() { load.align.max(PAGE) } else { PAGE };
        span = Some(match span {
            None => Span { start, end, align },
            Some(so_far) if load.address >= so_far.start => Span {
                start: so_far.start,
                end: so_far.end.max(end),
                align: so_far.align.max(align),
            },
            Some(_) => return Err(Errno::ENOEXEC),
        });
    }
    let span = span.ok_or(Errno::ENOEXEC)?;
    let collides = span.start < layout::END && span.end > layout::BASE;
    if !is_relocatable && collides { Err(Errno::ENOEXEC) } else { Ok(span) }
}

fn checked_end(load: &Segment) -> Option<u64> {
    let end = load.address.checked_add(load.bytes_memory)?.checked_add(PAGE - 1)? & !(PAGE - 1);
    let congruent = load.offset % PAGE == load.address % PAGE;
    let file_fits = load.bytes_file <= load.bytes_memory;
    let file_ends = load.offset.checked_add(load.bytes_file).is_some();
    (end <= USER_END && congruent && file_fits && file_ends).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> [u8; HEADER_BYTES] {
        let mut head = [0u8; HEADER_BYTES];
        head[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        head[16..18].copy_from_slice(&ET_DYN.to_le_bytes());
        head[18..20].copy_from_slice(&EM_X86_64.to_le_bytes());
        head[24..32].copy_from_slice(&0x1040u64.to_le_bytes());
        head[32..40].copy_from_slice(&64u64.to_le_bytes());
        head[54..56].copy_from_slice(&56u16.to_le_bytes());
        head[56..58].copy_from_slice(&13u16.to_le_bytes());
        head
    }

    fn load(address: u64, bytes: u64) -> Segment {
        Segment {
            kind: PT_LOAD,
            address,
            offset: address,
            bytes_file: bytes,
            bytes_memory: bytes,
            align: PAGE,
            flags: PF_R,
        }
    }

    #[test]
    fn a_program_header_is_read() {
        let head = header(&program()).expect("valid");
        assert!(head.is_relocatable);
        assert_eq!((head.entry, head.segments_offset, head.segments), (0x1040, 64, 13));
    }

    #[test]
    fn other_machines_and_short_files_are_refused() {
        for at in [0, 4, 5, 6, 16, 18, 54] {
            let mut head = program();
            head[at] = 0x55;
            assert_eq!(header(&head), Err(Errno::ENOEXEC), "byte {at}");
        }
        for cut in 0..58 {
            assert_eq!(header(&program()[..cut]), Err(Errno::ENOEXEC), "cut at {cut}");
        }
    }

    #[test]
    fn spans_cover_all_pages() {
        let span = span(&[load(0x10, 0x20), load(0x3008, 0x1000)], true).expect("valid");
        assert_eq!((span.start, span.end), (0, 0x5000));
    }

    #[test]
    fn hostile_segments_are_refused() {
        assert!(span(&[], true).is_err());
        assert!(span(&[load(u64::MAX - 5, 100)], true).is_err());
        assert!(span(&[load(0x5000, 1), load(0x1000, 1)], true).is_err());
        assert!(span(&[Segment { offset: 1, ..load(0x1000, 1) }], true).is_err());
        assert!(span(&[Segment { bytes_file: 9, ..load(0x1000, 1) }], true).is_err());
        assert!(span(&[load(layout::BASE - PAGE, 2 * PAGE)], false).is_err());
    }
}
