//! Frames over an asynchronous byte stream.

use bytes::{Buf, BytesMut};
use dunix_admin_api::{FRAME_BYTES_MAX, FrameError, decode, encode};
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Cuts frames out of a byte stream.
pub(crate) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(stream: R) -> FrameReader<R> {
        FrameReader { stream, buffer: BytesMut::with_capacity(16 << 10) }
    }

    /// Returns the next frame, or `None` at the end of the stream. May be cancelled: no byte is lost.
    pub(crate) async fn next<F: DeserializeOwned>(&mut self) -> io::Result<Option<F>> {
        loop {
            if let Some(frame) = self.try_take()? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(16 << 10);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    /// Whether the stream begins with these bytes, none of which is taken.
    pub(crate) async fn begins_with(&mut self, start: &[u8]) -> io::Result<bool> {
        while start.starts_with(&self.buffer) && self.buffer.len() < start.len() {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(false);
            }
        }
        Ok(self.buffer.starts_with(start))
    }

    /// Takes the bytes up to and with `end`, or `None` if they do not come or are more than `most`.
    pub(crate) async fn take_until(
        &mut self,
        end: &[u8],
        most: usize,
    ) -> io::Result<Option<BytesMut>> {
        loop {
            let found = self.buffer.windows(end.len()).position(|window| window == end);
            if let Some(at) = found {
                return Ok(Some(self.buffer.split_to(at + end.len())));
            }
            if self.buffer.len() > most || self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn try_take<F: DeserializeOwned>(&mut self) -> io::Result<Option<F>> {
        let Some(length) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(invalid(FrameError::TooLong(length)));
        }
        let Some(body) = self.buffer.get(4..4 + length) else { return Ok(None) };
        let frame = decode(body).map_err(invalid)?;
        self.buffer.advance(4 + length);
        Ok(Some(frame))
    }
}

/// Writes one frame.
pub(crate) async fn write_frame<F: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    frame: &F,
) -> io::Result<()> {
    stream.write_all(&encode(frame).map_err(invalid)?).await
}

fn invalid(error: FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}
