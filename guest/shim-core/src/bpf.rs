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
pub const PROGRAM_MAX: usize = 2048;

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
pub const GUEST_PROLOGUE: [Instruction; 6] = [
    Instruction { code: LOAD, jt: 0, jf: 0, k: AT_IP_HIGH },
    Instruction { code: EQUAL, jt: 0, jf: 3, k: RESERVED_HIGH },
    Instruction { code: LOAD, jt: 0, jf: 0, k: AT_IP_LOW },
    Instruction { code: GREATER_EQUAL, jt: 1, jf: 0, k: low(layout::TEXT_END) },
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
        self.emit(LOAD, 0, 0, at_arg(0) + 4);
        self.emit(EQUAL, 1, 0, RESERVED_HIGH);
        self.allow_or_trap();
    }

    fn futex(&mut self) {
        // Wake, requeue, wake-op have no deadline; wait and wait-bitset may; the rest inherits priority.
        self.emit(LOAD, 0, 0, at_arg(1));
        self.emit(AND, 0, 0, 0x7f);
        self.emit(EQUAL, 5, 0, 0);
        self.emit(EQUAL, 4, 0, 9);
        self.emit(GREATER_EQUAL, 0, 2, 6);
        self.emit(EQUAL, 1, 0, 10);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::nr;

    struct Call {
        arch: u32,
        nr: u32,
        ip: u64,
        args: [u64; 6],
    }

    fn run(program: &Program, call: &Call) -> u32 {
        run_code(program.instructions(), call)
    }

    fn run_code(code: &[Instruction], call: &Call) -> u32 {
        let mut data = [0u8; 64];
        data[0..4].copy_from_slice(&call.nr.to_le_bytes());
        data[4..8].copy_from_slice(&call.arch.to_le_bytes());
        data[8..16].copy_from_slice(&call.ip.to_le_bytes());
        for (index, arg) in call.args.iter().enumerate() {
            data[16 + 8 * index..24 + 8 * index].copy_from_slice(&arg.to_le_bytes());
        }
        let (mut at, mut acc) = (0usize, 0u32);
        loop {
            let i = code[at];
            at += 1;
            match i.code {
                LOAD => {
                    let k = i.k as usize;
                    acc = u32::from_le_bytes(data[k..k + 4].try_into().expect("four bytes"));
                }
                JUMP => at += i.k as usize,
                EQUAL => at += usize::from(if acc == i.k { i.jt } else { i.jf }),
                GREATER_EQUAL => at += usize::from(if acc >= i.k { i.jt } else { i.jf }),
                LOAD_CONSTANT => acc = i.k,
                AND => acc &= i.k,
                RETURN => return i.k,
                other => panic!("unknown operation {other:#x}"),
            }
        }
    }

    fn guest(nr: u64, args: [u64; 6]) -> u32 {
        let call = Call {
            arch: ARCH_X86_64,
            nr: u32::try_from(nr).expect("a number"),
            ip: 0x5555_0000,
            args,
        };
        run(&Program::filter(Bell::Notify), &call)
    }

    #[test]
    fn every_number_answers_its_class() {
        let program = Program::filter(Bell::Notify);
        for nr in 0..1200u32 {
            let got = run(&program, &Call { arch: ARCH_X86_64, nr, ip: 0x40_0000, args: [0; 6] });
            let want = match class(nr) {
                Class::Native | Class::Mapping | Class::Futex | Class::Terminal => RET_ALLOW,
                Class::PeerCredentials | Class::OtherProcess | Class::Random => RET_ALLOW,
                Class::CpuClock | Class::Watch => RET_ALLOW,
                Class::Trap | Class::DescriptorFlags => RET_TRAP,
                Class::Refuse(errno) => ret_errno(errno),
            };
            assert_eq!(got, want, "call {nr}");
        }
    }

    #[test]
    fn the_shims_own_calls_pass() {
        for bell in [Bell::Notify, Bell::Solo] {
            let program = Program::filter(bell);
            let call = |nr: u64, ip| Call {
                arch: ARCH_X86_64,
                nr: u32::try_from(nr).expect("nr"),
                ip,
                args: [0; 6],
            };
            assert_eq!(run(&program, &call(nr::EXECVE, layout::TEXT_START)), RET_ALLOW);
            assert_eq!(run(&program, &call(nr::EXECVE, layout::TEXT_END - 1)), RET_ALLOW);
            assert_eq!(run(&program, &call(nr::EXECVE, layout::TEXT_END)), RET_TRAP);
            assert_eq!(run(&program, &call(nr::EXECVE, layout::TEXT_START - 1)), RET_TRAP);
            let answer =
                if bell == Bell::Notify { RET_NOTIFY } else { ret_errno(Errno::EOPNOTSUPP) };
            assert_eq!(run(&program, &call(doorbell::NR, layout::TEXT_START + 9)), answer);
            assert_eq!(run(&program, &call(doorbell::NR, 0x1234)), ret_errno(Errno::ENOSYS));
        }
    }

    #[test]
    fn a_guests_filter_judges_only_the_guest() {
        let mut program = Program { code: [Instruction::default(); PROGRAM_MAX], len: 0 };
        for i in GUEST_PROLOGUE {
            program.emit(i.code, i.jt, i.jf, i.k);
        }
        program.emit(EQUAL, 0, 1, 0);
        program.give(RET_TRAP);
        program.give(RET_NOTIFY);
        let at = |ip| run(&program, &Call { arch: ARCH_X86_64, nr: 1, ip, args: [0; 6] });
        assert_eq!(at(layout::TEXT_START), RET_ALLOW);
        assert_eq!(at(layout::TEXT_END), RET_TRAP);
        assert_eq!(at(0x40_0000), RET_TRAP);
    }

    #[test]
    fn foreign_architectures_and_x32_are_refused() {
        let program = Program::filter(Bell::Notify);
        let i386 = Call { arch: 0x4000_0003, nr: 1, ip: 0, args: [0; 6] };
        assert_eq!(run(&program, &i386), ret_errno(Errno::ENOSYS));
        assert_eq!(guest(0x4000_0001, [0; 6]), ret_errno(Errno::ENOSYS));
    }

    #[test]
    fn arguments_decide_where_the_class_says_so() {
        let reserved = layout::DATA_START;
        assert_eq!(guest(nr::MUNMAP, [reserved, 1, 0, 0, 0, 0]), RET_TRAP);
        assert_eq!(guest(nr::MUNMAP, [layout::END, 1, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(guest(nr::FUTEX, [0, 128, 0, 0, 0, 0]), RET_ALLOW, "wait");
        assert_eq!(guest(nr::FUTEX, [0, 128, 0, 8, 0, 0]), RET_TRAP, "wait with deadline");
        assert_eq!(guest(nr::FUTEX, [0, 128 + 9, 0, 8 << 32, 0, 0]), RET_TRAP);
        assert_eq!(guest(nr::FUTEX, [0, 128 + 1, 0, 8, 0, 0]), RET_ALLOW, "wake");
        assert_eq!(guest(nr::FUTEX, [0, 10, 0, 8, 0, 0]), RET_ALLOW, "wake bitset");
        assert_eq!(guest(nr::FUTEX, [0, 6, 0, 0, 0, 0]), ret_errno(Errno::ENOSYS), "lock PI");
        for (clock, want) in [(1, RET_ALLOW), (2, RET_TRAP), (3, RET_TRAP), (4, RET_ALLOW)] {
            assert_eq!(guest(nr::CLOCK_GETTIME, [clock, 0, 0, 0, 0, 0]), want, "clock {clock}");
        }
        assert_eq!(guest(nr::CLOCK_GETTIME, [0xffff_fffe, 0, 0, 0, 0, 0]), RET_TRAP);
        assert_eq!(guest(nr::CLOCK_GETTIME, [11, 0, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(guest(nr::IOCTL, [0, 0x5401, 0, 0, 0, 0]), RET_TRAP);
        assert_eq!(guest(nr::IOCTL, [0, 0x8912, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(guest(nr::FCNTL, [0, 2, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(guest(nr::FCNTL, [0, 4, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(guest(nr::FCNTL, [0, 5, 0, 0, 0, 0]), RET_TRAP);
        assert_eq!(guest(nr::GETSOCKOPT, [0, 1, 17, 0, 0, 0]), RET_TRAP);
        assert_eq!(guest(nr::GETRANDOM, [0, 256, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(guest(nr::GETRANDOM, [0, 257, 0, 0, 0, 0]), RET_TRAP);
        assert_eq!(guest(nr::GETRANDOM, [0, 1 << 32, 0, 0, 0, 0]), RET_TRAP);
        assert_eq!(guest(nr::PRLIMIT64, [5, 0, 0, 0, 0, 0]), RET_TRAP);
    }

    #[test]
    fn the_second_filter_traps_its_calls_of_the_guest_only() {
        let ask =
            |nr, ip| run_code(&WIDE, &Call { arch: ARCH_X86_64, nr: low(nr), ip, args: [0; 6] });
        for number in 0..512 {
            let wanted = if crate::table::WIDE.contains(&number) { RET_TRAP } else { RET_ALLOW };
            assert_eq!(ask(number, 0x40_0000), wanted, "{number}");
            assert_eq!(ask(number, layout::TEXT_START), RET_ALLOW, "{number}");
            assert_eq!(ask(number, layout::TEXT_END), wanted, "{number}");
        }
        assert_eq!(ask(WIDE_PROBE, layout::TEXT_START), ret_errno(Errno::EALREADY));
        assert_eq!(ask(WIDE_PROBE, 0x40_0000), RET_ALLOW);
        assert_eq!(ask(doorbell::NR, layout::TEXT_START), RET_ALLOW);
        let other = Call { arch: 1, nr: low(nr::PREAD64), ip: 0x40_0000, args: [0; 6] };
        assert_eq!(run_code(&WIDE, &other), RET_ALLOW);
    }
}
