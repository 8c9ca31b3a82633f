//! An sshd of its own on a high loopback port, with its own configuration and keys, and one
//! connection to it that is kept open.
//!
//! The remote shell reads no start-up files of root's home: they are not ssh's cost.

use crate::{interrupt, packages, source::Scratch};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// sshd refuses to start without this folder.
const PRIVILEGE_FOLDER: &str = "/run/sshd";
const CLIENT_KEY: &str = "client";
const DESTINATION: &str = "root@::1";
const START_POLLS_MAX: u32 = 100;
const POLL_PAUSE: Duration = Duration::from_millis(50);

/// A running sshd and a connection to it; dropped, both are gone.
pub(super) struct Ssh {
    server: Child,
    kept: Option<Child>,
    port: u16,
    folder: PathBuf,
    made_folder: bool,
}

impl Ssh {
    /// Makes keys and starts the server.
    pub(super) fn start(scratch: &Scratch) -> Result<Ssh> {
        let (host, key) = (scratch.path().join("host"), scratch.path().join(CLIENT_KEY));
        for path in [&host, &key] {
            let mut keygen = Command::new("ssh-keygen");
            interrupt::output(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path))?;
        }
        // A port that was free a moment ago; sshd takes none by itself.
        let port = TcpListener::bind("[::1]:0")?.local_addr()?.port();
        let config = scratch.path().join("sshd_config");
        fs::write(&config, configuration(port, &host, &key, scratch.path()))?;
        let made_folder = fs::create_dir(PRIVILEGE_FOLDER).is_ok();
        let sshd = packages::find("sshd").context("no sshd")?;
        let server = Command::new(sshd)
            .args(["-D", "-f"])
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let folder = scratch.path().to_owned();
        let mut ssh = Ssh { server, kept: None, port, folder, made_folder };
        ssh.wait_until_up()?;
        ssh.keep_connection()?;
        Ok(ssh)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        for _ in 0..START_POLLS_MAX {
            if TcpStream::connect(("::1", self.port)).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.server.try_wait()? {
                bail!("sshd ended: {status}");
            }
            interrupt::sleep(POLL_PAUSE)?;
        }
        bail!("sshd does not answer")
    }

    fn keep_connection(&mut self) -> Result<()> {
        let mut command = self.client(&["-M", "-N", "-S"]);
        command.arg(self.control()).arg(DESTINATION);
        self.kept = Some(command.stdin(Stdio::null()).spawn()?);
        for _ in 0..START_POLLS_MAX {
            if self.control().exists() {
                return Ok(());
            }
            interrupt::sleep(POLL_PAUSE)?;
        }
        bail!("ssh does not connect")
    }

    /// A command line that connects and runs `true` on the other side.
    pub(super) fn command(&self) -> Command {
        let mut command = self.client(&["-S", "none"]);
        command.args([DESTINATION, "true"]);
        command
    }

    /// The same over the connection that is open already.
    pub(super) fn kept_command(&self) -> Command {
        let mut command = self.client(&["-S"]);
        command.arg(self.control()).args([DESTINATION, "true"]);
        command
    }

    fn client(&self, more: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        command.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]);
        command.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]);
        command.arg("-i").arg(self.folder.join(CLIENT_KEY));
        command.args(["-p", &self.port.to_string()]).args(more);
        command
    }

    fn control(&self) -> PathBuf {
        self.folder.join("control")
    }
}

fn configuration(port: u16, host: &Path, key: &Path, home: &Path) -> String {
    format!(
        "Port {port}\nListenAddress ::1\nHostKey {}\nAuthorizedKeysFile {}.pub\nPidFile none\n\
         PermitRootLogin yes\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
         MaxStartups 100\nPermitUserRC no\nPrintLastLog no\nSetEnv HOME={}\n",
        host.display(),
        key.display(),
        home.display(),
    )
}

impl Drop for Ssh {
    fn drop(&mut self) {
        // They may have ended already.
        for child in self.kept.iter_mut().chain([&mut self.server]) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.made_folder {
            let _ = fs::remove_dir(PRIVILEGE_FOLDER);
        }
    }
}
