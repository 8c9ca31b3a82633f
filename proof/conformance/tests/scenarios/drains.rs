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
/// Has a child that executes on the next node in turn, another one each time it is told `again`, and
/// says its PID. Tells it all else; in the end says whether the child's end was told while nobody read, and
/// how much it has written.
const PARENT: &str = "
import os, subprocess, sys, time
away = dict(os.environ, DUNIX_PLACE='spread')
def start():
    global child
    child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=away)
    print(child.pid, flush=True)
start()
for line in sys.stdin:
    if line == 'again\\n':
        child.kill(); child.wait(); start()
        continue
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
    let mut pid = line()?;
    let first = loop {
        match node_of(lab, &pid)? {
            Some(node) => break node,
            None => say.write_all(b"again\n").map_err(|error| error.to_string())?,
        }
        pid = line()?;
    };
    let other = if first == "n2" { "n3" } else { "n2" };
    for step in steps {
        let to = match *step {
            "move" => other,
            "back" => first,
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

/// Where a process is that has executed; `None`: beside its parent.
fn node_of(lab: &Lab, pid: &str) -> Result<Option<&'static str>, String> {
    for _ in 0..100 {
        let processes = lab.list("ps")?;
        let found = processes.iter().find(|process| process["pid"].as_u64() == pid.parse().ok());
        // Before its exec it is its parent's copy.
        let executed = found.filter(|process| process["args"][2] != PARENT);
        match executed.and_then(|process| process["node"].as_u64()) {
            Some(1) => return Ok(None),
            Some(2) => return Ok(Some("n2")),
            Some(3) => return Ok(Some("n3")),
            // On its way.
            _ => {}
        }
    }
    Err(format!("process {pid} is nowhere: {:?}", lab.list("ps")?))
}
