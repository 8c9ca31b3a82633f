//! What a process has mapped, as its next node will map it; and what keeps it here.
//!
//! Refuses: memory that others write too, devices, and what only this node's kernel has.

use super::smaps::{self, Area};
use crate::node::Node;
use dunix_guest_abi::layout;
use dunix_linux::Errno;
use dunix_linux::guest_memory::GuestMemory;
use dunix_wire::processes::Refusal;
use dunix_wire::processes::resident::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What was found.
pub(crate) struct Mapped {
    pub(crate) mappings: Vec<Mapping>,
    /// The kernel's own mappings: start, end.
    pub(crate) kernel: Vec<(u64, u64)>,
    /// What of them has to be looked at for pages of their own.
    pub(crate) looks: Vec<Look>,
}

/// A range whose pages may travel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Look {
    pub(crate) range: Range<u64>,
    /// Every page travels, not only those that belong to no file.
    pub(crate) is_whole: bool,
    /// Its pages may follow while the process runs: private memory of no file, at both ends, that is
    /// neither locked nor wiped by a fork.
    pub(crate) may_follow: bool,
}

/// Mappings that are every process's own and never travel as such.
pub(crate) const OWN: [Range<u64>; 3] = [
    layout::TEXT_START..layout::DATA_START,
    layout::ARENA_START..layout::VDSO_START,
    layout::SCRIPT_START..layout::ARRIVAL_END,
];
/// The shim's data.
pub(crate) const SHIM_DATA: Range<u64> = layout::DATA_START..layout::ARENA_START;
/// Where user space ends.
pub(crate) const USER_END: u64 = 0x7fff_ffff_f000;

/// `VmFlags` that cannot be made again: I/O memory, page frames, huge pages of hugetlbfs, shadow stacks,
/// guests' own userfaultfd.
const UNMOVABLE: [&[u8; 2]; 7] = [b"io", b"pf", b"ht", b"ss", b"um", b"uw", b"ui"];
/// `VmFlags` that a target sets again.
const KEPT: [(&[u8; 2], u32); 11] = [
    (b"gd", MAPPING_GROWS_DOWN),
    (b"lo", MAPPING_LOCKED),
    (b"nr", MAPPING_NO_RESERVE),
    (b"dd", MAPPING_NO_DUMP),
    (b"dc", MAPPING_NO_FORK),
    (b"wf", MAPPING_WIPE_ON_FORK),
    (b"hg", MAPPING_HUGE),
    (b"nh", MAPPING_NO_HUGE),
    (b"sr", MAPPING_SEQUENTIAL),
    (b"rr", MAPPING_RANDOM),
    (b"mg", MAPPING_MERGEABLE),
];

/// Reads the mappings of a host process.
pub(crate) fn areas_of(host_pid: u32) -> Result<Vec<Area>, Errno> {
    let text = std::fs::read(format!("/proc/{host_pid}/smaps"));
    Ok(smaps::parse(&text.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::SRCH))?))
}

/// Describes the mappings of a frozen process. Blocks on the tree.
pub(crate) fn describe(node: &Node, host_pid: u32) -> Result<Mapped, Refusal> {
    let areas = areas_of(host_pid).map_err(|e| super::script::host(e, "reading mappings"))?;
    if areas.len() > MAPPINGS_MAX {
        return Err(Refusal::TooLarge { what: "its mappings are too many".into() });
    }
    let mut describer = Describer { node, host_pid, numbers: BTreeMap::new() };
    let mut mapped = Mapped { mappings: Vec::new(), kernel: Vec::new(), looks: Vec::new() };
    for area in &areas {
        if area.start >= USER_END || OWN.iter().any(|own| own.contains(&area.start)) {
            continue;
        }
        if area.is_kernels() {
            mapped.kernel.push((area.start, area.end));
            continue;
        }
        describer.add(area, &mut mapped)?;
    }
    describer.check_alone(&areas)?;
    Ok(mapped)
}

struct Describer<'a> {
    node: &'a Node,
    host_pid: u32,
    /// Numbers of shared anonymous memory, by inode.
    numbers: BTreeMap<u64, u64>,
}

impl Describer<'_> {
    fn add(&mut self, area: &Area, mapped: &mut Mapped) -> Result<(), Refusal> {
        if UNMOVABLE.iter().any(|flag| area.has(flag)) {
            return Err(unmovable(area));
        }
        let (backing, is_whole) = self.backing(area)?;
        let flags =
            KEPT.iter().filter(|(flag, _)| area.has(flag)).fold(0, |all, (_, bit)| all | bit);
        let (start, end, protection) = (area.start, area.end, area.protection);
        if let Some(range) = self.look(area, &backing, is_whole) {
            let must_come = is_whole || flags & (MAPPING_LOCKED | MAPPING_WIPE_ON_FORK) != 0;
            let may_follow = backing == Backing::Anonymous && !must_come;
            mapped.looks.push(Look { range, is_whole, may_follow });
        }
        mapped.mappings.push(Mapping { start, end, protection, flags, backing });
        Ok(())
    }

    /// What the mapping shows, and whether all of its pages have to travel.
    fn backing(&mut self, area: &Area) -> Result<(Backing, bool), Refusal> {
        if SHIM_DATA.contains(&area.start) {
            return Ok((Backing::Shim, false));
        }
        if area.inode == 0 && !area.is_shared {
            return Ok((Backing::Anonymous, false));
        }
        let Some((path, is_there)) = area.path() else { return Err(unmovable(area)) };
        if area.is_shared && !is_there && path == b"/dev/zero" {
            let next = self.numbers.len() as u64;
            let number = *self.numbers.entry(area.inode).or_insert(next);
            return Ok((Backing::SharedAnonymous { number, offset: area.offset }, true));
        }
        if area.is_shared && (path.starts_with(b"/SYSV") || path.starts_with(b"/dev/shm/")) {
            return Err(Refusal::SharedMemory { mapping: Refusal::text(&area.shown()) });
        }
        let is_there =
            is_there && crate::remote::is_named(self.node, self.host_pid, path, area.inode);
        let path = self.node.below_root(path.to_vec());
        match (area.is_shared, is_there) {
            (false, true) => Ok((Backing::Private { path, offset: area.offset }, false)),
            // Nobody can map the file again: what it showed goes along.
            (false, false) => Ok((Backing::Anonymous, true)),
            (true, true) => {
                let writable = area.has(b"mw");
                Ok((Backing::Shared { path, offset: area.offset, writable }, false))
            }
            (true, false) => Err(unmovable(area)),
        }
    }

    fn look(&self, area: &Area, backing: &Backing, is_whole: bool) -> Option<Range<u64>> {
        let range = area.start..area.end;
        match backing {
            Backing::Shared { .. } => None,
            Backing::Anonymous if is_whole => {
                // Pages behind the file's end do not exist.
                let there = readable_bytes(self.host_pid, &range);
                (there > 0).then(|| range.start..range.start + there)
            }
            Backing::Private { .. } if area.anonymous + area.swapped == 0 => None,
            _ if area.resident + area.swapped == 0 => None,
            _ => Some(range),
        }
    }

    /// Refuses shared anonymous memory that another process has too.
    fn check_alone(&self, areas: &[Area]) -> Result<(), Refusal> {
        if self.numbers.is_empty() {
            return Ok(());
        }
        let ours: BTreeSet<(&str, u64)> = areas
            .iter()
            .filter(|area| area.is_shared && self.numbers.contains_key(&area.inode))
            .map(|area| (area.device.as_str(), area.inode))
            .collect();
        let Ok(processes) = std::fs::read_dir("/proc") else { return Ok(()) };
        let pids = processes.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
        for pid in pids.filter(|&pid| pid != self.host_pid) {
            let Ok(text) = std::fs::read(format!("/proc/{pid}/maps")) else { continue };
            let others = smaps::parse(&text);
            let is_ours =
                |area: &&Area| area.is_shared && ours.contains(&(area.device.as_str(), area.inode));
            if let Some(area) = others.iter().find(is_ours) {
                return Err(Refusal::SharedMemory { mapping: Refusal::text(&area.shown()) });
            }
        }
        Ok(())
    }
}

fn unmovable(area: &Area) -> Refusal {
    Refusal::Mapping { mapping: Refusal::text(&area.shown()) }
}

/// Whole pages from the range's start that can be read.
fn readable_bytes(host_pid: u32, range: &Range<u64>) -> u64 {
    const STEP: u64 = 1 << 20;
    let memory = GuestMemory::of(host_pid);
    let mut buffer = vec![0; 1 << 20];
    let mut at = range.start;
    while at < range.end {
        let want = (range.end - at).min(STEP);
        let into = buffer.get_mut(..usize::try_from(want).unwrap_or(0)).unwrap_or_default();
        let got = memory.read_some(at, into).unwrap_or(0) as u64;
        at += got;
        if got < want {
            break;
        }
    }
    (at - range.start) & !4095
}
