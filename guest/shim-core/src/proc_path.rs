//! Paths below `/proc` that name a process.
//!
//! The host's `/proc` knows host PIDs; guests name processes of the fabric. The shim rewrites the
//! number and answers what the host would answer wrongly (`exe` is the shim there, `self` a host PID).

/// What a path below `/proc` means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProcPath<'a> {
    /// `/proc/self` or `/proc/thread-self` itself (a symbolic link whose text is a PID).
    SelfLink {
        /// It was `thread-self`.
        of_thread: bool,
    },
    /// `exe` of the caller: the program, not the shim.
    OwnExe,
    /// `/proc/<pid>` and what follows, `rest` being empty or beginning with `/`.
    Process {
        /// The PID of the fabric.
        pid: u32,
        /// The remainder.
        rest: &'a [u8],
    },
}

/// Reads a path; `None` if it is outside `/proc` or names no process.
#[must_use]
pub fn parse(path: &[u8], own_pid: u32) -> Option<ProcPath<'_>> {
    let below = path.strip_prefix(b"/proc/")?;
    let below = &below[below.iter().position(|&b| b != b'/').unwrap_or(below.len())..];
    let end = below.iter().position(|&b| b == b'/').unwrap_or(below.len());
    let (name, rest) = below.split_at(end);
    let of_thread = name == b"thread-self";
    if of_thread || name == b"self" {
        return match rest {
            b"" => Some(ProcPath::SelfLink { of_thread }),
            b"/exe" => Some(ProcPath::OwnExe),
            b"/stat" | b"/status" | b"/mountinfo" if !of_thread => {
                Some(ProcPath::Process { pid: own_pid, rest })
            }
            _ if !of_thread && is_tasks(rest) => Some(ProcPath::Process { pid: own_pid, rest }),
            _ => None,
        };
    }
    let pid = number(name)?;
    if pid == own_pid && rest == b"/exe" {
        Some(ProcPath::OwnExe)
    } else {
        Some(ProcPath::Process { pid, rest })
    }
}

fn is_tasks(rest: &[u8]) -> bool {
    rest.strip_prefix(b"/task").is_some_and(|below| below.is_empty() || below[0] == b'/')
}

/// Texts of a process that hold nothing which leads to an object of its node. (`oom_score_adj` may be written.)
const TEXTS: [&[u8]; 18] = [
    b"/stat",
    b"/status",
    b"/cmdline",
    b"/comm",
    b"/statm",
    b"/limits",
    b"/wchan",
    b"/sched",
    b"/schedstat",
    b"/oom_score",
    b"/loginuid",
    b"/sessionid",
    b"/cgroup",
    b"/io",
    b"/environ",
    b"/maps",
    b"/smaps",
    b"/auxv",
];

/// Whether the nodes compose a file of another process: wherever that is at this instant, and with the fabric's
/// numbers. `rest` is what follows the process's folder. What is left leads to objects (`fd/3`, `ns/net`), which the host
/// has while the process is on the same node.
#[must_use]
pub fn is_composed(rest: &[u8]) -> bool {
    matches!(rest, b"" | b"/" | b"/exe" | b"/fd" | b"/fd/")
        || TEXTS.contains(&rest)
        || match thread_of(rest) {
            Some((_, file)) => matches!(file, b"" | b"/") || TEXTS.contains(&file),
            None => is_tasks(rest),
        }
}

/// The thread that what follows `/proc/<pid>` names, and what follows it in turn.
#[must_use]
pub fn thread_of(rest: &[u8]) -> Option<(u32, &[u8])> {
    let below = rest.strip_prefix(b"/task/")?;
    let end = below.iter().position(|&b| b == b'/').unwrap_or(below.len());
    let (name, rest) = below.split_at(end);
    Some((number(name)?, rest))
}

/// Reads a path that stands for a descriptor of the caller: `/dev/fd/N`, `/dev/stdin` and kin,
/// `/proc/self/fd/N`.
#[must_use]
pub fn own_descriptor(path: &[u8]) -> Option<u32> {
    match path {
        b"/dev/stdin" => Some(0),
        b"/dev/stdout" => Some(1),
        b"/dev/stderr" => Some(2),
        _ => {
            let name = [&b"/dev/fd/"[..], b"/proc/self/fd/", b"/proc/thread-self/fd/"]
                .into_iter()
                .find_map(|folder| path.strip_prefix(folder))?;
            number(name)
        }
    }
}

/// Reads the path of a list of IPC objects, `/proc/sysvipc/shm` or `msg`; says which of its columns, counted from 0,
/// are processes.
#[must_use]
pub fn ipc_list(path: &[u8]) -> Option<[usize; 2]> {
    match path {
        b"/proc/sysvipc/shm" => Some([4, 5]),
        b"/proc/sysvipc/msg" => Some([5, 6]),
        _ => None,
    }
}

/// Reads the path of a pseudo-terminal, `/dev/pts/N`.
#[must_use]
pub fn pseudo_terminal(path: &[u8]) -> Option<u32> {
    number(path.strip_prefix(b"/dev/pts/")?)
}

/// Reads a decimal number without sign or leading zero, below 2^30.
#[must_use]
pub fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 10 || (text[0] == b'0' && text.len() > 1) {
        return None;
    }
    let value = text.iter().try_fold(0u64, |sum, &digit| {
        digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0'))
    })?;
    u32::try_from(value).ok().filter(|&pid| pid < 1 << 30)
}

/// Writes `value` in decimal at the start of `out`; returns the bytes used, or `None` if too few.
pub fn write_number(value: u64, out: &mut [u8]) -> Option<usize> {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let text = &digits[at..];
    out.get_mut(..text.len())?.copy_from_slice(text);
    Some(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processes_are_found() {
        assert_eq!(parse(b"/proc/12/stat", 7), Some(ProcPath::Process { pid: 12, rest: b"/stat" }));
        assert_eq!(parse(b"/proc//12", 7), Some(ProcPath::Process { pid: 12, rest: b"" }));
        assert_eq!(parse(b"/proc/7/exe", 7), Some(ProcPath::OwnExe));
        assert_eq!(parse(b"/proc/8/exe", 7), Some(ProcPath::Process { pid: 8, rest: b"/exe" }));
        assert_eq!(parse(b"/proc/self/exe", 7), Some(ProcPath::OwnExe));
        assert_eq!(parse(b"/proc/self", 7), Some(ProcPath::SelfLink { of_thread: false }));
        assert_eq!(
            parse(b"/proc/self/stat", 7),
            Some(ProcPath::Process { pid: 7, rest: b"/stat" })
        );
        assert_eq!(parse(b"/proc/self/fd/3", 7), None);
        let tasks = ProcPath::Process { pid: 7, rest: b"/task" };
        assert_eq!(parse(b"/proc/self/task", 7), Some(tasks));
        let task = ProcPath::Process { pid: 7, rest: b"/task/8/comm" };
        assert_eq!(parse(b"/proc/self/task/8/comm", 7), Some(task));
    }

    #[test]
    fn files_with_numbers_are_composed() {
        for rest in [&b""[..], b"/", b"/stat", b"/exe", b"/task", b"/task/8", b"/task/8/stat"] {
            assert!(is_composed(rest));
        }
        for rest in [&b"/oom_score_adj"[..], b"/fd/1", b"/mem", b"/tasks", b"/cwd", b"/task/8/mem"]
        {
            assert!(!is_composed(rest));
        }
    }

    #[test]
    fn other_paths_are_left_alone() {
        for path in
            [&b"/proc"[..], b"/proc/", b"/proc/cpuinfo", b"/proc/01", b"/proc/12x", b"/etc/12"]
        {
            assert_eq!(parse(path, 7), None);
        }
        assert_eq!(parse(b"/proc/4294967297/x", 7), None);
    }

    #[test]
    fn threads_have_names() {
        assert_eq!(thread_of(b"/task/12/mem"), Some((12, &b"/mem"[..])));
        assert_eq!(thread_of(b"/task/12"), Some((12, &b""[..])));
        assert_eq!(thread_of(b"/task"), None);
        assert_eq!(thread_of(b"/task/x/mem"), None);
    }

    #[test]
    fn descriptors_have_names() {
        assert_eq!(own_descriptor(b"/dev/fd/63"), Some(63));
        assert_eq!(own_descriptor(b"/proc/self/fd/0"), Some(0));
        assert_eq!(own_descriptor(b"/dev/stderr"), Some(2));
        assert_eq!(own_descriptor(b"/dev/fd/6x"), None);
        assert_eq!(own_descriptor(b"/dev/fd"), None);
        assert_eq!(pseudo_terminal(b"/dev/pts/12"), Some(12));
        assert_eq!(pseudo_terminal(b"/dev/pts/ptmx"), None);
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        let mut out = [0; 4];
        assert_eq!(write_number(0, &mut out), Some(1));
        assert_eq!(write_number(9075, &mut out), Some(4));
        assert_eq!(&out, b"9075");
        assert_eq!(write_number(12345, &mut out), None);
    }
}
