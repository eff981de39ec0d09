//! Headers that stop at the gateway, those that it puts on, and what other origins may see.

use super::wire::{Answer, Wire};
use super::{ROOMY, bought, played, roomy};
use crate::rig::{Plan, Rig, header};
use crate::scripted::{Reply, Seen};

#[tokio::test]
async fn no_spelling_of_a_payment_header_reaches_the_upstream() {
    let (rig, token) = roomy().await;
    let credential = format!("PAYMENT-CAPABILITY: {token}");
    let stopped = [
        "Payment_Signature",
        "PAYMENT_capability",
        "payment-required",
        "payment-response",
        "payment-identifier",
        "X_PAYMENT",
        "X-Payment_Block",
        "X-PAYMENT-SESSION",
        "x-payment-payer",
        "X_Payment-Transaction",
        "x-payment-amount",
        "X_PAYMENT_ROUTE",
        "X-x402",
        "x_X402_version",
        "Payment-Retry",
        "Payment-Recovery",
        "Payment",
        "Faregate-Charge",
        "faregate_anything",
    ];
    let lines: Vec<String> = stopped.iter().map(|name| format!("{name}: forged")).collect();
    let mut wire = Wire::open(&rig.url).await;
    for (target, first) in [("/v1/search/x", credential.as_str()), ("/free/x", "X-Nothing: 1")] {
        let mut headers = vec![first, "Connection: X-Payment-Payer, X-Whatever", "X-Whatever: forged"];
        headers.extend(lines.iter().map(String::as_str));
        wire.ask(&format!("GET {target}"), &headers).await;
        assert_eq!(wire.answer().await.status, 200, "{target}");
        let seen = rig.upstream.seen().pop().unwrap();
        let left: Vec<_> = seen.headers().iter().filter(|(_, value)| value.contains("forged")).collect();
        assert!(left.is_empty(), "{target}: {left:?}");
        let paid = target.starts_with("/v1");
        let payments: Vec<_> =
            seen.headers().iter().filter(|(name, _)| name.to_lowercase().contains("payment")).collect();
        assert_eq!(payments.len(), if paid { 4 } else { 0 }, "{payments:?}");
        if paid {
            let payer = rig.payer(1, crate::rig::PLENTY).account().to_string();
            assert_eq!(seen.header("x-payment-payer"), Some(payer.as_str()));
            assert_eq!(seen.header("x-payment-amount"), Some("1"));
            assert_eq!(seen.header("x-payment-route"), Some("roomy"));
            assert_eq!(seen.header("x-payment-transaction").unwrap().len(), 64);
        }
        assert!(!format!("{seen:?}").contains(&token));
    }
    drop(wire);
    rig.end().await;
}

#[tokio::test]
async fn an_upstream_cannot_speak_for_the_gateway() {
    let (rig, mut upstream, token) = played("", "", "").await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /raw/x", &[&format!("PAYMENT-CAPABILITY: {token}")]).await;
    upstream
        .play(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nPAYMENT-REQUIRED: forged\r\nPayment-Capability: forged\r\n\
             PAYMENT-RESPONSE: forged\r\nX-PAYMENT-RESPONSE: forged\r\nX-PAYMENT: forged\r\nX-x402-Price: forged\r\n\
             Settlement-Overrides: forged\r\nsettlement_overrides: forged\r\nX_Payment_Response: forged\r\n\
             Faregate-Charge: forged\r\nX-Own: stays\r\n\r\nok",
        )
        .await;
    let answer = wire.answer().await;
    assert!(!format!("{answer:?}").contains("forged"), "{answer:?}");
    assert_eq!((answer.one("x-own"), answer.remaining()), ("stays", 8));
    drop(wire);
    rig.end().await;
}

fn directives(answer: &Answer) -> Vec<String> {
    answer.one("cache-control").split(',').map(|it| it.trim().to_owned()).collect()
}

#[tokio::test]
async fn a_paid_answer_is_for_its_payer_alone() {
    let (rig, mut upstream, token) = played("", "", "").await;
    let credential = format!("PAYMENT-CAPABILITY: {token}");
    let mut wire = Wire::open(&rig.url).await;
    for (given, expected) in [
        ("", vec!["private"]),
        ("Cache-Control: public, max-age=60, s-maxage=600\r\n", vec!["private", "max-age=60"]),
        ("Cache-Control: PUBLIC\r\nCache-Control: S-MaxAge = 5, no-store\r\n", vec!["private", "no-store"]),
        ("Cache-Control: private, max-age=5\r\nVary: Accept\r\n", vec!["private", "max-age=5"]),
        ("Cache-Control: private=\"X-Secret, public\", max-age=5\r\n", vec!["private", "max-age=5"]),
    ] {
        wire.ask("GET /raw/x", &[&credential]).await;
        upstream.play(&format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{given}\r\nok")).await;
        let answer = wire.answer().await;
        assert_eq!(directives(&answer), expected, "{given}");
        let vary = answer.all("vary").join(", ");
        assert!(vary.contains("PAYMENT-SIGNATURE") && vary.contains("PAYMENT-CAPABILITY"), "{vary}");
        assert_eq!(vary.contains("Accept"), given.contains("Vary"));
    }
    // CDNs go by headers of their own before they look at the standard one.
    wire.ask("GET /raw/x", &[&credential]).await;
    upstream
        .play(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCDN-Cache-Control: max-age=60\r\nSurrogate-Control: max-age=60\r\n\
             Cloudflare-CDN-Cache-Control: public\r\nExpires: Thu, 01 Jan 2099 00:00:00 GMT\r\n\r\nok",
        )
        .await;
    let answer = wire.answer().await;
    for name in ["cdn-cache-control", "surrogate-control", "cloudflare-cdn-cache-control"] {
        assert!(answer.all(name).is_empty(), "{answer:?}");
    }
    drop(wire);
    rig.end().await;
}

const PAGE: &str = "https://app.example.com";

async fn with_origins(
    origins: &str,
    answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
) -> (Rig, String) {
    let more = format!("cors: {{ origins: {origins} }}");
    let plan = Plan { more, routes: ROOMY.to_owned(), answer: Box::new(answer), ..Plan::default() };
    let rig = Rig::with(plan).await;
    let token = bought(&rig, "/v1/search/bought").await;
    (rig, token)
}

/// Whether `name` stands exactly once among the comma-separated values of a header.
fn lists(answer: &Answer, header: &str, name: &str) -> bool {
    let all = answer.all(header).join(",");
    all.split(',').filter(|it| it.trim().eq_ignore_ascii_case(name)).count() == 1
}

#[tokio::test]
async fn an_allowed_origin_reads_bills_and_answers_and_another_does_not() {
    let (rig, token) = with_origins(&format!("[{PAGE}]"), |_| Reply::text(200, "ok")).await;
    let credential = format!("PAYMENT-CAPABILITY: {token}");
    let mut wire = Wire::open(&rig.url).await;
    for (line, credential, status) in [
        ("GET /v1/search/x", "X-Nothing: 1", 402),
        ("GET /v1/search/x", &credential, 200),
        ("GET /free/x", "X-Nothing: 1", 200),
    ] {
        wire.ask(line, &[credential, &format!("Origin: {PAGE}")]).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.one("access-control-allow-origin")), (status, PAGE));
        for exposed in [
            "PAYMENT-REQUIRED",
            "PAYMENT-RESPONSE",
            "PAYMENT-CAPABILITY",
            "Retry-After",
            "X-Request-Id",
            "Faregate-Allowance",
            "Faregate-Shadow",
            "Idempotent-Replayed",
        ] {
            assert!(lists(&answer, "access-control-expose-headers", exposed), "{answer:?}");
        }
        assert!(lists(&answer, "vary", "origin"), "{answer:?}");
        for other in
            ["https://evil.example", "https://app.example.com.evil.test", "null", "http://app.example.com"]
        {
            wire.ask(line, &[credential, &format!("Origin: {other}")]).await;
            let answer = wire.answer().await;
            assert_eq!(answer.status, status);
            assert!(answer.all("access-control-allow-origin").is_empty(), "{other}: {answer:?}");
            // A cache must not hand this answer to the page that is allowed, nor the other way round.
            assert!(lists(&answer, "vary", "origin"), "{answer:?}");
        }
    }
    drop(wire);
    rig.end().await;
}

#[tokio::test]
async fn any_origin_may_be_allowed() {
    let (rig, _) = with_origins("any", |_| Reply::text(200, "ok")).await;
    let answer = rig.get("/v1/search/x", &[("Origin", "https://whoever.example")]).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "access-control-allow-origin")), (402, "*"));
    let refused = rig.get("/v1/search/x", &[("Origin", PAGE), ("PAYMENT-SIGNATURE", "%%%")]).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "access-control-allow-origin")), (400, "*"));
    rig.end().await;
}

#[tokio::test]
async fn a_true_preflight_is_answered_and_never_billed() {
    let (rig, _) = with_origins(&format!("[{PAGE}]"), |_| Reply::text(200, "ok")).await;
    let before = rig.upstream.seen().len();
    let mut wire = Wire::open(&rig.url).await;
    let page = format!("Origin: {PAGE}");
    let asks = "Access-Control-Request-Headers: payment-signature, access-control-expose-headers, x-own, content-type";
    for target in ["/v1/search/x", "/free/x", "/nowhere"] {
        wire.ask(&format!("OPTIONS {target}"), &[&page, "Access-Control-Request-Method: POST", asks]).await;
        let answer = wire.head().await;
        assert_eq!((answer.status, answer.one("access-control-allow-origin")), (204, PAGE), "{target}");
        assert!(lists(&answer, "access-control-allow-methods", "POST"));
        for allowed in [
            "PAYMENT-SIGNATURE",
            "PAYMENT-CAPABILITY",
            "Access-Control-Expose-Headers",
            "X-Own",
            "Content-Type",
        ] {
            assert!(lists(&answer, "access-control-allow-headers", allowed), "{allowed} in {answer:?}");
        }
        assert!(answer.all("payment-required").is_empty());
    }
    assert_eq!(rig.upstream.seen().len(), before, "the gateway answers by itself");
    // Not preflights: a page could send them, so they cost what the route costs.
    for headers in [vec![page.as_str()], vec!["Access-Control-Request-Method: GET"], vec![]] {
        wire.ask("OPTIONS /v1/search/x", &headers).await;
        assert_eq!(wire.answer().await.status, 402, "{headers:?}");
    }
    drop(wire);
    rig.end().await;
}

#[tokio::test]
async fn the_upstreams_own_cors_headers_do_not_contradict_the_gateways() {
    let answer = |_: &Seen| {
        Reply::text(200, "ok")
            .with("Access-Control-Allow-Origin", "https://elsewhere.example")
            .with("Access-Control-Allow-Credentials", "true")
            .with("Access-Control-Expose-Headers", "X-Own, PAYMENT-RESPONSE")
            .with("Vary", "Origin, Accept")
    };
    for (origins, expected) in [(format!("[{PAGE}]"), PAGE), ("any".to_owned(), "*")] {
        let (rig, token) = with_origins(&origins, answer).await;
        let mut wire = Wire::open(&rig.url).await;
        wire.ask("GET /v1/search/x", &[&format!("PAYMENT-CAPABILITY: {token}"), &format!("Origin: {PAGE}")])
            .await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.one("access-control-allow-origin")), (200, expected));
        for exposed in ["X-Own", "PAYMENT-RESPONSE", "PAYMENT-CAPABILITY"] {
            assert!(lists(&answer, "access-control-expose-headers", exposed), "{exposed} in {answer:?}");
        }
        for varies in ["Origin", "Accept", "PAYMENT-SIGNATURE"] {
            assert!(lists(&answer, "vary", varies), "{varies} in {answer:?}");
        }
        // No browser takes credentials together with `*`.
        assert_eq!(answer.all("access-control-allow-credentials").is_empty(), expected == "*");
        drop(wire);
        rig.end().await;
    }
}
