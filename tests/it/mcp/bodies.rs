//! Bodies that are read before the decision: bounded in length, time and number, forwarded byte for
//! byte.

use serde_json::{Value, json};

use super::{LIMITS, ROUTES, method, offer, post, scene, scene_with, tool};
use crate::patience::eventually;
use crate::proxy::wire::Wire;
use crate::rig::{PLENTY, Plan, Rig, capability};

/// The head of a posted request, before what follows it.
fn head(more: &[&str]) -> String {
    let mut head =
        "POST /mcp HTTP/1.1\r\nHost: gateway.test\r\nContent-Type: application/json\r\n".to_owned();
    for line in more {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head + "\r\n"
}

fn sized(body: &str) -> String {
    head(&[&format!("Content-Length: {}", body.len())]) + body
}

fn chunked(parts: &[&str]) -> String {
    let mut text = head(&["Transfer-Encoding: chunked"]);
    for part in parts {
        text.push_str(&format!("{:x};ext=1\r\n{part}\r\n", part.len()));
    }
    text + "0\r\nTrailer-Of-Sorts: 1\r\n\r\n"
}

/// A free call of exactly this many bytes.
fn padded(length: usize) -> String {
    let empty = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping", "params": { "pad": "" } }).to_string();
    empty.replace("\"\"", &format!("\"{}\"", "x".repeat(length - empty.len())))
}

#[tokio::test]
async fn every_byte_reaches_the_upstream_as_it_was_sent() {
    let rig = scene().await;
    let odd = " \t{\"params\" : {\"name\":\"h\\u0065lp\",\"_meta\":{\"é\":1.50e+2}},\r\n\"method\":\"tools/call\",\"id\":0.1,\"jsonrpc\":\"2.0\"}\n";
    let mut wire = Wire::open(&rig.url).await;
    for text in [sized(odd), chunked(&[&odd[..1], &odd[1..9], &odd[9..]])] {
        wire.send(&text).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.text()), (200, odd));
    }
    let seen = rig.upstream.seen();
    assert_eq!(seen[0].header("content-length"), Some(odd.len().to_string().as_str()));
    assert_eq!(seen[1].header("transfer-encoding"), Some("chunked"));
    assert_eq!(seen[1].header("trailer-of-sorts"), None);

    // Paid for, in pieces, and by capability.
    let call = tool("search").to_string();
    let payer = rig.payer(0, PLENTY);
    let (proof, _) = rig.txn(&payer, &offer(&rig, &tool("search")).await);
    let answer = post(&rig, call.clone(), &[("PAYMENT-SIGNATURE", &proof)]).await;
    let token = capability(&answer).0;
    assert_eq!(answer.text().await.unwrap(), call);
    let capability = format!("PAYMENT-CAPABILITY: {token}");
    wire.send(head(&[&capability, &format!("Content-Length: {}", call.len())])).await;
    for piece in call.as_bytes().chunks(7) {
        wire.send(piece).await;
    }
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.text()), (200, call.as_str()));
    rig.end().await;
}

#[tokio::test]
async fn a_body_of_the_bound_passes_and_one_byte_more_does_not() {
    let rig = scene().await;
    let bound = 4 * 1024;
    let (fits, long) = (padded(bound), padded(bound + 1));
    for text in [sized(&fits), chunked(&[&fits])] {
        let mut wire = Wire::open(&rig.url).await;
        wire.send(text).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.body.len()), (200, bound));
    }
    for text in [sized(&long), chunked(&[&long])] {
        let mut wire = Wire::open(&rig.url).await;
        wire.send(text).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.json()["error"].as_str()), (413, Some("body_too_long")));
    }
    assert_eq!(rig.upstream.seen().len(), 2);

    // The greatest bound there is.
    let wide = ROUTES.replace("      body: 4 KiB\n", "");
    rig.services.reload(&rig.config("limits: { bodies: 1 MiB }", &wide)).await.unwrap();
    let most = faregate::config::MAX_BODY;
    for (length, status) in [(most, 200), (most + 1, 413)] {
        let answer = post(&rig, padded(length), &[]).await;
        assert_eq!(answer.status(), status);
        if status == 200 {
            assert_eq!(answer.text().await.unwrap(), padded(most));
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn a_connection_outlives_a_bill_and_a_refusal() {
    let rig = scene().await;
    let mut wire = Wire::open(&rig.url).await;
    let call = tool("search").to_string();
    for _ in 0..2 {
        for (text, status) in [
            (sized(&call), 402),
            (chunked(&[&call]), 402),
            (sized("{}"), 400),
            (chunked(&["nonsense"]), 400),
            (sized(&tool("secret").to_string()), 403),
            (sized(&method("ping").to_string()), 200),
        ] {
            wire.send(&text).await;
            assert_eq!(wire.answer().await.status, status, "{text}");
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn a_client_that_waits_to_be_asked_is_asked() {
    let rig = scene().await;
    let body = method("ping").to_string();
    let mut wire = Wire::open(&rig.url).await;
    wire.send(head(&["Expect: 100-continue", &format!("Content-Length: {}", body.len())])).await;
    assert_eq!(wire.head().await.status, 100);
    wire.send(&body).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.text()), (200, body.as_str()));
    assert_eq!(rig.upstream.seen()[0].header("expect"), None);
    // Not where it would be refused whatever it is. The connection is kept until then.
    wire.send(head(&["Expect: 100-continue", "Content-Length: 1000000"])).await;
    assert_eq!(wire.answer().await.status, 413);
    rig.end().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_waited_for_only_so_long() {
    let rig = scene().await;
    rig.services.reload(&rig.config("limits: { body_time: 200ms }", ROUTES)).await.unwrap();
    let mut wire = Wire::open(&rig.url).await;
    wire.send(head(&["Content-Length: 100"]) + "{\"jsonrpc\"").await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.json()["error"].as_str()), (408, Some("body_too_slow")));
    rig.services.reload(&rig.config(LIMITS, ROUTES)).await.unwrap();
    // One that goes away half way leaves nothing behind.
    let mut gone = Wire::open(&rig.url).await;
    gone.send(head(&["Content-Length: 100"]) + "{").await;
    drop(gone);
    assert_eq!(post(&rig, method("ping").to_string(), &[]).await.status(), 200);
    assert_eq!(rig.upstream.seen().len(), 1);
    rig.end().await;
}

#[tokio::test]
async fn bodies_together_take_no_more_room_than_there_is() {
    let rig = scene_with(ROUTES).await;
    rig.services.reload(&rig.config("limits: { bodies: 16 KiB, body_time: 60s }", ROUTES)).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut wire = Wire::open(&rig.url).await;
        wire.send(head(&["Content-Length: 4096"]) + &padded(4095)).await;
        held.push(wire);
    }
    let status = || async { post(&rig, padded(4096), &[]).await.status().as_u16() };
    eventually("the room is taken", || async { status().await == 503 }).await;
    // What needs no room is served, and so are those who had it.
    assert_eq!(rig.get("/mcp", &[]).await.status(), 200);
    let mut first = held.remove(0);
    first.send(" ").await;
    assert_eq!(first.answer().await.status, 200);
    drop(held);
    eventually("the room is free again", || async { status().await == 200 }).await;
    rig.end().await;
}

#[tokio::test]
async fn what_is_no_plain_json_is_not_looked_into() {
    let rig = scene().await;
    let body = method("ping").to_string();
    let length = format!("Content-Length: {}", body.len());
    let refused: [(&[&str], u16); 12] = [
        (&[], 415),
        (&["Content-Type: text/plain"], 415),
        (&["Content-Type: application/jsonx"], 415),
        (&["Content-Type: application/json; charset=utf-16"], 415),
        (&["Content-Type: application/json; charset=utf-8; charset=utf-7"], 415),
        (&["Content-Type: application/json", "Content-Type: text/plain"], 415),
        (&["Content-Type: application/json, text/plain"], 415),
        (&["Content-Type: application/json", "Content-Encoding: gzip"], 415),
        (&["Content-Type: application/json", "Content-Encoding: identity, gzip"], 415),
        (&["Content-Type: application/json", "Content-Encoding: identity", "Content-Encoding: gzip"], 415),
        (&["Content-Type: application/json", "Connection: Upgrade", "Upgrade: websocket"], 400),
        (&["Content-Type: application/json", "Transfer-Encoding: chunked"], 400),
    ];
    for (headers, status) in refused {
        let mut wire = Wire::open(&rig.url).await;
        wire.ask("POST /mcp", &[headers, &[length.as_str()]].concat()).await;
        wire.send(&body).await;
        assert_eq!(wire.answer().await.status, status, "{headers:?}");
    }
    assert_eq!(rig.upstream.seen().len(), 0);
    for kind in ["Application/JSON", "application/json; charset=UTF-8", "application/json;charset=\"utf-8\""]
    {
        let mut wire = Wire::open(&rig.url).await;
        let kind = format!("Content-Type: {kind}");
        wire.ask("POST /mcp", &[&kind, "Content-Encoding: identity", &length]).await;
        wire.send(&body).await;
        assert_eq!(wire.answer().await.status, 200, "{kind}");
    }
    rig.end().await;
}

#[tokio::test]
async fn headers_that_name_another_call_than_the_body_are_refused() {
    let rig = scene().await;
    let (help, ping) = (tool("help").to_string(), method("ping").to_string());
    for (body, name, value, status) in [
        (&help, "Mcp-Method", "tools/call", 200),
        (&help, "Mcp-Name", "help", 200),
        (&ping, "Mcp-Method", "ping", 200),
        (&ping, "Mcp-Name", "file:///a", 200),
        (&help, "Mcp-Name", "search", 400),
        (&help, "Mcp-Method", "ping", 400),
        (&ping, "Mcp-Method", "tools/call", 400),
        (&ping, "Mcp-Method", "Ping", 400),
    ] {
        let answer = post(&rig, body.clone(), &[(name, value)]).await;
        assert_eq!(answer.status(), status, "{name}: {value}");
    }
    let answer = post(&rig, help, &[("Mcp-Name", "help"), ("Mcp-Name", "search")]).await;
    assert_eq!(answer.status(), 400, "two of them");
    rig.end().await;
}

#[tokio::test]
async fn without_a_body_there_is_nothing_to_price() {
    let rig = scene().await;
    let mut wire = Wire::open(&rig.url).await;
    for more in [&["Content-Length: 0"][..], &[]] {
        wire.send(head(more)).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some("bad_request")), "{more:?}");
    }
    // What is beside the posted route has no price and no way through.
    for line in ["PUT /mcp", "DELETE /mcp"] {
        wire.ask(line, &[]).await;
        assert_eq!(wire.answer().await.status, 404, "{line}");
    }
    rig.end().await;
}

#[tokio::test]
async fn a_use_whose_upstream_is_down_is_given_back() {
    let plan = Plan {
        routes: ROUTES.to_owned(),
        more: LIMITS.to_owned(),
        answer: Box::new(|seen| {
            let down = seen.json()["params"]["arguments"]["down"] == true;
            if down { crate::scripted::Reply::Drop } else { crate::scripted::Reply::json(&Value::Null) }
        }),
        ..Plan::default()
    };
    let rig = Rig::with(plan).await;
    let payer = rig.payer(0, PLENTY);
    let (proof, _) = rig.txn(&payer, &offer(&rig, &tool("search")).await);
    let failing = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": { "name": "search", "arguments": { "down": true } } });
    let answer = post(&rig, failing.to_string(), &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!(answer.status(), 502);
    let (token, left) = capability(&answer);
    assert_eq!(left, 3, "all of them");
    let answer = post(&rig, tool("search").to_string(), &[("PAYMENT-CAPABILITY", &token)]).await;
    assert_eq!((answer.status().as_u16(), capability(&answer).1), (200, 2));
    rig.end().await;
}
