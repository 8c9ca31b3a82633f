//! Frames and their encoding.

use crate::{
    AdminError, Event, ExitStatus, Explanation, FRAME_BYTES_MAX, KillTarget, MoveOutcome,
    MoveRequest, NodeInfo, ProcessInfo, RunRequest, Stream, TerminalSize,
};
use alloc::{boxed::Box, string::String, vec::Vec};
use dunix_ids::{NodeId, Pid};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;

/// What a connection asks for, as its first frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Answers [`ServerFrame::Done`] once the node serves.
    Ready,
    Nodes,
    Processes,
    Explain(Pid),
    /// `signal` 0 only checks whether the target exists.
    Kill {
        target: KillTarget,
        signal: u8,
    },
    /// Events of the whole fabric until the client leaves.
    Events,
    Run(Box<RunRequest>),
    Move(MoveRequest),
    /// The counts of a node (a name, or a number in decimal), or of the one that answers.
    Metrics {
        node: Option<String>,
    },
}

/// From the client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ClientFrame {
    /// The first frame.
    Open { version: u32, request: Request },
    /// Bytes for standard input; takes credit of [`Stream::Stdin`].
    Stdin(ByteBuf),
    /// Standard input ends.
    StdinEof,
    /// The client has written this many bytes of the stream.
    Credit { stream: Stream, bytes: u32 },
    /// The client's own end of an output stream is gone (`EPIPE`): the program's writes fail too.
    OutputClosed(Stream),
    /// The client's terminal changed its size.
    Resize(TerminalSize),
    /// A signal for the program's process group.
    Signal(u8),
}

/// From the server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ServerFrame {
    Nodes(Vec<NodeInfo>),
    Processes(Vec<ProcessInfo>),
    Explained(Box<Explanation>),
    Moved(MoveOutcome),
    /// Prometheus' text form (OpenMetrics 1.0).
    Metrics(String),
    Event(Event),
    /// The request is done; the list is complete.
    Done,
    /// The request failed; nothing follows.
    Failed(AdminError),
    /// The program runs.
    Started {
        pid: Pid,
        node: NodeId,
    },
    /// Bytes of an output stream; takes credit of that stream.
    Output {
        stream: Stream,
        bytes: ByteBuf,
    },
    /// An output stream ended.
    OutputEof(Stream),
    /// This many bytes of standard input have reached the program's descriptor.
    StdinCredit(u32),
    /// Nobody reads standard input any more.
    StdinClosed,
    /// The program ended; all that it wrote has come before. Nothing follows.
    Exited(ExitStatus),
}

/// Why bytes are no frame, or a frame cannot be bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
    #[error("the frame cannot be decoded")]
    Malformed,
}

/// Encodes a frame with its length field.
pub fn encode<F: Serialize>(frame: &F) -> Result<Vec<u8>, FrameError> {
    let mut bytes =
        postcard::to_extend(frame, Vec::from([0; 4])).map_err(|_| FrameError::Malformed)?;
    let body = bytes.len() - 4;
    let length = u32::try_from(body).ok().filter(|_| body <= FRAME_BYTES_MAX);
    let length = length.ok_or(FrameError::TooLong(body))?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Decodes a frame's body (the bytes after the length field). Trailing bytes are refused.
pub fn decode<F: DeserializeOwned>(body: &[u8]) -> Result<F, FrameError> {
    if body.len() > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(body.len()));
    }
    match postcard::take_from_bytes(body) {
        Ok((frame, [])) => Ok(frame),
        _ => Err(FrameError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn round_trip<F: Serialize + DeserializeOwned + PartialEq + core::fmt::Debug>(frame: &F) {
        let bytes = encode(frame).unwrap();
        let length = u32::from_le_bytes(bytes[..4].try_into().unwrap());
        assert_eq!(length as usize, bytes.len() - 4);
        assert_eq!(&decode::<F>(&bytes[4..]).unwrap(), frame);
    }

    #[test]
    fn frames_survive_the_wire() {
        round_trip(&ClientFrame::Open { version: 1, request: Request::Nodes });
        round_trip(&ClientFrame::Stdin(ByteBuf::from(vec![0, 255, 10])));
        round_trip(&ServerFrame::Exited(ExitStatus::Signaled { signal: 9, core_dumped: false }));
    }

    #[test]
    fn too_long_and_trailing_bytes_are_refused() {
        let long = ClientFrame::Stdin(ByteBuf::from(vec![0; FRAME_BYTES_MAX]));
        assert!(matches!(encode(&long), Err(FrameError::TooLong(_))));
        let mut bytes = encode(&ClientFrame::StdinEof).unwrap();
        bytes.push(0);
        assert_eq!(decode::<ClientFrame>(&bytes[4..]), Err(FrameError::Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            if let Ok(frame) = decode::<ClientFrame>(&bytes) {
                round_trip(&frame);
            }
            if let Ok(frame) = decode::<ServerFrame>(&bytes) {
                round_trip(&frame);
            }
        }
    }
}
