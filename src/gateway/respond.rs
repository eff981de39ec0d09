//! The gateway's own answers: the one place where a decision becomes a status.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, TRANSFER_ENCODING, VARY};
use pingora::ErrorSource;
use pingora::http::ResponseHeader;
use pingora::prelude::{Error, ErrorType, Result, Session};
use serde_json::json;
use tokio::time::timeout;

use super::context::{Asked, Context, Forwarding};
use super::decision::Decision;
use super::reply::{Reply, come_again, plain, value, write};
use super::request_id::{RequestId, X_REQUEST_ID};
use super::upstream_bill::UPSTREAM_BILL;
use super::{bill, closing, forward, grpc, holding, idempotency, mcp, preflight};
use crate::cashier::{IdentifierRefusal, Moved};
use crate::listen::LastWords;
use crate::routes::Left;

/// How long, and for how many bytes, a client that is still sending is read after its answer.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_IDLE: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// Carries out a decision: returns where to forward the request, or answers it.
pub(super) async fn respond(
    session: &mut Session,
    context: &Context,
    decision: Decision,
) -> Result<Option<Box<Forwarding>>> {
    let answer = match decision {
        Decision::Forward(forwarding) => return Ok(Some(forwarding)),
        Decision::Replay(replay) => {
            return Box::pin(idempotency::replay(session, context, &replay)).await.map(|()| None);
        }
        Decision::Document(document) => {
            spare_connection(session, context);
            return Box::pin(document.send(session, &context.request_id)).await.map(|()| None);
        }
        Decision::Preflight => {
            return Box::pin(preflight::answer(session, context)).await.map(|()| None);
        }
        Decision::Bill(billed) => bill::payment_required(context, *billed),
        Decision::Wait(wait) => come_again(&wait),
        Decision::Conflict(refusal) => conflict(refusal),
        Decision::Moved(moved) => gone(&moved),
        Decision::Holding(holding) => holding::reply(&holding),
        Decision::Close(closed) => closing::reply(&closed),
        Decision::Reject(rejection) => rejection.reply()?,
    };
    Box::pin(send(session, context, answer)).await.map(|()| None)
}

/// Never a 402: a client that paid again under the same id would get no further.
fn conflict(refusal: IdentifierRefusal) -> Reply {
    let (status, error, message) = match refusal {
        IdentifierRefusal::Conflict => (
            StatusCode::CONFLICT,
            "payment_identifier_conflict",
            "this id stands for another request or another payment, and nothing was charged: send that \
             request again as it was, with the proof that paid for it, or use a new id to buy something else",
        ),
        IdentifierRefusal::OtherId => (
            StatusCode::CONFLICT,
            "payment_identifier_conflict",
            "this payment was made under another id, and nothing was charged: send that id",
        ),
        IdentifierRefusal::Gone => (
            StatusCode::GONE,
            "answer_not_kept",
            "what was bought under this id was delivered or has expired, and the answer is not kept: to buy \
             again, use a new id",
        ),
    };
    plain(status, error, message)
}

/// Never a 402: who has paid is not asked to pay again for it.
fn gone(moved: &Moved) -> Reply {
    let Moved { route, dearer, block, left } = moved;
    let why = if *dearer {
        format!("{:?} now stands for something dearer than what was bought", route.configured())
    } else {
        format!("the route {:?} that was paid for is gone", route.configured())
    };
    let message = format!(
        "{why}: nothing was charged, do not pay again for it; ask the operator to refund what is left, or \
         to let it open the route that took its place; to buy what is sold here, send the request without it"
    );
    let (left, expires) = left.unzip();
    let body = json!({
        "error": "route_gone",
        "message": message,
        "transaction": block.lower_hex(),
        (left.map_or("remaining", Left::name)): left,
        "expires": expires,
    });
    let body = body.to_string().into();
    Reply { status: StatusCode::GONE, headers: Vec::new(), message: message.into(), body }
}

async fn send(session: &mut Session, context: &Context, answer: Reply) -> Result<()> {
    let (response, body) = written(Asked::of(session.req_header()), context, answer)?;
    spare_connection(session, context);
    write(session, &context.request_id, response, body).await?;
    linger(session).await;
    Ok(())
}

/// The head and the body of an answer of the gateway's own.
fn written(asked: Asked, context: &Context, answer: Reply) -> Result<(ResponseHeader, Option<Bytes>)> {
    let Reply { status, headers, message, body } = answer;
    let body = with_id(&body, &context.request_id);
    let (mut response, body) = if asked.is_grpc {
        (grpc::refusal(asked.version, status, &message)?, None)
    } else {
        let mut response = ResponseHeader::build(status, Some(12))?;
        response.insert_header(CONTENT_TYPE, "application/json")?;
        (response, Some(body))
    };
    response.insert_header(CACHE_CONTROL, "no-store")?;
    response.insert_header(VARY, forward::VARIES_BY)?;
    forward::vary_by_price(&mut response, context)?;
    for (name, text) in headers {
        response.insert_header(name, value(text)?)?;
    }
    if let Some(cors) = &context.tariff.cors {
        cors.expose(&mut response, context.origin.as_deref())?;
    }
    let body = body.map(|body| in_result(context, &mut response, body)).transpose()?;
    if let Some(body) = &body {
        response.insert_header(CONTENT_LENGTH, body.len())?;
    }
    Ok((response, body))
}

/// The body of an answer of the gateway's own, as the result of the call that asks for it in this form.
fn in_result(context: &Context, response: &mut ResponseHeader, body: Bytes) -> Result<Bytes> {
    // What cannot be read is no call that could have a result.
    let call = context.call.as_ref().filter(|_| response.status != StatusCode::BAD_REQUEST);
    let result = call.and_then(|it| it.own_answer(&body, &response.headers));
    let Some((kind, result)) = result else { return Ok(body) };
    let of_a_bill: Vec<_> =
        response.headers.keys().filter(|it| mcp::is_of_a_bill(it.as_str())).cloned().collect();
    for name in &of_a_bill {
        let _removed = response.remove_header(name).is_some();
    }
    // The transport of JSON-RPC has worked.
    response.set_status(StatusCode::OK)?;
    response.insert_header(CONTENT_TYPE, kind)?;
    Ok(result)
}

/// A JSON object with the request's id as its last member, which needs no escape.
fn with_id(body: &[u8], id: &RequestId) -> Bytes {
    match body.strip_suffix(b"}") {
        Some(members) => {
            let separator: &[u8] = if members.ends_with(b"{") { b"" } else { b"," };
            [members, separator, b"\"request_id\":\"", id.as_str().as_bytes(), b"\"}"].concat().into()
        }
        None => Bytes::copy_from_slice(body),
    }
}

/// The answer to a request that is dropped because the upstream is late; `None` if an answer has begun.
pub(super) fn last_words(context: &Context) -> Option<LastWords> {
    let asked = context.asked.filter(|_| !context.is_answered)?;
    let answer = upstream_failed(context, StatusCode::GATEWAY_TIMEOUT, false);
    let words = written(asked, context, answer).and_then(|(mut head, body)| {
        head.insert_header(X_REQUEST_ID, context.request_id.value())?;
        Ok((head, body))
    });
    match words {
        Ok((head, body)) => Some(LastWords { head, body: body.filter(|_| !asked.is_head) }),
        Err(error) => {
            tracing::warn!(request_id = %context.request_id, %error, "a request that is dropped cannot be answered");
            None
        }
    }
}

/// Reads on for a while before the connection of a client that is still sending is closed. Closed at
/// once, it would be reset, and the client could lose the answer before it reads it.
async fn linger(session: &mut Session) {
    let closes = session.as_http1().is_some() && !session.is_body_done();
    if !closes || session.req_header().headers.contains_key(EXPECT) {
        return;
    }
    let body = session.as_downstream_mut();
    let drained = async {
        let mut read = 0_usize;
        while let Ok(Ok(Some(part))) = timeout(LINGER_IDLE, body.read_request_body()).await {
            read = read.saturating_add(part.len());
            if read > LINGER_BYTES {
                return;
            }
        }
    };
    // Closed either way, whether in time or not.
    let _in_time = timeout(LINGER, drained).await.is_ok();
}

/// Keeps the connection although the request's body was not read, if what is left of it is known and
/// small. Otherwise Pingora closes it.
fn spare_connection(session: &mut Session, context: &Context) {
    let headers = &session.req_header().headers;
    let length = headers.get(CONTENT_LENGTH).and_then(|it| it.to_str().ok()).and_then(|it| it.parse().ok());
    let small = match length {
        Some(length) => context.tariff.limits.drained_body >= length,
        None => !headers.contains_key(TRANSFER_ENCODING),
    };
    if small {
        session.set_close_on_response_before_downstream_finish(false);
    }
}

/// The answer to a request whose upstream failed.
pub(super) struct Failure {
    status: StatusCode,
    /// `None` if an answer has begun: it can only be cut off.
    answer: Option<Reply>,
}

/// Whether a head with this status begins the answer. What comes before the answer is no part of it (RFC 9110
/// section 15.2); a tunnel is all that follows.
pub(super) fn begins_answer(status: StatusCode) -> bool {
    !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS
}

/// An answer cost more than its purse has.
pub(super) const OVERDRAWN: ErrorType = ErrorType::Custom("Overdrawn");

/// The answer to a request whose upstream failed; `None` if no client is left to answer.
pub(super) fn failure(session: &Session, context: &Context, error: &Error) -> Option<Failure> {
    let status = status_of(error)?;
    if session.response_written().is_some_and(|it| begins_answer(it.status)) {
        return Some(Failure { status, answer: None });
    }
    if status == StatusCode::REQUEST_TIMEOUT {
        let message =
            "the body did not arrive in time: send the whole request again, with what it was paid with";
        return Some(Failure { status, answer: Some(plain(status, "body_too_slow", message)) });
    }
    if *error.etype() == OVERDRAWN {
        let status = StatusCode::FORBIDDEN;
        let message = "the answer costs more than the purse has, and was cut off: what it had used was charged; pay for another \
             purse, or ask for less";
        return Some(Failure { status, answer: Some(plain(status, "purse_dry", message)) });
    }
    let answer = upstream_failed(context, status, *error.etype() == UPSTREAM_BILL);
    Some(Failure { status, answer: Some(answer) })
}

/// An upstream's failure in words, with what the client has. `is_bill`: it asks for money of its own.
fn upstream_failed(context: &Context, status: StatusCode, is_bill: bool) -> Reply {
    let admitted = context.forwarding.as_ref().and_then(|it| it.admission.admitted());
    let (code, message) = match admitted {
        Some(_) if is_bill => (
            "upstream_payment_required",
            "the upstream asks the operator of this gateway for money, not you: nothing was charged, do not pay \
             again; tell the operator, and send the PAYMENT-CAPABILITY of this answer later",
        ),
        Some(_) => (
            "upstream_failed",
            "the upstream gave no answer; the use was given back: send the same request again with \
             the PAYMENT-CAPABILITY of this answer",
        ),
        None => ("upstream_failed", "the upstream gave no answer"),
    };
    let mut answer = plain(status, code, message);
    if let Some(admitted) = admitted {
        answer.headers.extend(forward::receipt_of(admitted, false).headers());
    }
    answer
}

impl Failure {
    /// Answers. Returns the status, 0 if the client is gone.
    pub(super) async fn send(self, session: &mut Session, context: &Context) -> u16 {
        let sent = match self.answer {
            Some(answer) => send(session, context, answer).await,
            None => Ok(()),
        };
        if sent.is_ok() { self.status.as_u16() } else { 0 }
    }
}

/// The status for an error; `None` if the client is gone.
fn status_of(error: &Error) -> Option<StatusCode> {
    let timeouts = [ErrorType::ReadTimedout, ErrorType::WriteTimedout, ErrorType::ConnectTimedout];
    if let ErrorType::HTTPStatus(code) = error.etype() {
        return Some(StatusCode::from_u16(*code).unwrap_or(StatusCode::BAD_GATEWAY));
    }
    match error.esource() {
        ErrorSource::Downstream if *error.etype() == ErrorType::InvalidHTTPHeader => {
            Some(StatusCode::BAD_REQUEST)
        }
        ErrorSource::Downstream if *error.etype() == ErrorType::ReadTimedout => {
            Some(StatusCode::REQUEST_TIMEOUT)
        }
        ErrorSource::Downstream => None,
        ErrorSource::Upstream if timeouts.contains(error.etype()) => Some(StatusCode::GATEWAY_TIMEOUT),
        ErrorSource::Upstream => Some(StatusCode::BAD_GATEWAY),
        ErrorSource::Internal | ErrorSource::Unset => Some(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenes::session;
    use super::*;

    #[test]
    fn an_error_has_the_status_of_who_made_it() {
        use ErrorType::{
            ConnectRefused, ConnectTimedout, InvalidHTTPHeader, ReadError, ReadTimedout, WriteTimedout,
        };
        let of = |kind: ErrorType, source: fn(Box<Error>) -> Box<Error>| {
            status_of(&source(Error::explain(kind, ""))).map(|it| it.as_u16())
        };
        for (kind, client, upstream) in [
            (InvalidHTTPHeader, Some(400), 502),
            (ReadTimedout, Some(408), 504),
            (WriteTimedout, None, 504),
            (ConnectTimedout, None, 504),
            (ConnectRefused, None, 502),
            (ReadError, None, 502),
        ] {
            assert_eq!(of(kind.clone(), Error::into_down), client, "{kind:?}");
            assert_eq!(of(kind.clone(), Error::into_up), Some(upstream), "{kind:?}");
            assert_eq!(of(kind.clone(), Error::into_in), Some(500), "{kind:?}");
        }
        assert_eq!(of(ErrorType::HTTPStatus(503), Error::into_up), Some(503));
        assert_eq!(of(UPSTREAM_BILL, Error::into_up), Some(502));
    }

    #[test]
    fn an_answer_begins_with_a_tunnel_too_and_not_with_what_comes_before_it() {
        let begins = |status: u16| begins_answer(StatusCode::from_u16(status).unwrap());
        assert!([101, 200, 204, 304, 402, 500].into_iter().all(begins));
        assert!(![100, 102, 103].into_iter().any(begins));
    }

    /// Whether nothing is left of a body of `length` bytes after lingering.
    async fn is_read(fields: &str, length: usize) -> bool {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{fields}\r\n");
        let mut session = session(&(head + &"a".repeat(length)));
        linger(&mut session).await;
        session.is_body_done()
    }

    /// A connection that is closed with unread bytes is reset, and the client may lose the answer with it.
    #[tokio::test]
    async fn a_body_of_at_most_16_mib_is_read_before_the_connection_closes() {
        assert!(is_read("", 5).await);
        assert!(is_read("", 16 * 1024 * 1024).await);
        assert!(!is_read("", 17 * 1024 * 1024).await);
        assert!(!is_read("Expect: 100-continue\r\n", 5).await, "it was not asked to send it");
    }
}
