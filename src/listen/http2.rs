//! HTTP/2 to clients: from a connection that speaks it to one session for each of its requests.
//!
//! Pingora's own loop resets a request whose answer is late, drops what comes before an answer, and answers
//! what it cannot read without a body or not at all. With sessions of its own ([`session`]) the gateway
//! answers all of that in its own words, and the rest of Pingora does not see a difference.

mod session;

use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Ping, Reason, RecvStream};
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
use tokio::time::{Sleep, sleep, timeout};

use super::deadline::Deadline;
use super::head::{HeadSignal, Timed};
use super::refusal;
use super::stall::STALL;
use crate::shutdown::{self, Shutdown, StopSignal};
use session::Http2Session;

/// After so many requests that cannot be read, a connection is closed. What is read before counts too.
const MOST_UNREADABLE: usize = 32;
/// How long a client may take to accept the last frame of its connection, which says why it ends, and how long
/// one that was told that the gateway ends may stay without a request.
const FAREWELL: Duration = Duration::from_secs(2);

/// One connection.
struct Http2<A> {
    app: Arc<Timed<A>>,
    head: Arc<HeadSignal>,
    digest: Arc<Digest>,
    drains: StopSignal,
    requests: JoinSet<()>,
    unreadable: usize,
}

/// Serves the requests of `stream` by `app` until the client goes, or until there was none for the time
/// `idle`. Once the gateway drains, a client that has sent a request is told to send no more, and one that has
/// just come is told with its first. Those that have begun go on.
///
/// A client that has closed its sending side (`head` says so) may wait for the answers to what it has asked, as
/// over HTTP/1; for the time `idle`, since it may be gone for good. It can make no room any more (RFC 9113
/// section 6.9), so it gets as much of them as it has made room for before.
pub(super) async fn serve<A: HttpServerApp + Send + Sync + 'static>(
    stream: Stream,
    app: Arc<Timed<A>>,
    head: Arc<HeadSignal>,
    idle: Duration,
    mut shutdown: Shutdown,
) {
    let digest = Arc::new(Digest {
        ssl_digest: stream.get_ssl_digest(),
        timing_digest: stream.get_timing_digest(),
        proxy_digest: stream.get_proxy_digest(),
        socket_digest: stream.get_socket_digest(),
    });
    let Some(mut connection) = handshake(stream, &app, idle, &mut shutdown).await else { return };
    head.share();
    let mut pings = connection.ping_pong();
    let (mut has_begun, mut is_ending, mut is_sending, mut half_closed_for) = (false, false, false, None);
    let (Shutdown { mut drains, mut closes, .. }, requests) = (shutdown, JoinSet::new());
    let mut http2 = Http2 { app, head, digest, drains: drains.clone(), requests, unreadable: 0 };
    let (reason, within) = loop {
        let (is_idle, is_half_closed) = (http2.requests.is_empty(), half_closed_for.is_some());
        let quiet = if is_sending {
            STALL
        } else if is_ending {
            FAREWELL
        } else {
            idle
        };
        tokio::select! {
            biased;
            () = shutdown::asked_for(if has_begun { &mut drains } else { &mut closes }), if !is_ending => {
                connection.graceful_shutdown();
                is_ending = true;
            }
            Some(ended) = http2.requests.join_next() => report(ended),
            () = http2.head.half_closed(), if !is_half_closed => {
                half_closed_for = Some(Box::pin(sleep(idle)));
                // Whoever is gone for good answers this with a reset.
                if connection.has_streams()
                    && let Some(Err(error)) = pings.as_mut().map(|it| it.send_ping(Ping::opaque()))
                {
                    tracing::debug!(%error, "a client is not asked whether it waits");
                }
            }
            accepted = next(&mut connection, is_half_closed && is_idle) => match accepted {
                Some(Ok((request, respond))) => {
                    (has_begun, is_sending) = (true, false);
                    http2.begin(request, respond);
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "an HTTP/2 connection ended");
                    break (Reason::NO_ERROR, FAREWELL);
                }
                // The rest of an answer may be on its way.
                None => break (Reason::NO_ERROR, STALL),
            },
            () = over(&mut half_closed_for) => break (Reason::NO_ERROR, FAREWELL),
            () = sleep(quiet), if is_idle => {
                if is_sending || !connection.has_streams() {
                    break (Reason::NO_ERROR, FAREWELL);
                }
                // What was written of an answer is not sent yet.
                is_sending = true;
            }
        }
        if http2.unreadable == MOST_UNREADABLE {
            break (Reason::ENHANCE_YOUR_CALM, FAREWELL);
        }
    };
    // Each learns from its own stream that the connection is gone, and is counted and logged.
    http2.requests.detach_all();
    farewell(&mut connection, reason, within).await;
}

/// The next request; `None` at the end of the connection. If the client can send no more (`is_last`), that is
/// as soon as all answers are on their way.
async fn next(
    connection: &mut Connection<Stream, Bytes>,
    is_last: bool,
) -> Option<Result<(Request<RecvStream>, SendResponse<Bytes>), h2::Error>> {
    poll_fn(|cx| {
        let accepted = pin!(connection.accept()).poll(cx);
        if is_last && accepted.is_pending() && !connection.has_streams() {
            return Poll::Ready(None);
        }
        accepted
    })
    .await
}

/// Returns once a time is over that has begun.
async fn over(time: &mut Option<Pin<Box<Sleep>>>) {
    match time {
        Some(time) => time.await,
        None => pending().await,
    }
}

/// Begins to speak HTTP/2, for which the client has the time `idle`. `None` if it is not begun, or not before
/// its listener has closed.
async fn handshake<A: HttpServerApp + Send + Sync + 'static>(
    stream: Stream,
    app: &Timed<A>,
    idle: Duration,
    shutdown: &mut Shutdown,
) -> Option<Connection<Stream, Bytes>> {
    let options = app.h2_options().unwrap_or_else(default_h2_options);
    let begun = tokio::select! {
        biased;
        begun = timeout(idle, options.handshake::<_, Bytes>(stream)) => begun,
        () = super::out_of_patience(shutdown) => return None,
    };
    match begun {
        Ok(Ok(connection)) => return Some(connection),
        Ok(Err(error)) => tracing::debug!(%error, "no HTTP/2 handshake"),
        Err(error) => tracing::debug!(%error, "connection closed: no preface of HTTP/2 came"),
    }
    None
}

/// Ends a connection for this reason, if it has not ended, and says which requests were read: what is on its way
/// meanwhile may be sent again (RFC 9113 section 6.8). A client that does not read `within` this time does not
/// learn it.
async fn farewell(connection: &mut Connection<Stream, Bytes>, reason: Reason, within: Duration) {
    connection.abrupt_shutdown(reason);
    let closed = poll_fn(|cx| connection.poll_closed(cx));
    if !timeout(within, closed).await.is_ok_and(|it| it.is_ok()) {
        tracing::debug!(%reason, "an HTTP/2 connection was cut off: its client did not take the reason");
    }
}

impl<A: HttpServerApp + Send + Sync + 'static> Http2<A> {
    /// Begins to serve a request, or answers it at once if it cannot be read.
    fn begin(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let (parts, body) = request.into_parts();
        let head = RequestHeader::from(parts);
        let is_readable = is_readable(&head);
        let deadline = Arc::new(Deadline::default());
        let (digest, signal) = (Arc::clone(&self.digest), Arc::clone(&self.head));
        let session = Http2Session::new(head, body, respond, digest, signal, Arc::clone(&deadline));
        let session = ServerSession::new_custom(Box::new(session));
        if is_readable {
            let (app, drains) = (Arc::clone(&self.app), self.drains.clone());
            self.requests.spawn(async move { app.process_stream(session, deadline, &drains).await });
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
    use async_trait::async_trait;
    use pingora::apps::ReusedHttpStream;
    use tokio::io::{AsyncWriteExt, DuplexStream};
    use tokio::sync::watch;

    use super::*;
    use crate::listen::refusal::SAY;

    /// Answers nothing.
    struct Mute;

    #[async_trait]
    impl HttpServerApp for Mute {
        async fn process_new_http(
            self: &Arc<Self>,
            _: ServerSession,
            _: &StopSignal,
        ) -> Option<ReusedHttpStream> {
            None
        }
    }

    const IDLE: Duration = Duration::from_secs(30);
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    /// A connection that a client has begun with these bytes, and on which so many bytes wait to be read.
    async fn begun(bytes: &[u8], room: usize) -> (DuplexStream, impl Future<Output = ()> + use<>) {
        let (mut client, stream) = tokio::io::duplex(room);
        client.write_all(bytes).await.unwrap();
        let head = Arc::new(HeadSignal::default());
        let served = async move {
            let (_stop, shutdown) = watch::channel(false);
            let app = Timed::new(Arc::new(Mute), &head);
            serve(Box::new(stream), app, head, IDLE, shutdown.into()).await;
        };
        (client, served)
    }

    /// A connection with so many requests without a host, whose client makes room for `window` bytes of each
    /// answer.
    fn unreadable(requests: u8, window: u32) -> Vec<u8> {
        let settings = [&b"\0\0\x06\x04\0\0\0\0\0\0\x04"[..], &window.to_be_bytes()].concat();
        let mut bytes = [PREFACE, &settings].concat();
        for stream in (1..=u8::MAX).step_by(2).take(usize::from(requests)) {
            // GET, https and / by the static table (RFC 7541 appendix A).
            bytes.extend([0, 0, 3, 1, 5, 0, 0, 0, stream, 0x82, 0x87, 0x84]);
        }
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_begin_is_an_idle_one() {
        for said in [&b""[..], &PREFACE[..20], PREFACE] {
            let (_client, served) = begun(said, 1024).await;
            timeout(IDLE + FAREWELL * 2, served).await.unwrap_or_else(|_| panic!("{said:?}"));
        }
    }

    /// Regression: it kept its connection for ever.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_cut_off() {
        let bytes = unreadable(u8::try_from(MOST_UNREADABLE).unwrap(), 65_535);
        let (_client, served) = begun(&bytes, bytes.len()).await;
        timeout(FAREWELL * 2, served).await.unwrap();
    }

    /// Regression: the gateway's own answers had no limit, and a connection with one under way is not idle.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_makes_no_room_for_an_answer_is_not_waited_for() {
        let bytes = unreadable(1, 0);
        let (_client, served) = begun(&bytes, 1024).await;
        timeout(SAY + IDLE + FAREWELL * 2, served).await.unwrap();
    }

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
