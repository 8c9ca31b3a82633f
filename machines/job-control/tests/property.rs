//! Random histories, judged from outside: an observer that sees only the effects must always know
//! who has which terminal, and the anchors must be attached exactly while a session has one.

use dunix_ids::Pid;
use dunix_job_control::{Caller, Effect, JobControl, Request, TerminalId, View};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
enum Step {
    Request(u32, u32, u32, u32, Request),
    Line(u32, u8),
    Tostop(u32, bool),
    LeaderExit(u32),
    Fork(u32, u32, u32),
    Exit(u32, u32),
    AttachFailed(u32),
}

fn pid(raw: u32) -> Pid {
    Pid::new(raw).unwrap()
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        4 => (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(steal, readable, privileged, tostop)| Request::SetControlling {
                steal, readable, privileged, tostop
            }
        ),
        1 => Just(Request::GiveUp),
        1 => any::<bool>().prop_map(|master| Request::Foreground { master }),
        3 => (-1..8i32, proptest::option::of(1..6u32))
            .prop_map(|(group, session)| Request::SetForeground { group, session: session.map(pid) }),
        1 => any::<bool>().prop_map(|master| Request::Session { master }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..6u32, 1..6u32, 1..6u32, 0..4u32, request())
            .prop_map(|(p, g, s, t, r)| Step::Request(p, g, s, t, r)),
        2 => (0..4u32, prop_oneof![Just(1u8), Just(2), Just(18), Just(20), Just(28)])
            .prop_map(|(t, s)| Step::Line(t, s)),
        1 => (0..4u32, any::<bool>()).prop_map(|(t, on)| Step::Tostop(t, on)),
        1 => (1..6u32).prop_map(Step::LeaderExit),
        1 => (1..6u32, 1..6u32, 6..9u32).prop_map(|(s, p, c)| Step::Fork(s, p, c)),
        1 => (1..6u32, 1..9u32).prop_map(|(s, p)| Step::Exit(s, p)),
        1 => (0..4u32).prop_map(Step::AttachFailed),
    ]
}

fn apply(control: &mut JobControl, step: &Step, effects: &mut Vec<Effect>) {
    match *step {
        Step::Request(p, group, session, t, request) => {
            let caller = Caller { pid: pid(p), group: pid(group), session: pid(session) };
            let answer = control.handle_request(caller, TerminalId(t), request, effects);
            assert!(answer.is_ok() || effects.is_empty(), "a refused request has no effect");
        }
        Step::Line(t, signal) => control.handle_line_signal(TerminalId(t), signal, effects),
        Step::Tostop(t, on) => control.handle_tostop(TerminalId(t), on, effects),
        Step::LeaderExit(s) => control.handle_leader_exit(pid(s), effects),
        Step::Fork(s, p, c) => control.handle_fork(pid(s), pid(p), pid(c), effects),
        Step::Exit(s, p) if s != p => control.handle_exit(pid(s), pid(p)),
        Step::Exit(..) => {}
        Step::AttachFailed(t) => control.handle_attach_failed(TerminalId(t), effects),
    }
}

/// Knows only what the effects say.
#[derive(Default)]
struct Observer {
    views: BTreeMap<Pid, View>,
    attached: BTreeSet<TerminalId>,
}

impl Observer {
    fn see(&mut self, effect: Effect) {
        match effect {
            Effect::Attach(t) => assert!(self.attached.insert(t), "attached twice"),
            Effect::Detach(t) => assert!(self.attached.remove(&t), "detached while free"),
            Effect::Publish { session, view: Some(view) } => {
                self.views.insert(session, view);
            }
            Effect::Publish { session, view: None } => {
                assert!(self.views.remove(&session).is_some(), "had nothing to lose");
            }
            Effect::SignalGroup { .. } | Effect::SignalProcess { .. } | Effect::Leave { .. } => {}
        }
    }

    fn check(&self, control: &JobControl) {
        for raw in 1..9 {
            assert_eq!(self.views.get(&pid(raw)).copied(), control.view(pid(raw)));
        }
        let held: BTreeSet<_> = self.views.values().map(|view| view.terminal).collect();
        assert_eq!(held.len(), self.views.len(), "a terminal with two sessions");
        assert_eq!(held, self.attached);
        for view in self.views.values() {
            assert!(control.holds(view.foreground));
        }
    }
}

proptest! {
    #[test]
    fn effects_tell_the_whole_truth(steps in proptest::collection::vec(step(), 1..200)) {
        let mut control = JobControl::new();
        let mut observer = Observer::default();
        for step in &steps {
            let mut effects = Vec::new();
            apply(&mut control, step, &mut effects);
            control.check_invariants();
            effects.iter().for_each(|effect| observer.see(*effect));
            observer.check(&control);
        }
    }
}
