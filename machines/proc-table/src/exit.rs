//! Ends and stops, as the keeper reports them, and what they mean to parents and children.
//!
//! A zombie stays on the node where the process ended until its parent has waited; then that node
//! takes it out of its group and releases its number, in the order in which it made them known.

use crate::{
    Effect, HostTarget, Note, ProcTable, cld_of,
    operation::Then,
    process::{Held, Way},
    wait,
};
use core::time::Duration;
use dunix_ids::{NodeId, Pid};
use dunix_wire::processes::{
    Answer, ChildState, Errno, ExitStatus, ParentLink, ProcMessage, ProcessBody, RunState, Rusage,
    Sender, SignalInfo, SignalRequest,
    table::{ChildChange, Question},
};

impl ProcTable {
    /// The host process ended, and all that it wrote has arrived. Unknown PIDs are ignored.
    pub fn exited(&mut self, now: Duration, pid: Pid, status: ExitStatus, rusage: Rusage) {
        self.begin(now);
        match self.processes.get_mut(&pid) {
            Some(process) if process.is_zombie() => {}
            Some(process) if process.leaving.is_some() => process.end = Some((status, rusage)),
            Some(_) => self.end(pid, status, rusage),
            None => {}
        }
        self.finish();
    }

    /// The host process stopped.
    pub fn stopped(&mut self, now: Duration, pid: Pid, signal: u8) {
        self.begin(now);
        self.stop(pid, signal);
        self.finish();
    }

    /// The host process continued.
    pub fn continued(&mut self, now: Duration, pid: Pid) {
        self.begin(now);
        self.go_on(pid);
        self.finish();
    }

    pub(crate) fn stop(&mut self, pid: Pid, signal: u8) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.leaving.is_some() {
            return hold_run_change(&mut process.held, Held::Stopped(signal));
        }
        if process.state != RunState::Running {
            return;
        }
        process.state = RunState::Stopped(signal);
        let uid = process.credentials.uid;
        self.tell_parent(pid, ChildChange::Stopped { signal, uid });
        self.announce_member(pid, false);
    }

    pub(crate) fn go_on(&mut self, pid: Pid) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.leaving.is_some() {
            return hold_run_change(&mut process.held, Held::Continued);
        }
        if !matches!(process.state, RunState::Stopped(_)) {
            return;
        }
        process.state = RunState::Running;
        let uid = process.credentials.uid;
        self.tell_parent(pid, ChildChange::Continued { uid });
        self.announce_member(pid, false);
    }

    /// Turns a process into a zombie, and that into nothing if nobody waits for it.
    pub(crate) fn end(&mut self, pid: Pid, status: ExitStatus, own: Rusage) {
        self.drop_threads(pid);
        let Some(mut process) = self.processes.remove(&pid) else { return };
        self.unbind_host(&process, pid);
        process.host = None;
        process.state = RunState::Zombie;
        process.leaving = None;
        process.awaits = None;
        process.way = Way::Exec;
        process.held.clear();
        let mut rusage = own;
        rusage.add(&process.used);
        rusage.add(&process.children_rusage);
        process.end = Some((status, rusage));
        let children = core::mem::take(&mut process.children);
        let hang_up = process.terminal.take().filter(|_| process.sid == pid);
        process.version += 1;
        let watchers = core::mem::take(&mut process.watchers);
        let version = process.version;
        let session = process.sid;
        self.processes.insert(pid, process);
        self.effects.push_back(Effect::Gone { pid });
        for (child, entry) in children {
            self.leave_child(pid, version, child, &entry);
        }
        if let Some(terminal) = hang_up {
            self.effects.push_back(Effect::HangUp { session, terminal });
        }
        self.tell_end(pid);
        // After the parent: who hears of the end and is at its node finds the process waitable.
        self.tell_watchers(watchers, Answer::Done);
        self.announce_member(pid, true);
    }

    fn leave_child(
        &mut self,
        parent: Pid,
        version: u64,
        child: Pid,
        entry: &dunix_wire::processes::Child,
    ) {
        if wait::has_ended(entry) {
            self.send_reaped(child, entry.node);
        } else {
            let gone = ProcessBody::ParentGone { parent, version };
            self.send_process(child, Some(entry.node), gone);
        }
    }

    /// Tells the parent of a zombie; an orphan is reaped at once.
    pub(crate) fn tell_end(&mut self, pid: Pid) {
        let Some(process) = self.processes.get(&pid) else { return };
        let Some((status, rusage)) = process.end else { return };
        if process.parent.pid == Pid::INIT && process.parent.node.is_none() {
            return self.send_process(pid, None, ProcessBody::Reaped);
        }
        let uid = process.credentials.uid;
        self.tell_parent(pid, ChildChange::Ended { status, rusage, uid });
    }

    /// Sends news of a child to its parent, under a version of their own.
    pub(crate) fn tell_parent(&mut self, pid: Pid, change: ChildChange) {
        let node = self.config.node;
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.version += 1;
        let (parent, version) = (process.parent, process.version);
        let body = ProcessBody::ChildChanged { child: pid, node, version, change };
        match parent {
            ParentLink { pid: Pid::INIT, node: None, .. } => {}
            ParentLink { pid: Pid::INIT, node: Some(launcher), .. } => {
                if self.is_live(launcher) {
                    let message = ProcMessage::ToProcess { pid: Pid::INIT, hops: 0, body };
                    self.send(launcher, message);
                }
            }
            ParentLink { pid: parent, node, .. } => self.send_process(parent, node, body),
        }
    }

    /// The parent's side of a child's news.
    pub(crate) fn handle_child_changed(
        &mut self,
        parent: Pid,
        child: Pid,
        node: NodeId,
        version: u64,
        change: ChildChange,
    ) {
        let Some(process) = self.processes.get_mut(&parent).filter(|p| !p.is_zombie()) else {
            let gone = ProcessBody::ParentGone { parent, version: u64::MAX };
            return self.send_process(child, Some(node), gone);
        };
        let Some(entry) = process.children.get_mut(&child) else {
            return match change {
                ChildChange::Ended { .. } => self.send_reaped(child, node),
                ChildChange::Moved => {
                    let gone = ProcessBody::ParentGone { parent, version: u64::MAX };
                    self.send_process(child, Some(node), gone);
                }
                _ => {}
            };
        };
        if change == ChildChange::Doubtful {
            let is_news = entry.version < version && version != u64::MAX;
            if is_news && !wait::has_ended(entry) {
                entry.node = node;
            }
            if !wait::has_ended(entry) && (is_news || self.peers.is_dead(entry.node)) {
                self.confirm_child(parent, child);
            }
            return;
        }
        // An end is never stale: nothing comes after it but news that overtook it.
        let is_end = matches!(change, ChildChange::Ended { .. });
        if wait::has_ended(entry) || (version <= entry.version && !is_end) {
            return;
        }
        entry.version = version;
        entry.node = node;
        match change {
            ChildChange::Doubtful => {}
            ChildChange::Moved => {
                let (version, group) = (process.version, (process.pgid, process.sid));
                let here = self.config.node;
                let body = ProcessBody::ParentChanged { parent, version, node: here, group };
                self.send_process(child, Some(node), body);
            }
            ChildChange::Group(pgid) => {
                entry.pgid = pgid;
                // A wait for the old group may have no child left to wait for.
                self.effects.push_back(Effect::Wake { pid: parent });
            }
            ChildChange::Stopped { signal, uid } => {
                entry.state = ChildState::Stopped { signal, waited: false };
                let status = i32::from(signal);
                self.child_ran(parent, child, uid, crate::CLD_STOPPED, status);
            }
            ChildChange::Continued { uid } => {
                entry.state = ChildState::Continued;
                let status = i32::from(crate::SIGCONT);
                self.child_ran(parent, child, uid, crate::CLD_CONTINUED, status);
            }
            ChildChange::Ended { status, rusage, uid } => {
                entry.uid = uid;
                entry.state = ChildState::Zombie { status, rusage };
                self.child_ended(parent, child, status, uid);
            }
        }
    }

    /// A child stopped or continued.
    fn child_ran(&mut self, parent: Pid, child: Pid, uid: u32, code: i32, status: i32) {
        self.effects.push_back(Effect::Wake { pid: parent });
        if self.processes.get(&parent).is_some_and(|process| !process.stops_silent) {
            self.signal_parent(parent, crate::SIGCHLD, child, uid, code, status);
        }
    }

    fn child_ended(&mut self, parent: Pid, child: Pid, status: ExitStatus, uid: u32) {
        let Some(process) = self.processes.get_mut(&parent) else { return };
        let Some(entry) = process.children.get(&child) else { return };
        let exit_signal = entry.exit_signal;
        if process.children_reaped && exit_signal == crate::SIGCHLD {
            let node = entry.node;
            process.children.remove(&child);
            self.send_reaped(child, node);
        }
        if exit_signal != 0 {
            let (code, number) = cld_of(status);
            self.signal_parent(parent, exit_signal, child, uid, code, number);
        }
        self.effects.push_back(Effect::Wake { pid: parent });
    }

    fn signal_parent(
        &mut self,
        parent: Pid,
        signal: u8,
        pid: Pid,
        uid: u32,
        code: i32,
        status: i32,
    ) {
        let info = SignalInfo::Child { pid, uid, code, status };
        let sender = Sender { pid: None, uid, euid: 0, sid: None };
        let request = SignalRequest { signal, info, sender };
        // A queue that is full loses a SIGCHLD as the kernel's would; the wait finds the child.
        let _ = self.deliver_signal(parent, None, &request);
    }

    /// The launcher's side of a root's news.
    pub(crate) fn handle_to_init(&mut self, body: ProcessBody) {
        let ProcessBody::ChildChanged { child, node, version, change } = body else { return };
        let Some(root) = self.roots.get_mut(&child) else {
            if matches!(change, ChildChange::Ended { .. }) {
                self.send_reaped(child, node);
            }
            return;
        };
        if version <= root.version && !matches!(change, ChildChange::Ended { .. }) {
            return;
        }
        root.node = node;
        if change == ChildChange::Doubtful {
            return self.confirm_child(Pid::INIT, child);
        }
        root.version = version;
        if let ChildChange::Ended { status, rusage, .. } = change {
            self.roots.remove(&child);
            self.effects.push_back(Effect::RootExited { pid: child, status, rusage });
            self.send_reaped(child, node);
        }
    }

    /// Lets a zombie go: its own node does it, or this one if that node is dead.
    pub(crate) fn send_reaped(&mut self, child: Pid, node: NodeId) {
        if self.peers.is_dead(node) {
            self.send_owner(child, ProcMessage::Released { pid: child, node, version: 0 });
        } else {
            self.send_process(child, Some(node), ProcessBody::Reaped);
        }
    }

    pub(crate) fn handle_reaped(&mut self, pid: Pid) {
        if self.processes.get(&pid).is_some_and(|process| process.is_zombie()) {
            self.bury_zombie(pid);
        }
    }

    /// Takes a process that nobody waits for out of its group and releases its number.
    pub(crate) fn bury_zombie(&mut self, pid: Pid) {
        let Some(process) = self.processes.remove(&pid) else { return };
        let version = process.version.saturating_add(1);
        self.send_owner(process.pgid, ProcMessage::MemberLeft { pgid: process.pgid, pid, version });
        let node = self.config.node;
        self.send_owner(pid, ProcMessage::Released { pid, node, version });
    }

    pub(crate) fn handle_parent_changed(
        &mut self,
        pid: Pid,
        parent: Pid,
        version: u64,
        node: NodeId,
        group: (Pid, Pid),
    ) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.parent.pid != parent || version < process.parent.version {
            return;
        }
        let was_anchored = process.is_anchored();
        process.parent = ParentLink { pid: parent, node: Some(node), group: Some(group), version };
        if process.is_anchored() != was_anchored {
            self.announce_member(pid, false);
        }
    }

    pub(crate) fn handle_parent_gone(&mut self, pid: Pid, parent: Pid, version: u64) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.parent.pid == parent && version >= process.parent.version {
            self.orphan(pid);
        }
    }

    /// The process has no parent any more. (Linux would give it to a subreaper first: not kept.)
    pub(crate) fn orphan(&mut self, pid: Pid) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let was_anchored = process.is_anchored();
        process.parent = ParentLink::ORPHAN;
        let is_zombie = process.is_zombie();
        self.effects.push_back(Effect::Orphaned { pid });
        if is_zombie {
            self.bury_zombie(pid);
        } else if was_anchored {
            self.announce_member(pid, true);
        }
    }

    /// Asks the parent's node to ask the child's leaser, because `dead` has died. A version of
    /// `u64::MAX` repeats what the parent has heard before.
    pub(crate) fn send_doubt(
        &mut self,
        parent: (Pid, Option<NodeId>),
        child: Pid,
        dead: NodeId,
        version: u64,
    ) {
        let change = ChildChange::Doubtful;
        let body = ProcessBody::ChildChanged { child, node: dead, version, change };
        self.send_process(parent.0, parent.1, body);
    }

    /// Asks a child's leaser whether it lives on after the death of the node that it was on.
    pub(crate) fn confirm_child(&mut self, parent: Pid, child: Pid) {
        if let Some(reply) = self.open_operation(Then::Confirm { parent, child }) {
            let body = ProcessBody::Ask { question: Question::Node, reply };
            self.send_owner(child, ProcMessage::ToProcess { pid: child, hops: 0, body });
        }
    }

    pub(crate) fn conclude_confirm(
        &mut self,
        parent: Pid,
        child: Pid,
        result: Result<Answer, Errno>,
    ) {
        if parent == Pid::INIT {
            let Some(root) = self.roots.get_mut(&child) else { return };
            match result {
                Ok(Answer::Node(node)) => root.node = node,
                _ => {
                    let (node, version) = (root.node, root.version.saturating_add(1));
                    self.lose_child(parent, child, node, version);
                }
            }
            return;
        }
        match self.processes.get_mut(&parent) {
            Some(process) if !process.is_on_its_way() => {
                let Some(entry) = process.children.get_mut(&child) else { return };
                if wait::has_ended(entry) {
                    return;
                }
                match result {
                    Ok(Answer::Node(node)) if self.peers.is_dead(entry.node) => entry.node = node,
                    Ok(_) => {}
                    Err(_) => {
                        let (node, version) = (entry.node, entry.version.saturating_add(1));
                        self.send_owner(child, ProcMessage::Held { pid: child });
                        self.lose_child(parent, child, node, version);
                    }
                }
            }
            // The parent has moved: the doubt follows it.
            _ => self.send_doubt((parent, None), child, self.config.node, u64::MAX),
        }
    }

    pub(crate) fn handle_parent_doubtful(&mut self, pid: Pid, parent: Pid) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.parent.pid == parent && parent != Pid::INIT {
            process.parent.node = None;
            self.look_for_parent(pid);
        }
    }

    /// Speaks to the parent by way of its leaser. If it lives it answers with its node; if not, the
    /// answer is that it is gone.
    pub(crate) fn look_for_parent(&mut self, pid: Pid) {
        match self.processes.get(&pid) {
            Some(process) if process.is_zombie() => self.tell_end(pid),
            Some(_) => self.tell_parent(pid, ChildChange::Moved),
            None => {}
        }
    }

    /// A child was on a node that died.
    pub(crate) fn lose_child(&mut self, parent: Pid, child: Pid, node: NodeId, version: u64) {
        if !self.owns(child) {
            self.note(Note::LostWithNode { pid: child, node });
        }
        let change =
            ChildChange::Ended { status: ExitStatus::Lost, rusage: Rusage::default(), uid: 0 };
        let body = ProcessBody::ChildChanged { child, node, version, change };
        self.send(self.config.node, ProcMessage::ToProcess { pid: parent, hops: 0, body });
    }

    /// The host's number of a process or thread that runs here.
    #[must_use]
    pub fn to_host(&self, id: Pid) -> Option<HostTarget> {
        if let Some(process) = self.processes.get(&id) {
            return process.host.map(HostTarget::Process);
        }
        let thread = self.threads.get(id)?;
        let process = self.processes.get(&thread.process)?.host?;
        Some(HostTarget::Thread { process, thread: thread.host? })
    }
}

/// Only the last stop or continuation while leaving counts.
fn hold_run_change(held: &mut alloc::vec::Vec<Held>, change: Held) {
    held.retain(|held| !matches!(held, Held::Stopped(_) | Held::Continued));
    held.push(change);
}
