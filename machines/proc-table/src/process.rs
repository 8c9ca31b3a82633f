//! One process (or zombie) of this node.

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    string::String,
    vec::Vec,
};
use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_wire::processes::{
    Child, Credentials, ExitStatus, MemberState, ParentLink, ProcessBody, ProcessRecord, RunState,
    Rusage, Sender, SignalRequest, SignalSerial, record,
};

/// What arrived for a process that has no host process yet or is leaving.
#[derive(Clone, Debug)]
pub(crate) enum Held {
    Body(ProcessBody),
    Group {
        pgid: Pid,
        serial: SignalSerial,
        request: SignalRequest,
    },
    Stopped(u8),
    Continued,
    /// A SIGKILL that the frozen process here has had, too: it need not have it again if it stays.
    Struck(Box<Held>),
}

/// Who waits for a process's end: the nodes that asked, by the names that they gave their watches, and
/// their tokens.
pub(crate) type Watchers = BTreeMap<(NodeId, u64), u64>;

/// How a process leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Way {
    /// By exec: nothing of its old image comes along, nor do its threads. From the start on it may run
    /// at the other node.
    #[default]
    Exec,
    /// As it runs. It is frozen here, and runs nowhere else before the decision.
    Move,
    /// The same after the decision: it may run at the other node.
    Decided,
}

/// Versions that are left to the source of a move while it waits for the target's answer.
const VERSION_LEAP: u64 = 1 << 16;

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) version: u64,
    pub(crate) parent: ParentLink,
    pub(crate) exit_signal: u8,
    pub(crate) pgid: Pid,
    pub(crate) sid: Pid,
    pub(crate) terminal: Option<ObjectId>,
    pub(crate) credentials: Credentials,
    pub(crate) children_reaped: bool,
    pub(crate) stops_silent: bool,
    pub(crate) children: BTreeMap<Pid, Child>,
    pub(crate) children_rusage: Rusage,
    /// What it used on the nodes that it was on before.
    pub(crate) used: Rusage,
    pub(crate) serials: Vec<SignalSerial>,
    pub(crate) comm: String,

    /// Never [`RunState::Leaving`]; see `leaving`.
    pub(crate) state: RunState,
    pub(crate) leaving: Option<NodeId>,
    /// How, while it is leaving.
    pub(crate) way: Way,
    /// The node that it has moved here from, until that has handed over what it holds for it.
    pub(crate) awaits: Option<NodeId>,
    /// How many of the held things at the front that node has handed over.
    pub(crate) handed_over: usize,
    pub(crate) host: Option<u32>,
    /// TIDs besides the first.
    pub(crate) threads: BTreeSet<Pid>,
    /// When it was made, in seconds since the epoch; 0 until the driver has said so.
    pub(crate) started_seconds: u64,
    /// It has called exec since its fork.
    pub(crate) has_execed: bool,
    /// A setpgid or setsid is under way with the group's home.
    pub(crate) is_joining: bool,
    /// The node that handed it over.
    pub(crate) came_from: Option<NodeId>,
    pub(crate) held: Vec<Held>,
    /// They ask anew where it goes.
    pub(crate) watchers: Watchers,
    /// How it ended: of a zombie, or of one whose host process ended while it was leaving.
    pub(crate) end: Option<(ExitStatus, Rusage)>,
}

impl Process {
    /// Makes the child of a fork.
    pub(crate) fn fork(&self, parent: Pid, node: NodeId, exit_signal: u8) -> Process {
        Process {
            version: 1,
            parent: ParentLink {
                pid: parent,
                node: Some(node),
                group: Some((self.pgid, self.sid)),
                version: self.version,
            },
            exit_signal,
            pgid: self.pgid,
            sid: self.sid,
            terminal: self.terminal,
            credentials: self.credentials,
            children_reaped: self.children_reaped,
            stops_silent: self.stops_silent,
            children: BTreeMap::new(),
            children_rusage: Rusage::default(),
            serials: self.serials.clone(),
            comm: self.comm.clone(),
            ..Process::blank(self.pgid)
        }
    }

    /// Makes a process that leads its own group and session and has no parent.
    pub(crate) fn blank(pid: Pid) -> Process {
        Process {
            version: 1,
            parent: ParentLink::ORPHAN,
            exit_signal: crate::SIGCHLD,
            pgid: pid,
            sid: pid,
            terminal: None,
            credentials: Credentials::default(),
            children_reaped: false,
            stops_silent: false,
            children: BTreeMap::new(),
            children_rusage: Rusage::default(),
            used: Rusage::default(),
            serials: Vec::new(),
            comm: String::new(),
            state: RunState::Starting,
            leaving: None,
            way: Way::Exec,
            awaits: None,
            handed_over: 0,
            host: None,
            threads: BTreeSet::new(),
            started_seconds: 0,
            has_execed: false,
            is_joining: false,
            came_from: None,
            held: Vec::new(),
            watchers: Watchers::new(),
            end: None,
        }
    }

    /// Packs what moves.
    pub(crate) fn record(&self, pid: Pid) -> ProcessRecord {
        ProcessRecord {
            pid,
            version: self.version,
            parent: self.parent,
            exit_signal: self.exit_signal,
            pgid: self.pgid,
            sid: self.sid,
            terminal: self.terminal,
            credentials: self.credentials,
            children_reaped: self.children_reaped,
            stops_silent: self.stops_silent,
            children: self.children.iter().map(|(pid, child)| (*pid, child.clone())).collect(),
            children_rusage: self.children_rusage,
            serials: self.serials.clone(),
            comm: self.comm.clone(),
            started_seconds: self.started_seconds,
            has_execed: self.has_execed,
            threads: Vec::new(),
            used: self.used,
            lessees: Vec::new(),
        }
    }

    /// Unpacks what came. Versions are skipped: the source may speak of the process, or of its loss,
    /// until it knows that it has left.
    pub(crate) fn of_record(record: ProcessRecord, from: NodeId) -> Process {
        Process {
            version: record.version.saturating_add(VERSION_LEAP),
            parent: record.parent,
            exit_signal: record.exit_signal,
            pgid: record.pgid,
            sid: record.sid,
            terminal: record.terminal,
            credentials: record.credentials,
            children_reaped: record.children_reaped,
            stops_silent: record.stops_silent,
            children: record.children.into_iter().collect(),
            children_rusage: record.children_rusage,
            serials: record.serials,
            comm: record.comm,
            started_seconds: record.started_seconds,
            has_execed: record.has_execed,
            used: record.used,
            came_from: Some(from),
            ..Process::blank(record.pid)
        }
    }

    pub(crate) fn is_zombie(&self) -> bool {
        self.state == RunState::Zombie
    }

    /// Whether signals must be held: no host process yet, or on its way.
    pub(crate) fn is_in_between(&self) -> bool {
        self.is_on_its_way() || self.state == RunState::Starting
    }

    /// Whether what comes for it must wait for its next node, or for what its last one holds.
    pub(crate) fn is_on_its_way(&self) -> bool {
        self.leaving.is_some() || self.awaits.is_some()
    }

    /// Whether a signal by `sender` need not wait for what its last node holds: it runs here, and what
    /// it sent to itself before it moved it has had, for it was frozen only when the call had ended.
    pub(crate) fn has_at_once(&self, pid: Pid, sender: &Sender) -> bool {
        self.awaits.is_some()
            && self.leaving.is_none()
            && self.host.is_some()
            && sender.pid == Some(pid)
    }

    /// Whether its threads are the same afterwards.
    pub(crate) fn keeps_threads(&self) -> bool {
        self.awaits.is_some() || (self.leaving.is_some() && self.way != Way::Exec)
    }

    /// Whether it is frozen here and the host can still kill it for good.
    pub(crate) fn is_frozen(&self) -> bool {
        self.leaving.is_some() && self.way == Way::Move
    }

    /// Whether the parent keeps this process's group from being orphaned.
    pub(crate) fn is_anchored(&self) -> bool {
        !self.is_zombie()
            && self.parent.group.is_some_and(|(pgid, sid)| sid == self.sid && pgid != self.pgid)
    }

    pub(crate) fn member_state(&self, node: NodeId) -> MemberState {
        MemberState {
            node,
            version: self.version,
            anchored: self.is_anchored(),
            stopped: matches!(self.state, RunState::Stopped(_)),
            zombie: self.is_zombie(),
        }
    }

    /// Notes a group signal; returns false if the process has had it.
    pub(crate) fn take_serial(&mut self, serial: SignalSerial) -> bool {
        take_serial(&mut self.serials, serial)
    }
}

/// Notes a serial among the newest ones; returns false if it is there already.
pub(crate) fn take_serial(serials: &mut Vec<SignalSerial>, serial: SignalSerial) -> bool {
    if serials.contains(&serial) {
        return false;
    }
    if serials.len() >= record::SERIALS_MAX {
        serials.remove(0);
    }
    serials.push(serial);
    true
}
