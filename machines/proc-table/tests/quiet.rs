//! What a process may know of its children without asking again.

use core::time::Duration;
use dunix_ids::{NodeId, Pid};
use dunix_proc_table::{
    Effect, Kind, ProcTable, RootSpec, TableConfig, WaitFor, WaitOptions, WaitOutcome,
};
use dunix_wire::processes::{ExitStatus, Rusage};

const NOW: Duration = Duration::ZERO;
const SIGCHLD: u8 = 17;

fn table_with_parent() -> (ProcTable, Pid) {
    let mut table = ProcTable::new(TableConfig { node: NodeId(1), founder: NodeId(1) });
    let parent = table.spawn_root(NOW, RootSpec::default()).expect("the first");
    table.bind_host(NOW, parent, 100).expect("it starts");
    (table, parent)
}

fn child(table: &mut ProcTable, parent: Pid, exit_signal: u8, host: u32) -> Pid {
    let child = table.fork(NOW, parent, exit_signal).expect("there are numbers");
    table.bind_host(NOW, child, host).expect("it starts");
    child
}

fn wakes(table: &mut ProcTable, parent: Pid) -> usize {
    let effects = core::iter::from_fn(|| table.poll_effect());
    effects.filter(|effect| matches!(effect, Effect::Wake { pid } if *pid == parent)).count()
}

/// Each change that makes an answer wrong wakes the parent, so that it asks again.
#[test]
fn children_are_quiet_until_the_parent_is_woken() {
    let (mut table, parent) = table_with_parent();
    assert_eq!(table.quiet_children(parent), Some(0));
    let first = child(&mut table, parent, SIGCHLD, 101);
    child(&mut table, parent, SIGCHLD, 102);
    assert_eq!(table.quiet_children(parent), Some(2));
    wakes(&mut table, parent);

    table.stopped(NOW, first, 19);
    assert_eq!((table.quiet_children(parent), wakes(&mut table, parent)), (None, 1));
    table.continued(NOW, first);
    assert_eq!((table.quiet_children(parent), wakes(&mut table, parent)), (None, 1));
    table.exited(NOW, first, ExitStatus::Exited(3), Rusage::default());
    assert_eq!((table.quiet_children(parent), wakes(&mut table, parent)), (None, 1));

    let ended = WaitOptions {
        exited: true,
        stopped: false,
        continued: false,
        keep: false,
        kind: Kind::Ordinary,
    };
    let found = table.wait(NOW, parent, WaitFor::Any, ended).expect("there are children");
    assert!(matches!(found, WaitOutcome::Found(waited) if waited.pid == first));
    assert_eq!(table.quiet_children(parent), Some(1));
}

#[test]
fn a_child_that_never_was_wakes_the_parent() {
    let (mut table, parent) = table_with_parent();
    let child = table.fork(NOW, parent, SIGCHLD).expect("there are numbers");
    wakes(&mut table, parent);
    table.fork_failed(NOW, child);
    assert_eq!((table.quiet_children(parent), wakes(&mut table, parent)), (Some(0), 1));
}

/// clone(2): an ordinary wait does not see children with another exit signal.
#[test]
fn children_with_another_exit_signal_are_asked_for_each_time() {
    let (mut table, parent) = table_with_parent();
    child(&mut table, parent, 0, 101);
    assert_eq!(table.quiet_children(parent), None);
}
