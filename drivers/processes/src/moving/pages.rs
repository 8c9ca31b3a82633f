//! Which pages of a frozen process travel, and where arriving ones are put.
//!
//! How they travel is the pager's. Pages of private anonymous memory may follow while the process
//! runs; all others come before: userfaultfd does not miss them.

use super::mappings::Look;
use super::pager::{Content, PageSource};
use dunix_guest_abi::layout;
use dunix_linux::Errno;
use dunix_linux::guest_memory::GuestMemory;
use dunix_linux::page_scan::PageScan;
use dunix_wire::processes::resident::Mapping;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Finds the pages of a process that does not run. `at_once`: parts of what may follow that should
/// not.
pub(crate) fn source_of(
    process: u32,
    looks: &[Look],
    at_once: Vec<Range<u64>>,
    is_safe: bool,
) -> Result<PageSource, Errno> {
    let scan = PageScan::of(process)?;
    let (mut needed, mut rest) = (at_once, Vec::new());
    for look in looks {
        let range = look.range.clone();
        let is_shims = (layout::BASE..layout::END).contains(&range.start);
        if look.may_follow && !is_shims {
            rest.push(range);
        } else if look.is_whole {
            needed.push(range);
        } else {
            scan.own_pages(range, &mut needed)?;
        }
    }
    Ok(PageSource { process, needed, rest, first: Vec::new(), is_safe })
}

/// Where arriving pages go.
pub(crate) struct Sink<'a> {
    host_pid: u32,
    mappings: &'a [Mapping],
    forced: Option<File>,
}

impl<'a> Sink<'a> {
    /// `mappings`, by address, are all in place.
    pub(crate) fn new(host_pid: u32, mappings: &'a [Mapping]) -> Sink<'a> {
        Sink { host_pid, mappings, forced: None }
    }

    /// Puts one part; from a thread that may block.
    ///
    /// # Errors
    /// [`Errno::PROTO`] for a place that the image does not name, or what the host says.
    pub(crate) fn put(&mut self, at: u64, content: Content<'_>) -> Result<(), Errno> {
        // Nobody has written to these mappings yet: what is to be zero is.
        let Content::Bytes(mut bytes) = content else { return Ok(()) };
        let mut at = at;
        // A run may reach over neighbouring mappings.
        while !bytes.is_empty() {
            let mapping = self.mapping_of(at).ok_or(Errno::PROTO)?;
            let room = usize::try_from(mapping.end - at).unwrap_or(usize::MAX);
            let (here, beyond) = bytes.split_at(room.min(bytes.len()));
            self.put_into(mapping, at, here)?;
            at = mapping.end;
            bytes = beyond;
        }
        Ok(())
    }

    fn put_into(&mut self, mapping: &Mapping, at: u64, bytes: &[u8]) -> Result<(), Errno> {
        if mapping.protection & super::smaps::WRITE != 0 {
            return GuestMemory::of(self.host_pid).write(at, bytes);
        }
        // Private pages that the process itself may not write.
        let file = match &self.forced {
            Some(file) => file,
            None => self.forced.insert(open_memory(self.host_pid)?),
        };
        file.write_all_at(bytes, at).map_err(|e| errno(&e))
    }

    fn mapping_of(&self, at: u64) -> Option<&'a Mapping> {
        let after = self.mappings.partition_point(|mapping| mapping.start <= at);
        self.mappings.get(after.checked_sub(1)?).filter(|mapping| at < mapping.end)
    }
}

fn open_memory(host_pid: u32) -> Result<File, Errno> {
    File::options().write(true).open(format!("/proc/{host_pid}/mem")).map_err(|e| errno(&e))
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
