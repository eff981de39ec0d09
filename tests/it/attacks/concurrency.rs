//! Attacks by being many: copies of one proof, many proofs, two gateways.

use std::sync::Arc;

use faregate::assemble;
use faregate::clock::Clock;
use faregate::listen;
use faregate::nano::{Raw, Seed};
use futures_util::future::join_all;
use pingora::server::configuration::ServerConf;
use reqwest::Response;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{PROOF, QUOTE, received, scene};
use crate::patience::soon;
use crate::rig::{Effects, PLENTY, Plan, ROUTES, error, signature};

/// Asserts that one answer is the resource and that each other says why it is not.
async fn one_is_served(answers: Vec<Response>) {
    let mut served = 0;
    for answer in answers {
        match answer.status().as_u16() {
            200 => served += 1,
            402 => assert_eq!(error(answer).await, "DUPLICATE_BLOCK_HASH"),
            503 => {
                let why = error(answer).await;
                assert!(["settlement_pending", "uses_under_way"].contains(&why.as_str()), "{why}");
            }
            other => panic!("{other}: {}", answer.text().await.unwrap()),
        }
    }
    assert_eq!(served, 1);
}

#[tokio::test]
async fn fifty_copies_of_one_signed_block() {
    let (rig, payer) = scene(Plan::default()).await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, _) = rig.txn(&payer, &offer);
    let headers = [(PROOF, proof.as_str())];
    one_is_served(join_all((0..50).map(|_| rig.get(QUOTE, &headers))).await).await;
    assert_eq!(rig.effects(), Effects { forwarded: 1, broadcast: 1 });
    assert_eq!(received(&rig, offer.pay_to), offer.amount);
    rig.end().await;
}

#[tokio::test]
async fn fifty_copies_of_one_claim() {
    let (rig, payer) = scene(Plan::default()).await;
    let [_, offer] = rig.bill(QUOTE).await;
    let sent = rig.devnet.send_block(&payer, offer.pay_to, offer.amount).unwrap();
    rig.devnet.process(sent).unwrap();
    let proof = signature(&payer, &sent, &offer);
    let headers = [(PROOF, proof.as_str())];
    one_is_served(join_all((0..50).map(|_| rig.get(QUOTE, &headers))).await).await;
    assert_eq!(rig.effects(), Effects { forwarded: 1, broadcast: 0 });
    rig.end().await;
}

#[tokio::test]
async fn one_claim_under_fifty_challenges() {
    let (rig, payer) = scene(Plan::default()).await;
    let [_, first] = rig.bill(QUOTE).await;
    let sent = rig.devnet.send_block(&payer, first.pay_to, first.amount).unwrap();
    rig.devnet.process(sent).unwrap();
    let mut proofs = Vec::new();
    while proofs.len() < 20 {
        let [_, offer] = rig.bill(QUOTE).await;
        if offer.pay_to == first.pay_to {
            proofs.push(signature(&payer, &sent, &offer));
        }
    }
    let ask = async |proof: String| rig.get(QUOTE, &[(PROOF, &proof)]).await;
    one_is_served(join_all(proofs.into_iter().map(ask)).await).await;
    assert_eq!(rig.upstream.seen().len(), 1);
    rig.end().await;
}

#[tokio::test]
async fn fifty_payments_of_fifty_payers() {
    let (rig, _) = scene(Plan::default()).await;
    let mut proofs = Vec::new();
    for index in 0..50 {
        let [offer, _] = rig.bill(QUOTE).await;
        let key = Seed::from_bytes([0x5a; 32]).key(100 + index);
        rig.payer(100 + index, Raw::new(offer.amount.get()));
        proofs.push(rig.txn(&key, &offer).0);
    }
    let ask = async |proof: String| rig.get(QUOTE, &[(PROOF, &proof)]).await.status().as_u16();
    let statuses = join_all(proofs.into_iter().map(ask)).await;
    assert_eq!(statuses, [200; 50]);
    assert_eq!(rig.upstream.seen().len(), 50);
    rig.end().await;
}

#[tokio::test]
async fn one_proof_is_redeemed_at_two_gateways_over_one_store() {
    let (rig, payer) = scene(Plan::default()).await;
    // Another instance with the same key, seed and store.
    let twin = assemble::assemble(rig.config("", ROUTES), Clock::system()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}{QUOTE}", listener.local_addr().unwrap());
    let proxy = pingora::proxy::http_proxy(&Arc::new(ServerConf::default()), twin.gateway());
    let (stop, shutdown) = watch::channel(false);
    let serving = tokio::spawn(listen::serve(listener, Arc::new(proxy), shutdown));

    for round in 0..4 {
        let [offer, upfront] = rig.bill(QUOTE).await;
        let proof = if round % 2 == 0 {
            rig.txn(&payer, &offer).0
        } else {
            let sent = rig.devnet.send_block(&payer, upfront.pay_to, upfront.amount).unwrap();
            rig.devnet.process(sent).unwrap();
            signature(&payer, &sent, &upfront)
        };
        let before = rig.upstream.seen().len();
        let headers = [(PROOF, proof.as_str())];
        let here = join_all((0..4).map(|_| rig.get(QUOTE, &headers)));
        let there = join_all(
            (0..4).map(|_| async { rig.http.get(&url).header(PROOF, &proof).send().await.unwrap() }),
        );
        let (mut answers, more) = tokio::join!(here, there);
        answers.extend(more);
        one_is_served(answers).await;
        assert_eq!(rig.upstream.seen().len(), before + 1);
        let after = rig.ask_until_decided(QUOTE, &proof).await;
        assert_eq!(error(after).await, "DUPLICATE_BLOCK_HASH");
    }
    assert!(PLENTY > rig.devnet.lattice().balance(payer.account()));
    stop.send_replace(true);
    soon("the twin ends", serving).await.unwrap();
    twin.stop().await;
    rig.end().await;
}
