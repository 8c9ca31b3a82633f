//! The story of a process: what happened to it here, and how it stands.

use crate::node::{Node, State};
use dunix_ids::Pid;
use dunix_wire::processes::{ProcessSummary, RunState};
use std::collections::BTreeMap;

/// Processes whose stories are kept, ended ones included; beyond it the lowest number goes.
const STORIES_MAX: usize = 4096;
/// Lines of one story; beyond it the oldest goes.
const LINES_MAX: usize = 32;

/// What happened to processes here, in readable lines.
#[derive(Debug, Default)]
pub(crate) struct Stories(BTreeMap<Pid, Vec<String>>);

impl Stories {
    fn add(&mut self, pid: Pid, line: String) {
        let story = self.0.entry(pid).or_default();
        if story.len() >= LINES_MAX {
            story.remove(0);
        }
        story.push(line);
        if self.0.len() > STORIES_MAX {
            self.0.pop_first();
        }
    }
}

impl Node {
    /// Remembers something that a user may ask about.
    pub(crate) fn note(&self, pid: Pid, line: String) {
        let at = self.now().as_secs_f64();
        self.with(|state, _| state.stories.add(pid, format!("{at:.3}s: {line}")));
    }

    /// What runs on this node, zombies included, with what the host knows of it.
    pub(crate) fn list(&self) -> Vec<ProcessSummary> {
        let list = self.look(|state| state.table.list());
        list.into_iter().map(|summary| self.filled_in(summary)).collect()
    }

    /// The story of a process as this node knows it; empty if it knows nothing.
    pub(crate) fn explain(&self, pid: Pid) -> Vec<String> {
        let mut lines = self.look(|state| state.explain(pid));
        if let Some(process) = self.look(|state| state.table.summary(pid)) {
            lines.insert(0, self.standing(&process));
        }
        lines
    }

    fn standing(&self, process: &ProcessSummary) -> String {
        let state = match process.state {
            RunState::Starting => "is starting".to_owned(),
            RunState::Running => "runs".to_owned(),
            RunState::Stopped(signal) => format!("is stopped by signal {signal}"),
            RunState::Leaving(node) => format!("is leaving for {node}"),
            RunState::Zombie => "has ended and was not waited for".to_owned(),
        };
        let host = process.host_pid.map_or("none".to_owned(), |pid| pid.to_string());
        format!(
            "{} ({}) {state} on {}, host process {host}, parent {}, group {}, session {}",
            process.pid, process.comm, self.id, process.ppid, process.pgid, process.sid
        )
    }
}

impl State {
    fn explain(&self, pid: Pid) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(local) = self.locals.get(&pid) {
            for number in local.remote.descriptors() {
                if let Some(fd) = local.remote.get(number) {
                    let home = fd.object.home;
                    lines.push(format!("descriptor {number}: {:?}, calls run on {home}", fd.what));
                }
            }
            if let Some(id) = self.moves.arriving_by(pid) {
                let from = id.source;
                lines.push(format!(
                    "pages of it are on their way from {from}, whose death would kill it"
                ));
            }
            let relays = local.remote.written().relays.len();
            if relays > 0 {
                lines.push(format!("{relays} of its pipes or sockets lead to other nodes"));
            }
        } else if let Some(node) = self.table.known_location(pid) {
            lines.push(format!("{pid} was last known on {node}"));
        }
        lines.extend(self.stories.0.get(&pid).into_iter().flatten().cloned());
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stories_are_bounded() {
        let mut stories = Stories::default();
        for i in 0..100 {
            stories.add(Pid::INIT, i.to_string());
        }
        assert_eq!(stories.0[&Pid::INIT].len(), LINES_MAX);
        assert_eq!(stories.0[&Pid::INIT][0], "68");
        for raw in 1..6000 {
            stories.add(Pid::new(raw).unwrap(), String::new());
        }
        assert_eq!(stories.0.len(), STORIES_MAX);
    }
}
