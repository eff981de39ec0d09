//! An answer of the gateway's own, and how an answer is written.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderValue, Method, StatusCode};
use pingora::http::ResponseHeader;
use pingora::prelude::{Error, ErrorType, Result, Session};
use serde_json::json;

use super::request_id::{RequestId, X_REQUEST_ID};
use crate::cashier::{PendingReason, Wait};
use crate::nano::BlockHash;
use crate::x402;

/// Seconds after which a request may be tried again.
const RETRY_SECONDS: u64 = 1;
/// The same while a rate is missing: rates are read less often.
const RATE_RETRY_SECONDS: u64 = 10;

/// Headers of the gateway's own, with their values.
pub(super) type Headers = Vec<(&'static str, Bytes)>;

/// An answer of the gateway's own.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: Headers,
    /// What is said for people.
    pub(super) message: Cow<'static, str>,
    /// JSON, with the message in it.
    pub(super) body: Bytes,
}

/// The `PAYMENT-RESPONSE` to a payment that is not settled.
pub(super) fn failed(block: Option<BlockHash>, reason: &str, message: Option<&str>) -> String {
    x402::encode_text(&x402::failed_text(block, reason, message))
}

/// 503: the same request may come again, and no client is to pay again.
pub(super) fn come_again(wait: &Wait) -> Reply {
    let (reason, message) = match wait {
        Wait::Pending { reason: PendingReason::Settlement, .. } => (
            "settlement_pending",
            "the payment is known and not confirmed yet: send the same proof again, do not pay again",
        ),
        Wait::Pending { reason: PendingReason::BlockNotFound, .. } => {
            ("BLOCK_NOT_FOUND", "no node knows the block yet: send the same proof again, do not pay again")
        }
        Wait::UpstreamDown(_) => (
            "upstream_down",
            "the upstream cannot be reached: nothing was charged, send the same request again after Retry-After",
        ),
        Wait::UpstreamFailing(_) => (
            "upstream_failing",
            "the upstream failed again and again: nothing was charged, send the capability again after \
             Retry-After, do not pay again",
        ),
        Wait::UsesOut => ("uses_under_way", "other requests hold the last uses of the capability: try again"),
        Wait::SameId => (
            "same_id_under_way",
            "a request under the same id is under way: send the same again, do not pay again",
        ),
        Wait::NoNode => ("no_node", "no Nano node answers: nothing is sold until one does"),
        Wait::NoRate => (
            "rate_unavailable",
            "the price is in a currency whose rate is not known at the moment: nothing was charged, and nothing is \
             sold by it until the rate is known; what was bought or billed before is served",
        ),
        Wait::NoStore => ("no_store", "payments cannot be recorded: nothing is sold until they can"),
        Wait::NoWork => (
            "no_work",
            "the block came without work and the work server made none: send the same proof again, \
             or the block with its work",
        ),
        Wait::Overloaded => ("overloaded", "too many requests are under way: try again"),
    };
    let block = match wait {
        Wait::Pending { block, .. } => Some(*block),
        Wait::UpstreamDown(_)
        | Wait::UpstreamFailing(_)
        | Wait::UsesOut
        | Wait::SameId
        | Wait::NoNode
        | Wait::NoRate
        | Wait::NoStore
        | Wait::NoWork
        | Wait::Overloaded => None,
    };
    let after = match wait {
        Wait::UpstreamDown(pause) | Wait::UpstreamFailing(pause) => pause.get(),
        Wait::Pending { .. }
        | Wait::UsesOut
        | Wait::SameId
        | Wait::NoNode
        | Wait::NoStore
        | Wait::NoWork
        | Wait::Overloaded => RETRY_SECONDS,
        Wait::NoRate => RATE_RETRY_SECONDS,
    };
    let mut headers = vec![(RETRY_AFTER.as_str(), after.to_string().into())];
    if block.is_some() {
        headers.push(("PAYMENT-RESPONSE", failed(block, reason, Some(message)).into()));
    }
    let transaction = block.map(|it| it.lower_hex());
    let body = json!({ "error": reason, "message": message, "transaction": transaction });
    let status = StatusCode::SERVICE_UNAVAILABLE;
    Reply { status, headers, message: message.into(), body: body.to_string().into() }
}

pub(super) fn plain(status: StatusCode, error: &str, message: impl Into<Cow<'static, str>>) -> Reply {
    let message = message.into();
    let body = json!({ "error": error, "message": message }).to_string();
    Reply { status, headers: Vec::new(), message, body: body.into() }
}

/// A text of the gateway's own as the value of a header.
///
/// # Errors
/// It is none.
pub(super) fn value(text: Bytes) -> Result<HeaderValue> {
    HeaderValue::from_maybe_shared(text)
        .map_err(|error| Error::because(ErrorType::InvalidHTTPHeader, "no value of a header", error))
}

/// Writes a whole answer, to HEAD without its body: Pingora would send it over HTTP/2, and the client
/// would reset the stream. It has the request's id.
pub(super) async fn write(
    session: &mut Session,
    id: &RequestId,
    mut head: ResponseHeader,
    body: Option<Bytes>,
) -> Result<()> {
    head.insert_header(X_REQUEST_ID, id.value())?;
    let body = body.filter(|_| session.req_header().method != Method::HEAD);
    if body.is_none()
        && let Some(session) = session.as_downstream_mut().as_custom_mut()
    {
        // The usual way ends the stream by a frame of its own, which to clients of gRPC is no end.
        return session.write_response_header(Box::new(head), true).await;
    }
    session.write_response_header(Box::new(head), body.is_none()).await?;
    match body {
        Some(body) => session.write_response_body(Some(body), true).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payment_that_failed_is_named_with_its_reason() {
        let said =
            |message| x402::decode_header(failed(Some(BlockHash([1; 32])), "NO_FUNDS", message)).unwrap();
        let whole = said(Some("not enough"));
        assert_eq!((&whole["success"], &whole["errorReason"]), (&json!(false), &json!("NO_FUNDS")));
        assert!(whole.values().any(|it| it == "not enough"));
        assert!(said(None).values().all(|it| it != "not enough"));
    }
}
