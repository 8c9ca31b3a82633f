//! The commands of the scenarios, and how effects are written down.

use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_proc_table::{
    Effect, HostTarget, KillTarget, Kind, ProcTable, RootSpec, SIGCHLD, TableConfig, Token,
    WaitFor, WaitOptions, WaitOutcome,
};
use dunix_scenarios::Stage;
use dunix_wire::processes::{
    Answer, ExitStatus, ProcMessage, ProcessBody, ProcessRecord, Rusage, SignalInfo,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write,
    time::Duration,
};

#[derive(Default)]
pub(crate) struct Fabric {
    now: Duration,
    tables: BTreeMap<NodeId, ProcTable>,
    links: BTreeMap<(NodeId, NodeId), VecDeque<ProcMessage>>,
    unplugged: BTreeSet<(NodeId, NodeId)>,
    /// Where each name's host process is.
    at: BTreeMap<Pid, NodeId>,
    names: BTreeMap<Pid, String>,
    /// Records under way, and who has adopted.
    records: BTreeMap<Pid, (NodeId, ProcessRecord)>,
    adopted: BTreeMap<Pid, NodeId>,
    host_next: u32,
    token_next: u64,
}

impl Stage for Fabric {
    fn command(&mut self, line: &str, out: &mut String) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["nodes", count] => self.start(count.parse().expect("a number"), out),
            ["root", node, name] => self.root(node_of(node), name, out),
            ["fork", parent, name] => {
                let parent = self.pid(parent);
                self.fork(parent, name, out);
            }
            ["bind", name] => self.bind(self.pid(name), out),
            ["exec", name, node] => {
                self.depart(name, node, out);
                self.adopt(name, out);
                self.departed(name, out);
            }
            ["depart", name, node] => self.depart(name, node, out),
            ["adopt", name] => self.adopt(name, out),
            ["departed", name] => self.departed(name, out),
            ["stayed", name] => self.of(name, out, |table, now, pid| table.stayed(now, pid)),
            ["exec-here", name] => self.of(name, out, |table, now, pid| {
                table.exec(now, pid, "prog".into(), Default::default()).expect("it lives");
            }),
            ["exit", name, code] => {
                let status = ExitStatus::Exited(code.parse().expect("a byte"));
                self.of(name, out, |t, now, pid| t.exited(now, pid, status, Rusage::default()));
            }
            ["stop", name] => self.of(name, out, |table, now, pid| table.stopped(now, pid, 19)),
            ["continue", name] => self.of(name, out, |table, now, pid| table.continued(now, pid)),
            ["wait", name, which, options @ ..] => self.wait(name, which, options, out),
            ["ignore-children", name] => {
                self.of(name, out, |table, _, pid| table.set_child_policy(pid, true, false));
            }
            ["user", name, uid] => {
                let uid = uid.parse().expect("a number");
                let users = dunix_wire::processes::Credentials { uid, euid: uid, suid: uid };
                self.of(name, out, |table, _, pid| table.set_credentials(pid, users));
            }
            ["kill", name, target @ .., signal] => self.kill(name, target, signal, out),
            ["setpgid", name, target, group] => {
                let (target, group) = (Some(self.pid(target)), Some(self.pid(group)));
                self.ask(name, out, |t, now, token, pid| t.setpgid(now, token, pid, target, group));
            }
            ["setsid", name] => self.ask(name, out, |t, now, token, pid| t.setsid(now, token, pid)),
            ["background", name, signal] => {
                let signal = signal.parse().expect("a number");
                self.ask(name, out, |t, now, token, pid| t.background(now, token, pid, signal));
            }
            ["locate", node, name] => {
                let (pid, token) = (self.pid(name), self.token());
                self.on(node_of(node), out, |table, now| table.locate(now, token, pid));
            }
            ["watch", node, name] => {
                let (pid, token) = (self.pid(name), self.token());
                self.on(node_of(node), out, |table, now| table.watch_end(now, token, 1, pid));
            }
            ["terminal", name] => {
                self.of(name, out, |table, _, pid| table.set_terminal(pid, Some(TERMINAL)));
            }
            ["hang-up", name] => self.of(name, out, |table, now, pid| {
                table.session_terminal_lost(now, pid, TERMINAL);
            }),
            ["deliver"] => self.deliver_all(out),
            ["deliver", from, to] => self.deliver(node_of(from), node_of(to), out),
            ["lose", from, to] => {
                self.links.remove(&(node_of(from), node_of(to)));
            }
            ["down", node] => self.down(node_of(node), out),
            ["unplug", a, b] => self.unplug(node_of(a), node_of(b), out),
            ["plug", a, b] => self.plug(node_of(a), node_of(b), out),
            ["tick", ms] => self.tick(Duration::from_millis(ms.parse().expect("a number")), out),
            ["show"] => self.show(out),
            _ => panic!("no such command: {line}"),
        }
    }
}

impl Fabric {
    fn start(&mut self, count: u32, out: &mut String) {
        for node in (1..=count).map(NodeId) {
            let config = TableConfig { node, founder: NodeId(1) };
            self.tables.insert(node, ProcTable::new(config));
        }
        let nodes: Vec<NodeId> = self.tables.keys().copied().collect();
        let mut boot = String::new();
        for node in &nodes {
            for peer in nodes.iter().filter(|peer| *peer != node) {
                self.on(*node, &mut boot, |table, now| table.handle_node_up(now, *peer));
            }
        }
        self.deliver_all(&mut boot);
        writeln!(out, "{count} nodes, each with a block").expect("a string takes it");
    }

    fn pid(&self, name: &str) -> Pid {
        let found = self.names.iter().find(|(_, known)| *known == name);
        *found.unwrap_or_else(|| panic!("nobody is called {name}")).0
    }

    fn name(&self, pid: Pid) -> String {
        self.names.get(&pid).cloned().unwrap_or_else(|| format!("pid {pid}"))
    }

    fn token(&mut self) -> Token {
        self.token_next += 1;
        Token(self.token_next)
    }

    /// Calls a table and writes down what it asks for.
    fn on<T>(
        &mut self,
        node: NodeId,
        out: &mut String,
        call: impl FnOnce(&mut ProcTable, Duration) -> T,
    ) -> T {
        let now = self.now;
        let table = self.tables.get_mut(&node).expect("the node lives");
        let result = call(table, now);
        let effects: Vec<Effect> = std::iter::from_fn(|| table.poll_effect()).collect();
        table.check_invariants().expect("the invariants hold");
        for effect in effects {
            let line = self.describe(node, &effect);
            writeln!(out, "{node}: {line}").expect("a string takes it");
            if let Effect::Send { to, message } = effect
                && !self.unplugged.contains(&(node, to))
            {
                self.links.entry((node, to)).or_default().push_back(message);
            }
        }
        result
    }

    fn of(
        &mut self,
        name: &str,
        out: &mut String,
        call: impl FnOnce(&mut ProcTable, Duration, Pid),
    ) {
        let pid = self.pid(name);
        self.on(self.at[&pid], out, |table, now| call(table, now, pid));
    }

    fn ask(
        &mut self,
        name: &str,
        out: &mut String,
        call: impl FnOnce(&mut ProcTable, Duration, Token, Pid),
    ) {
        let token = self.token();
        self.of(name, out, |table, now, pid| call(table, now, token, pid));
    }

    fn root(&mut self, node: NodeId, name: &str, out: &mut String) {
        let pid = self.on(node, out, |table, now| table.spawn_root(now, RootSpec::default()));
        self.born(pid.expect("there are numbers"), node, name, out);
    }

    fn fork(&mut self, parent: Pid, name: &str, out: &mut String) {
        let node = self.at[&parent];
        let pid = self.on(node, out, |table, now| table.fork(now, parent, SIGCHLD));
        self.born(pid.expect("there are numbers"), node, name, out);
    }

    fn born(&mut self, pid: Pid, node: NodeId, name: &str, out: &mut String) {
        self.names.insert(pid, name.to_owned());
        self.at.insert(pid, node);
        self.bind(pid, out);
    }

    fn bind(&mut self, pid: Pid, out: &mut String) {
        self.host_next += 1;
        let host = 100 + self.host_next;
        self.on(self.at[&pid], out, |table, now| table.bind_host(now, pid, host))
            .expect("it starts");
    }

    fn depart(&mut self, name: &str, node: &str, out: &mut String) {
        let pid = self.pid(name);
        let from = self.at[&pid];
        let record = self.on(from, out, |table, now| table.depart(now, pid, node_of(node)));
        match record {
            Ok(record) => drop(self.records.insert(pid, (node_of(node), record))),
            Err(error) => writeln!(out, "{from}: {name} cannot leave: {error:?}").expect("fits"),
        }
    }

    fn adopt(&mut self, name: &str, out: &mut String) {
        let pid = self.pid(name);
        let from = self.at[&pid];
        let (to, record) = self.records.remove(&pid).expect("it is on its way");
        self.on(to, out, |table, now| table.adopt(now, from, record)).expect("it can be had");
        self.host_next += 1;
        let host = 100 + self.host_next;
        self.on(to, out, |table, now| table.bind_host(now, pid, host)).expect("it starts");
        // Until `departed` is called, commands about it still go to the source.
        self.adopted.insert(pid, to);
    }

    fn departed(&mut self, name: &str, out: &mut String) {
        let pid = self.pid(name);
        self.of(name, out, |table, now, pid| {
            table.departed(now, pid);
        });
        if let Some(to) = self.adopted.remove(&pid) {
            self.at.insert(pid, to);
        }
    }

    fn wait(&mut self, name: &str, which: &str, options: &[&str], out: &mut String) {
        let pid = self.pid(name);
        let which = match which {
            "any" => WaitFor::Any,
            group if group.starts_with("group:") => WaitFor::Group(self.pid(&group[6..])),
            child => WaitFor::Child(self.pid(child)),
        };
        let options = WaitOptions {
            exited: !options.contains(&"not-exited"),
            stopped: options.contains(&"stopped"),
            continued: options.contains(&"continued"),
            keep: options.contains(&"keep"),
            kind: Kind::Ordinary,
        };
        let node = self.at[&pid];
        let mut effects = String::new();
        let found = self.on(node, &mut effects, |table, now| table.wait(now, pid, which, options));
        let line = match found {
            Ok(WaitOutcome::Found(found)) => {
                let child = self.name(found.pid);
                format!("finds {child}: code {} status {}", found.code, found.status)
            }
            Ok(WaitOutcome::NotYet) => "has to wait".to_owned(),
            Err(error) => format!("error {}", error.0),
        };
        writeln!(out, "{node}: {name} {line}").expect("a string takes it");
        out.push_str(&effects);
    }

    fn kill(&mut self, name: &str, target: &[&str], signal: &str, out: &mut String) {
        let target = match target {
            ["group", group] => KillTarget::Group(self.pid(group)),
            ["all"] => KillTarget::All,
            [one] => KillTarget::Process(self.pid(one)),
            _ => panic!("no such target: {target:?}"),
        };
        let signal = signal.parse().expect("a number");
        self.ask(name, out, |table, now, token, pid| {
            table.kill(now, token, pid, target, signal, SignalInfo::User);
        });
    }

    fn deliver_all(&mut self, out: &mut String) {
        while let Some((from, to)) =
            self.links.iter().find(|(_, queue)| !queue.is_empty()).map(|(pair, _)| *pair)
        {
            self.deliver(from, to, out);
        }
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, out: &mut String) {
        let messages = self.links.remove(&(from, to)).unwrap_or_default();
        for message in messages {
            if self.tables.contains_key(&to) {
                self.on(to, out, |table, now| table.handle_message(now, from, message));
            }
        }
    }

    fn down(&mut self, dead: NodeId, out: &mut String) {
        self.tables.remove(&dead);
        self.links.retain(|(from, to), _| *from != dead && *to != dead);
        let survivors: Vec<NodeId> = self.tables.keys().copied().collect();
        for node in survivors {
            self.on(node, out, |table, now| table.handle_node_down(now, dead));
        }
    }

    /// Breaks the link of two nodes that both live; what is under way is lost.
    fn unplug(&mut self, a: NodeId, b: NodeId, out: &mut String) {
        for (node, peer) in [(a, b), (b, a)] {
            self.links.remove(&(node, peer));
            self.unplugged.insert((node, peer));
            self.on(node, out, |table, now| table.handle_node_down(now, peer));
        }
    }

    fn plug(&mut self, a: NodeId, b: NodeId, out: &mut String) {
        for (node, peer) in [(a, b), (b, a)] {
            self.unplugged.remove(&(node, peer));
            self.on(node, out, |table, now| table.handle_node_up(now, peer));
        }
    }

    fn tick(&mut self, by: Duration, out: &mut String) {
        self.now += by;
        let nodes: Vec<NodeId> = self.tables.keys().copied().collect();
        for node in nodes {
            self.on(node, out, ProcTable::handle_timeout);
        }
    }

    fn show(&self, out: &mut String) {
        for (node, table) in &self.tables {
            for line in table.list() {
                let parent = Pid::new(line.ppid).map_or_else(String::new, |pid| self.name(pid));
                writeln!(
                    out,
                    "{node}: {} parent {parent} group {} session {} {:?}",
                    self.name(line.pid),
                    self.name(line.pgid),
                    self.name(line.sid),
                    line.state
                )
                .expect("a string takes it");
            }
        }
    }

    fn describe(&self, node: NodeId, effect: &Effect) -> String {
        match effect {
            Effect::Send { to, message } => format!("-> {to} {}", self.describe_message(message)),
            Effect::Signal { pid, target, signal, info, sender_pid, .. } => {
                let host = match target {
                    HostTarget::Process(host) => format!("process {host}"),
                    HostTarget::Thread { thread, .. } => format!("thread {thread}"),
                };
                let about = match info {
                    SignalInfo::Child { pid, code, status, .. } => {
                        format!("about {}: code {code} status {status}", self.name(*pid))
                    }
                    SignalInfo::User => {
                        let by = Pid::new(*sender_pid).map(|pid| self.name(pid));
                        format!("by {}", by.unwrap_or_default())
                    }
                    other => format!("{other:?}"),
                };
                format!("signal {signal} for {} ({host}) {about}", self.name(*pid))
            }
            Effect::Wake { pid } => format!("wake {}", self.name(*pid)),
            Effect::Arrived { pid } => format!("{} may move on", self.name(*pid)),
            Effect::Reply { token, result } => {
                let result = match result {
                    Ok(Answer::Done) => "done".to_owned(),
                    Ok(Answer::Pid(pid)) => self.name(*pid),
                    Ok(Answer::Node(node)) => node.to_string(),
                    Err(error) => format!("error {}", error.0),
                };
                format!("answer {}: {result}", token.0)
            }
            Effect::RootExited { pid, status, .. } => {
                format!("root {} ended: {status:?}", self.name(*pid))
            }
            Effect::Gone { pid } => format!("{} is gone from {node}", self.name(*pid)),
            Effect::Regrouped { pid } => format!("{} has a new group", self.name(*pid)),
            Effect::Orphaned { pid } => format!("{} has no parent any more", self.name(*pid)),
            Effect::TerminalLost { pid } => format!("{} lost its terminal", self.name(*pid)),
            Effect::HangUp { session, .. } => format!("hang up session {}", self.name(*session)),
            Effect::Fenced => format!("{node} is fenced"),
            Effect::Note(note) => format!("note {note:?}"),
        }
    }

    fn describe_message(&self, message: &ProcMessage) -> String {
        let text = match message {
            ProcMessage::ToProcess { pid, body, .. } => {
                let body = match body {
                    ProcessBody::ChildChanged { child, change, .. } => {
                        let change = format!("{change:?}");
                        let change = change.split([' ', '(', '{']).next().unwrap_or_default();
                        format!("ChildChanged {} {change}", self.name(*child))
                    }
                    ProcessBody::Signal { request, .. } => format!("Signal {}", request.signal),
                    other => {
                        let text = format!("{other:?}");
                        text.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
                    }
                };
                return format!("to {}: {body}", self.name(*pid));
            }
            ProcMessage::Member { pgid, pid, state, .. } => {
                let mut text = format!("Member {} of {}", self.name(*pid), self.name(*pgid));
                for (is, word) in [
                    (state.anchored, "anchored"),
                    (state.stopped, "stopped"),
                    (state.zombie, "zombie"),
                ] {
                    if is {
                        text.push(' ');
                        text.push_str(word);
                    }
                }
                return text;
            }
            ProcMessage::MemberLeft { pgid, pid, .. } => {
                return format!("MemberLeft {} of {}", self.name(*pid), self.name(*pgid));
            }
            ProcMessage::Located { pid, .. } => return format!("Located {}", self.name(*pid)),
            ProcMessage::Released { pid, .. } => return format!("Released {}", self.name(*pid)),
            other => format!("{other:?}"),
        };
        text.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
    }
}

const TERMINAL: ObjectId = ObjectId { home: NodeId(1), serial: 7 };

fn node_of(word: &str) -> NodeId {
    NodeId(word.strip_prefix('n').and_then(|number| number.parse().ok()).expect("a node"))
}
