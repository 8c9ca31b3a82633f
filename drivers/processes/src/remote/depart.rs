//! The source's side of a remote exec, and of a root that starts elsewhere.

use super::capture::{Capture, Unmovable};
use super::offer::{Offer, directory, inside};
use crate::call::{Caller, DoorbellCall, errno_of};
use crate::host::{Status, Times};
use crate::node::{Node, Ticket};
use dunix_guest_abi::doorbell::{EXEC_GONE, ExecRequest, REMOTE_FD_WORDS};
use dunix_ids::{NodeId, Pid};
use dunix_linux::guest_memory::GuestMemory;
use dunix_linux::{Errno, identity};
use dunix_wire::Topic;
use dunix_wire::processes::image::{ARGUMENT_BYTES_MAX, REASON_BYTES_MAX};
use dunix_wire::processes::{
    ExecImage, ProcessRecord, ProcessesAnswer, ProcessesCall, Rusage, StartStep,
};
use std::sync::Arc;
use std::time::Duration;

/// How long the other node may take to become the process's node.
const ADOPTION_WAIT: Duration = Duration::from_secs(30);

/// `SECBIT_KEEP_CAPS`, which an exec clears.
const KEEP_CAPABILITIES: u32 = 1 << 4;

/// SIGKILL in a signal set; a thread has it pending when its process is being killed.
const SIGKILL_BIT: u64 = 1 << (dunix_proc_table::SIGKILL - 1);

/// Why a process did not go.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotGone {
    #[error("it cannot move: {0}")]
    Unmovable(#[from] Unmovable),
    #[error("the process table refuses: {0}")]
    Table(Errno),
    #[error("the other node refuses: {reason}")]
    Refused { step: StartStep, errno: Errno, reason: String },
    #[error("the other node was not reached: {0}")]
    NotReached(String),
    /// Nobody knows whether the other node runs it.
    #[error("the other node fell silent during the hand-over: {0}")]
    Unsettled(String),
}

impl NotGone {
    pub(crate) fn errno(&self) -> Errno {
        match self {
            NotGone::Unmovable(Unmovable::Host(errno)) | NotGone::Table(errno) => *errno,
            NotGone::Unmovable(_) => Errno::NOTSUP,
            NotGone::Refused { errno, .. } => *errno,
            NotGone::NotReached(_) | NotGone::Unsettled(_) => Errno::HOSTUNREACH,
        }
    }

    /// The step of the start that failed.
    pub(crate) fn step(&self) -> StartStep {
        match self {
            NotGone::Refused { step, .. } => *step,
            _ => StartStep::Other,
        }
    }
}

impl From<Errno> for NotGone {
    fn from(errno: Errno) -> NotGone {
        NotGone::Unmovable(Unmovable::Host(errno))
    }
}

/// Where an image is to go.
pub(crate) struct Destination {
    pub(crate) node: NodeId,
    /// The exec fails if it cannot go there.
    pub(crate) must: bool,
    /// Why there, for people.
    pub(crate) why: String,
}

impl Node {
    /// Executes at another node; if that fails, here, unless it must be there.
    pub(crate) fn exec_at(
        self: &Arc<Node>,
        destination: Destination,
        call: DoorbellCall,
        request: ExecRequest,
        ticket: Ticket,
    ) {
        let Ok(caller) = call.caller() else { return call.refuse(Errno::SRCH) };
        self.note_executing_away(caller.pid, true);
        let node = self.clone();
        self.runtime.spawn(async move {
            let Destination { node: to, must, .. } = destination;
            let gone = node.go(&destination, caller, &call, &request, &ticket).await;
            match gone {
                Ok(()) => {
                    node.note(caller.pid, format!("executed {} at {to}", shown(&ticket)));
                    call.answer(EXEC_GONE);
                }
                Err(error) => {
                    let line = format!("{} stayed here instead of {to}: {error}", shown(&ticket));
                    tracing::info!(node = %node.id, pid = %caller.pid, "{line}");
                    node.note(caller.pid, line);
                    node.after_failure(call, ticket, &error, must);
                }
            }
        });
    }

    fn after_failure(&self, call: DoorbellCall, ticket: Ticket, error: &NotGone, must: bool) {
        let Ok(caller) = call.caller() else { return call.refuse(Errno::SRCH) };
        if let NotGone::Unsettled(_) = error {
            // It may run there: it must not run here as well. Its parent hears of a kill.
            self.with(|state, now| {
                state.table.stayed(now, caller.pid);
                state.table.exited(now, caller.pid, crate::node::KILLED, Rusage::default());
            });
            return call.answer(EXEC_GONE);
        }
        self.with(|state, now| state.table.stayed(now, caller.pid));
        self.note_executing_away(caller.pid, false);
        if must {
            return call.refuse(error.errno());
        }
        self.exec_here(call, ticket, format!("it could not go elsewhere: {error}"));
    }

    fn note_executing_away(&self, pid: Pid, is: bool) {
        self.with(|state, _| {
            if let Some(local) = state.locals.get_mut(&pid) {
                local.is_executing_away = is;
            }
        });
    }

    async fn go(
        self: &Arc<Node>,
        destination: &Destination,
        caller: Caller,
        call: &DoorbellCall,
        request: &ExecRequest,
        ticket: &Ticket,
    ) -> Result<(), NotGone> {
        let (to, pid, host_pid) = (destination.node, caller.pid, caller.host_pid);
        let must = destination.must;
        let found = self.look(|state| {
            let local = state.locals.get(&pid)?;
            Some((local.remote.for_child(), local.was_taken_from))
        });
        let (remote, was_taken_from) = found.unwrap_or_default();
        let private = if was_taken_from { [0; REMOTE_FD_WORDS] } else { request.private_fds };
        let undrained = remote.undrained(&self.homes, self.id);
        let (node, memory, request) = (self.clone(), call.memory(), *request);
        let (exe_path, exec_fn) = (ticket.exe_path.clone(), ticket.exec_fn.clone());
        // Looks into the tree and the guest's memory, which may wait for this runtime's threads.
        let described = self.runtime.spawn_blocking(move || {
            let capture = Capture::new(node.clone(), to, host_pid, remote, private).must_go(must);
            let image = image_of(host_pid, &memory, &request, exe_path, exec_fn, &node)?;
            Ok::<_, NotGone>((capture.run()?, image))
        });
        let (offer, mut image) = described.await.unwrap_or(Err(Errno::IO.into()))?;
        image.reason = shortened(&destination.why);
        image.undrained = undrained;
        let last_look = |image: &mut ExecImage| {
            // What was read is the caller's only if he still waits.
            let is_waiting = call.is_pending();
            let status = Status::of(host_pid, self.ids_base)?;
            image.signals_pending = status.signals_pending;
            let is_dying = status.signals_pending & SIGKILL_BIT != 0;
            if is_waiting && !is_dying { Ok(()) } else { Err(Errno::SRCH) }
        };
        self.send_away(to, pid, &mut image, offer, last_look).await?;
        self.counts.count_exec_elsewhere();
        Ok(())
    }

    /// Hands a process over: from the answer on it lives there. `last_look` runs when no signal
    /// reaches the process here any more.
    pub(crate) async fn send_away(
        self: &Arc<Node>,
        to: NodeId,
        pid: Pid,
        image: &mut ExecImage,
        mut offer: Offer,
        last_look: impl FnOnce(&mut ExecImage) -> Result<(), Errno>,
    ) -> Result<(), NotGone> {
        let mesh = self.mesh.clone().ok_or(NotGone::NotReached("this node is alone".into()))?;
        offer.see_from(&image.root);
        image.descriptors = std::mem::take(&mut offer.descriptors);
        let record = self.with(|state, now| {
            state.refresh_credentials(pid, self.ids_base);
            state.table.depart(now, pid, to)
        });
        image.record = record.map_err(|errno| NotGone::Table(errno_of(errno)))?;
        self.settle_effects();
        last_look(image)?;
        offer.announce();
        let body = dunix_wire::encode(&ProcessesCall::Exec(Box::new(image.clone())));
        let answer = mesh.call(to, Topic::Processes, body, ADOPTION_WAIT).await;
        let outcome = settle(answer);
        if outcome.is_ok() {
            if !self.with(|state, now| state.table.departed(now, pid)) {
                return Err(NotGone::Unsettled("it adopted the process and died".into()));
            }
            offer.was_taken();
        }
        outcome
    }
}

fn settle(answer: Result<bytes::Bytes, dunix_transport::MeshError>) -> Result<(), NotGone> {
    use dunix_transport::MeshError as M;
    match answer {
        Ok(body) => match dunix_wire::decode(&body) {
            Ok(ProcessesAnswer::Adopted) => Ok(()),
            Ok(ProcessesAnswer::Refused { step, errno, reason }) => {
                Err(NotGone::Refused { step, errno: errno_of(errno), reason })
            }
            _ => Err(NotGone::Unsettled("its answer makes no sense".into())),
        },
        Err(error @ (M::TimedOut(_) | M::Broken(_) | M::Unanswered(_))) => {
            Err(NotGone::Unsettled(error.to_string()))
        }
        Err(error) => Err(NotGone::NotReached(error.to_string())),
    }
}

/// All of a process but its record and descriptors.
fn image_of(
    host_pid: u32,
    memory: &GuestMemory,
    request: &ExecRequest,
    exe_path: Vec<u8>,
    exec_fn: Vec<u8>,
    node: &Node,
) -> Result<ExecImage, NotGone> {
    let status = Status::of(host_pid, node.ids_base)?;
    // What an exec makes of these the other node would have to be told.
    if request.securebits & !KEEP_CAPABILITIES != 0 || status.inheritable | status.ambient != 0 {
        return Err(NotGone::Unmovable(Unmovable::Capabilities));
    }
    let argv = memory.read_strings(request.argv, ARGUMENT_BYTES_MAX)?;
    let bytes: usize = argv.iter().map(|s| s.len() + 9).sum();
    let room = ARGUMENT_BYTES_MAX.checked_sub(bytes).ok_or(Errno::TOOBIG)?;
    let envp = memory.read_strings(request.envp, room)?;
    let [gid, egid, sgid] = status.gids;
    let nice = Times::of(host_pid).map_or(0, |times| times.nice);
    let root = directory(node, host_pid, "root")?;
    let cwd = directory(node, host_pid, "cwd")?;
    Ok(ExecImage {
        record: empty_record(),
        argv,
        envp,
        exe_path: inside(&root, node.below_root(exe_path)),
        exec_fn,
        cwd: inside(&root, cwd),
        root,
        umask: status.umask,
        gid,
        egid,
        sgid,
        groups: status.groups,
        bounding: status.bounding,
        no_new_privs: status.no_new_privs,
        rlimits: identity::limits_of(host_pid)?.to_vec(),
        nice: i8::try_from(nice).unwrap_or(0),
        signals_ignored: request.signals_ignored,
        signals_blocked: request.signals_blocked,
        signals_pending: status.signals_pending,
        descriptors: Vec::new(),
        undrained: Vec::new(),
        is_pinned: false,
        reason: String::new(),
    })
}

/// As much of a reason as travels.
pub(crate) fn shortened(reason: &str) -> String {
    reason[..reason.floor_char_boundary(REASON_BYTES_MAX)].to_owned()
}

/// A record to be filled in by the table when the process departs.
pub(crate) fn empty_record() -> ProcessRecord {
    ProcessRecord {
        pid: Pid::INIT,
        version: 0,
        parent: dunix_wire::processes::ParentLink {
            pid: Pid::INIT,
            node: None,
            group: None,
            version: 0,
        },
        exit_signal: 0,
        pgid: Pid::INIT,
        sid: Pid::INIT,
        terminal: None,
        credentials: crate::node::ROOT,
        children_reaped: false,
        stops_silent: false,
        children: Vec::new(),
        children_rusage: Rusage::default(),
        serials: Vec::new(),
        started_seconds: crate::host::unix_seconds(),
        has_execed: false,
        threads: Vec::new(),
        used: Rusage::default(),
        lessees: Vec::new(),
        comm: String::new(),
    }
}

fn shown(ticket: &Ticket) -> String {
    String::from_utf8_lossy(&ticket.exe_path).into_owned()
}
