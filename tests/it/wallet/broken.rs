//! An answer that breaks off after a payment: the error says what was paid and what that bought. Once
//! it said neither, and the capability was lost with the answer.

use faregate::wallet::{Paid, WalletError};

use super::world::{Books, bill, every_way, get, node, proof, proofs, served, wallet};
use crate::scripted::{Reply, Scripted};

/// Sells one request and two more, and cuts every answer short.
async fn cutting() -> Scripted {
    Scripted::start(|seen| match (proof(seen), seen.header("PAYMENT-CAPABILITY")) {
        (Some(_), _) => served(2).cut(3),
        (None, Some("tok")) => served(1).cut(3),
        (None, _) => bill("", &every_way()),
    })
    .await
}

async fn read(mut paid: Paid) -> WalletError {
    paid.bytes(1024).await.expect_err("an answer that is cut short")
}

#[tokio::test]
async fn a_broken_answer_leaves_what_was_paid_and_bought() {
    let node = node(&Books::with_balance(1000)).await;
    let gateway = cutting().await;
    let wallet = wallet(&node);
    let error = read(wallet.request(get(&gateway, "/q")).await.unwrap()).await;
    assert!(matches!(error, WalletError::AnswerBroken { .. }), "{error}");
    let proof = error.proof().unwrap();
    assert_eq!(proofs(&gateway), [proof.header().to_str().unwrap()]);
    assert!(proof.payment.acknowledged);
    assert!(error.to_string().contains(&proof.payment.hash.to_string()), "{error}");
    let capability = error.capability().unwrap();
    assert_eq!((capability.token(), capability.remaining), ("tok", Some(2)));
    assert!(!format!("{error} {error:?}").contains("tok\""), "{error:?}");
    // The next request takes a use of the capability: nothing is paid for it, and the error says so.
    let error = read(wallet.request(get(&gateway, "/q")).await.unwrap()).await;
    assert!(error.proof().is_none());
    assert_eq!(error.capability().unwrap().remaining, Some(1));
    assert!(error.to_string().contains("nothing was paid"), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_too_long_leaves_them_too() {
    let node = node(&Books::with_balance(1000)).await;
    let gateway = Scripted::start(|seen| match proof(seen) {
        Some(_) => served(2),
        None => bill("", &every_way()),
    })
    .await;
    let mut paid = wallet(&node).request(get(&gateway, "/q")).await.unwrap();
    let error = paid.bytes("quote".len() - 1).await.unwrap_err();
    assert!(matches!(error, WalletError::AnswerTooLong { max: 4, .. }), "{error}");
    assert!(error.proof().is_some());
    assert_eq!(error.capability().unwrap().token(), "tok");
    let mut paid = wallet(&node).request(get(&gateway, "/q")).await.unwrap();
    assert_eq!(paid.bytes("quote".len()).await.unwrap(), b"quote");
}

#[tokio::test]
async fn a_payment_that_never_left_says_so() {
    let node = node(&Books::with_balance(1000)).await;
    let gateway = Scripted::start(|_| Reply::Drop).await;
    let error = wallet(&node).request(get(&gateway, "/q")).await.unwrap_err();
    assert!(error.proof().is_none() && error.capability().is_none(), "{error}");
}
