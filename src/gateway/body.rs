//! A request's body, read before the request is decided and forwarded as it came.
//!
//! Pingora keeps what is read in its retry buffer and replays it to the upstream from there. For a body
//! that does not fit it replays nothing and waits for ever. So of a body above [`MAX_BODY`] only the end is kept there. All
//! bodies in memory share one budget, of which each client has a share. A request beyond it is shed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use pingora::prelude::{Error, Session};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::rejection::Rejection;
use crate::cashier::{Client, Share, Shares};
use crate::config::MAX_BODY;
use crate::metrics::ReachedLimit;

/// The memory for all bodies that are held at one time.
#[derive(Clone, Debug)]
pub struct BodyBudget {
    bytes: Arc<Semaphore>,
    shares: Shares,
    per_client: usize,
    within: Duration,
}

/// A whole body.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) bytes: Bytes,
    pub(super) permit: BodyPermit,
}

/// A body's part of the budget, until the body is forwarded or the request ends.
#[derive(Debug, Default)]
pub(super) struct BodyPermit {
    bytes: Option<OwnedSemaphorePermit>,
    share: Option<Share>,
}

impl BodyPermit {
    /// Gives the part back: the body was forwarded. A copy of at most [`MAX_BODY`] stays with the request,
    /// for another try, as with any other request.
    pub(super) fn release(&mut self) {
        *self = Self::default();
    }
}

impl BodyBudget {
    /// A budget of `bytes` in all, and `per_client` for one client. Each body has to arrive `within` this
    /// time.
    #[must_use]
    pub fn new(bytes: u64, per_client: usize, within: Duration) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { bytes: Arc::new(Semaphore::new(bytes)), shares: Shares::default(), per_client, within }
    }

    /// Reads the whole body of a request by `client`, at most `bound` bytes, and at most [`MAX_BODY`] of one that does
    /// not say how long it is. Pingora forwards it all the same if it is no longer than [`MAX_BODY`]. Of a longer one it
    /// forwards the end, in whose place the whole must be put ([`Metered::request_body`](super::metered::Metered)).
    pub(super) async fn read(
        &self,
        session: &mut Session,
        client: Option<Client>,
        bound: usize,
    ) -> Result<Body, Rejection> {
        let headers = &session.req_header().headers;
        // By its headers: asking the connection itself would fix how it is read, and no tunnel could
        // follow.
        let framed = headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
        if !framed && session.as_http1().is_some() {
            return Ok(Body { bytes: Bytes::new(), permit: BodyPermit::default() });
        }
        let declared = headers.get(CONTENT_LENGTH);
        let declared = declared.and_then(|it| it.to_str().ok()).and_then(|it| it.parse::<usize>().ok());
        // Of a longer body Pingora can only keep the end, and so has to know when that begins.
        let bound = if declared.is_some() { bound } else { bound.min(MAX_BODY) };
        if declared.is_some_and(|length| length > bound) {
            return Err(Rejection::BodyTooLong(bound));
        }
        if declared != Some(0) {
            invite(session).await?;
        }
        match timeout(self.within, self.gather(session, client, (bound, declared))).await {
            Ok(read) => read,
            Err(_) => Err(Rejection::BodyTooSlow),
        }
    }

    async fn gather(
        &self,
        session: &mut Session,
        client: Option<Client>,
        (bound, declared): (usize, Option<usize>),
    ) -> Result<Body, Rejection> {
        let mut bytes = Vec::new();
        let share = client.and_then(|it| self.shares.take(it, 0, self.per_client));
        let mut permit = BodyPermit { bytes: None, share };
        let lost = |error: Box<Error>| Rejection::Lost(error.into_down());
        loop {
            let left = declared.map(|it| it.saturating_sub(bytes.len()));
            if left.is_none_or(|it| it <= MAX_BODY) {
                session.as_downstream_mut().enable_retry_buffering();
            }
            let part = session.as_downstream_mut().read_request_body().await.map_err(lost)?;
            let Some(part) = part else { break };
            if bytes.len().saturating_add(part.len()) > bound {
                return Err(Rejection::BodyTooLong(bound));
            }
            // Bytes that arrived, not those that were announced: announcing costs a client nothing.
            self.widen(&mut permit, part.len()).map_err(Rejection::Overloaded)?;
            bytes.extend_from_slice(&part);
        }
        Ok(Body { bytes: bytes.into(), permit })
    }

    /// Takes `more` bytes of the budget for a body.
    fn widen(&self, permit: &mut BodyPermit, more: usize) -> Result<(), ReachedLimit> {
        if permit.share.as_mut().is_some_and(|it| !it.grow(more, self.per_client)) {
            return Err(ReachedLimit::ClientBodies);
        }
        let needed = u32::try_from(more).unwrap_or(u32::MAX);
        let taken = Arc::clone(&self.bytes).try_acquire_many_owned(needed);
        let taken = taken.map_err(|_| ReachedLimit::Bodies)?;
        match &mut permit.bytes {
            Some(bytes) => bytes.merge(taken),
            None => permit.bytes = Some(taken),
        }
        Ok(())
    }
}

/// Tells a client that waits for it to send the body. The upstream was not asked yet and cannot.
async fn invite(session: &mut Session) -> Result<(), Rejection> {
    let waits = |it: &http::HeaderValue| it.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if !session.req_header().headers.get(EXPECT).is_some_and(waits) {
        return Ok(());
    }
    // Otherwise Pingora takes this for an answer before the end of the body and closes the connection.
    session.set_close_on_response_before_downstream_finish(false);
    let go_on = pingora::http::ResponseHeader::build(http::StatusCode::CONTINUE, Some(0));
    let sent = match go_on {
        Ok(header) => session.as_downstream_mut().write_response_header(Box::new(header)).await,
        Err(error) => Err(error),
    };
    session.set_close_on_response_before_downstream_finish(true);
    sent.map_err(|error| Rejection::Lost(error.into_down()))
}
