//! `dunix lab --storm`: moves every process of the lab again and again.
//!
//! The lab's owner does it from outside, through the nodes' admin sockets: it hears of processes as
//! `dunix events` does and asks for each move as `dunix move` does, at the node where the process
//! was last. Nothing else passes between the owner and a node, and nothing between nodes.
//!
//! ```text
//! events, one list ─> crew ─> move due ─> client::move_process ─> report
//!                      ^ └ choice (the seed)      │
//!                      └───────── answer ─────────┘
//! ```

mod choice;
mod crew;
mod report;

pub(super) use report::Report;

use crate::admin::{
    client::{self, ClientError, Events},
    discovery::Fabric,
};
use crew::{Crew, Move};
use dunix_admin_api::{ErrorKind, Event, EventKind, MoveOutcome, MoveRequest};
use dunix_ids::NodeId;
use dunix_lab::NodeHandle;
use std::{
    io,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{sleep_until, timeout},
};

/// How long the moves that are under way when the storm ends may take.
const END_WITHIN: Duration = Duration::from_secs(2);
/// How long one question to a node may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// With nothing due, the storm looks up this often.
const IDLE: Duration = Duration::from_secs(3600);

/// A storm under way.
#[derive(Debug)]
pub(super) struct Storm {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Report>,
}

impl Storm {
    /// Begins to move the processes of these nodes.
    ///
    /// # Errors
    /// Of the thread and its runtime.
    pub(super) fn start(nodes: &[NodeHandle], mean: Duration, seed: u64) -> io::Result<Storm> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let driver = Driver::new(nodes, mean, seed);
        let thread = thread::Builder::new()
            .name("storm".to_owned())
            .spawn(move || runtime.block_on(driver.run(stopped)))?;
        Ok(Storm { stop, thread })
    }

    /// Begins no more moves, waits for those under way, and tells what became of all.
    #[must_use]
    pub(super) fn end(self) -> Option<Report> {
        // The thread may have ended by itself.
        let _ = self.stop.send(());
        self.thread.join().ok()
    }
}

struct Driver {
    sockets: Vec<(NodeId, Fabric)>,
    crew: Crew,
    report: Report,
    answers: JoinSet<(Move, Result<MoveOutcome, ClientError>)>,
}

impl Driver {
    fn new(nodes: &[NodeHandle], mean: Duration, seed: u64) -> Driver {
        let sockets = nodes.iter().map(|node| {
            let name = format!("n{}", node.number);
            (NodeId(node.number), Fabric { name, sockets: vec![node.socket.clone()] })
        });
        let sockets: Vec<(NodeId, Fabric)> = sockets.collect();
        let crew = Crew::new(seed, mean, sockets.iter().map(|(node, _)| *node).collect());
        let report = Report::new(seed, mean);
        Driver { sockets, crew, report, answers: JoinSet::new() }
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) -> Report {
        tokio::select! {
            Err(error) = self.drive() => self.report.count_failed(&reason(&error)),
            _ = &mut stopped => {}
        }
        // What is not answered by then is not waited for.
        let _ = timeout(END_WITHIN, async {
            while let Some(Ok((moved, outcome))) = self.answers.join_next().await {
                self.take_answer(moved, outcome);
            }
        })
        .await;
        for _ in 0..self.crew.under_way() {
            self.report.count_failed("the lab ended first");
        }
        self.report.finish();
        self.report
    }

    /// Moves processes until something breaks.
    async fn drive(&mut self) -> Result<std::convert::Infallible, ClientError> {
        let mut events = Events::open(self.fabric(None)).await?;
        self.list().await?;
        loop {
            while let Some(due) = self.crew.poll_move(Instant::now()) {
                self.ask(due);
            }
            let due = self.crew.next_due().unwrap_or_else(|| Instant::now() + IDLE);
            tokio::select! {
                event = events.next() => self.take_event(event?).await?,
                Some(Ok((moved, outcome))) = self.answers.join_next() => {
                    self.take_answer(moved, outcome);
                }
                () = sleep_until(due.into()) => {}
            }
        }
    }

    /// How to reach a node; the first if it is none of the lab's.
    fn fabric(&self, node: Option<NodeId>) -> &Fabric {
        let found = self.sockets.iter().find(|(other, _)| Some(*other) == node);
        // A lab has a node.
        &found.unwrap_or(&self.sockets[0]).1
    }

    async fn list(&mut self) -> Result<(), ClientError> {
        let processes = client::processes(self.fabric(None)).await?;
        let now = Instant::now();
        processes.iter().for_each(|process| self.crew.handle_listed(now, process));
        Ok(())
    }

    async fn take_event(&mut self, event: Option<Event>) -> Result<(), ClientError> {
        match event {
            None => Err(ClientError::Connection("the node ended its events".to_owned())),
            Some(Event { kind: EventKind::Lost { .. }, .. }) => self.list().await,
            Some(event) => {
                self.crew.handle_event(Instant::now(), &event);
                Ok(())
            }
        }
    }

    fn ask(&mut self, due: Move) {
        let fabric = self.fabric(Some(due.from)).clone();
        let node = due.to.0.to_string();
        let request = MoveRequest { pid: due.pid, node, safe: false, wait: true };
        self.answers.spawn(async move {
            let answer = timeout(ANSWER_WITHIN, client::move_process(&fabric, request)).await;
            let late = || ClientError::Connection("a move took too long".to_owned());
            (due, answer.unwrap_or_else(|_| Err(late())))
        });
    }

    fn take_answer(&mut self, due: Move, outcome: Result<MoveOutcome, ClientError>) {
        let node = match &outcome {
            Ok(MoveOutcome::Moved(moved)) => Some(moved.to),
            Ok(MoveOutcome::Refused(refused)) if refused.gone => None,
            Ok(MoveOutcome::Refused(refused)) if refused.reason == "already-there" => Some(due.to),
            Ok(MoveOutcome::Refused(_)) => Some(due.from),
            Err(_) => None,
        };
        match &outcome {
            Ok(outcome) => self.report.count(due.pid.get(), outcome),
            Err(ClientError::Refused(error)) if error.kind == ErrorKind::NoSuchProcess => {
                self.report.count_ended();
            }
            Err(error) => self.report.count_failed(&reason(error)),
        }
        self.crew.handle_answer(Instant::now(), due.pid, node);
    }
}

fn reason(error: &ClientError) -> String {
    match error {
        ClientError::Refused(error) => error.message.clone(),
        ClientError::Connection(message) => message.clone(),
    }
}
