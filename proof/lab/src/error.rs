//! Why a lab could not be built, named by who can do something about it.

use crate::preflight::Finding;
use std::io;
use std::path::PathBuf;

/// Why there is no lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The caller asked for something that cannot be.
    #[error("{0}")]
    Config(String),
    /// The host lacks something.
    #[error("this host cannot run a lab:{}", list(.0))]
    Host(Vec<Finding>),
    /// A lab of this name runs already.
    #[error("a lab named {name} runs already (process {owner})")]
    NameTaken { name: String, owner: u32 },
    /// A file of the lab's state could not be made or read.
    #[error("{}: {source}", path.display())]
    State { path: PathBuf, source: io::Error },
    /// A step on the host failed.
    #[error("{step}: {source}")]
    Step { step: String, source: io::Error },
    /// A process of the lab reported a failure.
    #[error("{who}: {what}")]
    Role { who: String, what: String },
    /// A node did not come up.
    #[error("node n{node} did not start: {reason}{}", tail(.log))]
    Node { node: u32, reason: String, log: String },
    /// The caller's own reason to stop.
    #[error("given up")]
    Abandoned,
}

impl LabError {
    pub(crate) fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> LabError {
        let step = step.into();
        move |source| LabError::Step { step, source }
    }

    pub(crate) fn state(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> LabError {
        let path = path.into();
        move |source| LabError::State { path, source }
    }
}

fn list(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("\n  {finding}")).collect()
}

fn tail(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("\nlast lines of its log:\n{log}") }
}
