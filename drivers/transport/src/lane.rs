//! One connection at work: frames out of its outbox, frames in to its link, proofs of life.
//!
//! One task does both directions, so that the TLS state needs no lock; reads and writes are large,
//! and whatever waits goes out in one batch. Ends at the first fault, with the reason; malformed
//! bytes from an authenticated peer are such a fault.

use crate::outbox::{Frame, Outbox};
use bytes::{Buf, Bytes};
use dunix_membership::{KeepAlive, Pulse};
use dunix_wire::frame::{FrameError, HEADER_BYTES, Header, Kind};
use rustls::Connection;
use std::{
    collections::VecDeque,
    future::Future,
    io::{self, BufRead, ErrorKind, IoSlice, Write},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    net::TcpStream,
    time::{Instant, Sleep},
};

/// Bytes asked of the socket at once.
const READ_BYTES: usize = 256 << 10;
/// Bytes of encrypted records that may wait for the socket.
const TLS_BUFFER_BYTES: usize = 256 << 10;
/// Pieces (a header or a body each) encrypted in one go.
const PIECES_MAX: usize = 128;
/// Batches written before what came is read.
const BATCHES_MAX: usize = 8;
/// Rounds of reading and writing before other tasks get their turn.
const ROUNDS_MAX: usize = 16;

/// Why a lane ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaneError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer was silent for {} s", KeepAlive::SILENCE_MAX.as_secs())]
    Silent,
    #[error("{0}")]
    Socket(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("malformed frame: {0}")]
    Malformed(#[from] FrameError),
    /// Well-formed, but against the rules.
    #[error("the peer {0}")]
    Rules(String),
    #[error("the link was closed")]
    Stopped,
}

/// Takes what arrives on a lane.
pub(crate) trait Sink: Send + 'static {
    /// Takes one frame.
    ///
    /// # Errors
    /// The peer broke a rule, or the lane is not wanted any more.
    fn handle_frame(&mut self, header: Header, body: Bytes) -> Result<(), LaneError>;
    /// Ready while it takes more; else nothing is read.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    /// A round trip was measured.
    fn handle_round_trip(&mut self, time: Duration);
}

/// A connection after its handshake.
pub(crate) struct Secured {
    pub(crate) tcp: TcpStream,
    pub(crate) tls: Connection,
}

/// Runs a connection until it ends.
pub(crate) async fn run<S: Sink>(secured: Secured, outbox: Arc<Outbox>, sink: S) -> LaneError {
    let mut lane = Lane::new(secured, outbox, sink);
    let error = std::future::poll_fn(|cx| lane.poll(cx)).await;
    lane.say_goodbye();
    error
}

struct Lane<S> {
    tcp: TcpStream,
    tls: Connection,
    outbox: Arc<Outbox>,
    writer: FrameWriter,
    reader: FrameReader<S>,
    input: Box<[u8]>,
    began: Instant,
    watch: KeepAlive,
    timer: Pin<Box<Sleep>>,
}

impl<S: Sink> Lane<S> {
    fn new(Secured { tcp, mut tls }: Secured, outbox: Arc<Outbox>, sink: S) -> Lane<S> {
        tls.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        let began = Instant::now();
        let mut writer = FrameWriter::default();
        // Measures the round trip at once; later pings do so again.
        writer.add(Frame::new(Kind::Ping, None, 0, Bytes::new()));
        Lane {
            tcp,
            tls,
            outbox,
            writer,
            reader: FrameReader::new(sink),
            input: vec![0; READ_BYTES].into_boxed_slice(),
            began,
            watch: KeepAlive::new(Duration::ZERO),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<LaneError> {
        // What the handshake left behind.
        if let Err(error) = self.take_plaintext() {
            return Poll::Ready(error);
        }
        for _ in 0..ROUNDS_MAX {
            match self.round(cx) {
                Ok(true) => {}
                Ok(false) => return self.poll_timer(cx),
                Err(error) => return Poll::Ready(error),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads and writes what is possible at once; says whether anything was.
    fn round(&mut self, cx: &mut Context<'_>) -> Result<bool, LaneError> {
        let heard = match self.poll_read(cx) {
            Poll::Ready(done) => done.map(|()| true)?,
            Poll::Pending => false,
        };
        Ok(self.write(cx)? || heard)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LaneError>> {
        if self.reader.sink.poll_ready(cx).is_pending() {
            // Who does not listen has no silence to complain of.
            self.watch.handle_heard(self.began.elapsed());
            return Poll::Pending;
        }
        loop {
            ready!(self.tcp.poll_read_ready(cx))?;
            match self.tcp.try_read(&mut self.input) {
                Ok(0) => return Poll::Ready(Err(LaneError::Closed)),
                Ok(count) => {
                    self.watch.handle_heard(self.began.elapsed());
                    return Poll::Ready(self.decrypt(count));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn decrypt(&mut self, count: usize) -> Result<(), LaneError> {
        let mut at = 0;
        while at < count {
            let taken = self.tls.read_tls(&mut &self.input[at..count])?;
            if taken == 0 {
                return Err(LaneError::Closed);
            }
            at += taken;
            self.tls.process_new_packets()?;
            self.take_plaintext()?;
        }
        Ok(())
    }

    fn take_plaintext(&mut self) -> Result<(), LaneError> {
        let mut reader = self.tls.reader();
        loop {
            let count = match reader.fill_buf() {
                Ok([]) => return Err(LaneError::Closed),
                Ok(bytes) => {
                    self.reader.take(bytes)?;
                    bytes.len()
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            reader.consume(count);
        }
        if let Some(id) = self.reader.pinged.take() {
            self.writer.add(Frame::new(Kind::Pong, None, id, Bytes::new()));
        }
        if let Some(sent) = self.reader.ponged.take() {
            let time = self.began.elapsed().saturating_sub(Duration::from_micros(sent));
            self.reader.sink.handle_round_trip(time);
        }
        Ok(())
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, LaneError> {
        let mut progress = false;
        for _ in 0..BATCHES_MAX {
            if self.writer.is_empty()
                && let Poll::Ready(taken) = self.outbox.poll_take(cx, &mut self.writer.frames)
            {
                taken.map_err(|_| LaneError::Stopped)?;
                self.watch.handle_said(self.began.elapsed());
                self.writer.begin();
            }
            let encrypted = self.writer.encrypt(&mut self.tls)?;
            let written = self.flush(cx)?;
            if !written && !encrypted {
                break;
            }
            progress = true;
        }
        Ok(progress)
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Result<bool, LaneError> {
        let mut progress = false;
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Socket(&self.tcp)) {
                Ok(0) => return Err(LaneError::Closed),
                Ok(_) => progress = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    match self.tcp.poll_write_ready(cx) {
                        Poll::Ready(ready) => ready?,
                        Poll::Pending => break,
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(progress)
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<LaneError> {
        loop {
            let now = self.began.elapsed();
            self.watch.set_watched(now, self.outbox.is_watched());
            match self.watch.poll_pulse(now) {
                Pulse::Dead => return Poll::Ready(LaneError::Silent),
                Pulse::Ping => {
                    let id = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
                    self.writer.add(Frame::new(Kind::Ping, None, id, Bytes::new()));
                    // The next poll writes it.
                    cx.waker().wake_by_ref();
                }
                Pulse::Wait(until) => {
                    self.timer.as_mut().reset(self.began + until);
                    ready!(self.timer.as_mut().poll(cx));
                }
            }
        }
    }

    /// Tells the peer that the end is meant, as far as the socket takes it.
    fn say_goodbye(&mut self) {
        self.tls.send_close_notify();
        while self.tls.wants_write() && self.tls.write_tls(&mut Socket(&self.tcp)).is_ok() {}
    }
}

/// The frames being written; the first may be partly written.
#[derive(Default)]
struct FrameWriter {
    frames: VecDeque<Frame>,
    header: Bytes,
}

impl FrameWriter {
    fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    fn add(&mut self, frame: Frame) {
        self.frames.push_back(frame);
        if self.frames.len() == 1 {
            self.begin();
        }
    }

    /// Prepares the first frame's header; call when the first frame has changed.
    fn begin(&mut self) {
        if let Some(frame) = self.frames.front() {
            self.header = Bytes::copy_from_slice(&frame.header.encode());
        }
    }

    /// Encrypts as much as the TLS buffer takes; says whether that was anything.
    fn encrypt(&mut self, tls: &mut Connection) -> Result<bool, LaneError> {
        let mut progress = false;
        while !self.frames.is_empty() {
            let headers: Vec<[u8; HEADER_BYTES]> = self
                .frames
                .iter()
                .skip(1)
                .take(PIECES_MAX / 2)
                .map(|f| f.header.encode())
                .collect();
            let mut pieces = Vec::with_capacity(PIECES_MAX);
            pieces.push(IoSlice::new(&self.header));
            pieces.push(IoSlice::new(&self.frames[0].body));
            for (header, frame) in headers.iter().zip(self.frames.iter().skip(1)) {
                if pieces.len() >= PIECES_MAX {
                    break;
                }
                pieces.push(IoSlice::new(header));
                pieces.push(IoSlice::new(&frame.body));
            }
            let count = tls.writer().write_vectored(&pieces)?;
            if count == 0 {
                break;
            }
            progress = true;
            self.advance(count);
        }
        Ok(progress)
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(frame) = self.frames.front_mut() {
            let of_header = count.min(self.header.len());
            self.header.advance(of_header);
            count -= of_header;
            let of_body = count.min(frame.body.len());
            frame.body.advance(of_body);
            count -= of_body;
            if !self.header.is_empty() || !frame.body.is_empty() {
                return;
            }
            self.frames.pop_front();
            self.begin();
            if count == 0 {
                return;
            }
        }
    }
}

/// Puts frames together out of whatever pieces arrive.
struct FrameReader<S> {
    sink: S,
    head: [u8; HEADER_BYTES],
    head_have: usize,
    header: Option<Header>,
    body: Vec<u8>,
    /// The last ping to be answered; earlier ones need no answer of their own.
    pinged: Option<u64>,
    ponged: Option<u64>,
}

impl<S: Sink> FrameReader<S> {
    fn new(sink: S) -> FrameReader<S> {
        FrameReader {
            sink,
            head: [0; HEADER_BYTES],
            head_have: 0,
            header: None,
            body: Vec::new(),
            pinged: None,
            ponged: None,
        }
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), LaneError> {
        loop {
            let Some(header) = self.header else {
                let wanted = (HEADER_BYTES - self.head_have).min(bytes.len());
                self.head[self.head_have..self.head_have + wanted]
                    .copy_from_slice(&bytes[..wanted]);
                self.head_have += wanted;
                bytes = &bytes[wanted..];
                if self.head_have < HEADER_BYTES {
                    return Ok(());
                }
                let header = Header::decode(&self.head)?;
                self.body = Vec::with_capacity(header.length as usize);
                self.header = Some(header);
                continue;
            };
            let wanted = (header.length as usize - self.body.len()).min(bytes.len());
            self.body.extend_from_slice(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            if self.body.len() < header.length as usize {
                return Ok(());
            }
            self.header = None;
            self.head_have = 0;
            self.hand_over(header)?;
        }
    }

    fn hand_over(&mut self, header: Header) -> Result<(), LaneError> {
        match header.kind {
            Kind::Ping => self.pinged = Some(header.id),
            Kind::Pong => self.ponged = Some(header.id),
            Kind::Hello => return Err(LaneError::Rules("greeted twice".to_owned())),
            _ => self.sink.handle_frame(header, std::mem::take(&mut self.body).into())?,
        }
        Ok(())
    }
}

/// Lets the TLS state write to the socket without waiting.
struct Socket<'a>(&'a TcpStream);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection, prelude::*};

    #[derive(Default)]
    struct Frames(Vec<(Header, Bytes)>);

    impl Sink for Frames {
        fn handle_frame(&mut self, header: Header, body: Bytes) -> Result<(), LaneError> {
            self.0.push((header, body));
            Ok(())
        }
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }
        fn handle_round_trip(&mut self, _time: Duration) {}
    }

    fn message(id: u64, body: &'static [u8]) -> Frame {
        let topic = Some(dunix_wire::Topic::Load);
        Frame::new(Kind::Call, topic, id, Bytes::from_static(body))
    }

    #[test]
    fn frames_survive_being_cut_anywhere() {
        let frames = [message(1, b"first"), message(2, b""), message(3, b"third one")];
        let mut bytes = Vec::new();
        for frame in &frames {
            bytes.extend(frame.header.encode());
            bytes.extend(&frame.body);
        }
        for cut in 0..bytes.len() {
            let mut reader = FrameReader::new(Frames::default());
            for piece in [&bytes[..cut], &bytes[cut..]] {
                reader.take(piece).expect("well formed");
            }
            let ids: Vec<u64> = reader.sink.0.iter().map(|(header, _)| header.id).collect();
            assert_eq!(ids, [1, 2, 3], "cut at {cut}");
            assert_eq!(reader.sink.0[2].1, b"third one".as_slice());
        }
    }

    proptest! {
        /// Whatever a peer sends, in whatever pieces: frames within their limits, or a refusal.
        #[test]
        fn noise_is_refused_or_within_limits(
            pieces in collection::vec((0u8..16, 0u8..8, 0u32..100, any::<[u8; 24]>()), 0..20),
            cut in 1usize..40,
        ) {
            let mut bytes = Vec::new();
            for (kind, topic, length, noise) in pieces {
                bytes.extend([kind, topic, 0, 0]);
                bytes.extend(length.to_le_bytes());
                bytes.extend(noise);
            }
            let mut reader = FrameReader::new(Frames::default());
            let _ = bytes.chunks(cut).try_for_each(|piece| reader.take(piece));
            let given: usize = reader.sink.0.iter().map(|(_, body)| HEADER_BYTES + body.len()).sum();
            prop_assert!(given <= bytes.len());
            for (header, body) in &reader.sink.0 {
                prop_assert_eq!(header.length as usize, body.len());
                prop_assert!(body.len() <= header.kind.body_bytes_max());
            }
        }
    }

    #[test]
    fn writing_goes_on_where_it_stopped() {
        let mut writer = FrameWriter::default();
        for (id, body) in [(1, b"abc".as_slice()), (2, b""), (3, b"defg")] {
            writer.add(message(id, body));
        }
        writer.advance(HEADER_BYTES + 1);
        assert_eq!(writer.frames[0].body, b"bc".as_slice());
        writer.advance(2 + 5);
        assert_eq!((writer.frames.len(), writer.header.len()), (2, HEADER_BYTES - 5));
        writer.advance(HEADER_BYTES - 5);
        assert_eq!((writer.frames.len(), writer.header.len()), (1, HEADER_BYTES));
        writer.advance(HEADER_BYTES + 4);
        assert!(writer.is_empty());
    }
}
