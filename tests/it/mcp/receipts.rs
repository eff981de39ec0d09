//! Receipts in the results of calls that were paid inside their messages, and servers that break off.

use std::collections::BTreeMap;

use bytes::Bytes;
use faregate::x402::{PaymentProof, encode_header};
use http::HeaderMap;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::in_result::{ROUTES, answer, bought, offer_in, payment, result, said, scene, scene_with, with};
use super::{post, tool};
use crate::listening::Listening;
use crate::proxy::wire::{Played, Wire};
use crate::rig::{PLENTY, Plan, Rig, header};
use crate::scripted::Reply;

#[tokio::test]
async fn what_was_paid_to_a_server_that_fails_is_told_in_the_result() {
    let rig = scene().await;
    let token = bought(&rig).await["token"].clone();
    let call = with(&tool("drop"), "faregate/capability", &token).to_string();
    for _ in 0..2 {
        let answer = post(&rig, call.clone(), &[]).await;
        assert_eq!(header(&answer, "content-type"), "application/json");
        let result = result(answer).await;
        assert_eq!(said(&result)["error"], "upstream_failed");
        let own = &result["_meta"]["faregate/capability"];
        assert_eq!((&own["token"], &own["remaining"]), (&token, &json!(29)), "nothing was charged");
    }
    // Its answer breaks off: the client gets no part of it, and nothing is charged.
    for name in ["cut", "cut-event"] {
        let mut answer = post(&rig, with(&tool(name), "faregate/capability", &token).to_string(), &[]).await;
        assert_eq!(answer.status(), 200);
        let begun = answer.chunk().await;
        assert!(begun.is_err(), "{name}: {begun:?}");
    }
    let next = result(post(&rig, call.replace("drop", "search"), &[]).await).await;
    assert_eq!(next["_meta"]["faregate/capability"]["remaining"], 28);
    rig.end().await;
}

/// The receipt of an answer is in its headers in any case, and in `_meta` of the one result that it is for.
#[tokio::test]
async fn a_receipt_is_put_into_the_result_and_nothing_else_is_changed() {
    let rig = scene().await;
    let token = bought(&rig).await["token"].clone();
    let unchanged = ["another-id", "fails", "text", "compressed", "no-json", "long"];
    let ask = async |name: &str| {
        let answer = post(&rig, with(&tool(name), "faregate/capability", &token).to_string(), &[]).await;
        let status = answer.status().as_u16();
        let headers: BTreeMap<_, _> = answer
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        assert!(headers["payment-capability"].starts_with(token.as_str().unwrap()), "{name}");
        (status, headers, answer.text().await.unwrap())
    };
    // What the server has answered last.
    let plain = || {
        let Reply::Http { body, .. } = answer(&rig.upstream.seen().pop().unwrap()) else {
            panic!("no answer")
        };
        String::from_utf8(body).unwrap()
    };
    for name in unchanged {
        let (status, headers, body) = ask(name).await;
        assert_eq!(status, 200);
        assert!(body == plain(), "{name}: {body}");
        assert!(!body.contains("_meta"), "{name}");
        // What is known beforehand to pass as it is has its length.
        let is_framed = ["text", "compressed", "long"].contains(&name);
        assert_eq!(headers.contains_key("content-length"), is_framed, "{name}");
    }
    let (status, _, body) = ask("error-500").await;
    assert_eq!((status, body), (500, plain()));

    let own = |body: &str, left: u32| {
        let meta = "\"_meta\":{\"faregate/capability\":{\"expires\":";
        let at = body.find(meta).unwrap_or_else(|| panic!("{body}"));
        let (_, rest) = body.split_at(at + meta.len());
        let end = rest.find("}}").unwrap();
        assert!(rest[..end].ends_with(&format!(",\"remaining\":{left},\"token\":{token}")), "{rest}");
        body.replace(&body[at..at + meta.len() + end + 2], "META")
    };
    let (_, headers, body) = ask("search").await;
    assert_eq!(own(&body, 22), plain().replace("{ \"n\"", "{META, \"n\""));
    assert_eq!(headers["transfer-encoding"], "chunked");
    let (_, _, body) = ask("events").await;
    assert_eq!(own(&body, 21), plain().replace("{ \"n\"", "{META, \"n\""));
    let (_, headers, body) = ask("signed").await;
    assert_eq!(own(&body, 20), plain().replace("{ \"n\"", "{META, \"n\""));
    assert!(
        !headers.contains_key("content-digest") && !headers.contains_key("etag"),
        "they are of other bytes"
    );
    assert_eq!(headers["x-kept"], "1");
    let (_, _, body) = ask("claims").await;
    let result = serde_json::from_str::<Value>(&body).unwrap()["result"].clone();
    assert_eq!(result["_meta"].get("x402/payment-response"), None, "the server may not say it");
    assert_eq!(
        (&result["_meta"]["k"], &result["_meta"]["faregate/capability"]["remaining"]),
        (&json!(1), &json!(19))
    );
    rig.end().await;
}

async fn next_chunk(wire: &mut Wire) -> String {
    let length = usize::from_str_radix(wire.line().await.trim(), 16).unwrap();
    let mut chunk = String::from_utf8(wire.exactly(length + 2).await).unwrap();
    chunk.truncate(length);
    chunk
}

#[tokio::test]
async fn events_pass_as_they_come_and_a_long_one_as_it_is() {
    let mut played = Played::start().await;
    let more = format!("  played: {{ url: \"{}\" }}", played.url);
    let routes = format!(
        "{ROUTES}{}",
        ROUTES.replace("name: tools", "name: other").replace("/mcp", "/played").replace("api", "played")
    );
    let rig = scene_with(&routes, &more).await;
    let played_url = format!("{}/played", rig.url);
    let send = |body: String, version: &str| {
        format!(
            "POST /played {version}\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let bill =
        rig.http.post(&played_url).header("Content-Type", "application/json").body(tool("a").to_string());
    let offer = offer_in(&result(bill.send().await.unwrap()).await);
    let block = rig.devnet.send_block(&rig.payer(0, PLENTY), offer.pay_to, offer.amount).unwrap();
    let paid = with(&tool("a"), "x402/payment", &offer.answer(&PaymentProof::NanoTxn { block })).to_string();

    let mut wire = Wire::open(&rig.url).await;
    wire.send(send(paid.clone(), "HTTP/1.1")).await;
    let mut call = played.call().await;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    call.send(format!("{head}{}", chunk(": ping\n"))).await;
    assert_eq!(wire.head().await.status, 200);
    assert_eq!(next_chunk(&mut wire).await, ": ping\n", "before any event");
    let progress = "data: {\"method\":\"notifications/progress\"}\n\n";
    call.send(chunk(progress)).await;
    assert_eq!(next_chunk(&mut wire).await, progress, "before the answer");
    for part in ["data: {\"id\":1,", "\ndata:\"result\":{}}\n", "\n"] {
        call.send(chunk(part)).await;
    }
    let event = next_chunk(&mut wire).await;
    let begins = "data: {\"id\":1,\ndata: \"result\":{\"_meta\":{\"x402/payment-response\":{";
    assert!(event.starts_with(begins) && event.ends_with("}}}\n\n"), "{event}");
    call.send(chunk(progress)).await;
    assert_eq!(next_chunk(&mut wire).await, progress, "after the answer");
    call.send("0\r\n\r\n").await;
    assert_eq!(next_chunk(&mut wire).await, "");

    // An event of more than 256 KiB, to a client that knows no chunks.
    let mut old = Wire::open(&rig.url).await;
    old.send(send(paid, "HTTP/1.0")).await;
    let long = format!("data: {{\"id\":1,\"result\":{{\"a\":\"{}\"}}}}\n\n", "x".repeat(256 * 1024));
    let mut call = played.call().await;
    call.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {}\r\n\r\n{long}",
        long.len()
    ))
    .await;
    let head = old.head().await;
    assert_eq!((head.status, head.remaining()), (200, 28));
    assert!(head.all("transfer-encoding").is_empty() && head.all("content-length").is_empty());
    assert!(old.rest().await == long.as_bytes());
    rig.end().await;
}

/// The same request under a payment identifier, whether it is paid in a header or in the call, has the same answer,
/// with the receipt where it was paid.
#[tokio::test]
async fn an_answer_that_was_kept_has_its_receipt_again() {
    let rig = scene().await;
    let mut paid = payment(&rig, &rig.payer(0, PLENTY), &tool("signed")).await;
    paid["extensions"] = json!({ "payment-identifier": { "info": { "id": "an_identifier_of_mine" } } });
    let call = with(&tool("signed"), "x402/payment", &paid).to_string();
    let first = result(post(&rig, call.clone(), &[]).await).await;
    let again = post(&rig, call, &[]).await;
    assert_eq!(header(&again, "idempotent-replayed"), "true");
    assert!(!again.headers().contains_key("etag"), "it is of other bytes");
    let again = result(again).await;
    assert_eq!(again, first);
    assert_eq!(again["_meta"]["x402/payment-response"]["success"], true);
    let plain = with(&tool("signed"), "k", &json!(0)).to_string().replace("\"k\":0,", "");
    let by_header = post(&rig, plain, &[("PAYMENT-SIGNATURE", &encode_header(&paid))]).await;
    assert_eq!(header(&by_header, "idempotent-replayed"), "true");
    assert_eq!(
        (header(&by_header, "etag"), header(&by_header, "content-digest")),
        ("\"a\"", "sha-256=:AA==:")
    );
    assert_eq!(result(by_header).await.get("_meta"), None);
    assert_eq!(rig.upstream.seen().len(), 1);
    rig.end().await;
}

#[tokio::test]
async fn over_http_2_a_call_is_billed_and_paid_in_the_same_way() {
    let plan = Plan {
        routes: ROUTES.to_owned(),
        listen: Some("h2c: true"),
        answer: Box::new(answer),
        ..Plan::default()
    };
    let rig = Rig::with(plan).await;
    let http = crate::patience::http_client().http2_prior_knowledge().build().unwrap();
    let send = async |body: String| {
        let request = http.post(format!("{}/mcp", rig.url)).header("Content-Type", "application/json");
        result(request.body(body).send().await.unwrap()).await
    };
    let offer = offer_in(&send(tool("search").to_string()).await);
    let block = rig.devnet.send_block(&rig.payer(0, PLENTY), offer.pay_to, offer.amount).unwrap();
    let paid = with(&tool("search"), "x402/payment", &offer.answer(&PaymentProof::NanoTxn { block }));
    let result = send(paid.to_string()).await;
    assert_eq!(
        (&result["_meta"]["x402/payment-response"]["success"], &result["n"]),
        (&json!(true), &json!(150.0))
    );
    let seen = rig.upstream.seen().pop().unwrap();
    assert_eq!(seen.json()["params"]["_meta"], json!({ "progressToken": 7 }));
    assert_eq!(seen.header("content-length"), Some(seen.body.len().to_string().as_str()));
    rig.end().await;
}

/// A server of HTTP/2 that tells what it was sent.
async fn serve_http2(tcp: TcpStream, seen: UnboundedSender<(HeaderMap, Vec<u8>)>) {
    let Ok(mut connection) = h2::server::handshake(tcp).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let seen = seen.clone();
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let mut bytes = Vec::new();
            while let Some(Ok(part)) = body.data().await {
                body.flow_control().release_capacity(part.len()).unwrap();
                bytes.extend_from_slice(&part);
            }
            seen.send((head.headers, bytes)).unwrap();
            let head = http::Response::builder().header("Content-Type", "application/json").body(()).unwrap();
            let mut body = respond.send_response(head, false).unwrap();
            body.send_data(Bytes::from_static(b"{\"id\":1,\"result\":{}}"), true).unwrap();
        });
    }
}

#[tokio::test]
async fn a_server_of_http_2_is_sent_the_call_without_its_payment_and_its_length() {
    let (sender, mut seen) = unbounded_channel();
    let server = Listening::start(move |tcp| serve_http2(tcp, sender.clone())).await;
    let more = format!("  two: {{ url: \"{}\", protocol: h2c }}", server.url);
    let rig = scene_with(&ROUTES.replace("upstream: api", "upstream: two"), &more).await;
    let paid = payment(&rig, &rig.payer(0, PLENTY), &tool("search")).await;
    let call = with(&tool("search"), "x402/payment", &paid).to_string();
    let meta = result(post(&rig, call, &[]).await).await["_meta"].clone();
    assert_eq!(meta["x402/payment-response"]["success"], true);
    let (headers, body) = seen.recv().await.unwrap();
    let plain = with(&tool("search"), "k", &json!(0)).to_string().replace("\"k\":0,", "");
    assert_eq!(String::from_utf8(body).unwrap(), plain);
    assert_eq!(headers["content-length"], plain.len().to_string());
    rig.end().await;
}
