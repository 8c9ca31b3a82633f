//! ptrace(2) as guests ask for it.

use super::thread::Tracer;
use super::view::{self, Registers};
use crate::call::{Caller, DoorbellCall};
use dunix_guest_abi::signal::decode;
use dunix_linux::ptrace::{self, REGISTERS, Resume, SIGINFO_BYTES};
use dunix_linux::{Errno, Result};
use dunix_tracing::{Event, Kind, Mode, Shown, Tracee, options};

const TRACEME: u64 = 0;
const PEEKTEXT: u64 = 1;
const PEEKDATA: u64 = 2;
const PEEKUSER: u64 = 3;
const POKETEXT: u64 = 4;
const POKEDATA: u64 = 5;
const POKEUSER: u64 = 6;
const CONT: u64 = 7;
const KILL: u64 = 8;
const SINGLESTEP: u64 = 9;
const GETREGS: u64 = 12;
const SETREGS: u64 = 13;
const GETFPREGS: u64 = 14;
const SETFPREGS: u64 = 15;
const ATTACH: u64 = 16;
const DETACH: u64 = 17;
const OLDSETOPTIONS: u64 = 21;
const SYSCALL: u64 = 24;
const SETOPTIONS: u64 = 0x4200;
const GETEVENTMSG: u64 = 0x4201;
const GETSIGINFO: u64 = 0x4202;
const SETSIGINFO: u64 = 0x4203;
const GETREGSET: u64 = 0x4204;
const SETREGSET: u64 = 0x4205;
const SEIZE: u64 = 0x4206;
const INTERRUPT: u64 = 0x4207;
const LISTEN: u64 = 0x4208;
const GETSIGMASK: u64 = 0x420a;
const SETSIGMASK: u64 = 0x420b;
const GET_SYSCALL_INFO: u64 = 0x420e;

/// `NT_PRSTATUS`: the general registers.
const NT_PRSTATUS: u64 = 1;
/// `NT_PRFPREG`.
const NT_PRFPREG: u64 = 2;
/// `struct user_fpregs_struct`.
const FPREGS_BYTES: usize = 512;
/// Most bytes of a set of registers (AMX included).
const REGSET_BYTES_MAX: usize = 16 * 1024;
const REGISTER_BYTES: usize = REGISTERS * 8;
/// `SIGTRAP`.
const SIGTRAP: i32 = 5;
/// `TRAP_TRACE`.
const TRAP_TRACE: i32 = 2;
const AUDIT_ARCH_X86_64: u64 = 0xc000_003e;

/// Whom a request attaches to, if that is what it does.
pub(super) fn attached(call: &DoorbellCall) -> Option<dunix_ids::Pid> {
    matches!(call.arg(1), ATTACH | SEIZE).then(|| call.pid_arg(2).ok().flatten())?
}

impl Tracer {
    /// Serves a request and answers it.
    pub(super) fn request(&mut self, call: DoorbellCall) {
        let result = self.serve(&call);
        tracing::trace!(request = call.arg(1), pid = call.arg(2), ?result, "ptrace");
        call.conclude(result);
    }

    fn serve(&mut self, call: &DoorbellCall) -> Result<i64> {
        let caller = call.caller()?;
        match call.arg(1) {
            TRACEME => self.trace_me(call, caller),
            ATTACH => self.attach(call, caller, false),
            SEIZE => self.attach(call, caller, true),
            request => {
                let host = self.tracee(call, caller)?;
                self.serve_tracee(call, request, host)
            }
        }
    }

    /// The tracee that a request names, if it is the caller's.
    fn tracee(&self, call: &DoorbellCall, caller: Caller) -> Result<u32> {
        let host = self.target(call)?.1;
        let record = self.tracees.get(&host).ok_or(Errno::SRCH)?;
        if record.tracer == caller.pid { Ok(host) } else { Err(Errno::SRCH) }
    }

    /// Process and thread, at the host, that a request names.
    fn target(&self, call: &DoorbellCall) -> Result<(u32, u32)> {
        let tid = call.pid_arg(2)?.ok_or(Errno::SRCH)?;
        self.node.look(|state| state.host_of(tid)).ok_or(Errno::SRCH)
    }

    fn trace_me(&mut self, call: &DoorbellCall, caller: Caller) -> Result<i64> {
        let parent = self.node.look(|state| {
            let parent = state.table.parent(caller.pid)?;
            state.locals.contains_key(&parent).then_some(parent)
        });
        let host = call.host_tid();
        if self.tracees.contains_key(&host) {
            return Err(Errno::PERM);
        }
        ptrace::seize(host, host_options(0))?;
        self.adopted(host, parent.ok_or(Errno::PERM)?, Tracee::new(false, 0))
    }

    fn attach(&mut self, call: &DoorbellCall, caller: Caller, is_seized: bool) -> Result<i64> {
        let (process, host) = self.target(call)?;
        let wanted = if is_seized { call.arg(4) } else { 0 };
        if is_seized && (call.arg(3) != 0 || wanted & !options::KNOWN != 0) {
            return Err(Errno::IO);
        }
        if process == caller.host_pid || self.tracees.contains_key(&host) {
            return Err(Errno::PERM);
        }
        self.check_permission(caller, process)?;
        ptrace::seize(host, host_options(wanted))?;
        let mut view = Tracee::new(is_seized, wanted);
        if !is_seized {
            view.interrupt();
        }
        let adopted = self.adopted(host, caller.pid, view)?;
        if !is_seized {
            ptrace::interrupt(host)?;
        }
        Ok(adopted)
    }

    /// Keeps the record of a thread that the kernel traces already.
    fn adopted(&mut self, host: u32, tracer: dunix_ids::Pid, view: Tracee) -> Result<i64> {
        match self.adopt(host, tracer, view) {
            Ok(()) => Ok(0),
            Err(errno) => {
                // It runs, and cannot be let go: nobody could wait for its next stop.
                tracing::warn!(host, %errno, "a tracee cannot be waited for, and is killed");
                crate::launch::kill(host);
                Err(errno)
            }
        }
    }

    fn check_permission(&self, caller: Caller, target: u32) -> Result<()> {
        let asker = crate::access::asker(caller.host_pid, self.node.ids_base)?;
        self.node.check_access(&asker, target)
    }

    fn serve_tracee(&mut self, call: &DoorbellCall, request: u64, host: u32) -> Result<i64> {
        match request {
            KILL => {
                crate::launch::kill(host);
                return Ok(0);
            }
            INTERRUPT => return self.interrupt(host),
            _ => {}
        }
        let record = self.tracees.get(&host).ok_or(Errno::SRCH)?;
        let shown = record.view.shown().ok_or(Errno::SRCH)?;
        let (address, data) = (call.arg(3), call.arg(4));
        let memory = call.memory();
        match request {
            CONT => self.resume(host, Mode::Continue, data),
            SYSCALL => self.resume(host, Mode::Calls, data),
            SINGLESTEP => self.resume(host, Mode::Step, data),
            DETACH => self.detach(host, shown, data),
            LISTEN => self.listen(host, shown),
            SETOPTIONS | OLDSETOPTIONS => self.set_options(host, data),
            PEEKTEXT | PEEKDATA => {
                // A wild address is EIO here, as natively.
                memory.write_plain(data, &ptrace::peek(host, address)?).map(|()| 0)
            }
            POKETEXT | POKEDATA => ptrace::poke(host, address, data).map(|()| 0),
            GETSIGMASK if address == 8 => {
                memory.write_plain(data, &ptrace::signal_mask(host)?).map(|()| 0)
            }
            SETSIGMASK if address == 8 => {
                let mask: u64 = memory.read_plain(data)?;
                // Those that must get through are never blocked.
                let kept = 1 << (31 - 1) | 1 << (4 - 1) | 1 << (16 - 1);
                ptrace::set_signal_mask(host, mask & !kept).map(|()| 0)
            }
            GETSIGMASK | SETSIGMASK => Err(Errno::INVAL),
            GETEVENTMSG => {
                let message = self.message(host, shown)?;
                memory.write_plain(data, &message).map(|()| 0)
            }
            GETSIGINFO => memory.write(data, &self.signal_info(host, shown)?).map(|()| 0),
            SETSIGINFO => {
                let mut info = [0; SIGINFO_BYTES];
                memory.read(data, &mut info)?;
                ptrace::set_signal_info(host, &info).map(|()| 0)
            }
            GET_SYSCALL_INFO => self.syscall_info(call, host, shown),
            _ => self.serve_registers(call, request, host, shown),
        }
    }

    fn serve_registers(
        &mut self,
        call: &DoorbellCall,
        request: u64,
        host: u32,
        shown: Shown,
    ) -> Result<i64> {
        let number = self.tracees.get(&host).map_or(0, |record| record.number);
        let (address, data) = (call.arg(3), call.arg(4));
        let memory = call.memory();
        let index = || usize::try_from(address / 8).ok().filter(|index| *index < REGISTERS);
        match request {
            PEEKUSER if !address.is_multiple_of(8) => Err(Errno::IO),
            PEEKUSER => {
                let word = match index() {
                    Some(index) => view::shown(host, shown, number)?[index],
                    None => ptrace::peek_user(host, address)?,
                };
                memory.write_plain(data, &word).map(|()| 0)
            }
            POKEUSER => match index().filter(|_| address.is_multiple_of(8)) {
                Some(index) => {
                    let mut registers = view::shown(host, shown, number)?;
                    registers[index] = data;
                    self.change(host, shown, number, &registers)
                }
                None => ptrace::poke_user(host, address, data).map(|()| 0),
            },
            GETREGS => memory.write_plain(data, &view::shown(host, shown, number)?).map(|()| 0),
            SETREGS => {
                let registers: Registers = memory.read_plain(data)?;
                self.change(host, shown, number, &registers)
            }
            GETFPREGS => {
                let mut bytes = [0; FPREGS_BYTES];
                ptrace::register_set(host, NT_PRFPREG, &mut bytes)?;
                memory.write(data, &bytes).map(|()| 0)
            }
            SETFPREGS => {
                let mut bytes = [0; FPREGS_BYTES];
                memory.read(data, &mut bytes)?;
                ptrace::set_register_set(host, NT_PRFPREG, &bytes).map(|_| 0)
            }
            GETREGSET | SETREGSET => {
                let [start, length]: [u64; 2] = memory.read_plain(data)?;
                let length = usize::try_from(length).unwrap_or(usize::MAX).min(REGSET_BYTES_MAX);
                let mut bytes = vec![0; length];
                let done = if request == GETREGSET {
                    let done = match address {
                        NT_PRSTATUS => {
                            copy_registers(&view::shown(host, shown, number)?, &mut bytes)
                        }
                        kind => ptrace::register_set(host, kind, &mut bytes)?,
                    };
                    memory.write(start, &bytes[..done])?;
                    done
                } else {
                    memory.read(start, &mut bytes)?;
                    match address {
                        NT_PRSTATUS => {
                            let mut registers = view::shown(host, shown, number)?;
                            let done = take_registers(&mut registers, &bytes);
                            self.change(host, shown, number, &registers)?;
                            done
                        }
                        kind => ptrace::set_register_set(host, kind, &bytes)?,
                    }
                };
                memory.write_plain(data + 8, &(done as u64)).map(|()| 0)
            }
            _ => Err(Errno::IO),
        }
    }

    fn change(&mut self, host: u32, shown: Shown, number: u64, to: &Registers) -> Result<i64> {
        view::change(host, shown, number, to)?;
        if let Some(record) = self.tracees.get_mut(&host).filter(|_| shown.kind == Kind::Enter) {
            // Another call, or none.
            record.number = to[view::ORIG_RAX];
        }
        Ok(0)
    }

    fn interrupt(&mut self, host: u32) -> Result<i64> {
        let record = self.tracees.get_mut(&host).ok_or(Errno::SRCH)?;
        if !record.view.is_seized {
            return Err(Errno::IO);
        }
        record.view.interrupt();
        ptrace::interrupt(host).map(|()| 0)
    }

    fn resume(&mut self, host: u32, mode: Mode, signal: u64) -> Result<i64> {
        let signal = u8::try_from(signal).ok().filter(|n| *n <= 64).ok_or(Errno::IO)?;
        let record = self.tracees.get_mut(&host).ok_or(Errno::SRCH)?;
        let act = record.view.resume(mode, signal).ok_or(Errno::SRCH)?;
        if let Some((tid, _)) = record.name {
            self.node.tracing.withdraw(record.tracer, tid);
        }
        self.act(host, act);
        Ok(0)
    }

    fn detach(&mut self, host: u32, shown: Shown, signal: u64) -> Result<i64> {
        let signal = u8::try_from(signal).ok().filter(|n| *n <= 64).ok_or(Errno::IO)?;
        // What was made up for the tracer is no signal of the process's.
        let signal = if shown.kind == Kind::Attached { 0 } else { signal };
        ptrace::resume(host, Resume::Detach, signal)?;
        drop(self.forget(host));
        Ok(0)
    }

    fn listen(&mut self, host: u32, shown: Shown) -> Result<i64> {
        let record = self.tracees.get_mut(&host).ok_or(Errno::SRCH)?;
        if !record.view.is_seized || !matches!(shown.kind, Kind::Group { .. }) {
            return Err(Errno::IO);
        }
        ptrace::resume(host, Resume::Listen, 0)?;
        record.view.listen();
        Ok(0)
    }

    fn set_options(&mut self, host: u32, wanted: u64) -> Result<i64> {
        if wanted & !options::KNOWN != 0 {
            return Err(Errno::INVAL);
        }
        ptrace::set_options(host, host_options(wanted))?;
        let record = self.tracees.get_mut(&host).ok_or(Errno::SRCH)?;
        record.view.options = wanted;
        Ok(0)
    }

    fn message(&mut self, host: u32, shown: Shown) -> Result<u64> {
        let record = self.tracees.get(&host).ok_or(Errno::SRCH)?;
        let (born, name) = (record.born, record.name);
        Ok(match shown.kind {
            Kind::Enter => 1,
            Kind::Exit { .. } => 2,
            Kind::Event(Event::Fork | Event::Vfork | Event::Clone | Event::VforkDone) => {
                // The table may have only the parent's word for a child that has not run yet.
                let child = self.node.look(|state| {
                    state.table.from_host(born).or_else(|| state.claims.get(&born).copied())
                });
                child.map_or(0, |child| u64::from(child.get()))
            }
            Kind::Event(Event::Exec) => name.map_or(0, |(tid, _)| u64::from(tid.get())),
            Kind::Event(Event::Exit) => ptrace::message(host)?,
            _ => 0,
        })
    }

    fn signal_info(&self, host: u32, shown: Shown) -> Result<[u8; SIGINFO_BYTES]> {
        let record = self.tracees.get(&host).ok_or(Errno::SRCH)?;
        let status = shown.status(record.view.is_seized, record.view.options).cast_signed();
        let own = record.name.map_or(0, |(tid, _)| tid.get());
        let made = |signal: i32, code: i32| {
            let mut info = [0; SIGINFO_BYTES];
            info[..4].copy_from_slice(&signal.to_ne_bytes());
            info[8..12].copy_from_slice(&code.to_ne_bytes());
            info[16..20].copy_from_slice(&own.to_ne_bytes());
            info
        };
        Ok(match shown.kind {
            Kind::Signal { .. } => with_real_code(ptrace::signal_info(host)?),
            Kind::Enter | Kind::Exit { .. } | Kind::Event(_) => made(SIGTRAP, status),
            Kind::Group { signal } if record.view.is_seized => made(i32::from(signal), status),
            Kind::Group { .. } => return Err(Errno::INVAL),
            Kind::Trap { is_step: true } => made(SIGTRAP, TRAP_TRACE),
            Kind::Trap { .. } | Kind::Attached => made(status, 0),
        })
    }

    fn syscall_info(&self, call: &DoorbellCall, host: u32, shown: Shown) -> Result<i64> {
        let number = self.tracees.get(&host).map_or(0, |record| record.number);
        let registers = view::shown(host, shown, number)?;
        let (info, length) = info_of_call(shown.kind, &registers);
        let wanted = usize::try_from(call.arg(3)).unwrap_or(usize::MAX).min(length);
        call.memory().write(call.arg(4), &info[..wanted])?;
        i64::try_from(length).map_err(|_| Errno::INVAL)
    }
}

/// What the host is asked to tell of, for a guest's options.
fn host_options(wanted: u64) -> u64 {
    let births = options::FORK | options::VFORK | options::CLONE | options::VFORK_DONE;
    let children = if wanted & births != 0 { ptrace::O_CHILDREN } else { 0 };
    let exit = if wanted & options::EXIT != 0 { ptrace::O_EXIT } else { 0 };
    ptrace::O_SYSGOOD | ptrace::O_EXEC | children | exit
}

/// `struct ptrace_syscall_info`, and how many bytes of it are meant.
fn info_of_call(kind: Kind, registers: &Registers) -> ([u8; 88], usize) {
    const RDX: usize = 12;
    const RSI: usize = 13;
    const R8: usize = 9;
    const R9: usize = 8;
    const R10: usize = 7;
    const HEADER: usize = 24;
    const ENTRY: usize = 80;
    const EXIT: usize = 33;
    const ERRORS: u64 = -4095_i64 as u64;
    let mut words = [0_u64; 11];
    words[0] = AUDIT_ARCH_X86_64 << 32;
    words[1] = registers[view::RIP];
    words[2] = registers[view::RSP];
    let length = match kind {
        Kind::Enter => {
            words[0] |= 1;
            words[3] = registers[view::ORIG_RAX];
            for (word, from) in words[4..10].iter_mut().zip([view::RDI, RSI, RDX, R10, R8, R9]) {
                *word = registers[from];
            }
            ENTRY
        }
        Kind::Exit { .. } => {
            words[0] |= 2;
            words[3] = registers[view::RAX];
            words[4] = u64::from(registers[view::RAX] >= ERRORS);
            EXIT
        }
        _ => HEADER,
    };
    let mut bytes = [0; 88];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    (bytes, length)
}

/// Shows the `si_code` that a signal of the daemon's stands for.
fn with_real_code(mut info: [u8; SIGINFO_BYTES]) -> [u8; SIGINFO_BYTES] {
    let code = i32::from_ne_bytes([info[8], info[9], info[10], info[11]]);
    if let Some(real) = decode(code) {
        info[8..12].copy_from_slice(&real.to_ne_bytes());
    }
    info
}

fn copy_registers(registers: &Registers, into: &mut [u8]) -> usize {
    let bytes = into.len().min(REGISTER_BYTES) / 8 * 8;
    for (to, word) in into[..bytes].chunks_exact_mut(8).zip(registers) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn take_registers(registers: &mut Registers, from: &[u8]) -> usize {
    let bytes = from.len().min(REGISTER_BYTES) / 8 * 8;
    for (word, bytes) in registers.iter_mut().zip(from[..bytes].as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_described_as_the_kernel_does() {
        let mut registers = [0; REGISTERS];
        (registers[view::ORIG_RAX], registers[view::RDI], registers[view::RAX]) = (257, 7, 3);
        let (entry, length) = info_of_call(Kind::Enter, &registers);
        assert_eq!((entry[0], length, entry[24], entry[25], entry[32]), (1, 80, 1, 1, 7));
        let (exit, length) = info_of_call(Kind::Exit { is_cut: false }, &registers);
        assert_eq!((exit[0], length, exit[24], exit[32]), (2, 33, 3, 0));
        registers[view::RAX] = -2_i64 as u64;
        assert_eq!(info_of_call(Kind::Exit { is_cut: false }, &registers).0[32], 1);
        assert_eq!(info_of_call(Kind::Attached, &registers).1, 24);
    }

    #[test]
    fn sets_of_registers_come_and_go_in_words() {
        let registers: Registers = core::array::from_fn(|index| index as u64 + 1);
        let mut bytes = [0; 300];
        assert_eq!(copy_registers(&registers, &mut bytes), REGISTER_BYTES);
        let mut found = [0; REGISTERS];
        assert_eq!(take_registers(&mut found, &bytes[..20]), 16);
        assert_eq!(found[..3], [1, 2, 0]);
    }
}
