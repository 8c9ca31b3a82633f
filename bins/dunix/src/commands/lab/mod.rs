//! `dunix lab`: a throw-away fabric on this machine.
//!
//! The program runs through `dunix run`, a child of this process. Whichever ends first, the
//! program, the lab or this process's time (a signal), ends the others.

mod storm;

use super::{EXIT_DUNIX, runtime};
use crate::{
    admin::{client, discovery::Fabric},
    cli::{LabArgs, LabRoot},
};
use dunix_lab::{Lab, LabConfig, LabError, NodeHandle, Root};
use dunix_linux::signal::{take_signal, termination_signals};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use storm::Storm;

/// Names that are tried if none is given: lab, lab2, ... up to this.
const NAMES_TRIED: u32 = 100;
/// How long one question whether a node is ready may take; then signals are looked at again.
const READY_ANSWER_WITHIN: Duration = Duration::from_millis(200);
/// How long `dunix run` may take to restore the terminal when the lab ends before the program.
const RUN_ENDS_WITHIN: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How long a lab whose program lost its connection may take to find out what died.
const REASON_WITHIN: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Builds the lab, runs the program in it, and leaves nothing behind.
pub fn run(args: &LabArgs) -> ExitCode {
    match run_lab(args) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("dunix: {error}");
            ExitCode::from(EXIT_DUNIX)
        }
    }
}

fn run_lab(args: &LabArgs) -> Result<u8, LabError> {
    check(args)?;
    // Before any thread starts, so that none of them takes such a signal.
    let signals = termination_signals().map_err(|error| host("block signals", error.into()))?;
    let mut caught = None;
    let started = start(args, &mut |node| {
        caught = take_signal(signals.as_fd()).unwrap_or(None);
        if caught.is_some() { Err(LabError::Abandoned) } else { is_ready(node) }
    });
    let (lab, name) = match (started, caught) {
        (Err(LabError::Abandoned), Some(signal)) => return Ok(signal_status(signal)),
        (started, _) => started?,
    };
    if std::io::stderr().is_terminal() {
        eprintln!("{}", greeting(args, &lab, &name));
    }
    let storm = begin_storm(args, &lab)?;
    let mut program =
        (!args.command.is_empty()).then(|| spawn(&name, &args.command)).transpose()?;
    let status = supervise(&lab, &signals, program.as_mut());
    if matches!(status, Ok(EXIT_DUNIX)) {
        // The program often sees a dying lab before the lab has found out itself.
        let ended = PollFd::from_borrowed_fd(lab.end_descriptor(), PollFlags::IN);
        let _ = poll(&mut [ended], Some(&REASON_WITHIN));
    }
    if let Some(program) = &mut program {
        end_program(program);
    }
    if let Some(report) = storm.and_then(Storm::end) {
        eprintln!("{}", in_form(&report, args.json));
    }
    end(lab, "lab");
    status
}

/// Builds what is asked for, says that it is `up`, and waits for a signal or the end.
pub(super) fn run_until_ended(config: &LabConfig, up: &str) -> Result<u8, LabError> {
    let signals = termination_signals().map_err(|error| host("block signals", error.into()))?;
    let mut caught = None;
    let started = Lab::start(config, &mut |node| {
        caught = take_signal(signals.as_fd()).unwrap_or(None);
        if caught.is_some() { Err(LabError::Abandoned) } else { is_ready(node) }
    });
    let lab = match (started, caught) {
        (Err(LabError::Abandoned), Some(signal)) => return Ok(signal_status(signal)),
        (started, _) => started?,
    };
    eprintln!("{up}");
    let status = supervise(&lab, &signals, None);
    end(lab, "node");
    status
}

fn end(lab: Lab, what: &str) {
    let Some(end) = lab.shutdown() else { return };
    eprintln!("dunix: the {what} ended: {}", end.reason);
    if !end.log.is_empty() {
        eprintln!("last lines of the node's log:\n{}", end.log);
    }
}

/// Refuses what makes no sense, and options that are settled but not built yet: an unknown option
/// would look like a slip.
fn check(args: &LabArgs) -> Result<(), LabError> {
    let asked = [("--latency", args.latency.is_some()), ("--loss", args.loss.is_some())];
    if args.storm.is_some() && args.nodes < 2 {
        return Err(LabError::Config("--storm: a lab of one node has nowhere to move to".into()));
    }
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((option, _)) => Err(LabError::Config(format!("{option} is not there yet"))),
        None => Ok(()),
    }
}

/// Begins the storm that was asked for.
fn begin_storm(args: &LabArgs, lab: &Lab) -> Result<Option<Storm>, LabError> {
    let Some(mean) = args.storm else { return Ok(None) };
    let seed = args.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::from(now.subsec_micros())
    });
    Storm::start(lab.nodes(), mean, seed).map(Some).map_err(|error| host("begin the storm", error))
}

fn in_form(report: &storm::Report, json: bool) -> String {
    let as_json = json.then(|| serde_json::to_string(report).ok()).flatten();
    as_json.unwrap_or_else(|| report.to_string())
}

fn host(step: &str, source: std::io::Error) -> LabError {
    LabError::Step { step: step.to_owned(), source }
}

/// Starts the lab under the wanted name, or the first free one.
fn start(
    args: &LabArgs,
    is_ready: &mut dyn FnMut(&NodeHandle) -> Result<bool, LabError>,
) -> Result<(Lab, String), LabError> {
    let mut attempt = 1;
    loop {
        let name = match (&args.name, attempt) {
            (Some(name), _) => name.clone(),
            (None, 1) => "lab".to_owned(),
            (None, number) => format!("lab{number}"),
        };
        match Lab::start(&config(args, &name), is_ready) {
            Err(LabError::NameTaken { .. }) if args.name.is_none() && attempt < NAMES_TRIED => {
                attempt += 1;
            }
            result => return result.map(|lab| (lab, name)),
        }
    }
}

fn config(args: &LabArgs, name: &str) -> LabConfig {
    let mut config = LabConfig::new(name, args.nodes);
    config.cpus_per_node = args.cpus_per_node;
    config.spread = args.spread;
    config.root = match args.root {
        LabRoot::Cow => Root::Cow,
        LabRoot::Host => Root::Host,
    };
    config
}

/// Asks one node. Its socket exists before its daemon: no answer only means not yet.
fn is_ready(node: &NodeHandle) -> Result<bool, LabError> {
    let fabric = Fabric { name: String::new(), sockets: vec![node.socket.clone()] };
    let runtime = runtime().map_err(|error| host("ask a node", error))?;
    let answer = runtime.block_on(async {
        tokio::time::timeout(READY_ANSWER_WITHIN, client::ready(&fabric)).await
    });
    Ok(matches!(answer, Ok(Ok(()))))
}

fn greeting(args: &LabArgs, lab: &Lab, name: &str) -> String {
    let logs = lab.nodes().first().and_then(|node| node.log.parent());
    let logs = logs.map_or_else(String::new, |directory| directory.display().to_string());
    let stay = if args.command.is_empty() { "; ^C ends it" } else { "" };
    let plural = if args.nodes == 1 { "" } else { "s" };
    format!("fabric {name} is up: {} node{plural}, logs in {logs}{stay}", args.nodes)
}

fn spawn(fabric: &str, command: &[OsString]) -> Result<Child, LabError> {
    let program = std::env::current_exe().map_err(|error| host("find the own program", error))?;
    let mut run = Command::new(program);
    run.args(["--fabric", fabric, "run", "--"]).args(command);
    run.spawn().map_err(|error| host("start dunix run", error))
}

/// Waits for the first of: the program's end, the lab's end, a signal. Returns the exit status.
fn supervise(lab: &Lab, signals: &OwnedFd, program: Option<&mut Child>) -> Result<u8, LabError> {
    let pidfd = match &program {
        Some(program) => Some(
            pidfd_open(Pid::from_child(program), PidfdFlags::empty())
                .map_err(|error| host("watch the program", error.into()))?,
        ),
        None => None,
    };
    let ended = lab.end_descriptor();
    let mut polled = vec![
        PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(ended, PollFlags::IN),
    ];
    polled.extend(pidfd.as_ref().map(|pidfd| PollFd::new(pidfd, PollFlags::IN)));
    loop {
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(host("wait for the lab", error.into())),
        }
        let raised = |at: usize| polled.get(at).is_some_and(|poll| !poll.revents().is_empty());
        if raised(2)
            && let Some(program) = program
        {
            let status = program.wait().map_err(|error| host("wait for the program", error))?;
            return Ok(shell_status(status));
        }
        if raised(1) {
            return Ok(EXIT_DUNIX);
        }
        if let Ok(Some(signal)) = take_signal(signals.as_fd()) {
            return Ok(signal_status(signal));
        }
    }
}

/// Ends `dunix run` if it still runs: asked first, so that it can restore the terminal.
fn end_program(program: &mut Child) {
    if let Ok(Some(_)) = program.try_wait() {
        return;
    }
    let pid = Pid::from_child(program);
    // It is not reaped, so the number is its own.
    let _ = kill_process(pid, Signal::TERM);
    if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
        let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&RUN_ENDS_WITHIN));
    }
    let _ = program.kill();
    let _ = program.wait();
}

fn shell_status(status: std::process::ExitStatus) -> u8 {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.unwrap_or_else(|| status.signal().map_or(EXIT_DUNIX, signal_status))
}

fn signal_status(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(EXIT_DUNIX)
}
