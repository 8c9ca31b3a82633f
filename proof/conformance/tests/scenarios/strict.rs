//! seccomp(2)'s strict mode.

use dunix_conformance::{Lab, Scenario, Verdict, wait_within};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("strict_mode_leaves_four_calls", strict_mode_leaves_four_calls),
    Scenario::new("strict_mode_moves", strict_mode_moves),
    Scenario::new("filters_of_threads_stay", filters_of_threads_stay),
];

const PROGRAM: &str = concat!(
    "cat > p.c <<'END'\n",
    include_str!("../../../../guest/programs/strict.c"),
    "\nEND\ncc -w -O1 -pthread -o p p.c || exit\n"
);

/// What the program shows on Linux; not run there, because filters of a container around the test exclude strict mode.
const SHOWN: &str = "mode 0\nflags EINVAL\nargument EINVAL\nleft\nleft exited 4\nhandled\nhandled exited 5\nin\n\
    trapped killed 9\nnative killed 9\nunknown killed 9\ngroup killed 9\nsleeps killed 9\ncall killed 9\n\
    hot killed 9\nfree 0\nthreads exited 6\nfilter done\nmode 2\ngetppid ENOSYS\ngetuid ENOSYS\n\
    getpgid ENOSYS\ngetgid ENOSYS\nstrict after a filter EINVAL\nnobody exited 2\n";

/// Four calls are left; any other is the thread's end. Of root, and of who may not install filters.
fn strict_mode_leaves_four_calls(lab: &Lab) -> Verdict {
    let user = "setpriv --reuid 1000 --regid 1000 --clear-groups ./p";
    for (placement, how) in [("--local", "./p"), ("--spread", "./p"), ("--local", user)] {
        let outcome = lab.script(placement, &format!("{PROGRAM}chmod 755 .\n{how}"))?;
        if outcome.stdout != SHOWN {
            return Err(format!("{placement} {how}: {outcome}"));
        }
    }
    Ok(())
}

/// It moves, there and back, and is as strict as before.
fn strict_mode_moves(lab: &Lab) -> Verdict {
    moved(lab, "./p wait")?;
    moved(lab, "setpriv --reuid 1000 --regid 1000 --clear-groups ./p wait")
}

/// A filter of any thread keeps the process where it is: it is not lost by a move.
fn filters_of_threads_stay(lab: &Lab) -> Verdict {
    let mut run = start(lab, "./p thread")?;
    let moved = lab.dunix(&["move", &run.pid, "n2"])?;
    drop(run.say);
    let mut after = String::new();
    run.hear.read_to_string(&mut after).map_err(|error| error.to_string())?;
    let _ = wait_within(&mut run.child, Duration::from_secs(10));
    let is_refused = moved.status == 1 && moved.stderr.contains("a system-call filter of its own");
    if is_refused && after == "ended\nstatus 0\n" {
        return Ok(());
    }
    Err(format!("dunix move: {moved}; then {after:?}"))
}

/// A program that has told its PID.
struct Run {
    child: Child,
    say: ChildStdin,
    hear: BufReader<ChildStdout>,
    pid: String,
}

fn start(lab: &Lab, how: &str) -> Result<Run, String> {
    let text = |error: std::io::Error| error.to_string();
    let script =
        format!("cd $(mktemp -d /var/tmp/XXXXXX); chmod 755 .\n{PROGRAM}{how}; echo status $?");
    let local = ["run", "--node", "n1", "--env", "DUNIX_PLACE=local", "--", "bash", "-c"];
    let mut command = lab.command(&[&local[..], &[&script]].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(text)?;
    let say = child.stdin.take().ok_or("no input")?;
    let mut hear = BufReader::new(child.stdout.take().ok_or("no output")?);
    let mut line = String::new();
    hear.read_line(&mut line).map_err(text)?;
    Ok(Run { child, say, hear, pid: line.trim_end().to_owned() })
}

fn moved(lab: &Lab, how: &str) -> Verdict {
    let Run { mut child, mut say, mut hear, pid } = start(lab, how)?;
    let text = |error: std::io::Error| error.to_string();
    let mut line = || {
        let mut line = String::new();
        hear.read_line(&mut line).map_err(text)?;
        Ok::<_, String>(line.trim_end().to_owned())
    };
    let mut answers = Vec::new();
    for node in ["n2", "n3", "n1", "n2"] {
        let moved = lab.dunix(&["move", &pid, node])?;
        if moved.status != 0 {
            return Err(format!("dunix move: {moved}"));
        }
        say.write_all(b"go on\n").map_err(text)?;
        answers.push(line()?);
    }
    say.write_all(b"end\n").map_err(text)?;
    let end = line()?;
    let _ = wait_within(&mut child, Duration::from_secs(10));
    if end == "status 137" && answers.iter().all(|answer| answer == "strict") {
        return Ok(());
    }
    Err(format!("{how}: {answers:?}, then {end:?}"))
}
