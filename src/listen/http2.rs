//! HTTP/2 to clients: from a connection that speaks it to one session for each of its requests.
//!
//! Pingora's own loop resets a request whose answer is late, drops what comes before an answer, and answers
//! what it cannot read without a body or not at all. With sessions of its own ([`session`]) the gateway
//! answers all of that in its own words, and the rest of Pingora does not see a difference.

mod session;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::header::HOST;
use http::{Method, Request};
use pingora::apps::HttpServerApp;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::authority::{
    RawTargetAuthority, raw_target_authority, validate_request_authority,
};
use pingora::protocols::http::v2::server::default_h2_options;
use pingora::protocols::{Digest, Stream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;

use super::deadline::Deadline;
use super::head::Timed;
use super::refusal;
use crate::shutdown::{self, StopSignal};
use session::Http2Session;

/// After so many requests that cannot be read, a connection is closed. What is read before counts too.
const MOST_UNREADABLE: usize = 32;

/// One connection.
struct Http2<A> {
    app: Arc<Timed<A>>,
    digest: Arc<Digest>,
    shutdown: StopSignal,
    requests: JoinSet<()>,
    unreadable: usize,
}

/// Serves the requests of `stream` by `app` until the client goes, or until there was none for the time
/// `idle`. After the shutdown signal it goes on with those that have begun, and the client is told to send
/// no more.
pub(super) async fn serve<A: HttpServerApp + Send + Sync + 'static>(
    stream: Stream,
    app: Arc<Timed<A>>,
    idle: Duration,
    shutdown: StopSignal,
) {
    let digest = Arc::new(Digest {
        ssl_digest: stream.get_ssl_digest(),
        timing_digest: stream.get_timing_digest(),
        proxy_digest: stream.get_proxy_digest(),
        socket_digest: stream.get_socket_digest(),
    });
    let options = app.h2_options().unwrap_or_else(default_h2_options);
    let mut connection = match options.handshake::<_, Bytes>(stream).await {
        Ok(connection) => connection,
        Err(error) => return tracing::debug!(%error, "no HTTP/2 handshake"),
    };
    let mut stop = shutdown.clone();
    let mut is_ending = false;
    let mut http2 = Http2 { app, digest, shutdown, requests: JoinSet::new(), unreadable: 0 };
    loop {
        tokio::select! {
            biased;
            () = shutdown::asked_for(&mut stop), if !is_ending => {
                connection.graceful_shutdown();
                is_ending = true;
            }
            Some(ended) = http2.requests.join_next() => report(ended),
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => http2.begin(request, respond),
                Some(Err(error)) => {
                    tracing::debug!(%error, "an HTTP/2 connection ended");
                    break;
                }
                None => break,
            },
            () = sleep(idle), if http2.requests.is_empty() && !is_ending => return,
        }
        if http2.unreadable == MOST_UNREADABLE {
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            is_ending = true;
        }
    }
    // Each learns from its own stream that the connection is gone, and is counted and logged.
    http2.requests.detach_all();
}

impl<A: HttpServerApp + Send + Sync + 'static> Http2<A> {
    /// Begins to serve a request, or answers it at once if it cannot be read.
    fn begin(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let (parts, body) = request.into_parts();
        let head = RequestHeader::from(parts);
        let is_readable = is_readable(&head);
        let deadline = Arc::new(Deadline::default());
        let digest = Arc::clone(&self.digest);
        let session = Http2Session::new(head, body, respond, digest, Arc::clone(&deadline));
        let session = ServerSession::new_custom(Box::new(session));
        if is_readable {
            let (app, shutdown) = (Arc::clone(&self.app), self.shutdown.clone());
            self.requests.spawn(async move { app.process_stream(session, deadline, &shutdown).await });
        } else {
            self.unreadable = self.unreadable.saturating_add(1);
            self.requests.spawn(refusal::unreadable(session));
        }
    }
}

/// A panic ends only its own request, but it must be logged.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a request panicked");
    }
}

/// Whether a head is for one host, and its target a path that a request of HTTP/1 can have too (RFC 9113
/// section 8.3.1). The library that reads the frames has refused what is no HTTP at all.
fn is_readable(request: &RequestHeader) -> bool {
    if request.method == Method::CONNECT {
        // Refused in any case.
        return true;
    }
    let target = request.raw_path();
    let is_plain = target.iter().all(|byte| !byte.is_ascii_control() && *byte != b' ');
    let has_host = request.uri.authority().is_some() || request.headers.contains_key(HOST);
    is_plain
        && has_host
        && validate_request_authority(request).is_ok()
        && matches!(raw_target_authority(target), RawTargetAuthority::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, host: &[&str]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        for host in host {
            request.append_header(HOST, *host).unwrap();
        }
        request
    }

    #[test]
    fn a_request_is_for_one_host_and_a_plain_path() {
        for (target, hosts) in [("/a?b=c", &["a.test"][..]), ("*", &["a.test"]), ("/a//b", &["a.test"])] {
            assert!(is_readable(&request(target, hosts)), "{target}");
        }
        for (target, hosts) in [
            ("/a", &[][..]),
            ("/a", &["a.test", "a.test"]),
            ("/a", &["user@a.test"]),
            ("http://b.test/a", &["a.test"]),
            ("http://a.test/a", &["a.test"]),
        ] {
            assert!(!is_readable(&request(target, hosts)), "{target} {hosts:?}");
        }
        let mut two = request("/a", &["b.test"]);
        two.set_uri(http::Uri::from_static("https://a.test/a"));
        assert!(!is_readable(&two), "two hosts");
    }
}
