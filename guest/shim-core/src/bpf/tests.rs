//! The programs, run by an interpreter of classic BPF.

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
    let call =
        Call { arch: ARCH_X86_64, nr: u32::try_from(nr).expect("a number"), ip: 0x5555_0000, args };
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
        let answer = if bell == Bell::Notify { RET_NOTIFY } else { ret_errno(Errno::EOPNOTSUPP) };
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
    let ask = |nr, ip| run_code(&WIDE, &Call { arch: ARCH_X86_64, nr: low(nr), ip, args: [0; 6] });
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
