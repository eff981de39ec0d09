//! Routes that are renamed or moved while what was bought on them is out.

use std::sync::atomic::Ordering;

use faregate::assemble::stranded;
use faregate::clock::Clock;
use faregate::store::{Meters, SqliteOptions, SqliteStore};
use serde_json::Value;

use crate::metrics::sample;
use crate::rig::{PLENTY, Plan, Rig, capability, error, manual_clock, signature};
use crate::store::samples::{grantee, hash, sent};

const OLD: &str = r#"
  - { name: old, match: "/a", upstream: api, price: 100 raw, grants: { requests: 100, within: 1h } }
  - { match: "GET /unnamed", upstream: api, price: 100 raw, grants: { requests: 100, within: 1h } }
"#;

/// The routes of [`OLD`], changed.
fn changed(named: &str, unnamed: &str) -> String {
    let terms = "upstream: api, grants: { requests: 100, within: 1h }";
    format!("\n  - {{ {named}, {terms} }}\n  - {{ {unnamed}, {terms} }}\n")
}

async fn start() -> Rig {
    Rig::with(Plan { routes: OLD.to_owned(), ..Plan::default() }).await
}

async fn status(rig: &Rig, path: &str, token: &str) -> u16 {
    rig.get(path, &[("PAYMENT-CAPABILITY", token)]).await.status().as_u16()
}

/// Regression: renaming a route, or editing the `match` of one without a name, made of a capability with
/// 99 uses and of a payment on the ledger a 402.
#[tokio::test]
async fn what_was_bought_under_a_former_name_opens_the_route() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let (named, _) = capability(&rig.pay(&key, "/a").await);
    let (unnamed, _) = capability(&rig.pay(&key, "/unnamed").await);
    let [_, offer] = rig.bill("/a").await;
    let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    let proof = signature(&key, &block, &offer);
    rig.devnet.process(block).unwrap();
    let routes = changed(
        "name: new, match: /b, price: 200 raw, formerly: [old]",
        "match: GET /other, price: 200 raw, formerly: [GET /unnamed]",
    );
    rig.services.reload(&rig.config("", &routes)).await.unwrap();
    assert_eq!(sample(&rig, "stranded_capabilities"), 0.0);
    assert_eq!(status(&rig, "/b", &named).await, 200);
    assert_eq!(status(&rig, "/other", &unnamed).await, 200);
    let served = rig.ask_until_decided("/b", &proof).await;
    assert_eq!(
        (served.status().as_u16(), capability(&served).1),
        (200, 99),
        "for the terms that were bought"
    );
    rig.end().await;
}

/// Without `formerly`, no payer is billed again for what the operator took away.
#[tokio::test]
async fn a_route_that_is_gone_is_no_bill() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let (token, _) = capability(&rig.pay(&key, "/a").await);
    let [offer, _] = rig.bill("/a").await;
    let (proof, _) = rig.txn(&key, &offer);
    let routes = changed("name: new, match: /a, price: 100 raw", "match: GET /unnamed, price: 100 raw");
    let config = rig.config("", &routes);
    rig.services.reload(&config).await.unwrap();
    for credential in [("PAYMENT-CAPABILITY", token.as_str()), ("PAYMENT-SIGNATURE", proof.as_str())] {
        let gone = rig.get("/a", &[credential]).await;
        assert_eq!(gone.status().as_u16(), 410);
        let body: Value = gone.json().await.unwrap();
        assert_eq!(body["error"], "route_gone");
        if credential.0 == "PAYMENT-CAPABILITY" {
            assert_eq!(body["remaining"], 99);
            assert_eq!(body["transaction"].as_str().unwrap().len(), 64);
        }
    }
    assert_eq!(sample(&rig, "stranded_capabilities"), 1.0);
    let told = stranded(rig.services.store(), &config.table, Clock::system().now()).await.unwrap();
    let [told] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((told.route.as_str(), told.dearer, told.capabilities), ("old", false, 1));
    // The one that was spent is reported soon.
    assert!((99..=100).contains(&told.uses), "{told}");
    // What the operator names again opens again.
    let routes =
        changed("name: new, match: /a, price: 1 raw, formerly: [old]", "match: GET /x, price: 1 raw");
    rig.services.reload(&rig.config("", &routes)).await.unwrap();
    assert_eq!(status(&rig, "/a", &token).await, 200);
    rig.end().await;
}

/// Who has nothing left is not told to ask the operator for it.
#[tokio::test]
async fn what_is_used_up_or_has_expired_is_refused_like_any_other() {
    let (clock, seconds) = manual_clock();
    let routes =
        "\n  - { name: old, match: /a, upstream: api, price: 1 raw, grants: { requests: 2, within: 1h } }\n";
    let rig = Rig::with(Plan { routes: routes.to_owned(), clock, ..Plan::default() }).await;
    let key = rig.payer(1, PLENTY);
    let (used_up, _) = capability(&rig.pay(&key, "/a").await);
    assert_eq!(status(&rig, "/a", &used_up).await, 200);
    let (left, _) = capability(&rig.pay(&key, "/a").await);
    let routes = "\n  - { name: new, match: /a, upstream: api, price: 1 raw }\n";
    rig.services.reload(&rig.config("", routes)).await.unwrap();
    assert_eq!(status(&rig, "/a", &left).await, 410);
    let refused = async |token: &str| {
        let answer = rig.get("/a", &[("PAYMENT-CAPABILITY", token)]).await;
        assert_eq!(answer.status(), 402);
        error(answer).await
    };
    assert_eq!(refused(&used_up).await, "WRONG_RESOURCE");
    seconds.fetch_add(3600, Ordering::SeqCst);
    assert_eq!(refused(&left).await, "WRONG_RESOURCE", "this very second it has expired");
    rig.end().await;
}

/// Regression: moving a name to a dearer path let the old, cheap capability in.
#[tokio::test]
async fn a_name_that_moves_to_a_dearer_path_leaves_its_grants_behind() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let (token, _) = capability(&rig.pay(&key, "/a").await);
    let unnamed = "match: GET /unnamed, price: 100 raw";
    for (named, path, expected) in [
        ("name: old, match: /a, price: 900 raw", "/a", 200),
        ("name: old, match: /dear, price: 100 raw", "/dear", 200),
        ("name: old, match: /dear, price: 101 raw", "/dear", 410),
        ("name: old, match: /dear, price: 101 raw, formerly: [/a]", "/dear", 200),
        ("name: old, match: /dear, price: 900 raw", "/dear", 410),
    ] {
        rig.services.reload(&rig.config("", &changed(named, unnamed))).await.unwrap();
        assert_eq!(status(&rig, path, &token).await, expected, "{named}");
        assert_eq!(sample(&rig, "stranded_capabilities"), f64::from(u8::from(expected == 410)), "{named}");
    }
    // What is sold there now is bought there, and a grant of another route is still one of another route.
    let (dear, _) = capability(&rig.pay(&key, "/dear").await);
    assert_eq!(status(&rig, "/dear", &dear).await, 200);
    let elsewhere = rig.get("/unnamed", &[("PAYMENT-CAPABILITY", &dear)]).await;
    assert_eq!((elsewhere.status().as_u16(), error(elsewhere).await.as_str()), (402, "WRONG_RESOURCE"));
    rig.end().await;
}

#[tokio::test]
async fn a_check_says_what_a_file_would_take_away() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("faregate.db"), SqliteOptions::default()).unwrap();
    let intent = sent(hash(1), 1);
    store.grant(&intent, grantee(hash(1), 1, 0), Clock::system().now()).await.unwrap();
    store.close().await;
    let file = folder.path().join("faregate.yaml");
    let check = |routes: &str| {
        let text = format!(
            "public_url: https://api.example.com\nlisten: {{ http: 127.0.0.1:8402 }}\nnano:\n  \
             nodes: [http://127.0.0.1:7076]\n  pool: {{ seed_file: pool.seed }}\nstore: {{ path: faregate.db }}\n\
             upstreams:\n  api: {{ url: http://127.0.0.1:3000 }}\nroutes:\n  - {{ {routes}, upstream: api, price: 1 raw }}\n"
        );
        std::fs::write(&file, text).unwrap();
        let arguments = ["check", "--against-store", "--config", file.to_str().unwrap()];
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_faregate")).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, told) = check("match: /v2/quote");
    assert_eq!(code, Some(65), "{told}");
    let name = intent.route.as_str();
    let expected = format!("1 capability with 10 uses left opens nothing: `{name}` has no route: write it");
    assert!(told.contains(&expected), "{told}");
    let (code, told) = check(&format!("match: /v2/quote, formerly: [\"{name}\"]"));
    assert_eq!(code, Some(0), "{told}");
}
