//! The host's root as a lab with `--root host` shows it, for programs that run natively: a copy-on-write view by an
//! overlay of the kernel, in a mount namespace that ends with this process.

use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// `$0` is an empty folder. Ends with its standard input.
const HOLD: &str = r#"set -e
mount -t tmpfs dunix-bench "$0"
mkdir "$0/upper" "$0/work" "$0/root"
mount -t overlay -o "lowerdir=/,upperdir=$0/upper,workdir=$0/work" dunix-bench "$0/root"
for kernels in proc sys dev run; do mount --rbind "/$kernels" "$0/root/$kernels"; done
echo ready
exec cat > /dev/null"#;

/// Programs see the view as long as this lives.
pub(super) struct Overlay {
    holder: Child,
    root: PathBuf,
}

impl Overlay {
    /// Makes the view; `folder` is empty and stays so for the host.
    pub(super) fn start(folder: &Path) -> Result<Overlay> {
        let holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--", "sh", "-c", HOLD])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start unshare (package util-linux)")?;
        let mut overlay = Overlay { holder, root: folder.join("root") };
        let mut said = String::new();
        let output = overlay.holder.stdout.as_mut().context("no output of unshare")?;
        BufReader::new(output).read_line(&mut said)?;
        ensure!(said.trim() == "ready", "the host's root cannot be shown by an overlay");
        Ok(overlay)
    }

    /// What to execute, with these arguments and then a program's, so that it sees the view.
    pub(super) fn entry(&self) -> (&'static str, Vec<String>) {
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.holder.id());
        ("nsenter", vec![namespace, "chroot".into(), self.root.to_string_lossy().into_owned()])
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        if let Err(error) = self.holder.wait() {
            eprintln!("xtask: the overlay's holder: {error}");
        }
    }
}
