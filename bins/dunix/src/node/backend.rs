//! What the node offers on its admin socket, over the drivers.

use super::{
    local::exit_status,
    moving,
    overview::Overview,
    terminals::{NewTerminal, NodeTerminals},
};
use crate::admin::{AdminBackend, RunControl, Running};
use dunix_admin_api::{
    AdminError, ErrorKind, Event, ExitStatus, Explanation, KillTarget, MoveOutcome, MoveRequest,
    NodeConfig, NodeInfo, Placement, ProcessInfo, RunRequest, TerminalSize,
};
use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_linux::Errno;
use dunix_processes::{LaunchError, Processes, RunError, RunHandle, RunSpec};
use dunix_wire::processes::StartStep;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_bytes::ByteBuf;
use std::{os::fd::OwnedFd, sync::Arc};
use tokio::sync::mpsc;

/// The signals that the backend itself sends.
const SIGHUP: u8 = 1;
const SIGCONT: u8 = 18;

/// The daemon behind the admin socket.
pub(super) struct Backend {
    config: NodeConfig,
    processes: Processes,
    overview: Overview,
    terminals: Arc<NodeTerminals>,
}

impl Backend {
    pub(super) fn new(
        config: NodeConfig,
        processes: Processes,
        overview: Overview,
        terminals: Arc<NodeTerminals>,
    ) -> Backend {
        Backend { config, processes, overview, terminals }
    }

    /// Which node a run asks for; `None` leaves it to the policy.
    async fn node_of(&self, placement: &Placement) -> Result<Option<NodeId>, AdminError> {
        match placement {
            Placement::Policy | Placement::Spread => Ok(None),
            Placement::Local => Ok(Some(self.config.node)),
            Placement::Node(name) => self.find_node(name).await.map(Some),
            Placement::Near(pid) => match self.processes.node_of(*pid).await {
                Some(node) => Ok(Some(node)),
                None => {
                    let message = format!("no process {pid}");
                    Err(AdminError::new(ErrorKind::NoSuchProcess, message))
                }
            },
        }
    }

    async fn find_node(&self, name: &str) -> Result<NodeId, AdminError> {
        match self.overview.find(name) {
            Some(node) => Ok(node),
            None => Err(self.no_such_node(name).await),
        }
    }

    async fn no_such_node(&self, name: &str) -> AdminError {
        let nodes = self.overview.nodes().await;
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        let message = format!("no node {name}; there are {}", names.join(", "));
        AdminError::new(ErrorKind::NoSuchNode, message)
    }

    async fn start(
        &self,
        request: RunRequest,
        node: Option<NodeId>,
        descriptors: Vec<(OwnedFd, Vec<i32>)>,
        terminal: Option<ObjectId>,
    ) -> Result<RunHandle, AdminError> {
        let bytes = |list: Vec<ByteBuf>| list.into_iter().map(ByteBuf::into_vec).collect();
        let program = request.argv.first().map(|name| name.to_vec()).unwrap_or_default();
        let cwd = request.cwd.to_vec();
        let spec = RunSpec {
            program: program.clone(),
            argv: bytes(request.argv),
            envp: with_placement(bytes(request.env), &request.placement, request.is_pinned),
            cwd: cwd.clone(),
            umask: request.umask,
            descriptors,
            terminal,
            node,
            ..RunSpec::default()
        };
        self.processes.run(spec).await.map_err(|error| explain(&error, &program, &cwd))
    }

    async fn run_with_pipes(
        &self,
        request: RunRequest,
        node: Option<NodeId>,
    ) -> Result<Running, AdminError> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| broke("a pipe", errno));
        let ((in_read, in_write), (out_read, out_write), (err_read, err_write)) =
            (pipe()?, pipe()?, pipe()?);
        let descriptors = vec![(in_read, vec![0]), (out_write, vec![1]), (err_write, vec![2])];
        let handle = self.start(request, node, descriptors, None).await?;
        Ok(self.running(handle, in_write, out_read, Some(err_read), None))
    }

    async fn run_at_terminal(
        &self,
        request: RunRequest,
        node: Option<NodeId>,
        size: TerminalSize,
    ) -> Result<Running, AdminError> {
        let opened = self.terminals.open(winsize(size), 0);
        let NewTerminal { master, slave, object } =
            opened.map_err(|errno| broke("a terminal", errno))?;
        let stdin = fcntl_dupfd_cloexec(&master, 0).map_err(|errno| broke("a terminal", errno))?;
        let resized =
            fcntl_dupfd_cloexec(&master, 0).map_err(|errno| broke("a terminal", errno))?;
        let handle = self.start(request, node, vec![(slave, vec![0, 1, 2])], Some(object)).await?;
        Ok(self.running(handle, stdin, master, None, Some(resized)))
    }

    fn running(
        &self,
        handle: RunHandle,
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: Option<OwnedFd>,
        master: Option<OwnedFd>,
    ) -> Running {
        let pid = handle.pid;
        let end = handle.end;
        Running {
            pid,
            node: self.config.node,
            stdin,
            stdout,
            stderr,
            control: Box::new(Control {
                pid,
                master,
                processes: self.processes.clone(),
                runtime: tokio::runtime::Handle::current(),
            }),
            exit: Box::pin(async move {
                // The table forgets a root only when its node dies.
                end.await.map_or(KILLED, |end| exit_status(end.status))
            }),
        }
    }
}

/// How a process whose node died is reported.
const KILLED: ExitStatus = ExitStatus::Signaled { signal: 9, core_dumped: false };

fn broke(what: &str, errno: Errno) -> AdminError {
    AdminError::new(ErrorKind::Internal, format!("the node cannot make {what}: {errno}"))
}

/// Says why a program did not start as a shell would.
fn explain(error: &RunError, program: &[u8], cwd: &[u8]) -> AdminError {
    let name = String::from_utf8_lossy(program);
    let (kind, message) = match (error.step(), error.errno()) {
        (StartStep::Program, Errno::NOENT | Errno::NOTDIR) => {
            (ErrorKind::ProgramNotFound, format!("{name}: command not found"))
        }
        (StartStep::Program, Errno::NOEXEC) => (
            ErrorKind::ProgramNotExecutable,
            format!("{name}: cannot execute: not a 64-bit x86 program or script"),
        ),
        (StartStep::Program, errno) => {
            (ErrorKind::ProgramNotExecutable, format!("{name}: cannot execute: {errno}"))
        }
        (StartStep::WorkingDirectory, errno) => {
            let cwd = String::from_utf8_lossy(cwd);
            (ErrorKind::NoSuchDirectory, format!("the working directory {cwd}: {errno}"))
        }
        (StartStep::Other, _) => match error {
            RunError::Elsewhere { .. } => {
                (ErrorKind::ProgramNotExecutable, format!("{name}: {error}"))
            }
            RunError::Launch(LaunchError::TooMany) | RunError::Table(_) => {
                (ErrorKind::Limit, error.to_string())
            }
            RunError::Launch(_) => (ErrorKind::Internal, format!("{name}: {error}")),
        },
    };
    AdminError::new(kind, message)
}

struct Control {
    pid: Pid,
    /// The terminal's user side, if there is a terminal.
    master: Option<OwnedFd>,
    processes: Processes,
    runtime: tokio::runtime::Handle,
}

impl RunControl for Control {
    fn signal(&self, signal: u8) {
        let (processes, group) = (self.processes.clone(), self.pid);
        self.runtime.spawn(async move {
            // A group that is gone needs no signal.
            let _ = processes.signal(dunix_processes::KillTarget::Group(group), signal).await;
        });
    }

    fn resize(&self, size: TerminalSize) {
        if let Some(master) = &self.master {
            // A terminal that is hung up has no size.
            let _ = tcsetwinsize(master, winsize(size));
        }
    }

    fn hang_up(&self) {
        self.signal(SIGHUP);
        self.signal(SIGCONT);
    }
}

impl AdminBackend for Backend {
    async fn ready(&self) -> Result<(), AdminError> {
        let all = usize::try_from(self.config.nodes).unwrap_or(usize::MAX);
        let there = self.overview.nodes().await.len();
        if there < all || !self.processes.is_ready() {
            let message = format!("{there} of {all} nodes answer");
            return Err(AdminError::new(ErrorKind::NodeUnreachable, message));
        }
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<NodeInfo>, AdminError> {
        Ok(self.overview.nodes().await)
    }

    async fn processes(&self) -> Result<Vec<ProcessInfo>, AdminError> {
        Ok(self.overview.processes().await)
    }

    async fn explain(&self, pid: Pid) -> Result<Explanation, AdminError> {
        self.overview.explain(pid).await.ok_or_else(|| {
            AdminError::new(ErrorKind::NoSuchProcess, format!("no process {pid}; see `dunix ps`"))
        })
    }

    async fn kill(&self, target: KillTarget, signal: u8) -> Result<(), AdminError> {
        let result = self.processes.signal(target_of(target), signal).await;
        result.map_err(|errno| match errno {
            Errno::SRCH => {
                let name = match target {
                    KillTarget::Process(pid) => format!("process {pid}"),
                    KillTarget::Group(group) => format!("process group {group}"),
                };
                AdminError::new(ErrorKind::NoSuchProcess, format!("no {name}; see `dunix ps`"))
            }
            Errno::INVAL => AdminError::new(ErrorKind::Invalid, format!("no signal {signal}")),
            errno => AdminError::new(ErrorKind::Internal, format!("kill: {errno}")),
        })
    }

    async fn move_process(&self, request: MoveRequest) -> Result<MoveOutcome, AdminError> {
        let to = self.find_node(&request.node).await?;
        moving::move_process(&self.processes, &request, to).await
    }

    async fn metrics(&self, node: Option<&str>) -> Result<String, AdminError> {
        let node = match node {
            Some(name) => self.find_node(name).await?,
            None => self.config.node,
        };
        self.overview.metrics(node).await.ok_or_else(|| {
            AdminError::new(ErrorKind::NodeUnreachable, format!("node {node} does not answer"))
        })
    }

    async fn events(&self) -> Result<mpsc::Receiver<Event>, AdminError> {
        Ok(self.overview.events().await)
    }

    async fn run(&self, request: RunRequest) -> Result<Running, AdminError> {
        let node = self.node_of(&request.placement).await?;
        match request.terminal {
            None => self.run_with_pipes(request, node).await,
            Some(size) => self.run_at_terminal(request, node, size).await,
        }
    }
}

fn winsize(size: TerminalSize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 }
}

fn target_of(target: KillTarget) -> dunix_processes::KillTarget {
    match target {
        KillTarget::Process(pid) => dunix_processes::KillTarget::Process(pid),
        KillTarget::Group(group) => dunix_processes::KillTarget::Group(group),
    }
}

/// The environment's word on placement, which a process tree inherits.
fn with_placement(mut env: Vec<Vec<u8>>, placement: &Placement, is_pinned: bool) -> Vec<Vec<u8>> {
    let wish: &[u8] = match placement {
        Placement::Local => b"DUNIX_PLACE=local",
        Placement::Spread => b"DUNIX_PLACE=spread",
        Placement::Policy | Placement::Node(_) | Placement::Near(_) if is_pinned => {
            b"DUNIX_PLACE=pin"
        }
        Placement::Policy | Placement::Node(_) | Placement::Near(_) => return env,
    };
    env.retain(|entry| !entry.starts_with(b"DUNIX_PLACE="));
    env.push(wish.to_vec());
    env
}
