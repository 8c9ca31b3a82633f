//! The kernel's stops, as the machine takes them.

use super::thread::Tracer;
use super::view;
use dunix_guest_abi::layout;
use dunix_guest_abi::signal::{MOVE_SIGNAL, decode, is_move};
use dunix_linux::ptrace::{self, CallStop, Resume};
use dunix_linux::{Errno, Result};
use dunix_tracing::{Event, Nature, Place, Stop};

const SIGTRAP: u8 = 5;
const SIGSYS: u8 = 31;
/// `si_code` of a SIGSYS that a filter raised.
const SYS_SECCOMP: i32 = 1;
const SIGCHLD: u64 = 17;
const CLONE_VFORK: u64 = 0x4000;

const NR_CLONE: u64 = 56;
const NR_FORK: u64 = 57;
const NR_VFORK: u64 = 58;
const NR_EXECVE: u64 = 59;
const NR_WAIT4: u64 = 61;
const NR_WAITID: u64 = 247;

/// A call instruction.
const CALL_BYTES: u64 = 2;
/// `-ERESTART_RESTARTBLOCK`: the kernel keeps the rest of the call, for this place.
const RESTART_BLOCK: u64 = -516_i64 as u64;

/// Places in the shim's text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Points {
    /// The stub that issues a call in the guest's own context: its instruction, and behind it.
    stub: (u64, u64),
    /// Where the guest's signals are accepted.
    gadget: (u64, u64),
}

impl Points {
    fn read(tid: u32) -> Result<Points> {
        let word = |index: u64| ptrace::peek(tid, layout::TRACE_POINTS + index * 8);
        Ok(Points { stub: (word(0)?, word(1)?), gadget: (word(2)?, word(3)?) })
    }

    fn place(&self, rip: u64) -> Place {
        match rip {
            _ if !(layout::TEXT_START..layout::TEXT_END).contains(&rip) => Place::Guest,
            _ if (self.gadget.0..=self.gadget.1).contains(&rip) => Place::Gadget,
            _ => Place::Shim,
        }
    }
}

impl Tracer {
    /// A tracee stopped: `code` as a wait reports it.
    pub(super) fn stopped(&mut self, host: u32, code: u32) {
        let Some(record) = self.tracees.get(&host) else { return };
        if record.is_unwanted {
            // A signal goes on its way, SIGSYS above all.
            let event = code >> 8;
            let signal = if event == 0 && code & 0x80 == 0 { code & 0x7f } else { 0 };
            let _ = ptrace::resume(host, Resume::Detach, u8::try_from(signal).unwrap_or(0));
            drop(self.forget(host));
            return;
        }
        let stop = match self.classify(host, code) {
            Ok(stop) => stop,
            // It has been killed: its end is on the way.
            Err(_) => return,
        };
        let Some(record) = self.tracees.get_mut(&host) else { return };
        match stop {
            Stop::Entry { number, place: Place::Guest } => record.number = number,
            Stop::Interrupted { place: Place::Gadget, number } => record.number = number,
            Stop::Executed => record.number = NR_EXECVE,
            _ => {}
        }
        let act = record.view.handle(stop);
        tracing::trace!(host, ?stop, ?act, "a tracee stopped");
        self.act(host, act);
    }

    fn classify(&mut self, host: u32, code: u32) -> Result<Stop> {
        let mut registers = ptrace::registers(host)?;
        let points = match self.points {
            Some(points) => points,
            None => *self.points.insert(Points::read(host)?),
        };
        let (signal, event) = (u8::try_from(code & 0x7f).unwrap_or(0), code >> 8);
        if code == u32::from(SIGTRAP) | 0x80 {
            return call_stop(host, &points, &mut registers);
        }
        if event == 0 {
            return self.signal(host, &points, signal, &mut registers);
        }
        let rip = registers[view::RIP];
        match event {
            1..=3 => self.born(host, &registers),
            4 => {
                let before = u32::try_from(ptrace::message(host)?).unwrap_or(host);
                if before != host {
                    self.take_over(host, before);
                }
                Ok(Stop::Executed)
            }
            6 => Ok(Stop::Exiting { place: points.place(rip) }),
            _ => {
                leave_stub(host, &points, &mut registers)?;
                let place = points.place(registers[view::RIP]);
                if signal == SIGTRAP {
                    let number = match place {
                        Place::Gadget => view::caught(host, &registers)?[view::ORIG_RAX],
                        _ => 0,
                    };
                    Ok(Stop::Interrupted { place, number })
                } else {
                    Ok(Stop::Group { signal, place })
                }
            }
        }
    }

    /// A child or thread was made: it is traced like its maker, or let go if nobody asked for it.
    fn born(&mut self, host: u32, registers: &[u64; ptrace::REGISTERS]) -> Result<Stop> {
        let child = u32::try_from(ptrace::message(host)?).map_err(|_| Errno::SRCH)?;
        let caught = view::caught(host, registers)?;
        let number = caught[view::ORIG_RAX];
        let event = kind_of_birth(number, caught[view::RDI]);
        let record = self.tracees.get_mut(&host).ok_or(Errno::SRCH)?;
        record.born = child;
        record.number = number;
        let (tracer, view) = (record.tracer, record.view.child());
        let is_wanted = event.option() & record.view.options != 0;
        match self.adopt(child, tracer, view) {
            Ok(()) => {
                if let Some(record) = self.tracees.get_mut(&child) {
                    record.is_unwanted = !is_wanted;
                }
            }
            // It waits in its first stop for one that never looks: it could not be let go.
            Err(errno) => {
                tracing::warn!(child, %errno, "a child of a tracee cannot be traced, and is killed");
                crate::launch::kill(child);
            }
        }
        Ok(Stop::Born { event, number })
    }

    fn signal(
        &mut self,
        host: u32,
        points: &Points,
        number: u8,
        registers: &mut [u64; ptrace::REGISTERS],
    ) -> Result<Stop> {
        let record = self.tracees.get_mut(&host).ok_or(Errno::SRCH)?;
        let mut info = ptrace::signal_info(host)?;
        if let Some(kept) = record.kept.take_if(|kept| kept[0] == number) {
            ptrace::set_signal_info(host, &kept)?;
            info = kept;
        }
        let word =
            |at: usize| i32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
        let (code, sender) = (word(8), word(16).cast_unsigned());
        let place = points.place(registers[view::RIP]);
        let is_filter = number == SIGSYS && code == SYS_SECCOMP && place == Place::Guest;
        // Before its call, without having waited in it.
        let after_stub = registers[view::RCX] == points.stub.1;
        // Sent again, SIGCONT and stops would do their work a second time.
        let is_of_jobs = matches!(number, 18..=22);
        let is_early = registers[view::RIP] == points.stub.0 && !after_stub && !is_of_jobs;
        if !is_filter && !is_early {
            leave_stub(host, points, registers)?;
        }
        let place = points.place(registers[view::RIP]);
        let own = record.name.map_or(0, |(_, process)| process.get());
        let is_move = u32::from(number) == MOVE_SIGNAL && is_move(code, sender, own);
        // Faults of the shim's copies, and a watchpoint or a step that meets the shim.
        let is_shims = place != Place::Guest && code > 0 && matches!(number, 4 | 5 | 7 | 8 | 11);
        let waits = matches!(record.number, NR_WAIT4 | NR_WAITID);
        let nature = if is_filter {
            Nature::Filter
        } else if is_move || is_shims {
            Nature::Own
        } else if is_early || place == Place::Gadget && waits && is_of_child(number, code) {
            record.kept = Some(info);
            if is_early { Nature::Early } else { Nature::Child }
        } else {
            Nature::Guest
        };
        Ok(Stop::Signal { number, place, nature })
    }
}

fn call_stop(host: u32, points: &Points, registers: &mut [u64; ptrace::REGISTERS]) -> Result<Stop> {
    match ptrace::call_stop(host)? {
        CallStop::Entry { number, .. } => {
            Ok(Stop::Entry { number, place: points.place(registers[view::RIP]) })
        }
        CallStop::Exit => {
            // Before its call, the stub is where the shim has just sent the guest: it goes on there.
            if registers[view::RIP] == points.stub.1 {
                leave_stub(host, points, registers)?;
            }
            let place = points.place(registers[view::RIP]);
            // The filter puts the number back as if it were the result; SIGSYS tells the two apart.
            let is_trap = place == Place::Guest
                && registers[view::RAX] == registers[view::ORIG_RAX]
                && ptrace::has_pending(host, i32::from(SIGSYS), SYS_SECCOMP)?;
            Ok(Stop::Exit { place, is_trap })
        }
        CallStop::None => Err(Errno::INVAL),
    }
}

/// Takes a thread out of the stub, to where the guest is after its call, or before it.
fn leave_stub(host: u32, points: &Points, registers: &mut [u64; ptrace::REGISTERS]) -> Result<()> {
    let rip = registers[view::RIP];
    let (before, after) = points.stub;
    if rip != before && rip != after || rip == after && registers[view::RAX] == RESTART_BLOCK {
        return Ok(());
    }
    let back = view::pass_return(host, registers)?;
    registers[view::RIP] = if rip == before { back - CALL_BYTES } else { back };
    registers[view::RCX] = back;
    ptrace::set_registers(host, registers)
}

/// What event the guest's call is, as the kernel would have it (clone(2)).
fn kind_of_birth(number: u64, flags: u64) -> Event {
    match number {
        NR_FORK => Event::Fork,
        NR_VFORK => Event::Vfork,
        NR_CLONE if flags & CLONE_VFORK != 0 => Event::Vfork,
        NR_CLONE if flags & 0xff == SIGCHLD => Event::Fork,
        _ => Event::Clone,
    }
}

/// Whether a signal says that a child has ended, stopped or gone on.
fn is_of_child(number: u8, code: i32) -> bool {
    u64::from(number) == SIGCHLD && (1..=6).contains(&decode(code).unwrap_or(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn births_are_told_apart_as_by_the_kernel() {
        assert_eq!(kind_of_birth(57, 0), Event::Fork);
        assert_eq!(kind_of_birth(58, 0), Event::Vfork);
        assert_eq!(kind_of_birth(56, 0x4111), Event::Vfork);
        assert_eq!(kind_of_birth(56, 0x120_0011), Event::Fork);
        assert_eq!(kind_of_birth(56, 0x3d_0f00), Event::Clone);
    }
}
