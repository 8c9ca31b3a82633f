//! What is about to reach a process: signals that wait and timers that run.
//!
//! They are taken away while it is frozen, so that nothing fires at a donor, and given back at the
//! target, or here if it stays. Timers stop before signals are taken: what fires in between is
//! among the signals.

use super::calls::*;
use super::hall::Hall;
use super::script::{Outcome, Particulars, Script, host};
use crate::node::Node;
use dunix_guest_abi::signal::{MOVE_CODE, MOVE_SIGNAL};
use dunix_ids::Pid;
use dunix_linux::Errno;
use dunix_wire::processes::Refusal;
use dunix_wire::processes::resident::{
    PosixTimer, SIGNAL_BYTES, SIGNALS_MAX, SignalImage, TIMERS_MAX, Timers,
};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// Signals that one script takes.
const SIGNALS_PER_SCRIPT: usize = 64;
/// Signals that are taken when timers stop, besides one for each timer: others of the same number.
const SIGNALS_BESIDES: usize = 16;
const NANOS: u64 = 1_000_000_000;
const SIGEV_NONE: u32 = 1;
const SIGEV_THREAD_ID: u32 = 4;
const TIMER_ABSTIME: u64 = 1;

/// What was taken away.
#[derive(Default)]
pub(crate) struct Pending {
    pub(crate) timers: Timers,
    /// For the whole process.
    pub(crate) signals: Vec<SignalImage>,
    /// For one thread, by TID of the fabric.
    pub(crate) of_threads: BTreeMap<u32, Vec<SignalImage>>,
}

/// A thread that can run scripts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Member {
    pub(crate) tid: Pid,
    pub(crate) host_tid: u32,
}

impl Pending {
    /// Takes everything; `members` are all threads, the first one first. What was taken before an
    /// error is in `self`.
    pub(crate) async fn take(
        &mut self,
        node: &Node,
        hall: &Hall,
        members: &[Member],
    ) -> Result<(), Refusal> {
        let Some(first) = members.first() else { return Err(Refusal::Ended) };
        self.stop_timers(node, hall, first, members).await?;
        for member in members {
            let (own, shared) = waiting(hall.host_pid, member.host_tid)?;
            let is_first = member == first;
            if own == 0 && (shared == 0 || !is_first) {
                continue;
            }
            // A thread takes its own signals before those of the process.
            let mask = if is_first { !0 } else { own };
            let taken = drain(node, hall, member.tid.get(), mask).await?;
            self.keep(member, own, taken);
        }
        let count = self.signals.len() + self.of_threads.values().map(Vec::len).sum::<usize>();
        if count > SIGNALS_MAX {
            return Err(Refusal::TooLarge { what: "too many signals wait for it".into() });
        }
        Ok(())
    }

    /// Sorts signals that a thread took; `own` are those that waited for it alone.
    fn keep(&mut self, member: &Member, own: u64, taken: Vec<SignalImage>) {
        for signal in taken {
            if own & bit(number_of(&signal)) != 0 {
                self.of_threads.entry(member.tid.get()).or_default().push(signal);
            } else {
                self.signals.push(signal);
            }
        }
    }

    /// Since Linux 6.13 a timer that is stopped takes back its signal and what it counts: those are
    /// taken just before, by the same script.
    async fn stop_timers(
        &mut self,
        node: &Node,
        hall: &Hall,
        first: &Member,
        members: &[Member],
    ) -> Result<(), Refusal> {
        let mut posix = posix_timers(hall.host_pid, members)?;
        let (own, _) = waiting(hall.host_pid, first.host_tid)?;
        let mut script = Script::new();
        let of_process = posix.iter().filter(|timer| timer.thread.is_none());
        let mask = of_process.clone().fold(0, |mask, timer| mask | bit(timer.signal));
        let takes = if mask == 0 { 0 } else { of_process.count() + SIGNALS_BESIDES };
        let takes = take_signals(&mut script, mask, takes.min(SIGNALS_PER_SCRIPT));
        let zero = script.put(&[0; 32]);
        let old: [u64; 3] = [0; 3].map(|_: u8| script.put(&[0; 32]));
        for (which, old) in (0..).zip(old) {
            script.must("setitimer", SETITIMER, [which, zero, old, 0, 0, 0]);
        }
        let olds: Vec<u64> = posix
            .iter()
            .map(|timer| {
                let old = script.put(&[0; 32]);
                let id = u64::from(timer.id);
                script.must("timer_settime", TIMER_SETTIME, [id, 0, zero, old, 0, 0]);
                old
            })
            .collect();
        let outcome =
            node.run_script(hall, first.tid.get(), &script, &Particulars::default()).await?;
        self.timers.read_at = realtime();
        self.timers.intervals = old.map(|at| outcome.words(at));
        for (timer, at) in posix.iter_mut().zip(olds) {
            timer.setting = outcome.words(at);
        }
        self.timers.posix = posix;
        let (taken, _) = taken_signals(&outcome, &takes);
        self.keep(first, own, taken);
        Ok(())
    }

    /// Gives everything back to the process that it was taken from.
    pub(crate) async fn give_back(
        self,
        node: &Node,
        hall: &Hall,
        members: &[Member],
    ) -> Result<(), Refusal> {
        for member in members {
            let is_first = members.first() == Some(member);
            let mut script = Script::new();
            if let Some(own) = self.of_threads.get(&member.tid.get()) {
                queue(&mut script, hall.host_pid, Some(member.host_tid), own);
            }
            if is_first {
                queue(&mut script, hall.host_pid, None, &self.signals);
                let elapsed = elapsed_since(self.timers.read_at);
                start_intervals(&mut script, &self.timers, elapsed);
                for timer in &self.timers.posix {
                    start_posix(&mut script, timer, elapsed);
                }
            }
            if !script.is_empty() {
                let none = Particulars::default();
                node.run_script(hall, member.tid.get(), &script, &none).await?;
            }
        }
        Ok(())
    }
}

/// Queues signals to the process or, from the thread itself, to a thread.
pub(crate) fn queue(
    script: &mut Script,
    host_pid: u32,
    host_tid: Option<u32>,
    signals: &[SignalImage],
) {
    for signal in signals {
        if !script.has_room(8, SIGNAL_BYTES) {
            break;
        }
        let (at, number) = (script.put(&signal.0), u64::from(number_of(signal)));
        let pid = u64::from(host_pid);
        match host_tid {
            None => script.may(RT_SIGQUEUEINFO, [pid, number, at, 0, 0, 0]),
            Some(tid) => script.may(RT_TGSIGQUEUEINFO, [pid, u64::from(tid), number, at, 0, 0]),
        };
    }
}

/// Starts the timers of setitimer(2) with what is left of them.
pub(crate) fn start_intervals(script: &mut Script, timers: &Timers, elapsed: u64) {
    for (which, setting) in (0_u64..).zip(&timers.intervals) {
        // The other two count what the process itself used.
        let passed = if which == 0 { elapsed } else { 0 };
        let Some(setting) = interval_after(*setting, passed) else { continue };
        let at = script.put_words(&setting);
        script.must("setitimer", SETITIMER, [which, at, 0, 0, 0, 0]);
    }
}

/// What a timer of setitimer(2) is set to, `passed` nanoseconds after it was stopped; `None` if it
/// did not run.
fn interval_after(setting: [u64; 4], passed: u64) -> Option<[u64; 4]> {
    let [every_s, every_us, left_s, left_us] = setting;
    let left = match (left_s, left_us) {
        // With a period and nothing left it has fired, and goes on when its signal is taken.
        (0, 0) if (every_s, every_us) == (0, 0) => return None,
        (0, 0) => left_after(every_s, every_us.saturating_mul(1000), 0),
        _ => left_after(left_s, left_us.saturating_mul(1000), passed),
    };
    // Rounded up: a time of 0 would stop it.
    let left_us = (left % NANOS).div_ceil(1000);
    Some([every_s, every_us, left / NANOS + left_us / 1_000_000, left_us % 1_000_000])
}

/// Starts one timer of timer_create(2) with what is left of it.
pub(crate) fn start_posix(script: &mut Script, timer: &PosixTimer, elapsed: u64) {
    let [every_s, every_ns, left_s, left_ns] = timer.setting;
    if (left_s, left_ns) == (0, 0) {
        return;
    }
    let left = left_s.saturating_mul(NANOS).saturating_add(left_ns);
    let now = now_of(timer.clock);
    let (flags, at) = match now {
        // Its period began in the past: the kernel counts all that has passed since.
        Some(now) if elapsed > left && (every_s, every_ns) != (0, 0) => {
            (TIMER_ABSTIME, now.saturating_sub(elapsed - left).max(1))
        }
        Some(_) => (0, left.saturating_sub(elapsed).max(1)),
        None => (0, left),
    };
    let at = script.put_words(&[every_s, every_ns, at / NANOS, at % NANOS]);
    script.must("timer_settime", TIMER_SETTIME, [u64::from(timer.id), flags, at, 0, 0, 0]);
}

/// Nanoseconds of a clock that runs by itself; `None` for one that counts CPU time.
fn now_of(clock: i32) -> Option<u64> {
    use rustix::time::{ClockId, clock_gettime};
    let now = clock_gettime(match clock {
        0 | 8 => ClockId::Realtime,
        1 => ClockId::Monotonic,
        7 | 9 => ClockId::Boottime,
        _ => return None,
    });
    let seconds = u64::try_from(now.tv_sec).ok()?.saturating_mul(NANOS);
    Some(seconds.saturating_add(u64::try_from(now.tv_nsec).ok()?))
}

/// Makes the timers of timer_create(2) with their ids; they do not run yet.
pub(crate) fn create_posix(
    script: &mut Script,
    timers: &[PosixTimer],
    host_tid: impl Fn(Pid) -> Option<u32>,
) -> Result<(), Refusal> {
    if timers.is_empty() {
        return Ok(());
    }
    script.must("keeping timer ids", PRCTL, [PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0, 0]);
    for timer in timers {
        let thread = match timer.thread {
            Some(tid) => host_tid(tid).ok_or(Refusal::Protocol)?,
            None => 0,
        };
        let id = script.put(&timer.id.to_ne_bytes());
        let event = [
            timer.value,
            u64::from(timer.signal) | u64::from(timer.notify) << 32,
            u64::from(thread),
            0,
            0,
            0,
            0,
            0,
        ];
        let event = script.put_words(&event);
        script.must("timer_create", TIMER_CREATE, [int(timer.clock), event, id, 0, 0, 0]);
    }
    script.must("keeping timer ids", PRCTL, [PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0, 0]);
    Ok(())
}

/// Nanoseconds of the wall clock.
fn realtime() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(0)
}

/// Nanoseconds since a time of the wall clock, of this node or another.
pub(crate) fn elapsed_since(at: u64) -> u64 {
    realtime().saturating_sub(at)
}

/// At least 1: a timer with nothing left fires at once.
fn left_after(seconds: u64, nanos: u64, elapsed: u64) -> u64 {
    seconds.saturating_mul(NANOS).saturating_add(nanos).saturating_sub(elapsed).max(1)
}

fn number_of(signal: &SignalImage) -> u32 {
    signal.0.first_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// Whether it is the daemon's own signal that came late.
fn is_ours(signal: &SignalImage) -> bool {
    let word = |at: usize| {
        signal.0.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
    };
    number_of(signal) == MOVE_SIGNAL && word(8).cast_signed() == MOVE_CODE
}

/// The signals that wait for a thread and for its process, bit `n - 1` for signal `n`.
fn waiting(host_pid: u32, host_tid: u32) -> Result<(u64, u64), Refusal> {
    let text = std::fs::read_to_string(format!("/proc/{host_pid}/task/{host_tid}/status"));
    let text = text.map_err(|_| Refusal::Ended)?;
    let mask = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| u64::from_str_radix(value.trim(), 16).ok()).unwrap_or(0)
    };
    Ok((mask("SigPnd:"), mask("ShdPnd:")))
}

/// Takes the waiting signals of `mask` that the thread `owner` gets.
async fn drain(
    node: &Node,
    hall: &Hall,
    owner: u32,
    mask: u64,
) -> Result<Vec<SignalImage>, Refusal> {
    let mut taken = Vec::new();
    loop {
        let mut script = Script::new();
        let takes = take_signals(&mut script, mask, SIGNALS_PER_SCRIPT);
        let outcome = node.run_script(hall, owner, &script, &Particulars::default()).await?;
        let (more, was_last) = taken_signals(&outcome, &takes);
        taken.extend(more);
        if was_last || taken.len() > SIGNALS_MAX {
            return Ok(taken);
        }
    }
}

/// Calls that take up to `count` signals of `mask`: where each is put, and the call.
fn take_signals(script: &mut Script, mask: u64, count: usize) -> Vec<(u64, usize)> {
    let (mask, at_once) = (script.put_words(&[mask]), script.put_words(&[0, 0]));
    let take = |_| {
        let at = script.put(&[0; SIGNAL_BYTES]);
        (at, script.may(RT_SIGTIMEDWAIT, [mask, at, at_once, 8, 0, 0]))
    };
    (0..count).map(take).collect()
}

/// What such calls took, and whether no more was there.
fn taken_signals(outcome: &Outcome, takes: &[(u64, usize)]) -> (Vec<SignalImage>, bool) {
    let got = takes.iter().take_while(|(_, call)| outcome.value(*call).is_ok());
    let all: Vec<SignalImage> =
        got.map(|(at, _)| SignalImage(outcome.bytes(*at, SIGNAL_BYTES).to_vec())).collect();
    let was_last = all.len() < takes.len();
    (all.into_iter().filter(|signal| !is_ours(signal)).collect(), was_last)
}

/// The bit of a signal in a mask.
fn bit(signal: u32) -> u64 {
    1 << (signal.clamp(1, 64) - 1)
}

/// The timers of timer_create(2), as `/proc/PID/timers` shows them.
fn posix_timers(host_pid: u32, members: &[Member]) -> Result<Vec<PosixTimer>, Refusal> {
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
            let (clock, notify, signal, setting) = (0, SIGEV_NONE, 0, [0; 4]);
            let id = value.parse().ok()?;
            timers.push(PosixTimer { id, clock, notify, signal, value: 0, thread: None, setting });
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
    fn a_timer_whose_signal_waits_runs_on() {
        assert_eq!(interval_after([0, 0, 0, 0], 5), None);
        assert_eq!(interval_after([0, 10_000, 0, 0], 5), Some([0, 10_000, 0, 10_000]));
        assert_eq!(interval_after([0, 0, 1, 5], 6_000), Some([0, 0, 0, 999_999]));
        assert_eq!(interval_after([3, 0, 0, 5], NANOS), Some([3, 0, 0, 1]));
    }

    #[test]
    fn what_is_left_never_stops_a_timer() {
        assert_eq!(left_after(1, 5, 0), NANOS + 5);
        assert_eq!(left_after(1, 5, 7 * NANOS), 1);
    }
}
