//! One request of HTTP/2 and its answer, as Pingora asks for a session.
//!
//! Beside what Pingora's own sessions do, it knows the [`Deadline`] of its answer: while the upstream is
//! waited for, the wait for the client fails once the deadline has passed, and the client can still be
//! answered. And it sends answers before the answer (RFC 9110 section 15.2).

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderMap, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{Response, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Error, ErrorType, Result};
use pingora::protocols::Digest;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::body_buffer::FixedBuffer;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session;
use pingora::protocols::http::date::get_cached_date;
use pingora::protocols::http::v1::client::http_req_header_to_wire;
use pingora::protocols::http::v2::write_body;
use pingora::protocols::l4::socket::SocketAddr;
use tokio::time::timeout;

use crate::listen::deadline::{Deadline, LastWords};
use crate::listen::head::HeadSignal;

/// How much of a body is kept, so that it can be sent to another server.
const KEPT: usize = 64 * 1024;
/// How many answers before the answer are passed on. They are not held up by a client that does not read.
const MOST_INTERIM: u8 = 8;
/// What belongs to a connection of HTTP/1, and not into HTTP/2 (RFC 9113 section 8.2.2).
const OF_HTTP1: [HeaderName; 5] = [
    TRANSFER_ENCODING,
    CONNECTION,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// What other protocols send beside the body, and HTTP does not.
type Messages = Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;

/// A request, its answer, and how far both are.
pub(super) struct Http2Session {
    request: RequestHeader,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    /// The body of the answer, once its head is sent.
    writer: Option<SendStream<Bytes>>,
    written: Option<Box<ResponseHeader>>,
    interim: u8,
    /// Whether the answer is whole.
    is_ended: bool,
    read: usize,
    sent: usize,
    /// What was read of the body, so that it can be sent again.
    kept: Option<FixedBuffer>,
    digest: Arc<Digest>,
    /// What is known of the connection.
    head: Arc<HeadSignal>,
    deadline: Arc<Deadline>,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    drain_timeout: Option<Duration>,
}

impl fmt::Debug for Http2Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2Session").field("method", &self.request.method).finish_non_exhaustive()
    }
}

impl Drop for Http2Session {
    /// A client whose request is dropped is told so, and an answer that is not whole is not to look whole.
    fn drop(&mut self) {
        if let Some(words) = self.deadline.take_words() {
            self.say_last(words).unwrap_or_else(|error| {
                tracing::debug!(%error, "the client was gone before it was answered");
            });
        }
        if self.written.is_some() {
            self.reset(Reason::INTERNAL_ERROR);
        }
    }
}

impl Http2Session {
    /// A request whose head is read. `deadline` is for its answer, `head` knows of its connection.
    pub(super) const fn new(
        request: RequestHeader,
        body: RecvStream,
        respond: SendResponse<Bytes>,
        digest: Arc<Digest>,
        head: Arc<HeadSignal>,
        deadline: Arc<Deadline>,
    ) -> Self {
        Self {
            request,
            body,
            respond,
            writer: None,
            written: None,
            interim: 0,
            is_ended: false,
            read: 0,
            sent: 0,
            kept: None,
            digest,
            head,
            deadline,
            read_timeout: None,
            write_timeout: None,
            drain_timeout: None,
        }
    }

    /// Answers as far as nothing has to be waited for.
    fn say_last(&mut self, LastWords { head, body }: LastWords) -> Result<()> {
        self.write_head(Box::new(head), body.is_none())?;
        let Some((body, writer)) = body.zip(self.writer.as_mut()) else { return Ok(()) };
        let failed = |error| Error::because(ErrorType::WriteError, "while writing last words", error);
        writer.send_data(body, true).map_err(failed)?;
        self.is_ended = true;
        Ok(())
    }

    fn has_no_body(&self) -> bool {
        let says_so = || self.request.headers.get(CONTENT_LENGTH).is_some_and(|it| it == "0");
        self.read == 0 && (self.body.is_end_stream() || says_so())
    }

    /// Waits until the client gives the request up.
    async fn left(&mut self) -> Result<Option<Bytes>> {
        let reset = match self.writer.as_mut() {
            Some(writer) => poll_fn(|cx| writer.poll_reset(cx)).await,
            None => poll_fn(|cx| self.respond.poll_reset(cx)).await,
        };
        match reset {
            Ok(reason) => Error::e_explain(ErrorType::H2Error, format!("the client reset it: {reason}")),
            Err(error) => Error::e_because(ErrorType::H2Error, "the client is gone", error),
        }
    }

    /// Waits, if the client has closed its sending side, until it is known whether it is there for its answer.
    async fn wait_for_client(&mut self) -> Result<()> {
        let head = Arc::clone(&self.head);
        if !head.is_half_closed() {
            return Ok(());
        }
        tokio::select! {
            biased;
            left = self.left() => left.map(|_| ()),
            () = head.waits() => Ok(()),
        }
    }

    async fn next_part(&mut self) -> Result<Option<Bytes>> {
        let failed = |error| Error::because(ErrorType::ReadError, "while reading the body", error);
        let part = tokio::select! {
            biased;
            part = self.body.data() => part,
            () = self.head.half_closed() => {
                return Error::e_explain(ErrorType::ConnectionClosed, "the rest of the body does not come");
            }
        };
        let Some(part) = part.transpose().map_err(failed)? else { return Ok(None) };
        self.read = self.read.saturating_add(part.len());
        if let Some(kept) = &mut self.kept {
            kept.write_to_buffer(&part);
        }
        self.body.flow_control().release_capacity(part.len()).map_err(failed)?;
        Ok(Some(part))
    }

    fn write_head(&mut self, mut head: Box<ResponseHeader>, end: bool) -> Result<()> {
        if self.is_ended || self.written.is_some() {
            tracing::debug!(status = head.status.as_u16(), "a second head is not sent");
            return Ok(());
        }
        if head.status.is_informational() {
            return self.write_interim(&head);
        }
        head.insert_header(DATE, get_cached_date())?;
        let response = for_http2(&mut head);
        let failed = |error| Error::because(ErrorType::WriteError, "while writing the head", error);
        self.writer = Some(self.respond.send_response(response, end).map_err(failed)?);
        self.written = Some(head);
        self.is_ended = end;
        Ok(())
    }

    /// Sends an answer before the answer.
    fn write_interim(&mut self, head: &ResponseHeader) -> Result<()> {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Error::e_explain(ErrorType::H2Error, "HTTP/2 is not left for another protocol");
        }
        if self.interim == MOST_INTERIM {
            return Ok(());
        }
        self.interim = self.interim.saturating_add(1);
        let failed = |error| Error::because(ErrorType::WriteError, "while writing an interim head", error);
        self.respond.send_informational(for_http2(&mut head.clone())).map_err(failed)
    }

    async fn write_part(&mut self, part: Bytes, end: bool) -> Result<()> {
        if self.is_ended {
            return Ok(());
        }
        let Some(writer) = &mut self.writer else { return no_head() };
        let length = part.len();
        write_body(writer, part, end, self.write_timeout).await?;
        self.sent = self.sent.saturating_add(length);
        self.is_ended = end;
        Ok(())
    }

    fn end_with(&mut self, trailers: HeaderMap) -> Result<()> {
        if self.is_ended {
            return Ok(());
        }
        let Some(writer) = &mut self.writer else { return no_head() };
        let failed = |error| Error::because(ErrorType::WriteError, "while writing trailers", error);
        writer.send_trailers(trailers).map_err(failed)?;
        self.is_ended = true;
        Ok(())
    }

    /// Ends an answer that has begun.
    fn end(&mut self) -> Result<()> {
        let Some(writer) = self.writer.as_mut().filter(|_| !self.is_ended) else { return Ok(()) };
        let failed = |error| Error::because(ErrorType::WriteError, "while ending the answer", error);
        writer.send_data(Bytes::new(), true).map_err(failed)?;
        self.is_ended = true;
        Ok(())
    }

    fn reset(&mut self, reason: Reason) {
        if !self.is_ended {
            self.respond.send_reset(reason);
            self.is_ended = true;
        }
    }

    /// Writes one part of an answer; returns whether it is the last.
    async fn write_task(&mut self, task: HttpTask) -> Result<bool> {
        match task {
            HttpTask::Header(head, end) => {
                self.wait_for_client().await?;
                self.write_head(head, end).map(|()| end)
            }
            HttpTask::Body(part, end) => match part.filter(|it| !it.is_empty()) {
                Some(part) => self.write_part(part, end).await.map(|()| end),
                None => Ok(end),
            },
            HttpTask::Trailer(Some(trailers)) => self.end_with(*trailers).map(|()| true),
            HttpTask::Trailer(None) | HttpTask::Done => Ok(true),
            HttpTask::UpgradedBody(..) => {
                Error::e_explain(ErrorType::H2Error, "HTTP/2 is not left for another protocol")
            }
            HttpTask::Failed(error) => Err(error),
        }
    }
}

fn no_head<T>() -> Result<T> {
    Error::e_explain(ErrorType::H2Error, "a body without a head")
}

fn no_messages<T>() -> Result<T> {
    Error::e_explain(ErrorType::InternalError, "HTTP has no messages beside its bodies")
}

/// A head without what belongs to HTTP/1.
fn for_http2(head: &mut ResponseHeader) -> Response<()> {
    for name in &OF_HTTP1 {
        let _removed = head.remove_header(name).is_some();
    }
    Response::from_parts(head.as_owned_parts(), ())
}

/// Does `work` within this time, if it is limited.
async fn within<T>(
    limit: Option<Duration>,
    why: &'static str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match limit {
        Some(limit) => match timeout(limit, work).await {
            Ok(done) => done,
            Err(_elapsed) => Error::e_explain(ErrorType::ReadTimedout, why),
        },
        None => work.await,
    }
}

#[async_trait]
impl Session for Http2Session {
    fn req_header(&self) -> &RequestHeader {
        &self.request
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.request
    }

    /// The time is limited until the answer has begun. A client that has an answer may take its time: the
    /// upstream says how long.
    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        let limit = self.read_timeout.filter(|_| self.written.is_none());
        within(limit, "the client stopped sending its body", self.next_part()).await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        let limit = self.drain_timeout;
        let drained = async {
            while self.next_part().await?.is_some() {}
            Ok(())
        };
        within(limit, "the rest of the body did not come", drained).await
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.write_head(head, end)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.write_head(Box::new(head.clone()), end)
    }

    async fn write_body(&mut self, part: Bytes, end: bool) -> Result<()> {
        self.write_part(part, end).await.map_err(|it| it.into_down())
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.end_with(trailers)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut is_last = false;
        for task in tasks {
            let is_failure = matches!(task, HttpTask::Failed(_));
            let written = self.write_task(task).await;
            // What the upstream failed at is not the client's fault.
            is_last |= written.map_err(|it| if is_failure { it } else { it.into_down() })?;
        }
        if is_last {
            self.end().map_err(|it| it.into_down())?;
        }
        Ok(is_last)
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.read_timeout
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.write_timeout = timeout;
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.write_timeout
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.drain_timeout = timeout;
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.drain_timeout
    }

    fn request_summary(&self) -> String {
        format!("{} over HTTP/2", self.request.method)
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.written.as_deref()
    }

    async fn shutdown(&mut self, code: u32, _: &str) {
        self.reset(Reason::from(code));
    }

    async fn abandon(&mut self, _: &str) {
        self.reset(Reason::INTERNAL_ERROR);
    }

    fn is_body_done(&mut self) -> bool {
        self.has_no_body() || self.body.is_end_stream()
    }

    async fn finish(&mut self) -> Result<()> {
        self.end()
    }

    fn is_body_empty(&mut self) -> bool {
        self.has_no_body()
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        let deadline = Arc::clone(&self.deadline);
        // Looked at once it is clear that the client is waited for.
        let overdue = poll_fn(|_| deadline.poll_passed());
        let heard = async {
            if no_body_expected || self.is_body_done() {
                self.left().await
            } else {
                self.read_body_bytes().await
            }
        };
        tokio::select! {
            biased;
            heard = heard => heard,
            () = overdue => {
                Error::e_explain(ErrorType::ReadTimedout, "the answer did not begin in time")
            }
        }
    }

    fn body_bytes_sent(&self) -> usize {
        self.sent
    }

    fn body_bytes_read(&self) -> usize {
        self.read
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        Arc::get_mut(&mut self.digest)
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref()?.peer_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref()?.local_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        http_req_header_to_wire(&self.request).unwrap_or_default().freeze()
    }

    fn enable_retry_buffering(&mut self) {
        self.kept.get_or_insert_with(|| FixedBuffer::new(KEPT));
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.kept.as_ref().is_some_and(FixedBuffer::is_truncated)
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.kept.as_ref().filter(|it| !it.is_truncated())?.get_buffer()
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<Messages> {
        None
    }

    fn restore_custom_message_reader(&mut self, _: Messages) -> Result<()> {
        no_messages()
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        no_messages()
    }
}
