//! `cpuid` instructions in text that is about to run, which a table can answer.
//!
//! On a virtual machine each leaves for the hypervisor, and a dynamic linker executes dozens. Only those are known
//! here that lie right behind the load of a steady leaf's number; together they are as long as a jump of the loaded
//! form. Who jumps behind the load meets [`super::INVALID`] and executes the instruction in the slot.
//!
//! ```text
//! b8 leaf, 0f a2  ->  ff 24 25 abs32        slot at 0: mov rcx, ANSWER; mov eax, [rcx]; mov ebx, [rcx + 4]
//!                                                      mov edx, [rcx + 12]; jmp TAIL
//!                                        at TAIL_AT:   mov ecx, [rcx + 8]; jmp behind the site
//!                                        at TRAP_AT:   cpuid; jmp behind the load of ecx
//! ```

use super::{CALL_AT, CALL_BYTES, FORM_AT, LOAD, LOAD_BYTES, Slot, TAIL_AT, TRAP_AT, Writer};

const CPUID: [u8; 2] = [0x0f, 0xa2];
/// Bytes that are looked at together.
const CHUNK: usize = 64;
/// Bytes of the load of ecx at the tail.
const LAST_LOAD: u64 = 3;

/// Finds the first such instruction at or behind `from`: where it lies in the text, and its leaf.
#[must_use]
pub fn find(text: &[u8], mut from: usize) -> Option<(usize, u32)> {
    loop {
        let chunk = text.get(from..).and_then(|rest| rest.first_chunk::<{ CHUNK + 1 }>());
        let is_last = chunk.is_none();
        let end = if is_last { text.len() } else { from + CHUNK };
        if chunk.is_none_or(holds) {
            let found = (from..end).find_map(|at| Some((at, leaf_before(text, at)?)));
            if found.is_some() {
                return found;
            }
        }
        if is_last {
            return None;
        }
        from = end;
    }
}

/// Whether the two bytes are there, looked for in all places at once.
fn holds(chunk: &[u8; CHUNK + 1]) -> bool {
    let mut found = 0;
    for at in 0..CHUNK {
        found |= u8::from(chunk[at] == CPUID[0]) & u8::from(chunk[at + 1] == CPUID[1]);
    }
    found != 0
}

/// The leaf of the instruction at `at`, if there is one behind a load.
fn leaf_before(text: &[u8], at: usize) -> Option<u32> {
    let load_bytes = usize::try_from(LOAD_BYTES).ok()?;
    if text.get(at..at + CPUID.len())? != CPUID {
        return None;
    }
    let load = at.checked_sub(load_bytes)?;
    let [opcode, a, b, c, d] = *text.get(load..at)? else { return None };
    let leaf = u32::from_le_bytes([a, b, c, d]);
    (opcode == LOAD && is_opcode(text.get(load.checked_sub(3)?..load)?)).then_some(leaf)
}

/// Whether a byte is an opcode, given the three before it, and not the displacement of an instruction with an
/// immediate; prefixes would make another load of it.
fn is_opcode(before: &[u8]) -> bool {
    const WITH_IMMEDIATE: [u8; 4] = [0x69, 0x81, 0xc7, 0xf7];
    let [a, b, prefix] = *before else { return false };
    // Of the prefixes that make another register of it, assemblers write these only.
    !matches!(prefix, 0x41 | 0x48 | 0x49 | 0x66)
        && !WITH_IMMEDIATE.contains(&a)
        && !WITH_IMMEDIATE.contains(&b)
}

/// The slot of a site whose `cpuid` lies at `call`; the answer is at `answer`, in the order eax, ebx, ecx, edx.
#[must_use]
pub fn slot(call: u64, answer: u64) -> Option<Slot> {
    let mut out = Writer { bytes: [0xcc; size_of::<Slot>()], at: 0 };
    let jump_to = |from: usize, to: u64| (to.wrapping_sub(from as u64 + 2) & 0xff) as u8;
    out.put(&[0x48, 0xb9]);
    out.put(&answer.to_le_bytes());
    out.put(&[0x8b, 0x01, 0x8b, 0x59, 0x04, 0x8b, 0x51, 0x0c]);
    let to_tail = jump_to(out.at, TAIL_AT);
    out.put(&[0xeb, to_tail]);
    debug_assert!(out.at <= FORM_AT);
    out.at = FORM_AT;
    out.put(&[1, 0]);
    out.at = usize::try_from(TAIL_AT).ok()?;
    out.put(&[0x8b, 0x49, 0x08, 0xff, 0x25, 0, 0, 0, 0]);
    out.put(&(call + CALL_BYTES).to_le_bytes());
    debug_assert!(out.at <= CALL_AT);
    out.at = CALL_AT;
    out.put(&call.to_le_bytes());
    debug_assert!(out.at as u64 == TRAP_AT);
    out.put(&CPUID);
    let behind = jump_to(out.at, TAIL_AT + LAST_LOAD);
    out.put(&[0xeb, behind]);
    Some(out.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn all(text: &[u8]) -> Vec<(usize, u32)> {
        let mut found = Vec::new();
        let mut from = 0;
        while let Some((at, leaf)) = find(text, from) {
            found.push((at, leaf));
            from = at + 2;
        }
        found
    }

    #[test]
    fn found_wherever_they_lie() {
        for shift in 0..200 {
            let mut text = std::vec![0x90; shift + 3];
            text.extend([0xb8, 1, 0, 0, 0, 0x0f, 0xa2, 0x90, 0xb8, 7, 0, 0, 0x80, 0x0f, 0xa2]);
            assert_eq!(all(&text), [(shift + 8, 1), (shift + 16, 0x8000_0007)], "{shift}");
        }
    }

    #[test]
    fn what_only_looks_like_one_is_left() {
        // mov dword ptr [rbp - 0x48], 1; cpuid
        assert!(all(&[0x90, 0x90, 0xc7, 0x45, 0xb8, 1, 0, 0, 0, 0x0f, 0xa2]).is_empty());
        // mov dword ptr [rsp - 0x48], 1; cpuid
        assert!(all(&[0x90, 0xc7, 0x44, 0x24, 0xb8, 1, 0, 0, 0, 0x0f, 0xa2]).is_empty());
        // mov r8d, 1; cpuid
        assert!(all(&[0x90, 0x90, 0x41, 0xb8, 1, 0, 0, 0, 0x0f, 0xa2]).is_empty());
        // xor ecx, ecx between
        assert!(all(&[0x90, 0x90, 0x90, 0xb8, 1, 0, 0, 0, 0x31, 0xc9, 0x0f, 0xa2]).is_empty());
        assert!(all(&[0xb8, 1, 0, 0, 0, 0x0f, 0xa2]).is_empty());
        assert!(all(&[0x0f]).is_empty() && all(&[]).is_empty());
        // jbe +0x43; mov eax, 6; cpuid
        assert_eq!(all(&[0x90, 0x76, 0x43, 0xb8, 6, 0, 0, 0, 0x0f, 0xa2]), [(8, 6)]);
    }

    #[test]
    fn a_slot_is_what_its_listing_says() {
        let slot = slot(0x7f00_0000_1234, 0x7000_0810_0010).expect("a slot");
        assert_eq!(slot[..10], [0x48, 0xb9, 0x10, 0, 0x10, 0x08, 0, 0x70, 0, 0]);
        assert_eq!(slot[18..20], [0xeb, 4]);
        assert_eq!(slot[24..33], [0x8b, 0x49, 0x08, 0xff, 0x25, 0, 0, 0, 0]);
        assert_eq!(slot[33..41], 0x7f00_0000_1236_u64.to_le_bytes());
        assert_eq!(slot[56..60], [0x0f, 0xa2, 0xeb, 0xdf]);
        let site = super::super::Site::of(&slot);
        assert_eq!((site.call, site.start()), (0x7f00_0000_1234, 0x7f00_0000_122f));
        assert!(!site.hides_after());
    }
}
