//! Process groups, the home's side: who is a member where, whether the group is orphaned, and
//! signals to all of it.
//!
//! A signal to a group goes once to each node that has members, under a serial; the node gives it
//! to all its members of the group that have not had that serial, and sends it after those that
//! moved away lately. So a process that moves or forks meanwhile gets it exactly once.

use crate::{
    Note, ProcTable, SIGCONT, SIGHUP, limits,
    process::{Held, Process},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::time::Duration;
use dunix_ids::{NodeId, Pid};
use dunix_wire::processes::{
    Answer, Errno, ProcMessage, ReturnTo, SignalRequest, SignalSerial,
    table::{HOPS_MAX, MemberState},
};

#[derive(Debug)]
pub(crate) struct GroupHome {
    pub(crate) session: Pid,
    pub(crate) members: BTreeMap<Pid, MemberState>,
    is_orphaned: bool,
}

impl GroupHome {
    fn lives(&self) -> impl Iterator<Item = &MemberState> {
        self.members.values().filter(|member| !member.zombie)
    }

    fn nodes(&self) -> BTreeSet<NodeId> {
        self.lives().map(|member| member.node).collect()
    }
}

/// A signal to a group whose members are being counted.
#[derive(Debug)]
pub(crate) struct Fan {
    pub(crate) until: Duration,
    awaiting: BTreeSet<NodeId>,
    reply: ReturnTo,
    delivered: u32,
    denied: u32,
}

impl Fan {
    fn result(&self) -> Result<Answer, Errno> {
        match (self.delivered, self.denied) {
            (1.., _) => Ok(Answer::Done),
            (0, 1..) => Err(Errno::PERM),
            (0, 0) => Err(Errno::SRCH),
        }
    }
}

impl ProcTable {
    pub(crate) fn handle_member(
        &mut self,
        from: NodeId,
        pgid: Pid,
        sid: Pid,
        pid: Pid,
        state: MemberState,
        by_exit: bool,
    ) {
        if !self.owns(pgid) {
            return self.send_owner(pgid, ProcMessage::Member { pgid, sid, pid, state, by_exit });
        }
        if self.numbers.has_left(pgid, pid, state.version) {
            return;
        }
        let number = self.numbers.used.entry(pgid).or_default();
        let is_new = number.group.is_none();
        let group = number.group.get_or_insert_with(|| GroupHome {
            session: sid,
            members: BTreeMap::new(),
            is_orphaned: true,
        });
        if group.members.get(&pid).is_some_and(|known| known.version >= state.version) {
            return;
        }
        let moved_session = core::mem::replace(&mut group.session, sid);
        // Directly sent by the member's node, or after a death by way of another one.
        let node = if self.peers.is_buried(state.node) { from } else { state.node };
        group.members.insert(pid, MemberState { node, ..state });
        if is_new || moved_session != sid {
            self.tell_session(sid, pgid, true);
        }
        if moved_session != sid {
            self.tell_session(moved_session, pgid, false);
        }
        self.review_orphaning(pgid, by_exit);
    }

    fn tell_session(&mut self, sid: Pid, pgid: Pid, exists: bool) {
        let home = self.config.node;
        self.send_owner(sid, ProcMessage::SessionGroup { sid, pgid, home, exists });
    }

    pub(crate) fn handle_member_left(&mut self, pgid: Pid, pid: Pid, version: u64) {
        if !self.owns(pgid) {
            return self.send_owner(pgid, ProcMessage::MemberLeft { pgid, pid, version });
        }
        self.numbers.remember_left(self.now, pgid, pid, version);
        let Some(group) = self.numbers.group_mut(pgid) else { return };
        if group.members.get(&pid).is_some_and(|member| member.version < version) {
            group.members.remove(&pid);
            self.review_group(pgid, false);
        }
    }

    /// After members have gone: the group may have ended, or be orphaned.
    fn review_group(&mut self, pgid: Pid, by_exit: bool) {
        let Some(group) = self.numbers.group(pgid) else { return };
        if !group.members.is_empty() {
            return self.review_orphaning(pgid, by_exit);
        }
        let session = group.session;
        if let Some(number) = self.numbers.used.get_mut(&pgid) {
            number.group = None;
        }
        self.free_after_group(pgid);
        self.tell_session(session, pgid, false);
    }

    /// POSIX XSH _exit: when an end orphans a group with a stopped member, all members get SIGHUP
    /// and SIGCONT.
    fn review_orphaning(&mut self, pgid: Pid, by_exit: bool) {
        let Some(group) = self.numbers.group_mut(pgid) else { return };
        let was_orphaned = group.is_orphaned;
        let is_orphaned = !group.lives().any(|member| member.anchored);
        group.is_orphaned = is_orphaned;
        let has_stopped = group.lives().any(|member| member.stopped);
        if by_exit && !was_orphaned && is_orphaned && has_stopped {
            self.note(Note::OrphanedGroup { pgid });
            for signal in [SIGHUP, SIGCONT] {
                self.fan_out(pgid, SignalRequest::of_fabric(signal), None);
            }
        }
    }

    pub(crate) fn handle_may_join(&mut self, pgid: Pid, sid: Pid, reply: ReturnTo) {
        if !self.owns(pgid) {
            return self.send_owner(pgid, ProcMessage::MayJoin { pgid, sid, reply });
        }
        if self.numbers.group(pgid).is_none()
            && self.hold_for_rebuild(pgid, ProcMessage::MayJoin { pgid, sid, reply }).is_none()
        {
            return;
        }
        let may = self.numbers.group(pgid).is_some_and(|group| group.session == sid);
        self.send_reply(reply, if may { Ok(Answer::Done) } else { Err(Errno::PERM) });
    }

    pub(crate) fn handle_ask_session(&mut self, pgid: Pid, reply: ReturnTo) {
        if !self.owns(pgid) {
            return self.send_owner(pgid, ProcMessage::AskSession { pgid, reply });
        }
        if self.numbers.group(pgid).is_none()
            && self.hold_for_rebuild(pgid, ProcMessage::AskSession { pgid, reply }).is_none()
        {
            return;
        }
        let session = self.numbers.group(pgid).map(|group| Answer::Pid(group.session));
        self.send_reply(reply, session.ok_or(Errno::SRCH));
    }

    pub(crate) fn handle_signal_group(
        &mut self,
        pgid: Pid,
        request: SignalRequest,
        unless_orphaned: bool,
        reply: Option<ReturnTo>,
    ) {
        if !self.owns(pgid) {
            let message = ProcMessage::SignalGroup { pgid, request, unless_orphaned, reply };
            return self.send_owner(pgid, message);
        }
        let message = ProcMessage::SignalGroup { pgid, request, unless_orphaned, reply };
        if self.numbers.group(pgid).is_none() && self.hold_for_rebuild(pgid, message).is_none() {
            return;
        }
        let refused = match self.numbers.group(pgid) {
            None => Some(Err(Errno::SRCH)),
            Some(group) if unless_orphaned && group.is_orphaned => Some(Err(Errno::IO)),
            // Zombies can be signalled, to no effect.
            Some(group) if group.nodes().is_empty() => Some(Ok(Answer::Done)),
            Some(_) => None,
        };
        match (refused, reply) {
            (None, reply) => self.fan_out(pgid, request, reply),
            (Some(result), Some(reply)) => self.send_reply(reply, result),
            (Some(_), None) => {}
        }
    }

    fn fan_out(&mut self, pgid: Pid, request: SignalRequest, reply: Option<ReturnTo>) {
        let Some(nodes) = self.numbers.group(pgid).map(GroupHome::nodes) else { return };
        let nodes: BTreeSet<NodeId> = nodes.into_iter().filter(|n| self.is_live(*n)).collect();
        let number = self.serial_next;
        self.serial_next += 1;
        if let Some(reply) = reply {
            if self.fans.len() >= limits::OPERATIONS_MAX {
                return self.send_reply(reply, Err(Errno::AGAIN));
            }
            if nodes.is_empty() {
                return self.send_reply(reply, Err(Errno::SRCH));
            }
            let until = self.now + limits::OPERATION_WAIT / 2;
            let awaiting = nodes.clone();
            self.fans.insert(number, Fan { until, awaiting, reply, delivered: 0, denied: 0 });
        }
        let serial = SignalSerial { home: self.config.node, serial: number };
        for node in nodes {
            self.send(node, ProcMessage::SignalMembers { pgid, serial, request, hops: 0 });
        }
    }

    pub(crate) fn handle_signal_members(
        &mut self,
        from: NodeId,
        pgid: Pid,
        serial: SignalSerial,
        request: SignalRequest,
        hops: u8,
    ) {
        let (mut delivered, denied) = self.signal_local_members(pgid, serial, &request);
        for node in self.tombstones.take_nodes_without(pgid, serial) {
            if hops < HOPS_MAX && self.is_live(node) {
                let hops = hops + 1;
                self.send(node, ProcMessage::SignalMembers { pgid, serial, request, hops });
                delivered += 1;
            }
        }
        if hops == 0 {
            self.send(from, ProcMessage::MembersSignalled { serial, delivered, denied });
        }
    }

    /// Signals the members here that have not had this serial; counts those that had as delivered.
    pub(crate) fn signal_local_members(
        &mut self,
        pgid: Pid,
        serial: SignalSerial,
        request: &SignalRequest,
    ) -> (u32, u32) {
        let members: Vec<Pid> = self
            .processes
            .iter()
            .filter(|(_, process)| process.pgid == pgid && !process.is_zombie())
            .map(|(pid, _)| *pid)
            .collect();
        // Zombies that the group's home still counts can be signalled, to no effect.
        let is_zombie = |process: &&Process| process.pgid == pgid && process.is_zombie();
        let zombies = self.processes.values().filter(is_zombie).count();
        let (mut delivered, mut denied) = (u32::try_from(zombies).unwrap_or(u32::MAX), 0);
        for pid in members {
            match self.signal_member(pid, pgid, serial, request) {
                Err(Errno::PERM) => denied += 1,
                _ => delivered += 1,
            }
        }
        (delivered, denied)
    }

    fn signal_member(
        &mut self,
        pid: Pid,
        pgid: Pid,
        serial: SignalSerial,
        request: &SignalRequest,
    ) -> Result<(), Errno> {
        let Some(process) = self.processes.get_mut(&pid) else { return Ok(()) };
        if process.is_on_its_way() && !process.has_at_once(pid, &request.sender) {
            // Its record is packed already: a serial that it lacks must go after it.
            if !process.serials.contains(&serial) && process.held.len() < limits::HELD_MAX {
                let held = Held::Group { pgid, serial, request: *request };
                self.hold_or_strike(pid, held, request);
            }
            return Ok(());
        }
        if process.take_serial(serial) { self.deliver_signal(pid, None, request) } else { Ok(()) }
    }

    pub(crate) fn handle_members_signalled(
        &mut self,
        from: NodeId,
        serial: SignalSerial,
        delivered: u32,
        denied: u32,
    ) {
        let Some(fan) = self.fans.get_mut(&serial.serial) else { return };
        if serial.home != self.config.node || !fan.awaiting.remove(&from) {
            return;
        }
        fan.delivered = fan.delivered.saturating_add(delivered);
        fan.denied = fan.denied.saturating_add(denied);
        if fan.awaiting.is_empty() {
            self.close_fan(serial.serial);
        }
    }

    fn close_fan(&mut self, number: u64) {
        if let Some(fan) = self.fans.remove(&number) {
            self.send_reply(fan.reply, fan.result());
        }
    }

    pub(crate) fn expire_fans(&mut self) {
        while let Some((number, fan)) = self.fans.first_key_value()
            && fan.until <= self.now
        {
            let number = *number;
            self.close_fan(number);
        }
    }

    /// A node has died: its members are gone, and will not be counted.
    pub(crate) fn lose_members_of(&mut self, node: NodeId) {
        let fans: Vec<u64> = self.fans.keys().copied().collect();
        for number in fans {
            let serial = SignalSerial { home: self.config.node, serial: number };
            self.handle_members_signalled(node, serial, 0, 0);
        }
        let groups: Vec<Pid> = self.numbers.used.keys().copied().collect();
        for pgid in groups {
            let Some(group) = self.numbers.group_mut(pgid) else { continue };
            let before = group.members.len();
            group.members.retain(|_, member| member.node != node);
            if group.members.len() != before {
                self.review_group(pgid, true);
            }
        }
    }
}
