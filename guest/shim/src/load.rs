//! Mapping programs and their interpreters, as the kernel would (`fs/binfmt_elf.c`).

use crate::host;
use crate::rewrite;
use dunix_guest_abi::doorbell::PATH_BYTES;
use dunix_shim_core::elf::{self, Header, PAGE, Segment, Span};
use dunix_shim_core::{Errno, nr};

/// Where position-independent programs go, before randomisation (two thirds of the user half).
const RELOCATABLE_BASE: u64 = 0x5555_5555_4000;
/// Pages of randomness for the base, as x86-64's default `mmap_rnd_bits`.
const BASE_RANDOM_PAGES: u64 = 1 << 28;
/// Pages of randomness between program and heap.
const HEAP_RANDOM_PAGES: u64 = 1 << 13;
const ADDR_NO_RANDOMIZE: u64 = 0x0004_0000;

/// A loaded program.
pub(crate) struct Program {
    /// First instruction to run: the interpreter's, if there is one.
    pub(crate) start: u64,
    /// The program's own entry (`AT_ENTRY`).
    pub(crate) entry: u64,
    /// Address of the program headers (`AT_PHDR`).
    pub(crate) headers: u64,
    /// How many there are.
    pub(crate) headers_count: usize,
    /// Load bias of the interpreter (`AT_BASE`), or 0.
    pub(crate) interpreter_base: u64,
    /// Start and end of the code.
    pub(crate) code: (u64, u64),
    /// Start and end of the data.
    pub(crate) data: (u64, u64),
    /// Start of the heap.
    pub(crate) heap: u64,
    pub(crate) wants_executable_stack: bool,
}

/// An ELF file's checked headers.
pub(crate) struct Headers {
    header: Header,
    segments: [Segment; elf::SEGMENTS_MAX],
}

impl Headers {
    /// Reads and checks the headers of an open file.
    ///
    /// # Errors
    /// `ENOEXEC` as in [`elf`].
    pub(crate) fn read(fd: i32) -> Result<Headers, Errno> {
        let mut head = [0u8; elf::HEADER_BYTES];
        let got = host::pread(fd, &mut head, 0)?;
        let header = elf::header(&head[..got])?;
        let mut segments = [Segment::default(); elf::SEGMENTS_MAX];
        let mut table = [0u8; elf::SEGMENTS_MAX * elf::PROGRAM_HEADER_BYTES];
        let bytes = header.segments * elf::PROGRAM_HEADER_BYTES;
        if host::pread(fd, &mut table[..bytes], header.segments_offset)? != bytes {
            return Err(Errno::ENOEXEC);
        }
        for (slot, bytes) in
            segments.iter_mut().zip(table[..bytes].chunks_exact(elf::PROGRAM_HEADER_BYTES))
        {
            *slot = elf::segment(bytes).ok_or(Errno::ENOEXEC)?;
        }
        let headers = Headers { header, segments };
        elf::span(headers.segments(), headers.header.is_relocatable)?;
        Ok(headers)
    }

    fn segments(&self) -> &[Segment] {
        &self.segments[..self.header.segments]
    }

    /// Opens the program's interpreter, if it names one.
    ///
    /// # Errors
    /// What opening it reports; `ENOEXEC` for a name without end.
    pub(crate) fn open_interpreter(&self, fd: i32) -> Result<Option<i32>, Errno> {
        let Some(segment) = self.segments().iter().find(|s| s.kind == elf::PT_INTERP) else {
            return Ok(None);
        };
        let mut path = [0u8; PATH_BYTES];
        let bytes = usize::try_from(segment.bytes_file).map_err(|_| Errno::ENOEXEC)?;
        let path = path.get_mut(..bytes).ok_or(Errno::ENOEXEC)?;
        if bytes < 2 || host::pread(fd, path, segment.offset)? != bytes || path[bytes - 1] != 0 {
            return Err(Errno::ENOEXEC);
        }
        host::openat(host::AT_FDCWD, path, host::O_CLOEXEC).map(Some)
    }
}

/// Loads a program and its interpreter.
///
/// # Errors
/// What is wrong with the files; nothing can be undone then.
pub(crate) fn program(fd: i32) -> Result<Program, Errno> {
    let headers = Headers::read(fd)?;
    let random = Random::new();
    let image = map(fd, &headers, Some(&random))?;
    let mut program = describe(&headers, &image, &random);
    if let Some(interpreter) = headers.open_interpreter(fd)? {
        let inner = Headers::read(interpreter).map_err(|_| Errno::ELIBBAD)?;
        let mapped = map(interpreter, &inner, None)?;
        host::close(interpreter);
        answer_cpuid(&inner, mapped.bias);
        program.interpreter_base = mapped.bias;
        program.start = mapped.bias.wrapping_add(inner.header.entry);
    }
    Ok(program)
}

fn answer_cpuid(linker: &Headers, bias: u64) {
    let is_text = |s: &&Segment| {
        s.kind == elf::PT_LOAD
            && s.flags & (elf::PF_R | elf::PF_W | elf::PF_X) == elf::PF_R | elf::PF_X
    };
    for text in linker.segments().iter().filter(is_text) {
        let start = bias.wrapping_add(text.address);
        // SAFETY: mapped just now, and only the shim runs.
        unsafe { rewrite::answer_cpuid(start, text.bytes_file, protection(text.flags)) };
    }
}

struct Image {
    bias: u64,
    end: u64,
}

/// Maps all loaded segments; `random` chooses the base of a relocatable program, the kernel that of an interpreter.
fn map(fd: i32, headers: &Headers, random: Option<&Random>) -> Result<Image, Errno> {
    let span = elf::span(headers.segments(), headers.header.is_relocatable)?;
    let base = reserve(&span, headers.header.is_relocatable, random)?;
    let bias = base.wrapping_sub(span.start);
    for load in headers.segments().iter().filter(|s| s.kind == elf::PT_LOAD) {
        map_segment(fd, load, bias)?;
    }
    Ok(Image { bias, end: bias.wrapping_add(span.end) })
}

/// Reserves the whole span, so that its parts lie together; returns its start.
fn reserve(span: &Span, is_relocatable: bool, random: Option<&Random>) -> Result<u64, Errno> {
    let bytes = span.end - span.start;
    let flags = host::MAP_PRIVATE | host::MAP_ANONYMOUS | host::MAP_NORESERVE;
    let (at, flags) = match random {
        _ if !is_relocatable => (span.start, flags | host::MAP_FIXED_NOREPLACE),
        Some(random) => {
            let wanted = RELOCATABLE_BASE + random.pages(0, BASE_RANDOM_PAGES) * PAGE;
            (wanted & !(span.align - 1), flags | host::MAP_FIXED_NOREPLACE)
        }
        None => (0, flags),
    };
    // SAFETY: never replaces a mapping.
    unsafe { host::mmap(at, bytes, 0, flags, -1, 0) }
}

fn protection(flags: u32) -> u64 {
    let mut prot = 0;
    for (flag, bit) in
        [(elf::PF_R, host::PROT_READ), (elf::PF_W, host::PROT_WRITE), (elf::PF_X, host::PROT_EXEC)]
    {
        if flags & flag != 0 {
            prot |= bit;
        }
    }
    prot
}

fn map_segment(fd: i32, load: &Segment, bias: u64) -> Result<(), Errno> {
    let start = bias.wrapping_add(load.address);
    let page = start & !(PAGE - 1);
    let file_end = start + load.bytes_file;
    let memory_end = (start + load.bytes_memory + PAGE - 1) & !(PAGE - 1);
    let prot = protection(load.flags);
    let mut anonymous = page;
    if load.bytes_file > 0 {
        let offset = load.offset - (start - page);
        let flags = host::MAP_PRIVATE | host::MAP_FIXED;
        // SAFETY: inside the reserved span.
        unsafe { host::mmap(page, file_end - page, prot, flags, fd, offset) }?;
        anonymous = (file_end + PAGE - 1) & !(PAGE - 1);
        if load.bytes_memory > load.bytes_file && load.flags & elf::PF_W != 0 {
            // SAFETY: the rest of the last page, just mapped writable.
            unsafe { (file_end as *mut u8).write_bytes(0, host::to_usize(anonymous - file_end)) };
        }
    }
    if memory_end > anonymous {
        let flags = host::MAP_PRIVATE | host::MAP_ANONYMOUS | host::MAP_FIXED;
        // SAFETY: inside the reserved span.
        unsafe { host::mmap(anonymous, memory_end - anonymous, prot, flags, -1, 0) }?;
    }
    Ok(())
}

fn describe(headers: &Headers, image: &Image, random: &Random) -> Program {
    let header = &headers.header;
    let at = |address: u64| image.bias.wrapping_add(address);
    let mut program = Program {
        start: at(header.entry),
        entry: at(header.entry),
        headers: 0,
        headers_count: header.segments,
        interpreter_base: 0,
        code: (u64::MAX, 0),
        data: (0, 0),
        heap: image.end + random.pages(1, HEAP_RANDOM_PAGES) * PAGE,
        wants_executable_stack: false,
    };
    for segment in headers.segments() {
        match segment.kind {
            elf::PT_PHDR => program.headers = at(segment.address),
            elf::PT_GNU_STACK => program.wants_executable_stack = segment.flags & elf::PF_X != 0,
            elf::PT_LOAD => describe_load(&mut program, header, segment, image.bias),
            _ => {}
        }
    }
    program
}

fn describe_load(program: &mut Program, header: &Header, load: &Segment, bias: u64) {
    let start = bias.wrapping_add(load.address);
    let end = start + load.bytes_file;
    let holds_headers =
        (load.offset..load.offset + load.bytes_file).contains(&header.segments_offset);
    if program.headers == 0 && holds_headers {
        program.headers = start + (header.segments_offset - load.offset);
    }
    program.code.0 = program.code.0.min(start);
    if load.flags & elf::PF_X != 0 {
        program.code.1 = program.code.1.max(end);
    }
    program.data = (program.data.0.max(start), program.data.1.max(end));
}

/// Randomness for addresses; all zero if the personality asks for none.
struct Random([u64; 2]);

impl Random {
    fn new() -> Random {
        let mut words = [0u64; 2];
        // SAFETY: only asks.
        let personality = unsafe { host::call(nr::PERSONALITY, [0xffff_ffff, 0, 0, 0, 0, 0]) };
        if personality.is_ok_and(|flags| flags & ADDR_NO_RANDOMIZE == 0) {
            // SAFETY: writes the words only.
            let _ =
                unsafe { host::call(nr::GETRANDOM, [words.as_mut_ptr() as u64, 16, 0, 0, 0, 0]) };
        }
        Random(words)
    }

    fn pages(&self, word: usize, limit: u64) -> u64 {
        self.0[word] % limit
    }
}
