//! Who pays when it goes wrong: uses that are given back, and those that are not.

use super::wire::{Played, Wire};
use super::{OK, ROOMY, bought, played, requests};
use crate::metrics::{Uses, sample};
use crate::patience::eventually;
use crate::rig::{PLENTY, Plan, Rig, capability, error, header};
use crate::scripted::{Reply, nobody};

/// One request with the capability, played by `answer`, and its status and `remaining` as said.
async fn once(rig: &Rig, upstream: &mut Played, token: &str, answer: &str) -> (u16, u32) {
    let credential = [("PAYMENT-CAPABILITY", token)];
    let ask = rig.get("/raw/x", &credential);
    let (got, ()) = tokio::join!(ask, upstream.play(answer));
    (got.status().as_u16(), capability(&got).1)
}

/// Answers, their status, and whether they take a use, on a route with this `charge_on`.
async fn judged(route: &str, cases: &[(&str, u16, bool)]) {
    let (rig, mut upstream, token) = played("", route, "").await;
    let (mut left, mut committed, mut given_back, mut failed) = (9, 1, 0, 0);
    for &(answer, status, charged) in cases {
        if charged {
            left -= 1;
            committed += 1;
        }
        assert_eq!(once(&rig, &mut upstream, &token, answer).await, (status, left), "{route} {answer:?}");
        if !charged {
            (given_back, failed, committed, left) = (given_back + 1, failed + 1, committed + 1, left - 1);
            assert_eq!(once(&rig, &mut upstream, &token, OK).await, (200, left), "after {answer:?}");
        }
        eventually("the uses are counted", || async {
            Uses::of(&rig, "raw") == Uses { committed, given_back }
        })
        .await;
        eventually("the requests are counted", || async {
            requests(&rig, "raw", "upstream_failed") == failed
                && requests(&rig, "raw", "unlocked") == committed - 1
        })
        .await;
    }
    rig.end().await;
}

#[tokio::test]
async fn an_answer_that_does_not_count_gives_the_use_back() {
    judged(
        "",
        &[
            ("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n", 500, false),
            ("HTTP/1.1 502 X\r\nContent-Length: 3\r\n\r\nbad", 502, false),
            ("HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n", 503, false),
            ("", 502, false),
            ("HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n", 404, true),
            ("HTTP/1.1 200 X\r\nContent-Length: 2\r\nFaregate-Charge: no\r\n\r\nok", 200, false),
            ("HTTP/1.1 200 X\r\nContent-Length: 2\r\nfaregate-charge:  No \r\n\r\nok", 200, false),
            ("HTTP/1.1 200 X\r\nContent-Length: 2\r\nFaregate-Charge: yes\r\n\r\nok", 200, true),
        ],
    )
    .await;
    judged(
        ", charge_on: below_400",
        &[
            ("HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n", 404, false),
            ("HTTP/1.1 302 X\r\nContent-Length: 0\r\n\r\n", 302, true),
        ],
    )
    .await;
    judged(
        ", charge_on: answered",
        &[
            ("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n", 500, true),
            ("", 502, false),
            ("HTTP/1.1 500 X\r\nContent-Length: 0\r\nFaregate-Charge: no\r\n\r\n", 500, false),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_upstream_that_is_late_or_not_there_gives_the_use_back() {
    let dead = nobody();
    let late = Played::start().await;
    let more = format!(
        "  dead: {{ url: \"{}\", health: {{ failures: 0 }} }}\n  late: {{ url: \"{}\", timeout: 50ms }}\n",
        dead.url, late.url
    );
    let routes = r#"
  - { name: dead, match: "/dead", upstream: dead, price: 1 raw }
  - { name: late, match: "/late", upstream: late, price: 1 raw }
"#;
    let rig = Rig::with(Plan { more, routes: routes.to_owned(), ..Plan::default() }).await;
    let key = rig.payer(1, PLENTY);
    for (path, route, status) in [("/dead", "dead", 502), ("/late", "late", 504)] {
        let failed = rig.pay(&key, path).await;
        assert_eq!((failed.status().as_u16(), header(&failed, "cache-control")), (status, "no-store"));
        assert_eq!(header(&failed, "connection"), "close", "it is said before it is done");
        let receipt =
            faregate::x402::SettlementResponse::from_header(header(&failed, "payment-response")).unwrap();
        assert!(matches!(receipt.outcome, faregate::x402::SettlementOutcome::Settled { .. }), "{receipt:?}");
        let (token, left) = capability(&failed);
        assert_eq!((left, error(failed).await.as_str()), (1, "upstream_failed"));
        // The one use is there at once for whoever tries again, as often as it takes.
        for _ in 0..3 {
            let again = rig.get(path, &[("PAYMENT-CAPABILITY", &token)]).await;
            assert_eq!((again.status().as_u16(), capability(&again).1), (status, 1));
        }
        eventually("counted", || async {
            Uses::of(&rig, route) == Uses { committed: 0, given_back: 4 }
                && requests(&rig, route, "upstream_failed") == 4
        })
        .await;
    }
    rig.end().await;
}

#[tokio::test]
async fn the_same_proof_is_served_once_the_upstream_is_back() {
    let broken = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let state = std::sync::Arc::clone(&broken);
    let plan = Plan {
        routes: ROOMY.to_owned(),
        answer: Box::new(move |_| {
            let broken = state.load(std::sync::atomic::Ordering::SeqCst);
            if broken { Reply::text(503, "later") } else { Reply::text(200, "here") }
        }),
        ..Plan::default()
    };
    let rig = Rig::with(plan).await;
    let key = rig.payer(1, PLENTY);
    let [offer, _] = rig.bill("/once/x").await;
    let (proof, _) = rig.txn(&key, &offer);
    for _ in 0..3 {
        let failed = rig.get("/once/x", &[("PAYMENT-SIGNATURE", &proof)]).await;
        assert_eq!((failed.status().as_u16(), capability(&failed).1), (503, 1));
    }
    broken.store(false, std::sync::atomic::Ordering::SeqCst);
    let served = rig.get("/once/x", &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!((served.status().as_u16(), capability(&served).1), (200, 0));
    let again = rig.get("/once/x", &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!((again.status().as_u16(), error(again).await.as_str()), (402, "DUPLICATE_BLOCK_HASH"));
    let settled = "payments_settled_total{mechanism=\"nanoTxn\",route=\"once\"}";
    assert_eq!(sample(&rig, settled), 1.0, "one payment for four requests");
    rig.end().await;
}

#[tokio::test]
async fn half_an_answer_is_no_answer() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\nnot a chunk\r\n",
    ] {
        let (rig, mut upstream, token) = played("", "", "").await;
        let mut wire = Wire::open(&rig.url).await;
        wire.ask("GET /raw/x", &[&format!("PAYMENT-CAPABILITY: {token}")]).await;
        upstream.play(answer).await;
        let head = wire.head().await;
        assert_eq!(head.status, 200, "the answer had begun");
        let rest = wire.rest().await;
        assert!(!rest.ends_with(b"0\r\n\r\n") && rest.len() < 100, "cut off, so that the client notices");
        eventually("given back", || async { Uses::of(&rig, "raw") == Uses { committed: 1, given_back: 1 } })
            .await;
        assert_eq!(once(&rig, &mut upstream, &token, OK).await, (200, 8), "{answer:?}");
        rig.end().await;
    }
}

#[tokio::test]
async fn hanging_up_is_forgiven_twice() {
    let (rig, mut upstream, token) = played("", "", "").await;
    let credential = format!("PAYMENT-CAPABILITY: {token}");
    for (committed, given_back) in [(1, 1), (1, 2), (2, 2)] {
        let mut wire = Wire::open(&rig.url).await;
        wire.ask("GET /raw/x", &[&credential]).await;
        let mut call = upstream.call().await;
        call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
        assert_eq!(wire.head().await.status, 200);
        drop(wire);
        tokio::select! {
            () = eventually("settled", || async {
                Uses::of(&rig, "raw") == Uses { committed, given_back }
            }) => {}
            () = call.send_on() => {}
        }
    }
    assert_eq!(once(&rig, &mut upstream, &token, OK).await, (200, 7), "two were forgiven, one was not");
    // Gone before the upstream had said anything is the same.
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /raw/x", &[&credential]).await;
    let _never_answered = upstream.call().await;
    drop(wire);
    eventually("given back", || async { Uses::of(&rig, "raw") == Uses { committed: 3, given_back: 3 } })
        .await;
    rig.end().await;
}

/// It is durably spent before the answer leaves.
#[tokio::test]
async fn hanging_up_is_not_forgiven_where_uses_are_strictly_metered() {
    let (rig, mut upstream, token) = played("", ", metering: strict", "").await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /raw/x", &[&format!("PAYMENT-CAPABILITY: {token}")]).await;
    let mut call = upstream.call().await;
    call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
    assert_eq!(wire.head().await.status, 200);
    drop(wire);
    tokio::select! {
        () = eventually("settled", || async {
            Uses::of(&rig, "raw") == Uses { committed: 2, given_back: 0 }
        }) => {}
        () = call.send_on() => {}
    }
    assert_eq!(once(&rig, &mut upstream, &token, OK).await, (200, 7));
    rig.end().await;
}

#[tokio::test]
async fn a_free_request_failed_if_its_upstream_did_and_not_if_its_client_left() {
    let mut upstream = Played::start().await;
    let more = format!("  raw: {{ url: \"{}\" }}\n", upstream.url);
    let routes = "  - { name: given, match: \"/given/**\", upstream: raw, free: true }\n".to_owned();
    let rig = Rig::with(Plan { more, routes, ..Plan::default() }).await;
    let counted = |outcome| requests(&rig, "given", outcome);
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /given/x", &[]).await;
    drop(upstream.call().await);
    assert_eq!(wire.answer().await.status, 502);
    eventually("it is counted", async || counted("upstream_failed") == 1).await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /given/x", &[]).await;
    let _never_answered = upstream.call().await;
    drop(wire);
    eventually("it is counted", async || counted("free") == 1).await;
    let (whole, ()) = tokio::join!(rig.get("/given/x", &[]), upstream.play(OK));
    assert_eq!(whole.status(), 200);
    eventually("it is counted", async || counted("free") == 2).await;
    assert_eq!(counted("upstream_failed"), 1);
    rig.end().await;
}

#[tokio::test]
async fn a_use_is_not_spent_twice_by_requests_at_once() {
    let rig = Rig::with(Plan { routes: ROOMY.to_owned(), ..Plan::default() }).await;
    let token = bought(&rig, "/v1/search/x").await;
    let credential = [("PAYMENT-CAPABILITY", token.as_str())];
    let at_once = (0..50).map(|_| rig.get("/v1/search/x", &credential));
    let mut left: Vec<u32> =
        futures_util::future::join_all(at_once).await.iter().map(|it| capability(it).1).collect();
    left.sort_unstable();
    let last = rig.get("/v1/search/x", &[("PAYMENT-CAPABILITY", &token)]).await;
    assert_eq!((left[0], capability(&last).1), (949, 948));
    eventually("counted", || async {
        Uses::of(&rig, "roomy") == Uses { committed: 52, given_back: 0 }
            && requests(&rig, "roomy", "unlocked") == 51
    })
    .await;
    assert_eq!((requests(&rig, "roomy", "paid"), requests(&rig, "roomy", "challenged")), (1, 1));
    rig.end().await;
}

/// Regression: five hundred failures in a row cost nothing, and each was asked of the upstream.
#[tokio::test]
async fn failures_in_a_row_are_rationed_in_time() {
    let (clock, seconds) = crate::rig::manual_clock();
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let well = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (count, state) = (std::sync::Arc::clone(&asked), std::sync::Arc::clone(&well));
    let plan = Plan {
        routes: ROOMY.to_owned(),
        clock,
        answer: Box::new(move |_| {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let well = state.load(std::sync::atomic::Ordering::SeqCst);
            if well { Reply::text(200, "here") } else { Reply::text(500, "no") }
        }),
        ..Plan::default()
    };
    let rig = Rig::with(plan).await;
    let key = rig.payer(1, PLENTY);
    let failed = rig.pay(&key, "/v1/search/x").await;
    let (token, bought) = capability(&failed);
    let credential = [("PAYMENT-CAPABILITY", token.as_str())];
    let ask = || rig.get("/v1/search/x", &credential);
    for _ in 0..4 {
        assert_eq!(ask().await.status().as_u16(), 500);
    }
    for pause in [1_u64, 2, 4, 8, 16, 32, 60, 60] {
        let before = asked.load(std::sync::atomic::Ordering::SeqCst);
        for _ in 0..2 {
            let refused = ask().await;
            let head = (refused.status().as_u16(), header(&refused, "retry-after").to_owned());
            assert_eq!(head, (503, pause.to_string()));
            assert_eq!(error(refused).await, "upstream_failing");
        }
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), before, "the upstream is left alone");
        seconds.fetch_add(pause, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(ask().await.status().as_u16(), 500, "and asked once after the pause");
    }
    well.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(ask().await.status().as_u16(), 503);
    seconds.fetch_add(60, std::sync::atomic::Ordering::SeqCst);
    for spent in 1..=3 {
        let served = ask().await;
        assert_eq!(
            (served.status().as_u16(), capability(&served).1),
            (200, bought - spent),
            "all is forgotten"
        );
    }
    rig.end().await;
}

/// Regression: an answer that its upstream broke off gave its use back without end, and so did a stream
/// of events, which is read as it comes.
#[tokio::test]
async fn an_answer_that_the_upstream_breaks_off_is_given_back_twice() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this";
    let event = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
                 9\r\ndata: 1\n\n\r\n";
    let (rig, mut upstream, token) = played("", "", "").await;
    for (answer, committed, given_back) in
        [(half, 1, 1), (half, 1, 2), (half, 2, 2), (half, 2, 3), (event, 3, 3), (event, 4, 3)]
    {
        let mut wire = Wire::open(&rig.url).await;
        wire.ask("GET /raw/x", &[&format!("PAYMENT-CAPABILITY: {token}")]).await;
        upstream.play(answer).await;
        assert_eq!(wire.head().await.status, 200, "the answer had begun");
        let _cut_off = wire.rest().await;
        eventually("counted", || async { Uses::of(&rig, "raw") == Uses { committed, given_back } }).await;
    }
    rig.end().await;
}
