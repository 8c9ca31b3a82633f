//! The task that knows the members: feeds the membership machine and carries out what it says.
//!
//! ```text
//! beacons heard ---+                      +--> dial
//! lanes made ------+--> machine --effects-+--> up: link, lanes' tasks, handlers told
//! lanes ended -----+                      +--> down: link closed, handlers told
//!
//! Handlers are told by `events`; prompt ones by this task.
//! ```

use crate::{
    MeshError, PeerEvent,
    connect::{ConnectError, Greeter, LaneMade},
    discovery::{self, Ear, Heard, Place, RETRY_INTERVAL},
    events::LinkEvent,
    lane::{self, LaneError},
    link::{Link, LinkSink},
    local::{self, Inboxes},
    mesh::{Core, random},
    tls::Tls,
};
use dunix_ids::NodeId;
use dunix_membership::{Effect, Endpoint, Input, Membership};
use dunix_wire::{
    beacon::Beacon,
    frame::{Lane, NAME_BYTES_MAX},
};
use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

/// News that wait for the task.
const NEWS_MAX: usize = 1024;
/// Handshakes of strangers at once; further ones wait in the listener's backlog.
const HANDSHAKES_MAX: usize = 64;
/// Links of which some lanes are still missing.
const PARTIAL_MAX: usize = 256;
const PARTIAL_AGE_MAX: Duration = Duration::from_secs(10);
/// The first beacons come faster, so that a fabric stands soon after its last node.
const EAGER_BEACONS: u32 = 4;
const EAGER_INTERVAL: Duration = Duration::from_millis(150);
/// Least time between a beacon and one that a newcomer asked for.
const ANSWER_INTERVAL: Duration = Duration::from_millis(50);

enum News {
    Heard(Heard),
    Accepted(Box<LaneMade>),
    Dialled {
        node: NodeId,
        endpoint: Endpoint,
        link: u64,
        lanes: Result<Vec<LaneMade>, ConnectError>,
    },
    Ended {
        node: NodeId,
        link: u64,
        lane: Lane,
        error: LaneError,
    },
}

/// Checks the configuration, opens the sockets and starts the task.
pub(crate) fn start(
    core: Arc<Core>,
    inboxes: Inboxes,
    events: mpsc::Sender<LinkEvent>,
) -> Result<JoinHandle<()>, MeshError> {
    let config = &core.config;
    if config.fabric.len() > NAME_BYTES_MAX || config.name.len() > NAME_BYTES_MAX {
        return Err(MeshError::Host(format!("a name is longer than {NAME_BYTES_MAX} bytes")));
    }
    let tls = Tls::new(config)?;
    let Place { beacons, listener, scope, port } = discovery::open(&config.interface)?;
    let greeter = Greeter { config: config.clone(), tls, instance: core.instance, scope };
    let greeter = Arc::new(greeter);
    let (sender, news) = mpsc::channel(NEWS_MAX);
    let beacons = Arc::new(beacons);
    let mut tasks = JoinSet::new();
    for (lane, inbox) in Lane::ALL.into_iter().zip(inboxes) {
        let run = local::run(core.clone(), inbox);
        match lane {
            Lane::Files => tasks.spawn(run),
            Lane::Control | Lane::Streams => tasks.spawn_on(run, &core.callers),
        };
    }
    tasks.spawn(listen(listener, greeter.clone(), sender.clone()));
    tasks.spawn(hear(beacons.clone(), core.clone(), sender.clone()));
    let members = Members {
        machine: Membership::new(config.node),
        greeter,
        partial: BTreeMap::new(),
        ready: BTreeMap::new(),
        sender,
        events,
        untold: VecDeque::new(),
        tasks,
        began: Instant::now(),
        beacons,
        port,
        scope,
        eager: EAGER_BEACONS,
        said: None,
        say_at: Instant::now(),
        core,
    };
    Ok(tokio::spawn(members.run(news)))
}

struct Members {
    core: Arc<Core>,
    machine: Membership,
    greeter: Arc<Greeter>,
    /// Lanes that were accepted, until all of their link are there.
    partial: BTreeMap<(NodeId, u64), (Instant, Vec<LaneMade>)>,
    /// Links that the machine is being told of.
    ready: BTreeMap<(NodeId, u64), Made>,
    sender: mpsc::Sender<News>,
    events: mpsc::Sender<LinkEvent>,
    /// Events of the step that is being carried out.
    untold: VecDeque<LinkEvent>,
    /// Everything that runs for the mesh but lanes, which end with their links.
    tasks: JoinSet<()>,
    began: Instant,
    beacons: Arc<UdpSocket>,
    port: u16,
    scope: u32,
    eager: u32,
    said: Option<Instant>,
    say_at: Instant,
}

struct Made {
    dialled: bool,
    lanes: Vec<LaneMade>,
}

impl Members {
    async fn run(mut self, mut news: mpsc::Receiver<News>) {
        let mut stop = self.core.stop.subscribe();
        let core = self.core.clone();
        loop {
            let now = self.began.elapsed();
            let deadline = self.began + self.machine.deadline(now);
            tokio::select! {
                () = stopped(&mut stop) => break,
                Some(news) = news.recv() => self.handle_news(news),
                () = sleep_until(self.say_at) => self.say().await,
                () = sleep_until(deadline) => self.step(Input::Tick),
                () = core.alarm.notified() => self.step(Input::Alarm),
                Some(_) = self.tasks.join_next() => {}
            }
            self.partial.retain(|_, (since, _)| since.elapsed() < PARTIAL_AGE_MAX);
            while let Some(event) = self.untold.pop_front() {
                tokio::select! {
                    () = stopped(&mut stop) => break,
                    _ = self.events.send(event) => {}
                }
            }
        }
        let links =
            std::mem::take(&mut *self.core.links.write().expect("no panic under this lock"));
        for link in links.values() {
            link.close();
            link.inboxes().iter().for_each(|inbox| inbox.discard());
        }
    }

    fn handle_news(&mut self, news: News) {
        match news {
            News::Heard(Heard { node, endpoint, asks }) => {
                if asks {
                    let earliest = self.said.map_or(Instant::now(), |said| said + ANSWER_INTERVAL);
                    self.say_at = self.say_at.min(earliest);
                }
                self.step(Input::Beacon { node, endpoint });
            }
            News::Accepted(lane) => self.handle_accepted(*lane),
            News::Dialled { node, link, lanes: Ok(lanes), .. } => {
                self.handle_made(node, link, Made { dialled: true, lanes });
            }
            News::Dialled { node, endpoint, lanes: Err(error), .. } => {
                tracing::warn!(peer = %node, address = %endpoint.address, "no link: {error}");
                self.step(Input::DialFailed { node, endpoint });
            }
            News::Ended { node, link, lane, error } => {
                if !matches!(error, LaneError::Stopped) {
                    tracing::warn!(peer = %node, ?lane, "connection lost: {error}");
                }
                self.step(match error {
                    LaneError::Silent => Input::LinkSilent { node, link },
                    _ => Input::LinkDown { node, link },
                });
            }
        }
    }

    fn handle_accepted(&mut self, lane: LaneMade) {
        let key = (lane.peer.node, lane.link);
        if self.partial.len() >= PARTIAL_MAX && !self.partial.contains_key(&key) {
            tracing::warn!(peer = %key.0, "too many half-made links; one lane is dropped");
            return;
        }
        let (_, lanes) = self.partial.entry(key).or_insert_with(|| (Instant::now(), Vec::new()));
        if lanes.iter().any(|made| made.lane == lane.lane) {
            tracing::warn!(peer = %key.0, "dialled the same lane twice; the second is dropped");
            return;
        }
        lanes.push(lane);
        if lanes.len() == Lane::ALL.len()
            && let Some((_, lanes)) = self.partial.remove(&key)
        {
            self.handle_made(key.0, key.1, Made { dialled: false, lanes });
        }
    }

    fn handle_made(&mut self, node: NodeId, link: u64, made: Made) {
        self.ready.insert((node, link), made);
        self.step(Input::LinkUp { node, link });
        self.ready.remove(&(node, link));
    }

    fn step(&mut self, input: Input) {
        let now = self.began.elapsed();
        for effect in self.machine.step(now, input) {
            match effect {
                Effect::Dial { node, endpoint } => self.dial(node, endpoint),
                Effect::Up { node, link } => self.up(node, link),
                Effect::Down { node, link } => self.down(node, link),
                Effect::Watch { node, is_watched, .. } => {
                    self.with_link(node, |link| link.set_watched(is_watched));
                }
                Effect::Alarm { node, .. } => self.with_link(node, Link::alarm),
                Effect::Refuse { link } => tracing::warn!(link, "no room for another peer"),
            }
        }
    }

    fn with_link(&self, node: NodeId, act: impl FnOnce(&Link)) {
        let links = self.core.links.read().expect("no panic under this lock");
        if let Some(link) = links.get(&node) {
            act(link);
        }
    }

    fn dial(&mut self, node: NodeId, endpoint: Endpoint) {
        let (greeter, sender) = (self.greeter.clone(), self.sender.clone());
        self.tasks.spawn(async move {
            let link = random();
            let lanes = greeter.dial(node, endpoint, link).await;
            let _ = sender.send(News::Dialled { node, endpoint, link, lanes }).await;
        });
    }

    fn up(&mut self, node: NodeId, id: u64) {
        let Some(Made { dialled, lanes }) = self.ready.remove(&(node, id)) else { return };
        let Some(peer) = lanes.first().map(|lane| lane.peer.clone()) else { return };
        tracing::info!(peer = %node, name = peer.name, address = %peer.address, "peer is up");
        let counters = self.core.counters_of(node);
        let link = Link::new(id, peer.clone(), dialled, counters);
        let events = self.core.events.lock().expect("no panic under this lock");
        let mut links = self.core.links.write().expect("no panic under this lock");
        links.insert(node, link.clone());
        drop(links);
        self.tell_prompt(&PeerEvent::Up(peer));
        drop(events);
        self.untold.push_back(LinkEvent::Up(link.clone()));
        for lane in lanes {
            self.run_lane(&link, lane);
        }
    }

    fn run_lane(&self, link: &Arc<Link>, made: LaneMade) {
        let (lane, node, id) = (made.lane, link.peer.node, link.id);
        let outbox = link.outbox(lane).clone();
        let sink = LinkSink { link: link.clone(), lane, core: self.core.clone() };
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let error = lane::run(made.secured, outbox, sink).await;
            let _ = sender.send(News::Ended { node, link: id, lane, error }).await;
        });
    }

    fn down(&mut self, node: NodeId, id: u64) {
        let events = self.core.events.lock().expect("no panic under this lock");
        let mut links = self.core.links.write().expect("no panic under this lock");
        let link = links.remove(&node);
        drop(links);
        let Some(link) = link else { return };
        assert_eq!(link.id, id, "one link for each peer");
        link.close();
        tracing::info!(peer = %node, "peer is down");
        self.tell_prompt(&PeerEvent::Down(node));
        drop(events);
        self.untold.push_back(LinkEvent::Down(link));
    }

    fn tell_prompt(&self, event: &PeerEvent) {
        let _callers = self.core.callers.enter();
        for handler in self.core.all_handlers(true) {
            handler.handle_peer(event);
        }
    }

    async fn say(&mut self) {
        let config = &self.core.config;
        let asks = self.eager == EAGER_BEACONS;
        let beacon = Beacon::new(&config.fabric, config.node, self.core.instance, self.port, asks);
        let now = Instant::now();
        self.said = Some(now);
        match discovery::say(&self.beacons, self.scope, &beacon).await {
            Ok(()) if self.eager > 0 => {
                self.eager -= 1;
                self.say_at = now + EAGER_INTERVAL;
            }
            Ok(()) => self.say_at = now + self.machine.beacon_interval(),
            // No address yet: duplicate address detection takes a second or two.
            Err(error) => {
                tracing::debug!("no beacon: {error}");
                self.say_at = now + RETRY_INTERVAL;
            }
        }
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn hear(beacons: Arc<UdpSocket>, core: Arc<Core>, sender: mpsc::Sender<News>) {
    let config = &core.config;
    let (fabric, own, instance) = (&config.fabric, config.node, core.instance);
    let mut ear = Ear { fabric, own, instance, double: None };
    loop {
        match ear.hear(&beacons).await {
            Ok(heard) => {
                if sender.send(News::Heard(heard)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!("no beacons can be heard: {error}");
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

async fn listen(listener: TcpListener, greeter: Arc<Greeter>, sender: mpsc::Sender<News>) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut handshakes = JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        while handshakes.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((tcp, from)) => {
                let (greeter, sender) = (greeter.clone(), sender.clone());
                handshakes.spawn(async move {
                    accept(&greeter, &sender, tcp, from).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("no connection can be accepted: {error}");
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

async fn accept(greeter: &Greeter, sender: &mpsc::Sender<News>, tcp: TcpStream, from: SocketAddr) {
    match greeter.accept(tcp, from).await {
        Ok(lane) => {
            let _ = sender.send(News::Accepted(Box::new(lane))).await;
        }
        Err(error) => tracing::warn!(address = %from.ip(), "a connection is refused: {error}"),
    }
}
