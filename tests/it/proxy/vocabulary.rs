//! The gateway's words in an upstream's mouth: a client believes them, so they do not pass.

use super::wire::Wire;
use super::{OK, played, requests};
use crate::logs::Logs;
use crate::metrics::Uses;
use crate::patience::eventually;

/// A bill of the upstream's own, as another gateway before it would send it.
const BILL: &str = "HTTP/1.1 402 X\r\nContent-Length: 12\r\nPAYMENT-REQUIRED: e30=\r\n\
                    PAYMENT-RESPONSE: e30=\r\nWWW-Authenticate: L402 invoice=\"x\"\r\nRetry-After: 9\r\n\r\n{\"theirs\":1}";

/// Regression: it passed as a bill of the gateway's, and took the use.
#[tokio::test]
async fn an_upstreams_own_bill_is_a_failure_on_a_priced_route() {
    for route in ["", ", charge_on: answered"] {
        let logs = Logs::keep();
        let (rig, mut upstream, token) = played("", route, "").await;
        let credential = format!("PAYMENT-CAPABILITY: {token}");
        for line in ["GET /raw/x", "GET /raw/x", "HEAD /raw/x"] {
            let mut wire = Wire::open(&rig.url).await;
            wire.ask(line, &[&credential]).await;
            upstream.play(BILL).await;
            let answer = if line.starts_with("GET") { wire.answer().await } else { wire.head().await };
            assert_eq!((answer.status, answer.remaining()), (502, 9), "{line}{route}");
            for name in ["payment-required", "payment-response", "www-authenticate", "retry-after"] {
                assert!(answer.all(name).is_empty(), "{name} of {answer:?}");
            }
            if !answer.body.is_empty() {
                assert_eq!(answer.json()["error"], "upstream_payment_required");
            }
        }
        let said = logs.text();
        assert_eq!(said.matches("asks for money of its own").count(), 1, "said once: {said}");
        let mut wire = Wire::open(&rig.url).await;
        wire.ask("GET /raw/x", &[&credential]).await;
        upstream.play(OK).await;
        assert_eq!(wire.answer().await.remaining(), 8, "the use was there");
        eventually("counted", || async {
            Uses::of(&rig, "raw") == Uses { committed: 2, given_back: 3 }
                && requests(&rig, "raw", "upstream_failed") == 3
        })
        .await;
        rig.end().await;
    }
}

#[tokio::test]
async fn an_upstreams_own_bills_are_rationed_as_other_failures_are() {
    let (rig, mut upstream, token) = played("", "", "").await;
    let credential = format!("PAYMENT-CAPABILITY: {token}");
    for _ in 0..5 {
        let mut wire = Wire::open(&rig.url).await;
        wire.ask("POST /raw/x", &[&credential, "Content-Length: 2"]).await;
        wire.send("{}").await;
        upstream.play(BILL).await;
        assert_eq!(wire.answer().await.json()["error"], "upstream_payment_required");
    }
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /raw/x", &[&credential]).await;
    let refused = wire.answer().await;
    assert_eq!((refused.status, refused.json()["error"].as_str()), (503, Some("upstream_failing")));
    assert!(upstream.is_idle());
    rig.end().await;
}

/// Nothing was paid here, so whoever asks may pay there. But not by the gateway's means.
#[tokio::test]
async fn an_upstreams_own_bill_passes_on_a_free_route_without_the_gateways_headers() {
    let (rig, mut upstream, _) = played("", "", "unmatched: { upstream: raw, free: true }\n").await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /elsewhere", &[]).await;
    upstream.play(BILL).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.text()), (402, "{\"theirs\":1}"));
    assert_eq!(answer.one("www-authenticate"), "L402 invoice=\"x\"");
    assert!(answer.all("payment-required").is_empty() && answer.all("payment-response").is_empty());
    rig.end().await;
}

#[tokio::test]
async fn interim_answers_do_not_say_what_only_the_gateway_may_say() {
    let (rig, mut upstream, token) = played("", "", "").await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /raw/x", &[&format!("PAYMENT-CAPABILITY: {token}")]).await;
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\nPAYMENT-REQUIRED: e30=\r\n\
                 PAYMENT-CAPABILITY: stolen\r\nX-Request-Id: x\r\nX_Request_Id: x\r\n\r\n";
    let replayed = "Idempotent-Replayed: true\r\nIdempotent_Replayed: true\r\n";
    upstream.play(&format!("{hints}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{replayed}\r\nok")).await;
    let first = wire.head().await;
    assert_eq!((first.status, first.one("link")), (103, "</style.css>"));
    for name in ["payment-required", "payment-capability", "x-request-id", "x_request_id"] {
        assert!(first.all(name).is_empty(), "{first:?}");
    }
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.remaining()), (200, 8));
    for name in ["idempotent-replayed", "idempotent_replayed"] {
        assert!(answer.all(name).is_empty(), "it was not given before: {answer:?}");
    }
    rig.end().await;
}
