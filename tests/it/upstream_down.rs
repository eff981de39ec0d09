//! An upstream that is known to be down: nothing is sold there, no payment is broadcast for it, and what
//! was bought stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use faregate::clock::Clock;
use faregate::listen;
use faregate::routes::Grants;
use faregate::store::{Begin, Claims};
use faregate::x402::PaymentProof;
use pingora::apps::http_app::HttpServer;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::logs::Logs;
use crate::metrics::Uses;
use crate::patience::{eventually, soon};
use crate::payment_identifier::{ID, intent, proof_under_id};
use crate::rig::{PLENTY, Plan, Rig, capability, error, header, signature};
use crate::scripted::{Reply, Scripted, nobody};

/// What the operator's listener says at `path`.
pub(crate) async fn operators(rig: &Rig, path: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}{path}", listener.local_addr().unwrap());
    let (stop, shutdown) = watch::channel(false);
    let serving =
        tokio::spawn(listen::serve(listener, Arc::new(HttpServer::new_app(rig.services.admin())), shutdown));
    let text = rig.http.get(url).send().await.unwrap().text().await.unwrap();
    stop.send_replace(true);
    soon("the operator's listener ends", serving).await.unwrap();
    text
}

/// Asserts that a request without a payment gets no bill.
async fn assert_down(rig: &Rig, path: &str) {
    let answer = rig.get(path, &[]).await;
    assert_eq!(answer.status(), 503, "{path}");
    assert!(header(&answer, "retry-after").parse::<u32>().unwrap() > 0);
    assert!(answer.headers().get("payment-required").is_none());
    assert_eq!(error(answer).await, "upstream_down", "{path}");
}

async fn is_sold(rig: &Rig, path: &str) -> bool {
    rig.get(path, &[]).await.status() == 402
}

#[tokio::test]
async fn an_upstream_that_was_never_there_sells_nothing_until_it_is() {
    let dead = nobody();
    let more = format!("  dead: {{ url: \"{}\", health: {{ back_off: 20ms }} }}\n", dead.url);
    let routes = r#"
  - { match: "/dead", upstream: dead, price: 1 raw }
  - { match: "/open", upstream: dead, free: true }
  - { match: "/alive", upstream: api, price: 1 raw }
"#;
    let rig = Rig::with(Plan { more, routes: routes.to_owned(), ..Plan::default() }).await;
    // From the first request on.
    assert_down(&rig, "/dead").await;
    assert_down(&rig, "/open").await;
    assert!(is_sold(&rig, "/alive").await, "others are sold");
    let text = operators(&rig, "/metrics").await;
    for line in ["faregate_upstream_up{upstream=\"api\"} 1\n", "faregate_upstream_up{upstream=\"dead\"} 0\n"]
    {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let _back = dead.appear(|_| Reply::text(200, "here"));
    eventually("bills", || is_sold(&rig, "/dead")).await;
    assert_eq!(rig.pay(&rig.payer(1, PLENTY), "/dead").await.status(), 200);
    assert!(operators(&rig, "/metrics").await.contains("faregate_upstream_up{upstream=\"dead\"} 1\n"));
    rig.end().await;
}

#[tokio::test]
async fn one_failed_request_finds_out_that_an_upstream_died() {
    let mortal = Scripted::start(|_| Reply::text(200, "alive")).await;
    let more = format!("  mortal: {{ url: \"{}\" }}\n", mortal.url);
    let routes = r#"
  - { match: "/sold", upstream: mortal, price: 1 raw }
  - { match: "/open", upstream: mortal, free: true }
"#;
    let rig = Rig::with(Plan { more, routes: routes.to_owned(), ..Plan::default() }).await;
    assert_eq!(rig.get("/open", &[]).await.status(), 200);
    drop(mortal);
    eventually("a failure", || async { rig.get("/open", &[]).await.status().is_server_error() }).await;
    eventually("no bill", || async { rig.get("/sold", &[]).await.status() == 503 }).await;
    assert_down(&rig, "/sold").await;
    rig.end().await;
}

#[tokio::test]
async fn a_name_that_is_not_known_sells_nothing() {
    // A label is too long for any resolver, so none is asked.
    let more = format!("  lost: {{ url: \"http://{}.test:1\" }}\n", "a".repeat(64));
    let routes = "  - { match: \"/lost\", upstream: lost, price: 1 raw }\n".to_owned();
    let rig = Rig::with(Plan { more, routes, ..Plan::default() }).await;
    assert_down(&rig, "/lost").await;
    rig.end().await;
}

/// A gateway whose `/sick/**` leads to an upstream that says whether it works.
async fn sick() -> (Rig, Scripted, Arc<AtomicBool>) {
    let works = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&works);
    let upstream = Scripted::start(move |seen| match (seen.path.as_str(), state.load(Ordering::SeqCst)) {
        ("/healthz", false) => Reply::text(503, "sick"),
        _ => Reply::text(200, "here"),
    })
    .await;
    let more =
        format!("  sick: {{ url: \"{}\", health: {{ path: /healthz, every: 100ms }} }}\n", upstream.url);
    let routes = "  - { name: sick, match: \"/sick/**\", upstream: sick, price: 1 raw, payment_identifier: optional, grants: { requests: 5, within: 1h } }\n";
    let rig = Rig::with(Plan { more, routes: routes.to_owned(), ..Plan::default() }).await;
    (rig, upstream, works)
}

async fn becomes_sick(rig: &Rig, works: &AtomicBool) {
    works.store(false, Ordering::SeqCst);
    eventually("no bill", || async { rig.get("/sick/x", &[]).await.status() == 503 }).await;
}

#[tokio::test]
async fn a_change_of_health_is_logged_with_the_upstream_and_why() {
    let logs = Logs::keep();
    let (rig, upstream, works) = sick().await;
    becomes_sick(&rig, &works).await;
    works.store(true, Ordering::SeqCst);
    eventually("a bill", || async { rig.get("/sick/x", &[]).await.status() == 402 }).await;
    let address = format!("{}:{}", upstream.url.host_str().unwrap(), upstream.url.port().unwrap());
    let message = "the address fails its health check";
    eventually(message, || async { logs.text().contains(message) }).await;
    let text = logs.text();
    let line = text.lines().find(|it| it.contains(message)).unwrap();
    for part in ["WARN", "upstream", "sick", &address, "it answers 503"] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    let message = "the address passes its health check again";
    eventually(message, || async { logs.text().contains(message) }).await;
    let text = logs.text();
    let line = text.lines().find(|it| it.contains(message)).unwrap();
    for part in ["INFO", "upstream", "sick", &address] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    rig.end().await;
}

#[tokio::test]
async fn a_block_that_comes_while_it_is_down_is_not_broadcast() {
    let (rig, _upstream, works) = sick().await;
    let key = rig.payer(1, PLENTY);
    let [offer, _] = rig.bill("/sick/x").await;
    let (proof, _) = rig.txn(&key, &offer);
    becomes_sick(&rig, &works).await;
    let before = rig.effects().broadcast;
    for _ in 0..3 {
        let answer = rig.get("/sick/x", &[("PAYMENT-SIGNATURE", &proof)]).await;
        assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (503, "upstream_down"));
    }
    assert_eq!(rig.effects().broadcast, before, "nothing was charged");
    works.store(true, Ordering::SeqCst);
    eventually("bills", || is_sold(&rig, "/sick/x")).await;
    let served = rig.ask_until_decided("/sick/x", &proof).await;
    assert_eq!((served.status().as_u16(), capability(&served).1), (200, 4));
    assert_eq!(rig.effects().broadcast, before + 1);
    rig.end().await;
}

/// It is settled once the upstream is back, whoever asks meanwhile.
#[tokio::test]
async fn a_payment_under_an_id_that_was_journalled_is_not_broadcast_while_it_is_down() {
    let (rig, _upstream, works) = sick().await;
    let [offer, _] = rig.bill("/sick/x").await;
    let (_, block) = rig.txn(&rig.payer(1, PLENTY), &offer);
    let proof = proof_under_id(&offer, &PaymentProof::NanoTxn { block }, ID);
    // By an instance that was killed before it broadcast it.
    let mut intent = intent(&offer, block, ("sick", "/sick/x"));
    intent.terms.grants = Grants::of_count(5, intent.terms.grants.seconds);
    let begun = rig.services.store().begin(&intent, Clock::system().now()).await.unwrap();
    assert!(matches!(begun, Begin::Fresh(_)), "{begun:?}");
    becomes_sick(&rig, &works).await;
    let before = rig.effects().broadcast;
    for _ in 0..3 {
        let answer = rig.get("/sick/x", &[("PAYMENT-SIGNATURE", &proof)]).await;
        assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (503, "upstream_down"));
    }
    assert_eq!(rig.effects().broadcast, before, "nothing was charged");
    works.store(true, Ordering::SeqCst);
    eventually("bills", || is_sold(&rig, "/sick/x")).await;
    let served = rig.ask_until_decided("/sick/x", &proof).await;
    assert_eq!((served.status().as_u16(), capability(&served).1), (200, 4));
    assert_eq!(rig.effects().broadcast, before + 1);
    rig.end().await;
}

#[tokio::test]
async fn what_was_sent_or_bought_before_is_kept() {
    let (rig, _upstream, works) = sick().await;
    let (key, other) = (rig.payer(1, PLENTY), rig.payer(2, PLENTY));
    let (bought, _) = capability(&rig.pay(&key, "/sick/x").await);
    let [_, offer] = rig.bill("/sick/x").await;
    becomes_sick(&rig, &works).await;

    let unlocked = rig.get("/sick/x", &[("PAYMENT-CAPABILITY", &bought)]).await;
    assert_eq!((unlocked.status().as_u16(), error(unlocked).await.as_str()), (503, "upstream_down"));
    // Its money has moved: the payment is settled, and its use comes back.
    let block = rig.devnet.send_block(&other, offer.pay_to, offer.amount).unwrap();
    rig.devnet.process(block).unwrap();
    let proof = signature(&other, &block, &offer);
    let sent = rig.ask_until_decided("/sick/x", &proof).await;
    assert_eq!((sent.status().as_u16(), capability(&sent).1), (502, 5));
    let (token, _) = capability(&sent);

    works.store(true, Ordering::SeqCst);
    eventually("bills", || is_sold(&rig, "/sick/x")).await;
    for (token, left) in [(&bought, 3), (&token, 4)] {
        let served = rig.get("/sick/x", &[("PAYMENT-CAPABILITY", token)]).await;
        assert_eq!((served.status().as_u16(), capability(&served).1), (200, left));
    }
    eventually("counted", || async { Uses::of(&rig, "sick") == Uses { committed: 3, given_back: 1 } }).await;
    rig.end().await;
}
