//! What is taken off and put on a request and its answer on their way through.

use std::borrow::Cow;

use http::HeaderName;
use http::header::{CACHE_CONTROL, CONNECTION, EXPECT, HOST, HeaderMap, HeaderValue, UPGRADE, VARY};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Result, Session};

use super::tariff::extend_list;
use super::{Admission, Context, Priced};
use crate::cashier::How;
use crate::nano::Network;
use crate::payment::capability::Token;
use crate::store::capabilities::CachedCapability;
use crate::x402::{self, Credential, SettlementResponse};

/// An upstream's own word that a request is not to be charged for.
const CHARGE: &str = "faregate-charge";

/// The request headers by which an answer differs.
pub(super) const VARIES_BY: &str =
    "PAYMENT-SIGNATURE, PAYMENT-CAPABILITY, X-PAYMENT, X-PAYMENT-BLOCK, X-PAYMENT-SESSION";

/// What content delivery networks go by before `Cache-Control`. A paid answer is for no shared cache.
const SHARED_CACHES: [&str; 5] = [
    "cdn-cache-control",
    "surrogate-control",
    "cloudflare-cdn-cache-control",
    "vercel-cdn-cache-control",
    "x-accel-expires",
];

/// Rewrites a request for the upstream: the canonical target, nothing of the payment, and what the
/// gateway vouches for in place of whatever the client claimed.
pub(super) fn request(
    session: &Session,
    request: &mut RequestHeader,
    admission: &Admission,
    body_is_read: bool,
) -> Result<()> {
    let chosen = admission.chosen.as_ref();
    let base_path = chosen.map_or("", |it| it.base_path.as_str());
    request.set_raw_path(format!("{base_path}{}", admission.target.as_str()).as_bytes())?;
    if body_is_read {
        // The client was told to go on already.
        let _removed = request.remove_header(&EXPECT).is_some();
    }
    for name in stopped(&session.req_header().headers, is_stopped_on_the_way_in) {
        let _removed = request.remove_header(&name).is_some();
    }
    if !asks_for_websocket(&session.req_header().headers) {
        for name in [UPGRADE, CONNECTION] {
            let _removed = request.remove_header(&name).is_some();
        }
    }
    let received = session.req_header();
    // HTTP/2 says it in the target.
    let host = received.headers.get(HOST).and_then(|it| it.to_str().ok());
    if let Some(host) = host.or_else(|| received.uri.authority().map(|it| it.as_str())) {
        request.insert_header("X-Forwarded-Host", host)?;
    }
    if let Some(own) = chosen.and_then(|it| it.host.as_deref()) {
        request.insert_header(HOST, own)?;
    }
    if let Some(client) = session.client_addr().and_then(|it| it.as_inet()) {
        request.insert_header("X-Forwarded-For", client.ip().to_string())?;
    }
    let secure = session.digest().is_some_and(|it| it.ssl_digest.is_some());
    request.insert_header("X-Forwarded-Proto", if secure { "https" } else { "http" })?;
    if let Some(priced) = &admission.priced {
        let intent = priced.admitted.taken.held().intent();
        request.insert_header("X-Payment-Payer", intent.payer.to_string())?;
        request.insert_header("X-Payment-Transaction", intent.block.to_string())?;
        request.insert_header("X-Payment-Amount", intent.amount.to_string())?;
        request.insert_header("X-Payment-Route", intent.route.configured())?;
    }
    Ok(())
}

/// Rewrites an answer for the client, and notes whether it counts.
pub(super) fn response(response: &mut ResponseHeader, context: &mut Context) -> Result<()> {
    if response.status.is_informational() && response.status != http::StatusCode::SWITCHING_PROTOCOLS {
        return Ok(());
    }
    let excused =
        response.headers.get(CHARGE).is_some_and(|it| it.as_bytes().trim_ascii().eq_ignore_ascii_case(b"no"));
    for name in stopped(&response.headers, is_stopped_on_the_way_out) {
        let _removed = response.remove_header(&name).is_some();
    }
    if let Some(cors) = &context.tariff.cors {
        cors.expose(response, context.origin.as_deref())?;
    }
    let Some(priced) = context.admission.as_mut().and_then(|it| it.priced.as_mut()) else { return Ok(()) };
    let status = response.status.as_u16();
    let counts = !excused && priced.charge_on.charges(status);
    priced.counts = Some(counts);
    for (name, value) in receipt(priced, counts) {
        response.insert_header(name, value)?;
    }
    let cache_control = private(&response.headers);
    response.insert_header(CACHE_CONTROL, cache_control)?;
    for name in SHARED_CACHES {
        let _removed = response.remove_header(name);
    }
    extend_list(response, VARY, VARIES_BY)
}

/// The headers that tell a client what it has: the capability, and with a payment its receipt.
/// `counts` says whether this answer takes a use.
pub(super) fn receipt(priced: &Priced, counts: bool) -> Vec<(&'static str, String)> {
    let admitted = &priced.admitted;
    told(admitted.taken.held(), &admitted.token, admitted.how, u32::from(!counts))
}

/// The same for what a payment bought, of which `unspent` uses come back to what is left.
pub(super) fn told(
    held: &CachedCapability,
    token: &Token,
    how: How,
    unspent: u32,
) -> Vec<(&'static str, String)> {
    let (record, intent) = (held.record(), held.intent());
    let remaining = held.remaining().saturating_add(unspent);
    let token = token.expose();
    let mut headers = vec![(
        "PAYMENT-CAPABILITY",
        format!("{token}; remaining={remaining}; expires={}", record.expires_at),
    )];
    if how == How::Paid {
        let capability = x402::CapabilityNotice {
            token: Credential::new(token.to_owned()),
            remaining: u64::from(remaining),
            expires: record.expires_at,
        };
        let outcome = x402::SettlementOutcome::Settled {
            transaction: intent.block,
            payer: intent.payer,
            amount: intent.amount,
            capability: Some(capability),
        };
        let response =
            SettlementResponse { network: Network::Mainnet, outcome, extensions: serde_json::Map::new() };
        headers.push(("PAYMENT-RESPONSE", response.to_header()));
    }
    headers
}

/// The headers whose name, in its plainest spelling, `stops`.
fn stopped(headers: &HeaderMap, stops: fn(&str) -> bool) -> Vec<HeaderName> {
    headers.keys().filter(|name| stops(&plainest(name.as_str()))).cloned().collect()
}

/// Many servers read `_` and `-` as one; header names arrive in lower case.
fn plainest(name: &str) -> Cow<'_, str> {
    if name.contains('_') { Cow::Owned(name.replace('_', "-")) } else { Cow::Borrowed(name) }
}

/// The one protocol that a connection may change to. In a tunnel of HTTP/2 every path of the
/// upstream could be asked for, and nobody would send a bill.
fn asks_for_websocket(headers: &HeaderMap) -> bool {
    let mut asked = headers.get_all(UPGRADE).iter();
    let websocket = |it: &HeaderValue| it.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket");
    asked.next().is_some_and(websocket) && asked.next().is_none()
}

/// Payment headers, old and new; whatever the gateway itself puts on; and what some servers take for
/// the request's address, path or method in place of those that were matched and paid for.
fn is_stopped_on_the_way_in(name: &str) -> bool {
    const STARTS: [&str; 6] = ["payment-", "x-payment", "x-x402", "faregate-", "x-forwarded-", "x-original-"];
    const NAMES: [&str; 8] = [
        "payment",
        "forwarded",
        "x-real-ip",
        "x-rewrite-url",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "http2-settings",
    ];
    STARTS.iter().any(|it| name.starts_with(it)) || NAMES.contains(&name)
}

/// What only the gateway may tell a client.
fn is_stopped_on_the_way_out(name: &str) -> bool {
    const STARTS: [&str; 4] = ["payment-", "x-payment-", "x-x402", "faregate-"];
    const NAMES: [&str; 2] = ["settlement-overrides", "x-payment"];
    STARTS.iter().any(|it| name.starts_with(it)) || NAMES.contains(&name)
}

/// `Cache-Control` of a paid answer: for this client only, otherwise as the upstream wants it.
fn private(headers: &HeaderMap) -> HeaderValue {
    let mut kept = vec!["private"];
    let given = headers.get_all(CACHE_CONTROL).iter().filter_map(|it| it.to_str().ok());
    for directive in given.flat_map(directives) {
        let name = directive.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !["public", "s-maxage", "private", "proxy-revalidate"].contains(&name.as_str()) {
            kept.push(directive);
        }
    }
    HeaderValue::from_str(&kept.join(", ")).unwrap_or(HeaderValue::from_static("private"))
}

/// What stands between the commas that are not within quotes.
fn directives(value: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let parts = value.split(move |character| {
        quoted ^= character == '"';
        character == ',' && !quoted
    });
    parts.map(str::trim).filter(|it| !it.is_empty())
}
