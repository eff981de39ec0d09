//! An upstream that stops reading a long body: whatever version of HTTP is spoken on either side, its time is
//! that for an answer, and the client learns that its use is back.

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::Stage;
use super::http2::{plain, post, remaining, whole};
use crate::listening::Listening;
use crate::metrics::Uses;
use crate::patience::{eventually, soon};
use crate::proxy::requests;
use crate::proxy::wire::{Played, Wire, answer_on};
use crate::rig::{PLENTY, capability};

/// More than the sockets of a connection hold.
const LENGTH: usize = 48 << 20;

/// A server of HTTP/2 that answers a request without a body, and reads no body of any other.
async fn answer_without_reading(tcp: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(tcp).await else { return };
    let mut kept: Vec<(Request<RecvStream>, SendResponse<Bytes>)> = Vec::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        if request.body().is_end_stream() {
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"ok"), true).unwrap();
        } else {
            kept.push((request, respond));
        }
    }
}

/// A gateway before an upstream of each version, and a capability for each, with 9 uses left.
async fn stage(timeout: &str) -> (Stage, Listening, [String; 2]) {
    let (upstream, mute) = (Played::start().await, Listening::start(answer_without_reading).await);
    let more = format!(
        "  one: {{ url: \"{}\", timeout: {timeout} }}\n  two: {{ url: \"{}\", protocol: h2c, timeout: {timeout} }}\n",
        upstream.url, mute.url
    );
    let routes = r#"
  - { name: one, match: "/one/**", upstream: one, price: 1 raw, grants: { requests: 10, within: 1h } }
  - { name: two, match: "/two/**", upstream: two, price: 1 raw, grants: { requests: 10, within: 1h } }
"#;
    let mut stage = Stage::before(upstream, more, routes).await;
    let payer = stage.rig.payer(1, PLENTY);
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (one, ()) = tokio::join!(stage.rig.pay(&payer, "/one/x"), stage.upstream.play(ok));
    let two = stage.rig.pay(&payer, "/two/x").await;
    let tokens = [capability(&one).0, capability(&two).0];
    (stage, mute, tokens)
}

fn head(path: &str, token: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: gateway.test\r\nPAYMENT-CAPABILITY: {token}\r\nContent-Length: {LENGTH}\r\n\r\n"
    )
}

/// Regression: such a request was held for five minutes, and one of gRPC for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_is_told_and_its_use_comes_back() {
    let (mut stage, _mute, tokens) = stage("300ms").await;
    let mut held = Vec::new();
    for (path, token) in ["/one/x", "/two/x"].into_iter().zip(&tokens) {
        for client in ["HTTP/1.1", "HTTP/1.1 over TLS", "HTTP/2"] {
            let (status, json, left) = match client {
                "HTTP/2" => {
                    let mut client = plain(&stage.rig).await;
                    let (answer, mut sending) = client.send_request(post(path, token), false).unwrap();
                    // As much as the gateway takes.
                    sending.send_data(Bytes::from(vec![0; LENGTH]), true).unwrap();
                    let (status, json, headers) = whole(answer).await;
                    (status, json, remaining(&headers).to_owned())
                }
                "HTTP/1.1" => {
                    let stream = stage.plain().await;
                    told(stream, &head(path, token)).await
                }
                _ => {
                    let stream = stage.secured(b"http/1.1").await;
                    told(stream, &head(path, token)).await
                }
            };
            assert_eq!((status, json["error"].as_str()), (504, Some("upstream_failed")), "{client} {path}");
            assert_eq!(left, "remaining=9", "{client} {path}: the use came back");
            if path == "/one/x" {
                held.push(stage.upstream.call().await);
            }
        }
    }
    for route in ["one", "two"] {
        eventually("each is counted", async || {
            requests(&stage.rig, route, "upstream_failed") == 3
                && Uses::of(&stage.rig, route) == Uses { committed: 1, given_back: 3 }
        })
        .await;
    }
    drop(held);
    stage.end().await;
}

/// What an answer says: its status, its body, and how many uses are left.
type Said = (u16, serde_json::Value, String);

/// As [`heard`], and the connection ends after the answer.
async fn told(stream: impl AsyncRead + AsyncWrite, head: &str) -> Said {
    let (said, mut from) = heard(stream, head).await;
    let mut more = Vec::new();
    let _reset = soon("the end of the connection", from.read_to_end(&mut more)).await.is_err();
    assert!(more.is_empty(), "{more:?}");
    said
}

/// Sends a head and a body as far as it is taken. Gives what the answer says, and what may follow it.
async fn heard(stream: impl AsyncRead + AsyncWrite, head: &str) -> (Said, impl AsyncRead + Unpin) {
    let (from, mut to) = tokio::io::split(stream);
    let mut from = BufReader::new(from);
    let sending = async {
        let body = vec![0; 1 << 16];
        let mut is_taken = to.write_all(head.as_bytes()).await.is_ok();
        while is_taken {
            is_taken = to.write_all(&body).await.is_ok() && to.flush().await.is_ok();
        }
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! {
        answer = answer_on(&mut from) => answer,
        () = sending => unreachable!(),
    };
    assert_eq!(answer.one("connection"), "close");
    let left = answer.one("payment-capability").split("; ").nth(1).unwrap().to_owned();
    ((answer.status, answer.json(), left), from)
}

/// Only the upstream's pauses count, and each for itself.
#[tokio::test]
async fn a_slow_upstream_is_waited_for_and_so_is_a_client_that_pauses() {
    let (mut stage, _mute, [token, _]) = stage("600ms").await;
    let mut wire = Wire::open(&stage.rig.url).await;
    let headers = [format!("PAYMENT-CAPABILITY: {token}"), format!("Content-Length: {}", LENGTH + 6)];
    wire.ask("POST /one/x", &headers.each_ref().map(String::as_str)).await;
    wire.send("abc").await;
    // Longer than the upstream may take.
    tokio::time::sleep(std::time::Duration::from_millis(900)).await;
    wire.send("def").await;
    let mut call = stage.upstream.call().await;
    let reading = async {
        let (mut part, mut left) = (vec![0; 1 << 20], LENGTH + 6);
        while left > 0 {
            // Each pause is short, all together are longer.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            let most = part.len().min(left);
            soon("the body", call.stream.read_exact(&mut part[..most])).await.unwrap();
            left -= most;
        }
        call.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    };
    let asking = async {
        wire.send(vec![0; LENGTH]).await;
        wire.answer().await
    };
    let (answer, ()) = tokio::join!(asking, reading);
    assert_eq!((answer.status, answer.remaining()), (200, 8));
    stage.end().await;
}

/// What an upstream says of a body that it does not want is heard.
#[tokio::test]
async fn an_answer_that_comes_before_the_end_of_the_body_arrives() {
    let (mut stage, _mute, [token, _]) = stage("2s").await;
    let stream = stage.plain().await;
    let head = head("/one/x", &token);
    let asking = heard(stream, &head);
    let refusing = async {
        let mut call = stage.upstream.call().await;
        call.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\n{}").await;
        call
    };
    let (((status, ..), from), call) = tokio::join!(asking, refusing);
    assert_eq!(status, 413);
    drop((from, call));
    stage.end().await;
}
