//! Nothing passes between the nodes of a lab, nor between a node and the lab's owner, but through
//! the link: they share no namespace, no open file, no file that is mapped, no mounted file system.

#[allow(dead_code, reason = "each test program uses its part of the rig")]
mod rig;

use dunix_lab::isolation::{OWNER, Party, shared};
use rig::{Rig, can_run};

fn parties(rig: &Rig) -> Vec<Party> {
    let node = |number: usize| Party {
        name: format!("n{number}"),
        processes: rig.node_processes(number),
        given: if number == 1 { vec!["/host", "/upper"] } else { Vec::new() },
    };
    let mut parties: Vec<Party> = (1..=rig.keepers.len()).map(node).collect();
    let helpers = ["__lab-switch", "__lab-janitor"].map(|role| rig.helper(role));
    let processes = [&[rig.owner_pid()][..], &helpers].concat();
    parties.push(Party { name: OWNER.into(), processes, given: Vec::new() });
    parties
}

#[test]
fn nodes_and_owner_share_nothing() {
    if !can_run() {
        return;
    }
    let rig = Rig::start("isolation", 3);
    let parties = parties(&rig);
    assert!(parties.iter().all(|party| party.processes.len() >= 2));
    let found = shared(&parties);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_cut_node_hears_nobody_until_it_is_mended() {
    if !can_run() {
        return;
    }
    let mut rig = Rig::start("cut", 3);
    assert_eq!(rig.heard(1), ["1", "2", "3"]);
    rig.command("cut 2");
    rig.wait_until(|rig| rig.heard(1) == ["1", "3"] && rig.heard(2) == ["2"]);
    rig.command("mend 2");
    rig.wait_until(|rig| rig.heard(1) == ["1", "2", "3"] && rig.heard(2).len() == 3);
}
