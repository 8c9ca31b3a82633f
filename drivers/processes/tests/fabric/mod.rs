//! Several nodes on this machine with a real mesh between them, each in a network namespace of its own.

#[path = "../../../transport/tests/support/mod.rs"]
mod link;

use crate::harness;
use dunix_ids::NodeId;
use dunix_processes::{Policy, Processes};
use dunix_transport::{Mesh, keys};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::runtime::Runtime;

/// A node.
pub(crate) struct Place {
    pub(crate) processes: Processes,
    pub(crate) mesh: Mesh,
    runtime: Runtime,
}

impl Place {
    async fn start(
        runtime: Runtime,
        ca: &keys::Ca,
        id: NodeId,
        keeper: OwnedFd,
        policy: Arc<dyn Policy>,
    ) -> Place {
        let config = link::config(ca, id.0);
        let started = runtime.spawn(async move {
            let mesh = Mesh::start(config).await.unwrap();
            (harness::start(id.0, keeper, Some(mesh.clone()), policy).await, mesh)
        });
        let (processes, mesh) = started.await.unwrap();
        Place { processes, mesh, runtime }
    }
}

/// The whole of a test program: starts so many nodes, numbered from 1, runs the tests and ends them.
/// Call it while the process has one thread.
pub(crate) fn with_nodes(
    count: usize,
    policy: impl Fn(NodeId) -> Arc<dyn Policy>,
    tests: impl AsyncFnOnce(&[Place]),
) {
    if !harness::is_possible() {
        println!("skipped: needs root");
        return;
    }
    harness::trace();
    let keepers: Vec<OwnedFd> = (0..count).map(|_| harness::fork_keeper()).collect();
    let segment = link::Segment::new(count);
    let ca = keys::make_ca(link::FABRIC).unwrap();
    Runtime::new().unwrap().block_on(async {
        let mut places = Vec::new();
        for ((number, keeper), namespace) in (1..).zip(keepers).zip(&segment.places) {
            let (runtime, id) = (namespace.runtime(), NodeId(number));
            places.push(Place::start(runtime, &ca, id, keeper, policy(id)).await);
        }
        tests(&places).await;
        for place in places {
            place.processes.shut_down();
            place.runtime.shutdown_background();
        }
    });
    std::fs::remove_dir_all(harness::scratch()).unwrap();
}
