//! The body of a request, read before anything is decided and forwarded unchanged.
//!
//! Pingora keeps what is read early and plays it to the upstream, up to a size that it does not let
//! anybody set; beyond it the upstream would wait for ever for what is lost. So a longer body is
//! refused.

use std::time::Duration;

use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use pingora::prelude::Session;
use tokio::time::timeout;

/// The most bytes that Pingora plays again.
pub(super) const LARGEST: usize = 64 * 1024;

/// How long a client may take to send it.
const WITHIN: Duration = Duration::from_secs(30);

/// Why a body was not read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unread {
    TooLarge,
    TooSlow,
    /// It breaks off, or is not framed as its headers say.
    Broken,
}

/// Reads the whole body, empty where there is none.
pub(super) async fn read(session: &mut Session) -> Result<Vec<u8>, Unread> {
    let headers = &session.req_header().headers;
    // By its headers: looking into the connection itself would fix how it is read, and no tunnel could
    // follow.
    let framed = headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
    if !framed && session.as_http1().is_some() {
        return Ok(Vec::new());
    }
    let length = session.req_header().headers.get(CONTENT_LENGTH);
    let length = length.and_then(|it| it.to_str().ok()).and_then(|it| it.parse::<usize>().ok());
    if length.is_some_and(|it| it > LARGEST) {
        return Err(Unread::TooLarge);
    }
    if session.as_downstream_mut().is_body_empty() {
        return Ok(Vec::new());
    }
    session.as_downstream_mut().enable_retry_buffering();
    if session.req_header_mut().remove_header(&EXPECT).is_some() && session.as_http1().is_some() {
        let told = session.as_downstream_mut().write_continue_response().await;
        told.map_err(|_| Unread::Broken)?;
    }
    match timeout(WITHIN, whole(session)).await {
        Ok(read) => read,
        Err(_elapsed) => Err(Unread::TooSlow),
    }
}

async fn whole(session: &mut Session) -> Result<Vec<u8>, Unread> {
    let mut body = Vec::new();
    loop {
        match session.as_downstream_mut().read_request_body().await {
            Ok(Some(part)) => body.extend_from_slice(&part),
            Ok(None) => return Ok(body),
            Err(_) => return Err(Unread::Broken),
        }
        if body.len() > LARGEST || session.as_downstream_mut().retry_buffer_truncated() {
            return Err(Unread::TooLarge);
        }
    }
}
