//! A fabric of one process: an admin backend that starts programs on the host, without any node.

use dunix::admin::{AdminBackend, RunControl, Running, server};
use dunix_admin_api::{
    AdminError, ErrorKind, Event, EventKind, ExitStatus, Explanation, KillTarget, MoveOutcome,
    MoveRefused, MoveRequest, Moved, NodeInfo, NodeState, Placement, ProcessInfo, ProcessState,
    RunRequest, TerminalSize, Traffic,
};
use dunix_ids::{NodeId, Pid};
use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Signal, kill_process_group},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use std::{
    ffi::OsStr,
    fs,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};
use tokio::{net::UnixListener, sync::mpsc};

/// A directory that the host has and the fake fabric has not.
#[allow(dead_code, reason = "not every test program needs it")]
pub(crate) const ABSENT: &str = "/sys/kernel";

/// A fake fabric: its directory, and the thread that serves it until the test process ends.
pub(crate) struct Fabric {
    pub(crate) run_dir: PathBuf,
    pub(crate) backend: Arc<Fake>,
}

/// What tests look at.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) hang_ups: Arc<AtomicU32>,
    pub(crate) killed: Mutex<Vec<(KillTarget, u8)>>,
    pub(crate) moves: Mutex<Vec<MoveRequest>>,
}

impl Fabric {
    /// Starts a fabric with the socket of one node.
    pub(crate) fn start(test: &str) -> Fabric {
        let run_dir = std::env::temp_dir().join(format!("dunix-{test}-{}", std::process::id()));
        fs::create_dir_all(run_dir.join("fake")).unwrap();
        let backend = Arc::new(Fake::default());
        let (socket, served) = (run_dir.join("fake/n1.sock"), Arc::clone(&backend));
        let (bound, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = UnixListener::bind(&socket).unwrap();
                bound.send(()).unwrap();
                server::serve(listener, served).await;
            });
        });
        wait.recv().unwrap();
        Fabric { run_dir, backend }
    }

    /// The command line against this fabric.
    pub(crate) fn dunix(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dunix"));
        command.args(arguments).env("DUNIX_RUN_DIR", &self.run_dir).env_remove("DUNIX_FABRIC");
        command
    }

    /// Runs a command to its end.
    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.dunix(arguments).stdin(Stdio::null()).output().unwrap()
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        // Best effort: the next run has a directory of its own.
        let _ = fs::remove_dir_all(&self.run_dir);
    }
}

fn no_such_process(pid: Pid) -> AdminError {
    AdminError::new(ErrorKind::NoSuchProcess, format!("no process {pid}; see dunix ps"))
}

/// The only process that can be explained and killed.
pub(crate) const KNOWN: u32 = 4711;

fn process() -> ProcessInfo {
    let pid = Pid::new(KNOWN).unwrap();
    ProcessInfo {
        pid,
        ppid: Pid::INIT,
        pgid: pid,
        sid: pid,
        node: NodeId(1),
        host_pid: Some(12),
        uid: 0,
        state: ProcessState::Sleeping,
        threads: 1,
        started_unix_ms: 0,
        cpu_ms: 1500,
        resident_bytes: 3 << 20,
        terminal: None,
        comm: "sleep".to_owned(),
        args: vec!["sleep".to_owned(), "100".to_owned()],
    }
}

impl AdminBackend for Fake {
    async fn ready(&self) -> Result<(), AdminError> {
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<NodeInfo>, AdminError> {
        let node = |id: u32| NodeInfo {
            id: NodeId(id),
            name: format!("n{id}"),
            state: NodeState::Up,
            answering: id == 1,
            tree_authority: id == 1,
            address: "fe80::1".to_owned(),
            cpus_milli: 2000,
            load_milli: Some(250),
            processes: 1,
            memory_bytes_total: 1 << 30,
            memory_bytes_free: 1 << 29,
            rtt_us: Some(70),
            traffic: Traffic::default(),
        };
        Ok(vec![node(2), node(1)])
    }

    async fn processes(&self) -> Result<Vec<ProcessInfo>, AdminError> {
        // More than fit into one frame.
        let numbered = |n: u32| ProcessInfo { pid: Pid::new(10_000 - n).unwrap(), ..process() };
        Ok((0..1000).map(numbered).chain([process()]).collect())
    }

    async fn explain(&self, pid: Pid) -> Result<Explanation, AdminError> {
        if pid.get() != KNOWN {
            return Err(no_such_process(pid));
        }
        Ok(Explanation {
            process: process(),
            exe: "/bin/sleep".to_owned(),
            cwd: "/".to_owned(),
            placed: "spread: its turn".to_owned(),
            waits_for: Some("clock_nanosleep".to_owned()),
            unmovable: None,
            pid_leaser: NodeId(1),
            group_home: NodeId(2),
            epoch: Some(3),
            descriptors: Vec::new(),
            notes: Vec::new(),
        })
    }

    async fn kill(&self, target: KillTarget, signal: u8) -> Result<(), AdminError> {
        let (KillTarget::Process(pid) | KillTarget::Group(pid)) = target;
        if pid.get() != KNOWN {
            return Err(no_such_process(pid));
        }
        self.killed.lock().unwrap().push((target, signal));
        Ok(())
    }

    async fn move_process(&self, request: MoveRequest) -> Result<MoveOutcome, AdminError> {
        if request.pid.get() != KNOWN {
            return Err(no_such_process(request.pid));
        }
        self.moves.lock().unwrap().push(request.clone());
        Ok(match request.node.as_str() {
            "n1" => MoveOutcome::Refused(MoveRefused {
                reason: "already-there".to_owned(),
                message: "it is on n1 already".to_owned(),
                gone: false,
            }),
            _ => MoveOutcome::Moved(Moved {
                from: NodeId(1),
                to: NodeId(2),
                frozen_us: 8_200,
                total_us: 30_000,
                bytes_before: 4096,
                bytes_after: Some(1 << 20),
            }),
        })
    }

    async fn metrics(&self, node: Option<&str>) -> Result<String, AdminError> {
        Ok(format!("# of {}\n# EOF\n", node.unwrap_or("n1")))
    }

    async fn events(&self) -> Result<mpsc::Receiver<Event>, AdminError> {
        let (sender, receiver) = mpsc::channel(1);
        let kind = EventKind::NodeUp { name: "n2".to_owned() };
        let event = Event { at_unix_ms: 0, node: NodeId(2), kind };
        sender.try_send(event).unwrap();
        Ok(receiver)
    }

    async fn run(&self, request: RunRequest) -> Result<Running, AdminError> {
        if let Placement::Node(name) = &request.placement
            && !["n1", "n2"].contains(&name.as_str())
        {
            let message = format!("no node {name}; there are n1, n2");
            return Err(AdminError::new(ErrorKind::NoSuchNode, message));
        }
        if request.cwd.starts_with(ABSENT.as_bytes()) {
            let message = format!("there is no {ABSENT} here");
            return Err(AdminError::new(ErrorKind::NoSuchDirectory, message));
        }
        start(&request, Arc::clone(&self.hang_ups))
    }
}

fn start(request: &RunRequest, hang_ups: Arc<AtomicU32>) -> Result<Running, AdminError> {
    let mut terminal = None;
    let ((stdin, stdout, stderr), theirs) = match request.terminal {
        Some(size) => {
            let (master, slave) = open_terminal(size);
            let dup = |fd: &OwnedFd| fd.try_clone().unwrap();
            terminal = Some(dup(&master));
            ((dup(&master), master, None), [dup(&slave), dup(&slave), slave])
        }
        None => {
            let pipe = || pipe_with(PipeFlags::CLOEXEC).unwrap();
            let ((in_r, in_w), (out_r, out_w), (err_r, err_w)) = (pipe(), pipe(), pipe());
            ((in_w, out_r, Some(err_r)), [in_r, out_w, err_w])
        }
    };
    let mut child = spawn(request, theirs)?;
    let group = rustix::process::Pid::from_child(&child);
    let exit = tokio::task::spawn_blocking(move || child.wait().unwrap());
    Ok(Running {
        pid: Pid::new(KNOWN).unwrap(),
        node: NodeId(1),
        stdin,
        stdout,
        stderr,
        control: Box::new(Control { group, terminal, hang_ups }),
        exit: Box::pin(async move { status(exit.await.unwrap()) }),
    })
}

fn spawn(
    request: &RunRequest,
    [stdin, stdout, stderr]: [OwnedFd; 3],
) -> Result<std::process::Child, AdminError> {
    let text = |bytes| OsStr::from_bytes(bytes);
    let mut command = Command::new(text(&request.argv[0]));
    command.args(request.argv[1..].iter().map(|argument| text(argument)));
    command.env_clear().current_dir(Path::new(text(&request.cwd)));
    for entry in &request.env {
        let at = entry.iter().position(|byte| *byte == b'=').unwrap();
        command.env(text(&entry[..at]), text(&entry[at + 1..]));
    }
    command.stdin(stdin).stdout(stdout).stderr(stderr).process_group(0);
    command.spawn().map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::ProgramNotFound,
            _ => ErrorKind::ProgramNotExecutable,
        };
        AdminError::new(kind, format!("{}: {error}", text(&request.argv[0]).display()))
    })
}

fn open_terminal(size: TerminalSize) -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    set_size(&master, size);
    let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
    (master, slave)
}

fn set_size(master: &OwnedFd, size: TerminalSize) {
    let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).unwrap();
}

fn status(status: std::process::ExitStatus) -> ExitStatus {
    match status.signal() {
        Some(signal) => ExitStatus::Signaled {
            signal: u8::try_from(signal).unwrap(),
            core_dumped: status.core_dumped(),
        },
        None => ExitStatus::Exited(u8::try_from(status.code().unwrap()).unwrap()),
    }
}

struct Control {
    group: rustix::process::Pid,
    terminal: Option<OwnedFd>,
    hang_ups: Arc<AtomicU32>,
}

impl RunControl for Control {
    fn signal(&self, signal: u8) {
        let signal = Signal::from_named_raw(i32::from(signal)).unwrap();
        // A group that is gone needs no signal.
        let _ = kill_process_group(self.group, signal);
    }

    fn resize(&self, size: TerminalSize) {
        if let Some(master) = &self.terminal {
            set_size(master, size);
        }
    }

    fn hang_up(&self) {
        self.hang_ups.fetch_add(1, Ordering::SeqCst);
        self.signal(1);
    }
}
