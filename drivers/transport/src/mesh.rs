//! This node's part of the mesh, as the drivers hold it.

use crate::{
    Handler, MeshConfig, MeshError, MeshStream, Peer, PeerEvent, PeerTraffic, Responder,
    events::{self, Announced, EVENTS_MAX},
    inbox::Delivery,
    link::{Answer, Link},
    local::Local,
    members,
    statistics::Counters,
    stream::Cell,
};
use bytes::Bytes;
use dunix_ids::NodeId;
use dunix_wire::{
    MESSAGE_BYTES_MAX, Topic,
    frame::{Lane, STREAM_HEADER_BYTES_MAX},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};
use tokio::{
    runtime::{Handle, Runtime},
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

/// This node's part of the mesh. Cheap to clone; runs until [`Mesh::stop`], on threads of its own, and
/// calls handlers where it was started.
#[derive(Clone)]
pub struct Mesh {
    core: Arc<Core>,
}

impl Mesh {
    /// Opens the sockets and begins to look for peers, in the calling thread's network namespace.
    /// Handlers run on the calling tokio runtime.
    ///
    /// # Errors
    /// [`MeshError::Host`]: the keys do not fit the node, or the interface cannot be used.
    pub async fn start(config: MeshConfig) -> Result<Mesh, MeshError> {
        let runtime = own_runtime()?;
        let (core, inboxes) = Core::new(config);
        let core = Arc::new(core);
        let task = {
            let _own = runtime.enter();
            let (sender, receiver) = mpsc::channel(EVENTS_MAX);
            let telling = core.callers.spawn(events::run(core.clone(), receiver));
            *core.telling.lock().expect("no panic under this lock") = Some(telling);
            members::start(core.clone(), inboxes, sender)
        };
        // Also where the start has failed, so that the threads end in any case.
        *core.runtime.lock().expect("no panic under this lock") = Some(runtime);
        match task {
            Ok(task) => *core.task.lock().expect("no panic under this lock") = Some(task),
            Err(error) => {
                core.end_runtime();
                return Err(error);
            }
        }
        Ok(Mesh { core })
    }

    /// Leaves the mesh: peers see this node go down at once, handlers hear nothing any more.
    pub async fn stop(&self) {
        self.core.stop.send_replace(true);
        let task = self.core.task.lock().expect("no panic under this lock").take();
        let telling = self.core.telling.lock().expect("no panic under this lock").take();
        for task in [task, telling].into_iter().flatten() {
            let _ = task.await;
        }
        self.core.end_runtime();
    }

    /// Ends the mesh as the death of the node would: sockets close, nothing is said, handlers and
    /// callers on this node are told nothing. For tests.
    pub fn abort(&self) {
        for link in self.core.links.read().expect("no panic under this lock").values() {
            link.inboxes().iter().for_each(|inbox| inbox.discard());
        }
        let telling = self.core.telling.lock().expect("no panic under this lock").take();
        telling.inspect(JoinHandle::abort);
        self.core.end_runtime();
    }

    /// Returns this node's number.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.core.config.node
    }

    /// Gives a topic its handler; the handler is told of the peers that are up already. What comes
    /// before is dropped (messages) or [`MeshError::Unanswered`] (calls). Not to be called from
    /// within a handler.
    pub fn register(&self, topic: Topic, handler: Arc<dyn Handler>) {
        let _callers = self.core.callers.enter();
        if events::is_prompt(topic) {
            let _events = self.core.events.lock().expect("no panic under this lock");
            self.core.set_handler(topic, handler.clone());
            self.peers().into_iter().for_each(|peer| handler.handle_peer(&PeerEvent::Up(peer)));
            return;
        }
        let announced = self.core.announced.0.lock().expect("no panic under this lock");
        self.core.set_handler(topic, handler.clone());
        for peer in announced.values() {
            handler.handle_peer(&PeerEvent::Up(peer.clone()));
        }
    }

    /// Returns the runtime of the mesh's own threads: for what must go on whatever the caller's
    /// runtime waits for. No task there may block. It ends with the mesh.
    ///
    /// # Panics
    /// After [`Mesh::stop`].
    #[must_use]
    pub fn runtime(&self) -> Handle {
        let runtime = self.core.runtime.lock().expect("no panic under this lock");
        runtime.as_ref().expect("the mesh runs").handle().clone()
    }

    /// Returns the peers that are up, by number; not this node.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        let links = self.core.links.read().expect("no panic under this lock");
        links.values().map(|link| link.peer.clone()).collect()
    }

    /// Returns what was exchanged with each peer ever seen, and with this node itself.
    #[must_use]
    pub fn traffic(&self) -> Vec<PeerTraffic> {
        let counters = self.core.counters.lock().expect("no panic under this lock");
        counters.iter().map(|(node, counters)| counters.read(*node)).collect()
    }

    /// Queues a one-way message, to this node too. Messages and calls of a topic keep their order.
    ///
    /// # Errors
    /// Nothing was sent.
    pub fn send(&self, to: NodeId, topic: Topic, body: Vec<u8>) -> Result<(), MeshError> {
        if to != self.node() {
            return self.core.link(to)?.send(topic, body.into());
        }
        self.core.deliver(topic, body.len(), |body| Delivery::Message(topic, body), body)
    }

    /// Calls a node, this one too. The call is queued before this returns, so that order is that of
    /// the calls of this function; the future waits for the answer. Dropping it forgets the answer.
    ///
    /// # Errors
    /// After [`MeshError::TimedOut`], [`MeshError::Broken`] or [`MeshError::Unanswered`] the callee
    /// may have acted; after the others it has not.
    pub fn call(
        &self,
        to: NodeId,
        topic: Topic,
        body: Vec<u8>,
        deadline: Duration,
    ) -> impl Future<Output = Result<Bytes, MeshError>> + Send + use<> {
        let begun = self.begin_call(to, topic, body);
        async move {
            let call = begun?;
            wait(call, to, deadline).await
        }
    }

    fn begin_call(&self, to: NodeId, topic: Topic, body: Vec<u8>) -> Result<Call, MeshError> {
        if to != self.node() {
            let link = self.core.link(to)?;
            let (id, receiver) = link.call(topic, body.into())?;
            return Ok(Call { receiver, remote: Some((link, id)) });
        }
        let (sender, receiver) = oneshot::channel();
        let reply = Responder::local(to, sender);
        self.core.deliver(topic, body.len(), |body| Delivery::Call(topic, body, reply), body)?;
        Ok(Call { receiver, remote: None })
    }

    /// Opens a stream to a node, this one too; bytes may be sent at once. A node that does not want
    /// the stream resets it.
    ///
    /// # Errors
    /// No stream was opened.
    pub async fn open_stream(
        &self,
        to: NodeId,
        topic: Topic,
        header: Vec<u8>,
    ) -> Result<MeshStream, MeshError> {
        if header.len() > STREAM_HEADER_BYTES_MAX {
            return Err(MeshError::TooLong(header.len()));
        }
        if to != self.node() {
            return self.core.link(to)?.open_stream(topic, header.into());
        }
        let counters = self.core.counters_of(to);
        counters.count_stream(topic);
        let [near, far] = Cell::local_pair(to, topic, &counters).map(MeshStream::new);
        let delivery = Delivery::Stream(topic, header.into(), far);
        self.core.local.deliver(&self.core, Lane::Streams, delivery)?;
        Ok(near)
    }
}

/// A call whose answer is awaited.
struct Call {
    receiver: oneshot::Receiver<Answer>,
    remote: Option<(Arc<Link>, u64)>,
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some((link, id)) = self.remote.take() {
            link.forget_call(id);
        }
    }
}

async fn wait(mut call: Call, to: NodeId, deadline: Duration) -> Answer {
    match timeout(deadline, &mut call.receiver).await {
        Ok(Ok(answer)) => {
            call.remote = None;
            answer
        }
        Ok(Err(_)) => Err(MeshError::Broken(to)),
        Err(_) => Err(MeshError::TimedOut(to)),
    }
}

/// What the mesh's parts share.
pub(crate) struct Core {
    pub(crate) config: MeshConfig,
    pub(crate) instance: u64,
    pub(crate) links: RwLock<BTreeMap<NodeId, Arc<Link>>>,
    pub(crate) local: Local,
    pub(crate) stop: watch::Sender<bool>,
    /// Held while [prompt](events::is_prompt) handlers hear of peers that come and go.
    pub(crate) events: Mutex<()>,
    pub(crate) announced: Announced,
    /// A peer has found another one silent.
    pub(crate) alarm: Notify,
    handlers: RwLock<[Option<Arc<dyn Handler>>; Topic::COUNT]>,
    counters: Mutex<BTreeMap<NodeId, Arc<Counters>>>,
    task: Mutex<Option<JoinHandle<()>>>,
    /// Tells handlers of peers.
    telling: Mutex<Option<JoinHandle<()>>>,
    /// The mesh's own threads: a caller's runtime that is stuck, perhaps waiting for this very mesh,
    /// must not stop the proofs of life.
    runtime: Mutex<Option<Runtime>>,
    /// The runtime that the mesh was started in; handlers and what they spawn run there.
    pub(crate) callers: Handle,
}

/// Threads of the mesh's runtime: one may encrypt bulk while the other answers.
const THREADS: usize = 2;

fn own_runtime() -> Result<Runtime, MeshError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("mesh")
        .enable_all()
        .build()
        .map_err(|error| MeshError::Host(format!("no threads for the mesh: {error}")))
}

impl Core {
    fn new(config: MeshConfig) -> (Core, crate::local::Inboxes) {
        let (local, inboxes) = Local::new();
        let core = Core {
            config,
            instance: random(),
            links: RwLock::default(),
            local,
            stop: watch::Sender::new(false),
            events: Mutex::default(),
            announced: Announced::default(),
            alarm: Notify::new(),
            handlers: RwLock::default(),
            counters: Mutex::default(),
            task: Mutex::default(),
            telling: Mutex::default(),
            runtime: Mutex::default(),
            callers: Handle::current(),
        };
        (core, inboxes)
    }

    /// Returns a topic's handler. Not called with the lock held, so that handlers may register.
    pub(crate) fn handler(&self, topic: Topic) -> Option<Arc<dyn Handler>> {
        let handlers = self.handlers.read().expect("no panic under this lock");
        handlers[topic as usize - 1].clone()
    }

    fn end_runtime(&self) {
        let runtime = self.runtime.lock().expect("no panic under this lock").take();
        if let Some(runtime) = runtime {
            // Does not wait: this may be one of its own threads.
            runtime.shutdown_background();
        }
    }

    fn set_handler(&self, topic: Topic, handler: Arc<dyn Handler>) {
        let mut handlers = self.handlers.write().expect("no panic under this lock");
        handlers[topic as usize - 1] = Some(handler);
    }

    /// Returns the handlers of the topics that are, or are not, [prompt](events::is_prompt).
    pub(crate) fn all_handlers(&self, prompt: bool) -> Vec<Arc<dyn Handler>> {
        let topics = (1..=u8::MAX).map_while(Topic::of_byte);
        let chosen = topics.filter(|topic| events::is_prompt(*topic) == prompt);
        chosen.filter_map(|topic| self.handler(topic)).collect()
    }

    pub(crate) fn counters_of(&self, node: NodeId) -> Arc<Counters> {
        let mut counters = self.counters.lock().expect("no panic under this lock");
        counters.entry(node).or_default().clone()
    }

    fn link(&self, to: NodeId) -> Result<Arc<Link>, MeshError> {
        let links = self.links.read().expect("no panic under this lock");
        links.get(&to).cloned().ok_or(MeshError::Unreachable(to))
    }

    fn deliver(
        &self,
        topic: Topic,
        bytes: usize,
        delivery: impl FnOnce(Bytes) -> Delivery,
        body: Vec<u8>,
    ) -> Result<(), MeshError> {
        if bytes > MESSAGE_BYTES_MAX {
            return Err(MeshError::TooLong(bytes));
        }
        self.local.deliver(self, Lane::of_topic(topic), delivery(body.into()))
    }
}

/// A number that nobody else has chosen.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    // Blocks only until the host has randomness at all; short reads do not happen below 256 bytes.
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    assert_eq!(got, Ok(bytes.len()), "the host has no randomness");
    u64::from_le_bytes(bytes)
}
