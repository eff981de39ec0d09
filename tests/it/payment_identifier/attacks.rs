//! Who has seen an id, and what it gets him: nothing.

use faregate::devnet::{InjectedFault, Times};
use faregate::store::PaymentJournal;
use faregate::x402::PaymentProof;

use super::{
    Answered, ID, OTHER_ID, PROOF, ROUTES, balance, counting, proof_under_id, refused, rig_with, sent_proof,
    signature_proof, start, txn_proof, wait_until_kept,
};
use crate::patience::{eventually, soon, wait_for};
use crate::rig::{Effects, PLENTY};

const CONFLICT: &str = "payment_identifier_conflict";

#[tokio::test]
async fn another_request_under_the_id_is_a_conflict() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let (proof, block) = txn_proof(&rig, &key, "/opt/x?a=1", ID, 0).await;
    assert_eq!(rig.get("/opt/x?a=1", &[(PROOF, &proof)]).await.status(), 201);
    wait_until_kept(&rig, &block).await;
    for path in ["/opt/y?a=1", "/opt/x?a=2", "/opt/x", "/req/x?a=1"] {
        let (second, _) = txn_proof(&rig, &key, path, ID, 0).await;
        refused(&rig, path, &second, 409, CONFLICT).await;
    }
    // The first proof neither.
    refused(&rig, "/opt/x?a=2", &proof, 409, CONFLICT).await;
    let (second, _) = txn_proof(&rig, &key, "/opt/x?a=1", ID, 0).await;
    let post = rig.http.post(format!("{}/opt/x?a=1", rig.url)).header(PROOF, &second).send().await.unwrap();
    assert_eq!(post.status(), 409);
    let range = rig.get("/opt/x?a=1", &[(PROOF, &second), ("Range", "bytes=0-1")]).await;
    assert_eq!(range.status(), 409);
    assert_eq!(rig.effects(), Effects { forwarded: 1, broadcast: 1 });
    rig.end().await;
}

#[tokio::test]
async fn another_payer_gets_a_conflict_and_pays_nothing() {
    let rig = start().await;
    let (payer, thief) = (rig.payer(1, PLENTY), rig.payer(2, PLENTY));
    let (proof, block) = txn_proof(&rig, &payer, "/opt/x", ID, 0).await;
    assert_eq!(rig.get("/opt/x", &[(PROOF, &proof)]).await.status(), 201);
    wait_until_kept(&rig, &block).await;
    let before = balance(&rig, &thief);
    let (stolen, _) = txn_proof(&rig, &thief, "/opt/x", ID, 0).await;
    refused(&rig, "/opt/x", &stolen, 409, CONFLICT).await;
    assert_eq!(balance(&rig, &thief), before);
    let (stolen, sent) = sent_proof(&rig, &thief, "/opt/x", ID).await;
    refused(&rig, "/opt/x", &stolen, 409, CONFLICT).await;
    assert!(rig.services.store().payment(sent.hash()).await.unwrap().is_none(), "it can be redeemed yet");
    // The id is still its owner's.
    assert!(Answered::read(rig.get("/opt/x", &[(PROOF, &proof)]).await).await.replayed);
    rig.end().await;
}

/// Regression: whoever knew an id and showed a public block of its payer had the id's turn for as long as the
/// look-ups for that block took, and the payer was told to come again.
#[tokio::test]
async fn a_stranger_with_a_public_block_of_the_payer_does_not_hold_the_ids_turn() {
    let rig = rig_with(ROUTES, "settlement: { wait: 1s }", counting()).await;
    let key = rig.payer(1, PLENTY);
    let [strangers, _] = rig.bill("/opt/x").await;
    // The payer has sent to that address before, by its own hand: the block is public and in no journal.
    let public = rig.devnet.send_block(&key, strangers.pay_to, strangers.amount).unwrap();
    rig.devnet.process(public).unwrap();
    eventually("it is confirmed", async || rig.devnet.lattice().is_confirmed(public.hash())).await;
    let shown = proof_under_id(&strangers, &PaymentProof::NanoTxn { block: public }, ID);
    let asked = rig.devnet.faults().calls("account_info");
    rig.devnet.order("account_info", InjectedFault::Hold, Times::ONCE);
    let request = rig.http.get(format!("{}/opt/x", rig.url)).header(PROOF, &shown);
    let stranger = tokio::spawn(async move { request.send().await.unwrap().status().as_u16() });
    soon("the stranger is looked up", rig.devnet.faults().called("account_info", asked + 1)).await;

    let (proof, _) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    let answer = rig.get("/opt/x", &[(PROOF, &proof)]).await;
    assert_eq!(answer.status(), 201, "{:?}", answer.text().await);
    rig.devnet.faults().clear();
    assert!(matches!(stranger.await.unwrap(), 402 | 409 | 503));
    assert_eq!(rig.effects(), Effects { forwarded: 1, broadcast: 1 });
    rig.end().await;
}

#[tokio::test]
async fn public_blocks_of_the_payer_open_nothing() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    // Two purchases of the victim are on the ledger, one under the id.
    let (proof, bought) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    let first = Answered::read(rig.get("/opt/x", &[(PROOF, &proof)]).await).await;
    wait_until_kept(&rig, &bought).await;
    let [offer, _] = rig.bill("/plain").await;
    let (plain, other) = rig.txn(&key, &offer);
    assert_eq!(rig.get("/plain", &[(PROOF, &plain)]).await.status(), 201);
    // And one that he sent to the pool, which no payment claims.
    let orphan = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    rig.devnet.process(orphan).unwrap();
    for block in [bought, other, orphan] {
        // Challenges cost nothing: one for the same address comes soon.
        let same_address =
            async || Some(rig.bill("/opt/x").await).filter(|[mine, _]| mine.pay_to == block.destination());
        let [mine, upfront] = wait_for("a challenge for the same address", same_address).await;
        refused(&rig, "/opt/x", &proof_under_id(&mine, &PaymentProof::NanoTxn { block }, ID), 409, CONFLICT)
            .await;
        // Signed by the thief, it is not the payer's signature.
        let thief = faregate::nano::Seed::from_bytes([1; 32]).key(0);
        refused(&rig, "/opt/x", &signature_proof(&thief, &block, &upfront, ID), 409, CONFLICT).await;
        // In the payer's name, it is no signature.
        let mut forged = upfront.answer(&PaymentProof::NanoSignature {
            block_hash: block.hash(),
            account: key.account(),
            signature: block.signature,
        });
        forged["extensions"] =
            serde_json::json!({ "payment-identifier": { "info": { "required": false, "id": ID } } });
        let forged = faregate::x402::encode_header(&forged);
        refused(&rig, "/opt/x", &forged, 402, "INVALID_SIGNATURE").await;
    }
    assert_eq!(Answered::read(rig.get("/opt/x", &[(PROOF, &proof)]).await).await, first.as_replayed());
    rig.end().await;
}

#[tokio::test]
async fn a_proof_that_was_made_under_one_id_is_not_another_purchase_under_a_second() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let [offer, _] = rig.bill("/many/x").await;
    let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    let first = proof_under_id(&offer, &PaymentProof::NanoTxn { block }, ID);
    assert_eq!(rig.get("/many/x", &[(PROOF, &first)]).await.status(), 201);
    wait_until_kept(&rig, &block).await;
    let second = proof_under_id(&offer, &PaymentProof::NanoTxn { block }, OTHER_ID);
    refused(&rig, "/many/x", &second, 409, CONFLICT).await;
    rig.end().await;
}

#[tokio::test]
async fn an_unpayable_proof_takes_no_id() {
    let rig = start().await;
    let (poor, payer) = (rig.payer(1, faregate::nano::Raw::new(5)), rig.payer(2, PLENTY));
    // More than he has: the block's balance cannot go down by the price.
    let [offer, _] = rig.bill("/opt/x").await;
    let cheap = rig.devnet.send_block(&poor, offer.pay_to, faregate::nano::Raw::new(1)).unwrap();
    refused(
        &rig,
        "/opt/x",
        &proof_under_id(&offer, &PaymentProof::NanoTxn { block: cheap }, ID),
        402,
        "INSUFFICIENT_AMOUNT",
    )
    .await;
    let (proof, _) = txn_proof(&rig, &payer, "/opt/x", ID, 0).await;
    assert_eq!(rig.ask_until_decided("/opt/x", &proof).await.status(), 201);
    rig.end().await;
}
