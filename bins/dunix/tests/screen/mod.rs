//! A terminal with a command as its foreground job.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Longest wait for anything to be shown.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Screen {
    pub(crate) master: File,
    slave: OwnedFd,
    pub(crate) child: Child,
    shown: String,
}

impl Screen {
    /// Starts a command, whose program, arguments and variables are taken, on a terminal of 31 rows
    /// and 97 columns.
    pub(crate) fn start(dunix: &Command) -> Screen {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        resize(&master, 31, 97);
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        // setsid(1) makes the terminal the controlling one.
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(dunix.get_program()).args(dunix.get_args());
        for (name, value) in dunix.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        let child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        Screen { master: master.into(), slave, child, shown: String::new() }
    }

    /// Reads until the screen has shown `text` since the last call.
    pub(crate) fn wait_for(&mut self, text: &str) {
        let until = Instant::now() + PATIENCE;
        let mut buffer = [0; 4096];
        while !self.shown.contains(text) {
            let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).unwrap();
            let mut ready = [PollFd::new(&self.master, PollFlags::IN)];
            let count = poll(&mut ready, Some(&left)).unwrap();
            assert!(count > 0, "waited for {text:?}, shown is {:?}", self.shown);
            let length = self.master.read(&mut buffer).unwrap();
            self.shown.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        self.shown.clear();
    }

    pub(crate) fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    pub(crate) fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn exit_code(mut self) -> i32 {
        let code = self.child.wait().unwrap().code().unwrap();
        assert!(!self.is_raw(), "the terminal is restored");
        code
    }
}

pub(crate) fn resize(master: &impl std::os::fd::AsFd, rows: u16, cols: u16) {
    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).unwrap();
}
