//! A client that has sent its request and closes its sending side waits for the answer (RFC 9112 section
//! 9.6). One that is gone for good gets its use back.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Stage, answered, rest};
use crate::metrics::Uses;
use crate::patience::{PATIENCE, eventually};
use crate::rig::{PLENTY, capability};
use crate::upstreams::cases::Piece;
use crate::upstreams::http2;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Sends a request, closes the sending side, and gives the answer.
async fn ask(stage: &mut Stage, mut client: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    client.write_all(request.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    // The end of the client's bytes arrives before the upstream has answered, or at about the same time.
    let call = stage.upstream.call().await;
    let _seen = answered(call, OK).await;
    rest(&mut client).await
}

/// Regression: such a client got nothing, and after three tries what it had bought was gone.
#[tokio::test]
async fn it_is_answered_over_tcp_and_tls_with_a_body_and_without() {
    let mut stage = Stage::set().await;
    for round in 0..10 {
        for request in [
            format!("GET /free/{round} HTTP/1.1\r\nHost: gateway.test\r\n\r\n"),
            format!("GET /free/{round} HTTP/1.0\r\n\r\n"),
            format!("POST /free/{round} HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 3\r\n\r\nabc"),
            format!(
                "POST /free/{round} HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                 3\r\nabc\r\n0\r\n\r\n"
            ),
        ] {
            let client = stage.plain().await;
            let answer = ask(&mut stage, client, &request).await;
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nok"),
                "{request}\n{answer}"
            );
            let client = stage.secured(b"http/1.1").await;
            let answer = ask(&mut stage, client, &request).await;
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nok"),
                "{request}\n{answer}"
            );
        }
    }
    stage.end().await;
}

#[tokio::test]
async fn its_one_use_is_taken_once_and_its_answer_arrives() {
    let mut stage = Stage::set().await;
    for number in 1..=3 {
        let payer = stage.rig.payer(number, PLENTY);
        let [offer, _] = stage.rig.bill("/once/x").await;
        let (proof, _) = stage.rig.txn(&payer, &offer);
        let request =
            format!("GET /once/x HTTP/1.1\r\nHost: gateway.test\r\nPAYMENT-SIGNATURE: {proof}\r\n\r\n");
        let client = stage.plain().await;
        let answer = ask(&mut stage, client, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("remaining=0"), "{answer}");
        let committed = u64::from(number);
        eventually("its use is spent", async || {
            Uses::of(&stage.rig, "once") == Uses { committed, given_back: 0 }
        })
        .await;
    }
    stage.end().await;
}

/// A part of a request is none.
#[tokio::test]
async fn half_a_request_is_not_waited_for() {
    let mut stage = Stage::set().await;
    for request in [
        "GET /free/x HTTP/1.1\r\nHost: gate",
        "POST /free/x HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 9\r\n\r\nabc",
        "POST /free/x HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let mut client = stage.plain().await;
        client.write_all(request.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let answer = rest(&mut client).await;
        assert!(!answer.contains("HTTP/1.1 2"), "{request}: {answer}");
    }
    while !stage.upstream.is_idle() {}
    stage.end().await;
}

/// A client that resets its connection is noticed at once, while the upstream is still at work.
#[tokio::test]
async fn a_reset_ends_the_request() {
    let mut stage = Stage::set().await;
    let token = bought(&mut stage).await;
    let mut client = stage.plain().await;
    client.write_all(with(&token).as_bytes()).await.unwrap();
    let mut call = stage.upstream.call().await;
    client.set_zero_linger().unwrap();
    drop(client);
    assert_eq!(rest(&mut call.stream).await, "", "the upstream is left alone before it has answered");
    eventually("the use is given back", async || {
        Uses::of(&stage.rig, "many") == Uses { committed: 1, given_back: 1 }
    })
    .await;
    stage.end().await;
}

/// A client that has closed its connection looks like one that waits, until its answer comes back as a
/// reset. An answer in one packet would seem to be delivered.
#[tokio::test]
async fn one_that_is_gone_gets_its_use_back() {
    let mut stage = Stage::set().await;
    let token = bought(&mut stage).await;
    for (committed, given_back) in [(1, 1), (1, 2), (2, 2)] {
        let mut client = stage.plain().await;
        client.write_all(with(&token).as_bytes()).await.unwrap();
        let call = stage.upstream.call().await;
        drop(client);
        let _seen = answered(call, OK).await;
        eventually("it is counted", async || Uses::of(&stage.rig, "many") == Uses { committed, given_back })
            .await;
    }
    stage.end().await;
}

/// Regression: such a client had its use back, twice for each, though it had the answer.
#[tokio::test]
async fn one_that_has_its_whole_answer_and_resets_has_used_it() {
    let mut stage = Stage::set().await;
    let token = bought(&mut stage).await;
    for number in 0..6 {
        let mut client = stage.plain().await;
        client.write_all(with(&token).as_bytes()).await.unwrap();
        let call = stage.upstream.call().await;
        if number % 2 == 0 {
            client.shutdown().await.unwrap();
        }
        let _seen = answered(call, OK).await;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok") {
            answer.push(crate::patience::soon("a byte", client.read_u8()).await.unwrap());
        }
        client.set_zero_linger().unwrap();
        drop(client);
        let committed = number + 2;
        eventually("it is counted", async || {
            Uses::of(&stage.rig, "many") == Uses { committed, given_back: 0 }
        })
        .await;
    }
    stage.end().await;
}

/// An answer whose end is that of the connection is not to look whole when it is not (RFC 9112 section 8).
#[tokio::test]
async fn a_broken_answer_to_an_old_client_is_a_reset() {
    let mut stage = Stage::set().await;
    let half = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n";
    for (answer, is_whole) in [(format!("{half}0\r\n\r\n"), true), (half.to_owned(), false)] {
        let mut client = stage.plain().await;
        client.write_all(b"GET /free/x HTTP/1.0\r\n\r\n").await.unwrap();
        let mut call = stage.upstream.call().await;
        call.send(&answer).await;
        drop(call);
        let mut bytes = Vec::new();
        let read = client.read_to_end(&mut bytes);
        let ended = crate::patience::within(Duration::from_secs(10), "the end", read).await;
        assert_eq!(ended.is_ok(), is_whole, "{answer:?}: {:?}", String::from_utf8_lossy(&bytes));
    }
    stage.end().await;
}

/// A connection of HTTP/2 with one request for `/many/x`, and its body.
fn over_http2(token: &str, body: &[Piece]) -> Vec<u8> {
    let fields = [
        (":method", if body.is_empty() { "GET" } else { "POST" }),
        (":scheme", "https"),
        (":authority", "gateway.test"),
        (":path", "/many/x"),
        ("payment-capability", token),
    ];
    let fields = fields.map(|(name, value)| Piece::Field(name.into(), value.into()));
    http2::request(&[&fields, body].concat())
}

/// Regression: such a client got nothing. What of the answer it has made room for beforehand arrives.
#[tokio::test]
async fn over_http2_it_is_answered_too() {
    let mut stage = Stage::set().await;
    let token = bought(&mut stage).await;
    let part = |text: &str| Piece::Data(text.into());
    for (number, body) in [vec![], vec![part("abc"), part("")], vec![]].into_iter().enumerate() {
        let mut client = stage.secured(b"h2").await;
        client.write_all(&over_http2(&token, &body)).await.unwrap();
        client.shutdown().await.unwrap();
        let call = stage.upstream.call().await;
        let seen = answered(call, OK).await;
        assert_eq!(seen.contains("abc"), !body.is_empty(), "{seen}");
        assert_eq!(http2::answer(&mut client, PATIENCE).await, Some((200, b"ok".to_vec())));
        // The connection ends of itself.
        let _farewell = rest(&mut client).await;
        let committed = number as u64 + 2;
        eventually("its use is spent", async || {
            Uses::of(&stage.rig, "many") == Uses { committed, given_back: 0 }
        })
        .await;
    }
    stage.end().await;
}

/// A request whose body does not end is none, and its use comes back at once.
#[tokio::test]
async fn half_a_request_over_http2_is_not_waited_for() {
    let mut stage = Stage::set().await;
    let token = bought(&mut stage).await;
    let mut client = stage.secured(b"h2").await;
    let bytes = over_http2(&token, &[Piece::Data("abc".into()), Piece::Reset]);
    // Without the frame of 13 bytes that resets it.
    client.write_all(&bytes[..bytes.len() - 13]).await.unwrap();
    client.shutdown().await.unwrap();
    let answer = http2::answer(&mut client, PATIENCE).await;
    assert!(answer.as_ref().is_none_or(|it| it.0 >= 400), "{answer:?}");
    eventually("its use came back", async || {
        Uses::of(&stage.rig, "many") == Uses { committed: 1, given_back: 1 }
    })
    .await;
    while !stage.upstream.is_idle() {}
    stage.end().await;
}

/// To be told from one that waits, a client of HTTP/2 is sent a ping, and no answer begins until it could have
/// come back as a reset.
#[tokio::test]
async fn one_of_http2_that_is_gone_gets_its_use_back() {
    let mut stage = Stage::set().await;
    let token = bought(&mut stage).await;
    for (committed, given_back) in [(1, 1), (1, 2), (2, 2)] {
        let mut client = stage.secured(b"h2").await;
        client.write_all(&over_http2(&token, &[])).await.unwrap();
        let call = stage.upstream.call().await;
        // What was not read would be a reset as soon as it closes.
        let (mut frame, is_last) = ([0; 9], |it: &[u8; 9]| it[3..5] == [4, 1]);
        while !is_last(&frame) {
            let _head = client.read_exact(&mut frame).await.unwrap();
            let mut payload = vec![0; u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize];
            let _payload = client.read_exact(&mut payload).await.unwrap();
        }
        client.shutdown().await.unwrap();
        drop(client);
        let _seen = answered(call, OK).await;
        eventually("it is counted", async || Uses::of(&stage.rig, "many") == Uses { committed, given_back })
            .await;
    }
    stage.end().await;
}

fn with(token: &str) -> String {
    format!("GET /many/x HTTP/1.1\r\nHost: gateway.test\r\nPAYMENT-CAPABILITY: {token}\r\n\r\n")
}

/// A capability for `/many/**`, of which one use is spent.
async fn bought(stage: &mut Stage) -> String {
    let payer = stage.rig.payer(1, PLENTY);
    let paid = stage.rig.pay(&payer, "/many/bought");
    let (paid, ()) = tokio::join!(paid, stage.upstream.play(OK));
    capability(&paid).0
}
