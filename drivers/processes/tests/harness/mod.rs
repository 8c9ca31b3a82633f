//! A node's keeper and process driver on this machine, without lab or fabric: guests see the
//! host's own tree. Needs root, because guests get ids and descriptors across users.

use dunix_ids::NodeId;
use dunix_keeper::Keeper;
use dunix_linux::child::{Fork, exit_child, fork_single_threaded};
use dunix_linux::scm;
use dunix_processes::{
    NoExtension, Policy, Processes, ProcessesConfig, RootEnd, RunHandle, RunSpec,
};
use dunix_transport::Mesh;
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest that one command of a test may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at what has no event.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Whether this user can run these tests.
pub(crate) fn is_possible() -> bool {
    rustix::process::geteuid().is_root()
}

/// Forks a keeper; call it before any thread exists.
pub(crate) fn fork_keeper() -> OwnedFd {
    let (ours, theirs) = scm::packet_pair().unwrap();
    match fork_single_threaded().unwrap() {
        Fork::Parent(_) => ours,
        Fork::Child => {
            drop(ours);
            // A door that leads nowhere: guests are forked as in a node with control groups.
            let door = File::options().write(true).open("/dev/null").unwrap();
            let keeper = Keeper::new(theirs, None, None);
            let ending = keeper.map(|keeper| keeper.with_guest_doors(vec![door.into()]).run());
            exit_child(i32::from(ending.is_err()))
        }
    }
}

/// The shim, or another program with the shim's manners that `DUNIX_TEST_SHIM` names.
fn shim(node: u32) -> OwnedFd {
    let path = std::env::temp_dir().join(format!("dunix-shim-{}-{node}", std::process::id()));
    let image = match std::env::var_os("DUNIX_TEST_SHIM") {
        Some(other) => std::fs::read(other).unwrap(),
        None => dunix_shim_image::SHIM.to_vec(),
    };
    let mut options = File::options();
    let mode = std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o755);
    mode.write(true).create(true).truncate(true).open(&path).unwrap().write_all(&image).unwrap();
    let file = File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file.into()
}

/// Starts a node's driver and waits until it can run processes.
pub(crate) async fn start(
    number: u32,
    keeper: OwnedFd,
    mesh: Option<Mesh>,
    policy: Arc<dyn Policy>,
) -> Processes {
    let processes = Processes::start(ProcessesConfig {
        node: NodeId(number),
        founder: NodeId(1),
        mesh,
        keeper,
        shim: shim(number),
        privileges: None,
        namespaces: Vec::new(),
        root: Vec::new(),
        tree_device: None,
        ids_base: 0,
        policy,
        extension: Arc::new(NoExtension),
    })
    .unwrap();
    until("the node is granted PIDs", || processes.is_ready()).await;
    processes
}

/// Waits until something is so. What a driver counts and lists tells nobody when it changes: it is
/// looked at again and again.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Waits until a node has nothing any more that has to do with processes.
pub(crate) async fn nothing_is_left(node: &Processes) {
    let deadline = Instant::now() + PATIENCE;
    while node.counts() != (0, 0, 0) || node.moves() != (0, 0) || !node.is_nothing_moving() {
        let (counts, moves) = (node.counts(), node.moves());
        assert!(Instant::now() < deadline, "left: {counts:?}, {moves:?}, {:?}", node.list());
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// A directory of this test, emptied by [`start`]'s caller at its end.
pub(crate) fn scratch() -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("dunix-processes-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) end: RootEnd,
    pub(crate) output: String,
}

/// A command with its standard input and a pipe for both outputs.
pub(crate) fn command(words: &[&str], input: OwnedFd, output: &OwnedFd) -> RunSpec {
    RunSpec {
        program: words[0].into(),
        argv: words.iter().map(|w| w.as_bytes().to_vec()).collect(),
        envp: vec![
            b"PATH=/usr/bin:/bin".to_vec(),
            b"LC_ALL=C".to_vec(),
            format!("T={}", scratch().display()).into_bytes(),
        ],
        cwd: b"/".to_vec(),
        umask: 0o22,
        descriptors: vec![(input, vec![0]), (output.try_clone().unwrap(), vec![1, 2])],
        ..RunSpec::default()
    }
}

/// Starts a command; its output comes from the file.
pub(crate) async fn begin(node: &Processes, words: &[&str], input: &str) -> (RunHandle, File) {
    let (stdin, mut feed) = pair();
    feed.write_all(input.as_bytes()).unwrap();
    drop(feed);
    let (output, write) = pair();
    let spec = command(words, stdin.into(), &write.into());
    (node.run(spec).await.unwrap(), output)
}

/// Runs a command to its end.
pub(crate) async fn run(node: &Processes, words: &[&str], input: &str) -> Done {
    let (handle, output) = begin(node, words, input).await;
    let reader = tokio::spawn(read_all(output));
    let end = tokio::time::timeout(PATIENCE, handle.end).await;
    let end = end.unwrap_or_else(|_| panic!("{words:?} hangs")).unwrap();
    let output = tokio::time::timeout(PATIENCE, reader).await.unwrap().unwrap();
    Done { end, output }
}

/// Reads to the end of a file.
pub(crate) async fn read_all(mut file: File) -> String {
    let text = tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        file.read_to_end(&mut text).map(|_| text)
    });
    String::from_utf8_lossy(&text.await.unwrap().unwrap()).into_owned()
}

/// Shows what the drivers say, if `RUST_LOG` asks for it, and ends everything at a panic.
pub(crate) fn trace() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        hook(panic);
        // The keepers see their sockets close and kill what still runs.
        std::process::exit(101);
    }));
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// A pipe: its read end, its write end.
pub(crate) fn pair() -> (File, File) {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    (read.into(), write.into())
}

/// A program for python: a child `sleep` is stopped, continued and killed, and each is waited for;
/// a thread executes; children by vfork and by fork come back with their status.
pub(crate) const JOB_CONTROL: &str = "
import os, signal, subprocess, sys, threading
child = subprocess.Popen(['sleep', '100'])
os.kill(child.pid, signal.SIGSTOP)
pid, status = os.waitpid(child.pid, os.WUNTRACED)
assert pid == child.pid and os.WIFSTOPPED(status) and os.WSTOPSIG(status) == 19, status
assert os.waitpid(child.pid, os.WNOHANG | os.WUNTRACED) == (0, 0)
os.kill(child.pid, signal.SIGCONT)
pid, status = os.waitpid(child.pid, os.WCONTINUED)
assert pid == child.pid and os.WIFCONTINUED(status), status
os.kill(child.pid, signal.SIGKILL)
pid, status, usage = os.wait4(child.pid, 0)
assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == 9, status
child.returncode = -9
info = os.fork()
if info == 0:
    thread = threading.Thread(target=lambda: os.execvp('seq', ['seq', '1', '2']))
    thread.start()
    thread.join()
    os._exit(99)
result = os.waitid(os.P_PID, info, os.WEXITED)
assert (result.si_pid, result.si_status, result.si_code) == (info, 0, os.CLD_EXITED), result
group = os.fork()
if group == 0:
    os.setpgid(0, 0)
    os.execvp('sleep', ['sleep', '100'])
while os.getpgid(group) != group: pass
os.killpg(group, signal.SIGTERM)
assert os.waitstatus_to_exitcode(os.waitpid(-group, 0)[1]) == -15
for i in range(20):
    assert subprocess.call(['sleep', '0']) == 0
print('fine')
";
