//! Roots: what a user runs from outside, here or at another node.

use crate::config::{PlaceQuestion, PlaceWish, Placement};
use crate::launch::{Launch, LaunchError, Origin};
use crate::node::{Node, RootEnd};
use crate::remote::{Capture, NotGone, RemoteTable, empty_record};
use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_keeper::protocol::{Program, SpawnSpec};
use dunix_linux::Errno;
use dunix_proc_table::RootSpec;
use dunix_wire::processes::{Credentials, ExecImage, StartStep};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Where a shell looks for programs if `PATH` is not set.
pub(crate) const DEFAULT_PATH: &[u8] = b"/usr/local/bin:/usr/bin:/bin";
/// First of the numbers, above all host PIDs (`PID_MAX_LIMIT`), that stand for a root's host
/// process while it is handed to another node.
const NO_HOST_PROCESS: u32 = 1 << 31;

/// What to run.
#[derive(Debug, Default)]
pub struct RunSpec {
    /// The program: a path, or a name that `PATH` of `envp` finds.
    pub program: Vec<u8>,
    pub argv: Vec<Vec<u8>>,
    pub envp: Vec<Vec<u8>>,
    /// Absolute, of the tree.
    pub cwd: Vec<u8>,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: u32,
    /// Descriptors with the numbers that they get.
    pub descriptors: Vec<(OwnedFd, Vec<i32>)>,
    /// The session's controlling terminal, if the descriptors are its.
    pub terminal: Option<ObjectId>,
    /// Where to run it; `None` leaves it to the policy.
    pub node: Option<NodeId>,
}

/// A root that runs.
#[derive(Debug)]
pub struct RunHandle {
    pub pid: Pid,
    /// Resolves when it has ended, wherever it was then.
    pub end: oneshot::Receiver<RootEnd>,
}

/// Why a command did not run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RunError {
    #[error("no process number is free: {0}")]
    Table(Errno),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error("node {node}: {reason}")]
    Elsewhere { node: NodeId, step: StartStep, errno: Errno, reason: String },
}

impl RunError {
    /// The step that failed.
    #[must_use]
    pub fn step(&self) -> StartStep {
        match self {
            RunError::Table(_) => StartStep::Other,
            RunError::Launch(error) => error.step(),
            RunError::Elsewhere { step, .. } => *step,
        }
    }

    /// The errno that tells why, as execve(2) would.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            RunError::Table(errno) | RunError::Elsewhere { errno, .. } => *errno,
            RunError::Launch(error) => error.errno(),
        }
    }
}

impl Node {
    pub(crate) async fn run(self: &Arc<Node>, mut run: RunSpec) -> Result<RunHandle, RunError> {
        let (pid, end) = self.begin_root(&run)?;
        let started = match self.place_root(&run, pid) {
            Placement::Here => self.run_here(pid, run).await,
            Placement::OnlyAt(node) => self.run_at(node, pid, &mut run).await,
            Placement::At(node) => match self.run_at(node, pid, &mut run).await {
                Ok(()) => Ok(()),
                Err(error) => {
                    tracing::info!(%pid, %node, %error, "a root starts here instead");
                    self.end_root(pid);
                    let (pid, end) = self.begin_root(&run)?;
                    let here = self.run_here(pid, run).await;
                    return self.conclude_run(pid, end, here);
                }
            },
        };
        self.conclude_run(pid, end, started)
    }

    fn conclude_run(
        &self,
        pid: Pid,
        end: oneshot::Receiver<RootEnd>,
        started: Result<(), RunError>,
    ) -> Result<RunHandle, RunError> {
        match started {
            Ok(()) => Ok(RunHandle { pid, end }),
            Err(error) => {
                self.end_root(pid);
                Err(error)
            }
        }
    }

    fn place_root(&self, run: &RunSpec, pid: Pid) -> Placement {
        let placement = match run.node {
            Some(node) => Placement::OnlyAt(node),
            None => {
                let exe_path = run.program.clone();
                let wish = PlaceWish::Policy;
                let question = PlaceQuestion { pid, exe_path, is_root: true, wish };
                self.policy.place(&question).placement
            }
        };
        match placement {
            Placement::At(node) | Placement::OnlyAt(node) if node == self.id => Placement::Here,
            other => other,
        }
    }

    fn begin_root(&self, run: &RunSpec) -> Result<(Pid, oneshot::Receiver<RootEnd>), RunError> {
        let credentials = Credentials { uid: run.uid, euid: run.uid, suid: run.uid };
        let name = run.program.rsplit(|&b| b == b'/').next().unwrap_or(&[]);
        let comm = String::from_utf8_lossy(name).chars().take(15).collect();
        let root = RootSpec { credentials, terminal: run.terminal, comm };
        let (sender, end) = oneshot::channel();
        let begun = self.with(|state, now| {
            let pid = state.table.spawn_root(now, root)?;
            state.roots.insert(pid, sender);
            Ok((pid, end))
        });
        let (pid, end) = begun.map_err(|errno| RunError::Table(crate::call::errno_of(errno)))?;
        if let Some(terminal) = run.terminal {
            self.extension.handle_root(pid, terminal);
        }
        Ok((pid, end))
    }

    /// A root never ran: nobody is told of its end.
    fn end_root(&self, pid: Pid) {
        self.with(|state, now| {
            state.roots.remove(&pid);
            state.table.fork_failed(now, pid);
        });
    }

    async fn run_here(self: &Arc<Node>, pid: Pid, run: RunSpec) -> Result<(), RunError> {
        let (program, is_pinned) = (program_of(&run), run.node.is_some());
        let (descriptors, numbers) = run.descriptors.into_iter().unzip();
        let spec = SpawnSpec {
            program,
            argv: run.argv,
            envp: run.envp,
            root: self.root.clone(),
            cwd: run.cwd,
            uids: [run.uid; 3],
            gids: [run.gid; 3],
            groups: Some(run.groups),
            umask: run.umask,
            descriptors: numbers,
            ..SpawnSpec::default()
        };
        let (origin, remote, exec_fn) = (Origin::Root, RemoteTable::default(), None);
        self.launch(Launch { pid, origin, spec, descriptors, remote, exec_fn, is_pinned }).await?;
        Ok(())
    }

    async fn run_at(
        self: &Arc<Node>,
        to: NodeId,
        pid: Pid,
        run: &mut RunSpec,
    ) -> Result<(), RunError> {
        let elsewhere = |error: NotGone| RunError::Elsewhere {
            node: to,
            step: error.step(),
            errno: error.errno(),
            reason: error.to_string(),
        };
        let copies = run
            .descriptors
            .iter()
            .map(|(fd, numbers)| Ok((rustix::io::fcntl_dupfd_cloexec(fd, 0)?, numbers.clone())))
            .collect::<Result<_, Errno>>()
            .map_err(|errno| elsewhere(errno.into()))?;
        let node = self.clone();
        let described = self.runtime.spawn_blocking(move || {
            let table = RemoteTable::default();
            Capture::new(node, to, std::process::id(), table, Default::default()).run_on(copies)
        });
        let described = described.await.map_err(|_| elsewhere(Errno::IO.into()))?;
        let offer = described.map_err(|error| elsewhere(error.into()))?;
        let bound = self.with(|state, now| {
            // The table hands over only what has a host process.
            state.table.bind_host(now, pid, NO_HOST_PROCESS | pid.get())
        });
        bound.map_err(|errno| RunError::Table(crate::call::errno_of(errno)))?;
        let mut image = root_image(run);
        let gone = self.send_away(to, pid, &mut image, offer, |_| Ok(())).await;
        if let Err(error) = gone {
            self.with(|state, now| {
                state.roots.remove(&pid);
                state.table.stayed(now, pid);
                state.table.exited(now, pid, crate::node::KILLED, Default::default());
            });
            return Err(elsewhere(error));
        }
        self.note(pid, format!("was started on {to}"));
        Ok(())
    }
}

fn program_of(run: &RunSpec) -> Program {
    let path = run.envp.iter().find_map(|v| v.strip_prefix(b"PATH="));
    Program { path: run.program.clone(), search: Some(path.unwrap_or(DEFAULT_PATH).to_vec()) }
}

fn root_image(run: &RunSpec) -> ExecImage {
    let limits = dunix_linux::identity::limits_of(0).map_or(Vec::new(), |limits| limits.to_vec());
    ExecImage {
        record: empty_record(),
        argv: run.argv.clone(),
        envp: run.envp.clone(),
        exe_path: run.program.clone(),
        exec_fn: Vec::new(),
        cwd: run.cwd.clone(),
        root: b"/".to_vec(),
        umask: run.umask,
        gid: run.gid,
        egid: run.gid,
        sgid: run.gid,
        groups: run.groups.clone(),
        bounding: u64::MAX,
        no_new_privs: false,
        rlimits: limits,
        nice: 0,
        signals_ignored: 0,
        signals_blocked: 0,
        signals_pending: 0,
        descriptors: Vec::new(),
        undrained: Vec::new(),
        is_pinned: true,
        reason: "this node was asked for".into(),
    }
}
