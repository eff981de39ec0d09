//! Attacks on `nanoSession`, where a block's hash is the proof and the whole world sees it: what it
//! is worth without the session, and what a session is worth without its block.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use faregate::devnet::{InjectedFault, Lie, Times};
use faregate::nano::{Account, BlockHash, Raw};
use faregate::store::PaymentState;
use faregate::x402::{NanoOffer, PaymentProof, encode_header};
use serde_json::{Value, json};

use super::{
    Footprint, PROOF, balance, block, frontier, journal, less, noted, pending, received, refused,
    refused_unasked, scene, served, txn_proof, unhurried,
};
use crate::nano_session::{
    ONE, ROUTES, pay_session, plan, send_to_session, session_id, session_offer, session_proof,
};
use crate::rig::{PLENTY, Plan, Rig, error, signature};

/// A session of the thief's own on the same address.
async fn session_to(rig: &Rig, to: Account) -> NanoOffer {
    for _ in 0..400 {
        let offer = session_offer(rig, ONE).await;
        if offer.pay_to == to {
            return offer;
        }
    }
    panic!("no session for {to} in 400");
}

#[tokio::test]
async fn a_stolen_hash_with_another_session_is_refused() {
    let (rig, payer) = scene(plan()).await;
    let offer = session_offer(&rig, ONE).await;
    let paid = pay_session(&rig, &payer, &offer);
    let own = session_to(&rig, offer.pay_to).await;
    assert_ne!(own.amount, offer.amount);
    refused(&rig, ONE, &session_proof(&own, paid), "INSUFFICIENT_AMOUNT").await;
    let headers = [("X-PAYMENT-BLOCK", paid.to_string()), ("X-PAYMENT-SESSION", session_id(&own))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(error(rig.get(ONE, &headers).await).await, "INSUFFICIENT_AMOUNT");
    assert_eq!(journal(&rig, paid).await, None, "the thief has not touched it");
    served(&rig, ONE, &session_proof(&offer, paid)).await;
    // Nor after: the hash is spent, whoever asks.
    refused_unasked(&rig, ONE, &session_proof(&own, paid), "DUPLICATE_BLOCK_HASH").await;
    rig.end().await;
}

#[tokio::test]
async fn a_thief_who_is_first_does_not_hold_up_the_payer() {
    let (rig, payer) = scene(Plan { routes: ROUTES.to_owned(), ..unhurried() }).await;
    let offer = session_offer(&rig, ONE).await;
    let paid = pay_session(&rig, &payer, &offer);
    let own = session_to(&rig, offer.pay_to).await;
    refused(&rig, ONE, &session_proof(&own, paid), "INSUFFICIENT_AMOUNT").await;
    pending(&rig, ONE, &session_proof(&offer, paid), "settlement_pending").await;
    noted(&rig, paid).await;
    refused_unasked_or_pending(&rig, &session_proof(&own, paid)).await;
    assert!(rig.devnet.confirm_now(paid));
    assert_eq!(rig.ask_until_decided(ONE, &session_proof(&offer, paid)).await.status(), 200);
    rig.end().await;
}

/// While the payer's own settlement is under way another's proof of the block is not decided.
async fn refused_unasked_or_pending(rig: &Rig, proof: &str) {
    let upstream = rig.upstream.seen().len();
    let answer = rig.get(ONE, &[(PROOF, proof)]).await;
    assert!([402, 503].contains(&answer.status().as_u16()));
    assert_eq!(rig.upstream.seen().len(), upstream);
}

#[tokio::test]
async fn an_unconfirmed_payment_is_pending_and_then_served_for_the_same_proof() {
    let (rig, payer) = scene(Plan { routes: ROUTES.to_owned(), ..unhurried() }).await;
    let offer = session_offer(&rig, ONE).await;
    let proof = session_proof(&offer, pay_session(&rig, &payer, &offer));
    for _ in 0..2 {
        pending(&rig, ONE, &proof, "settlement_pending").await;
    }
    let sent = frontier(&rig, &payer);
    assert!(rig.devnet.confirm_now(sent));
    assert_eq!(rig.ask_until_decided(ONE, &proof).await.status(), 200);
    refused(&rig, ONE, &proof, "DUPLICATE_BLOCK_HASH").await;
    rig.end().await;
}

#[tokio::test]
async fn an_unconfirmed_payment_is_taken_back_by_a_fork() {
    let (rig, payer) = scene(Plan { routes: ROUTES.to_owned(), ..unhurried() }).await;
    let offer = session_offer(&rig, ONE).await;
    let sent = rig.devnet.send_block(&payer, offer.pay_to, offer.amount).unwrap();
    let rival = rig.devnet.send_block(&payer, payer.account(), offer.amount).unwrap();
    rig.devnet.process(sent).unwrap();
    let proof = session_proof(&offer, sent.hash());
    pending(&rig, ONE, &proof, "settlement_pending").await;
    rig.devnet.fork(rival).unwrap();
    for _ in 0..3 {
        assert_eq!(rig.get(ONE, &[(PROOF, &proof)]).await.status(), 503);
    }
    assert_eq!((rig.upstream.seen().len(), received(&rig, offer.pay_to)), (0, Raw::ZERO));
    assert_eq!(journal(&rig, sent.hash()).await, Some(PaymentState::Intent), "never granted");
}

#[tokio::test]
async fn the_block_pays_somebody_else() {
    let (rig, payer) = scene(plan()).await;
    let [txn, offer] = rig.bill(ONE).await;
    for to in [payer.account(), rig.devnet.genesis_account(), txn.pay_to, Account::BURN] {
        let elsewhere = rig.devnet.send_block(&payer, to, offer.amount).unwrap();
        rig.devnet.process(elsewhere).unwrap();
        refused(&rig, ONE, &session_proof(&offer, elsewhere.hash()), "WRONG_DESTINATION").await;
    }
    rig.end().await;
}

#[tokio::test]
async fn a_block_of_one_mechanism_is_shown_as_anothers() {
    let (rig, payer) = scene(plan()).await;
    let [txn_offer, offer] = rig.bill(ONE).await;
    let [_, upfront] = rig.bill("/plain").await;
    // A session's block as a signed one, and as one that was sent and is signed for.
    let paid = rig.devnet.send_block(&payer, offer.pay_to, offer.amount).unwrap();
    rig.devnet.process(paid).unwrap();
    refused_unasked(&rig, ONE, &txn_proof(&txn_offer, paid), "WRONG_DESTINATION").await;
    refused(&rig, "/plain", &signature(&payer, &paid, &upfront), "WRONG_DESTINATION").await;
    // The others' blocks in a session.
    let signed_for = send_to_session(&rig, &payer, &upfront, upfront.amount).hash();
    refused(&rig, ONE, &session_proof(&offer, signed_for), "WRONG_DESTINATION").await;
    let (by_txn, sent) = rig.txn(&payer, &txn_offer);
    served(&rig, ONE, &by_txn).await;
    refused_unasked(&rig, ONE, &session_proof(&offer, sent.hash()), "DUPLICATE_BLOCK_HASH").await;
    served(&rig, ONE, &session_proof(&offer, paid.hash())).await;
    // A payload of one with the entry of another.
    let crossed = encode_header(&txn_offer.answer(&PaymentProof::NanoSession { block_hash: paid.hash() }));
    refused_unasked(&rig, ONE, &crossed, "MALFORMED_PAYLOAD").await;
    let crossed = encode_header(&offer.answer(&PaymentProof::NanoTxn { block: paid }));
    refused_unasked(&rig, ONE, &crossed, "MALFORMED_PAYLOAD").await;
    rig.end().await;
}

#[tokio::test]
async fn a_receive_a_change_or_an_open_block_is_claimed() {
    let (rig, payer) = scene(plan()).await;
    let offer = session_offer(&rig, ONE).await;
    let opened = frontier(&rig, &payer);
    rig.devnet.fund(payer.account(), offer.amount).unwrap();
    let [received] = rig.devnet.receive_all(&payer).unwrap().try_into().unwrap();
    let changed = block(&payer, frontier(&rig, &payer), balance(&rig, &payer), [0; 32]);
    rig.devnet.process(changed).unwrap();
    for other in [opened, received, changed.hash()] {
        refused(&rig, ONE, &session_proof(&offer, other), "WRONG_BLOCK_TYPE").await;
    }
    rig.end().await;
}

#[tokio::test]
async fn a_node_lies_about_amount_balance_and_contents() {
    let (rig, payer) = scene(plan()).await;
    let offer = session_offer(&rig, ONE).await;
    let little = send_to_session(&rig, &payer, &offer, less(offer.amount, super::ONE));
    let proof_of_little = session_proof(&offer, little.hash());
    rig.devnet.order("block_info", InjectedFault::Lie(Lie::Amount(offer.amount)), Times::Always);
    refused(&rig, ONE, &proof_of_little, "INSUFFICIENT_AMOUNT").await;
    rig.devnet.faults().clear();
    let enough = rig.devnet.send_block(&payer, offer.pay_to, offer.amount).unwrap();
    rig.devnet.process(enough).unwrap();
    rig.devnet.order("block_info", InjectedFault::Lie(Lie::Contents(Box::new(enough))), Times::Always);
    pending(&rig, ONE, &proof_of_little, "no_node").await;
    rig.devnet.faults().clear();
    served(&rig, ONE, &session_proof(&offer, enough.hash())).await;
    rig.end().await;
}

#[tokio::test]
async fn a_session_of_a_cheap_route_is_shown_at_a_dear_one() {
    let (rig, payer) = scene(plan()).await;
    let cheap = session_offer(&rig, "/alone").await;
    let paid = pay_session(&rig, &payer, &cheap);
    refused_unasked(&rig, ONE, &session_proof(&cheap, paid), "WRONG_RESOURCE").await;
    let headers = [("X-PAYMENT-BLOCK", paid.to_string()), ("X-PAYMENT-SESSION", session_id(&cheap))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(error(rig.get(ONE, &headers).await).await, "WRONG_RESOURCE");
    assert_eq!(rig.get("/alone", &headers).await.status(), 200);
    rig.end().await;
}

#[tokio::test]
async fn a_term_of_the_echoed_entry_is_bent() {
    let (rig, payer) = scene(plan()).await;
    let [txn_offer, offer] = rig.bill(ONE).await;
    let other = session_offer(&rig, ONE).await;
    let good = offer.answer(&PaymentProof::NanoSession { block_hash: pay_session(&rig, &payer, &offer) });
    let price = good["accepted"]["extra"]["nanoSession"]["resourceAmountRaw"].as_str().unwrap();
    let more: u128 = price.parse::<u128>().unwrap() + 1;
    let amount: u128 = offer.amount.get();
    let rows: [(&str, Value, &str); 13] = [
        ("/accepted/amount", "1".into(), "MALFORMED_PAYLOAD"),
        ("/accepted/amount", (amount + 1).to_string().into(), "MALFORMED_PAYLOAD"),
        ("/accepted/payTo", rig.devnet.genesis_account().to_string().into(), "CHALLENGE_UNKNOWN"),
        ("/accepted/extra/route", "many".into(), "CHALLENGE_UNKNOWN"),
        ("/accepted/extra/grants/requests", 1000.into(), "CHALLENGE_UNKNOWN"),
        ("/accepted/extra/validBefore", (offer.valid_before.0 + 9).into(), "CHALLENGE_UNKNOWN"),
        ("/accepted/extra/mechanism", "nanoTxn".into(), "MALFORMED_PAYLOAD"),
        ("/accepted/extra/mechanism", "nanoSignature".into(), "MALFORMED_PAYLOAD"),
        ("/accepted/extra/nanoSession", Value::Null, "MALFORMED_PAYLOAD"),
        ("/accepted/extra/nanoSession/id", "uuid-1234".into(), "MALFORMED_PAYLOAD"),
        ("/accepted/extra/nanoSession/id", session_id(&other).into(), "CHALLENGE_UNKNOWN"),
        ("/accepted/extra/nanoSession/tagAmountRaw", "0".into(), "MALFORMED_PAYLOAD"),
        ("/payload/proof", "xyz".into(), "MALFORMED_PAYLOAD"),
    ];
    for (pointer, value, code) in rows {
        let mut bent = good.clone();
        *bent.pointer_mut(pointer).unwrap() = value;
        refused_unasked(&rig, ONE, &encode_header(&bent), code).await;
    }
    // What adds up and was not sent: another price, or another split of the same amount.
    for (amount, price, tag) in [(amount + 1, more, amount - more + 1), (amount, more, amount - more)] {
        let mut bent = good.clone();
        bent["accepted"]["amount"] = amount.to_string().into();
        let told = &mut bent["accepted"]["extra"]["nanoSession"];
        (told["resourceAmountRaw"], told["tagAmountRaw"]) =
            (price.to_string().into(), tag.to_string().into());
        refused_unasked(&rig, ONE, &encode_header(&bent), "CHALLENGE_UNKNOWN").await;
    }
    // The tag enlarged alone, with the amount: the price is as it was.
    let mut bent = good.clone();
    bent["accepted"]["amount"] = (amount + 1).to_string().into();
    let told = &mut bent["accepted"]["extra"]["nanoSession"];
    let tag: u128 = told["tagAmountRaw"].as_str().unwrap().parse().unwrap();
    told["tagAmountRaw"] = (tag + 1).to_string().into();
    refused_unasked(&rig, ONE, &encode_header(&bent), "CHALLENGE_UNKNOWN").await;
    // Another mechanism's challenge, dressed as a session: its MAC is over the mechanism too.
    let mut dressed = good.clone();
    let name =
        hex::decode(crate::nano_session::accepted_entry(&txn_offer)["extra"]["challenge"].as_str().unwrap());
    let mut session = URL_SAFE_NO_PAD.decode(session_id(&offer)).unwrap();
    session[1..33].copy_from_slice(&name.unwrap());
    dressed["accepted"]["extra"]["nanoSession"]["id"] = URL_SAFE_NO_PAD.encode(&session).into();
    dressed["accepted"]["payTo"] = txn_offer.pay_to.to_string().into();
    refused_unasked(&rig, ONE, &encode_header(&dressed), "CHALLENGE_UNKNOWN").await;
    served(&rig, ONE, &encode_header(&good)).await;
    rig.end().await;
}

#[tokio::test]
async fn a_byte_of_the_session_header_is_bent() {
    let (rig, payer) = scene(plan()).await;
    let offer = session_offer(&rig, ONE).await;
    let paid = pay_session(&rig, &payer, &offer).to_string();
    let good = URL_SAFE_NO_PAD.decode(session_id(&offer)).unwrap();
    let before = Footprint::of(&rig);
    for at in 0..good.len() {
        let mut bent = good.clone();
        bent[at] ^= 1;
        let bent = URL_SAFE_NO_PAD.encode(&bent);
        let headers = [("X-PAYMENT-BLOCK", paid.as_str()), ("X-PAYMENT-SESSION", bent.as_str())];
        let code = error(rig.get(ONE, &headers).await).await;
        assert_eq!(code, "CHALLENGE_UNKNOWN", "byte {at}");
    }
    assert_eq!(Footprint::of(&rig), before, "a cheap check comes before any question");
    rig.end().await;
}

#[tokio::test]
async fn look_ups_in_vain_are_counted() {
    let more = "limits: { lookups_per_client: 3 }".to_owned();
    let (rig, payer) = scene(Plan { more, ..plan() }).await;
    let thief = rig.payer(2, PLENTY);
    let offer = session_offer(&rig, ONE).await;
    let others = pay_session(&rig, &payer, &offer);
    let own = session_to(&rig, offer.pay_to).await;
    let elsewhere = rig.devnet.send_block(&thief, thief.account(), own.amount).unwrap();
    rig.devnet.process(elsewhere).unwrap();
    pending(&rig, ONE, &session_proof(&own, BlockHash([9; 32])), "BLOCK_NOT_FOUND").await;
    refused(&rig, ONE, &session_proof(&own, others), "INSUFFICIENT_AMOUNT").await;
    refused(&rig, ONE, &session_proof(&own, elsewhere.hash()), "WRONG_DESTINATION").await;
    let asked = rig.devnet.faults().calls("block_info");
    pending(&rig, ONE, &session_proof(&own, others), "overloaded").await;
    assert_eq!(rig.devnet.faults().calls("block_info"), asked);
    rig.end().await;
}

#[tokio::test]
async fn a_proof_comes_without_the_entry_or_with_too_much() {
    let (rig, payer) = scene(plan()).await;
    let offer = session_offer(&rig, ONE).await;
    let good = offer.answer(&PaymentProof::NanoSession { block_hash: pay_session(&rig, &payer, &offer) });
    let mut bare = good.clone();
    bare.as_object_mut().unwrap().remove("accepted");
    refused_unasked(&rig, ONE, &encode_header(&bare), "MALFORMED_PAYLOAD").await;
    // A session's client of revision 7 that signs all the same is let be.
    let mut signed = good.clone();
    signed["payload"]["signature"] = "00".repeat(64).into();
    signed["payload"]["more"] = json!({ "unheard": "of" });
    served(&rig, ONE, &encode_header(&signed)).await;
    rig.end().await;
}
