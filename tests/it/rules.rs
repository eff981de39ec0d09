//! Rules of routes beside their prices, at a whole gateway: who is turned away, who is not billed, and the key
//! that an upstream sees and a client does not.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;

use crate::logs::Logs;
use crate::patience::eventually;
use crate::rig::{PLENTY, Plan, Rig, capability, error, header, manual_clock, signature};
use crate::scripted::Reply;

fn plan(routes: &str) -> Plan {
    Plan { routes: routes.to_owned(), ..Plan::default() }
}

/// How many requests to `route` ended with this outcome.
fn count(rig: &Rig, route: &str, outcome: &str) -> u64 {
    let line = format!("requests_total{{outcome=\"{outcome}\",route=\"{route}\"}} ");
    let text = rig.services.metrics().text().unwrap();
    let found = text.lines().find_map(|it| it.split_once(&line));
    found.map_or(0, |(_, number)| number.parse().unwrap())
}

#[tokio::test]
async fn a_route_is_for_those_clients_that_it_names() {
    let rig = Rig::with(plan(
        "  - { name: ours, match: /ours, upstream: api, free: true, allow: [127.0.0.0/8] }\n  \
           - { name: theirs, match: /theirs, upstream: api, free: true, allow: [10.0.0.0/8] }\n  \
           - { name: not us, match: /not-us, upstream: api, price: 1 raw, deny: [127.0.0.1] }\n",
    ))
    .await;
    assert_eq!(rig.get("/ours", &[]).await.status(), 200);
    for path in ["/theirs", "/not-us"] {
        let response = rig.get(path, &[]).await;
        assert_eq!(response.status(), 403, "{path}");
        assert!(!response.headers().contains_key("payment-required"), "{path}: no bill");
        assert_eq!(error(response).await, "client_not_allowed");
    }
    assert_eq!(rig.upstream.seen().len(), 1);
    rig.end().await;
}

/// A payment that is not wanted is refused before it is broadcast, and one that was made before counts no more.
#[tokio::test]
async fn what_a_denied_account_pays_is_not_taken() {
    let routes = |deny: &str| {
        format!(
            "  - {{ name: paid, match: /paid, upstream: api, price: 1 raw, grants: {{ requests: 9, within: 1h }}, \
             mechanisms: [nanoTxn, nanoSignature]{deny} }}\n"
        )
    };
    let rig = Rig::with(plan(&routes(""))).await;
    let (payer, other) = (rig.payer(1, PLENTY), rig.payer(2, PLENTY));
    let bought = rig.pay(&payer, "/paid").await;
    assert_eq!(bought.status(), 200);
    let (token, _) = capability(&bought);
    let denied = format!(", deny: [{}]", payer.account());
    rig.services.reload(&rig.config("", &routes(&denied))).await.unwrap();

    let before = rig.effects();
    let [txn, signed] = rig.bill("/paid").await;
    let (proof, block) = rig.txn(&payer, &txn);
    let refused = rig.get("/paid", &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!(refused.status(), 403);
    assert_eq!(error(refused).await, "payer_not_allowed");
    let refused = rig.get("/paid", &[("PAYMENT-SIGNATURE", &signature(&payer, &block, &signed))]).await;
    assert_eq!((refused.status().as_u16(), error(refused).await.as_str()), (403, "payer_not_allowed"));
    let refused = rig.get("/paid", &[("PAYMENT-CAPABILITY", &token)]).await;
    assert_eq!((refused.status().as_u16(), error(refused).await.as_str()), (403, "payer_not_allowed"));
    assert_eq!(rig.effects(), before, "nothing was broadcast or forwarded");
    assert_eq!(rig.pay(&other, "/paid").await.status(), 200, "another account");

    rig.services.reload(&rig.config("", &routes(""))).await.unwrap();
    let opened = rig.get("/paid", &[("PAYMENT-CAPABILITY", &token)]).await;
    assert_eq!(capability(&opened).1, 7, "the refused request took no use");
    rig.end().await;
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_again_and_a_payment_is_not_late() {
    let rig = Rig::with(plan(
        "  - { name: slow, match: /slow, upstream: api, price: 1 raw, grants: { requests: 9, within: 1h }, \
             limit: { requests: 1, per: 1h, burst: 3 } }\n",
    ))
    .await;
    let payer = rig.payer(1, PLENTY);
    let bought = rig.pay(&payer, "/slow").await;
    assert_eq!(bought.status(), 200, "the bill took one turn, the payment none");
    let (token, _) = capability(&bought);
    for _ in 0..2 {
        assert_eq!(rig.get("/slow", &[("PAYMENT-CAPABILITY", &token)]).await.status(), 200);
    }
    let refused = rig.get("/slow", &[("PAYMENT-CAPABILITY", &token)]).await;
    assert_eq!(refused.status(), 429);
    let after: u64 = header(&refused, "retry-after").parse().unwrap();
    assert!((3500..=3600).contains(&after), "{after}");
    assert_eq!(error(refused).await, "too_many_requests");
    assert_eq!(rig.effects().forwarded, 3);
    let limits = rig.services.metrics().text().unwrap();
    assert!(limits.contains("limits_reached_total{limit=\"limit\"} 1"), "{limits}");
    rig.end().await;
}

/// Before: a header of a proof, whatever was in it, let every request of a free route past its limit, and every
/// capability that came in it.
#[tokio::test]
async fn what_only_looks_like_a_payment_is_counted() {
    let limit = "limit: { requests: 1, per: 1h, burst: 1 }";
    let rig = Rig::with(plan(&format!(
        "  - {{ name: open, match: /open, upstream: api, free: true, {limit} }}\n  \
           - {{ name: slow, match: /slow, upstream: api, price: 1 raw, grants: {{ requests: 9, within: 1h }}, {limit} }}\n  \
           - match: POST /mcp\n    upstream: api\n    {limit}\n    mcp: {{ methods: {{ ping: free, tools/call: 1 raw }} }}\n",
    )))
    .await;
    let proof = [("PAYMENT-SIGNATURE", "rubbish")];
    let statuses = [rig.get("/open", &proof).await, rig.get("/open", &proof).await];
    assert_eq!(statuses.map(|it| it.status().as_u16()), [200, 429]);

    let (token, _) = capability(&rig.pay(&rig.payer(1, PLENTY), "/slow").await);
    let access =
        serde_json::json!({ "x402Version": 2, "payload": { "mode": "access", "credential": token } });
    let wrapped = faregate::x402::encode_header(&access);
    for header in ["PAYMENT-CAPABILITY", "PAYMENT-SIGNATURE"] {
        let text = if header == "PAYMENT-CAPABILITY" { &token } else { &wrapped };
        assert_eq!(
            rig.get("/slow", &[(header, text)]).await.status(),
            429,
            "{header}: the bill took the turn"
        );
    }

    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let mut answered = Vec::new();
    for _ in 0..2 {
        let request = rig.http.post(format!("{}/mcp", rig.url)).header("Content-Type", "application/json");
        let sent = request.header("PAYMENT-SIGNATURE", "rubbish").body(ping).send().await.unwrap();
        answered.push(sent.status().as_u16());
    }
    assert_eq!(answered, [200, 429]);
    rig.end().await;
}

#[tokio::test]
async fn a_payers_limit_counts_what_it_has_paid_for_and_no_bill() {
    let rig = Rig::with(plan(
        "  - { name: slow, match: /slow, upstream: api, price: 1 raw, grants: { requests: 9, within: 1h }, \
             limit: { requests: 1, per: 1h, by: payer } }\n",
    ))
    .await;
    let bought = [1, 2].map(|it| rig.payer(it, PLENTY));
    for payer in bought {
        let (token, _) = capability(&rig.pay(&payer, "/slow").await);
        let ask = async || rig.get("/slow", &[("PAYMENT-CAPABILITY", &token)]).await;
        let first = ask().await;
        assert_eq!((first.status().as_u16(), capability(&first).1), (200, 7), "each payer has its own turn");
        assert_eq!(ask().await.status(), 429);
        assert_eq!(rig.get("/slow", &[]).await.status(), 402);
    }
    rig.end().await;
}

#[tokio::test]
async fn a_client_has_free_requests_each_day_and_then_pays() {
    let (clock, now) = manual_clock();
    let routes = "  - { name: some, match: /some, upstream: api, price: 1 raw, free_per_day: 2 }\n";
    let rig = Rig::with(Plan {
        clock,
        answer: Box::new(|_| {
            Reply::text(200, "x").with("Cache-Control", "public").with("Faregate-Allowance", "99")
        }),
        ..plan(routes)
    })
    .await;
    for left in [1, 0] {
        let free = rig.get("/some", &[]).await;
        assert_eq!(free.status(), 200);
        assert!(header(&free, "faregate-allowance").starts_with(&format!("remaining={left}; resets=")));
        assert_eq!(header(&free, "cache-control"), "private", "the next client may have to pay");
    }
    assert_eq!(rig.get("/some", &[]).await.status(), 402);
    let paid = rig.pay(&rig.payer(1, PLENTY), "/some").await;
    assert_eq!(paid.status(), 200);
    assert!(!paid.headers().contains_key("faregate-allowance"));
    now.fetch_add(24 * 3600, Ordering::SeqCst);
    assert_eq!(rig.get("/some", &[]).await.status(), 200, "on the next day");
    eventually("three free requests are counted", async || count(&rig, "some", "allowance") == 3).await;
    assert_eq!(count(&rig, "some", "paid"), 1);
    rig.end().await;
}

#[tokio::test]
async fn a_price_in_the_shadow_is_counted_and_not_asked_for() {
    let rig = Rig::with(plan(
        "  - { name: soon, match: /soon, upstream: api, price: 7 raw, grants: { requests: 2, within: 60s }, mode: shadow }\n",
    ))
    .await;
    let free = rig.get("/soon", &[]).await;
    assert_eq!(free.status(), 200);
    assert_eq!(header(&free, "faregate-shadow"), "amount=7; requests=2; within=60");
    let wrong = rig.get("/soon", &[("PAYMENT-CAPABILITY", "rubbish")]).await;
    assert_eq!(wrong.status(), 402, "who shows something is answered about it");
    eventually("it is counted", async || count(&rig, "soon", "shadow") == 1).await;
    rig.end().await;
}

#[tokio::test]
async fn an_upstreams_key_is_the_gateways_and_no_client_sees_or_replaces_it() {
    const KEY: &str = "sk-q9Zx7-not-to-be-shown";
    let logs = Logs::keep();
    let (folder, routes) =
        (tempfile::TempDir::new().unwrap(), "  - { match: /free/**, upstream: keyed, free: true }\n");
    let file = folder.path().join("api.key");
    std::fs::write(&file, format!("{KEY}\n")).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let more = format!(
        "  keyed: {{ url: \"UPSTREAM\", auth: {{ header: X-Api-Key, prefix: \"Key \", value_file: \"{}\" }} }}\n",
        file.display()
    );
    let rig = Rig::with(Plan { more: more.clone(), ..plan(routes) }).await;
    let mine = [("X-Api-Key", "mine"), ("x_api_key", "mine too")];
    let answer = rig.get("/free/x", &mine).await;
    assert_eq!(answer.status(), 200);
    let seen = rig.upstream.seen();
    let keys: Vec<_> = seen[0]
        .headers()
        .iter()
        .filter(|(name, _)| name.to_lowercase().replace('_', "-") == "x-api-key")
        .collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert_eq!(keys[0].1, format!("Key {KEY}"));

    std::fs::write(&file, "another").unwrap();
    rig.services.reload(&rig.config(&more, routes)).await.unwrap();
    rig.get("/free/x", &[]).await;
    assert_eq!(rig.upstream.seen()[1].header("x-api-key"), Some("Key another"));

    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let error = rig.services.reload(&rig.config(&more, routes)).await.unwrap_err().to_string();
    assert!(error.contains("`upstreams.keyed.auth.value_file`") && error.contains("chmod 600"), "{error}");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    for (text, why) in [("", "not the value of a header"), ("a\nb", "not the value of a header")] {
        std::fs::write(&file, text).unwrap();
        let error = rig.services.reload(&rig.config(&more, routes)).await.unwrap_err().to_string();
        assert!(error.contains(why), "{text:?}: {error}");
    }
    assert!(!logs.text().contains("not-to-be-shown"));
    rig.end().await;
}
