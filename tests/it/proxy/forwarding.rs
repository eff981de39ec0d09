//! Requests and answers on their way through: bytes, order, time, place.

use super::wire::Wire;
use super::{OK, bought, played, roomy};
use crate::metrics::Uses;
use crate::patience::{eventually, soon};
use crate::rig::{Plan, Rig, capability};
use crate::scripted::{Reply, Scripted, nobody};

#[tokio::test]
async fn method_path_query_and_body_arrive_as_they_were_sent() {
    let plan = Plan {
        routes: super::ROOMY.to_owned(),
        answer: Box::new(|seen| {
            let body = if seen.body.is_empty() { b"ok".to_vec() } else { seen.body.clone() };
            Reply::Http { status: 200, headers: Vec::new(), body }
        }),
        ..Plan::default()
    };
    let rig = Rig::with(plan).await;
    let token = bought(&rig, "/v1/search/bought").await;
    let credential = format!("PAYMENT-CAPABILITY: {token}");
    let mut wire = Wire::open(&rig.url).await;
    let query = "x=%2F..%2f&y=+&&=&z=%c3%A4~';()";
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"] {
        wire.ask(
            &format!("{method} /v1/search/a%2Db/c%20d/%e4%bd%a0?{query}"),
            &[&credential, "Content-Length: 0"],
        )
        .await;
        assert_eq!(wire.answer().await.status, 200, "{method}");
        let seen = rig.upstream.seen().pop().unwrap();
        assert_eq!(seen.method, method);
        assert_eq!(
            seen.path,
            format!("/v1/search/a-b/c%20d/%E4%BD%A0?{query}"),
            "one spelling, query untouched"
        );
    }
    for size in [1, 10_000, 1024 * 1024] {
        let body: Vec<u8> = (0..size).map(|it: usize| (it % 251) as u8).collect();
        let request = rig.http.post(format!("{}/v1/search/x", rig.url)).header("PAYMENT-CAPABILITY", &token);
        let answer = request.body(body.clone()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.bytes().await.unwrap() == body, "the answer of {size} bytes");
        assert!(rig.upstream.seen().pop().unwrap().body == body, "the request of {size} bytes");
    }
    wire.ask("POST /v1/search/chunked", &[&credential, "Transfer-Encoding: chunked"]).await;
    wire.send("5\r\nchunk\r\n").await;
    wire.send("2\r\ned\r\n0\r\n\r\n").await;
    assert_eq!(wire.answer().await.text(), "chunked");
    drop(wire);
    rig.end().await;
}

#[tokio::test]
async fn an_answer_arrives_piece_by_piece_as_it_is_sent() {
    let (rig, mut upstream, token) = played("", "", "").await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /raw/events", &[&format!("PAYMENT-CAPABILITY: {token}")]).await;
    let mut call = upstream.call().await;
    call.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let head = wire.head().await;
    assert_eq!((head.status, head.one("content-type")), (200, "text/event-stream"));
    for piece in ["data: one\n\n", "data: two\n\n", "data: three\n\n"] {
        call.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        // Only then does the upstream go on: a gateway that kept it back would hang here.
        let expected = format!("{:X}\r\n{piece}\r\n", piece.len());
        let got = wire.exactly(expected.len()).await;
        assert!(String::from_utf8(got).unwrap().eq_ignore_ascii_case(&expected));
    }
    call.send("0\r\n\r\n").await;
    assert_eq!(wire.exactly(5).await, b"0\r\n\r\n");
    drop((call, wire));
    rig.end().await;
}

#[tokio::test]
async fn a_request_body_is_passed_on_while_it_comes() {
    let (rig, mut upstream, token) = played("", "", "").await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("POST /raw/upload", &[&format!("PAYMENT-CAPABILITY: {token}"), "Transfer-Encoding: chunked"])
        .await;
    wire.send("5\r\nfirst\r\n").await;
    let mut call = upstream.call().await;
    let mut line = String::new();
    soon("a chunk", tokio::io::AsyncBufReadExt::read_line(&mut call.stream, &mut line)).await.unwrap();
    assert_eq!(line, "5\r\n", "the first part, with the last one not yet sent");
    wire.send("6\r\nsecond\r\n0\r\n\r\n").await;
    call.send(OK).await;
    assert_eq!(wire.answer().await.text(), "ok");
    drop((call, wire));
    rig.end().await;
}

#[tokio::test]
async fn trailers_break_nothing() {
    let (rig, mut upstream, token) = played("", "", "").await;
    let credential = format!("PAYMENT-CAPABILITY: {token}");
    let mut wire = Wire::open(&rig.url).await;
    for left in [8, 7] {
        wire.ask("GET /raw/sum", &[&credential, "TE: trailers"]).await;
        upstream
            .play(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                 4\r\nbody\r\n0\r\nX-Sum: 42\r\n\r\n",
            )
            .await;
        let answer = wire.answer().await;
        assert_eq!((answer.text(), answer.remaining()), ("body", left));
    }
    drop(wire);
    rig.end().await;
}

#[tokio::test]
async fn the_upstream_learns_who_asked_for_what_from_the_gateway_alone() {
    let more = "  kept: { url: UPSTREAM, host_header: preserve }\n  based: { url: UPSTREAM/base/v2/ }\n";
    let routes = r#"
  - { match: "/own/**", upstream: api, free: true }
  - { match: "/kept/**", upstream: kept, free: true }
  - { match: "/based/**", upstream: based, free: true }
"#;
    let rig = Rig::with(Plan { more: more.to_owned(), routes: routes.to_owned(), ..Plan::default() }).await;
    let own = rig.upstream.url[url::Position::BeforeHost..url::Position::AfterPort].to_owned();
    let forged = [
        "X-Forwarded-For: 6.6.6.6",
        "X_Forwarded_For: 6.6.6.6",
        "X-Forwarded-Host: evil.test",
        "X-Forwarded-Proto: gopher",
        "X-Forwarded-Port: 666",
        "X-Forwarded-Prefix: /evil",
        "X-Forwarded-Server: evil.test",
        "X-Forwarded-Uri: /evil",
        "X-Original-URL: /evil",
        "X-Rewrite-URL: /evil",
        "X-Real-IP: 6.6.6.6",
        "Forwarded: for=6.6.6.6",
        "X-Own: stays",
    ];
    let mut wire = Wire::open(&rig.url).await;
    for (target, seen_path, host) in [
        ("/own/a?b", "/own/a?b", own.as_str()),
        ("/kept/a", "/kept/a", "gateway.test"),
        ("/based/a?b=c", "/base/v2/based/a?b=c", &own),
    ] {
        wire.ask(&format!("GET {target}"), &forged).await;
        assert_eq!(wire.answer().await.status, 200);
        let seen = rig.upstream.seen().pop().unwrap();
        assert_eq!((seen.path.as_str(), seen.header("host")), (seen_path, Some(host)));
        for (name, value) in [
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-host", "gateway.test"),
            ("x-forwarded-proto", "http"),
            ("x-own", "stays"),
        ] {
            assert_eq!(seen.header(name), Some(value), "{name}");
        }
        let log = format!("{:?}", seen.headers());
        assert!(!log.contains("6.6.6.6") && !log.contains("evil") && !log.contains("666"), "{log}");
    }
    drop(wire);
    rig.end().await;
}

#[tokio::test]
async fn several_servers_are_taken_in_turn_and_a_dead_one_is_passed_over() {
    let [left, right] = [
        Scripted::start(|_| Reply::text(200, "left")).await,
        Scripted::start(|_| Reply::text(200, "right")).await,
    ];
    let dead = nobody();
    let more = format!(
        "  both: {{ urls: [\"{}\", \"{}\"] }}\n  limping: {{ urls: [\"{}\", \"{}\"] }}\n  dead: {{ url: \"{}\" }}\n",
        left.url, right.url, dead.url, left.url, dead.url
    );
    let routes = r#"
  - { match: "/both/**", upstream: both, free: true }
  - { match: "/limping/**", upstream: limping, free: true }
  - { match: "/dead/**", upstream: dead, free: true }
"#;
    let rig = Rig::with(Plan { more, routes: routes.to_owned(), ..Plan::default() }).await;
    for _ in 0..6 {
        assert_eq!(rig.get("/both/x", &[]).await.status(), 200);
    }
    assert_eq!((left.seen().len(), right.seen().len()), (3, 3));
    // All at once: whichever server the others' requests were given, each finds the one that lives.
    let at_once = (0..32).map(|_| rig.get("/limping/x", &[]));
    for answer in futures_util::future::join_all(at_once).await {
        assert_eq!(answer.status(), 200);
    }
    let answer = rig.get("/dead/x", &[]).await;
    assert_eq!((answer.status().as_u16(), crate::rig::error(answer).await.as_str()), (503, "upstream_down"));
    rig.end().await;
}

/// Nothing was sent to the first, so the request loses nothing by another try.
#[tokio::test]
async fn a_server_that_takes_no_connection_is_passed_over_although_it_is_never_left_out() {
    let (there, dead) = (Scripted::start(|_| Reply::text(200, "here")).await, nobody());
    let more =
        format!("  two: {{ urls: [\"{}\", \"{}\"], health: {{ failures: 0 }} }}\n", dead.url, there.url);
    let routes = "  - { match: \"/two/**\", upstream: two, free: true }\n".to_owned();
    let rig = Rig::with(Plan { more, routes, ..Plan::default() }).await;
    for _ in 0..6 {
        assert_eq!(rig.get("/two/x", &[]).await.status(), 200);
    }
    assert_eq!(there.seen().len(), 6);
    rig.end().await;
}

#[tokio::test]
async fn health_checks_ask_below_the_base_path_and_a_sick_server_is_left_alone() {
    let sick = Scripted::start(|seen| match seen.path.as_str() {
        "/base/healthz" => Reply::text(503, "sick"),
        _ => Reply::text(200, "from the sick one"),
    })
    .await;
    let well = Scripted::start(|seen| match seen.path.as_str() {
        "/healthz" => Reply::text(200, "well"),
        _ => Reply::text(200, "from the well one"),
    })
    .await;
    let more = format!(
        "  watched: {{ urls: [\"{}base\", \"{}\"], health: {{ path: /healthz, every: 100ms }} }}\n",
        sick.url, well.url
    );
    let routes = "  - { match: \"/watched/**\", upstream: watched, free: true }\n".to_owned();
    let rig = Rig::with(Plan { more, routes, ..Plan::default() }).await;
    let asked = |server: &Scripted, path: &str| server.seen().iter().filter(|it| it.path == path).count();
    eventually("two checks of each", || async {
        asked(&sick, "/base/healthz") >= 2 && asked(&well, "/healthz") >= 2
    })
    .await;
    for _ in 0..4 {
        assert_eq!(rig.get("/watched/x", &[]).await.text().await.unwrap(), "from the well one");
    }
    let host = |server: &Scripted| server.seen()[0].header("host").unwrap().to_owned();
    assert!(sick.url.as_str().contains(&host(&sick)) && well.url.as_str().contains(&host(&well)));
    rig.end().await;
}

#[tokio::test]
async fn hop_by_hop_headers_end_here() {
    let (rig, mut upstream, token) = played("", "", "").await;
    let mut wire = Wire::open(&rig.url).await;
    let headers = [
        format!("PAYMENT-CAPABILITY: {token}"),
        "Connection: X-Nominated, keep-alive, X-Payment-Payer, X-Payment-Amount".to_owned(),
        "X-Nominated: secret".to_owned(),
        "Keep-Alive: timeout=5".to_owned(),
        "Proxy-Authorization: Basic c2VjcmV0".to_owned(),
        "TE: trailers".to_owned(),
        "Upgrade: h2c".to_owned(),
    ];
    wire.ask("GET /raw/x", &headers.each_ref().map(String::as_str)).await;
    let mut call = upstream.call().await;
    let head = call.head.join("\n").to_ascii_lowercase();
    for gone in ["x-nominated", "keep-alive", "proxy-authorization", "te:", "upgrade", "secret"] {
        assert!(
            !head.lines().any(|line| line.starts_with(gone)) && !head.contains("secret"),
            "{gone} in {head}"
        );
    }
    assert!(head.contains("x-payment-payer: nano_") && head.contains("x-payment-amount: 1"), "{head}");
    call.send(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=7\r\nConnection: keep-alive\r\n\r\nok",
    )
    .await;
    assert_eq!(wire.answer().await.text(), "ok");
    drop((call, wire));
    rig.end().await;
}

const UPGRADE: [&str; 4] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

#[tokio::test]
async fn an_upgrade_is_tunnelled_once_it_is_paid_and_not_before() {
    let (rig, mut upstream, token) = played("", "", "").await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /raw/socket", &UPGRADE).await;
    // What is written after an upgrade that was not granted must not reach the upstream either.
    wire.send("GET /raw/smuggled HTTP/1.1\r\nHost: gateway.test\r\n\r\n").await;
    assert_eq!(wire.answer().await.status, 402);
    drop(wire);

    let mut wire = Wire::open(&rig.url).await;
    let credential = format!("PAYMENT-CAPABILITY: {token}");
    let [connection, upgrade, version, key] = UPGRADE;
    wire.ask("GET /raw/socket", &[&credential, connection, upgrade, version, key]).await;
    let mut call = upstream.call().await;
    assert_eq!(call.head[0], "GET /raw/socket HTTP/1.1");
    assert!(call.head.iter().any(|it| it.eq_ignore_ascii_case(upgrade)), "{:?}", call.head);
    call.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let head = wire.head().await;
    assert_eq!((head.status, head.remaining()), (101, 8));
    wire.send("\u{1}ping").await;
    let mut got = [0; 5];
    soon("the tunnel up", tokio::io::AsyncReadExt::read_exact(&mut call.stream, &mut got)).await.unwrap();
    assert_eq!(&got, b"\x01ping");
    call.send("\u{2}pong").await;
    assert_eq!(wire.exactly(5).await, b"\x02pong");
    // However the tunnel ends, what was bought was had: hanging up is no way to read for free.
    drop(wire);
    drop(call);
    eventually("the use is spent", || async {
        Uses::of(&rig, "raw") == Uses { committed: 2, given_back: 0 }
    })
    .await;
    assert!(upstream.is_idle(), "only the paid upgrade came through");
    rig.end().await;
}

/// What was bought is the tunnel. Before: one that ended with a reset gave its use back, twice in a row.
#[tokio::test]
async fn a_tunnel_is_charged_for_however_it_ends() {
    let (rig, mut upstream, token) = played("", "", "").await;
    let credential = format!("PAYMENT-CAPABILITY: {token}");
    let [connection, upgrade, version, key] = UPGRADE;
    for committed in 2..=3 {
        let mut wire = Wire::open(&rig.url).await;
        wire.ask("GET /raw/socket", &[&credential, connection, upgrade, version, key]).await;
        let mut call = upstream.call().await;
        call.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        assert_eq!(wire.head().await.status, 101);
        call.send("\u{1}ping").await;
        assert_eq!(wire.exactly(5).await, b"\x01ping");
        call.stream.get_ref().set_zero_linger().unwrap();
        drop(call);
        assert_eq!(wire.rest().await, b"");
        eventually("it is charged for", async || Uses::of(&rig, "raw") == Uses { committed, given_back: 0 })
            .await;
    }
    rig.end().await;
}

#[tokio::test]
async fn informational_answers_pass_and_do_not_count() {
    let (rig, mut upstream, token) = played("", "", "").await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /raw/hints", &[&format!("PAYMENT-CAPABILITY: {token}")]).await;
    upstream.play(&format!("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n{OK}")).await;
    let mut answer = wire.head().await;
    if answer.status == 103 {
        answer = wire.answer().await;
    }
    assert_eq!((answer.status, answer.remaining()), (200, 8));
    drop(wire);
    rig.end().await;
}

#[tokio::test]
async fn a_free_answer_carries_nothing_of_payments() {
    let (rig, _) = roomy().await;
    let answer = rig.get("/free/x", &[]).await;
    assert_eq!(answer.status(), 200);
    assert!(
        answer.headers().get("payment-capability").is_none()
            && answer.headers().get("cache-control").is_none()
    );
    assert!(rig.upstream.seen().pop().unwrap().header("x-payment-payer").is_none());
    let paid = rig.pay(&rig.payer(2, crate::rig::PLENTY), "/once/x").await;
    assert_eq!(capability(&paid).1, 0);
    rig.end().await;
}
