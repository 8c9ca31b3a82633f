//! The texts of `/proc/<pid>/stat` and `/proc/<pid>/status`, with the host's numbers replaced by the fabric's (proc(5)).

use crate::proc_path::write_number;

/// The numbers of one process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Names {
    /// The process.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// Its group.
    pub group: u32,
    /// Its session.
    pub session: u32,
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

    fn add_number(&mut self, value: u32) -> Option<()> {
        self.used += write_number(u64::from(value), self.to.get_mut(self.used..)?)?;
        Some(())
    }
}

/// Rewrites `stat`; returns the bytes used in `to`, or `None` if the text is malformed or too long.
pub fn stat(text: &[u8], names: &Names, to: &mut [u8]) -> Option<usize> {
    // The command may itself hold blanks and parentheses.
    let start = text.iter().position(|&b| b == b'(')?;
    let end = text.iter().rposition(|&b| b == b')')?;
    let command = text.get(start..=end)?;
    let mut fields = text.get(end + 2..)?.splitn(5, |&b| b == b' ');
    let state = fields.next()?;
    let rest = fields.nth(3)?;
    let mut out = Text { to, used: 0 };
    out.add_number(names.pid)?;
    out.add(b" ")?;
    out.add(command)?;
    out.add(b" ")?;
    out.add(state)?;
    for number in [names.parent, names.group, names.session] {
        out.add(b" ")?;
        out.add_number(number)?;
    }
    out.add(b" ")?;
    out.add(rest)?;
    Some(out.used)
}

/// Rewrites `status`; returns the bytes used in `to`, or `None` if it is too long.
pub fn status(text: &[u8], names: &Names, to: &mut [u8]) -> Option<usize> {
    let mut out = Text { to, used: 0 };
    for line in text.split_inclusive(|&b| b == b'\n') {
        let end = line.iter().position(|&b| b == b':').map_or(0, |at| at + 1);
        let number = match &line[..end] {
            b"Tgid:" | b"Pid:" | b"NStgid:" | b"NSpid:" => names.pid,
            b"PPid:" => names.parent,
            b"NSpgid:" => names.group,
            b"NSsid:" => names.session,
            _ => {
                out.add(line)?;
                continue;
            }
        };
        out.add(&line[..end])?;
        out.add(b"\t")?;
        out.add_number(number)?;
        out.add(b"\n")?;
    }
    Some(out.used)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names = Names { pid: 70, parent: 60, group: 50, session: 40 };

    #[test]
    fn stat_keeps_everything_but_the_numbers() {
        let mut out = [0; 128];
        let text = b"12 (a ) (b) S 1 2 3 0 -1 4194304 1\n";
        let used = stat(text, &NAMES, &mut out).expect("well-formed");
        assert_eq!(&out[..used], b"70 (a ) (b) S 60 50 40 0 -1 4194304 1\n");
    }

    #[test]
    fn status_keeps_everything_but_the_numbers() {
        let mut out = [0; 128];
        let text = b"Name:\tx\nTgid:\t12\nNgid:\t0\nPid:\t12\nPPid:\t1\nNSpid:\t12\nNSsid:\t3\n";
        let used = status(text, &NAMES, &mut out).expect("fits");
        let wanted =
            b"Name:\tx\nTgid:\t70\nNgid:\t0\nPid:\t70\nPPid:\t60\nNSpid:\t70\nNSsid:\t40\n";
        assert_eq!(&out[..used], wanted);
    }

    #[test]
    fn what_is_cut_or_does_not_fit_is_refused() {
        for text in [&b"12"[..], b"12 (a", b"12 (a)", b"12 (a) S 1 2", b") ("] {
            assert_eq!(stat(text, &NAMES, &mut [0; 64]), None);
        }
        assert_eq!(status(b"Pid:\t1\n", &NAMES, &mut [0; 6]), None);
    }
}
