//! Attacks on `nanoTxn`, where the client hands in a signed block and the gateway broadcasts it.

use faregate::devnet::{BlockRefusal, InjectedFault, Lie, Times};
use faregate::nano::{Account, BlockHash, Raw, Representative, Signature, StateBlock, Work};
use faregate::store::PaymentState;
use faregate::x402::encode_header;
use serde_json::{Value, json};

use super::{
    Footprint, ONE, PROOF, QUOTE, balance, bill_to, block, frontier, journal, less, malleated, more, noted,
    pending, received, refused, refused_unasked, row_is_refused_unasked, scene, served, txn_payload,
    txn_proof, unhurried, with_work,
};
use crate::patience::{eventually, wait_for};
use crate::rig::{PLENTY, Plan, Rig, error, header, manual_clock, offers, signature};

#[tokio::test]
async fn a_stranger_hands_in_a_block_that_the_gateway_has_broadcast() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, sent) = rig.txn(&payer, &offer);
    served(&rig, QUOTE, &proof).await;
    // The ledger is public. The stranger has a challenge of his own for the same address.
    let stolen = rig.devnet.lattice().entry(sent.hash()).unwrap().block;
    let own = bill_to(&rig, QUOTE, 0, offer.pay_to).await;
    refused_unasked(&rig, QUOTE, &txn_proof(&own, stolen), "DUPLICATE_BLOCK_HASH").await;
    assert_eq!(received(&rig, offer.pay_to), offer.amount, "one price for one answer");
    rig.end().await;
}

#[tokio::test]
async fn a_stranger_hands_in_a_block_that_is_being_settled_for_another() {
    let (rig, payer) = scene(unhurried()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, sent) = rig.txn(&payer, &offer);
    pending(&rig, QUOTE, &proof, "settlement_pending").await;
    let own = bill_to(&rig, QUOTE, 0, offer.pay_to).await;
    pending(&rig, QUOTE, &txn_proof(&own, sent), "settlement_pending").await;
    rig.confirm(sent.hash()).await;
    assert_eq!(rig.ask_until_decided(QUOTE, &proof).await.status(), 200, "the payer is served");
    refused(&rig, QUOTE, &txn_proof(&own, sent), "DUPLICATE_BLOCK_HASH").await;
    assert_eq!(rig.upstream.seen().len(), 1);
    rig.end().await;
}

#[tokio::test]
async fn a_stranger_hands_in_a_block_that_its_payer_put_on_the_ledger_himself() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (_, sent) = rig.txn(&payer, &offer);
    rig.devnet.process(sent).unwrap();
    let own = bill_to(&rig, QUOTE, 0, offer.pay_to).await;
    refused(&rig, QUOTE, &txn_proof(&own, sent), "STALE_FRONTIER").await;
    assert_eq!(journal(&rig, sent.hash()).await, None, "the payer's block is not claimed by a stranger");
    rig.end().await;
}

#[tokio::test]
async fn a_stranger_hands_in_the_public_block_of_a_nano_signature_payer() {
    let (rig, payer) = scene(Plan::default()).await;
    let [_, upfront] = rig.bill(QUOTE).await;
    let sent = rig.devnet.send_block(&payer, upfront.pay_to, upfront.amount).unwrap();
    rig.devnet.process(sent).unwrap();
    // The pool is cut in two: no nanoTxn challenge ever names that address.
    for _ in 0..64 {
        let [own, _] = rig.bill(QUOTE).await;
        assert_ne!(own.pay_to, upfront.pay_to);
    }
    let [own, _] = rig.bill(QUOTE).await;
    refused_unasked(&rig, QUOTE, &txn_proof(&own, sent), "WRONG_DESTINATION").await;
    let mut forged = txn_payload(&own, sent);
    forged["accepted"]["payTo"] = upfront.pay_to.to_string().into();
    refused_unasked(&rig, QUOTE, &encode_header(&forged), "CHALLENGE_UNKNOWN").await;
    served(&rig, QUOTE, &signature(&payer, &sent, &upfront)).await;
    rig.end().await;
}

#[tokio::test]
async fn a_payment_is_replayed() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, sent) = rig.txn(&payer, &offer);
    served(&rig, QUOTE, &proof).await;
    refused_unasked(&rig, QUOTE, &proof, "DUPLICATE_BLOCK_HASH").await;
    // Under a new challenge, by the payer himself.
    let again = bill_to(&rig, QUOTE, 0, offer.pay_to).await;
    refused_unasked(&rig, QUOTE, &txn_proof(&again, sent), "DUPLICATE_BLOCK_HASH").await;
    // By the other mechanism.
    let [_, upfront] = rig.bill(QUOTE).await;
    refused(&rig, QUOTE, &signature(&payer, &sent, &upfront), "DUPLICATE_BLOCK_HASH").await;
    assert_eq!(rig.upstream.seen().len(), 1);
    rig.end().await;
}

#[tokio::test]
async fn a_spent_block_is_spelled_in_upper_case_and_carries_other_work() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, mut sent) = rig.txn(&payer, &offer);
    served(&rig, QUOTE, &proof).await;
    let again = bill_to(&rig, QUOTE, 0, offer.pay_to).await;
    let root = sent.work_root();
    let Some(Work(used)) = sent.work else { panic!("no work") };
    sent.work = (used + 1..).map(Work).find(|it| it.reaches(&root, faregate::devnet::THRESHOLDS.send));
    let mut shouted = txn_payload(&again, sent);
    for field in ["previous", "link", "signature"] {
        let text = shouted["payload"]["block"][field].as_str().unwrap().to_uppercase();
        shouted["payload"]["block"][field] = text.into();
    }
    refused_unasked(&rig, QUOTE, &encode_header(&shouted), "DUPLICATE_BLOCK_HASH").await;
    rig.end().await;
}

#[tokio::test]
async fn the_block_pays_somebody_else() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let own = rig.devnet.send_block(&payer, payer.account(), offer.amount).unwrap();
    refused_unasked(&rig, QUOTE, &txn_proof(&offer, own), "WRONG_DESTINATION").await;
    let neighbour = rig.bill(QUOTE).await[1].pay_to;
    let elsewhere = rig.devnet.send_block(&payer, neighbour, offer.amount).unwrap();
    refused_unasked(&rig, QUOTE, &txn_proof(&offer, elsewhere), "WRONG_DESTINATION").await;
    assert_eq!(balance(&rig, &payer), PLENTY, "no money moved");
    rig.end().await;
}

#[tokio::test]
async fn link_as_account_says_another_account_than_link() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let own = rig.devnet.send_block(&payer, payer.account(), offer.amount).unwrap();
    let mut lies = txn_payload(&offer, own);
    lies["payload"]["block"]["link_as_account"] = offer.pay_to.to_string().into();
    refused_unasked(&rig, QUOTE, &encode_header(&lies), "MALFORMED_PAYLOAD").await;
    let true_link = rig.devnet.send_block(&payer, offer.pay_to, offer.amount).unwrap();
    let mut lies = txn_payload(&offer, true_link);
    lies["payload"]["block"]["link_as_account"] = payer.account().to_string().into();
    refused_unasked(&rig, QUOTE, &encode_header(&lies), "MALFORMED_PAYLOAD").await;
    rig.end().await;
}

#[tokio::test]
async fn the_block_moves_one_raw_too_little_or_too_much() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    for amount in [less(offer.amount, ONE), more(offer.amount, ONE), ONE, PLENTY] {
        let sent = rig.devnet.send_block(&payer, offer.pay_to, amount).unwrap();
        refused(&rig, QUOTE, &txn_proof(&offer, sent), "INSUFFICIENT_AMOUNT").await;
    }
    assert_eq!((balance(&rig, &payer), received(&rig, offer.pay_to)), (PLENTY, Raw::ZERO));
    rig.end().await;
}

#[tokio::test]
async fn the_block_builds_on_an_old_frontier() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, _) = rig.txn(&payer, &offer);
    let elsewhere = rig.devnet.send_block(&payer, rig.devnet.genesis_account(), ONE).unwrap();
    rig.devnet.process(elsewhere).unwrap();
    refused(&rig, QUOTE, &proof, "STALE_FRONTIER").await;
    assert_eq!(received(&rig, offer.pay_to), Raw::ZERO);
    rig.end().await;
}

#[tokio::test]
async fn the_block_builds_on_an_unconfirmed_frontier() {
    let (rig, payer) = scene(unhurried()).await;
    let elsewhere = rig.devnet.send_block(&payer, rig.devnet.genesis_account(), ONE).unwrap();
    rig.devnet.process(elsewhere).unwrap();
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, sent) = rig.txn(&payer, &offer);
    refused(&rig, QUOTE, &proof, "STALE_FRONTIER").await;
    assert!(rig.devnet.confirm_now(elsewhere.hash()));
    pending(&rig, QUOTE, &proof, "settlement_pending").await;
    rig.confirm(sent.hash()).await;
    assert_eq!(rig.ask_until_decided(QUOTE, &proof).await.status(), 200);
    rig.end().await;
}

#[tokio::test]
async fn the_block_builds_on_a_block_that_nobody_has() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let rest = less(balance(&rig, &payer), offer.amount);
    let gap = block(&payer, BlockHash([0x77; 32]), rest, offer.pay_to.0);
    refused(&rig, QUOTE, &txn_proof(&offer, gap), "STALE_FRONTIER").await;
    assert_eq!(rig.devnet.lattice().unchecked_count(), 0, "the node keeps no gap block of ours");
    rig.end().await;
}

#[tokio::test]
async fn two_blocks_on_one_frontier_the_first_not_broadcast_yet() {
    let (rig, payer) =
        scene(Plan { more: "settlement: { wait: 200ms }".to_owned(), ..Plan::default() }).await;
    let [one, _] = rig.bill(QUOTE).await;
    let elsewhere = async || Some(rig.bill(QUOTE).await).filter(|[it, _]| it.pay_to != one.pay_to);
    let [other, _] = wait_for("a challenge for another address", elsewhere).await;
    let ((first, first_block), (second, second_block)) = (rig.txn(&payer, &one), rig.txn(&payer, &other));
    assert_eq!(first_block.previous, second_block.previous);
    rig.devnet.order("account_info", InjectedFault::Hold, Times::Always);
    pending(&rig, QUOTE, &first, "settlement_pending").await;
    refused_unasked(&rig, QUOTE, &second, "DUPLICATE_FRONTIER").await;
    assert_eq!(rig.devnet.faults().calls("process"), 0);
    rig.devnet.faults().clear();
    assert_eq!(rig.ask_until_decided(QUOTE, &first).await.status(), 200);
    refused(&rig, QUOTE, &second, "STALE_FRONTIER").await;
    assert_eq!((received(&rig, one.pay_to), received(&rig, other.pay_to)), (one.amount, Raw::ZERO));
    rig.end().await;
}

#[tokio::test]
async fn two_blocks_on_one_frontier_the_first_not_confirmed_yet() {
    let (rig, payer) = scene(unhurried()).await;
    let ([one, _], [other, _]) = (rig.bill(QUOTE).await, rig.bill("/paid").await);
    let ((first, sent), (second, _)) = (rig.txn(&payer, &one), rig.txn(&payer, &other));
    pending(&rig, QUOTE, &first, "settlement_pending").await;
    rig.has_broadcast(sent.hash()).await;
    refused_unasked(&rig, "/paid", &second, "DUPLICATE_FRONTIER").await;
    rig.confirm(sent.hash()).await;
    assert_eq!(rig.ask_until_decided(QUOTE, &first).await.status(), 200);
    rig.end().await;
}

#[tokio::test]
async fn an_unconfirmed_payment_is_pending_and_then_served_for_the_same_proof() {
    let (rig, payer) = scene(unhurried()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, sent) = rig.txn(&payer, &offer);
    for _ in 0..2 {
        pending(&rig, QUOTE, &proof, "settlement_pending").await;
    }
    noted(&rig, sent.hash()).await;
    rig.has_broadcast(sent.hash()).await;
    assert_eq!(received(&rig, offer.pay_to), offer.amount);
    rig.confirm(sent.hash()).await;
    assert_eq!(rig.ask_until_decided(QUOTE, &proof).await.status(), 200);
    assert_eq!(rig.upstream.seen().len(), 1);
    refused_unasked(&rig, QUOTE, &proof, "DUPLICATE_BLOCK_HASH").await;
    rig.end().await;
}

#[tokio::test]
async fn a_proof_comes_after_its_challenge_has_expired() {
    let (clock, seconds) = manual_clock();
    let (rig, payer) = scene(Plan { clock, ..Plan::default() }).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, sent) = rig.txn(&payer, &offer);
    seconds.store(offer.valid_before.0, std::sync::atomic::Ordering::SeqCst);
    let [fresh, _] = refused_unasked(&rig, QUOTE, &proof, "PAYMENT_EXPIRED").await;
    assert_eq!(fresh.pay_to, offer.pay_to, "the same block can be handed in under the fresh challenge");
    assert!(fresh.valid_before > offer.valid_before);
    served(&rig, QUOTE, &txn_proof(&fresh, sent)).await;
    assert_eq!(received(&rig, offer.pay_to), offer.amount);
    rig.end().await;
}

#[tokio::test]
async fn a_block_for_a_cheap_route_is_handed_in_for_a_dear_one() {
    let (rig, payer) = scene(Plan::default()).await;
    let [cheap, _] = rig.bill("/paid").await;
    let (proof, _) = rig.txn(&payer, &cheap);
    refused_unasked(&rig, "/v1/search/a", &proof, "WRONG_RESOURCE").await;
    refused_unasked(&rig, QUOTE, &proof, "WRONG_RESOURCE").await;
    assert_eq!(balance(&rig, &payer), PLENTY, "the block was not broadcast");
    served(&rig, "/paid", &proof).await;
    refused(&rig, QUOTE, &proof, "WRONG_RESOURCE").await;
    rig.end().await;
}

#[tokio::test]
async fn the_work_is_missing_or_too_low() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (_, good) = rig.txn(&payer, &offer);
    let none = StateBlock { work: None, ..good };
    refused_unasked(&rig, QUOTE, &txn_proof(&offer, none), "INVALID_WORK").await;
    let root = good.work_root();
    let low = (0..).map(Work).find(|it| !it.reaches(&root, faregate::devnet::THRESHOLDS.send));
    let low = StateBlock { work: low, ..good };
    refused_unasked(&rig, QUOTE, &txn_proof(&offer, low), "INVALID_WORK").await;
    // The threshold that counts is the gateway's, not the one in the echo.
    let mut lowered = txn_payload(&offer, low);
    lowered["accepted"]["extra"]["workThreshold"] = "0000000000000000".into();
    lowered["accepted"]["extra"]["work"] = "optional".into();
    refused_unasked(&rig, QUOTE, &encode_header(&lowered), "INVALID_WORK").await;
    let mut emptied = txn_payload(&offer, good);
    emptied["payload"]["block"]["work"] = "".into();
    refused_unasked(&rig, QUOTE, &encode_header(&emptied), "INVALID_WORK").await;
    rig.end().await;
}

#[tokio::test]
async fn the_signature_is_another_keys_or_another_blocks() {
    let (rig, payer) = scene(Plan::default()).await;
    let thief = rig.payer(2, PLENTY);
    let [offer, _] = rig.bill(QUOTE).await;
    let (_, good) = rig.txn(&payer, &offer);
    refused_unasked(&rig, QUOTE, &txn_proof(&offer, good.signed(&thief)), "INVALID_SIGNATURE").await;
    let richer = StateBlock { balance: more(good.balance, ONE), ..good };
    refused_unasked(&rig, QUOTE, &txn_proof(&offer, richer), "INVALID_SIGNATURE").await;
    let voting = StateBlock { representative: Representative(thief.account()), ..good };
    refused_unasked(&rig, QUOTE, &txn_proof(&offer, voting), "INVALID_SIGNATURE").await;
    rig.end().await;
}

#[tokio::test]
async fn the_signature_is_malleated() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (_, good) = rig.txn(&payer, &offer);
    let twin = StateBlock { signature: malleated(good.signature), ..good };
    refused_unasked(&rig, QUOTE, &txn_proof(&offer, twin), "INVALID_SIGNATURE").await;
    rig.end().await;
}

#[tokio::test]
async fn the_blocks_malleated_twin_reaches_the_ledger_first() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, good) = rig.txn(&payer, &offer);
    let twin = StateBlock { signature: malleated(good.signature), ..good };
    rig.devnet.order("process", InjectedFault::Drop, Times::Always);
    let overtake = async {
        rig.devnet.faults().called("process", 1).await;
        rig.devnet.process(twin).expect("nodes take S + L");
        rig.devnet.faults().clear();
    };
    let headers = [(PROOF, proof.as_str())];
    let (answer, ()) = tokio::join!(rig.get(QUOTE, &headers), overtake);
    assert_eq!(answer.status(), 200, "one block, whoever signed its bytes: {:?}", answer.text().await);
    refused(&rig, QUOTE, &proof, "DUPLICATE_BLOCK_HASH").await;
    let own = bill_to(&rig, QUOTE, 0, offer.pay_to).await;
    refused(&rig, QUOTE, &txn_proof(&own, good), "DUPLICATE_BLOCK_HASH").await;
    assert_eq!((rig.upstream.seen().len(), received(&rig, offer.pay_to)), (1, offer.amount));
    rig.end().await;
}

#[tokio::test]
async fn the_payer_is_an_account_for_which_anyone_can_sign() {
    let (rig, _) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    // The neutral element: 0·B = R + k·A holds for every message.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut forged = Signature([0; 64]);
    forged.0[..32].copy_from_slice(&neutral);
    let small = Account(neutral);
    let of = |account: Account, previous: u8| {
        with_work(StateBlock {
            account,
            previous: BlockHash([previous; 32]),
            representative: Representative(account),
            balance: PLENTY,
            link: offer.pay_to.0,
            signature: forged,
            work: None,
        })
    };
    let block = of(small, 9);
    assert_eq!(rig.devnet.process(block), Err(BlockRefusal::GapPrevious), "to a node the signature is good");
    refused_unasked(&rig, QUOTE, &txn_proof(&offer, block), "INVALID_SIGNATURE").await;
    // The burn account's key has order 4: one message in four.
    let burn = (1..=255)
        .map(|it| of(Account::BURN, it))
        .find(|block| rig.devnet.process(*block) == Err(BlockRefusal::OpensBurnAccount));
    let burn = burn.expect("a message for which the forgery holds");
    refused_unasked(&rig, QUOTE, &txn_proof(&offer, burn), "INVALID_SIGNATURE").await;
    rig.end().await;
}

#[tokio::test]
async fn a_receive_a_change_or_an_open_block_is_handed_in() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (previous, held) = (frontier(&rig, &payer), balance(&rig, &payer));
    // As the ledger has them, their links are no address of the pool.
    let source = rig.devnet.fund(payer.account(), offer.amount).unwrap();
    let receive = block(&payer, previous, more(held, offer.amount), source.0);
    let change = block(&payer, previous, held, [0; 32]);
    let stranger = faregate::nano::Seed::from_bytes([3; 32]).key(0);
    let open = block(&stranger, BlockHash::ZERO, offer.amount, source.0);
    for other in [receive, change, open] {
        refused_unasked(&rig, QUOTE, &txn_proof(&offer, other), "WRONG_DESTINATION").await;
    }
    // With the right link they move nothing to it.
    for balance in [held, more(held, offer.amount)] {
        let up = block(&payer, previous, balance, offer.pay_to.0);
        refused(&rig, QUOTE, &txn_proof(&offer, up), "INSUFFICIENT_AMOUNT").await;
    }
    for key in [&stranger, &payer] {
        let open = block(key, BlockHash::ZERO, Raw::ZERO, offer.pay_to.0);
        refused(&rig, QUOTE, &txn_proof(&offer, open), "STALE_FRONTIER").await;
    }
    assert_eq!(received(&rig, offer.pay_to), Raw::ZERO);
    rig.end().await;
}

#[tokio::test]
async fn a_fork_wins_after_process_has_returned_a_hash() {
    let (rig, payer) = scene(unhurried()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, sent) = rig.txn(&payer, &offer);
    let rival = rig.devnet.send_block(&payer, payer.account(), offer.amount).unwrap();
    pending(&rig, QUOTE, &proof, "settlement_pending").await;
    rig.has_broadcast(sent.hash()).await;
    assert_eq!(received(&rig, offer.pay_to), offer.amount, "the node took the block");
    rig.devnet.fork(rival).unwrap();
    assert!(
        rig.devnet.lattice().entry(sent.hash()).is_none() && rig.devnet.lattice().is_confirmed(rival.hash())
    );
    let has_failed = || async { journal(&rig, sent.hash()).await == Some(PaymentState::Failed) };
    eventually("the payment fails", has_failed).await;
    let answer = rig.ask_until_decided(QUOTE, &proof).await;
    assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (402, "FRONTIER_CHANGED"));
    assert_eq!((rig.upstream.seen().len(), received(&rig, offer.pay_to)), (0, Raw::ZERO));
    assert_eq!(journal(&rig, sent.hash()).await, Some(PaymentState::Failed));
    rig.end().await;
}

#[tokio::test]
async fn a_node_refuses_the_broadcast() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, sent) = rig.txn(&payer, &offer);
    rig.devnet.order(
        "process",
        InjectedFault::Refuse("Block work is less than threshold".to_owned()),
        Times::ONCE,
    );
    let answer = rig.get(QUOTE, &[(PROOF, &proof)]).await;
    assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (402, "BROADCAST_FAILED"));
    assert_eq!((rig.upstream.seen().len(), received(&rig, offer.pay_to)), (0, Raw::ZERO));
    assert_eq!(journal(&rig, sent.hash()).await, Some(PaymentState::Parked), "anyone may still publish it");
    served(&rig, QUOTE, &proof).await;
    rig.end().await;
}

#[tokio::test]
async fn a_broadcast_is_refused_for_a_gap_and_the_block_is_applied_later() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, sent) = rig.txn(&payer, &offer);
    // A node that is behind: an error of `process` is no proof that the payment will not happen.
    rig.devnet.order("process", InjectedFault::Refuse("Gap previous block".to_owned()), Times::ONCE);
    let answer = rig.get(QUOTE, &[(PROOF, &proof)]).await;
    assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (402, "BROADCAST_FAILED"));
    assert_eq!(journal(&rig, sent.hash()).await, Some(PaymentState::Parked));
    rig.devnet.process(sent).unwrap();
    let own = bill_to(&rig, QUOTE, 0, offer.pay_to).await;
    refused(&rig, QUOTE, &txn_proof(&own, sent), "DUPLICATE_BLOCK_HASH").await;
    served(&rig, QUOTE, &proof).await;
    assert_eq!(received(&rig, offer.pay_to), offer.amount, "paid once");
    rig.end().await;
}

/// A node refuses what another has taken already: what the ledger shows counts.
#[tokio::test]
async fn a_broadcast_is_refused_for_a_block_that_is_confirmed() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, sent) = rig.txn(&payer, &offer);
    // As before the block, so that it is broadcast.
    rig.devnet.order("account_info", InjectedFault::Stale, Times::Always);
    rig.devnet.process(sent).unwrap();
    assert!(rig.devnet.lattice().is_confirmed(sent.hash()));
    rig.devnet.order("process", InjectedFault::Refuse("Gap previous block".to_owned()), Times::Always);
    let before = rig.effects().broadcast;
    served(&rig, QUOTE, &proof).await;
    assert_eq!(rig.effects().broadcast, before + 1, "it is not broadcast again");
    rig.end().await;
}

#[tokio::test]
async fn a_broadcast_is_refused_for_a_block_that_waits_for_its_confirmation() {
    let (rig, payer) = scene(unhurried()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, sent) = rig.txn(&payer, &offer);
    rig.devnet.order("account_info", InjectedFault::Stale, Times::Always);
    rig.devnet.process(sent).unwrap();
    rig.devnet.order("process", InjectedFault::Refuse("Gap previous block".to_owned()), Times::ONCE);
    let refused = rig.devnet.faults().calls("process") + 1;
    pending(&rig, QUOTE, &proof, "settlement_pending").await;
    eventually("it is refused", async || rig.devnet.faults().calls("process") >= refused).await;
    assert_eq!(journal(&rig, sent.hash()).await, Some(PaymentState::Intent), "it is waited for");
    rig.confirm(sent.hash()).await;
    assert_eq!(rig.ask_until_decided(QUOTE, &proof).await.status(), 200);
    rig.end().await;
}

#[tokio::test]
async fn the_answer_to_process_is_lost() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, sent) = rig.txn(&payer, &offer);
    rig.devnet.order("process", InjectedFault::LoseAnswer, Times::Always);
    served(&rig, QUOTE, &proof).await;
    assert!(rig.devnet.lattice().is_confirmed(sent.hash()));
    rig.end().await;
}

#[tokio::test]
async fn a_node_makes_the_payer_richer_than_it_is() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    // Moves one raw; by the balance that the node tells it moves the price.
    let sent = rig.devnet.send_block(&payer, offer.pay_to, ONE).unwrap();
    rig.devnet.order(
        "account_info",
        InjectedFault::Lie(Lie::Balance(more(sent.balance, offer.amount))),
        Times::Always,
    );
    let answer = rig.get(QUOTE, &[(PROOF, &txn_proof(&offer, sent))]).await;
    assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (402, "INSUFFICIENT_AMOUNT"));
    assert_eq!((rig.upstream.seen().len(), received(&rig, offer.pay_to)), (0, ONE));
    assert_eq!(journal(&rig, sent.hash()).await, Some(PaymentState::Parked), "for an operator to look at");
    rig.devnet.faults().clear();
    // The block is on the ledger for good, and does not become a payment by coming again.
    let again = rig.get(QUOTE, &[(PROOF, &txn_proof(&offer, sent))]).await;
    assert_eq!((again.status().as_u16(), error(again).await.as_str()), (402, "INSUFFICIENT_AMOUNT"));
    assert_eq!((rig.upstream.seen().len(), received(&rig, offer.pay_to)), (0, ONE));
    rig.end().await;
}

#[tokio::test]
async fn a_node_shows_another_block_in_the_payments_place() {
    let (rig, payer) = scene(unhurried()).await;
    let good = rig.devnet.fund(payer.account(), ONE).unwrap();
    let good = rig.devnet.lattice().entry(good).unwrap().block;
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, sent) = rig.txn(&payer, &offer);
    for action in ["block_info", "blocks_info"] {
        rig.devnet.order(action, InjectedFault::Lie(Lie::Contents(Box::new(good))), Times::Always);
        rig.devnet.order(action, InjectedFault::Lie(Lie::Confirmed), Times::Always);
    }
    pending(&rig, QUOTE, &proof, "settlement_pending").await;
    noted(&rig, sent.hash()).await;
    rig.has_broadcast(sent.hash()).await;
    rig.devnet.faults().clear();
    rig.confirm(sent.hash()).await;
    assert_eq!(rig.ask_until_decided(QUOTE, &proof).await.status(), 200);
    rig.end().await;
}

#[tokio::test]
async fn no_node_answers_while_a_proof_is_handed_in() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, sent) = rig.txn(&payer, &offer);
    rig.devnet.order("account_info", InjectedFault::ServerError, Times::Always);
    pending(&rig, QUOTE, &proof, "no_node").await;
    assert_eq!((journal(&rig, sent.hash()).await, balance(&rig, &payer)), (None, PLENTY));
    rig.devnet.faults().clear();
    assert_eq!(rig.ask_until_decided(QUOTE, &proof).await.status(), 200);
    rig.end().await;
}

/// What is wrong, and how it is made so.
type Row<'a> = (&'a str, &'a dyn Fn(&mut Value));

#[tokio::test]
async fn the_envelope_is_not_one() {
    let rig = Rig::start().await;
    let [offer, _] = rig.bill(QUOTE).await;
    let payer = rig.payer(1, PLENTY);
    let (_, good) = rig.txn(&payer, &offer);
    let good = txn_payload(&offer, good);
    let change = |change: &dyn Fn(&mut Value)| {
        let mut json = good.clone();
        change(&mut json);
        encode_header(&json)
    };
    let malformed: [Row<'_>; 8] = [
        ("the version is 1", &|it| it["x402Version"] = 1.into()),
        ("the payload is empty", &|it| it["payload"] = json!({})),
        ("the block is a text", &|it| it["payload"]["block"] = "{}".into()),
        ("the block is of another type", &|it| it["payload"]["block"]["type"] = "send".into()),
        ("the balance is a number", &|it| it["payload"]["block"]["balance"] = 5.into()),
        ("the balance has a sign", &|it| it["payload"]["block"]["balance"] = "+5".into()),
        ("the link is short", &|it| it["payload"]["block"]["link"] = "00".into()),
        ("the account has a typo", &|it| {
            it["payload"]["block"]["account"] = format!("{}1", &payer.account().to_string()[..64]).into();
        }),
    ];
    for (what, with) in malformed {
        row_is_refused_unasked(&rig, what, &change(with), "MALFORMED_PAYLOAD").await;
    }
    let before = Footprint::of(&rig);
    for unreadable in ["", "%", "bm8=", "W10=", &"A".repeat(20_000)] {
        let answer = rig.get(QUOTE, &[(PROOF, unreadable)]).await;
        assert_eq!(answer.status(), 400, "{:.20}", unreadable);
    }
    assert_eq!(Footprint::of(&rig), before);
    let again = rig.get(QUOTE, &[]).await;
    assert_eq!(header(&again, "cache-control"), "no-store");
    assert_eq!(offers(&again).offers.len(), 2);
    rig.end().await;
}
