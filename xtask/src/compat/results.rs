//! What a run of a module says: a verdict for each case.
//!
//! ```text
//! status STATUS
//! VERDICT <tab> CASE <tab> REASON        ok, skipped, failed; began: it has not ended (yet)
//! log
//! ...                                    the end of what the programs said
//! ```

use std::collections::BTreeMap;

/// The verdicts of a run.
#[derive(Default)]
pub(super) struct Results {
    /// How the run ended, as a shell gives it; -1: it did not say.
    pub(super) status: i32,
    cases: BTreeMap<String, Verdict>,
    log: Vec<String>,
}

struct Verdict {
    word: String,
    reason: String,
}

impl Results {
    /// Reads what a run printed. The last verdict of a case counts, unless an earlier one was failed:
    /// some cases run under one name more than once.
    pub(super) fn parse(text: &str) -> Results {
        let mut results = Results { status: -1, ..Results::default() };
        let mut lines = text.lines();
        for line in lines.by_ref().take_while(|line| *line != "log") {
            if let Some(status) = line.strip_prefix("status ") {
                results.status = status.parse().unwrap_or(-1);
            }
            let mut fields = line.splitn(3, '\t');
            let (Some(word), Some(case)) = (fields.next(), fields.next()) else { continue };
            let reason = fields.next().unwrap_or_default().to_owned();
            let verdict = Verdict { word: word.to_owned(), reason };
            if results.cases.get(case).is_none_or(|earlier| earlier.word != "failed") {
                results.cases.insert(case.to_owned(), verdict);
            }
        }
        results.log = lines.map(str::to_owned).collect();
        results
    }

    /// How many cases passed.
    pub(super) fn passed(&self) -> usize {
        self.cases.values().filter(|verdict| verdict.word == "ok").count()
    }

    /// Whether a case passed.
    pub(super) fn has_passed(&self, case: &str) -> bool {
        self.cases.get(case).is_some_and(|verdict| verdict.word == "ok")
    }

    /// The cases that ran and failed.
    pub(super) fn failed(&self) -> Vec<String> {
        let failed = self.cases.iter().filter(|(_, verdict)| verdict.word == "failed");
        failed.map(|(case, _)| case.clone()).collect()
    }

    /// The cases that passed here but not in `other`, with what came of them there.
    pub(super) fn differences<'a>(&'a self, other: &Results) -> Vec<(&'a str, String)> {
        let passed = self.cases.iter().filter(|(_, verdict)| verdict.word == "ok");
        let differing = passed.filter(|(case, _)| !other.has_passed(case));
        let what = |case: &str| match other.cases.get(case) {
            None => "not run".to_owned(),
            Some(verdict) if verdict.word == "began" => "did not end".to_owned(),
            Some(verdict) => format!("{}: {}", verdict.word, verdict.reason),
        };
        differing.map(|(case, _)| (case.as_str(), what(case))).collect()
    }

    /// The last lines that the programs said.
    pub(super) fn last_words(&self, lines: usize) -> impl Iterator<Item = &String> {
        self.log.iter().skip(self.log.len().saturating_sub(lines))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_that_does_not_pass_is_a_difference() {
        let native = Results::parse("status 0\nok\ta\t\nok\tb\t\nok\tc\t\nfailed\td\tx\nlog\n");
        let found = Results::parse(
            "status 134\nok\ta\t\nfailed\tb\twhy\nok\tb\t\nbegan\tc\t\nlog\nhung\nok\tc\t\n",
        );
        let differences = native.differences(&found);
        assert_eq!(differences, [("b", "failed: why".to_owned()), ("c", "did not end".to_owned())]);
        assert_eq!((native.passed(), found.passed(), found.status), (3, 1, 134));
        assert_eq!(found.last_words(1).collect::<Vec<_>>(), ["ok\tc\t"]);
    }

    #[test]
    fn what_was_not_run_is_a_difference() {
        let native = Results::parse("status 0\nok\ta\t\n");
        let found = Results::parse("");
        assert_eq!(found.status, -1);
        assert_eq!(native.differences(&found), [("a", "not run".to_owned())]);
    }
}
