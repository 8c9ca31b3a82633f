//! Lists of system calls that a waiting thread of a process executes for this daemon.
//!
//! The protocol is [`dunix_guest_abi::moving`]'s. What comes back is a guest's word.

use super::hall::Hall;
use crate::node::Node;
use dunix_guest_abi::doorbell::REMOTE_FD_WORDS;
use dunix_guest_abi::layout::{SCRIPT_CALLS, SCRIPT_DATA, SCRIPT_START};
use dunix_guest_abi::moving::{
    CALL_STOP_ON_ERROR, CALL_STOP_ON_SUCCESS, SCRIPT_CALLS_MAX, SCRIPT_DATA_BYTES, ScriptCall,
    ScriptHeader,
};
use dunix_linux::Errno;
use dunix_linux::guest_memory::{GuestMemory, plain_bytes};
use dunix_wire::processes::Refusal;
use std::time::Duration;

/// How long a script may take; what it calls may have to open files of the tree.
const SCRIPT_WAIT: Duration = Duration::from_secs(20);

/// Calls and what they point to.
#[derive(Default)]
pub(crate) struct Script {
    calls: Vec<ScriptCall>,
    labels: Vec<&'static str>,
    data: Vec<u8>,
}

impl Script {
    pub(crate) fn new() -> Script {
        Script::default()
    }

    /// Adds a call that must succeed, and returns its index. `doing` is for people.
    pub(crate) fn must(&mut self, doing: &'static str, nr: u64, args: [u64; 6]) -> usize {
        self.push(doing, nr, args, CALL_STOP_ON_ERROR)
    }

    /// Adds a call that may fail, and returns its index.
    pub(crate) fn may(&mut self, nr: u64, args: [u64; 6]) -> usize {
        self.push("", nr, args, 0)
    }

    /// Adds a call that ends the script if it succeeds, and returns its index.
    pub(crate) fn unless(&mut self, nr: u64, args: [u64; 6]) -> usize {
        self.push("", nr, args, CALL_STOP_ON_SUCCESS)
    }

    fn push(&mut self, doing: &'static str, nr: u64, args: [u64; 6], flags: u64) -> usize {
        self.calls.push(ScriptCall { nr, args, result: 0, flags });
        self.labels.push(doing);
        self.calls.len() - 1
    }

    /// Puts bytes where calls can point to, aligned to 8, and returns their address.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> u64 {
        self.data.resize(self.data.len().next_multiple_of(8), 0);
        let at = self.data.len() as u64;
        self.data.extend_from_slice(bytes);
        SCRIPT_DATA + at
    }

    /// Puts words.
    pub(crate) fn put_words(&mut self, words: &[u64]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.put(&bytes)
    }

    /// Puts a string with its terminating zero.
    pub(crate) fn put_path(&mut self, path: &[u8]) -> u64 {
        self.put(&[path, b"\0"].concat())
    }

    /// Whether so much more goes into one script.
    pub(crate) fn has_room(&self, calls: usize, bytes: usize) -> bool {
        self.calls.len() + calls <= SCRIPT_CALLS_MAX as usize
            && (self.data.len() + bytes + 8) as u64 <= SCRIPT_DATA_BYTES
    }

    /// How many calls it has.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }
}

/// What a script did.
pub(crate) struct Outcome {
    results: Vec<i64>,
    data: Vec<u8>,
}

impl Outcome {
    /// What a call returned.
    pub(crate) fn value(&self, index: usize) -> Result<u64, Errno> {
        match self.results.get(index).copied() {
            Some(value @ 0..) => Ok(value.cast_unsigned()),
            Some(error) => {
                Err(Errno::from_raw_os_error(i32::try_from(-error).unwrap_or(i32::from(EIO))))
            }
            None => Err(Errno::IO),
        }
    }

    /// The bytes at an address that [`Script::put`] gave.
    pub(crate) fn bytes(&self, at: u64, count: usize) -> &[u8] {
        let start = usize::try_from(at - SCRIPT_DATA).unwrap_or(usize::MAX);
        self.data.get(start..).and_then(|rest| rest.get(..count)).unwrap_or(&[])
    }

    /// The words at such an address.
    pub(crate) fn words<const N: usize>(&self, at: u64) -> [u64; N] {
        let bytes = self.bytes(at, N * 8);
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        words
    }
}

const EIO: u16 = dunix_wire::processes::Errno::IO.0;

/// For an arrival: what its header says of it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Particulars {
    pub(crate) remote_fds: [u64; REMOTE_FD_WORDS],
}

impl Node {
    /// Lets the thread `owner` of a hall run a script.
    ///
    /// # Errors
    /// [`Refusal::Ended`], [`Refusal::TooSlow`], or the call that failed.
    pub(crate) async fn run_script(
        &self,
        hall: &Hall,
        owner: u32,
        script: &Script,
        particulars: &Particulars,
    ) -> Result<Outcome, Refusal> {
        let done = hall.expect_done();
        self.publish(hall, owner, script, particulars).map_err(|errno| {
            if hall.has_ended() { Refusal::Ended } else { host(errno, "writing a script") }
        })?;
        match tokio::time::timeout(SCRIPT_WAIT, done).await {
            Ok(Ok(())) => collect(hall, script),
            Ok(Err(_)) => Err(Refusal::Ended),
            Err(_) => Err(Refusal::TooSlow),
        }
    }

    fn publish(
        &self,
        hall: &Hall,
        owner: u32,
        script: &Script,
        particulars: &Particulars,
    ) -> Result<(), Errno> {
        let count = u32::try_from(script.calls.len()).map_err(|_| Errno::TOOBIG)?;
        if count > SCRIPT_CALLS_MAX || script.data.len() as u64 > SCRIPT_DATA_BYTES {
            return Err(Errno::TOOBIG);
        }
        let serial = self.arena.next_command(hall.slot);
        let header = ScriptHeader {
            owner,
            serial,
            count,
            done: 0,
            finished: serial.wrapping_sub(1),
            slot: hall.slot.get(),
            flags: 0,
            reserved: 0,
            remote_fds: particulars.remote_fds,
        };
        let calls: Vec<u8> = script.calls.iter().flat_map(plain_bytes).copied().collect();
        let memory = GuestMemory::of(hall.host_pid);
        memory.write_pieces(&[
            (SCRIPT_CALLS, &calls),
            (SCRIPT_DATA, &script.data),
            (SCRIPT_START, plain_bytes(&header)),
        ])?;
        self.arena.command(hall.slot, serial);
        Ok(())
    }
}

fn collect(hall: &Hall, script: &Script) -> Result<Outcome, Refusal> {
    let memory = GuestMemory::of(hall.host_pid);
    let read = |at, bytes: &mut [u8]| {
        memory.read(at, bytes).map_err(|errno| host(errno, "reading what a script did"))
    };
    let mut calls = vec![0; script.calls.len() * size_of::<ScriptCall>()];
    read(SCRIPT_CALLS, &mut calls)?;
    let mut data = vec![0; script.data.len()];
    read(SCRIPT_DATA, &mut data)?;
    let at = core::mem::offset_of!(ScriptCall, result);
    let results: Vec<i64> = calls
        .chunks_exact(size_of::<ScriptCall>())
        .map(|call| call.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()))
        .map(|bytes| bytes.map_or(0, i64::from_ne_bytes))
        .collect();
    for ((call, result), doing) in script.calls.iter().zip(&results).zip(&script.labels) {
        if call.flags & CALL_STOP_ON_ERROR != 0 && (-4095..0).contains(result) {
            let errno = i32::try_from(-result).unwrap_or(i32::from(EIO));
            return Err(host(Errno::from_raw_os_error(errno), doing));
        }
    }
    Ok(Outcome { results, data })
}

/// A failure of the host.
pub(crate) fn host(errno: Errno, doing: &str) -> Refusal {
    Refusal::Host { errno: crate::call::wire_errno(errno), doing: Refusal::text(doing) }
}
