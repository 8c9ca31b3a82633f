//! Which processes there are, where they are, and which is to move next.
//!
//! A machine: events and outcomes go in with the time, moves come out. A process is due a random
//! time after it came into being, and again after each move has ended, so that it gets to run
//! between two moves however long they take. No process is asked for twice at a time.

use super::choice::Choices;
use dunix_admin_api::{Event, EventKind, ProcessInfo, ProcessState};
use dunix_ids::{NodeId, Pid};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Most moves under way at a time: more would only wait for each other.
pub(super) const MOVES_AT_ONCE: usize = 4;
/// Most processes that a storm moves; further ones are left alone.
const PROCESSES_MAX: usize = 4096;

/// A move that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Move {
    pub(super) pid: Pid,
    pub(super) from: NodeId,
    pub(super) to: NodeId,
}

/// The processes of the fabric, as far as the storm knows.
pub(super) struct Crew {
    seed: u64,
    mean: Duration,
    nodes: Vec<NodeId>,
    members: BTreeMap<Pid, Member>,
    under_way: usize,
}

struct Member {
    node: NodeId,
    choices: Choices,
    /// When it moves next; `None` while it is being moved.
    due: Option<Instant>,
}

impl Crew {
    pub(super) fn new(seed: u64, mean: Duration, nodes: Vec<NodeId>) -> Crew {
        Crew { seed, mean, nodes, members: BTreeMap::new(), under_way: 0 }
    }

    /// Takes note of what happened.
    pub(super) fn handle_event(&mut self, now: Instant, event: &Event) {
        match event.kind {
            EventKind::Started { pid, .. } => self.see(now, pid, event.node),
            EventKind::Executed { pid, .. } | EventKind::Moved { pid, .. } => {
                self.see(now, pid, event.node);
            }
            // One under way is forgotten when its move has been answered.
            EventKind::Exited { pid, .. } if !self.is_under_way(pid) => {
                self.members.remove(&pid);
            }
            _ => {}
        }
    }

    /// Takes note of a process of a list.
    pub(super) fn handle_listed(&mut self, now: Instant, process: &ProcessInfo) {
        if process.state != ProcessState::Zombie {
            self.see(now, process.pid, process.node);
        }
    }

    fn is_under_way(&self, pid: Pid) -> bool {
        self.members.get(&pid).is_some_and(|member| member.due.is_none())
    }

    fn see(&mut self, now: Instant, pid: Pid, node: NodeId) {
        if let Some(member) = self.members.get_mut(&pid) {
            // An event that was on its way while a move was is older than the move's answer.
            if member.due.is_some() {
                member.node = node;
            }
        } else if self.members.len() < PROCESSES_MAX {
            let mut choices = Choices::new(self.seed, pid);
            let due = Some(now + choices.delay(self.mean));
            self.members.insert(pid, Member { node, choices, due });
        }
    }

    /// The move that is due longest, unless enough are under way.
    pub(super) fn poll_move(&mut self, now: Instant) -> Option<Move> {
        if self.under_way >= MOVES_AT_ONCE {
            return None;
        }
        let (pid, due) = self.first()?;
        let member = self.members.get_mut(&pid).filter(|_| due <= now)?;
        let to = member.choices.target(&self.nodes, member.node)?;
        member.due = None;
        self.under_way += 1;
        Some(Move { pid, from: member.node, to })
    }

    /// When [`Crew::poll_move`] has something next, if nothing happens before.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.first().map(|(_, due)| due).filter(|_| self.under_way < MOVES_AT_ONCE)
    }

    fn first(&self) -> Option<(Pid, Instant)> {
        let due = self.members.iter().filter_map(|(pid, member)| Some((*pid, member.due?)));
        due.min_by_key(|(_, due)| *due)
    }

    /// A move has ended: the process runs at `node`, or is no more.
    pub(super) fn handle_answer(&mut self, now: Instant, pid: Pid, node: Option<NodeId>) {
        self.under_way -= 1;
        match (node, self.members.get_mut(&pid)) {
            (Some(node), Some(member)) => {
                member.node = node;
                member.due = Some(now + member.choices.delay(self.mean));
            }
            _ => {
                self.members.remove(&pid);
            }
        }
    }

    /// Moves under way.
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEAN: Duration = Duration::from_millis(50);

    fn pid(raw: u32) -> Pid {
        Pid::new(raw).unwrap()
    }

    fn event(node: u32, kind: EventKind) -> Event {
        Event { at_unix_ms: 0, node: NodeId(node), kind }
    }

    fn started(raw: u32) -> Event {
        event(1, EventKind::Started { pid: pid(raw), ppid: Pid::INIT, args: Vec::new() })
    }

    fn ended(raw: u32) -> Event {
        let status = dunix_admin_api::ExitStatus::Exited(0);
        event(1, EventKind::Exited { pid: pid(raw), status })
    }

    fn crew(count: u32, now: Instant) -> Crew {
        let mut crew = Crew::new(3, MEAN, vec![NodeId(1), NodeId(2), NodeId(3)]);
        (2..count + 2).for_each(|raw| crew.handle_event(now, &started(raw)));
        crew
    }

    #[test]
    fn each_moves_away_and_again_after_its_answer() {
        let now = Instant::now();
        let mut crew = crew(1, now);
        assert_eq!(crew.poll_move(now), None);
        let due = crew.next_due().unwrap();
        let first = crew.poll_move(due).unwrap();
        assert_eq!((first.pid, first.from), (pid(2), NodeId(1)));
        assert_ne!(first.to, NodeId(1));
        assert_eq!((crew.poll_move(due + MEAN * 100), crew.next_due()), (None, None));
        crew.handle_answer(due, pid(2), Some(first.to));
        let second = crew.poll_move(crew.next_due().unwrap()).unwrap();
        assert_eq!(second.from, first.to);
        assert_ne!(second.to, first.to);
    }

    #[test]
    fn not_more_than_some_at_once() {
        let now = Instant::now();
        let mut crew = crew(100, now);
        let late = now + MEAN * 100;
        let moves: Vec<Move> = std::iter::from_fn(|| crew.poll_move(late)).collect();
        assert_eq!((moves.len(), crew.under_way()), (MOVES_AT_ONCE, MOVES_AT_ONCE));
        crew.handle_answer(late, moves[0].pid, None);
        assert!(crew.poll_move(late).is_some_and(|next| next.pid != moves[0].pid));
    }

    #[test]
    fn the_dead_are_left_alone_and_executions_elsewhere_are_followed() {
        let now = Instant::now();
        let mut crew = crew(2, now);
        crew.handle_event(now, &ended(2));
        let args = Vec::new();
        crew.handle_event(
            now,
            &event(3, EventKind::Executed { pid: pid(3), args, reason: String::new() }),
        );
        let only = crew.poll_move(now + MEAN * 100).unwrap();
        assert_eq!((only.pid, only.from), (pid(3), NodeId(3)));
        // Ended while it is moved: the answer says so.
        crew.handle_event(now, &ended(3));
        crew.handle_answer(now, pid(3), None);
        assert_eq!((crew.next_due(), crew.under_way()), (None, 0));
    }
}
