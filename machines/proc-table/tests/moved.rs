//! What a process that has just moved sends to itself, while its last node still holds what came for it.

use core::time::Duration;
use dunix_ids::{NodeId, Pid};
use dunix_proc_table::{Effect, KillTarget, ProcTable, RootSpec, TableConfig, Token};
use dunix_wire::processes::{ProcMessage, Rusage, SignalInfo};

const NOW: Duration = Duration::ZERO;
const SIGUSR1: u8 = 10;

fn table(node: u32) -> ProcTable {
    let mut table = ProcTable::new(TableConfig { node: NodeId(node), founder: NodeId(node) });
    table.handle_node_up(NOW, NodeId(3 - node));
    table
}

/// A table that has adopted a process from another, and the process.
fn moved() -> (ProcTable, Pid) {
    let mut source = table(2);
    let pid = source.spawn_root(NOW, RootSpec::default()).expect("the first");
    source.bind_host(NOW, pid, 100).expect("it starts");
    let record = source.begin_move(NOW, pid, NodeId(1), Rusage::default()).expect("it runs");
    let mut target = table(1);
    target.adopt_moving(NOW, NodeId(2), record).expect("nobody else has its number");
    target.bind_host(NOW, pid, 200).expect("it is free");
    while target.poll_effect().is_some() {}
    (target, pid)
}

/// Signals and answers, in their order.
fn effects(table: &mut ProcTable) -> Vec<&'static str> {
    let mut said = Vec::new();
    while let Some(effect) = table.poll_effect() {
        match effect {
            Effect::Signal { .. } => said.push("signal"),
            Effect::Reply { result: Ok(_), .. } => said.push("done"),
            _ => {}
        }
    }
    said
}

/// kill(2): a signal to oneself is there when the call returns.
#[test]
fn its_own_signal_is_there_when_the_call_returns() {
    let (mut table, pid) = moved();
    let info = SignalInfo::Queued { code: -1, value: 7 };
    table.kill(NOW, Token(1), pid, KillTarget::Process(pid), SIGUSR1, info);
    assert_eq!(effects(&mut table), ["signal", "done"]);
}

#[test]
fn a_signal_of_another_comes_after_what_was_held() {
    let (mut table, pid) = moved();
    table.kill_by_fabric(NOW, Some(Token(1)), KillTarget::Process(pid), SIGUSR1);
    assert_eq!(effects(&mut table), ["done"]);
    let rest = ProcMessage::HandedOver { pid, held: Vec::new(), is_last: true };
    table.handle_message(NOW, NodeId(2), rest);
    assert_eq!(effects(&mut table), ["signal"]);
}
