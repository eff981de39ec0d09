//! Reads a request: is it canonical, which route is it, what is on it. Then asks the cashier.

use std::sync::Arc;

use http::header::{HOST, ORIGIN, TRANSFER_ENCODING};
use http::{Method, Version};
use pingora::prelude::Session;

use super::identified::{self, Request, Unidentified, Unnamed};
use super::{Context, session as nano_session};
use crate::cashier::{Ask, Cashier, Presented, Proof, Verdict};
use crate::ledger::Ledger;
use crate::payment::Refusal;
use crate::routes::{AbsoluteTarget, Access, CanonicalTarget, Found, NotCanonical, Route, RouteName};
use crate::store::Store;
use crate::x402::{self, PaymentPayload};

use super::calls::{self, Turned, Ware};
use super::discovery::Document;
use super::tariff::Unmatched;

/// The payment's proof; the second name is that of x402's first version.
const PROOF_HEADERS: [&str; 2] = ["payment-signature", "x-payment"];
const CAPABILITY_HEADER: &str = "payment-capability";

/// What is to be done with a request.
#[derive(Debug)]
pub(super) enum Decision {
    /// Forward it unpaid.
    Free {
        upstream: crate::routes::UpstreamName,
        target: CanonicalTarget,
    },
    /// Forward it, answer a bill, or have it come again, as the cashier says.
    Priced(Box<Sale>),
    /// Answer with what is published about the prices.
    Document(Arc<Document>),
    /// Answer a cross-origin preflight.
    Preflight,
    /// It cannot be read.
    Unreadable(String),
    /// What it calls has no price.
    Turned(Turned),
    /// Its payment identifier cannot be used.
    Unidentified(Unidentified),
    NotFound,
}

/// A request to a priced route, and the verdict on it.
#[derive(Debug)]
pub(super) struct Sale {
    pub(super) route: Arc<Route>,
    pub(super) target: CanonicalTarget,
    pub(super) verdict: Verdict,
    /// What exactly is wrong with a payment header that was refused as malformed.
    pub(super) detail: Option<String>,
}

/// Decides a request, and notes its route and origin in the context.
pub(super) async fn decide<L: Ledger, S: Store>(
    cashier: &Cashier<L, S>,
    session: &mut Session,
    context: &mut Context,
) -> Decision {
    context.origin = header(session, ORIGIN.as_str())
        .ok()
        .flatten()
        .filter(|origin| context.tariff.cors.as_ref().is_some_and(|cors| cors.allows(origin)));
    let target = match canonical(session) {
        Ok(target) => target,
        Err(why) => return Decision::Unreadable(why),
    };
    let method = session.req_header().method.clone();
    if let Some(document) = context.tariff.documents.find(&method, &target) {
        context.route = Some(context.tariff.documents.label.clone());
        return Decision::Document(document);
    }
    let preflight = preflight_of(session);
    if preflight.is_some() && context.origin.is_some() {
        return Decision::Preflight;
    }
    // A preflight is answered by the upstream, as the request that it prepares would be.
    let asked = preflight.as_deref().unwrap_or(method.as_str());
    let route = match context.tariff.table.find(asked, &target) {
        Found::Route(route) => Arc::clone(route),
        Found::Unmatched => {
            return match &context.tariff.unmatched {
                Unmatched::NotFound => Decision::NotFound,
                Unmatched::Free(upstream) => Decision::Free { upstream: upstream.clone(), target },
            };
        }
    };
    context.route = Some(route.name.clone());
    let sold = match &route.access {
        Access::Priced(terms) if preflight.is_none() => {
            Some(Ware { route: route.name.clone(), terms: *terms, body: None })
        }
        Access::Calls(prices) if preflight.is_none() => {
            match calls::price(session, context, &route.name, prices).await {
                Ok(sold) => sold,
                Err(turned) => return Decision::Turned(turned),
            }
        }
        Access::Priced(_) | Access::Calls(_) | Access::Free => None,
    };
    match sold {
        Some(ware) => price(cashier, session, context, route, ware, target).await,
        None => Decision::Free { upstream: route.upstream.clone(), target },
    }
}

async fn price<L: Ledger, S: Store>(
    cashier: &Cashier<L, S>,
    session: &mut Session,
    context: &mut Context,
    route: Arc<Route>,
    ware: Ware,
    target: CanonicalTarget,
) -> Decision {
    let mut under = None;
    let (presented, detail) = match presented(session, &ware.route) {
        Ok(Some((presented, extensions))) => {
            // A capability is no payment: an id beside it has nothing to make idempotent.
            if matches!(presented, Presented::Proof(_)) {
                let request = Request { route: &route, target: &target, body: ware.body };
                under = match identified::read(session, context, request, &extensions).await {
                    Ok(under) => under,
                    Err(Unnamed::Id(why)) => return Decision::Unidentified(why),
                    Err(Unnamed::Body(unread)) => return Decision::Turned(unread.into()),
                };
            }
            (presented, None)
        }
        Ok(None) => (Presented::Nothing, None),
        Err(Misread::Unreadable(why)) => return Decision::Unreadable(why),
        Err(Misread::Refused(why)) => (Presented::Refused(Refusal::MalformedPayload), Some(why)),
    };
    let client = session.client_addr().and_then(|it| it.as_inet()).map(std::net::SocketAddr::ip);
    let claim = nano_session::claim_of(&presented);
    let ask = Ask {
        route: ware.route,
        terms: ware.terms,
        metering: route.metering,
        presented,
        identified: under,
        client,
    };
    let verdict = cashier.decide(ask).await;
    let verdict = nano_session::explain(verdict, claim, || context.tariff.public_url.join(target.as_str()));
    Decision::Priced(Box::new(Sale { route, target, verdict, detail }))
}

/// The one canonical form of the request's target: it is matched and it is forwarded.
fn canonical(session: &Session) -> Result<CanonicalTarget, String> {
    let request = session.req_header();
    if request.headers.contains_key(TRANSFER_ENCODING) && had_content_length(session) {
        return Err("both Content-Length and Transfer-Encoding: the body's end is ambiguous".to_owned());
    }
    if had_fragment(session) {
        return Err(NotCanonical::Fragment.to_string());
    }
    let raw = std::str::from_utf8(request.raw_path())
        .map_err(|_| "the request target is not UTF-8: percent-encode it".to_owned())?;
    let absolute = AbsoluteTarget::split(raw);
    let hosts: Vec<_> = request.headers.get_all(HOST).iter().collect();
    let host = match hosts.as_slice() {
        [] => request.uri.authority().map(|it| it.as_str().to_owned()),
        [host] => Some(host.to_str().map_err(|_| "the Host header is not ASCII".to_owned())?.to_owned()),
        _ => return Err("more than one Host header".to_owned()),
    };
    if host.is_none() && request.version == Version::HTTP_11 {
        return Err("the Host header is missing".to_owned());
    }
    let named =
        absolute.as_ref().map(|it| it.authority).or_else(|| request.uri.authority().map(|it| it.as_str()));
    if let (Some(host), Some(named)) = (&host, named)
        && !host.eq_ignore_ascii_case(named)
    {
        return Err(format!("the target is for {named:?}, the Host header says {host:?}"));
    }
    let target = absolute.as_ref().map_or(raw, |it| it.target.as_ref());
    CanonicalTarget::parse(target).map_err(|error| error.to_string())
}

/// Whether the request as received had a length too. Pingora drops it beside an encoding and goes
/// on; who stands before or behind might have gone by it.
fn had_content_length(session: &Session) -> bool {
    session.as_http1().is_some_and(|session| {
        session.get_headers_raw_bytes().split(|&byte| byte == b'\n').any(|line| {
            let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
            name.trim_ascii().eq_ignore_ascii_case(b"content-length")
        })
    })
}

/// Whether the target as received had a fragment. Pingora cuts it off unsaid; who stands before
/// might have matched the whole.
fn had_fragment(session: &Session) -> bool {
    session.as_http1().is_some_and(|session| {
        let line = session.get_headers_raw_bytes();
        let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
        line.iter().skip_while(|&&byte| byte != b' ').any(|&byte| byte == b'#')
    })
}

/// The method that a true preflight asks for.
fn preflight_of(session: &Session) -> Option<String> {
    let request = session.req_header();
    if request.method != Method::OPTIONS || !request.headers.contains_key(ORIGIN) {
        return None;
    }
    header(session, "access-control-request-method").ok().flatten()
}

/// The one value of a header, if it is there at all.
fn header(session: &Session, name: &str) -> Result<Option<String>, String> {
    let mut values = session.req_header().headers.get_all(name).iter();
    let (first, more) = (values.next(), values.next());
    match (first, more) {
        (None, _) => Ok(None),
        (Some(value), None) => value
            .to_str()
            .map(|it| Some(it.to_owned()))
            .map_err(|_| format!("the {name} header is not ASCII")),
        (Some(_), Some(_)) => Err(format!("more than one {name} header: send one")),
    }
}

type Extensions = serde_json::Map<String, serde_json::Value>;

/// Why a payment header cannot be used.
enum Misread {
    /// Nothing can be made of it: 400.
    Unreadable(String),
    /// It is an envelope, with something wrong in it: 402.
    Refused(String),
}

/// What came along, and the extensions of its envelope.
fn presented(session: &Session, route: &RouteName) -> Result<Option<(Presented, Extensions)>, Misread> {
    for name in PROOF_HEADERS {
        if let Some(value) = header(session, name).map_err(Misread::Unreadable)? {
            let payload = PaymentPayload::from_header(&value).map_err(|error| match error {
                x402::Malformed::Unreadable(why) => Misread::Unreadable(format!("{name}: {why}")),
                x402::Malformed::Refused(why) => Misread::Refused(format!("{name}: {why}")),
            })?;
            let presented = match payload.presented {
                x402::Payload::Payment(payment) => Presented::Proof(Box::new(Proof::from(*payment))),
                x402::Payload::Access { credential } => Presented::Token(credential.expose().to_owned()),
            };
            return Ok(Some((presented, payload.extensions)));
        }
    }
    if let Some(block) = header(session, nano_session::BLOCK_HEADER).map_err(Misread::Unreadable)? {
        let told = header(session, nano_session::SESSION_HEADER).map_err(Misread::Unreadable)?;
        let read = nano_session::read(&block, told.as_deref(), route).map_err(Misread::Refused)?;
        return Ok(Some((read, Extensions::new())));
    }
    let token = header(session, CAPABILITY_HEADER).map_err(Misread::Unreadable)?;
    if token.as_ref().is_some_and(|it| it.len() > x402::MAX_HEADER_BYTES) {
        return Err(Misread::Unreadable(format!("{CAPABILITY_HEADER}: too long")));
    }
    Ok(token.map(|token| (Presented::Token(token), Extensions::new())))
}
