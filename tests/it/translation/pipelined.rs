//! Several requests in a row on one connection (RFC 9112 section 9.3.2), and what is no request.

use tokio::io::AsyncWriteExt;

use super::{Stage, answered, rest};
use crate::proxy::wire::Wire;

const LAST: &str = "Connection: close\r\n";

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: gateway.test\r\n{more}\r\n")
}

fn ok(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

/// Answers the next calls, each with its path.
async fn echo(stage: &mut Stage, number: usize) {
    for _ in 0..number {
        let call = stage.upstream.call().await;
        let path = call.head[0].split(' ').nth(1).unwrap().to_owned();
        let _seen = answered(call, &ok(&path)).await;
    }
}

/// Regression: the first was answered, and the others were dropped.
#[tokio::test]
async fn requests_in_one_packet_are_answered_in_order() {
    let mut stage = Stage::set().await;
    let mut wire = Wire::open(&stage.rig.url).await;
    let post = "POST /free/2 HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 3\r\n\r\nabc";
    let chunked = "POST /free/3 HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n0\r\n\r\n";
    let all =
        [get("/free/1", ""), post.to_owned(), chunked.to_owned(), get("/once/x", ""), get("/free/5", LAST)];
    wire.send(all.concat()).await;
    echo(&mut stage, 3).await;
    for path in ["/free/1", "/free/2", "/free/3"] {
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.text(), answer.one("connection")), (200, path, "keep-alive"));
    }
    assert_eq!(wire.answer().await.status, 402, "a bill in its turn");
    echo(&mut stage, 1).await;
    let answer = wire.answer().await;
    assert_eq!((answer.text(), answer.one("connection")), ("/free/5", "close"));
    assert_eq!(wire.rest().await, b"");
    stage.end().await;
}

#[tokio::test]
async fn a_request_that_comes_while_another_waits_is_answered_after_it() {
    let mut stage = Stage::set().await;
    for (first, second) in [(1, 5), (20, 60), (58, 59)] {
        let mut wire = Wire::open(&stage.rig.url).await;
        let next = get("/free/2", LAST);
        // The head of the second comes in pieces, the first of them before the first is answered.
        wire.send(get("/free/1", "")).await;
        let call = stage.upstream.call().await;
        wire.send(&next[..first]).await;
        let _seen = answered(call, &ok("one")).await;
        assert_eq!(wire.answer().await.text(), "one");
        wire.send(&next[first..second]).await;
        wire.send(&next[second..]).await;
        let call = stage.upstream.call().await;
        let _seen = answered(call, &ok("two")).await;
        assert_eq!(wire.answer().await.text(), "two");
    }
    stage.end().await;
}

/// The time for a head ends with the head, also if its beginning came with the request before.
#[tokio::test]
async fn a_slow_answer_is_no_slow_head() {
    let mut stage = Stage::with("head_time: 300ms").await;
    for cut in [1, 10, 40] {
        let mut wire = Wire::open(&stage.rig.url).await;
        let post = "POST /free/2 HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 4\r\n\r\n";
        let whole = get("/free/1", "") + post;
        let cut = whole.len() - cut;
        wire.send(&whole[..cut]).await;
        echo(&mut stage, 1).await;
        assert_eq!(wire.answer().await.text(), "/free/1");
        wire.send(&whole[cut..]).await;
        wire.send("ab").await;
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        wire.send("cd").await;
        echo(&mut stage, 1).await;
        assert_eq!(wire.answer().await.text(), "/free/2", "{cut}");
    }
    stage.end().await;
}

/// What follows a request for a tunnel is not read as a request if the tunnel is not granted, and the
/// answer says that the connection ends.
#[tokio::test]
async fn what_follows_a_tunnel_that_is_not_granted_is_given_up_aloud() {
    let stage = Stage::set().await;
    let mut wire = Wire::open(&stage.rig.url).await;
    let upgrade = get("/once/x", "Connection: Upgrade\r\nUpgrade: websocket\r\n");
    wire.send(upgrade + &get("/once/y", "")).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.one("connection")), (402, "close"));
    assert_eq!(wire.rest().await, b"");
    stage.end().await;
}

/// RFC 9110 section 7.8. Regression: it was a tunnel, so that its connection ended.
#[tokio::test]
async fn an_upgrade_that_connection_does_not_name_is_an_ordinary_request() {
    let mut stage = Stage::set().await;
    let mut wire = Wire::open(&stage.rig.url).await;
    let ignored = get("/free/1", "Upgrade: websocket\r\n");
    wire.send(ignored + &get("/once/x", "Upgrade: websocket\r\n") + &get("/free/2", LAST)).await;
    echo(&mut stage, 1).await;
    let answer = wire.answer().await;
    assert_eq!((answer.text(), answer.one("connection")), ("/free/1", "keep-alive"));
    assert_eq!(wire.answer().await.status, 402);
    echo(&mut stage, 1).await;
    assert_eq!(wire.answer().await.text(), "/free/2");
    assert_eq!(wire.rest().await, b"");
    // Who switches all the same is not followed.
    let mut wire = Wire::open(&stage.rig.url).await;
    wire.send(get("/free/3", "Upgrade: websocket\r\n")).await;
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stage.upstream.play(switched).await;
    assert_eq!(wire.answer().await.status, 502);
    stage.end().await;
}

/// Regression: what Pingora does not take for a request was answered in its name, without a body.
#[tokio::test]
async fn what_is_no_request_is_answered_as_all_that_is_refused() {
    let mut stage = Stage::set().await;
    let long = format!("GET /free/x HTTP/1.1\r\nHost: a\r\n{}", "X-Long: 1\r\n".repeat(300));
    for (request, status) in [
        ("hello\r\n\r\n", 400),
        ("GET /free/x HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET /free/x HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nabcde", 400),
        ("GET /free/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET /free/x HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
        ("GET /free/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        ("GET /free/x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("GET /free/x HTTP/9.9\r\nHost: a\r\n\r\n", 400),
        ("CONNECT gateway.test:443 HTTP/1.1\r\nHost: gateway.test:443\r\n\r\n", 405),
        (long.as_str(), 400),
    ] {
        for (after, is_secured) in [(0, false), (0, true), (1024 * 1024, false)] {
            let bytes = [request.as_bytes(), &vec![b'x'; after]].concat();
            let answer = if is_secured {
                let mut client = stage.secured(b"http/1.1").await;
                client.write_all(&bytes).await.unwrap();
                rest(&mut client).await
            } else {
                let client = stage.plain().await;
                let (mut reader, mut writer) = client.into_split();
                // Whatever is sent after it, the answer is not lost by a reset.
                let sent = tokio::spawn(async move { writer.write_all(&bytes).await.is_ok() });
                let answer = rest(&mut reader).await;
                let _sent = sent.await.unwrap();
                answer
            };
            let wanted = format!("HTTP/1.1 {status} ");
            assert!(answer.starts_with(&wanted), "{request:?} with {after} more: {answer:?}");
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let head = head.to_ascii_lowercase();
            assert!(!head.contains("pingora") && head.contains("connection: close"), "{request:?}: {head}");
            assert!(head.contains("content-type: application/json") && head.contains("\r\ndate: "), "{head}");
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            let error = if status == 400 { "bad_request" } else { "method_not_allowed" };
            assert_eq!(body["error"], error, "{request:?}");
        }
    }
    // After requests that were answered, too.
    let mut wire = Wire::open(&stage.rig.url).await;
    wire.send(get("/free/1", "") + "hello\r\n\r\n").await;
    echo(&mut stage, 1).await;
    assert_eq!(wire.answer().await.text(), "/free/1");
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some("bad_request")));
    assert_eq!(wire.rest().await, b"");
    stage.end().await;
}

/// The gateway's answers are the same to a request that is Pingora's to refuse and to its own.
#[tokio::test]
async fn connect_over_http2_is_refused_in_the_gateways_words() {
    use crate::upstreams::{cases::Piece, http2};
    let stage = Stage::set().await;
    let field = |name: &str, value: &str| Piece::Field(name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let pieces = [field(":method", "CONNECT"), field(":authority", "gateway.test:443")];
    let stream = stage.secured(b"h2").await;
    let (status, body) = http2::exchange(stream, &pieces, crate::patience::PATIENCE).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, body["error"].as_str()), (405, Some("method_not_allowed")));
    stage.end().await;
}
