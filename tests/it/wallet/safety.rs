//! What keeps the wallet from paying twice, from building on a block that may vanish, and from
//! spending unnoticed: each of these tests fails if its rule is broken.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use faregate::nano::{Raw, StateBlock};
use faregate::payment::Mechanism;
use faregate::wallet::{DayLimit, WalletError, WalletOptions};
use serde_json::json;

use super::pending;
use super::world::{
    Books, EASY, PRICE, bill, every_way, get, node, paying_by, processed, proof, proofs, selling, served,
    wallet_with,
};
use crate::scripted::{Reply, Scripted};

/// A payment that is noted after its block is out would not count after a crash between the two.
#[tokio::test]
async fn a_payment_is_noted_before_anybody_gets_its_block() {
    for mechanism in Mechanism::ALL {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("spent");
        let books = Books::with_balance(1000);
        // The number of notes on the disk each time a block leaves the wallet.
        let notes = Arc::new(Mutex::new(Vec::new()));
        let look = {
            let (notes, file) = (Arc::clone(&notes), file.clone());
            move || {
                let text = std::fs::read_to_string(&file).unwrap_or_default();
                notes.lock().unwrap().push(text.lines().count());
            }
        };
        let node = {
            let look = look.clone();
            Scripted::start(move |seen| {
                if seen.action() == "process" {
                    look();
                }
                Reply::json(&books.lock().unwrap().answer(&seen.json()))
            })
            .await
        };
        let gateway = Scripted::start(move |seen| {
            if proof(seen).is_none() {
                return bill("", &every_way());
            }
            look();
            served(0)
        })
        .await;
        let per_day = Some(DayLimit { max: Raw::new(PRICE), file: Some(file) });
        let wallet = wallet_with(&node, WalletOptions { per_day, ..paying_by(mechanism) });
        wallet.request(get(&gateway, "/q")).await.unwrap();
        // A `nanoTxn` block goes to the gateway only, the others to the node first.
        let expected: &[usize] = if mechanism == Mechanism::NanoTxn { &[1] } else { &[1, 1] };
        assert_eq!(*notes.lock().unwrap(), expected, "{mechanism}");
    }
}

/// A pending block may still be confirmed. A second block on the same predecessor would be a fork, and
/// the wallet would not know which of its two payments has happened.
#[tokio::test]
async fn a_pending_block_is_not_forgotten() {
    for answer in [pending(), Reply::Drop] {
        let books = Books::with_balance(1000);
        books.lock().unwrap().forgetful = true;
        let node = node(&books).await;
        let gateway = Scripted::start(move |seen| match proof(seen) {
            Some(_) => answer.clone(),
            None => bill("", &every_way()),
        })
        .await;
        let options = WalletOptions {
            settle_wait: Duration::from_millis(60),
            confirm_wait: Duration::from_millis(300),
            ..paying_by(Mechanism::NanoTxn)
        };
        let wallet = wallet_with(&node, options);
        let first = wallet.request(get(&gateway, "/q")).await.unwrap_err();
        assert!(matches!(first, WalletError::Pending { .. } | WalletError::AnswerLost { .. }), "{first}");
        let second = wallet.request(get(&gateway, "/q")).await.unwrap_err();
        assert!(matches!(second, WalletError::Unsettled { .. }), "{second}");
        let proofs = proofs(&gateway);
        assert!(proofs.iter().all(|it| *it == proofs[0]), "another block was signed");
    }
}

/// An unconfirmed block can lose to a fork, and then everything on it is lost too.
#[tokio::test]
async fn no_block_is_built_on_an_unconfirmed_one() {
    for mechanism in Mechanism::ALL {
        let books = Books::with_balance(1000);
        books.lock().unwrap().unconfirmed = true;
        let (node, gateway) = (node(&books).await, selling(&books).await);
        let options = WalletOptions { confirm_wait: Duration::from_millis(300), ..paying_by(mechanism) };
        let error = wallet_with(&node, options).request(get(&gateway, "/q")).await.unwrap_err();
        assert!(matches!(error, WalletError::Unsettled { .. }), "{mechanism}: {error}");
        assert_eq!((processed(&node), proofs(&gateway)), (Vec::<StateBlock>::new(), Vec::<String>::new()));
    }
    let books = Books::with_balance(1000);
    let (node, gateway) = (node(&books).await, selling(&books).await);
    let paid = wallet_with(&node, paying_by(Mechanism::NanoTxn)).request(get(&gateway, "/q")).await.unwrap();
    assert!(paid.payment().unwrap().acknowledged, "once it is confirmed, it is built upon");
}

/// With a node's impossible threshold the wallet would compute work for ever.
#[tokio::test]
async fn work_that_a_node_makes_impossible_is_not_begun() {
    let hard = "ffffffffffffffff";
    for (send, receive) in [(json!(hard), json!(EASY)), (json!(EASY), json!(hard))] {
        let books = Books::with_balance(1000);
        let node = Scripted::start(move |seen| match seen.action().as_str() {
            "active_difficulty" => {
                Reply::json(&json!({"network_minimum": send, "network_receive_minimum": receive}))
            }
            _ => Reply::json(&books.lock().unwrap().answer(&seen.json())),
        })
        .await;
        let gateway = Scripted::start(|_| bill("", &every_way())).await;
        let wallet = wallet_with(&node, paying_by(Mechanism::NanoSignature));
        let asked = wallet.request(get(&gateway, "/q"));
        let error = crate::patience::soon("an answer", asked).await.unwrap_err();
        assert!(matches!(error, WalletError::WorkTooHard { .. }), "{error}");
        assert_eq!(processed(&node), []);
    }
}
