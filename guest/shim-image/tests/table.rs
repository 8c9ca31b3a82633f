//! `docs/syscalls.md` says what the table of call classes says.
//!
//! Run with `DUNIX_WRITE_DOCS=1` to write the page anew.

use dunix_shim_core::table::{Class, ROWS, Row};
use std::fmt::Write;

const HEAD: &str = "# How each system call of x86-64 is treated

Generated from `guest/shim-core/src/table.rs` (`DUNIX_WRITE_DOCS=1 cargo test -p dunix-shim-image --test table`).

*Native* calls go straight to the host's kernel: they cannot block, or are interrupted only before any effect, and name no
process. *Trapped* ones raise SIGSYS into the shim, which answers them, asks the daemon, or passes them on. *Refused* ones
answer an errno that programs handle well. A number that is not listed answers `ENOSYS`.

| nr | call | class | because |
|---|---|---|---|
";

fn class_of(row: &Row) -> String {
    match row.class {
        Class::Native => "native".into(),
        Class::Trap => "trapped".into(),
        Class::Refuse(errno) => format!("refused: errno {}", errno.get()),
        Class::Mapping => "native; trapped in the reserved range".into(),
        Class::Remapping => "native; trapped in the reserved range, and if it says where to".into(),
        Class::Attaching => "native; trapped if it says where to".into(),
        Class::Futex => "native; trapped with a deadline and for priority inheritance".into(),
        Class::Terminal => "native; trapped for terminals".into(),
        Class::DescriptorFlags => "trapped; flags native".into(),
        Class::PeerCredentials => "native; trapped for SO_PEERCRED".into(),
        Class::OtherProcess => "native on the caller; trapped for others".into(),
        Class::CpuClock => "native; trapped for CPU clocks".into(),
        Class::Watch => "native; trapped for additions".into(),
        Class::Random => "native; trapped for more than 256 bytes".into(),
    }
}

#[test]
fn the_page_lists_every_call() {
    let mut page = String::from(HEAD);
    for row in ROWS {
        let name = row.name.to_lowercase();
        writeln!(page, "| {} | {name} | {} | {} |", row.nr, class_of(row), row.reason)
            .expect("a string");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/syscalls.md");
    if std::env::var_os("DUNIX_WRITE_DOCS").is_some() {
        std::fs::write(path, &page).expect("the page can be written");
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == page,
        "docs/syscalls.md is out of date; write it anew with DUNIX_WRITE_DOCS=1"
    );
}
