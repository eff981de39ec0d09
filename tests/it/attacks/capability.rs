//! Attacks on the capability: what was bought is neither more nor longer nor wider.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use faregate::payment::capability::CapabilityId;
use faregate::x402::encode_header;
use serde_json::json;

use super::{Footprint, PROOF, QUOTE, scene};
use crate::rig::{Plan, Rig, capability, error, manual_clock, offers};

const CAPABILITY: &str = "PAYMENT-CAPABILITY";
const SEARCH: &str = "/v1/search/a";

/// A gateway, and the token of a capability with four uses left.
async fn bought(plan: Plan) -> (Rig, String) {
    let (rig, payer) = scene(plan).await;
    let answer = rig.pay(&payer, SEARCH).await;
    assert_eq!(answer.status(), 200);
    let (token, left) = capability(&answer);
    assert_eq!(left, 4);
    (rig, token)
}

/// Asserts that the token buys nothing and costs the gateway no question.
async fn refused(rig: &Rig, path: &str, token: &str, code: &str) {
    let before = Footprint::of(rig);
    let answer = rig.get(path, &[(CAPABILITY, token)]).await;
    assert_eq!(offers(&answer).offers.len(), 2, "with a bill");
    assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (402, code), "{token}");
    assert_eq!(Footprint::of(rig), before);
}

async fn served(rig: &Rig, token: &str, left: u32) {
    let answer = rig.get(SEARCH, &[(CAPABILITY, token)]).await;
    assert_eq!((answer.status().as_u16(), capability(&answer).1), (200, left));
}

#[tokio::test]
async fn a_capability_of_one_route_is_shown_on_another() {
    let (rig, token) = bought(Plan::default()).await;
    refused(&rig, QUOTE, &token, "WRONG_RESOURCE").await;
    refused(&rig, "/paid", &token, "WRONG_RESOURCE").await;
    served(&rig, &token, 3).await;
    rig.end().await;
}

#[tokio::test]
async fn every_byte_of_a_token_is_flipped_and_every_length_tried() {
    let (rig, token) = bought(Plan::default()).await;
    let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
    for at in 0..bytes.len() {
        let mut bent = bytes.clone();
        bent[at] ^= 1 << (at % 8);
        refused(&rig, SEARCH, &URL_SAFE_NO_PAD.encode(bent), "CAPABILITY_UNKNOWN").await;
    }
    for length in 1..token.len() {
        refused(&rig, SEARCH, &token[..length], "CAPABILITY_UNKNOWN").await;
    }
    served(&rig, &token, 3).await;
    rig.end().await;
}

#[tokio::test]
async fn a_token_is_forged_bent_in_its_spelling_or_of_another_gateway() {
    let (rig, token) = bought(Plan::default()).await;
    let (other, foreign) = bought(Plan::default()).await;
    refused(&rig, SEARCH, &foreign, "CAPABILITY_UNKNOWN").await;
    let longer = format!("{token}A");
    let shouted = token.to_uppercase();
    for forged in ["A", ";", "; remaining=9", "null", &"A".repeat(71), &"A".repeat(72), &longer, &shouted] {
        refused(&rig, SEARCH, forged, "CAPABILITY_UNKNOWN").await;
    }
    // What follows the semicolon is the gateway's word to the client, not the client's to the gateway.
    served(&rig, &format!("{token}; remaining=4000000000; expires=99999999999"), 3).await;
    served(&rig, &format!("{token}; remaining=0; expires=1"), 2).await;
    rig.end().await;
    other.end().await;
}

#[tokio::test]
async fn a_capability_is_used_after_its_time() {
    let (clock, seconds) = manual_clock();
    let (rig, token) = bought(Plan { clock, ..Plan::default() }).await;
    seconds.fetch_add(3599, std::sync::atomic::Ordering::SeqCst);
    served(&rig, &token, 3).await;
    seconds.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    refused(&rig, SEARCH, &token, "CAPABILITY_EXPIRED").await;
    rig.end().await;
}

#[tokio::test]
async fn a_capability_is_used_up() {
    let (rig, token) = bought(Plan::default()).await;
    for left in (0..4).rev() {
        served(&rig, &token, left).await;
    }
    refused(&rig, SEARCH, &token, "CAPABILITY_EXHAUSTED").await;
    assert_eq!(rig.upstream.seen().len(), 5);
    rig.end().await;
}

#[tokio::test]
async fn four_uses_are_asked_for_by_forty_at_once() {
    let (rig, token) = bought(Plan::default()).await;
    let headers = [(CAPABILITY, token.as_str())];
    let answers = (0..40).map(|_| rig.get(SEARCH, &headers));
    let answers = futures_util::future::join_all(answers).await;
    let served = answers.iter().filter(|it| it.status() == 200).count();
    assert_eq!((served, rig.upstream.seen().len()), (4, 5));
    assert!(answers.iter().all(|it| [200, 402, 503].contains(&it.status().as_u16())));
    rig.end().await;
}

#[tokio::test]
async fn a_capability_comes_as_a_payment() {
    let (rig, token) = bought(Plan::default()).await;
    let access = |token: &str| {
        encode_header(&json!({ "x402Version": 2, "payload": { "mode": "access", "credential": token } }))
    };
    let answer = rig.get(SEARCH, &[(PROOF, &access(&token))]).await;
    assert_eq!((answer.status().as_u16(), capability(&answer).1), (200, 3));
    for (path, token, code) in [
        (QUOTE, token.as_str(), "WRONG_RESOURCE"),
        (SEARCH, "made-up", "CAPABILITY_UNKNOWN"),
        (SEARCH, "", "MALFORMED_PAYLOAD"),
    ] {
        let before = Footprint::of(&rig);
        let answer = rig.get(path, &[(PROOF, &access(token))]).await;
        assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (402, code));
        assert_eq!(Footprint::of(&rig), before);
    }
    rig.end().await;
}

#[tokio::test]
async fn a_revoked_capability_is_used() {
    let (rig, token) = bought(Plan::default()).await;
    // A token begins with its version and the public name of the capability.
    let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
    let id = CapabilityId(bytes[1..17].try_into().unwrap());
    assert!(rig.services.capabilities().revoke(id).await.unwrap());
    let before = Footprint::of(&rig);
    let answer = rig.get(SEARCH, &[(CAPABILITY, &token)]).await;
    assert_eq!(answer.status(), 402);
    assert_eq!(Footprint::of(&rig), before);
    rig.end().await;
}

#[tokio::test]
async fn a_token_does_not_reach_the_upstream() {
    let (rig, token) = bought(Plan::default()).await;
    let spellings = ["Payment_Capability", "payment-signature_", "X-Payment-Capability"];
    let mut headers: Vec<_> = spellings.iter().map(|it| (*it, token.as_str())).collect();
    headers.push((CAPABILITY, &token));
    let answer = rig.get(SEARCH, &headers).await;
    assert_eq!(answer.status(), 200);
    let seen = rig.upstream.seen().pop().unwrap();
    for name in spellings.into_iter().chain([CAPABILITY]) {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(seen.header("x-payment-route"), Some("search"));
    rig.end().await;
}
