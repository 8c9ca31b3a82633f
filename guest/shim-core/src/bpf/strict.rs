//! The guest's strict mode (`SECCOMP_SET_MODE_STRICT`) as a filter: the kernel's own would end the thread at the
//! shim's first call.

use super::{
    ARCH_X86_64, AT_ARCH, AT_NR, EQUAL, GUEST_PROLOGUE, Instruction, LOAD, RET_ALLOW, RET_TRAP,
    RETURN, low,
};
use crate::table::nr;
use crate::verdict;

/// What the thread may still call.
const ALLOWED: [u64; 4] = [nr::READ, nr::WRITE, nr::EXIT, nr::RT_SIGRETURN];

const PROLOGUE: usize = GUEST_PROLOGUE.len();
/// Instructions of [`STRICT`].
const LENGTH: usize = PROLOGUE + 5 + ALLOWED.len();

/// A filter that lets the shim's calls and [`ALLOWED`] pass, and traps all others with data of its own.
pub const STRICT: [Instruction; LENGTH] = strict();

#[expect(clippy::cast_possible_truncation, reason = "small numbers, checked by the test")]
const fn strict() -> [Instruction; LENGTH] {
    const fn at(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }
    let mut code = [at(RETURN, 0, 0, RET_TRAP | verdict::STRICT); LENGTH];
    let mut index = 0;
    while index < PROLOGUE {
        code[index] = GUEST_PROLOGUE[index];
        index += 1;
    }
    code[PROLOGUE] = at(LOAD, 0, 0, AT_ARCH);
    code[PROLOGUE + 1] = at(EQUAL, 0, ALLOWED.len() as u8 + 1, ARCH_X86_64);
    code[PROLOGUE + 2] = at(LOAD, 0, 0, AT_NR);
    index = 0;
    while index < ALLOWED.len() {
        let to_allow = (ALLOWED.len() - index) as u8;
        code[PROLOGUE + 3 + index] = at(EQUAL, to_allow, 0, low(ALLOWED[index]));
        index += 1;
    }
    // The instruction before it traps.
    code[LENGTH - 1] = at(RETURN, 0, 0, RET_ALLOW);
    code
}
