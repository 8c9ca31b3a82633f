//! Leads one loopback connection between the client's node and the listener's.

use crate::sockets;
use bytes::BytesMut;
use dunix_ids::NodeId;
use dunix_transport::{Mesh, MeshStream, StreamEnd, StreamReceiver, StreamSender};
use dunix_wire::{Topic, names::Connection};
use std::{io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time,
};

/// Bytes read from a socket at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// How long to wait before accepting again when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections for a listener on `holder` until the task is aborted.
pub(crate) async fn accept(mesh: Mesh, listener: TcpListener, server: SocketAddr, holder: NodeId) {
    loop {
        match listener.accept().await {
            Ok((socket, client)) => {
                let connection = Connection { server, client };
                tokio::spawn(depart(mesh.clone(), socket, connection, holder));
            }
            Err(error) => {
                tracing::warn!(%server, %error, "cannot accept in a peer's place");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The client's side: carries an accepted connection to the listener's node.
async fn depart(mesh: Mesh, socket: TcpStream, connection: Connection, holder: NodeId) {
    let header = dunix_wire::encode(&connection);
    match mesh.open_stream(holder, Topic::Names, header).await {
        Ok(stream) => relay(socket, stream).await,
        Err(error) => {
            tracing::debug!(?connection, %error, "the listener's node cannot be reached");
            reset(&socket);
        }
    }
}

/// The listener's side: connects to the program; dropping the stream tells the client's side.
pub(crate) async fn arrive(connection: Connection, stream: MeshStream) {
    match connect(&connection).await {
        Ok(socket) => relay(socket, stream).await,
        Err(error) => tracing::debug!(?connection, %error, "the listener refuses"),
    }
}

/// Connects from the client's own port if it is free here, so that the server sees it.
async fn connect(connection: &Connection) -> io::Result<TcpStream> {
    let socket = sockets::socket_for(connection.server)?;
    socket.set_reuseaddr(true)?;
    if socket.bind(connection.client).is_ok() {
        match socket.connect(connection.server).await {
            // An earlier connection of the same ports has not been forgotten yet.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            other => return other,
        }
    }
    sockets::socket_for(connection.server)?.connect(connection.server).await
}

/// Carries bytes both ways, each direction with its own end; a failure of one ends both by a reset.
async fn relay(socket: TcpStream, stream: MeshStream) {
    // Small replies must not wait for more.
    let _ = socket.set_nodelay(true);
    let (sender, receiver) = stream.split();
    let (read, write) = socket.into_split();
    match tokio::try_join!(outwards(read, sender), inwards(receiver, write)) {
        Ok(_) => {}
        Err(Failure::Socket(error)) => tracing::debug!(%error, "a led connection broke"),
        Err(Failure::Peer) => tracing::debug!("a led connection lost its peer"),
    }
}

enum Failure {
    Socket(io::Error),
    Peer,
}

async fn outwards(mut read: OwnedReadHalf, mut sender: StreamSender) -> Result<(), Failure> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK_BYTES);
        if read.read_buf(&mut buffer).await.map_err(Failure::Socket)? == 0 {
            sender.finish();
            return Ok(());
        }
        if sender.send(buffer.split().freeze()).await.is_err() {
            reset(read.as_ref());
            return Err(Failure::Peer);
        }
    }
}

async fn inwards(mut receiver: StreamReceiver, mut write: OwnedWriteHalf) -> Result<(), Failure> {
    loop {
        if let Some(bytes) = receiver.recv().await {
            write.write_all(&bytes).await.map_err(Failure::Socket)?;
            receiver.consumed(bytes.len());
        } else if receiver.end() == Some(StreamEnd::Finished) {
            return write.shutdown().await.map_err(Failure::Socket);
        } else {
            reset(write.as_ref());
            return Err(Failure::Peer);
        }
    }
}

/// Makes the close of `socket` a reset: the other end learns that bytes may be missing.
fn reset(socket: &TcpStream) {
    let _ = socket.set_zero_linger();
}
