//! An MCP server's endpoint behind the gateway: each call at its price, the body read by everybody in
//! one way and forwarded as it came.

mod bodies;
mod in_result;
mod prices;
mod receipts;
mod sales;

use faregate::x402::{NanoOffer, NanoOffers};
use reqwest::{Client, Response};
use serde_json::{Value, json};

use crate::rig::{Plan, Rig, header};
use crate::scripted::{Reply, Scripted};

const ROUTES: &str = r#"
  - match: "POST /mcp"
    name: tools
    upstream: api
    grants: { requests: 3, within: 1h }
    mcp:
      body: 4 KiB
      methods: { initialize: free, ping: free, "tools/list": free, "tools/call": 5 raw, "resources/*": 2 raw }
      tools: { search: 10 raw, "render-*": 100 raw, render-small: 20 raw, secret: refuse, help: free }
  - { match: "POST /signed", upstream: api, mechanisms: [nanoSignature], mcp: { tools: { search: 1 raw } } }
  - { match: "GET /mcp", upstream: api, free: true }
"#;

const LIMITS: &str = "limits: { bodies: 16 KiB, body_time: 30s }";

/// A gateway whose upstream answers with the body that reached it.
async fn scene() -> Rig {
    scene_with(ROUTES).await
}

async fn scene_with(routes: &str) -> Rig {
    let answer = |seen: &crate::scripted::Seen| Reply::Http {
        status: 200,
        headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
        body: seen.body.clone(),
    };
    let plan = Plan {
        routes: routes.to_owned(),
        more: LIMITS.to_owned(),
        answer: Box::new(answer),
        ..Plan::default()
    };
    Rig::with(plan).await
}

/// A call of `tool`, as a client writes it.
fn tool(tool: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": tool, "arguments": { "q": "ä" } } })
}

fn method(method: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": "a", "method": method })
}

/// Calls an endpoint that has `ping` free and `tools/call` priced, at `origin`, whatever the version of
/// HTTP is that `client` speaks.
pub(crate) async fn over(client: &Client, origin: &str, upstream: &Scripted) {
    let url = format!("{origin}/mcp");
    let post = |body: Vec<u8>| client.post(&url).header("Content-Type", "application/json").body(body).send();
    let most = faregate::config::MAX_BODY;
    let mut longest = method("ping").to_string().into_bytes();
    longest.resize(most, b' ');
    for body in [method("ping").to_string().into_bytes(), longest.clone()] {
        assert_eq!(post(body.clone()).await.unwrap().status(), 200);
        assert_eq!(upstream.seen().pop().unwrap().body, body);
    }
    let before = upstream.seen().len();
    longest.push(b' ');
    for (body, status) in [
        (longest, 413),
        (tool("a").to_string().into_bytes(), 402),
        (b"{}".to_vec(), 400),
        (method("other").to_string().into_bytes(), 403),
    ] {
        assert_eq!(post(body).await.unwrap().status(), status);
    }
    assert_eq!(upstream.seen().len(), before);
    for method in [reqwest::Method::GET, reqwest::Method::HEAD] {
        let published = client.request(method, format!("{origin}/openapi.json")).send().await.unwrap();
        assert_eq!(
            (published.status().as_u16(), header(&published, "content-type")),
            (200, "application/json")
        );
    }
}

async fn post(rig: &Rig, body: impl Into<reqwest::Body>, headers: &[(&str, &str)]) -> Response {
    let mut request = rig.http.post(format!("{}/mcp", rig.url)).header("Content-Type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).send().await.unwrap()
}

/// The `nanoTxn` offer for a call.
async fn offer(rig: &Rig, call: &Value) -> NanoOffer {
    let answer = post(rig, call.to_string(), &[]).await;
    assert_eq!(answer.status(), 402, "{call}");
    let offers = NanoOffers::from_header(header(&answer, "payment-required")).unwrap();
    offers.offers.into_iter().next().unwrap()
}
