//! Attacks on the challenge that the client echoes: what is under the MAC cannot be bent, and what
//! is not decides nothing.

use faregate::assemble;
use faregate::config::PoolSource;
use faregate::nano::Seed;
use faregate::x402::{NanoOffer, encode_header};
use serde_json::{Value, json};

use super::{
    PROOF, QUOTE, balance, bill_to, refused_unasked, row_is_refused_unasked, scene, served, txn_payload,
};
use crate::rig::{Ending, PLENTY, Plan, ROUTES, Rig, manual_clock, signature};

/// Good envelopes for the two offers of one bill, neither handed in yet.
async fn envelopes(rig: &Rig, path: &str) -> [(Value, NanoOffer); 2] {
    let payer = rig.payer(1, PLENTY);
    let [offer, upfront] = rig.bill(path).await;
    let (_, block) = rig.txn(&payer, &offer);
    let sent = rig.devnet.send_block(&payer, upfront.pay_to, upfront.amount).unwrap();
    let proof = faregate::x402::PaymentProof::NanoSignature {
        block_hash: sent.hash(),
        account: payer.account(),
        signature: super::noms(&payer, sent.hash(), &upfront),
    };
    [(txn_payload(&offer, block), offer.clone()), (upfront.answer(&proof), upfront)]
}

/// Changes one digit of a text in hexadecimal.
fn flip(value: &mut Value, at: usize) {
    let mut text: Vec<u8> = value.as_str().unwrap().bytes().collect();
    text[at] = if text[at] == b'0' { b'1' } else { b'0' };
    *value = String::from_utf8(text).unwrap().into();
}

#[tokio::test]
async fn a_term_of_the_echoed_entry_is_bent() {
    let rig = Rig::start().await;
    let stranger = rig.devnet.genesis_account().to_string();
    for (good, offer) in envelopes(&rig, QUOTE).await {
        let name = if good["accepted"]["extra"]["challenge"].is_string() { "challenge" } else { "nonce" };
        let later = offer.valid_before.0 + 3600;
        let rows: [(&str, &str, Value, &str); 17] = [
            ("", "amount", "1".into(), "CHALLENGE_UNKNOWN"),
            ("", "amount", 1.into(), "MALFORMED_PAYLOAD"),
            ("", "payTo", stranger.as_str().into(), "CHALLENGE_UNKNOWN"),
            ("", "network", "nano:testnet".into(), "MALFORMED_PAYLOAD"),
            ("", "network", "eip155:8453".into(), "MALFORMED_PAYLOAD"),
            ("", "asset", "USDC".into(), "MALFORMED_PAYLOAD"),
            ("", "scheme", "upto".into(), "MALFORMED_PAYLOAD"),
            ("", "maxTimeoutSeconds", "120".into(), "MALFORMED_PAYLOAD"),
            ("", "extra", Value::Null, "MALFORMED_PAYLOAD"),
            ("", "extra", json!({}), "MALFORMED_PAYLOAD"),
            ("extra", "route", "paid".into(), "CHALLENGE_UNKNOWN"),
            ("extra", "grants", json!({ "requests": 1000, "seconds": 3600 }), "CHALLENGE_UNKNOWN"),
            ("extra", "grants", json!({ "requests": 0, "seconds": 3600 }), "MALFORMED_PAYLOAD"),
            ("extra", "validBefore", later.into(), "CHALLENGE_UNKNOWN"),
            ("extra", "mechanism", "nanoSession".into(), "MALFORMED_PAYLOAD"),
            ("extra", name, "00".repeat(32).into(), "CHALLENGE_UNKNOWN"),
            ("extra", name, Value::Null, "MALFORMED_PAYLOAD"),
        ];
        for (parent, field, value, code) in rows {
            let what = format!("{name}: {parent}.{field} = {value}");
            let mut bent = good.clone();
            let entry = if parent.is_empty() { &mut bent["accepted"] } else { &mut bent["accepted"][parent] };
            assert_ne!(entry[field], value);
            entry[field] = value;
            row_is_refused_unasked(&rig, &what, &encode_header(&bent), code).await;
        }
        // Both halves of the name, the random one and the MAC, at either end.
        for at in [0, 31, 32, 63] {
            let mut bent = good.clone();
            flip(&mut bent["accepted"]["extra"][name], at);
            refused_unasked(&rig, QUOTE, &encode_header(&bent), "CHALLENGE_UNKNOWN").await;
        }
        let mut bare = good.clone();
        bare.as_object_mut().unwrap().remove("accepted");
        refused_unasked(&rig, QUOTE, &encode_header(&bare), "MALFORMED_PAYLOAD").await;
        let mut longer = good.clone();
        longer["accepted"]["extra"]["grants"]["seconds"] = 31_536_000.into();
        refused_unasked(&rig, QUOTE, &encode_header(&longer), "CHALLENGE_UNKNOWN").await;
    }
    rig.end().await;
}

#[tokio::test]
async fn a_challenge_of_one_mechanism_is_dressed_as_the_others() {
    let rig = Rig::start().await;
    let [(txn, _), (upfront, _)] = envelopes(&rig, QUOTE).await;
    let mut dressed = txn.clone();
    dressed["accepted"] = upfront["accepted"].clone();
    let extra = &mut dressed["accepted"]["extra"];
    extra["mechanism"] = "nanoTxn".into();
    extra["challenge"] = extra["nonce"].clone();
    refused_unasked(&rig, QUOTE, &encode_header(&dressed), "CHALLENGE_UNKNOWN").await;
    let mut dressed = upfront;
    dressed["accepted"] = txn["accepted"].clone();
    let extra = &mut dressed["accepted"]["extra"];
    extra["mechanism"] = "nanoSignature".into();
    extra["nonce"] = extra["challenge"].clone();
    refused_unasked(&rig, QUOTE, &encode_header(&dressed), "CHALLENGE_UNKNOWN").await;
    rig.end().await;
}

#[tokio::test]
async fn another_gateways_challenge_is_answered() {
    let (rig, other) = (Rig::start().await, Rig::start().await);
    for (foreign, _) in envelopes(&other, QUOTE).await {
        refused_unasked(&rig, QUOTE, &encode_header(&foreign), "CHALLENGE_UNKNOWN").await;
    }
    // The foreign name on terms that are this gateway's own.
    let [(mut own, _), _] = envelopes(&rig, QUOTE).await;
    let [(foreign, _), _] = envelopes(&other, QUOTE).await;
    own["accepted"]["extra"]["challenge"] = foreign["accepted"]["extra"]["challenge"].clone();
    refused_unasked(&rig, QUOTE, &encode_header(&own), "CHALLENGE_UNKNOWN").await;
    rig.end().await;
    other.end().await;
}

#[tokio::test]
async fn the_client_gives_itself_more_time() {
    let (clock, seconds) = manual_clock();
    let (rig, _) = scene(Plan { clock, ..Plan::default() }).await;
    let [(mut txn, offer), _] = envelopes(&rig, QUOTE).await;
    txn["accepted"]["maxTimeoutSeconds"] = 1_000_000.into();
    seconds.store(offer.valid_before.0, std::sync::atomic::Ordering::SeqCst);
    refused_unasked(&rig, QUOTE, &encode_header(&txn), "PAYMENT_EXPIRED").await;
    // In time it does no harm.
    seconds.store(offer.valid_before.0 - 1, std::sync::atomic::Ordering::SeqCst);
    served(&rig, QUOTE, &encode_header(&txn)).await;
    rig.end().await;
}

#[tokio::test]
async fn the_client_names_another_resource_and_adds_fields_of_its_own() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill("/paid").await;
    let (_, block) = rig.txn(&payer, &offer);
    let mut envelope = txn_payload(&offer, block);
    envelope["resource"] = json!({ "url": format!("{}{QUOTE}", rig.url) });
    envelope["accepted"]["extra"]["free"] = true.into();
    envelope["payload"]["amount"] = "0".into();
    refused_unasked(&rig, QUOTE, &encode_header(&envelope), "WRONG_RESOURCE").await;
    served(&rig, "/paid", &encode_header(&envelope)).await;
    rig.end().await;
}

#[tokio::test]
async fn a_proof_comes_twice_or_under_two_names() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, _) = rig.txn(&payer, &offer);
    let twice = rig.get(QUOTE, &[(PROOF, &proof), (PROOF, &proof)]).await;
    assert_eq!(twice.status(), 400);
    // A bad proof is not passed over for the good one under the old name.
    let bad = encode_header(&json!({ "x402Version": 2, "payload": {} }));
    let both = rig.get(QUOTE, &[("X-PAYMENT", &proof), (PROOF, &bad)]).await;
    assert_eq!(both.status(), 402);
    assert_eq!((rig.upstream.seen().len(), balance(&rig, &payer)), (0, PLENTY));
    let old = rig.get(QUOTE, &[("X-PAYMENT", &proof)]).await;
    assert_eq!(old.status(), 200);
    rig.end().await;
}

/// A gateway with the challenge key of `other` and a seed of its own.
async fn with_the_key_of(other: &Rig, routes: &str) -> Rig {
    let key = other.folder.path().join("challenge.key");
    let more = format!("challenge: {{ key_file: {} }}", key.display());
    Rig::with(Plan { more, routes: routes.to_owned(), ..Plan::default() }).await
}

/// "Staging" bills 1 raw into its own pool, and "production" has the same key.
#[tokio::test]
async fn a_payment_into_the_pool_of_another_gateway_with_the_same_key() {
    let staging = Rig::start().await;
    let production = with_the_key_of(&staging, ROUTES).await;
    let payer = production.payer(1, PLENTY);
    let [offer, upfront] = staging.bill("/paid").await;
    let (proof, sent) = production.txn(&payer, &offer);
    refused_unasked(&production, "/paid", &proof, "CHALLENGE_UNKNOWN").await;
    assert_eq!(
        (production.effects().broadcast, balance(&production, &payer)),
        (0, PLENTY),
        "{}",
        sent.hash()
    );
    let sent = production.devnet.send_block(&payer, upfront.pay_to, upfront.amount).unwrap();
    production.devnet.process(sent).unwrap();
    let proof = signature(&payer, &sent, &upfront);
    refused_unasked(&production, "/paid", &proof, "CHALLENGE_UNKNOWN").await;
    staging.end().await;
    production.end().await;
}

/// An address of the pool of `rig` that is beyond its first two for `nanoSignature`, and a payment to it.
async fn paid_at_the_end(rig: &Rig) -> String {
    let payer = rig.payer(1, PLENTY);
    let last = assemble::pool_accounts(&rig.config("", ROUTES).nano).unwrap()[8 + 7];
    let offer = bill_to(rig, QUOTE, 1, last).await;
    let sent = rig.devnet.send_block(&payer, offer.pay_to, offer.amount).unwrap();
    rig.devnet.process(sent).unwrap();
    signature(&payer, &sent, &offer)
}

#[tokio::test]
async fn a_payment_to_an_address_beyond_a_pool_that_was_made_smaller_is_served() {
    let rig = Rig::start().await;
    let proof = paid_at_the_end(&rig).await;
    let mut smaller = rig.config("", ROUTES);
    let PoolSource::Seed { size, .. } = &mut smaller.nano.pool else { panic!("no seed") };
    *size = 2;
    let rig = rig.restart_with(Ending::Orderly, smaller).await;
    served(&rig, QUOTE, &proof).await;
    rig.end().await;
}

#[tokio::test]
async fn a_payment_to_an_address_that_was_taken_out_of_the_list_is_served() {
    let rig = Rig::start().await;
    let mut listed = rig.config("", ROUTES);
    let accounts: Vec<_> = (0..4).map(|it| Seed::from_bytes([0x44; 32]).key(it).account()).collect();
    let file = rig.folder.path().join("pool.addresses");
    listed.nano.pool = PoolSource::Addresses { file: file.clone(), accounts: accounts.clone() };
    let mut shorter = listed.clone();
    shorter.nano.pool = PoolSource::Addresses { file, accounts: accounts[2..].to_vec() };
    let rig = rig.restart_with(Ending::Orderly, listed).await;
    let payer = rig.payer(1, PLENTY);
    // The second is the first of those for nanoSignature.
    let offer = bill_to(&rig, QUOTE, 1, accounts[1]).await;
    let sent = rig.devnet.send_block(&payer, offer.pay_to, offer.amount).unwrap();
    rig.devnet.process(sent).unwrap();
    let proof = signature(&payer, &sent, &offer);
    let rig = rig.restart_with(Ending::Orderly, shorter).await;
    served(&rig, QUOTE, &proof).await;
    rig.end().await;
}
