//! How long it takes to run `true`: natively, in the fabric, over ssh.

use super::{
    ssh::Ssh,
    stats::{Ratio, Series},
};
use crate::{fabric::Fabric, interrupt, source::Scratch};
use anyhow::{Result, bail};
use std::{
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

const RUNS: usize = 40;

pub(super) fn measure(binaries: &Path, scratch: &Scratch) -> Result<Vec<Ratio>> {
    println!("\nstart of `true`, ms");
    let ssh = Ssh::start(scratch)?;
    let fabric = Fabric::start(binaries, "bench", 2, &[])?;
    let mut native = Series::new("fork + exec", "ms");
    let mut local = Series::new("dunix run --node n1", "ms");
    let mut remote = Series::new("dunix run --node n2", "ms");
    let mut over_ssh = Series::new("ssh to loopback", "ms");
    let mut over_kept = Series::new("ssh, connection kept open", "ms");
    for _ in 0..RUNS {
        native.push(time(&mut Command::new("/bin/true"))?);
        local.push(time(&mut fabric.dunix(&["run", "--node", "n1", "/bin/true"]))?);
        remote.push(time(&mut fabric.dunix(&["run", "--node", "n2", "/bin/true"]))?);
        over_ssh.push(time(&mut ssh.command())?);
        over_kept.push(time(&mut ssh.kept_command())?);
    }
    for series in [&native, &local, &remote, &over_ssh, &over_kept] {
        println!("{series}");
    }
    Ok(vec![
        Ratio::new("dunix run of true on another node / ssh", &remote, &over_ssh),
        Ratio::new("dunix run of true on another node / ssh, kept open", &remote, &over_kept),
        Ratio::new("dunix run of true on another node / fork + exec", &remote, &native),
        Ratio::new("dunix run of true on this node / fork + exec", &local, &native),
    ])
}

/// Milliseconds from before the fork until after the wait.
fn time(command: &mut Command) -> Result<f64> {
    interrupt::check()?;
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let start = Instant::now();
    let status = command.status()?;
    let time = start.elapsed();
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(time.as_secs_f64() * 1e3)
}
