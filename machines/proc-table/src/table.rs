//! The table's parts, and how a message finds its verb.
//!
//! A message to this node itself takes the same way as one from a peer, through `loopback`, which
//! every public method empties before it returns: there is one implementation of each rule.

use crate::{
    Effect, Note, TableConfig, blocks::Blocks, group_home::Fan, limits, node_death::Peers,
    number::Numbers, operation::Operations, process::Process, thread::Threads,
    tombstone::Tombstones,
};
use alloc::collections::{BTreeMap, VecDeque};
use core::time::Duration;
use dunix_ids::{NodeId, Pid};
use dunix_wire::processes::ProcMessage;

/// A root that was launched here: where it runs now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Root {
    pub(crate) node: NodeId,
    pub(crate) version: u64,
}

/// What host processes were that have ended or were left: kernels name them for ever in what they last used
/// (svipc(7)).
#[derive(Debug, Default)]
pub(crate) struct FormerHosts {
    by_age: VecDeque<(u32, Pid)>,
}

impl FormerHosts {
    pub(crate) fn remember(&mut self, host: u32, pid: Pid) {
        if self.by_age.len() == limits::FORMER_HOSTS_MAX {
            self.by_age.pop_front();
        }
        self.by_age.push_back((host, pid));
    }

    /// The last one that had this number.
    pub(crate) fn find(&self, host: u32) -> Option<Pid> {
        let found = self.by_age.iter().rev().find(|(former, _)| *former == host);
        found.map(|(_, pid)| *pid)
    }
}

/// One node's part of the fabric's process table.
#[derive(Debug)]
pub struct ProcTable {
    pub(crate) config: TableConfig,
    pub(crate) now: Duration,
    pub(crate) effects: VecDeque<Effect>,
    loopback: VecDeque<ProcMessage>,
    pub(crate) processes: BTreeMap<Pid, Process>,
    pub(crate) threads: Threads,
    /// Processes by host PID.
    pub(crate) hosts: BTreeMap<u32, Pid>,
    pub(crate) former_hosts: FormerHosts,
    pub(crate) roots: BTreeMap<Pid, Root>,
    pub(crate) tombstones: Tombstones,
    /// What this node keeps for others as leaser and home.
    pub(crate) numbers: Numbers,
    pub(crate) blocks: Blocks,
    pub(crate) peers: Peers,
    pub(crate) operations: Operations,
    /// Group signals whose members are being counted, by serial.
    pub(crate) fans: BTreeMap<u64, Fan>,
    pub(crate) serial_next: u64,
    pub(crate) is_fenced: bool,
}

impl ProcTable {
    /// Makes the table of a node that knows no peers yet. The founder can allocate PIDs at once.
    #[must_use]
    pub fn new(config: TableConfig) -> ProcTable {
        let mut table = ProcTable {
            config,
            now: Duration::ZERO,
            effects: VecDeque::new(),
            loopback: VecDeque::new(),
            processes: BTreeMap::new(),
            threads: Threads::default(),
            hosts: BTreeMap::new(),
            former_hosts: FormerHosts::default(),
            roots: BTreeMap::new(),
            tombstones: Tombstones::default(),
            numbers: Numbers::default(),
            blocks: Blocks::default(),
            peers: Peers::default(),
            operations: Operations::default(),
            fans: BTreeMap::new(),
            serial_next: 1,
            is_fenced: false,
        };
        table.found();
        table.finish();
        table
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.config.node
    }

    /// Takes the next thing to do. Call it until `None` after every other call.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Takes a peer's message. One from a node that was declared dead is ignored, unless it says
    /// that this node was.
    pub fn handle_message(&mut self, now: Duration, from: NodeId, message: ProcMessage) {
        self.fence_if_told(from, &message);
        if from == self.config.node || !self.peers.is_heard(from) {
            return;
        }
        self.begin(now);
        self.dispatch(from, message);
        self.finish();
    }

    /// Returns when [`ProcTable::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let fans = self.fans.values().map(|fan| fan.until).min();
        [
            self.operations.next_deadline(),
            self.peers.next_deadline(),
            self.numbers.next_deadline(),
            self.blocks.next_deadline(),
            fans,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.begin(now);
        self.expire_operations();
        self.expire_fans();
        self.expire_settling();
        self.expire_claims();
        self.ask_coordinator_again();
        self.finish();
    }

    pub(crate) fn begin(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// Handles what this node has said to itself.
    pub(crate) fn finish(&mut self) {
        while let Some(message) = self.loopback.pop_front() {
            self.dispatch(self.config.node, message);
        }
    }

    /// Sends to a node that is believed to live, this one included.
    pub(crate) fn send(&mut self, to: NodeId, message: ProcMessage) {
        if to == self.config.node {
            self.loopback.push_back(message);
        } else {
            self.effects.push_back(Effect::Send { to, message });
        }
    }

    pub(crate) fn note(&mut self, note: Note) {
        self.effects.push_back(Effect::Note(note));
    }

    fn dispatch(&mut self, from: NodeId, message: ProcMessage) {
        use ProcMessage as M;
        if names_init(&message) {
            return;
        }
        match message {
            M::ToProcess { pid, hops, body } => self.handle_to_process(pid, hops, body),
            M::Located { pid, node, version } => self.handle_located(pid, node, version),
            M::Released { pid, node, version } => self.handle_released(pid, node, version),
            M::Held { pid } => self.handle_held(pid),
            M::LostOnTheWay { pid, version } => self.handle_lost_on_the_way(pid, version),
            M::ThreadsAt { process, node, version, tids } => {
                self.handle_threads_at(process, node, version, tids);
            }
            M::HandedOver { pid, held, is_last } => {
                self.handle_handed_over(from, pid, held, is_last);
            }
            M::Member { pgid, sid, pid, state, by_exit } => {
                self.handle_member(from, pgid, sid, pid, state, by_exit);
            }
            M::MemberLeft { pgid, pid, version } => self.handle_member_left(pgid, pid, version),
            M::MayJoin { pgid, sid, reply } => self.handle_may_join(pgid, sid, reply),
            M::MayLead { pid, reply } => self.handle_may_lead(pid, reply),
            M::AskSession { pgid, reply } => self.handle_ask_session(pgid, reply),
            M::SignalGroup { pgid, request, unless_orphaned, reply } => {
                self.handle_signal_group(pgid, request, unless_orphaned, reply);
            }
            M::SignalMembers { pgid, serial, request, hops } => {
                self.handle_signal_members(from, pgid, serial, request, hops);
            }
            M::MembersSignalled { serial, delivered, denied } => {
                self.handle_members_signalled(from, serial, delivered, denied);
            }
            M::SignalAll { request, reply } => self.handle_signal_all(request, reply),
            M::SessionGroup { sid, pgid, home, exists } => {
                self.handle_session_group(sid, pgid, home, exists);
            }
            M::SessionTerminalLost { sid, terminal } => {
                self.handle_session_terminal_lost(sid, terminal);
            }
            M::GroupTerminalLost { pgid, terminal } => {
                self.handle_group_terminal_lost(pgid, terminal);
            }
            M::MembersTerminalLost { pgid, terminal } => {
                self.handle_members_terminal_lost(pgid, terminal);
            }
            M::Reply { token, result } => self.handle_reply(from, token, result),
            M::BlockRequest => self.handle_block_request(from),
            M::BlockGranted { block } => self.handle_block_granted(from, block),
            M::BlockQuery { block } => self.handle_block_query(from, block),
            M::BlockOwner { block, node } => self.handle_block_owner(from, block, node),
            M::Settled { dead, blocks } => self.handle_settled(from, dead, &blocks),
        }
    }
}

/// Whether a peer claims that process 1 has a place, a group or a session: it is no process.
fn names_init(message: &ProcMessage) -> bool {
    use ProcMessage as M;
    match message {
        M::Member { pgid, sid, pid, .. } => [pgid, sid, pid].contains(&&Pid::INIT),
        M::SessionGroup { sid, pgid, .. } => [sid, pgid].contains(&&Pid::INIT),
        M::Located { pid, .. } | M::Held { pid } => *pid == Pid::INIT,
        _ => false,
    }
}
