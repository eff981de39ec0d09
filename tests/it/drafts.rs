//! What of x402 is a draft or the foundation's own form, each behind its setting.

use faregate::nano::{Raw, StateBlock};
use faregate::x402::{decode_header, encode_header};
use serde_json::{Value, json};

use crate::rig::{PLENTY, Plan, Rig, error, header};

const QUOTE: &str = "/v1/quote/XNO";

async fn taking(without_extra: bool) -> Rig {
    let more = format!("x402: {{ without_extra: {without_extra} }}");
    Rig::with(Plan { more, ..Plan::default() }).await
}

/// A payment as `scheme_exact_nano.md` shows it: the six fields of the entry, and the block.
fn plain(amount: Raw, block: &StateBlock) -> Value {
    let pay_to = faregate::nano::Account(block.link).to_string();
    json!({
        "x402Version": 2,
        "resource": { "url": "https://example.com/api/data", "mimeType": "application/json" },
        "accepted": {
            "scheme": "exact",
            "network": "nano:mainnet",
            "asset": "XNO",
            "amount": amount.to_string(),
            "payTo": pay_to,
            "maxTimeoutSeconds": 120,
        },
        "payload": { "block": {
            "type": "state",
            "account": block.account.to_string(),
            "previous": block.previous.to_string(),
            "representative": block.representative.0.to_string(),
            "balance": block.balance.to_string(),
            "link": hex::encode_upper(block.link),
            "link_as_account": pay_to,
            "signature": hex::encode_upper(block.signature.0),
            "work": block.work.map(|it| format!("{:016x}", it.0)),
        } },
        "extensions": {},
    })
}

#[tokio::test]
async fn a_block_without_extra_is_taken_once_where_the_setting_says_so() {
    let rig = taking(true).await;
    let key = rig.payer(1, PLENTY);
    let [offer, _] = rig.bill(QUOTE).await;
    let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    let payment = encode_header(&plain(offer.amount, &block));
    let paid = rig.get(QUOTE, &[("PAYMENT-SIGNATURE", &payment)]).await;
    assert_eq!(paid.status(), 200);
    let receipt = Value::Object(decode_header(header(&paid, "payment-response")).unwrap());
    for (field, value) in [
        ("success", Value::from(true)),
        ("payer", key.account().to_string().into()),
        ("transaction", block.hash().lower_hex().into()),
        ("network", "nano:mainnet".into()),
    ] {
        assert_eq!(receipt[field], value, "{receipt}");
    }
    // Who saw the block on the network shows it too, here and for something else.
    for path in [QUOTE, "/v1/quote/BAN"] {
        let copy = rig.get(path, &[("PAYMENT-SIGNATURE", &payment)]).await;
        assert_eq!((copy.status().as_u16(), error(copy).await.as_str()), (402, "DUPLICATE_BLOCK_HASH"));
    }
    assert_eq!(rig.effects().forwarded, 1);
    rig.end().await;
}

/// An id proves nothing of who paid: whoever saw block and id on their way could show both.
#[tokio::test]
async fn an_id_brings_no_answer_back_to_a_block_without_extra() {
    let routes = r#"  - { name: quote, match: "GET /v1/quote/{symbol}", upstream: api, price: 100 raw, payment_identifier: optional }"#;
    let more = "x402: { without_extra: true }".to_owned();
    let rig = Rig::with(Plan { more, routes: format!("\n{routes}\n"), ..Plan::default() }).await;
    let key = rig.payer(1, PLENTY);
    let [offer, _] = rig.bill(QUOTE).await;
    let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    let mut payment = plain(offer.amount, &block);
    payment["extensions"] = json!({ "payment-identifier": { "info": { "id": "pay_0123456789abcdef" } } });
    let payment = encode_header(&payment);
    let mut answers = Vec::new();
    for _ in 0..2 {
        answers.push(rig.get(QUOTE, &[("PAYMENT-SIGNATURE", &payment)]).await.status().as_u16());
    }
    assert_eq!((answers, rig.effects().forwarded), (vec![200, 409], 1));
    rig.end().await;
}

#[tokio::test]
async fn a_block_without_extra_is_refused_where_it_does_not_fit() {
    let rig = taking(true).await;
    let key = rig.payer(1, PLENTY);
    let [offer, _] = rig.bill(QUOTE).await;
    let other = faregate::nano::Seed::from_bytes([0x77; 32]).key(0).account();
    let less = Raw::new(offer.amount.get() - 1);
    let tried = |pay_to, sent, said| {
        let block = rig.devnet.send_block(&key, pay_to, sent).unwrap();
        (encode_header(&plain(said, &block)), block)
    };
    for (pay_to, sent, said, code) in [
        (offer.pay_to, less, less, "INSUFFICIENT_AMOUNT"),
        (offer.pay_to, less, offer.amount, "INSUFFICIENT_AMOUNT"),
        (other, offer.amount, offer.amount, "WRONG_DESTINATION"),
    ] {
        let (payment, _) = tried(pay_to, sent, said);
        let answer = rig.get(QUOTE, &[("PAYMENT-SIGNATURE", &payment)]).await;
        assert_eq!(answer.status(), 402, "{sent} {said}");
        assert_eq!(error(answer).await, code, "{sent} {said}");
    }
    // On the ledger already: anybody may have taken it from there.
    let (payment, block) = tried(offer.pay_to, offer.amount, offer.amount);
    rig.devnet.process(block).unwrap();
    let answer = rig.get(QUOTE, &[("PAYMENT-SIGNATURE", &payment)]).await;
    assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (402, "STALE_FRONTIER"));
    assert_eq!(rig.effects().forwarded, 0);
    rig.end().await;
}

#[tokio::test]
async fn a_block_without_extra_is_refused_without_the_setting() {
    let rig = taking(false).await;
    let key = rig.payer(1, PLENTY);
    let [offer, _] = rig.bill(QUOTE).await;
    let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    let payment = encode_header(&plain(offer.amount, &block));
    let answer = rig.get(QUOTE, &[("PAYMENT-SIGNATURE", &payment)]).await;
    assert_eq!(answer.status(), 402);
    let body: Value = answer.json().await.unwrap();
    assert!(body["message"].as_str().unwrap().contains("with its `extra`"), "{body}");
    assert_eq!(rig.effects().broadcast, 0);
    rig.end().await;
}

#[tokio::test]
async fn every_bill_hints_at_how_xno_is_got() {
    let more = "x402: { rail_hint: { why: 0.001 XNO is the whole cost, docs: https://docs.nano.org/, \
                faucets: [https://faucet.example/], topup: any swap } }";
    let rig = Rig::with(Plan { more: more.to_owned(), ..Plan::default() }).await;
    let bill = rig.get(QUOTE, &[]).await;
    let in_head = Value::Object(decode_header(header(&bill, "payment-required")).unwrap());
    let in_body: Value = bill.json().await.unwrap();
    for said in [&in_head, &in_body] {
        let hint = &said["extensions"]["rail-hint"];
        let expected = json!({
            "cheapest": "nano:mainnet", "why": "0.001 XNO is the whole cost", "docs": "https://docs.nano.org/",
            "faucets": ["https://faucet.example/"], "topup": "any swap",
        });
        assert_eq!(hint["info"], expected);
        assert!(
            said["accepts"].as_array().unwrap().iter().all(|it| it["network"] == hint["info"]["cheapest"])
        );
        let required = hint["schema"]["required"].as_array().unwrap();
        assert!(required.iter().all(|it| hint["info"].get(it.as_str().unwrap()).is_some()));
    }
    // Where the head has no room, the body says it all the same.
    let long = format!("{QUOTE}?{}", "q".repeat(2000));
    let bill = rig.get(&long, &[]).await;
    assert!(header(&bill, "payment-required").len() < 4096);
    let body: Value = bill.json().await.unwrap();
    assert!(body["extensions"]["rail-hint"].is_object());
    rig.end().await;
}
