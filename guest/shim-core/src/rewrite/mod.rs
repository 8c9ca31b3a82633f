//! Rewriting of system-call sites: which form fits, and the bytes of site and stub.
//!
//! ```text
//! FOLLOWED  0f 05, an instruction of >= 3 bytes  ->  e9 rel32            byte 1 of rel32 is 06
//! LOADED    b8 imm32, 0f 05                      ->  ff 24 25 abs32      abs32 = 7006xxxx
//! ```
//! Whoever goes on inside a rewritten site (a thread that was in the call, a signal frame, a jump) meets the
//! byte 06, which is no instruction: SIGILL, and the shim puts it right. A stub is a slot of
//! [`SLOT_BYTES`]:
//!
//! ```text
//! at 0          lea rcx, [TAIL]; (mov eax, imm32); jmp gs:[entry]
//! at FORM_AT    which form, and the length of the moved instruction
//! at TAIL_AT    the moved instruction; jmp behind it
//! at CALL_AT    address of the site's call instruction
//! at TRAP_AT    syscall; jmp TAIL     for calls that the shim wants to see as a trap
//! ```
//! Invariants: only instructions that [`decode::movable`] knows are moved; a slot is written once.

pub mod cpuid;
pub mod decode;

use decode::{INSTRUCTION_MAX, movable};

/// Bytes of a slot; slots are aligned to it.
pub const SLOT_BYTES: u64 = 64;
/// What a slot holds.
pub type Slot = [u8; 64];
const _: () = assert!(size_of::<Slot>() as u64 == SLOT_BYTES);
/// Where a stub goes on after the call.
pub const TAIL_AT: u64 = 24;
/// The slot's trap: `syscall`, and a jump to the tail.
pub const TRAP_AT: u64 = 56;
/// From tail to trap.
pub const TRAP_FROM_TAIL: u64 = TRAP_AT - TAIL_AT;
const FORM_AT: usize = 22;
const CALL_AT: usize = 48;
/// Bytes of the call instruction.
pub const CALL_BYTES: u64 = 2;
/// An opcode that is none in 64-bit mode.
pub const INVALID: u8 = 0x06;
/// Bytes of the longest rewritten site.
pub const SITE_MAX: usize = 7;
/// First address of the table that sites of the loaded form jump through.
pub const TABLE_START: u64 = 0x7006_0000;
/// Bytes of that table.
pub const TABLE_BYTES: u64 = 0x4000;
/// First address of that form's slots, one for each entry.
pub const LOADED_START: u64 = 0x7007_0000;
/// Bytes of an arena of slots.
pub const ARENA_BYTES: u64 = 0x2_0000;
const _: () = assert!(ARENA_BYTES / SLOT_BYTES * 8 == TABLE_BYTES && TABLE_BYTES <= 0x1_0000);

const SYSCALL: [u8; 2] = [0x0f, 0x05];
const LOAD: u8 = 0xb8;
/// Bytes of the load of a number, right before the call.
pub const LOAD_BYTES: u64 = 5;
/// Where a stub loads the number, and where the number lies.
const LOAD_AT: u64 = 7;
const NUMBER_AT: usize = 8;

/// How a site is rewritten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// The call and a moved instruction of this length become a relative jump.
    Followed(u8),
    /// The load of the number and the call become a jump through the table.
    Loaded(u32),
}

impl Form {
    /// Bytes before the call that belong to the site.
    #[must_use]
    pub const fn bytes_before(self) -> u64 {
        match self {
            Form::Followed(_) => 0,
            Form::Loaded(_) => LOAD_BYTES,
        }
    }

    /// Bytes of the jump.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Form::Followed(_) => 5,
            Form::Loaded(_) => 7,
        }
    }
}

/// Chooses the form for a call of `number`, given what lies before the call instruction (its last
/// bytes, at least six for the loaded form) and what begins with it.
#[must_use]
pub fn choose(before: &[u8], from: &[u8], number: u64) -> Option<Form> {
    let after = from.strip_prefix(&SYSCALL)?;
    if let Some(length) = movable(&after[..after.len().min(INSTRUCTION_MAX)])
        && length >= 3
    {
        return Some(Form::Followed(u8::try_from(length).ok()?));
    }
    let [.., prefix, LOAD, a, b, c, d] = *before else { return None };
    let immediate = u32::from_le_bytes([a, b, c, d]);
    // With a REX prefix it loads another register; and what only looks like a load has not
    // loaded the number.
    let is_load = prefix & 0xf0 != 0x40 && u64::from(immediate) == number;
    is_load.then_some(Form::Loaded(immediate))
}

/// The jump that a site becomes; `None` if `slot` is not where the form needs it.
#[must_use]
pub fn jump(form: Form, call: u64, slot: u64) -> Option<[u8; SITE_MAX]> {
    let mut bytes = [0; SITE_MAX];
    match form {
        Form::Followed(_) => {
            let distance = slot.wrapping_sub(call + 5).cast_signed();
            let distance = i32::try_from(distance).ok()?.to_le_bytes();
            if distance[1] != INVALID {
                return None;
            }
            bytes[0] = 0xe9;
            bytes[1..5].copy_from_slice(&distance);
        }
        Form::Loaded(_) => {
            let entry = TABLE_START + slot.checked_sub(LOADED_START)? / SLOT_BYTES * 8;
            let entry = u32::try_from(entry).ok().filter(|_| slot < LOADED_START + ARENA_BYTES)?;
            bytes[..3].copy_from_slice(&[0xff, 0x24, 0x25]);
            bytes[3..].copy_from_slice(&entry.to_le_bytes());
        }
    }
    Some(bytes)
}

/// The stub of a site whose call instruction lies at `call`, for the slot at `slot`. `from` begins with
/// the call instruction, `entry` is the offset of the shim's entry from the GS base.
#[must_use]
pub fn stub(form: Form, call: u64, slot: u64, from: &[u8], entry: u32) -> Option<Slot> {
    let mut out = Writer { bytes: [0xcc; size_of::<Slot>()], at: 0 };
    // lea rcx, [rip + ...]
    out.put(&[0x48, 0x8d, 0x0d, u8::try_from(TAIL_AT - 7).ok()?, 0, 0, 0]);
    if let Form::Loaded(number) = form {
        out.put(&[LOAD]);
        out.put(&number.to_le_bytes());
    }
    // jmp gs:[entry]
    out.put(&[0x65, 0xff, 0x24, 0x25]);
    out.put(&entry.to_le_bytes());
    let moved = match form {
        Form::Followed(length) => length,
        Form::Loaded(_) => 0,
    };
    out.at = FORM_AT;
    out.put(&[u8::from(matches!(form, Form::Loaded(_))), moved]);
    out.at = usize::try_from(TAIL_AT).ok()?;
    match form {
        Form::Followed(length) => {
            out.put(from.get(2..2 + usize::from(length))?);
            let behind = call + CALL_BYTES + u64::from(length);
            let here = slot + out.at as u64 + 5;
            let distance = i32::try_from(behind.wrapping_sub(here).cast_signed()).ok()?;
            out.put(&[0xe9]);
            out.put(&distance.to_le_bytes());
        }
        Form::Loaded(_) => {
            // jmp [rip + 0]
            out.put(&[0xff, 0x25, 0, 0, 0, 0]);
            out.put(&(call + CALL_BYTES).to_le_bytes());
        }
    }
    debug_assert!(out.at <= CALL_AT);
    out.at = CALL_AT;
    out.put(&call.to_le_bytes());
    out.put(&SYSCALL);
    out.put(&[0xeb, (TAIL_AT.wrapping_sub(TRAP_AT + 4) & 0xff) as u8]);
    Some(out.bytes)
}

struct Writer {
    bytes: Slot,
    at: usize,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}

/// What a written slot says of its site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site {
    /// Address of the call instruction.
    pub call: u64,
    is_loaded: bool,
    moved: u64,
}

impl Site {
    /// Reads it back from a slot's bytes.
    #[must_use]
    pub fn of(slot: &Slot) -> Site {
        let mut call = [0; 8];
        call.copy_from_slice(&slot[CALL_AT..CALL_AT + 8]);
        Site {
            call: u64::from_le_bytes(call),
            is_loaded: slot[FORM_AT] != 0,
            moved: u64::from(slot[FORM_AT + 1]),
        }
    }

    /// The form that a slot's bytes were written for.
    #[must_use]
    pub fn form_of(slot: &Slot) -> Form {
        let mut number = [0; 4];
        number.copy_from_slice(&slot[NUMBER_AT..NUMBER_AT + 4]);
        if slot[FORM_AT] == 0 {
            Form::Followed(slot[FORM_AT + 1])
        } else {
            Form::Loaded(u32::from_le_bytes(number))
        }
    }

    /// First address of the jump.
    #[must_use]
    pub const fn start(self) -> u64 {
        if self.is_loaded { self.call - LOAD_BYTES } else { self.call }
    }

    /// Address behind the call instruction.
    #[must_use]
    pub const fn after(self) -> u64 {
        self.call + CALL_BYTES
    }

    /// Whether the address behind the call is inside the jump.
    #[must_use]
    pub const fn hides_after(self) -> bool {
        !self.is_loaded
    }

    /// What the guest is to see instead of an address `offset` bytes into the slot.
    #[must_use]
    pub const fn shown(self, offset: u64) -> u64 {
        if offset <= LOAD_AT {
            self.start()
        } else if offset < TAIL_AT || offset == TRAP_AT {
            self.call
        } else if offset == TAIL_AT || offset > TRAP_AT {
            self.after()
        } else {
            self.after() + self.moved
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: u64 = 0x7f12_3456_7890;
    const FOLLOWED: [u8; 8] = [0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff];

    #[test]
    fn a_long_instruction_behind_the_call_is_moved() {
        assert_eq!(choose(&[], &FOLLOWED, 1), Some(Form::Followed(6)));
        assert_eq!(choose(&[], &FOLLOWED[..7], 1), None);
    }

    #[test]
    fn else_the_load_before_it_is_used_if_it_is_one() {
        let from = [0x0f, 0x05, 0xc3, 0, 0, 0];
        assert_eq!(choose(&[0xc0, 0xb8, 1, 1, 0, 0], &from, 257), Some(Form::Loaded(257)));
        assert_eq!(choose(&[0xc0, 0xb8, 1, 1, 0, 0], &from, 1), None);
        assert_eq!(choose(&[0x41, 0xb8, 1, 1, 0, 0], &from, 257), None);
        assert_eq!(choose(&[0xb8, 1, 1, 0, 0], &from, 257), None);
    }

    #[test]
    fn the_jump_hides_the_end_of_the_call() {
        let slot = (CALL - 0x1000_0000) & !0xffff;
        let slots = (slot..slot + ARENA_BYTES).step_by(64);
        let fitting: std::vec::Vec<_> =
            slots.filter_map(|slot| jump(Form::Followed(6), CALL, slot)).collect();
        assert_eq!(fitting.len(), 8);
        assert!(fitting.iter().all(|jump| jump[0] == 0xe9 && jump[2] == INVALID));
        let last = LOADED_START + ARENA_BYTES - SLOT_BYTES;
        let jump = jump(Form::Loaded(1), CALL, last).expect("the last slot has an entry");
        assert_eq!(jump, [0xff, 0x24, 0x25, 0xf8, 0x3f, 0x06, 0x70]);
    }

    #[test]
    fn a_stub_says_where_it_belongs() {
        let slot = CALL & !0xff_ffff;
        for form in [Form::Followed(6), Form::Loaded(39)] {
            let stub = stub(form, CALL, slot, &FOLLOWED, 0x20).expect("near enough");
            let site = Site::of(&stub);
            assert_eq!(Site::form_of(&stub), form);
            assert_eq!(site.call, CALL);
            assert_eq!(site.after(), CALL + 2);
            assert_eq!(site.start(), CALL - form.bytes_before());
            assert_eq!(site.shown(0), site.start());
            assert_eq!(site.shown(TAIL_AT), CALL + 2);
            assert_eq!(site.shown(LOAD_AT), site.start());
            assert_eq!(site.shown(LOAD_AT + 5), CALL);
            assert_eq!(site.shown(TRAP_AT), CALL);
            assert_eq!(site.shown(TRAP_AT + 2), CALL + 2);
            assert_eq!(stub[56..60], [0x0f, 0x05, 0xeb, 0xdc]);
        }
        assert_eq!(
            Site::of(&stub(Form::Followed(6), CALL, slot, &FOLLOWED, 0).expect("near")).shown(30),
            CALL + 8
        );
    }
}
