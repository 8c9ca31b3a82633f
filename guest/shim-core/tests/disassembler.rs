//! The decoder of movable instructions and the finder of `cpuid` against a disassembler, over the text of libraries and programs of this machine.
//!
//! Without `DUNIX_TEST_ALL_TEXT` only a few megabytes are looked at: what every process maps.

use dunix_shim_core::rewrite::{cpuid, decode::movable};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Instructions that depend on where they are, or on what the shim must see.
const PLACED: [&str; 9] =
    ["call", "j", "loop", "ret", "syscall", "sysenter", "int", "xbegin", "iret"];

fn objects() -> Vec<PathBuf> {
    let in_every_process =
        ["/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6", "/bin/bash"];
    let mut found: Vec<PathBuf> = in_every_process.iter().map(PathBuf::from).collect();
    if std::env::var_os("DUNIX_TEST_ALL_TEXT").is_some() {
        for folder in ["/lib/x86_64-linux-gnu", "/usr/bin", "/usr/sbin"] {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            found.extend(entries.map(|entry| entry.path()).filter(|path| path.is_file()));
        }
    }
    found.retain(|path| path.exists());
    found
}

/// One line of objdump: the bytes and the text of an instruction.
fn instruction(line: &str) -> Option<(Vec<u8>, &str)> {
    let mut fields = line.split('\t');
    fields.next().filter(|address| address.ends_with(':'))?;
    let bytes = fields.next()?.split_whitespace();
    let bytes = bytes.map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().ok()?;
    // Tables in the text are no instructions.
    fields.next().map(str::trim).filter(|text| !text.starts_with('.')).map(|text| (bytes, text))
}

fn disassembled(object: &PathBuf) -> String {
    let output = Command::new("objdump")
        .args(["-d", "-w", "--insn-width=16"])
        .arg(object)
        .stderr(Stdio::null())
        .output()
        .expect("objdump can be started");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn has_objdump() -> bool {
    let version = Command::new("objdump").arg("--version").stdout(Stdio::null()).status();
    let has = version.is_ok_and(|status| status.success());
    if !has {
        eprintln!("skipped: no objdump here");
    }
    has
}

/// What the decoder does with all that the disassembler finds; returns how many it may move.
fn check(object: &PathBuf) -> u64 {
    let text = disassembled(object);
    let mut moved = 0;
    for (bytes, text) in text.lines().filter_map(instruction) {
        // What follows must not matter: the worst continuation is one that looks like more of it.
        for filler in [0x00, 0xff] {
            let mut code = bytes.clone();
            code.resize(bytes.len() + 16, filler);
            let Some(length) = movable(&code) else { continue };
            let name = text.split_whitespace().next().unwrap_or("");
            // Nor are tables that look like some, and prefixes that the disassembler sets apart.
            if text.contains("(bad)") || name == text && name.starts_with("rex") {
                continue;
            }
            assert_eq!(length, bytes.len(), "{}: {bytes:x?} {text}", object.display());
            assert!(!text.contains("%rip"), "{bytes:x?} {text}");
            assert!(!PLACED.iter().any(|placed| name.starts_with(placed)), "{bytes:x?} {text}");
            moved += 1;
        }
    }
    moved
}

/// Whether each that is found is one, behind the load of its leaf; returns how many they are.
fn check_cpuid(object: &PathBuf) -> usize {
    let text = disassembled(object);
    let mut code = Vec::new();
    let mut starts = std::collections::BTreeMap::new();
    for (bytes, text) in text.lines().filter_map(instruction) {
        starts.insert(code.len(), text);
        code.extend(bytes);
    }
    let (mut found, mut from) = (0, 0);
    while let Some((at, leaf)) = cpuid::find(&code, from) {
        let place = format!("{} at {at}", object.display());
        assert_eq!(starts.get(&at).copied(), Some("cpuid"), "{place}");
        let before = starts.range(..at).next_back().map(|(_, text)| text.replace(' ', ""));
        assert_eq!(before, Some(format!("mov${leaf:#x},%eax")), "{place}");
        found += 1;
        from = at + 2;
    }
    found
}

#[test]
fn every_cpuid_that_is_found_is_one_behind_its_load() {
    if has_objdump() {
        let found: usize = objects().iter().map(check_cpuid).sum();
        assert!(found >= 10, "{found}");
    }
}

#[test]
fn every_movable_instruction_is_as_long_as_the_disassembler_says() {
    if has_objdump() {
        let moved: u64 = objects().iter().map(check).sum();
        assert!(moved > 300_000, "{moved}");
    }
}
