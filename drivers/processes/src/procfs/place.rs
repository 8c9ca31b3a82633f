//! Inode numbers of the files about processes: all that a request of the kernel says is which.
//!
//! ```text
//! 63    56 55            30 29             0
//! [ what ] [ descriptor or serial ] [ PID or TID ]
//! ```
//! Each time that a file is looked up its number has another serial, so that each open has an inode, and with it a text,
//! of its own.

use dunix_ids::{Ino, Pid};
use dunix_wire::files::Kind;

/// Files of a process and of its threads, and whether they are its owner's alone.
pub(super) const FILES: [(&str, bool); 20] = [
    ("stat", false),
    ("status", false),
    ("cmdline", false),
    ("comm", false),
    ("statm", false),
    ("limits", false),
    ("wchan", false),
    ("sched", false),
    ("schedstat", false),
    ("oom_score", false),
    ("oom_score_adj", false),
    ("loginuid", false),
    ("sessionid", false),
    ("cgroup", false),
    ("io", true),
    ("environ", true),
    ("maps", true),
    ("smaps", true),
    ("smaps_rollup", true),
    ("auxv", true),
];
/// Links of a process, which its owner alone may read.
pub(super) const LINKS: [&str; 3] = ["exe", "cwd", "root"];

/// What an inode is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    Root,
    Process,
    Thread,
    Tasks,
    Descriptors,
    Descriptor(u32),
    Link(usize),
    File(usize),
    ThreadFile(usize),
}

/// An inode: what it is, and of whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) what: What,
    pub(super) id: Pid,
}

const ID_BITS: u32 = 30;
const MIDDLE_BITS: u32 = 26;
const LINK_CODES: u64 = 16;
const FILE_CODES: u64 = 32;
const THREAD_FILE_CODES: u64 = 96;

impl Place {
    pub(super) fn of_ino(ino: Ino) -> Option<Place> {
        let low = |bits: u32| (1_u64 << bits) - 1;
        let id = Pid::new(u32::try_from(ino.0 & low(ID_BITS)).ok()?)?;
        let middle = u32::try_from(ino.0 >> ID_BITS & low(MIDDLE_BITS)).ok()?;
        let below = |code: u64, first: u64, count: usize| {
            usize::try_from(code.checked_sub(first)?).ok().filter(|index| *index < count)
        };
        let what = match ino.0 >> (ID_BITS + MIDDLE_BITS) {
            0 if id == Pid::INIT => What::Root,
            1 => What::Process,
            2 => What::Thread,
            3 => What::Tasks,
            4 => What::Descriptors,
            5 => What::Descriptor(middle),
            code => below(code, LINK_CODES, LINKS.len())
                .map(What::Link)
                .or_else(|| below(code, FILE_CODES, FILES.len()).map(What::File))
                .or_else(|| below(code, THREAD_FILE_CODES, FILES.len()).map(What::ThreadFile))?,
        };
        Some(Place { what, id })
    }

    /// The inode's number; `serial` tells those of one file apart.
    pub(super) fn ino(self, serial: u64) -> Ino {
        let middle = match self.what {
            What::Descriptor(number) => u64::from(number),
            What::File(_) | What::ThreadFile(_) => serial,
            _ => 0,
        };
        let code = match self.what {
            What::Root => 0,
            What::Process => 1,
            What::Thread => 2,
            What::Tasks => 3,
            What::Descriptors => 4,
            What::Descriptor(_) => 5,
            What::Link(index) => LINK_CODES + index as u64,
            What::File(index) => FILE_CODES + index as u64,
            What::ThreadFile(index) => THREAD_FILE_CODES + index as u64,
        };
        let middle = middle & ((1 << MIDDLE_BITS) - 1);
        Ino(code << (ID_BITS + MIDDLE_BITS) | middle << ID_BITS | u64::from(self.id.get()))
    }

    /// What a name in this folder is; `None` if it has no such name. That a process or descriptor exists is not said.
    pub(super) fn child(self, name: &[u8]) -> Option<Place> {
        let name = std::str::from_utf8(name).ok()?;
        let file = || FILES.iter().position(|(file, _)| *file == name);
        let number = || {
            let number: u32 = name.parse().ok()?;
            (number.to_string() == name).then_some(number)
        };
        let (what, id) = match self.what {
            What::Root => (What::Process, Pid::new(number()?)?),
            What::Tasks => (What::Thread, Pid::new(number()?)?),
            What::Descriptors => {
                let number = number().filter(|number| *number < 1 << MIDDLE_BITS)?;
                (What::Descriptor(number), self.id)
            }
            What::Process if name == "task" => (What::Tasks, self.id),
            What::Process if name == "fd" => (What::Descriptors, self.id),
            What::Process => match LINKS.iter().position(|link| *link == name) {
                Some(index) => (What::Link(index), self.id),
                None => (What::File(file()?), self.id),
            },
            What::Thread => (What::ThreadFile(file()?), self.id),
            What::Descriptor(_) | What::Link(_) | What::File(_) | What::ThreadFile(_) => {
                return None;
            }
        };
        Some(Place { what, id })
    }

    /// What it is to the kernel, and its permissions.
    pub(super) fn mode(self) -> (Kind, u32) {
        match self.what {
            What::Root | What::Process | What::Thread | What::Tasks => (Kind::Directory, 0o555),
            What::Descriptors => (Kind::Directory, 0o500),
            What::Descriptor(_) => (Kind::Symlink, 0o700),
            What::Link(_) => (Kind::Symlink, 0o777),
            What::File(index) | What::ThreadFile(index) => {
                let is_private = FILES.get(index).is_some_and(|(_, is_private)| *is_private);
                (Kind::File, if is_private { 0o400 } else { 0o444 })
            }
        }
    }

    /// Its path below the folder of its process or thread.
    pub(super) fn path(self) -> Vec<u8> {
        match self.what {
            What::Root | What::Process | What::Thread => Vec::new(),
            What::Tasks => b"task".to_vec(),
            What::Descriptors => b"fd".to_vec(),
            What::Descriptor(number) => format!("fd/{number}").into_bytes(),
            What::Link(index) => LINKS[index].as_bytes().to_vec(),
            What::File(index) | What::ThreadFile(index) => FILES[index].0.as_bytes().to_vec(),
        }
    }

    /// Whether it is about a thread: `/proc/PID/task/TID`.
    pub(super) fn is_of_thread(self) -> bool {
        matches!(self.what, What::Thread | What::ThreadFile(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &[&str]) -> Option<Place> {
        let root = Place { what: What::Root, id: Pid::INIT };
        path.iter().try_fold(root, |place, name| place.child(name.as_bytes()))
    }

    #[test]
    fn numbers_say_which_file_it_is() {
        for path in [
            &[][..],
            &["1"],
            &["1073741823"],
            &["7", "stat"],
            &["7", "auxv"],
            &["7", "root"],
            &["7", "fd"],
            &["7", "fd", "1023"],
            &["7", "task", "8"],
            &["7", "task", "8", "status"],
        ] {
            let found = place(path).expect("such a file");
            assert_eq!(Place::of_ino(found.ino(12345)), Some(found), "{path:?}");
        }
        assert_eq!(place(&[]).map(|root| root.ino(0)), Some(Ino(1)));
    }

    #[test]
    fn other_names_are_no_files() {
        for path in [
            &["0"][..],
            &["07"],
            &["+7"],
            &["1073741824"],
            &["self"],
            &["7", "mem"],
            &["7", "stat", "x"],
            &["7", "fd", "99999999"],
            &["7", "task", "8", "fd"],
        ] {
            assert_eq!(place(path), None, "{path:?}");
        }
        assert_eq!(Place::of_ino(Ino(u64::MAX)), None);
    }
}
