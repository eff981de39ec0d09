//! Attacks on `nanoSignature`, where the client has paid on-chain and signs the block's hash.

use faregate::clock::Clock;
use faregate::devnet::{InjectedFault, Lie, Times};
use faregate::nano::{Account, BlockHash, Raw, SecretKey, Seed, Signature, StateBlock};
use faregate::payment::{Intent, Mechanism};
use faregate::store::{Begin, Claims, PaymentState};
use faregate::x402::{NanoOffer, encode_header};

use super::{
    ONE, PROOF, QUOTE, balance, bill_to, block, frontier, journal, less, malleated, more, noms, noted,
    pending, received, refused, refused_unasked, scene, served, signature_proof, txn_proof, unhurried,
};
use crate::rig::{PLENTY, Plan, Rig, error, manual_clock, signature};

/// A priced resource of five uses.
const SEARCH: &str = "/v1/search/x";

/// A payment of `amount` to the offer's address, on the ledger.
fn pay(rig: &Rig, key: &SecretKey, offer: &NanoOffer, amount: Raw) -> StateBlock {
    let sent = rig.devnet.send_block(key, offer.pay_to, amount).unwrap();
    rig.devnet.process(sent).unwrap();
    sent
}

#[tokio::test]
async fn an_eavesdropper_claims_a_block_that_it_sees_on_the_ledger() {
    let (rig, payer) = scene(Plan::default()).await;
    let thief = rig.payer(2, PLENTY);
    let [_, offer] = rig.bill(QUOTE).await;
    let sent = pay(&rig, &payer, &offer, offer.amount);
    let own = bill_to(&rig, QUOTE, 1, offer.pay_to).await;
    // Signed with his own key, in his own name and in the payer's.
    let his = noms(&thief, sent.hash(), &own);
    refused(&rig, QUOTE, &signature_proof(&own, sent.hash(), thief.account(), his), "SENDER_MISMATCH").await;
    refused_unasked(
        &rig,
        QUOTE,
        &signature_proof(&own, sent.hash(), payer.account(), his),
        "INVALID_SIGNATURE",
    )
    .await;
    // The block's own signature is public too.
    let public = signature_proof(&own, sent.hash(), payer.account(), sent.signature);
    refused_unasked(&rig, QUOTE, &public, "INVALID_SIGNATURE").await;
    // The pool's address never signs, and the thief is not its holder.
    let as_receiver = signature_proof(&own, sent.hash(), offer.pay_to, his);
    refused_unasked(&rig, QUOTE, &as_receiver, "INVALID_SIGNATURE").await;
    served(&rig, QUOTE, &signature(&payer, &sent, &offer)).await;
    rig.end().await;
}

#[tokio::test]
async fn an_eavesdropper_presents_the_payers_signature_under_its_own_challenge() {
    let (rig, payer) = scene(Plan::default()).await;
    let [_, offer] = rig.bill(QUOTE).await;
    let sent = pay(&rig, &payer, &offer, offer.amount);
    let own = bill_to(&rig, QUOTE, 1, offer.pay_to).await;
    let stolen = signature_proof(&own, sent.hash(), payer.account(), noms(&payer, sent.hash(), &offer));
    refused_unasked(&rig, QUOTE, &stolen, "INVALID_SIGNATURE").await;
    assert_eq!(journal(&rig, sent.hash()).await, None);
    rig.end().await;
}

#[tokio::test]
async fn a_thief_holds_up_a_block_that_is_not_confirmed() {
    let (rig, payer) = scene(unhurried()).await;
    let thief = rig.payer(2, PLENTY);
    let [_, offer] = rig.bill(QUOTE).await;
    let sent = pay(&rig, &payer, &offer, offer.amount);
    let own = bill_to(&rig, QUOTE, 1, offer.pay_to).await;
    let his = signature_proof(&own, sent.hash(), thief.account(), noms(&thief, sent.hash(), &own));
    refused(&rig, QUOTE, &his, "SENDER_MISMATCH").await;
    let proof = signature(&payer, &sent, &offer);
    pending(&rig, QUOTE, &proof, "settlement_pending").await;
    rig.confirm(sent.hash()).await;
    assert_eq!(rig.ask_until_decided(QUOTE, &proof).await.status(), 200);
    rig.end().await;
}

#[tokio::test]
async fn a_payment_is_replayed() {
    let (rig, payer) = scene(Plan::default()).await;
    let [_, offer] = rig.bill(QUOTE).await;
    let sent = pay(&rig, &payer, &offer, offer.amount);
    let proof = signature(&payer, &sent, &offer);
    served(&rig, QUOTE, &proof).await;
    refused_unasked(&rig, QUOTE, &proof, "DUPLICATE_BLOCK_HASH").await;
    let again = bill_to(&rig, QUOTE, 1, offer.pay_to).await;
    refused_unasked(&rig, QUOTE, &signature(&payer, &sent, &again), "DUPLICATE_BLOCK_HASH").await;
    assert_eq!(rig.upstream.seen().len(), 1);
    rig.end().await;
}

/// While uses are left, a challenge of the payer's own would take them a second time, for another price.
#[tokio::test]
async fn a_payment_for_many_uses_is_replayed_under_another_challenge() {
    let (rig, payer) = scene(Plan::default()).await;
    let [_, offer] = rig.bill(SEARCH).await;
    let sent = pay(&rig, &payer, &offer, offer.amount);
    let proof = signature(&payer, &sent, &offer);
    served(&rig, SEARCH, &proof).await;
    let again = bill_to(&rig, SEARCH, 1, offer.pay_to).await;
    refused_unasked(&rig, SEARCH, &signature(&payer, &sent, &again), "DUPLICATE_BLOCK_HASH").await;
    served(&rig, SEARCH, &proof).await;
    assert_eq!(rig.upstream.seen().len(), 2);
    rig.end().await;
}

/// Noted by an instance that ended before the block was confirmed.
#[tokio::test]
async fn a_payment_that_was_noted_before_is_redeemed_by_the_same_proof_and_no_other() {
    let (rig, payer) = scene(Plan::default()).await;
    let [_, offer] = rig.bill(QUOTE).await;
    let sent = pay(&rig, &payer, &offer, offer.amount);
    let intent = Intent {
        signed: None,
        mechanism: Mechanism::NanoSignature,
        identified: None,
        ..crate::payment_identifier::intent(&offer, sent, ("GET /v1/quote/{symbol}", QUOTE))
    };
    let begun = rig.services.store().begin(&intent, Clock::system().now()).await.unwrap();
    assert!(matches!(begun, Begin::Fresh(_)), "{begun:?}");
    let again = bill_to(&rig, QUOTE, 1, offer.pay_to).await;
    refused_unasked(&rig, QUOTE, &signature(&payer, &sent, &again), "DUPLICATE_BLOCK_HASH").await;
    served(&rig, QUOTE, &signature(&payer, &sent, &offer)).await;
    assert_eq!(journal(&rig, sent.hash()).await, Some(PaymentState::Granted));
    rig.end().await;
}

#[tokio::test]
async fn a_spent_hash_is_spelled_in_upper_case() {
    let (rig, payer) = scene(Plan::default()).await;
    let [_, offer] = rig.bill(QUOTE).await;
    let sent = pay(&rig, &payer, &offer, offer.amount);
    served(&rig, QUOTE, &signature(&payer, &sent, &offer)).await;
    let again = bill_to(&rig, QUOTE, 1, offer.pay_to).await;
    for offer in [&offer, &again] {
        let proof = faregate::x402::PaymentProof::NanoSignature {
            block_hash: sent.hash(),
            account: payer.account(),
            signature: noms(&payer, sent.hash(), offer),
        };
        let mut shouted = offer.answer(&proof);
        for field in ["blockHash", "signature"] {
            let text = shouted["payload"][field].as_str().unwrap().to_uppercase();
            shouted["payload"][field] = text.into();
        }
        shouted["payload"]["account"] = payer.account().to_string().replace("nano_", "xrb_").into();
        refused_unasked(&rig, QUOTE, &encode_header(&shouted), "DUPLICATE_BLOCK_HASH").await;
    }
    rig.end().await;
}

#[tokio::test]
async fn the_block_pays_somebody_else() {
    let (rig, payer) = scene(Plan::default()).await;
    let [own, offer] = rig.bill(QUOTE).await;
    // The other mechanism's address is the gateway's as well, and not this challenge's.
    for to in [payer.account(), rig.devnet.genesis_account(), own.pay_to, Account::BURN] {
        let elsewhere = rig.devnet.send_block(&payer, to, offer.amount).unwrap();
        rig.devnet.process(elsewhere).unwrap();
        refused(&rig, QUOTE, &signature(&payer, &elsewhere, &offer), "WRONG_DESTINATION").await;
    }
    rig.end().await;
}

#[tokio::test]
async fn one_raw_too_little_is_refused_and_one_too_much_is_taken() {
    let (rig, payer) = scene(Plan::default()).await;
    let [_, offer] = rig.bill(QUOTE).await;
    let little = pay(&rig, &payer, &offer, less(offer.amount, ONE));
    refused(&rig, QUOTE, &signature(&payer, &little, &offer), "INSUFFICIENT_AMOUNT").await;
    // What is missing does not add up over two blocks.
    let rest = pay(&rig, &payer, &offer, ONE);
    refused(&rig, QUOTE, &signature(&payer, &rest, &offer), "INSUFFICIENT_AMOUNT").await;
    let much = pay(&rig, &payer, &offer, more(offer.amount, ONE));
    served(&rig, QUOTE, &signature(&payer, &much, &offer)).await;
    rig.end().await;
}

#[tokio::test]
async fn an_unconfirmed_payment_is_pending_and_then_served_for_the_same_proof() {
    let (rig, payer) = scene(unhurried()).await;
    let [_, offer] = rig.bill(QUOTE).await;
    let sent = pay(&rig, &payer, &offer, offer.amount);
    let proof = signature(&payer, &sent, &offer);
    for _ in 0..2 {
        pending(&rig, QUOTE, &proof, "settlement_pending").await;
    }
    noted(&rig, sent.hash()).await;
    rig.confirm(sent.hash()).await;
    assert_eq!(rig.ask_until_decided(QUOTE, &proof).await.status(), 200);
    refused(&rig, QUOTE, &proof, "DUPLICATE_BLOCK_HASH").await;
    assert_eq!(rig.upstream.seen().len(), 1);
    rig.end().await;
}

#[tokio::test]
async fn an_unconfirmed_payment_is_taken_back_by_a_fork() {
    let (rig, payer) = scene(unhurried()).await;
    let [_, offer] = rig.bill(QUOTE).await;
    let sent = rig.devnet.send_block(&payer, offer.pay_to, offer.amount).unwrap();
    let rival = rig.devnet.send_block(&payer, payer.account(), offer.amount).unwrap();
    rig.devnet.process(sent).unwrap();
    let proof = signature(&payer, &sent, &offer);
    pending(&rig, QUOTE, &proof, "settlement_pending").await;
    rig.devnet.fork(rival).unwrap();
    for _ in 0..3 {
        let answer = rig.get(QUOTE, &[(PROOF, &proof)]).await;
        assert_eq!(answer.status(), 503);
    }
    assert_eq!((rig.upstream.seen().len(), received(&rig, offer.pay_to)), (0, Raw::ZERO));
    assert_eq!(journal(&rig, sent.hash()).await, Some(PaymentState::Intent), "never granted");
}

#[tokio::test]
async fn a_block_that_no_node_knows_is_waited_for_and_the_look_ups_are_counted() {
    let more = "limits: { lookups_per_client: 3 }".to_owned();
    let (rig, payer) = scene(Plan { more, ..Plan::default() }).await;
    let [_, offer] = rig.bill(QUOTE).await;
    let unsent = rig.devnet.send_block(&payer, offer.pay_to, offer.amount).unwrap();
    let proof = signature(&payer, &unsent, &offer);
    pending(&rig, QUOTE, &proof, "BLOCK_NOT_FOUND").await;
    rig.devnet.process(unsent).unwrap();
    served(&rig, QUOTE, &proof).await;
    // Made-up hashes cost the gateway a question each: not for long.
    for number in 0..2 {
        let made_up = BlockHash([number; 32]);
        let proof = signature_proof(&offer, made_up, payer.account(), noms(&payer, made_up, &offer));
        pending(&rig, QUOTE, &proof, "BLOCK_NOT_FOUND").await;
    }
    let asked = rig.devnet.faults().calls("block_info");
    let made_up = BlockHash([9; 32]);
    let proof = signature_proof(&offer, made_up, payer.account(), noms(&payer, made_up, &offer));
    pending(&rig, QUOTE, &proof, "overloaded").await;
    assert_eq!(rig.devnet.faults().calls("block_info"), asked);
    rig.end().await;
}

#[tokio::test]
async fn a_block_sent_in_time_is_redeemed_late() {
    let (clock, seconds) = manual_clock();
    let (rig, payer) = scene(Plan { clock, ..Plan::default() }).await;
    let [_, offer] = rig.bill(QUOTE).await;
    let sent = pay(&rig, &payer, &offer, offer.amount);
    seconds.store(offer.valid_before.0, std::sync::atomic::Ordering::SeqCst);
    let late = signature(&payer, &sent, &offer);
    let [_, fresh] = refused_unasked(&rig, QUOTE, &late, "PAYMENT_EXPIRED").await;
    assert_eq!(fresh.pay_to, offer.pay_to);
    served(&rig, QUOTE, &signature(&payer, &sent, &fresh)).await;
    // Spent is for ever: neither challenge redeems it again, however late.
    refused_unasked(&rig, QUOTE, &signature(&payer, &sent, &fresh), "DUPLICATE_BLOCK_HASH").await;
    seconds.fetch_add(1_000_000, std::sync::atomic::Ordering::SeqCst);
    refused_unasked(&rig, QUOTE, &late, "PAYMENT_EXPIRED").await;
    let later = bill_to(&rig, QUOTE, 1, offer.pay_to).await;
    refused_unasked(&rig, QUOTE, &signature(&payer, &sent, &later), "DUPLICATE_BLOCK_HASH").await;
    rig.end().await;
}

#[tokio::test]
async fn a_block_for_a_cheap_route_is_claimed_for_a_dear_one() {
    let (rig, payer) = scene(Plan::default()).await;
    let [_, cheap] = rig.bill("/paid").await;
    let sent = pay(&rig, &payer, &cheap, cheap.amount);
    let proof = signature(&payer, &sent, &cheap);
    refused_unasked(&rig, QUOTE, &proof, "WRONG_RESOURCE").await;
    let dear = bill_to(&rig, QUOTE, 1, cheap.pay_to).await;
    refused(&rig, QUOTE, &signature(&payer, &sent, &dear), "INSUFFICIENT_AMOUNT").await;
    served(&rig, "/paid", &proof).await;
    rig.end().await;
}

#[tokio::test]
async fn the_signature_is_malleated() {
    let (rig, payer) = scene(Plan::default()).await;
    let [_, offer] = rig.bill(QUOTE).await;
    let good = rig.devnet.send_block(&payer, offer.pay_to, offer.amount).unwrap();
    // The block on the ledger is the malleated twin: the same hash, so the same payment.
    rig.devnet
        .process(StateBlock { signature: malleated(good.signature), ..good })
        .expect("nodes take S + L");
    let signed = noms(&payer, good.hash(), &offer);
    let twin = signature_proof(&offer, good.hash(), payer.account(), malleated(signed));
    refused_unasked(&rig, QUOTE, &twin, "INVALID_SIGNATURE").await;
    served(&rig, QUOTE, &signature_proof(&offer, good.hash(), payer.account(), signed)).await;
    refused(&rig, QUOTE, &signature(&payer, &good, &offer), "DUPLICATE_BLOCK_HASH").await;
    rig.end().await;
}

#[tokio::test]
async fn the_claimant_is_an_account_for_which_anyone_can_sign() {
    let (rig, payer) = scene(Plan::default()).await;
    let [_, offer] = rig.bill(QUOTE).await;
    let sent = pay(&rig, &payer, &offer, offer.amount);
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut forged = Signature([0; 64]);
    forged.0[..32].copy_from_slice(&neutral);
    for account in [Account(neutral), Account::BURN] {
        let proof = signature_proof(&offer, sent.hash(), account, forged);
        refused_unasked(&rig, QUOTE, &proof, "INVALID_SIGNATURE").await;
    }
    rig.end().await;
}

#[tokio::test]
async fn a_receive_a_change_or_an_open_block_is_claimed() {
    let (rig, payer) = scene(Plan::default()).await;
    let [_, offer] = rig.bill(QUOTE).await;
    // The account's only block so far opened it.
    let first = frontier(&rig, &payer);
    let opened = rig.devnet.lattice().entry(first).unwrap().block;
    rig.devnet.fund(payer.account(), offer.amount).unwrap();
    let [received] = rig.devnet.receive_all(&payer).unwrap().try_into().unwrap();
    let received = rig.devnet.lattice().entry(received).unwrap().block;
    let changed = block(&payer, frontier(&rig, &payer), balance(&rig, &payer), [0; 32]);
    rig.devnet.process(changed).unwrap();
    for other in [opened, received, changed] {
        refused(&rig, QUOTE, &signature(&payer, &other, &offer), "WRONG_BLOCK_TYPE").await;
    }
    rig.end().await;
}

#[tokio::test]
async fn a_node_lies_about_amount_balance_and_contents() {
    let (rig, payer) = scene(Plan::default()).await;
    let [_, offer] = rig.bill(QUOTE).await;
    let little = pay(&rig, &payer, &offer, ONE);
    let proof = signature(&payer, &little, &offer);
    for lie in [Lie::Amount(offer.amount), Lie::Balance(PLENTY), Lie::Balance(Raw::ZERO)] {
        rig.devnet.order("block_info", InjectedFault::Lie(lie), Times::Always);
        refused(&rig, QUOTE, &proof, "INSUFFICIENT_AMOUNT").await;
        rig.devnet.faults().clear();
    }
    // Another block's contents, sufficient and to the right address, under this block's hash.
    let enough = pay(&rig, &payer, &offer, offer.amount);
    rig.devnet.order("block_info", InjectedFault::Lie(Lie::Contents(Box::new(enough))), Times::Always);
    pending(&rig, QUOTE, &proof, "no_node").await;
    rig.devnet.faults().clear();
    refused(&rig, QUOTE, &proof, "INSUFFICIENT_AMOUNT").await;
    assert_eq!(journal(&rig, little.hash()).await, None);
    rig.end().await;
}

#[tokio::test]
async fn a_nano_txn_payment_is_claimed_on_chain_as_well() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, upfront] = rig.bill(QUOTE).await;
    let unspent = pay(&rig, &payer, &offer, offer.amount);
    refused(&rig, QUOTE, &signature(&payer, &unspent, &upfront), "WRONG_DESTINATION").await;
    let (proof, sent) = rig.txn(&payer, &offer);
    served(&rig, QUOTE, &proof).await;
    refused(&rig, QUOTE, &signature(&payer, &sent, &upfront), "DUPLICATE_BLOCK_HASH").await;
    rig.end().await;
}

#[tokio::test]
async fn the_proof_answers_an_entry_of_the_other_mechanism() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, upfront] = rig.bill(QUOTE).await;
    let (_, sent) = rig.txn(&payer, &offer);
    refused_unasked(&rig, QUOTE, &txn_proof(&upfront, sent), "MALFORMED_PAYLOAD").await;
    let crossed = signature_proof(&offer, sent.hash(), payer.account(), sent.signature);
    refused_unasked(&rig, QUOTE, &crossed, "MALFORMED_PAYLOAD").await;
    rig.end().await;
}

#[tokio::test]
async fn a_stranger_with_a_good_key_and_no_money_claims_the_block() {
    let (rig, payer) = scene(Plan::default()).await;
    let pauper = Seed::from_bytes([8; 32]).key(0);
    let [_, offer] = rig.bill(QUOTE).await;
    let sent = pay(&rig, &payer, &offer, offer.amount);
    let proof = signature_proof(&offer, sent.hash(), pauper.account(), noms(&pauper, sent.hash(), &offer));
    refused(&rig, QUOTE, &proof, "SENDER_MISMATCH").await;
    let answer = rig.get(QUOTE, &[(PROOF, &proof)]).await;
    assert_eq!(error(answer).await, "SENDER_MISMATCH", "and again, whoever asked before");
    rig.end().await;
}
