//! Where ids meet other things: clients that hang up in the middle of an answer, and headers that
//! have no place for an id.

use faregate::store::{Answers, PaymentJournal};
use faregate::x402::Proof;

use super::{ID, PROOF, balance, effects, kept, refused, said, txn, under, with};
use crate::nano_session;
use crate::proxy::wire::{Played, Wire};
use crate::rig::{PLENTY, eventually};

const SESSIONS: &str = r#"
  - { name: opt, match: "/opt/**", upstream: api, price: 0.001 XNO, payment_identifier: optional, mechanisms: [nanoTxn, nanoSession] }
  - { name: req, match: "/req/**", upstream: api, price: 0.001 XNO, payment_identifier: required, mechanisms: [nanoTxn, nanoSession] }
"#;

#[tokio::test]
async fn the_two_headers_of_a_session_name_no_id_and_are_refused_where_one_is_required() {
    let rig = with(SESSIONS, "", super::counting()).await;
    let key = rig.payer(1, PLENTY);
    let offer = nano_session::session(&rig, "/req/x").await;
    let block = nano_session::pay(&rig, &key, &offer);
    let (hash, session) = (block.to_string(), nano_session::id(&offer));
    let headers = [("X-PAYMENT-BLOCK", hash.as_str()), ("X-PAYMENT-SESSION", &session)];
    for _ in 0..2 {
        let answer = rig.get("/req/x", &headers).await;
        assert_eq!(answer.status(), 400);
        assert_eq!(crate::rig::error(answer).await, "payment_identifier_required");
    }
    let bare = nano_session::proof(&offer, block);
    refused(&rig, "/req/x", &bare, 400, "payment_identifier_required").await;
    assert!(rig.services.store().payment(block).await.unwrap().is_none(), "nothing is claimed");
    assert_eq!(effects(&rig), (0, 0));
    // What was sent buys what it was sent for, shown in an envelope with an id.
    let named = under(&offer, &Proof::NanoSession { block_hash: block }, ID);
    assert_eq!(super::show(&rig, "/req/x", &named).await.status(), 201);
    // Where an id may come, the headers are as good as ever.
    let offer = nano_session::session(&rig, "/opt/x").await;
    let (hash, session) = (nano_session::pay(&rig, &key, &offer).to_string(), nano_session::id(&offer));
    let headers = [("X-PAYMENT-BLOCK", hash.as_str()), ("X-PAYMENT-SESSION", &session)];
    assert_eq!(rig.get("/opt/x", &headers).await.status(), 201);
    rig.end().await;
}

/// A gateway whose `/raw/**` leads to an upstream that the test plays.
async fn played() -> (crate::rig::Rig, Played) {
    let upstream = Played::start().await;
    let more = format!("  raw: {{ url: \"{}\" }}\n", upstream.url);
    let routes = r#"
  - { name: raw, match: "/raw/**", upstream: raw, price: 0.001 XNO, payment_identifier: required }
"#;
    (with(routes, &more, super::counting()).await, upstream)
}

/// How many uses of `/raw/**` were committed and given back.
fn uses(rig: &crate::rig::Rig) -> [bool; 2] {
    let text = rig.services.metrics().text().unwrap();
    ["committed", "given_back"].map(|result| {
        text.contains(&format!("faregate_capability_uses_total{{result=\"{result}\",route=\"raw\"}} 1\n"))
    })
}

#[tokio::test]
async fn who_hangs_up_in_the_middle_of_an_answer_gets_it_whole_without_another_payment() {
    let (rig, mut upstream) = played().await;
    let key = rig.payer(1, PLENTY);
    let (proof, block) = txn(&rig, &key, "/raw/x", ID, 0).await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /raw/x", &[&format!("{PROOF}: {proof}")]).await;
    let mut call = upstream.call().await;
    call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
    assert_eq!(wire.head().await.status, 200);
    drop(wire);
    eventually("the use is back", || async { uses(&rig) == [false, true] }).await;
    drop(call);
    let left = balance(&rig, &key);
    assert_eq!(rig.services.store().kept(block.hash()).await, Ok(None), "half an answer is none");
    // He signs anew, as wrappers do; half an answer was not kept, so the upstream is asked again.
    let (second, _) = txn(&rig, &key, "/raw/x", ID, 0).await;
    let whole = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole";
    let shown = [(PROOF, second.as_str())];
    let (answer, ()) = tokio::join!(rig.get("/raw/x", &shown), upstream.play(whole));
    let answer = said(answer).await;
    assert_eq!((answer.body.as_str(), answer.replayed), ("whole", false));
    assert_eq!(answer.block, Some(block.hash().to_string()), "bought by the first payment");
    kept(&rig, &block).await;
    assert_eq!(said(rig.get("/raw/x", &[(PROOF, &proof)]).await).await, answer.again());
    assert_eq!((balance(&rig, &key), effects(&rig).1), (left, 1));
    assert!(upstream.is_idle());
    rig.end().await;
}

#[tokio::test]
async fn an_answer_that_went_by_whole_to_a_client_that_was_gone_is_kept() {
    let (rig, mut upstream) = played().await;
    let key = rig.payer(1, PLENTY);
    let (proof, block) = txn(&rig, &key, "/raw/x", ID, 0).await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /raw/x", &[&format!("{PROOF}: {proof}")]).await;
    let mut call = upstream.call().await;
    call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    assert_eq!(wire.head().await.status, 200);
    call.send("5\r\nworld\r\n0\r\n\r\n").await;
    // He never reads it.
    kept(&rig, &block).await;
    drop(wire);
    let left = balance(&rig, &key);
    let (second, _) = txn(&rig, &key, "/raw/x", ID, 0).await;
    let answer = said(rig.get("/raw/x", &[(PROOF, &second)]).await).await;
    assert_eq!((answer.body.as_str(), answer.replayed), ("helloworld", true));
    assert_eq!((balance(&rig, &key), effects(&rig).1), (left, 1));
    assert!(upstream.is_idle());
    rig.end().await;
}
