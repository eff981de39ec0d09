//! How long an upstream may take to begin its answer, how long the answer may pause, and how long a client
//! may pause in its body: three waits with a limit each.

use std::sync::Arc;
use std::time::Duration;

use faregate::listen::{self, Tls};
use pingora::server::configuration::ServerConf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Uses;
use crate::patience::{eventually, http_client, soon};
use crate::proxy::wire::Wire;
use crate::proxy::{played, requests};
use crate::rig::{Plan, Rig};

/// Longer than an answer may take to begin in these tests.
const QUIET: Duration = Duration::from_millis(400);

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n";

#[tokio::test]
async fn an_answer_that_has_begun_may_pause_for_longer_than_it_may_take_to_begin() {
    let (rig, mut upstream, token) = played(", timeout: 100ms", "", "").await;
    for (accept, kind) in
        [("Accept: text/event-stream", "Content-Type: text/event-stream\r\n"), ("Accept: */*", "")]
    {
        let mut wire = Wire::open(&rig.url).await;
        wire.ask("GET /raw/x", &[&format!("PAYMENT-CAPABILITY: {token}"), accept]).await;
        let mut call = upstream.call().await;
        call.send(format!("{CHUNKED}{kind}\r\n6\r\nfirst;\r\n")).await;
        assert_eq!(wire.head().await.status, 200);
        assert_eq!(wire.exactly(11).await, b"6\r\nfirst;\r\n");
        tokio::time::sleep(QUIET).await;
        call.send("6\r\nsecond\r\n0\r\n\r\n").await;
        assert_eq!(wire.exactly(16).await, b"6\r\nsecond\r\n0\r\n\r\n");
    }
    eventually("both are charged", async || Uses::of(&rig, "raw").committed == 3).await;
    rig.end().await;
}

#[tokio::test]
async fn an_answer_that_pauses_too_long_is_broken_off() {
    let (rig, mut upstream, token) = played(", timeout: 100ms, idle_timeout: 200ms", "", "").await;
    // What is usually quiet too, as it is said here.
    let mut wire = Wire::open(&rig.url).await;
    let paid = format!("PAYMENT-CAPABILITY: {token}");
    let headers = [paid.as_str(), "Accept: text/event-stream"];
    wire.ask("GET /raw/x", &headers).await;
    let mut call = upstream.call().await;
    call.send(format!("{CHUNKED}\r\n6\r\nfirst;\r\n")).await;
    assert_eq!(wire.head().await.status, 200);
    assert_eq!(wire.rest().await, b"6\r\nfirst;\r\n", "no last chunk: it is not whole");
    rig.end().await;
}

/// Before: the connection was closed without an answer.
#[tokio::test]
async fn an_answer_is_late_although_something_came_before_it() {
    let (rig, mut upstream, token) = played(", timeout: 200ms", "", "").await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /raw/x", &[&format!("PAYMENT-CAPABILITY: {token}")]).await;
    let mut call = upstream.call().await;
    call.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
    assert_eq!(wire.head().await.status, 103);
    assert_eq!(wire.head().await.status, 504);
    rig.end().await;
}

/// Before: the client got it, whatever it had asked for, and waited.
#[tokio::test]
async fn a_change_of_protocol_that_nobody_asked_for_is_no_answer() {
    let (rig, mut upstream, token) = played("", "", "").await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /raw/x", &[&format!("PAYMENT-CAPABILITY: {token}")]).await;
    let mut call = upstream.call().await;
    call.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(wire.head().await.status, 502);
    rig.end().await;
}

#[tokio::test]
async fn a_quiet_websocket_stays_open() {
    let (rig, mut upstream, token) = played(", timeout: 100ms", "", "limits: { body_idle: 100ms }").await;
    let mut wire = Wire::open(&rig.url).await;
    let paid = format!("PAYMENT-CAPABILITY: {token}");
    let headers = [
        paid.as_str(),
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    wire.ask("GET /raw/x", &headers).await;
    let mut call = upstream.call().await;
    call.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(wire.head().await.status, 101);
    for text in [b"ping", b"pong"] {
        tokio::time::sleep(QUIET).await;
        wire.send(text).await;
        let mut bytes = [0; 4];
        soon("the client's bytes", call.stream.read_exact(&mut bytes)).await.unwrap();
        call.stream.write_all(&bytes).await.unwrap();
        assert_eq!(wire.exactly(4).await, text);
    }
    rig.end().await;
}

/// Regression: of a hundred WebSockets to a quick server on a busy machine, one or two were closed at once.
#[tokio::test]
async fn a_websocket_begins_however_early_it_is_granted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let more = format!("  quick: {{ url: \"http://{}\" }}\n", listener.local_addr().unwrap());
    let quick = tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                // Before the request has come. A trial of the gateway is gone meanwhile.
                let granted =
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
                let _sent = tcp.write_all(granted.as_bytes()).await.is_ok();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = tcp.read_u8().await else { return };
                    head.push(byte);
                }
                let (mut from, mut to) = tcp.split();
                let _ended = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    let routes = "  - { match: \"/**\", upstream: quick, free: true }\n".to_owned();
    let rig = Rig::with(Plan { more, routes, ..Plan::default() }).await;
    for number in 0..30 {
        let mut wire = Wire::open(&rig.url).await;
        let upgrade = ["Connection: Upgrade", "Upgrade: websocket"];
        wire.ask("GET /x", &upgrade).await;
        assert_eq!(wire.head().await.status, 101);
        wire.send("ping").await;
        assert_eq!(wire.exactly(4).await, b"ping", "the {number}th");
    }
    quick.abort();
    rig.end().await;
}

#[tokio::test]
async fn a_client_that_stops_sending_is_told_so_and_a_slow_one_is_served() {
    let (rig, mut upstream, token) = played(", timeout: 150ms", "", "limits: { body_idle: 300ms }").await;
    let paid = format!("PAYMENT-CAPABILITY: {token}");
    let headers = [paid.as_str(), "Content-Length: 10"];
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("POST /raw/x", &headers).await;
    wire.send("abc").await;
    let stalled = wire.answer().await;
    assert_eq!((stalled.status, stalled.json()["error"].as_str()), (408, Some("body_too_slow")));
    drop(upstream.call().await);
    eventually("its use came back", async || Uses::of(&rig, "raw").given_back == 1).await;

    // Each pause is short, all together are longer than the upstream may take.
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("POST /raw/x", &headers).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        wire.send("ab").await;
    }
    let mut call = upstream.call().await;
    soon("the body", call.stream.read_exact(&mut [0; 10])).await.unwrap();
    call.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(wire.answer().await.status, 200);
    rig.end().await;
}

#[tokio::test]
async fn an_answer_that_does_not_begin_is_504_also_after_a_body() {
    let (rig, upstream, token) = played(", timeout: 100ms", "", "").await;
    for headers in [vec![], vec!["Content-Length: 2".to_owned()]] {
        let mut wire = Wire::open(&rig.url).await;
        let body = if headers.is_empty() { "" } else { "ab" };
        let method = if headers.is_empty() { "GET" } else { "POST" };
        let mut all = vec![format!("PAYMENT-CAPABILITY: {token}")];
        all.extend(headers);
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        wire.ask(&format!("{method} /raw/x"), &all).await;
        wire.send(body).await;
        let late = wire.answer().await;
        assert_eq!((late.status, late.json()["error"].as_str()), (504, Some("upstream_failed")));
        assert_eq!(late.remaining(), 9, "the use came back");
    }
    eventually("both are counted", async || requests(&rig, "raw", "upstream_failed") == 2).await;
    drop(upstream);
    rig.end().await;
}

#[tokio::test]
async fn over_http2_a_late_answer_is_504_and_its_use_comes_back() {
    let (rig, mut upstream, token) = played(", timeout: 200ms", "", "").await;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (rig.folder.path().join("cert.pem"), rig.folder.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    crate::serve::write_private(&key, made.signing_key.serialize_pem());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy =
        Arc::new(pingora::proxy::http_proxy(&Arc::new(ServerConf::default()), rig.services.gateway()));
    let (stop, shutdown) = watch::channel(false);
    let tls = Tls::load(&certificate, &key).unwrap();
    let served =
        tokio::spawn(listen::serve_behind(rig.services.door(), listener, Some(tls), proxy, shutdown));
    let root = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let client = http_client().add_root_certificate(root).resolve("localhost", address);
    let client = client.http2_prior_knowledge().build().unwrap();
    let url = format!("https://localhost:{}/raw/x", address.port());
    let ask = || client.get(&url).header("PAYMENT-CAPABILITY", &token).send();

    let late = soon("the answer", ask()).await.unwrap();
    assert_eq!(late.status(), 504);
    assert_eq!(crate::rig::capability(&late).1, 9, "the use came back");
    assert_eq!(crate::rig::error(late).await, "upstream_failed");
    eventually("it is counted", async || {
        Uses::of(&rig, "raw").given_back == 1 && requests(&rig, "raw", "upstream_failed") == 1
    })
    .await;
    drop(upstream.call().await);
    // Its neighbours on the connection live, and may pause.
    let pausing = async {
        let mut call = upstream.call().await;
        call.send(format!("{CHUNKED}\r\n6\r\nfirst;\r\n")).await;
        tokio::time::sleep(QUIET).await;
        call.send("6\r\nsecond\r\n0\r\n\r\n").await;
    };
    let (answer, ()) = tokio::join!(ask(), pausing);
    let answer = answer.unwrap();
    assert_eq!(crate::rig::capability(&answer).1, 8);
    assert_eq!(answer.text().await.unwrap(), "first;second");
    drop(client);
    stop.send_replace(true);
    soon("the listener ends", served).await.unwrap();
    rig.end().await;
}
