//! The table against a simple model: kernels that know each byte's holders, chance from a seed.
//!
//! What a program sees must be what one kernel over all nodes would do: who gets a lock, who is refused, who
//! waits in a circle; and nobody waits for what nobody has.

mod world;

use world::{Came, Owner, World};

/// Each is a history of its own; a failure names its seed.
const SEEDS: u64 = 200;
const STEPS: usize = 200;

#[test]
fn the_table_does_what_one_kernel_would() {
    let mut seen = std::collections::BTreeMap::<Came, u32>::new();
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            if let Some(came) = world.step() {
                *seen.entry(came).or_default() += 1;
            }
            world.check();
        }
        world.all_who_wait_get_it();
    }
    // The histories come to everything that there is.
    for came in [Came::Had, Came::Refused, Came::Waits, Came::Deadlock] {
        assert!(seen.get(&came).is_some_and(|times| *times > 100), "{came:?} is rare: {seen:?}");
    }
}

/// A reader's lock must not weaken what the table knows of another description's, a writer's.
#[test]
fn a_description_does_not_replace_anothers_lock() {
    let mut world = World::new(0);
    let (writer, reader) = (Owner::description(1, 0), Owner::description(1, 1));
    assert_eq!(world.attempt(writer, 0, (true, 0, 9)), Came::Had);
    assert_eq!(world.attempt(reader, 0, (false, 0, 9)), Came::Refused);
    world.check();
    assert_eq!(world.attempt(Owner::description(2, 0), 0, (false, 0, 9)), Came::Refused);
}

/// A process that would have less of what it has, and more beside that, is refused for a description of its node: it
/// has what it had.
#[test]
fn a_refused_process_has_what_it_had() {
    let mut world = World::new(0);
    let process = Owner::process(1, 0);
    assert_eq!(world.attempt(process, 0, (true, 3, 3)), Came::Had);
    assert_eq!(world.attempt(Owner::description(1, 1), 0, (true, 5, 5)), Came::Had);
    assert_eq!(world.attempt(process, 0, (false, 3, 6)), Came::Refused);
    world.check();
}

/// However often descriptions that share bytes are confirmed, the table does not grow.
#[test]
fn confirming_shared_bytes_adds_nothing() {
    let mut world = World::new(0);
    for number in 0..8 {
        let first = u64::from(number);
        assert_eq!(
            world.attempt(Owner::description(1, number), 0, (false, first, first + 4)),
            Came::Had
        );
    }
    for _ in 0..4 {
        assert_eq!(world.attempt(Owner::description(2, 0), 0, (true, 0, 11)), Came::Refused);
        assert!(world.in_the_way_of_all(0) <= 2, "{} entries", world.in_the_way_of_all(0));
    }
}
