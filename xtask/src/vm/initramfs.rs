//! An initramfs: a cpio archive in the "newc" format (linux/Documentation/driver-api/early-userspace).

use anyhow::{Context, Result};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

const FILE: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
/// Entries start, and contents end, at multiples of this.
const ALIGN: usize = 4;

/// An archive under construction.
#[derive(Default)]
pub(crate) struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
}

impl Initramfs {
    pub(crate) fn add_file(&mut self, path: &str, content: &[u8]) {
        self.add(path, FILE | 0o644, content);
    }

    pub(crate) fn add_program(&mut self, path: &str, content: &[u8]) {
        self.add_parents(path);
        self.add(path, FILE | 0o755, content);
    }

    pub(crate) fn add_folder(&mut self, path: &str) {
        self.add(path, FOLDER | 0o755, &[]);
    }

    /// Adds everything in a folder of this machine.
    pub(crate) fn add_tree(&mut self, path: &str, from: &Path) -> Result<()> {
        for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
            let entry = entry?;
            let inside = format!("{path}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.add_folder(&inside);
                self.add_tree(&inside, &entry.path())?;
            } else {
                let mode = entry.metadata()?.permissions().mode() & 0o777;
                self.add(&inside, FILE | mode, &fs::read(entry.path())?);
            }
        }
        Ok(())
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }

    /// The kernel makes no folder by itself; one that comes twice is no error.
    fn add_parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.add_folder(parent);
        }
    }

    fn add(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (name_bytes, bytes) = (path.len() + 1, content.len());
        // inode, mode, uid, gid, links, time, size, device (2), number (2), name's bytes, check
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{bytes:08x}{:08x}{:08x}{:08x}{:08x}{name_bytes:08x}{:08x}",
            self.entries, 0, 0, 1, 0, 0, 0, 0, 0, 0
        );
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_the_trailer_is_last() {
        let mut archive = Initramfs::default();
        archive.add_program("bin/a", b"12345");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % ALIGN, 0);
        let starts: Vec<usize> = bytes
            .windows(6)
            .enumerate()
            .filter(|(_, w)| w == b"070701")
            .map(|(at, _)| at)
            .collect();
        assert_eq!(starts.len(), 3, "the folder, the program, the trailer");
        assert!(starts.iter().all(|at| at % ALIGN == 0));
        assert!(bytes.windows(10).any(|w| w == b"TRAILER!!!"));
    }
}
