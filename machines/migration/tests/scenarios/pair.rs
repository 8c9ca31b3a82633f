//! The commands of the scenarios, and how effects are written down.

use dunix_ids::{NodeId, Pid};
use dunix_migration::{Effect, Input, Migration};
use dunix_scenarios::Stage;
use dunix_wire::processes::{MoveId, MoveMessage, Refusal};
use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write,
    time::Duration,
};

#[derive(Clone)]
enum Payload {
    Offer { id: MoveId, order: u64 },
    Word(MoveMessage),
}

/// Some nodes, and what is on its way between each pair, in order.
#[derive(Default)]
pub(crate) struct Nodes {
    now: Duration,
    machines: BTreeMap<NodeId, Migration>,
    links: BTreeMap<(NodeId, NodeId), VecDeque<Payload>>,
    /// What will come a second time.
    copies: BTreeMap<(NodeId, NodeId), VecDeque<Payload>>,
    pids: BTreeMap<MoveId, Pid>,
}

impl Stage for Nodes {
    fn command(&mut self, line: &str, out: &mut String) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let refusal = Refusal::TargetFull;
        match words.as_slice() {
            ["nodes", count] => {
                let nodes = (1..=count.parse().expect("a number")).map(NodeId);
                self.machines = nodes.map(|node| (node, Migration::new(node))).collect();
            }
            ["start", pid, from, to] => self.start(pid, node_of(from), node_of(to), out),
            ["packed", id] => self.at_source(id, out, |id| Input::Packed { id }),
            ["not-packed", id] => {
                self.at_source(id, out, |id| Input::NotPacked { id, refusal });
            }
            ["ended", id] => self.at_source(id, out, |id| Input::HostEnded { id }),
            ["ready", node, id] => self.at(node, id, out, |id| Input::Ready { id }),
            ["failed", node, id] => self.at(node, id, out, |id| Input::Failed { id, refusal }),
            ["adopted", node, id] => {
                self.at(node, id, out, |id| Input::Adopted { id, bytes: 7, is_whole: false });
            }
            ["cannot-adopt", node, id] => {
                self.at(node, id, out, |id| Input::CannotAdopt { id, refusal });
            }
            ["whole", node, id] => {
                self.at(node, id, out, |id| Input::Whole { id, bytes: 9, is_lost: false });
            }
            ["down", at, dead] => {
                self.step(node_of(at), Input::NodeDown { node: node_of(dead) }, out);
            }
            ["deliver", from, to] => self.deliver(node_of(from), node_of(to), out),
            ["lose", from, to] => {
                self.links.remove(&(node_of(from), node_of(to)));
            }
            // What is on its way comes again whenever the network pleases.
            ["copy", from, to] => {
                let link = (node_of(from), node_of(to));
                let words = self.links.get(&link).cloned().unwrap_or_default();
                self.copies.entry(link).or_default().extend(words);
            }
            ["again", from, to] => {
                let link = (node_of(from), node_of(to));
                let words = self.copies.remove(&link).unwrap_or_default();
                self.links.entry(link).or_default().extend(words);
                self.deliver(link.0, link.1, out);
            }
            ["tick", ms] => {
                self.now += Duration::from_millis(ms.parse().expect("a number"));
                for node in self.machines.keys().copied().collect::<Vec<_>>() {
                    self.step(node, Input::Tick, out);
                }
            }
            _ => panic!("no such command: {line}"),
        }
    }
}

impl Nodes {
    fn start(&mut self, pid: &str, from: NodeId, to: NodeId, out: &mut String) {
        let pid = Pid::new(pid.parse().expect("a number")).expect("a PID");
        let machine = self.machines.get_mut(&from).expect("it is there");
        match machine.start(self.now, pid, to) {
            Ok(id) => {
                self.pids.insert(id, pid);
                writeln!(out, "{from}: freezes {pid} for {id}").expect("a string takes it");
            }
            Err(refusal) => writeln!(out, "{from}: {pid}: {refusal}").expect("a string takes it"),
        }
    }

    fn at_source(&mut self, id: &str, out: &mut String, input: impl FnOnce(MoveId) -> Input) {
        let id = id_of(id);
        self.step(id.source, input(id), out);
    }

    fn at(&mut self, node: &str, id: &str, out: &mut String, input: impl FnOnce(MoveId) -> Input) {
        self.step(node_of(node), input(id_of(id)), out);
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, out: &mut String) {
        while let Some(payload) = self.links.get_mut(&(from, to)).and_then(VecDeque::pop_front) {
            let input = match payload {
                Payload::Offer { id, order } => {
                    Input::Offered { from, id, order, pid: self.pids[&id] }
                }
                Payload::Word(message) => Input::Message { from, message },
            };
            self.step(to, input, out);
        }
    }

    fn step(&mut self, node: NodeId, input: Input, out: &mut String) {
        let machine = self.machines.get_mut(&node).expect("it is there");
        let effects = machine.step(self.now, input);
        machine.check_invariants();
        for effect in effects {
            writeln!(out, "{node}: {}", words(&effect)).expect("a string takes it");
            match effect {
                Effect::Send { to, message } => self.post(node, to, Payload::Word(message)),
                Effect::Offer { id, to, order } => {
                    self.post(node, to, Payload::Offer { id, order });
                }
                _ => {}
            }
        }
    }

    fn post(&mut self, from: NodeId, to: NodeId, payload: Payload) {
        self.links.entry((from, to)).or_default().push_back(payload);
    }
}

fn words(effect: &Effect) -> String {
    match effect {
        Effect::Send { to, message } => {
            let word = match message {
                MoveMessage::Prepare(_) => "prepare",
                MoveMessage::Prepared { .. } => "prepared",
                MoveMessage::Refused { refusal, .. } => &format!("refused, {}", refusal.name()),
                MoveMessage::Commit { .. } => "commit",
                MoveMessage::Committed { .. } => "committed",
                MoveMessage::Complete { is_lost: true, .. } => "complete, but killed",
                MoveMessage::Complete { .. } => "complete",
                MoveMessage::Closed { .. } => "closed",
                MoveMessage::DonorLost { .. } => "donor lost",
            };
            format!("-> {to} {}: {word}", message.id())
        }
        Effect::Offer { id, to, .. } => format!("-> {to} {id}: the package"),
        Effect::Decide { pid, .. } => format!("{pid} runs there or nowhere"),
        Effect::Stay { pid, refusal, .. } => format!("{pid} stays: {refusal}"),
        Effect::Left { pid, bytes, .. } => format!("{pid} has left with {bytes} bytes"),
        Effect::Finish { pid, is_lost: true, .. } => format!("{pid} was killed there"),
        Effect::Finish { pid, bytes, .. } => format!("{pid} has its last page, {bytes} bytes"),
        Effect::Lose { pid, .. } => format!("{pid} is lost with the target"),
        Effect::Prepare { pid, .. } => format!("prepares {pid}"),
        Effect::Adopt { pid, .. } => format!("adopts {pid}"),
        Effect::Discard { pid, .. } => format!("discards {pid}"),
        Effect::Kill { pid, .. } => format!("kills {pid}, whose pages are gone"),
    }
}

fn node_of(text: &str) -> NodeId {
    NodeId(text.trim_start_matches('n').parse().expect("a node"))
}

fn id_of(text: &str) -> MoveId {
    let (source, epoch) = text.split_once('.').expect("a move");
    MoveId { source: node_of(source), epoch: epoch.parse().expect("a number") }
}
