//! The scripts that make a shell the process of an image.
//!
//! All of an image's values are checked by [`check`] before anything is built from them.

use super::calls::*;
use super::mappings::{OWN, SHIM_DATA, USER_END};
use super::script::{Outcome, Script, host};
use super::smaps::Area;
use crate::remote::Late;
use dunix_guest_abi::layout;
use dunix_keeper::protocol::OpenSpec;
use dunix_linux::Errno;
use dunix_wire::processes::image::{DESCRIPTORS_MAX, REASON_BYTES_MAX};
use dunix_wire::processes::moving::THREADS_MAX;
use dunix_wire::processes::resident::*;
use dunix_wire::processes::{ProcessRecord, Refusal};
use std::collections::BTreeMap;

/// Where the kernel's pages wait until their places are free.
const PARKING_PLACE: u64 = 0x2000_0000;
const PAGE: u64 = 4096;
/// `MADV_*` numbers for mapping flags.
const ADVICE: [(u32, u64); 8] = [
    (MAPPING_RANDOM, 1),
    (MAPPING_SEQUENTIAL, 2),
    (MAPPING_NO_FORK, 10),
    (MAPPING_MERGEABLE, 12),
    (MAPPING_HUGE, 14),
    (MAPPING_NO_HUGE, 15),
    (MAPPING_NO_DUMP, 16),
    (MAPPING_WIPE_ON_FORK, 18),
];
const READ_WRITE: u64 = 3;
/// Of `struct stat`: its size, and where `st_ino` is.
const STAT_BYTES: usize = 144;
const STAT_INODE: u64 = 8;
/// Most groups of a process (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65536;

/// Scripts one after the other.
#[derive(Default)]
pub(crate) struct Batch(pub(crate) Vec<Script>);

impl Batch {
    /// A script with room for so much.
    pub(crate) fn room(&mut self, calls: usize, bytes: usize) -> &mut Script {
        if !self.0.last().is_some_and(|script| script.has_room(calls, bytes)) {
            self.0.push(Script::new());
        }
        // Just made sure of.
        let last = self.0.len() - 1;
        &mut self.0[last]
    }
}

/// What a peer says is sound enough to be tried.
pub(crate) fn check(image: &ResidentImage, record: &ProcessRecord) -> Result<(), Refusal> {
    let is_free = |start: u64, end: u64| OWN.iter().all(|own| end <= own.start || own.end <= start);
    let is_page = |address: u64| address.is_multiple_of(PAGE) && address <= USER_END;
    let mut last = PAGE;
    let mappings = image.mappings.iter().all(|mapping| {
        let (start, end) = (mapping.start, mapping.end);
        let is_ordered = last <= start && start < end;
        last = end;
        is_ordered
            && is_page(start)
            && is_page(end)
            && is_free(start, end)
            && mapping.protection < 8
    });
    let kernel = image.kernel.ranges.iter().all(|&(start, end)| {
        start < end
            && is_page(start)
            && is_page(end)
            && (end <= layout::BASE || layout::END <= start)
    });
    let paths = image.mappings.iter().filter_map(|mapping| match &mapping.backing {
        Backing::Private { path, .. } | Backing::Shared { path, .. } => Some(path),
        _ => None,
    });
    let is_path = |path: &Vec<u8>| {
        path.starts_with(b"/")
            && path.len() < dunix_guest_abi::doorbell::PATH_BYTES
            && !path.contains(&0)
    };
    let paths = paths.chain([&image.cwd, &image.root]).all(is_path);
    let tids = image.threads.iter().map(|thread| thread.tid).skip(1);
    let threads = image.threads.len() <= THREADS_MAX + 1
        && image.threads.first().is_some_and(|first| first.tid == record.pid)
        && tids.collect::<std::collections::BTreeSet<_>>()
            == record.threads.iter().copied().collect();
    let signals = image.threads.iter().flat_map(|thread| &thread.signals).chain(&image.signals);
    let sound = mappings
        && kernel
        && paths
        && threads
        && signals.clone().all(|signal| signal.0.len() == SIGNAL_BYTES)
        && signals.count() <= SIGNALS_MAX
        && image.mappings.len() <= MAPPINGS_MAX
        && image.kernel.ranges.len() <= 8
        && image.descriptors.len() <= DESCRIPTORS_MAX
        && image.reason.len() <= REASON_BYTES_MAX
        && image.identity.groups.len() <= GROUPS_MAX
        && image.identity.rlimits.len() <= dunix_linux::identity::LIMITS
        && image.timers.posix.len() <= TIMERS_MAX
        && image.late.len() <= MAPPINGS_MAX
        && image.late.iter().all(|&(start, end)| start < end && is_page(start) && is_page(end))
        && image.memory.auxv.len() <= 1024
        && image.exe_path.len() < dunix_guest_abi::doorbell::PATH_BYTES
        && image.threads.iter().all(|thread| {
            thread.name.len() < 16 && thread.processors.len() <= PROCESSORS_BYTES_MAX
        });
    if sound { Ok(()) } else { Err(Refusal::Protocol) }
}

/// Empties the shell and maps what the image has. Files are opened at number 0: nothing else is open.
pub(crate) fn memory(image: &ResidentImage, shell: &[Area]) -> Result<Batch, Refusal> {
    let mut batch = Batch::default();
    let everything = u64::from(u32::MAX);
    batch.room(1, 0).must("closing all", CLOSE_RANGE, [0, everything, 0, 0, 0, 0]);
    let is_own = |area: &&Area| (layout::BASE..layout::END).contains(&area.start);
    let foreign = shell.iter().filter(|area| area.start < USER_END && !is_own(area));
    for area in foreign.filter(|area| !area.is_kernels()) {
        let bytes = area.end - area.start;
        batch.room(1, 0).must("unmapping", MUNMAP, [area.start, bytes, 0, 0, 0, 0]);
    }
    kernel_pages(&mut batch, image, shell)?;
    let mut shared: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for mapping in &image.mappings {
        match &mapping.backing {
            Backing::Shim => {
                if !is_covered(shell, mapping) {
                    return Err(Refusal::BuildDiffers);
                }
            }
            Backing::SharedAnonymous { number, offset } => {
                // One object, one mapping: its parts lie one after the other.
                let (start, end) = shared.entry(*number).or_insert((mapping.start, mapping.start));
                if *end != mapping.start || *offset != mapping.start - *start {
                    return Err(Refusal::Mapping { mapping: "shared memory in pieces".into() });
                }
                *end = mapping.end;
            }
            backing => map(batch.room(3, 4200), mapping, backing),
        }
    }
    for (start, end) in shared.into_values() {
        let flags = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED;
        let args = [start, end - start, READ_WRITE, flags, u64::MAX, 0];
        batch.room(1, 0).must("mapping shared memory", MMAP, args);
    }
    advise(&mut batch, image);
    layout_of(&mut batch, &image.memory);
    Ok(batch)
}

fn is_covered(shell: &[Area], mapping: &Mapping) -> bool {
    let mut at = mapping.start;
    for area in shell.iter().filter(|area| SHIM_DATA.contains(&area.start)) {
        if area.start <= at && at < area.end {
            at = area.end;
        }
    }
    at >= mapping.end
}

/// Moves the kernel's pages to where the source had them.
fn kernel_pages(batch: &mut Batch, image: &ResidentImage, shell: &[Area]) -> Result<(), Refusal> {
    let own: Vec<&Area> = shell.iter().filter(|area| area.is_kernels()).collect();
    let wanted = &image.kernel.ranges;
    let is_alike = own.len() == wanted.len()
        && own.iter().zip(wanted).all(|(own, &(start, end))| own.end - own.start == end - start);
    if !is_alike {
        return Err(Refusal::KernelDiffers);
    }
    let mut place = PARKING_PLACE;
    let mut moves = Vec::new();
    for (area, &(start, _)) in own.iter().zip(wanted) {
        let bytes = area.end - area.start;
        let args = [area.start, bytes, bytes, MREMAP_MAYMOVE_FIXED, place, 0];
        batch.room(1, 0).must("moving the kernel's pages", MREMAP, args);
        moves.push([place, bytes, bytes, MREMAP_MAYMOVE_FIXED, start, 0]);
        place += bytes;
    }
    for args in moves {
        batch.room(1, 0).must("moving the kernel's pages", MREMAP, args);
    }
    Ok(())
}

fn map(script: &mut Script, mapping: &Mapping, backing: &Backing) {
    let mut flags = MAP_FIXED;
    for (bit, flag) in [(MAPPING_GROWS_DOWN, MAP_GROWSDOWN), (MAPPING_NO_RESERVE, MAP_NORESERVE)] {
        if mapping.flags & bit != 0 {
            flags |= flag;
        }
    }
    let (start, bytes) = (mapping.start, mapping.end - mapping.start);
    let protection = u64::from(mapping.protection);
    let (path, offset, access, kind) = match backing {
        Backing::Private { path, offset } => (path, *offset, 0, MAP_PRIVATE),
        Backing::Shared { path, offset, writable } => {
            (path, *offset, if *writable { O_RDWR } else { 0 }, MAP_SHARED)
        }
        _ => {
            let flags = flags | MAP_PRIVATE | MAP_ANONYMOUS;
            let args = [start, bytes, protection, flags, u64::MAX, 0];
            script.must("mapping memory", MMAP, args);
            return;
        }
    };
    let path = script.put_path(path);
    let access = access | O_NOCTTY | O_CLOEXEC;
    script.must("opening a mapped file", OPENAT, [AT_FDCWD, path, access, 0, 0, 0]);
    let args = [start, bytes, protection, flags | kind, 0, offset];
    script.must("mapping a file", MMAP, args);
    script.must("closing a mapped file", CLOSE, [0; 6]);
}

fn advise(batch: &mut Batch, image: &ResidentImage) {
    for mapping in image.mappings.iter().filter(|mapping| mapping.backing != Backing::Shim) {
        let (start, bytes) = (mapping.start, mapping.end - mapping.start);
        for (_, advice) in ADVICE.iter().filter(|(flag, _)| mapping.flags & flag != 0) {
            batch.room(1, 0).must("madvise", MADVISE, [start, bytes, *advice, 0, 0, 0]);
        }
        if mapping.flags & MAPPING_LOCKED != 0 {
            const ON_FAULT: u64 = 1;
            batch.room(1, 0).must("mlock", MLOCK2, [start, bytes, ON_FAULT, 0, 0, 0]);
        }
    }
}

fn layout_of(batch: &mut Batch, memory: &MemoryLayout) {
    let script = batch.room(1, 2048);
    let auxv = script.put(&memory.auxv);
    let mut words = memory.addresses.to_vec();
    words.push(auxv);
    words.push(memory.auxv.len() as u64 | u64::from(u32::MAX) << 32);
    let map = script.put_words(&words);
    let bytes = words.len() as u64 * 8;
    script.must("describing memory", PRCTL, [PR_SET_MM, PR_SET_MM_MAP, map, bytes, 0, 0]);
}

/// Protections that pages had to come before.
pub(crate) fn late_protections(image: &ResidentImage) -> Script {
    let mut script = Script::new();
    for mapping in &image.mappings {
        let is_shared = matches!(mapping.backing, Backing::SharedAnonymous { .. });
        if is_shared && u64::from(mapping.protection) != READ_WRITE && script.has_room(1, 0) {
            let bytes = mapping.end - mapping.start;
            let args = [mapping.start, bytes, u64::from(mapping.protection), 0, 0, 0];
            script.must("mprotect", MPROTECT, args);
        }
    }
    script
}

/// What [`descriptors`] opens in one script.
#[derive(Default)]
pub(crate) struct Opened {
    /// Calls that must have given the number 0.
    opens: Vec<usize>,
    /// Where the inode numbers will be, and what they must be.
    inodes: Vec<(u64, u64)>,
}

impl Opened {
    /// # Errors
    /// [`Refusal::Host`] with `ESTALE` if a name has become another file's on the way.
    pub(crate) fn check(&self, outcome: &Outcome) -> Result<(), Refusal> {
        if !self.opens.iter().all(|index| outcome.value(*index) == Ok(0)) {
            return Err(Refusal::Protocol);
        }
        let is_it = |(at, inode): &(u64, u64)| outcome.bytes(*at, 8) == inode.to_ne_bytes();
        if self.inodes.iter().all(is_it) {
            return Ok(());
        }
        Err(host(Errno::STALE, "opening a file, which was renamed on the way,"))
    }
}

/// Opens the files of the tree at their numbers; then those that the daemon holds come by the
/// doorbell `take`. Nothing is open before. What gets the number 0 comes last.
pub(crate) fn descriptors(opens: &[OpenSpec], take: [u64; 6]) -> (Batch, Vec<Opened>) {
    let mut batch = Batch::default();
    let mut opened = vec![Opened::default()];
    let everything = u64::from(u32::MAX);
    batch.room(1, 0).must("closing all", CLOSE_RANGE, [0, everything, 0, 0, 0, 0]);
    let mut sorted: Vec<&OpenSpec> = opens.iter().collect();
    sorted.sort_by_key(|open| open.numbers.contains(&0));
    for open in sorted {
        let before = batch.0.len();
        let script = batch.room(5 + open.numbers.len(), open.path.len() + 8 + STAT_BYTES + 8);
        let (index, inode) = open_at(script, open);
        if batch.0.len() > before {
            opened.push(Opened::default());
        }
        if let Some(opened) = opened.last_mut() {
            opened.opens.push(index);
            opened.inodes.extend(inode);
        }
    }
    let nr = dunix_guest_abi::doorbell::NR;
    batch.room(1, 0).must("taking descriptors", nr, take);
    (batch, opened)
}

/// Opens at number 0, seeks, duplicates to the other numbers. Returns the index of the open; where the
/// inode number will be and what it must be.
fn open_at(script: &mut Script, open: &OpenSpec) -> (usize, Option<(u64, u64)>) {
    const NOT_AGAIN: u64 = 0o100 | 0o200 | 0o1000;
    let path = script.put_path(&open.path);
    let flags = u64::from(open.flags.cast_unsigned()) & !NOT_AGAIN | O_NOCTTY;
    let args = [AT_FDCWD, path, flags & !O_CLOEXEC, 0, 0, 0];
    let index = script.must("opening a file", OPENAT, args);
    let inode = open.inode.map(|inode| {
        let at = script.put(&[0; STAT_BYTES]);
        script.must("looking at a file", FSTAT, [0, at, 0, 0, 0, 0]);
        (at + STAT_INODE, inode)
    });
    if let Some(offset) = open.offset {
        script.must("seeking in a file", LSEEK, [0, offset, 0, 0, 0, 0]);
    }
    for &number in open.numbers.iter().filter(|number| **number != 0) {
        script.must("placing a file", DUP3, [0, int(number), 0, 0, 0, 0]);
    }
    if !open.numbers.contains(&0) {
        script.must("closing a file", CLOSE, [0; 6]);
    }
    (index, inode)
}

/// What the process does with its descriptors once it has all.
pub(crate) fn late_descriptors(batch: &mut Batch, late: &[Late]) {
    for late in late {
        let script = batch.room(1, 32);
        let data = late.structure().map_or(0, |bytes| script.put(&bytes));
        let (nr, args) = late.call(data);
        script.must("restoring a descriptor", nr, args);
    }
}

/// Makes the first thread, which is the only one, who the image says; `own` is what the shell may
/// have (its permitted capabilities).
pub(crate) fn identity(image: &ResidentImage, own: u64) -> Batch {
    let mut batch = Batch::default();
    let identity = &image.identity;
    let groups_bytes = identity.groups.len() * 4;
    let script = batch.room(64, image.root.len() + image.cwd.len() + groups_bytes + 64);
    if image.root != b"/" {
        let root = script.put_path(&image.root);
        script.must("chroot", CHROOT, [root, 0, 0, 0, 0, 0]);
    }
    let cwd = script.put_path(&image.cwd);
    script.must("chdir", CHDIR, [cwd, 0, 0, 0, 0, 0]);
    script.may(UMASK, [u64::from(identity.umask), 0, 0, 0, 0, 0]);
    script.may(PERSONALITY, [u64::from(identity.personality), 0, 0, 0, 0, 0]);
    // Alone it waits for nobody.
    for command in (0..u32::BITS).map(|bit| identity.barriers & 1 << bit).filter(|c| *c != 0) {
        script.may(MEMBARRIER, [u64::from(command), 0, 0, 0, 0, 0]);
    }
    // A change of users takes none of the rights that are still needed.
    set(script, "setting secure bits", PR_SET_SECUREBITS, NO_SETUID_FIXUP);
    let groups: Vec<u8> = identity.groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
    let at = script.put(&groups);
    let count = identity.groups.len() as u64;
    script.must("setgroups", SETGROUPS, [count, at, 0, 0, 0, 0]);
    let [real, effective, saved] = identity.gids.map(u64::from);
    script.must("setresgid", SETRESGID, [real, effective, saved, 0, 0, 0]);
    let [real, effective, saved] = identity.uids.map(u64::from);
    script.must("setresuid", SETRESUID, [real, effective, saved, 0, 0, 0]);
    let [user, group] = identity.fs_ids.map(u64::from);
    script.may(SETFSGID, [group, 0, 0, 0, 0, 0]);
    script.may(SETFSUID, [user, 0, 0, 0, 0, 0]);
    capabilities(&mut batch, identity, own);
    let script = batch.room(3, 0);
    if identity.no_new_privs {
        set(script, "setting no_new_privs", PR_SET_NO_NEW_PRIVS, 1);
    }
    // What only root may dump cannot be asked for.
    set(script, "setting dumpable", PR_SET_DUMPABLE, u64::from(identity.dumpable == 1));
    if identity.death_signal != 0 {
        set(script, "setting a signal", PR_SET_PDEATHSIG, u64::from(identity.death_signal));
    }
    batch
}

/// `SECBIT_NO_SETUID_FIXUP`.
const NO_SETUID_FIXUP: u64 = 1 << 2;

fn set(script: &mut Script, doing: &'static str, option: u64, value: u64) {
    script.must(doing, PRCTL, [option, value, 0, 0, 0, 0]);
}

/// Takes what the process does not have of all that the shell has: what needs a right comes before
/// that is gone.
fn capabilities(batch: &mut Batch, identity: &Identity, own: u64) {
    let [effective, permitted, inheritable, bounding, ambient] = identity.capabilities;
    let bits = |set: u64| (0..u64::from(u64::BITS)).filter(move |bit| set & 1 << bit != 0);
    // Before the bounding set is lowered, above which it cannot be raised.
    set_capabilities(batch.room(1, 64), [own, own, inheritable]);
    for bit in bits(own & !bounding) {
        set(batch.room(1, 0), "lowering the bounding set", PR_CAPBSET_DROP, bit);
    }
    for bit in bits(ambient) {
        let args = [PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, bit, 0, 0, 0];
        batch.room(1, 0).must("raising a capability", PRCTL, args);
    }
    let secure = u64::from(identity.securebits);
    set(batch.room(1, 0), "setting secure bits", PR_SET_SECUREBITS, secure);
    set_capabilities(batch.room(1, 64), [effective, permitted, inheritable]);
}

/// capset(2) of the calling thread: effective, permitted, inheritable.
fn set_capabilities(script: &mut Script, sets: [u64; 3]) {
    const VERSION: u32 = 0x2008_0522;
    let half = |at: usize| sets.map(|set| set.to_le_bytes().as_chunks::<4>().0[at]);
    let words = [half(0), half(1)].concat();
    let header = script.put(&[VERSION.to_ne_bytes(), [0; 4]].concat());
    let data = script.put(words.as_flattened());
    script.must("setting capabilities", CAPSET, [header, data, 0, 0, 0, 0]);
}

/// What a thread is told before it resumes.
pub(crate) fn thread(script: &mut Script, image: &ResidentImage, thread: &ThreadImage) {
    let name = script.put_path(&thread.name);
    script.may(PRCTL, [PR_SET_NAME, name, 0, 0, 0, 0]);
    if thread.nice != 0 || image.identity.nice != 0 {
        script.may(SETPRIORITY, [0, 0, int(i32::from(thread.nice)), 0, 0, 0]);
    }
    if !thread.processors.is_empty() {
        let bytes = thread.processors.len() as u64;
        let set = script.put(&thread.processors);
        // A node that has none of them gives all that it has.
        script.may(SCHED_SETAFFINITY, [0, bytes, set, 0, 0, 0]);
    }
    if thread.policy != 0 {
        let priority = script.put(&u32::from(thread.priority).to_ne_bytes());
        let policy = u64::from(thread.policy);
        script.must("sched_setscheduler", SCHED_SETSCHEDULER, [0, policy, priority, 0, 0, 0]);
    }
    if thread.timer_slack != 0 {
        script.may(PRCTL, [PR_SET_TIMERSLACK, thread.timer_slack, 0, 0, 0, 0]);
    }
}

/// What the process gets last, when it has what waited for it.
pub(crate) fn limits(image: &ResidentImage) -> Script {
    let mut script = Script::new();
    for (resource, &(soft, hard)) in (0_u64..).zip(&image.identity.rlimits) {
        let limit = script.put_words(&[soft, hard]);
        // Beyond what this node may give: its own hard limit stays.
        script.may(PRLIMIT64, [0, resource, limit, 0, 0, 0]);
    }
    script
}
