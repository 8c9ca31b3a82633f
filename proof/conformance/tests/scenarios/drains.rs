//! What a process has written is where it goes before its end is told, by whatever nodes it came.

use dunix_conformance::{Lab, Scenario, Verdict, wait_within};
use std::{
    io::{BufRead, BufReader, Read, Write},
    process::Stdio,
    time::Duration,
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("written_before_a_move_home", written_before_a_move_home),
    Scenario::new("written_closed_and_moved", written_closed_and_moved),
];

/// More than a pipe holds, and less than pipes and streams between nodes hold together: natively the
/// child waits in its write, in the fabric it has written all and ended.
const BYTES: usize = 100_000;
/// Has a child on another node that writes when it is told. Says the child's PID; then how much of the
/// child's end was told while nobody read, and how much it has written.
const PARENT: &str = "
import os, subprocess, sys, time
away = dict(os.environ, DUNIX_PLACE='spread')
child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdin=subprocess.PIPE,
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=away)
print(child.pid, flush=True)
for line in sys.stdin:
    child.stdin.write(line.encode()); child.stdin.flush()
    if line == 'end\\n': break
    child.stderr.readline()
    print(line.strip(), flush=True)
time.sleep(0.5)
told = child.poll()
read = len(child.stdout.read())
print('end told:', told, read, child.wait(), flush=True)
";
/// Writes before its end.
const WRITES: &str = "
import os, sys
for line in sys.stdin:
    if line == 'end\\n': os.write(1, bytes(100000)); os._exit(3)
";
/// Writes and closes, moves, ends.
const WRITES_AND_CLOSES: &str = "
import os, sys
for line in sys.stdin:
    if line == 'write\\n': os.write(1, bytes(100000)); os.close(1); os.write(2, b'closed\\n')
    if line == 'end\\n': os._exit(3)
";

fn written_before_a_move_home(lab: &Lab) -> Verdict {
    told_last(lab, WRITES, &["move", "back"])
}

fn written_closed_and_moved(lab: &Lab) -> Verdict {
    told_last(lab, WRITES_AND_CLOSES, &["write", "move"])
}

/// Runs a child through these steps and then to its end.
fn told_last(lab: &Lab, child: &str, steps: &[&str]) -> Verdict {
    let mut command = lab.command(&["run", "--node", "n1", "--", "python3", "-c", PARENT, child]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut run = command.spawn().map_err(|error| error.to_string())?;
    let mut say = run.stdin.take().ok_or("no input")?;
    let mut hear = BufReader::new(run.stdout.take().ok_or("no output")?);
    let mut line = || {
        let mut line = String::new();
        hear.read_line(&mut line).map_err(|error| error.to_string())?;
        Ok::<_, String>(line.trim_end().to_owned())
    };
    let pid = line()?;
    let first = node_of(lab, &pid)?;
    let other = if first == "n2" { "n3" } else { "n2" };
    for step in steps {
        let to = match *step {
            "move" => other,
            "back" => first.as_str(),
            word => {
                writeln!(say, "{word}").map_err(|error| error.to_string())?;
                line()?;
                continue;
            }
        };
        let moved = lab.dunix(&["move", &pid, to])?;
        if moved.status != 0 {
            return Err(format!("dunix move: {moved}"));
        }
    }
    say.write_all(b"end\n").map_err(|error| error.to_string())?;
    let told = line()?;
    let _ = wait_within(&mut run, Duration::from_secs(10));
    let mut rest = String::new();
    hear.read_to_string(&mut rest).map_err(|error| error.to_string())?;
    let wanted = format!("end told: None {BYTES} 3");
    if told == wanted { Ok(()) } else { Err(format!("{told:?}, not {wanted:?}")) }
}

/// Where a process is, once it has executed.
fn node_of(lab: &Lab, pid: &str) -> Result<String, String> {
    for _ in 0..100 {
        let processes = lab.list("ps")?;
        let found = processes.iter().find(|process| process["pid"].as_u64() == pid.parse().ok());
        let node = found.map(|process| process["node"].to_string().replace('"', ""));
        match node.as_deref() {
            Some("2" | "n2") => return Ok("n2".to_owned()),
            Some("3" | "n3") => return Ok("n3".to_owned()),
            // On its way.
            _ => {}
        }
    }
    Err(format!("process {pid} is on no other node: {:?}", lab.list("ps")?))
}
