//! The tree over the real mesh: two nodes in network namespaces of their own, mutual TLS between them.

mod common;
#[path = "../../transport/tests/support/mod.rs"]
mod support;

use common::{in_private_namespace, shell};
use dunix_files::{Files, LowerConfig, VolumeConfig};
use dunix_ids::NodeId;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use support::{Segment, pair};
use tokio::runtime::Runtime;

struct Pair {
    dir: PathBuf,
    segment: Segment,
    _nodes: (support::Node, support::Node),
    _runtime: Runtime,
}

impl Pair {
    /// Node 1 serves the host's root to itself and to node 2.
    fn start() -> Pair {
        let dir = std::env::temp_dir().join(format!("dunix-files-{}", std::process::id()));
        fs::create_dir_all(dir.join("upper")).expect("a directory");
        let runtime = Runtime::new().expect("a runtime");
        let (segment, _, one, two) = runtime.block_on(pair());
        let mut shown = LowerConfig::default();
        shown.hidden.push(dir.to_string_lossy().trim_start_matches('/').to_string());
        for (number, node) in [(1, &one), (2, &two)] {
            let _inside = node.runtime.as_ref().expect("it runs").enter();
            let volume = (number == 1).then(|| VolumeConfig {
                lower: "/".into(),
                upper: dir.join("upper"),
                shown: shown.clone(),
            });
            let files = Files::start(&node.mesh, NodeId(number), NodeId(1), volume).expect("files");
            let mount = dir.join(format!("m{number}"));
            fs::create_dir(&mount).expect("a mount point");
            files.mount(dunix_fuse::mount_at(&mount, "dunix").expect("mount")).expect("session");
            shell(Path::new("/"), &format!("mount --bind /dev {}/dev", mount.display()));
        }
        Pair { dir, segment, _nodes: (one, two), _runtime: runtime }
    }

    fn at(&self, number: u32, path: &str) -> PathBuf {
        self.dir.join(format!("m{number}")).join(path)
    }

    /// Runs a script with a node's mount as its root.
    fn inside(&self, number: u32, script: &str) -> String {
        let quoted = script.replace('\'', r"'\''");
        let root = self.at(number, "");
        shell(Path::new("/"), &format!("chroot {} /bin/sh -euc '{quoted}'", root.display()))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for number in 1..=2 {
            let done = Command::new("umount").arg("--lazy").arg(self.at(number, "")).status();
            assert!(done.is_ok_and(|status| status.success()), "a mount stays");
        }
        fs::remove_dir_all(&self.dir).expect("the directory goes");
    }
}

#[test]
fn a_node_works_on_the_tree_of_another() {
    in_private_namespace("a_node_works_on_the_tree_of_another", || {
        let pair = Pair::start();
        pair.inside(
            2,
            "mkdir /tmp/t; cd /tmp/t; echo 'int main(void) { return 7; }' > a.c; gcc a.c",
        );
        let status = pair.inside(1, "cd /tmp/t; ./a.out || echo $?");
        assert_eq!(status, "7\n");
        for round in 0..50 {
            let (from, to) = if round % 2 == 0 { (1, 2) } else { (2, 1) };
            fs::write(pair.at(from, "tmp/t/x"), round.to_string()).expect("write");
            let seen = fs::read_to_string(pair.at(to, "tmp/t/x")).expect("read");
            assert_eq!(seen, round.to_string());
        }
        let data: Vec<u8> = (0..5_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
        fs::write(pair.at(2, "tmp/t/big"), &data).expect("write");
        assert!(fs::read(pair.at(1, "tmp/t/big")).expect("read") == data, "20 MB come through");
    });
}

/// A cut link: requests fail in time; when it is mended, nothing old is shown.
#[test]
fn a_cut_link_is_survived() {
    in_private_namespace("a_cut_link_is_survived", || {
        let pair = Pair::start();
        fs::write(pair.at(1, "tmp/c"), "before").expect("write");
        let open = fs::File::open(pair.at(2, "tmp/c")).expect("open");
        assert_eq!(fs::read_to_string(pair.at(2, "tmp/c")).expect("read"), "before");
        pair.segment.cut(1);
        let started = Instant::now();
        fs::metadata(pair.at(2, "usr/share/doc")).expect_err("the authority is out of reach");
        assert!(started.elapsed() < dunix_files::REQUEST_DEADLINE * 2);
        fs::write(pair.at(1, "tmp/c"), "meanwhile").expect("the authority's node works on");
        assert!(started.elapsed() < dunix_files::REQUEST_DEADLINE * 3);
        pair.segment.mend(1);
        let patience = Instant::now() + support::PATIENCE;
        while !matches!(fs::read_to_string(pair.at(2, "tmp/c")), Ok(text) if text == "meanwhile") {
            assert!(Instant::now() < patience, "node 2 does not come back");
            // A file tells nobody that it can be read again.
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(open.metadata().expect("fstat").len(), 9);
    });
}
