//! Lengths of the x86-64 instructions that may be moved to another place.
//!
//! Refuses (`None`) whatever depends on its own address (branches, calls, RIP-relative operands), whatever enters the
//! kernel, and every instruction that it does not know: a refusal costs speed, a wrong length a program.

/// Most bytes of an instruction.
pub const INSTRUCTION_MAX: usize = 15;

const OPERAND_SIZE: u8 = 0x66;
const REX_W: u8 = 8;

/// What follows an opcode.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Nothing.
    Bare,
    /// An immediate of one byte.
    Byte,
    /// An immediate of the operand's size, four bytes at most.
    Word,
    /// An immediate of the operand's size, up to eight bytes.
    Full,
    /// `ModRM`, then an immediate of this many bytes.
    Modrm(u8),
    /// `ModRM`, then an immediate of the operand's size.
    ModrmWord,
    /// Group 3: an immediate (of a byte, or of the operand's size) only for `test`.
    Test(bool),
    /// Group 5: only `inc` and `dec` stay in place.
    Count,
}

/// Length of the instruction that `code` begins with, if it may be moved.
#[must_use]
pub fn movable(code: &[u8]) -> Option<usize> {
    let mut at = 0;
    let is_narrow = *code.first()? == OPERAND_SIZE;
    if is_narrow {
        at += 1;
    }
    let mut rex = 0;
    if *code.get(at)? & 0xf0 == 0x40 {
        rex = code[at];
        at += 1;
    }
    let is_wide = rex & REX_W != 0;
    if is_narrow && is_wide {
        return None;
    }
    let opcode = *code.get(at)?;
    at += 1;
    let shape = if opcode == 0x0f {
        let second = *code.get(at)?;
        at += 1;
        two_bytes(second, is_narrow)?
    } else {
        // The other members of this group begin and end transactions.
        let is_move = !matches!(opcode, 0xc6 | 0xc7) || *code.get(at)? >> 3 & 7 == 0;
        one_byte(opcode).filter(|_| is_move)?
    };
    let word = if is_narrow { 2 } else { 4 };
    let length = at
        + match shape {
            Shape::Bare => 0,
            Shape::Byte => 1,
            Shape::Word => word,
            Shape::Full => {
                if is_wide {
                    8
                } else {
                    word
                }
            }
            Shape::Modrm(immediate) => modrm(&code[at..])? + usize::from(immediate),
            Shape::ModrmWord => modrm(&code[at..])? + word,
            Shape::Test(is_byte) => {
                let immediate = match *code.get(at)? >> 3 & 7 {
                    0 | 1 if is_byte => 1,
                    0 | 1 => word,
                    _ => 0,
                };
                modrm(&code[at..])? + immediate
            }
            Shape::Count if *code.get(at)? >> 3 & 7 <= 1 => modrm(&code[at..])?,
            Shape::Count => return None,
        };
    (length <= INSTRUCTION_MAX && length <= code.len()).then_some(length)
}

fn one_byte(opcode: u8) -> Option<Shape> {
    Some(match opcode {
        0x00..=0x3f => match opcode & 7 {
            0..=3 => Shape::Modrm(0),
            4 => Shape::Byte,
            5 => Shape::Word,
            _ => return None,
        },
        0x50..=0x5f | 0x90..=0x99 => Shape::Bare,
        0x63 | 0x84..=0x8b | 0x8d | 0xd0..=0xd3 => Shape::Modrm(0),
        0x68 | 0xa9 => Shape::Word,
        0x6a | 0xa8 | 0xb0..=0xb7 => Shape::Byte,
        0x69 | 0x81 | 0xc7 => Shape::ModrmWord,
        0x6b | 0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 => Shape::Modrm(1),
        0xb8..=0xbf => Shape::Full,
        0xf6 => Shape::Test(true),
        0xf7 => Shape::Test(false),
        0xfe | 0xff => Shape::Count,
        _ => return None,
    })
}

fn two_bytes(second: u8, is_narrow: bool) -> Option<Shape> {
    Some(match second {
        // Moves of vectors, cmov, setcc, bits, multiplication, extension.
        0x10
        | 0x11
        | 0x28
        | 0x29
        | 0x40..=0x4f
        | 0x6e
        | 0x7e
        | 0x90..=0x9f
        | 0xa3
        | 0xab
        | 0xaf => Shape::Modrm(0),
        0x1f | 0xb3 | 0xb6 | 0xb7 | 0xbb | 0xbe | 0xbf | 0xef => Shape::Modrm(0),
        0x6f | 0x7f | 0xd6 if is_narrow => Shape::Modrm(0),
        0xba => Shape::Modrm(1),
        0xc8..=0xcf => Shape::Bare,
        _ => return None,
    })
}

/// Bytes of `ModRM` with what belongs to it; `None` if the operand is relative to the instruction.
fn modrm(code: &[u8]) -> Option<usize> {
    let byte = *code.first()?;
    let (mode, base) = (byte >> 6, byte & 7);
    if mode == 3 {
        return Some(1);
    }
    let mut length = 1;
    let mut is_absolute = false;
    if base == 4 {
        is_absolute = mode == 0 && *code.get(1)? & 7 == 5;
        length += 1;
    } else if mode == 0 && base == 5 {
        return None;
    }
    Some(
        length
            + match mode {
                1 => 1,
                2 => 4,
                _ if is_absolute => 4,
                _ => 0,
            },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_compilers_put_behind_calls() {
        assert_eq!(movable(&[0x48, 0x3d, 0, 0xf0, 0xff, 0xff, 0x77]), Some(6));
        assert_eq!(movable(&[0x3d, 0, 0xf0, 0xff, 0xff, 0x77]), Some(5));
        assert_eq!(movable(&[0x48, 0x89, 0xc3]), Some(3));
        assert_eq!(movable(&[0x89, 0xc2]), Some(2));
        assert_eq!(movable(&[0x48, 0x8b, 0x54, 0x24, 0x18]), Some(5));
        assert_eq!(movable(&[0xf7, 0xd8]), Some(2));
        assert_eq!(movable(&[0xf6, 0xc3, 0x02]), Some(3));
        assert_eq!(movable(&[0x64, 0x48, 0x2b, 0x14, 0x25, 0x28]), None);
    }

    #[test]
    fn what_depends_on_its_place_is_refused() {
        for code in [
            &[0xe8, 0, 0, 0, 0][..],
            &[0xeb, 5],
            &[0x74, 5],
            &[0x0f, 0x84, 0, 0, 0, 0],
            &[0x48, 0x8b, 0x05, 0, 0, 0, 0],
            &[0xc3],
            &[0x0f, 0x05],
            &[0xff, 0xd0],
            &[0xff, 0x25, 0, 0, 0, 0],
            &[0xcc],
            &[0xc7, 0xf8, 0, 0, 0, 0],
            &[0xf4],
        ] {
            assert_eq!(movable(code), None, "{code:x?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_lead_outside(code in proptest::collection::vec(any::<u8>(), 0..20)) {
            if let Some(length) = movable(&code) {
                prop_assert!(length >= 1 && length <= code.len() && length <= INSTRUCTION_MAX);
                // What follows an instruction does not change its length.
                prop_assert_eq!(movable(&code[..length]), Some(length));
            }
        }
    }
}
