//! The counts for who speaks HTTP, such as Prometheus and curl(1): one request a connection.
//!
//! A frame begins with its length, and no frame is as long as `GET ` would say: the two are told
//! apart by the first bytes. Who may connect is decided by the socket's permissions, as for frames.

use super::{AdminBackend, frames::FrameReader};
use std::io;
use tokio::{
    io::AsyncWriteExt,
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
};

/// How a request begins (RFC 9112, section 3).
pub(super) const GET: &[u8] = b"GET ";
/// Greatest bytes of a request with its headers; a longer one is not answered.
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// The type of OpenMetrics 1.0's text form.
const TEXT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers the request that has begun to come.
pub(super) async fn answer<B: AdminBackend>(
    mut input: FrameReader<OwnedReadHalf>,
    mut output: OwnedWriteHalf,
    backend: &B,
) -> io::Result<()> {
    let Some(head) = input.take_until(b"\r\n\r\n", REQUEST_BYTES_MAX).await? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let response = match path(&head) {
        Some(b"/metrics") => match backend.metrics(None).await {
            Ok(text) => response("200 OK", TEXT_TYPE, &text),
            Err(error) => response("500 Internal Server Error", "text/plain", &error.message),
        },
        _ => response("404 Not Found", "text/plain", "there is /metrics only\n"),
    };
    output.write_all(response.as_bytes()).await
}

/// The path of a request's first line, without a query.
fn path(head: &[u8]) -> Option<&[u8]> {
    let target = head.strip_prefix(GET)?.split(|byte| *byte == b' ').next()?;
    target.split(|byte| *byte == b'?').next()
}

fn response(status: &str, kind: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_taken_without_its_query() {
        assert_eq!(path(b"GET /metrics HTTP/1.1\r\n\r\n"), Some(&b"/metrics"[..]));
        assert_eq!(path(b"GET /metrics?x=1 HTTP/1.1\r\n\r\n"), Some(&b"/metrics"[..]));
        assert_eq!(path(b"PUT / HTTP/1.1\r\n\r\n"), None);
    }
}
