//! Calls sold through a whole gateway: what a payment for one opens, and what it does not.

use faregate::x402::{PaymentProof, ProofRequest, encode_header};
use serde_json::{Value, json};

use super::{LIMITS, ROUTES, method, offer, post, scene, tool};
use crate::rig::{PLENTY, Rig, capability, error, header, offers, signature};

/// Pays for a call by `nanoTxn` and gives the proof that was sent and the token that was got.
async fn bought(rig: &Rig, key: &faregate::nano::SecretKey, call: &Value) -> (String, String) {
    let (proof, _) = rig.txn(key, &offer(rig, call).await);
    let answer = post(rig, call.to_string(), &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!(answer.status(), 200);
    let token = capability(&answer).0;
    (proof, token)
}

async fn refused(rig: &Rig, call: &Value, name: &str, value: &str) -> String {
    let seen = rig.upstream.seen().len();
    let answer = post(rig, call.to_string(), &[(name, value)]).await;
    assert_eq!(answer.status(), 402, "{call}");
    assert_eq!(offers(&answer).offers.len(), 2, "with a bill");
    assert_eq!(rig.upstream.seen().len(), seen, "nothing reached the upstream");
    error(answer).await
}

#[tokio::test]
async fn free_calls_pass_and_others_are_billed_at_their_price() {
    let rig = scene().await;
    for call in [method("initialize"), method("tools/list"), tool("help")] {
        let answer = post(&rig, call.to_string(), &[]).await;
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap()), (200, call.to_string()));
    }
    let notification = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    assert_eq!(post(&rig, notification.to_string(), &[]).await.status(), 200);
    assert_eq!(
        rig.get("/mcp", &[("Accept", "text/event-stream")]).await.status(),
        200,
        "the stream's own route"
    );

    for (call, amount) in
        [(tool("search"), 10), (tool("render-x"), 100), (json!([tool("search"), tool("a")]), 15)]
    {
        let offer = offer(&rig, &call).await;
        assert_eq!(offer.amount.get(), amount, "{call}");
    }
    let answer = post(&rig, tool("search").to_string(), &[]).await;
    let bill: Value = answer.json().await.unwrap();
    assert_eq!(bill["accepts"][0]["extra"]["route"], "tools#tool:search");
    assert_eq!(bill["accepts"][0]["extra"]["grants"]["requests"], 3);
    assert_eq!(bill["resource"]["url"], format!("{}/mcp", rig.url));

    // What a route says of the ways to pay it holds for each of its calls.
    let signed = rig.http.post(format!("{}/signed", rig.url)).header("Content-Type", "application/json");
    let signed = signed.body(tool("search").to_string()).send().await.unwrap();
    let ways: Vec<_> = offers(&signed).offers.into_iter().map(|it| it.ask).collect();
    assert!(matches!(ways.as_slice(), [ProofRequest::NanoSignature { .. }]), "{ways:?}");

    let refused = post(&rig, tool("secret").to_string(), &[]).await;
    assert_eq!(refused.status(), 403);
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["error"], "not_offered");
    assert!(body["message"].as_str().unwrap().contains("the tool \"secret\" is not offered"), "{body}");
    rig.end().await;
}

#[tokio::test]
async fn a_payment_opens_the_line_it_paid_for_and_no_other() {
    let rig = scene().await;
    let payer = rig.payer(0, PLENTY);
    let (proof, token) = bought(&rig, &payer, &tool("search")).await;
    let seen = rig.upstream.seen();
    let paid = seen.last().unwrap();
    assert_eq!(paid.body, tool("search").to_string().into_bytes());
    assert_eq!(paid.header("x-payment-route"), Some("tools"), "the route as it is configured");
    assert_eq!(paid.header("x-payment-amount"), Some("10"));

    // Cheap for dear, dear for cheap, and one for a batch of two.
    for call in
        [tool("render-x"), tool("other"), method("resources/read"), json!([tool("search"), tool("search")])]
    {
        assert_eq!(refused(&rig, &call, "PAYMENT-CAPABILITY", &token).await, "WRONG_RESOURCE", "{call}");
        assert_eq!(refused(&rig, &call, "PAYMENT-SIGNATURE", &proof).await, "WRONG_RESOURCE", "{call}");
    }
    // The uses it bought are there still, for whatever is called by that name.
    let other = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "search" } });
    for left in [1, 0] {
        let answer = post(&rig, other.to_string(), &[("PAYMENT-CAPABILITY", &token)]).await;
        assert_eq!((answer.status().as_u16(), capability(&answer).1), (200, left));
    }
    assert_eq!(refused(&rig, &other, "PAYMENT-CAPABILITY", &token).await, "CAPABILITY_EXHAUSTED");
    assert_eq!(refused(&rig, &other, "PAYMENT-SIGNATURE", &proof).await, "DUPLICATE_BLOCK_HASH");

    let metrics = rig.services.metrics().text().unwrap();
    assert!(metrics.contains("payments_settled_total{mechanism=\"nanoTxn\",route=\"tools\"} 1"), "{metrics}");
    assert!(!metrics.contains("tool:search"), "a client has no part in a label");
    rig.end().await;
}

#[tokio::test]
async fn a_cheap_challenge_does_not_open_a_dear_call_before_anything_is_settled() {
    let rig = scene().await;
    let payer = rig.payer(0, PLENTY);
    let cheap = offer(&rig, &tool("other")).await;
    let (proof, block) = rig.txn(&payer, &cheap);
    let hash = block.hash();
    assert_eq!(refused(&rig, &tool("render-x"), "PAYMENT-SIGNATURE", &proof).await, "WRONG_RESOURCE");
    assert!(rig.devnet.lattice().entry(hash).is_none(), "no money moved");
    // The entry bent to the dear call's name or price is none that was minted.
    let dear = offer(&rig, &tool("render-x")).await;
    let good = cheap.answer(&PaymentProof::NanoTxn { block });
    for (pointer, value) in [
        ("/accepted/extra/route", json!("tools#tool:render-*")),
        ("/accepted/amount", json!(dear.amount.to_string())),
    ] {
        let mut bent = good.clone();
        *bent.pointer_mut(pointer).unwrap() = value;
        let bent = encode_header(&bent);
        assert_eq!(refused(&rig, &tool("render-x"), "PAYMENT-SIGNATURE", &bent).await, "CHALLENGE_UNKNOWN");
    }
    // It buys what it was for.
    let answer = post(&rig, tool("other").to_string(), &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!(answer.status(), 200);
    rig.end().await;
}

#[tokio::test]
async fn a_challenge_from_before_a_change_of_prices_is_still_good_for_its_line() {
    let rig = scene().await;
    let payer = rig.payer(0, PLENTY);
    let answer = post(&rig, tool("search").to_string(), &[]).await;
    let [_, old] = offers(&answer).offers.try_into().unwrap();
    let block = rig.devnet.send_block(&payer, old.pay_to, old.amount).unwrap();
    rig.devnet.process(block).unwrap();
    let dearer = ROUTES.replace("search: 10 raw", "search: 11 raw");
    rig.services.reload(&rig.config(LIMITS, &dearer)).await.unwrap();
    assert_eq!(offer(&rig, &tool("search")).await.amount.get(), 11);
    let proof = signature(&payer, &block, &old);
    let answer = post(&rig, tool("search").to_string(), &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!(answer.status(), 200, "the money was sent when it was the price");
    assert!(header(&answer, "payment-capability").contains("remaining=2"));
    rig.end().await;
}
