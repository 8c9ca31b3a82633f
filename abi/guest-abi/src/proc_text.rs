//! The texts of `/proc/<pid>/stat` and `/proc/<pid>/status`, with what the fabric knows better than the host (proc(5)):
//! the shim rewrites those of its own process, the daemon those of all others.

/// What the fabric knows better of a process than the host.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Names<'a> {
    /// The process, or its thread that the text is about.
    pub id: u32,
    /// The process.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// Its group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// The device of its controlling terminal, 0 without one.
    pub terminal: u32,
    /// The foreground group of that, -1 without one.
    pub foreground: i32,
    /// When it started, in ticks on the fabric's clock; 0: as the host says.
    pub start_ticks: u64,
    /// Ticks that it used elsewhere: user and system, its own and those of children waited for.
    pub used_ticks: [u64; 4],
    /// The host's number for the guests' user 0, as the text numbers users.
    pub ids_base: u32,
    /// The name of its node.
    pub node: &'a [u8],
}

/// A text being written into a buffer; `None` once it does not fit.
struct Text<'a> {
    to: &'a mut [u8],
    used: usize,
}

impl Text<'_> {
    fn add(&mut self, bytes: &[u8]) -> Option<()> {
        self.to.get_mut(self.used..self.used + bytes.len())?.copy_from_slice(bytes);
        self.used += bytes.len();
        Some(())
    }

    fn add_number(&mut self, value: u64) -> Option<()> {
        let (mut digits, mut at, mut rest) = ([0u8; 20], 20, value);
        loop {
            at -= 1;
            digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            if rest == 0 {
                return self.add(&digits[at..]);
            }
        }
    }

    fn add_signed(&mut self, value: i32) -> Option<()> {
        if value < 0 {
            self.add(b"-")?;
        }
        self.add_number(u64::from(value.unsigned_abs()))
    }
}

/// Reads decimal digits, as far as they fit.
fn read_number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, &digit| {
        let digit = u64::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?);
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// Rewrites `stat`; returns the bytes used in `to`, or `None` if the text is malformed or too long.
/// Fields are numbered as in `proc_pid_stat(5)`.
pub fn stat(text: &[u8], names: &Names<'_>, to: &mut [u8]) -> Option<usize> {
    const FIELDS_MIN: usize = 22;
    // The command may itself hold blanks and parentheses.
    let start = text.iter().position(|&b| b == b'(')?;
    let end = text.iter().rposition(|&b| b == b')')?;
    let command = text.get(start..=end)?;
    let mut out = Text { to, used: 0 };
    out.add_number(u64::from(names.id))?;
    out.add(b" ")?;
    out.add(command)?;
    let mut count = 2;
    for field in text.get(end + 2..)?.split(|&b| b == b' ') {
        count += 1;
        out.add(b" ")?;
        match count {
            4 => out.add_number(u64::from(names.parent))?,
            5 => out.add_number(u64::from(names.group))?,
            6 => out.add_number(u64::from(names.session))?,
            7 => out.add_number(u64::from(names.terminal))?,
            8 => out.add_signed(names.foreground)?,
            14..=17 => {
                let more = *names.used_ticks.get(count - 14)?;
                out.add_number(read_number(field)?.saturating_add(more))?;
            }
            22 if names.start_ticks > 0 => out.add_number(names.start_ticks)?,
            _ => out.add(field)?,
        }
    }
    (count >= FIELDS_MIN).then_some(out.used)
}

/// Rewrites `status`; returns the bytes used in `to`, or `None` if it is too long.
pub fn status(text: &[u8], names: &Names<'_>, to: &mut [u8]) -> Option<usize> {
    let mut out = Text { to, used: 0 };
    for line in text.split_inclusive(|&b| b == b'\n') {
        let end = line.iter().position(|&b| b == b':').map_or(0, |at| at + 1);
        let number = match &line[..end] {
            b"Tgid:" | b"NStgid:" => names.pid,
            b"Pid:" | b"NSpid:" => names.id,
            b"PPid:" => names.parent,
            b"TracerPid:" => 0,
            b"NSpgid:" => names.group,
            b"NSsid:" => names.session,
            b"Uid:" | b"Gid:" | b"Groups:" if names.ids_base > 0 => {
                add_ids(&mut out, line, end, names.ids_base)?;
                continue;
            }
            _ => {
                out.add(line)?;
                continue;
            }
        };
        out.add(&line[..end])?;
        out.add(b"\t")?;
        out.add_number(u64::from(number))?;
        out.add(b"\n")?;
    }
    out.add(b"Node:\t")?;
    out.add(names.node)?;
    out.add(b"\n")?;
    Some(out.used)
}

/// Writes a line of ids as guests number them.
fn add_ids(out: &mut Text<'_>, line: &[u8], end: usize, base: u32) -> Option<()> {
    /// Who has no number among the guests.
    const NOBODY: u64 = 65_534;
    out.add(&line[..end])?;
    let mut rest = &line[end..];
    while let Some((&first, behind)) = rest.split_first() {
        if !first.is_ascii_digit() {
            out.add(&[first])?;
            rest = behind;
            continue;
        }
        let digits = rest.iter().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
        let id = read_number(&rest[..digits])?.checked_sub(u64::from(base));
        out.add_number(id.unwrap_or(NOBODY))?;
        rest = &rest[digits..];
    }
    Some(())
}

/// How much longer [`mountinfo`] makes a line, at most.
pub const MOUNT_GROWTH_BYTES: usize = 16;

/// Rewrites lines of `mountinfo` (proc_pid_mountinfo(5)), whose third field is the number of the file system: `own`
/// becomes `fabrics`, both as the kernel packs them (`st_dev`). Returns the bytes used in `to`, or `None` if they do not
/// fit.
pub fn mountinfo(text: &[u8], own: u32, fabrics: u32, to: &mut [u8]) -> Option<usize> {
    let mut out = Text { to, used: 0 };
    for line in text.split_inclusive(|&b| b == b'\n') {
        for (at, field) in line.splitn(4, |&b| b == b' ').enumerate() {
            if at > 0 {
                out.add(b" ")?;
            }
            if at == 2 && read_device(field) == Some(split_device(own)) {
                let (major, minor) = split_device(fabrics);
                out.add_number(major)?;
                out.add(b":")?;
                out.add_number(minor)?;
            } else {
                out.add(field)?;
            }
        }
    }
    Some(out.used)
}

/// Major and minor number of a device, as the kernel packs them in 32 bits (`new_encode_dev`).
fn split_device(packed: u32) -> (u64, u64) {
    (u64::from(packed >> 8 & 0xfff), u64::from(packed & 0xff | packed >> 12 & 0xf_ff00))
}

fn read_device(text: &[u8]) -> Option<(u64, u64)> {
    let colon = text.iter().position(|&b| b == b':')?;
    Some((read_number(&text[..colon])?, read_number(&text[colon + 1..])?))
}

/// Longest line of `/proc/sysvipc/*`: 16 fields of at most 20 digits and two blanks.
pub const IPC_LINE_BYTES: usize = 384;
/// How wide the kernel prints a process there, at least (`ipc/shm.c`, `ipc/msg.c`: `%5u`).
const IPC_PID_WIDTH: usize = 5;

/// Rewrites a line of `/proc/sysvipc/shm` or `msg`, whose fields `columns` (counted from 0) are processes; the line
/// of headings stays. Returns the bytes used in `to`, or `None` if the line is too long.
pub fn ipc_line(
    line: &[u8],
    columns: [usize; 2],
    of_fabric: impl Fn(u32) -> u32,
    to: &mut [u8],
) -> Option<usize> {
    let mut out = Text { to, used: 0 };
    let (mut rest, mut column) = (line, 0);
    while !rest.is_empty() {
        let blanks = rest.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(rest.len());
        let (gap, text) = rest.split_at(blanks);
        let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
        let field = &text[..end];
        let pid = read_number(field).and_then(|pid| u32::try_from(pid).ok());
        match pid.filter(|_| columns.contains(&column)) {
            Some(pid) => {
                let pid = u64::from(of_fabric(pid));
                let digits = pid.checked_ilog10().map_or(1, |log| log as usize + 1);
                out.add(b" ")?;
                (digits..IPC_PID_WIDTH).try_for_each(|_| out.add(b" "))?;
                out.add_number(pid)?;
            }
            None => {
                out.add(gap)?;
                out.add(field)?;
            }
        }
        (rest, column) = (&text[end..], column + 1);
    }
    Some(out.used)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names<'_> = Names {
        id: 70,
        pid: 70,
        parent: 60,
        group: 50,
        session: 40,
        terminal: 34817,
        foreground: -1,
        start_ticks: 0,
        used_ticks: [1, 2, 3, 4],
        ids_base: 0,
        node: b"n2",
    };

    #[test]
    fn stat_keeps_everything_but_what_the_fabric_knows_better() {
        let mut out = [0; 128];
        let text = b"12 (a ) (b) S 1 2 3 0 0 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23\n";
        let used = stat(text, &NAMES, &mut out).expect("well-formed");
        let wanted =
            b"70 (a ) (b) S 60 50 40 34817 -1 9 10 11 12 13 15 17 19 21 18 19 20 21 22 23\n";
        assert_eq!(core::str::from_utf8(&out[..used]), core::str::from_utf8(wanted));
        let started = Names { start_ticks: 5, ..NAMES };
        let used = stat(text, &started, &mut out).expect("well-formed");
        assert!(out[..used].ends_with(b" 21 5 23\n"));
    }

    #[test]
    fn mounts_keep_everything_but_the_number_of_the_tree() {
        let mut out = [0; 256];
        let text = b"51 54 0:300 / / rw - fuse.dunix dunix rw\n52 51 0:52 / /a\\040b rw 0:300 - tmpfs x rw\n0:300";
        let wanted = b"51 54 0:851968 / / rw - fuse.dunix dunix rw\n52 51 0:52 / /a\\040b rw 0:300 - tmpfs x rw\n0:300";
        let own = 300 & 0xff | (300 & 0xf_ff00) << 12;
        let used = mountinfo(text, own, crate::arena::TREE_DEVICE, &mut out).expect("fits");
        assert_eq!(core::str::from_utf8(&out[..used]), core::str::from_utf8(wanted));
        assert_eq!(mountinfo(text, own, crate::arena::TREE_DEVICE, &mut out[..used - 1]), None);
    }

    #[test]
    fn lists_of_ipc_objects_keep_everything_but_processes() {
        let mut out = [0; IPC_LINE_BYTES];
        let renamed = |pid| if pid == 0 { 0 } else { pid * 1000 };
        let line = b"  16777216         17  1600       4096   123     0      1  1000 12345678901\n";
        let used = ipc_line(line, [4, 5], renamed, &mut out).expect("fits");
        let wanted =
            b"  16777216         17  1600       4096 123000     0      1  1000 12345678901\n";
        assert_eq!(core::str::from_utf8(&out[..used]), core::str::from_utf8(wanted));
        let heading = b"       key      shmid perms       size  cpid  lpid nattch\n";
        let used = ipc_line(heading, [4, 5], renamed, &mut out).expect("fits");
        assert_eq!(&out[..used], heading);
        assert_eq!(ipc_line(line, [4, 5], renamed, &mut out[..40]), None);
    }

    #[test]
    fn status_keeps_everything_but_what_the_fabric_knows_better() {
        let mut out = [0; 160];
        let text = b"Name:\tx\nTgid:\t12\nNgid:\t0\nPid:\t13\nPPid:\t1\nNSpid:\t12\nNSsid:\t3\n";
        let used = status(text, &Names { id: 71, ..NAMES }, &mut out).expect("fits");
        let wanted = b"Name:\tx\nTgid:\t70\nNgid:\t0\nPid:\t71\nPPid:\t60\nNSpid:\t71\nNSsid:\t40\nNode:\tn2\n";
        assert_eq!(&out[..used], wanted);
    }

    #[test]
    fn ids_are_numbered_as_guests_number_them() {
        let mut out = [0; 128];
        let text = b"Uid:\t65536\t66536\t0\nGroups:\t65540 65536 \n";
        let names = Names { ids_base: 65536, ..NAMES };
        let used = status(text, &names, &mut out).expect("fits");
        assert_eq!(&out[..used], b"Uid:\t0\t1000\t65534\nGroups:\t4 0 \nNode:\tn2\n");
    }

    #[test]
    fn what_is_cut_or_does_not_fit_is_refused() {
        for text in [&b"12"[..], b"12 (a", b"12 (a)", b"12 (a) S 1 2", b") ("] {
            assert_eq!(stat(text, &NAMES, &mut [0; 64]), None);
        }
        assert_eq!(status(b"Pid:\t1\n", &NAMES, &mut [0; 6]), None);
    }
}
