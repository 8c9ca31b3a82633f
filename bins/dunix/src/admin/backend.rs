//! What a node's daemon offers to the admin socket.

use dunix_admin_api::{
    AdminError, Event, ExitStatus, Explanation, KillTarget, MoveOutcome, MoveRequest, NodeInfo,
    ProcessInfo, RunRequest, TerminalSize,
};
use dunix_ids::{NodeId, Pid};
use std::{future::Future, os::fd::OwnedFd, pin::Pin};
use tokio::sync::mpsc;

/// The daemon behind an admin socket. Answers concern the whole fabric, whichever node answers.
///
/// Every method may be called at any time and several times at once; dropping the future of a call
/// gives it up. The server bounds how many are under way.
pub trait AdminBackend: Send + Sync + 'static {
    /// Resolves once the node serves (knows its peers, has its tree mounted).
    fn ready(&self) -> impl Future<Output = Result<(), AdminError>> + Send;
    /// Lists every node, in any order.
    fn nodes(&self) -> impl Future<Output = Result<Vec<NodeInfo>, AdminError>> + Send;
    /// Lists every process, in any order. A node that does not answer is left out.
    fn processes(&self) -> impl Future<Output = Result<Vec<ProcessInfo>, AdminError>> + Send;
    /// Tells all that is known of a process.
    fn explain(&self, pid: Pid) -> impl Future<Output = Result<Explanation, AdminError>> + Send;
    /// Sends a signal; 0 only checks.
    fn kill(
        &self,
        target: KillTarget,
        signal: u8,
    ) -> impl Future<Output = Result<(), AdminError>> + Send;
    /// Moves a process to another node, wherever it runs. A refusal is an answer; an error means
    /// that the request makes no sense, or that what came of it is not known. A move that has begun
    /// goes on if the future is dropped.
    fn move_process(
        &self,
        request: MoveRequest,
    ) -> impl Future<Output = Result<MoveOutcome, AdminError>> + Send;
    /// Tells the counts of a node, or of this one, in Prometheus' text form (OpenMetrics 1.0).
    fn metrics(
        &self,
        node: Option<&str>,
    ) -> impl Future<Output = Result<String, AdminError>> + Send;
    /// Subscribes to events. The backend drops the oldest for a slow receiver and says so with
    /// [`EventKind::Lost`](dunix_admin_api::EventKind::Lost).
    fn events(&self) -> impl Future<Output = Result<mpsc::Receiver<Event>, AdminError>> + Send;
    /// Starts a program. Resolves once it runs, or with
    /// [`ProgramNotFound`](dunix_admin_api::ErrorKind::ProgramNotFound) or
    /// [`ProgramNotExecutable`](dunix_admin_api::ErrorKind::ProgramNotExecutable); for an unknown
    /// node the message lists the nodes.
    fn run(&self, request: RunRequest) -> impl Future<Output = Result<Running, AdminError>> + Send;
}

/// A program that [`AdminBackend::run`] started.
///
/// The descriptors are pipe ends, socket ends or a terminal's master side, for the server alone: it
/// makes them non-blocking, which would show through a shared open file description.
pub struct Running {
    pub pid: Pid,
    pub node: NodeId,
    /// Where to write the program's standard input. For a terminal: a duplicate of the master.
    pub stdin: OwnedFd,
    /// Where to read its standard output. For a terminal: the master.
    pub stdout: OwnedFd,
    /// Where to read its standard error; `None` for a terminal.
    pub stderr: Option<OwnedFd>,
    pub control: Box<dyn RunControl>,
    /// Resolves when the program has ended and all that it wrote can be read from the descriptors.
    pub exit: Pin<Box<dyn Future<Output = ExitStatus> + Send>>,
}

/// Acts on a running program. No method blocks.
pub trait RunControl: Send + Sync {
    /// Sends a signal to the program's process group.
    fn signal(&self, signal: u8);
    /// Sets the terminal's size (`TIOCSWINSZ`).
    fn resize(&self, size: TerminalSize);
    /// The client is gone before the program ended: hangs up, as a terminal does (SIGHUP and
    /// SIGCONT to the group).
    fn hang_up(&self);
}
