//! Guests that trace guests: ptrace(2) without the shim, compared with the host's.

#[allow(dead_code, reason = "each test program uses its own part of it")]
mod harness;

use dunix_processes::StayHere;
use dunix_wire::processes::ExitStatus;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

/// How often the program runs: its children are attached to whether or not they have run yet.
const RUNS: usize = 5;

fn main() {
    if !harness::is_possible() {
        println!("skipped: needs root");
        return;
    }
    harness::trace();
    let keeper = harness::fork_keeper();
    let program = compile();
    let natively = Command::new(&program).output().unwrap();
    assert!(natively.status.success(), "{natively:?}");
    let expected = String::from_utf8(natively.stdout).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let node = harness::start(1, keeper, None, Arc::new(StayHere)).await;
        for _ in 0..RUNS {
            let done = harness::run(&node, &[program.to_str().unwrap()], "").await;
            assert_eq!(done.output, expected);
            assert_eq!(done.end.status, ExitStatus::Exited(0));
        }
        println!("ok: what a tracer sees is the host's");
        harness::nothing_is_left(&node).await;
        node.shut_down();
    });
    std::fs::remove_dir_all(harness::scratch()).unwrap();
}

fn compile() -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest/programs/traces.c");
    let program = harness::scratch().join("traces");
    let status = Command::new("cc").args(["-O1", "-w", source, "-o"]).arg(&program).status();
    assert!(status.unwrap().success(), "{source}");
    program
}
