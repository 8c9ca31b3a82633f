//! Timers of a process that is frozen: how they stand, to the nanosecond, and how they go on.
//!
//! A timer must neither lose nor gain an expiration, nor lose its rhythm, so what is kept is the instant
//! of its next expiration. The kernel tells only what is left: it is asked between two looks at the
//! clock, several times, and the closest pair counts.
//!
//! ```text
//! script   what is left of each ..., is a signal of theirs there? -- yes: nothing is stopped, again
//!                                                                  `- no: stop each
//! ```
//! What expires between the question and the stop is in the past of the instant that is kept, hence not
//! lost: an absolute timer that begins in the past fires at once, and counts all that it missed, as one
//! does whose process was stopped. Therefore what had fired and nobody had heard of is kept so as well.

use super::calls::*;
use super::clocks;
use super::pending::Member;
use super::restore::Batch;
use super::script::{Outcome, Script, host};
use dunix_guest_abi::moving::SCRIPT_START_REAL;
use dunix_ids::Pid;
use dunix_linux::Errno;
use dunix_wire::processes::Refusal;
use dunix_wire::processes::resident::{PosixTimer, Running, TIMERS_MAX, Timers};

/// Timers that one script asks about.
pub(super) const TIMERS_PER_SCRIPT: usize = 48;
/// How often each is asked what is left.
const LOOKS: usize = 4;
/// Greatest id that timers are counted up to, and one.
const IDS_COUNTED_MAX: u32 = 4096;
const NANOS: u64 = 1_000_000_000;
const SIGEV_NONE: u32 = 1;
const SIGEV_THREAD_ID: u32 = 4;
const TIMER_ABSTIME: u64 = 1;
const CLOCK_MONOTONIC: i32 = 1;
const ITIMER_REAL: u64 = 0;

/// A question in a script: where the answers will be.
struct Look {
    before: u64,
    setting: u64,
    after: u64,
}

/// What the kernel counts a timer's span in.
#[derive(Clone, Copy)]
enum Unit {
    Nanos,
    /// Rounded down.
    Micros,
}

/// Questions about some timers in a script.
#[derive(Default)]
pub(super) struct Asked {
    real: Vec<Look>,
    /// For each timer.
    posix: Vec<Vec<Look>>,
    /// What stopped timers of CPU time had left.
    of_cpu: Option<[u64; 2]>,
}

impl Asked {
    /// Asks about these timers; `is_all`: and about those of setitimer(2).
    pub(super) fn ask(script: &mut Script, timers: &[&PosixTimer], is_all: bool) -> Asked {
        let mut asked = Asked::default();
        asked.posix.resize_with(timers.len(), Vec::new);
        for _ in 0..LOOKS {
            if is_all {
                asked.real.push(look(script, CLOCK_MONOTONIC, GETITIMER, ITIMER_REAL));
            }
            for (timer, looks) in timers.iter().zip(&mut asked.posix) {
                looks.push(look(script, timer.clock, TIMER_GETTIME, u64::from(timer.id)));
            }
        }
        asked
    }

    /// Stops what was asked about.
    pub(super) fn stop(&mut self, script: &mut Script, timers: &[&PosixTimer], is_all: bool) {
        let zero = script.put(&[0; 32]);
        if is_all {
            script.must("setitimer", SETITIMER, [ITIMER_REAL, zero, 0, 0, 0, 0]);
            let old = [1, 2].map(|which| {
                let old = script.put(&[0; 32]);
                script.must("setitimer", SETITIMER, [which, zero, old, 0, 0, 0]);
                old
            });
            self.of_cpu = Some(old);
        }
        for timer in timers {
            script.must("timer_settime", TIMER_SETTIME, [u64::from(timer.id), 0, zero, 0, 0, 0]);
        }
    }

    /// How the timers of timer_create(2) stood.
    pub(super) fn posix(&self, outcome: &Outcome) -> Vec<Option<Running>> {
        self.posix.iter().map(|looks| running(outcome, looks, Unit::Nanos)).collect()
    }

    /// How those of setitimer(2) stood, if they were asked about and stopped.
    pub(super) fn intervals(&self, outcome: &Outcome, timers: &mut Timers) {
        if let Some(of_cpu) = self.of_cpu {
            timers.real = running(outcome, &self.real, Unit::Micros);
            timers.of_cpu = of_cpu.map(|at| outcome.words(at));
        }
    }
}

fn look(script: &mut Script, clock: i32, nr: u64, which: u64) -> Look {
    // The alarm clocks show the same time, but need not be there to be read.
    let clock = int(match clock {
        8 => 0,
        9 => 7,
        clock => clock,
    });
    let [before, setting, after] = [16, 32, 16].map(|bytes| script.put(&[0; 32][..bytes]));
    script.must("clock_gettime", CLOCK_GETTIME, [clock, before, 0, 0, 0, 0]);
    script.must("looking at a timer", nr, [which, setting, 0, 0, 0, 0]);
    script.must("clock_gettime", CLOCK_GETTIME, [clock, after, 0, 0, 0, 0]);
    Look { before, setting, after }
}

/// How a timer stands by the closest of these looks; `None` if it does not run.
fn running(outcome: &Outcome, looks: &[Look], unit: Unit) -> Option<Running> {
    let seen = looks.iter().filter_map(|look| {
        let [before, after] = [look.before, look.after].map(|at| clocks::nanos(outcome.words(at)));
        seen(before, outcome.words(look.setting), after, unit)
    });
    seen.min_by_key(|(apart, _)| *apart).map(|(_, running)| running)
}

/// One look: how far the clock went on meanwhile, and how the timer stood. Never before its time.
fn seen(before: u64, setting: [u64; 4], after: u64, unit: Unit) -> Option<(u64, Running)> {
    let (fraction, rest) = match unit {
        Unit::Nanos => (1, 0),
        Unit::Micros => (1000, 999),
    };
    let span = |seconds, parts: u64| clocks::nanos([seconds, parts.saturating_mul(fraction)]);
    let [period_s, period_part, left_s, left_part] = setting;
    if (left_s, left_part) == (0, 0) {
        return None;
    }
    let due = after.saturating_add(span(left_s, left_part)).saturating_add(rest);
    let running = Running { due: due.max(1), period: span(period_s, period_part) };
    Some((after.saturating_sub(before), running))
}

/// Starts the timers of setitimer(2), in the first thread.
pub(super) fn start_intervals(script: &mut Script, timers: &Timers) {
    if let Some(Running { due, period }) = timers.real {
        script.must("setitimer", SCRIPT_START_REAL, [due, period, 0, 0, 0, 0]);
    }
    for (which, setting) in (1_u64..).zip(&timers.of_cpu) {
        if setting[2..] != [0, 0] {
            let at = script.put_words(setting);
            script.must("setitimer", SETITIMER, [which, at, 0, 0, 0, 0]);
        }
    }
}

/// Starts a timer of timer_create(2).
pub(super) fn start_posix(script: &mut Script, timer: &PosixTimer) {
    let Some(Running { due, period }) = timer.running else { return };
    let at = script.put_words(&[period / NANOS, period % NANOS, due / NANOS, due % NANOS]);
    let id = u64::from(timer.id);
    script.must("timer_settime", TIMER_SETTIME, [id, TIMER_ABSTIME, at, 0, 0, 0]);
}

/// How timers get their ids back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ids {
    /// The kernel is told each (`PR_TIMER_CREATE_RESTORE_IDS`).
    Told,
    /// It counts from 0, as every kernel did before it could be told: others are made and deleted in between.
    Counted,
}

/// Adds the question whether the kernel can be told ids; its index. It can be from there on.
pub(super) fn ask_for_ids(script: &mut Script) -> usize {
    script.may(PRCTL, [PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0, 0])
}

/// Scripts that make the timers of timer_create(2) with their ids in a process that has had none; they do
/// not run yet.
pub(super) fn create_posix(
    timers: &[PosixTimer],
    ids: Ids,
    host_tid: impl Fn(Pid) -> Option<u32>,
) -> Result<(Batch, Vec<Created>), Refusal> {
    let mut timers: Vec<&PosixTimer> = timers.iter().collect();
    timers.sort_unstable_by_key(|timer| timer.id);
    let (mut batch, mut created) = (Batch::default(), Vec::new());
    let mut next = 0;
    for timer in timers {
        if ids == Ids::Counted {
            if timer.id >= IDS_COUNTED_MAX {
                let what = "a timer of timer_create(2) after thousands of others".into();
                return Err(Refusal::KernelState { what });
            }
            for id in next..timer.id {
                make_and_delete(batch.room(2, 128), id);
            }
            next = timer.id + 1;
        }
        let thread = match timer.thread {
            Some(tid) => host_tid(tid).ok_or(Refusal::Protocol)?,
            None => 0,
        };
        let script = batch.room(1, 128);
        let at = create(script, timer.clock, event(timer, thread), timer.id);
        created.push(Created { script: batch.0.len() - 1, at, id: timer.id });
    }
    if ids == Ids::Told {
        let args = [PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0, 0];
        batch.room(1, 0).must("keeping timer ids", PRCTL, args);
    }
    Ok((batch, created))
}

/// A timer that a batch makes: in which script, where its id will be, and what that must be.
pub(super) struct Created {
    script: usize,
    at: u64,
    id: u32,
}

impl Created {
    /// Whether it got its id.
    pub(super) fn check(&self, outcomes: &[Outcome]) -> Result<(), Refusal> {
        let bytes = outcomes.get(self.script).map(|outcome| outcome.bytes(self.at, 4));
        if bytes == Some(&self.id.to_ne_bytes()[..]) {
            return Ok(());
        }
        Err(Refusal::KernelState { what: "the number of a timer of timer_create(2)".into() })
    }
}

/// `struct sigevent`.
fn event(timer: &PosixTimer, host_tid: u32) -> [u64; 8] {
    let how = u64::from(timer.signal) | u64::from(timer.notify) << 32;
    [timer.value, how, u64::from(host_tid), 0, 0, 0, 0, 0]
}

fn create(script: &mut Script, clock: i32, event: [u64; 8], id: u32) -> u64 {
    let (at, event) = (script.put(&id.to_ne_bytes()), script.put_words(&event));
    script.must("timer_create", TIMER_CREATE, [int(clock), event, at, 0, 0, 0]);
    at
}

fn make_and_delete(script: &mut Script, id: u32) {
    create(script, CLOCK_MONOTONIC, [0, u64::from(SIGEV_NONE) << 32, 0, 0, 0, 0, 0, 0], id);
    script.must("timer_delete", TIMER_DELETE, [u64::from(id), 0, 0, 0, 0, 0]);
}

/// The timers of timer_create(2), as `/proc/PID/timers` shows them.
pub(super) fn posix_timers(host_pid: u32, members: &[Member]) -> Result<Vec<PosixTimer>, Refusal> {
    let text = std::fs::read_to_string(format!("/proc/{host_pid}/timers"))
        .map_err(|e| host(Errno::from_io_error(&e).unwrap_or(Errno::SRCH), "reading timers"))?;
    let timers = parse_timers(&text, members)
        .ok_or(Refusal::KernelState { what: "a timer of timer_create(2)".into() })?;
    if timers.len() > TIMERS_MAX {
        return Err(Refusal::TooLarge { what: "its timers are too many".into() });
    }
    Ok(timers)
}

/// `None` if one of them cannot be made elsewhere.
fn parse_timers(text: &str, members: &[Member]) -> Option<Vec<PosixTimer>> {
    let mut timers: Vec<PosixTimer> = Vec::new();
    for line in text.lines() {
        let (name, value) = line.split_once(':')?;
        let value = value.trim();
        if name == "ID" {
            let id = value;
            let (clock, notify, signal, value) = (0, SIGEV_NONE, 0, 0);
            let (thread, running) = (None, None);
            let id = id.parse().ok()?;
            timers.push(PosixTimer { id, clock, notify, signal, value, thread, running });
            continue;
        }
        let timer = timers.last_mut()?;
        match name {
            "signal" => {
                let (signal, value) = value.split_once('/')?;
                timer.signal = signal.parse().ok()?;
                timer.value = u64::from_str_radix(value.trim_start_matches("0x"), 16).ok()?;
            }
            "notify" => {
                let (how, whom) = value.split_once('/')?;
                let kinds = [(0, "signal"), (SIGEV_NONE, "none"), (2, "thread")];
                timer.notify = kinds.iter().find(|(_, name)| *name == how)?.0;
                if let Some(host_tid) = whom.strip_prefix("tid.") {
                    let host_tid: u32 = host_tid.parse().ok()?;
                    let member = members.iter().find(|member| member.host_tid == host_tid)?;
                    timer.notify |= SIGEV_THREAD_ID;
                    timer.thread = Some(member.tid);
                }
            }
            // Negative: the CPU clock of some process or thread.
            "ClockID" => timer.clock = value.parse().ok().filter(|clock| *clock >= 0)?,
            _ => {}
        }
    }
    Some(timers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "ID: 1\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 0\n\
                        ID: 7\nsignal: 33/0000000000000001\nnotify: signal/tid.2635\nClockID: 1\n";

    #[test]
    fn timers_are_read() {
        let tid = Pid::new(77).unwrap();
        let members = [Member { tid, host_tid: 2635 }];
        let timers = parse_timers(TEXT, &members).unwrap();
        assert_eq!((timers[0].id, timers[0].signal, timers[0].notify), (1, 60, 0));
        assert_eq!((timers[0].value, timers[0].thread), (0x7fff_86e4_52a8, None));
        assert_eq!((timers[1].notify, timers[1].thread), (SIGEV_THREAD_ID, Some(tid)));
        assert_eq!(timers[1].clock, 1);
        assert_eq!(parse_timers(TEXT, &[]), None);
        assert_eq!(parse_timers("", &[]), Some(Vec::new()));
    }

    #[test]
    fn a_kernel_that_counts_is_led_to_each_id() {
        let timer = |id| PosixTimer {
            id,
            clock: 1,
            notify: 0,
            signal: 40,
            value: 0,
            thread: None,
            running: None,
        };
        let calls = |ids, timers: &[PosixTimer]| {
            let (batch, created) = create_posix(timers, ids, |_| None).ok()?;
            assert_eq!(created.len(), timers.len());
            Some(batch.0.iter().map(Script::len).sum::<usize>())
        };
        assert_eq!(calls(Ids::Told, &[timer(3), timer(1)]), Some(3));
        // 0, 0 gone, 1, 2, 2 gone, 3.
        assert_eq!(calls(Ids::Counted, &[timer(3), timer(1)]), Some(6));
        assert_eq!(calls(Ids::Counted, &[timer(4095)]), Some(2 * 4095 + 1));
        assert_eq!(calls(Ids::Counted, &[timer(4096)]), None);
    }

    #[test]
    fn a_look_tells_when_a_timer_expires() {
        let running = |due, period| Some(Running { due, period });
        let at = |setting, unit| seen(NANOS, setting, NANOS + 200, unit);
        let run = |setting, unit| at(setting, unit).map(|(_, running)| running);
        assert_eq!(run([0, 7, 0, 100], Unit::Nanos), running(NANOS + 300, 7));
        assert_eq!(run([0, 7, 0, 2], Unit::Micros), running(NANOS + 3199, 7000));
        assert_eq!(run([0, 7, 0, 0], Unit::Nanos), None);
        assert_eq!(at([0, 0, 1, 0], Unit::Nanos).map(|(apart, _)| apart), Some(200));
        assert_eq!(run([0, 0, u64::MAX, 1], Unit::Nanos), running(u64::MAX, 0));
    }
}
