//! A program whose output is passed on and watched: when it says nothing for too long, what its
//! processes wait for is printed, and they are killed.

use crate::interrupt;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write as _},
    process::{ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

const POLL_PAUSE: Duration = Duration::from_millis(200);

/// Runs a command to its end; gives each line of its output to `each`, which passes it on. Fails if
/// no line comes for as long as `silence`.
pub(crate) fn run(
    command: &mut Command,
    silence: Duration,
    mut each: impl FnMut(&str),
) -> Result<ExitStatus> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start")?;
    let lines = lines_of(child.stdout.take().context("no output")?);
    let mut heard = Instant::now();
    loop {
        match lines.recv_timeout(POLL_PAUSE) {
            Ok(line) => {
                heard = Instant::now();
                each(&line);
                writeln!(std::io::stdout(), "{line}")?;
            }
            Err(RecvTimeoutError::Disconnected) => return interrupt::wait(&mut child),
            Err(RecvTimeoutError::Timeout) => {
                if let Err(interrupted) = interrupt::check() {
                    // It may have ended by itself meanwhile.
                    let _ = child.kill();
                    child.wait().context("wait")?;
                    return Err(interrupted);
                }
                if heard.elapsed() >= silence {
                    let stuck = descendants(child.id());
                    eprintln!("{}", report(&stuck));
                    stuck.iter().for_each(|&pid| kill(pid));
                    bail!(
                        "nothing was printed for {silence:?}: killed (what it did is shown above)"
                    );
                }
            }
        }
    }
}

fn lines_of(output: ChildStdout) -> Receiver<String> {
    let (out, lines) = mpsc::channel();
    thread::spawn(move || {
        // An end of output and an end of interest end it alike.
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if out.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// A process, its children, and theirs, each before its children.
fn descendants(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut all = vec![root];
    let mut at = 0;
    while let Some(pid) = all.get(at) {
        all.extend(children.remove(pid).unwrap_or_default());
        at += 1;
    }
    all
}

/// proc_pid_stat(5): the second word after the name, which is in parentheses.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// What each thread of the processes does, as far as the kernel tells.
fn report(processes: &[u32]) -> String {
    let mut text = String::new();
    for pid in processes {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        // Writing to a string does not fail.
        let _ = writeln!(text, "process {pid}: {words}");
        for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let look = |file: &str| {
                let text = fs::read_to_string(thread.path().join(file)).unwrap_or_default();
                text.trim_end().replace('\n', "\n      ")
            };
            let state = look("status");
            let state = state.lines().find_map(|line| line.trim().strip_prefix("State:"));
            let _ = writeln!(
                text,
                "   thread {} ({}){}, system call {}\n      {}",
                thread.file_name().to_string_lossy(),
                look("comm"),
                state.unwrap_or_default().replace('\t', " "),
                look("syscall"),
                look("stack"),
            );
        }
    }
    text
}

fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself meanwhile.
        let _ = kill_process(pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_passed_on_until_the_end() {
        let mut seen = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo a; echo b; exit 3"]);
        let status = run(&mut command, Duration::from_secs(60), |line| seen.push(line.to_string()));
        assert_eq!(status.expect("it ends").code(), Some(3));
        assert_eq!(seen, ["a", "b"]);
    }

    #[test]
    fn the_silent_are_killed_with_their_children() {
        let mut child = None;
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo $!; wait"]);
        let outcome = run(&mut command, Duration::from_millis(300), |line| {
            child = line.parse::<u32>().ok();
        });
        assert!(outcome.is_err(), "{outcome:?}");
        let child = child.expect("a process");
        let ended = Instant::now() + Duration::from_secs(10);
        // Its new parent may not have reaped it yet.
        let lives = || {
            let stat = fs::read_to_string(format!("/proc/{child}/stat"));
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        while lives() {
            assert!(Instant::now() < ended, "the child lives on");
            thread::yield_now();
        }
    }

    #[test]
    fn a_report_shows_what_threads_wait_for() {
        let text = report(&descendants(std::process::id()));
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
        assert!(text.contains("system call"), "{text}");
    }
}
