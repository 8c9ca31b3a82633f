//! The outside checker: what is true of every process, kept apart from the tables and compared
//! with what they say.
//!
//! While the network is cut, a node that is about to be fenced may take for lost what lives, and be taken for
//! lost itself. Such a report is noted with the nodes that must have been fenced, or have died, when all is
//! quiet again: then nobody is left who saw both.

use dunix_ids::{NodeId, Pid};
use dunix_proc_table::{Token, WaitFor, Waited, cld_of};
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
    /// Where that move goes.
    pub(crate) frozen_for: Option<NodeId>,
    /// It may run at its target.
    pub(crate) is_decided: bool,
    /// What the host did to the frozen process.
    pub(crate) stops_later: bool,
    pub(crate) host_end: Option<ExitStatus>,
    /// It is in wait(2) for these.
    pub(crate) waits: Option<WaitFor>,
    /// Its way to another node, from when it may run there.
    pub(crate) passage: Option<Passage>,
    /// Its parent has been told that it was lost, and it was not.
    is_given_up: bool,
}

/// The way of a process to another node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passage {
    from: NodeId,
    to: NodeId,
    /// The source does not expect it back.
    is_given_up: bool,
    /// Nothing will arrive at the target any more.
    is_closed: bool,
}

impl Passage {
    pub(crate) fn new(from: NodeId, to: NodeId) -> Passage {
        Passage { from, to, is_given_up: false, is_closed: false }
    }
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
    /// A process that begins, in a group and a session.
    pub(crate) fn new(
        node: NodeId,
        parent: Option<Pid>,
        (pgid, sid): (Pid, Pid),
        now: Duration,
    ) -> Truth {
        Truth {
            node,
            host: None,
            parent,
            launcher: parent.is_none().then_some(node),
            life: Life::Alive,
            pgid,
            sid,
            is_stopped: false,
            leaving: None,
            received: BTreeMap::new(),
            in_group_since: now,
            threads: BTreeSet::new(),
            frozen: None,
            frozen_for: None,
            is_decided: false,
            stops_later: false,
            host_end: None,
            waits: None,
            passage: None,
            is_given_up: false,
        }
    }

    /// Whether it runs code: bound, not stopped, not leaving or frozen.
    pub(crate) fn can_run(&self) -> bool {
        let is_on_its_way = self.leaving.is_some() || self.frozen.is_some();
        self.life == Life::Alive && self.host.is_some() && !self.is_stopped && !is_on_its_way
    }

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
    /// Nodes that have died or were fenced.
    pub(crate) cut_off: BTreeSet<NodeId>,
    /// What may have been said only if one of these nodes is cut off in the end.
    excuses: Vec<(String, [NodeId; 3])>,
    /// Whether connections between nodes that live have been cut.
    pub(crate) has_cuts: bool,
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

    /// Those that run code and do not wait.
    pub(crate) fn running(&self) -> Vec<Pid> {
        let running = self.processes.iter().filter(|(_, t)| t.can_run() && t.waits.is_none());
        running.map(|(pid, _)| *pid).collect()
    }

    /// Those that live at a node.
    pub(crate) fn at(&self, node: NodeId) -> Vec<Pid> {
        let there = self.processes.iter().filter(|(_, t)| t.life == Life::Alive && t.node == node);
        there.map(|(pid, _)| *pid).collect()
    }

    pub(crate) fn process(&mut self, pid: Pid) -> &mut Truth {
        self.processes.get_mut(&pid).expect("it was born")
    }

    pub(crate) fn is_in_wait(&self, pid: Pid) -> bool {
        self.processes.get(&pid).is_some_and(|truth| truth.waits.is_some())
    }

    pub(crate) fn has_children(&self, pid: Pid) -> bool {
        let is_child = |t: &Truth| t.parent == Some(pid) && t.life != Life::Reaped;
        self.processes.values().any(|t| is_child(t) && !t.is_given_up)
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
        let is_claimed = truth.parent.is_some() || truth.launcher.is_some();
        truth.life =
            if !is_claimed || truth.is_given_up { Life::Reaped } else { Life::Ended(status) };
        truth.host = None;
        truth.leaving = None;
        (truth.frozen, truth.is_decided, truth.host_end) = (None, false, None);
        (truth.waits, truth.passage) = (None, None);
        truth.threads.clear();
        for child in self.processes.values_mut().filter(|t| t.parent == Some(pid)) {
            child.parent = None;
            if matches!(child.life, Life::Ended(_)) {
                child.life = Life::Reaped;
            }
        }
    }

    /// A process runs at the node that it went to.
    pub(crate) fn arrived(&mut self, pid: Pid, node: NodeId) {
        let truth = self.process(pid);
        assert!(matches!(truth.life, Life::Alive | Life::InTransit), "{pid} runs after its end");
        let is_expected = truth.passage.is_some_and(|passage| passage.to == node);
        assert!(is_expected, "{pid} runs twice: at {} and {node}", truth.node);
        truth.life = Life::Alive;
        truth.node = node;
        truth.host = None;
        (truth.leaving, truth.passage, truth.is_stopped) = (None, None, false);
        truth.threads.clear();
    }

    /// It was refused where it went to: it is lost if nobody takes it back.
    pub(crate) fn never_arrives(&mut self, pid: Pid, node: NodeId) {
        let passage = self.process(pid).passage.as_mut().filter(|passage| passage.to == node);
        if let Some(passage) = passage {
            passage.is_closed = true;
        }
        self.settle_passage(pid);
    }

    /// A node has no link with a peer any more: what was on its way over it does not come.
    pub(crate) fn link_ended(&mut self, node: NodeId, peer: NodeId) {
        self.end_passages(|passage| {
            passage.is_given_up |= passage.from == node && passage.to == peer;
            passage.is_closed |= passage.to == node && passage.from == peer;
        });
    }

    pub(crate) fn node_died(&mut self, dead: NodeId) {
        for pid in self.at(dead) {
            let truth = self.process(pid);
            // An exec has been sent; a move that is decided will be, or has been.
            match truth.passage.filter(|_| truth.frozen.is_none() || truth.is_decided) {
                Some(_) => (truth.life, truth.host) = (Life::InTransit, None),
                None => self.end(pid, ExitStatus::Lost),
            }
        }
        self.end_passages(|passage| {
            passage.is_given_up |= passage.from == dead;
            passage.is_closed |= passage.to == dead;
        });
        self.lose_launcher(dead);
    }

    fn end_passages(&mut self, change: impl Fn(&mut Passage)) {
        let mut under_way = Vec::new();
        for (pid, truth) in &mut self.processes {
            if let Some(passage) = &mut truth.passage {
                change(passage);
                under_way.push(*pid);
            }
        }
        under_way.into_iter().for_each(|pid| self.settle_passage(pid));
    }

    fn settle_passage(&mut self, pid: Pid) {
        let truth = self.process(pid);
        let Some(passage) = truth.passage else { return };
        match (passage.is_given_up, passage.is_closed) {
            (true, true) => self.end(pid, ExitStatus::Lost),
            (true, false) => (truth.life, truth.host) = (Life::InTransit, None),
            (false, _) => {}
        }
    }

    /// When all is quiet: everyone has heard who is cut off.
    pub(crate) fn lose_launchers(&mut self) {
        for node in self.cut_off.clone() {
            self.lose_launcher(node);
        }
    }

    /// Nobody asks for the ends of the roots that a dead node launched.
    fn lose_launcher(&mut self, dead: NodeId) {
        for truth in self.processes.values_mut().filter(|t| t.launcher == Some(dead)) {
            truth.launcher = None;
            if matches!(truth.life, Life::Ended(_)) {
                truth.life = Life::Reaped;
            }
        }
    }

    /// An end is reported once, to the parent, as it was; or as lost if the node died later.
    pub(crate) fn reported(&mut self, parent: Pid, found: &Waited) {
        let here = self.processes[&parent].node;
        let told = (found.code, found.status);
        let truth = &self.processes[&found.pid];
        let is_its = truth.parent == Some(parent);
        if !is_its || !self.is_end(found.pid, |status| told == cld_of(status)) {
            let is_lost = told == cld_of(ExitStatus::Lost);
            let what = format!("{} reaps {}, {told:?}", parent, found.pid);
            return self.give_up(found.pid, here, is_lost, what);
        }
        self.process(found.pid).life = Life::Reaped;
    }

    pub(crate) fn root_reported(&mut self, here: NodeId, pid: Pid, status: ExitStatus) {
        if !self.is_end(pid, |ended| status == ended) {
            let is_lost = status == ExitStatus::Lost;
            return self.give_up(pid, here, is_lost, format!("root {pid}: {status:?}"));
        }
        self.process(pid).life = Life::Reaped;
        self.roots_reported += 1;
    }

    /// Whether a process has ended like this; those of dead nodes may also count as lost.
    fn is_end(&self, pid: Pid, is_told: impl Fn(ExitStatus) -> bool) -> bool {
        let truth = &self.processes[&pid];
        let Life::Ended(status) = truth.life else { return false };
        is_told(status) || (self.dead.contains(&truth.node) && is_told(ExitStatus::Lost))
    }

    /// A report that is not true: `here` it is believed to be lost with a node.
    fn give_up(&mut self, pid: Pid, here: NodeId, is_lost: bool, what: String) {
        let truth = &self.processes[&pid];
        if truth.life == Life::Reaped && self.cut_off.contains(&here) {
            return;
        }
        let what = format!("{what}, but it is {:?} at {}", truth.life, truth.node);
        assert!(is_lost && self.has_cuts && truth.life != Life::Reaped, "{what}");
        let there = truth.passage.map_or(truth.node, |passage| passage.to);
        self.excuses.push((what, [here, truth.node, there]));
        let truth = self.process(pid);
        truth.is_given_up = true;
        if matches!(truth.life, Life::Ended(_)) {
            truth.life = Life::Reaped;
        }
    }

    /// When all is quiet: whoever was taken for lost is cut off, or who took them for it.
    pub(crate) fn check_excuses(&mut self) {
        for (what, nodes) in std::mem::take(&mut self.excuses) {
            let is_excused = nodes.iter().any(|node| self.cut_off.contains(node));
            assert!(is_excused, "{what}, and none of {nodes:?} was cut off");
        }
    }

    /// When all is quiet: nobody waits for what has happened.
    pub(crate) fn check_waits(&self) {
        let waiting = self.processes.iter().filter_map(|(pid, truth)| Some((pid, truth.waits?)));
        for (pid, which) in waiting.filter(|(pid, _)| self.processes[pid].can_run()) {
            let children = self.processes.iter().filter(|(_, t)| t.parent == Some(*pid));
            let answer = children.clone().find(|(_, t)| {
                let is_wanted = which == WaitFor::Any || which == WaitFor::Group(t.pgid);
                is_wanted && matches!(t.life, Life::Ended(_))
            });
            assert!(answer.is_none(), "{pid} waits for ever for {answer:?}");
            let has_any = children.into_iter().any(|(_, t)| t.life != Life::Reaped);
            assert!(has_any || which != WaitFor::Any, "{pid} waits for ever for nobody");
        }
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
            .filter(|(_, t)| t.pgid == pgid && !self.cut_off.contains(&t.node))
            .filter(|(_, t)| matches!(t.life, Life::Alive | Life::Ended(_)))
            .filter(|(_, t)| t.life != Life::Ended(ExitStatus::Lost))
            .map(|(pid, _)| *pid)
            .collect()
    }

    /// Every signal that was answered with success has arrived, unless its target has ended.
    pub(crate) fn check_signals(&self) {
        if !self.cut_off.is_empty() {
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
