//! `nanoSession`: a tagged amount, sent on-chain, and the block's hash under the session it was sent
//! for. The attacks on it are in `attacks/nano_session.rs`.

mod dialects;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use faregate::devnet::{InjectedFault, Times};
use faregate::ledger::node::{NodeClient, NodeEndpoint, NodeLedger};
use faregate::nano::{BlockHash, Raw, SecretKey, StateBlock};
use faregate::payment::tag::GRACE;
use faregate::reconcile::Books;
use faregate::store::{PaymentJournal, PaymentState};
use faregate::wallet::{Wallet, WalletOptions};
use faregate::x402::{
    NanoOffer, PaymentProof, ProofRequest, SettlementOutcome, SettlementResponse, encode_header,
};
use reqwest::Response;
use serde_json::Value;

use crate::rig::{
    Ending, PLENTY, Plan, ROUTES as USUAL, Rig, capability, error, eventually, header, manual_clock, offers,
};
use crate::store::instances::Sibling;

/// One route that offers it beside signed blocks, for three requests; one that offers it alone.
pub(crate) const ROUTES: &str = r#"
  - name: many
    match: "/many/**"
    upstream: api
    price: 0.0001 XNO
    grants: { requests: 3, within: 1h }
    mechanisms: [nanoTxn, nanoSession]
  - { name: one, match: "GET /one", upstream: api, price: 0.0001 XNO, mechanisms: [nanoTxn, nanoSession] }
  - { name: alone, match: "GET /alone", upstream: api, price: 7 raw, mechanisms: [nanoSession] }
  - { match: "GET /plain", upstream: api, price: 0.0001 XNO }
"#;

pub(crate) const ONE: &str = "/one";
const MANY: &str = "/many/x";

pub(crate) fn plan() -> Plan {
    Plan { routes: ROUTES.to_owned(), ..Plan::default() }
}

/// A fresh session for a request to `path`.
pub(crate) async fn session_offer(rig: &Rig, path: &str) -> NanoOffer {
    session_in(&rig.get(path, &[]).await)
}

/// The session in a bill.
pub(crate) fn session_in(answer: &Response) -> NanoOffer {
    assert_eq!(answer.status(), 402);
    let is_session = |it: &NanoOffer| matches!(it.ask, ProofRequest::NanoSession(_));
    offers(answer).offers.into_iter().find(is_session).expect("a session")
}

/// The entry as it came.
pub(crate) fn accepted_entry(offer: &NanoOffer) -> Value {
    offer.answer(&PaymentProof::NanoSession { block_hash: BlockHash::ZERO })["accepted"].clone()
}

/// The session's identifier.
pub(crate) fn session_id(offer: &NanoOffer) -> String {
    accepted_entry(offer)["extra"]["nanoSession"]["id"].as_str().unwrap().to_owned()
}

/// What shows `block` under the session, as `PAYMENT-SIGNATURE`.
pub(crate) fn session_proof(offer: &NanoOffer, block: BlockHash) -> String {
    encode_header(&offer.answer(&PaymentProof::NanoSession { block_hash: block }))
}

/// A send of `amount` to the session's address, on the ledger.
pub(crate) fn send_to_session(rig: &Rig, key: &SecretKey, offer: &NanoOffer, amount: Raw) -> StateBlock {
    let sent = rig.devnet.send_block(key, offer.pay_to, amount).unwrap();
    rig.devnet.process(sent).unwrap();
    sent
}

/// Sends exactly what the session asks for; the hash of the block.
pub(crate) fn pay_session(rig: &Rig, key: &SecretKey, offer: &NanoOffer) -> BlockHash {
    send_to_session(rig, key, offer, offer.amount).hash()
}

/// Sends a request with this proof of payment.
pub(crate) async fn present(rig: &Rig, path: &str, proof: &str) -> Response {
    rig.get(path, &[("PAYMENT-SIGNATURE", proof)]).await
}

async fn assert_error(answer: Response, status: u16, code: &str) {
    assert_eq!(answer.status(), status);
    assert_eq!(error(answer).await, code);
}

/// The payment is refused with this code, and the answer is a bill.
async fn assert_refused(answer: Response, code: &str) {
    assert_error(answer, 402, code).await;
}

/// The payment is not refused: the same proof may come again.
async fn assert_pending(answer: Response, reason: &str) {
    assert_error(answer, 503, reason).await;
}

#[tokio::test]
async fn only_the_route_that_names_it_offers_it_and_in_its_own_order() {
    let rig = Rig::with(plan()).await;
    let names = async |path| {
        let answer = rig.get(path, &[]).await;
        let accepts = answer.json::<Value>().await.unwrap()["accepts"].take();
        let names = accepts.as_array().unwrap().iter().map(|it| it["extra"]["mechanism"].clone());
        names.map(|it| it.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(ONE).await, ["nanoTxn", "nanoSession"]);
    assert_eq!(names("/alone").await, ["nanoSession"]);
    assert_eq!(names("/plain").await, ["nanoTxn", "nanoSignature"]);
    rig.end().await;
}

#[tokio::test]
async fn a_session_asks_for_the_price_and_a_tag_that_no_other_has() {
    let rig = Rig::with(plan()).await;
    let mut asked = BTreeSet::new();
    for _ in 0..500 {
        let offer = session_offer(&rig, ONE).await;
        let ProofRequest::NanoSession(terms) = offer.ask else { panic!() };
        assert_eq!(terms.price, Raw::with_unit("0.0001 XNO").unwrap());
        assert_eq!(terms.amount(), Some(offer.amount));
        assert!(terms.tag_amount.get() < 1 << 64, "a tag is worth nothing");
        let told = &accepted_entry(&offer)["extra"]["nanoSession"];
        assert_eq!(told["resourceAmountRaw"], terms.price.to_string());
        assert_eq!(told["tagAmountRaw"], terms.tag_amount.to_string());
        assert_eq!(told["tag"], (terms.tag_amount.get() % 10_000_000) as u64);
        let until = humantime::parse_rfc3339(told["expiresAt"].as_str().unwrap()).unwrap();
        let until = until.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(until, offer.valid_before.0);
        assert!(asked.insert((offer.pay_to, offer.amount)), "two active sessions with one amount");
    }
    let addresses: BTreeSet<_> = asked.iter().map(|(pay_to, _)| *pay_to).collect();
    assert_eq!(addresses.len(), 8, "the pool of this mechanism, and all of it");
    let [txn, upfront] = rig.bill("/plain").await;
    assert!(!addresses.contains(&txn.pay_to) && !addresses.contains(&upfront.pay_to));
    rig.end().await;
}

#[tokio::test]
async fn a_send_of_the_amount_buys_what_the_route_grants() {
    let rig = Rig::with(plan()).await;
    let key = rig.payer(1, PLENTY);
    let offer = session_offer(&rig, MANY).await;
    let block = pay_session(&rig, &key, &offer);
    let answer = present(&rig, MANY, &session_proof(&offer, block)).await;
    assert_eq!(answer.status(), 200);
    let receipt = SettlementResponse::from_header(header(&answer, "payment-response")).unwrap();
    let SettlementOutcome::Settled { transaction, payer, amount, .. } = receipt.outcome else { panic!() };
    assert_eq!(transaction, block);
    assert_eq!(payer, key.account());
    assert_eq!(amount, offer.amount);
    let (token, remaining) = capability(&answer);
    assert_eq!(remaining, 2);
    assert_eq!(rig.get(MANY, &[("PAYMENT-CAPABILITY", &token)]).await.status(), 200);
    // The same proof attaches to what it bought, and is no second payment.
    assert_eq!(present(&rig, MANY, &session_proof(&offer, block)).await.status(), 200);
    assert_refused(present(&rig, MANY, &session_proof(&offer, block)).await, "DUPLICATE_BLOCK_HASH").await;
    assert_eq!(rig.upstream.seen().len(), 3);

    let payment = rig.services.store().payment(block).await.unwrap().unwrap();
    assert_eq!(payment.state, PaymentState::Granted);
    assert_eq!(payment.intent.mechanism.as_str(), "nanoSession");
    assert_eq!(payment.intent.amount, offer.amount);
    assert_eq!(payment.intent.pay_to, offer.pay_to);
    let metrics = rig.services.metrics().text().unwrap();
    let counted = "faregate_payments_settled_total{mechanism=\"nanoSession\",route=\"many\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
    rig.end().await;
}

#[tokio::test]
async fn the_smallest_price_has_a_tag_too() {
    let rig = Rig::with(plan()).await;
    let key = rig.payer(1, PLENTY);
    let offer = session_offer(&rig, "/alone").await;
    let block = pay_session(&rig, &key, &offer);
    assert_eq!(present(&rig, "/alone", &session_proof(&offer, block)).await.status(), 200);
    rig.end().await;
}

#[tokio::test]
async fn another_amount_is_refused_told_and_listed() {
    let rig = Rig::with(plan()).await;
    let key = rig.payer(1, PLENTY);
    let offer = session_offer(&rig, ONE).await;
    let ProofRequest::NanoSession(terms) = offer.ask else { panic!() };
    let by = |raw: u128| Raw::new(raw);
    let amounts = [
        offer.amount.checked_sub(by(1)).unwrap(),
        offer.amount.checked_add(by(1)).unwrap(),
        terms.price,
        terms.tag_amount,
        offer.amount.checked_add(offer.amount).unwrap(),
    ];
    let mut sent = BTreeSet::new();
    for amount in amounts {
        let block = send_to_session(&rig, &key, &offer, amount).hash();
        sent.insert(block);
        let answer = present(&rig, ONE, &session_proof(&offer, block)).await;
        assert_eq!(answer.status(), 402);
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["error"], "INSUFFICIENT_AMOUNT");
        let message = body["message"].as_str().unwrap();
        assert!(message.contains(&format!("moves {amount} raw")), "{message}");
        assert!(message.contains(&format!("exactly {}", offer.amount)), "{message}");
    }
    assert_eq!(rig.upstream.seen().len(), 0);
    let endpoint =
        NodeEndpoint::from_url(rig.devnet.rpc_url().parse().unwrap(), std::time::Duration::from_secs(5));
    let ledger = NodeLedger::new(NodeClient::new(vec![endpoint.unwrap()]).unwrap());
    let store = std::sync::Arc::clone(rig.services.store());
    let unclaimed = Books::new(ledger, store, vec![offer.pay_to]).unclaimed().await.unwrap();
    assert_eq!(unclaimed.iter().map(|it| it.send).collect::<BTreeSet<_>>(), sent);
    // The session itself is as good as before.
    let block = pay_session(&rig, &key, &offer);
    assert_eq!(present(&rig, ONE, &session_proof(&offer, block)).await.status(), 200);
    rig.end().await;
}

#[tokio::test]
async fn a_block_that_was_sent_in_time_is_redeemed_late_and_not_for_ever() {
    let (clock, seconds) = manual_clock();
    let rig = Rig::with(Plan { clock, ..plan() }).await;
    let key = rig.payer(1, PLENTY);
    let [late, later, used] =
        [session_offer(&rig, MANY).await, session_offer(&rig, MANY).await, session_offer(&rig, MANY).await];
    let [in_grace, too_late, taken] =
        [pay_session(&rig, &key, &late), pay_session(&rig, &key, &later), pay_session(&rig, &key, &used)];
    assert_eq!(present(&rig, MANY, &session_proof(&used, taken)).await.status(), 200);
    // The fresh challenge of an expired one would fit the address and not the amount.
    seconds.store(late.valid_before.0 + GRACE - 1, Ordering::SeqCst);
    assert_eq!(present(&rig, MANY, &session_proof(&late, in_grace)).await.status(), 200);
    seconds.fetch_add(1, Ordering::SeqCst);
    let answer = present(&rig, MANY, &session_proof(&later, too_late)).await;
    assert_eq!(answer.status(), 402);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["error"], "PAYMENT_EXPIRED");
    assert!(body["message"].as_str().unwrap().contains("ended more than 3600 seconds ago"), "{body}");
    assert_eq!(rig.services.store().payment(too_late).await.unwrap(), None, "not spent, and so unclaimed");
    // What was taken up in time stays attached.
    assert_refused(present(&rig, MANY, &session_proof(&used, taken)).await, "DUPLICATE_BLOCK_HASH").await;
    rig.end().await;
}

#[tokio::test]
async fn copies_at_once_get_what_was_bought_and_no_more() {
    let rig = Rig::with(plan()).await;
    let key = rig.payer(1, PLENTY);
    let offer = session_offer(&rig, MANY).await;
    let block = pay_session(&rig, &key, &offer);
    let (proof, id, hash) = (session_proof(&offer, block), session_id(&offer), block.to_string());
    let ask = |number: usize| {
        let headers = if number.is_multiple_of(2) {
            vec![("PAYMENT-SIGNATURE", proof.as_str())]
        } else {
            vec![("X-PAYMENT-BLOCK", hash.as_str()), ("X-PAYMENT-SESSION", id.as_str())]
        };
        let rig = &rig;
        async move { rig.get(MANY, &headers).await.status().as_u16() }
    };
    let answers = futures_util::future::join_all((0..10).map(ask)).await;
    assert_eq!(answers.iter().filter(|it| **it == 200).count(), 3, "{answers:?}");
    assert!(answers.iter().all(|it| [200, 402, 503].contains(it)), "{answers:?}");
    assert_eq!(rig.upstream.seen().len(), 3);
    assert_refused(present(&rig, MANY, &proof).await, "DUPLICATE_BLOCK_HASH").await;
    rig.end().await;
}

#[tokio::test]
async fn a_session_that_is_paid_twice_buys_twice() {
    let rig = Rig::with(plan()).await;
    let key = rig.payer(1, PLENTY);
    let offer = session_offer(&rig, ONE).await;
    let [one, other] = [pay_session(&rig, &key, &offer), pay_session(&rig, &key, &offer)];
    for block in [one, other] {
        assert_eq!(present(&rig, ONE, &session_proof(&offer, block)).await.status(), 200);
        assert_refused(present(&rig, ONE, &session_proof(&offer, block)).await, "DUPLICATE_BLOCK_HASH").await;
    }
    rig.end().await;
}

#[tokio::test]
async fn what_a_node_does_not_know_yet_is_waited_for() {
    let rig = Rig::with(plan()).await;
    let key = rig.payer(1, PLENTY);
    let offer = session_offer(&rig, ONE).await;
    // The node is behind: it answers as before the block came.
    rig.devnet.order("block_info", InjectedFault::Stale, Times::Always);
    let block = pay_session(&rig, &key, &offer);
    let answer = present(&rig, ONE, &session_proof(&offer, block)).await;
    assert_pending(answer, "BLOCK_NOT_FOUND").await;
    rig.devnet.faults().clear();
    assert_eq!(present(&rig, ONE, &session_proof(&offer, block)).await.status(), 200);
    rig.end().await;
}

#[tokio::test]
async fn a_bill_from_before_a_crash_is_redeemed_after_it() {
    for how in [Ending::Orderly, Ending::Abrupt] {
        let rig = Rig::with(plan()).await;
        let key = rig.payer(1, PLENTY);
        let [before, after] = [session_offer(&rig, ONE).await, session_offer(&rig, ONE).await];
        let paid_before = pay_session(&rig, &key, &before);
        assert_eq!(present(&rig, ONE, &session_proof(&before, paid_before)).await.status(), 200);
        let paid = pay_session(&rig, &key, &after);
        let rig = rig.restart(how).await;
        assert_eq!(present(&rig, ONE, &session_proof(&after, paid)).await.status(), 200);
        let again = present(&rig, ONE, &session_proof(&before, paid_before)).await;
        if how == Ending::Orderly {
            assert_refused(again, "DUPLICATE_BLOCK_HASH").await;
        } else {
            // A use of the last milliseconds may be forgotten; the payment is not.
            assert!([200, 402, 503].contains(&again.status().as_u16()));
        }
        rig.end().await;
    }
}

/// The journal knows what it bought.
#[tokio::test]
async fn what_was_granted_before_a_restart_is_served_although_no_node_shows_its_block() {
    let rig = Rig::with(plan()).await;
    let key = rig.payer(1, PLENTY);
    let offer = session_offer(&rig, MANY).await;
    let proof = session_proof(&offer, pay_session(&rig, &key, &offer));
    assert_eq!(present(&rig, MANY, &proof).await.status(), 200);
    let rig = rig.restart(Ending::Orderly).await;
    for action in ["block_info", "blocks_info"] {
        rig.devnet.order(action, InjectedFault::ServerError, Times::Always);
    }
    assert_eq!(present(&rig, MANY, &proof).await.status(), 200);
    rig.end().await;
}

#[tokio::test]
async fn an_unconfirmed_payment_survives_a_crash_and_the_end_of_its_session() {
    let (clock, seconds) = manual_clock();
    let devnet = faregate::devnet::DevnetOptions {
        confirm_after: std::time::Duration::from_secs(3600),
        ..Default::default()
    };
    let more = "settlement: { wait: 200ms }".to_owned();
    let rig = Rig::with(Plan { clock, devnet, more, ..plan() }).await;
    let key = rig.payer(1, PLENTY);
    let offer = session_offer(&rig, ONE).await;
    let block = pay_session(&rig, &key, &offer);
    let answer = present(&rig, ONE, &session_proof(&offer, block)).await;
    assert_pending(answer, "settlement_pending").await;
    let rig = rig.restart(Ending::Abrupt).await;
    seconds.store(offer.valid_before.0 + 10 * GRACE, Ordering::SeqCst);
    assert!(rig.devnet.confirm_now(block));
    eventually("the payment is granted by itself", async || {
        let payment = rig.services.store().payment(block).await.unwrap();
        payment.is_some_and(|it| it.state == PaymentState::Granted)
    })
    .await;
    // The one that crashed may have been the one that granted; what it leased then lapses.
    seconds.fetch_add(60, Ordering::SeqCst);
    let proof = session_proof(&offer, block);
    eventually("it is served", async || present(&rig, ONE, &proof).await.status() == 200).await;
    rig.end().await;
}

#[tokio::test]
async fn any_instance_with_the_key_redeems_what_another_billed() {
    let rig = Rig::with(plan()).await;
    let sibling = Sibling::start(rig.config("store: { path: other.db }", ROUTES)).await;
    let key = rig.payer(1, PLENTY);
    let offer = session_offer(&rig, ONE).await;
    let block = pay_session(&rig, &key, &offer);
    let answer = sibling.redeem(&rig, ONE, &session_proof(&offer, block)).await;
    assert_eq!(answer.status(), 200);
    sibling.end().await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_over_one_store_redeem_one_session_once() {
    let Some(database) = crate::store::cluster::database().await else { return };
    let store = format!("store: {{ postgres: \"{}\" }}", database.address());
    let rig = Rig::with(Plan { more: store.clone(), ..plan() }).await;
    let sibling = Sibling::start(rig.config(&store, ROUTES)).await;
    let key = rig.payer(1, PLENTY);
    for _ in 0..3 {
        let offer = session_offer(&rig, ONE).await;
        let proof = session_proof(&offer, pay_session(&rig, &key, &offer));
        let (one, other) = tokio::join!(present(&rig, ONE, &proof), sibling.redeem(&rig, ONE, &proof));
        let mut answers = [one.status().as_u16(), other.status().as_u16()];
        answers.sort_unstable();
        assert!(answers == [200, 402] || answers == [200, 503], "{answers:?}");
    }
    assert_eq!(rig.upstream.seen().len(), 3);
    sibling.end().await;
    rig.end().await;
}

#[tokio::test]
async fn the_wallet_pays_by_it() {
    let rig = Rig::with(plan()).await;
    let seed = faregate::nano::Seed::from_bytes([0x5a; 32]);
    drop(rig.payer(4, PLENTY));
    let endpoint =
        NodeEndpoint::from_url(rig.devnet.rpc_url().parse().unwrap(), std::time::Duration::from_secs(5));
    let nodes = NodeClient::new(vec![endpoint.unwrap()]).unwrap();
    let options = WalletOptions {
        mechanism: Some(faregate::payment::Mechanism::NanoSession),
        thresholds: Some(faregate::devnet::THRESHOLDS),
        ..WalletOptions::up_to(Raw::with_unit("0.001 XNO").unwrap())
    };
    let work = faregate::ledger::work::WorkSource::node_first(nodes.clone());
    let wallet = Wallet::new(faregate::vault::Vault::from_seed(seed), 4, nodes, work, options).unwrap();
    let get =
        |path| reqwest::Request::new(reqwest::Method::GET, format!("{}{path}", rig.url).parse().unwrap());
    let paid = wallet.request(get(MANY)).await.unwrap();
    assert_eq!(paid.response.status(), 200);
    let payment = paid.payment().unwrap();
    assert!(payment.acknowledged);
    assert!(payment.amount > Raw::with_unit("0.0001 XNO").unwrap(), "the price and a tag");
    let again = wallet.request(get("/many/y")).await.unwrap();
    assert_eq!(again.response.status(), 200);
    assert_eq!(again.payment(), None, "it is paid for already");
    let error = wallet.request(get("/plain")).await.unwrap_err();
    assert!(error.to_string().contains("no nanoSession"), "{error}");
    rig.end().await;
}

#[tokio::test]
async fn a_route_that_asks_for_it_at_a_reload_waits_for_addresses() {
    let rig = Rig::with(Plan { routes: USUAL.to_owned(), ..Plan::default() }).await;
    let held_back = rig.services.reload(&rig.config("", ROUTES)).await.unwrap();
    assert_eq!(held_back, ["routes[].mechanisms"]);
    // Until the restart: what has addresses, and where that is nothing, what the others offer.
    for (path, count) in [(ONE, 1), ("/alone", 2), ("/plain", 2)] {
        let answer = rig.get(path, &[]).await;
        assert_eq!((answer.status().as_u16(), offers(&answer).offers.len()), (402, count), "{path}");
    }
    rig.end().await;
}

#[test]
fn each_mechanism_has_addresses_of_its_own() {
    use faregate::nano::Account;
    use faregate::payment::Mechanism;
    use faregate::payment::address_pool::{AddressPool, INDEXES_PER_MECHANISM, seed_indexes};

    let ranges = Mechanism::ALL.map(|it| seed_indexes(it, u32::MAX));
    assert_eq!(ranges.each_ref().map(|it| it.start), [0, 1_048_576, 2_097_152]);
    assert!(ranges.windows(2).all(|it| it[0].end == it[1].start));
    assert!(ranges.iter().all(|it| it.len() == INDEXES_PER_MECHANISM as usize));

    let list: Vec<_> = (0..7).map(|it| Account([it; 32])).collect();
    let every =
        AddressPool::of_list(&list, &[Mechanism::NanoSession, Mechanism::NanoTxn, Mechanism::NanoSignature]);
    let of = |pool: &AddressPool, mechanism| pool.of(mechanism).iter().map(|it| it.0[0]).collect::<Vec<_>>();
    assert_eq!(Mechanism::ALL.map(|it| of(&every, it)), [vec![0, 3, 6], vec![1, 4], vec![2, 5]]);
    let two = AddressPool::of_list(&list, &[Mechanism::NanoSession, Mechanism::NanoTxn]);
    assert_eq!(Mechanism::ALL.map(|it| of(&two, it)), [vec![0, 2, 4, 6], vec![], vec![1, 3, 5]]);
    let alone = AddressPool::of_list(&list[..1], &[Mechanism::NanoSession]);
    assert_eq!(Mechanism::ALL.map(|it| of(&alone, it)), [vec![], vec![], vec![0]]);
    // An address that was given twice is kept once.
    let shared = AddressPool::new(list.clone(), Vec::new()).with_sessions(list.clone());
    assert_eq!(of(&shared, Mechanism::NanoSession), [0_u8; 0]);
}
