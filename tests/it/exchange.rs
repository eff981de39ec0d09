//! The exchange as a client sees it: a bill, a payment, the answer, the capability.

use faregate::x402::{SettlementOutcome, SettlementResponse};

use crate::rig::{PLENTY, Rig, capability, error, header, signature};

#[tokio::test]
async fn a_block_that_the_gateway_sends_buys_the_answer() {
    let rig = Rig::start().await;
    let key = rig.payer(1, PLENTY);
    let [txn, _] = rig.bill("/v1/quote/XNO").await;
    let (proof, block) = rig.txn(&key, &txn);
    let answer = rig.get("/v1/quote/XNO", &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!(answer.status(), 200);
    let receipt = SettlementResponse::from_header(header(&answer, "payment-response")).unwrap();
    let SettlementOutcome::Settled { transaction, payer, amount, .. } = receipt.outcome else {
        panic!("{receipt:?}")
    };
    assert_eq!((transaction, payer, amount), (block.hash(), key.account(), txn.amount));
    assert_eq!(header(&answer, "cache-control"), "private");
    assert_eq!(capability(&answer).1, 0, "one use was bought and is spent");
    assert_eq!(answer.text().await.unwrap(), "upstream saw GET /v1/quote/XNO");
    assert!(rig.devnet.lattice().is_confirmed(block.hash()));
    rig.end().await;
}

#[tokio::test]
async fn a_block_that_the_client_sent_buys_the_answer() {
    let rig = Rig::start().await;
    let key = rig.payer(1, PLENTY);
    let [_, offer] = rig.bill("/v1/quote/XNO").await;
    let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    rig.devnet.process(block).unwrap();
    let proof = signature(&key, &block, &offer);
    let answer = rig.get("/v1/quote/XNO", &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!(answer.status(), 200);
    let again = rig.get("/v1/quote/XNO", &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!((again.status().as_u16(), error(again).await.as_str()), (402, "DUPLICATE_BLOCK_HASH"));
    rig.end().await;
}

#[tokio::test]
async fn one_payment_buys_as_many_uses_as_the_route_grants() {
    let rig = Rig::start().await;
    let key = rig.payer(1, PLENTY);
    let first = rig.pay(&key, "/v1/search/a").await;
    assert_eq!(first.status(), 200);
    let (token, left) = capability(&first);
    assert_eq!(left, 4);
    for expected in (0..4).rev() {
        let answer = rig.get("/v1/search/b", &[("PAYMENT-CAPABILITY", &token)]).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(capability(&answer).1, expected);
    }
    let spent = rig.get("/v1/search/c", &[("PAYMENT-CAPABILITY", &token)]).await;
    assert_eq!((spent.status().as_u16(), error(spent).await.as_str()), (402, "CAPABILITY_EXHAUSTED"));
    rig.end().await;
}
