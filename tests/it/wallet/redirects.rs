//! Redirects: followed only when asked to, only within one origin, and paid for once.

use faregate::nano::Raw;
use faregate::wallet::{Redirect, WalletError, WalletOptions};
use reqwest::{Method, Request};

use super::world::{Books, PRICE, bill, every_way, get, node, proof, proofs, served, wallet, wallet_with};
use crate::scripted::{Reply, Scripted, Seen};

fn following() -> WalletOptions {
    WalletOptions { follow: true, ..WalletOptions::up_to(Raw::new(PRICE)) }
}

fn leads_to(status: u16, location: &str) -> Reply {
    Reply::text(status, "").with("Location", location)
}

/// Sells `/old`, whose answer is a redirect. The capability opens `/new` as well.
async fn moved(status: u16, location: &'static str) -> Scripted {
    Scripted::start(move |seen| {
        let is_paid = proof(seen).is_some() || seen.header("PAYMENT-CAPABILITY").is_some();
        match seen.path.as_str() {
            "/old" if is_paid => served_with(leads_to(status, location)),
            "/new" if is_paid => served(1),
            "/free" => Reply::text(200, "free"),
            _ => bill("", &every_way()),
        }
    })
    .await
}

/// `reply` as the answer to what was paid for.
fn served_with(reply: Reply) -> Reply {
    super::world::settled(reply.with("PAYMENT-CAPABILITY", "tok; remaining=2; expires=2000000000"), true, "")
}

fn paths(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(|it| it.path.as_str()).collect()
}

#[tokio::test]
async fn one_payment_is_made_however_many_redirects_there_are() {
    let node = node(&Books::with_balance(1000)).await;
    let gateway = moved(302, "/new").await;
    let mut paid = wallet_with(&node, following()).request(get(&gateway, "/old")).await.unwrap();
    assert_eq!(paid.bytes(100).await.unwrap(), b"quote");
    assert!(paid.payment().unwrap().acknowledged, "the payment of the first answer");
    assert_eq!(paid.capability.unwrap().remaining, Some(1));
    assert_eq!(proofs(&gateway).len(), 1);
}

#[tokio::test]
async fn what_a_redirect_leads_to_is_not_paid_for_as_well() {
    let node = node(&Books::with_balance(1000)).await;
    let gateway = moved(302, "/dear").await;
    let error = wallet_with(&node, following()).request(get(&gateway, "/old")).await.unwrap_err();
    let WalletError::AfterRedirect { error: inner, so_far } = &error else { panic!("{error}") };
    assert!(matches!(**inner, WalletError::BilledAgain { .. }), "{inner}");
    assert_eq!(proofs(&gateway), [error.proof().unwrap().header().to_str().unwrap()]);
    assert_eq!(so_far.capability.as_ref().unwrap().token(), "tok");
}

#[tokio::test]
async fn nothing_is_sent_to_another_origin() {
    let node = node(&Books::with_balance(1000)).await;
    let stranger = Scripted::start(|_| Reply::text(200, "gotcha")).await;
    let elsewhere = stranger.url.join("/new").unwrap();
    let location: &'static str = elsewhere.to_string().leak();
    let gateway = moved(302, location).await;
    let paid = wallet_with(&node, following()).request(get(&gateway, "/old")).await.unwrap();
    assert_eq!(paid.response.status(), 302);
    let redirect = Redirect::of(&paid.response).unwrap();
    assert_eq!((redirect.to, redirect.is_same_origin), (elsewhere, false));
    assert_eq!(stranger.seen().len(), 0);
}

#[tokio::test]
async fn without_the_option_the_redirect_is_the_answer() {
    let node = node(&Books::with_balance(1000)).await;
    let gateway = moved(302, "/new").await;
    let paid = wallet(&node).request(get(&gateway, "/old")).await.unwrap();
    assert_eq!(paid.response.status(), 302);
    let redirect = Redirect::of(&paid.response).unwrap();
    assert_eq!((redirect.to.path(), redirect.is_same_origin), ("/new", true));
    assert_eq!(paths(&gateway.seen()), ["/old", "/old"]);
}

/// Once the capability was lost if the answer that a redirect led to had none.
#[tokio::test]
async fn what_was_bought_on_the_way_is_not_lost() {
    let node = node(&Books::with_balance(1000)).await;
    let gateway = moved(302, "/free").await;
    let mut paid = wallet_with(&node, following()).request(get(&gateway, "/old")).await.unwrap();
    assert_eq!(paid.bytes(100).await.unwrap(), b"free");
    assert!(paid.proof.is_some());
    let capability = paid.capability.unwrap();
    assert_eq!((capability.token(), capability.remaining), ("tok", Some(2)));
}

/// RFC 9110 section 15.4: which redirects keep the method and the body.
#[tokio::test]
async fn the_method_and_the_body_follow_the_status() {
    let node = node(&Books::with_balance(1000)).await;
    for (status, method, kept) in [
        (301, Method::POST, Some("GET")),
        (302, Method::POST, Some("GET")),
        (303, Method::POST, Some("GET")),
        (303, Method::PUT, Some("GET")),
        (307, Method::POST, Some("POST")),
        (308, Method::POST, Some("POST")),
        (302, Method::PUT, Some("PUT")),
        (300, Method::GET, None),
        (304, Method::GET, None),
    ] {
        let case = format!("{status} to {method}");
        let gateway = Scripted::start(move |seen| match seen.path.as_str() {
            "/old" => leads_to(status, "/free?x=1"),
            _ => Reply::text(200, "free"),
        })
        .await;
        let mut request = Request::new(method, gateway.url.join("/old").unwrap());
        request.headers_mut().insert("content-type", "text/x-mine".parse().unwrap());
        *request.body_mut() = Some("body".into());
        wallet_with(&node, following()).request(request).await.unwrap();
        let seen = gateway.seen();
        assert_eq!(seen.get(1).map(|it| it.method.as_str()), kept, "{case}");
        let Some(second) = seen.get(1) else { continue };
        let is_whole = second.method != "GET";
        assert_eq!(second.path, "/free?x=1", "{case}");
        assert_eq!(second.body.as_slice(), if is_whole { &b"body"[..] } else { b"" }, "{case}");
        assert_eq!(second.header("content-type").is_some(), is_whole, "{case}");
    }
}

#[tokio::test]
async fn a_loop_has_an_end() {
    let node = node(&Books::with_balance(1000)).await;
    let gateway = Scripted::start(|_| leads_to(302, "/again")).await;
    let paid = wallet_with(&node, following()).request(get(&gateway, "/again")).await.unwrap();
    assert_eq!(paid.response.status(), 302);
    assert_eq!(gateway.seen().len(), 11, "the request and ten redirects");
}
