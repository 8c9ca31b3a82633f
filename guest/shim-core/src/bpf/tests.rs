//! The programs, run by an interpreter of classic BPF.

use super::*;
use crate::table::nr;
use std::vec::Vec;

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

/// What the filter is to answer: the table's words, one after the other.
fn wanted(bell: Bell, call: &Call) -> u32 {
    if call.arch != ARCH_X86_64 {
        return ret_errno(Errno::ENOSYS);
    }
    let class = class(call.nr);
    let native = |is_native| if is_native { RET_ALLOW } else { RET_TRAP };
    let is_of_the_shim = (layout::TEXT_START..layout::TEXT_END).contains(&call.ip);
    if class == Class::Native {
        return RET_ALLOW;
    }
    if is_of_the_shim {
        return match bell {
            _ if u64::from(call.nr) != doorbell::NR => RET_ALLOW,
            Bell::Notify => RET_NOTIFY,
            Bell::Solo => ret_errno(Errno::EOPNOTSUPP),
        };
    }
    // Numbers, sizes of requests and clocks are the kernel's `int`s.
    let [first, second, third, fourth, ..] = call.args;
    match class {
        Class::Native => RET_ALLOW,
        Class::Trap => RET_TRAP,
        Class::Refuse(errno) => ret_errno(errno),
        Class::Remapping if low(fourth) & 2 != 0 => RET_TRAP,
        Class::Mapping | Class::Remapping => {
            let is_long = second >> 32 != 0;
            let before = layout::BASE - (1 << 32);
            native(!is_long && !(before..layout::END).contains(&first))
        }
        Class::Attaching => native(second == 0),
        Class::Futex => match low(second) & 0x7f {
            0 | 9 => native(fourth == 0),
            1..=5 | 10 => RET_ALLOW,
            6..=8 | 13 => RET_TRAP,
            _ => ret_errno(Errno::ENOSYS),
        },
        Class::Terminal => native(low(second) & 0xff00 != 0x5400),
        Class::DescriptorFlags => native((1..=4).contains(&low(second))),
        Class::PeerCredentials => native(low(third) != 17),
        Class::Watch => native(low(second) != 1),
        Class::OtherProcess => native(low(first) == 0),
        Class::CpuClock => native(matches!(low(first), 0 | 1 | 4..0x8000_0000)),
        Class::Random => native(second <= 256),
    }
}

/// Arguments at which some class decides otherwise, and their neighbours.
fn telling_arguments() -> Vec<u64> {
    let mut values: Vec<u64> = (0..24).collect();
    values.extend([0x7f, 0x80, 0x81, 0x89, 0x8a, 0xff, 256, 257, 0x53ff, 0x5400, 0x54ff, 0x5500]);
    values.extend([0x8912, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff, 1 << 32, 17 << 32]);
    values.extend([layout::BASE, layout::DATA_START, layout::END].map(|at| at - 1));
    values.extend([layout::BASE, layout::DATA_START, layout::END]);
    values.extend([(1 << 63) | 1, u64::MAX]);
    values
}

#[test]
fn every_call_is_decided_as_its_class_says() {
    let last = ROWS.last().map_or(0, |row| row.nr);
    let bell = low(doorbell::NR);
    let ends = [0x4000_0000, 0x4000_0001, bell - 1, bell, bell + 1, i32::MAX as u32, 1 << 31];
    let numbers: Vec<u32> = (0..last + 200).chain(ends).chain([u32::MAX]).collect();
    let edges = [layout::TEXT_START, layout::TEXT_END, layout::END];
    let places = edges.into_iter().flat_map(|at| [at - 1, at]).chain([0, 0x40_0000, u64::MAX]);
    let places: Vec<u64> = places.collect();
    let telling = telling_arguments();
    for bell in [Bell::Notify, Bell::Solo] {
        let program = Program::filter(bell);
        for &nr in &numbers {
            for &ip in &places {
                // Each of the first four arguments in turn; for futex(2) two of them count.
                for (index, &value) in (0..4).flat_map(|i| telling.iter().map(move |v| (i, v))) {
                    for operation in [0, 9] {
                        let mut args = [0, operation, 0, 0, 0, 0];
                        args[index] = value;
                        let call = Call { arch: ARCH_X86_64, nr, ip, args };
                        let (got, wanted) = (run(&program, &call), wanted(bell, &call));
                        assert_eq!(got, wanted, "call {nr} at {ip:#x} with {args:x?}");
                    }
                }
            }
            for arch in [0, 0x4000_0003, 0xc000_00b7] {
                let call = Call { arch, nr, ip: layout::TEXT_START, args: [0; 6] };
                assert_eq!(run(&program, &call), wanted(bell, &call), "call {nr} of {arch:#x}");
            }
        }
    }
}

/// Longer than any half of today's filter, so that comparisons do not reach over it.
#[test]
fn a_tree_too_long_for_comparisons_is_searched_all_the_same() {
    let errnos = [Errno::EPERM, Errno::ENOENT, Errno::ESRCH, Errno::EINTR, Errno::EIO];
    let errno = |at: u32| errnos[at as usize % errnos.len()];
    let class =
        |at: u32| if at.is_multiple_of(2) { Class::Futex } else { Class::Refuse(errno(at)) };
    let runs: Vec<Run> = (0..100).map(|at| Run { start: at * 3, class: class(at) }).collect();
    let mut program = Program { code: [Instruction::default(); PROGRAM_MAX], len: 0 };
    program.emit(LOAD, 0, 0, AT_NR);
    program.class_tree(&runs);
    assert!(program.code[1].jt == 0 && program.code[2].code == JUMP, "it is too short");
    for nr in 0..300 {
        let got = run(&program, &Call { arch: 0, nr, ip: 0, args: [0, 0, 0, 1, 0, 0] });
        let wanted = match class(nr / 3) {
            Class::Refuse(errno) => ret_errno(errno),
            _ => RET_TRAP,
        };
        assert_eq!(got, wanted, "call {nr}");
    }
}

#[test]
fn every_number_answers_its_class() {
    let program = Program::filter(Bell::Notify);
    for nr in 0..1200u32 {
        let got = run(&program, &Call { arch: ARCH_X86_64, nr, ip: 0x40_0000, args: [0; 6] });
        let want = match class(nr) {
            Class::Native | Class::Mapping | Class::Remapping | Class::Futex => RET_ALLOW,
            Class::PeerCredentials | Class::OtherProcess | Class::Random => RET_ALLOW,
            Class::CpuClock | Class::Watch | Class::Terminal | Class::Attaching => RET_ALLOW,
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
    assert_eq!(guest(nr::MUNMAP, [0, 1 << 46, 0, 0, 0, 0]), RET_TRAP);
    assert_eq!(guest(nr::FUTEX, [0, 128, 0, 0, 0, 0]), RET_ALLOW, "wait");
    assert_eq!(guest(nr::FUTEX, [0, 128, 0, 8, 0, 0]), RET_TRAP, "wait with deadline");
    assert_eq!(guest(nr::FUTEX, [0, 128 + 9, 0, 8 << 32, 0, 0]), RET_TRAP);
    assert_eq!(guest(nr::FUTEX, [0, 128 + 1, 0, 8, 0, 0]), RET_ALLOW, "wake");
    assert_eq!(guest(nr::FUTEX, [0, 10, 0, 8, 0, 0]), RET_ALLOW, "wake bitset");
    assert_eq!(guest(nr::FUTEX, [0, 6, 0, 0, 0, 0]), RET_TRAP, "lock PI");
    assert_eq!(guest(nr::FUTEX, [0, 11, 0, 0, 0, 0]), ret_errno(Errno::ENOSYS));
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

#[test]
fn strict_mode_leaves_four_calls_and_the_shims() {
    let trap = RET_TRAP | crate::verdict::STRICT;
    let ask = |arch, nr, ip| run_code(&STRICT, &Call { arch, nr, ip, args: [0; 6] });
    for number in (0..512).chain([0x4000_0000, 0x4000_0001, low(doorbell::NR), u32::MAX]) {
        let is_left = [nr::READ, nr::WRITE, nr::EXIT, nr::RT_SIGRETURN].contains(&number.into());
        let wanted = if is_left { RET_ALLOW } else { trap };
        assert_eq!(ask(ARCH_X86_64, number, 0x40_0000), wanted, "{number}");
        assert_eq!(ask(ARCH_X86_64, number, layout::TEXT_END), wanted, "{number}");
        assert_eq!(ask(ARCH_X86_64, number, layout::TEXT_START), RET_ALLOW, "{number}");
        assert_eq!(ask(0x4000_0003, number, 0x40_0000), trap, "{number}");
    }
    assert_eq!(ask(ARCH_X86_64, low(GUEST_PROBE), layout::TEXT_START), ret_errno(Errno::EALREADY));
}
