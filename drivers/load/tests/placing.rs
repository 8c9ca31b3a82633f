//! Loads exchanged and programs placed between nodes on a link, with made-up processes.

#[path = "../../transport/tests/support/mod.rs"]
mod support;

use dunix_ids::NodeId;
use dunix_load::{Load, PlaceError, Reason, SampleConfig, Wish};
use dunix_transport::{Mesh, keys};
use std::{fs, path::PathBuf, time::Duration};
use support::{FABRIC, PATIENCE, Segment, config};
use tokio::time::{sleep, timeout};

/// A directory like `/proc`, gone at the end of the test.
struct Processes(PathBuf);

impl Processes {
    fn new(name: &str, running: u32) -> Processes {
        let path = std::env::temp_dir().join(format!("dunix-load-{}-{name}", std::process::id()));
        for pid in 1..=running {
            let directory = path.join((1_000_000 + pid).to_string());
            fs::create_dir_all(&directory).expect("writable");
            fs::write(
                directory.join("stat"),
                format!("{pid} (cc1) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 1 0 1 1"),
            )
            .expect("writable");
        }
        fs::create_dir_all(&path).expect("writable");
        fs::write(path.join("meminfo"), "MemAvailable: 1024000 kB\n").expect("writable");
        Processes(path)
    }

    fn config(&self) -> SampleConfig {
        SampleConfig { cpus_centi: Some(100), cgroup: None, proc: Some(self.0.clone()) }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !holds() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn programs_leave_a_busy_node_for_an_idle_one() {
    let segment = Segment::new(3);
    let ca = keys::make_ca(FABRIC).expect("keys");
    let processes = [("busy", 3), ("idle", 0), ("alsobusy", 3)];
    let processes = processes.map(|(name, running)| Processes::new(name, running));
    let mut loads = Vec::new();
    let mut runtimes = Vec::new();
    for (place, number) in segment.places.iter().zip(1u32..) {
        let runtime = place.runtime();
        let sample = processes[number as usize - 1].config();
        let config = config(&ca, number);
        let started = runtime.spawn(async move {
            let mesh = Mesh::start(config).await.expect("the mesh starts");
            (mesh.clone(), Load::start(mesh, sample))
        });
        loads.push(started.await.expect("no panic"));
        runtimes.push(runtime);
    }
    let (mesh, load) = &loads[0];
    until("peers known", || mesh.peers().len() == 2 && load.peers_load().len() == 2).await;
    assert_eq!(load.own().runnable_centi, 300);
    let known = load.peers_load();
    assert_eq!((known[0].node, known[0].runnable_centi), (NodeId(2), 0));
    assert_eq!((known[1].node, known[1].runnable_centi), (NodeId(3), 300));

    // Node 1 is full, node 2 idle; there are two peers, so both are asked.
    let placed = load.place(Wish::Best, b"/bin/program").await.expect("placed");
    assert_eq!(placed.node, NodeId(2));
    assert!(matches!(placed.why, Reason::LessBusy { .. }), "{}", placed.why);
    // The place is held: node 2 counts it before any program has come; node 3's was given back.
    assert_eq!(loads[1].1.own().runnable_centi, 100);
    until("node 3 released", || loads[2].1.own().runnable_centi == 300).await;
    until("the reservation lapsed", || loads[1].1.own().runnable_centi == 0).await;

    // What was placed there counts here as well, until node 2 is heard again.
    until("node 2 idle", || load.peers_load()[0].runnable_centi == 0).await;
    assert_eq!(load.place_now(Wish::Best, b"/bin/program").expect("placed").node, NodeId(2));
    assert_eq!(load.peers_load()[0].runnable_centi, 100);
    let nodes: Vec<u32> = (0..4)
        .map(|_| load.place_now(Wish::Spread, b"/bin/program").expect("placed").node.0)
        .collect();
    assert_eq!(nodes, [2, 3, 1, 2]);
    assert_eq!(load.place(Wish::Local, b"/bin/program").await.expect("placed").node, NodeId(1));
    assert_eq!(
        load.place(Wish::Forced(NodeId(3)), b"/bin/program").await.expect("placed").node,
        NodeId(3)
    );
    let refused = load.place(Wish::Forced(NodeId(9)), b"/bin/program").await;
    assert_eq!(refused, Err(PlaceError::NotUp(NodeId(9))));
    let idle = loads[1].1.place(Wish::Best, b"/bin/program").await.expect("placed");
    assert!(matches!(idle.why, Reason::Room { .. }));

    // A node that goes down is not chosen and not listed.
    loads[1].0.stop().await;
    until("node 2 gone", || load.peers_load().iter().all(|entry| entry.node != NodeId(2))).await;
    assert_ne!(load.place(Wish::Best, b"/bin/program").await.expect("placed").node, NodeId(2));
    for (mesh, _) in &loads {
        mesh.stop().await;
    }
    for runtime in runtimes {
        runtime.shutdown_background();
    }
}
