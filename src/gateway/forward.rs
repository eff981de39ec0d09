//! Headers that are removed from and added to a forwarded request and its answer.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST,
    HeaderMap, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE, VARY,
};
use http::{HeaderName, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Result, Session};

use super::client::Caller;
use super::context::{Context, Forwarding};
use super::reply::value;
use super::tariff::extend_list;
use super::{grpc, preflight, redirect};
use crate::admission::{AnswerTraits, Charge};
use crate::cashier::{Admitted, How};
use crate::listen::forwarded::parts;
use crate::nano::Network;
use crate::payment::Purchase;
use crate::payment::capability::CapabilityText;
use crate::routes::{Left, is_own_header};
use crate::store::capabilities::CachedCapability;
use crate::x402::{self, Credential, SettlementResponse};

/// With `no`, an upstream says that its answer is not to be charged for.
const CHARGE: HeaderName = HeaderName::from_static("faregate-charge");

/// Says that an answer was given before.
pub(super) const REPLAYED: &str = "Idempotent-Replayed";

/// The request headers that an answer depends on.
pub(super) const VARIES_BY: &str =
    "PAYMENT-SIGNATURE, PAYMENT-CAPABILITY, X-PAYMENT, X-PAYMENT-BLOCK, X-PAYMENT-SESSION";

/// Headers that content delivery networks prefer to `Cache-Control`. No shared cache may keep a paid
/// answer.
const SHARED_CACHES: [&str; 5] = [
    "cdn-cache-control",
    "surrogate-control",
    "cloudflare-cdn-cache-control",
    "vercel-cdn-cache-control",
    "x-accel-expires",
];

/// Rewrites a request for the upstream: the canonical target, no payment headers, and the gateway's own
/// statements in place of the client's.
pub(super) fn request(
    session: &Session,
    request: &mut RequestHeader,
    forwarding: &Forwarding,
    caller: &Caller,
    body_is_read: bool,
) -> Result<()> {
    let chosen = forwarding.chosen.as_ref();
    let base_path = chosen.map_or("", |it| it.url.base_path.as_str());
    let seen = forwarding.seen();
    if !base_path.is_empty() {
        request.set_raw_path(format!("{base_path}{seen}").as_bytes())?;
    } else if request.raw_path() != seen.as_bytes() || request.uri.authority().is_some() {
        // Otherwise it came as it goes on.
        request.set_raw_path(seen.as_bytes())?;
    }
    if body_is_read || !forwarding.has_body {
        // The client was told to go on before, or there is nothing to go on with.
        let _removed = request.remove_header(&EXPECT).is_some();
    }
    let headers = &session.req_header().headers;
    let auth = forwarding.upstream.auth();
    let is_auth = |name: &str| auth.is_some_and(|(own, _)| plainest(name) == plainest(own.as_str()));
    let stops = |name: &str| is_own_header(&plainest(name)) || is_other_spelling(name) || is_auth(name);
    for name in headers.keys().filter(|it| stops(it.as_str())) {
        let _removed = request.remove_header(name).is_some();
    }
    let upgrades = !forwarding.is_preflight && asks_for_websocket(headers);
    if !upgrades {
        for name in [&UPGRADE, &CONNECTION] {
            let _removed = request.remove_header(name).is_some();
        }
    }
    if forwarding.is_preflight {
        preflight::request(request);
    }
    if request.version != Version::HTTP_2 && forwarding.goes_alone(&request.method) && !upgrades {
        // Neither side uses the connection again.
        request.insert_header(CONNECTION, "close")?;
    }
    if request.version == Version::HTTP_2 && grpc::is_call(session.req_header()) {
        // Servers of gRPC refuse a client that may not understand trailers.
        request.insert_header(TE, "trailers")?;
    }
    caller.state(session.req_header(), |name, text| request.insert_header(name, text))?;
    if let Some(strip) = &forwarding.strip {
        request.insert_header("X-Forwarded-Prefix", strip.as_str())?;
    }
    if let Some(own) = chosen.and_then(|it| it.host.as_ref()) {
        request.insert_header(HOST, own)?;
    }
    if let Some((name, value)) = auth {
        request.insert_header(name, value)?;
    }
    if let Some(admitted) = forwarding.admission.admitted() {
        let said = &admitted.said;
        request.insert_header("X-Payment-Payer", value(said.payer())?)?;
        request.insert_header("X-Payment-Transaction", value(said.block())?)?;
        request.insert_header("X-Payment-Amount", value(said.amount())?)?;
        request.insert_header("X-Payment-Route", admitted.taken.held().record().route.configured())?;
    }
    Ok(())
}

/// Rewrites an answer to `request` for the client. Returns whether it is charged for.
pub(super) fn response(
    request: &RequestHeader,
    response: &mut ResponseHeader,
    context: &mut Context,
) -> Result<Charge> {
    if context.forwarding.as_ref().is_some_and(|it| it.is_preflight) {
        return preflight::response(response).map(|()| Charge::Excused);
    }
    let is_excused =
        response.headers.get(CHARGE).is_some_and(|it| it.as_bytes().trim_ascii().eq_ignore_ascii_case(b"no"));
    interim(response);
    redirect::rewrite(response, request, context)?;
    if let Some(cors) = &context.tariff.cors {
        cors.expose(response, context.origin.as_deref())?;
    }
    vary_by_price(response, context)?;
    let Some(Forwarding { admission, target, .. }) = &context.forwarding else { return Ok(Charge::Excused) };
    let is_free = admission.admitted().is_none();
    let redirects =
        (!is_free || context.unbilled.is_some()) && redirect::leads_to_a_price(response, target, context);
    let Some(admitted) = admission.admitted() else {
        let Some(unbilled) = &mut context.unbilled else { return Ok(Charge::Excused) };
        let charge = unbilled.judge(grpc::judged(response), AnswerTraits { is_excused, redirects });
        if charge == Charge::Redirected {
            empty(response)?;
        }
        let (name, text) = unbilled.header();
        response.insert_header(name, value(text)?)?;
        // The next client may have to pay.
        keep_private(response)?;
        return Ok(charge);
    };
    let charge = admission.judge(grpc::judged(response), AnswerTraits { is_excused, redirects });
    if charge == Charge::Redirected {
        empty(response)?;
    }
    for name in stopped(&response.headers, |it| it.eq_ignore_ascii_case(REPLAYED)) {
        let _not_the_upstreams_to_say = response.remove_header(&name).is_some();
    }
    for (name, text) in receipt_of(admitted, charge == Charge::Taken).headers() {
        response.insert_header(name, value(text)?)?;
    }
    keep_private(response)?;
    Ok(charge)
}

/// Keeps an answer out of shared caches.
fn keep_private(response: &mut ResponseHeader) -> Result<()> {
    let cache_control = private(&response.headers);
    response.insert_header(CACHE_CONTROL, cache_control)?;
    for name in stopped(&response.headers, |it| SHARED_CACHES.contains(&it)) {
        let _removed = response.remove_header(&name);
    }
    extend_list(response, VARY, VARIES_BY)
}

/// Removes from an answer, final or not, what only the gateway may say.
pub(super) fn interim(response: &mut ResponseHeader) {
    for name in stopped(&response.headers, is_stopped_on_the_way_out) {
        let _removed = response.remove_header(&name).is_some();
    }
}

/// Removes from an answer's trailers what only the gateway may say.
pub(super) fn trailers(trailers: &mut HeaderMap) {
    for name in stopped(trailers, is_stopped_on_the_way_out) {
        let _removed = trailers.remove(&name).is_some();
    }
}

/// Announces an empty body, in place of one that is not charged for. The body is dropped as it comes.
fn empty(response: &mut ResponseHeader) -> Result<()> {
    for name in [TRANSFER_ENCODING, CONTENT_ENCODING, CONTENT_TYPE] {
        let _removed = response.remove_header(&name);
    }
    response.insert_header(CONTENT_LENGTH, 0)
}

/// Names the headers on which the price of this URL depends: no cache may give the answer to a request that
/// costs something else.
pub(super) fn vary_by_price(response: &mut ResponseHeader, context: &Context) -> Result<()> {
    if context.varies_by.is_empty() { Ok(()) } else { extend_list(response, VARY, &context.varies_by) }
}

/// The receipt of an admitted request, whose answer is `charged` for or not.
pub(super) fn receipt_of(admitted: &Admitted, charged: bool) -> Receipt {
    let unspent = if charged { 0 } else { admitted.taken.reserved() };
    receipt((admitted.taken.held(), admitted.purchase()), &admitted.said, admitted.how, unspent)
}

/// The headers that say what a client has.
pub(super) struct Receipt {
    capability: Bytes,
    /// What it paid.
    payment: Option<Bytes>,
}

impl Receipt {
    pub(super) fn headers(self) -> impl Iterator<Item = (&'static str, Bytes)> {
        let payment = self.payment.map(|it| ("PAYMENT-RESPONSE", it));
        std::iter::once(("PAYMENT-CAPABILITY", self.capability)).chain(payment)
    }
}

/// The headers that say what a client has: its capability, and with a payment what it paid. What is `unspent`
/// comes back to what is left.
pub(super) fn receipt(
    (held, purchase): (&CachedCapability, &Purchase),
    said: &CapabilityText,
    how: How,
    unspent: u128,
) -> Receipt {
    let left = Left::new(held.record().unit, held.remaining().saturating_add(unspent));
    let (token, expires) = (said.token(), said.valid_until(held.expires_at()));
    let (mut amount, mut until) = (itoa::Buffer::new(), itoa::Buffer::new());
    let amount = match left {
        Left::Uses(uses) => amount.format(uses),
        Left::Balance(raw) => amount.format(raw.get()),
    };
    let parts = [
        token.as_ref(),
        b"; ",
        left.name().as_bytes(),
        b"=",
        amount.as_bytes(),
        b"; expires=",
        until.format(expires.0).as_bytes(),
    ];
    let capability = parts.concat().into();
    if how != How::Paid {
        return Receipt { capability, payment: None };
    }
    let notice = x402::CapabilityNotice {
        token: Credential::new(String::from_utf8_lossy(&token).into_owned()),
        left,
        expires,
    };
    let outcome = x402::SettlementOutcome::Settled {
        transaction: purchase.block,
        payer: purchase.payer,
        amount: purchase.amount,
        capability: Some(notice),
    };
    let response =
        SettlementResponse { network: Network::Mainnet, outcome, extensions: serde_json::Map::new() };
    Receipt { capability, payment: Some(response.to_header().into()) }
}

/// The headers that `stops` names, in their plainest spelling.
fn stopped(headers: &HeaderMap, stops: fn(&str) -> bool) -> Vec<HeaderName> {
    headers.keys().filter(|name| stops(&plainest(name.as_str()))).cloned().collect()
}

/// Many servers read `_` and `-` as the same. Header names arrive in lower case.
fn plainest(name: &str) -> Cow<'_, str> {
    if name.contains('_') { Cow::Owned(name.replace('_', "-")) } else { Cow::Borrowed(name) }
}

/// Whether the answer may be quiet for long: a WebSocket, a stream of events, or gRPC.
pub(super) fn may_be_quiet(headers: &HeaderMap) -> bool {
    let names = |name, what: &str| {
        // `*/*` and the like need no closer look.
        let long = headers.get_all(name).iter().filter(|it| it.len() >= what.len());
        let mut values = long.filter_map(|it| it.to_str().ok());
        values.any(|it| it.to_ascii_lowercase().contains(what))
    };
    asks_for_websocket(headers)
        || names(ACCEPT, "text/event-stream")
        || names(CONTENT_TYPE, "application/grpc")
}

/// Whether the connection asks to change to WebSocket, the only protocol that is let through. A tunnel
/// of HTTP/2 could ask for every path of the upstream without a bill.
pub(super) fn asks_for_websocket(headers: &HeaderMap) -> bool {
    let mut asked = headers.get_all(UPGRADE).iter();
    let websocket = |it: &HeaderValue| it.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket");
    asked.next().is_some_and(websocket) && asked.next().is_none()
}

/// Other spellings of headers that say where the body ends or what it is. The gateway does not read them;
/// a server that takes `_` for `-` may.
fn is_other_spelling(name: &str) -> bool {
    const STARTS: [&str; 2] = ["content-", "mcp-"];
    const NAMES: [&str; 7] =
        ["connection", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding"];
    let plain = plainest(name);
    plain != name && (STARTS.iter().any(|it| plain.starts_with(it)) || NAMES.contains(&&*plain))
}

/// Headers that only the gateway may send to a client.
fn is_stopped_on_the_way_out(name: &str) -> bool {
    const STARTS: [&str; 4] = ["payment-", "x-payment-", "x-x402", "faregate-"];
    const NAMES: [&str; 3] = ["settlement-overrides", "x-payment", "x-request-id"];
    STARTS.iter().any(|it| name.starts_with(it)) || NAMES.contains(&name)
}

/// `Cache-Control` of a paid answer: for this client only, and otherwise as the upstream says.
fn private(headers: &HeaderMap) -> HeaderValue {
    const PRIVATE: HeaderValue = HeaderValue::from_static("private");
    if !headers.contains_key(CACHE_CONTROL) {
        return PRIVATE;
    }
    let mut kept = vec!["private"];
    let given = headers.get_all(CACHE_CONTROL).iter().filter_map(|it| it.to_str().ok());
    for directive in given.flat_map(|it| parts(it, ',')) {
        let name = directive.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !["public", "s-maxage", "private", "proxy-revalidate"].contains(&name.as_str()) {
            kept.push(directive);
        }
    }
    HeaderValue::from_str(&kept.join(", ")).unwrap_or(PRIVATE)
}

#[cfg(test)]
mod tests {
    use super::super::scenes::{forwarding, session};
    use super::super::upstream::Server;
    use super::*;
    use crate::config::UpstreamUrl;

    /// What goes to an upstream for a request with this head.
    fn sent(head: &str, version: Version, forwarding: &Forwarding, body_is_read: bool) -> RequestHeader {
        let session = session(head);
        let mut to_upstream = session.req_header().clone();
        to_upstream.set_version(version);
        request(&session, &mut to_upstream, forwarding, &Caller::default(), body_is_read).unwrap();
        to_upstream
    }

    #[test]
    fn other_spellings_of_what_frames_a_body_are_known() {
        for name in ["content_length", "transfer_encoding", "keep_alive", "mcp_method"] {
            assert!(is_other_spelling(name), "{name}");
        }
        for name in ["content-length", "transfer-encoding", "host", "x_content_length", "te"] {
            assert!(!is_other_spelling(name), "{name}");
        }
    }

    #[test]
    fn a_client_is_told_to_go_on_by_who_reads_its_body() {
        let head = "POST /a/b?q=1 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n";
        for (has_body, body_is_read, expects) in
            [(true, false, true), (true, true, false), (false, false, false)]
        {
            let forwarding = forwarding("url: http://a", has_body);
            let sent = sent(head, Version::HTTP_11, &forwarding, body_is_read);
            assert_eq!(sent.headers.contains_key(EXPECT), expects, "{has_body} {body_is_read}");
        }
    }

    #[test]
    fn only_websocket_is_asked_for_and_a_connection_that_is_not_shared_ends() {
        let asks = |protocol: &str| {
            format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n")
        };
        let connection = |head: &str, version, forwarding: &Forwarding| {
            let sent = sent(head, version, forwarding, false);
            sent.headers.get(CONNECTION).map(|it| it.to_str().unwrap().to_owned())
        };
        let (usual, alone) = (forwarding("url: http://a", false), forwarding("url: http://a", true));
        assert_eq!(connection(&asks("websocket"), Version::HTTP_11, &usual).as_deref(), Some("Upgrade"));
        assert_eq!(connection(&asks("websocket"), Version::HTTP_11, &alone).as_deref(), Some("Upgrade"));
        assert_eq!(connection(&asks("h2c"), Version::HTTP_11, &usual), None);
        assert_eq!(connection(&asks("h2c"), Version::HTTP_11, &alone).as_deref(), Some("close"));
        assert_eq!(connection(&asks("h2c"), Version::HTTP_2, &alone), None, "a stream is nobody else's");
        let preflight = Forwarding { is_preflight: true, ..usual };
        assert_eq!(connection(&asks("websocket"), Version::HTTP_11, &preflight), None);
    }

    #[test]
    fn servers_of_grpc_hear_that_trailers_are_read() {
        let head = |kind: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\n\r\n");
        let usual = forwarding("url: http://a", true);
        let te = |kind, version| sent(&head(kind), version, &usual, false).headers.contains_key(TE);
        assert!(te("application/grpc", Version::HTTP_2));
        assert!(!te("application/grpc", Version::HTTP_11));
        assert!(!te("text/plain", Version::HTTP_2));
    }

    #[test]
    fn a_server_is_asked_below_its_base_path_and_by_its_name() {
        let peer = pingora::prelude::HttpPeer::new(("127.0.0.1", 1), false, String::new());
        let url = UpstreamUrl { tls: false, host: "a".to_owned(), port: 80, base_path: "/base".to_owned() };
        let chosen = Server { peer, url, host: Some(HeaderValue::from_static("inner.example")) };
        let forwarding = Forwarding { chosen: Some(chosen.into()), ..forwarding("url: http://a", false) };
        let head = "GET /a/b?q=1 HTTP/1.1\r\nHost: shop.example\r\nPayment_Signature: x\r\nX-Own: 1\r\n\r\n";
        let sent = sent(head, Version::HTTP_11, &forwarding, false);
        assert_eq!(sent.raw_path(), b"/base/a/b?q=1");
        assert_eq!(sent.headers[HOST], "inner.example");
        assert_eq!(sent.headers["x-own"], "1");
        assert!(!sent.headers.contains_key("payment_signature"), "in no spelling");
    }

    #[test]
    fn an_upstream_cannot_say_what_the_gateway_says() {
        let mut head = ResponseHeader::build(200, None).unwrap();
        let mut last = HeaderMap::new();
        for name in ["payment-response", "x_payment_block", "x-request-id", "x_request_id", "x-own"] {
            let value = "1";
            head.insert_header(name, value).unwrap();
            last.insert(name, HeaderValue::from_static(value));
        }
        interim(&mut head);
        trailers(&mut last);
        for headers in [&head.headers, &last] {
            let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
            assert_eq!(names, ["x-own"]);
        }
    }

    #[test]
    fn a_body_that_is_not_charged_for_is_announced_as_empty() {
        let mut head = ResponseHeader::build(302, None).unwrap();
        let fields = [("transfer-encoding", "chunked"), ("content-type", "text/html"), ("location", "/b")];
        for (name, value) in fields {
            head.insert_header(name, value).unwrap();
        }
        empty(&mut head).unwrap();
        assert_eq!(head.headers[CONTENT_LENGTH], "0");
        assert_eq!((head.headers.len(), &head.headers["location"]), (2, &HeaderValue::from_static("/b")));
    }

    #[test]
    fn a_stream_may_be_quiet() {
        let quiet = |fields: &[(&'static str, &'static str)]| {
            let pair = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            let headers = fields.iter().map(pair);
            may_be_quiet(&HeaderMap::from_iter(headers))
        };
        assert!(quiet(&[("accept", "application/json, Text/Event-Stream")]));
        assert!(quiet(&[("content-type", "application/grpc+proto")]));
        assert!(quiet(&[("upgrade", " WebSocket ")]));
        assert!(!quiet(&[("accept", "application/json"), ("content-type", "text/event-stream")]));
        assert!(!quiet(&[("upgrade", "h2c")]) && !quiet(&[]));
        let mut headers = HeaderMap::new();
        for _ in 0..2 {
            let _was_there = headers.append(UPGRADE, HeaderValue::from_static("websocket"));
        }
        assert!(!asks_for_websocket(&headers));
    }
}
