//! What is taken off and put on a request and its answer on their way through.

use http::HeaderName;
use http::header::{CACHE_CONTROL, CONNECTION, HOST, HeaderMap, HeaderValue, UPGRADE, VARY};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Result, Session};

use super::{Admission, Context, Priced};
use crate::cashier::How;
use crate::nano::Network;
use crate::x402::{self, Credential, SettlementResponse};

/// An upstream's own word that a request is not to be charged for.
const CHARGE: &str = "faregate-charge";

/// Rewrites a request for the upstream: the canonical target, nothing of the payment, and what the
/// gateway vouches for in place of whatever the client claimed.
pub(super) fn request(session: &Session, request: &mut RequestHeader, admission: &Admission) -> Result<()> {
    let chosen = admission.chosen.as_ref();
    let base_path = chosen.map_or("", |it| it.base_path.as_str());
    request.set_raw_path(format!("{base_path}{}", admission.target.as_str()).as_bytes())?;
    strip(&mut |name| request.remove_header(name), &session.req_header().headers, is_stopped_on_the_way_in);
    if !asks_for_websocket(&session.req_header().headers) {
        for name in [UPGRADE, CONNECTION] {
            let _removed = request.remove_header(&name).is_some();
        }
    }
    let host = session.req_header().headers.get(HOST).cloned();
    if let Some(host) = &host {
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
        request.insert_header("X-Payment-Route", intent.route.as_str())?;
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
    let names = response.headers.clone();
    strip(&mut |name| response.remove_header(name), &names, is_stopped_on_the_way_out);
    if let (Some(cors), Some(origin)) = (&context.tariff.cors, &context.origin) {
        cors.expose(response, origin)?;
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
    response.append_header(VARY, "PAYMENT-SIGNATURE, PAYMENT-CAPABILITY")?;
    Ok(())
}

/// The headers that tell a client what it has: the capability, and with a payment its receipt.
/// `counts` says whether this answer takes a use.
pub(super) fn receipt(priced: &Priced, counts: bool) -> Vec<(&'static str, String)> {
    let admitted = &priced.admitted;
    let held = admitted.taken.held();
    let (record, intent) = (held.record(), held.intent());
    let remaining = held.remaining().saturating_add(u32::from(!counts));
    let token = admitted.token.expose();
    let mut headers = vec![(
        "PAYMENT-CAPABILITY",
        format!("{token}; remaining={remaining}; expires={}", record.expires_at),
    )];
    if admitted.how == How::Paid {
        let capability = x402::Capability {
            token: Credential::new(token.to_owned()),
            remaining: u64::from(remaining),
            expires: record.expires_at,
        };
        let outcome = x402::Outcome::Settled {
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

/// Removes every header whose name, in its plainest spelling, `stops`.
fn strip<T>(remove: &mut dyn FnMut(&HeaderName) -> Option<T>, headers: &HeaderMap, stops: fn(&str) -> bool) {
    for name in headers.keys() {
        // Many servers read `_` and `-` as one; header names arrive in lower case.
        if stops(&name.as_str().replace('_', "-")) {
            let _removed = remove(name).is_some();
        }
    }
}

/// The one protocol that a connection may change to. In a tunnel of HTTP/2 every path of the
/// upstream could be asked for, and nobody would send a bill.
fn asks_for_websocket(headers: &HeaderMap) -> bool {
    let mut asked = headers.get_all(UPGRADE).iter();
    let websocket = |it: &HeaderValue| it.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket");
    asked.next().is_some_and(websocket) && asked.next().is_none()
}

/// Payment headers, old and new, whatever the gateway itself puts on, and those by which an
/// upstream might take another method or path than the one that was judged.
fn is_stopped_on_the_way_in(name: &str) -> bool {
    const STARTS: [&str; 5] = ["payment-", "x-payment", "x-x402", "faregate-", "x-original-ur"];
    const NAMES: [&str; 11] = [
        "payment",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "forwarded",
        "x-real-ip",
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x-rewrite-url",
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
    let mut directives = vec!["private".to_owned()];
    let given = headers.get_all(CACHE_CONTROL).iter().filter_map(|it| it.to_str().ok());
    for directive in given.flat_map(|it| it.split(',')).map(str::trim).filter(|it| !it.is_empty()) {
        let name = directive.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !["public", "s-maxage", "private", "proxy-revalidate"].contains(&name.as_str()) {
            directives.push(directive.to_owned());
        }
    }
    HeaderValue::from_str(&directives.join(", ")).unwrap_or(HeaderValue::from_static("private"))
}
