//! An upstream that closes an idle connection as the next request arrives (RFC 9110 section 9.2.2, RFC
//! 9112 section 9.3.1): what may be done twice is sent again, and nothing else is sent twice.

use crate::metrics::Uses;
use crate::patience::eventually;
use crate::proxy::wire::Wire;
use crate::rig::{PLENTY, Plan, Rig, capability};
use crate::sloppy::{Manner, Sloppy};

const ROUTES: &str = r#"
  - { match: "/free/**", upstream: tested, free: true }
  - { name: paid, match: "/paid/**", upstream: tested, price: 1 raw, grants: { requests: 1000, within: 1h } }
"#;

async fn before(manner: Manner) -> (Rig, Sloppy) {
    let sloppy = Sloppy::start(manner).await;
    let more = format!("  tested: {{ url: \"{}\" }}\n", sloppy.url);
    (Rig::with(Plan { more, routes: ROUTES.to_owned(), ..Plan::default() }).await, sloppy)
}

/// Regression: of a hundred GETs to such an upstream, forty were answered 502.
#[tokio::test]
async fn what_may_be_done_twice_is_sent_again_and_takes_one_use() {
    for manner in [Manner::ClosesOnReuse, Manner::ResetsOnReuse] {
        let (rig, sloppy) = before(manner).await;
        let token = capability(&rig.pay(&rig.payer(1, PLENTY), "/paid/bought").await).0;
        let credential = format!("PAYMENT-CAPABILITY: {token}");
        let mut wire = Wire::open(&rig.url).await;
        for number in 0..60 {
            let method = ["GET", "PUT", "DELETE", "OPTIONS"][number % 4];
            let target = format!("{method} /paid/{number}");
            wire.ask(&target, &[&credential, "Content-Length: 0"]).await;
            let answer = wire.answer().await;
            assert_eq!((answer.status, answer.text()), (200, target.as_str()), "{manner:?}");
        }
        eventually("one use for each", async || {
            Uses::of(&rig, "paid") == Uses { committed: 61, given_back: 0 }
        })
        .await;
        assert!(sloppy.dropped() >= 20, "{manner:?}: the connections were old: {}", sloppy.dropped());
        drop(wire);
        rig.end().await;
    }
}

#[tokio::test]
async fn what_may_be_done_only_once_meets_no_old_connection() {
    for manner in [Manner::ClosesOnReuse, Manner::ResetsOnReuse] {
        let (rig, sloppy) = before(manner).await;
        let mut wire = Wire::open(&rig.url).await;
        for number in 0..20 {
            // This leaves a connection that the upstream will close as soon as it is used.
            wire.ask(&format!("GET /free/{number}"), &[]).await;
            assert_eq!(wire.answer().await.status, 200);
            for (target, body) in [
                (format!("POST /free/{number}"), ""),
                (format!("POST /free/body-{number}"), "abc"),
                (format!("PUT /free/body-{number}"), "abc"),
                (format!("BREW /free/{number}"), ""),
            ] {
                wire.ask(&target, &[&format!("Content-Length: {}", body.len())]).await;
                wire.send(body).await;
                let answer = wire.answer().await;
                assert_eq!((answer.status, answer.text()), (200, target.as_str()), "{manner:?}");
            }
        }
        let log = sloppy.log();
        let once = log.iter().filter(|it| it.method != "GET").count();
        assert_eq!(once, 80, "each arrived once");
        drop(wire);
        rig.end().await;
    }
}

/// An upstream that reads a request and closes has perhaps done what it says.
#[tokio::test]
async fn what_was_perhaps_done_is_not_sent_again() {
    let (rig, sloppy) = before(Manner::NeverAnswers).await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("POST /free/x", &["Content-Length: 0"]).await;
    assert_eq!(wire.answer().await.status, 502);
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /free/x", &[]).await;
    assert_eq!(wire.answer().await.status, 502, "a new connection is no old one");
    let asked: Vec<_> = sloppy.log().into_iter().map(|it| it.method).collect();
    assert_eq!(asked, ["POST", "GET"]);
    rig.end().await;
}
