//! Describing a frozen process: what its kernel, its files and the tree say of it.

use super::hall::Hall;
use super::mappings::{self, Mapped};
use super::pager::PageSource;
use super::pending::Member;
use super::script::{Particulars, Script, host};
use super::{Frozen, calls, clocks};
use crate::node::{Node, State};
use crate::remote::{Capture, Offer, Unmovable, directory, inside, shortened};
use dunix_guest_abi::moving::{PARK_STRICT, ParkRecord};
use dunix_ids::{NodeId, Pid};
use dunix_linux::guest_memory::GuestMemory;
use dunix_linux::{Errno, identity};
use dunix_wire::processes::Refusal;
use dunix_wire::processes::resident::*;
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Whose threads have run times that a node has admitted (sched(7)).
const SCHED_DEADLINE: u8 = 6;

/// A description and what it promises.
pub(crate) struct Described {
    pub(crate) image: ResidentImage,
    pub(crate) offer: Offer,
    pub(crate) source: PageSource,
}

/// What is described.
pub(crate) struct Subject {
    pub(crate) pid: Pid,
    pub(crate) hall: Arc<Hall>,
    /// The first one first.
    pub(crate) members: Vec<Member>,
    /// Addresses of their records.
    pub(crate) records: Vec<u64>,
    pub(crate) signals: Vec<SignalImage>,
    pub(crate) of_threads: BTreeMap<u32, Vec<SignalImage>>,
    pub(crate) timers: Timers,
    /// All pages go before it runs elsewhere.
    pub(crate) is_safe: bool,
}

/// Describes it for a node.
pub(crate) async fn describe(
    node: &Arc<Node>,
    frozen: &Frozen,
    to: NodeId,
    is_safe: bool,
) -> Result<Described, Refusal> {
    let subject = frozen.subject(is_safe);
    let said = ask_kernel(node, &subject).await?;
    let node = node.clone();
    // Looks into the tree, which may wait for this runtime's threads.
    let described =
        node.clone().runtime.spawn_blocking(move || put_together(&node, subject, to, said));
    described.await.unwrap_or(Err(Refusal::Host {
        errno: dunix_wire::processes::Errno::IO,
        doing: "describing it".into(),
    }))
}

/// What only the process itself can ask its kernel.
struct Said {
    heap_end: u64,
    monotonic_ns: u64,
    dumpable: u8,
    death_signal: u8,
    securebits: u32,
    personality: u32,
    barriers: u32,
    /// How many filters of the shim it runs under.
    filters: u32,
}

async fn ask_kernel(node: &Node, subject: &Subject) -> Result<Said, Refusal> {
    let mut script = Script::new();
    let signal = script.put(&[0; 8]);
    let heap = script.must("brk", calls::BRK, [0; 6]);
    let prctl = |script: &mut Script, option, argument| {
        script.must("prctl", calls::PRCTL, [option, argument, 0, 0, 0, 0])
    };
    let dumpable = prctl(&mut script, calls::PR_GET_DUMPABLE, 0);
    let secure = prctl(&mut script, calls::PR_GET_SECUREBITS, 0);
    prctl(&mut script, calls::PR_GET_PDEATHSIG, signal);
    let personality = script.must("personality", calls::PERSONALITY, [0xffff_ffff, 0, 0, 0, 0, 0]);
    let clock = clocks::read(&mut script);
    let wide = script.may(calls::WIDE_PROBE, [0; 6]);
    let barriers = script.may(calls::MEMBARRIER, [calls::GET_REGISTRATIONS, 0, 0, 0, 0, 0]);
    let none = Particulars::default();
    let done = node.run_script(&subject.hall, subject.pid.get(), &script, &none).await?;
    let value = |index| done.value(index).unwrap_or(0);
    let small = |value: u64| u8::try_from(value).unwrap_or(0);
    Ok(Said {
        heap_end: value(heap),
        monotonic_ns: clocks::nanos(done.words(clock)),
        dumpable: small(value(dumpable)),
        death_signal: done.bytes(signal, 1).first().copied().unwrap_or(0),
        securebits: u32::try_from(value(secure)).unwrap_or(0),
        personality: u32::try_from(value(personality)).unwrap_or(0),
        barriers: u32::try_from(value(barriers)).unwrap_or(0),
        filters: if done.value(wide) == Err(Errno::ALREADY) { 2 } else { 1 },
    })
}

fn put_together(
    node: &Arc<Node>,
    subject: Subject,
    to: NodeId,
    said: Said,
) -> Result<Described, Refusal> {
    let host_pid = subject.hall.host_pid;
    let reading = |errno| super::freeze::host_or_end(errno, "reading about it");
    let remote = node.look(|state| state.locals.get(&subject.pid).map(|l| l.remote.for_child()));
    let remote = remote.unwrap_or_default();
    let undrained = remote.undrained(&node.homes, node.id);
    let capture = Capture::for_move(node.clone(), to, host_pid, remote);
    let mut offer = capture.run().map_err(refusal_of)?;
    let facts = Facts::of(host_pid)?;
    let own = Facts::of(std::process::id())?;
    let Mapped { mappings, kernel, looks } = mappings::describe(node, host_pid)?;
    let parked = records_of(&subject).map_err(reading)?;
    let memory = layout_of(host_pid, said.heap_end).ok_or(reading(Errno::SRCH))?;
    let at_once = super::late::touched_at_once(&parked, &memory.shown(), &looks);
    let source = super::pages::source_of(host_pid, &looks, at_once, subject.is_safe);
    let source = source.map_err(|e| host(e, "looking for its pages"))?;
    let late = if subject.is_safe { &[][..] } else { &source.rest };
    let late = late.iter().map(|range| (range.start, range.end)).collect();
    let root = existing(node, host_pid, "root")?;
    let cwd = inside(&root, existing(node, host_pid, "cwd")?);
    offer.see_from(&root);
    let program = |state: &State| {
        let local = state.locals.get(&subject.pid)?;
        Some((local.exe_path.to_vec(), local.wish.flags(), local.settled, local.leaves_for.clone()))
    };
    let (exe_path, place, settled, why) = node.look(program).ok_or(Refusal::Ended)?;
    let image = ResidentImage {
        shim: node.shim_fingerprint(),
        kernel: KernelPages { fingerprint: kernel_fingerprint(host_pid, &kernel), ranges: kernel },
        exe_path,
        place,
        moves: settled.moves,
        is_pinned: settled.is_pinned,
        reason: shortened(why.as_deref().unwrap_or("it was moved here")),
        cwd,
        root,
        identity: identity_of(node, host_pid, &facts, &said).map_err(reading)?,
        monotonic_ns: said.monotonic_ns,
        memory,
        mappings,
        threads: threads_of(&subject, &parked, own.filters + said.filters)?,
        descriptors: std::mem::take(&mut offer.descriptors),
        undrained,
        signals: subject.signals,
        timers: subject.timers,
        late,
    };
    offer.announce();
    Ok(Described { image, offer, source })
}

fn refusal_of(error: Unmovable) -> Refusal {
    match error {
        Unmovable::Descriptor { fd, what } => Refusal::Descriptor { fd, what: what.into() },
        Unmovable::SharesMemory => Refusal::SharedMemory { mapping: error.to_string() },
        Unmovable::Capabilities => Refusal::KernelState { what: error.to_string() },
        Unmovable::TooMany => Refusal::TooLarge { what: error.to_string() },
        Unmovable::Host(errno) => super::freeze::host_or_end(errno, "looking at its descriptors"),
    }
}

fn existing(node: &Node, host_pid: u32, name: &str) -> Result<Vec<u8>, Refusal> {
    directory(node, host_pid, name).map_err(|errno| match errno {
        Errno::NOENT if crate::host::link(host_pid, name).is_ok() => {
            Refusal::KernelState { what: format!("its {name} has been removed or renamed") }
        }
        _ => Refusal::Ended,
    })
}

fn identity_of(node: &Node, host_pid: u32, facts: &Facts, said: &Said) -> Result<Identity, Errno> {
    let status = crate::host::Status::of(host_pid, node.ids_base)?;
    let nice = crate::host::Times::of(host_pid).map_or(0, |times| times.nice);
    Ok(Identity {
        uids: status.uids,
        gids: status.gids,
        fs_ids: status.fs_ids,
        groups: status.groups,
        umask: status.umask,
        rlimits: identity::limits_of(host_pid)?.to_vec(),
        nice: i8::try_from(nice).unwrap_or(0),
        dumpable: said.dumpable,
        death_signal: said.death_signal,
        no_new_privs: facts.no_new_privs,
        securebits: said.securebits,
        capabilities: facts.capabilities,
        personality: said.personality,
        barriers: said.barriers,
    })
}

fn records_of(subject: &Subject) -> Result<Vec<ParkRecord>, Errno> {
    let memory = GuestMemory::of(subject.hall.host_pid);
    subject.records.iter().map(|&record| memory.read_plain(record)).collect()
}

/// Describes the threads, of which each may have `filters` filters for system calls.
fn threads_of(
    subject: &Subject,
    parked: &[ParkRecord],
    filters: u32,
) -> Result<Vec<ThreadImage>, Refusal> {
    let host_pid = subject.hall.host_pid;
    let (mut threads, all) = (Vec::new(), processors_of(&status_of("/proc/self")));
    let records = subject.records.iter().zip(parked);
    for (member, (&record, parked)) in subject.members.iter().zip(records) {
        let directory = format!("/proc/{host_pid}/task/{}", member.host_tid);
        let status = status_of(&directory);
        // That of strict mode is the shim's, which installs it again.
        let strict = u32::from(parked.flags & PARK_STRICT != 0);
        if Facts::parse(&status).filters > filters + strict {
            return Err(Refusal::KernelState { what: "a system-call filter of its own".into() });
        }
        let name = std::fs::read(format!("{directory}/comm")).map_err(|_| Refusal::Ended)?;
        let times = std::fs::read_to_string(format!("{directory}/stat")).unwrap_or_default();
        let nice = stat_field(&times, 19).unwrap_or(0);
        let slack = std::fs::read_to_string(format!("/proc/{}/timerslack_ns", member.host_tid));
        let small = |number| stat_field(&times, number).and_then(|field| u8::try_from(field).ok());
        let policy = small(41).unwrap_or(0);
        if policy == SCHED_DEADLINE {
            return Err(Refusal::KernelState {
                what: "deadlines that its node has promised".into(),
            });
        }
        threads.push(ThreadImage {
            tid: member.tid,
            record,
            name: name.strip_suffix(b"\n").unwrap_or(&name).to_vec(),
            signals: subject.of_threads.get(&member.tid.get()).cloned().unwrap_or_default(),
            nice: i8::try_from(nice).unwrap_or(0),
            timer_slack: slack.ok().and_then(|slack| slack.trim().parse().ok()).unwrap_or(0),
            policy,
            priority: small(40).unwrap_or(0),
            processors: Some(processors_of(&status)).filter(|p| *p != all).unwrap_or_default(),
        });
    }
    Ok(threads)
}

fn status_of(directory: &str) -> String {
    std::fs::read_to_string(format!("{directory}/status")).unwrap_or_default()
}

/// The processors that a thread may use, a bit each, as sched_setaffinity(2) takes them.
fn processors_of(status: &str) -> Vec<u8> {
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:"));
    processors(line.unwrap_or_default())
}

/// Reads words of 32 bits in hexadecimal, the last one first.
fn processors(words: &str) -> Vec<u8> {
    let words = words.trim().rsplit(',').map(|word| u32::from_str_radix(word, 16).unwrap_or(0));
    let mut bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    bytes.truncate(PROCESSORS_BYTES_MAX);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// A field of `/proc/PID/stat` by its number in proc_pid_stat(5), from 3 on.
fn stat_field(text: &str, number: usize) -> Option<i64> {
    let fields = text.rsplit_once(')')?.1;
    fields.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

/// `struct prctl_mm_map` as the kernel has it.
fn layout_of(host_pid: u32, heap_end: u64) -> Option<MemoryLayout> {
    let text = std::fs::read_to_string(format!("/proc/{host_pid}/stat")).ok()?;
    let field = |number| stat_field(&text, number).map(i64::cast_unsigned);
    let (code, data, heap, stack) = (26, 45, 47, 28);
    let addresses = [
        field(code)?,
        field(code + 1)?,
        field(data)?,
        field(data + 1)?,
        field(heap)?,
        heap_end,
        field(stack)?,
        field(48)?,
        field(49)?,
        field(50)?,
        field(51)?,
    ];
    let auxv = std::fs::read(format!("/proc/{host_pid}/auxv")).ok()?;
    Some(MemoryLayout { addresses, auxv })
}

/// Lines of `/proc/PID/status` that a move looks at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) state: u8,
    pub(crate) tracer: u32,
    pub(crate) filters: u32,
    pub(crate) no_new_privs: bool,
    /// Effective, permitted, inheritable, bounding, ambient.
    pub(crate) capabilities: [u64; 5],
}

impl Facts {
    pub(crate) fn of(host_pid: u32) -> Result<Facts, Refusal> {
        let text = std::fs::read_to_string(format!("/proc/{host_pid}/status"));
        Ok(Facts::parse(&text.map_err(|_| Refusal::Ended)?))
    }

    fn parse(text: &str) -> Facts {
        let mut facts = Facts::default();
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            let mask = || u64::from_str_radix(value, 16).unwrap_or(0);
            match name {
                "State" => facts.state = value.as_bytes().first().copied().unwrap_or(0),
                "TracerPid" => facts.tracer = value.parse().unwrap_or(0),
                "Seccomp_filters" => facts.filters = value.parse().unwrap_or(0),
                "NoNewPrivs" => facts.no_new_privs = value == "1",
                "CapEff" => facts.capabilities[0] = mask(),
                "CapPrm" => facts.capabilities[1] = mask(),
                "CapInh" => facts.capabilities[2] = mask(),
                "CapBnd" => facts.capabilities[3] = mask(),
                "CapAmb" => facts.capabilities[4] = mask(),
                _ => {}
            }
        }
        facts
    }
}

/// FNV-1a, 64 bits: tells builds apart, not adversaries.
fn fingerprint(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

const FINGERPRINT_START: u64 = 0xcbf2_9ce4_8422_2325;

/// Names the kernel's build by its version and the vDSO of a process; 0 without one.
pub(crate) fn kernel_fingerprint(host_pid: u32, ranges: &[(u64, u64)]) -> u64 {
    let version = std::fs::read("/proc/version").unwrap_or_default();
    let Some(&(start, end)) = ranges.last() else { return 0 };
    let mut vdso = vec![0; usize::try_from(end - start).unwrap_or(0).min(1 << 20)];
    if GuestMemory::of(host_pid).read(start, &mut vdso).is_err() {
        return 0;
    }
    fingerprint(fingerprint(FINGERPRINT_START, &version), &vdso)
}

impl Node {
    /// Names the build of this node's shim.
    pub(crate) fn shim_fingerprint(&self) -> u64 {
        *self.shim_name.get_or_init(|| {
            let Ok(copy) = self.shim.try_clone() else { return 0 };
            let file = std::fs::File::from(copy);
            let mut buffer = vec![0; 64 * 1024];
            let (mut name, mut at) = (FINGERPRINT_START, 0);
            while let Ok(got @ 1..) = file.read_at(&mut buffer, at) {
                name = fingerprint(name, buffer.get(..got).unwrap_or_default());
                at += got as u64;
            }
            name
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_the_names_end() {
        let text = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 -5 1 0 4242 0";
        assert_eq!((stat_field(text, 4), stat_field(text, 19)), (Some(1), Some(-5)));
        assert_eq!((stat_field(text, 99), stat_field("nonsense", 4)), (None, None));
    }

    #[test]
    fn processors_are_read() {
        assert_eq!(processors("\t3"), [3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(processors("00000001,80000002"), [2, 0, 0, 0x80, 1, 0, 0, 0]);
    }

    #[test]
    fn facts_are_read() {
        let text = "State:\tT (stopped)\nTracerPid:\t9\nSeccomp_filters:\t2\nNoNewPrivs:\t1\n\
                    CapEff:\t00000000000000ff\nCapAmb:\t0000000000000001\n";
        let facts = Facts::parse(text);
        assert_eq!((facts.state, facts.tracer, facts.filters), (b'T', 9, 2));
        assert!(facts.no_new_privs);
        assert_eq!(facts.capabilities, [0xff, 0, 0, 0, 1]);
    }
}
