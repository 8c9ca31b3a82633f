//! `dunix run` with a terminal on both ends, against a fake fabric.

#[expect(dead_code, reason = "each test program uses a part of the fake")]
mod fake;

use fake::Fabric;
use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
};

/// A terminal with `dunix run` as its foreground job.
struct Screen {
    master: File,
    slave: OwnedFd,
    child: Child,
    shown: String,
}

impl Screen {
    fn start(fabric: &Fabric, arguments: &[&str]) -> Screen {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        resize(&master, 31, 97);
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        let dunix = fabric.dunix(&[&["run"], arguments].concat());
        // setsid(1) makes the terminal the controlling one.
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(dunix.get_program()).args(dunix.get_args());
        command.env("DUNIX_RUN_DIR", &fabric.run_dir).env_remove("DUNIX_FABRIC");
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        let child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        Screen { master: master.into(), slave, child, shown: String::new() }
    }

    /// Reads until the screen has shown `text` since the last call.
    fn wait_for(&mut self, text: &str) {
        let mut buffer = [0; 4096];
        while !self.shown.contains(text) {
            let length = self.master.read(&mut buffer).unwrap();
            self.shown.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        self.shown.clear();
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    fn exit_code(mut self) -> i32 {
        let code = self.child.wait().unwrap().code().unwrap();
        assert!(!self.is_raw(), "the terminal is restored");
        code
    }
}

fn resize(master: &impl std::os::fd::AsFd, rows: u16, cols: u16) {
    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).unwrap();
}

#[test]
fn the_program_gets_a_terminal_of_the_callers_size() {
    let fabric = Fabric::start("tty-size");
    let script = "test -t 0 -a -t 1 -a -t 2 && stty size; read line; echo got $line; exit 5";
    let mut screen = Screen::start(&fabric, &["sh", "-c", script]);
    screen.wait_for("31 97\r\n");
    assert!(screen.is_raw());
    screen.type_in("hello\r");
    screen.wait_for("got hello\r\n");
    assert_eq!(screen.exit_code(), 5);
}

#[test]
fn a_new_size_reaches_the_program() {
    let fabric = Fabric::start("tty-resize");
    let script = "echo ready; while ! stty size | grep '40 100'; do sleep 0.02; done";
    let mut screen = Screen::start(&fabric, &["sh", "-c", script]);
    screen.wait_for("ready");
    resize(&screen.master, 40, 100);
    screen.wait_for("40 100");
    assert_eq!(screen.exit_code(), 0);
}

#[test]
fn a_signal_restores_the_terminal() {
    let fabric = Fabric::start("tty-signal");
    let mut screen = Screen::start(&fabric, &["sh", "-c", "echo ready; exec sleep 1000"]);
    screen.wait_for("ready");
    assert!(screen.is_raw());
    // setsid(1) executes the program in its own process, unless it leads a group.
    kill_process(Pid::from_child(&screen.child), Signal::TERM).unwrap();
    assert_eq!(screen.exit_code(), 128 + 15);
}

#[test]
fn never_means_never() {
    let fabric = Fabric::start("tty-never");
    let mut screen = Screen::start(&fabric, &["--pty", "never", "sh", "-c", "test -t 1; echo $?"]);
    screen.wait_for("1\r\n");
    assert_eq!(screen.exit_code(), 0);
}
