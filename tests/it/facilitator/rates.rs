//! Orders in other currencies. A middleware makes its entries again for each request, by the rate of that moment;
//! what a payer owes is what its own bill says.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Bill, Desk, REPORT, call, is_settled};
use crate::rig::{PLENTY, Plan, manual_clock};

/// The entry with another value at `pointer`.
fn changed(entry: &Value, pointer: &str, value: Value) -> Value {
    let mut entry = entry.clone();
    *entry.pointer_mut(pointer).unwrap() = value;
    entry
}

#[tokio::test]
async fn a_price_in_a_currency_is_due_by_the_rate_of_its_own_bill() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("rates.json");
    let (clock, seconds) = manual_clock();
    let now = || seconds.load(std::sync::atomic::Ordering::SeqCst);
    let say = |usd: &str| {
        std::fs::write(&path, json!({ "XNO": { "USD": usd }, "at": now() }).to_string()).unwrap();
    };
    say("0.8");
    let more = format!(
        "challenge: {{ lifetime: 30m }}\nrates: {{ source: {}, every: 10m, currencies: {{ USD: /XNO/USD }}, time: /at }}",
        path.display()
    );
    let plan = Plan { more: more.clone(), clock, ..Plan::default() };
    let routes = plan.routes.clone();
    let desk = Desk::open(plan).await;
    let key = desk.rig.payer(1, PLENTY);
    let xno = |bill: &Bill| bill.offers[0].amount.xno().to_string();
    let low = desk.bill(REPORT, "0.02 USD").await;
    assert_eq!(xno(&low), "0.025 XNO");
    let exchange = json!({ "price": "0.02", "currency": "USD", "rate": "0.8" });
    assert!(low.entries.iter().all(|it| it["extra"]["exchange"] == exchange), "{}", low.entries[0]);
    let cheap = desk.bill(REPORT, "0.019999 USD").await;
    let in_xno = desk.bill(REPORT, "0.025 XNO").await;

    seconds.fetch_add(60, std::sync::atomic::Ordering::SeqCst);
    say("0.64");
    desk.rig.services.reload(&desk.rig.config(&more, &routes)).await.unwrap();
    let high = desk.bill(REPORT, "0.02 USD").await;
    assert_eq!(xno(&high), "0.03125 XNO");
    let (txn, block) = desk.txn(&key, &low);
    let asked = |entry: Value| call(&entry, &txn["paymentPayload"]);
    let entry = &high.entries[0];
    for wrong in [
        changed(entry, "/amount", json!("50000000000000000000000000000")),
        changed(entry, "/extra/exchange/price", json!("0.021")),
        changed(entry, "/extra/exchange/currency", json!("EUR")),
        changed(entry, "/extra/exchange", Value::Null),
    ] {
        desk.refused(&asked(wrong), "INSUFFICIENT_AMOUNT").await;
    }
    let unreadable = changed(entry, "/extra/exchange/rate", json!("-1"));
    desk.refused(&asked(unreadable), "invalid_payment_requirements").await;
    for other in [&cheap, &in_xno] {
        let (mut paid, _) = desk.txn(&key, other);
        paid["paymentRequirements"] = entry.clone();
        desk.refused(&paid, "INSUFFICIENT_AMOUNT").await;
    }
    let verified = desk.ok("/verify", &asked(entry.clone())).await;
    assert_eq!(verified["isValid"], true, "{verified}");
    assert!(is_settled(&desk.ok("/settle", &asked(entry.clone())).await, &block));

    // The other way round, the payment is of no lower an amount.
    let (mut dear, block) = desk.signed(&key, &high);
    dear["paymentRequirements"] = low.entries[1].clone();
    desk.confirm(block.hash()).await;
    assert!(is_settled(&desk.settle_until_decided(&dear).await, &block));

    let order = |price: &str| json!({ "resource": { "url": REPORT }, "price": price });
    let (status, answer) = desk.post("/requirements", &order("2 JPY")).await;
    assert_eq!(status, 400);
    assert!(answer["message"].as_str().unwrap().contains("no rate is read for JPY"), "{answer}");
    let (status, answer) = desk.post("/requirements", &order("0 USD")).await;
    assert!(status == 400 && answer["message"] == "the price is zero", "{answer}");
    let (last, block) = desk.txn(&key, &high);
    seconds.fetch_add(601, std::sync::atomic::Ordering::SeqCst);
    let (status, answer) = desk.post("/requirements", &order("0.02 USD")).await;
    assert_eq!((status, &answer["error"]), (503, &json!("rate_unavailable")), "{answer}");
    assert!(is_settled(&desk.ok("/settle", &last).await, &block), "it was billed while there was a rate");
    desk.end().await;
}
