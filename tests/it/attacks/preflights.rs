//! Attacks by what a browser asks before a request: a preflight is free, so it must lead nowhere.

use serde_json::json;

use crate::proxy::wire::{Answer, Wire};
use crate::rig::{Plan, Rig};
use crate::scripted::{Reply, Seen};

const PAGE: &str = "Origin: https://page.example";
const ASKS: &str = "Access-Control-Request-Method: GET";

/// What one route is sold for, another only for one method, and an MCP server.
const ROUTES: &str = r#"
  - { name: report, match: "/report", upstream: api, price: 1 raw }
  - { name: read, match: "GET /thing/{id}", upstream: api, price: 1 raw }
  - { match: "POST /thing/{id}", upstream: api, free: true }
  - match: "POST /mcp"
    name: tools
    upstream: api
    mcp: { methods: { initialize: free }, tools: { find: 1 raw, drop: refuse } }
  - { match: "GET /mcp", upstream: api, free: true }
  - { match: "/free/**", upstream: api, free: true }
  - { name: asked, match: "/asked", upstream: api, price: 1 raw, preflight: upstream }
  - { name: here, match: "/here", upstream: api, price: 1 raw, preflight: gateway }
  - { name: with, match: "/with", upstream: api, price: 1 raw, preflight: upstream, body: allow }
"#;

/// An upstream that looks at the path alone, as many handlers do.
fn careless(seen: &Seen) -> Reply {
    Reply::text(200, &format!("the report at {}", seen.path))
        .with("Access-Control-Allow-Origin", "https://page.example")
        .with("Access-Control-Allow-Credentials", "true")
        .with("Access-Control-Allow-Methods", "GET, PUT")
        .with("Access-Control-Max-Age", "7")
        .with("Allow", "GET, OPTIONS")
        .with("Vary", "Origin")
        .with("X-Report", "secret")
        .with("Set-Cookie", "secret=1")
        .with("ETag", "\"secret\"")
}

async fn house(more: &str, routes: &str) -> Rig {
    let (more, routes) = (more.to_owned(), routes.to_owned());
    Rig::with(Plan { more, routes, answer: Box::new(careless), ..Plan::default() }).await
}

/// Routes that say nothing about preflights.
fn plain() -> String {
    ROUTES.lines().filter(|it| !it.contains("preflight")).collect::<Vec<_>>().join("\n")
}

async fn preflight(rig: &Rig, path: &str, headers: &[&str]) -> Answer {
    let mut wire = Wire::open(&rig.url).await;
    let mut all = vec![PAGE];
    all.extend(headers);
    wire.ask(&format!("OPTIONS {path}"), &all).await;
    wire.head().await
}

/// `OPTIONS /report` with the two headers of a preflight gave the priced report.
#[tokio::test]
async fn a_preflight_is_no_way_to_what_has_a_price() {
    let rig = house("", &plain()).await;
    for (path, asks) in [
        ("/report", "GET"),
        ("/REPORT/", "GET"),
        ("/%72eport", "POST"),
        ("/report", "BREW"),
        ("/thing/1", "GET"),
        ("/thing/1", "HEAD"),
        // Free for POST: the upstream may not look at the method.
        ("/thing/1", "POST"),
        ("/thing/1", "BREW"),
        ("/mcp", "POST"),
        ("/mcp", "GET"),
    ] {
        let answer = preflight(&rig, path, &[&format!("Access-Control-Request-Method: {asks}")]).await;
        assert_eq!(answer.status, 204, "{path} for {asks}");
        assert!(answer.all("access-control-allow-origin").is_empty(), "no page is allowed: {answer:?}");
        assert!(answer.all("x-report").is_empty());
    }
    assert_eq!(rig.upstream.seen().len(), 0, "{:?}", rig.upstream.seen());
    rig.end().await;
}

/// A call of a tool that is not for sale ran as the body of a preflight.
#[tokio::test]
async fn a_preflight_carries_no_call() {
    for routes in [plain(), ROUTES.to_owned()] {
        let rig = house("", &routes).await;
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "drop"}})
            .to_string();
        for path in ["/mcp", "/report", "/free/x", "/asked", "/with"] {
            let mut wire = Wire::open(&rig.url).await;
            let length = format!("Content-Length: {}", call.len());
            wire.ask(&format!("OPTIONS {path}"), &[PAGE, ASKS, "Content-Type: application/json", &length])
                .await;
            wire.send(&call).await;
            let answer = wire.answer().await;
            assert_eq!(answer.status, 400, "{path}");
            assert_eq!(answer.json()["error"], "undue_body", "{path}");
        }
        assert_eq!(rig.upstream.seen().len(), 0);
        rig.end().await;
    }
}

#[tokio::test]
async fn a_free_path_has_its_upstreams_preflights() {
    let rig = house("", ROUTES).await;
    let answer = preflight(&rig, "/free/x", &[ASKS]).await;
    assert_eq!((answer.status, answer.one("x-report")), (200, "secret"));
    let seen = rig.upstream.seen().pop().unwrap();
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("OPTIONS", "/free/x"));
    rig.end().await;
}

#[tokio::test]
async fn an_upstream_that_is_asked_says_who_may_come_and_nothing_else() {
    for (more, path) in [("", "/asked"), ("", "/with"), ("preflight: upstream", "/report")] {
        let rig = house(more, ROUTES).await;
        let mut wire = Wire::open(&rig.url).await;
        wire.ask(&format!("OPTIONS {path}"), &[PAGE, ASKS, "Upgrade: websocket", "Connection: upgrade"])
            .await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}");
        assert_eq!(answer.one("access-control-allow-origin"), "https://page.example");
        assert_eq!(answer.one("access-control-allow-credentials"), "true");
        assert_eq!(answer.one("access-control-max-age"), "7");
        assert_eq!((answer.one("allow"), answer.one("vary")), ("GET, OPTIONS", "Origin"));
        for secret in ["x-report", "set-cookie", "etag", "payment-required"] {
            assert!(answer.all(secret).is_empty(), "{secret}");
        }
        let seen = rig.upstream.seen();
        assert_eq!((seen.len(), seen[0].method.as_str(), seen[0].path.as_str()), (1, "OPTIONS", path));
        assert!(seen[0].body.is_empty() && seen[0].header("upgrade").is_none());
        // The connection goes on behind it.
        wire.ask("GET /free/y", &[]).await;
        assert_eq!(wire.answer().await.text(), "the report at /free/y");
        // What is no preflight costs what the route costs.
        wire.ask(&format!("OPTIONS {path}"), &[PAGE]).await;
        assert_eq!(wire.answer().await.status, 402);
        drop(wire);
        // One route may say otherwise than the whole gateway.
        assert_eq!(preflight(&rig, "/here", &[ASKS]).await.status, 204);
        rig.end().await;
    }
}

#[tokio::test]
async fn credentials_are_allowed_to_those_origins_that_are_named() {
    let cors = "cors: { origins: [\"https://page.example\"], credentials: true }";
    let rig = house(cors, ROUTES).await;
    let answer = preflight(&rig, "/report", &[ASKS]).await;
    assert_eq!((answer.status, answer.one("access-control-allow-origin")), (204, "https://page.example"));
    assert_eq!(answer.one("access-control-allow-credentials"), "true");
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /report", &[PAGE]).await;
    let bill = wire.answer().await;
    assert_eq!((bill.status, bill.one("access-control-allow-credentials")), (402, "true"));
    wire.ask("GET /report", &["Origin: https://elsewhere.example"]).await;
    assert!(wire.answer().await.all("access-control-allow-credentials").is_empty());
    drop(wire);
    rig.end().await;
}
