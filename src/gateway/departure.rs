//! How an answer ends that breaks off.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, StatusCode};
use pingora::prelude::Session;

use crate::listen::Connection;

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
