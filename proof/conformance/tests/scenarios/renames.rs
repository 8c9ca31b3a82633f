//! A file or directory that another node renames while a process has it open is still the same one to
//! that process, wherever it goes: its old name may be another file's by then.

use dunix_conformance::{Lab, Scenario, Verdict};
use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

pub(crate) const SCENARIOS: &[Scenario] = &[Scenario::new("renames_elsewhere", renames_elsewhere)];

/// Reads a file of its own offset, and has a child that executes on another node read a further one and
/// tell where it is. Prints its PID first, then waits for a line.
const READER: &str = "
import os, subprocess, sys
one, two = (os.open(name, os.O_RDONLY) for name in ('one', 'two'))
print(os.getpid(), flush=True)
for line in sys.stdin:
    if line == 'read\\n': print(os.read(one, 9), flush=True)
    else:
        away = dict(os.environ, DUNIX_PLACE='spread')
        for _ in range(3): subprocess.run(['head', '-1'], stdin=two, env=away, check=True)
        print('done', flush=True)
";
/// What another node does meanwhile.
const RENAME: &str = "mv one old-one; mv two old-two; echo wrong | tee one two";

fn renames_elsewhere(lab: &Lab) -> Verdict {
    let folder = format!("/var/tmp/{}-renames", lab.name);
    let make = format!(
        "mkdir {folder} && cd {folder} && echo right > one && seq -f 'right %g' 3000 > two"
    );
    lab.dunix(&["run", "--node", "n1", "--", "sh", "-c", &make])?;
    let mut command =
        lab.command(&["run", "--node", "n2", "--cwd", &folder, "--", "python3", "-c", READER]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut reader = command.spawn().map_err(|error| error.to_string())?;
    let output = reader.stdout.take().ok_or("no output")?;
    let verdict = meanwhile(lab, &folder, &mut BufReader::new(output), |line| {
        use std::io::Write;
        let input = reader.stdin.as_mut().ok_or("no input")?;
        input.write_all(line.as_bytes()).map_err(|error| error.to_string())
    });
    drop(reader.stdin.take());
    let status = reader.wait().map_err(|error| error.to_string())?;
    verdict?;
    if status.success() { Ok(()) } else { Err(format!("the reader ended with {status}")) }
}

fn meanwhile(
    lab: &Lab,
    folder: &str,
    output: &mut impl BufRead,
    mut say: impl FnMut(&str) -> Result<(), String>,
) -> Verdict {
    let mut line = || {
        let mut line = String::new();
        output.read_line(&mut line).map_err(|error| error.to_string())?;
        Ok::<_, String>(line.trim_end().to_owned())
    };
    let pid = line()?;
    let renamed = lab.dunix(&["run", "--node", "n1", "--cwd", folder, "--", "sh", "-c", RENAME])?;
    if renamed.status != 0 {
        return Err(format!("mv: {renamed}"));
    }
    let moved = lab.dunix(&["move", &pid, "n3"])?;
    if moved.status != 0 {
        return Err(format!("dunix move: {moved}"));
    }
    say("read\n")?;
    let read = line()?;
    if read != r"b'right\n'" {
        return Err(format!("after its move it read {read}"));
    }
    say("spread\n")?;
    loop {
        match line()?.as_str() {
            "done" => return Ok(()),
            right if right.starts_with("right ") => {}
            wrong => return Err(format!("a child on another node read {wrong:?}")),
        }
    }
}
