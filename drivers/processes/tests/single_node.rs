//! One node alone: real programs under the shim, with PIDs, waits and signals of the fabric.
//!
//! Not the standard harness: keepers are forked while the process has one thread.

#[allow(dead_code, reason = "each test program uses its own part of it")]
mod harness;

use dunix_processes::{KillTarget, Processes, StayHere};
use dunix_wire::processes::ExitStatus;
use std::sync::Arc;

/// A shell script, its output, its exit status.
const SCRIPTS: [(&str, &str, u8); 12] = [
    ("echo hello; exit 3", "hello\n", 3),
    ("/bin/echo child; /bin/false || echo failed", "child\nfailed\n", 0),
    ("printf 'b\\na\\n' | sort | tr a-z A-Z", "A\nB\n", 0),
    ("exec 2>/dev/null; sh -c 'kill -TERM $$'; echo $?", "143\n", 0),
    ("exec 2>/dev/null; sleep 100 & kill $!; wait $!; echo $?", "143\n", 0),
    ("yes | head -n 2", "y\ny\n", 0),
    ("x=$(seq 1 5000 | wc -l); echo $x", "5000\n", 0),
    ("trap 'echo usr1' USR1; kill -USR1 $$; echo done", "usr1\ndone\n", 0),
    ("/nonexistent/program 2>/dev/null; echo $?", "127\n", 0),
    ("sh -c 'test $PPID -gt 1 && echo parent'; true", "parent\n", 0),
    ("(exit 5) & wait $!; echo $?; wait; echo $?", "5\n0\n", 0),
    ("printf '#!/bin/cat\\nbody\\n' > $T/s; chmod +x $T/s; $T/s", "#!/bin/cat\nbody\n", 0),
];

fn main() {
    if !harness::is_possible() {
        println!("skipped: needs root");
        return;
    }
    harness::trace();
    let keeper = harness::fork_keeper();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let node = harness::start(1, keeper, None, Arc::new(StayHere)).await;
        scripts(&node).await;
        python(&node).await;
        job_control(&node).await;
        a_program_that_is_not_there_does_not_run(&node).await;
        roots_are_killed_from_outside(&node).await;
        parents_are_killed_within_fork(&node).await;
        harness::nothing_is_left(&node).await;
        node.shut_down();
    });
    std::fs::remove_dir_all(harness::scratch()).unwrap();
}

async fn scripts(node: &Processes) {
    for (script, output, status) in SCRIPTS {
        for shell in ["dash", "bash"] {
            let done = harness::run(node, &[shell, "-c", script], "").await;
            assert_eq!(done.output, output, "{shell}: {script}");
            assert_eq!(done.end.status, ExitStatus::Exited(status), "{shell}: {script}");
        }
        println!("ok: {script}");
    }
}

async fn python(node: &Processes) {
    let program = "
import os, subprocess, threading, signal
assert os.getpid() == os.getpgid(0) == os.getsid(0), 'root leads'
assert subprocess.run(['sh', '-c', 'exit 9']).returncode == 9
pid = os.fork()
if pid == 0:
    os.setsid()
    os._exit(0 if os.getpgid(0) == os.getpid() else 1)
done, status = os.waitpid(pid, 0)
assert (done, status) == (pid, 0), (done, status)
try:
    os.waitpid(-1, 0)
    raise SystemExit('a child too many')
except ChildProcessError:
    pass
ids = []
threads = [threading.Thread(target=lambda: ids.append(threading.get_native_id())) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
assert len(ids) == 8 and all(i > 1 for i in ids), ids
seen = []
signal.signal(signal.SIGCHLD, lambda *a: seen.append(1))
subprocess.run(['true'])
assert seen
print('fine')
";
    let done = harness::run(node, &["/usr/bin/python3", "-c", program], "").await;
    assert_eq!(done.output, "fine\n");
    assert_eq!(done.end.status, ExitStatus::Exited(0));
    println!("ok: python");
}

async fn job_control(node: &Processes) {
    let words = ["/usr/bin/python3", "-c", harness::JOB_CONTROL];
    let done = harness::run(node, &words, "").await;
    assert_eq!(done.output, "1\n2\nfine\n");
    println!("ok: job control");
}

async fn a_program_that_is_not_there_does_not_run(node: &Processes) {
    let (output, _) = harness::pair();
    let spec = harness::command(&["no-such-program"], output.into(), &harness::pair().1.into());
    let error = node.run(spec).await.expect_err("there is no such program");
    assert_eq!(error.errno(), rustix::io::Errno::NOENT, "{error}");
}

async fn roots_are_killed_from_outside(node: &Processes) {
    let (handle, _output) = harness::begin(node, &["sleep", "100"], "").await;
    node.signal(KillTarget::Process(handle.pid), 15).await.unwrap();
    let status = handle.end.await.unwrap().status;
    assert_eq!(status, ExitStatus::Killed { signal: 15, dumped: false });
}

/// Kills shells that do nothing but fork. A child that its parent could not name any more must not
/// stay in the table, which [`harness::nothing_is_left`] looks at.
async fn parents_are_killed_within_fork(node: &Processes) {
    let script = "exec 2>/dev/null; for i in $(seq 100); do
        { while :; do (:); done; } & read -t 0.0$((i % 10)) x <> $T/never; kill -9 $!; wait $!
    done; echo $?";
    let script = format!("mkfifo $T/never; {script}");
    let done = harness::run(node, &["bash", "-c", &script], "").await;
    assert_eq!(done.output, "137\n");
    println!("ok: parents killed within fork");
}
