//! Finding a program in the guest's tree, with the guest's rights, as execvp(3) and execve(2) do.

use crate::protocol::Program;
use dunix_linux::Errno;
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, accessat, fstat, open};
use std::os::fd::{AsRawFd, OwnedFd};

/// Most `#!` lines that are followed (`BINPRM_MAX_RECURSION` of Linux).
const INTERPRETERS_MAX: usize = 4;
/// Bytes of a file that decide what it is (`BINPRM_BUF_SIZE` of Linux).
const HEAD_BYTES: usize = 256;

/// A program that can be loaded.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) file: OwnedFd,
    /// Its absolute path, links followed.
    pub(crate) path: Vec<u8>,
    /// What the caller named: the script's path for a script.
    pub(crate) exec_fn: Vec<u8>,
    /// The arguments, rewritten for a script.
    pub(crate) argv: Vec<Vec<u8>>,
}

/// Finds the program and follows `#!` lines.
pub(crate) fn find(program: &Program, argv: &[Vec<u8>]) -> Result<Found, Errno> {
    let named = candidate(program)?;
    let mut argv = argv.to_vec();
    let mut path = named.clone();
    for _ in 0..=INTERPRETERS_MAX {
        let file = open_executable(&path)?;
        let mut head = [0; HEAD_BYTES];
        let length = rustix::io::pread(&file, &mut head, 0)?;
        let head = &head[..length];
        if head.starts_with(b"\x7fELF") {
            if !is_of_this_machine(head) {
                return Err(Errno::NOEXEC);
            }
            let link = format!("/proc/self/fd/{}", file.as_raw_fd());
            let target = rustix::fs::readlink(link, Vec::new());
            let canonical = target.map_or(path, |target| target.into_bytes());
            return Ok(Found { file, path: canonical, exec_fn: named, argv });
        }
        let (interpreter, argument) = interpreter_of(head).ok_or(Errno::NOEXEC)?;
        let rest = argv.drain(..).skip(1).collect::<Vec<_>>();
        argv.push(interpreter.clone());
        argv.extend(argument);
        argv.push(path);
        argv.extend(rest);
        path = interpreter;
    }
    Err(Errno::LOOP)
}

/// Whether an ELF header is of a 64-bit program for x86-64 (elf(5): `EI_CLASS`, `e_machine`).
fn is_of_this_machine(head: &[u8]) -> bool {
    const CLASS_64: u8 = 2;
    const MACHINE_X86_64: [u8; 2] = 62u16.to_le_bytes();
    head.get(4) == Some(&CLASS_64) && head.get(18..20) == Some(&MACHINE_X86_64)
}

/// The path as given if it has a slash or no search is wanted, else the first that `PATH` offers.
fn candidate(program: &Program) -> Result<Vec<u8>, Errno> {
    let Some(search) = &program.search else { return Ok(program.path.clone()) };
    if program.path.is_empty() {
        return Err(Errno::NOENT);
    }
    if program.path.contains(&b'/') {
        return Ok(program.path.clone());
    }
    let mut denied = false;
    for directory in search.split(|&b| b == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let path = [directory, b"/", &program.path].concat();
        match open_executable(&path) {
            Ok(_) => return Ok(path),
            // A shell looks whether it is there: a directory that cannot be searched has nothing.
            Err(Errno::ACCESS) => {
                denied |= accessat(CWD, &path, Access::EXISTS, AtFlags::empty()).is_ok()
            }
            Err(_) => {}
        }
    }
    Err(if denied { Errno::ACCESS } else { Errno::NOENT })
}

fn open_executable(path: &[u8]) -> Result<OwnedFd, Errno> {
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?;
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        _ => Err(Errno::ACCESS),
    }
}

/// Splits a `#!` line into interpreter and its one argument.
fn interpreter_of(head: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let line = head.strip_prefix(b"#!")?;
    let line = line.split(|&b| b == b'\n').next()?.trim_ascii();
    let mut words = line.splitn(2, |&b| b == b' ' || b == b'\t');
    let interpreter = words.next().filter(|w| !w.is_empty())?.to_vec();
    let argument = words.next().map(|a| a.trim_ascii().to_vec()).filter(|a| !a.is_empty());
    Some((interpreter, argument))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreter_lines_are_read_as_linux_reads_them() {
        let some = |i: &str, a: Option<&str>| Some((i.into(), a.map(|a| a.as_bytes().to_vec())));
        assert_eq!(interpreter_of(b"#!/bin/sh\nrest"), some("/bin/sh", None));
        assert_eq!(
            interpreter_of(b"#! /usr/bin/env  -S a b \n"),
            some("/usr/bin/env", Some("-S a b"))
        );
        assert_eq!(interpreter_of(b"#!\n"), None);
        assert_eq!(interpreter_of(b"echo"), None);
    }

    #[test]
    fn programs_are_searched_and_scripts_followed() {
        let search = Some(b"/nonexistent:/usr/bin:/bin".to_vec());
        let program = Program { path: b"sh".to_vec(), search: search.clone() };
        let found = find(&program, &[b"sh".to_vec()]).unwrap();
        assert!(found.path.starts_with(b"/"), "{:?}", found.path);
        assert_eq!(found.argv, [b"sh".to_vec()]);
        let missing = Program { path: b"no-such-program-here".to_vec(), search };
        assert_eq!(find(&missing, &[]).err(), Some(Errno::NOENT));
        let directory = Program { path: b"/tmp".to_vec(), search: None };
        assert_eq!(find(&directory, &[]).err(), Some(Errno::ACCESS));
    }
}
