//! Mounts a copy-on-write view and runs a command beside it: `cow LOWER UPPER MOUNT[,MOUNT...] CMD...`.
//! Each mount is a node of its own, joined in this process. Run it in a private mount namespace, or
//! give `-` for the mount: then standard input is the `/dev/fuse` of a mount that was made elsewhere.

use dunix_files::{Files, LowerConfig, VolumeConfig, loopback::Loopback};
use dunix_ids::NodeId;
use std::{
    os::fd::AsFd,
    path::Path,
    process::{Command, Stdio},
};

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [lower, upper, mounts, command @ ..] = args.as_slice() else {
        eprintln!("usage: cow LOWER UPPER MOUNT[,MOUNT...] CMD...");
        std::process::exit(2);
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let _entered = runtime.enter();
    let nodes = Loopback::default();
    let mut shown = LowerConfig::default();
    let within = |path: &str| path.trim_start_matches('/').to_string();
    shown.hidden.push(within(upper));
    shown.hidden.extend(mounts.split(',').map(within));
    let authority = NodeId(1);
    for (node, mount) in (1..).map(NodeId).zip(mounts.split(',')) {
        let volume = (node == authority).then(|| VolumeConfig {
            lower: lower.into(),
            upper: upper.into(),
            shown: shown.clone(),
        });
        let files = Files::with_link(nodes.link(node), node, authority, volume)?;
        nodes.join(node, files.clone());
        let device = match mount {
            "-" => std::io::stdin().as_fd().try_clone_to_owned()?,
            path => dunix_fuse::mount_at(Path::new(path), "dunix")?,
        };
        eprintln!("{node}: {:?}", files.mount(device)?);
    }
    let status = Command::new(&command[0]).args(&command[1..]).stdin(Stdio::null()).status()?;
    for mount in mounts.split(',').filter(|mount| *mount != "-") {
        Command::new("umount").arg("-l").arg(mount).status()?;
    }
    std::process::exit(status.code().unwrap_or(1));
}
