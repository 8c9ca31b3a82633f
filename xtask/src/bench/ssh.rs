//! An sshd of its own on a high loopback port, with its own configuration and keys.

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
const START_POLLS_MAX: u32 = 100;
const POLL_PAUSE: Duration = Duration::from_millis(50);

/// A running sshd; dropped, it is gone.
pub(super) struct Ssh {
    server: Child,
    port: u16,
    key: PathBuf,
    made_folder: bool,
}

impl Ssh {
    /// Makes keys and starts the server.
    pub(super) fn start(scratch: &Scratch) -> Result<Ssh> {
        let (host, key) = (scratch.path().join("host"), scratch.path().join("client"));
        for path in [&host, &key] {
            let mut keygen = Command::new("ssh-keygen");
            interrupt::output(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path))?;
        }
        // A port that was free a moment ago; sshd takes none by itself.
        let port = TcpListener::bind("[::1]:0")?.local_addr()?.port();
        let config = scratch.path().join("sshd_config");
        fs::write(&config, configuration(port, &host, &key))?;
        let made_folder = fs::create_dir(PRIVILEGE_FOLDER).is_ok();
        let sshd = packages::find("sshd").context("no sshd")?;
        let server = Command::new(sshd)
            .args(["-D", "-f"])
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut ssh = Ssh { server, port, key, made_folder };
        ssh.wait_until_up()?;
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

    /// A command line that runs `true` on the other side.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("ssh");
        command.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]);
        command.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-i"]);
        command.arg(&self.key).args(["-p", &self.port.to_string(), "root@::1", "true"]);
        command
    }
}

fn configuration(port: u16, host: &Path, key: &Path) -> String {
    format!(
        "Port {port}\nListenAddress ::1\nHostKey {}\nAuthorizedKeysFile {}.pub\nPidFile none\n\
         PermitRootLogin yes\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
         MaxStartups 100\n",
        host.display(),
        key.display(),
    )
}

impl Drop for Ssh {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.server.kill();
        let _ = self.server.wait();
        if self.made_folder {
            let _ = fs::remove_dir(PRIVILEGE_FOLDER);
        }
    }
}
