//! The answer to a request whose head is refused before the app sees it.
//!
//! Pingora answers such a request itself, without a body and in its own name, and nothing can be put in
//! between. So the stream looks at what is written before the app has a request, and says the same in
//! the gateway's words.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http::{Method, StatusCode};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, timeout};

use super::socket::Socket;

/// How long, and for how many bytes, a client that is still sending is read after its answer. Closed at
/// once, the connection would be reset, and the client could lose the answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// How long a client of HTTP/2 may take to make room for its answer.
pub(super) const SAY: Duration = Duration::from_secs(10);

/// The mark of an answer that Pingora has made.
const MARK: &[u8] = b"\r\nServer: Pingora\r\n";
/// The methods that RFC 9110 names and that a listener takes.
const ALLOWED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
/// What is written of a date, which Pingora knows.
const DATE: &str = "Date: ";

/// Whether a stream has said the gateway's words in place of Pingora's.
#[derive(Debug, Default)]
pub(super) struct Refused {
    is_said: bool,
    /// What is read after that, and how long.
    linger: Option<(usize, Pin<Box<Sleep>>)>,
}

impl Refused {
    /// Writes `buf` to `stream`, or what is to be said instead of it.
    pub(super) fn write(
        &mut self,
        stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(instead) = instead_of(buf) else { return stream.poll_write(cx, buf) };
        let written = ready!(stream.poll_write(cx, &instead))?;
        self.is_said = true;
        // The first bytes of an answer fit into every buffer.
        if written < instead.len() {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        Poll::Ready(Ok(buf.len()))
    }

    /// Whether the sending side is shut already.
    pub(super) const fn is_lingering(&self) -> bool {
        self.linger.is_some()
    }

    /// Reads on for a while if something was said here, and drops what comes.
    pub(super) fn poll_linger(
        &mut self,
        mut stream: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if !self.is_said {
            return Poll::Ready(());
        }
        let begin = || (0, Box::pin(tokio::time::sleep(LINGER)));
        let (read, until) = self.linger.get_or_insert_with(begin);
        let mut bytes = [0; 4096];
        while *read < LINGER_BYTES && until.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut bytes);
            let outcome = ready!(stream.as_mut().poll_read(cx, &mut buffer));
            let length = buffer.filled().len();
            if outcome.is_err() || length == 0 {
                break;
            }
            *read = read.saturating_add(length);
        }
        Poll::Ready(())
    }
}

/// The head and the body to send in place of an answer that Pingora has made; `None` if it is none.
fn instead_of(written: &[u8]) -> Option<Bytes> {
    let is_refusal = written.starts_with(b"HTTP/1.1 4") && written.windows(MARK.len()).any(|it| it == MARK);
    if !is_refusal {
        return None;
    }
    let text = std::str::from_utf8(written).ok()?;
    let status = text.split(' ').nth(1)?;
    let date = text.lines().find(|it| it.starts_with(DATE)).unwrap_or_default();
    let (line, more, body) = match status {
        "400" => ("400 Bad Request", String::new(), bad_request()),
        "405" => ("405 Method Not Allowed", format!("Allow: {ALLOWED}\r\n"), no_proxy()),
        _ => return None,
    };
    let length = body.len();
    let date = if date.is_empty() { String::new() } else { format!("{date}\r\n") };
    Some(Bytes::from(format!(
        "HTTP/1.1 {line}\r\n{date}{more}Content-Type: application/json\r\nContent-Length: {length}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}"
    )))
}

fn bad_request() -> String {
    let message = "the head of the request cannot be read: it is to be HTTP/1.1 as RFC 9112 says, of at most \
                   1 MiB and 256 fields, for one host and with one end of the body";
    json!({ "error": "bad_request", "message": message }).to_string()
}

/// Answers CONNECT over HTTP/2, before the app can do it in Pingora's name.
pub(super) async fn connect(session: ServerSession) {
    say(session, StatusCode::METHOD_NOT_ALLOWED, &[(ALLOW, ALLOWED)], no_proxy()).await;
}

/// Answers a request over HTTP/2 that is for no host, or for two, or has no path for its target.
pub(super) async fn unreadable(session: ServerSession) {
    let message = "the request cannot be read: it is to be for one host, named in :authority or Host, and its \
                   :path is to begin with a slash";
    let body = json!({ "error": "bad_request", "message": message }).to_string();
    say(session, StatusCode::BAD_REQUEST, &[], body).await;
}

async fn say(mut session: ServerSession, status: StatusCode, more: &[(HeaderName, &str)], body: String) {
    let is_head = session.req_header().method == Method::HEAD;
    let body = Bytes::from(body);
    let written = async {
        let mut head = ResponseHeader::build(status, Some(4))?;
        for (name, value) in more {
            head.insert_header(name, *value)?;
        }
        head.insert_header(CONTENT_TYPE, "application/json")?;
        head.insert_header(CONTENT_LENGTH, body.len())?;
        head.insert_header(CACHE_CONTROL, "no-store")?;
        session.write_response_header(Box::new(head)).await?;
        if is_head { session.finish_body().await } else { session.write_response_body(body, true).await }
    };
    match timeout(SAY, written).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the client was gone before it was refused"),
        Err(error) => tracing::debug!(%error, "the client does not take its refusal"),
    }
}

/// Reads on for a while from a client that has been answered and may be sending still.
pub(super) async fn linger(socket: OwnedFd) {
    let Ok(mut socket) = Socket::from_fd(socket) else { return };
    let read = async {
        let (mut bytes, mut left) = ([0; 4096], LINGER_BYTES);
        while let Ok(length @ 1..) = socket.read(&mut bytes).await {
            left = left.saturating_sub(length);
            if left == 0 {
                return;
            }
        }
    };
    // Closed either way, whether in time or not.
    let _in_time = timeout(LINGER, read).await.is_ok();
}

fn no_proxy() -> String {
    let message = "CONNECT asks for a tunnel, and there is none here";
    json!({ "error": "method_not_allowed", "message": message }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_pingora_has_made_is_replaced() {
        let made = "HTTP/1.1 400 Bad Request\r\nServer: Pingora\r\nDate: Fri, 27 Nov 2026 19:00:00 GMT\r\n\
                    Content-Length: 0\r\nCache-Control: private, no-store\r\nConnection: close\r\n\r\n";
        let said = instead_of(made.as_bytes()).map(|it| String::from_utf8_lossy(&it).into_owned());
        let said = said.unwrap_or_default();
        let (head, body) = said.split_once("\r\n\r\n").unwrap_or_default();
        assert!(
            head.starts_with("HTTP/1.1 400 Bad Request\r\nDate: Fri, 27 Nov 2026 19:00:00 GMT\r\n"),
            "{head}"
        );
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
        assert!(!said.contains("Pingora") && body.contains("\"bad_request\""), "{said}");
        for other in
            [made.replace("Server: Pingora\r\n", ""), made.replace("400 Bad Request", "502 Bad Gateway")]
        {
            assert_eq!(instead_of(other.as_bytes()), None, "{other}");
        }
    }
}
