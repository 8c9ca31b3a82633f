//! The command line: every command, option, help text and example. Completions and man pages are
//! made from these definitions, so nothing about the command line is written anywhere else.

use clap::{Args, Parser, Subcommand, ValueEnum, error::ErrorKind};
use dunix_ids::Pid;
use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

/// Many Linux machines as one Unix.
#[derive(Debug, Parser)]
#[command(name = "dunix", version, propagate_version = true, max_term_width = 100)]
#[command(after_long_help = EXIT_CODES)]
pub struct Cli {
    /// Fabric to talk to; needed only if this machine takes part in more than one
    #[arg(long, global = true, env = "DUNIX_FABRIC", value_name = "NAME")]
    pub fabric: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit status:
  0      done
  1      the fabric answered that it cannot do this (no such process, no such node, ...)
  2      the command line is wrong
  125    there is no fabric to talk to, or the connection to it broke

`dunix run` and `dunix lab` exit as a shell would after the same program: its own status, 126 if it
cannot be executed, 127 if it does not exist, 128 + N if signal N killed it, and 125 for everything
that is wrong with dunix itself, the command line included.

Environment:
  DUNIX_FABRIC   the fabric, as --fabric
  NO_COLOR       if set, no colours";

#[derive(Debug, Subcommand)]
pub enum Command {
    Run(RunArgs),
    Shell(ShellArgs),
    Login(LoginArgs),
    Ps(PsArgs),
    Top(TopArgs),
    Nodes(NodesArgs),
    Kill(KillArgs),
    Move(MoveArgs),
    Explain(ExplainArgs),
    Events(EventsArgs),
    Metrics(MetricsArgs),
    Logs(LogsArgs),
    Lab(LabArgs),
    Init(InitArgs),
    Node(NodeArgs),
    /// Stand for a session at a terminal. Started by a node's daemon, not by hand.
    #[command(hide = true)]
    TerminalAnchor,
    #[command(hide = true)]
    Completions(CompletionsArgs),
    #[command(hide = true)]
    Man(ManArgs),
}

/// Run a program in the fabric
///
/// Standard input, output and error are relayed; if standard input and output are terminals, the
/// program gets a terminal of its own. What the program starts may run on any node: pipes, files,
/// signals and wait work as on one machine. The program gets the caller's environment, working
/// directory and umask.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  dunix run -- make -j12                     compile on every node
  dunix run bash                             a shell in the fabric
  dunix run --node n2 -- hostname            on a certain node
  dunix run --spread -- sh -c 'sort f | uniq -c'
  dunix run --near 4711 -- gdb -p 4711       on the node of a process
  dunix run --pin -- ./benchmark             placed by load, and then not moved
  tar c src | dunix run -- tar tv            standard input is relayed

Without a terminal, SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGTSTP and SIGCONT go to
the program's process group. If the connection to the fabric breaks, dunix exits with 125.")]
pub struct RunArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Working directory in the fabric [default: this one, or / if it is not there]
    #[arg(long, short = 'C', value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Set a variable, or with a bare name pass it on from the caller even with --clear-env
    #[arg(long, short = 'e', value_name = "NAME[=VALUE]")]
    pub env: Vec<OsString>,
    /// Start from an empty environment
    #[arg(long)]
    pub clear_env: bool,
    /// Whether the program gets a terminal
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub pty: When,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// Where a program runs.
#[derive(Clone, Debug, Args)]
pub struct PlaceArgs {
    /// Run it on this node (a name or number of `dunix nodes`)
    #[arg(long, short = 'n', value_name = "NODE", group = "where")]
    pub node: Option<String>,
    /// Run it on the node where this process runs now
    #[arg(long, value_name = "PID", group = "where", value_parser = pid)]
    pub near: Option<Pid>,
    /// Place every program that it starts, and forked workers, on the next node in turn
    #[arg(long, group = "where")]
    pub spread: bool,
    /// Keep it and what it starts on the node that takes the request
    #[arg(long, group = "where")]
    pub local: bool,
    /// Leave it, and what it starts, where it has been placed: nothing of it moves for load
    #[arg(long, conflicts_with_all = ["spread", "local"])]
    pub pin: bool,
}

/// Start a login shell in the fabric
///
/// The shell that the fabric's /etc/passwd names for the user, in the user's home, with a terminal if the caller has one.
/// Its jobs run on any node; ^C, ^Z, fg and bg work as on one machine.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  dunix shell                 root's
  dunix shell alice           a user's of the fabric
  dunix shell --node n2       on a certain node
  echo hostname | dunix shell --spread")]
pub struct ShellArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Whose, by the fabric's /etc/passwd
    #[arg(default_value = "root")]
    pub user: OsString,
}

/// Ask for a name and a password, and start the user's shell in the fabric
///
/// For consoles: login(1) of the fabric, with its users. Needs a terminal.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  dunix login
  agetty --noclear --login-program /usr/local/bin/dunix --login-options 'login \\u' tty2")]
pub struct LoginArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Ask for the password of this user only
    pub user: Option<OsString>,
}

impl ShellArgs {
    /// The same as a program to run: su(1) knows users, homes and shells.
    #[must_use]
    pub fn as_run(&self) -> RunArgs {
        let words = ["su", "--whitelist-environment", "COLORTERM,LANG,LC_ALL", "--login"];
        let command = words.into_iter().map(OsString::from).chain([self.user.clone()]);
        fresh(&self.place, When::Auto, command.collect())
    }
}

impl LoginArgs {
    /// The same as a program to run.
    #[must_use]
    pub fn as_run(&self) -> RunArgs {
        let command = [OsString::from("login")].into_iter().chain(self.user.clone());
        fresh(&self.place, When::Always, command.collect())
    }
}

/// A program that knows nothing of the caller but the terminal and the language.
fn fresh(place: &PlaceArgs, pty: When, command: Vec<OsString>) -> RunArgs {
    let env = ["TERM", "COLORTERM", "LANG", "LC_ALL"].map(OsString::from).into();
    let (place, cwd) = (place.clone(), Some(PathBuf::from("/")));
    RunArgs { place, cwd, env, clear_env: true, pty, command }
}

/// Print what the nodes' daemons have logged
///
/// Of a lab on this machine. What `dunix node` says goes to its standard error.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  dunix logs                  every node of the lab, by time
  dunix logs --node n2 --follow
  DUNIX_LOG=debug dunix lab --nodes 3 --name home &    # says more")]
pub struct LogsArgs {
    /// Only this node
    #[arg(long, short = 'n', value_name = "NODE")]
    pub node: Option<String>,
    /// Go on printing what is added until interrupted
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// Print JSON, an object a line
    #[arg(long)]
    pub json: bool,
}

/// When to do something that depends on there being a terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum When {
    Auto,
    Always,
    Never,
}

/// How a list is shown.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print JSON, with every field
    #[arg(long)]
    pub json: bool,
    /// Show again every SECONDS (default 2) until interrupted
    #[arg(long, short = 'w', value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    #[arg(require_equals = true, value_parser = seconds)]
    pub watch: Option<f64>,
}

/// List the processes of the fabric
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  dunix ps                        every process, by PID
  dunix ps --node n2 --sort cpu   what node n2 works on
  dunix ps --tree                 parents and children
  dunix ps --watch                again every 2 seconds
  dunix ps --json | jq '.[].pid'")]
pub struct PsArgs {
    #[command(flatten)]
    pub list: ListArgs,
    /// Only processes on this node
    #[arg(long, short = 'n', value_name = "NODE")]
    pub node: Option<String>,
    /// Order of the list
    #[arg(long, value_name = "KEY", default_value = "pid")]
    pub sort: PsSort,
    /// Indent children below their parents
    #[arg(long, conflicts_with = "sort")]
    pub tree: bool,
}

/// What `ps` sorts by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum PsSort {
    Pid,
    /// By node, then PID
    Node,
    /// CPU time, greatest first
    Cpu,
    /// Resident memory, greatest first
    Mem,
    /// Youngest first
    Start,
}

/// Watch nodes and processes in a live view, and act on them
///
/// Nodes are shown above processes; what a key does concerns the chosen process. CPU% is the share of
/// one CPU since the last refresh.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Keys:
  Up Down PgUp PgDn Home End   choose a process
  t            tree
  s > <        sort by the next, the next, the previous column
  / F4         show commands that contain a text; Esc shows all
  n            only the process's node; again: all
  k            send a signal
  m            move to another node
  w e          why it is here (dunix explain)
  ?            help
  q F10 ^C     quit

Examples:
  dunix top
  dunix top --interval 0.5")]
pub struct TopArgs {
    /// Time between refreshes
    #[arg(long, short = 'i', value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub interval: f64,
}

/// List the nodes of the fabric
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  dunix nodes              state, CPUs, load, memory and traffic of every node
  dunix nodes --watch=1
  dunix nodes --json")]
pub struct NodesArgs {
    #[command(flatten)]
    pub list: ListArgs,
}

/// Send a signal to processes of the fabric
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  dunix kill 4711                SIGTERM
  dunix kill -s KILL 4711 4712
  dunix kill -9 4711
  dunix kill -INT -- -4711       every process of group 4711
  dunix kill -s 0 4711           only ask whether it exists
  dunix kill -l                  names of signals; -l 137 tells what status 137 means")]
pub struct KillArgs {
    /// Signal, as a name with or without SIG, or a number [default: TERM]
    #[arg(long, short = 's', value_name = "SIGNAL")]
    pub signal: Option<String>,
    /// List signals, or translate a name, number or exit status
    #[arg(long, short = 'l', value_name = "SIGNAL", num_args = 0..=1)]
    pub list: Option<Option<String>>,
    /// PIDs; a negative one means a process group; a leading -SIGNAL is as -s SIGNAL
    #[arg(required_unless_present = "list", allow_hyphen_values = true, value_name = "PID")]
    pub targets: Vec<String>,
}

/// Move a running process to another node
///
/// Its threads, memory, descriptors and PID go with it, and it cannot tell. Unless --safe is given,
/// it runs at the target before all of its memory is there: until the last page has come, the end of
/// either node ends the process. A process that cannot move goes on where it is.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  dunix move 4711 n2             and wait until its last page has arrived
  dunix move --no-wait 4711 n2   only until it runs there
  dunix move --safe 4711 n2      all of its memory first
  dunix move --with-children 4711 n2    and all that descends from it
  dunix explain 4711             what is known beforehand, and how its moves went

Exit status: 0 if it moved (all of it, with --with-children), 1 if it was refused, with the reason, or there is no such
process.")]
pub struct MoveArgs {
    /// PID of the fabric, as `dunix ps` shows it
    #[arg(value_parser = pid)]
    pub pid: Pid,
    /// Where to (a name or number of `dunix nodes`)
    pub node: String,
    /// Send all memory before it runs there: a longer stop, no time in which two nodes are needed
    #[arg(long)]
    pub safe: bool,
    /// Move its children as well, their children, and what they fork meanwhile; what cannot move stays, and is told
    #[arg(long)]
    pub with_children: bool,
    /// Return as soon as it runs there, while memory still follows
    #[arg(long)]
    pub no_wait: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Tell all that is known of a process: why it is where it is, what it waits for
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  dunix explain 4711")]
pub struct ExplainArgs {
    /// PID of the fabric, as `dunix ps` shows it
    #[arg(value_parser = pid)]
    pub pid: Pid,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Follow what happens in the fabric: programs, exits, nodes
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  dunix events
  dunix events --json | jq -c 'select(.kind.Executed)'")]
pub struct EventsArgs {
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Print a node's counts in Prometheus' text form
///
/// What happened since the node's daemon started, and how busy the node is. The daemon's socket, which
/// root alone may open, answers the same to HTTP.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  dunix metrics
  dunix metrics --node n2 | grep moves
  curl --unix-socket /run/dunix/lab/n1.sock http://n1/metrics

Messages of topic `files` are the tree's: requests to its authority, and recalls from it. Those of topic
`locks` are questions about locks. The node itself counts as a peer for what it asks itself.")]
pub struct MetricsArgs {
    /// The node (a name or number of `dunix nodes`) [default: the one that answers]
    #[arg(long, short = 'n', value_name = "NODE")]
    pub node: Option<String>,
}

/// Build a throw-away fabric on this machine and run a program in it
///
/// Each node gets namespaces, a network link, a control group and a keeper of its own. Without a
/// program the lab stays until interrupted. Leaves nothing behind.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  dunix lab --nodes 3 -- bash                    a shell in a fabric of three nodes
  dunix lab --nodes 3 --spread -- make -j6
  dunix lab --nodes 3 --name demo                keep it until ^C; then: dunix --fabric demo ps
  dunix lab --storm 50ms --seed 7 -- make -j4    while everything is being moved

The other commands are for outside of the fabric: a second terminal, not a program in the lab.

At its end a storm reports on standard error which moves were asked for, done, and refused for which
reason. It does not change the exit status.")]
pub struct LabArgs {
    /// Number of nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub nodes: u32,
    /// Name of the fabric [default: lab, or lab2, lab3, ... if taken]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Place every exec, and forked workers, on the next node in turn
    #[arg(long)]
    pub spread: bool,
    /// CPUs that each node may use, such as 0.5
    #[arg(long, value_name = "F")]
    pub cpus_per_node: Option<f64>,
    /// Where the tree comes from
    #[arg(long, value_name = "ROOT", value_enum, default_value_t = LabRoot::Cow)]
    pub root: LabRoot,
    /// Delay of the link
    #[arg(long, value_name = "T", hide = true)]
    pub latency: Option<String>,
    /// Share of frames that the link loses
    #[arg(long, value_name = "P", hide = true)]
    pub loss: Option<String>,
    /// Move every process to another node again and again, each after T on average (such as 50ms)
    #[arg(long, value_name = "T", value_parser = short_time)]
    pub storm: Option<Duration>,
    /// What the storm's choices follow from [default: another one each time, in the report]
    #[arg(long, value_name = "S", requires = "storm")]
    pub seed: Option<u64>,
    /// Print the storm's report as JSON, in one line
    #[arg(long, requires = "storm")]
    pub json: bool,
    /// Program to run in the fabric; the lab ends with it
    #[arg(trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// Where a lab's tree comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum LabRoot {
    /// What an unprivileged user of this machine can read; changes are kept apart and thrown away
    Cow,
    /// This machine's root file system, read as its root reads it and without FUSE; changes are kept
    /// apart and thrown away. For one node only
    Host,
}

/// Make the keys of a fabric that spans machines: one file for each of its nodes
///
/// Bring each file to its machine, keep it secret, and start `dunix node FILE` there. Who has such a
/// file can take part in the fabric; the key that vouches for them is forgotten, so that no further
/// node can be made.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  dunix init office --nodes 2 --dir keys      writes keys/n1.json and keys/n2.json")]
pub struct InitArgs {
    /// Name of the fabric
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Number of nodes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub nodes: u32,
    /// Place every exec, and forked workers, on the next node in turn
    #[arg(long)]
    pub spread: bool,
    /// Directory to write to; made if missing
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
}

/// Let this machine be a node of a fabric
///
/// Runs until interrupted; the node's processes end with it. The first node, n1, serves the tree: a
/// copy-on-write view of its machine's root.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  dunix node n2.json --interface eth1         n2.json was written by dunix init")]
pub struct NodeArgs {
    /// The node's file, written by `dunix init`
    #[arg(value_name = "FILE", required_unless_present_any = ["keeper", "daemon"])]
    pub file: Option<PathBuf>,
    /// Network interface on the link to the other nodes; the node gets an address of its own there
    #[arg(long, value_name = "NAME", requires = "file", required_unless_present_any = ["keeper", "daemon"])]
    pub interface: Option<String>,
    /// Be process 1 of a node; started by whoever made the node's namespaces
    #[arg(long, hide = true)]
    pub keeper: bool,
    /// Be the daemon; started by the keeper
    #[arg(long, hide = true)]
    pub daemon: bool,
}

/// Print the completion script of a shell
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    pub shell: clap_complete::Shell,
}

/// Write the man pages
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Directory to write to; made if missing
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

fn pid(text: &str) -> Result<Pid, String> {
    let pid = text.parse().ok().and_then(Pid::new);
    pid.ok_or_else(|| "not a PID: see `dunix ps`".into())
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.1..=3600.0).contains(&value) => Ok(value),
        _ => Err("expected seconds between 0.1 and 3600".to_owned()),
    }
}

/// Prints what clap says and tells the exit status: 125 for the commands that pass a program's
/// status on, so that it cannot be mistaken for the program's.
pub fn refuse(error: &clap::Error) -> ExitCode {
    // Nothing is left to do if standard error is gone.
    let _ = error.print();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return ExitCode::SUCCESS;
    }
    let passes_status_on = std::env::args_os()
        .skip(1)
        .take_while(|argument| argument != "--")
        .any(|argument| argument == "run" || argument == "lab");
    ExitCode::from(if passes_status_on { crate::commands::EXIT_DUNIX } else { 2 })
}

/// A time with its unit, between a millisecond and a minute.
fn short_time(text: &str) -> Result<Duration, String> {
    let units = [("ms", 0.001), ("s", 1.0)];
    let parsed = units.iter().find_map(|(unit, seconds)| {
        let number: f64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        Some(number * seconds)
    });
    match parsed {
        Some(seconds) if (0.001..=60.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("expected a time between 1ms and 60s, such as 50ms or 0.5s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_program_keeps_its_options() {
        let cli = Cli::try_parse_from(["dunix", "run", "ls", "-l", "--node"]).unwrap();
        let Command::Run(run) = cli.command else { panic!("not run") };
        assert_eq!(run.command, ["ls", "-l", "--node"]);
        assert_eq!(run.place.node, None);
    }

    #[test]
    fn times_have_units() {
        assert_eq!(short_time("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(short_time("0.5s"), Ok(Duration::from_millis(500)));
        for wrong in ["50", "0ms", "-1s", "61s", "NaNs", "ms", "5 minutes"] {
            assert!(short_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn kill_takes_negative_targets() {
        let cli = Cli::try_parse_from(["dunix", "kill", "-9", "-4711", "12"]).unwrap();
        let Command::Kill(kill) = cli.command else { panic!("not kill") };
        assert_eq!(kill.targets, ["-9", "-4711", "12"]);
    }
}
