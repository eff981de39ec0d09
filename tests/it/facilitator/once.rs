//! One payment is delivered once, and no lost answer loses the payment.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use faregate::devnet::{InjectedFault, Times, faults::ANY};
use faregate::store::PaymentState;
use futures_util::future::join_all;
use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::{Desk, PRICE, REPORT, is_settled, scene};
use crate::attacks::{journal, unhurried};
use crate::patience::eventually;
use crate::proxy::wire::Wire;
use crate::rig::{Ending, PLENTY, Plan, Rig, manual_clock};

fn request(call: &Value) -> String {
    let body = call.to_string();
    format!("POST /settle HTTP/1.1\r\nHost: desk\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn of_many_settlements_at_once_one_succeeds() {
    let (desk, key) = scene(Plan::default()).await;
    let bill = desk.bill(REPORT, PRICE).await;
    for by_signature in [false, true] {
        let (call, block) = if by_signature { desk.signed(&key, &bill) } else { desk.txn(&key, &bill) };
        let answers = join_all((0..16).map(|_| desk.ok("/settle", &call))).await;
        assert_eq!(answers.iter().filter(|it| is_settled(it, &block)).count(), 1, "{answers:?}");
        for other in answers.iter().filter(|it| it["success"] == false) {
            let reason = other["errorReason"].as_str().unwrap();
            assert!(["settlement_pending", "DUPLICATE_BLOCK_HASH"].contains(&reason), "{other}");
        }
        assert_eq!(desk.settle_until_decided(&call).await["errorReason"], "DUPLICATE_BLOCK_HASH");
    }
    desk.end().await;
}

#[tokio::test]
async fn a_pending_settlement_is_found_settled_after_its_challenge_has_expired() {
    let (clock, now) = manual_clock();
    let (desk, key) = scene(Plan { clock, ..unhurried() }).await;
    let bill = desk.bill(REPORT, PRICE).await;
    let (call, block) = desk.txn(&key, &bill);
    let pending = desk.ok("/settle", &call).await;
    assert_eq!((&pending["success"], &pending["errorReason"]), (&json!(false), &json!("settlement_pending")));
    assert_eq!(pending["transaction"], block.hash().lower_hex());
    now.fetch_add(600, Ordering::SeqCst);
    desk.confirm(block.hash()).await;
    assert!(is_settled(&desk.settle_until_decided(&call).await, &block));
    desk.refused(&call, "DUPLICATE_BLOCK_HASH").await;
    desk.end().await;
}

/// The middleware gives up on a call that takes too long; the settlement does not.
#[tokio::test]
async fn a_caller_that_hangs_up_takes_nothing_along() {
    let (desk, key) = scene(Plan {
        devnet: unhurried().devnet,
        more: "settlement: { wait: 60s }".to_owned(),
        ..Plan::default()
    })
    .await;
    let bill = desk.bill(REPORT, PRICE).await;
    let (call, block) = desk.txn(&key, &bill);
    let mut wire = Wire::open(&desk.url).await;
    wire.send(request(&call)).await;
    let is_broadcast = || async { desk.rig.devnet.lattice().entry(block.hash()).is_some() };
    eventually("the block is broadcast", is_broadcast).await;
    drop(wire);
    desk.confirm(block.hash()).await;
    let is_granted = || async { journal(&desk.rig, block.hash()).await == Some(PaymentState::Granted) };
    eventually("it is settled without its caller", is_granted).await;
    assert_eq!(desk.ok("/verify", &call).await["isValid"], true);
    assert!(
        is_settled(&desk.settle_until_decided(&call).await, &block),
        "the use was not lost with the caller"
    );
    desk.refused(&call, "DUPLICATE_BLOCK_HASH").await;
    desk.end().await;
}

/// A use that is spent by an answer that nobody got is lost: the same call must get it.
#[tokio::test]
async fn an_answer_that_is_not_delivered_spends_nothing() {
    let (desk, key) = scene(Plan::default()).await;
    let bill = desk.bill(REPORT, PRICE).await;
    let (call, block) = desk.txn(&key, &bill);
    // So small that an answer is still being written when its first byte is read.
    let (mut caller, server) = tokio::io::duplex(16);
    let facilitator = Arc::new(desk.rig.services.facilitator().expect("configured"));
    let (_running, shutdown) = watch::channel(false);
    let served = tokio::spawn(async move {
        facilitator.process_new_http(ServerSession::new_http1(Box::new(server)), &shutdown).await
    });
    caller.write_all(request(&call).as_bytes()).await.unwrap();
    caller.read_exact(&mut [0]).await.unwrap();
    drop(caller);
    assert!(served.await.unwrap().is_none());
    assert_eq!(journal(&desk.rig, block.hash()).await, Some(PaymentState::Granted));
    assert!(is_settled(&desk.ok("/settle", &call).await, &block), "the use was lost with its answer");
    desk.refused(&call, "DUPLICATE_BLOCK_HASH").await;
    desk.end().await;
}

#[tokio::test]
async fn what_was_settled_stays_settled_through_a_crash() {
    let (mut desk, key) = scene(Plan::default()).await;
    let bill = desk.bill(REPORT, PRICE).await;
    let (call, block) = desk.txn(&key, &bill);
    // Its use is on the disk when the connection ends.
    let mut wire = Wire::open(&desk.url).await;
    wire.send(request(&call)).await;
    let answer = wire.rest().await;
    assert!(String::from_utf8(answer).unwrap().contains(&block.hash().lower_hex()));
    for how in [Ending::Abrupt, Ending::Orderly] {
        desk = desk.restart(how).await;
        desk.refused(&call, "DUPLICATE_BLOCK_HASH").await;
    }
    desk.end().await;
}

#[tokio::test]
async fn what_was_pending_is_settled_after_a_crash() {
    let (mut desk, key) = scene(unhurried()).await;
    let bill = desk.bill(REPORT, PRICE).await;
    let (call, block) = desk.txn(&key, &bill);
    assert_eq!(desk.ok("/settle", &call).await["errorReason"], "settlement_pending");
    desk = desk.restart(Ending::Abrupt).await;
    desk.confirm(block.hash()).await;
    assert!(is_settled(&desk.settle_until_decided(&call).await, &block));
    desk.refused(&call, "DUPLICATE_BLOCK_HASH").await;
    desk.end().await;
}

/// A payment for another server's resource does not open a route of the gateway, nor the other way round.
#[tokio::test]
async fn a_foreign_challenge_and_a_route_of_the_gateway() {
    let (desk, key) = scene(Plan::default()).await;
    let rig: &Rig = &desk.rig;
    let foreign = desk.bill(&format!("{}/v1/quote/XNO", rig.url), PRICE).await;
    let (call, _) = desk.txn(&key, &foreign);
    let proof = faregate::x402::encode_header(&call["paymentPayload"]);
    let answer = rig.get("/v1/quote/XNO", &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!((answer.status().as_u16(), crate::rig::error(answer).await.as_str()), (402, "WRONG_RESOURCE"));
    assert_eq!(rig.upstream.seen().len(), 0);

    let other = rig.payer(2, PLENTY);
    let [own, _] = rig.bill("/v1/quote/XNO").await;
    let (proof, _) = rig.txn(&other, &own);
    let payload = super::decoded(&proof);
    let mut reverse = super::call(&payload["accepted"], &payload);
    desk.refused(&reverse, "WRONG_RESOURCE").await;
    reverse["paymentRequirements"]["extra"]["route"] = foreign.entries[0]["extra"]["route"].clone();
    desk.refused(&reverse, "WRONG_RESOURCE").await;
    let served = rig.get("/v1/quote/XNO", &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!(served.status(), 200, "its own door it opens");
    desk.end().await;
}

#[tokio::test]
async fn while_nothing_can_be_settled_nothing_is_sold() {
    let desk = Desk::open(Plan::default()).await;
    let key = desk.rig.payer(1, PLENTY);
    let bill = desk.bill(REPORT, PRICE).await;
    let (call, _) = desk.txn(&key, &bill);
    desk.rig.devnet.order(ANY, InjectedFault::Drop, Times::Always);
    let order = json!({ "resource": { "url": REPORT }, "price": PRICE });
    let is_down = || async { desk.post("/requirements", &order).await.0 == 503 };
    eventually("no bill without a node", is_down).await;
    let (status, answer) = desk.post("/verify", &call).await;
    assert_eq!(
        (status, &answer["isValid"], &answer["invalidReason"]),
        (503, &json!(false), &json!("no_node"))
    );
    let (status, answer) = desk.post("/settle", &call).await;
    assert_eq!((status, &answer["success"], &answer["errorReason"]), (503, &json!(false), &json!("no_node")));
    desk.rig.devnet.faults().clear();
    desk.end().await;
}
