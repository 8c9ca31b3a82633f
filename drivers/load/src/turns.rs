//! Whose turn it is when every program goes to the next node.
//!
//! Each program has turns of its own: a build executes shell, compiler driver, compiler and
//! assembler in a rhythm, and one count for all of them would send most compilers to one node.

use std::collections::BTreeMap;

/// Most programs with turns of their own; one more starts all of them anew.
const PROGRAMS_MAX: usize = 1024;

/// The turns of the programs that this node has spread, by path.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    next: BTreeMap<Box<[u8]>, u64>,
}

impl Turns {
    /// Takes a program's turn. Programs seen for the first time take turns with each other.
    pub(crate) fn take(&mut self, program: &[u8]) -> u64 {
        if let Some(next) = self.next.get_mut(program) {
            *next += 1;
            return *next - 1;
        }
        if self.next.len() >= PROGRAMS_MAX {
            self.next.clear();
        }
        let first = self.next.len() as u64;
        self.next.insert(program.into(), first + 1);
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rhythm_of_programs_does_not_skew_the_turns_of_one() {
        let mut turns = Turns::default();
        let mut compilers = [0_u32; 3];
        for _ in 0..27 {
            for program in [&b"sh"[..], b"cc1", b"as"] {
                let node = usize::try_from(turns.take(program) % 3).expect("small");
                compilers[node] += u32::from(program == b"cc1");
            }
        }
        assert_eq!(compilers, [9, 9, 9]);
    }

    #[test]
    fn first_turns_differ_and_the_table_is_bounded() {
        let mut turns = Turns::default();
        let first: Vec<u64> = (0..4_u8).map(|program| turns.take(&[program])).collect();
        assert_eq!(first, [0, 1, 2, 3]);
        for program in 0..=PROGRAMS_MAX as u64 {
            turns.take(&program.to_ne_bytes());
        }
        assert!(turns.next.len() <= PROGRAMS_MAX);
    }
}
