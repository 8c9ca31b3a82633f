//! A node's mount: the kernel's requests go to the authority, its answers to the kernel, its recalls to
//! the kernel's caches.
//!
//! Owns: the order between answers and recalls. Invariant: a lease that was recalled while its answer
//! was on the way never reaches the kernel.
//!
//! ```text
//!  ask: note the count of recalls ─► ... ─► answer: same count? ─yes─► with its lease
//!                                                        └──no──► without
//! ```

use crate::{Files, REQUEST_DEADLINE, errno_of};
use bytes::Bytes;
use dunix_fuse::{Caches, Reply, Volume};
use dunix_wire::files::{
    Errno, FileAnswer, FileCall, FileNotice, FileReply, FileRequest, Lease, Recall, pack, unpack,
};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::authority::Effort;

pub(crate) struct Mount {
    files: Files,
    caches: OnceLock<Caches>,
    /// How many recalls came. Held for reading while an answer is given to the kernel.
    recalls: RwLock<u64>,
}

/// One request on its way.
struct Errand {
    mount: Arc<Mount>,
    reply: Reply,
    recalls_before: u64,
}

impl Mount {
    pub(crate) fn new(files: Files) -> Mount {
        Mount { files, caches: OnceLock::new(), recalls: RwLock::new(0) }
    }

    pub(crate) fn serve_caches(&self, caches: Caches) {
        // Set once: a mount is served once.
        let _ = self.caches.set(caches);
    }

    /// Makes the kernel forget; blocks until it has.
    pub(crate) fn forget(&self, recalls: &[Recall]) {
        *self.recalls.write().unwrap_or_else(PoisonError::into_inner) += 1;
        self.drop_caches(recalls);
    }

    fn drop_caches(&self, recalls: &[Recall]) {
        let Some(caches) = self.caches.get() else { return };
        for recall in recalls {
            let forgotten = match *recall {
                Recall::Pages(ino) => caches.drop_pages(ino),
                Recall::Attr(ino) => caches.drop_attr(ino),
                Recall::Entries => caches.drop_names(),
            };
            // Only a kernel without the mount, or without such caches, refuses.
            if let Err(error) = forgotten {
                tracing::debug!(?recall, %error, "nothing to forget");
            }
        }
    }

    fn recall_count(&self) -> u64 {
        *self.recalls.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The library's side holds the mount by this.
impl Volume for Mount {
    fn ask(&self, request: FileRequest, payload: &[u8], reply: Reply) {
        let Some(mount) = self.files.0.mount.get().cloned() else {
            return reply.send(Err(Errno::EIO), &[]);
        };
        let recalls_before = self.recall_count();
        let errand = Errand { mount, reply, recalls_before };
        if self.files.0.authority.is_some() {
            errand.run_here(request, payload);
        } else {
            errand.run_there(request, payload);
        }
    }

    fn release(&self, handle: u64) {
        let inner = &self.files.0;
        if inner.authority.is_some() {
            self.files.release_at_authority(inner.me, handle);
        } else {
            let notice = pack(&FileNotice::Release { handle }, &[]);
            if let Err(error) = inner.link.send(inner.authority_node, notice) {
                tracing::debug!(%error, "a release is lost with the link");
            }
        }
    }
}

impl Errand {
    /// Asks the authority of this very node, on this thread if it can be quick.
    fn run_here(self, request: FileRequest, payload: &[u8]) {
        let files = self.mount.files.clone();
        let me = files.0.me;
        let quick = files
            .0
            .authority
            .as_ref()
            .and_then(|authority| authority.answer(me, &request, payload, Effort::Prompt));
        match quick {
            Some(outcome) => files.conclude(outcome, move |answer, data| self.finish(answer, data)),
            None => {
                let payload = Bytes::copy_from_slice(payload);
                let slow = files.clone();
                files.0.runtime.spawn_blocking(move || {
                    let Some(authority) = &slow.0.authority else { return };
                    if let Some(outcome) = authority.answer(me, &request, &payload, Effort::Any) {
                        slow.conclude(outcome, move |answer, data| self.finish(answer, data));
                    }
                });
            }
        }
    }

    /// Asks the authority's node.
    fn run_there(self, request: FileRequest, payload: &[u8]) {
        let files = self.mount.files.clone();
        let body = pack(&FileCall::Ask(request), payload);
        let runtime = files.0.runtime.clone();
        runtime.spawn(async move {
            let to = files.0.authority_node;
            match files.0.link.call(to, body, REQUEST_DEADLINE).await {
                Ok(body) => match unpack::<FileAnswer>(&body) {
                    Ok((answer, at)) => self.finish(answer, &body[at..]),
                    Err(_) => self.reply.send(Err(Errno::EIO), &[]),
                },
                Err(error) => self.reply.send(Err(errno_of(&error)), &[]),
            }
        });
    }

    /// Passes an answer on, after this node's own pages were dropped if it says so.
    fn finish(self, answer: FileAnswer, payload: &[u8]) {
        let Some(ino) = answer.drop_pages else { return self.give(answer.result, payload) };
        let payload = payload.to_vec();
        let runtime = self.mount.files.0.runtime.clone();
        runtime.spawn_blocking(move || {
            self.mount.drop_caches(&[Recall::Pages(ino)]);
            self.give(answer.result, &payload);
        });
    }

    fn give(self, mut result: Result<FileReply, Errno>, payload: &[u8]) {
        let recalls = self.mount.recalls.read().unwrap_or_else(PoisonError::into_inner);
        if *recalls != self.recalls_before
            && let Ok(
                FileReply::Entry(_, lease)
                | FileReply::Attr(_, lease)
                | FileReply::Created { lease, .. },
            ) = &mut result
        {
            *lease = Lease::default();
        }
        self.reply.send(result, payload);
    }
}
