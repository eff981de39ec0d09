//! Strangers, who hold no right: they show what is public under keys and challenges of their own, to
//! keep a payer waiting, to have it billed again, or to spend the gateway's look-ups.

use std::net::IpAddr;
use std::time::Duration;

use faregate::devnet::{InjectedFault, Times};
use faregate::nano::{BlockHash, SecretKey, Seed, StateBlock};
use faregate::x402::NanoOffer;
use futures_util::future::join_all;
use reqwest::Client;

use super::{Footprint, ONE, PROOF, QUOTE, block, frontier, noms, scene, signature_proof, txn_proof};
use crate::patience::http_client;
use crate::rig::{PLENTY, Plan, Rig, error, manual_clock, signature};

/// Proofs of one client in the tests of look-ups.
const BOGUS: u8 = 200;
/// Calls to a node that these may cause.
const CALLS: u64 = 40;

fn stranger(index: u32) -> SecretKey {
    Seed::from_bytes([0x77; 32]).key(index)
}

/// A client of another address than the tests' own.
fn at(address: &str) -> Client {
    let address: IpAddr = address.parse().unwrap();
    http_client().local_address(address).build().unwrap()
}

/// A payer's block, confirmed, and its own proof.
async fn paid(rig: &Rig, payer: &SecretKey) -> (StateBlock, String) {
    let [_, offer] = rig.bill(QUOTE).await;
    let sent = rig.devnet.send_block(payer, offer.pay_to, offer.amount).unwrap();
    rig.devnet.process(sent).unwrap();
    (sent, signature(payer, &sent, &offer))
}

/// The claim of a stranger to have sent `block`.
fn claimed(key: &SecretKey, block: BlockHash, offer: &NanoOffer) -> String {
    signature_proof(offer, block, key.account(), noms(key, block, offer))
}

/// Six strangers send their proofs again and again, from an address of their own, while `payer`
/// sends its own once: what the payer is answered.
async fn amid(rig: &Rig, action: &str, proofs: Vec<String>, payers: &str) -> u16 {
    let theirs = at("127.0.0.9");
    let calls = rig.devnet.faults().calls(action);
    let url = format!("{}{QUOTE}", rig.url);
    let flood = join_all(proofs.iter().map(async |proof| {
        loop {
            let _answer = theirs.get(&url).header(PROOF, proof).send().await.unwrap();
        }
    }));
    let asked = async {
        rig.devnet.faults().called(action, calls + 6).await;
        let answer = rig.get(QUOTE, &[(PROOF, payers)]).await;
        answer.status().as_u16()
    };
    tokio::select! {
        _ = flood => panic!("the flood ended"),
        status = asked => status,
    }
}

fn plan() -> Plan {
    Plan { more: "limits: { lookups_per_client: 100000 }".to_owned(), ..Plan::default() }
}

#[tokio::test]
async fn strangers_who_show_a_payers_block_do_not_keep_the_payer_waiting() {
    let (rig, payer) = scene(plan()).await;
    rig.devnet.order("block_info", InjectedFault::Delay(Duration::from_millis(60)), Times::Always);
    let mut statuses = Vec::new();
    for round in 0..5 {
        let (sent, proof) = paid(&rig, &payer).await;
        let mut proofs = Vec::new();
        for index in 0..6 {
            let [_, own] = rig.bill(QUOTE).await;
            proofs.push(claimed(&stranger(round * 6 + index), sent.hash(), &own));
        }
        statuses.push(amid(&rig, "block_info", proofs, &proof).await);
    }
    assert_eq!(statuses, [200; 5]);
    rig.end().await;
}

#[tokio::test]
async fn throw_away_keys_on_a_payers_frontier_do_not_bill_the_payer() {
    let (rig, payer) = scene(plan()).await;
    rig.devnet.order("account_info", InjectedFault::Delay(Duration::from_millis(60)), Times::Always);
    let mut statuses = Vec::new();
    for round in 0..5 {
        let [offer, _] = rig.bill(QUOTE).await;
        let (proof, honest) = rig.txn(&payer, &offer);
        let mut proofs = Vec::new();
        for index in 0..6 {
            let [own, _] = rig.bill(QUOTE).await;
            // Work is over the frontier alone: the payer's own serves every key.
            let key = stranger(100 + round * 6 + index);
            let junk = StateBlock { account: key.account(), link: own.pay_to.0, ..honest };
            proofs.push(txn_proof(&own, junk.signed(&key)));
        }
        statuses.push(amid(&rig, "account_info", proofs, &proof).await);
    }
    assert_eq!(statuses, [200; 5]);
    rig.end().await;
}

/// Hands in the proofs from one address, one by one or at once; then a payer at another is served.
async fn are_bounded(what: &str, make: impl AsyncFn(&Rig, &SecretKey) -> Vec<String>) {
    for at_once in [false, true] {
        let (rig, payer) = scene(Plan::default()).await;
        let proofs = make(&rig, &payer).await;
        let url = format!("{}{QUOTE}", rig.url);
        let before = Footprint::of(&rig);
        let theirs = at("127.0.0.9");
        let hand_in = async |proof: &String| {
            let answer = theirs.get(&url).header(PROOF, proof).send().await.unwrap();
            assert!([402, 503].contains(&answer.status().as_u16()), "{what}: {}", answer.status());
        };
        if at_once {
            rig.devnet.order("block_info", InjectedFault::Delay(Duration::from_millis(50)), Times::Always);
            rig.devnet.order("account_info", InjectedFault::Delay(Duration::from_millis(50)), Times::Always);
            join_all(proofs.iter().map(hand_in)).await;
            rig.devnet.faults().clear();
        } else {
            for proof in &proofs {
                hand_in(proof).await;
            }
        }
        let after = Footprint::of(&rig);
        assert_eq!(after.effects, before.effects, "{what}");
        let calls = after.questions - before.questions;
        assert!(calls <= CALLS, "{what}: {calls} calls for {BOGUS} proofs, at once: {at_once}");
        let (_, proof) = paid(&rig, &payer).await;
        assert_eq!(rig.get(QUOTE, &[(PROOF, &proof)]).await.status(), 200, "{what}");
        rig.end().await;
    }
}

#[tokio::test]
async fn the_look_ups_of_made_up_hashes_are_bounded() {
    are_bounded("BLOCK_NOT_FOUND", async |rig: &Rig, _: &SecretKey| {
        let [_, own] = rig.bill(QUOTE).await;
        (0..BOGUS).map(|it| claimed(&stranger(1), BlockHash([it; 32]), &own)).collect()
    })
    .await;
}

#[tokio::test]
async fn the_look_ups_of_others_blocks_are_bounded() {
    are_bounded("SENDER_MISMATCH", async |rig: &Rig, payer: &SecretKey| {
        let (sent, _) = paid(rig, payer).await;
        let [_, own] = rig.bill(QUOTE).await;
        (0..BOGUS).map(|it| claimed(&stranger(it.into()), sent.hash(), &own)).collect()
    })
    .await;
}

#[tokio::test]
async fn the_look_ups_of_blocks_that_send_nothing_are_bounded() {
    are_bounded("WRONG_BLOCK_TYPE", async |rig: &Rig, payer: &SecretKey| {
        let opened = frontier(rig, payer);
        let [_, own] = rig.bill(QUOTE).await;
        vec![claimed(payer, opened, &own); BOGUS.into()]
    })
    .await;
}

#[tokio::test]
async fn the_look_ups_of_too_little_are_bounded() {
    are_bounded("INSUFFICIENT_AMOUNT", async |rig: &Rig, payer: &SecretKey| {
        let [_, own] = rig.bill(QUOTE).await;
        let little = rig.devnet.send_block(payer, own.pay_to, ONE).unwrap();
        rig.devnet.process(little).unwrap();
        vec![claimed(payer, little.hash(), &own); BOGUS.into()]
    })
    .await;
}

#[tokio::test]
async fn the_look_ups_of_junk_blocks_are_bounded() {
    are_bounded("nanoTxn", async |rig: &Rig, payer: &SecretKey| {
        let [own, _] = rig.bill(QUOTE).await;
        let first = block(&stranger(1), frontier(rig, payer), PLENTY, own.pay_to.0);
        let junk = |it: u8| {
            let key = stranger(it.into());
            StateBlock { account: key.account(), ..first }.signed(&key)
        };
        (0..BOGUS).map(|it| txn_proof(&own, junk(it))).collect()
    })
    .await;
}

/// Calls of the store that read a payment.
fn reads(rig: &Rig) -> u64 {
    crate::metrics::sample(rig, "store_duration_seconds_count{operation=\"payment\"}") as u64
}

/// A proof of many uses is shown for each of them.
#[tokio::test]
async fn a_proof_of_what_is_in_hand_is_no_read_of_the_store() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill("/v1/search/x").await;
    let (proof, _) = rig.txn(&payer, &offer);
    assert_eq!(rig.get("/v1/search/x", &[(PROOF, &proof)]).await.status(), 200);
    let before = (reads(&rig), Footprint::of(&rig).questions);
    for _ in 0..3 {
        assert_eq!(rig.get("/v1/search/x", &[(PROOF, &proof)]).await.status(), 200);
    }
    assert_eq!((reads(&rig), Footprint::of(&rig).questions), before);
    rig.end().await;
}

#[tokio::test]
async fn an_expired_challenge_with_a_bad_signature_is_no_read_of_the_store() {
    let (clock, seconds) = manual_clock();
    let (rig, payer) = scene(Plan { clock, ..Plan::default() }).await;
    let [_, offer] = rig.bill(QUOTE).await;
    seconds.store(offer.valid_before.0, std::sync::atomic::Ordering::SeqCst);
    let good = noms(&payer, BlockHash([1; 32]), &offer);
    let before = reads(&rig);
    for made_up in 2..50 {
        let proof = signature_proof(&offer, BlockHash([made_up; 32]), payer.account(), good);
        let answer = rig.get(QUOTE, &[(PROOF, &proof)]).await;
        assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (402, "PAYMENT_EXPIRED"));
    }
    assert_eq!(reads(&rig), before);
    // With a signature it is read, so often as a client may have something looked up.
    for made_up in 2..100 {
        let hash = BlockHash([made_up; 32]);
        let _answer = rig.get(QUOTE, &[(PROOF, &claimed(&payer, hash, &offer))]).await;
    }
    let read = reads(&rig) - before;
    assert!((1..=CALLS).contains(&read), "{read} reads");
    rig.end().await;
}
