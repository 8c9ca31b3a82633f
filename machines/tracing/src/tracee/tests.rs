//! What a tracer sees of what the kernel reports.

use super::*;
use proptest::prelude::*;

const SHIM: Place = Place::Shim;
const GUEST: Place = Place::Guest;

fn entry(number: u64, place: Place) -> Stop {
    Stop::Entry { number, place }
}

fn exit(place: Place) -> Stop {
    Stop::Exit { place, is_trap: false }
}

fn filter() -> Stop {
    Stop::Signal { number: SIGSYS, place: GUEST, nature: Nature::Filter }
}

fn kind(act: Act) -> Option<Kind> {
    match act {
        Act::Show(shown) => Some(shown.kind),
        Act::Run(..) => None,
    }
}

/// A thread that stops at calls, and stands before the first.
fn at_entry(number: u64, options: u64) -> Tracee {
    let mut tracee = Tracee::new(true, options);
    tracee.interrupt();
    tracee.handle(Stop::Interrupted { place: GUEST, number: 0 });
    assert_eq!(tracee.resume(Mode::Calls, 0), Some(Act::Run(How::ToCall, 0)));
    assert_eq!(kind(tracee.handle(entry(number, GUEST))), Some(Kind::Enter));
    tracee
}

#[test]
fn a_trapped_call_shows_its_two_ends_only() {
    let mut tracee = at_entry(0, 0);
    tracee.resume(Mode::Calls, 0);
    assert_eq!(tracee.handle(Stop::Exit { place: GUEST, is_trap: true }), Act::Run(How::ToCall, 0));
    assert_eq!(tracee.handle(filter()), Act::Run(How::ToCall, SIGSYS));
    for stop in [entry(0, SHIM), exit(SHIM), entry(15, SHIM)] {
        assert_eq!(tracee.handle(stop), Act::Run(How::ToCall, 0));
    }
    assert_eq!(kind(tracee.handle(exit(GUEST))), Some(Kind::Exit { is_cut: false }));
    assert_eq!(tracee.resume(Mode::Continue, 0), Some(Act::Run(How::Continue, 0)));
}

#[test]
fn a_fork_shows_its_event_before_its_exit_and_the_child_stops_first() {
    let mut tracee = at_entry(57, options::FORK);
    tracee.resume(Mode::Calls, 0);
    tracee.handle(filter());
    let mut child = tracee.child();
    assert_eq!(kind(tracee.handle(Stop::Born { event: Event::Fork, number: 57 })), None);
    assert_eq!(kind(tracee.handle(exit(SHIM))), None);
    assert_eq!(kind(tracee.handle(exit(GUEST))), Some(Kind::Event(Event::Fork)));
    let next = tracee.resume(Mode::Calls, 0).unwrap();
    assert_eq!(kind(next), Some(Kind::Exit { is_cut: false }));
    assert_eq!(
        child.handle(Stop::Interrupted { place: SHIM, number: 0 }),
        Act::Run(How::ToCall, 0)
    );
    assert_eq!(kind(child.handle(exit(GUEST))), Some(Kind::Event(Event::Stop)));
    assert_eq!(child.resume(Mode::Calls, 0), Some(Act::Run(How::ToCall, 0)));
}

#[test]
fn an_exec_is_told_of_when_the_program_is_loaded() {
    let mut tracee = at_entry(59, options::EXEC);
    tracee.resume(Mode::Calls, 0);
    tracee.handle(filter());
    assert_eq!(kind(tracee.handle(Stop::Executed)), None);
    assert_eq!(kind(tracee.handle(exit(SHIM))), None);
    assert_eq!(kind(tracee.handle(exit(GUEST))), Some(Kind::Event(Event::Exec)));
    let next = tracee.resume(Mode::Calls, 0).unwrap();
    assert_eq!(kind(next), Some(Kind::Exit { is_cut: false }));
}

#[test]
fn an_exec_in_the_old_manner_is_a_signal() {
    let mut tracee = Tracee::new(false, 0);
    assert_eq!(tracee.handle(Stop::Executed), Act::Run(How::ToCall, 0));
    assert_eq!(kind(tracee.handle(exit(GUEST))), Some(Kind::Trap { is_step: false }));
    assert_eq!(tracee.resume(Mode::Continue, 0), Some(Act::Run(How::Continue, 0)));
}

#[test]
fn a_step_over_a_trapped_call_ends_behind_it() {
    let mut tracee = Tracee::new(false, 0);
    tracee.handle(Stop::Signal { number: SIGTRAP, place: GUEST, nature: Nature::Guest });
    assert_eq!(tracee.resume(Mode::Step, 0), Some(Act::Run(How::Step, 0)));
    assert_eq!(tracee.handle(filter()), Act::Run(How::ToCall, SIGSYS));
    assert_eq!(kind(tracee.handle(exit(SHIM))), None);
    assert_eq!(kind(tracee.handle(exit(GUEST))), Some(Kind::Trap { is_step: true }));
}

#[test]
fn a_signal_that_ends_a_wait_shows_the_end_first() {
    let mut tracee = at_entry(61, 0);
    tracee.resume(Mode::Calls, 0);
    tracee.handle(filter());
    tracee.handle(entry(202, Place::Gadget));
    let signal = Stop::Signal { number: 10, place: Place::Gadget, nature: Nature::Guest };
    assert_eq!(kind(tracee.handle(signal)), Some(Kind::Exit { is_cut: true }));
    let next = tracee.resume(Mode::Calls, 0).unwrap();
    assert_eq!(kind(next), Some(Kind::Signal { number: 10 }));
    let mut dropped = tracee.clone();
    assert_eq!(tracee.resume(Mode::Calls, 10), Some(Act::Run(How::ToCall, 10)));
    // Without the signal the call begins anew.
    assert_eq!(kind(dropped.resume(Mode::Calls, 0).unwrap()), Some(Kind::Enter));
    assert_eq!(dropped.resume(Mode::Calls, 0), Some(Act::Run(How::ToCall, 0)));
}

#[test]
fn the_signal_of_a_child_waits_for_the_end_of_the_wait() {
    let mut tracee = at_entry(61, 0);
    tracee.resume(Mode::Calls, 0);
    tracee.handle(filter());
    let signal = Stop::Signal { number: 17, place: Place::Gadget, nature: Nature::Child };
    assert_eq!(tracee.handle(signal), Act::Run(How::ToCall, 0));
    let mut other = tracee.clone();
    assert_eq!(kind(tracee.handle(exit(GUEST))), Some(Kind::Exit { is_cut: false }));
    assert_eq!(tracee.resume(Mode::Calls, 0), Some(Act::Run(How::ToCall, 17)));
    // A wait for another child goes on: the signal ends it after all.
    let wait = entry(202, Place::Gadget);
    assert_eq!(other.handle(wait), Act::Run(How::ToCall, 0));
    assert_eq!(other.handle(wait), Act::Run(How::ToCall, 17));
    assert_eq!(kind(other.handle(signal)), Some(Kind::Exit { is_cut: true }));
}

#[test]
fn a_signal_before_a_call_comes_when_the_call_has_begun() {
    let mut tracee = at_entry(3, 0);
    tracee.resume(Mode::Calls, 0);
    tracee.handle(filter());
    tracee.handle(exit(SHIM));
    let signal = Stop::Signal { number: 14, place: SHIM, nature: Nature::Early };
    assert_eq!(tracee.handle(signal), Act::Run(How::ToCall, 0));
    assert_eq!(tracee.handle(entry(3, SHIM)), Act::Run(How::ToCall, 14));
    assert_eq!(kind(tracee.handle(exit(GUEST))), Some(Kind::Exit { is_cut: false }));
}

#[test]
fn an_interruption_waits_until_the_shim_holds_nothing() {
    let mut tracee = Tracee::new(true, 0);
    tracee.interrupt();
    assert_eq!(
        tracee.handle(Stop::Interrupted { place: SHIM, number: 0 }),
        Act::Run(How::ToCall, 0)
    );
    let act = tracee.handle(entry(7, Place::Gadget));
    assert_eq!(act, Act::Show(Shown { kind: Kind::Event(Event::Stop), view: View::Caught }));
}

#[test]
fn a_wait_that_began_before_the_tracer_came_is_shown_as_a_new_call() {
    let mut tracee = Tracee::new(true, 0);
    tracee.interrupt();
    tracee.handle(Stop::Interrupted { place: Place::Gadget, number: 7 });
    assert_eq!(kind(tracee.resume(Mode::Calls, 0).unwrap()), Some(Kind::Enter));
    assert_eq!(tracee.resume(Mode::Calls, 0), Some(Act::Run(How::ToCall, 0)));
    assert_eq!(kind(tracee.handle(exit(GUEST))), Some(Kind::Exit { is_cut: false }));
}

#[test]
fn an_interruption_that_another_stop_swallowed_is_asked_for_again() {
    let mut tracee = Tracee::new(true, 0);
    tracee.interrupt();
    assert_eq!(tracee.handle(exit(Place::Gadget)), Act::Run(How::Continue, 0));
    assert!(tracee.wants_interruption());
    tracee.handle(Stop::Interrupted { place: Place::Gadget, number: 7 });
    assert!(!tracee.wants_interruption());
}

#[test]
fn statuses_are_those_of_ptrace() {
    let status = |kind| Shown { kind, view: View::Direct }.status(true, options::SYSGOOD);
    assert_eq!(status(Kind::Enter), 0x85);
    assert_eq!(status(Kind::Event(Event::Stop)), 5 | 128 << 8);
    assert_eq!(status(Kind::Group { signal: 20 }), 20 | 128 << 8);
    assert_eq!(status(Kind::Attached), 19);
}

fn places() -> impl Strategy<Value = Place> {
    prop_oneof![Just(Place::Guest), Just(Place::Gadget), Just(Place::Shim)]
}

fn stops() -> impl Strategy<Value = Stop> {
    let nature = prop_oneof![
        Just(Nature::Filter),
        Just(Nature::Own),
        Just(Nature::Child),
        Just(Nature::Early),
        Just(Nature::Guest)
    ];
    prop_oneof![
        (0_u64..300, places()).prop_map(|(number, place)| Stop::Entry { number, place }),
        (places(), any::<bool>()).prop_map(|(place, is_trap)| Stop::Exit { place, is_trap }),
        (1_u8..64, places(), nature).prop_map(|(number, place, nature)| Stop::Signal {
            number,
            place,
            nature
        }),
        (places()).prop_map(|place| Stop::Group { signal: 19, place }),
        (places()).prop_map(|place| Stop::Interrupted { place, number: 7 }),
        Just(Stop::Born { event: Event::Vfork, number: 58 }),
        Just(Stop::Executed),
        (places()).prop_map(|place| Stop::Exiting { place }),
    ]
}

proptest! {
    /// Whatever comes: nothing contradicts itself, and a tracer who goes on sees an end of what is owed.
    #[test]
    fn every_stop_can_be_left(stops in prop::collection::vec((stops(), 0_u8..3), 1..60), is_seized: bool) {
        let mut tracee = Tracee::new(is_seized, options::KNOWN);
        for (stop, mode) in stops {
            let mode = [Mode::Continue, Mode::Calls, Mode::Step][usize::from(mode)];
            let mut act = tracee.handle(stop);
            tracee.check_invariants();
            let mut shown = 0;
            while let Act::Show(_) = act {
                shown += 1;
                prop_assert!(shown < 12, "{tracee:?}");
                act = tracee.resume(mode, 0).unwrap();
                tracee.check_invariants();
            }
            prop_assert_eq!(tracee.shown(), None);
        }
    }
}
