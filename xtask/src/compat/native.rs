//! Programs on this machine, as a fabric's programs are: root of a user namespace.
//!
//! Root of a fabric may not set the clock, nor give a file to a user that the fabric does not have.
//! Root of the machine may, and its tests do. Devices that only this machine has are hidden. A namespace of process numbers goes with it: when the
//! first process ends, so do all that a test has left behind. The network is a namespace's as well, with a loopback alone, and not the users': what
//! the kernel keeps for the machine's own, such as its connector for process events (netlink(7)), or for who owns the network, such as raw
//! sockets, a fabric's programs do not have either.

use anyhow::{Context, Result, bail};
use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The first of the machine's users that the namespace has, and how many.
const USERS: &str = "0 1000000000 131072";
/// How long `unshare` may take.
const START_MAX: Duration = Duration::from_secs(10);
/// A network that is not the users', as a node's is not.
const NETWORK: &str = "ip link set lo up && exec \"$@\"";
/// Standard input says when the users are there, and by its end that nobody waits any more.
const BEGIN: &str = r#"
read -r _ && exec 3<&0 < /dev/null
{ cat > /dev/null <&3; kill -KILL -1; } &
exec 3<&-
setpriv --reuid 0 --regid 0 --clear-groups --ambient-caps -all bash -c '
    [ ! -e /dev/vsock ] || mount --bind /dev/null /dev/vsock
    exec "$@"' native "$@"
"#;
/// Marks a command as one that waits for its users.
const MARK: &str = "DUNIX_COMPAT_NATIVE";

/// Makes commands.
pub(super) struct Native;

impl Native {
    /// A command to which a program and its arguments are added; start it by [`started`].
    pub(super) fn command() -> Command {
        let mut command = Command::new("unshare");
        command.args(["--net", "bash", "-c", NETWORK, "native"]);
        command.args(["unshare", "--user", "--pid", "--mount", "--mount-proc", "--fork"]);
        command.arg("--keep-caps");
        command.args(["bash", "-c", BEGIN, "native"]).env(MARK, "1").stdin(Stdio::piped());
        command
    }
}

/// Starts a command, a native one or another.
pub(super) fn started(command: &mut Command) -> Result<Child> {
    let is_native = command.get_envs().any(|(name, _)| name == MARK);
    let mut child = command.spawn().with_context(|| format!("{:?}", command.get_program()))?;
    if is_native && let Err(error) = give_users(&mut child) {
        // It may have ended by itself.
        let _ = child.kill();
        return Err(error);
    }
    Ok(child)
}

fn give_users(child: &mut Child) -> Result<()> {
    let file = |name: &str| PathBuf::from(format!("/proc/{}/{name}", child.id()));
    let own = fs::read_link("/proc/self/ns/user")?;
    let deadline = Instant::now() + START_MAX;
    while fs::read_link(file("ns/user")).context("unshare")? == own {
        if Instant::now() > deadline {
            bail!("unshare makes no user namespace");
        }
        thread::sleep(Duration::from_millis(1));
    }
    for name in ["uid_map", "gid_map"] {
        fs::write(file(name), USERS).with_context(|| name.to_owned())?;
    }
    // Kept open in the child's handle: its end tells the other side that nobody waits.
    child.stdin.as_mut().context("no standard input")?.write_all(b"\n")?;
    Ok(())
}
