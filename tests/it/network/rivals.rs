//! A payment whose block is not confirmed: a rival on the same frontier, and nodes that lack it.

use std::sync::Arc;
use std::time::Duration;

use faregate::cashier::{Bill, Refused, Verdict};
use faregate::clock::Clock;
use faregate::devnet::{DevnetOptions, InjectedFault, Times};
use faregate::ledger::Ledger;
use faregate::ledger::node::{NodeClient, NodeEndpoint, NodeLedger};
use faregate::nano::{Account, BlockHash, Raw, StateBlock};
use faregate::payment::{Intent, Mechanism, Nonce, Refusal};
use faregate::routes::{Grants, RouteName, Terms};
use faregate::store::{Begin, Claims, PaymentJournal, PaymentState};
use faregate::x402::{PaymentProof, encode_header};
use serde_json::json;

use crate::rig::{PLENTY, Plan, Rig, error};
use crate::scripted::{Reply, Scripted};
use crate::store::overtaken::{ask, sibling};

const QUOTE: &str = "/v1/quote/XNO";

/// Journals what an instance journals that is killed before it broadcasts `block`.
async fn begun(rig: &Rig, block: StateBlock, amount: Raw) {
    let now = Clock::system().now();
    let intent = Intent {
        block: block.hash(),
        signed: Some(block),
        mechanism: Mechanism::NanoTxn,
        challenge: Nonce([7; 32]),
        route: RouteName::new("quote"),
        terms: Terms { amount, grants: Grants::of_requests(1.try_into().unwrap(), 3600) },
        payer: block.account,
        amount,
        pay_to: block.destination(),
        valid_before: now.plus(120),
        exchange: None,
        identified: None,
    };
    assert!(matches!(rig.services.store().begin(&intent, now).await, Ok(Begin::Fresh(_))));
}

/// The ledger as the nodes at these URLs show it.
async fn ledger(nodes: &[&str]) -> NodeLedger {
    let second = Duration::from_secs(1);
    let endpoint = |url: &&str| NodeEndpoint::from_url(url.parse().unwrap(), second).unwrap();
    let ledger = NodeLedger::new(NodeClient::new(nodes.iter().map(endpoint).collect()).unwrap());
    ledger.probe().await;
    assert!(ledger.is_healthy());
    ledger
}

/// A block was refused because the payer had another block on the same frontier, which was not
/// confirmed. If that ends the payment, the payer pays a second time although the first block may
/// still win: only a *confirmed* rival is final.
#[tokio::test]
async fn an_unconfirmed_rival_does_not_end_a_refused_payment() {
    let rig = Rig::start().await;
    let key = rig.payer(1, PLENTY);
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, block) = rig.txn(&key, &offer);
    let rival = rig.devnet.send_block(&key, key.account(), Raw::new(1)).unwrap();
    // The node shows the account as it was before the rival, so that the payment is broadcast.
    rig.devnet.order("account_info", InjectedFault::Stale, Times::Always);
    rig.devnet.lattice().hold(rival.hash());
    rig.devnet.process(rival).unwrap();
    let refused = rig.get(QUOTE, &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!((refused.status().as_u16(), error(refused).await.as_str()), (402, "BROADCAST_FAILED"));
    let journalled = rig.services.store().payment(block.hash()).await.unwrap().unwrap();
    assert_eq!(journalled.state, PaymentState::Parked, "anyone may still publish the block");
    // The rival loses, and the same proof redeems the block that was paid with.
    rig.devnet.fork(block).unwrap();
    assert_eq!(rig.get(QUOTE, &[("PAYMENT-SIGNATURE", &proof)]).await.status(), 200);
    rig.end().await;
}

/// A public RPC service has errors of its own, with status 200. They were taken for refusals by the
/// node, so the payer was asked for a second payment although the node had never seen the block.
#[tokio::test]
async fn the_error_of_a_proxy_before_the_node_does_not_end_a_payment() {
    let rig = Rig::start().await;
    let key = rig.payer(1, PLENTY);
    let [offer, _] = rig.bill(QUOTE).await;
    let (proof, _) = rig.txn(&key, &offer);
    rig.devnet.order("process", InjectedFault::Refuse("Rate limit exceeded".to_owned()), Times::ONCE);
    let served = rig.get(QUOTE, &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!(served.status(), 200, "the next broadcast of the same block succeeded");
    rig.end().await;
}

/// After a restart a payment's block may be on one node only and not confirmed. Recovery sends it to
/// the nodes that lack it; without that it may never be confirmed.
#[tokio::test]
async fn recovery_sends_an_unconfirmed_block_to_a_node_that_lacks_it() {
    let confirm_after = Duration::from_secs(3600);
    let devnet = DevnetOptions { confirm_after, ..DevnetOptions::default() };
    let rig = Rig::with(Plan { devnet, ..Plan::default() }).await;
    let key = rig.payer(1, PLENTY);
    let [offer, _] = rig.bill(QUOTE).await;
    let (_, block) = rig.txn(&key, &offer);
    rig.devnet.process(block).unwrap();
    begun(&rig, block, offer.amount).await;
    let hash = block.hash();
    let lacking = Scripted::start(move |seen| {
        Reply::json(&match seen.action().as_str() {
            "process" => json!({ "hash": hash }),
            "block_count" => json!({ "count": "1", "cemented": "1", "unchecked": "0" }),
            "blocks_info" => json!({ "blocks": "", "blocks_not_found": [hash] }),
            _ => json!({ "error": "Block not found" }),
        })
    })
    .await;
    let restarted = sibling(&rig, ledger(&[&rig.devnet.rpc_url(), lacking.url.as_str()]).await);
    let (stop, shutdown) = tokio::sync::watch::channel(false);
    let recovering = tokio::spawn(async move { restarted.recover(shutdown).await });
    crate::rig::eventually("the block is sent", || async { lacking.calls("process") > 0 }).await;
    let sent = lacking.seen().into_iter().find(|seen| seen.action() == "process").unwrap().json();
    assert_eq!(sent["block"]["previous"].as_str().unwrap().parse(), Ok::<BlockHash, _>(block.previous));
    assert!(rig.devnet.confirm_now(block.hash()));
    crate::rig::eventually("the payment is granted", || async {
        rig.services.store().payment(hash).await.unwrap().unwrap().state == PaymentState::Granted
    })
    .await;
    stop.send_replace(true);
    recovering.await.unwrap();
    rig.end().await;
}

/// What a crash left and no node knows. Its client may have moved on, so it is not broadcast; it ends only if
/// another block is confirmed in its place.
#[tokio::test]
async fn recovery_parks_what_no_node_knows_and_ends_what_was_overtaken() {
    let rig = Rig::start().await;
    let [offer, _] = rig.bill(QUOTE).await;
    let (_, unknown) = rig.txn(&rig.payer(1, PLENTY), &offer);
    let other = rig.payer(2, PLENTY);
    let (_, overtaken) = rig.txn(&other, &offer);
    let elsewhere = rig.devnet.send_block(&other, Account([9; 32]), Raw::new(1)).unwrap();
    rig.devnet.process(elsewhere).unwrap();
    for block in [unknown, overtaken] {
        begun(&rig, block, offer.amount).await;
    }
    let before = rig.effects();
    let restarted = sibling(&rig, ledger(&[&rig.devnet.rpc_url()]).await);
    let (stop, shutdown) = tokio::sync::watch::channel(false);
    let recovering = tokio::spawn(async move { restarted.recover(shutdown).await });
    crate::rig::eventually("both are set aside", async || {
        let mut states = Vec::new();
        for block in [unknown, overtaken] {
            states.push(rig.services.store().payment(block.hash()).await.unwrap().unwrap().state);
        }
        states == [PaymentState::Parked, PaymentState::Failed]
    })
    .await;
    assert_eq!(rig.effects(), before, "nothing is broadcast");
    stop.send_replace(true);
    recovering.await.unwrap();
    rig.end().await;
}

/// A parked payment holds no frontier, also while recovery waits for its block: the ledger decides which of
/// two blocks on it counts.
#[tokio::test]
async fn a_parked_payment_that_recovery_waits_for_keeps_no_other_from_its_frontier() {
    let confirm_after = Duration::from_secs(3600);
    let devnet = DevnetOptions { confirm_after, ..DevnetOptions::default() };
    let rig = Rig::with(Plan { devnet, ..Plan::default() }).await;
    let key = rig.payer(1, PLENTY);
    let [offer, _] = rig.bill("/v1/search/nano").await;
    let (_, parked) = rig.txn(&key, &offer);
    let elsewhere =
        async || Some(rig.bill("/v1/search/nano").await).filter(|[it, _]| it.pay_to != offer.pay_to);
    let [offer, _] = crate::patience::wait_for("a challenge for another address", elsewhere).await;
    let rival = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    let proof = encode_header(&offer.answer(&PaymentProof::NanoTxn { block: rival }));
    begun(&rig, parked, offer.amount).await;
    let store = rig.services.store();
    let now = Clock::system().now();
    assert_eq!(
        store.advance(parked.hash(), &[PaymentState::Intent], PaymentState::Parked, now).await,
        Ok(true)
    );
    // Somebody has published it.
    rig.devnet.process(parked).unwrap();
    let calls = rig.devnet.faults().calls("process");
    let restarted = Arc::new(sibling(&rig, ledger(&[&rig.devnet.rpc_url()]).await));
    let (stop, shutdown) = tokio::sync::watch::channel(false);
    let recovering = Arc::clone(&restarted);
    let recovering = tokio::spawn(async move { recovering.recover(shutdown).await });
    crate::patience::soon("recovery waits", rig.devnet.faults().called("process", calls + 1)).await;
    let verdict = restarted.decide(ask(&proof)).await;
    let Verdict::Bill(Bill { refused: Some(Refused { refusal, .. }), .. }) = &verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!(*refusal, Refusal::StaleFrontier, "the ledger was asked");
    stop.send_replace(true);
    recovering.abort();
    rig.end().await;
}
