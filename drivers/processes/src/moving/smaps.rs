//! `/proc/PID/smaps`, read (proc_pid_smaps(5)).
//!
//! A pure reader: text in, mappings out; what it does not understand it leaves out.

/// One mapping as the host shows it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Area {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// `PROT_*` bits.
    pub(crate) protection: u8,
    pub(crate) is_shared: bool,
    pub(crate) offset: u64,
    /// Device as the host writes it.
    pub(crate) device: String,
    /// 0 for anonymous memory.
    pub(crate) inode: u64,
    /// Path, pseudo-path (`[stack]`), or nothing.
    pub(crate) name: Vec<u8>,
    /// `VmFlags`, two letters each.
    pub(crate) flags: Vec<[u8; 2]>,
    /// Bytes present in memory.
    pub(crate) resident: u64,
    /// Bytes swapped out.
    pub(crate) swapped: u64,
    /// Bytes of pages that belong to no file.
    pub(crate) anonymous: u64,
}

pub(crate) const READ: u8 = 1;
pub(crate) const WRITE: u8 = 2;
pub(crate) const EXECUTE: u8 = 4;

/// What the host appends to the path of a file that is gone.
const DELETED: &[u8] = b" (deleted)";

impl Area {
    pub(crate) fn has(&self, flag: &[u8; 2]) -> bool {
        self.flags.contains(flag)
    }

    /// Whether the kernel itself put it there.
    pub(crate) fn is_kernels(&self) -> bool {
        self.name.starts_with(b"[v") && self.name != b"[vsyscall]"
    }

    /// The path, if it is one, and whether the host still finds the file there.
    pub(crate) fn path(&self) -> Option<(&[u8], bool)> {
        if !self.name.starts_with(b"/") {
            return None;
        }
        match self.name.strip_suffix(DELETED) {
            Some(path) => Some((path, false)),
            None => Some((&self.name, true)),
        }
    }

    /// For people.
    pub(crate) fn shown(&self) -> String {
        format!("{:x}-{:x} {}", self.start, self.end, String::from_utf8_lossy(&self.name))
    }
}

/// Reads all mappings.
pub(crate) fn parse(text: &[u8]) -> Vec<Area> {
    let mut areas: Vec<Area> = Vec::new();
    for line in text.split(|&byte| byte == b'\n') {
        if let Some(area) = head(line) {
            areas.push(area);
        } else if let Some(area) = areas.last_mut() {
            detail(area, line);
        }
    }
    areas
}

/// `start-end perms offset device inode   name`.
fn head(line: &[u8]) -> Option<Area> {
    let mut rest = line;
    let mut word = || {
        let end = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after.trim_ascii_start();
        core::str::from_utf8(word).ok()
    };
    let (start, end) = word()?.split_once('-')?;
    let permissions = word()?.as_bytes();
    let [r, w, x, s] = *permissions else { return None };
    let offset = word()?;
    let device = word()?.to_owned();
    let inode = word()?;
    let bit = |is: bool, bit: u8| if is { bit } else { 0 };
    Some(Area {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        protection: bit(r == b'r', READ) | bit(w == b'w', WRITE) | bit(x == b'x', EXECUTE),
        is_shared: s == b's',
        offset: u64::from_str_radix(offset, 16).ok()?,
        device,
        inode: inode.parse().ok()?,
        name: unescape(rest),
        ..Area::default()
    })
}

/// The host writes a newline in a name as `\012`.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&first, after)) = rest.split_first() {
        match rest.strip_prefix(b"\\012") {
            Some(after) => {
                plain.push(b'\n');
                rest = after;
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    plain
}

fn detail(area: &mut Area, line: &[u8]) {
    let Some((name, value)) = core::str::from_utf8(line).ok().and_then(|l| l.split_once(':'))
    else {
        return;
    };
    let bytes = || {
        let number = value.split_ascii_whitespace().next().and_then(|word| word.parse().ok());
        number.unwrap_or(0_u64).saturating_mul(1024)
    };
    match name {
        "Rss" => area.resident = bytes(),
        "Swap" => area.swapped = bytes(),
        "Anonymous" => area.anonymous = bytes(),
        "VmFlags" => {
            let words = value.split_ascii_whitespace();
            area.flags = words.filter_map(|word| word.as_bytes().try_into().ok()).collect();
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_details_are_read() {
        let text = b"7f00-7f10 rw-s 00001000 fe:00 33    /tmp/a b\\012c (deleted)\n\
                     Size:  4 kB\nRss:      8 kB\nSwap:  4 kB\nAnonymous: 4 kB\nVmFlags: rd wr sh dd\n\
                     8000-9000 ---p 00000000 00:00 0 \nVmFlags: mr\n\
                     a000-b000 r-xp 00000000 00:00 0      [vdso]\n";
        let areas = parse(text);
        assert_eq!(areas.len(), 3);
        let first = &areas[0];
        assert_eq!((first.start, first.end, first.offset, first.inode), (0x7f00, 0x7f10, 4096, 33));
        assert_eq!((first.protection, first.is_shared), (READ | WRITE, true));
        assert_eq!(first.path(), Some((&b"/tmp/a b\nc"[..], false)));
        assert_eq!((first.resident, first.swapped, first.anonymous), (8192, 4096, 4096));
        assert!(first.has(b"dd") && !first.has(b"mr"));
        assert_eq!((areas[1].protection, areas[1].path()), (0, None));
        assert!(areas[2].is_kernels() && !areas[1].is_kernels());
    }

    #[test]
    fn nonsense_is_left_out() {
        assert_eq!(parse(b"no\n7f-zz r--p 0 0 0\n\nRss: 3\n"), []);
    }
}
