//! Roots: what a user runs from outside.

use crate::launch::{Launch, LaunchError, Origin};
use crate::node::{Node, RootEnd};
use crate::remote::RemoteTable;
use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_keeper::protocol::{Program, SpawnSpec};
use dunix_proc_table::RootSpec;
use dunix_wire::processes::Credentials;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What to run.
#[derive(Debug, Default)]
pub struct RunSpec {
    /// The program: a path, or a name that `PATH` of `envp` finds.
    pub program: Vec<u8>,
    pub argv: Vec<Vec<u8>>,
    pub envp: Vec<Vec<u8>>,
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
    Table(rustix::io::Errno),
    #[error(transparent)]
    Launch(#[from] LaunchError),
}

impl Node {
    pub(crate) async fn run(self: &Arc<Node>, run: RunSpec) -> Result<RunHandle, RunError> {
        let credentials = Credentials { uid: run.uid, euid: run.uid, suid: run.uid };
        let name = run.program.rsplit(|&b| b == b'/').next().unwrap_or(&[]);
        let comm = String::from_utf8_lossy(name).chars().take(15).collect();
        let terminal = run.terminal;
        let root = RootSpec { credentials, terminal, comm };
        let (sender, end) = oneshot::channel();
        let pid = self
            .with(|state, now| {
                let pid = state.table.spawn_root(now, root)?;
                state.roots.insert(pid, sender);
                Ok(pid)
            })
            .map_err(|errno| RunError::Table(crate::call::errno_of(errno)))?;
        if let Some(terminal) = terminal {
            self.extension.handle_root(pid, terminal);
        }
        let (descriptors, numbers) = run.descriptors.into_iter().unzip();
        let path_variable = run.envp.iter().find_map(|v| v.strip_prefix(b"PATH="));
        let search = path_variable.unwrap_or(b"/usr/local/bin:/usr/bin:/bin").to_vec();
        let spec = SpawnSpec {
            program: Program { path: run.program, search: Some(search) },
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
        let remote = RemoteTable::default();
        let launch = Launch { pid, origin: Origin::Root, spec, descriptors, remote };
        if let Err(error) = self.launch(launch).await {
            self.with(|state, _| state.roots.remove(&pid));
            if let Some(terminal) = terminal {
                self.extension.handle_hang_up(pid, terminal);
            }
            return Err(error.into());
        }
        Ok(RunHandle { pid, end })
    }
}
