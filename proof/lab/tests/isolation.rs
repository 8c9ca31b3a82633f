//! Nothing passes between the nodes of a lab, nor between a node and the lab's owner, but through
//! the link: they share no namespace, no open file, no file that is mapped, no mounted file system.

#[allow(dead_code, reason = "each test program uses its part of the rig")]
mod rig;

use dunix_lab::traces::{KINDS, namespace};
use dunix_linux::kcmp::same_description_of;
use rig::{Rig, can_run, descriptors, identity, mapped, mounts};
use std::collections::BTreeSet;

/// Each node's processes, after them the owner with its helpers.
fn parties(rig: &Rig) -> Vec<(String, Vec<u32>)> {
    let mut parties: Vec<(String, Vec<u32>)> =
        (1..=rig.keepers.len()).map(|n| (format!("n{n}"), rig.node_processes(n))).collect();
    let helpers = ["__lab-switch", "__lab-janitor"].map(|role| rig.helper(role));
    parties.push(("owner".into(), [&[rig.owner_pid()][..], &helpers].concat()));
    parties
}

/// Calls `check` with every two parties.
fn each_pair(
    parties: &[(String, Vec<u32>)],
    mut check: impl FnMut(&(String, Vec<u32>), &(String, Vec<u32>)),
) {
    for (at, a) in parties.iter().enumerate() {
        for b in &parties[at + 1..] {
            check(a, b);
        }
    }
}

fn pairs<'a>(a: &'a [u32], b: &'a [u32]) -> impl Iterator<Item = (u32, u32)> + 'a {
    a.iter().flat_map(move |a| b.iter().map(move |b| (*a, *b)))
}

#[test]
fn nodes_and_owner_share_nothing() {
    if !can_run() {
        return;
    }
    let rig = Rig::start("isolation", 3);
    let parties = parties(&rig);
    assert!(parties.iter().all(|(_, processes)| processes.len() >= 2));
    each_pair(&parties, |(a_name, a), (b_name, b)| {
        for (a, b) in pairs(a, b) {
            let who = format!("{a_name} ({a}) and {b_name} ({b})");
            share_no_namespace(&who, a, b);
            share_no_description(&who, a, b);
            share_no_mapping(&who, a, b);
        }
    });
    for node in 1..=3 {
        let others = (1..=3).filter(|other| *other != node);
        others.for_each(|other| share_no_file(&rig, node, other));
    }
    share_no_file_system(&rig);
}

fn share_no_namespace(who: &str, a: u32, b: u32) {
    for kind in KINDS {
        let (a, b) = (namespace(a, kind).unwrap(), namespace(b, kind).unwrap());
        assert_ne!(a, b, "{who}: {kind} namespace");
    }
}

fn share_no_description(who: &str, a: u32, b: u32) {
    let all_b = descriptors(b);
    for fd_a in descriptors(a) {
        for &fd_b in &all_b {
            let same = same_description_of((a, fd_a), (b, fd_b)).unwrap();
            assert!(!same, "{who}: descriptors {fd_a} and {fd_b} are one description");
        }
    }
}

/// Programs and libraries included: each node runs copies.
fn share_no_mapping(who: &str, a: u32, b: u32) {
    let (a, b) = (mapped(a), mapped(b));
    let common: Vec<_> = a.intersection(&b).collect();
    assert!(common.is_empty(), "{who}: both map {common:?}");
    assert!(!a.is_empty() && !b.is_empty());
}

/// Not even two descriptions of one pipe, socket, device node or file.
fn share_no_file(rig: &Rig, a: usize, b: usize) {
    let all = |node: usize| -> BTreeSet<(u64, u64)> {
        let processes = rig.node_processes(node);
        let each = |pid: u32| descriptors(pid).into_iter().map(move |fd| identity(pid, fd));
        // Eventfds, epoll sets and the like are all on one inode of the kernel's.
        let anonymous = anonymous_inode();
        processes.into_iter().flat_map(each).filter(|id| *id != anonymous).collect()
    };
    let (a_files, b_files) = (all(a), all(b));
    let common: Vec<_> = a_files.intersection(&b_files).collect();
    assert!(common.is_empty(), "n{a} and n{b} both have {common:?} open");
}

fn anonymous_inode() -> (u64, u64) {
    use std::os::fd::AsRawFd;
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    identity(std::process::id(), event.as_raw_fd())
}

fn share_no_file_system(rig: &Rig) {
    let own: BTreeSet<String> = mounts(rig.owner_pid()).into_iter().map(|m| m.0).collect();
    let mut seen = BTreeSet::new();
    for (node, keeper) in (1..).zip(&rig.keepers) {
        let mut of_node = BTreeSet::new();
        for (device, point, options) in mounts(*keeper) {
            let is_copy = node == 1 && own.contains(&device) && under(&point, "/host");
            assert!(!is_copy || options.split(',').any(|o| o == "ro"), "{point} is writable");
            let is_store = node == 1 && point == "/upper";
            if !is_copy && !is_store {
                assert!(!own.contains(&device), "n{node} shares {point} with the owner");
                of_node.insert(device);
            }
        }
        let common: Vec<_> = of_node.intersection(&seen).collect();
        assert!(common.is_empty(), "n{node} shares file systems {common:?} with another node");
        assert!(!of_node.is_empty());
        seen.extend(of_node);
    }
}

fn under(path: &str, directory: &str) -> bool {
    path == directory || path.starts_with(&format!("{directory}/"))
}

#[test]
fn a_cut_node_hears_nobody_until_it_is_mended() {
    if !can_run() {
        return;
    }
    let mut rig = Rig::start("cut", 3);
    let heard = |rig: &Rig, node: u32| rig.heard(node);
    assert_eq!(heard(&rig, 1), ["1", "2", "3"]);
    rig.command("cut 2");
    rig.wait_until(|rig| heard(rig, 1) == ["1", "3"] && heard(rig, 2) == ["2"]);
    rig.command("mend 2");
    rig.wait_until(|rig| heard(rig, 1) == ["1", "2", "3"] && heard(rig, 2).len() == 3);
}
