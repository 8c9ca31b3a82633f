//! The first line of a script, as Linux reads it (execve(2), `fs/binfmt_script.c`).
//!
//! Rules: `#!` in the first 256 bytes, blanks (space and tab) around, one optional argument that
//! keeps its inner blanks. A line longer than the buffer is refused if the interpreter's own name may be cut.

/// Bytes of the file's head that Linux looks at.
pub const HEAD_BYTES: usize = 256;
/// How many interpreters may be scripts themselves.
pub const DEPTH_MAX: usize = 4;

/// Interpreter and its argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Script<'a> {
    /// Path of the interpreter.
    pub interpreter: &'a [u8],
    /// What follows it on the line.
    pub argument: Option<&'a [u8]>,
}

const fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn trim(mut line: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = line {
        if !is_blank(*first) {
            break;
        }
        line = rest;
    }
    while let [rest @ .., last] = line {
        if !is_blank(*last) {
            break;
        }
        line = rest;
    }
    line
}

/// Reads the `#!` line of a file's head; `None` if it is no script or its line is unusable.
#[must_use]
pub fn parse(head: &[u8]) -> Option<Script<'_>> {
    let body = head.strip_prefix(b"#!")?;
    let body = &body[..body.len().min(HEAD_BYTES - 2)];
    let end = body.iter().position(|&b| b == b'\n' || b == 0);
    let line = trim(&body[..end.unwrap_or(body.len())]);
    let (interpreter, rest) = match line.iter().position(|&b| is_blank(b)) {
        Some(at) => line.split_at(at),
        None if end.is_none() && body.len() >= HEAD_BYTES - 2 => return None,
        None => (line, &[][..]),
    };
    if interpreter.is_empty() {
        return None;
    }
    let argument = trim(rest);
    Some(Script { interpreter, argument: (!argument.is_empty()).then_some(argument) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_split_into_interpreter_and_one_argument() {
        let script = parse(b"#! /bin/sh  -e  -x \necho").expect("a script");
        assert_eq!(script.interpreter, b"/bin/sh");
        assert_eq!(script.argument, Some(&b"-e  -x"[..]));
        let script = parse(b"#!/bin/sh\n").expect("a script");
        assert_eq!((script.interpreter, script.argument), (&b"/bin/sh"[..], None));
        let script = parse(b"#!/bin/sh").expect("a line may end with the file");
        assert_eq!(script.interpreter, b"/bin/sh");
    }

    #[test]
    fn what_is_no_script_is_refused() {
        assert_eq!(parse(b"#!\n"), None);
        assert_eq!(parse(b"#! \t \n/bin/sh"), None);
        assert_eq!(parse(b"\x7fELF"), None);
        assert_eq!(parse(b""), None);
        let mut long = [b'a'; 300];
        long[..3].copy_from_slice(b"#!/");
        assert_eq!(parse(&long), None, "the name may be cut");
    }
}
