//! The id of a request: who may choose it, whom it is told, and where it is found again.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use faregate::x402::PaymentProof;
use serde_json::Value;

use crate::logs::Logs;
use crate::patience::eventually;
use crate::payment_identifier::{ID, proof_under_id};
use crate::rig::{PLENTY, Plan, Rig, capability, header};
use crate::scripted::{Reply, Seen};

const X_REQUEST_ID: &str = "x-request-id";
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The ids that the upstream was told, a list for each request.
fn told(rig: &Rig) -> Vec<Vec<String>> {
    let is_id =
        |name: &str| name.eq_ignore_ascii_case(X_REQUEST_ID) || name.eq_ignore_ascii_case("x_request_id");
    let ids = |seen: &crate::scripted::Seen| {
        let ids = seen.headers().iter().filter(|(name, _)| is_id(name));
        ids.map(|(_, value)| value.clone()).collect()
    };
    rig.upstream.seen().iter().map(ids).collect()
}

fn is_made(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|it| it.is_ascii_hexdigit())
}

#[tokio::test]
async fn a_request_gets_an_id_that_its_sender_cannot_choose() {
    let answer = |_: &crate::scripted::Seen| {
        let reply = crate::scripted::Reply::text(200, "ok").with("X-Request-Id", "of-the-upstream");
        reply.with("X_Request_Id", "in another spelling")
    };
    let plan = Plan { answer: Box::new(answer), ..Plan::default() };
    let rig = Rig::with(plan).await;
    let chosen = [
        (X_REQUEST_ID, "chosen"),
        ("x_request_id", "spelled"),
        ("traceparent", TRACE),
        ("tracestate", "a=b"),
    ];
    let (first, second) = (rig.get("/free/x", &chosen).await, rig.get("/free/y", &[]).await);
    let ids = [header(&first, X_REQUEST_ID), header(&second, X_REQUEST_ID)].map(str::to_owned);
    assert!(ids.iter().all(|it| is_made(it)) && ids[0] != ids[1], "{ids:?}");
    assert_eq!(first.headers().get_all(X_REQUEST_ID).iter().count(), 1);
    assert!(!first.headers().contains_key("x_request_id"), "in no spelling is it the upstream's");
    assert_eq!(told(&rig), ids.map(|it| vec![it]));
    let seen = rig.upstream.seen();
    assert_eq!(seen[0].header("traceparent"), Some(TRACE), "passed on as it came");
    assert_eq!(seen[0].header("tracestate"), Some("a=b"));
    assert_eq!(seen[1].header("traceparent"), None, "none is made");
    rig.end().await;
}

#[tokio::test]
async fn a_trusted_proxy_chooses_the_id_if_it_can_stand_anywhere() {
    let rig = Rig::with(Plan { listen: Some("trusted_proxies: [127.0.0.1]"), ..Plan::default() }).await;
    let id = "Root=1-67891233-abcdef012345678912345678";
    assert_eq!(header(&rig.get("/free/x", &[(X_REQUEST_ID, id)]).await, X_REQUEST_ID), id);
    assert_eq!(told(&rig), [[id]]);
    let (long, twice) = ("a".repeat(129), [(X_REQUEST_ID, "one"), (X_REQUEST_ID, "other")]);
    for headers in [&[(X_REQUEST_ID, "a\"b")][..], &[(X_REQUEST_ID, "")], &[(X_REQUEST_ID, &long)], &twice] {
        let answer = rig.get("/free/x", headers).await;
        assert!(is_made(header(&answer, X_REQUEST_ID)), "{headers:?}");
        assert_eq!(told(&rig).pop().unwrap(), [header(&answer, X_REQUEST_ID)], "{headers:?}");
    }
    rig.end().await;
}

/// Bills and refusals, errors of the gateway's own and of the upstream.
#[tokio::test]
async fn every_error_names_its_request() {
    let plan = Plan { answer: Box::new(|_| crate::scripted::Reply::Drop), ..Plan::default() };
    let rig = Rig::with(plan).await;
    let malformed = [("payment-signature", "?")];
    for (path, headers, status) in [
        ("/paid", &[][..], 402),
        ("/paid", &[("payment-capability", "bm9uZQ")], 402),
        ("/paid", &malformed, 400),
        ("/nowhere", &[], 404),
        ("/free/x", &[], 502),
    ] {
        let answer = rig.get(path, headers).await;
        assert_eq!(answer.status(), status, "{path}");
        let id = header(&answer, X_REQUEST_ID).to_owned();
        let body: Value = answer.json().await.unwrap();
        assert!(is_made(&id) && body["error"].is_string(), "{body}");
        assert_eq!(body["request_id"], id.as_str(), "{path} {status}");
    }
    let document = rig.get("/openapi.json", &[]).await;
    assert!(is_made(header(&document, X_REQUEST_ID)), "what is published has the header alone");
    rig.end().await;
}

/// The settlement of a payment runs in a task of its own: its lines name the request that began it.
#[tokio::test]
async fn what_is_logged_of_a_payment_names_its_request_and_what_was_bought() {
    let logs = Logs::keep();
    let rig = Rig::start().await;
    let key = rig.payer(1, PLENTY);
    let answer = rig.pay(&key, "/v1/search/a").await;
    assert_eq!(answer.status(), 200);
    let id = header(&answer, X_REQUEST_ID).to_owned();
    let text = logs.text();
    let granted = text.lines().find(|it| it.contains("payment granted")).unwrap();
    let payer = key.account().to_string();
    let said = [
        &format!("request_id=\"{id}\""),
        "route=\"search\"",
        "amount_raw=1000000000000000000000000000",
        &payer,
    ];
    for said in said {
        assert!(granted.contains(said), "{said} is not in: {granted}");
    }
    rig.end().await;
}

/// A writer of the store that lets nobody else write.
#[derive(Clone, Default)]
struct Blocker(Arc<Mutex<Blocking>>);

#[derive(Default)]
struct Blocking {
    /// The store's file, once it is to be blocked.
    path: Option<PathBuf>,
    other: Option<rusqlite::Connection>,
}

impl Blocker {
    fn block(&self) {
        let mut blocking = self.0.lock().unwrap();
        let Some(path) = &blocking.path else { return };
        let other = rusqlite::Connection::open(path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        blocking.other = Some(other);
    }

    fn end(&self) {
        self.0.lock().unwrap().other = None;
    }
}

/// Before: these two lines did not say which request they were about.
#[tokio::test]
async fn what_the_store_did_not_take_of_a_request_names_it() {
    let logs = Logs::keep();
    let routes = "
  - { name: strict, match: /strict, upstream: api, price: 1 raw, metering: strict, grants: { requests: 5, within: 1h } }
  - { name: kept, match: /kept, upstream: api, price: 1 raw, payment_identifier: required }
";
    let blocker = Blocker::default();
    let blocks = blocker.clone();
    let answer = move |_: &Seen| {
        blocks.block();
        Reply::text(200, "ok")
    };
    let rig =
        Rig::with(Plan { routes: routes.to_owned(), answer: Box::new(answer), ..Plan::default() }).await;
    let token = capability(&rig.pay(&rig.payer(1, PLENTY), "/strict").await).0;
    // From the next answer of the upstream on, nobody writes.
    blocker.0.lock().unwrap().path = Some(rig.folder.path().join("faregate.db"));
    let strict = rig.get("/strict", &[("payment-capability", &token)]).await;
    assert_eq!(strict.status(), 200, "it is paid for");
    blocker.end();
    // The gateway sees within a second that the store can be written again.
    eventually("bills", async || rig.get("/kept", &[]).await.status() == 402).await;
    let key = rig.payer(2, PLENTY);
    let [offer, _] = rig.bill("/kept").await;
    let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    let proof = proof_under_id(&offer, &PaymentProof::NanoTxn { block }, ID);
    let kept = rig.get("/kept", &[("payment-signature", &proof)]).await;
    assert_eq!(kept.status(), 200);
    for (answer, line) in
        [(strict, "a use was not recorded before its answer"), (kept, "an answer could not be kept")]
    {
        let said = format!("request_id=\"{}\"", header(&answer, X_REQUEST_ID));
        eventually(line, async || logs.text().lines().any(|it| it.contains(line) && it.contains(&said)))
            .await;
    }
    blocker.end();
    rig.end().await;
}
