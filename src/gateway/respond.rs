//! What the gateway itself answers: the one place where a verdict becomes a status.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, RETRY_AFTER, TRANSFER_ENCODING, VARY,
};
use http::{Method, StatusCode};
use pingora::ErrorSource;
use pingora::http::ResponseHeader;
use pingora::prelude::{Error, ErrorType, Result, Session};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::ask::{Decision, Sale};
use super::calls::Turned;
use super::identified::{self, Recorder};
use super::tariff::Cors;
use super::{Admission, Context, Priced};
use crate::cashier::{Bill, IdentifierRefusal, PendingReason, Refused, Replay, Verdict, Wait};
use crate::metrics::Outcome;
use crate::nano::Network;
use crate::routes::{CanonicalTarget, PaymentIdentifiers, Route, UpstreamName};
use crate::x402::payment_identifier::{PAYMENT_IDENTIFIER, declaration};
use crate::x402::{self, PaymentRequired, Resource, SettlementResponse};

/// Seconds after which what is not ready now may be.
const RETRY_SECONDS: &str = "1";

/// Bytes of a target that a bill's `resource.url` repeats. All response headers together stay under
/// 8 KiB (PROTOCOL section 2), and a client decides how long its target is.
const MAX_NAMED: usize = 1024;

/// How long, and for how many bytes, a client that is still sending is listened to after its answer.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_IDLE: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// An answer of the gateway's own.
struct Answer {
    status: StatusCode,
    headers: Vec<(&'static str, String)>,
    body: Value,
}

/// Carries out a decision: gives the right to forward, or answers the request.
pub(super) async fn respond(
    session: &mut Session,
    context: &mut Context,
    decision: Decision,
) -> Result<Option<Admission>> {
    let answer = match decision {
        Decision::Free { upstream, target } => match admit(context, &upstream, target, None) {
            Some(admission) => return Ok(Some(admission)),
            None => plain(StatusCode::BAD_GATEWAY, "upstream_unknown", "the route's upstream is gone"),
        },
        Decision::Priced(sale) => match sell(context, *sale) {
            Sold::Admitted(admission) => return Ok(Some(*admission)),
            Sold::Replayed(replay) => {
                context.outcome = Outcome::Replayed;
                return identified::replay(session, context, &replay).await.map(|()| None);
            }
            Sold::Not(answer) => *answer,
        },
        Decision::Document(document) => {
            spare_connection(session, context);
            return document.send(session).await.map(|()| None);
        }
        Decision::Preflight => return preflight(session, context).await.map(|()| None),
        Decision::Unreadable(why) => {
            context.outcome = Outcome::Refused;
            plain(StatusCode::BAD_REQUEST, "bad_request", &why)
        }
        Decision::Turned(turned) => turned_away(context, turned)?,
        Decision::Unidentified(why) => {
            context.outcome = Outcome::Refused;
            let (status, error, message) = why.told();
            plain(status, error, &message)
        }
        Decision::NotFound => {
            context.outcome = Outcome::Refused;
            plain(StatusCode::NOT_FOUND, "not_found", "no route of this gateway matches the request")
        }
    };
    send(session, context, answer).await.map(|()| None)
}

/// The answer to a call that is neither sold nor given away; an error where nobody is left to answer.
fn turned_away(context: &mut Context, turned: Turned) -> Result<Answer> {
    context.outcome = Outcome::Refused;
    Ok(match turned {
        Turned::Unreadable(why) => plain(StatusCode::BAD_REQUEST, "bad_request", &why),
        Turned::Unsupported(why) => plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_body", why),
        Turned::NotOffered(fault) => plain(StatusCode::FORBIDDEN, "not_offered", &fault.to_string()),
        Turned::TooLong(bound) => {
            let why = format!("a body of at most {bound} bytes is taken here");
            plain(StatusCode::PAYLOAD_TOO_LARGE, "body_too_long", &why)
        }
        Turned::TooSlow => {
            plain(StatusCode::REQUEST_TIMEOUT, "body_too_slow", "the body did not arrive in time")
        }
        Turned::NoRoom => {
            context.outcome = Outcome::Unavailable;
            come_again(&Wait::Overloaded)
        }
        Turned::Lost(error) => return Err(error),
    })
}

fn admit(
    context: &mut Context,
    upstream: &UpstreamName,
    target: CanonicalTarget,
    priced: Option<Priced>,
) -> Option<Admission> {
    let upstream = context.tariff.upstreams.get(upstream)?.clone();
    let admission = Admission { upstream, target, priced, chosen: None, tried: Vec::new() };
    context.outcome = admission.outcome();
    Some(admission)
}

/// What a verdict comes to.
enum Sold {
    Admitted(Box<Admission>),
    Replayed(Box<Replay>),
    Not(Box<Answer>),
}

fn sell(context: &mut Context, sale: Sale) -> Sold {
    let Sale { route, target, verdict, detail } = sale;
    match verdict {
        Verdict::Admit(admitted) => {
            let recorder = admitted.keeping.as_ref().map(|it| Recorder::new(it.largest));
            let priced = Priced { admitted, charge_on: route.charge_on, counts: None, recorder, kept: false };
            match admit(context, &route.upstream, target, Some(priced)) {
                Some(admission) => Sold::Admitted(Box::new(admission)),
                None => Sold::Not(Box::new(plain(
                    StatusCode::BAD_GATEWAY,
                    "upstream_unknown",
                    "the route's upstream is gone",
                ))),
            }
        }
        Verdict::Bill(bill) => {
            context.outcome = if bill.refused.is_some() { Outcome::Refused } else { Outcome::Challenged };
            let resource = Resource {
                url: context.tariff.public_url.join(named(&target)),
                description: Some(route.description.clone()).filter(|it| !it.is_empty()),
                mime_type: Some(route.mime_type.clone()).filter(|it| !it.is_empty()),
            };
            Sold::Not(Box::new(payment_required(context, bill, resource, extensions(&route), detail)))
        }
        Verdict::Wait(wait) => {
            context.outcome = match wait {
                Wait::Pending { .. } | Wait::UsesOut | Wait::SameId => Outcome::Pending,
                Wait::NoNode | Wait::NoStore | Wait::NoWork | Wait::Overloaded => Outcome::Unavailable,
            };
            Sold::Not(Box::new(come_again(&wait)))
        }
        Verdict::Replay(replay) => Sold::Replayed(replay),
        Verdict::Conflict(refusal) => {
            context.outcome = Outcome::Refused;
            Sold::Not(Box::new(conflict(refusal)))
        }
    }
}

/// What a bill says beside its challenges.
fn extensions(route: &Route) -> serde_json::Map<String, Value> {
    let mut extensions = serde_json::Map::new();
    if let Some(policy) = route.payment_identifier {
        let required = policy == PaymentIdentifiers::Required;
        extensions.insert(PAYMENT_IDENTIFIER.to_owned(), declaration(required));
    }
    extensions
}

/// Never a 402: whoever pays again under the same id would get no further.
fn conflict(refusal: IdentifierRefusal) -> Answer {
    let (status, error, message) = match refusal {
        IdentifierRefusal::Conflict => (
            StatusCode::CONFLICT,
            "payment_identifier_conflict",
            "this id stands for another request or for another payment, and nothing was charged: send that \
             request again as it was, with the proof that paid for it, or take another id for a purchase of its own",
        ),
        IdentifierRefusal::OtherId => (
            StatusCode::CONFLICT,
            "payment_identifier_conflict",
            "this payment was made under another id, and nothing was charged: send that one",
        ),
        IdentifierRefusal::Gone => (
            StatusCode::GONE,
            "answer_not_kept",
            "what was bought under this id was handed over or has run out, and the answer is not kept: for a \
             payment anew, take another id",
        ),
    };
    plain(status, error, message)
}

/// As much of a target as a bill has room for: without its query where it is too long, and then only
/// the folders that fit. What is bought is the route; the URL tells people what they asked for.
fn named(target: &CanonicalTarget) -> &str {
    if target.as_str().len() <= MAX_NAMED {
        return target.as_str();
    }
    let path = target.path();
    if path.len() <= MAX_NAMED {
        return path;
    }
    // A canonical path is ASCII, so no character is cut.
    let fits = path.get(..MAX_NAMED).unwrap_or_default();
    fits.rfind('/').and_then(|end| fits.get(..=end)).unwrap_or("/")
}

fn payment_required(
    context: &Context,
    bill: Bill,
    resource: Resource,
    extensions: serde_json::Map<String, Value>,
    detail: Option<String>,
) -> Answer {
    let Bill { challenges, refused } = bill;
    let message = detail.unwrap_or_else(|| match &refused {
        Some(Refused { particular: Some(particular), .. }) => particular.to_string(),
        Some(refused) => refused.refusal.advice().to_owned(),
        None => "this resource is paid for per use: pay one of `accepts` and send the proof in \
                 PAYMENT-SIGNATURE"
            .to_owned(),
    });
    let required = PaymentRequired {
        error: Some(refused.as_ref().map_or("PAYMENT_REQUIRED", |it| it.refusal.code()).to_owned()),
        resource,
        accepts: challenges
            .iter()
            .map(|it| it.requirements(context.tariff.challenge_lifetime, context.tariff.work))
            .collect(),
        extensions,
    };
    // Written out once, for the header and for the body.
    let mut body = required.to_json();
    let mut headers = vec![("PAYMENT-REQUIRED", x402::encode_header(&body))];
    headers.extend(required.accepts.iter().filter_map(x402::session_headers).flatten());
    if let Some(refused) = refused {
        headers.push(("PAYMENT-RESPONSE", failed(&refused, &message).to_header()));
    }
    if let Value::Object(fields) = &mut body {
        // Beside what the header says, for people.
        fields.insert("message".to_owned(), message.into());
    }
    Answer { status: StatusCode::PAYMENT_REQUIRED, headers, body }
}

fn failed(refused: &Refused, message: &str) -> SettlementResponse {
    let outcome = x402::SettlementOutcome::Failed {
        transaction: refused.block,
        payer: None,
        reason: refused.refusal.code().to_owned(),
        message: Some(message.to_owned()),
    };
    SettlementResponse { network: Network::Mainnet, outcome, extensions: serde_json::Map::new() }
}

/// 503: the same request may come again, and nobody is to pay anew.
fn come_again(wait: &Wait) -> Answer {
    let (reason, message, block) = match wait {
        Wait::Pending { block, reason: PendingReason::Settlement } => (
            "settlement_pending",
            "the payment is known and not confirmed yet: send the same proof again, do not pay again",
            Some(*block),
        ),
        Wait::Pending { block, reason: PendingReason::BlockNotFound } => (
            "BLOCK_NOT_FOUND",
            "no node knows the block yet: send the same proof again, do not pay again",
            Some(*block),
        ),
        Wait::UsesOut => ("uses_under_way", "the last uses of the capability are under way: try again", None),
        Wait::SameId => (
            "same_id_under_way",
            "a request under the same id is under way: send the same again, do not pay again",
            None,
        ),
        Wait::NoNode => ("no_node", "no Nano node can be asked: nothing is sold until one can", None),
        Wait::NoStore => ("no_store", "payments cannot be recorded: nothing is sold until they can", None),
        Wait::NoWork => (
            "no_work",
            "the block came without work and the work server gave none: send the same proof again, \
             or the block with its work",
            None,
        ),
        Wait::Overloaded => ("overloaded", "too much is under way: try again", None),
    };
    let mut headers = vec![(RETRY_AFTER.as_str(), RETRY_SECONDS.to_owned())];
    if block.is_some() {
        let outcome = x402::SettlementOutcome::Failed {
            transaction: block,
            payer: None,
            reason: reason.to_owned(),
            message: Some(message.to_owned()),
        };
        let response =
            SettlementResponse { network: Network::Mainnet, outcome, extensions: serde_json::Map::new() };
        headers.push(("PAYMENT-RESPONSE", response.to_header()));
    }
    let transaction = block.map(|it| it.lower_hex());
    let body = json!({ "error": reason, "message": message, "transaction": transaction });
    Answer { status: StatusCode::SERVICE_UNAVAILABLE, headers, body }
}

fn plain(status: StatusCode, error: &str, message: &str) -> Answer {
    Answer { status, headers: Vec::new(), body: json!({ "error": error, "message": message }) }
}

async fn send(session: &mut Session, context: &Context, answer: Answer) -> Result<()> {
    let Answer { status, headers, body } = answer;
    let body = Bytes::from(body.to_string());
    let mut response = ResponseHeader::build(status, Some(12))?;
    response.insert_header(CONTENT_TYPE, "application/json")?;
    response.insert_header(CONTENT_LENGTH, body.len())?;
    response.insert_header(CACHE_CONTROL, "no-store")?;
    response.insert_header(VARY, super::forward::VARIES_BY)?;
    for (name, value) in headers {
        response.insert_header(name, value)?;
    }
    if let Some(cors) = &context.tariff.cors {
        cors.expose(&mut response, context.origin.as_deref())?;
    }
    spare_connection(session, context);
    if session.req_header().method == Method::HEAD {
        // Over HTTP/2 Pingora would send the body, and the client would reset the stream.
        return session.write_response_header(Box::new(response), true).await;
    }
    session.write_response_header(Box::new(response), false).await?;
    session.write_response_body(Some(body), true).await?;
    linger(session).await;
    Ok(())
}

/// Reads on for a while before a connection is closed on a client that is still sending: closed at
/// once, it would be reset, and the answer lost with it before the client has read it.
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
    // Time is up, or it is done: closed either way.
    let _in_time = timeout(LINGER, drained).await.is_ok();
}

async fn preflight(session: &mut Session, context: &Context) -> Result<()> {
    let mut response = ResponseHeader::build(StatusCode::NO_CONTENT, Some(8))?;
    if let Some(cors) = &context.tariff.cors {
        cors.expose(&mut response, context.origin.as_deref())?;
        Cors::answer_preflight(&mut response, &session.req_header().headers)?;
    }
    session.write_response_header(Box::new(response), true).await
}

/// Keeps the connection although the request's body was not read, where what is left of it is
/// bounded and small; else Pingora closes it.
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

/// What a request is answered whose upstream failed.
pub(super) struct Failure {
    status: StatusCode,
    /// Nothing where an answer has begun: all that is left is to cut it off.
    answer: Option<Answer>,
}

/// The answer to a request whose upstream failed; nothing where nobody is left to answer.
pub(super) fn failure(session: &Session, context: &mut Context, error: &Error) -> Option<Failure> {
    let status = status_of(error)?;
    if session.response_written().is_some() {
        return Some(Failure { status, answer: None });
    }
    let priced = context.admission.as_ref().and_then(|it| it.priced.as_ref());
    let message = match priced {
        Some(_) => {
            "the upstream gave no answer; the use was given back: send the same request again with \
             the PAYMENT-CAPABILITY of this answer"
        }
        None => "the upstream gave no answer",
    };
    let mut answer = plain(status, "upstream_failed", message);
    if let Some(priced) = priced {
        answer.headers = super::forward::receipt(priced, false);
    }
    context.outcome = Outcome::UpstreamFailed;
    Some(Failure { status, answer: Some(answer) })
}

impl Failure {
    /// Answers; gives the status, 0 where the client is gone.
    pub(super) async fn send(self, session: &mut Session, context: &Context) -> u16 {
        let sent = match self.answer {
            Some(answer) => send(session, context, answer).await,
            None => Ok(()),
        };
        if sent.is_ok() { self.status.as_u16() } else { 0 }
    }
}

/// The status for an error; nothing where the client is gone.
fn status_of(error: &Error) -> Option<StatusCode> {
    let timeouts = [ErrorType::ReadTimedout, ErrorType::WriteTimedout, ErrorType::ConnectTimedout];
    if let ErrorType::HTTPStatus(code) = error.etype() {
        return Some(StatusCode::from_u16(*code).unwrap_or(StatusCode::BAD_GATEWAY));
    }
    match error.esource() {
        ErrorSource::Downstream if *error.etype() == ErrorType::InvalidHTTPHeader => {
            Some(StatusCode::BAD_REQUEST)
        }
        ErrorSource::Downstream => None,
        ErrorSource::Upstream if timeouts.contains(error.etype()) => Some(StatusCode::GATEWAY_TIMEOUT),
        ErrorSource::Upstream => Some(StatusCode::BAD_GATEWAY),
        ErrorSource::Internal | ErrorSource::Unset => Some(StatusCode::INTERNAL_SERVER_ERROR),
    }
}
