//! Directory entries as getdents64(2) gives them (`struct linux_dirent64`), and how those of
//! `/proc` are rewritten.

use crate::proc_path::{number, write_number};

const RECORD_BYTES_AT: usize = 16;
const NAME_AT: usize = 19;
/// Longest name of a process below `/proc`.
const DIGITS_MAX: usize = 10;

/// Bytes of the entry of a process with the longest number.
pub const PROCESS_BYTES: usize = (NAME_AT + DIGITS_MAX + 1).next_multiple_of(8);

/// Of a buffer of `bytes`, how much to ask the host for, so that the rewritten entries fit: an
/// entry of at least 24 bytes grows by at most 8.
#[must_use]
pub const fn room_for_rewriting(bytes: usize) -> usize {
    bytes / 4 * 3
}

/// Rewrites the processes among `entries`: `rename` gives the new number, or `None` to leave the
/// process out. Other entries stay. Returns the bytes used in `to`, or `None` if `entries` is malformed or `to` too small.
pub fn rename_processes(
    entries: &[u8],
    to: &mut [u8],
    mut rename: impl FnMut(u32) -> Option<u32>,
) -> Option<usize> {
    let (mut at, mut used) = (0, 0);
    while at < entries.len() {
        let size = entries.get(at + RECORD_BYTES_AT..at + RECORD_BYTES_AT + 2)?;
        let size = usize::from(u16::from_le_bytes([size[0], size[1]]));
        let record = entries.get(at..at + size).filter(|record| record.len() > NAME_AT)?;
        at += size;
        let name = &record[NAME_AT..];
        let name = &name[..name.iter().position(|&b| b == 0)?];
        used += match number(name) {
            None => copy(record, to.get_mut(used..)?)?,
            Some(process) => match rename(process) {
                None => 0,
                Some(process) => renamed(record, process, to.get_mut(used..)?)?,
            },
        };
    }
    Some(used)
}

fn copy(record: &[u8], to: &mut [u8]) -> Option<usize> {
    to.get_mut(..record.len())?.copy_from_slice(record);
    Some(record.len())
}

fn renamed(record: &[u8], process: u32, to: &mut [u8]) -> Option<usize> {
    let mut digits = [0u8; DIGITS_MAX];
    let len = write_number(u64::from(process), &mut digits)?;
    let size = (NAME_AT + len + 1).next_multiple_of(8);
    let to = to.get_mut(..size)?;
    to.fill(0);
    to[..NAME_AT].copy_from_slice(&record[..NAME_AT]);
    to[RECORD_BYTES_AT..RECORD_BYTES_AT + 2]
        .copy_from_slice(&u16::try_from(size).ok()?.to_le_bytes());
    to[NAME_AT..NAME_AT + len].copy_from_slice(&digits[..len]);
    Some(size)
}

/// Writes the entry of a process, which says that reading goes on at `next`. Returns its bytes, or `None` if `to` is too
/// small.
pub fn process_entry(process: u32, next: u64, to: &mut [u8]) -> Option<usize> {
    const TYPE_AT: usize = 18;
    const DIRECTORY: u8 = 4;
    /// Any inode's number but 0, which stands for a removed entry.
    const INO_BASE: u64 = 1 << 32;
    let mut digits = [0u8; DIGITS_MAX];
    let len = write_number(u64::from(process), &mut digits)?;
    let size = (NAME_AT + len + 1).next_multiple_of(8);
    let to = to.get_mut(..size)?;
    to.fill(0);
    to[..8].copy_from_slice(&(INO_BASE + u64::from(process)).to_le_bytes());
    to[8..RECORD_BYTES_AT].copy_from_slice(&next.to_le_bytes());
    to[RECORD_BYTES_AT..RECORD_BYTES_AT + 2]
        .copy_from_slice(&u16::try_from(size).ok()?.to_le_bytes());
    to[TYPE_AT] = DIRECTORY;
    to[NAME_AT..NAME_AT + len].copy_from_slice(&digits[..len]);
    Some(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn entry(name: &str) -> Vec<u8> {
        let size = (NAME_AT + name.len() + 1).next_multiple_of(8);
        let mut record = Vec::from([7u8; 16]);
        record.extend(u16::try_from(size).expect("short").to_le_bytes());
        record.push(4);
        record.extend(name.as_bytes());
        record.resize(size, 0);
        record
    }

    #[test]
    fn processes_are_renamed_or_left_out() {
        let host = [entry("cpuinfo"), entry("12"), entry("7"), entry("self")].concat();
        let mut out = [0u8; 512];
        let used = rename_processes(&host, &mut out, |pid| (pid == 12).then_some(1_000_000_001));
        let wanted = [entry("cpuinfo"), entry("1000000001"), entry("self")].concat();
        assert_eq!(&out[..used.expect("fits")], wanted);
    }

    #[test]
    fn the_room_suffices_for_the_greatest_growth() {
        let host = [entry("1"), entry("2"), entry("3"), entry("4")].concat();
        let mut out = [0u8; 128];
        assert!(host.len() <= room_for_rewriting(out.len()));
        assert_eq!(rename_processes(&host, &mut out, |_| Some(1_073_741_823)), Some(128));
    }

    #[test]
    fn entries_of_processes_are_like_the_hosts() {
        let mut out = [0u8; PROCESS_BYTES];
        let size = process_entry(1_073_741_823, 77, &mut out).expect("fits");
        assert_eq!(size, PROCESS_BYTES);
        assert_eq!(out[8..16], 77u64.to_le_bytes());
        assert_eq!((out[16], out[18]), (32, 4));
        assert_eq!(&out[19..30], b"1073741823\0");
        assert_eq!(process_entry(7, 1, &mut out), Some(24));
        assert_eq!(process_entry(7, 1, &mut out[..23]), None);
        assert_eq!(rename_processes(&out[..24], &mut [0; 64], |_| None), Some(0));
    }

    #[test]
    fn malformed_entries_are_refused() {
        let good = entry("12");
        for cut in 1..good.len() {
            assert_eq!(rename_processes(&good[..cut], &mut [0; 64], Some), None, "cut at {cut}");
        }
        let mut endless = good;
        endless[16..18].copy_from_slice(&[0, 0]);
        assert_eq!(rename_processes(&endless, &mut [0; 64], Some), None);
    }
}
