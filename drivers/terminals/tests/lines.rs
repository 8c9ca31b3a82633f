//! Anchors on real terminals of this host: what is typed at a master reaches the fabric's
//! foreground group, and nothing of an anchor shows at the terminal.

use dunix_ids::Pid;
use dunix_terminals::{
    Access, AnchorProgram, Caller, Fabric, Operation, TIOCGPGRP, TIOCGSID, TIOCNOTTY, TIOCSCTTY,
    TIOCSPGRP, TerminalCall, Terminals, TerminalsConfig, Verdict, View, Winsize, tcsetwinsize,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

const SIGHUP: u8 = 1;
const SIGINT: u8 = 2;
const SIGQUIT: u8 = 3;
const SIGCONT: u8 = 18;
const SIGTSTP: u8 = 20;
const SIGTTIN: u8 = 21;
const SIGWINCH: u8 = 28;
const TCSETSW: u64 = 0x5403;
/// The longest wait for a report; passing takes a thousandth of it.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, PartialEq)]
enum Seen {
    Group(u32, u8),
    Process(u32, u8),
    View(u32, Option<(u32, bool)>),
}

struct Recorder {
    seen: Sender<Seen>,
}

impl Fabric for Recorder {
    fn signal_group(&self, group: Pid, signal: u8) {
        self.seen.send(Seen::Group(group.get(), signal)).unwrap();
    }

    fn signal_process(&self, pid: Pid, signal: u8) {
        self.seen.send(Seen::Process(pid.get(), signal)).unwrap();
    }

    fn publish(&self, session: Pid, view: Option<View>) {
        let view = view.map(|view| (view.foreground.get(), view.tostop));
        self.seen.send(Seen::View(session.get(), view)).unwrap();
    }

    fn leave(&self, _session: Pid, _pid: Pid) {}
}

struct Rig {
    terminals: Terminals,
    seen: Receiver<Seen>,
}

impl Rig {
    fn start() -> Self {
        let (sender, seen) = channel();
        let anchor = AnchorProgram {
            program: env!("CARGO_BIN_EXE_anchor-for-tests").into(),
            arguments: Vec::new(),
        };
        let config = TerminalsConfig { devpts: "/dev/pts".into(), anchor };
        let terminals = Terminals::start(config, Arc::new(Recorder { seen: sender })).unwrap();
        Self { terminals, seen }
    }

    /// A new terminal that controls session 100.
    fn open(&self) -> (OwnedFd, OwnedFd) {
        let (host, slave) = self.terminals.open(size(80), None).unwrap();
        self.attach(member(100, 100), &slave).unwrap();
        self.expect(Seen::View(100, Some((100, false))));
        (host, slave)
    }

    fn attach(&self, leader: Caller, slave: &OwnedFd) -> Result<(), Errno> {
        self.terminals.attach(leader, self.terminals.identify(slave.as_fd())?)
    }

    fn expect(&self, wanted: Seen) {
        assert_eq!(self.seen.recv_timeout(PATIENCE).unwrap(), wanted);
    }

    fn control(&self, caller: Caller, fd: &OwnedFd, request: u64, arg: i32) -> Result<u32, Errno> {
        // Session 100 has the groups 100 to 199, and so on.
        let group_session = Pid::new(arg.unsigned_abs() / 100 * 100);
        let call = TerminalCall { request, argument: arg, privileged: false, group_session };
        self.terminals.control(caller, fd.as_fd(), call)
    }
}

fn size(columns: u16) -> Winsize {
    Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn type_at(host: &OwnedFd, keys: &[u8]) {
    assert_eq!(rustix::io::write(host, keys).unwrap(), keys.len());
}

/// Reads at the (non-blocking) master; 0 at the end, which Linux reports as EIO.
fn read_at(host: &OwnedFd, buffer: &mut [u8]) -> usize {
    let mut ready = [PollFd::new(host, PollFlags::IN)];
    assert_eq!(poll(&mut ready, Some(&Timespec { tv_sec: 10, tv_nsec: 0 })).unwrap(), 1);
    match rustix::io::read(host, buffer) {
        Err(Errno::IO) => 0,
        other => other.unwrap(),
    }
}

fn member(pid: u32, group: u32) -> Caller {
    let number = |raw| Pid::new(raw).unwrap();
    Caller { pid: number(pid), group: number(group), session: number(pid / 100 * 100) }
}

#[test]
fn keys_and_window_changes_signal_the_foreground_group() {
    let rig = Rig::start();
    let (host, slave) = rig.open();
    for (key, signal) in [(b"\x03", SIGINT), (b"\x1a", SIGTSTP), (b"\x1c", SIGQUIT)] {
        type_at(&host, key);
        rig.expect(Seen::Group(100, signal));
    }
    assert_eq!(rig.control(member(100, 100), &slave, TIOCSPGRP, 120), Ok(0));
    rig.expect(Seen::View(100, Some((120, false))));
    tcsetwinsize(&host, size(132)).unwrap();
    rig.expect(Seen::Group(120, SIGWINCH));
    type_at(&host, b"\x03");
    rig.expect(Seen::Group(120, SIGINT));
}

#[test]
fn the_calls_answer_as_tty_ioctl_says() {
    let rig = Rig::start();
    let (_host, slave) = rig.open();
    let (shell, stranger) = (member(100, 100), member(200, 200));
    assert_eq!(rig.control(member(130, 130), &slave, TIOCGPGRP, 0), Ok(100));
    assert_eq!(rig.control(shell, &slave, TIOCGSID, 0), Ok(100));
    assert_eq!(rig.control(stranger, &slave, TIOCGPGRP, 0), Err(Errno::NOTTY));
    assert_eq!(rig.control(stranger, &slave, TIOCSCTTY, 1), Err(Errno::PERM));
    assert_eq!(rig.control(shell, &slave, TIOCSPGRP, 200), Err(Errno::PERM));
    assert_eq!(rig.control(shell, &slave, TIOCSPGRP, -5), Err(Errno::INVAL));
    let null = rustix::fs::open("/dev/null", OFlags::RDWR, rustix::fs::Mode::empty()).unwrap();
    assert_eq!(rig.control(shell, &null, TIOCGPGRP, 0), Err(Errno::NOTTY));
    assert_eq!(rig.control(shell, &slave, TIOCNOTTY, 0), Ok(0));
    rig.expect(Seen::View(100, None));
    rig.expect(Seen::Group(100, SIGHUP));
    rig.expect(Seen::Group(100, SIGCONT));
    assert_eq!(rig.control(stranger, &slave, TIOCSCTTY, 0), Ok(0));
    rig.expect(Seen::View(200, Some((200, false))));
}

/// As python's pty and tmux do: a guest's own pair, controlled from its slave, asked at its master.
#[test]
fn a_guests_own_pair_gets_an_anchor() {
    let rig = Rig::start();
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
    let (tmux, child) = (member(100, 100), member(200, 200));
    assert_eq!(rig.control(tmux, &master, TIOCGPGRP, 0), Ok(0));
    assert_eq!(rig.control(child, &slave, TIOCSCTTY, 0), Ok(0));
    rig.expect(Seen::View(200, Some((200, false))));
    assert_eq!(rig.control(tmux, &master, TIOCGPGRP, 0), Ok(200));
    assert_eq!(rig.control(tmux, &master, TIOCSPGRP, 100), Err(Errno::NOTTY));
    rustix::io::write(&master, b"\x03").unwrap();
    rig.expect(Seen::Group(200, SIGINT));
}

#[test]
fn closing_the_master_hangs_up() {
    let rig = Rig::start();
    let (host, slave) = rig.open();
    rig.control(member(100, 100), &slave, TIOCSPGRP, 120).unwrap();
    rig.expect(Seen::View(100, Some((120, false))));
    drop(host);
    rig.expect(Seen::View(100, None));
    rig.expect(Seen::Process(100, SIGHUP));
    rig.expect(Seen::Process(100, SIGCONT));
    rig.terminals.leader_exited(Pid::new(100).unwrap());
    rig.expect(Seen::Group(120, SIGHUP));
    rig.expect(Seen::Group(120, SIGCONT));
}

#[test]
fn the_leaders_exit_frees_the_terminal_for_the_next_session() {
    let rig = Rig::start();
    let (host, slave) = rig.open();
    rig.terminals.leader_exited(Pid::new(100).unwrap());
    rig.expect(Seen::View(100, None));
    rig.expect(Seen::Group(100, SIGHUP));
    rig.attach(member(200, 200), &slave).unwrap();
    rig.expect(Seen::View(200, Some((200, false))));
    type_at(&host, b"\x03");
    rig.expect(Seen::Group(200, SIGINT));
}

/// The number of a closed pair is given to the next at once, before the hang-up is reported.
#[test]
fn a_number_used_again_is_a_new_terminal() {
    let rig = Rig::start();
    for round in 0..50 {
        let leader = member(100 + 100 * round, 100 + 100 * round);
        let (host, slave) = rig.terminals.open(size(80), None).unwrap();
        rig.attach(leader, &slave).unwrap();
        drop((host, slave));
    }
    let hang_ups = std::iter::from_fn(|| rig.seen.recv_timeout(PATIENCE).ok())
        .filter(|seen| matches!(seen, Seen::Process(_, SIGHUP)));
    assert_eq!(hang_ups.take(50).count(), 50);
}

#[test]
fn the_master_sees_the_end_when_the_last_user_closes() {
    let rig = Rig::start();
    let (host, slave) = rig.open();
    rustix::io::write(&slave, b"bye").unwrap();
    drop(slave);
    let mut buffer = [0; 16];
    assert_eq!(read_at(&host, &mut buffer), 3);
    assert_eq!(read_at(&host, &mut buffer), 0, "the anchor must not hold it open");
}

#[test]
fn the_controlling_terminal_can_be_opened_by_its_session_only() {
    let rig = Rig::start();
    let (host, _slave) = rig.open();
    let tty = rig.terminals.open_controlling(member(130, 130), OFlags::WRONLY).unwrap();
    rustix::io::write(&tty, b"tty").unwrap();
    let mut buffer = [0; 16];
    assert_eq!(read_at(&host, &mut buffer), 3);
    let stranger = rig.terminals.open_controlling(member(200, 200), OFlags::RDWR);
    assert_eq!(stranger.unwrap_err(), Errno::NXIO);
}

#[test]
fn background_use_stops_the_group() {
    let rig = Rig::start();
    let (_host, slave) = rig.open();
    let job = member(131, 130);
    let access = |operation| Access { operation, shielded: false, orphaned: false };
    assert_eq!(rig.terminals.access(job, access(Operation::Write)), Verdict::Proceed);
    assert_eq!(rig.terminals.access(job, access(Operation::Read)), Verdict::Signalled);
    rig.expect(Seen::Group(130, SIGTTIN));
    let mut modes = tcgetattr(&slave).unwrap();
    modes.local_modes |= LocalModes::TOSTOP;
    tcsetattr(&slave, OptionalActions::Drain, &modes).unwrap();
    assert_eq!(rig.control(member(100, 100), &slave, TCSETSW, 0), Ok(0));
    rig.expect(Seen::View(100, Some((100, true))));
    assert_eq!(rig.terminals.access(job, access(Operation::Write)), Verdict::Signalled);
}

/// The anchors that are children of this process.
fn anchors() -> Vec<rustix::process::Pid> {
    let me = std::process::id().to_string();
    let is_ours = |stat: &str| {
        let mut after_name = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        stat.contains("(anchor-for-test)") && after_name.nth(1) == Some(&me)
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("stat")).ok())
        .filter(|stat| is_ours(stat))
        .filter_map(|stat| stat.split(' ').next()?.parse().ok())
        .filter_map(rustix::process::Pid::from_raw)
        .collect()
}

/// Killed anchors, the spare included, are replaced; all are gone with the driver. (This test runs
/// alone in a process: its children are its own.)
#[test]
fn anchors_are_replaced_and_end_with_the_driver() {
    if std::env::var_os("DUNIX_TEST_ALONE").is_none() {
        let name = "anchors_are_replaced_and_end_with_the_driver";
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact"])
            .env("DUNIX_TEST_ALONE", "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let rig = Rig::start();
    let (host, _slave) = rig.open();
    for anchor in anchors() {
        rustix::process::kill_process(anchor, rustix::process::Signal::KILL).unwrap();
    }
    type_until_seen(&rig, &host);
    assert!(!anchors().is_empty());
    drop(rig);
    assert_eq!(anchors(), []);
}

/// A key typed between an anchor's death and its replacement is lost, as one typed while no
/// process group is in the foreground.
fn type_until_seen(rig: &Rig, host: &OwnedFd) {
    for _ in 0..100 {
        type_at(host, b"\x03");
        if let Ok(seen) = rig.seen.recv_timeout(PATIENCE / 100) {
            assert_eq!(seen, Seen::Group(100, SIGINT));
            return;
        }
    }
    panic!("no anchor took over");
}
