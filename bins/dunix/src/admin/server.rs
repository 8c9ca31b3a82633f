//! Takes connections on the admin socket and answers them from an [`AdminBackend`].
//!
//! Who speaks HTTP instead of frames is answered one request, for `/metrics` ([`super::http`]).
//!
//! Who may connect is decided by the socket's permissions (0600). A client can neither make the
//! server hold more than named limits allow nor delay another client.

use super::{
    AdminBackend,
    frames::{FrameReader, write_frame},
    http, session,
};
use dunix_admin_api::{
    AdminError, ClientFrame, ErrorKind, LIST_ITEMS_MAX, Request, ServerFrame, VERSION,
};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc},
    time::timeout,
};

/// Most connections at a time; a further client waits in the socket's backlog.
pub const CONNECTIONS_MAX: usize = 512;
/// How long a client may take to say what it wants.
const OPEN_SECONDS_MAX: Duration = Duration::from_secs(10);
/// Pause after accept(2) failed (out of descriptors), so that the failure does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the future is dropped. Dropping it ends every connection.
pub async fn serve<B: AdminBackend>(listener: UnixListener, backend: Arc<B>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "admin socket: accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let backend = Arc::clone(&backend);
        connections.spawn(async move {
            let _slot = slot;
            if let Err(error) = handle_connection(stream, &*backend).await {
                tracing::debug!(%error, "admin connection");
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn handle_connection<B: AdminBackend>(stream: UnixStream, backend: &B) -> io::Result<()> {
    let (input, mut output) = stream.into_split();
    let mut input = FrameReader::new(input);
    let is_http = timeout(OPEN_SECONDS_MAX, input.begins_with(http::GET)).await;
    if is_http.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
        return timeout(OPEN_SECONDS_MAX, http::answer(input, output, backend))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
    }
    let first = timeout(OPEN_SECONDS_MAX, input.next::<ClientFrame>()).await;
    let request = match first.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
        None => return Ok(()),
        Some(ClientFrame::Open { version: VERSION, request }) => request,
        Some(ClientFrame::Open { version, .. }) => {
            let message = format!(
                "the node speaks version {VERSION} and this dunix version {version}: use the \
                 binary that the fabric was started with"
            );
            let error = AdminError::new(ErrorKind::Version, message);
            return write_frame(&mut output, &ServerFrame::Failed(error)).await;
        }
        Some(_) => {
            let error = AdminError::new(ErrorKind::Invalid, "the first frame must open a request");
            return write_frame(&mut output, &ServerFrame::Failed(error)).await;
        }
    };
    answer(request, input, output, backend).await
}

async fn answer<B: AdminBackend>(
    request: Request,
    mut input: FrameReader<OwnedReadHalf>,
    mut output: OwnedWriteHalf,
    backend: &B,
) -> io::Result<()> {
    if let Request::Run(request) = request {
        return session::run(*request, input, output, backend).await;
    }
    // A client that leaves gives up its request: the backend's future is dropped with this one.
    let answered = async {
        let frames = match request {
            Request::Ready => backend.ready().await.map(|()| Vec::new()),
            Request::Nodes => backend.nodes().await.map(|list| in_frames(list, ServerFrame::Nodes)),
            Request::Processes => {
                backend.processes().await.map(|list| in_frames(list, ServerFrame::Processes))
            }
            Request::Explain(pid) => {
                backend.explain(pid).await.map(|e| vec![ServerFrame::Explained(Box::new(e))])
            }
            Request::Kill { target, signal } => {
                backend.kill(target, signal).await.map(|()| Vec::new())
            }
            Request::Move(request) => {
                backend.move_process(request).await.map(|o| vec![ServerFrame::Moved(o)])
            }
            Request::Metrics { node } => {
                backend.metrics(node.as_deref()).await.map(|text| vec![ServerFrame::Metrics(text)])
            }
            Request::Events => match backend.events().await {
                Ok(events) => return forward_events(events, &mut output).await,
                Err(error) => Err(error),
            },
            Request::Run(_) => unreachable!("handled above"),
        };
        finish(frames, &mut output).await
    };
    tokio::select! {
        result = answered => result,
        // Only the end of the stream can come: nothing may follow the request.
        _ = input.next::<ClientFrame>() => Ok(()),
    }
}

async fn finish(
    frames: Result<Vec<ServerFrame>, AdminError>,
    output: &mut OwnedWriteHalf,
) -> io::Result<()> {
    match frames {
        Ok(frames) => {
            for frame in &frames {
                write_frame(output, frame).await?;
            }
            write_frame(output, &ServerFrame::Done).await
        }
        Err(error) => write_frame(output, &ServerFrame::Failed(error)).await,
    }
}

fn in_frames<T>(list: Vec<T>, frame: fn(Vec<T>) -> ServerFrame) -> Vec<ServerFrame> {
    let mut items = list.into_iter().peekable();
    let mut frames = Vec::new();
    while items.peek().is_some() {
        frames.push(frame(items.by_ref().take(LIST_ITEMS_MAX).collect()));
    }
    frames
}

async fn forward_events(
    mut events: mpsc::Receiver<dunix_admin_api::Event>,
    output: &mut OwnedWriteHalf,
) -> io::Result<()> {
    while let Some(event) = events.recv().await {
        write_frame(output, &ServerFrame::Event(event)).await?;
    }
    write_frame(output, &ServerFrame::Done).await
}
