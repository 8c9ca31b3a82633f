//! The manual explains every reason for which a process is not moved, and no other.

use dunix_wire::processes::Refusal;

const MANUAL: &str = include_str!("../../../docs/MOVING.md");

#[test]
fn the_manual_explains_every_refusal() {
    let section = MANUAL.split("## What is refused").nth(1);
    let section = section.and_then(|rest| rest.split("\n## ").next()).unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let (names, reasons): (Vec<&str>, Vec<&str>) = rows.unzip();
    assert_eq!(names, Refusal::NAMES);
    for reason in reasons {
        assert!(reason.split('|').next().is_some_and(|why| why.len() > 10), "{reason}");
    }
}
