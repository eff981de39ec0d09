//! Faulty requests, and the messages to their authors.

use serde_json::{Value, json};

use super::{Desk, PRICE, REPORT, scene};
use crate::rig::Plan;

/// Asserts that `/requirements` or `/accepts` answers 400 and names `what`.
async fn told(desk: &Desk, path: &str, body: &Value, what: &str) {
    let (status, answer) = desk.post(path, body).await;
    let message = answer["message"].as_str().unwrap_or_default();
    assert!(status == 400 && message.contains(what), "{what}: {status} {answer}");
}

#[tokio::test]
async fn orders_that_cannot_be_filled() {
    let desk = Desk::open(Plan::default()).await;
    let resource = json!({ "url": REPORT });
    for (body, what) in [
        (json!([]), "expected"),
        (json!({ "price": PRICE }), "resource"),
        (json!({ "resource": {}, "price": PRICE }), "url"),
        (json!({ "resource": { "url": "" }, "price": PRICE }), "resource.url"),
        (json!({ "resource": { "url": "x".repeat(3000) }, "price": PRICE }), "resource.url"),
        (
            json!({ "resource": { "url": REPORT, "description": "x".repeat(600) }, "price": PRICE }),
            "resource",
        ),
        (json!({ "resource": resource }), "price"),
        (json!({ "resource": resource, "price": "0.001" }), "price"),
        (json!({ "resource": resource, "price": "0 XNO" }), "zero"),
        (json!({ "resource": resource, "amount": 1 }), "amount"),
        (json!({ "resource": resource, "amount": "1e30" }), "amount"),
        (json!({ "resource": resource, "amount": "0" }), "zero"),
        (json!({ "resource": resource, "amount": "1", "price": PRICE }), "both"),
        (json!({ "resource": resource, "ammount": "1" }), "ammount"),
        (json!({ "resource": resource, "price": PRICE, "mechanisms": ["nanoSwap"] }), "nanoSwap"),
        (json!({ "resource": resource, "price": PRICE, "maxTimeoutSeconds": 5 }), "maxTimeoutSeconds"),
        (json!({ "resource": resource, "price": PRICE, "maxTimeoutSeconds": 86400 }), "maxTimeoutSeconds"),
    ] {
        told(&desk, "/requirements", &body, what).await;
    }
    desk.end().await;
}

#[tokio::test]
async fn entries_that_cannot_be_filled_in() {
    let desk = Desk::open(Plan::default()).await;
    let with = |entry: Value| json!({ "x402Version": 2, "resource": { "url": REPORT }, "accepts": [entry] });
    let stranger = faregate::nano::Account::BURN.to_string();
    for (body, what) in [
        (json!({ "x402Version": 1, "resource": { "url": REPORT }, "accepts": [] }), "x402Version"),
        (json!({ "x402Version": 2, "accepts": [] }), "resource"),
        (json!({ "x402Version": 2, "resource": { "url": "" }, "accepts": [] }), "resource.url"),
        (with(json!({ "network": "nano:mainnet" })), "accepts[0].amount"),
        (with(json!({ "amount": "0" })), "zero"),
        (with(json!({ "amount": "1", "payTo": stranger })), "own addresses"),
        (with(json!({ "amount": "1", "extra": { "mechanism": "nanoSwap" } })), "nanoSwap"),
    ] {
        told(&desk, "/accepts", &body, what).await;
    }
    let many = vec![json!({ "amount": "1" }); 17];
    told(
        &desk,
        "/accepts",
        &json!({ "x402Version": 2, "resource": { "url": REPORT }, "accepts": many }),
        "more than",
    )
    .await;
    let none = with(json!({ "network": "eip155:8453", "amount": "1" }));
    assert_eq!(desk.ok("/accepts", &none).await["accepts"], json!([]), "nothing here to be paid in XNO");
    desk.end().await;
}

#[tokio::test]
async fn calls_about_payments_that_cannot_be_read() {
    let (desk, key) = scene(Plan::default()).await;
    let bill = desk.bill(REPORT, PRICE).await;
    let (good, _) = desk.txn(&key, &bill);
    for path in ["/verify", "/settle"] {
        let answer = desk.rig.http.post(format!("{}{path}", desk.url)).body("{\"x").send().await.unwrap();
        assert_eq!(answer.status(), 400);
        told(&desk, path, &json!({}), "paymentPayload").await;
        told(&desk, path, &json!({ "paymentPayload": {} }), "paymentRequirements").await;
        told(&desk, path, &json!({ "paymentPayload": "e30=", "paymentRequirements": {} }), "paymentPayload")
            .await;
    }
    // x402 version 1, outside and inside.
    let mut first = good.clone();
    first["x402Version"] = json!(1);
    desk.refused(&first, "invalid_x402_version").await;
    let mut inner = good.clone();
    inner["paymentPayload"]["x402Version"] = json!(1);
    desk.refused(&inner, "invalid_x402_version").await;
    for (field, value) in [
        ("/payload", json!({})),
        ("/payload", json!({ "mode": "access", "credential": "abc" })),
        ("/payload/block/balance", json!(12)),
        ("/accepted/network", json!("nano:testnet")),
        ("/accepted/extra", json!(null)),
    ] {
        let mut bad = good.clone();
        *bad["paymentPayload"].pointer_mut(field).unwrap() = value;
        desk.refused(&bad, "MALFORMED_PAYLOAD").await;
    }
    desk.end().await;
}
