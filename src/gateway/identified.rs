//! What a payment identifier changes at the edge: which request an id stands for, the answer as it
//! goes by, and the answer that is given again.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, RANGE};
use http::{HeaderValue, Method, StatusCode};
use pingora::http::ResponseHeader;
use pingora::prelude::{Result, Session};
use serde_json::{Map, Value};

use super::body::Unread;
use super::{Context, forward};
use crate::cashier::{How, Replay};
use crate::config::MAX_BODY;
use crate::payment::{IdentifiedRequest, IdentifierKey, RequestDigest};
use crate::routes::{CanonicalTarget, PaymentIdentifiers, Route};
use crate::store::Answer;
use crate::x402::payment_identifier::{BadIdentifier, PaymentIdentifier};

/// The request headers that decide, with the body, what is asked for.
const MEANING: [HeaderName; 3] = [CONTENT_TYPE, CONTENT_ENCODING, RANGE];

/// Tells a client that its answer was given before.
const REPLAYED: &str = "Idempotent-Replayed";

/// Bytes of all kept headers together; an answer with more is not kept.
const MOST_HEADER_BYTES: usize = 32 * 1024;

/// Why a request is refused before its payment is looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unidentified {
    /// The route requires an id and none came.
    Missing,
    Bad(BadIdentifier),
}

/// Why there is no telling which request an id stands for.
#[derive(Debug)]
pub(super) enum Unnamed {
    Id(Unidentified),
    Body(Unread),
}

/// The request that a payment came with.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) route: &'a Route,
    pub(super) target: &'a CanonicalTarget,
    /// Its body, where that was read already.
    pub(super) body: Option<Vec<u8>>,
}

/// The id that a payment to `route` came under, and the request it stands for. The body is read for
/// it, so that another body makes another request.
pub(super) async fn read(
    session: &mut Session,
    context: &mut Context,
    request: Request<'_>,
    extensions: &Map<String, Value>,
) -> std::result::Result<Option<IdentifiedRequest>, Unnamed> {
    let Request { route, target, body } = request;
    let Some(policy) = route.payment_identifier else { return Ok(None) };
    let read = PaymentIdentifier::read(extensions).map_err(|why| Unnamed::Id(Unidentified::Bad(why)))?;
    let id = match (read, policy) {
        (Some(id), _) => id,
        (None, PaymentIdentifiers::Optional) => return Ok(None),
        (None, PaymentIdentifiers::Required) => return Err(Unnamed::Id(Unidentified::Missing)),
    };
    let body = match body {
        Some(body) => body,
        None => {
            let body = context.tariff.room.read(session, MAX_BODY).await.map_err(Unnamed::Body)?;
            context.body = Some(body.held);
            body.bytes
        }
    };
    let request = session.req_header();
    let value = |name| request.headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
    let meaning = MEANING.map(value);
    let method = request.method.as_str();
    let request = RequestDigest::of(&route.name, method, target.as_str(), &meaning, &body);
    Ok(Some(IdentifiedRequest { id: IdentifierKey::of(id.as_str()), request }))
}

impl Unidentified {
    /// The status, a code and a sentence for it.
    pub(super) fn told(self) -> (StatusCode, &'static str, String) {
        let bad = StatusCode::BAD_REQUEST;
        match self {
            Self::Missing => (
                bad,
                "payment_identifier_required",
                "this route takes payments with an id only: put 16 to 128 characters of A-Z, a-z, 0-9, _ and - \
                 in extensions.payment-identifier.info.id of the payload; nothing was charged"
                    .to_owned(),
            ),
            Self::Bad(why) => (bad, "payment_identifier_invalid", format!("{why}; nothing was charged")),
        }
    }
}

/// An answer as it goes by to the client.
#[derive(Debug)]
pub(super) struct Recorder {
    /// Bytes of the largest body that is kept.
    largest: usize,
    answer: Option<Answer>,
    whole: bool,
}

impl Recorder {
    pub(super) const fn new(largest: usize) -> Self {
        Self { largest, answer: None, whole: false }
    }

    /// An answer that counts begins, with the headers that the client gets.
    pub(super) fn begin(&mut self, response: &ResponseHeader) {
        let status = response.status.as_u16();
        let kept = |name: &HeaderName| !is_of_this_time(name);
        let headers: Vec<_> = response
            .headers
            .iter()
            .filter(|(name, _)| kept(name))
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
            .collect();
        let bytes: usize = headers.iter().map(|(name, value)| name.len().saturating_add(value.len())).sum();
        let announced = response.headers.get(CONTENT_LENGTH).and_then(|it| it.to_str().ok());
        let announced: usize = announced.and_then(|it| it.parse().ok()).unwrap_or(0);
        // A tunnel has no end that could be kept.
        let fits = bytes <= MOST_HEADER_BYTES && announced <= self.largest && status >= 200;
        let answer = Answer { status, headers, body: Some(Vec::new()) };
        self.answer = Some(if fits { answer } else { Answer::not_kept(status) });
    }

    /// A part of the body goes by; `end` says that it is the last.
    pub(super) fn part(&mut self, part: Option<&Bytes>, end: bool) {
        self.whole |= end;
        let (Some(answer), Some(part)) = (self.answer.as_mut(), part) else { return };
        let Some(body) = answer.body.as_mut() else { return };
        if body.len().saturating_add(part.len()) > self.largest {
            *answer = Answer::not_kept(answer.status);
        } else {
            body.extend_from_slice(part);
        }
    }

    /// The answer, if all of it went by. `finished` says that the exchange ended without an error.
    pub(super) fn take(&mut self, finished: bool) -> Option<Answer> {
        self.answer.take_if(|_| finished || self.whole)
    }
}

/// Headers that belong to one connection, one moment or one payer's browser, and are not kept: how
/// the body was framed, what the gateway itself puts on, and cookies, which may be a login.
fn is_of_this_time(name: &HeaderName) -> bool {
    const STARTS: [&str; 3] = ["payment-", "access-control-", "proxy-"];
    const NAMES: [&str; 10] = [
        "connection",
        "content-length",
        "date",
        "keep-alive",
        "set-cookie",
        "set-cookie2",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let name = name.as_str();
    STARTS.iter().any(|it| name.starts_with(it)) || NAMES.contains(&name)
}

/// Answers a request with what was answered before.
pub(super) async fn replay(session: &mut Session, context: &Context, replay: &Replay) -> Result<()> {
    let Replay { answer, held, token } = replay;
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let body = answer.body.clone().unwrap_or_default();
    let mut response = ResponseHeader::build(status, Some(answer.headers.len().saturating_add(8)))?;
    for (name, value) in &answer.headers {
        response.append_header(name.clone(), value.as_slice())?;
    }
    for (name, value) in forward::told(held, token, How::Paid, 0) {
        response.insert_header(name, value)?;
    }
    response.insert_header(REPLAYED, "true")?;
    if let Some(cors) = &context.tariff.cors {
        cors.expose(&mut response, context.origin.as_deref())?;
    }
    let head = session.req_header().method == Method::HEAD;
    let bodiless = head || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if bodiless {
        return session.write_response_header(Box::new(response), true).await;
    }
    response.insert_header(CONTENT_LENGTH, body.len())?;
    session.write_response_header(Box::new(response), false).await?;
    session.write_response_body(Some(Bytes::from(body)), true).await
}
