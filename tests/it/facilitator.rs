//! The facilitator as a resource server sees it: challenges, verification, settlement, and what must be
//! refused. The tests look into the ledger and the journal for what really happened.

mod bodies;
mod door;
mod invalid;
mod killed;
mod once;
mod shares;

use std::sync::Arc;

use faregate::listen;
use faregate::nano::{BlockHash, Raw, SecretKey, StateBlock};
use faregate::store::PaymentState;
use faregate::x402::{NanoOffer, NanoOffers, PaymentProof, decode_header};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::attacks::{balance, journal, received};
use crate::patience::wait_for;
use crate::rig::{Ending, PLENTY, Plan, Rig, signature};

/// What the resource server sells.
const REPORT: &str = "https://shop.example/report";
const PRICE: &str = "0.0001 XNO";

/// A gateway with its facilitator on a port of its own.
struct Desk {
    rig: Rig,
    url: String,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
}

/// A bill: the entries that the resource server sends along, and the offers that a payer reads in them.
struct Bill {
    entries: [Value; 2],
    offers: [NanoOffer; 2],
}

impl Desk {
    async fn open(plan: Plan) -> Self {
        Self::guarded(plan, "").await
    }

    /// As [`Desk::open`], with more in the `facilitator` section.
    async fn guarded(mut plan: Plan, more: &str) -> Self {
        plan.more = format!("{}\nfacilitator: {{ listen: \"127.0.0.1:4402\"{more} }}", plan.more);
        Self::on(Rig::with(plan).await).await
    }

    async fn on(rig: Rig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, shutdown) = watch::channel(false);
        let facilitator = Arc::new(rig.services.facilitator().expect("configured"));
        let served = tokio::spawn(listen::serve(listener, facilitator, shutdown));
        Self { rig, url, stop, served }
    }

    async fn restart(self, how: Ending) -> Self {
        let Self { rig, served, stop, .. } = self;
        match how {
            Ending::Orderly => {
                stop.send_replace(true);
                served.await.unwrap();
            }
            Ending::Abrupt => served.abort(),
        }
        Self::on(rig.restart(how).await).await
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.served.await.unwrap();
        self.rig.end().await;
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer = self.rig.http.post(format!("{}{path}", self.url)).json(body).send().await.unwrap();
        assert_eq!(answer.headers()["cache-control"], "no-store");
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// The answer to a call, which must have status 200.
    async fn ok(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.post(path, body).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    async fn bill(&self, resource: &str, price: &str) -> Bill {
        Bill::of(&self.ok("/requirements", &json!({ "resource": { "url": resource }, "price": price })).await)
    }

    /// The call about a `nanoTxn` payment of the bill by `key`, and its block.
    fn txn(&self, key: &SecretKey, bill: &Bill) -> (Value, StateBlock) {
        let [offer, _] = &bill.offers;
        let block = self.rig.devnet.send_block(key, offer.pay_to, offer.amount).unwrap();
        (call(&bill.entries[0], &offer.answer(&PaymentProof::NanoTxn { block })), block)
    }

    /// The call about a `nanoSignature` payment of the bill by `key`, whose block is sent here.
    fn signed(&self, key: &SecretKey, bill: &Bill) -> (Value, StateBlock) {
        let [_, offer] = &bill.offers;
        let block = self.rig.devnet.send_block(key, offer.pay_to, offer.amount).unwrap();
        self.rig.devnet.process(block).unwrap();
        (call(&bill.entries[1], &decoded(&signature(key, &block, offer))), block)
    }

    /// Asserts that `/verify` and `/settle` both refuse the call with `code`, and that no block is
    /// broadcast for it.
    async fn refused(&self, call: &Value, code: &str) {
        let broadcast = self.rig.devnet.faults().calls("process");
        let verified = self.ok("/verify", call).await;
        assert_eq!((&verified["isValid"], &verified["invalidReason"]), (&json!(false), &json!(code)));
        assert!(verified["invalidMessage"].as_str().is_some_and(|it| it.len() > 10), "{verified}");
        let settled = self.ok("/settle", call).await;
        assert_eq!((&settled["success"], &settled["errorReason"]), (&json!(false), &json!(code)));
        assert_eq!(settled["network"], "nano:mainnet");
        assert!(settled["transaction"].is_string(), "{settled}");
        assert_eq!(self.rig.devnet.faults().calls("process"), broadcast, "{code}: a block was broadcast");
    }

    /// Confirms a block once the ledger has it.
    async fn confirm(&self, block: BlockHash) {
        self.rig.confirm(block).await;
    }

    /// Settles until the answer is no longer "pending".
    async fn settle_until_decided(&self, call: &Value) -> Value {
        let pending = "settlement_pending";
        let decided = async || Some(self.ok("/settle", call).await).filter(|it| it["errorReason"] != pending);
        wait_for("a decision about the payment", decided).await
    }
}

impl Bill {
    fn of(json: &Value) -> Self {
        let entries = json["accepts"].as_array().unwrap().clone().try_into().expect("two entries");
        Self { entries, offers: NanoOffers::read(json).unwrap().offers.try_into().expect("two offers") }
    }
}

fn call(requirements: &Value, payload: &Value) -> Value {
    json!({ "x402Version": 2, "paymentPayload": payload, "paymentRequirements": requirements })
}

fn decoded(header: &str) -> Value {
    Value::Object(decode_header(header).unwrap())
}

fn is_settled(answer: &Value, block: &StateBlock) -> bool {
    answer["success"] == true && answer["transaction"] == block.hash().lower_hex()
}

/// A desk, and a payer with plenty of money.
async fn scene(plan: Plan) -> (Desk, SecretKey) {
    let desk = Desk::open(plan).await;
    let key = desk.rig.payer(1, PLENTY);
    (desk, key)
}

#[tokio::test]
async fn a_payment_is_verified_then_settled_by_each_mechanism() {
    let (desk, key) = scene(Plan::default()).await;
    let bill = desk.bill(REPORT, PRICE).await;
    let price = bill.offers[0].amount;
    for by_signature in [false, true] {
        let (call, block) = if by_signature { desk.signed(&key, &bill) } else { desk.txn(&key, &bill) };
        let before = (desk.rig.devnet.faults().calls("process"), balance(&desk.rig, &key));
        for _ in 0..2 {
            let verified = desk.ok("/verify", &call).await;
            assert_eq!(verified, json!({ "isValid": true, "payer": key.account().to_string() }));
        }
        assert_eq!((desk.rig.devnet.faults().calls("process"), balance(&desk.rig, &key)), before);
        assert_eq!(journal(&desk.rig, block.hash()).await, None, "verifying leaves no trace");
        let settled = desk.ok("/settle", &call).await;
        assert!(is_settled(&settled, &block), "{settled}");
        assert_eq!(settled["payer"], key.account().to_string());
        assert_eq!(settled["network"], "nano:mainnet");
        assert_eq!(settled["amount"], price.to_string());
        assert!(desk.rig.devnet.lattice().is_confirmed(block.hash()));
        assert_eq!(journal(&desk.rig, block.hash()).await, Some(PaymentState::Granted));
        desk.refused(&call, "DUPLICATE_BLOCK_HASH").await;
    }
    assert_eq!(received(&desk.rig, bill.offers[0].pay_to), price);
    let metrics = desk.rig.services.metrics().text().unwrap();
    for line in [
        "faregate_facilitator_requests_total{endpoint=\"settle\",outcome=\"settled\"} 2",
        "faregate_facilitator_requests_total{endpoint=\"verify\",outcome=\"valid\"} 4",
        "faregate_payments_settled_total{mechanism=\"nanoTxn\",route=\"foreign:\"} 1",
        "faregate_capability_uses_total{result=\"committed\",route=\"foreign:\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    desk.end().await;
}

/// A middleware makes its requirements again for the request with the payment, and compares all fields
/// that do not differ between challenges.
#[tokio::test]
async fn a_bill_that_is_made_anew_differs_in_the_challenge_alone_and_settles_the_old_one() {
    let (desk, key) = scene(Plan::default()).await;
    let (old, new) = (desk.bill(REPORT, PRICE).await, desk.bill(REPORT, PRICE).await);
    for (old, new) in old.entries.iter().zip(&new.entries) {
        let [mut old, mut new] = [old.clone(), new.clone()];
        assert_ne!(old["extra"], new["extra"]);
        for entry in [&mut old, &mut new] {
            let extra = entry["extra"].as_object_mut().unwrap();
            let _differing = ["challenge", "nonce", "validBefore"].map(|it| extra.remove(it));
        }
        assert_eq!(old, new);
    }
    // Faremeter sends the first entry along, whichever entry was paid.
    let (mut txn, block) = desk.txn(&key, &old);
    txn["paymentRequirements"] = new.entries[0].clone();
    assert!(is_settled(&desk.ok("/settle", &txn).await, &block));
    let (mut signed, block) = desk.signed(&key, &old);
    signed["paymentRequirements"] = new.entries[0].clone();
    assert!(is_settled(&desk.ok("/settle", &signed).await, &block));
    desk.end().await;
}

#[tokio::test]
async fn what_is_supported_is_told() {
    let desk = Desk::open(Plan::default()).await;
    let answer = desk.rig.http.get(format!("{}/supported", desk.url)).send().await.unwrap();
    let supported: Value = answer.json().await.unwrap();
    assert_eq!(
        supported,
        json!({
            "kinds": [{
                "x402Version": 2, "scheme": "exact", "network": "nano:mainnet",
                "extra": { "asset": "XNO", "mechanisms": ["nanoTxn", "nanoSignature"] },
            }],
            "extensions": [],
            "signers": {},
        })
    );
    desk.end().await;
}

#[tokio::test]
async fn a_bill_says_what_was_ordered() {
    let desk = Desk::open(Plan::default()).await;
    let order = json!({
        "resource": { "url": REPORT, "description": "A report", "mimeType": "text/plain" },
        "amount": "12345", "mechanisms": ["nanoSignature"], "maxTimeoutSeconds": 300,
    });
    let bill = desk.ok("/requirements", &order).await;
    assert_eq!((&bill["x402Version"], &bill["resource"]), (&json!(2), &order["resource"]));
    let [entry] = &bill["accepts"].as_array().unwrap()[..] else { panic!("{bill}") };
    assert_eq!((&entry["amount"], &entry["maxTimeoutSeconds"]), (&json!("12345"), &json!(300)));
    assert_eq!(entry["extra"]["mechanism"], "nanoSignature");
    assert_eq!(entry["extra"]["route"], format!("foreign:{REPORT}"));
    assert_eq!(entry["extra"]["grants"]["requests"], 1);
    assert_eq!(entry["extra"]["grants"]["seconds"], 86_400, "a settled payment is told again for a day");
    assert_eq!(desk.bill(REPORT, PRICE).await.offers[0].amount, Raw::with_unit(PRICE).unwrap());
    desk.end().await;
}

#[tokio::test]
async fn faremeters_entries_are_filled_in() {
    let (desk, key) = scene(Plan::default()).await;
    let ask = json!({
        "x402Version": 2,
        "resource": { "url": REPORT },
        "accepts": [
            { "scheme": "exact", "network": "nano:mainnet", "asset": "XNO", "amount": "777", "payTo": "", "maxTimeoutSeconds": 0 },
            { "scheme": "exact", "network": "eip155:8453", "asset": "0x1", "amount": "9", "payTo": "0x2" },
        ],
    });
    let bill = desk.ok("/accepts", &ask).await;
    assert_eq!((&bill["x402Version"], &bill["resource"]["url"]), (&json!(2), &json!(REPORT)));
    let bill = Bill::of(&bill);
    assert_eq!(bill.offers[0].amount, Raw::new(777));
    let (mut txn, block) = desk.txn(&key, &bill);
    // Its middleware sends no version outside the payload.
    txn.as_object_mut().unwrap().remove("x402Version");
    assert!(is_settled(&desk.ok("/settle", &txn).await, &block));
    desk.end().await;
}

#[tokio::test]
async fn a_session_is_for_those_who_name_it_and_is_held_to_its_tag() {
    let plan = Plan { mechanisms: Some("[nanoTxn, nanoSignature, nanoSession]"), ..Plan::default() };
    let (desk, key) = scene(plan).await;
    let usual = desk.bill(REPORT, PRICE).await;
    let named: Vec<_> = usual.entries.iter().map(|it| it["extra"]["mechanism"].as_str().unwrap()).collect();
    assert_eq!(named, ["nanoTxn", "nanoSignature"]);
    let order = json!({ "resource": { "url": REPORT }, "price": PRICE, "mechanisms": ["nanoSession"] });
    let bill = desk.ok("/requirements", &order).await;
    let entry = &bill["accepts"][0];
    let offer = NanoOffers::read(&bill).unwrap().offers.remove(0);
    assert!(offer.amount > usual.offers[0].amount, "the tag comes on top");
    let pay = |amount| {
        let block = desk.rig.devnet.send_block(&key, offer.pay_to, amount).unwrap();
        desk.rig.devnet.process(block).unwrap();
        (call(entry, &offer.answer(&PaymentProof::NanoSession { block_hash: block.hash() })), block)
    };
    let (short, _) = pay(usual.offers[0].amount);
    desk.refused(&short, "INSUFFICIENT_AMOUNT").await;
    let (exact, block) = pay(offer.amount);
    let verified = desk.ok("/verify", &exact).await;
    assert_eq!(verified, json!({ "isValid": true, "payer": key.account().to_string() }));
    let settled = desk.settle_until_decided(&exact).await;
    assert!(is_settled(&settled, &block), "{settled}");
    assert_eq!(settled["amount"], offer.amount.to_string());
    desk.refused(&exact, "DUPLICATE_BLOCK_HASH").await;
    desk.end().await;
}
