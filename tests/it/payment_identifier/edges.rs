//! Where ids meet other things: clients that hang up in the middle of an answer, and headers that
//! have no place for an id.

use faregate::store::{Answers, PaymentJournal};
use faregate::x402::PaymentProof;

use super::{Answered, ID, PROOF, balance, proof_under_id, refused, rig_with, txn_proof, wait_until_kept};
use crate::metrics::Uses;
use crate::nano_session;
use crate::patience::eventually;
use crate::proxy::wire::{Played, Wire};
use crate::rig::{Effects, PLENTY, Plan, Rig};

const SESSIONS: &str = r#"
  - { name: opt, match: "/opt/**", upstream: api, price: 0.001 XNO, payment_identifier: optional, mechanisms: [nanoTxn, nanoSession] }
  - { name: req, match: "/req/**", upstream: api, price: 0.001 XNO, payment_identifier: required, mechanisms: [nanoTxn, nanoSession] }
"#;

#[tokio::test]
async fn the_two_headers_of_a_session_name_no_id_and_are_refused_where_one_is_required() {
    let rig = rig_with(SESSIONS, "", super::counting()).await;
    let key = rig.payer(1, PLENTY);
    let offer = nano_session::session_offer(&rig, "/req/x").await;
    let block = nano_session::pay_session(&rig, &key, &offer);
    let (hash, session) = (block.to_string(), nano_session::session_id(&offer));
    let headers = [("X-PAYMENT-BLOCK", hash.as_str()), ("X-PAYMENT-SESSION", &session)];
    for _ in 0..2 {
        let answer = rig.get("/req/x", &headers).await;
        assert_eq!(answer.status(), 400);
        assert_eq!(crate::rig::error(answer).await, "payment_identifier_required");
    }
    let bare = nano_session::session_proof(&offer, block);
    refused(&rig, "/req/x", &bare, 400, "payment_identifier_required").await;
    assert!(rig.services.store().payment(block).await.unwrap().is_none(), "nothing is claimed");
    assert_eq!(rig.effects(), Effects { forwarded: 0, broadcast: 0 });
    // What was sent buys what it was sent for, shown in an envelope with an id.
    let named = proof_under_id(&offer, &PaymentProof::NanoSession { block_hash: block }, ID);
    assert_eq!(rig.ask_until_decided("/req/x", &named).await.status(), 201);
    // Where an id may come, the headers are as good as ever.
    let offer = nano_session::session_offer(&rig, "/opt/x").await;
    let (hash, session) =
        (nano_session::pay_session(&rig, &key, &offer).to_string(), nano_session::session_id(&offer));
    let headers = [("X-PAYMENT-BLOCK", hash.as_str()), ("X-PAYMENT-SESSION", &session)];
    assert_eq!(rig.get("/opt/x", &headers).await.status(), 201);
    rig.end().await;
}

/// A gateway whose `/raw/**` leads to an upstream that the test plays.
async fn played(plan: Plan) -> (Rig, Played) {
    let upstream = Played::start().await;
    let more = format!("  raw: {{ url: \"{}\" }}\n", upstream.url);
    let routes = r#"
  - { name: raw, match: "/raw/**", upstream: raw, price: 0.001 XNO, payment_identifier: required }
"#;
    (Rig::with(Plan { routes: routes.to_owned(), more, ..plan }).await, upstream)
}

#[tokio::test]
async fn who_hangs_up_in_the_middle_of_an_answer_gets_it_whole_without_another_payment() {
    let (rig, mut upstream) = played(Plan::default()).await;
    let key = rig.payer(1, PLENTY);
    let (proof, block) = txn_proof(&rig, &key, "/raw/x", ID, 0).await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /raw/x", &[&format!("{PROOF}: {proof}")]).await;
    let mut call = upstream.call().await;
    call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
    assert_eq!(wire.head().await.status, 200);
    drop(wire);
    tokio::select! {
        () = eventually("the use is back", || async {
            Uses::of(&rig, "raw") == Uses { committed: 0, given_back: 1 }
        }) => {}
        () = call.send_on() => {}
    }
    drop(call);
    let left = balance(&rig, &key);
    assert_eq!(rig.services.store().kept(block.hash()).await, Ok(None), "half an answer is none");
    // The client signs again, as wrappers do; half an answer was not kept, so the upstream is asked again.
    let (second, _) = txn_proof(&rig, &key, "/raw/x", ID, 0).await;
    let whole = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole";
    let shown = [(PROOF, second.as_str())];
    let (answer, ()) = tokio::join!(rig.get("/raw/x", &shown), upstream.play(whole));
    let answer = Answered::read(answer).await;
    assert_eq!((answer.body.as_str(), answer.replayed), ("whole", false));
    assert_eq!(answer.block, Some(block.hash().to_string()), "bought by the first payment");
    wait_until_kept(&rig, &block).await;
    assert_eq!(Answered::read(rig.get("/raw/x", &[(PROOF, &proof)]).await).await, answer.as_replayed());
    assert_eq!(balance(&rig, &key), left);
    assert_eq!(rig.effects().broadcast, 1);
    assert!(upstream.is_idle());
    rig.end().await;
}

#[tokio::test]
async fn an_answer_that_went_by_whole_to_a_client_that_was_gone_is_kept() {
    let (rig, mut upstream) = played(Plan::default()).await;
    let key = rig.payer(1, PLENTY);
    let (proof, block) = txn_proof(&rig, &key, "/raw/x", ID, 0).await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /raw/x", &[&format!("{PROOF}: {proof}")]).await;
    let mut call = upstream.call().await;
    call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    assert_eq!(wire.head().await.status, 200);
    call.send("5\r\nworld\r\n0\r\n\r\n").await;
    // He never reads it.
    wait_until_kept(&rig, &block).await;
    drop(wire);
    let left = balance(&rig, &key);
    let (second, _) = txn_proof(&rig, &key, "/raw/x", ID, 0).await;
    let answer = Answered::read(rig.get("/raw/x", &[(PROOF, &second)]).await).await;
    assert_eq!((answer.body.as_str(), answer.replayed), ("helloworld", true));
    assert_eq!(balance(&rig, &key), left);
    assert_eq!(rig.effects().broadcast, 1);
    assert!(upstream.is_idle());
    rig.end().await;
}

/// A kept answer gave its use back if its client stopped reading, and no test noticed: the client had
/// the answer from the store, and the use as well.
#[tokio::test]
async fn who_stops_reading_an_answer_that_is_kept_has_spent_its_use() {
    const LARGE: usize = 60_000;
    let (rig, mut upstream) = played(Plan { send_buffer: Some(4096), ..Plan::default() }).await;
    let key = rig.payer(1, PLENTY);
    let (proof, block) = txn_proof(&rig, &key, "/raw/x", ID, 0).await;
    let mut wire = Wire::open_narrow(&rig.url, 4096).await;
    wire.ask("GET /raw/x", &[&format!("{PROOF}: {proof}")]).await;
    let mut call = upstream.call().await;
    call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
    assert_eq!(wire.head().await.status, 200);
    assert_eq!(wire.exactly(10).await, b"5\r\nfirst\r\n");
    // More than fits between the gateway and the client, so that the gateway has the whole answer and
    // cannot hand it over.
    call.send(format!("{LARGE:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(LARGE))).await;
    let size = wire.line().await;
    assert_eq!(wire.exactly(1).await, b"x", "of a chunk of {size}");
    drop(wire);
    wait_until_kept(&rig, &block).await;
    eventually("the use is spent", || async {
        Uses::of(&rig, "raw") == Uses { committed: 1, given_back: 0 }
    })
    .await;
    let answer = Answered::read(rig.get("/raw/x", &[(PROOF, &proof)]).await).await;
    assert_eq!((answer.body.len(), answer.replayed), (5 + LARGE, true));
    assert!(upstream.is_idle());
    rig.end().await;
}
