//! Job control as a shell sees it, one scenario a rule; each names its source.

use dunix_guest_abi::arena::{SLOT_BACKGROUND, SLOT_HAS_TERMINAL, SLOT_TOSTOP};
use dunix_ids::Pid;
use dunix_job_control::{
    Access, Caller, Effect, JobControl, Operation, Refusal, Request, TerminalId, Verdict, View,
};

const T: TerminalId = TerminalId(3);
const SIGINT: u8 = 2;
const SIGTSTP: u8 = 20;

fn pid(raw: u32) -> Pid {
    Pid::new(raw).unwrap()
}

fn member(raw: u32, group: u32) -> Caller {
    Caller { pid: pid(raw), group: pid(group), session: pid(10) }
}

fn set_controlling() -> Request {
    Request::SetControlling { steal: false, readable: true, privileged: false, tostop: false }
}

fn set_foreground(group: u32) -> Request {
    Request::SetForeground { group: group.cast_signed(), session: Some(pid(10)) }
}

/// A shell, session 10, on terminal 3.
fn shell() -> (JobControl, Caller) {
    let mut control = JobControl::new();
    let shell = member(10, 10);
    let mut effects = Vec::new();
    assert_eq!(control.handle_request(shell, T, set_controlling(), &mut effects), Ok(0));
    let view = View { terminal: T, serial: 1, foreground: pid(10), tostop: false };
    let publish = Effect::Publish { session: pid(10), view: Some(view) };
    assert_eq!(effects, [Effect::Attach(T), publish]);
    control.check_invariants();
    (control, shell)
}

/// One request that must be answered and whose effects are wanted.
fn ask(control: &mut JobControl, caller: Caller, request: Request) -> Vec<Effect> {
    let mut effects = Vec::new();
    assert_eq!(control.handle_request(caller, T, request, &mut effects), Ok(0));
    control.check_invariants();
    effects
}

fn refused(control: &mut JobControl, caller: Caller, request: Request) -> Refusal {
    let mut effects = Vec::new();
    let refusal = control.handle_request(caller, T, request, &mut effects).unwrap_err();
    assert!(effects.is_empty(), "a refused request has no effect");
    refusal
}

/// tcsetpgrp(3): the shell hands the terminal to a job and takes it back.
#[test]
fn a_shell_moves_the_foreground() {
    let (mut control, shell) = shell();
    ask(&mut control, shell, set_foreground(20));
    let view = control.view(pid(10)).unwrap();
    assert_eq!(view.slot_flags(pid(20)), SLOT_HAS_TERMINAL);
    assert_eq!(view.slot_flags(pid(10)), SLOT_HAS_TERMINAL | SLOT_BACKGROUND);
    let mut effects = Vec::new();
    let asked = Request::Foreground { master: false };
    assert_eq!(control.handle_request(member(20, 20), T, asked, &mut effects), Ok(20));
    assert_eq!(ask(&mut control, shell, set_foreground(20)), [], "no change, nothing published");
}

/// POSIX 11.1.9: INTR, QUIT and SUSP reach the foreground group only.
#[test]
fn line_signals_reach_the_foreground_group() {
    let (mut control, shell) = shell();
    ask(&mut control, shell, set_foreground(20));
    for signal in [SIGINT, SIGTSTP] {
        let mut effects = Vec::new();
        control.handle_line_signal(T, signal, &mut effects);
        assert_eq!(effects, [Effect::SignalGroup { group: pid(20), signal }]);
    }
}

/// tty_ioctl(4), TIOCSCTTY: EPERM for a non-leader, for a leader that has one, for one that is
/// taken; not an error if the caller has it already.
#[test]
fn set_controlling_has_its_conditions() {
    let (mut control, shell) = shell();
    assert_eq!(ask(&mut control, shell, set_controlling()), []);
    assert_eq!(refused(&mut control, member(11, 10), set_controlling()), Refusal::NotPermitted);
    let other = Caller { pid: pid(30), group: pid(30), session: pid(30) };
    assert_eq!(refused(&mut control, other, set_controlling()), Refusal::NotPermitted);
    let mut effects = Vec::new();
    let second = control.handle_request(shell, TerminalId(4), set_controlling(), &mut effects);
    assert_eq!(second, Err(Refusal::NotPermitted));
    let unreadable =
        Request::SetControlling { steal: false, readable: false, privileged: false, tostop: false };
    let free = control.handle_request(other, TerminalId(4), unreadable, &mut effects);
    assert_eq!(free, Err(Refusal::NotPermitted));
}

/// tty_ioctl(4), TIOCSCTTY with 1: root takes it, and the old session loses it.
#[test]
fn root_steals_a_terminal() {
    let (mut control, _) = shell();
    let root = Caller { pid: pid(30), group: pid(30), session: pid(30) };
    let steal = |privileged| Request::SetControlling {
        steal: true,
        readable: true,
        privileged,
        tostop: true,
    };
    assert_eq!(refused(&mut control, root, steal(false)), Refusal::NotPermitted);
    let effects = ask(&mut control, root, steal(true));
    assert_eq!(effects[0], Effect::Publish { session: pid(10), view: None });
    assert_eq!(effects[1..3], [Effect::Detach(T), Effect::Attach(T)]);
    assert_eq!(control.session_of(T), Some(pid(30)));
    assert_eq!(control.view(pid(30)).unwrap().serial, 2);
    let flags = control.view(pid(30)).unwrap().slot_flags(pid(30));
    assert_eq!(flags, SLOT_HAS_TERMINAL | SLOT_TOSTOP);
}

/// tcsetpgrp(3): ENOTTY, EINVAL, ESRCH, EPERM.
#[test]
fn set_foreground_has_its_errors() {
    let (mut control, shell) = shell();
    let other = Caller { pid: pid(30), group: pid(30), session: pid(30) };
    assert_eq!(refused(&mut control, other, set_foreground(20)), Refusal::NotControlling);
    let to = |group, session| Request::SetForeground { group, session };
    assert_eq!(refused(&mut control, shell, to(-1, Some(pid(10)))), Refusal::Invalid);
    assert_eq!(refused(&mut control, shell, to(77, None)), Refusal::NoSuchGroup);
    assert_eq!(refused(&mut control, shell, to(30, Some(pid(30)))), Refusal::NotPermitted);
    let errnos = [Refusal::NotControlling, Refusal::Invalid, Refusal::NoSuchGroup];
    assert_eq!(errnos.map(Refusal::errno), [25, 22, 3]);
}

/// The master side answers anyone (tmux names its windows so); the slave only its session.
#[test]
fn the_master_tells_the_foreground_group() {
    let (mut control, _) = shell();
    let tmux = Caller { pid: pid(30), group: pid(30), session: pid(30) };
    let mut effects = Vec::new();
    let mut ask = |request| control.handle_request(tmux, T, request, &mut effects);
    assert_eq!(ask(Request::Foreground { master: true }), Ok(10));
    assert_eq!(ask(Request::Session { master: true }), Ok(10));
    assert_eq!(ask(Request::Foreground { master: false }), Err(Refusal::NotControlling));
    let free = control.handle_request(
        tmux,
        TerminalId(9),
        Request::Session { master: true },
        &mut effects,
    );
    assert_eq!(free, Err(Refusal::NotControlling));
}

/// POSIX 11.1.4: terminal access control, all its cases.
#[test]
fn background_access() {
    let (mut control, shell) = shell();
    ask(&mut control, shell, set_foreground(20));
    let job = member(31, 30);
    let verdict = |control: &JobControl, caller, operation, shielded, orphaned| {
        let mut effects = Vec::new();
        let access = Access { operation, shielded, orphaned };
        (control.handle_access(caller, T, access, &mut effects), effects)
    };
    let ttin = vec![Effect::SignalGroup { group: pid(30), signal: 21 }];
    let ttou = vec![Effect::SignalGroup { group: pid(30), signal: 22 }];
    let none = Vec::new;
    use Operation::{Change, Read, Write};
    assert_eq!(verdict(&control, job, Read, false, false), (Verdict::Signalled, ttin));
    assert_eq!(verdict(&control, job, Read, true, false), (Verdict::Fail, none()));
    assert_eq!(verdict(&control, job, Read, false, true), (Verdict::Fail, none()));
    assert_eq!(verdict(&control, job, Write, false, false), (Verdict::Proceed, none()));
    assert_eq!(verdict(&control, job, Change, false, false), (Verdict::Signalled, ttou.clone()));
    assert_eq!(verdict(&control, job, Change, true, true), (Verdict::Proceed, none()));
    assert_eq!(verdict(&control, job, Change, false, true), (Verdict::Fail, none()));
    assert_eq!(verdict(&control, member(20, 20), Read, false, false), (Verdict::Proceed, none()));
    let stranger = Caller { pid: pid(40), group: pid(40), session: pid(40) };
    assert_eq!(verdict(&control, stranger, Read, false, false), (Verdict::Proceed, none()));
    control.handle_tostop(T, true, &mut Vec::new());
    assert_eq!(verdict(&control, job, Write, false, false), (Verdict::Signalled, ttou));
}

/// Linux `tty_signal_session_leader`, `disassociate_ctty`: at the hang-up the leader, at its exit
/// the group that was in the foreground.
#[test]
fn hang_up_signals_the_leader_then_the_foreground() {
    let (mut control, shell) = shell();
    ask(&mut control, shell, set_foreground(20));
    let mut effects = Vec::new();
    control.handle_line_signal(T, 1, &mut effects);
    control.handle_line_signal(T, 18, &mut effects);
    let leader = |signal| Effect::SignalProcess { pid: pid(10), signal };
    let gone = Effect::Publish { session: pid(10), view: None };
    assert_eq!(effects, [gone, Effect::Detach(T), leader(1), leader(18)]);
    assert!(control.holds(pid(20)), "the group's number is still named");
    effects.clear();
    control.handle_leader_exit(pid(10), &mut effects);
    let group = |signal| Effect::SignalGroup { group: pid(20), signal };
    assert_eq!(effects, [group(1), group(18)]);
    assert!(!control.holds(pid(20)) && !control.holds(pid(10)));
}

/// POSIX _exit(): a controlling process's exit sends SIGHUP to the foreground group and frees
/// the terminal.
#[test]
fn the_leaders_exit_frees_the_terminal() {
    let (mut control, shell) = shell();
    ask(&mut control, shell, set_foreground(20));
    let mut effects = Vec::new();
    control.handle_leader_exit(pid(10), &mut effects);
    assert!(effects.contains(&Effect::SignalGroup { group: pid(20), signal: 1 }));
    assert!(effects.contains(&Effect::Detach(T)));
    let next = Caller { pid: pid(50), group: pid(50), session: pid(50) };
    ask(&mut control, next, set_controlling());
    control.handle_line_signal(T, SIGINT, &mut effects);
    assert_eq!(effects.last(), Some(&Effect::SignalGroup { group: pid(50), signal: SIGINT }));
}

/// tty_ioctl(4), TIOCNOTTY: a leader's takes the terminal from the session; another process
/// leaves alone, and its children with it.
#[test]
fn giving_up_the_terminal() {
    let (mut control, shell) = shell();
    let leaver = member(12, 12);
    assert_eq!(
        ask(&mut control, leaver, Request::GiveUp),
        [Effect::Leave { session: pid(10), pid: pid(12) }]
    );
    assert_eq!(refused(&mut control, leaver, Request::GiveUp), Refusal::NotControlling);
    let mut effects = Vec::new();
    control.handle_fork(pid(10), pid(12), pid(13), &mut effects);
    assert_eq!(effects, [Effect::Leave { session: pid(10), pid: pid(13) }]);
    assert_eq!(control.terminal_of(member(13, 12)), None);
    assert_eq!(control.terminal_of(shell), Some(T));
    control.handle_exit(pid(10), pid(12));
    assert_eq!(control.terminal_of(leaver), Some(T), "a number used again has left nothing");
    let effects = ask(&mut control, shell, Request::GiveUp);
    assert!(effects.contains(&Effect::SignalGroup { group: pid(10), signal: 1 }));
    assert!(effects.contains(&Effect::SignalGroup { group: pid(10), signal: 18 }));
    assert_eq!(control.view(pid(10)), None);
}
