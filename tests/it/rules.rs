//! Rules of routes beside their prices, at a whole gateway: who is turned away, who is not billed, and the key
//! that an upstream sees and a client does not.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;

use reqwest::Response;

use crate::logs::Logs;
use crate::patience::eventually;
use crate::rig::{PLENTY, Plan, Rig, capability, error, header, manual_clock, signature};
use crate::scripted::{Reply, Seen};

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

/// A client that had its proxy's two headers disagree was taken for the proxy, and let in by the proxy's network.
#[tokio::test]
async fn a_client_that_a_proxy_is_not_believed_about_is_not_on_the_list() {
    let rig = Rig::with(Plan {
        listen: Some("trusted_proxies: [127.0.0.0/8]"),
        ..plan(
            "  - { name: ours, match: /ours, upstream: api, free: true, allow: [127.0.0.0/8, 10.0.0.0/8] }\n",
        )
    })
    .await;
    for (listed, forwarded, status) in [
        (None, None, 200),
        (Some("10.1.2.3"), None, 200),
        (Some("192.0.2.1"), None, 403),
        (Some("192.0.2.1"), Some("for=198.51.100.7"), 403),
        (Some("192.0.2.1"), Some("for=\"open"), 403),
    ] {
        let listed = listed.map(|it| ("X-Forwarded-For", it));
        let headers: Vec<_> = listed.into_iter().chain(forwarded.map(|it| ("Forwarded", it))).collect();
        assert_eq!(rig.get("/ours", &headers).await.status(), status, "{headers:?}");
    }
    rig.end().await;
}

/// A preflight went to the upstream for anybody, as often as it came, and on a free route its whole answer came back.
#[tokio::test]
async fn a_preflight_that_the_upstream_answers_is_a_request_of_its_client() {
    let rig = Rig::with(plan(
        "  - { name: theirs, match: /theirs, upstream: api, free: true, allow: [10.0.0.0/8] }\n  \
           - { name: asked, match: /asked, upstream: api, price: 1 raw, preflight: upstream, deny: [127.0.0.0/8] }\n  \
           - { name: slow, match: /slow, upstream: api, free: true, limit: { requests: 1, per: 1h } }\n  \
           - { name: own, match: /own, upstream: api, price: 1 raw, deny: [127.0.0.0/8] }\n",
    ))
    .await;
    let ask = async |path: &str| {
        let request = rig.http.request(reqwest::Method::OPTIONS, format!("{}{path}", rig.url));
        let request =
            request.header("Origin", "https://page.example").header("Access-Control-Request-Method", "GET");
        request.send().await.unwrap().status().as_u16()
    };
    let mut statuses = Vec::new();
    for path in ["/theirs", "/asked", "/slow", "/slow", "/own"] {
        statuses.push(ask(path).await);
    }
    assert_eq!(statuses, [403, 403, 200, 429, 204], "the gateway answers the last one itself");
    assert_eq!(rig.effects().forwarded, 1);
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

/// Whoever showed the proof of what was bought instead of its capability asked as often as was paid for, at once.
#[tokio::test]
async fn a_proof_that_is_shown_again_is_counted_like_its_capability() {
    let route = |path: &str, limit: &str| {
        format!(
            "  - {{ match: {path}, upstream: api, price: 1 raw, grants: {{ requests: 9, within: 1h }}, limit: {limit} }}\n"
        )
    };
    let routes = route("/client", "{ requests: 1, per: 1h, burst: 2 }")
        + &route("/payer", "{ requests: 1, per: 1h, by: payer }");
    let rig = Rig::with(plan(&routes)).await;
    for path in ["/client", "/payer"] {
        let [offer, _] = rig.bill(path).await;
        let (proof, _) = rig.txn(&rig.payer(1, PLENTY), &offer);
        let mut statuses = vec![rig.ask_until_decided(path, &proof).await.status().as_u16()];
        for _ in 0..2 {
            statuses.push(rig.get(path, &[("PAYMENT-SIGNATURE", &proof)]).await.status().as_u16());
        }
        assert_eq!(statuses, [200, 200, 429], "{path}: neither the bill nor the payment is late");
    }
    assert_eq!(rig.effects().forwarded, 4);
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

/// A free request was spent whatever became of it: by an upstream that fails, says that it does not count, only
/// redirects or is not there, and by a share of requests that is reached.
#[tokio::test]
async fn a_free_request_that_brings_nothing_comes_back() {
    let route = |path: &str, upstream: &str| {
        format!("  - {{ match: {path}, upstream: {upstream}, price: 1 raw, free_per_day: 1 }}\n")
    };
    let routes = route("/some/**", "api")
        + &route("/other", "api")
        + &route("/gone", "gone")
        + &route("/unseen", "unseen");
    let gone = "  gone: { url: \"http://127.0.0.1:9\" }\n  unseen: { url: \"http://127.0.0.1:9\", health: { failures: 0 } }\n";
    let answer = |seen: &Seen| match seen.path.as_str() {
        "/some/failing" => Reply::text(500, "x"),
        "/some/excused" => Reply::text(200, "x").with("Faregate-Charge", "no"),
        "/some/moved" => Reply::text(302, "secret").with("Location", "/some/good"),
        "/some/dropped" => Reply::Drop,
        "/some/hanging" => Reply::Hang,
        _ => Reply::text(200, "x"),
    };
    let rig = Rig::with(Plan { more: gone.to_owned(), answer: Box::new(answer), ..plan(&routes) }).await;
    let ended = |rig: &Rig| count(rig, "/some/**", "upstream_failed") + count(rig, "/some/**", "allowance");
    let remaining = |response: &Response| header(response, "faregate-allowance").starts_with("remaining=1; ");
    for (path, status) in [("/some/failing", 500), ("/some/excused", 200), ("/some/moved", 302)] {
        let answer = rig.get(path, &[]).await;
        assert_eq!(answer.status(), status, "{path}");
        assert!(remaining(&answer), "{path}: {:?}", answer.headers());
        let body = answer.text().await.unwrap();
        assert_eq!(body, if status == 302 { "" } else { "x" }, "{path}");
    }
    for (path, status, code) in [
        ("/some/dropped", 502, "upstream_failed"),
        ("/gone", 503, "upstream_down"),
        ("/unseen", 502, "upstream_failed"),
        ("/some/dropped", 502, "upstream_failed"),
        ("/unseen", 502, "upstream_failed"),
    ] {
        let answer = rig.get(path, &[]).await;
        assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (status, code), "{path}");
    }
    eventually("all have ended", async || ended(&rig) == 5).await;
    let share = format!("{gone}limits: {{ per_client: {{ free_forwards: 1 }} }}\n");
    rig.services.reload(&rig.config(&share, &routes)).await.unwrap();
    let hanging = tokio::spawn(rig.http.get(format!("{}/some/hanging", rig.url)).send());
    eventually("it is at the upstream", async || {
        rig.upstream.seen().iter().any(|it| it.path == "/some/hanging")
    })
    .await;
    assert_eq!(rig.get("/some/good", &[]).await.status(), 402, "it is held meanwhile");
    let beyond = rig.get("/other", &[]).await;
    assert_eq!((beyond.status().as_u16(), error(beyond).await.as_str()), (503, "overloaded"));
    hanging.abort();
    eventually("the hanging request has ended", async || ended(&rig) == 6).await;
    assert_eq!(rig.get("/some/good", &[]).await.status(), 402, "who hangs up has had the upstream's work");
    assert_eq!(rig.get("/other", &[]).await.status(), 200);
    rig.end().await;
}

/// One free request was as many calls as fit into a body.
#[tokio::test]
async fn a_batch_of_calls_takes_as_many_free_requests() {
    let rig = Rig::with(plan(
        "  - { match: POST /mcp, upstream: api, free_per_day: 3, mcp: { methods: { ping: free, tools/call: 1 raw } } }\n",
    ))
    .await;
    let call = |id: u32| serde_json::json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": "a" } });
    let ping = serde_json::json!({ "jsonrpc": "2.0", "id": 9, "method": "ping" });
    let mut answers = Vec::new();
    for body in [vec![call(1), ping, call(2)], vec![call(3), call(4)], vec![call(5)], vec![call(6)]] {
        let request = rig.http.post(format!("{}/mcp", rig.url)).json(&body);
        let answer = request.send().await.unwrap();
        let said = answer.headers().get("faregate-allowance").map(|it| it.to_str().unwrap().to_owned());
        let left = said.and_then(|it| it.split_once(';').map(|(left, _)| left.to_owned()));
        answers.push((answer.status().as_u16(), left));
    }
    let free = |left: u32| (200, Some(format!("remaining={left}")));
    assert_eq!(answers, [free(1), (402, None), free(0), (402, None)]);
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
