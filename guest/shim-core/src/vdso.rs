//! The image of the fabric's vDSO: an ELF shared object of one page that C libraries and Go parse.
//!
//! Each function is a stub that jumps to an absolute address: the host's own vDSO, or the shim's
//! system call if the host has none. `PT_DYNAMIC` lies in the read-only segment (glibc 2.36
//! ignores the image otherwise), and symbols carry the version `LINUX_2.6`.

/// Bytes of the image.
pub const IMAGE_BYTES: usize = 4096;
/// Functions of the image, in the order of [`Image::build`]'s targets.
pub const FUNCTIONS: [&str; 5] = [
    "__vdso_clock_gettime",
    "__vdso_gettimeofday",
    "__vdso_time",
    "__vdso_getcpu",
    "__vdso_clock_getres",
];

const SONAME: &str = "linux-vdso.so.1";
const VERSION: &str = "LINUX_2.6";
/// ELF hash of [`VERSION`].
const VERSION_HASH: u32 = elf_hash(VERSION.as_bytes());
const SONAME_HASH: u32 = elf_hash(SONAME.as_bytes());
const STUB_BYTES: usize = 16;

const AT_PROGRAM_HEADERS: usize = 64;
const AT_DYNAMIC: usize = 0x100;
const AT_HASH: usize = 0x1c0;
const AT_SYMBOLS: usize = 0x220;
const AT_STRINGS: usize = 0x300;
const AT_VERSYM: usize = 0x400;
const AT_VERDEF: usize = 0x420;
const AT_TEXT: usize = 0x500;

/// The System V hash of a symbol's name.
#[must_use]
pub const fn elf_hash(name: &[u8]) -> u32 {
    let mut hash: u32 = 0;
    let mut at = 0;
    while at < name.len() {
        hash = (hash << 4).wrapping_add(name[at] as u32);
        let top = hash & 0xf000_0000;
        hash ^= top >> 24;
        hash &= !top;
        at += 1;
    }
    hash
}

/// An image being built in one page.
pub struct Image<'a> {
    page: &'a mut [u8; IMAGE_BYTES],
    strings: usize,
}

impl Image<'_> {
    /// Builds the image in `page`, which must be zero; `targets[i]` is where function `i` goes on.
    pub fn build(page: &mut [u8; IMAGE_BYTES], targets: [u64; FUNCTIONS.len()]) {
        let mut image = Image { page, strings: 1 };
        image.header();
        let soname = image.string(SONAME);
        let version = image.string(VERSION);
        image.symbols(targets);
        image.hash_table();
        image.versions(soname, version);
        image.dynamic(soname);
    }

    fn put16(&mut self, at: usize, value: u16) {
        self.page[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.page[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn put64(&mut self, at: usize, value: u64) {
        self.page[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn string(&mut self, text: &str) -> u32 {
        let offset = self.strings;
        let at = AT_STRINGS + offset;
        self.page[at..at + text.len()].copy_from_slice(text.as_bytes());
        self.strings += text.len() + 1;
        u32::try_from(offset).unwrap_or(0)
    }

    fn header(&mut self) {
        self.page[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        self.put16(16, 3);
        self.put16(18, 62);
        self.put32(20, 1);
        self.put64(24, AT_TEXT as u64);
        self.put64(32, AT_PROGRAM_HEADERS as u64);
        self.put16(52, 64);
        self.put16(54, 56);
        self.put16(56, 2);
        self.put16(58, 64);
        self.program_header(0, 1, 5, 0, IMAGE_BYTES as u64, 4096);
        self.program_header(1, 2, 4, AT_DYNAMIC as u64, (AT_HASH - AT_DYNAMIC) as u64, 8);
    }

    fn program_header(
        &mut self,
        index: usize,
        kind: u32,
        flags: u32,
        at: u64,
        bytes: u64,
        align: u64,
    ) {
        let header = AT_PROGRAM_HEADERS + 56 * index;
        self.put32(header, kind);
        self.put32(header + 4, flags);
        for (slot, value) in [at, at, at, bytes, bytes, align].into_iter().enumerate() {
            self.put64(header + 8 + 8 * slot, value);
        }
    }

    /// Writes symbols 1.. and their stubs; symbol 0 is the null symbol.
    fn symbols(&mut self, targets: [u64; FUNCTIONS.len()]) {
        for (index, (name, target)) in FUNCTIONS.into_iter().zip(targets).enumerate() {
            let text = AT_TEXT + STUB_BYTES * index;
            let symbol = AT_SYMBOLS + 24 * (index + 1);
            let name = self.string(name);
            self.put32(symbol, name);
            self.page[symbol + 4] = 0x12;
            self.put16(symbol + 6, 1);
            self.put64(symbol + 8, text as u64);
            self.put64(symbol + 16, STUB_BYTES as u64);
            self.put16(AT_VERSYM + 2 * (index + 1), 2);
            // mov rax, imm64; jmp rax
            self.put16(text, 0xb848);
            self.put64(text + 2, target);
            self.put16(text + 10, 0xe0ff);
        }
    }

    /// One bucket that chains all symbols.
    fn hash_table(&mut self) {
        let symbols = u32::try_from(FUNCTIONS.len()).unwrap_or(0);
        self.put32(AT_HASH, 1);
        self.put32(AT_HASH + 4, symbols + 1);
        self.put32(AT_HASH + 8, 1);
        for symbol in 1..=symbols {
            let next = if symbol == symbols { 0 } else { symbol + 1 };
            self.put32(AT_HASH + 12 + 4 * symbol as usize, next);
        }
    }

    fn versions(&mut self, soname: u32, version: u32) {
        for (index, (flags, hash, name)) in
            [(1, SONAME_HASH, soname), (0, VERSION_HASH, version)].into_iter().enumerate()
        {
            let at = AT_VERDEF + 28 * index;
            self.put16(at, 1);
            self.put16(at + 2, flags);
            self.put16(at + 4, u16::try_from(index + 1).unwrap_or(0));
            self.put16(at + 6, 1);
            self.put32(at + 8, hash);
            self.put32(at + 12, 20);
            self.put32(at + 16, if index == 0 { 28 } else { 0 });
            self.put32(at + 20, name);
        }
    }

    fn dynamic(&mut self, soname: u32) {
        let entries = [
            (14, u64::from(soname)),
            (4, AT_HASH as u64),
            (5, AT_STRINGS as u64),
            (6, AT_SYMBOLS as u64),
            (10, self.strings as u64),
            (11, 24),
            (0x6fff_fff0, AT_VERSYM as u64),
            (0x6fff_fffc, AT_VERDEF as u64),
            (0x6fff_fffd, 2),
            (0, 0),
        ];
        for (index, (tag, value)) in entries.into_iter().enumerate() {
            self.put64(AT_DYNAMIC + 16 * index, tag);
            self.put64(AT_DYNAMIC + 16 * index + 8, value);
        }
    }
}

/// Finds a function in the host's vDSO image, by name; returns its offset from the image's start.
///
/// Reads the section-less form that every kernel maps: `PT_DYNAMIC`, `DT_SYMTAB`, `DT_STRTAB`; the
/// symbols end where the strings begin.
#[must_use]
pub fn find(image: &[u8], name: &str) -> Option<u64> {
    let word = |at: usize| Some(u64::from_le_bytes(image.get(at..at + 8)?.try_into().ok()?));
    let header = crate::elf::header(image).ok()?;
    let mut dynamic = None;
    for index in 0..header.segments {
        let at = usize::try_from(header.segments_offset).ok()?
            + index * crate::elf::PROGRAM_HEADER_BYTES;
        let segment = crate::elf::segment(image.get(at..)?)?;
        if segment.kind == 2 {
            dynamic = usize::try_from(segment.offset).ok();
        }
    }
    let (mut symbols, mut strings) = (None, None);
    for entry in 0..64 {
        let at = dynamic? + 16 * entry;
        match word(at)? {
            0 => break,
            5 => strings = usize::try_from(word(at + 8)?).ok(),
            6 => symbols = usize::try_from(word(at + 8)?).ok(),
            _ => {}
        }
    }
    let (symbols, strings) = (symbols?, strings?);
    for symbol in (symbols..strings.max(symbols)).step_by(24).take(64) {
        let at = strings + usize::try_from(word(symbol)? & 0xffff_ffff).ok()?;
        let text = image.get(at..at + name.len() + 1)?;
        if &text[..name.len()] == name.as_bytes() && text[name.len()] == 0 {
            return word(symbol + 8);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_answers_its_own_functions() {
        let mut page = [0u8; IMAGE_BYTES];
        Image::build(&mut page, [0x1111, 0x2222, 0x3333, 0x4444, 0x5555]);
        for (index, name) in FUNCTIONS.into_iter().enumerate() {
            let at = usize::try_from(find(&page, name).expect(name)).expect("small");
            assert_eq!(at, AT_TEXT + STUB_BYTES * index);
            assert_eq!(&page[at..at + 2], &[0x48, 0xb8]);
            assert_eq!(page[at + 2], 0x11 * u8::try_from(index + 1).expect("small"));
        }
        assert_eq!(find(&page, "__vdso_nothing"), None);
    }

    #[test]
    fn tables_do_not_overlap() {
        let mut page = [0u8; IMAGE_BYTES];
        Image::build(&mut page, [0; 5]);
        const {
            assert!(AT_DYNAMIC + 16 * 10 <= AT_HASH);
            assert!(AT_HASH + 12 + 4 * 6 <= AT_SYMBOLS);
            assert!(AT_SYMBOLS + 24 * 6 <= AT_STRINGS);
        }
        assert!(page[AT_VERSYM - 16..AT_VERSYM].iter().all(|&b| b == 0), "strings end early");
        assert_eq!(VERSION_HASH, 0x03ae_75f6);
    }
}
