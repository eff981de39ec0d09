//! Payments that are added to a purse.

use std::time::Duration;

use faregate::ledger::node::{NodeClient, NodeEndpoint};
use faregate::nano::{Raw, SecretKey};
use faregate::wallet::{Wallet, WalletError, WalletOptions};
use faregate::x402::{NanoOffer, SettlementResponse};
use serde_json::Value;

use super::{DEPOSIT, ask, buy, charged, hold_of, plan, post, purse, spend, used};
use crate::patience::wait_for;
use crate::rig::{Ending, PLENTY, Rig, error, header, offers, signature};

/// What one request of [`ask`] costs here: more than half of what is in a purse.
const COST: u128 = 6000;

/// Before a model whose every answer costs [`COST`].
async fn rig() -> Rig {
    Rig::with(plan(|_| used(2000, 1000))).await
}

/// Buys a purse and spends of it, until it does not cover the next request. Its token, and what is left.
async fn dry(rig: &Rig, key: &SecretKey) -> (String, u128) {
    let (token, _) = purse(&buy(rig, key, "/chat", &ask()).await);
    charged(rig, 1).await;
    assert_eq!(spend(rig, &token, "/chat", &large()).await.status(), 402);
    (token, DEPOSIT - COST)
}

/// A request that may cost more than is left in a dry purse, and costs [`COST`] too.
pub(super) fn large() -> Value {
    let mut body = ask();
    body["max_tokens"] = 1500.into();
    body
}

fn large_hold() -> u128 {
    6000 + large().to_string().len() as u128
}

/// The bill for the purse of this token.
pub(super) async fn offer(rig: &Rig, token: &str) -> NanoOffer {
    let bill = spend(rig, token, "/chat", &large()).await;
    assert_eq!(bill.status(), 402);
    let offer = offers(&bill).offers.into_iter().next().unwrap();
    let said = error(bill).await;
    assert_eq!(said, "CAPABILITY_EXHAUSTED");
    offer
}

#[tokio::test]
async fn a_payment_with_the_token_is_added_to_the_purse() {
    let rig = rig().await;
    let [own, another] = [rig.payer(1, PLENTY), rig.payer(2, PLENTY)];
    let (token, mut left) = dry(&rig, &own).await;
    let mut tokens = vec![token.clone()];
    for key in [&own, &another] {
        if left >= large_hold() {
            assert_eq!(spend(&rig, &token, "/chat", &large()).await.status(), 200);
            left -= COST;
        }
        let offer = offer(&rig, &token).await;
        assert!(offer.route.as_deref().unwrap().starts_with("chat#+"), "{:?}", offer.route);
        let (proof, block) = rig.txn(key, &offer);
        let paid =
            post(&rig, "/chat", &large(), &[("PAYMENT-SIGNATURE", &proof), ("PAYMENT-CAPABILITY", &token)])
                .await;
        assert_eq!(paid.status(), 200);
        left += DEPOSIT;
        let (same, balance) = purse(&paid);
        assert_eq!(balance, left - large_hold(), "to the raw");
        let receipt = SettlementResponse::from_header(header(&paid, "payment-response")).unwrap().to_json();
        assert_eq!(receipt["transaction"], block.hash().lower_hex(), "{receipt}");
        assert_eq!(receipt["payer"], key.account().to_string(), "{receipt}");
        left -= COST;
        tokens.push(same);
    }
    // Every token that was given for it opens the one purse.
    for token in tokens {
        let answer = wait_for("the purse covers it", async || {
            let answer = spend(&rig, &token, "/chat", &ask()).await;
            (answer.status() == 200).then_some(answer)
        });
        let (_, balance) = purse(&answer.await);
        assert_eq!(balance, left - hold_of(&ask()));
        left -= COST;
        if left < COST {
            break;
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn a_payment_without_the_token_buys_a_purse_of_its_own() {
    let rig = rig().await;
    let keys = [1, 2, 3].map(|it| rig.payer(it, PLENTY));
    let (token, left) = dry(&rig, &keys[0]).await;
    let (foreign, _) = purse(&buy(&rig, &keys[2], "/chat", &ask()).await);
    for (key, beside) in [(&keys[1], None), (&keys[0], Some(foreign.as_str())), (&keys[0], Some("nonsense"))]
    {
        let (proof, _) = rig.txn(key, &offer(&rig, &token).await);
        let mut headers = vec![("PAYMENT-SIGNATURE", proof.as_str())];
        headers.extend(beside.map(|it| ("PAYMENT-CAPABILITY", it)));
        let paid = post(&rig, "/chat", &ask(), &headers).await;
        assert_eq!(paid.status(), 200, "{beside:?}");
        let (own, balance) = purse(&paid);
        assert_eq!(balance, DEPOSIT - hold_of(&ask()));
        assert!(own != token && Some(own.as_str()) != beside);
    }
    let small = spend(&rig, &token, "/chat", &ask()).await;
    assert_eq!(purse(&small).1, left - hold_of(&ask()), "nothing was added to it");
    rig.end().await;
}

/// Within its limit, a wallet adds to the purse that it holds.
#[tokio::test]
async fn a_wallet_tops_up_its_purse() {
    let rig = rig().await;
    drop(rig.payer(4, PLENTY));
    let node = NodeEndpoint::from_url(rig.devnet.rpc_url().parse().unwrap(), Duration::from_secs(5));
    let nodes = NodeClient::new(vec![node.unwrap()]).unwrap();
    let wallet = |max| {
        let options = WalletOptions {
            thresholds: Some(faregate::devnet::THRESHOLDS),
            ..WalletOptions::up_to(Raw::new(max))
        };
        let seed = faregate::nano::Seed::from_bytes([0x5a; 32]);
        let work = faregate::ledger::work::WorkSource::node_first(nodes.clone());
        Wallet::new(faregate::vault::Vault::from_seed(seed), 4, nodes.clone(), work, options).unwrap()
    };
    let rich = wallet(DEPOSIT);
    let request = || rig.http.post(format!("{}/chat", rig.url)).json(&large()).build().unwrap();
    let mut left = 0;
    let mut first = None;
    for number in 0..6 {
        let paid = rich.request(request()).await.unwrap();
        assert_eq!(paid.response.status(), 200);
        assert_eq!(paid.payment().is_some(), left < large_hold(), "request {number}");
        left += if left < large_hold() { DEPOSIT } else { 0 };
        let purse = paid.capability.clone().unwrap();
        assert_eq!(purse.balance, Some(Raw::new(left - large_hold())), "request {number}");
        left -= COST;
        let id = faregate::payment::capability::id_in(purse.token());
        assert_eq!(*first.get_or_insert(id), id, "it is one purse");
        charged(&rig, rig.upstream.seen().len()).await;
    }
    // What it will not pay for leaves it its purse, for requests that ask for less.
    let mut dearer = ask();
    dearer["max_tokens"] = 4000.into();
    let dearer = rig.http.post(format!("{}/chat", rig.url)).json(&dearer).build().unwrap();
    assert!(matches!(rich.request(dearer).await, Err(WalletError::TooExpensive { .. })));
    let small = rig.http.post(format!("{}/chat", rig.url)).json(&ask()).build().unwrap();
    let served = rich.request(small).await.unwrap();
    assert_eq!((served.response.status().as_u16(), served.payment().is_some()), (200, false));
    assert_eq!(served.capability.unwrap().balance, Some(Raw::new(left - hold_of(&ask()))));
    let poor = wallet(DEPOSIT - 1).request(request()).await;
    assert!(matches!(poor, Err(WalletError::TooExpensive { .. })));
    rig.end().await;
}

/// Who paid and does not hold the purse's token gets nothing of the purse, however often the proof is shown.
#[tokio::test]
async fn a_proof_without_the_token_opens_no_purse_that_it_was_added_to() {
    let rig = rig().await;
    let [own, another] = [rig.payer(1, PLENTY), rig.payer(2, PLENTY)];
    let (token, _) = dry(&rig, &own).await;
    let bill = spend(&rig, &token, "/chat", &large()).await;
    let offer = offers(&bill).offers.pop().unwrap();
    let block = rig.devnet.send_block(&another, offer.pay_to, offer.amount).unwrap();
    rig.devnet.process(block).unwrap();
    let proof = signature(&another, &block, &offer);
    let both = [("PAYMENT-SIGNATURE", proof.as_str()), ("PAYMENT-CAPABILITY", token.as_str())];
    let paid = post(&rig, "/chat", &large(), &both).await;
    assert_eq!(paid.status(), 200, "{}", paid.text().await.unwrap());
    for (name, value) in [("X-Other", "x"), ("PAYMENT-CAPABILITY", "nonsense")] {
        let alone = post(&rig, "/chat", &ask(), &[("PAYMENT-SIGNATURE", &proof), (name, value)]).await;
        assert_eq!(alone.status(), 402);
        assert!(alone.headers().get("payment-capability").is_none());
        assert_eq!(error(alone).await, "WRONG_RESOURCE");
    }
    rig.end().await;
}

/// After a crash, the payment is found in the journal with the purse that it is for.
#[tokio::test]
async fn a_payment_is_added_once_through_a_restart() {
    for ending in [Ending::Orderly, Ending::Abrupt] {
        let rig = rig().await;
        let key = rig.payer(1, PLENTY);
        let (token, left) = dry(&rig, &key).await;
        let (proof, _) = rig.txn(&key, &offer(&rig, &token).await);
        let both = [("PAYMENT-SIGNATURE", proof.as_str()), ("PAYMENT-CAPABILITY", token.as_str())];
        assert_eq!(post(&rig, "/chat", &ask(), &both).await.status(), 200);
        charged(&rig, 4).await;
        let rig = rig.restart(ending).await;
        let after = wait_for("the purse is found", async || {
            let answer = post(&rig, "/chat", &ask(), &both).await;
            (answer.status() == 200).then(|| purse(&answer).1 + hold_of(&ask()))
        });
        let after = after.await;
        match ending {
            Ending::Orderly => assert_eq!(after, left + DEPOSIT - COST),
            // What was spent within the last fifth of a second may be forgotten, never more.
            Ending::Abrupt => assert!((left + DEPOSIT - COST..=2 * DEPOSIT).contains(&after), "{after}"),
        }
        rig.end().await;
    }
}

/// A purse that runs out takes no payment any more: what is paid is in a purse of its own.
#[tokio::test]
async fn what_cannot_be_added_to_a_revoked_purse_buys_another() {
    let rig = rig().await;
    let key = rig.payer(1, PLENTY);
    let (token, _) = dry(&rig, &key).await;
    let offer = offer(&rig, &token).await;
    let id = faregate::payment::capability::id_in(&token).unwrap();
    assert!(rig.services.capabilities().revoke(id).await.unwrap());
    let (proof, _) = rig.txn(&key, &offer);
    let both = [("PAYMENT-SIGNATURE", proof.as_str()), ("PAYMENT-CAPABILITY", token.as_str())];
    let paid = post(&rig, "/chat", &ask(), &both).await;
    assert_eq!(paid.status(), 200, "{}", paid.text().await.unwrap());
    let (own, balance) = purse(&paid);
    assert!(own != token && balance == DEPOSIT - hold_of(&ask()));
    rig.end().await;
}
