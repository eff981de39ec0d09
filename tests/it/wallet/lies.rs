//! A node that lies about the payer's money: whatever it says, no block moves another amount than the
//! price, and none is signed on contents that are not proven.
//!
//! A node that understated the balance by 0.5 XNO once made a purchase of 0.0001 XNO move 0.5001 XNO.

use std::sync::{Arc, Mutex};

use faregate::ledger::LedgerError;
use faregate::nano::{Account, BlockHash, Raw, Representative, StateBlock};
use faregate::payment::Mechanism;
use faregate::wallet::WalletError;
use serde_json::{Value, json};

use super::world::{Books, PRICE, get, node_that, payee, payer, processed, proofs, selling, wallet};
use super::world::{bill, every_way, paying_by, proof, served, wallet_with};
use crate::scripted::Scripted;

const STRANGER: Account = Account([0x66; 32]);

/// A payment of 100 raw from 1000 raw, with a node whose answers `lie` has changed.
async fn pay(
    books: &Arc<Mutex<Books>>,
    lie: impl Fn(&Value, &mut Value) + Send + Sync + 'static,
) -> (Result<(), WalletError>, Vec<StateBlock>, usize) {
    let (node, gateway) = (node_that(books, lie).await, selling(books).await);
    let paid = wallet(&node).request(get(&gateway, "/q")).await.map(drop);
    (paid, processed(&node), proofs(&gateway).len())
}

/// Asserts that the payment failed because the node is not believed, and that no block was signed.
#[track_caller]
fn assert_nothing_signed(
    case: &str,
    (paid, published, shown): (Result<(), WalletError>, Vec<StateBlock>, usize),
) {
    let error = paid.expect_err(case);
    assert!(matches!(error, WalletError::Ledger(LedgerError::NotBelieved(_))), "{case}: {error}");
    assert_eq!((published, shown), (Vec::new(), 0), "{case}");
}

#[tokio::test]
async fn a_false_balance_or_representative_of_the_account_changes_nothing() {
    for balance in ["1", "500", "1500"] {
        let books = Books::with_balance(1000);
        let lie = move |call: &Value, answer: &mut Value| {
            if call["action"] == "account_info" {
                answer["balance"] = json!(balance);
                answer["confirmed_balance"] = json!(balance);
                answer["representative"] = json!(STRANGER);
            }
        };
        pay(&books, lie).await.0.unwrap();
        let sent = books.lock().unwrap().frontier.unwrap();
        assert_eq!(sent.balance, Raw::new(1000 - PRICE), "{balance}");
        assert_eq!((sent.destination(), sent.representative), (payee(), Representative(payer())));
    }
}

/// What a lying node changes in a block that it shows.
type Falsify = fn(&mut StateBlock);

#[tokio::test]
async fn a_false_frontier_block_gets_nothing_signed() {
    let change: [(&str, Falsify); 4] = [
        ("the balance is understated", |block| block.balance = Raw::new(500)),
        ("the balance is overstated", |block| block.balance = Raw::new(5000)),
        ("the representative is another", |block| block.representative = Representative(STRANGER)),
        ("the block is another", |block| block.previous = BlockHash([3; 32])),
    ];
    for (case, change) in change {
        let books = Books::with_balance(1000);
        let lie = move |call: &Value, answer: &mut Value| {
            if call["action"] == "block_info" {
                let mut block: StateBlock = serde_json::from_value(answer["contents"].clone()).unwrap();
                change(&mut block);
                answer["balance"] = json!(block.balance);
                answer["contents"] = json!(block);
            }
        };
        assert_nothing_signed(case, pay(&books, lie).await);
    }
}

/// Its hash is right, and it is not the payer's.
#[tokio::test]
async fn another_accounts_block_is_no_frontier() {
    let books = Books::with_balance(1000);
    let foreign = books.lock().unwrap().foreign_block();
    let lie = move |call: &Value, answer: &mut Value| {
        if call["action"] == "account_info" {
            answer["frontier"] = json!(foreign);
            answer["confirmed_frontier"] = json!(foreign);
        }
    };
    assert_nothing_signed("another account's block", pay(&books, lie).await);
}

#[tokio::test]
async fn a_false_amount_to_receive_gets_nothing_signed() {
    for amount in ["40", "99", "101", "100000"] {
        let books = Books::with_balance(60);
        books.lock().unwrap().let_wait(100);
        let lie = move |call: &Value, answer: &mut Value| {
            if call["action"] == "receivable" {
                for entry in answer["blocks"].as_object_mut().unwrap().values_mut() {
                    entry["amount"] = json!(amount);
                }
            }
        };
        assert_nothing_signed(amount, pay(&books, lie).await);
    }
}

/// The amount of a send follows from two blocks; the node lies about the list and the one before.
#[tokio::test]
async fn a_false_block_before_a_send_gets_nothing_signed() {
    let books = Books::with_balance(60);
    let send = books.lock().unwrap().let_wait(100);
    let lie = move |call: &Value, answer: &mut Value| {
        if call["action"] == "receivable" {
            answer["blocks"][send.hash().to_string()]["amount"] = json!("1000");
        }
        if call["action"] == "block_info" && call["hash"] == send.previous.to_string() {
            let mut before: StateBlock = serde_json::from_value(answer["contents"].clone()).unwrap();
            before.balance = Raw::new(send.balance.get() + 1000);
            answer["contents"] = json!(before);
        }
    };
    assert_nothing_signed("the block before the send", pay(&books, lie).await);
}

#[tokio::test]
async fn a_send_to_another_account_is_not_received() {
    let books = Books::with_balance(60);
    books.lock().unwrap().let_wait_for(STRANGER, 100);
    assert_nothing_signed("a stranger's send", pay(&books, |_, _| {}).await);
}

/// The block that the wallet publishes itself moves the price too.
#[tokio::test]
async fn a_false_balance_does_not_change_a_published_send() {
    let books = Books::with_balance(1000);
    let lie = |call: &Value, answer: &mut Value| {
        if call["action"] == "account_info" {
            answer["balance"] = json!("500");
        }
    };
    let node = node_that(&books, lie).await;
    let gateway =
        Scripted::start(|seen| if proof(seen).is_some() { served(0) } else { bill("", &every_way()) }).await;
    wallet_with(&node, paying_by(Mechanism::NanoSignature)).request(get(&gateway, "/q")).await.unwrap();
    let published = processed(&node);
    assert_eq!(published.iter().map(|it| it.balance.get()).collect::<Vec<_>>(), [1000 - PRICE]);
}
