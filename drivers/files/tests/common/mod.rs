//! Nodes of one process, each with a real mount, in a mount namespace that dies with the test.
#![allow(dead_code, reason = "each test binary uses its part")]

use dunix_files::{Files, LowerConfig, VolumeConfig, loopback::Loopback};
use dunix_ids::NodeId;
use std::{
    path::{Path, PathBuf},
    process::Command,
};
use tokio::runtime::Runtime;

const INSIDE: &str = "DUNIX_FILES_INSIDE";

/// Runs `body` in a mount namespace of its own, by running this test once more under unshare(1).
pub(crate) fn in_private_namespace(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let exe = std::env::current_exe().expect("own path");
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--fork", "--kill-child"])
        .arg(exe)
        .args(["--exact", test, "--nocapture", "--test-threads=1", "--include-ignored"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare(1) runs");
    assert!(status.success(), "{test} failed in its namespace (it needs root and /dev/fuse)");
}

/// Nodes that share one volume.
pub(crate) struct Fabric {
    pub(crate) nodes: Loopback,
    pub(crate) mounts: Vec<PathBuf>,
    pub(crate) lower: PathBuf,
    dir: PathBuf,
    runtime: Option<Runtime>,
}

impl Fabric {
    /// Starts `count` nodes over a lower that `fill` makes.
    pub(crate) fn start(count: u32, fill: impl FnOnce(&Path)) -> Fabric {
        let dir = std::env::temp_dir().join(format!("dunix-files-{}", std::process::id()));
        let lower = dir.join("lower");
        std::fs::create_dir_all(&lower).expect("a lower");
        fill(&lower);
        Fabric::over(count, dir, lower)
    }

    /// Starts nodes over the host's own root.
    pub(crate) fn over_root(count: u32) -> Fabric {
        let dir = std::env::temp_dir().join(format!("dunix-files-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        Fabric::over(count, dir, PathBuf::from("/"))
    }

    fn over(count: u32, dir: PathBuf, lower: PathBuf) -> Fabric {
        let runtime = Runtime::new().expect("a runtime");
        let entered = runtime.enter();
        let upper = dir.join("upper");
        std::fs::create_dir(&upper).expect("an upper");
        let mut shown = LowerConfig::default();
        shown.hidden.push(dir.to_string_lossy().trim_start_matches('/').to_string());
        let nodes = Loopback::default();
        let mut mounts = Vec::new();
        for number in 1..=count {
            let (node, authority) = (NodeId(number), NodeId(1));
            let volume = (node == authority).then(|| VolumeConfig {
                lower: lower.clone(),
                upper: upper.clone(),
                shown: shown.clone(),
            });
            let files = Files::with_link(nodes.link(node), node, authority, volume).expect("files");
            nodes.join(node, files.clone());
            let mount = dir.join(format!("m{number}"));
            std::fs::create_dir(&mount).expect("a mount point");
            let device = dunix_fuse::mount_at(&mount, "dunix").expect("a mount");
            files.mount(device).expect("a session");
            mounts.push(mount);
        }
        drop(entered);
        Fabric { nodes, mounts, lower, dir, runtime: Some(runtime) }
    }

    /// Counts the files whose data the volume keeps.
    pub(crate) fn objects(&self) -> usize {
        let shards = std::fs::read_dir(self.dir.join("upper/objects")).expect("the store");
        let shards = shards.map(|shard| shard.expect("a shard").path());
        shards.map(|shard| std::fs::read_dir(shard).expect("a shard").count()).sum()
    }

    /// Returns a path as a node sees it.
    pub(crate) fn at(&self, node: usize, path: &str) -> PathBuf {
        self.mounts[node].join(path)
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        for mount in &self.mounts {
            let done = Command::new("umount").arg("--lazy").arg(mount).status();
            assert!(done.is_ok_and(|status| status.success()), "{} stays", mount.display());
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        std::fs::remove_dir_all(&self.dir).expect("the directory goes");
    }
}

/// Runs a shell script, which must succeed; returns what it printed.
pub(crate) fn shell(dir: &Path, script: &str) -> String {
    let output = Command::new("sh").arg("-euc").arg(script).current_dir(dir).output().expect("sh");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n--- out\n{text}\n--- err\n{errors}");
    text
}
