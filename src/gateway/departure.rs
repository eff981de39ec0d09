//! How a request ends that Pingora does not end: its answer breaks off, or it is dropped because the upstream is
//! late and Pingora reads from nobody.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, StatusCode};
use pingora::prelude::Session;

use super::context::{Context, IfDropped};
use super::respond;
use crate::access_log::AccessLog;
use crate::cashier::Cashier;
use crate::ledger::Ledger;
use crate::listen::Connection;
use crate::metrics::{Metrics, Outcome};
use crate::store::Store;

/// What is done about a request that is dropped: if it was late, its use is given back, it is counted and
/// logged, and its client is answered.
pub(super) fn if_dropped<L: Ledger, S: Store>(
    cashier: Cashier<L, S>,
    metrics: Arc<Metrics>,
    access_log: AccessLog,
) -> IfDropped {
    IfDropped(Arc::new(move |context: &mut Context| {
        if !context.is_late() {
            return;
        }
        if let Some(forwarding) = &context.forwarding {
            forwarding.doubt();
        }
        // Before the use is given back, which it says.
        let words = respond::last_words(context);
        let admission = context.forwarding.as_mut().map(|it| &mut it.admission);
        let result = admission.and_then(|it| it.abandon(cashier.capabilities()));
        let (route, took) = (context.route_label(), context.started.elapsed());
        if let Some(result) = result {
            metrics.capability_use(&context.at_route.series, result);
        }
        metrics.request(&context.at_route.series, Outcome::UpstreamFailed, took);
        let status = words.as_ref().map_or(0, |it| it.head.status.as_u16());
        metrics.response(&context.at_route.series, status);
        tracing::info!(request_id = %context.request_id, route, error = "ReadTimedout", "request failed: its answer is late");
        if let Some(line) = context.noted.line.take() {
            let answered = words.as_ref().map_or((0, 0), |it| {
                (it.head.status.as_u16(), it.body.as_ref().map_or(0, |body| body.len()))
            });
            access_log.line(context.entry(line, answered, took, Outcome::UpstreamFailed));
        }
        if let Some((words, deadline)) = words.zip(context.deadline.as_ref()) {
            deadline.leave(words);
        }
    }))
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
