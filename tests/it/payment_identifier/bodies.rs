//! Requests with a body: it is part of the request, and reaches the upstream as it came.

use reqwest::{Body, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Answered, ID, PROOF, start, txn_proof, wait_until_kept};
use crate::rig::{Effects, PLENTY, Rig};

/// The most that is read.
const LARGEST: usize = 64 * 1024;

async fn post(rig: &Rig, proof: &str, kind: &str, body: impl Into<Body>) -> Response {
    let request = rig.http.post(format!("{}/opt/x", rig.url)).header(PROOF, proof);
    request.header("Content-Type", kind).body(body).send().await.unwrap()
}

/// The same with a body in chunks, its length not said before. Gives the whole answer as text.
async fn post_in_chunks(rig: &Rig, proof: &str, parts: &[&str], more: &str) -> String {
    let mut stream = TcpStream::connect(rig.url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST /opt/x HTTP/1.1\r\nHost: {}\r\n{PROOF}: {proof}\r\nContent-Type: text/plain\r\n{more}\
         Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        rig.url.trim_start_matches("http://")
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    if more.contains("100-continue") {
        let mut told = [0; 25];
        stream.read_exact(&mut told).await.unwrap();
        assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    }
    for part in parts {
        stream.write_all(format!("{:x}\r\n{part}\r\n", part.len()).as_bytes()).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn another_body_is_another_request() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let (proof, block) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    let first = Answered::read(post(&rig, &proof, "text/plain", "buy 1").await).await;
    assert_eq!((first.status, first.body.as_str()), (201, "answer 1 to POST /opt/x with 5 bytes"));
    assert_eq!(rig.upstream.seen()[0].body, b"buy 1");
    wait_until_kept(&rig, &block).await;
    assert_eq!(Answered::read(post(&rig, &proof, "text/plain", "buy 1").await).await, first.as_replayed());
    // However it is cut up.
    let chunked = post_in_chunks(&rig, &proof, &["buy", " 1"], "").await;
    assert!(chunked.starts_with("HTTP/1.1 201") && chunked.ends_with(&first.body), "{chunked}");
    assert!(chunked.to_lowercase().contains("idempotent-replayed: true"), "{chunked}");
    assert_eq!(post(&rig, &proof, "text/plain", "buy 2").await.status(), 409);
    assert_eq!(post(&rig, &proof, "text/plain", "").await.status(), 409);
    assert_eq!(post(&rig, &proof, "application/json", "buy 1").await.status(), 409);
    assert_eq!(rig.effects(), Effects { forwarded: 1, broadcast: 1 });
    rig.end().await;
}

#[tokio::test]
async fn a_body_reaches_the_upstream_as_it_came() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let exact = "e".repeat(LARGEST);
    for (number, length) in [1, 1_000, 20_000, LARGEST].into_iter().enumerate() {
        let (proof, _) = txn_proof(&rig, &key, "/opt/x", &format!("{ID}-{number}"), 0).await;
        let answer = post(&rig, &proof, "text/plain", exact[..length].to_owned()).await;
        assert_eq!(answer.status(), 201, "{length} bytes");
        assert_eq!(rig.upstream.seen().last().unwrap().body, exact.as_bytes()[..length]);
    }
    for (number, more) in ["", "Expect: 100-continue\r\n"].into_iter().enumerate() {
        let (proof, _) = txn_proof(&rig, &key, "/opt/x", &format!("{ID}-chunked-{number}"), 0).await;
        let answer = post_in_chunks(&rig, &proof, &["one ", "two ", "three"], more).await;
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        let seen = rig.upstream.seen().pop().unwrap();
        assert_eq!((seen.body.as_slice(), seen.header("expect")), (&b"one two three"[..], None));
    }
    rig.end().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_any_money_moves() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let (proof, _) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    let answer = post(&rig, &proof, "text/plain", "x".repeat(LARGEST + 1)).await;
    assert_eq!((answer.status().as_u16(), crate::rig::error(answer).await.as_str()), (413, "body_too_long"));
    let half = "x".repeat(LARGEST / 2 + 1);
    let answer = post_in_chunks(&rig, &proof, &[&half, &half], "").await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_long"), "{answer}");
    assert_eq!(rig.effects(), Effects { forwarded: 0, broadcast: 0 });
    // It is good for a request that fits.
    assert_eq!(post(&rig, &proof, "text/plain", "x").await.status(), 201);
    rig.end().await;
}
