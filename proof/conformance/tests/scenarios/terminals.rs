//! Terminals of the fabric: size, line discipline, job control. `--pty always` gives one to the
//! program although the test has none.

use dunix_conformance::{Lab, Scenario, Verdict};
use std::{
    io::{Read, Write},
    process::{Child, ChildStdout, Command, Stdio},
};

/// How long a session may take.
const SECONDS_MAX: &str = "20";

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("terminal_is_there", terminal_is_there),
    Scenario::new("terminal_interrupts", terminal_interrupts),
    Scenario::new("terminal_ends_input", terminal_ends_input),
];

struct Session {
    child: Child,
    output: ChildStdout,
    shown: String,
}

impl Session {
    fn start(lab: &Lab, placement: &str, script: &str) -> Result<Session, String> {
        let dunix = lab.command(&["run", "--pty", "always", placement, "sh", "-c", script]);
        // A session that hangs ends, and fails by its status.
        let mut command = Command::new("timeout");
        command
            .args(["--signal=KILL", SECONDS_MAX])
            .arg(dunix.get_program())
            .args(dunix.get_args());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let output = child.stdout.take().ok_or("no output")?;
        Ok(Session { child, output, shown: String::new() })
    }

    /// Reads until the terminal has shown a text.
    fn wait_for(&mut self, text: &str) -> Verdict {
        let mut buffer = [0; 4096];
        while !self.shown.contains(text) {
            let length = self.output.read(&mut buffer).map_err(|error| error.to_string())?;
            if length == 0 {
                return Err(format!("ended before {text:?}: {:?}", self.shown));
            }
            self.shown.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        Ok(())
    }

    fn type_in(&mut self, text: &str) -> Verdict {
        let input = self.child.stdin.as_mut().ok_or("no input")?;
        input.write_all(text.as_bytes()).map_err(|error| error.to_string())
    }

    fn finish(mut self, status: i32) -> Verdict {
        let code = self.child.wait().map_err(|error| error.to_string())?.code();
        if code == Some(status) { Ok(()) } else { Err(format!("{code:?} after {:?}", self.shown)) }
    }
}

fn on_both(lab: &Lab, check: fn(&Lab, &str) -> Verdict) -> Verdict {
    for placement in ["--local", "--spread"] {
        check(lab, placement).map_err(|error| format!("{placement}: {error}"))?;
    }
    Ok(())
}

fn terminal_is_there(lab: &Lab) -> Verdict {
    on_both(lab, |lab, placement| {
        let script = "test -t 0 -a -t 1 -a -t 2 && stty size; read line; echo got $line; exit 5";
        let mut session = Session::start(lab, placement, script)?;
        session.wait_for("24 80\r\n")?;
        session.type_in("hello\r")?;
        session.wait_for("got hello\r\n")?;
        session.finish(5)
    })
}

/// termios(3): VINTR signals the foreground group.
fn terminal_interrupts(lab: &Lab) -> Verdict {
    on_both(lab, |lab, placement| {
        // A shell's own vfork may swallow the signal, natively too: whoever says that he is ready
        // must be past it.
        let script = "sh -c 'echo ready; exec sleep 1000'; echo no";
        let mut session = Session::start(lab, placement, script)?;
        session.wait_for("ready")?;
        session.type_in("\x03")?;
        session.finish(130)
    })
}

/// termios(3): VEOF at the start of a line ends a read with nothing.
fn terminal_ends_input(lab: &Lab) -> Verdict {
    on_both(lab, |lab, placement| {
        let mut session = Session::start(lab, placement, "cat; echo ended")?;
        session.type_in("line\r")?;
        session.wait_for("line\r\nline\r\n")?;
        session.type_in("\x04")?;
        session.wait_for("ended")?;
        session.finish(0)
    })
}
