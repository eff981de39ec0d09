//! Purses are closed, and what is left comes back to the account that paid, to the raw.

use std::sync::atomic::Ordering;

use faregate::cli::purse::{CloseArgs, PurseCommand, TokenArgs, run};
use faregate::nano::{Account, Raw, SecretKey, UnixSeconds};
use faregate::payment::derived::{self, Restriction};
use reqwest::Response;
use serde_json::{Value, json};

use super::topping_up::{large, offer};
use super::{DEPOSIT, RATES, ask, buy, charged, chunk, post, purse, spend, streaming, used};
use crate::patience::wait_for;
use crate::rig::{PLENTY, Plan, Rig, capability, error, eventually, manual_clock};
use crate::store::cluster::database;
use crate::store::instances::Sibling;

const CLOSE: &str = "/.well-known/x402/close";
const AT_ONCE: &str = "refunds: { at_least: 1 raw }";

fn routes(upstream: &str) -> String {
    format!(
        r#"
  - name: chat
    match: "POST /chat"
    upstream: {upstream}
    meter: {{ deposit: 10000 raw, within: 1h, usage: openai, hold: 2000 raw, refund: on_close, {RATES} }}
  - {{ name: kept, match: "POST /kept", upstream: api, meter: {{ deposit: 10000 raw, usage: header, hold: 9 raw }} }}
  - {{ name: few, match: "GET /few", upstream: api, price: 1003 raw, grants: {{ requests: 4, within: 1h }}, refund: on_close }}
"#
    )
}

fn plan() -> Plan {
    Plan {
        routes: routes("api"),
        more: AT_ONCE.to_owned(),
        answer: Box::new(|_| used(17, 9)),
        ..Plan::default()
    }
}

async fn close_at(url: &str, rig: &Rig, token: &str) -> Response {
    let host = rig.url.replace("http://", "");
    let request = rig.http.post(format!("{url}{CLOSE}")).header("Host", host);
    request.header("PAYMENT-CAPABILITY", token).send().await.unwrap()
}

async fn close(rig: &Rig, token: &str) -> Response {
    close_at(&rig.url, rig, token).await
}

/// What closing leads to, once nothing more happens.
async fn outcome(rig: &Rig, token: &str) -> Value {
    let ended = async || {
        let answer = close(rig, token).await;
        let status = answer.status().as_u16();
        assert!([200, 202].contains(&status), "{status}");
        let body: Value = answer.json().await.unwrap();
        let is_final = ["confirmed", "nothing"].contains(&body["state"].as_str().unwrap());
        assert_eq!(is_final, status == 200, "{body}");
        is_final.then_some(body)
    };
    wait_for("the refund ends", ended).await
}

/// What `faregate purse close` prints.
async fn by_command(rig: &Rig, token: &str) -> Result<String, String> {
    let token = TokenArgs { token: Some(token.to_owned()), token_file: None };
    let args = CloseArgs { token, url: rig.url.parse().unwrap(), json: false };
    let mut out = Vec::new();
    run(&PurseCommand::Close(args), &mut out).await.map_err(|it| it.to_string())?;
    Ok(String::from_utf8(out).unwrap())
}

/// What was sent to an account and waits there, in raw.
fn came_back(rig: &Rig, account: Account) -> u128 {
    rig.devnet.lattice().receivable_sum(account, true).get()
}

#[tokio::test]
async fn what_is_left_comes_back_to_the_raw_and_once() {
    let rig = Rig::with(plan()).await;
    let key = rig.payer(1, PLENTY);
    let (token, _) = purse(&buy(&rig, &key, "/chat", &ask()).await);
    assert_eq!(spend(&rig, &token, "/chat", &ask()).await.status(), 200);
    let left = DEPOSIT - 2 * (17 + 4 * 9);
    let first = close(&rig, &token).await;
    assert!([200, 202].contains(&first.status().as_u16()));
    let ended = outcome(&rig, &token).await;
    assert_eq!((&ended["state"], &ended["amount_raw"]), (&json!("confirmed"), &json!(left.to_string())));
    assert_eq!(ended["account"], key.account().to_string());
    assert_eq!(came_back(&rig, key.account()), left);
    let lattice = rig.devnet.lattice();
    let block = ended["block"].as_str().unwrap().to_uppercase().parse().unwrap();
    assert!(lattice.is_confirmed(block));
    drop(lattice);
    assert_eq!(outcome(&rig, &token).await["block"], ended["block"], "as often as one likes");
    assert_eq!(came_back(&rig, key.account()), left);
    let told = by_command(&rig, &token).await.unwrap();
    let account = key.account();
    assert!(
        told.starts_with("state   confirmed\namount  ") && told.contains(&format!("({left} raw)")),
        "{told}"
    );
    assert!(told.contains(&format!("account {account}\nblock   ")), "{told}");
    let (kept, _) = purse(&buy(&rig, &key, "/kept", &ask()).await);
    assert!(by_command(&rig, &kept).await.is_err_and(|it| it.contains("status 403")));
    let after = spend(&rig, &token, "/chat", &ask()).await;
    assert_eq!(after.status(), 402);
    assert_eq!(error(after).await, "CAPABILITY_REVOKED");
    assert_eq!(rig.upstream.seen().len(), 3);
    eventually("it is counted", async || {
        let text = rig.services.metrics().text().unwrap();
        text.contains("faregate_refunds_total 1\n") && text.contains("faregate_refunds_waiting 0\n")
    })
    .await;
    rig.end().await;
}

#[tokio::test]
async fn unused_requests_come_back_at_their_price() {
    let rig = Rig::with(plan()).await;
    let key = rig.payer(1, PLENTY);
    let bill = rig.get("/few", &[]).await;
    let offer = crate::rig::offers(&bill).offers.into_iter().next().unwrap();
    let (proof, _) = rig.txn(&key, &offer);
    let (token, left) = capability(&rig.get("/few", &[("PAYMENT-SIGNATURE", &proof)]).await);
    assert_eq!(left, 3);
    let ended = outcome(&rig, &token).await;
    // Three quarters of 1003, rounded down.
    assert_eq!((&ended["state"], &ended["amount_raw"]), (&json!("confirmed"), &json!("752")));
    assert_eq!(came_back(&rig, key.account()), 752);
    rig.end().await;
}

#[tokio::test]
async fn while_a_request_runs_nothing_is_sent_and_then_the_rest() {
    let (first, rest) = (chunk("He", Some((7, 1))), chunk("llo", Some((7, 5))) + "data: [DONE]\n\n");
    let upstream = streaming(first.clone(), rest).await;
    let more = format!("  model: {{ url: \"{}\" }}\n{AT_ONCE}", upstream.url);
    let rig = Rig::with(Plan { routes: routes("model"), more, ..Plan::default() }).await;
    let key = rig.payer(1, PLENTY);
    let mut answer = buy(&rig, &key, "/chat", &ask()).await;
    let (token, _) = purse(&answer);
    crate::patience::soon("a part comes", answer.chunk()).await.unwrap().unwrap();
    for _ in 0..2 {
        let closing = close(&rig, &token).await;
        assert_eq!(closing.status(), 202);
        let body: Value = closing.json().await.unwrap();
        assert_eq!((&body["state"], &body["amount_raw"]), (&json!("closing"), &Value::Null));
    }
    assert_eq!(spend(&rig, &token, "/chat", &ask()).await.status(), 402, "nothing new begins");
    upstream.go_on.notify_one();
    let text = crate::patience::soon("the stream ends", answer.text()).await.unwrap();
    assert!(text.ends_with("[DONE]\n\n"), "{text}");
    // Nobody asks again: it becomes owed and is sent by itself.
    let left = DEPOSIT - 27;
    eventually("the rest is sent", async || came_back(&rig, key.account()) == left).await;
    assert_eq!(outcome(&rig, &token).await["amount_raw"], left.to_string());
    rig.end().await;
}

#[tokio::test]
async fn who_has_no_token_of_this_gateway_learns_nothing_and_nothing_is_looked_up() {
    let rig = Rig::with(plan()).await;
    let bare = rig.http.post(format!("{}{CLOSE}", rig.url)).send().await.unwrap();
    assert_eq!(bare.status(), 400);
    for token in ["", "x", &"A".repeat(72), &"A".repeat(70)] {
        let answer = close(&rig, token).await;
        assert_eq!(answer.status(), 403, "{token}");
        assert_eq!(error(answer).await, "CAPABILITY_UNKNOWN");
    }
    let text = rig.services.metrics().text().unwrap();
    for operation in ["refund", "capability", "close_capability"] {
        assert!(!text.contains(&format!("operation=\"{operation}\"")), "{operation}");
    }
    assert_eq!(rig.get(CLOSE, &[]).await.status(), 404, "only what is posted closes");
    // Who was handed less than the purse does not close it.
    let (token, _) = purse(&buy(&rig, &rig.payer(1, PLENTY), "/chat", &ask()).await);
    let until = Restriction::Until(UnixSeconds(4_000_000_000));
    let handed_on = derived::derive(&token, &[until]).unwrap();
    let answer = close(&rig, handed_on.expose()).await;
    assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (403, "CAPABILITY_UNKNOWN"));
    assert_eq!(spend(&rig, handed_on.expose(), "/chat", &ask()).await.status(), 200);
    rig.end().await;
}

#[tokio::test]
async fn where_the_route_does_not_say_so_nothing_is_closed() {
    let rig = Rig::with(plan()).await;
    let key = rig.payer(1, PLENTY);
    let (token, _) = purse(&buy(&rig, &key, "/kept", &json!({})).await);
    let refused = close(&rig, &token).await;
    assert_eq!(refused.status(), 403);
    assert_eq!(error(refused).await, "refund_not_offered");
    assert_eq!(spend(&rig, &token, "/kept", &json!({})).await.status(), 200);
    // Nor is what is too little sent.
    let config = rig.config("refunds: { at_least: 0.001 XNO }", &routes("api"));
    let rig = rig.restart_with(crate::rig::Ending::Orderly, config).await;
    let (token, _) = purse(&buy(&rig, &key, "/chat", &ask()).await);
    let ended = outcome(&rig, &token).await;
    let left = (DEPOSIT - 53).to_string();
    assert_eq!((&ended["state"], &ended["amount_raw"]), (&json!("nothing"), &json!(left)));
    assert_eq!(came_back(&rig, key.account()), 0);
    rig.end().await;
}

#[tokio::test]
async fn a_purse_that_runs_out_is_closed_by_itself() {
    let (clock, seconds) = manual_clock();
    let rig = Rig::with(Plan { clock, ..plan() }).await;
    let (key, other) = (rig.payer(1, PLENTY), rig.payer(2, PLENTY));
    let (_, _) = purse(&buy(&rig, &key, "/chat", &ask()).await);
    let (_, _) = purse(&buy(&rig, &other, "/kept", &json!({})).await);
    eventually("it is charged", async || rig.logged().contains("\"cost_raw\":\"53\"")).await;
    seconds.fetch_add(3600 + 10, Ordering::SeqCst);
    let left = DEPOSIT - 53;
    eventually("what is left comes back", async || came_back(&rig, key.account()) == left).await;
    assert_eq!(came_back(&rig, other.account()), 0, "its route gives nothing back");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_over_one_store_send_one_refund() {
    let Some(database) = database().await else { return };
    let store = format!("store: {{ postgres: \"{}\" }}\n{AT_ONCE}", database.address());
    let rig = Rig::with(Plan { more: store.clone(), ..plan() }).await;
    let sibling = Sibling::start(rig.config(&store, &routes("api"))).await;
    let key: SecretKey = rig.payer(1, PLENTY);
    for round in 1..=2 {
        let (token, _) = purse(&buy(&rig, &key, "/chat", &ask()).await);
        let host = rig.url.replace("http://", "");
        let there = rig.http.post(format!("{}/chat", sibling.url())).header("Host", host).json(&ask());
        let there = there.header("PAYMENT-CAPABILITY", &token).send().await.unwrap();
        assert_eq!(there.status(), 200);
        let (one, other) = tokio::join!(close(&rig, &token), close_at(sibling.url(), &rig, &token));
        assert!([one, other].iter().all(|it| [200, 202].contains(&it.status().as_u16())));
        let ended = outcome(&rig, &token).await;
        let left = DEPOSIT - 2 * 53;
        assert_eq!((&ended["state"], &ended["amount_raw"]), (&json!("confirmed"), &json!(left.to_string())));
        assert_eq!(came_back(&rig, key.account()), round * left);
        let late = post(&rig, "/chat", &ask(), &[("PAYMENT-CAPABILITY", &token)]).await;
        assert_eq!(late.status(), 402);
    }
    assert_eq!(rig.devnet.lattice().receivables(key.account()).count(), 2, "one send for each");
    assert_eq!(Raw::new(came_back(&rig, key.account())), Raw::new(2 * (DEPOSIT - 106)));
    sibling.end().await;
    rig.end().await;
}

#[tokio::test]
async fn the_published_documents_say_where_what_is_left_comes_back() {
    let rig = Rig::with(plan()).await;
    let manifest: Value = rig.get("/.well-known/x402", &[]).await.json().await.unwrap();
    let of = |route: &str| {
        let items = manifest["items"].as_array().unwrap();
        items.iter().find(|it| it["route"] == route).unwrap()["refund"].clone()
    };
    let expected = json!({ "when": "on_close", "close": format!("{}{CLOSE}", rig.url) });
    assert_eq!((of("chat"), of("few"), of("kept")), (expected.clone(), expected, Value::Null));
    let guide = rig.get("/llms.txt", &[]).await.text().await.unwrap();
    assert!(guide.contains(&format!("`POST {}{CLOSE}`", rig.url)), "{guide}");
    assert_eq!(guide.matches("what is left is sent back when you close it").count(), 2, "{guide}");
    rig.end().await;
}

#[tokio::test]
async fn what_was_added_comes_back_to_the_account_that_bought_the_purse() {
    let rig = Rig::with(Plan { answer: Box::new(|_| used(2000, 1000)), ..plan() }).await;
    let (own, another) = (rig.payer(1, PLENTY), rig.payer(2, PLENTY));
    let (token, _) = purse(&buy(&rig, &own, "/chat", &ask()).await);
    // Until it is charged, the purse still covers the next request.
    charged(&rig, 1).await;
    let (proof, _) = rig.txn(&another, &offer(&rig, &token).await);
    let both = [("PAYMENT-SIGNATURE", proof.as_str()), ("PAYMENT-CAPABILITY", token.as_str())];
    let paid = post(&rig, "/chat", &large(), &both).await;
    assert_eq!(paid.status(), 200);
    let (newer, _) = purse(&paid);
    let ended = outcome(&rig, &newer).await;
    // 6,000 for each of the two.
    let left = 2 * DEPOSIT - 12_000;
    assert_eq!((&ended["state"], &ended["amount_raw"]), (&json!("confirmed"), &json!(left.to_string())));
    assert_eq!((came_back(&rig, own.account()), came_back(&rig, another.account())), (left, 0));
    assert_eq!(outcome(&rig, &token).await["block"], ended["block"], "the earlier token closes the same");
    rig.end().await;
}
