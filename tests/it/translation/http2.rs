//! Clients of HTTP/2: what they are told of a request that goes wrong, what comes before their answer, and
//! what the versions of HTTP still cannot hand on to one another.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Stage, answered};
use crate::listening::Listening;
use crate::metrics::Uses;
use crate::patience::{PATIENCE, eventually, soon, within};
use crate::proxy::requests;
use crate::proxy::wire::{Played, Wire};
use crate::rig::{PLENTY, Plan, Rig, capability};
use crate::upstreams::cases::Piece;
use crate::upstreams::http2::exchange;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> SendRequest<Bytes> {
    let (client, connection) = soon("the handshake", h2::client::handshake(stream)).await.unwrap();
    tokio::spawn(async move {
        // It ends with the gateway.
        let _ended = connection.await.is_ok();
    });
    soon("a stream", client.ready()).await.unwrap()
}

pub(crate) async fn plain(rig: &Rig) -> SendRequest<Bytes> {
    over(TcpStream::connect(rig.url.trim_start_matches("http://")).await.unwrap()).await
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("https://gateway.test{path}")).body(()).unwrap()
}

pub(super) fn post(path: &str, token: &str) -> Request<()> {
    let request = Request::post(format!("https://gateway.test{path}"));
    request.header("payment-capability", token).body(()).unwrap()
}

/// The heads before an answer.
async fn interim(answer: &mut ResponseFuture) -> Vec<Response<()>> {
    let mut heads = Vec::new();
    while let Some(head) = soon("a head", poll_fn(|cx| answer.poll_informational(cx))).await {
        heads.push(head.unwrap());
    }
    heads
}

/// Status, body as JSON and headers of an answer.
pub(super) async fn whole(answer: ResponseFuture) -> (u16, serde_json::Value, HeaderMap) {
    let (head, mut body) = within(Duration::from_secs(20), "the answer", answer).await.unwrap().into_parts();
    let mut bytes = Vec::new();
    while let Some(part) = soon("a part", body.data()).await {
        bytes.extend(part.unwrap());
    }
    (head.status.as_u16(), serde_json::from_slice(&bytes).unwrap(), head.headers)
}

pub(super) fn remaining(headers: &HeaderMap) -> &str {
    headers["payment-capability"].to_str().unwrap().split("; ").nth(1).unwrap()
}

/// RFC 9110 section 15.2. Regression: they were dropped.
#[tokio::test]
async fn what_comes_before_the_answer_arrives_and_is_bounded() {
    let mut stage = Stage::set().await;
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nPAYMENT-REQUIRED: forged\r\nConnection: x-hop\r\n\
                X-Hop: secret\r\n\r\n";
    let mut client = over(stage.secured(b"h2").await).await;
    for (sent, wanted) in [(1, 1), (50, 8)] {
        let (mut answer, _) = client.send_request(get("/free/x"), true).unwrap();
        let call = stage.upstream.call().await;
        let _seen = answered(call, &(hint.repeat(sent) + OK)).await;
        let hints = interim(&mut answer).await;
        assert_eq!(hints.len(), wanted, "of {sent}");
        for hint in &hints {
            assert_eq!((hint.status().as_u16(), hint.headers().len()), (103, 1), "{hint:?}");
            assert_eq!(hint.headers()["link"], "</a.css>");
        }
        assert_eq!(soon("the answer", answer).await.unwrap().status(), 200);
    }
    drop(client);
    stage.end().await;
}

/// Regression: such a request was reset, and its client could not tell that its use was back.
#[tokio::test]
async fn an_answer_that_does_not_begin_is_504_also_after_a_body() {
    let mut upstream = Played::start().await;
    let more = format!("  raw: {{ url: \"{}\", timeout: 150ms }}\n", upstream.url);
    let routes = "  - { name: raw, match: \"/raw/**\", upstream: raw, price: 1 raw, grants: { requests: 10, within: 1h } }\n";
    let plan = Plan { more, routes: routes.to_owned(), listen: Some("h2c: true"), ..Plan::default() };
    let rig = Rig::with(plan).await;
    let payer = rig.payer(1, PLENTY);
    let (paid, ()) = tokio::join!(rig.pay(&payer, "/raw/x"), upstream.play(OK));
    let token = capability(&paid).0;
    let mut client = plain(&rig).await;
    for body in ["", "abc"] {
        let (answer, mut sending) = client.send_request(post("/raw/x", &token), body.is_empty()).unwrap();
        if !body.is_empty() {
            sending.send_data(Bytes::from(body), true).unwrap();
        }
        let call = upstream.call().await;
        let (status, json, headers) = whole(answer).await;
        assert_eq!((status, json["error"].as_str()), (504, Some("upstream_failed")), "{body:?}");
        assert_eq!(remaining(&headers), "remaining=9", "the use came back");
        drop(call);
    }
    eventually("both are counted", async || requests(&rig, "raw", "upstream_failed") == 2).await;
    // The connection lives.
    let (answer, _) = client.send_request(post("/raw/x", &token), true).unwrap();
    upstream.play(OK).await;
    assert_eq!(soon("the answer", answer).await.unwrap().status(), 200);
    drop(client);
    rig.end().await;
}

#[tokio::test]
async fn a_client_that_stops_sending_is_told_so_and_one_that_has_an_answer_may_pause() {
    let mut stage = Stage::with("body_idle: 300ms").await;
    let payer = stage.rig.payer(1, PLENTY);
    let (paid, ()) = tokio::join!(stage.rig.pay(&payer, "/many/x"), stage.upstream.play(OK));
    let token = capability(&paid).0;
    let mut client = over(stage.secured(b"h2").await).await;
    let (answer, mut sending) = client.send_request(post("/many/x", &token), false).unwrap();
    sending.send_data(Bytes::from_static(b"abc"), false).unwrap();
    let (status, json, _) = whole(answer).await;
    assert_eq!((status, json["error"].as_str()), (408, Some("body_too_slow")));
    drop(stage.upstream.call().await);
    eventually("its use came back", async || Uses::of(&stage.rig, "many").given_back == 1).await;

    let (answer, mut sending) = client.send_request(post("/many/x", &token), false).unwrap();
    sending.send_data(Bytes::from_static(b"abc"), false).unwrap();
    let mut call = stage.upstream.call().await;
    call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n").await;
    let answer = soon("the head", answer).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    sending.send_data(Bytes::from_static(b"def"), true).unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"0\r\n\r\n") {
        seen.push(soon("the body", call.stream.read_u8()).await.unwrap());
    }
    call.send("0\r\n\r\n").await;
    let (mut body, mut bytes) = (answer.into_body(), Vec::new());
    while let Some(part) = soon("a part", body.data()).await {
        bytes.extend(part.unwrap());
    }
    assert_eq!(bytes, b"{}");
    drop((client, body));
    stage.end().await;
}

/// RFC 9113 sections 8.1.1 and 8.3.1. Regression: the answer had no body, and one without a host none at all.
#[tokio::test]
async fn what_cannot_be_read_is_answered_in_the_gateways_words() {
    let stage = Stage::set().await;
    let field = |name: &str, value: &str| Piece::Field(name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let head = [field(":method", "GET"), field(":scheme", "https"), field(":path", "/free/x")];
    for more in [
        vec![],
        vec![field(":authority", "a.test"), field("host", "b.test")],
        vec![field(":authority", "me@a.test")],
        vec![field("host", "a.test"), field("host", "a.test")],
    ] {
        let pieces: Vec<_> = head.iter().cloned().chain(more).collect();
        let answer = exchange(stage.secured(b"h2").await, &pieces, PATIENCE).await;
        let (status, body) = answer.unwrap_or_else(|| panic!("no answer to {pieces:?}"));
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, body["error"].as_str()), (400, Some("bad_request")), "{pieces:?}");
    }
    stage.end().await;
}

/// The library that reads the frames cuts a fragment off, as the protocol guide says. Once it does not, it is to be
/// refused as over HTTP/1. Until then what is matched and billed is what is forwarded.
#[tokio::test]
async fn a_fragment_is_cut_off_before_anything_is_matched() {
    let mut stage = Stage::set().await;
    let ask = |path: &str| {
        let field = |name: &str, value: &str| Piece::Field(name.into(), value.into());
        let fields =
            [(":method", "GET"), (":scheme", "https"), (":authority", "gateway.test"), (":path", path)];
        fields.map(|(name, value)| field(name, value))
    };
    for path in ["/free/x#", "/free/x#/../../once/x", "/free/x?a=b#?c"] {
        let asked = ask(path);
        let exchange = exchange(stage.secured(b"h2").await, &asked, PATIENCE);
        let called = async { answered(stage.upstream.call().await, OK).await };
        let (answer, seen) = tokio::join!(exchange, called);
        assert_eq!(answer.map(|it| it.0), Some(200), "{path}");
        let without = path.split('#').next().unwrap();
        assert!(seen.starts_with(&format!("GET {without} HTTP/1.1\n")), "{path}: {seen}");
    }
    for path in ["/once/x#", "/once/x#/../../free/x"] {
        let stream = stage.secured(b"h2").await;
        assert_eq!(exchange(stream, &ask(path), PATIENCE).await.map(|it| it.0), Some(402), "{path}");
    }
    stage.end().await;
}

/// Who goes on sending what cannot be read has no connection any more.
#[tokio::test]
async fn a_connection_is_closed_after_32_requests_that_cannot_be_read() {
    let stage = Stage::set().await;
    let mut stream = stage.secured(b"h2").await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for number in 0..40_u32 {
        // GET and https by the static table, `:path` never indexed (RFC 7541 appendix A and section 6.2.3).
        let head = b"\x82\x87\x14\x02/x";
        bytes.extend([0, 0, head.len() as u8, 1, 5]);
        bytes.extend((number * 2 + 1).to_be_bytes());
        bytes.extend(head);
    }
    stream.write_all(&bytes).await.unwrap();
    let mut seen = Vec::new();
    let _reset = soon("the end", stream.read_to_end(&mut seen)).await.is_err();
    let (mut answers, mut last, mut rest) = (0, 0, seen.as_slice());
    while let [a, b, c, kind, _, _, _, _, _, more @ ..] = rest {
        let (payload, next) = more.split_at(u32::from_be_bytes([0, *a, *b, *c]) as usize);
        answers += u32::from(*kind == 1);
        if *kind == 7 {
            last = payload[7];
        }
        rest = next;
    }
    // GOAWAY with ENHANCE_YOUR_CALM (RFC 9113 section 7).
    assert_eq!(last, 11, "the reason of the end");
    assert!(answers < 40, "{answers}");
    stage.end().await;
}

/// Regression: it waited for a 100 that did not come (RFC 9110 section 10.1.1).
#[tokio::test]
async fn a_client_that_waits_before_its_body_is_told_to_send_it() {
    let routes = "  - { match: \"POST /mcp\", upstream: api, mcp: { methods: { ping: free }, tools: { search: 1 raw } } }\n";
    let plan = Plan { routes: routes.to_owned(), listen: Some("h2c: true"), ..Plan::default() };
    let rig = Rig::with(plan).await;
    let mut client = plain(&rig).await;
    let request = Request::post("http://gateway.test/mcp").header("content-type", "application/json");
    let request = request.header("expect", "100-continue").body(()).unwrap();
    let (mut answer, mut sending) = client.send_request(request, false).unwrap();
    let told = soon("a head", poll_fn(|cx| answer.poll_informational(cx))).await.unwrap().unwrap();
    assert_eq!(told.status(), 100);
    sending.send_data(Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#), true).unwrap();
    assert_eq!(soon("the answer", answer).await.unwrap().status(), 200);
    drop(client);
    rig.end().await;
}

/// Gives a request a hint, an answer that says how many trailers it had, and trailers.
async fn talk(mut asked: RecvStream, mut respond: SendResponse<Bytes>) {
    while asked.data().await.is_some_and(|it| it.is_ok()) {}
    let count = asked.trailers().await.unwrap().map_or(0, |it| it.len());
    let hint = Response::builder().status(103).header("link", "</a.css>").body(()).unwrap();
    respond.send_informational(hint).unwrap();
    let answer = Response::builder().header("had-trailers", count).body(()).unwrap();
    let mut body = respond.send_response(answer, false).unwrap();
    body.send_data(Bytes::from_static(b"ok"), false).unwrap();
    let trailers = [(http::HeaderName::from_static("x-sum"), http::HeaderValue::from(1))];
    body.send_trailers(trailers.into_iter().collect()).unwrap();
}

/// A server of HTTP/2 that talks so.
async fn talkative(tcp: TcpStream) {
    // A trial of the gateway asks for nothing.
    let Ok(mut connection) = h2::server::handshake(tcp).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(talk(request.into_body(), respond));
    }
}

/// What Pingora 0.9 does not read or write, as the protocol guide says. Once it does, say so there.
#[tokio::test]
async fn trailers_pass_between_http2_only_and_no_hint_of_an_http2_upstream_does() {
    let upstream = Listening::start(talkative).await;
    let more = format!("  two: {{ url: \"{}\", protocol: h2c }}\n", upstream.url);
    let routes = "  - { match: \"/**\", upstream: two, free: true }\n".to_owned();
    let rig = Rig::with(Plan { more, routes, listen: Some("h2c: true"), ..Plan::default() }).await;
    let mut client = plain(&rig).await;
    let (mut answer, _) = client.send_request(get("/x"), true).unwrap();
    assert!(interim(&mut answer).await.is_empty());
    let mut body = soon("the answer", answer).await.unwrap().into_body();
    assert_eq!(soon("the body", body.data()).await.unwrap().unwrap(), "ok");
    assert!(soon("the end", body.data()).await.is_none());
    assert_eq!(soon("trailers", body.trailers()).await.unwrap().unwrap()["x-sum"], "1");

    let mut old = Wire::open(&rig.url).await;
    old.ask("GET /x", &["TE: trailers", "Connection: close, TE"]).await;
    let text = String::from_utf8(old.rest().await).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("\r\n2\r\nok\r\n0\r\n\r\n"), "{text}");

    // Those of requests are left out, and the request goes on.
    let mut old = Wire::open(&rig.url).await;
    let fields = ["Connection: close", "Transfer-Encoding: chunked", "Trailer: X-Sum"];
    old.ask("POST /x", &fields).await;
    old.send("3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n").await;
    let text = String::from_utf8(old.rest().await).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("\r\n2\r\nok\r\n0\r\n\r\n"), "{text}");
    assert!(text.to_ascii_lowercase().contains("had-trailers: 0\r\n"), "{text}");
    let request = Request::post("http://gateway.test/x").body(()).unwrap();
    let (answer, mut sending) = client.send_request(request, false).unwrap();
    sending.send_data(Bytes::from_static(b"abc"), false).unwrap();
    let trailers = [(http::HeaderName::from_static("x-sum"), http::HeaderValue::from(1))];
    sending.send_trailers(trailers.into_iter().collect()).unwrap();
    let answer = soon("the answer", answer).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["had-trailers"].as_bytes()), (200, &b"0"[..]));
    drop((client, body, answer));
    rig.end().await;
}
