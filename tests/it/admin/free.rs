//! Capabilities that the operator gives away.

use std::sync::Arc;

use faregate::assemble::pool_accounts;
use faregate::reconcile::Books;
use faregate::store::{Filter, PaymentJournal};
use serde_json::{Value, json};

use super::{Api, with_api};
use crate::rig::{Ending, Rig, capability, error};

const SEARCH: &str = "/v1/search/x";

async fn uses(rig: &Rig, token: &str) -> Vec<u16> {
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(rig.get(SEARCH, &[("PAYMENT-CAPABILITY", token)]).await.status().as_u16());
    }
    answers
}

#[tokio::test]
async fn what_is_given_away_opens_its_route_and_is_no_payment() {
    let (rig, api) = with_api().await;
    let body = json!({ "route": "search", "uses": 2, "within": "1h", "note": "a tester", "by": "ada" });
    let (status, dry) = api.post("/v1/capabilities?dry_run=true", &body).await;
    assert_eq!((status, &dry["token"], &dry["uses"]), (200, &json!(null), &json!(2)), "{dry}");
    assert_eq!(api.get("/v1/capabilities").await["capabilities"], json!([]), "a dry run gives nothing");
    let (status, given) = api.post("/v1/capabilities", &body).await;
    assert_eq!((status, &given["fresh"]), (200, &json!(true)), "{given}");
    let (token, id) = (given["token"].as_str().unwrap(), given["id"].as_str().unwrap());
    assert_eq!(uses(&rig, token).await, [200, 200, 402]);
    let elsewhere = rig.get("/paid", &[("PAYMENT-CAPABILITY", token)]).await;
    assert_eq!(error(elsewhere).await, "WRONG_RESOURCE");

    let shown = api.get(&format!("/v1/capabilities/{id}")).await;
    assert_eq!(
        (&shown["free"], &shown["payer"], &shown["amount_raw"]),
        (&json!(true), &json!(null), &json!("0"))
    );
    assert_eq!((&shown["given"]["by"], &shown["given"]["note"]), (&json!("ada"), &json!("a tester")));
    assert!(!shown.to_string().contains(token));
    let listed = api.get("/v1/capabilities?free=true").await;
    assert_eq!(listed["capabilities"].as_array().unwrap().len(), 1);

    // It is in no sum, and journal and ledger agree.
    assert_eq!(api.get("/v1/payments").await["payments"], json!([]));
    assert_eq!(rig.services.store().scan(0, Filter::default(), 9).await.unwrap(), []);
    let pool = pool_accounts(&rig.config("", crate::rig::ROUTES).nano).unwrap();
    let books = Books::new((**rig.services.ledger()).clone(), Arc::clone(rig.services.store()), pool);
    let outcome = books.reconcile().await.unwrap();
    assert_eq!((outcome.payments, outcome.discrepancies.len()), (0, 0));
    assert_eq!(rig.services.store().inspect().await.unwrap().faults, [""; 0]);
    api.end().await;
    rig.end().await;
}

#[tokio::test]
async fn what_was_given_is_there_after_a_crash_and_given_once_under_a_key() {
    let (rig, api) = with_api().await;
    let body = json!({ "route": "search", "uses": 2 });
    let give = async |api: &Api, key: &str, body: &Value| {
        let request = api.request("POST", "/v1/capabilities").header("Idempotency-Key", key).json(body);
        super::said(request.send().await.unwrap()).await
    };
    let (_, given) = give(&api, "order-7", &body).await;
    api.end().await;
    let rig = rig.restart(Ending::Abrupt).await;
    let api = Api::of(&rig).await;
    let (status, again) = give(&api, "order-7", &body).await;
    assert_eq!((status, &again["fresh"]), (200, &json!(false)));
    for member in ["id", "token", "expires_at", "uses"] {
        assert_eq!(again[member], given[member], "{member}");
    }
    for other in [
        json!({ "route": "search", "uses": 3 }),
        json!({ "route": "paid", "uses": 2 }),
        json!({ "route": "search", "uses": 2, "within": "2h" }),
    ] {
        let (status, refused) = give(&api, "order-7", &other).await;
        assert_eq!(
            (status, &refused["type"]),
            (409, &json!("urn:faregate:problem:idempotency_key_used")),
            "{other}"
        );
    }
    let (_, fresh) = give(&api, "order-8", &body).await;
    assert_ne!(fresh["id"], given["id"]);
    let (_, unkeyed) = api.post("/v1/capabilities", &body).await;
    let (_, another) = api.post("/v1/capabilities", &body).await;
    assert_ne!(unkeyed["id"], another["id"], "without a key each call gives one");
    assert_eq!(api.get("/v1/capabilities").await["capabilities"].as_array().unwrap().len(), 4);
    assert_eq!(uses(&rig, given["token"].as_str().unwrap()).await, [200, 200, 402]);
    api.end().await;
    rig.end().await;
}

#[tokio::test]
async fn only_what_is_sold_by_a_price_is_given_away() {
    let (rig, api) = with_api().await;
    for (body, status) in [
        (json!({ "route": "/free/**" }), 400),
        (json!({ "route": "nowhere" }), 404),
        (json!({ "uses": 1 }), 400),
        (json!({ "route": "search", "within": "0s" }), 400),
        (json!({ "route": "search", "within": "400d" }), 400),
        (json!({ "route": "search", "uses": 5_000_000_000_u64 }), 400),
    ] {
        let (found, problem) = api.post("/v1/capabilities", &body).await;
        assert_eq!(found, status, "{body}: {problem}");
    }
    let (_, given) = api.post("/v1/capabilities", &json!({ "route": "search" })).await;
    assert_eq!(given["uses"], 5, "as a payment buys");
    let used = rig.get(SEARCH, &[("PAYMENT-CAPABILITY", given["token"].as_str().unwrap())]).await;
    assert_eq!((used.status().as_u16(), capability(&used).1), (200, 4));
    assert_eq!(rig.upstream.seen().len(), 1);
    api.end().await;
    rig.end().await;
}
