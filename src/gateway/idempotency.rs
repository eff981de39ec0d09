//! Payment identifiers at the edge: which request an id stands for, and the answer that is given again.

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RANGE};
use pingora::http::ResponseHeader;
use pingora::prelude::{Result, Session};
use serde_json::{Map, Value};

use super::context::Context;
use super::rejection::Rejection;
use super::{forward, framing, reply};
use crate::cashier::{How, Replay};
use crate::config::MAX_BODY;
use crate::payment::{IdentifiedRequest, IdentifierKey, RequestDigest};
use crate::routes::{CanonicalTarget, PaymentIdentifiers, Route};
use crate::x402::payment_identifier::PaymentIdentifier;

/// The request headers that, with the body, decide what is asked for.
const MEANING: [HeaderName; 3] = [CONTENT_TYPE, CONTENT_ENCODING, RANGE];

/// The request that a payment came with.
#[derive(Debug)]
pub(super) struct PaidRequest<'a> {
    pub(super) route: &'a Route,
    pub(super) target: &'a CanonicalTarget,
    /// Its body, if it was read before.
    pub(super) body: Option<Bytes>,
}

/// The id that a payment came under, and the request it stands for. The body is read for it, because
/// another body makes another request.
pub(super) async fn read(
    session: &mut Session,
    context: &mut Context,
    request: PaidRequest<'_>,
    extensions: &Map<String, Value>,
) -> std::result::Result<Option<IdentifiedRequest>, Rejection> {
    let PaidRequest { route, target, body } = request;
    let Some(policy) = route.payment_identifier else { return Ok(None) };
    let read = PaymentIdentifier::read(extensions).map_err(Rejection::BadIdentifier)?;
    let id = match (read, policy) {
        (Some(id), _) => id,
        (None, PaymentIdentifiers::Optional) => return Ok(None),
        (None, PaymentIdentifiers::Required) => return Err(Rejection::NoIdentifier),
    };
    let body = match body {
        Some(body) => body,
        None => {
            let body = context.tariff.bodies.read(session, context.caller.client(), MAX_BODY).await?;
            context.body = Some(body.permit);
            body.bytes
        }
    };
    let request = session.req_header();
    let value = |name| request.headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
    let mut meaning = MEANING.map(value).to_vec();
    // A route may be for several hosts.
    meaning.extend(context.host.as_deref().map(str::as_bytes));
    let method = request.method.as_str();
    let request = RequestDigest::of(method, target.as_str(), &meaning, &body);
    Ok(Some(IdentifiedRequest { id: IdentifierKey::of(id.as_str()), request }))
}

/// Answers a request with what was answered before.
pub(super) async fn replay(session: &mut Session, context: &Context, replay: &Replay) -> Result<()> {
    let Replay { answer, held, said, .. } = replay;
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut body = answer.body.clone().unwrap_or_default();
    let mut response = ResponseHeader::build(status, Some(answer.headers.len().saturating_add(8)))?;
    for (name, value) in &answer.headers {
        response.append_header(name.clone(), value.as_slice())?;
    }
    for (name, text) in forward::receipt((held, replay.purchase()), said, How::Paid, 0).headers() {
        response.insert_header(name, reply::value(text)?)?;
    }
    response.insert_header(forward::REPLAYED, "true")?;
    forward::vary_by_price(&mut response, context)?;
    if let Some(cors) = &context.tariff.cors {
        cors.expose(&mut response, context.origin.as_deref())?;
    }
    if framing::ends_with_head(&session.req_header().method, status) {
        return reply::write(session, &context.request_id, response, None).await;
    }
    if let Some(call) = &context.call {
        body = call.with_receipt(&mut response, body);
    }
    response.insert_header(CONTENT_LENGTH, body.len())?;
    reply::write(session, &context.request_id, response, Some(Bytes::from(body))).await
}
