//! Two ends joined by ordered, slow channels, driven by random users.

extern crate std;

use super::*;
use proptest::prelude::*;
use std::{collections::VecDeque, vec::Vec};

const WINDOW: u64 = 64;

/// One direction of a stream: a sender, a receiver, and what is under way between them.
struct Direction {
    sending: Sending,
    receiving: Receiving,
    forth: VecDeque<Tell>,
    back: VecDeque<Tell>,
    sent: u64,
    delivered: u64,
    consumed: u64,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Send(u64),
    Finish,
    Abort,
    AskDrained,
    Consume(u64),
    Stop,
    Forth,
    Back,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..2 * WINDOW).prop_map(Step::Send),
        1 => Just(Step::Finish),
        1 => Just(Step::Abort),
        2 => Just(Step::AskDrained),
        8 => (0..2 * WINDOW).prop_map(Step::Consume),
        1 => Just(Step::Stop),
        12 => Just(Step::Forth),
        12 => Just(Step::Back),
    ]
}

impl Direction {
    fn new() -> Direction {
        Direction {
            sending: Sending::new(WINDOW),
            receiving: Receiving::new(WINDOW),
            forth: VecDeque::new(),
            back: VecDeque::new(),
            sent: 0,
            delivered: 0,
            consumed: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send(count) => {
                if let Ok(Some(Tell::Data(fits))) = self.sending.send(count) {
                    self.sent += fits;
                    self.forth.push_back(Tell::Data(fits));
                }
            }
            Step::Finish => self.forth.extend(self.sending.finish()),
            Step::Abort => self.forth.extend(self.sending.abort()),
            Step::AskDrained => self.forth.extend(self.sending.ask_drained()),
            Step::Consume(count) => {
                let count = count.min(self.delivered - self.consumed);
                self.consumed += count;
                self.back.extend(self.receiving.consume(count));
            }
            Step::Stop => self.back.extend(self.receiving.stop()),
            Step::Forth => self.carry_forth(),
            Step::Back => self.carry_back(),
        }
        self.sending.check_invariants();
        self.receiving.check_invariants();
    }

    fn carry_forth(&mut self) {
        let told = match self.forth.pop_front() {
            Some(Tell::Data(count)) => {
                if self.receiving.handle_data(count).expect("an honest sender has credit") {
                    self.delivered += count;
                }
                None
            }
            Some(Tell::Sync) => self.receiving.handle_sync().expect("an honest sender"),
            Some(Tell::Finish) => self.receiving.handle_finish().expect("an honest sender"),
            Some(Tell::Abort) => {
                self.receiving.handle_abort().expect("an honest sender");
                None
            }
            Some(other) => panic!("a sender does not say {other:?}"),
            None => None,
        };
        self.back.extend(told);
    }

    fn carry_back(&mut self) {
        match self.back.pop_front() {
            Some(Tell::Consumed(offset)) => {
                assert!(offset <= self.consumed, "a report of what was not consumed");
                self.sending.handle_consumed(offset).expect("an honest receiver");
            }
            Some(Tell::Stop) => self.sending.handle_stop(),
            Some(other) => panic!("a receiver does not say {other:?}"),
            None => {}
        }
    }

    fn carry_all(&mut self) {
        while !(self.forth.is_empty() && self.back.is_empty()) {
            self.step(Step::Forth);
            self.step(Step::Back);
        }
    }
}

proptest! {
    #[test]
    fn no_byte_is_lost_and_nobody_waits_forever(steps in proptest::collection::vec(any_step(), 0..200)) {
        let mut direction = Direction::new();
        let mut stopped = false;
        for step in steps {
            stopped |= matches!(step, Step::Stop);
            direction.step(step);
        }
        direction.carry_all();
        direction.step(Step::AskDrained);
        direction.carry_all();
        if stopped {
            // The sender has heard of it, unless it had ended in order and everything was consumed.
            let heard = direction.sending.credit().is_err();
            prop_assert!(heard);
            prop_assert!(direction.receiving.is_over() && direction.sending.is_over());
            return Ok(());
        }
        prop_assert_eq!(direction.delivered, direction.sent);
        direction.step(Step::Consume(u64::MAX));
        direction.carry_all();
        match direction.sending.credit() {
            // Everything is consumed: drained must be seen, and there must be room to go on.
            Ok(credit) => {
                prop_assert_eq!(direction.sending.drained(), Ok(true));
                prop_assert_eq!(credit, WINDOW);
            }
            Err(refusal) => {
                prop_assert_eq!(refusal, Refusal::Ended);
                prop_assert!(direction.receiving.ended().is_some());
                prop_assert!(direction.receiving.is_over() && direction.sending.is_over());
            }
        }
    }

    #[test]
    fn a_sender_never_starves(sizes in proptest::collection::vec(1..3 * WINDOW, 1..50)) {
        let mut direction = Direction::new();
        for size in sizes {
            let mut left = size;
            while left > 0 {
                let before = direction.sent;
                direction.step(Step::Send(left));
                left -= direction.sent - before;
                direction.carry_all();
                direction.step(Step::Consume(u64::MAX));
                direction.carry_all();
                prop_assert!(direction.sending.credit().is_ok_and(|credit| credit > 0), "no credit after consumption");
            }
        }
    }

    /// A dishonest sender is caught before it can make the receiver hold more than its window.
    #[test]
    fn a_greedy_sender_is_caught(sizes in proptest::collection::vec(1..u64::MAX, 1..20)) {
        let mut receiving = Receiving::new(WINDOW);
        let mut held = 0;
        for size in sizes {
            match receiving.handle_data(size) {
                Ok(_) => held += size,
                Err(violation) => {
                    let window = matches!(violation, Violation::Window { .. });
                    prop_assert!(window);
                }
            }
            prop_assert!(held <= WINDOW);
        }
    }
}

#[test]
fn a_false_report_is_caught() {
    let mut sending = Sending::new(WINDOW);
    let _ = sending.send(10);
    assert_eq!(sending.handle_consumed(11), Err(Violation::Offset { offset: 11, sent: 10 }));
    assert_eq!(sending.handle_consumed(10), Ok(()));
    assert_eq!(sending.handle_consumed(9), Err(Violation::Offset { offset: 9, sent: 10 }));
}

#[test]
fn drained_is_reported_without_waiting_for_a_quarter_of_the_window() {
    let mut direction = Direction::new();
    let told: Vec<Tell> = [1, 1].iter().filter_map(|_| direction.sending.send(1).ok()?).collect();
    direction.forth.extend(told);
    direction.carry_all();
    direction.step(Step::Consume(2));
    direction.carry_all();
    assert_eq!(direction.sending.drained(), Ok(false), "two bytes are not worth a report");
    direction.step(Step::AskDrained);
    direction.carry_all();
    assert_eq!(direction.sending.drained(), Ok(true));
}

#[test]
fn bytes_after_the_end_are_a_violation() {
    let mut receiving = Receiving::new(WINDOW);
    let _ = receiving.handle_finish();
    assert_eq!(receiving.handle_data(1), Err(Violation::AfterEnd));
    assert_eq!(receiving.handle_abort(), Err(Violation::AfterEnd));
}
