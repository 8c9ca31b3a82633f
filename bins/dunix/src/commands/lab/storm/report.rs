//! What became of a storm's moves.

use super::super::super::table::milliseconds;
use dunix_admin_api::{MoveOutcome, Moved};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

/// Reasons for which the process itself is the cause, not what it has or does: it ended first.
const ENDED: [&str; 2] = ["ended", "no-such-process"];
/// It was where it was to go: an exec there came first.
const OVERTAKEN: &str = "already-there";

/// Different texts of failures that are told apart; what comes further counts as others.
const FAILURES_MAX: usize = 8;

/// Counts of moves; `asked` is the sum of all others.
#[derive(Clone, Default, Debug, Serialize)]
pub(in super::super) struct Report {
    pub(super) seed: u64,
    /// Time between two moves of a process on average, in microseconds.
    pub(super) mean_us: u64,
    pub(super) asked: u64,
    /// The process runs at the target.
    pub(super) done: u64,
    /// The process ended before it was moved.
    pub(super) ended: u64,
    /// The process had come to the target by an exec.
    pub(super) overtaken: u64,
    /// Refused moves by the reason's name.
    pub(super) refused: BTreeMap<String, Refused>,
    /// Moves whose answer never came, by what broke.
    pub(super) failed: BTreeMap<String, u64>,
    /// How many processes moved.
    pub(super) processes: usize,
    /// How long the processes stood still.
    pub(super) frozen_us: Frozen,
    #[serde(skip)]
    freezes_us: Vec<u64>,
    #[serde(skip)]
    moved: BTreeSet<u32>,
}

/// Moves refused for one reason.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub(in super::super) struct Refused {
    pub(super) count: u64,
    /// The first of them in words.
    pub(super) example: String,
}

/// How long processes stood still, in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub(in super::super) struct Frozen {
    pub(super) median: u64,
    /// Nine of ten were shorter.
    pub(super) ninth: u64,
    pub(super) max: u64,
}

impl Report {
    pub(super) fn new(seed: u64, mean: Duration) -> Report {
        let mean_us = u64::try_from(mean.as_micros()).unwrap_or(u64::MAX);
        Report { seed, mean_us, ..Report::default() }
    }

    /// Counts an answer.
    pub(super) fn count(&mut self, pid: u32, outcome: &MoveOutcome) {
        self.asked += 1;
        match outcome {
            MoveOutcome::Moved(moved) => self.count_done(pid, moved),
            MoveOutcome::Refused(why) if ENDED.contains(&why.reason.as_str()) => self.ended += 1,
            MoveOutcome::Refused(why) if why.reason == OVERTAKEN => self.overtaken += 1,
            MoveOutcome::Refused(why) => {
                let refused = self.refused.entry(why.reason.clone()).or_default();
                refused.count += 1;
                if refused.count == 1 {
                    refused.example = format!("process {pid}: {}", why.message);
                }
            }
        }
    }

    fn count_done(&mut self, pid: u32, moved: &Moved) {
        self.done += 1;
        self.moved.insert(pid);
        self.freezes_us.push(moved.frozen_us);
    }

    /// Counts a process that was not there any more.
    pub(super) fn count_ended(&mut self) {
        self.asked += 1;
        self.ended += 1;
    }

    /// Counts a move whose answer never came.
    pub(super) fn count_failed(&mut self, why: &str) {
        self.asked += 1;
        let is_known = self.failed.contains_key(why) || self.failed.len() < FAILURES_MAX;
        let why = if is_known { why } else { "others" };
        *self.failed.entry(why.to_owned()).or_default() += 1;
    }

    /// Works out what only the whole tells.
    pub(super) fn finish(&mut self) {
        self.processes = self.moved.len();
        self.freezes_us.sort_unstable();
        let at = |tenths: usize| {
            let index = self.freezes_us.len() * tenths / 10;
            self.freezes_us.get(index).or(self.freezes_us.last()).copied().unwrap_or(0)
        };
        self.frozen_us = Frozen { median: at(5), ninth: at(9), max: at(10) };
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused: u64 = self.refused.values().map(|refused| refused.count).sum();
        write!(
            f,
            "storm of seed {}, a move every {} for each process: {} asked, {} done (of {} \
             processes), {} ended before, {} overtaken by an exec, {refused} refused",
            self.seed,
            milliseconds(self.mean_us),
            self.asked,
            self.done,
            self.processes,
            self.ended,
            self.overtaken
        )?;
        if self.done > 0 {
            let Frozen { median, ninth, max } = self.frozen_us;
            let [median, ninth, max] = [median, ninth, max].map(milliseconds);
            write!(f, "\n  frozen for {median} (median), {ninth} (nine of ten), {max} (longest)")?;
        }
        for (reason, Refused { count, example }) in &self.refused {
            write!(f, "\n  refused, {reason}: {count}, first {example}")?;
        }
        for (why, count) in &self.failed {
            write!(f, "\n  without an answer: {count}, {why}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunix_admin_api::MoveRefused;
    use dunix_ids::NodeId;

    fn refused(reason: &str) -> MoveOutcome {
        let message = format!("because of {reason}");
        MoveOutcome::Refused(MoveRefused { reason: reason.to_owned(), message, gone: false })
    }

    fn moved(frozen_us: u64) -> MoveOutcome {
        MoveOutcome::Moved(Moved {
            from: NodeId(1),
            to: NodeId(2),
            frozen_us,
            total_us: 9000,
            bytes_before: 1,
            bytes_after: None,
        })
    }

    #[test]
    fn everything_asked_is_accounted_for() {
        let mut report = Report::new(7, Duration::from_millis(50));
        (1..=10).for_each(|n| report.count(2, &moved(n * 1000)));
        report.count(3, &refused("shared-memory"));
        report.count(4, &refused("shared-memory"));
        report.count(5, &refused("ended"));
        report.count(5, &refused("already-there"));
        report.count_ended();
        report.count_failed("no answer");
        report.finish();
        assert_eq!((report.asked, report.done, report.ended, report.overtaken), (16, 10, 2, 1));
        assert_eq!(report.frozen_us, Frozen { median: 6000, ninth: 10_000, max: 10_000 });
        assert_eq!(
            report.to_string(),
            "storm of seed 7, a move every 50 ms for each process: 16 asked, 10 done (of 1 \
             processes), 2 ended before, 1 overtaken by an exec, 2 refused\n  \
             frozen for 6.0 ms (median), 10 ms (nine of ten), 10 ms (longest)\n  \
             refused, shared-memory: 2, first process 3: because of shared-memory\n  \
             without an answer: 1, no answer"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["refused"]["shared-memory"]["count"], 2);
        assert_eq!(json["frozen_us"]["max"], 10_000);
    }
}
