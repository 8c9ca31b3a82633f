//! Which programs fork workers, and which fork only to execute.
//!
//! A shell's child executes or ends within a millisecond or two: to move it first would cost more
//! than it ever does. A server's or a pool's child works for long, and is best moved before it has
//! written to any page. What the last children of a program did tells one from the other.

use alloc::{boxed::Box, collections::BTreeMap};

/// Most programs that are remembered; one more starts all of them anew.
const PROGRAMS_MAX: usize = 1024;
/// A worker weighs as much as so many children that were none.
const WORKER: i8 = 2;
/// From here on a program's children start away.
const STARTS_AWAY: i8 = 4;
const LEAST: i8 = -8;
const MOST: i8 = 8;
/// One in so many children starts here all the same: what becomes of those that are away is not
/// seen, and a habit may change.
const LOOKED_AT: u8 = 8;
/// After a refusal so many children are not tried, at most; one after the first, then twice as many.
const SKIPPED_MAX: u8 = 64;

/// What a child made by fork(2) came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChildDid {
    /// It executed another program.
    Executed,
    /// It ended before it had worked much.
    Ended,
    /// It works by itself.
    Worked,
    /// It could not be moved, for a reason that its siblings will have too.
    Stays,
}

/// The habits of the programs of a node, by path.
#[derive(Debug, Default)]
pub struct Habits {
    programs: BTreeMap<Box<[u8]>, Habit>,
}

#[derive(Debug, Default)]
struct Habit {
    score: i8,
    away: u8,
    /// How many children are not tried for the next refusal, and still not for the last one.
    penalty: u8,
    skip: u8,
}

impl Habits {
    /// Notes what a child of a program came to.
    pub fn note(&mut self, program: &[u8], what: ChildDid) {
        let habit = self.of(program);
        match what {
            ChildDid::Executed | ChildDid::Ended => habit.score = LEAST.max(habit.score - 1),
            ChildDid::Worked => habit.score = MOST.min(habit.score + WORKER),
            ChildDid::Stays => {
                habit.penalty = SKIPPED_MAX.min((habit.penalty * 2).max(1));
                habit.skip = habit.penalty;
            }
        }
    }

    /// Whether children that are just made may be sent away at once, now and then at least.
    #[must_use]
    pub fn starts_away(&self, program: &[u8]) -> bool {
        self.programs.get(program).is_some_and(|habit| habit.score >= STARTS_AWAY)
    }

    /// Whether a child that is just made may be sent away at once.
    pub fn may_start_away(&mut self, program: &[u8]) -> bool {
        let habit = self.of(program);
        if habit.score < STARTS_AWAY || habit.skip > 0 {
            return false;
        }
        habit.away = (habit.away + 1) % LOOKED_AT;
        habit.away != 0
    }

    /// Whether a child that works may be sent away.
    pub fn may_move(&mut self, program: &[u8]) -> bool {
        let habit = self.of(program);
        let may = habit.skip == 0;
        habit.skip = habit.skip.saturating_sub(1);
        may
    }

    fn of(&mut self, program: &[u8]) -> &mut Habit {
        if !self.programs.contains_key(program) && self.programs.len() >= PROGRAMS_MAX {
            self.programs.clear();
        }
        self.programs.entry(program.into()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: &[u8] = b"/bin/sh";
    const POOL: &[u8] = b"/usr/bin/pool";

    #[test]
    fn workers_start_away_after_two_and_children_of_a_shell_never() {
        let mut habits = Habits::default();
        for _ in 0..2 {
            assert!(!habits.may_start_away(POOL));
            habits.note(POOL, ChildDid::Worked);
            habits.note(SHELL, ChildDid::Executed);
        }
        assert!(habits.may_start_away(POOL));
        assert!(!habits.may_start_away(SHELL));
    }

    #[test]
    fn one_child_in_eight_is_looked_at_so_that_a_habit_can_end() {
        let mut habits = Habits::default();
        (0..4).for_each(|_| habits.note(POOL, ChildDid::Worked));
        let stay = (0..80).filter(|_| !habits.may_start_away(POOL)).count();
        assert_eq!(stay, 10);
        (0..5).for_each(|_| habits.note(POOL, ChildDid::Ended));
        assert!((0..8).all(|_| !habits.may_start_away(POOL)));
    }

    #[test]
    fn a_refusal_skips_ever_more_children() {
        let mut habits = Habits::default();
        (0..4).for_each(|_| habits.note(POOL, ChildDid::Worked));
        let mut tried = 0;
        for _ in 0..200 {
            if habits.may_move(POOL) {
                tried += 1;
                habits.note(POOL, ChildDid::Stays);
                assert!(!habits.may_start_away(POOL));
            }
        }
        assert_eq!(tried, 9, "after 1, 2, 4 ... 64 skipped");
    }

    #[test]
    fn the_table_is_bounded() {
        let mut habits = Habits::default();
        for number in 0..=PROGRAMS_MAX as u64 {
            habits.note(&number.to_ne_bytes(), ChildDid::Worked);
        }
        assert!(habits.programs.len() <= PROGRAMS_MAX);
    }
}
