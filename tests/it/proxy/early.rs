//! Answers of the gateway's own: what they say, how large they get, what becomes of the connection.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::roomy;
use super::wire::Wire;
use crate::rig::{Plan, Rig};

/// The limit for all headers of a bill together (`src/guide/protocol.md`, "The exchange").
const MOST_HEADERS: usize = 4096;

#[tokio::test]
async fn a_bill_keeps_the_connection() {
    let (rig, token) = roomy().await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /v1/search/x", &[]).await;
    assert_eq!(wire.answer().await.status, 402);
    wire.ask("POST /v1/search/x", &["Content-Length: 5"]).await;
    wire.send("small").await;
    assert_eq!(wire.answer().await.status, 402);
    // A body that comes only after the bill was sent is not the next request.
    wire.ask("POST /v1/search/x", &["Content-Length: 40"]).await;
    assert_eq!(wire.answer().await.status, 402);
    wire.send("GET /v1/search/smuggled HTTP/1.1\r\n\r\n....").await;
    wire.ask("GET /v1/search/x", &[&format!("PAYMENT-CAPABILITY: {token}")]).await;
    assert_eq!(wire.answer().await.text(), "upstream saw GET /v1/search/x");
    assert!(rig.upstream.seen().iter().all(|it| !it.path.contains("smuggled")));
    drop(wire);
    rig.end().await;
}

#[tokio::test]
async fn a_body_beyond_the_bound_closes_the_connection() {
    let (rig, _) = roomy().await;
    for framing in ["Content-Length: 65537", "Content-Length: 99999999999", "Transfer-Encoding: chunked"] {
        let mut wire = Wire::open(&rig.url).await;
        wire.ask("POST /v1/search/x", &[framing]).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.one("connection")), (402, "close"), "{framing}");
        assert!(wire.rest().await.is_empty(), "{framing}: closed after the bill");
    }
    rig.end().await;
}

#[tokio::test]
async fn a_client_that_sends_a_large_body_at_once_still_gets_its_bill() {
    let (rig, _) = roomy().await;
    for size in [60_000, 1024 * 1024, 8 * 1024 * 1024] {
        for _ in 0..2 {
            let sent = rig.http.post(format!("{}/v1/search/x", rig.url)).body(vec![b'x'; size]).send().await;
            let answer = sent.unwrap_or_else(|error| panic!("{size} bytes: {error:?}"));
            assert_eq!(answer.status(), 402, "{size}");
            let body: Value = answer.json().await.unwrap();
            assert_eq!(body["error"], "PAYMENT_REQUIRED");
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn a_bill_says_the_same_in_header_and_body_and_is_kept_by_nobody() {
    let (rig, _) = roomy().await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /v1/search/x?y=z", &[]).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.one("cache-control")), (402, "no-store"));
    assert_eq!(answer.one("content-type"), "application/json");
    for name in ["PAYMENT-SIGNATURE", "PAYMENT-CAPABILITY"] {
        assert!(answer.one("vary").contains(name));
    }
    let required: Value =
        serde_json::from_slice(&STANDARD.decode(answer.one("payment-required")).unwrap()).unwrap();
    let mut body = answer.json();
    assert!(body.as_object_mut().unwrap().remove("request_id").unwrap().is_string());
    assert!(body.as_object_mut().unwrap().remove("message").unwrap().is_string());
    assert_eq!(required, body);
    assert_eq!(required["resource"]["url"], format!("{}/v1/search/x?y=z", rig.url));

    wire.ask("HEAD /v1/search/x", &[]).await;
    let head = wire.head().await;
    assert_eq!(head.status, 402);
    assert!(!head.one("payment-required").is_empty());
    // The next answer follows the head at once: there is no body between them.
    wire.ask("GET /nowhere", &[]).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.one("cache-control")), (404, "no-store"));
    wire.ask("GET /v1//x", &[]).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some("bad_request")));
    drop(wire);
    rig.end().await;
}

#[tokio::test]
async fn no_request_makes_an_answer_with_headers_that_clients_cannot_read() {
    let long_name = "n".repeat(60);
    let routes = format!(
        "  - {{ name: {long_name}, match: \"/**\", upstream: api, price: 340282366920938463463374607431768211455 raw, \
         description: \"{}\", mime_type: application/json, grants: {{ requests: 4000000, within: 30d }} }}\n",
        "d".repeat(500)
    );
    let more = "cors: { origins: any }".to_owned();
    let rig = Rig::with(Plan { routes, more, ..Plan::default() }).await;
    let mut wire = Wire::open(&rig.url).await;
    let encoded = "%C3%A4".repeat(680);
    for target in [
        format!("/{}", "a".repeat(4000)),
        format!("/{encoded}"),
        format!("/x?{}", "q".repeat(16_000)),
        format!("/{}?{}", "a".repeat(4000), "q".repeat(16_000)),
    ] {
        for header in ["Origin: https://app.example.com", "PAYMENT-CAPABILITY: bm90LWEtdG9rZW4"] {
            wire.ask(&format!("GET {target}"), &[header]).await;
            let answer = wire.answer().await;
            assert_eq!(answer.status, 402);
            assert!(answer.head < MOST_HEADERS, "{} bytes of headers", answer.head);
            let required: Value =
                serde_json::from_slice(&STANDARD.decode(answer.one("payment-required")).unwrap()).unwrap();
            let named = required["resource"]["url"].as_str().unwrap();
            let whole = format!("{}{target}", rig.url);
            assert!(whole.starts_with(named), "{named} is where {whole} begins");
            assert!(!named.ends_with(['%', '?']), "not cut in the middle: {named}");
        }
    }
    // What fits is said in full.
    let usual = format!("/search/{}?q={}", "a".repeat(300), "b".repeat(300));
    wire.ask(&format!("GET {usual}"), &[]).await;
    assert_eq!(wire.answer().await.json()["resource"]["url"], format!("{}{usual}", rig.url));
    drop(wire);
    rig.end().await;
}
