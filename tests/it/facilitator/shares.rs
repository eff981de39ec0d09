//! What one caller of the facilitator may take, and what it leaves to the others.

use serde_json::{Value, json};

use super::{Desk, PRICE, REPORT, call, decoded, is_settled};
use crate::attacks::unhurried;
use crate::metrics::sample;
use crate::patience::eventually;
use crate::rig::{PLENTY, Plan, signature};

/// Two callers behind a trusted proxy, and a third that has the first's network.
const ONE: &str = "2001:db8:1:2::1";
const OTHER: &str = "192.0.2.2";
const OF_ONE: &str = "2001:db8:1:2:ffff::9";

async fn open(plan: Plan, limits: &str) -> Desk {
    let listen = Some("trusted_proxies: [127.0.0.1]");
    Desk::guarded(Plan { listen, ..plan }, &format!(", per_caller: {{ {limits} }}")).await
}

impl Desk {
    /// The status and the body of a call that a proxy passes on for `caller`.
    async fn post_for(&self, caller: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = self.rig.http.post(format!("{}{path}", self.url)).json(body);
        let answer = request.header("X-Forwarded-For", caller).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    fn reached(&self, limit: &str) -> f64 {
        sample(&self.rig, &format!("limits_reached_total{{limit=\"{limit}\"}}"))
    }
}

/// Before: calls counted for nobody, so that one caller's bogus payments had nodes asked without end.
#[tokio::test]
async fn one_callers_bogus_payments_leave_the_look_ups_of_others() {
    let desk = open(Plan::default(), "lookups: 3").await;
    let key = desk.rig.payer(1, PLENTY);
    let bill = desk.bill(REPORT, PRICE).await;
    let [_, offer] = &bill.offers;
    // Signed for a block that is on no ledger.
    let made_up = desk.rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    let bogus = call(&bill.entries[1], &decoded(&signature(&key, &made_up, offer)));
    for path in ["/verify", "/settle", "/verify"] {
        let (_, answer) = desk.post_for(ONE, path, &bogus).await;
        assert!(answer.to_string().contains("BLOCK_NOT_FOUND"), "{path}: {answer}");
    }
    let asked = desk.rig.devnet.faults().calls("block_info");
    for (caller, path) in [(ONE, "/verify"), (OF_ONE, "/settle"), (OF_ONE, "/verify")] {
        assert_eq!(desk.post_for(caller, path, &bogus).await.0, 503, "{path}");
    }
    assert_eq!(desk.rig.devnet.faults().calls("block_info"), asked, "nothing is asked for it any more");
    assert_eq!(desk.reached("per_caller.lookups"), 3.0);
    let (good, block) = desk.signed(&key, &bill);
    let (status, verified) = desk.post_for(OTHER, "/verify", &good).await;
    assert_eq!((status, &verified["isValid"]), (200, &json!(true)), "{verified}");
    eventually("it is settled", async || is_settled(&desk.post_for(OTHER, "/settle", &good).await.1, &block))
        .await;
    desk.end().await;
}

#[tokio::test]
async fn one_callers_settlements_leave_room_for_those_of_others() {
    let desk = open(unhurried(), "settlements: 1").await;
    let pending = |answer: &Value| answer["errorReason"] == "settlement_pending";
    let (mut calls, mut blocks) = (Vec::new(), Vec::new());
    for payer in 1..=3 {
        let key = desk.rig.payer(payer, PLENTY);
        let (call, block) = desk.txn(&key, &desk.bill(REPORT, PRICE).await);
        calls.push(call);
        blocks.push(block);
    }
    let (status, first) = desk.post_for(ONE, "/settle", &calls[0]).await;
    assert!(status == 200 && pending(&first), "{first}");
    assert_eq!(desk.post_for(OF_ONE, "/settle", &calls[1]).await.0, 503, "its share is under way");
    assert_eq!(desk.reached("per_caller.settlements"), 1.0);
    let (status, other) = desk.post_for(OTHER, "/settle", &calls[2]).await;
    assert!(status == 200 && pending(&other), "{other}");
    for block in [&blocks[0], &blocks[2]] {
        desk.confirm(block.hash()).await;
    }
    assert!(is_settled(&desk.settle_until_decided(&calls[0]).await, &blocks[0]));
    desk.end().await;
}
