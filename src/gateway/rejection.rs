//! Why a request is rejected before any payment that came with it is looked at.

use std::num::NonZeroU64;

use http::StatusCode;
use http::header::{ALLOW, RETRY_AFTER};
use pingora::prelude::{Error, Result};

use super::reply::{Reply, come_again, plain};
use crate::cashier::Wait;
use crate::metrics::{Outcome, ReachedLimit};
use crate::payment::Refusal;
use crate::payment::derived::NotOpened;
use crate::x402::payment_identifier::BadIdentifier;

/// The methods that RFC 9110 names and that are forwarded, if a route says so.
const ALLOWED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Why a request is rejected. Nothing was charged.
#[derive(Debug)]
pub(super) enum Rejection {
    /// It cannot be read, or two servers could read it in two ways.
    Unreadable(String),
    /// What it shows to be served cannot be read: a payment, or a capability.
    UnreadablePayment(String),
    NotFound,
    /// A body that its method has none of.
    UndueBody,
    /// `TRACE`: the upstream would show what the gateway has added for it alone.
    Untraceable,
    /// `Expect` asks for something else than `100-continue`.
    UnknownExpectation,
    /// What it calls is not for sale, or has no price.
    NotOffered(String),
    /// Its body is of a kind that cannot be priced by what it calls.
    UnsupportedBody(&'static str),
    /// Its body is longer than this many bytes.
    BodyTooLong(usize),
    BodyTooSlow,
    /// The route is not for this client.
    ClientNotAllowed,
    /// What this account pays opens nothing here.
    PayerNotAllowed,
    /// The route's own limit is reached. The request may come again after so many seconds.
    TooOften(NonZeroU64),
    /// A limit is reached. The same request may come again.
    Overloaded(ReachedLimit),
    /// The client is gone, or its framing is broken.
    Lost(Box<Error>),
    /// The route takes only payments with a payment identifier, and none came.
    NoIdentifier,
    BadIdentifier(BadIdentifier),
    /// The route's upstream is not configured.
    NoUpstream,
    /// A token is asked about that is none.
    NotHeld(NotOpened),
}

impl Rejection {
    pub(super) const fn outcome(&self) -> Outcome {
        match self {
            Self::Overloaded(_) | Self::TooOften(_) => Outcome::Unavailable,
            Self::NoUpstream => Outcome::UpstreamFailed,
            Self::Unreadable(_)
            | Self::UnreadablePayment(_)
            | Self::NotFound
            | Self::UndueBody
            | Self::Untraceable
            | Self::UnknownExpectation
            | Self::NotOffered(_)
            | Self::UnsupportedBody(_)
            | Self::BodyTooLong(_)
            | Self::BodyTooSlow
            | Self::ClientNotAllowed
            | Self::PayerNotAllowed
            | Self::Lost(_)
            | Self::NoIdentifier
            | Self::BadIdentifier(_)
            | Self::NotHeld(_) => Outcome::Refused,
        }
    }

    /// The answer; an error if no client is left to answer.
    pub(super) fn reply(self) -> Result<Reply> {
        Ok(match self {
            Self::Unreadable(why) | Self::UnreadablePayment(why) => {
                plain(StatusCode::BAD_REQUEST, "bad_request", why)
            }
            // Never a 402: nothing is for sale there.
            Self::NotHeld(why) => not_held(&why),
            Self::NotFound => {
                plain(StatusCode::NOT_FOUND, "not_found", "no route of this gateway matches the request")
            }
            Self::UndueBody => plain(
                StatusCode::BAD_REQUEST,
                "undue_body",
                "GET, HEAD, DELETE, OPTIONS and TRACE have no body here: send the request without one",
            ),
            Self::Untraceable => {
                let why =
                    "TRACE is not forwarded: its answer would repeat what the gateway tells the upstream";
                let mut reply = plain(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", why);
                reply.headers.push((ALLOW.as_str(), ALLOWED.into()));
                reply
            }
            Self::UnknownExpectation => plain(
                StatusCode::EXPECTATION_FAILED,
                "unknown_expectation",
                "the only expectation that is known is `Expect: 100-continue`",
            ),
            Self::NotOffered(fault) => plain(StatusCode::FORBIDDEN, "not_offered", fault),
            Self::UnsupportedBody(why) => plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_body", why),
            Self::BodyTooLong(bound) => {
                let why = format!("a body of at most {bound} bytes is taken here");
                plain(StatusCode::PAYLOAD_TOO_LARGE, "body_too_long", why)
            }
            Self::BodyTooSlow => {
                plain(StatusCode::REQUEST_TIMEOUT, "body_too_slow", "the body did not arrive in time")
            }
            Self::ClientNotAllowed => {
                plain(StatusCode::FORBIDDEN, "client_not_allowed", "this route is not for this client")
            }
            Self::PayerNotAllowed => plain(
                StatusCode::FORBIDDEN,
                "payer_not_allowed",
                "this route is not for this account: nothing was charged, do not pay; ask the operator about what \
                 was sent already",
            ),
            Self::TooOften(after) => {
                let why =
                    "too many requests: nothing was charged, send the same request again after Retry-After";
                let mut reply = plain(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", why);
                reply.headers.push((RETRY_AFTER.as_str(), after.to_string().into()));
                reply
            }
            Self::Overloaded(_) => come_again(&Wait::Overloaded),
            Self::Lost(error) => return Err(error),
            Self::NoIdentifier => plain(
                StatusCode::BAD_REQUEST,
                "payment_identifier_required",
                "this route takes only payments with an id: put 16 to 128 characters of A-Z, a-z, 0-9, _ and - \
                 in extensions.payment-identifier.info.id of the payload; nothing was charged",
            ),
            Self::BadIdentifier(why) => plain(
                StatusCode::BAD_REQUEST,
                "payment_identifier_invalid",
                format!("{why}; nothing was charged"),
            ),
            Self::NoUpstream => {
                plain(StatusCode::BAD_GATEWAY, "upstream_unknown", "the route's upstream is not configured")
            }
        })
    }
}

/// Nothing is said of this token.
fn not_held(why: &NotOpened) -> Reply {
    let status = if *why == NotOpened::Unknown { StatusCode::NOT_FOUND } else { StatusCode::BAD_REQUEST };
    plain(status, why.refusal().map_or("bad_request", Refusal::code), why.to_string())
}
