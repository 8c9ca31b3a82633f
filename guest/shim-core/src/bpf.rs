//! The seccomp program, assembled from the table of classes (seccomp(2), `linux/filter.h`).
//!
//! ```text
//! other architecture -> ENOSYS
//! native by number   -> allow          (arch and number only: the kernel caches these)
//! issued by the shim -> doorbell number: notify the daemon (or EOPNOTSUPP when solo); else allow
//! otherwise          -> class of the number, with a look at one argument where the class says so
//! ```
//! Invariant: every path ends in a return, no jump leaves the program (checked by the tests'
//! interpreter over all numbers).

use crate::Errno;
use crate::table::{Class, ROWS, class};
use dunix_guest_abi::{doorbell, layout};

/// One instruction of classic BPF (`struct sock_filter`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Jump if true.
    pub jt: u8,
    /// Jump if false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Room for the program; the tests check that it suffices.
pub const PROGRAM_MAX: usize = 1024;

/// What the doorbell's number answers when the shim rings it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bell {
    /// A notification to the daemon.
    Notify,
    /// There is no daemon: `EOPNOTSUPP` (an unfiltered kernel would say `ENOSYS`).
    Solo,
}

const LOAD: u16 = 0x20;
const LOAD_CONSTANT: u16 = 0x00;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const GREATER_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

const AT_NR: u32 = 0;
const AT_ARCH: u32 = 4;
const AT_IP_LOW: u32 = 8;
const AT_IP_HIGH: u32 = 12;
const fn at_arg(index: u32) -> u32 {
    16 + 8 * index
}

const ARCH_X86_64: u32 = 0xc000_003e;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_TRAP: u32 = 0x0003_0000;
const RET_NOTIFY: u32 = 0x7fc0_0000;
const RET_ERRNO: u32 = 0x0005_0000;

/// Upper half of every address in the reserved range.
const RESERVED_HIGH: u32 = high(layout::BASE);
const _: () = assert!(high(layout::END) == RESERVED_HIGH + 1 && low(layout::END) == 0);
const _: () = assert!(low(layout::TEXT_START) == 0 && high(layout::TEXT_END) == RESERVED_HIGH);

const fn high(address: u64) -> u32 {
    (address >> 32) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "takes the lower half")]
const fn low(address: u64) -> u32 {
    address as u32
}

const fn ret_errno(errno: Errno) -> u32 {
    RET_ERRNO | errno.get() as u32
}

/// Instructions of [`WIDE`].
const WIDE_LENGTH: usize = 14 + crate::table::WIDE.len();

/// Asked by the shim of [`WIDE`] whether it is there: it answers `EALREADY`.
pub const WIDE_PROBE: u64 = doorbell::NR + 1;

/// Asked by the shim of the filters of guests whether there is one: it answers `EALREADY`.
pub const GUEST_PROBE: u64 = doorbell::NR + 2;

/// A second filter, behind the first, for a process that may have descriptors of other nodes: traps
/// the guest's calls of [`crate::table::WIDE`].
pub const WIDE: [Instruction; WIDE_LENGTH] = wide();

#[expect(clippy::cast_possible_truncation, reason = "small numbers, checked by the test")]
const fn wide() -> [Instruction; WIDE_LENGTH] {
    const fn at(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }
    let calls = crate::table::WIDE;
    let mut code = [at(RETURN, 0, 0, RET_ALLOW); WIDE_LENGTH];
    code[0] = at(LOAD, 0, 0, AT_ARCH);
    code[1] = at(EQUAL, 1, 0, ARCH_X86_64);
    code[2] = at(RETURN, 0, 0, RET_ALLOW);
    code[3] = at(LOAD, 0, 0, AT_IP_HIGH);
    code[4] = at(EQUAL, 0, 6, RESERVED_HIGH);
    code[5] = at(LOAD, 0, 0, AT_IP_LOW);
    code[6] = at(GREATER_EQUAL, 4, 0, low(layout::TEXT_END));
    code[7] = at(LOAD, 0, 0, AT_NR);
    code[8] = at(EQUAL, 0, 1, low(WIDE_PROBE));
    code[9] = at(RETURN, 0, 0, ret_errno(Errno::EALREADY));
    code[10] = at(RETURN, 0, 0, RET_ALLOW);
    code[11] = at(LOAD, 0, 0, AT_NR);
    let mut index = 0;
    while index < calls.len() {
        let to_trap = (calls.len() - index) as u8;
        code[12 + index] = at(EQUAL, to_trap, 0, low(calls[index]));
        index += 1;
    }
    code[12 + calls.len()] = at(RETURN, 0, 0, RET_ALLOW);
    code[13 + calls.len()] = at(RETURN, 0, 0, RET_TRAP);
    code
}

/// Goes before a guest's own filter: calls that the shim issues pass; the guest's program then
/// begins with an accumulator of zero, as it expects. Jumps are relative and need no change.
pub const GUEST_PROLOGUE: [Instruction; 9] = [
    Instruction { code: LOAD, jt: 0, jf: 0, k: AT_IP_HIGH },
    Instruction { code: EQUAL, jt: 0, jf: 6, k: RESERVED_HIGH },
    Instruction { code: LOAD, jt: 0, jf: 0, k: AT_IP_LOW },
    Instruction { code: GREATER_EQUAL, jt: 4, jf: 0, k: low(layout::TEXT_END) },
    Instruction { code: LOAD, jt: 0, jf: 0, k: AT_NR },
    Instruction { code: EQUAL, jt: 0, jf: 1, k: low(GUEST_PROBE) },
    Instruction { code: RETURN, jt: 0, jf: 0, k: ret_errno(Errno::EALREADY) },
    Instruction { code: RETURN, jt: 0, jf: 0, k: RET_ALLOW },
    Instruction { code: LOAD_CONSTANT, jt: 0, jf: 0, k: 0 },
];
/// Most instructions of a filter (`BPF_MAXINSNS`).
pub const INSTRUCTIONS_MAX: usize = 4096;

/// A program being assembled.
pub struct Program {
    code: [Instruction; PROGRAM_MAX],
    len: usize,
}

/// A run of numbers of the same class, up to the next run's start.
#[derive(Clone, Copy)]
struct Run {
    start: u32,
    class: Class,
}

const RUNS_MAX: usize = 400;

struct Runs {
    runs: [Run; RUNS_MAX],
    len: usize,
}

impl Runs {
    /// Collects the runs of the whole number space under `simplify`; a number that it has no class for
    /// belongs to the run before it.
    fn collect(simplify: impl Fn(Class) -> Option<Class>) -> Runs {
        let mut all = Runs { runs: [Run { start: 0, class: Class::Trap }; RUNS_MAX], len: 0 };
        let end = ROWS.last().map_or(0, |row| row.nr + 1);
        for number in 0..=end {
            let Some(class) = simplify(class(number)) else { continue };
            if all.len == 0 || all.runs[all.len - 1].class != class {
                all.runs[all.len] = Run { start: number, class };
                all.len += 1;
            }
        }
        all
    }

    fn as_slice(&self) -> &[Run] {
        &self.runs[..self.len]
    }
}

impl Program {
    /// Assembles the filter.
    #[must_use]
    pub fn filter(bell: Bell) -> Program {
        let mut program = Program { code: [Instruction::default(); PROGRAM_MAX], len: 0 };
        program.check_architecture();
        let native = |c| Some(if c == Class::Native { c } else { Class::Trap });
        let native = Runs::collect(native);
        let fixups = program.len;
        program.native_tree(native.as_slice());
        let tail = program.len;
        program.aim_jumps(fixups, tail);
        program.shim_calls(bell);
        program.emit(LOAD, 0, 0, AT_NR);
        // Native calls have been allowed: they may count to any neighbour.
        program.class_tree(Runs::collect(|c| (c != Class::Native).then_some(c)).as_slice());
        program
    }

    /// Returns the instructions.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.code[..self.len]
    }

    fn emit(&mut self, code: u16, jt: u8, jf: u8, k: u32) {
        self.code[self.len] = Instruction { code, jt, jf, k };
        self.len += 1;
    }

    fn give(&mut self, action: u32) {
        self.emit(RETURN, 0, 0, action);
    }

    fn check_architecture(&mut self) {
        self.emit(LOAD, 0, 0, AT_ARCH);
        self.emit(EQUAL, 1, 0, ARCH_X86_64);
        self.give(ret_errno(Errno::ENOSYS));
        self.emit(LOAD, 0, 0, AT_NR);
    }

    /// Emits a binary search; leaves are `leaf(class)`.
    fn tree(&mut self, runs: &[Run], leaf: fn(&mut Program, Class)) {
        match runs {
            [] => self.give(ret_errno(Errno::ENOSYS)),
            [run] => leaf(self, run.class),
            _ => {
                let (left, right) = runs.split_at(runs.len() / 2);
                let at = self.len;
                self.emit(GREATER_EQUAL, 0, 0, right[0].start);
                self.tree(left, leaf);
                self.aim_over(at);
                self.tree(right, leaf);
            }
        }
    }

    /// Makes a comparison jump, if it holds, over all that was emitted after it.
    fn aim_over(&mut self, at: usize) {
        let (first, end) = (at + 1, self.len);
        if let Ok(skipped) = u8::try_from(end - first) {
            self.code[at].jt = skipped;
            return;
        }
        // Too far for a comparison: it chooses between a long jump and what it goes over, which moves
        // by one. Jumps within it are relative and stay right.
        self.emit(JUMP, 0, 0, 0);
        self.code.copy_within(first..end, first + 1);
        let k = u32::try_from(end - first).unwrap_or(u32::MAX);
        self.code[first] = Instruction { code: JUMP, jt: 0, jf: 0, k };
        self.code[at].jf = 1;
    }

    fn native_tree(&mut self, runs: &[Run]) {
        self.tree(runs, |program, class| match class {
            Class::Native => program.give(RET_ALLOW),
            // Aimed at the tail once its place is known.
            _ => program.emit(JUMP, 0, 0, u32::MAX),
        });
    }

    fn aim_jumps(&mut self, from: usize, target: usize) {
        for at in from..target {
            if self.code[at].code == JUMP && self.code[at].k == u32::MAX {
                self.code[at].k = u32::try_from(target - at - 1).unwrap_or(0);
            }
        }
    }

    fn shim_calls(&mut self, bell: Bell) {
        let answer = match bell {
            Bell::Notify => RET_NOTIFY,
            Bell::Solo => ret_errno(Errno::EOPNOTSUPP),
        };
        self.emit(LOAD, 0, 0, AT_IP_HIGH);
        self.emit(EQUAL, 0, 6, RESERVED_HIGH);
        self.emit(LOAD, 0, 0, AT_IP_LOW);
        self.emit(GREATER_EQUAL, 4, 0, low(layout::TEXT_END));
        self.emit(LOAD, 0, 0, AT_NR);
        self.emit(EQUAL, 0, 1, low(doorbell::NR));
        self.give(answer);
        self.give(RET_ALLOW);
    }

    fn class_tree(&mut self, runs: &[Run]) {
        self.tree(runs, |program, class| match class {
            // Never reached.
            Class::Native => program.give(RET_ALLOW),
            Class::Trap => program.give(RET_TRAP),
            Class::Refuse(errno) => program.give(ret_errno(errno)),
            Class::Mapping => program.mapping(),
            Class::Remapping => program.remapping(),
            Class::Attaching => program.attaching(),
            Class::Futex => program.futex(),
            Class::Terminal => program.allow_unless(1, 0xff00, 0x5400),
            Class::DescriptorFlags => program.descriptor_flags(),
            Class::PeerCredentials => program.allow_unless(2, u32::MAX, 17),
            Class::OtherProcess => program.allow_if_zero(0),
            Class::Watch => program.allow_unless(1, u32::MAX, 1),
            Class::Random => program.random(),
            Class::CpuClock => program.cpu_clock(),
        });
    }

    fn allow_or_trap(&mut self) {
        self.give(RET_ALLOW);
        self.give(RET_TRAP);
    }

    fn mapping(&mut self) {
        // Long ranges, and those that begin in the reserved one or in the 4 GiB before it.
        self.emit(LOAD, 0, 0, at_arg(1) + 4);
        self.emit(EQUAL, 0, 4, 0);
        self.emit(LOAD, 0, 0, at_arg(0) + 4);
        self.emit(EQUAL, 2, 0, RESERVED_HIGH);
        self.emit(EQUAL, 1, 0, RESERVED_HIGH - 1);
        self.allow_or_trap();
    }

    fn remapping(&mut self) {
        const MREMAP_FIXED: u32 = 2;
        self.emit(LOAD, 0, 0, at_arg(3));
        self.emit(AND, 0, 0, MREMAP_FIXED);
        self.emit(EQUAL, 1, 0, 0);
        self.give(RET_TRAP);
        self.mapping();
    }

    fn attaching(&mut self) {
        self.emit(LOAD, 0, 0, at_arg(1));
        self.emit(EQUAL, 0, 3, 0);
        self.emit(LOAD, 0, 0, at_arg(1) + 4);
        self.emit(EQUAL, 0, 1, 0);
        self.allow_or_trap();
    }

    fn futex(&mut self) {
        // Wake, requeue, wake-op have no deadline; wait and wait-bitset may; the rest inherits priority:
        // its locks are trapped, its condition variables, which C libraries gave up, refused.
        self.emit(LOAD, 0, 0, at_arg(1));
        self.emit(AND, 0, 0, 0x7f);
        self.emit(EQUAL, 7, 0, 0);
        self.emit(EQUAL, 6, 0, 9);
        self.emit(GREATER_EQUAL, 0, 4, 6);
        self.emit(EQUAL, 3, 0, 10);
        self.emit(EQUAL, 8, 0, 13);
        self.emit(GREATER_EQUAL, 0, 7, 9);
        self.give(ret_errno(Errno::ENOSYS));
        self.give(RET_ALLOW);
        self.emit(LOAD, 0, 0, at_arg(3));
        self.emit(EQUAL, 0, 3, 0);
        self.emit(LOAD, 0, 0, at_arg(3) + 4);
        self.emit(EQUAL, 0, 1, 0);
        self.allow_or_trap();
    }

    /// Allows unless `argument & mask == value`.
    fn allow_unless(&mut self, argument: u32, mask: u32, value: u32) {
        self.emit(LOAD, 0, 0, at_arg(argument));
        self.emit(AND, 0, 0, mask);
        self.emit(EQUAL, 1, 0, value);
        self.allow_or_trap();
    }

    fn allow_if_zero(&mut self, argument: u32) {
        self.emit(LOAD, 0, 0, at_arg(argument));
        self.emit(EQUAL, 0, 1, 0);
        self.allow_or_trap();
    }

    /// getrandom(2): up to 256 bytes come whole.
    fn random(&mut self) {
        self.emit(LOAD, 0, 0, at_arg(1) + 4);
        self.emit(EQUAL, 0, 3, 0);
        self.emit(LOAD, 0, 0, at_arg(1));
        self.emit(GREATER_EQUAL, 1, 0, 257);
        self.allow_or_trap();
    }

    fn cpu_clock(&mut self) {
        // Of the process, of the thread, and the negative ones, which name whose they are.
        self.emit(LOAD, 0, 0, at_arg(0));
        self.emit(GREATER_EQUAL, 3, 0, 0x8000_0000);
        self.emit(GREATER_EQUAL, 0, 1, 2);
        self.emit(GREATER_EQUAL, 0, 1, 4);
        self.allow_or_trap();
    }

    fn descriptor_flags(&mut self) {
        // F_GETFD, F_SETFD, F_GETFL, F_SETFL.
        self.emit(LOAD, 0, 0, at_arg(1));
        self.emit(GREATER_EQUAL, 0, 2, 1);
        self.emit(GREATER_EQUAL, 1, 0, 5);
        self.allow_or_trap();
    }
}

mod strict;
pub use strict::STRICT;

#[cfg(test)]
mod tests;
