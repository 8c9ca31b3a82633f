//! The outside checker: what is true of every process, kept apart from the tables and compared
//! with what they say.

use dunix_ids::{NodeId, Pid};
use dunix_proc_table::{Token, Waited};
use dunix_wire::processes::{Answer, Errno, ExitStatus, MoveId};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    Alive,
    /// Its source has died and its image is still on the way.
    InTransit,
    Ended(ExitStatus),
    Reaped,
}

#[derive(Debug)]
pub(crate) struct Truth {
    pub(crate) node: NodeId,
    pub(crate) host: Option<u32>,
    /// `None`: a root or an orphan.
    pub(crate) parent: Option<Pid>,
    /// Who asks for the end of a root.
    pub(crate) launcher: Option<NodeId>,
    pub(crate) life: Life,
    pub(crate) pgid: Pid,
    pub(crate) sid: Pid,
    pub(crate) is_stopped: bool,
    /// Where it is going to.
    pub(crate) leaving: Option<NodeId>,
    /// Signals it had, by the value that names each.
    pub(crate) received: BTreeMap<u64, u32>,
    pub(crate) in_group_since: Duration,
    /// Besides the first.
    pub(crate) threads: BTreeSet<Pid>,
    /// It moves: frozen where it was.
    pub(crate) frozen: Option<MoveId>,
    /// It may run at its target.
    pub(crate) is_decided: bool,
    /// What the host did to the frozen process.
    pub(crate) stops_later: bool,
    pub(crate) host_end: Option<ExitStatus>,
}

/// What an open operation does when it succeeds.
#[derive(Clone, Debug)]
pub(crate) enum Pending {
    Kill { value: u64, target: Option<Pid> },
    Group,
    Session,
    Locate { pid: Pid },
}

/// A signal to a group: who had to get it.
#[derive(Debug)]
pub(crate) struct GroupSignal {
    pub(crate) value: u64,
    pub(crate) pgid: Pid,
    pub(crate) sent_at: Duration,
    pub(crate) members: BTreeSet<Pid>,
}

impl Truth {
    pub(crate) fn set_stopped(&mut self, is_stopped: bool) {
        match self.frozen {
            Some(_) => self.stops_later = is_stopped,
            None => self.is_stopped = is_stopped,
        }
    }
}

#[derive(Default)]
pub(crate) struct Truths {
    pub(crate) processes: BTreeMap<Pid, Truth>,
    pub(crate) pending: BTreeMap<u64, (NodeId, Pending)>,
    pub(crate) dead: BTreeSet<NodeId>,
    pub(crate) group_signals: Vec<GroupSignal>,
    /// Signals to one process that were answered with success.
    pub(crate) delivered: Vec<(u64, Pid)>,
    pub(crate) roots_reported: u64,
    pub(crate) answers: u64,
    pub(crate) now: Duration,
    /// How long news may take to the home of a group and back: a signal that is sent at the same
    /// time as a member joins may miss it.
    pub(crate) news_delay_max: Duration,
}

impl Truths {
    pub(crate) fn alive(&self) -> Vec<Pid> {
        self.processes.iter().filter(|(_, t)| t.life == Life::Alive).map(|(pid, _)| *pid).collect()
    }

    /// Those that run code: bound, not stopped, not leaving or frozen.
    pub(crate) fn running(&self) -> Vec<Pid> {
        self.processes
            .iter()
            .filter(|(_, t)| {
                let is_on_its_way = t.leaving.is_some() || t.frozen.is_some();
                t.life == Life::Alive && t.host.is_some() && !t.is_stopped && !is_on_its_way
            })
            .map(|(pid, _)| *pid)
            .collect()
    }

    /// No PID is given out while anything still has it.
    pub(crate) fn born(&mut self, pid: Pid, truth: Truth) {
        let held = self.processes.iter().find(|(other, t)| {
            let is_there = t.life != Life::Reaped;
            is_there && (**other == pid || t.pgid == pid || t.sid == pid) && truth.sid != pid
        });
        assert!(held.is_none(), "PID {pid} was given out while {held:?} has it");
        self.check_no_thread(pid);
        self.processes.insert(pid, truth);
    }

    /// Nobody has a thread of that number.
    pub(crate) fn check_no_thread(&self, number: Pid) {
        let holder = self.processes.iter().find(|(_, t)| t.threads.contains(&number));
        assert!(holder.is_none(), "{number} was given out while it is a thread's: {holder:?}");
    }

    pub(crate) fn end(&mut self, pid: Pid, status: ExitStatus) {
        let Some(truth) = self.processes.get_mut(&pid) else { return };
        truth.life = if truth.parent.is_none() && truth.launcher.is_none() {
            Life::Reaped
        } else {
            Life::Ended(status)
        };
        truth.host = None;
        truth.leaving = None;
        (truth.frozen, truth.is_decided, truth.host_end) = (None, false, None);
        truth.threads.clear();
        for child in self.processes.values_mut().filter(|t| t.parent == Some(pid)) {
            child.parent = None;
            if matches!(child.life, Life::Ended(_)) {
                child.life = Life::Reaped;
            }
        }
    }

    /// Nobody asks for the ends of the roots that a dead node launched.
    pub(crate) fn lose_launcher(&mut self, dead: NodeId) {
        for truth in self.processes.values_mut().filter(|t| t.launcher == Some(dead)) {
            truth.launcher = None;
            if matches!(truth.life, Life::Ended(_)) {
                truth.life = Life::Reaped;
            }
        }
    }

    /// An end is reported once, to the parent, as it was; or as lost if the node died later.
    pub(crate) fn reported(&mut self, parent: Pid, found: &Waited) {
        let truth = self.processes.get_mut(&found.pid).expect("a report is about a process");
        assert_eq!(truth.parent, Some(parent), "{} was reported to a stranger", found.pid);
        let Life::Ended(status) = truth.life else {
            panic!("{} was reported as ended but is {:?}", found.pid, truth.life);
        };
        let told = (found.code, found.status);
        let is_lost =
            self.dead.contains(&truth.node) && told == dunix_proc_table::cld_of(ExitStatus::Lost);
        assert!(told == dunix_proc_table::cld_of(status) || is_lost, "{}: {told:?}", found.pid);
        truth.life = Life::Reaped;
    }

    pub(crate) fn root_reported(&mut self, pid: Pid, status: ExitStatus) {
        let truth = self.processes.get_mut(&pid).expect("a root is a process");
        let Life::Ended(ended) = truth.life else {
            panic!("root {pid} was reported as ended but is {:?}", truth.life);
        };
        let is_lost = status == ExitStatus::Lost && self.dead.contains(&truth.node);
        assert!(status == ended || is_lost, "root {pid}: {status:?}, not {ended:?}");
        truth.life = Life::Reaped;
        self.roots_reported += 1;
    }

    pub(crate) fn received(&mut self, pid: Pid, value: u64) {
        let truth = self.processes.get_mut(&pid).expect("a signal is for a process");
        let count = truth.received.entry(value).or_default();
        *count += 1;
        assert_eq!(*count, 1, "{pid} had signal {value} twice");
    }

    pub(crate) fn answered(&mut self, token: Token, result: Result<Answer, Errno>) {
        let (_, pending) = self.pending.remove(&token.0).expect("one answer per operation");
        self.answers += 1;
        match pending {
            Pending::Kill { value, target: Some(pid) } if result.is_ok() => {
                self.delivered.push((value, pid));
            }
            Pending::Kill { .. } => {}
            // What came of it is told where the process is.
            Pending::Group | Pending::Session => {}
            Pending::Locate { pid } => {
                let truth = &self.processes[&pid];
                assert_eq!(result, Ok(Answer::Node(truth.node)), "where {pid} is");
            }
        }
    }

    pub(crate) fn regrouped(&mut self, pid: Pid, pgid: Pid, sid: Pid) {
        let now = self.now;
        let truth = self.processes.get_mut(&pid).expect("a group has processes");
        if truth.pgid != pgid {
            truth.in_group_since = now;
        }
        truth.pgid = pgid;
        truth.sid = sid;
    }

    /// Who is in a group while nothing happens: the living, and zombies that a parent may wait for,
    /// but for those that were lost with a node.
    pub(crate) fn members(&self, pgid: Pid) -> BTreeSet<Pid> {
        self.processes
            .iter()
            .filter(|(_, t)| t.pgid == pgid && !self.dead.contains(&t.node))
            .filter(|(_, t)| matches!(t.life, Life::Alive | Life::Ended(_)))
            .filter(|(_, t)| t.life != Life::Ended(ExitStatus::Lost))
            .map(|(pid, _)| *pid)
            .collect()
    }

    /// Every signal that was answered with success has arrived, unless its target has ended.
    pub(crate) fn check_signals(&self) {
        if !self.dead.is_empty() {
            return; // A signal on its way through a dead node or held there for a process
            // that left, is lost with it.
        }
        for (value, pid) in &self.delivered {
            let truth = &self.processes[pid];
            let has = truth.received.contains_key(value) || truth.life != Life::Alive;
            assert!(has, "{pid} never had signal {value}, which was answered with success");
        }
        for signal in &self.group_signals {
            for pid in &signal.members {
                let truth = &self.processes[pid];
                let stayed = truth.life == Life::Alive
                    && truth.pgid == signal.pgid
                    && truth.in_group_since + self.news_delay_max <= signal.sent_at;
                let has = truth.received.contains_key(&signal.value);
                assert!(has || !stayed, "{pid} never had its group's signal {}", signal.value);
            }
        }
    }
}
