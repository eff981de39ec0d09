//! The paying client, against a scripted gateway and a scripted node.

mod broken;
mod lies;
mod redirects;
mod safety;
pub(crate) mod world;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use faregate::nano::{Account, Raw, Signature, StateBlock, noms_digest};
use faregate::payment::Mechanism;
use faregate::wallet::{AllowanceError, DayLimit, OfferError, Wallet, WalletError, WalletOptions};
use serde_json::{Value, json};

use crate::scripted::{Reply, Scripted, Seen, nobody};
use world::{
    Books, EASY, NONCE, PRICE, bill, entry, every_way, get, node, payee, payer, paying_by, processed, proof,
    proofs, seed_file, selling, served, settled, url_of, wallet, wallet_with,
};

#[tokio::test]
async fn a_signed_block_pays_and_what_it_bought_is_used_up_first() {
    let books = Books::with_balance(1000);
    let (node, gateway) = (node(&books).await, selling(&books).await);
    let wallet = wallet(&node);
    let mut left = Vec::new();
    for number in 0..4 {
        let paid = wallet.request(get(&gateway, "/q")).await.unwrap();
        assert_eq!(paid.response.status(), 200);
        left.push(paid.capability.as_ref().unwrap().remaining.unwrap());
        assert_eq!(paid.payment().is_some(), number % 3 == 0, "request {number}");
        if let Some(payment) = paid.payment() {
            assert_eq!((payment.mechanism, payment.amount.get()), (Mechanism::NanoTxn, PRICE));
            assert_eq!((payment.account, payment.pay_to, payment.acknowledged), (payer(), payee(), true));
            assert_eq!(books.lock().unwrap().frontier.unwrap().hash(), payment.hash);
        }
    }
    assert_eq!(left, [2, 1, 0, 2]);
    assert_eq!(books.lock().unwrap().frontier.unwrap().balance, Raw::new(1000 - 2 * PRICE));
    // The gateway broadcasts a `nanoTxn` block, never this client.
    assert_eq!(processed(&node), []);
    // A used-up capability is not sent again. Twice: one request that gets the bill, one with the proof.
    assert_eq!(gateway.seen().len(), 6);
}

#[tokio::test]
async fn a_log_shows_whose_wallet_it_is_and_how_many_capabilities_it_has_and_no_secret() {
    let books = Books::with_balance(1000);
    let (node, gateway) = (node(&books).await, selling(&books).await);
    let wallet = wallet(&node);
    let token = wallet.request(get(&gateway, "/q")).await.unwrap().capability.unwrap();
    let shown = format!("{wallet:?}");
    assert!(shown.contains(&format!("PayerChain {{ account: {:?}", payer())), "{shown}");
    assert!(shown.contains("HeldCapabilities(1)") && !shown.contains(token.token()), "{shown}");
}

#[tokio::test]
async fn the_entry_is_echoed_as_it_came() {
    let books = Books::with_balance(1000);
    let (node, gateway) = (node(&books).await, selling(&books).await);
    wallet(&node).request(get(&gateway, "/q")).await.unwrap();
    let shown = proof(&gateway.seen()[1]).unwrap();
    assert_eq!(shown["accepted"], entry("nanoTxn"));
    assert_eq!(shown["x402Version"], 2);
    assert_eq!(shown["resource"]["url"], "http://x/");
    let block: StateBlock = serde_json::from_value(shown["payload"]["block"].clone()).unwrap();
    assert_eq!(block.destination(), payee());
    assert!(block.work.unwrap().reaches(&block.work_root(), EASY));
}

#[tokio::test]
async fn a_send_of_its_own_is_confirmed_and_then_signed_for() {
    let books = Books::with_balance(1000);
    let node = node(&books).await;
    let gateway =
        Scripted::start(|seen| if proof(seen).is_some() { served(0) } else { bill("", &every_way()) }).await;
    let wallet = wallet_with(&node, paying_by(Mechanism::NanoSignature));
    let payment = wallet.request(get(&gateway, "/q")).await.unwrap().payment().unwrap();
    let sent = processed(&node);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].hash(), sent[0].destination()), (payment.hash, payee()));
    let calls = node.seen();
    let call = calls.iter().find(|seen| seen.action() == "process").unwrap().json();
    assert_eq!(call["subtype"], "send");

    let shown = proof(&gateway.seen()[1]).unwrap();
    assert_eq!(shown["accepted"], entry("nanoSignature"));
    let payload = &shown["payload"];
    assert_eq!(
        (&payload["account"], &payload["blockHash"]),
        (&json!(payer()), &json!(payment.hash.lower_hex()))
    );
    let signature: Signature = payload["signature"].as_str().unwrap().parse().unwrap();
    let message = format!("{}:{NONCE}:2000000000", payment.hash.lower_hex());
    assert_eq!(signature.verify(&payer(), &noms_digest(&message).unwrap()), Ok(()));
}

#[tokio::test]
async fn nothing_is_signed_above_the_limit() {
    let books = Books::with_balance(1000);
    let (node, gateway) = (node(&books).await, selling(&books).await);
    let wallet = wallet_with(&node, WalletOptions::up_to(Raw::new(PRICE - 1)));
    let error = wallet.request(get(&gateway, "/q")).await.unwrap_err();
    assert!(matches!(error, WalletError::TooExpensive { .. }), "{error}");
    assert_eq!((node.seen().len(), gateway.seen().len()), (0, 1));
}

#[tokio::test]
async fn what_is_not_understood_is_not_paid() {
    let books = Books::with_balance(1000);
    let node = node(&books).await;
    for (field, value) in [
        ("scheme", json!("upto")),
        ("network", json!("nano:testnet")),
        ("asset", json!("USDC")),
        ("amount", json!(100)),
        ("amount", json!("0")),
        ("payTo", json!("nano_3recv")),
        ("payTo", json!(Account::BURN)),
        ("extra", json!({})),
        ("extra", json!({"mechanism": "nanoSession", "nonce": NONCE, "validBefore": 1})),
    ] {
        let mut strange = entry("nanoTxn");
        strange[field] = value.clone();
        let gateway = Scripted::start(move |_| bill("", std::slice::from_ref(&strange))).await;
        let error = wallet(&node).request(get(&gateway, "/q")).await.unwrap_err();
        assert!(
            matches!(error, WalletError::NothingPayable(OfferError::NothingKnown { .. })),
            "{field} {value}: {error}"
        );
    }
    let mut hard = entry("nanoTxn");
    hard["extra"]["workThreshold"] = json!("ffffffffffffffff");
    let gateway = Scripted::start(move |_| bill("", std::slice::from_ref(&hard))).await;
    let error = wallet(&node).request(get(&gateway, "/q")).await.unwrap_err();
    assert!(matches!(error, WalletError::WorkTooHard { .. }), "{error}");

    let gateway = Scripted::start(|_| bill("", &[entry("nanoTxn")])).await;
    let error = wallet_with(&node, paying_by(Mechanism::NanoSignature))
        .request(get(&gateway, "/q"))
        .await
        .unwrap_err();
    assert!(matches!(error, WalletError::NothingPayable(OfferError::NotOffered { .. })), "{error}");
    assert_eq!(node.seen().len(), 0);
}

#[tokio::test]
async fn an_unknown_entry_does_not_hide_a_known_one() {
    let books = Books::with_balance(1000);
    let node = node(&books).await;
    let gateway = Scripted::start(|seen| match proof(seen) {
        Some(_) => served(0),
        None => bill("", &[json!({"scheme": "exact", "network": "eip155:1"}), entry("nanoTxn")]),
    })
    .await;
    assert!(wallet(&node).request(get(&gateway, "/q")).await.unwrap().payment().is_some());
}

#[tokio::test]
async fn a_402_of_something_else_is_no_bill() {
    let node = node(&Books::with_balance(0)).await;
    let replies = [
        Reply::text(402, "pay me"),
        Reply::text(402, "").with("PAYMENT-REQUIRED", "%%%"),
        Reply::text(402, "").with("PAYMENT-REQUIRED", &STANDARD.encode("{\"x402Version\":1}")),
    ];
    for reply in replies {
        let gateway = Scripted::start(move |_| reply.clone()).await;
        let error = wallet(&node).request(get(&gateway, "/q")).await.unwrap_err();
        assert!(matches!(error, WalletError::NotAGateway { .. }), "{error}");
    }
    let nobody = nobody();
    let request = reqwest::Request::new(reqwest::Method::GET, nobody.url.clone());
    let error = wallet(&node).request(request).await.unwrap_err();
    assert!(matches!(error, WalletError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_free_answer_is_handed_on() {
    let node = node(&Books::with_balance(0)).await;
    for status in [200, 302, 404, 503] {
        let gateway = Scripted::start(move |_| Reply::text(status, "free").with("Location", "/other")).await;
        let paid = wallet(&node).request(get(&gateway, "/q")).await.unwrap();
        assert_eq!((paid.response.status().as_u16(), paid.payment(), paid.capability), (status, None, None));
        assert_eq!(gateway.seen().len(), 1);
    }
}

/// A gateway that answers its n-th proof with the n-th reply, and serves after the last.
async fn scripted_gateway(replies: Vec<Reply>) -> Scripted {
    let shown = Mutex::new(replies.into_iter());
    Scripted::start(move |seen| match proof(seen) {
        Some(_) => shown.lock().unwrap().next().unwrap_or_else(|| served(0)),
        None => bill("", &every_way()),
    })
    .await
}

fn pending() -> Reply {
    settled(Reply::text(503, "").with("Retry-After", "0"), false, "settlement_pending")
}

#[tokio::test]
async fn not_yet_and_no_answer_are_met_with_the_same_proof() {
    for mechanism in Mechanism::ALL {
        let books = Books::with_balance(1000);
        let node = node(&books).await;
        let unaware = Reply::text(503, "busy").with("Retry-After", "0");
        let gateway = scripted_gateway(vec![pending(), Reply::Drop, unaware]).await;
        let paid = wallet_with(&node, paying_by(mechanism)).request(get(&gateway, "/q")).await.unwrap();
        assert!(paid.payment().unwrap().acknowledged);
        let proofs = proofs(&gateway);
        assert_eq!(proofs.len(), 4, "{mechanism}");
        assert!(proofs.iter().all(|proof| *proof == proofs[0]), "{mechanism}");
    }
}

#[tokio::test]
async fn every_answer_to_a_payment_leaves_the_proof() {
    let node = node(&Books::with_balance(1000)).await;
    let upstreams = settled(Reply::text(503, "down"), true, "");
    for (reply, taken) in [(Reply::text(502, "proxy"), false), (upstreams, true)] {
        let gateway = scripted_gateway(vec![reply]).await;
        let paid = wallet(&node).request(get(&gateway, "/q")).await.unwrap();
        assert_eq!(paid.payment().unwrap().acknowledged, taken);
        assert_eq!(proofs(&gateway), [paid.proof.unwrap().header().to_str().unwrap()]);
    }
}

#[tokio::test]
async fn patience_with_a_pending_payment_has_an_end_and_keeps_the_proof() {
    let node = node(&Books::with_balance(1000)).await;
    let gateway =
        Scripted::start(|seen| if proof(seen).is_some() { pending() } else { bill("", &every_way()) }).await;
    let options =
        WalletOptions { settle_wait: Duration::from_millis(120), ..WalletOptions::up_to(Raw::new(PRICE)) };
    let error = wallet_with(&node, options).request(get(&gateway, "/q")).await.unwrap_err();
    let WalletError::Pending { proof, .. } = error else { panic!("{error}") };
    assert_eq!(proof.header().to_str().unwrap(), proofs(&gateway)[0]);
    assert!(!format!("{proof:?}").contains(proof.header().to_str().unwrap()));
}

#[tokio::test]
async fn a_refused_payment_is_not_made_again() {
    for mechanism in Mechanism::ALL {
        let node = node(&Books::with_balance(1000)).await;
        let gateway = scripted_gateway(vec![settled(bill("X", &every_way()), false, "WRONG_RESOURCE")]).await;
        let error = wallet_with(&node, paying_by(mechanism)).request(get(&gateway, "/q")).await.unwrap_err();
        let WalletError::Refused { reason, proof } = error else { panic!("{error}") };
        assert_eq!((reason.as_str(), proof.payment.mechanism), ("WRONG_RESOURCE", mechanism));
        assert_eq!(proofs(&gateway), [proof.header().to_str().unwrap()]);
        assert!(processed(&node).len() <= 1);
    }
}

fn renewed(pay_to: Account) -> Value {
    let mut fresh = entry("nanoSignature");
    fresh["extra"]["nonce"] = json!(NONCE.replace("ab01", "cd02"));
    fresh["payTo"] = json!(pay_to);
    fresh
}

#[tokio::test]
async fn a_block_shown_too_late_is_signed_again_and_not_paid_again() {
    let node = node(&Books::with_balance(1000)).await;
    let late =
        settled(bill("PAYMENT_EXPIRED", &[entry("nanoTxn"), renewed(payee())]), false, "PAYMENT_EXPIRED");
    let gateway = scripted_gateway(vec![late]).await;
    let wallet = wallet_with(&node, paying_by(Mechanism::NanoSignature));
    assert!(wallet.request(get(&gateway, "/q")).await.unwrap().payment().unwrap().acknowledged);
    assert_eq!(processed(&node).len(), 1);
    let shown: Vec<_> = gateway.seen().iter().filter_map(proof).collect();
    assert_eq!(shown[0]["payload"]["blockHash"], shown[1]["payload"]["blockHash"]);
    assert_ne!(shown[0]["payload"]["signature"], shown[1]["payload"]["signature"]);
    assert_eq!(shown[1]["accepted"], renewed(payee()));
}

#[tokio::test]
async fn a_block_is_not_signed_for_another_address_nor_for_ever() {
    let node = node(&Books::with_balance(1000)).await;
    let elsewhere = settled(bill("", &[renewed(payer())]), false, "PAYMENT_EXPIRED");
    let gateway = scripted_gateway(vec![elsewhere]).await;
    let error = wallet_with(&node, paying_by(Mechanism::NanoSignature))
        .request(get(&gateway, "/q"))
        .await
        .unwrap_err();
    assert!(matches!(error, WalletError::Refused { .. }), "{error}");

    let late = settled(bill("", &[renewed(payee())]), false, "PAYMENT_EXPIRED");
    let gateway = scripted_gateway(vec![late; 10]).await;
    let error = wallet_with(&node, paying_by(Mechanism::NanoSignature))
        .request(get(&gateway, "/q"))
        .await
        .unwrap_err();
    assert!(matches!(error, WalletError::Refused { .. }), "{error}");
    assert_eq!(proofs(&gateway).len(), 4);
}

#[tokio::test]
async fn an_account_is_opened_with_what_waits_for_it() {
    let books = Books::with_balance(0);
    for amount in [30, 80, 1] {
        books.lock().unwrap().let_wait(amount);
    }
    let (node, gateway) = (node(&books).await, selling(&books).await);
    let paid = wallet(&node).request(get(&gateway, "/q")).await.unwrap();
    assert!(paid.payment().unwrap().acknowledged);
    // The two largest are enough.
    let received = processed(&node);
    assert_eq!(received.iter().map(|block| block.balance.get()).collect::<Vec<_>>(), [80, 110]);
    let subtypes: Vec<_> =
        node.seen().iter().map(Seen::json).filter_map(|it| it.get("subtype").cloned()).collect();
    assert_eq!(subtypes, ["open", "receive"]);
    assert_eq!(books.lock().unwrap().frontier.unwrap().balance, Raw::new(10));
}

#[tokio::test]
async fn too_little_money_is_said_before_anything_is_done() {
    let books = Books::with_balance(40);
    books.lock().unwrap().let_wait(59);
    let (node, gateway) = (node(&books).await, selling(&books).await);
    let error = wallet(&node).request(get(&gateway, "/q")).await.unwrap_err();
    let WalletError::NoFunds { account, needed, balance, receivable } = error else { panic!("{error}") };
    assert_eq!((account, needed.get(), balance.get(), receivable.get()), (payer(), PRICE, 40, 59));
    assert_eq!(processed(&node), []);
}

#[tokio::test]
async fn a_send_that_no_node_keeps_is_reported_and_not_shown() {
    let books = Books::with_balance(1000);
    let node = {
        let books = Arc::clone(&books);
        Scripted::start(move |seen| match seen.action().as_str() {
            "process" => Reply::json(&json!({"error": "Fork"})),
            _ => Reply::json(&books.lock().unwrap().answer(&seen.json())),
        })
        .await
    };
    let gateway = scripted_gateway(Vec::new()).await;
    let options =
        WalletOptions { confirm_wait: Duration::from_millis(200), ..paying_by(Mechanism::NanoSignature) };
    let error = wallet_with(&node, options).request(get(&gateway, "/q")).await.unwrap_err();
    assert!(matches!(error, WalletError::NotSent { .. }), "{error}");
    assert_eq!(proofs(&gateway).len(), 0);
}

#[tokio::test]
async fn the_next_block_waits_until_the_node_shows_the_last() {
    for mechanism in Mechanism::ALL {
        // The gateway accepts the first payment, and the wallet's node never shows it.
        let books = Books::with_balance(1000);
        books.lock().unwrap().forgetful = true;
        let node = node(&books).await;
        let gateway = scripted_gateway(Vec::new()).await;
        let options = WalletOptions { confirm_wait: Duration::from_millis(300), ..paying_by(mechanism) };
        let wallet = wallet_with(&node, options);
        assert!(wallet.request(get(&gateway, "/q")).await.unwrap().payment().unwrap().acknowledged);
        let error = wallet.request(get(&gateway, "/q")).await.unwrap_err();
        assert!(matches!(error, WalletError::Unsettled { .. }), "{mechanism}: {error}");
        assert_eq!(proofs(&gateway).len(), 1, "{mechanism}");
    }
}

#[tokio::test]
async fn payments_at_once_make_a_chain_and_no_fork() {
    let books = Books::with_balance(1000);
    let node = node(&books).await;
    let gateways = [selling(&books).await, selling(&books).await, selling(&books).await];
    let wallet = Arc::new(wallet(&node));
    let tasks: Vec<_> = gateways
        .iter()
        .map(|gateway| {
            let (wallet, request) = (Arc::clone(&wallet), get(gateway, "/q"));
            tokio::spawn(async move { wallet.request(request).await })
        })
        .collect();
    for task in tasks {
        assert!(task.await.unwrap().unwrap().payment().unwrap().acknowledged);
    }
    assert_eq!(books.lock().unwrap().frontier.unwrap().balance, Raw::new(1000 - 3 * PRICE));
}

#[tokio::test]
async fn requests_at_once_for_one_place_share_what_the_first_bought() {
    let books = Books::with_balance(1000);
    let (node, gateway) = (node(&books).await, selling(&books).await);
    let wallet = Arc::new(wallet(&node));
    let tasks: Vec<_> = (0..3)
        .map(|_| {
            let (wallet, request) = (Arc::clone(&wallet), get(&gateway, "/q"));
            tokio::spawn(async move { wallet.request(request).await })
        })
        .collect();
    let mut payments = 0;
    for task in tasks {
        payments += usize::from(task.await.unwrap().unwrap().payment().is_some());
    }
    assert_eq!(payments, 1);
}

#[tokio::test]
async fn a_capability_serves_its_route_and_never_leaves_its_origin() {
    let books = Books::with_balance(1000);
    let (node, gateway, stranger) = (node(&books).await, selling(&books).await, selling(&books).await);
    let wallet = wallet(&node);
    for _ in 0..2 {
        wallet.request(get(&gateway, "/q/a")).await.unwrap();
    }
    let other = wallet.request(get(&gateway, "/q/b")).await.unwrap();
    assert_eq!(other.payment(), None, "the bill names the same route");
    assert_eq!(other.capability.unwrap().remaining, Some(0));
    wallet.request(get(&stranger, "/q/a")).await.unwrap();
    let told = stranger.seen();
    assert!(told.iter().all(|seen| seen.header("PAYMENT-CAPABILITY").is_none()));
}

#[tokio::test]
async fn a_capability_that_is_no_longer_good_is_paid_for_anew() {
    let books = Books::with_balance(1000);
    let node = node(&books).await;
    let gateway = Scripted::start(|seen| match proof(seen) {
        Some(_) => served(7),
        None => bill("CAPABILITY_UNKNOWN", &every_way()),
    })
    .await;
    let wallet = wallet_with(&node, paying_by(Mechanism::NanoSignature));
    for _ in 0..2 {
        let paid = wallet.request(get(&gateway, "/q")).await.unwrap();
        assert!(paid.payment().is_some());
        let capability = paid.capability.unwrap();
        let expires_at = Some(faregate::nano::UnixSeconds(2_000_000_000));
        assert_eq!((capability.remaining, capability.expires_at), (Some(7), expires_at));
    }
    let tried: Vec<_> =
        gateway.seen().iter().map(|seen| seen.header("PAYMENT-CAPABILITY").is_some()).collect();
    assert_eq!(tried, [false, false, true, false]);
}

#[tokio::test]
async fn a_capability_is_kept_through_every_answer_but_that_its_route_is_gone() {
    let books = Books::with_balance(1000);
    let node = node(&books).await;
    for (status, times_shown) in [(500, 2), (404, 2), (410, 1)] {
        let gateway = Scripted::start(move |seen| match (proof(seen), seen.header("PAYMENT-CAPABILITY")) {
            (Some(_), _) => served(7),
            (None, Some(_)) => Reply::text(status, "broken"),
            (None, None) => bill("", &every_way()),
        })
        .await;
        let wallet = wallet_with(&node, paying_by(Mechanism::NanoSignature));
        for _ in 0..3 {
            wallet.request(get(&gateway, "/q")).await.unwrap();
        }
        let shown = gateway.seen().iter().filter(|it| it.header("PAYMENT-CAPABILITY").is_some()).count();
        assert_eq!(shown, times_shown, "{status}");
    }
}

#[tokio::test]
async fn an_origin_that_cannot_be_reached_is_named_with_the_cause() {
    let node = node(&Books::with_balance(1000)).await;
    let nowhere = nobody();
    let request = reqwest::Request::new(reqwest::Method::GET, nowhere.url.join("/q").unwrap());
    let error = wallet(&node).request(request).await.unwrap_err().to_string();
    let origin = nowhere.url.origin().ascii_serialization();
    assert!(error.contains(&origin) && error.contains("refused"), "{error}");
}

#[tokio::test]
async fn the_body_and_the_headers_are_sent_with_the_proof_too() {
    let books = Books::with_balance(1000);
    let (node, gateway) = (node(&books).await, selling(&books).await);
    let mut request = get(&gateway, "/q?x=1");
    *request.method_mut() = reqwest::Method::POST;
    *request.body_mut() = Some("question".into());
    request.headers_mut().insert("x-mine", "yes".parse().unwrap());
    wallet(&node).request(request).await.unwrap();
    for seen in gateway.seen() {
        assert_eq!(
            (seen.method.as_str(), seen.path.as_str(), seen.body.as_slice()),
            ("POST", "/q?x=1", &b"question"[..])
        );
        assert_eq!(seen.header("x-mine"), Some("yes"));
    }
    assert_eq!(gateway.seen().len(), 2);
}

#[tokio::test]
async fn a_day_has_its_own_limit_and_nothing_is_signed_above_it() {
    let directory = tempfile::tempdir().unwrap();
    for file in [None, Some(directory.path().join("spent"))] {
        let books = Books::with_balance(10_000);
        let (node, gateway) = (node(&books).await, selling(&books).await);
        let per_day = Some(DayLimit { max: Raw::new(2 * PRICE + PRICE / 2), file: file.clone() });
        let options = WalletOptions { per_day, ..WalletOptions::up_to(Raw::new(PRICE)) };
        let mut wallet = wallet_with(&node, options.clone());
        // One payment buys three requests, so there are two payments.
        for number in 0..6 {
            wallet
                .get(url_of(&gateway, "/q"))
                .send()
                .await
                .unwrap_or_else(|error| panic!("{number}: {error}"));
        }
        if file.is_some() {
            wallet = wallet_with(&node, options);
        }
        let asked_before = node.seen().len();
        let refused = wallet.get(url_of(&gateway, "/q")).send().await.unwrap_err();
        assert_eq!(node.seen().len(), asked_before, "no work is made for it");
        let WalletError::DayLimit(AllowanceError::Spent { asked, spent, max }) = refused else {
            panic!("{refused}")
        };
        assert_eq!((asked.get(), spent.get(), max.get()), (PRICE, 2 * PRICE, 2 * PRICE + PRICE / 2));
        assert_eq!(books.lock().unwrap().frontier.unwrap().balance.get(), 10_000 - 2 * PRICE);
        // No proof was sent after the two paid ones.
        assert_eq!(proofs(&gateway).len(), 2);
    }
}

#[tokio::test]
async fn a_draft_is_sent_as_it_was_put_together() {
    let books = Books::with_balance(1000);
    let (node, gateway) = (node(&books).await, selling(&books).await);
    let wallet = wallet(&node);
    let paid = wallet
        .post(url_of(&gateway, "/q"))
        .query(&[("a", "b c")])
        .header(reqwest::header::ACCEPT_LANGUAGE, "eo".parse().unwrap())
        .json(&json!({"ask": 1}))
        .send()
        .await
        .unwrap();
    assert_eq!(paid.response.status(), 200);
    let seen = gateway.seen();
    assert_eq!(seen.len(), 2);
    for seen in seen {
        assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/q?a=b+c"));
        assert_eq!((seen.header("accept-language"), seen.body.as_slice()), (Some("eo"), &b"{\"ask\":1}"[..]));
    }
    let fault = wallet.get("no address").send().await.unwrap_err();
    assert!(matches!(fault, WalletError::NoRequest(_)), "{fault}");
}

#[tokio::test]
async fn a_wallet_opens_from_a_seed_file_and_says_what_is_wrong_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let seed = seed_file(directory.path());
    let open = |node: &str| Wallet::open(&seed, [node], WalletOptions::up_to(Raw::new(PRICE)));
    assert_eq!(open("http://127.0.0.1:1").unwrap().account(), payer());
    let fault = |node: &str| open(node).unwrap_err().to_string();
    assert_eq!(fault("127.0.0.1"), "\"127.0.0.1\" is not the URL of a node: relative URL without a base");
    assert_eq!(fault("ftp://a"), "a node's URL must start with http:// or https://, not ftp:");
    std::fs::remove_file(&seed).unwrap();
    assert!(fault("http://a").ends_with("there is no such file"));
}
