//! Whether a client is still there at the end of its answer, and how an answer ends that breaks off.
//!
//! A client may close its sending side and wait (RFC 9112 section 9.6). One that has closed its whole
//! connection looks the same, until it is sent something: then a reset comes back.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, StatusCode};
use pingora::prelude::Session;

use crate::listen::Connection;

/// Whether a client did not get the answer that was written, since it is gone or was going.
pub(super) async fn is_gone(connection: Option<Connection<'_>>) -> bool {
    let Some(connection) = connection else { return false };
    connection.is_reset() || (connection.is_half_closed() && connection.is_left().await)
}

/// Ends the connection with a reset, if nothing else says that the answer is not whole.
pub(super) fn break_off(session: &Session) {
    let ends_with_connection = session.response_written().is_some_and(|it| {
        let is_bodiless = it.status.is_informational()
            || it.status == StatusCode::NO_CONTENT
            || it.status == StatusCode::NOT_MODIFIED;
        let is_framed = it.headers.contains_key(CONTENT_LENGTH) || it.headers.contains_key(TRANSFER_ENCODING);
        !is_bodiless && !is_framed && session.req_header().method != Method::HEAD
    });
    if let Some(connection) = Connection::of(session).filter(|_| ends_with_connection) {
        connection.break_off();
    }
}
