//! One node alone: real programs under the shim, with PIDs, waits and signals of the fabric.
//!
//! Not the standard harness: keepers are forked while the process has one thread.

mod harness;

use dunix_processes::{Processes, StayHere};
use dunix_wire::processes::ExitStatus;
use std::sync::Arc;

fn main() {
    if !harness::is_possible() {
        println!("skipped: needs root");
        return;
    }
    let keeper = harness::fork_keeper();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let node = harness::start(1, keeper, None, Arc::new(StayHere)).await;
        if std::env::var_os("DUNIX_TEST_SHIM").is_some() {
            println!("{:?}", harness::run(&node, &["true"], "").await);
        } else {
            everything(&node).await;
        }
        node.shut_down();
    });
}

async fn everything(node: &Processes) {
    let done = harness::run(node, &["sh", "-c", "echo hello; exit 3"], "").await;
    assert_eq!(done.output, "hello\n");
    assert_eq!(done.end.status, ExitStatus::Exited(3));
}
