//! `OP_PIDFD_GETFD`: a descriptor of another process, on whichever node (pidfd_getfd(2)).
//!
//! ```text
//!  asker's node                                    node of the process
//!  ring -> handle_take ---- here ----> duplicate or token
//!                      `--- Take ----> give_taken: described as for a message
//!  OP_RECEIVED <- descriptor or token <-- admit <--image--'
//! ```
//! Nothing is taken from a process that comes, leaves or executes elsewhere: what it has open is being described then.
//! The asker waits outside of the daemon meanwhile, so that it can be moved itself.

use super::calls::FOREVER;
use super::passing::Standing;
use crate::access;
use crate::call::{DoorbellCall, errno_of, wire_errno};
use crate::host;
use crate::node::{Node, State};
use dunix_ids::{NodeId, Pid};
use dunix_linux::{Errno, Result};
use dunix_transport::Responder;
use dunix_wire::processes::{DescriptorImage, ProcessesAnswer, ProcessesCall, Refusal, TakeWish};
use dunix_wire::{Topic, decode, encode};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// How often a process is followed that moves on before it could be asked.
const FOLLOWED_MAX: usize = 8;
/// After which an asker looks again at a process on its way.
const PAUSE: Duration = Duration::from_millis(2);

impl Node {
    pub(crate) fn handle_take(self: &Arc<Node>, call: DoorbellCall) {
        let node = self.clone();
        self.runtime.spawn(async move {
            let _in_hand = node.passing.hands().take();
            match node.take(&call).await {
                Ok(fd) => call.answer_fd(fd.as_fd()),
                Err(errno) => {
                    if errno == Errno::AGAIN {
                        node.wake_soon(&call);
                    }
                    call.refuse(errno);
                }
            }
        });
    }

    fn wake_soon(self: &Arc<Node>, call: &DoorbellCall) {
        let Ok(caller) = call.caller() else { return };
        let node = self.clone();
        self.runtime.spawn(async move {
            tokio::time::sleep(PAUSE).await;
            node.wake(caller.pid);
        });
    }

    async fn take(self: &Arc<Node>, call: &DoorbellCall) -> Result<OwnedFd> {
        let asker = access::asker(call.caller()?.host_pid, self.ids_base)?;
        let (pid, number) = (call.pid_arg(1)?.ok_or(Errno::SRCH)?, call.int_arg(2));
        if pid == Pid::INIT {
            // The keeper is nobody's to take from.
            return Err(Errno::PERM);
        }
        let wish = TakeWish { pid, number, asker };
        for _ in 0..FOLLOWED_MAX {
            let at = self.node_of(pid).await.ok_or(Errno::SRCH)?;
            let taken = if at == self.id {
                self.take_here(wish).await
            } else {
                self.take_at(at, wish).await
            };
            match taken {
                // It has moved, or ended: its number's leaser knows.
                Err(Errno::SRCH) => {}
                taken => return taken,
            }
        }
        Err(Errno::SRCH)
    }

    async fn take_here(self: &Arc<Node>, wish: TakeWish) -> Result<OwnedFd> {
        let node = self.clone();
        // The host's call waits for an exec of the process.
        let taken = self.runtime.spawn_blocking(move || node.take_now(wish)).await;
        taken.unwrap_or(Err(Errno::IO))
    }

    fn take_now(self: &Arc<Node>, wish: TakeWish) -> Result<OwnedFd> {
        let (_, fd, standing) = self.look_at(wish)?;
        match standing {
            Some(standing) => self.token_of(fd, standing),
            None => Ok(fd),
        }
    }

    /// The host process of a wish, a duplicate of its descriptor, and what that stands for.
    fn look_at(&self, wish: TakeWish) -> Result<(u32, OwnedFd, Option<Standing>)> {
        let TakeWish { pid, number, .. } = wish;
        let host_pid = self.open_to(wish)?;
        let before = self.stands_for(pid, number);
        let fd = host::take_fd(host_pid, number)?;
        let standing = self.stands_for(pid, number);
        let what = |standing: &Option<_>| standing.as_ref().map(|(remote, _)| *remote);
        let has_changed =
            what(&before) != what(&standing) || (standing.is_none() && self.mirrors.have(&fd)?);
        if self.look(|state| state.host_pid(pid)) != Some(host_pid) {
            return Err(Errno::SRCH);
        }
        // If so it is being closed, or is becoming something else.
        if has_changed { Err(Errno::AGAIN) } else { Ok((host_pid, fd, standing)) }
    }

    /// Finds the process of a wish, checks it, and notes that what the process has open may be shared from now on.
    fn open_to(&self, wish: TakeWish) -> Result<u32> {
        let host_pid = self.look(|state| state.settled(wish.pid))?;
        self.check_access(&wish.asker, host_pid)?;
        self.with(|state, _| {
            let host_pid = state.settled(wish.pid)?;
            let local = state.locals.get_mut(&wish.pid).ok_or(Errno::SRCH)?;
            local.was_taken_from = true;
            Ok(host_pid)
        })
    }

    async fn take_at(self: &Arc<Node>, at: NodeId, wish: TakeWish) -> Result<OwnedFd> {
        let mesh = self.mesh.as_ref().ok_or(Errno::SRCH)?;
        let body = encode(&ProcessesCall::Take(wish));
        // No time-out: an answer that nobody awaits would leave its object kept for this node.
        let answer =
            mesh.call(at, Topic::Processes, body, FOREVER).await.map_err(|_| Errno::SRCH)?;
        let image = match decode(&answer) {
            Ok(ProcessesAnswer::Taken(taken)) => taken.map_err(errno_of)?,
            _ => return Err(Errno::PROTO),
        };
        let admitted = self.admit(vec![image]).await?.pop().ok_or(Errno::PROTO)?;
        self.underway(admitted)
    }

    /// Gives a process of another node what it wants of one of this.
    pub(super) async fn give_taken(self: &Arc<Node>, to: NodeId, wish: TakeWish, reply: Responder) {
        let _in_hand = self.passing.hands().take();
        let (taken, offer) = match self.describe_taken(to, wish).await {
            Ok((image, offer)) => (Ok(image), Some(offer)),
            Err(errno) => (Err(wire_errno(errno)), None),
        };
        // Who dies before the answer comes lets go of all.
        if let Some(offer) = offer {
            offer.was_taken();
        }
        reply.send(encode(&ProcessesAnswer::Taken(taken)));
    }

    async fn describe_taken(
        self: &Arc<Node>,
        to: NodeId,
        wish: TakeWish,
    ) -> Result<(DescriptorImage, super::Offer)> {
        let node = self.clone();
        let looked = self.runtime.spawn_blocking(move || node.look_at(wish));
        let (host_pid, ..) = looked.await.unwrap_or(Err(Errno::IO))?;
        let mut offer = self.describe_sent(to, wish.pid, host_pid, vec![wish.number]).await?;
        let image = std::mem::take(&mut offer.descriptors).pop().ok_or(Errno::IO)?;
        Ok((image, offer))
    }
}

impl State {
    /// The host process of one whose descriptors are where they stay for now; `EAGAIN` while they are not.
    fn settled(&self, pid: Pid) -> Result<u32> {
        let local = self.locals.get(&pid).filter(|local| !local.is_ending).ok_or(Errno::SRCH)?;
        match self.table.check_move(pid) {
            Err(Refusal::NoSuchProcess | Refusal::Ended) => return Err(Errno::SRCH),
            Err(Refusal::Starting | Refusal::AlreadyMoving | Refusal::StillArriving) => {
                return Err(Errno::AGAIN);
            }
            _ => {}
        }
        let is_on_its_way = local.is_starting()
            || local.is_executing_away
            || self.moves.leaving_by(pid).is_some()
            || self.moves.arriving_by(pid).is_some();
        if is_on_its_way {
            return Err(Errno::AGAIN);
        }
        self.host_pid(pid).ok_or(Errno::SRCH)
    }
}
