//! How a request ends that Pingora does not end: its answer breaks off, or it is dropped because the upstream is
//! late and Pingora reads from nobody.

use std::sync::Arc;

use http::Method;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use pingora::http::ResponseHeader;
use pingora::prelude::Session;

use super::context::{Context, IfDropped};
use super::{framing, respond};
use crate::access_log::AccessLog;
use crate::cashier::Cashier;
use crate::ledger::Ledger;
use crate::listen::Connection;
use crate::metrics::{Metrics, Outcome};
use crate::store::Store;
use crate::traces::Traces;

/// What is done about a request that is dropped: if it was late, its use is given back, it is counted and
/// logged, and its client is answered.
pub(super) fn if_dropped<L: Ledger, S: Store>(
    cashier: Cashier<L, S>,
    metrics: Arc<Metrics>,
    access_log: AccessLog,
    traces: Traces,
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
        let said = context.failure_is_said(context.at_upstream.is_some());
        let (route, took) = (context.route_label(), context.started.elapsed());
        if let Some(result) = result {
            metrics.capability_use(&context.at_route.series, result);
        }
        metrics.request(&context.at_route.series, Outcome::UpstreamFailed, took);
        let status = words.as_ref().map_or(0, |it| it.head.status.as_u16());
        metrics.response(&context.at_route.series, status);
        if let Some(held_back) = said {
            tracing::info!(request_id = %context.request_id, route, error = "ReadTimedout", held_back, "request failed: its answer is late");
        }
        if let Some(line) = context.noted.line.take() {
            let answered = words.as_ref().map_or((0, 0), |it| {
                (it.head.status.as_u16(), it.body.as_ref().map_or(0, |body| body.len()))
            });
            let entry = context.entry(line, answered, took, Outcome::UpstreamFailed);
            context.end_trace(&traces, &entry);
            if context.is_logged(Outcome::UpstreamFailed) {
                access_log.line(entry);
            }
        }
        if let Some((words, deadline)) = words.zip(context.deadline.as_ref()) {
            deadline.leave(words);
        }
    }))
}

/// Ends the connection with a reset, if nothing else says that the answer is not whole.
pub(super) fn break_off(session: &Session) {
    let method = &session.req_header().method;
    let is_open = session.response_written().is_some_and(|it| ends_with_connection(method, it));
    if let Some(connection) = Connection::of(session).filter(|_| is_open) {
        connection.break_off();
    }
}

/// Whether only the end of the connection says that the answer is whole.
fn ends_with_connection(method: &Method, response: &ResponseHeader) -> bool {
    let is_framed = [CONTENT_LENGTH, TRANSFER_ENCODING].iter().any(|it| response.headers.contains_key(it));
    !is_framed && !framing::ends_with_head(method, response.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer that is cut off must not look whole: all other answers say themselves where they end.
    #[test]
    fn an_answer_without_a_length_ends_with_the_connection() {
        let ends = |method: Method, status: u16, field: Option<(&'static str, &str)>| {
            let mut head = ResponseHeader::build(status, None).unwrap();
            if let Some((name, value)) = field {
                head.insert_header(name, value).unwrap();
            }
            ends_with_connection(&method, &head)
        };
        for status in [200, 201, 404, 500] {
            assert!(ends(Method::GET, status, None), "{status}");
            assert!(!ends(Method::HEAD, status, None), "{status} to HEAD");
            assert!(!ends(Method::GET, status, Some(("Content-Length", "5"))), "{status}");
            assert!(!ends(Method::GET, status, Some(("Transfer-Encoding", "chunked"))), "{status}");
        }
        for status in [100, 103, 204, 304] {
            assert!(!ends(Method::GET, status, None), "{status}");
        }
    }
}
