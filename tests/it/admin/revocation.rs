//! A revocation reaches every instance and outlives the process.

use std::time::Duration;

use faregate::clock::Stopwatch;
use faregate::nano::Raw;
use faregate::store::capabilities::REVOKED_WITHIN;
use faregate::wallet::{Wallet, WalletOptions};
use serde_json::json;

use super::{ADMIN, Api, bought, id_of, with_api};
use crate::proxy::wire::Played;
use crate::rig::{Ending, PLENTY, Plan, ROUTES, Rig, capability, error, eventually, offers};
use crate::store::cluster::database;
use crate::store::instances::Sibling;
use crate::wallet::world::{payer, seed, seed_file};

const SEARCH: &str = "/v1/search/x";
const CAPABILITY: &str = "PAYMENT-CAPABILITY";

#[tokio::test]
async fn a_revoked_capability_is_refused_with_a_reason_and_a_bill_also_after_a_restart() {
    for ending in [Ending::Orderly, Ending::Abrupt] {
        let (rig, api) = with_api().await;
        let (token, id) = bought(&rig, 1).await;
        let path = format!("/v1/capabilities/{id}/revoke");
        let (status, dry) = api.post(&format!("{path}?dry_run=true"), &json!({})).await;
        assert_eq!((status, &dry["state"], &dry["dry_run"]), (200, &json!("open"), &json!(true)));
        assert_eq!(rig.get(SEARCH, &[(CAPABILITY, &token)]).await.status(), 200, "a dry run ends nothing");

        let (status, ended) = api.post(&path, &json!({ "reason": "shared in public", "by": "ada" })).await;
        assert_eq!((status, &ended["state"], &ended["left"]), (200, &json!("revoked"), &json!(0)), "{ended}");
        let (_, again) = api.post(&path, &json!({ "reason": "once more", "by": "bob" })).await;
        for shown in [&ended, &again, &api.get(&format!("/v1/capabilities/{id}")).await] {
            assert_eq!(
                (&shown["revoked"]["by"], &shown["revoked"]["note"]),
                (&json!("ada"), &json!("shared in public"))
            );
            assert!(shown["revoked_at"].is_string(), "{shown}");
        }
        api.end().await;
        let before = rig.effects().forwarded;
        let refused = rig.get(SEARCH, &[(CAPABILITY, &token)]).await;
        assert_eq!(refused.status(), 402);
        assert_eq!(offers(&refused).offers.len(), 2, "a fresh bill");
        assert_eq!(error(refused).await, "CAPABILITY_REVOKED");

        let rig = rig.restart(ending).await;
        assert_eq!(error(rig.get(SEARCH, &[(CAPABILITY, &token)]).await).await, "CAPABILITY_REVOKED");
        assert_eq!(rig.effects().forwarded, before);
        rig.end().await;
    }
}

/// The proof of the payment opens nothing either.
#[tokio::test]
async fn the_proof_of_a_revoked_capability_is_refused() {
    let (rig, api) = with_api().await;
    let [offer, _] = rig.bill(SEARCH).await;
    let (proof, _) = rig.txn(&rig.payer(1, PLENTY), &offer);
    let headers = [("PAYMENT-SIGNATURE", proof.as_str())];
    let paid = rig.get(SEARCH, &headers).await;
    let id = id_of(&capability(&paid).0);
    assert_eq!(api.post(&format!("/v1/capabilities/{id}/revoke"), &json!({})).await.0, 200);
    assert_eq!(error(rig.get(SEARCH, &headers).await).await, "CAPABILITY_REVOKED");
    api.end().await;
    let rig = rig.restart(Ending::Abrupt).await;
    let refused = rig.get(SEARCH, &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!(error(refused).await, "CAPABILITY_REVOKED");
    rig.end().await;
}

#[tokio::test]
async fn what_has_been_admitted_goes_on() {
    let mut slow = Played::start().await;
    let more = format!("  slow: {{ url: \"{}\" }}\n{ADMIN}", slow.url);
    let routes = "  - { name: slow, match: \"/slow\", upstream: slow, price: 1 raw, grants: { requests: 5, within: 1h } }\n";
    let rig = Rig::with(Plan { more, routes: routes.to_owned(), ..Plan::default() }).await;
    let api = Api::of(&rig).await;
    let (_, given) = api.post("/v1/capabilities", &json!({ "route": "slow" })).await;
    let (token, id) = (given["token"].as_str().unwrap().to_owned(), given["id"].as_str().unwrap());
    let url = format!("{}/slow", rig.url);
    let under_way = tokio::spawn(rig.http.get(url).header(CAPABILITY, &token).send());
    let mut call = slow.call().await;
    assert_eq!(api.post(&format!("/v1/capabilities/{id}/revoke"), &json!({})).await.0, 200);
    assert_eq!(error(rig.get("/slow", &[(CAPABILITY, &token)]).await).await, "CAPABILITY_REVOKED");
    call.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere").await;
    let answer = under_way.await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, "here"));
    api.end().await;
    rig.end().await;
}

/// One instance has leased uses of the capability when the other is told to end it. It hears of it with its next
/// report, in the time that is promised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_reaches_the_other_instance_in_time() {
    let Some(database) = database().await else { return };
    let more = format!("store: {{ postgres: \"{}\" }}\n{ADMIN}", database.address());
    let routes = format!(
        "{ROUTES}  - {{ name: many, match: /many, upstream: api, price: 1 raw, grants: {{ requests: 90000, within: 1h }} }}\n"
    );
    let rig = Rig::with(Plan { more: more.clone(), routes: routes.clone(), ..Plan::default() }).await;
    let api = Api::of(&rig).await;
    let sibling = Sibling::start(rig.config(&more, &routes)).await;
    let paid = rig.pay(&rig.payer(1, PLENTY), "/many").await;
    let token = capability(&paid).0;
    let ask = async || {
        let request = rig.http.get(format!("{}/many", sibling.url())).header(CAPABILITY, &token);
        request.header("Host", rig.url.replace("http://", "")).send().await.unwrap()
    };
    // Two, so that it has leased more than it has used.
    for _ in 0..2 {
        assert_eq!(ask().await.status(), 200);
    }
    let id = id_of(&token);
    assert_eq!(api.post(&format!("/v1/capabilities/{id}/revoke"), &json!({ "by": "ada" })).await.0, 200);
    let since = Stopwatch::start();
    assert_eq!(error(rig.get("/many", &[(CAPABILITY, &token)]).await).await, "CAPABILITY_REVOKED");
    eventually("the other instance ends it", async || ask().await.status() == 402).await;
    let took = since.elapsed();
    assert!(took < Duration::from_secs(REVOKED_WITHIN + 3), "{took:?}, on a busy machine");
    assert_eq!(error(ask().await).await, "CAPABILITY_REVOKED");
    // One that never saw it refuses it at once.
    let third = Sibling::start(rig.config(&more, &routes)).await;
    let request = rig.http.get(format!("{}/many", third.url())).header(CAPABILITY, &token);
    let refused = request.header("Host", rig.url.replace("http://", "")).send().await.unwrap();
    assert_eq!(error(refused).await, "CAPABILITY_REVOKED");
    third.end().await;
    sibling.end().await;
    api.end().await;
    rig.end().await;
}

/// An instance whose client asks for nothing hears of it as well: it hands back what is idle.
#[tokio::test]
async fn an_idle_instance_hears_of_a_revocation_too() {
    let Some(database) = database().await else { return };
    let more = format!("store: {{ postgres: \"{}\" }}\n{ADMIN}", database.address());
    let rig = Rig::with(Plan { more: more.clone(), ..Plan::default() }).await;
    let api = Api::of(&rig).await;
    let (_, given) = api.post("/v1/capabilities", &json!({ "route": "search", "uses": 1000 })).await;
    let token = given["token"].as_str().unwrap();
    let sibling = Sibling::start(rig.config(&more, ROUTES)).await;
    let ask = async || {
        let request = rig.http.get(format!("{}{SEARCH}", sibling.url())).header(CAPABILITY, token);
        request.header("Host", rig.url.replace("http://", "")).send().await.unwrap()
    };
    assert_eq!(ask().await.status(), 200, "what one instance gives, another serves");
    let id = given["id"].as_str().unwrap();
    assert_eq!(api.post(&format!("/v1/capabilities/{id}/revoke"), &json!({})).await.0, 200);
    eventually("nothing is out any more", async || {
        api.get(&format!("/v1/capabilities/{id}")).await["leased"] == 0
    })
    .await;
    assert_eq!(error(ask().await).await, "CAPABILITY_REVOKED");
    sibling.end().await;
    api.end().await;
    rig.end().await;
}

/// A wallet whose capability is revoked pays once more, and not again and again.
#[tokio::test]
async fn a_wallet_pays_once_more_for_what_was_revoked() {
    let (rig, api) = with_api().await;
    rig.devnet.fund(payer(), PLENTY).unwrap();
    rig.devnet.receive_all(&seed().key(0)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let node = rig.devnet.rpc_url().to_string();
    let most = WalletOptions::up_to(Raw::new(PLENTY.get()));
    let wallet = Wallet::open(&seed_file(folder.path()), [node.as_str()], most).unwrap();
    let ask = async || {
        let url = format!("{}{SEARCH}", rig.url).parse().unwrap();
        wallet.request(reqwest::Request::new(reqwest::Method::GET, url)).await.unwrap()
    };
    let bought = ask().await;
    let id = id_of(bought.capability.as_ref().unwrap().token());
    assert!(ask().await.payment().is_none(), "it is paid for");
    assert_eq!(api.post(&format!("/v1/capabilities/{id}/revoke"), &json!({})).await.0, 200);
    let before = rig.effects();
    let again = ask().await;
    assert_eq!((again.response.status().as_u16(), again.payment().is_some()), (200, true));
    let after = rig.effects();
    assert_eq!((after.forwarded - before.forwarded, after.broadcast - before.broadcast), (1, 1));
    assert!(ask().await.payment().is_none());
    api.end().await;
    rig.end().await;
}
