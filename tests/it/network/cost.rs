//! What a payment costs: time from the proof to the answer, and calls to the node.

use std::time::Duration;

use faregate::clock::Stopwatch;
use faregate::devnet::{DevnetOptions, InjectedFault, Times};
use faregate::ledger::Ledger;
use faregate::x402::{PaymentProof, encode_header};

use crate::rig::{PLENTY, Plan, Rig, signature};

/// The network's usual time.
const CONFIRMED_AFTER: Duration = Duration::from_millis(350);

const PAYMENTS: usize = 15;

const QUOTE: &str = "/v1/quote/XNO";

/// The calls of a payment. Other calls are made anyway.
const ACTIONS: [&str; 6] =
    ["account_info", "accounts_frontiers", "block_info", "blocks_info", "process", "work_generate"];

async fn measure(websocket: bool, by_signature: bool) {
    let devnet = DevnetOptions {
        websocket: websocket.then(|| "127.0.0.1:0".parse().unwrap()),
        confirm_after: CONFIRMED_AFTER,
        ..DevnetOptions::default()
    };
    let rig = Rig::with(Plan { devnet, ..Plan::default() }).await;
    let calls = || ACTIONS.map(|action| rig.devnet.faults().calls(action)).iter().sum::<u64>();
    let mut took = Vec::new();
    let mut asked = 0;
    for payer in 0..PAYMENTS {
        let key = rig.payer(u32::try_from(payer).unwrap(), PLENTY);
        let bill = rig.bill(QUOTE).await;
        let offer = &bill[usize::from(by_signature)];
        let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
        let proof = if by_signature {
            signature(&key, &block, offer)
        } else {
            encode_header(&offer.answer(&PaymentProof::NanoTxn { block }))
        };
        let before = calls();
        let watch = Stopwatch::start();
        if by_signature {
            rig.devnet.process(block).unwrap();
        }
        let answer = rig.get(QUOTE, &[("PAYMENT-SIGNATURE", &proof)]).await;
        took.push(watch.elapsed());
        assert_eq!(answer.status(), 200);
        asked += calls() - before;
    }
    took.sort();
    let (hears, mechanism) = (
        if websocket { "WebSocket" } else { "polling" },
        if by_signature { "nanoSignature" } else { "nanoTxn" },
    );
    assert!(took[0] >= CONFIRMED_AFTER);
    #[expect(clippy::print_stdout, reason = "the figures are what it is run for")]
    {
        println!(
            "{hears:<9} {mechanism:<13} {:>4} ms (median of {PAYMENTS}), {asked} calls to the node for all of them",
            took[PAYMENTS / 2].as_millis()
        );
    }
    rig.end().await;
}

/// `cargo test --test it -- --ignored what_a_payment_costs --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of some twenty seconds"]
async fn what_a_payment_costs() {
    for websocket in [true, false] {
        for by_signature in [false, true] {
            measure(websocket, by_signature).await;
        }
    }
}

/// Payments one after the other over two nodes, the first of which is late for some look-ups.
async fn with_late_look_ups(every: usize) {
    let net = super::Net::start(super::Plan { nodes: 2, ..super::Plan::default() }).await;
    let mut took = Vec::new();
    for number in 0..200 {
        let block = net.send(u32::try_from(number).unwrap() + 1);
        if number % every == every / 2 {
            let late = InjectedFault::Delay(Duration::from_secs(1));
            net.node(0).order("account_info", late, Times::ONCE);
        }
        let watch = Stopwatch::start();
        net.ledger.account_at(block.account, block.previous).await.unwrap();
        net.ledger.publish_send(&block).await.unwrap();
        assert!(net.confirmed(block.hash(), super::WAIT).await);
        took.push(watch.elapsed());
    }
    took.sort();
    #[expect(clippy::print_stdout, reason = "the figures are what it is run for")]
    {
        let (median, p99) = (took[took.len() / 2].as_millis(), took[took.len() * 99 / 100].as_millis());
        println!("one look-up of {every} is 1 s late: a payment takes {median} ms (median), {p99} ms (p99)");
    }
}

/// What a second call beside a slow one saves:
/// `cargo test --test it -- --ignored what_late_look_ups_cost --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of some twenty seconds"]
async fn what_late_look_ups_cost() {
    for every in [50, 10] {
        with_late_look_ups(every).await;
    }
}
