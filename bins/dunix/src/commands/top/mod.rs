//! `dunix top`: nodes and processes of the fabric in a live terminal view.
//!
//! ```text
//! state    keys, snapshots and answers in; what is shown and what is asked for out; no I/O
//! rows     the table's rows: filter, order, share of a CPU
//! draw     what is shown -> a frame of the terminal
//! mod      terminal, clock and requests
//! ```
//!
//! Invariant: the terminal is restored on every way out: keys, signals, errors, panics. (No program
//! can do so for SIGKILL.)

mod draw;
mod rows;
mod state;

use super::{Failure, explain};
use crate::{
    admin::{
        client::{self, ClientError},
        discovery::Fabric,
    },
    cli::TopArgs,
};
use dunix_admin_api::{KillTarget, MoveOutcome, MoveRequest};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEventKind},
};
use rustix::{
    stdio::{stdin, stdout},
    termios::isatty,
};
use state::{Action, Snapshot, Top};
use std::{io, thread, time::Duration};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::Instant,
};

/// Terminal events and answers that wait for the view; their senders wait when it is full.
const QUEUE_MAX: usize = 64;

/// What comes from requests and from the terminal.
enum Input {
    Terminal(io::Result<Event>),
    Snapshot(Result<Snapshot, ClientError>),
    /// A line about a request that is done.
    Note(String),
    /// What is known of a process.
    Text {
        title: String,
        text: String,
    },
}

/// Shows the view until it is left.
pub async fn run(fabric: &Fabric, args: &TopArgs) -> Result<(), Failure> {
    if !isatty(stdin()) || !isatty(stdout()) {
        return Err(Failure::failed("top needs a terminal; see: dunix ps --watch"));
    }
    let mut signals = Signals::listen()?;
    // Whoever is not answered at the start has an ordinary error, on an ordinary screen.
    let began = Instant::now();
    let mut top = Top::new(snapshot(fabric, began).await?);
    let mut terminal = ratatui::try_init()?;
    let interval = Duration::from_secs_f64(args.interval);
    let view = View { fabric, began, interval };
    let result = tokio::select! {
        result = view.show(&mut top, &mut terminal) => result,
        number = signals.next() => Err(Failure { message: String::new(), status: 128 + number }),
    };
    ratatui::restore();
    result
}

struct View<'a> {
    fabric: &'a Fabric,
    began: Instant,
    interval: Duration,
}

impl View<'_> {
    async fn show(&self, top: &mut Top, terminal: &mut DefaultTerminal) -> Result<(), Failure> {
        let (sender, mut inputs) = mpsc::channel(QUEUE_MAX);
        read_terminal(sender.clone())?;
        let mut offset = 0;
        self.ask_again(&sender);
        loop {
            terminal.draw(|frame| draw::draw(frame, top, &mut offset))?;
            // A sender is kept here: the channel does not end.
            let Some(input) = inputs.recv().await else { return Ok(()) };
            let action = match input {
                Input::Terminal(event) => handle_event(top, &event?),
                Input::Snapshot(answer) => {
                    handle_snapshot(top, answer)?;
                    self.ask_again(&sender);
                    None
                }
                Input::Note(note) => {
                    top.handle_note(note);
                    None
                }
                Input::Text { title, text } => {
                    top.handle_text(title, &text);
                    None
                }
            };
            match action {
                Some(Action::Quit) => return Ok(()),
                Some(action) => self.carry_out(action, sender.clone()),
                None => {}
            }
        }
    }

    /// Asks for the next snapshot after the interval: one request is under way at a time.
    fn ask_again(&self, sender: &mpsc::Sender<Input>) {
        let (fabric, began, interval) = (self.fabric.clone(), self.began, self.interval);
        let sender = sender.clone();
        tokio::spawn(async move {
            tokio::time::sleep(interval).await;
            // A view that has been left takes no answers.
            let _ = sender.send(Input::Snapshot(snapshot(&fabric, began).await)).await;
        });
    }

    fn carry_out(&self, action: Action, sender: mpsc::Sender<Input>) {
        let fabric = self.fabric.clone();
        tokio::spawn(async move {
            let input = request(&fabric, action).await;
            let input = input.unwrap_or_else(|error| Input::Note(Failure::from(error).message));
            let _ = sender.send(input).await;
        });
    }
}

async fn snapshot(fabric: &Fabric, began: Instant) -> Result<Snapshot, ClientError> {
    let (nodes, processes) = tokio::try_join!(client::nodes(fabric), client::processes(fabric))?;
    let at_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Snapshot { at_ms, nodes, processes })
}

/// A refusal is shown, and the next snapshot may come; without a connection there is nothing to show.
fn handle_snapshot(top: &mut Top, answer: Result<Snapshot, ClientError>) -> Result<(), Failure> {
    match answer {
        Ok(snapshot) => top.handle_snapshot(snapshot),
        Err(ClientError::Refused(error)) => top.handle_note(error.message),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn handle_event(top: &mut Top, event: &Event) -> Option<Action> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => top.handle_key(*key),
        // A new size is drawn as anything else.
        _ => None,
    }
}

async fn request(fabric: &Fabric, action: Action) -> Result<Input, ClientError> {
    match action {
        Action::Quit => Ok(Input::Note(String::new())),
        Action::Kill { pid, signal, name } => {
            client::kill(fabric, KillTarget::Process(pid), signal).await?;
            Ok(Input::Note(format!("sent SIG{name} to process {pid}")))
        }
        Action::Move { pid, node } => {
            let request = MoveRequest { pid, node, safe: false, wait: false };
            let to = request.node.clone();
            Ok(Input::Note(match client::move_process(fabric, request).await? {
                MoveOutcome::Moved(_) => format!("process {pid} runs at {to}"),
                MoveOutcome::Refused(why) => format!("process {pid} stays: {}", why.message),
            }))
        }
        Action::Explain(pid) => {
            let explanation = client::explain(fabric, pid).await?;
            let title = format!("Why here: {pid}");
            Ok(Input::Text { title, text: explain::in_words(&explanation) })
        }
    }
}

/// Reads keys and sizes on a thread of its own, which ends with the terminal or the process.
fn read_terminal(sender: mpsc::Sender<Input>) -> io::Result<()> {
    thread::Builder::new().name("keys".to_owned()).spawn(move || {
        loop {
            let event = event::read();
            let ended = event.is_err();
            if sender.blocking_send(Input::Terminal(event)).is_err() || ended {
                return;
            }
        }
    })?;
    Ok(())
}

/// Signals that end the view; ^C is a key here, as the terminal is raw.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The number of the next one.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 2,
            _ = self.terminate.recv() => 15,
            _ = self.hang_up.recv() => 1,
        }
    }
}
