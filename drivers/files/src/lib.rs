//! The tree of the fabric: one node is the authority of a volume, every node mounts it.
//!
//! ```text
//!  kernel ──FUSE──► [`Files`] ──mesh call, Topic::Files──► [`Files`] of the authority's node ──► authority
//!    ▲                 │ (direct on the authority's own node)                                       │
//!    └──forget─────────┴◄──────────────recall, before a change is acknowledged──────────────────────┘
//! ```
//!
//! Owns: a node's mount, the authority where this node is it, recalls and their acknowledgement.
//! Refuses: permissions (the kernels check them), locks (each kernel keeps those of its own node; the
//! fabric's locks are caught by the shim), FIFO and socket data (but for who may open a FIFO here).
//!
//! Invariants: every request of the kernel is answered within [`REQUEST_DEADLINE`]; a node that does
//! not acknowledge a recall within [`RECALL_DEADLINE`] delays a change no longer than that.

mod authority;
mod body;
mod held;
mod host;
mod link;
pub mod loopback;
mod lower;
mod mount;
mod objects;
mod opens;

pub use authority::{Authority, HANDLES_MAX, VolumeConfig};
pub use link::Link;
pub use lower::{LowerConfig, SetIdProgram};

use authority::{Effort, Outcome};
use bytes::Bytes;
use dunix_fuse::{Features, Session};
use dunix_ids::{Ino, NodeId};
use dunix_transport::{Handler, Mesh, MeshError, MeshStream, PeerEvent, Responder};
use dunix_wire::{
    Topic,
    files::{
        Errno, FileAnswer, FileCall, FileNotice, FileRequest, RECALLS_MAX, RECLAIMS_MAX, Recall,
        pack, unpack,
    },
};
use mount::Mount;
use rustix::fd::OwnedFd;
use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::runtime::Handle;

/// How long a request of the kernel may take before it fails with ETIMEDOUT.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// How long a node may take to forget something.
pub const RECALL_DEADLINE: Duration = Duration::from_secs(5);
/// How many of the kernel's requests are read at the same time; an answer from elsewhere, or one that
/// takes time, does not hold a thread.
const THREADS: usize = 4;

/// This node's part in the tree. Cheap to clone.
#[derive(Clone)]
pub struct Files(Arc<Inner>);

struct Inner {
    me: NodeId,
    authority_node: NodeId,
    authority: Option<Authority>,
    link: Arc<dyn Link>,
    /// Nothing that runs there may wait for a file of the tree.
    runtime: Handle,
    mount: OnceLock<Arc<Mount>>,
    fifos: OnceLock<FifoGate>,
}

/// Says of a FIFO and a thread of this host whether the thread may open it here.
type FifoGate = Arc<dyn Fn(Ino, u32) -> bool + Send + Sync>;

impl Files {
    /// Takes part in the tree whose authority is `authority_node`; `volume` is given on that node
    /// and nowhere else. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The host's, about the volume's directories.
    pub fn start(
        mesh: &Mesh,
        me: NodeId,
        authority_node: NodeId,
        volume: Option<VolumeConfig>,
    ) -> io::Result<Files> {
        // The caller's threads may wait for a file, so what brings it must not run on them.
        let link = Arc::new(mesh.clone());
        let files = Files::over(link, mesh.runtime(), me, authority_node, volume)?;
        mesh.register(Topic::Files, Arc::new(files.clone()));
        Ok(files)
    }

    /// As [`Files::start`], over any link; calls and notices from others are handed in by
    /// [`Files::handle`] and [`Files::notice`].
    ///
    /// # Errors
    /// The host's, about the volume's directories.
    pub fn with_link(
        link: Arc<dyn Link>,
        me: NodeId,
        authority_node: NodeId,
        volume: Option<VolumeConfig>,
    ) -> io::Result<Files> {
        Files::over(link, Handle::current(), me, authority_node, volume)
    }

    fn over(
        link: Arc<dyn Link>,
        runtime: Handle,
        me: NodeId,
        authority_node: NodeId,
        volume: Option<VolumeConfig>,
    ) -> io::Result<Files> {
        let authority = volume.map(Authority::open).transpose()?;
        let (mount, fifos) = (OnceLock::new(), OnceLock::new());
        let inner = Inner { me, authority_node, authority, link, runtime, mount, fifos };
        Ok(Files(Arc::new(inner)))
    }

    /// Serves the mount behind an open `/dev/fuse`, until the mount goes. Blocks until the kernel has
    /// greeted. A node has one mount.
    ///
    /// # Errors
    /// The descriptor is not that of a fresh mount; there is a mount already (EBUSY).
    pub fn mount(&self, device: OwnedFd) -> io::Result<Features> {
        self.mount_shifted(device, 0)
    }

    /// As [`Files::mount`], for a mount of a user namespace in which the tree's id 0 is `id_first`.
    ///
    /// # Errors
    /// As [`Files::mount`].
    pub fn mount_shifted(&self, device: OwnedFd, id_first: u32) -> io::Result<Features> {
        let mount = Arc::new(Mount::new(self.clone()));
        if self.0.mount.set(Arc::clone(&mount)).is_err() {
            return Err(rustix::io::Errno::BUSY.into());
        }
        let volume = Arc::clone(&mount) as Arc<dyn dunix_fuse::Volume>;
        let session = Session::start(device, volume, THREADS, id_first)?;
        let features = session.features();
        mount.serve_caches(session.caches());
        Ok(features)
    }

    /// Has FIFOs opened here only where `gate` lets a thread of this host; others get
    /// [`ELSEWHERE`](dunix_fuse::ELSEWHERE). Once; `gate` may block. Without it all are opened here.
    pub fn set_fifo_gate(&self, gate: impl Fn(Ino, u32) -> bool + Send + Sync + 'static) {
        let _ = self.0.fifos.set(Arc::new(gate));
    }

    /// Whether a file is known to have no extended attributes, by what this node was told with its
    /// attributes and may believe.
    #[must_use]
    pub fn has_no_attributes(&self, ino: Ino) -> bool {
        self.0.mount.get().is_some_and(|mount| mount.is_bare(ino))
    }

    /// Handles a call of a peer and answers it, now or later.
    pub fn handle(&self, from: NodeId, body: Bytes, reply: impl FnOnce(Vec<u8>) + Send + 'static) {
        match unpack::<FileCall>(&body) {
            Ok((FileCall::Ask(request), at)) => {
                let payload = body.slice(at..);
                self.ask_authority(from, request, payload, move |answer, payload| {
                    reply(pack(&answer, payload));
                });
            }
            Ok((FileCall::Recall(recalls), _)) if from == self.0.authority_node => {
                let files = self.clone();
                self.0.runtime.spawn(async move {
                    files.forget(recalls).await;
                    reply(Vec::new());
                });
            }
            Ok((FileCall::Reclaim(opens), _)) if opens.len() <= RECLAIMS_MAX => {
                let files = self.clone();
                self.0.runtime.spawn_blocking(move || {
                    if let Some(authority) = &files.0.authority {
                        authority.reclaim(from, &opens);
                        reply(Vec::new());
                    }
                });
            }
            // Dropping the reply tells the peer that there is no answer.
            _ => tracing::warn!(%from, "a malformed call about files"),
        }
    }

    /// Handles a one-way message of a peer.
    pub fn notice(&self, from: NodeId, body: &[u8]) {
        let Ok((FileNotice::Release { handle }, _)) = unpack::<FileNotice>(body) else {
            tracing::warn!(%from, "a malformed notice about files");
            return;
        };
        let files = self.clone();
        self.0.runtime.spawn_blocking(move || files.release_at_authority(from, handle));
    }

    /// A node is gone: what it had open is closed. If it is the authority, nothing can be recalled
    /// any more, so that nothing stays cached.
    pub fn node_gone(&self, node: NodeId) {
        let files = self.clone();
        self.0.runtime.spawn_blocking(move || {
            if let Some(authority) = &files.0.authority {
                authority.node_gone(node);
            } else if let (true, Some(mount)) =
                (node == files.0.authority_node, files.0.mount.get())
            {
                mount.forget_all();
            }
        });
    }

    /// A node is there, perhaps again: to the authority this node says what it has open still.
    pub fn node_back(&self, node: NodeId) {
        let Some(mount) = self.0.mount.get().cloned() else { return };
        if node != self.0.authority_node || self.0.authority.is_some() {
            return;
        }
        let files = self.clone();
        self.0.runtime.spawn(async move {
            for opens in mount.opens().chunks(RECLAIMS_MAX) {
                let call = pack(&FileCall::Reclaim(opens.to_vec()), &[]);
                if let Err(error) = files.0.link.call(node, call, RECALL_DEADLINE).await {
                    tracing::warn!(%error, "open files are not reclaimed");
                }
            }
            // What was cached before the authority knew of these opens would not be recalled.
            let _ = files.0.runtime.spawn_blocking(move || mount.forget_all()).await;
        });
    }

    fn release_at_authority(&self, node: NodeId, handle: u64) {
        if let Some(authority) = &self.0.authority {
            authority.release(node, handle);
        }
    }

    /// Has the authority, which this node is, answer `from`.
    fn ask_authority(
        &self,
        from: NodeId,
        request: FileRequest,
        payload: Bytes,
        done: impl FnOnce(FileAnswer, &[u8]) + Send + 'static,
    ) {
        let Some(authority) = &self.0.authority else {
            let answer = FileAnswer { result: Err(Errno::EIO), drop_pages: None };
            return done(answer, &[]);
        };
        if only_reads(&request)
            && let Some(outcome) = authority.answer(from, &request, &payload, Effort::Prompt)
        {
            return self.conclude(outcome, done);
        }
        let files = self.clone();
        self.0.runtime.spawn_blocking(move || {
            if let Some(authority) = &files.0.authority
                && let Some(outcome) = authority.answer(from, &request, &payload, Effort::Any)
            {
                files.conclude(outcome, done);
            }
        });
    }

    /// Gives an answer after the recalls that it depends on.
    fn conclude(&self, outcome: Outcome, done: impl FnOnce(FileAnswer, &[u8]) + Send + 'static) {
        let Outcome { answer, payload, recalls, at_once } = outcome;
        if recalls.is_empty() {
            return done(answer, &payload);
        }
        let files = self.clone();
        if at_once {
            done(answer, &payload);
            self.0.runtime.spawn(async move { files.recall(recalls).await });
        } else {
            self.0.runtime.spawn(async move {
                files.recall(recalls).await;
                done(answer, &payload);
            });
        }
    }

    /// Has nodes forget, and waits until they did or are taken to be gone.
    async fn recall(&self, mut recalls: Vec<(NodeId, Recall)>) {
        recalls.sort_unstable();
        recalls.dedup();
        let tasks: Vec<_> = recalls
            .chunk_by(|a, b| a.0 == b.0)
            .flat_map(|of_node| of_node.chunks(RECALLS_MAX))
            .map(|chunk| {
                let node = chunk[0].0;
                let recalls = chunk.iter().map(|&(_, recall)| recall).collect();
                let files = self.clone();
                tokio::spawn(async move { files.recall_from(node, recalls).await })
            })
            .collect();
        for task in tasks {
            // A task that panicked took the process with it.
            let _ = task.await;
        }
    }

    async fn recall_from(&self, node: NodeId, recalls: Vec<Recall>) {
        if node == self.0.me {
            if tokio::time::timeout(RECALL_DEADLINE, self.forget(recalls)).await.is_err() {
                tracing::warn!(%node, "the kernel does not forget in time");
            }
            return;
        }
        let call = pack(&FileCall::Recall(recalls), &[]);
        match self.0.link.call(node, call, RECALL_DEADLINE).await {
            Ok(_) => {}
            // Without a link the node cannot be told. Its requests are refused too until it is back.
            Err(error) => tracing::warn!(%node, %error, "a recall is not acknowledged"),
        }
    }

    /// Forgets, as a node that mounts the tree.
    async fn forget(&self, recalls: Vec<Recall>) {
        if let Some(mount) = self.0.mount.get().cloned() {
            // It waits for pages that are locked until requests of this node are answered.
            let forgetting = self.0.runtime.spawn_blocking(move || mount.forget(&recalls));
            let _ = forgetting.await;
        }
    }
}

/// Whether asking twice changes nothing, and memory may do for an answer.
fn only_reads(request: &FileRequest) -> bool {
    matches!(
        request,
        FileRequest::Lookup { .. }
            | FileRequest::Getattr { .. }
            | FileRequest::Readlink { .. }
            | FileRequest::Read { .. }
            | FileRequest::Readdir { .. }
            | FileRequest::Getxattr { .. }
            | FileRequest::Listxattr { .. }
    )
}

impl Handler for Files {
    fn handle_message(&self, from: NodeId, body: Bytes) {
        self.notice(from, &body);
    }

    fn handle_call(&self, from: NodeId, body: Bytes, reply: Responder) {
        self.handle(from, body, |answer| reply.send(answer));
    }

    fn handle_stream(&self, from: NodeId, _: Bytes, _: MeshStream) {
        tracing::warn!(%from, "a stream about files, which has none");
    }

    fn handle_peer(&self, event: &PeerEvent) {
        match event {
            PeerEvent::Up(peer) => self.node_back(peer.node),
            PeerEvent::Down(node) => self.node_gone(*node),
        }
    }
}

/// Says how a failed call shows in the kernel's answer.
fn errno_of(error: &MeshError) -> Errno {
    match error {
        MeshError::TimedOut(_) => Errno::ETIMEDOUT,
        _ => Errno::EIO,
    }
}
