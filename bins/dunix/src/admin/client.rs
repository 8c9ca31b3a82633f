//! One request to a node and its answers.

use super::{
    discovery::Fabric,
    frames::{FrameReader, write_frame},
};
use dunix_admin_api::{
    AdminError, ClientFrame, Event, Explanation, KillTarget, MoveOutcome, MoveRequest, NodeInfo,
    ProcessInfo, Request, ServerFrame, VERSION,
};
use dunix_ids::Pid;
use std::{io, path::Path, time::Duration};
use tokio::{
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

/// How long a node may take for the next frame of an answer, events and runs apart.
const ANSWER_SECONDS_MAX: Duration = Duration::from_secs(15);
/// How long a move may take: much memory over a slow link.
const MOVE_SECONDS_MAX: Duration = Duration::from_secs(600);
/// Most entries of a list that a client takes.
const LIST_ENTRIES_MAX: usize = 1 << 20;

/// Why a request got no answer.
#[derive(Debug)]
pub enum ClientError {
    /// The fabric answered that it cannot.
    Refused(AdminError),
    /// There is no connection, or it broke.
    Connection(String),
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> ClientError {
        ClientError::Connection(match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset => {
                "the connection to the fabric broke; is its node still alive? See: dunix nodes"
                    .to_owned()
            }
            _ => format!("the connection to the fabric broke: {error}"),
        })
    }
}

/// A connection with its request sent.
pub struct Connection {
    pub(crate) input: FrameReader<OwnedReadHalf>,
    pub(crate) output: OwnedWriteHalf,
}

impl Connection {
    /// Connects to the first node of the fabric that takes the connection, and asks.
    pub async fn open(fabric: &Fabric, request: Request) -> Result<Connection, ClientError> {
        let mut reason = String::from("it has no nodes");
        for socket in &fabric.sockets {
            match UnixStream::connect(socket).await {
                Ok(stream) => return Connection::ask(stream, request).await,
                Err(error) => reason = describe(socket, &error),
            }
        }
        Err(ClientError::Connection(format!("fabric {:?} does not answer: {reason}", fabric.name)))
    }

    async fn ask(stream: UnixStream, request: Request) -> Result<Connection, ClientError> {
        let (input, mut output) = stream.into_split();
        write_frame(&mut output, &ClientFrame::Open { version: VERSION, request }).await?;
        Ok(Connection { input: FrameReader::new(input), output })
    }

    /// The next frame; the end of the stream is an error. A refusal is an error of its own.
    pub async fn next(&mut self) -> Result<ServerFrame, ClientError> {
        match self.input.next().await? {
            Some(ServerFrame::Failed(error)) => Err(ClientError::Refused(error)),
            Some(frame) => Ok(frame),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// The next frame, within the time that a node may take.
    async fn next_in_time(&mut self) -> Result<ServerFrame, ClientError> {
        self.next_within(ANSWER_SECONDS_MAX).await
    }

    async fn next_within(&mut self, limit: Duration) -> Result<ServerFrame, ClientError> {
        timeout(limit, self.next()).await.unwrap_or_else(|_| {
            let message = format!("the node did not answer within {} s", limit.as_secs());
            Err(ClientError::Connection(message))
        })
    }

    async fn collect<T>(
        mut self,
        take: impl Fn(ServerFrame) -> Option<Vec<T>>,
    ) -> Result<Vec<T>, ClientError> {
        let mut list = Vec::new();
        loop {
            match self.next_in_time().await? {
                ServerFrame::Done => return Ok(list),
                frame => list.extend(take(frame).ok_or_else(unexpected)?),
            }
            if list.len() > LIST_ENTRIES_MAX {
                return Err(ClientError::Connection("the node's list is too long".to_owned()));
            }
        }
    }
}

fn describe(socket: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "permission denied; run dunix as root".to_owned(),
        _ => format!("{}: {error}", socket.display()),
    }
}

pub(crate) fn unexpected() -> ClientError {
    ClientError::Connection("the node sent something unexpected".to_owned())
}

/// Resolves once a node of the fabric serves.
pub async fn ready(fabric: &Fabric) -> Result<(), ClientError> {
    let connection = Connection::open(fabric, Request::Ready).await?;
    connection.collect::<()>(|_| None).await.map(|_| ())
}

/// Lists the nodes by number.
pub async fn nodes(fabric: &Fabric) -> Result<Vec<NodeInfo>, ClientError> {
    let connection = Connection::open(fabric, Request::Nodes).await?;
    let take = |frame| if let ServerFrame::Nodes(list) = frame { Some(list) } else { None };
    let mut nodes = connection.collect(take).await?;
    nodes.sort_by_key(|node| node.id);
    Ok(nodes)
}

/// Lists the processes by PID.
pub async fn processes(fabric: &Fabric) -> Result<Vec<ProcessInfo>, ClientError> {
    let connection = Connection::open(fabric, Request::Processes).await?;
    let take = |frame| if let ServerFrame::Processes(list) = frame { Some(list) } else { None };
    let mut processes = connection.collect(take).await?;
    processes.sort_by_key(|process| process.pid);
    Ok(processes)
}

/// Tells all that is known of a process.
pub async fn explain(fabric: &Fabric, pid: Pid) -> Result<Explanation, ClientError> {
    let connection = Connection::open(fabric, Request::Explain(pid)).await?;
    let take = |frame| match frame {
        ServerFrame::Explained(explanation) => Some(vec![*explanation]),
        _ => None,
    };
    connection.collect(take).await?.pop().ok_or_else(unexpected)
}

/// Sends a signal.
pub async fn kill(fabric: &Fabric, target: KillTarget, signal: u8) -> Result<(), ClientError> {
    let connection = Connection::open(fabric, Request::Kill { target, signal }).await?;
    connection.collect::<()>(|_| None).await.map(|_| ())
}

/// Moves a process.
pub async fn move_process(
    fabric: &Fabric,
    request: MoveRequest,
) -> Result<MoveOutcome, ClientError> {
    let mut connection = Connection::open(fabric, Request::Move(request)).await?;
    match connection.next_within(MOVE_SECONDS_MAX).await? {
        ServerFrame::Moved(outcome) => Ok(outcome),
        _ => Err(unexpected()),
    }
}

/// Tells the counts of a node, or of the one that answers, in Prometheus' text form.
pub async fn metrics(fabric: &Fabric, node: Option<String>) -> Result<String, ClientError> {
    let connection = Connection::open(fabric, Request::Metrics { node }).await?;
    let take = |frame| if let ServerFrame::Metrics(text) = frame { Some(vec![text]) } else { None };
    connection.collect(take).await?.pop().ok_or_else(unexpected)
}

/// Events as they happen.
pub struct Events(Connection);

impl Events {
    /// Subscribes.
    pub async fn open(fabric: &Fabric) -> Result<Events, ClientError> {
        Connection::open(fabric, Request::Events).await.map(Events)
    }

    /// The next event, or `None` when the node ends the subscription.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        match self.0.next().await? {
            ServerFrame::Event(event) => Ok(Some(event)),
            ServerFrame::Done => Ok(None),
            _ => Err(unexpected()),
        }
    }
}

/// Sends a frame that follows the request.
pub(crate) async fn send(output: &mut OwnedWriteHalf, frame: &ClientFrame) -> io::Result<()> {
    write_frame(output, frame).await
}
