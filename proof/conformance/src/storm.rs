//! A lab whose processes are being moved all the time, and what its storm reports.

use crate::{Lab, Outcome, run_within};
use serde_json::Value;
use std::{path::Path, time::Duration};

/// The storm's report (`dunix lab --storm --json`).
pub struct Report(Value);

impl Report {
    /// Finds the report in what the lab wrote to standard error.
    pub fn find(text: &str) -> Result<Report, String> {
        let line = text.lines().rev().find(|line| line.starts_with('{'));
        let report = line.and_then(|line| serde_json::from_str(line).ok());
        report.map(Report).ok_or_else(|| format!("no report in {text:?}"))
    }

    fn count(&self, field: &str) -> u64 {
        self.0[field].as_u64().unwrap_or(0)
    }

    fn refused(&self) -> impl Iterator<Item = &String> {
        self.0["refused"].as_object().into_iter().flat_map(|reasons| reasons.keys())
    }

    /// Whether enough was moved, for what is asked of a process that stays, and every refusal has a
    /// reason that `documented` knows.
    pub fn judge(&self, percent: u64, documented: &dyn Fn(&str) -> bool) -> Result<(), String> {
        let done = self.count("done");
        let gone = self.count("ended") + self.count("overtaken");
        let possible = self.count("asked").saturating_sub(gone);
        let wrong = |what: &str| Err(format!("{what}: {self}"));
        if let Some(reason) = self.refused().find(|reason| !documented(reason)) {
            return wrong(&format!("{reason} is no documented reason"));
        }
        if self.0["failed"].as_object().is_some_and(|failed| !failed.is_empty()) {
            return wrong("moves without an answer");
        }
        if done == 0 || done * 100 < possible * percent {
            return wrong(&format!("{done} of {possible} moves were done"));
        }
        Ok(())
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Runs a script in a folder of the lab.
pub fn in_lab(lab: &Lab, folder: &Path, script: &str, limit: Duration) -> Result<Outcome, String> {
    let mut command = lab.command(&["run", "--env", "LC_ALL=C", "--cwd"]);
    command.arg(folder).args(["--", "bash", "-c", script]);
    run_within(&mut command, limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str) -> Report {
        Report::find(&format!("fabric x is up\n{text}\n")).unwrap()
    }

    #[test]
    fn reports_are_judged() {
        let known = |reason: &str| reason == "stopped";
        let judge = |text: &str| report(text).judge(80, &known);
        let counts = r#""asked":20,"done":8,"ended":8,"overtaken":2"#;
        assert!(
            judge(&format!(r#"{{{counts},"refused":{{"stopped":{{"count":2}}}},"failed":{{}}}}"#))
                .is_ok()
        );
        assert!(judge(&format!(r#"{{{counts},"refused":{{"other":{{"count":2}}}}}}"#)).is_err());
        assert!(judge(&format!(r#"{{{counts},"refused":{{}},"failed":{{"x":1}}}}"#)).is_err());
        assert!(judge(r#"{"asked":10,"done":7,"refused":{}}"#).is_err());
        assert!(judge(r#"{"asked":10,"ended":10,"done":0,"refused":{}}"#).is_err());
        assert!(Report::find("nothing").is_err());
    }
}
