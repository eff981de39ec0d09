//! Calls that are billed and paid inside their JSON-RPC messages, as x402's MCP transport has it.

use std::time::Duration;

use faregate::devnet::DevnetOptions;
use faregate::nano::SecretKey;
use faregate::x402::{NanoOffer, NanoOffers, PaymentProof, encode_header};
use reqwest::Response;
use serde_json::{Value, json};

use super::{method, post, tool};
use crate::proxy::wire::{Played, Wire};
use crate::rig::{PLENTY, Plan, Rig, capability, header, offers};
use crate::scripted::{Reply, Seen};

pub(super) const ROUTES: &str = r#"
  - match: "POST /mcp"
    name: tools
    upstream: api
    grants: { requests: 30, within: 1h }
    payment_identifier: optional
    mcp:
      bills: result
      methods: { ping: free, "tools/call": 5 raw, "resources/*": 2 raw }
      tools: { dear: 10 raw, help: free }
"#;

/// What the server answers to a call of each tool.
pub(super) fn answer(seen: &Seen) -> Reply {
    let call = seen.json();
    let id = call["id"].to_string();
    let tool = call["params"]["name"].as_str().unwrap_or_default();
    let result =
        format!("{{\"jsonrpc\" : \"2.0\",\"id\":{id},\"result\":{{ \"n\":1.50e+2,\"content\":[]}}}}\n");
    let reply = |body: String| Reply::text(200, &body);
    let json = |body: String| reply(body).with("Content-Type", "application/json; charset=utf-8");
    match tool {
        "events" => reply(format!(
            ": ping\n\nevent: message\nid: 1\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}}\n\nevent: \
             message\r\nid: 2\r\ndata: {}\r\n\r\n: end\n\n",
            result.trim_end()
        ))
        .with("Content-Type", "text/event-stream"),
        "another-id" => json("{\"jsonrpc\":\"2.0\",\"id\":\"another\",\"result\":{}}".to_owned()),
        "fails" => json(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":-1,\"message\":\"no\"}}}}")),
        "text" => reply(result).with("Content-Type", "text/plain"),
        "compressed" => json(result).with("Content-Encoding", "gzip"),
        "error-500" => Reply::text(500, &result).with("Content-Type", "application/json"),
        "no-json" => json("{\"id\":1,".to_owned()),
        "long" => json(result.replace("[]", &format!("\"{}\"", "x".repeat(300_000)))),
        "signed" => json(result).with("Content-Digest", "sha-256=:AA==:").with("ETag", "\"a\"").with("X-Kept", "1"),
        "claims" => json(format!(
            "{{\"id\":{id},\"result\":{{\"_meta\":{{\"x402/payment-response\":{{\"success\":true,\"payer\":\"me\"}},\"k\":1}}}}}}"
        )),
        "cut" => json(result).cut(5),
        "cut-event" => {
            reply(format!("data: {}\n\n", result.trim_end())).with("Content-Type", "text/event-stream").cut(1)
        }
        "drop" => Reply::Drop,
        _ => json(result),
    }
}

pub(super) async fn scene() -> Rig {
    scene_with(ROUTES, "").await
}

pub(super) async fn scene_with(routes: &str, more: &str) -> Rig {
    let plan = Plan {
        routes: routes.to_owned(),
        more: more.to_owned(),
        answer: Box::new(answer),
        ..Plan::default()
    };
    Rig::with(plan).await
}

/// The call with this in its `_meta`.
pub(super) fn with(call: &Value, key: &str, value: &Value) -> Value {
    let mut call = call.clone();
    call["params"]["_meta"] = json!({ "progressToken": 7, key: value });
    call
}

/// The result of an answer with the status 200, and its whole JSON-RPC message.
pub(super) async fn result(answer: Response) -> Value {
    assert_eq!(answer.status(), 200);
    let message: Value = answer.json().await.unwrap();
    message["result"].clone()
}

/// The body of an answer of the gateway in a result.
pub(super) fn said(result: &Value) -> &Value {
    assert_eq!(result["isError"], true, "{result}");
    let text = result["content"][0]["text"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), result["structuredContent"]);
    &result["structuredContent"]
}

/// The `nanoTxn` offer of the bill in a result.
pub(super) fn offer_in(result: &Value) -> NanoOffer {
    let offers = NanoOffers::from_header(encode_header(said(result))).unwrap();
    offers.offers.into_iter().next().unwrap()
}

/// A payment for the call, as the JSON of a payload.
pub(super) async fn payment(rig: &Rig, key: &SecretKey, call: &Value) -> Value {
    let offer = offer_in(&result(post(rig, call.to_string(), &[]).await).await);
    let block = rig.devnet.send_block(key, offer.pay_to, offer.amount).unwrap();
    offer.answer(&PaymentProof::NanoTxn { block })
}

/// Pays for calls that cost 5 raw, and gives the capability as a result has it.
pub(super) async fn bought(rig: &Rig) -> Value {
    let paid = payment(rig, &rig.payer(0, PLENTY), &tool("search")).await;
    let answer = post(rig, with(&tool("search"), "x402/payment", &paid).to_string(), &[]).await;
    result(answer).await["_meta"]["faregate/capability"].clone()
}

#[tokio::test]
async fn an_unpaid_call_of_a_tool_is_billed_in_its_result() {
    let rig = scene().await;
    for id in ["1", "-0.50e+1", "\"\\u0061\\/\"", "18446744073709551616"] {
        let call = tool("search").to_string().replace("\"id\":1", &format!("\"id\":{id}"));
        let answer = post(&rig, call, &[("Accept", "application/json, text/event-stream")]).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "content-type")), (200, "application/json"));
        assert!(!answer.headers().contains_key("payment-required"));
        let text = answer.text().await.unwrap();
        assert!(text.starts_with(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":")), "{text}");
        let message: Value = serde_json::from_str(&text).unwrap();
        let bill = said(&message["result"]);
        assert_eq!((&bill["x402Version"], &bill["error"]), (&json!(2), &json!("PAYMENT_REQUIRED")));
        assert_eq!(bill["accepts"].as_array().unwrap().len(), 2);
        assert_eq!(bill["accepts"][0]["extra"]["route"], "tools#method:tools/call");
        assert_eq!(bill["resource"]["url"], format!("{}/mcp", rig.url));
        assert_eq!(message["result"].get("_meta"), None);
    }
    let answer = post(&rig, tool("dear").to_string(), &[("Accept", "text/event-stream")]).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "content-type")), (200, "text/event-stream"));
    let text = answer.text().await.unwrap();
    let data = text.strip_prefix("event: message\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
    let message: Value = serde_json::from_str(data).unwrap();
    assert_eq!(offer_in(&message["result"]).amount.get(), 10);

    // Nothing else has a result that could be an error.
    let notification = json!({ "jsonrpc": "2.0", "method": "tools/call", "params": { "name": "search" } });
    for call in [method("resources/read"), json!([tool("search")]), notification] {
        let answer = post(&rig, call.to_string(), &[]).await;
        assert_eq!(answer.status(), 402, "{call}");
        assert_eq!(offers(&answer).offers.len(), 2);
    }
    assert!(rig.upstream.seen().is_empty());
    let metrics = rig.services.metrics().text().unwrap();
    assert!(metrics.contains("requests_total{outcome=\"challenged\",route=\"tools\"} 8"), "{metrics}");
    rig.end().await;
}

#[tokio::test]
async fn a_payment_in_the_call_is_taken_and_the_server_sees_the_call_without_it() {
    let rig = scene().await;
    let payer = rig.payer(0, PLENTY);
    let paid = payment(&rig, &payer, &tool("search")).await;
    let text = |payment: &str| {
        format!(
            " {{\"params\" : {{\"name\":\"se\\u0061rch\",\"_meta\":{{\"a\" : 1.50e+2 , {payment}\"b\":[]}}}},\r\n\"method\":\"tools/call\",\
             \"id\":0.1,\"jsonrpc\":\"2.0\"}}\n"
        )
    };
    let sent = text(&format!("\"x402\\/payment\" :{paid} , "));
    let rest = text("");
    let answer =
        post(&rig, sent.clone(), &[("Accept-Encoding", "gzip"), ("Content-Digest", "sha-256=:AA==:")]).await;
    assert_eq!(answer.status(), 200);
    let (token, left) = capability(&answer);
    assert_eq!(left, 29);
    let receipt = Value::Object(faregate::x402::decode_header(header(&answer, "payment-response")).unwrap());
    let body = answer.text().await.unwrap();
    let begins = "{\"jsonrpc\" : \"2.0\",\"id\":0.1,\"result\":{\"_meta\":{\"x402/payment-response\":";
    assert!(body.starts_with(begins) && body.ends_with("}, \"n\":1.50e+2,\"content\":[]}}\n"), "{body}");
    let meta = serde_json::from_str::<Value>(&body).unwrap()["result"]["_meta"].clone();
    assert_eq!(meta["x402/payment-response"], receipt);
    assert_eq!(receipt["success"], true);
    let own = &meta["faregate/capability"];
    assert_eq!((&own["token"], &own["remaining"]), (&json!(token), &json!(29)));

    // Its token, or the whole object, opens the rest; the same proof too.
    let mut wire = Wire::open(&rig.url).await;
    let spaced = |value: &Value| with(&tool("search"), "faregate/capability", value).to_string();
    for (index, body) in [spaced(&json!(token)), spaced(own), sent].into_iter().enumerate() {
        let chunked = format!(
            "POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
             {:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        );
        wire.send(chunked).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.remaining()), (200, 28 - u32::try_from(index).unwrap()));
        let meta = answer.json()["result"]["_meta"].clone();
        assert_eq!(meta["faregate/capability"]["remaining"], answer.remaining(), "{meta}");
    }
    let seen = rig.upstream.seen();
    assert_eq!(String::from_utf8_lossy(&seen[0].body), rest);
    assert_eq!(seen[0].header("content-length"), Some(rest.len().to_string().as_str()));
    for name in ["accept-encoding", "content-digest", "payment-signature", "transfer-encoding"] {
        assert_eq!(seen[0].header(name), None, "{name}");
    }
    assert_eq!(seen[0].header("x-payment-amount"), Some("5"));
    let plain = with(&tool("search"), "k", &json!(0)).to_string().replace("\"k\":0,", "");
    assert_eq!(String::from_utf8_lossy(&seen[1].body), plain);
    assert_eq!(seen[1].header("transfer-encoding"), None);
    rig.end().await;
}

#[tokio::test]
async fn what_is_shown_twice_or_unreadable_is_refused_and_nothing_is_charged() {
    let rig = scene().await;
    let payer = rig.payer(0, PLENTY);
    let call = tool("search");
    let paid = payment(&rig, &payer, &call).await;
    let before = rig.effects();
    let both = with(&call, "x402/payment", &paid).to_string();
    let proof = encode_header(&paid);
    let twice = both.replace("\"progressToken\":7", "\"x402\\/payment\":1");
    let two_metas = both.replace("\"name\":\"search\"", "\"name\":\"search\",\"\\u005fmeta\":{}");
    let long =
        with(&call, "x402/payment", &json!({ "x402Version": 2, "pad": "x".repeat(16 * 1024) })).to_string();
    for (body, headers) in [
        (both.clone(), vec![("PAYMENT-SIGNATURE", proof.as_str())]),
        (both.clone(), vec![("X-PAYMENT", proof.as_str())]),
        (both.clone(), vec![("X-PAYMENT-BLOCK", "a")]),
        (twice, vec![]),
        (two_metas, vec![]),
        (both.replace("x402/payment", "X402/Payment"), vec![]),
        (both.replace("\"_meta\"", "\"_Meta\""), vec![]),
        (with(&call, "Faregate/Capability", &json!("a")).to_string(), vec![]),
        (with(&call, "faregate/capability", &json!(1)).to_string(), vec![]),
        (json!([with(&call, "x402/payment", &paid)]).to_string(), vec![]),
        (long, vec![]),
    ] {
        let answer = post(&rig, body.clone(), &headers).await;
        assert_eq!(answer.status(), 400, "{body}");
        assert_eq!(crate::rig::error(answer).await, "bad_request", "{body}");
    }
    assert_eq!(rig.effects(), before);
    assert_eq!(post(&rig, both, &[]).await.status(), 200, "it is good once");
    rig.end().await;
}

#[tokio::test]
async fn a_refused_payment_is_told_in_the_result_with_a_new_bill() {
    let rig = scene().await;
    let payer = rig.payer(0, PLENTY);
    let paid = payment(&rig, &payer, &tool("search")).await;
    let before = rig.effects();
    let refused = async |call: &Value, key: &str, value: &Value| {
        let answer = post(&rig, with(call, key, value).to_string(), &[]).await;
        let result = result(answer).await;
        assert_eq!(said(&result)["accepts"].as_array().unwrap().len(), 2);
        let receipt = &result["_meta"]["x402/payment-response"];
        assert_eq!((&receipt["success"], &receipt["errorReason"]), (&json!(false), &said(&result)["error"]));
        said(&result)["error"].as_str().unwrap().to_owned()
    };
    assert_eq!(refused(&tool("dear"), "x402/payment", &paid).await, "WRONG_RESOURCE");
    for rubbish in [json!("e30="), json!({}), json!(null), json!({ "x402Version": 1 })] {
        assert_eq!(
            refused(&tool("search"), "x402/payment", &rubbish).await,
            "MALFORMED_PAYLOAD",
            "{rubbish}"
        );
    }
    let mut bent = paid.clone();
    bent["accepted"]["amount"] = json!("1");
    assert_eq!(refused(&tool("search"), "x402/payment", &bent).await, "CHALLENGE_UNKNOWN");
    assert_eq!(
        refused(&tool("search"), "faregate/capability", &json!("rubbish")).await,
        "CAPABILITY_UNKNOWN"
    );
    assert_eq!(rig.effects(), before);
    rig.end().await;
}

#[tokio::test]
async fn a_payment_that_waits_is_told_in_the_result() {
    let plan = Plan {
        routes: ROUTES.to_owned(),
        more: "settlement: { wait: 100ms }".to_owned(),
        devnet: DevnetOptions { confirm_after: Duration::from_secs(3600), ..DevnetOptions::default() },
        ..Plan::default()
    };
    let rig = Rig::with(plan).await;
    let dear = payment(&rig, &rig.payer(1, PLENTY), &tool("dear")).await;
    let dear = with(&tool("dear"), "x402/payment", &dear).to_string();
    let answer = post(&rig, dear, &[]).await;
    assert_eq!(header(&answer, "retry-after"), "1");
    let result = result(answer).await;
    assert_eq!(said(&result)["error"], "settlement_pending");
    assert_eq!(result["_meta"]["x402/payment-response"]["success"], false);
    rig.end().await;
}

/// `both`: the form of the bill is that which the call shows its client to read.
#[tokio::test]
async fn with_both_a_client_is_billed_as_it_asks() {
    let rig = scene_with(&ROUTES.replace("bills: result", "bills: both"), "").await;
    let call = tool("search");
    for plain in [call.clone(), with(&call, "other/key", &json!(1))] {
        assert_eq!(post(&rig, plain.to_string(), &[]).await.status(), 402, "{plain}");
    }
    for hinted in [with(&call, "x402/version", &json!(2)), with(&call, "faregate/capability", &json!("a"))] {
        said(&result(post(&rig, hinted.to_string(), &[]).await).await);
    }
    // Either way is open to each.
    let payer = rig.payer(0, PLENTY);
    let (proof, _) = rig.txn(&payer, &super::offer(&rig, &call).await);
    let hinted = with(&call, "x402/version", &json!(2));
    let answer = post(&rig, hinted.to_string(), &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!((answer.status().as_u16(), capability(&answer).1), (200, 29));
    let body = answer.text().await.unwrap();
    assert!(!body.contains("_meta"), "who pays by a header has its receipt there: {body}");
    assert_eq!(rig.upstream.seen().pop().unwrap().body, hinted.to_string().into_bytes());
    let offer = super::offer(&rig, &call).await;
    let block = rig.devnet.send_block(&payer, offer.pay_to, offer.amount).unwrap();
    let paid = with(&call, "x402/payment", &offer.answer(&PaymentProof::NanoTxn { block }));
    let meta = result(post(&rig, paid.to_string(), &[]).await).await["_meta"].clone();
    assert_eq!(meta["x402/payment-response"]["success"], true);
    rig.end().await;
}

#[tokio::test]
async fn without_the_setting_meta_is_the_servers() {
    let rig = scene_with(&ROUTES.replace("      bills: result\n", ""), "").await;
    for key in ["x402/payment", "X402/Payment", "faregate/capability"] {
        let call = with(&tool("search"), key, &json!(1));
        assert_eq!(post(&rig, call.to_string(), &[]).await.status(), 402);
        let free = with(&tool("help"), key, &json!(1));
        assert_eq!(post(&rig, free.to_string(), &[]).await.status(), 200);
        assert_eq!(rig.upstream.seen().pop().unwrap().body, free.to_string().into_bytes());
    }
    rig.end().await;
}

#[tokio::test]
async fn a_free_call_reaches_the_server_without_its_payment_too() {
    let rig = scene().await;
    let call = with(&tool("help"), "x402/payment", &json!({ "x402Version": 2 }));
    let answer = post(&rig, call.to_string(), &[]).await;
    assert_eq!(answer.status(), 200);
    let seen = rig.upstream.seen().pop().unwrap();
    assert_eq!(seen.json()["params"]["_meta"], json!({ "progressToken": 7 }));
    assert!(!answer.text().await.unwrap().contains("_meta"));
    rig.end().await;
}

/// A payment cannot be seen before the body is read. A client that is at a limit pays all the same, and what carries
/// no payment counts.
#[tokio::test]
async fn a_client_at_its_limits_can_pay_in_the_call() {
    let limit = "    limit: { requests: 1, per: 1h, burst: 4 }\n    mcp:\n";
    let rig = scene_with(&ROUTES.replace("    mcp:\n", limit), "").await;
    let payer = rig.payer(0, PLENTY);
    let paid = payment(&rig, &payer, &tool("search")).await;
    for (body, status) in
        [("{}".to_owned(), 400), (method("ping").to_string(), 200), (tool("dear").to_string(), 200)]
    {
        assert_eq!(post(&rig, body.clone(), &[]).await.status(), status, "{body}");
    }
    for (body, status) in [("{}".to_owned(), 429), (method("ping").to_string(), 429)] {
        assert_eq!(post(&rig, body.clone(), &[]).await.status(), status, "{body}");
    }
    let rubbish = with(&tool("search"), "x402/payment", &json!({})).to_string();
    let turned_away = result(post(&rig, rubbish, &[]).await).await;
    assert_eq!(said(&turned_away)["error"], "too_many_requests");
    let answer = post(&rig, with(&tool("search"), "x402/payment", &paid).to_string(), &[]).await;
    assert_eq!(result(answer).await["_meta"]["x402/payment-response"]["success"], true);
    rig.end().await;
}

#[tokio::test]
async fn a_client_with_its_share_of_unpaid_requests_under_way_can_pay_in_the_call() {
    let mut played = Played::start().await;
    let more = format!("  played: {{ url: \"{}\" }}\nlimits: {{ per_client: {{ unpaid: 1 }} }}", played.url);
    let routes = format!("{ROUTES}  - {{ match: /slow, upstream: played, free: true }}\n");
    let rig = scene_with(&routes, &more).await;
    let payer = rig.payer(0, PLENTY);
    let paid = payment(&rig, &payer, &tool("search")).await;
    let mut hanging = Wire::open(&rig.url).await;
    hanging.ask("GET /slow", &[]).await;
    let _under_way = played.call().await;
    let unpaid = post(&rig, tool("search").to_string(), &[]).await;
    assert_eq!(said(&result(unpaid).await)["error"], "overloaded");
    let answer = post(&rig, with(&tool("search"), "x402/payment", &paid).to_string(), &[]).await;
    assert_eq!(result(answer).await["_meta"]["x402/payment-response"]["success"], true);
    drop(hanging);
    rig.end().await;
}
