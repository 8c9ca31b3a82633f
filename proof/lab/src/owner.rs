//! A running lab: start, link control, end.

use crate::config::{ID_BASE, ID_COUNT, LabConfig};
use crate::error::LabError;
use crate::install::{Outcome, Plan};
use crate::janitor::Janitor;
use crate::link::Link;
use crate::members::{AUTHORITY, node_configs};
use crate::packets::Packets;
use crate::preflight::check_host;
use crate::roles::{Role, start};
use crate::state::{Manifest, State, sweep};
use crate::watch::{LabEnd, Watch};
use dunix_linux::cgroup::{self, Group};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use std::fs::{self, File};
use std::io::{self, PipeReader, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long an installer may take.
const INSTALLED_WITHIN: Duration = Duration::from_secs(20);
/// Between two questions to a node that is not ready.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Most bytes of a dead node's log that a report shows.
const LOG_TAIL_BYTES: usize = 4096;
/// Most bytes of a node's configuration: it must fit into a pipe that nobody reads yet.
const CONFIG_BYTES_MAX: usize = 32 << 10;
/// A node as its lab's owner sees it.
#[derive(Clone, Debug)]
pub struct NodeHandle {
    /// The node's number, from 1.
    pub number: u32,
    /// The host's number of its process 1.
    pub keeper: Pid,
    /// Its admin socket.
    pub socket: PathBuf,
    /// Its log.
    pub log: PathBuf,
}

/// A running lab. Ends with the value, with the thread that started it, or with [`Lab::shutdown`].
#[derive(Debug)]
pub struct Lab {
    nodes: Vec<NodeHandle>,
    shared: Arc<Shared>,
    watch: Watch,
}

/// What the owner's threads share.
#[derive(Debug)]
pub(crate) struct Shared(Mutex<Option<Parts>>);

/// All that a lab consists of.
#[derive(Debug)]
pub(crate) struct Parts {
    state: State,
    janitor: Janitor,
    link: Link,
    /// Installers that have not ended yet.
    installers: Vec<Child>,
    pub(crate) keepers: Vec<Keeper>,
}

/// Process 1 of a node.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) handle: NodeHandle,
    pub(crate) pidfd: OwnedFd,
    /// Closing it ends the node.
    lifeline: OwnedFd,
}

impl Lab {
    /// Builds a lab and waits until `is_ready` says so for each node. `is_ready` is asked again
    /// and again, and may give up with an error.
    ///
    /// The lab is bound to the calling thread: when that thread ends, the kernel kills the nodes.
    ///
    /// # Errors
    /// What is wrong with the configuration, the host or a node; nothing is left behind then.
    pub fn start(
        config: &LabConfig,
        is_ready: &mut dyn FnMut(&NodeHandle) -> Result<bool, LabError>,
    ) -> Result<Lab, LabError> {
        config.check()?;
        let here = if config.member.is_some() { 1 } else { config.nodes };
        let lacks = check_host(here, config.cpus_per_node.is_some());
        if !lacks.is_empty() {
            return Err(LabError::Host(lacks));
        }
        sweep()?;
        let shared = Arc::new(Shared(Mutex::new(Some(Parts::start(config)?))));
        // From here on the watch or this function's failure path takes the parts apart.
        match Self::populate(config, &shared, is_ready) {
            Ok((nodes, watch)) => Ok(Lab { nodes, shared, watch }),
            Err(error) => {
                shared.end();
                Err(error)
            }
        }
    }

    fn populate(
        config: &LabConfig,
        shared: &Arc<Shared>,
        is_ready: &mut dyn FnMut(&NodeHandle) -> Result<bool, LabError>,
    ) -> Result<(Vec<NodeHandle>, Watch), LabError> {
        let (nodes, watched) = {
            let mut parts = shared.lock();
            let parts = parts.as_mut().ok_or(LabError::Abandoned)?;
            parts.make_nodes(config)?;
            (parts.keepers.iter().map(|k| k.handle.clone()).collect::<Vec<_>>(), parts.pidfds()?)
        };
        let watch = Watch::start(watched, Arc::clone(shared))?;
        let deadline = Instant::now() + config.ready_within;
        for node in &nodes {
            await_ready(node, &watch, deadline, is_ready)?;
        }
        Ok((nodes, watch))
    }

    /// Returns the nodes, in the order of their numbers.
    #[must_use]
    pub fn nodes(&self) -> &[NodeHandle] {
        &self.nodes
    }

    /// Unplugs a node: nothing passes between it and the others until [`Lab::mend`].
    ///
    /// # Errors
    /// If the lab has ended, or the switch refuses.
    pub fn cut(&self, node: u32) -> Result<(), LabError> {
        self.shared.set_port(node, false)
    }

    /// Plugs a node in again.
    ///
    /// # Errors
    /// As [`Lab::cut`].
    pub fn mend(&self, node: u32) -> Result<(), LabError> {
        self.shared.set_port(node, true)
    }

    /// Returns why the lab ended by itself, or `None` while it runs.
    #[must_use]
    pub fn ended(&self) -> Option<LabEnd> {
        self.watch.ended()
    }

    /// Becomes readable when the lab has ended by itself and everything is removed.
    #[must_use]
    pub fn end_descriptor(&self) -> BorrowedFd<'_> {
        self.watch.end_descriptor()
    }

    /// Ends the lab and removes everything. Returns why it had ended before, if it had.
    pub fn shutdown(mut self) -> Option<LabEnd> {
        // If the watch is taking the lab apart just now, it has its say first.
        self.watch.stop();
        self.watch.ended()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.watch.stop();
        self.shared.end();
    }
}

fn await_ready(
    node: &NodeHandle,
    watch: &Watch,
    deadline: Instant,
    is_ready: &mut dyn FnMut(&NodeHandle) -> Result<bool, LabError>,
) -> Result<(), LabError> {
    while !is_ready(node)? {
        if let Some(end) = watch.ended() {
            return Err(LabError::Node { node: end.node, reason: end.reason, log: end.log });
        }
        if Instant::now() >= deadline {
            let reason = "it is not ready in time".into();
            return Err(LabError::Node { node: node.number, reason, log: tail(&node.log) });
        }
        watch.wait(ASK_AGAIN_AFTER);
    }
    Ok(())
}

/// The end of a node's log.
pub(crate) fn tail(log: &PathBuf) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let from = bytes.len().saturating_sub(LOG_TAIL_BYTES);
    String::from_utf8_lossy(&bytes[from..]).trim_end().to_owned()
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Parts>> {
        // Each use leaves the parts whole, so a panic elsewhere does not spoil them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lab apart, unless that has happened.
    pub(crate) fn end(&self) {
        let mut parts = self.lock();
        if let Some(parts) = parts.take() {
            parts.end();
        }
    }

    /// The log of a node, while there is one.
    pub(crate) fn log_tail(&self, node: u32) -> String {
        let parts = self.lock();
        parts.as_ref().map(|parts| tail(&parts.state.log(node))).unwrap_or_default()
    }

    fn set_port(&self, node: u32, up: bool) -> Result<(), LabError> {
        self.lock().as_ref().ok_or(LabError::Abandoned)?.link.set_port(node, up)
    }
}

impl Parts {
    /// Starts what a lab without nodes consists of.
    fn start(config: &LabConfig) -> Result<Parts, LabError> {
        let hierarchies = cgroup::hierarchies().map_err(LabError::step("find the cgroups"))?;
        let state = State::create(Manifest::new(&config.name, &config.group(), &hierarchies))?;
        // The janitor first: whatever is made later has somebody to remove it.
        let started =
            Janitor::start(&state).and_then(|janitor| Ok((janitor, Link::start(config)?)));
        match started {
            Ok((janitor, link)) => {
                Ok(Parts { state, janitor, link, installers: Vec::new(), keepers: Vec::new() })
            }
            Err(error) => {
                // The error above is what matters; the next lab's sweep tries again.
                let _ = state.manifest.remove();
                Err(error)
            }
        }
    }

    fn make_nodes(&mut self, config: &LabConfig) -> Result<(), LabError> {
        let hierarchies = cgroup::hierarchies().map_err(LabError::step("find the cgroups"))?;
        let group = Group::create(&hierarchies, &config.group())
            .map_err(LabError::step("make the cgroups"))?;
        let mut under_way = Vec::new();
        for node in node_configs(config)? {
            let encoded = serde_json::to_vec(&node).map_err(io::Error::from);
            let encoded = encoded.map_err(LabError::step("encode the configuration"))?;
            under_way.push(self.begin_node(config, node.node.0, &group, &encoded)?);
        }
        for installation in under_way {
            self.finish_node(installation)?;
        }
        for mut installer in self.installers.drain(..) {
            installer.wait().map_err(LabError::step("wait for an installer"))?;
        }
        Ok(())
    }

    /// Starts a node's installer; the nodes' installers then work side by side.
    fn begin_node(
        &mut self,
        config: &LabConfig,
        node: u32,
        group: &Group,
        config_json: &[u8],
    ) -> Result<Installation, LabError> {
        let log_path = self.state.log(node);
        let log = File::create(&log_path).map_err(LabError::state(log_path))?;
        let (child, socket) =
            start(Role::Installer, Some(log.into())).map_err(LabError::step("start installer"))?;
        let pid = Pid::from_child(&child);
        self.installers.push(child);
        let (keeper_group, doors) = make_groups(config, group, node)?;
        keeper_group.add(pid).map_err(LabError::step("enter the cgroup"))?;
        let admin = self.listen(node)?;
        let configuration =
            filled_pipe(config_json).map_err(LabError::step("pass the configuration"))?;
        let (lifeline_end, lifeline) = io::pipe().map_err(LabError::step("make the lifeline"))?;
        let upper = (node == AUTHORITY).then(|| self.make_upper(node)).transpose()?;
        let mut descriptors: Vec<OwnedFd> =
            vec![admin.into(), configuration.into(), lifeline_end.into()];
        descriptors.extend(doors);
        let plan = Plan {
            lab: config.name.clone(),
            node,
            id_first: id_first(node),
            upper,
            root: config.root,
            arguments: config.node_arguments.clone(),
        };
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        socket.send(&plan, &borrowed).map_err(LabError::step("instruct the installer"))?;
        Ok(Installation { node, socket, lifeline: lifeline.into() })
    }

    /// Waits for an installer, plugs the node in and lets it go.
    fn finish_node(&mut self, installation: Installation) -> Result<(), LabError> {
        let Installation { node, socket, lifeline } = installation;
        let failed =
            |reason: String| LabError::Node { node, reason, log: tail(&self.state.log(node)) };
        let (outcome, descriptors) = socket
            .receive_all_within::<Outcome>(INSTALLED_WITHIN)
            .map_err(|error| failed(format!("its installer: {error}")))?;
        let pid = match outcome {
            Outcome::Waits { pid } => Pid::from_raw(pid),
            Outcome::Failed(what) => return Err(failed(what)),
        };
        let keeper = pid.ok_or_else(|| failed("no process".into()))?;
        // The owner is the parent and has not reaped: the number is that process's.
        let pidfd = pidfd_open(keeper, PidfdFlags::empty())
            .map_err(|error| failed(format!("pidfd_open: {error}")))?;
        let network = descriptors.first().ok_or_else(|| failed("no network".into()))?;
        let handle = NodeHandle {
            number: node,
            keeper,
            socket: self.state.socket(node),
            log: self.state.log(node),
        };
        self.keepers.push(Keeper {
            handle,
            pidfd,
            lifeline: lifeline.try_clone().map_err(LabError::step("keep the lifeline"))?,
        });
        self.link.plug(node, network)?;
        rustix::io::write(&lifeline, b"g")
            .map_err(io::Error::from)
            .map_err(LabError::step("let the node go"))?;
        Ok(())
    }

    fn listen(&self, node: u32) -> Result<UnixListener, LabError> {
        let path = self.state.socket(node);
        let listener = UnixListener::bind(&path).map_err(LabError::state(&path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .map_err(LabError::state(&path))?;
        Ok(listener)
    }

    /// Makes the directory for what guests write, owned by the node's root.
    fn make_upper(&self, node: u32) -> Result<PathBuf, LabError> {
        let upper = self.state.manifest.store_directory().join("upper");
        fs::create_dir(&upper).map_err(LabError::state(&upper))?;
        let id = id_first(node);
        std::os::unix::fs::chown(&upper, Some(id), Some(id)).map_err(LabError::state(&upper))?;
        Ok(upper)
    }

    /// Duplicates the pidfd of each process whose end ends the lab, with the node's number (0 for
    /// the lab's own processes) and its name for people.
    fn pidfds(&self) -> Result<Vec<(u32, String, OwnedFd)>, LabError> {
        let step = |error: rustix::io::Errno| LabError::step("watch processes")(error.into());
        let switch = self.link.process().map(|process| ("switch", process));
        let mut all = Vec::new();
        for (name, child) in switch.into_iter().chain([("janitor", &self.janitor.process)]) {
            let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).map_err(step)?;
            all.push((0, format!("the {name}"), pidfd));
        }
        for keeper in &self.keepers {
            let pidfd = keeper.pidfd.try_clone().map_err(LabError::step("watch processes"))?;
            let number = keeper.handle.number;
            all.push((number, format!("node n{number}"), pidfd));
        }
        Ok(all)
    }

    /// Kills every process of the lab, reaps it, and removes all that the manifest names.
    fn end(mut self) {
        for keeper in &self.keepers {
            // It may have ended already.
            let _ = pidfd_send_signal(&keeper.pidfd, Signal::KILL);
        }
        for child in self.installers.iter_mut().chain(self.link.process_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
        for keeper in self.keepers.drain(..) {
            drop(keeper.lifeline);
            let _ = waitid(WaitId::PidFd(keeper.pidfd.as_fd()), WaitIdOptions::EXITED);
        }
        match self.state.manifest.remove() {
            Ok(()) => self.janitor.dismiss(),
            Err(error) => {
                eprintln!("dunix lab: cleaning up: {error}; the janitor tries again");
                drop(self.janitor);
            }
        }
    }
}

/// A node under way.
struct Installation {
    node: u32,
    socket: Packets,
    lifeline: OwnedFd,
}

/// Makes a node's groups: one for its own processes, one, limited, for its guests.
fn make_groups(
    config: &LabConfig,
    lab: &Group,
    node: u32,
) -> Result<(Group, Vec<OwnedFd>), LabError> {
    let make = || -> io::Result<(Group, Vec<OwnedFd>)> {
        let own = lab.child(&format!("n{node}"))?;
        let (keeper, guests) = (own.child("keeper")?, own.child("guests")?);
        if let Some(cpus) = config.cpus_per_node {
            guests.limit_cpus(cpus)?;
        }
        let doors = guests.doors()?;
        Ok((keeper, doors))
    };
    make().map_err(LabError::step(format!("make the cgroups of node n{node}")))
}

fn id_first(node: u32) -> u32 {
    ID_BASE + node * ID_COUNT
}

/// A pipe that holds these bytes and then ends.
fn filled_pipe(bytes: &[u8]) -> io::Result<PipeReader> {
    if bytes.len() > CONFIG_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(bytes)?;
    Ok(reader)
}
