//! The time for a request's whole head. Pingora bounds the time between two of its bytes only, so a
//! client could send one byte a minute and hold its connection for hours.
//!
//! The stream that the app reads from watches for the end of the head, the first empty line, and tells
//! the connection's task if it comes too late. The preface of HTTP/2 (RFC 9113, section 3.4) has an empty
//! line too; after it, only the time without a request is bounded.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::Method;
use pingora::apps::{HttpServerApp, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::date::get_cached_date;
use pingora::protocols::http::v2::server::H2Options;
use tokio::io::ReadBuf;
use tokio::sync::Notify;
use tokio::time::Sleep;

use super::deadline::{Deadline, LastWords};
use super::refusal;
use crate::clock::Stopwatch;
use crate::shutdown::StopSignal;

/// A number of bytes that is not known.
const UNKNOWN: u64 = u64::MAX;

/// What a connection's task, its app and its stream know of the head that is read.
#[derive(Debug, Default)]
pub(super) struct HeadSignal {
    is_awaited: AtomicBool,
    /// How many bytes came after the head, and how many are to come, for each [`UNKNOWN`] if that is not known.
    after: AtomicU64,
    body: AtomicU64,
    /// Whether bytes may have come that belong to a later request.
    is_ahead: AtomicBool,
    /// Whether the app has the request that the last head began.
    is_begun: AtomicBool,
    /// Whether all of that request was read.
    is_whole: AtomicBool,
    /// Whether something of its answer was written.
    is_answered: AtomicBool,
    /// Whether its client knows answers before the answer.
    knows_interim: AtomicBool,
    /// Whether several requests share the connection.
    is_shared: AtomicBool,
    /// Whether the client has closed its sending side, and was not gone for good a while later.
    is_half_closed: AtomicBool,
    is_waiting: AtomicBool,
    /// Either of the two has changed.
    closing: Notify,
    /// Runs from the moment at which the app has the request. Locked to copy it, no longer.
    age: Mutex<Option<Stopwatch>>,
    late: Notify,
    /// For the answer to the request whose head was read.
    answer: Arc<Deadline>,
    /// The connection, if its request was dropped and has been answered. Locked to exchange it, no longer.
    dropped: Mutex<Option<OwnedFd>>,
}

impl HeadSignal {
    /// The next bytes begin a head.
    fn expect(&self) {
        self.after.store(UNKNOWN, Ordering::Relaxed);
        self.body.store(UNKNOWN, Ordering::Relaxed);
        self.is_begun.store(false, Ordering::Relaxed);
        self.is_whole.store(false, Ordering::Relaxed);
        self.is_awaited.store(true, Ordering::Relaxed);
    }

    /// The app has the request. The stream finds the end of a head by itself, but not if the head's
    /// beginning came with the request before.
    pub(super) fn begin(&self, knows_interim: bool, body: Option<u64>) {
        self.body.store(body.unwrap_or(UNKNOWN), Ordering::Relaxed);
        self.is_awaited.store(false, Ordering::Relaxed);
        self.is_answered.store(false, Ordering::Relaxed);
        self.knows_interim.store(knows_interim, Ordering::Relaxed);
        *self.age() = Some(Stopwatch::start());
        self.is_begun.store(true, Ordering::Relaxed);
    }

    /// Whether all that was read belongs to the request and those before it. Once it may not, it is not known any
    /// more: where a head ends that began with the request before, the stream cannot see.
    pub(super) fn is_level(&self) -> bool {
        let (after, body) = (self.after.load(Ordering::Relaxed), self.body.load(Ordering::Relaxed));
        if after == UNKNOWN || after != body {
            self.is_ahead.store(true, Ordering::Relaxed);
        }
        !self.is_ahead.load(Ordering::Relaxed)
    }

    /// So many bytes came after the head.
    fn came_after(&self, bytes: usize) {
        let after = self.after.load(Ordering::Relaxed);
        if after != UNKNOWN {
            let bytes = u64::try_from(bytes).unwrap_or(UNKNOWN);
            self.after.store(after.saturating_add(bytes), Ordering::Relaxed);
        }
    }

    /// Nothing more belongs to the request.
    pub(super) fn complete(&self) {
        self.is_whole.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Relaxed)
    }

    pub(super) fn is_answered(&self) -> bool {
        self.is_answered.load(Ordering::Relaxed)
    }

    pub(super) fn knows_interim(&self) -> bool {
        self.knows_interim.load(Ordering::Relaxed)
    }

    pub(super) fn is_older_than(&self, age: Duration) -> bool {
        self.age().is_some_and(|it| it.elapsed() > age)
    }

    fn age(&self) -> MutexGuard<'_, Option<Stopwatch>> {
        self.age.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Several requests share the connection: from here on the end of what its client sends is for those to
    /// judge who know of them all.
    pub(super) fn share(&self) {
        self.is_shared.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Relaxed)
    }

    /// What is to be said to a client whose request is dropped, as it goes over the wire.
    pub(super) fn last_words(&self) -> Option<Bytes> {
        self.answer.take_words().map(|LastWords { head, body }| {
            let mut wire = BytesMut::with_capacity(1024);
            let status = head.status;
            let reason = status.canonical_reason().unwrap_or_default();
            wire.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).as_bytes());
            head.header_to_h1_wire(&mut wire);
            wire.extend_from_slice(b"Date: ");
            wire.extend_from_slice(get_cached_date().as_bytes());
            wire.extend_from_slice(b"\r\nConnection: close\r\n\r\n");
            wire.extend_from_slice(body.as_deref().unwrap_or_default());
            wire.freeze()
        })
    }

    /// A request was dropped and answered: the connection lives on as `tcp` until the client has read that.
    pub(super) fn outlive(&self, tcp: io::Result<OwnedFd>) {
        match tcp {
            Ok(tcp) => *self.dropped() = Some(tcp),
            Err(error) => tracing::debug!(%error, "a connection is closed at once"),
        }
    }

    pub(super) fn take_dropped(&self) -> Option<OwnedFd> {
        self.dropped().take()
    }

    fn dropped(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client has closed its sending side.
    pub(super) fn close_half(&self) {
        if !self.is_half_closed.swap(true, Ordering::SeqCst) {
            self.closing.notify_waiters();
        }
    }

    pub(super) fn is_half_closed(&self) -> bool {
        self.is_half_closed.load(Ordering::SeqCst)
    }

    /// Returns once the client has closed its sending side.
    pub(super) async fn half_closed(&self) {
        self.once(&self.is_half_closed).await;
    }

    /// A client that has closed its sending side did not turn out to be gone for good.
    pub(super) fn keep_waiting(&self) {
        self.is_waiting.store(true, Ordering::SeqCst);
        self.closing.notify_waiters();
    }

    /// Returns once [`HeadSignal::keep_waiting`] was called.
    pub(super) async fn waits(&self) {
        self.once(&self.is_waiting).await;
    }

    async fn once(&self, flag: &AtomicBool) {
        loop {
            // Made first: no change after this is missed.
            let changed = self.closing.notified();
            if flag.load(Ordering::SeqCst) {
                return;
            }
            changed.await;
        }
    }

    /// Returns once a head took too long.
    pub(super) async fn late(&self) {
        self.late.notified().await;
    }
}

/// Where in a head its bytes are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Place {
    /// Before the request line. Empty lines there are no end.
    #[default]
    Before,
    Line,
    LineEnd,
    /// After the first half of an empty line's end.
    Return,
}

impl Place {
    /// The place after `byte`; `None` if the head ends with it.
    pub(super) const fn after(self, byte: u8) -> Option<Self> {
        match (self, byte) {
            (Self::Before, b'\r' | b'\n') => Some(Self::Before),
            (Self::Line, b'\n') => Some(Self::LineEnd),
            (Self::LineEnd, b'\r') => Some(Self::Return),
            (Self::LineEnd | Self::Return, b'\n') => None,
            (Self::Before | Self::Line | Self::LineEnd | Self::Return, _) => Some(Self::Line),
        }
    }
}

/// A stream's watch over the heads that come through it.
#[derive(Debug)]
pub(super) struct HeadWatch {
    head: Arc<HeadSignal>,
    within: Duration,
    place: Place,
    /// Runs from the first byte of a head to its last.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl HeadWatch {
    pub(super) fn new(head: &Arc<HeadSignal>, within: Duration) -> Self {
        head.expect();
        Self { head: Arc::clone(head), within, place: Place::default(), deadline: None }
    }

    /// Reads by `read`, unless a head is late. Then nothing is read any more, and the connection's task
    /// is told. If nothing is there to be read and the answer is late, the read fails.
    pub(super) fn read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        read: impl FnOnce(&mut Context<'_>, &mut ReadBuf<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        if !self.head.is_awaited.load(Ordering::Relaxed) {
            (self.place, self.deadline) = (Place::default(), None);
            let before = buf.filled().len();
            let outcome = read(cx, buf);
            let came = buf.filled().len().saturating_sub(before);
            self.head.came_after(came);
            // A client that has closed its sending side waits for the answer too.
            if came == 0 && self.head.answer.poll_passed().is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            return outcome;
        }
        if self.deadline.as_mut().is_some_and(|it| it.as_mut().poll(cx).is_ready()) {
            self.head.late.notify_one();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let outcome = read(cx, buf);
        self.see(buf.filled().get(before..).unwrap_or_default());
        outcome
    }

    /// Notes that something is written. Returns whether the app has no request, so that it is not the
    /// app's.
    pub(super) fn is_unasked(&self) -> bool {
        let is_begun = self.head.is_begun.load(Ordering::Relaxed);
        self.head.is_answered.store(is_begun, Ordering::Relaxed);
        !is_begun
    }

    pub(super) fn signal(&self) -> &HeadSignal {
        &self.head
    }

    fn see(&mut self, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            match self.place.after(*byte) {
                Some(place) => self.place = place,
                None => {
                    self.head.after.store(0, Ordering::Relaxed);
                    self.head.came_after(bytes.len().saturating_sub(index).saturating_sub(1));
                    self.head.is_awaited.store(false, Ordering::Relaxed);
                    (self.place, self.deadline) = (Place::default(), None);
                    return;
                }
            }
        }
        if !bytes.is_empty() && self.deadline.is_none() {
            self.deadline = Some(Box::pin(tokio::time::sleep(self.within)));
        }
    }
}

/// How long after the deadline of its answer a request is left to what Pingora reads from. Pingora does not read
/// while it keeps the beginning of the next request, or waits for an upstream that does not take the end of a
/// body.
const GRACE: Duration = Duration::from_secs(1);

/// The app of one connection: it says when a head begins, and how long an answer may take to begin.
#[derive(Debug)]
pub(super) struct Timed<A> {
    app: Arc<A>,
    head: Arc<HeadSignal>,
}

impl<A: HttpServerApp + Send + Sync + 'static> Timed<A> {
    pub(super) fn new(app: Arc<A>, head: &Arc<HeadSignal>) -> Arc<Self> {
        Arc::new(Self { app, head: Arc::clone(head) })
    }

    /// Serves one request of HTTP/2, whose session watches `deadline`.
    pub(super) async fn process_stream(
        &self,
        session: ServerSession,
        deadline: Arc<Deadline>,
        shutdown: &StopSignal,
    ) {
        if session.req_header().method == Method::CONNECT {
            return refusal::connect(session).await;
        }
        // Nothing is left of a stream.
        let _done = deadline.within(GRACE, self.app.process_new_http(session, shutdown)).await.is_some();
    }
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> HttpServerApp for Timed<A> {
    // Written out, not `async`: a session is some 5 kB, and each future that holds it copies it.
    fn process_new_http<'s, 'w, 'f>(
        self: &'s Arc<Self>,
        session: ServerSession,
        shutdown: &'w StopSignal,
    ) -> Pin<Box<dyn Future<Output = Option<ReusedHttpStream>> + Send + 'f>>
    where
        's: 'f,
        'w: 'f,
        Self: 'f,
    {
        self.head.expect();
        let deadline = Arc::clone(&self.head.answer);
        let served = self.app.process_new_http(session, shutdown);
        Box::pin(async move { deadline.within(GRACE, served).await.flatten() })
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.app.h2_options()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes of `text` are a head; `None` if it has no end.
    fn head(text: &[u8]) -> Option<usize> {
        let mut place = Place::default();
        for (index, byte) in text.iter().enumerate() {
            match place.after(*byte) {
                Some(next) => place = next,
                None => return Some(index.saturating_add(1)),
            }
        }
        None
    }

    /// Whether nothing of a later request was read, after the app had the request with a body of `body` bytes and
    /// `reads` came one after the other.
    async fn is_level(
        signal: &Arc<HeadSignal>,
        watch: &mut HeadWatch,
        body: Option<u64>,
        reads: &[&str],
    ) -> bool {
        signal.expect();
        let mut reads = reads.iter();
        read(watch, reads.next()).await;
        signal.begin(true, body);
        for part in reads {
            read(watch, Some(part)).await;
        }
        signal.is_level()
    }

    /// Reads `part` as the stream would.
    async fn read(watch: &mut HeadWatch, part: Option<&&str>) {
        let Some(part) = part else { return };
        let mut room = [0; 256];
        let mut buf = ReadBuf::new(&mut room);
        let put = |_: &mut Context<'_>, buf: &mut ReadBuf<'_>| {
            buf.put_slice(part.as_bytes());
            Poll::Ready(Ok(()))
        };
        let mut put = Some(put);
        let polled = std::future::poll_fn(|cx| watch.read(cx, &mut buf, put.take().unwrap())).await;
        polled.unwrap();
    }

    #[tokio::test]
    async fn it_is_known_whether_something_of_a_later_request_was_read() {
        const HEAD: &str = "POST / HTTP/1.1\r\n\r\n";
        const BOTH: &str = "GET / HTTP/1.1\r\n\r\nGET /";
        let new = || {
            let signal = Arc::new(HeadSignal::default());
            let watch = HeadWatch::new(&signal, Duration::from_secs(1));
            (signal, watch)
        };
        for (body, reads, expected) in [
            (Some(0), [HEAD].as_slice(), true),
            (Some(4), &[HEAD, "body"], true),
            (Some(4), &["POST / HTTP/1.1\r\n\r\nbo", "d", "y"], true),
            (Some(0), &[BOTH], false),
            (Some(4), &[HEAD, "bodyGET /"], false),
            (Some(4), &[HEAD, "bod"], false),
            (None, &[HEAD, "4\r\nbody\r\n0\r\n\r\n"], false),
            // Its head came with the request before.
            (Some(0), &[], false),
        ] {
            let (signal, mut watch) = new();
            assert_eq!(is_level(&signal, &mut watch, body, reads).await, expected, "{reads:?}");
            // A second request, which begins where nobody knows.
            let again = is_level(&signal, &mut watch, Some(0), &[HEAD]).await;
            assert_eq!(again, expected, "after {reads:?}");
        }
    }

    #[test]
    fn a_head_ends_with_the_first_empty_line_after_the_request_line() {
        for (text, length) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\nbody", Some(27)),
            ("GET / HTTP/1.1\nHost: a\n\nbody", Some(24)),
            ("GET / HTTP/1.1\r\n\nbody", Some(17)),
            ("GET / HTTP/1.1\n\r\nbody", Some(17)),
            ("\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", Some(24)),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(18)),
            ("\r\n\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nHost: a\r\n", None),
            ("GET / HTTP/1.1\r\nX: \r\r\n", None),
        ] {
            assert_eq!(head(text.as_bytes()), length, "{text:?}");
        }
    }
}
