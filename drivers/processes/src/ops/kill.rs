//! `OP_KILL`, `OP_TGKILL`, `OP_BACKGROUND`: signals that guests send.

use crate::call::DoorbellCall;
use crate::node::{Node, Pending};
use dunix_guest_abi::doorbell::SigInfo;
use dunix_linux::{Errno, Result};
use dunix_proc_table::{KillTarget, SIGNAL_MAX};
use dunix_wire::processes::SignalInfo;

const SIGTTIN: u8 = 21;
const SIGTTOU: u8 = 22;

impl Node {
    pub(crate) fn handle_kill(&self, call: DoorbellCall) {
        let asked = self.kill_target(&call).and_then(|target| {
            Ok((target, signal_arg(&call, 2)?, info_arg(&call, 3, SignalInfo::User)?))
        });
        self.kill(call, asked);
    }

    pub(crate) fn handle_tgkill(&self, call: DoorbellCall) {
        let asked = thread_target(&call).and_then(|target| {
            Ok((target, signal_arg(&call, 3)?, info_arg(&call, 4, SignalInfo::Thread)?))
        });
        self.kill(call, asked);
    }

    /// A background process touches its terminal.
    pub(crate) fn handle_background(&self, call: DoorbellCall) {
        let asked = call.caller().and_then(|caller| match u8::try_from(call.arg(1)) {
            Ok(signal @ (SIGTTIN | SIGTTOU)) => Ok((caller.pid, signal)),
            _ => Err(Errno::INVAL),
        });
        match asked {
            Err(errno) => call.refuse(errno),
            // The foreground has changed since the shim looked: the call just starts again.
            Ok((pid, _)) if !self.look(|state| state.may_be_background(pid)) => call.answer(0),
            Ok((pid, signal)) => self.with(|state, now| {
                let token = state.expect_reply(Pending::Call(call));
                state.table.background(now, token, pid, signal);
            }),
        }
    }

    fn kill(&self, call: DoorbellCall, asked: Result<(KillTarget, u8, SignalInfo)>) {
        let asked = asked.and_then(|asked| Ok((call.caller()?.pid, asked)));
        let (caller, (target, signal, info)) = match asked {
            Ok(asked) => asked,
            Err(errno) => return call.refuse(errno),
        };
        self.with(|state, now| {
            let own = state.refresh_credentials(caller, self.ids_base);
            // Root may signal everybody.
            if own.is_none_or(|own| own.euid != crate::node::ROOT.euid) {
                state.refresh_targets(target, self.ids_base);
            }
            let token = state.expect_reply(Pending::Call(call));
            state.table.kill(now, token, caller, target, signal, info);
        });
    }

    fn kill_target(&self, call: &DoorbellCall) -> Result<KillTarget> {
        let caller = call.caller()?.pid;
        let group = self.look(|state| state.table.group(caller)).ok_or(Errno::SRCH)?;
        KillTarget::of_kill(call.int_arg(1), group).ok_or(Errno::SRCH)
    }
}

fn thread_target(call: &DoorbellCall) -> Result<KillTarget> {
    if call.int_arg(1) < 0 || call.int_arg(2) <= 0 {
        return Err(Errno::INVAL);
    }
    let thread = call.pid_arg(2)?.ok_or(Errno::INVAL)?;
    Ok(KillTarget::Thread { process: call.pid_arg(1)?, thread })
}

fn signal_arg(call: &DoorbellCall, number: usize) -> Result<u8> {
    let signal = u8::try_from(call.int_arg(number)).map_err(|_| Errno::INVAL)?;
    if signal <= SIGNAL_MAX { Ok(signal) } else { Err(Errno::INVAL) }
}

/// The guest's siginfo, if it gives one; only codes that the kernel lets users send.
fn info_arg(call: &DoorbellCall, number: usize, plain: SignalInfo) -> Result<SignalInfo> {
    if call.arg(number) == 0 {
        return Ok(plain);
    }
    let info: SigInfo = call.memory().read_plain(call.arg(number))?;
    match info.code {
        code if code < 0 => Ok(SignalInfo::Queued { code, value: info.value }),
        _ => Err(Errno::PERM),
    }
}
