//! What is about to reach a process: signals that wait and timers that run.
//!
//! They are taken away while it is frozen, so that nothing fires at a donor, and given back at the
//! target, or here if it stays. Signals are taken first, then timers are stopped ([`super::timers`]),
//! then what fired in between is taken.

use super::calls::*;
use super::hall::Hall;
use super::restore::Batch;
use super::script::{Outcome, Particulars, Script};
use super::timers::{self, Asked, TIMERS_PER_SCRIPT};
use crate::node::Node;
use dunix_guest_abi::signal::{MOVE_CODE, MOVE_SIGNAL, SI_KERNEL};
use dunix_ids::Pid;
use dunix_wire::processes::Refusal;
use dunix_wire::processes::resident::{
    PosixTimer, Running, SIGNAL_BYTES, SIGNALS_MAX, SignalImage, Timers,
};
use std::collections::BTreeMap;

/// Signals that one script takes.
const SIGNALS_PER_SCRIPT: usize = 64;
/// Most signals that are taken at all; of more than [`SIGNALS_MAX`] all are given back.
const TAKEN_MAX: usize = 1 << 17;
/// How often timers are asked again because one of them fired meanwhile. One that fires without a pause
/// is stopped all the same: expirations of the last microseconds may be lost then.
const ROUNDS_MAX: usize = 64;
const SIGALRM: u32 = 14;
const SI_TIMER: i32 = -2;

/// What was taken away.
#[derive(Default)]
pub(crate) struct Pending {
    pub(crate) timers: Timers,
    /// For the whole process.
    pub(crate) signals: Vec<SignalImage>,
    /// For one thread, by TID of the fabric.
    pub(crate) of_threads: BTreeMap<u32, Vec<SignalImage>>,
    /// Something may have been taken.
    has_begun: bool,
    /// Timers are stopped, and the instants known from which their expirations are nobody's yet.
    is_stopped: bool,
}

/// A thread that can run scripts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Member {
    pub(crate) tid: Pid,
    pub(crate) host_tid: u32,
}

/// Where signals are taken.
#[derive(Clone, Copy)]
struct Place<'a> {
    node: &'a Node,
    hall: &'a Hall,
    /// All threads, the first one first.
    members: &'a [Member],
}

impl Place<'_> {
    async fn run(&self, member: &Member, script: &Script) -> Result<Outcome, Refusal> {
        let none = Particulars::default();
        self.node.run_script(self.hall, member.tid.get(), script, &none).await
    }

    /// Takes up to `count` waiting signals of `mask` that a thread gets, and tells how many.
    async fn take(
        &self,
        member: &Member,
        mask: u64,
        count: usize,
    ) -> Result<Vec<SignalImage>, Refusal> {
        let mut script = Script::new();
        let (mask, at_once) = (script.put_words(&[mask]), script.put_words(&[0, 0]));
        let takes: Vec<(u64, usize)> = (0..count)
            .map(|_| {
                let at = script.put(&[0; SIGNAL_BYTES]);
                (at, script.may(RT_SIGTIMEDWAIT, [mask, at, at_once, 8, 0, 0]))
            })
            .collect();
        let outcome = self.run(member, &script).await?;
        let got = takes.iter().take_while(|(_, call)| outcome.value(*call).is_ok());
        Ok(got.map(|(at, _)| signal_at(&outcome, *at)).collect())
    }
}

impl Pending {
    /// What an image has.
    pub(crate) fn of_image(
        timers: &Timers,
        signals: &[SignalImage],
        of_threads: impl Iterator<Item = (Pid, Vec<SignalImage>)>,
    ) -> Pending {
        Pending {
            timers: timers.clone(),
            signals: signals.to_vec(),
            of_threads: of_threads.map(|(tid, signals)| (tid.get(), signals)).collect(),
            has_begun: true,
            is_stopped: true,
        }
    }

    /// Whether there is nothing to give back.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.has_begun
    }

    /// Takes everything; `members` are all threads, the first one first. What was taken before an
    /// error is in `self`.
    pub(crate) async fn take(
        &mut self,
        node: &Node,
        hall: &Hall,
        members: &[Member],
    ) -> Result<(), Refusal> {
        let place = Place { node, hall, members };
        self.timers.posix = timers::posix_timers(hall.host_pid, members)?;
        self.has_begun = true;
        self.take_signals(place).await?;
        self.stop_timers(place).await?;
        self.is_stopped = true;
        self.take_signals(place).await?;
        self.leave_to_timers();
        let count = self.signals.len() + self.of_threads.values().map(Vec::len).sum::<usize>();
        if count > SIGNALS_MAX {
            return Err(Refusal::TooLarge { what: "too many signals wait for it".into() });
        }
        Ok(())
    }

    /// Takes all signals that wait: first each thread's own, which it gets before those of the process.
    async fn take_signals(&mut self, place: Place<'_>) -> Result<(), Refusal> {
        let host_pid = place.hall.host_pid;
        for member in place.members {
            for _ in 0..TAKEN_MAX {
                let (own, shared) = waiting(host_pid, member.host_tid)?;
                // Of a number that waits for both, one at a time shows whose was the last.
                let (mask, count) = match own & shared {
                    0 => (own, SIGNALS_PER_SCRIPT),
                    both => (both & both.wrapping_neg(), 1),
                };
                if own == 0 || self.take_some(place, member, mask, count, true).await? == 0 {
                    break;
                }
            }
        }
        let Some(first) = place.members.first() else { return Err(Refusal::Ended) };
        while waiting(host_pid, first.host_tid)?.1 != 0 {
            let count = SIGNALS_PER_SCRIPT;
            if self.take_some(place, first, !0, count, false).await? == 0
                || self.signals.len() > TAKEN_MAX
            {
                break;
            }
        }
        Ok(())
    }

    /// Takes some signals and tells how many.
    async fn take_some(
        &mut self,
        place: Place<'_>,
        member: &Member,
        mask: u64,
        count: usize,
        is_own: bool,
    ) -> Result<usize, Refusal> {
        let taken = place.take(member, mask, count).await?;
        let count = taken.len();
        for signal in taken {
            self.keep(member.tid, signal, is_own);
        }
        Ok(count)
    }

    /// Notes a signal that a thread took; `is_own`: it waited for that thread alone.
    fn keep(&mut self, tid: Pid, signal: SignalImage, is_own: bool) {
        let timer = self.timer_of(&signal);
        if is_ours(&signal) || self.is_stopped && (timer.is_some() || self.is_of_real(&signal)) {
            return;
        }
        // A timer's may have come while others of its number were taken.
        let tid = match timer {
            Some(timer) => timer.thread,
            None => Some(tid).filter(|_| is_own && !self.is_of_real(&signal)),
        };
        match tid {
            Some(tid) => self.of_threads.entry(tid.get()).or_default().push(signal),
            None => self.signals.push(signal),
        }
    }

    /// The timer of timer_create(2) that sent a signal.
    fn timer_of(&self, signal: &SignalImage) -> Option<&PosixTimer> {
        let id = Some(word(signal, 16)).filter(|_| code_of(signal) == SI_TIMER)?;
        self.timers.posix.iter().find(|timer| timer.id == id && timer.signal == number_of(signal))
    }

    /// Whether the timer `ITIMER_REAL`, which runs, sent a signal.
    fn is_of_real(&self, signal: &SignalImage) -> bool {
        let is_alarm = number_of(signal) == SIGALRM && code_of(signal) == SI_KERNEL;
        is_alarm && (!self.is_stopped || self.timers.real.is_some())
    }

    /// Stops all timers and notes how they stood. The signals of each that have come are in `self`.
    async fn stop_timers(&mut self, place: Place<'_>) -> Result<(), Refusal> {
        let Some(first) = place.members.first() else { return Err(Refusal::Ended) };
        // Only the thread that gets a timer's signal can look whether it is there.
        let mut groups: BTreeMap<Pid, Vec<usize>> = BTreeMap::from([(first.tid, Vec::new())]);
        for (index, timer) in self.timers.posix.iter().enumerate() {
            groups.entry(timer.thread.unwrap_or(first.tid)).or_default().push(index);
        }
        for (tid, group) in groups {
            let Some(member) = place.members.iter().find(|member| member.tid == tid) else {
                return Err(Refusal::Protocol);
            };
            if member == first {
                self.stop_some(place, member, &[], true).await?;
            }
            for some in group.chunks(TIMERS_PER_SCRIPT) {
                self.stop_some(place, member, some, false).await?;
            }
        }
        Ok(())
    }

    /// Stops some timers of timer_create(2), by index, or those of setitimer(2).
    async fn stop_some(
        &mut self,
        place: Place<'_>,
        member: &Member,
        some: &[usize],
        of_process: bool,
    ) -> Result<(), Refusal> {
        for round in 1..=ROUNDS_MAX {
            let timers: Vec<&PosixTimer> =
                some.iter().filter_map(|&index| self.timers.posix.get(index)).collect();
            let mask = timers.iter().fold(0, |mask, timer| mask | bit(timer.signal));
            let mask = if of_process { mask | bit(SIGALRM) } else { mask };
            let mut script = Script::new();
            let mut asked = Asked::ask(&mut script, &timers, of_process);
            let (set, at_once) = (script.put_words(&[mask]), script.put_words(&[0, 0]));
            let at = script.put(&[0; SIGNAL_BYTES]);
            let args = [set, at, at_once, 8, 0, 0];
            let fired = if round < ROUNDS_MAX {
                script.unless(RT_SIGTIMEDWAIT, args)
            } else {
                script.may(RT_SIGTIMEDWAIT, args)
            };
            asked.stop(&mut script, &timers, of_process);
            let outcome = place.run(member, &script).await?;
            if outcome.value(fired).is_ok() {
                // What the mask holds waited for nobody before.
                self.keep(member.tid, signal_at(&outcome, at), false);
                if round < ROUNDS_MAX {
                    self.take_signals(place).await?;
                    continue;
                }
            }
            asked.intervals(&outcome, &mut self.timers);
            for (&index, running) in some.iter().zip(asked.posix(&outcome)) {
                self.timers.posix[index].running = running;
            }
            break;
        }
        Ok(())
    }

    /// Leaves signals to the timers that sent them: these go on from the first expiration that nobody
    /// has heard of, and count the rest, however long it takes until somebody does.
    fn leave_to_timers(&mut self) {
        let Pending { timers, signals, of_threads, .. } = self;
        for timer in &mut timers.posix {
            let waiting = match timer.thread {
                Some(thread) => of_threads.get_mut(&thread.get()),
                None => Some(&mut *signals),
            };
            let (Some(running), Some(waiting)) = (&mut timer.running, waiting) else { continue };
            let (id, number) = (timer.id, timer.signal);
            let is_its = |signal: &SignalImage| {
                code_of(signal) == SI_TIMER && word(signal, 16) == id && number_of(signal) == number
            };
            let all = waiting.iter().filter(|signal| is_its(signal));
            let expirations = all.map(|signal| 1 + u64::from(word(signal, 20))).sum();
            if let Some(earlier) = earlier(*running, expirations) {
                *running = earlier;
                waiting.retain(|signal| !is_its(signal));
            }
        }
    }

    /// Gives everything to a process: the one that it was taken from, or that at the target, which has
    /// the timers already. Goes on after a failure, and tells the first.
    pub(crate) async fn give_back(
        &self,
        node: &Node,
        hall: &Hall,
        members: &[Member],
    ) -> Result<(), Refusal> {
        let place = Place { node, hall, members };
        let mut failed = Ok(());
        for member in members {
            let mut batch = Batch::default();
            if let Some(own) = self.of_threads.get(&member.tid.get()) {
                queue(&mut batch, hall.host_pid, Some(member.host_tid), own);
            }
            if members.first() == Some(member) {
                queue(&mut batch, hall.host_pid, None, &self.signals);
                // What was not stopped is not there.
                timers::start_intervals(batch.room(3, 128), &self.timers);
                for timer in &self.timers.posix {
                    timers::start_posix(batch.room(1, 64), timer);
                }
            }
            for script in batch.0.iter().filter(|script| !script.is_empty()) {
                failed = failed.and(place.run(member, script).await.map(drop));
            }
        }
        failed
    }
}

/// A timer that began so many expirations earlier; `None` if none are to be made up for, or it cannot.
fn earlier(running: Running, expirations: u64) -> Option<Running> {
    let Running { due, period } = running;
    let due = due.checked_sub(period.checked_mul(expirations)?).filter(|due| *due > 0)?;
    (period > 0 && expirations > 0).then_some(Running { due, period })
}

/// Queues signals to the process, from its first thread, or to a thread, from that itself.
fn queue(batch: &mut Batch, host_pid: u32, host_tid: Option<u32>, signals: &[SignalImage]) {
    let pid = u64::from(host_pid);
    for signal in signals {
        let script = batch.room(1, SIGNAL_BYTES);
        let (at, number) = (script.put(&signal.0), u64::from(number_of(signal)));
        let doing = "queueing a signal that waited";
        match host_tid {
            None => script.must(doing, RT_SIGQUEUEINFO, [pid, number, at, 0, 0, 0]),
            Some(tid) => {
                let args = [pid, u64::from(tid), number, at, 0, 0];
                script.must(doing, RT_TGSIGQUEUEINFO, args)
            }
        };
    }
}

fn signal_at(outcome: &Outcome, at: u64) -> SignalImage {
    SignalImage(outcome.bytes(at, SIGNAL_BYTES).to_vec())
}

/// A word of a `siginfo_t`.
fn word(signal: &SignalImage, at: usize) -> u32 {
    let bytes = signal.0.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_ne_bytes)
}

fn number_of(signal: &SignalImage) -> u32 {
    word(signal, 0)
}

fn code_of(signal: &SignalImage) -> i32 {
    word(signal, 8).cast_signed()
}

/// Whether it is the daemon's own signal that came late.
fn is_ours(signal: &SignalImage) -> bool {
    number_of(signal) == MOVE_SIGNAL && code_of(signal) == MOVE_CODE
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

/// The bit of a signal in a mask.
fn bit(signal: u32) -> u64 {
    1 << (signal.clamp(1, 64) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(number: u32, code: i32, timer: u32, overrun: u32) -> SignalImage {
        let words = [number, 0, code.cast_unsigned(), 0, timer, overrun];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.resize(SIGNAL_BYTES, 0);
        SignalImage(bytes)
    }

    fn timer(id: u32, running: Option<Running>) -> PosixTimer {
        PosixTimer { id, clock: 1, notify: 0, signal: 40, value: 0, thread: None, running }
    }

    #[test]
    fn what_a_period_has_sent_is_sent_again() {
        let tid = Pid::new(5).unwrap();
        let mut pending = Pending::default();
        pending.timers.posix =
            vec![timer(0, Some(Running { due: 100, period: 10 })), timer(1, None)];
        for (code, id, overrun) in [(SI_TIMER, 0, 3), (SI_TIMER, 1, 0), (-1, 0, 0)] {
            pending.keep(tid, signal(40, code, id, overrun), true);
        }
        pending.leave_to_timers();
        assert_eq!(pending.timers.posix[0].running, Some(Running { due: 60, period: 10 }));
        assert_eq!(pending.signals, [signal(40, SI_TIMER, 1, 0)]);
        assert_eq!(pending.of_threads[&5], [signal(40, -1, 0, 0)]);
    }

    #[test]
    fn what_fires_before_the_stop_is_the_timers() {
        let tid = Pid::new(5).unwrap();
        let running = Some(Running { due: 100, period: 10 });
        let mut pending = Pending { is_stopped: true, ..Pending::default() };
        pending.timers =
            Timers { real: running, posix: vec![timer(0, running)], of_cpu: [[0; 4]; 2] };
        pending.keep(tid, signal(40, SI_TIMER, 0, 0), false);
        pending.keep(tid, signal(SIGALRM, SI_KERNEL, 0, 0), false);
        pending.keep(tid, signal(SIGALRM, 0, 0, 0), false);
        assert_eq!(pending.signals, [signal(SIGALRM, 0, 0, 0)]);
    }

    #[test]
    fn no_timer_begins_before_time_does() {
        let running = Running { due: 100, period: 30 };
        assert_eq!(earlier(running, 3), Some(Running { due: 10, period: 30 }));
        assert_eq!(
            [earlier(running, 4), earlier(running, 0), earlier(running, u64::MAX)],
            [None; 3]
        );
        assert_eq!(earlier(Running { due: 100, period: 0 }, 1), None);
    }
}
