//! stress-ng's stressors, each for a second, checking what they get.

use super::Module;
use crate::{
    interrupt,
    packages::{self, Tool},
};
use anyhow::{Context, Result};
use std::{path::Path, process::Command};

/// Its classes for processors, processes, signals, memory, pipes and scheduling.
const CLASSES: [&str; 6] = ["cpu", "interrupt", "memory", "vm", "pipe", "scheduler"];
/// They take all memory of the machine, or much of its time from others.
const LEFT_OUT: [&str; 6] =
    ["bigheap", "mlockmany", "mmapfork", "oom-pipe", "resources", "watchdog"];
/// How long a class may take in seconds.
const SECONDS: u64 = 900;

/// Installs it and asks for the members of its classes.
pub(super) fn prepare(_: &Path) -> Result<Vec<Module>> {
    packages::ensure(&[Tool { program: "stress-ng", package: "stress-ng" }])?;
    CLASSES.iter().map(|class| module(class)).collect()
}

fn module(class: &str) -> Result<Module> {
    let mut ask = Command::new("stress-ng");
    let answer = interrupt::output(ask.args(["--class", &format!("{class}?")]))?;
    let answer = String::from_utf8(answer).context("stress-ng")?;
    let (_, members) = answer.split_once(':').context("stress-ng --class")?;
    let members = members.split_whitespace().filter(|member| !LEFT_OUT.contains(member));
    let members: Vec<&str> = members.collect();
    let script = RUN.replace("MEMBERS", &members.join(" "));
    Ok(Module { name: format!("stress-{class}"), seconds: SECONDS, script })
}

/// Statuses 3 and 4: the machine lacks resources, or what the stressor needs.
const RUN: &str = r#"
for stressor in ${CASES:-MEMBERS}; do
    printf 'began\t%s\t\n' "$stressor" >> "$RESULTS"
    timeout --signal KILL 40 stress-ng --verify --"$stressor" 1 --timeout 1 --temp-path "$TMPDIR" \
        > output 2>&1
    case $? in
        0) verdict=ok ;;
        3 | 4) verdict=skipped ;;
        *) verdict=failed ;;
    esac
    cat output
    printf '%s\t%s\t%s\n' $verdict "$stressor" "$(grep -m1 -E 'fail|error' output)" >> "$RESULTS"
done
"#;
