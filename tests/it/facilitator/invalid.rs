//! Invalid payments, one row per code, each sent to `/verify` and `/settle`.

use std::sync::atomic::Ordering;

use faregate::devnet::{InjectedFault, Times};
use faregate::nano::{BlockHash, Signature, Work};
use faregate::x402::{NanoOffer, PaymentProof};
use serde_json::{Value, json};

use super::{PRICE, REPORT, call, decoded, is_settled, scene};
use crate::attacks::{ONE, balance, block, frontier, journal, less, more, noms, unhurried};
use crate::metrics::sample;
use crate::patience::eventually;
use crate::rig::{PLENTY, Plan, manual_clock, signature};

const DEAR: &str = "https://shop.example/everything";

/// The payload of a claim with whatever the payer likes in it.
fn claim(offer: &NanoOffer, proof: PaymentProof) -> Value {
    offer.answer(&proof)
}

#[tokio::test]
async fn blocks_that_are_not_what_was_asked_for() {
    let (desk, key) = scene(Plan::default()).await;
    let bill = desk.bill(REPORT, PRICE).await;
    let ([offer, upfront], entry) = (&bill.offers, &bill.entries[0]);
    let by = |block| call(entry, &offer.answer(&PaymentProof::NanoTxn { block }));
    let (previous, rest) = (frontier(&desk.rig, &key), less(balance(&desk.rig, &key), offer.amount));
    let good = block(&key, previous, rest, offer.pay_to.0);

    let elsewhere = block(&key, previous, rest, key.account().0);
    desk.refused(&by(elsewhere), "WRONG_DESTINATION").await;
    let mut unsigned = good;
    unsigned.signature = Signature([7; 64]);
    desk.refused(&by(unsigned), "INVALID_SIGNATURE").await;
    let mut idle = good;
    idle.work = (0..).map(Work).find(|it| !it.reaches(&good.work_root(), faregate::devnet::THRESHOLDS.send));
    desk.refused(&by(idle), "INVALID_WORK").await;
    let gap = block(&key, BlockHash([0x77; 32]), rest, offer.pay_to.0);
    desk.refused(&by(gap), "STALE_FRONTIER").await;
    for short in [more(rest, ONE), less(rest, ONE)] {
        desk.refused(&by(block(&key, previous, short, offer.pay_to.0)), "INSUFFICIENT_AMOUNT").await;
    }
    let crossed = call(entry, &upfront.answer(&PaymentProof::NanoTxn { block: good }));
    desk.refused(&crossed, "MALFORMED_PAYLOAD").await;
    assert!(is_settled(&desk.ok("/settle", &by(good)).await, &good), "the good one is none the worse");
    desk.end().await;
}

#[tokio::test]
async fn claims_that_are_not_true() {
    let (desk, key) = scene(Plan::default()).await;
    let thief = desk.rig.payer(2, PLENTY);
    let bill = desk.bill(REPORT, PRICE).await;
    let (offer, entry) = (&bill.offers[1], &bill.entries[1]);
    let (good, sent) = desk.signed(&key, &bill);
    let by = |account, signature| {
        call(
            entry,
            &claim(offer, PaymentProof::NanoSignature { block_hash: sent.hash(), account, signature }),
        )
    };
    // The ledger is public: the thief knows the block, and has its own challenge for the same address.
    let his = noms(&thief, sent.hash(), offer);
    desk.refused(&by(thief.account(), his), "SENDER_MISMATCH").await;
    desk.refused(&by(key.account(), his), "INVALID_SIGNATURE").await;
    let opened = desk.rig.devnet.lattice().entry(sent.previous).unwrap().block;
    desk.refused(&call(entry, &decoded(&signature(&key, &opened, offer))), "WRONG_BLOCK_TYPE").await;
    let elsewhere = desk.rig.devnet.send_block(&key, thief.account(), offer.amount).unwrap();
    desk.rig.devnet.process(elsewhere).unwrap();
    desk.refused(&call(entry, &decoded(&signature(&key, &elsewhere, offer))), "WRONG_DESTINATION").await;
    let short = desk.rig.devnet.send_block(&key, offer.pay_to, less(offer.amount, ONE)).unwrap();
    desk.rig.devnet.process(short).unwrap();
    desk.refused(&call(entry, &decoded(&signature(&key, &short, offer))), "INSUFFICIENT_AMOUNT").await;
    let unsent = desk.rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    desk.refused(&call(entry, &decoded(&signature(&key, &unsent, offer))), "BLOCK_NOT_FOUND").await;
    assert!(is_settled(&desk.ok("/settle", &good).await, &sent));
    desk.end().await;
}

/// A block of the ledger under another challenge: a thief's for a public `nanoTxn` block, or the payer's
/// own for a second delivery.
#[tokio::test]
async fn a_block_that_has_paid_already() {
    let (desk, key) = scene(Plan::default()).await;
    let (first, second) = (desk.bill(REPORT, PRICE).await, desk.bill(REPORT, PRICE).await);
    let (txn, sent) = desk.txn(&key, &first);
    assert!(is_settled(&desk.ok("/settle", &txn).await, &sent));
    let public = desk.rig.devnet.lattice().entry(sent.hash()).unwrap().block;
    let stolen = call(&second.entries[0], &second.offers[0].answer(&PaymentProof::NanoTxn { block: public }));
    desk.refused(&stolen, "DUPLICATE_BLOCK_HASH").await;
    let counted = sample(
        &desk.rig,
        "refusals_total{mechanism=\"nanoTxn\",reason=\"DUPLICATE_BLOCK_HASH\",route=\"foreign:\"}",
    );
    assert_eq!(counted, 2.0, "by `/verify` and by `/settle`");
    let (signed, sent) = desk.signed(&key, &first);
    assert!(is_settled(&desk.ok("/settle", &signed).await, &sent));
    let again = decoded(&signature(&key, &sent, &second.offers[1]));
    desk.refused(&call(&second.entries[1], &again), "DUPLICATE_BLOCK_HASH").await;
    desk.end().await;
}

#[tokio::test]
async fn a_cheap_challenge_is_not_settled_for_a_dear_resource() {
    let (desk, key) = scene(Plan::default()).await;
    let (cheap, dear) = (desk.bill(REPORT, PRICE).await, desk.bill(DEAR, "0.01 XNO").await);
    let (mut txn, block) = desk.txn(&key, &cheap);
    txn["paymentRequirements"] = dear.entries[0].clone();
    desk.refused(&txn, "WRONG_RESOURCE").await;
    // Nor at the same price, nor with a route that the payer has changed.
    txn["paymentRequirements"]["amount"] = cheap.entries[0]["amount"].clone();
    desk.refused(&txn, "WRONG_RESOURCE").await;
    let mut forged = txn.clone();
    forged["paymentPayload"]["accepted"]["extra"]["route"] = dear.entries[0]["extra"]["route"].clone();
    desk.refused(&forged, "CHALLENGE_UNKNOWN").await;
    // The price went up in the meantime.
    txn["paymentRequirements"] = cheap.entries[0].clone();
    txn["paymentRequirements"]["amount"] = more(cheap.offers[0].amount, ONE).to_string().into();
    desk.refused(&txn, "INSUFFICIENT_AMOUNT").await;
    // The server asks for a payment to another address.
    txn["paymentRequirements"] = cheap.entries[0].clone();
    txn["paymentRequirements"]["payTo"] = key.account().to_string().into();
    desk.refused(&txn, "WRONG_DESTINATION").await;
    txn["paymentRequirements"] = cheap.entries[0].clone();
    assert!(is_settled(&desk.ok("/settle", &txn).await, &block));
    desk.end().await;
}

#[tokio::test]
async fn an_entry_that_was_tampered_with() {
    let (desk, key) = scene(Plan::default()).await;
    let bill = desk.bill(REPORT, PRICE).await;
    let (good, _) = desk.txn(&key, &bill);
    for (field, value) in [
        ("/accepted/amount", json!("1")),
        ("/accepted/payTo", json!(bill.offers[1].pay_to.to_string())),
        ("/accepted/extra/validBefore", json!(4_000_000_000_u64)),
        ("/accepted/extra/challenge", json!("ab".repeat(32))),
        ("/accepted/extra/grants/requests", json!(100)),
    ] {
        let mut bad = good.clone();
        *bad["paymentPayload"].pointer_mut(field).unwrap() = value;
        desk.refused(&bad, "CHALLENGE_UNKNOWN").await;
    }
    for (field, value) in [
        ("/network", json!("eip155:8453")),
        ("/scheme", json!("upto")),
        ("/asset", json!("USDC")),
        ("/amount", json!(1)),
        ("/extra", json!({})),
    ] {
        let mut bad = good.clone();
        *bad["paymentRequirements"].pointer_mut(field).unwrap() = value;
        desk.refused(&bad, "invalid_payment_requirements").await;
    }
    desk.end().await;
}

#[tokio::test]
async fn a_challenge_whose_time_is_over() {
    let (clock, now) = manual_clock();
    let (desk, key) = scene(Plan { clock, ..Plan::default() }).await;
    let bill = desk.bill(REPORT, PRICE).await;
    let (txn, _) = desk.txn(&key, &bill);
    let (_, sent) = desk.signed(&key, &bill);
    let late = call(&bill.entries[1], &decoded(&signature(&key, &sent, &bill.offers[1])));
    now.fetch_add(3600, Ordering::SeqCst);
    desk.refused(&txn, "PAYMENT_EXPIRED").await;
    desk.refused(&late, "PAYMENT_EXPIRED").await;
    // Late is not lost: the next challenge names the same address.
    let next = desk.bill(REPORT, PRICE).await;
    let signed = call(&next.entries[1], &decoded(&signature(&key, &sent, &next.offers[1])));
    assert!(is_settled(&desk.ok("/settle", &signed).await, &sent));
    desk.end().await;
}

#[tokio::test]
async fn a_block_that_is_not_confirmed_is_pending_for_settle_and_not_verified() {
    let (desk, key) = scene(unhurried()).await;
    let bill = desk.bill(REPORT, PRICE).await;
    let (signed, sent) = desk.signed(&key, &bill);
    let verified = desk.ok("/verify", &signed).await;
    assert_eq!(verified["invalidReason"], "UNCONFIRMED_BLOCK");
    let settled = desk.ok("/settle", &signed).await;
    assert_eq!(settled["errorReason"], "settlement_pending");
    assert_eq!(settled["transaction"], sent.hash().lower_hex());
    assert_eq!(desk.ok("/verify", &signed).await["isValid"], true, "it is under way");
    desk.confirm(sent.hash()).await;
    assert!(is_settled(&desk.settle_until_decided(&signed).await, &sent));
    desk.end().await;
}

#[tokio::test]
async fn a_verification_waits_for_a_confirmation_that_comes_soon() {
    let (desk, key) = scene(Plan { more: "settlement: { wait: 10s }".to_owned(), ..unhurried() }).await;
    let asked = || desk.rig.devnet.faults().calls("block_info");
    let (signed, sent) = desk.signed(&key, &desk.bill(REPORT, PRICE).await);
    let before = asked();
    let confirms = async {
        eventually("the block is looked up", async || asked() > before).await;
        desk.confirm(sent.hash()).await;
    };
    let (verified, ()) = tokio::join!(desk.ok("/verify", &signed), confirms);
    assert_eq!(verified["isValid"], true, "{verified}");
    desk.end().await;
}

#[tokio::test]
async fn two_blocks_on_one_frontier() {
    let (desk, key) = scene(unhurried()).await;
    let (one, other) = (desk.bill(REPORT, PRICE).await, desk.bill(DEAR, "0.01 XNO").await);
    let ((first, sent), (second, _)) = (desk.txn(&key, &one), desk.txn(&key, &other));
    assert_eq!(desk.ok("/verify", &second).await["isValid"], true);
    assert_eq!(desk.ok("/settle", &first).await["errorReason"], "settlement_pending");
    desk.rig.has_broadcast(sent.hash()).await;
    desk.refused(&second, "DUPLICATE_FRONTIER").await;
    desk.confirm(sent.hash()).await;
    assert!(is_settled(&desk.settle_until_decided(&first).await, &sent));
    desk.refused(&second, "STALE_FRONTIER").await;
    desk.end().await;
}

#[tokio::test]
async fn a_broadcast_that_is_refused_and_a_fork_that_wins() {
    let (desk, key) = scene(unhurried()).await;
    let bill = desk.bill(REPORT, PRICE).await;
    let (txn, sent) = desk.txn(&key, &bill);
    desk.rig.devnet.order(
        "process",
        InjectedFault::Refuse("Block work is less than threshold".to_owned()),
        Times::ONCE,
    );
    assert_eq!(desk.settle_until_decided(&txn).await["errorReason"], "BROADCAST_FAILED");
    assert_eq!(desk.ok("/settle", &txn).await["errorReason"], "settlement_pending", "parked, and taken up");
    desk.rig.has_broadcast(sent.hash()).await;
    let rival = desk.rig.devnet.lattice().entry(sent.hash()).unwrap().block;
    let rival = block(&key, rival.previous, less(balance(&desk.rig, &key), ONE), key.account().0);
    desk.rig.devnet.fork(rival).unwrap();
    assert_eq!(desk.settle_until_decided(&txn).await["errorReason"], "FRONTIER_CHANGED");
    assert_eq!(desk.ok("/verify", &txn).await["invalidReason"], "FRONTIER_CHANGED");
    assert!(journal(&desk.rig, sent.hash()).await.is_some());
    desk.end().await;
}
