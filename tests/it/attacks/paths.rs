//! Attacks on the path: no other spelling of a priced one gets past unpaid.
//!
//! Everything here is sent as bytes, since clients tidy up what they send. The judge is the
//! upstream's log, read as the most liberal of servers would read it.

use std::time::Duration;

use proptest::prelude::{Strategy, any, prop};
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::scene;
use crate::rig::{PLENTY, Plan, Rig};
use crate::scripted::{Reply, Seen};

/// Priced paths among free ones, and everything else passes.
const ROUTES: &str = r#"
  - { name: paid, match: "/paid", upstream: api, price: 1 raw }
  - { name: below, match: "/deep/**", upstream: api, price: 1 raw }
  - { match: "/paid/free", upstream: api, free: true }
  - { match: "/free/**", upstream: api, free: true }
  - { match: "/deeper/**", upstream: api, free: true }
  - { name: read, match: "GET /thing/{id}", upstream: api, price: 1 raw }
  - { match: "/thing/{id}", upstream: api, free: true }
unmatched: { upstream: api, free: true }
"#;

/// How long the rest of an answer is waited for on a connection that stays open.
const PATIENCE: Duration = Duration::from_millis(150);

async fn open_house() -> Rig {
    Rig::with(Plan { routes: ROUTES.to_owned(), ..Plan::default() }).await
}

/// Sends the bytes as they are, and gives all that comes back until the connection is closed or
/// nothing has come for a while.
async fn raw(rig: &Rig, bytes: &[u8]) -> String {
    let address = rig.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    // A gateway that has read enough closes; the rest of the bytes is of no use to anybody.
    let _closed_early = stream.write_all(bytes).await.is_err();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(length @ 1..)) = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await {
        answer.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// A request line and the headers of an ordinary client that asks for one answer.
fn request(rig: &Rig, line: &str, headers: &str) -> Vec<u8> {
    let host = rig.url.trim_start_matches("http://");
    format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n").into_bytes()
}

/// The statuses of the answers, in their order.
fn statuses(answer: &str) -> Vec<u16> {
    let lines = answer.match_indices("HTTP/1.").map(|(at, _)| &answer[at..]);
    lines.filter_map(|it| it.split(' ').nth(1)?.get(..3)?.parse().ok()).collect()
}

/// A path as the most liberal of servers reads it: decoded until nothing is encoded, backslashes
/// turned, parameters and what follows a NUL cut off, slashes collapsed, dots resolved, without regard
/// to letter case, without a slash at its end.
pub(crate) fn liberally(path: &str) -> String {
    let mut path = path.split(['?', '#']).next().unwrap().to_owned();
    if let Some((_, rest)) = path.split_once("://") {
        path = rest.split_once('/').map_or_else(|| "/".to_owned(), |(_, rest)| format!("/{rest}"));
    }
    loop {
        let decoded = decoded(&path);
        if decoded == path {
            break;
        }
        path = decoded;
    }
    let path = path.split('\0').next().unwrap().replace('\\', "/");
    // By capital letters and by small ones; `İ` becomes an `i` with a dot above it.
    let path = path.to_uppercase().to_lowercase().replace('\u{307}', "");
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment.split(';').next().unwrap().trim() {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other.to_owned()),
        }
    }
    format!("/{}", segments.join("/"))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let pair = after.get(..2).and_then(|it| std::str::from_utf8(it).ok());
        match pair.and_then(|it| u8::from_str_radix(it, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a liberal server would serve one of the priced resources.
fn is_priced(seen: &Seen) -> bool {
    let path = liberally(&seen.path);
    let reads = ["GET", "HEAD"].iter().any(|it| seen.method.eq_ignore_ascii_case(it))
        || ["x-http-method-override", "x-http-method", "x-method-override"]
            .iter()
            .any(|it| seen.header(it).is_some());
    let is_thing = path.strip_prefix("/thing/").is_some_and(|id| !id.is_empty() && !id.contains('/'));
    path == "/paid" || path == "/deep" || path.starts_with("/deep/") || (is_thing && reads)
}

/// Asserts that nothing priced has reached the upstream without a payment.
fn nothing_got_past(rig: &Rig, what: &str) {
    for seen in rig.upstream.seen() {
        let paid = seen.header("x-payment-route").is_some();
        assert!(
            paid || !is_priced(&seen),
            "{what}: {} {} reached the upstream unpaid",
            seen.method,
            seen.path
        );
    }
}

#[test]
fn the_judge_sees_through_every_spelling() {
    let spellings = [
        "/paid",
        "/PAID/",
        "//paid",
        "/./paid",
        "/x/../paid",
        "/x/%2e%2e/paid",
        "/%70aid",
        "/%2570aid",
        "/paid;x=1",
        "/paid%00.png",
        "/x%2f..%2fpaid",
        "/x\\..\\paid",
        "/x/..%5cpaid",
        "http://host/paid",
        "/paid?x",
        "/paid#x",
        "/pa%C4%B1d",
        "/PA%C4%B0D",
    ];
    for spelling in spellings {
        assert_eq!(liberally(spelling), "/paid", "{spelling}");
    }
    assert_eq!(liberally("/paid/free"), "/paid/free");
}

/// Other spellings of priced paths, and the paths themselves.
const BILLED: &[&str] = &[
    "/paid",
    "/paid/",
    "/PAID",
    "/Paid/",
    "/%70aid",
    "/%50AID",
    "/pai%64?x=1",
    "/paid?",
    "/paid?/free/x",
    "/deep",
    "/deep/",
    "/DEEP/x",
    "/deep/%78/y",
    "/deep/%C3%A4",
    // Letters whose capital or small letter is an ASCII one: `ı`, `İ`.
    "/pa%C4%B1d",
    "/PA%C4%B0D",
];

/// What some server might read as a priced path.
const REFUSED: &[&str] = &[
    "//paid",
    "///paid",
    "/free//../paid",
    "/./paid",
    "/free/../paid",
    "/free/./../paid",
    "/paid/.",
    "/paid/..",
    "/free/%2e%2e/paid",
    "/free/%2E./paid",
    "/free/.%2e/paid",
    "/%2e/paid",
    "/free%2f..%2fpaid",
    "/%2fpaid",
    "/paid%2f",
    "/%2Fpaid",
    "/free%5c..%5cpaid",
    "/free\\..\\paid",
    "\\paid",
    "/\\paid",
    "/paid\\",
    "/paid;x",
    "/paid;",
    "/free/..;/paid",
    "/paid;/../free/x",
    "/paid%3b",
    "/paid%00",
    "/paid%00.png",
    "/paid%0a",
    "/paid%0d%0a",
    "/paid%7f",
    "/paid%C2%85",
    "/%2570aid",
    "/free/%252e%252e/paid",
    "/free/%25%32%65%25%32%65/paid",
    "/free%252f..%252fpaid",
    "/paid#",
    "/paid#/free/x",
    "/free/x#/../paid",
    "/paid%",
    "/paid%2",
    "/paid%zz",
    "/paid%c0%af",
    "/%c0%ae%c0%ae/paid",
    "/%e0%80%af",
    "/pa\u{ef}d",
    "/free/\u{2025}/paid",
    "paid",
    "*",
    "",
];

#[tokio::test]
async fn every_other_spelling_of_a_priced_path_is_billed_or_refused() {
    let rig = open_house().await;
    let long = format!("/{}/../paid", "a".repeat(5000));
    for (paths, expected) in [(BILLED, 402), (REFUSED, 400), (&[long.as_str()], 400)] {
        for path in paths {
            let answer = raw(&rig, &request(&rig, &format!("GET {path}"), "")).await;
            nothing_got_past(&rig, path);
            let status = statuses(&answer).first().copied();
            assert_eq!(status, Some(expected), "GET {path}: {answer}");
        }
    }
    assert_eq!(rig.upstream.seen().len(), 0);
    // What is free is not in the way of anybody.
    for (path, seen) in [
        ("/paid/free", "/paid/free"),
        ("/free/%61", "/free/a"),
        ("/deeper/x", "/deeper/x"),
        ("/other", "/other"),
    ] {
        let answer = raw(&rig, &request(&rig, &format!("GET {path}"), "")).await;
        assert_eq!(statuses(&answer), [200], "{path}");
        assert_eq!(rig.upstream.seen().pop().unwrap().path, seen);
    }
    rig.end().await;
}

#[tokio::test]
async fn a_payment_is_what_gets_past() {
    let (rig, payer) = scene(Plan { routes: ROUTES.to_owned(), ..Plan::default() }).await;
    assert_eq!(rig.pay(&payer, "/PAID/").await.status(), 200);
    let seen = rig.upstream.seen().pop().unwrap();
    assert!(is_priced(&seen) && seen.header("x-payment-route") == Some("paid"), "the judge is awake");
    assert!(rig.devnet.lattice().balance(payer.account()) < PLENTY);
    rig.end().await;
}

#[tokio::test]
async fn the_target_names_an_authority() {
    let rig = open_house().await;
    let host = rig.url.trim_start_matches("http://").to_owned();
    let rows = [
        (format!("GET http://{host}/paid"), 402),
        (format!("GET HTTP://{host}/PAID/"), 402),
        (format!("GET https://{host}/paid"), 402),
        (format!("GET http://{host}/free/../paid"), 400),
        (format!("GET http://{host}//paid"), 400),
        (format!("GET http://{host}\\paid"), 400),
        (format!("GET http://{host}#/paid"), 400),
        ("GET http://elsewhere.example/paid".to_owned(), 400),
        (format!("GET http://{host}@elsewhere.example/paid"), 400),
        (format!("GET http://user@{host}/paid"), 400),
        (format!("GET ftp://{host}/paid"), 400),
        (format!("GET //{host}/paid"), 400),
        ("GET elsewhere.example:80".to_owned(), 400),
    ];
    for (line, expected) in rows {
        let answer = raw(&rig, &request(&rig, &line, "")).await;
        nothing_got_past(&rig, &line);
        assert_eq!(statuses(&answer).first(), Some(&expected), "{line}: {answer}");
    }
    assert_eq!(rig.upstream.seen().len(), 0);
    rig.end().await;
}

#[tokio::test]
async fn the_framing_says_two_things() {
    let rig = open_house().await;
    let host = rig.url.trim_start_matches("http://").to_owned();
    let smuggled = format!("GET /paid HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let chunk = format!("0\r\n\r\n{smuggled}");
    let host_line = format!("Host: {host}\r\n");
    let rows = [
        ("two Host headers", format!("POST /free/x HTTP/1.1\r\n{host_line}Host: elsewhere\r\n\r\n")),
        ("the same Host twice", format!("POST /free/x HTTP/1.1\r\n{host_line}{host_line}\r\n")),
        ("no Host", "POST /free/x HTTP/1.1\r\n\r\n".to_owned()),
        (
            "a length and an encoding",
            format!(
                "POST /free/x HTTP/1.1\r\n{host_line}Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}",
                chunk.len()
            ),
        ),
        (
            "an encoding and a length",
            format!(
                "POST /free/x HTTP/1.1\r\n{host_line}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{chunk}"
            ),
        ),
        (
            "two lengths",
            format!(
                "POST /free/x HTTP/1.1\r\n{host_line}Content-Length: 0\r\nContent-Length: 5\r\n\r\n{smuggled}"
            ),
        ),
        (
            "a length with a sign",
            format!("POST /free/x HTTP/1.1\r\n{host_line}Content-Length: +0\r\n\r\n{smuggled}"),
        ),
        (
            "an encoding that is none",
            format!("POST /free/x HTTP/1.1\r\n{host_line}Transfer-Encoding: xchunked\r\n\r\n{chunk}"),
        ),
        (
            "a space before the colon",
            format!("POST /free/x HTTP/1.1\r\n{host_line}Content-Length : 5\r\n\r\n{smuggled}"),
        ),
        (
            "a folded line",
            format!("POST /free/x HTTP/1.1\r\n{host_line}X: y\r\n Content-Length: 5\r\n\r\n{smuggled}"),
        ),
        ("a NUL in a header", format!("POST /free/x HTTP/1.1\r\n{host_line}X: y\0\r\n\r\n")),
        ("two spaces", format!("GET  /paid HTTP/1.1\r\n{host_line}\r\n")),
        ("a tab", format!("GET\t/paid\tHTTP/1.1\r\n{host_line}\r\n")),
        ("another version", format!("GET /paid HTTP/3.0\r\n{host_line}\r\n")),
        ("no version", "GET /paid\r\n\r\n".to_owned()),
        ("CONNECT", format!("CONNECT {host} HTTP/1.1\r\n{host_line}\r\n{smuggled}")),
    ];
    for (what, bytes) in rows {
        let answer = raw(&rig, bytes.as_bytes()).await;
        nothing_got_past(&rig, what);
        let refused = statuses(&answer).first().is_none_or(|it| (400..500).contains(it));
        assert!(refused, "{what}: {answer}");
    }
    assert_eq!(rig.upstream.seen().len(), 0, "{:?}", rig.upstream.seen());
    // A client of the first version sends no Host, and pays all the same.
    let old = raw(&rig, b"GET /paid HTTP/1.0\r\n\r\n").await;
    assert_eq!(statuses(&old), [402]);
    rig.end().await;
}

#[tokio::test]
async fn another_method_asks_for_the_same() {
    let rig = open_house().await;
    for line in [
        "HEAD /paid",
        "OPTIONS /paid",
        "BREW /paid",
        "get /paid",
        "PROPFIND /paid",
        "TRACE /paid",
        "HEAD /thing/1",
        "head /thing/1",
        "Get /thing/1",
    ] {
        let answer = raw(&rig, &request(&rig, line, "")).await;
        nothing_got_past(&rig, line);
        let status = statuses(&answer).first().copied();
        assert!(matches!(status, Some(400 | 402 | 405)), "{line}: {answer}");
    }
    // What looks like a preflight is none without a method to ask for, nor without an origin.
    for headers in ["Origin: https://a.example\r\n", "Access-Control-Request-Method: GET\r\n"] {
        let answer = raw(&rig, &request(&rig, "OPTIONS /paid", headers)).await;
        assert_eq!(statuses(&answer), [402], "{headers}");
    }
    assert_eq!(rig.upstream.seen().len(), 0);
    rig.end().await;
}

#[tokio::test]
async fn a_header_asks_for_another_method_or_path() {
    let rig = open_house().await;
    let headers = [
        "X-HTTP-Method-Override: GET",
        "X-HTTP-Method: GET",
        "X-Method-Override: GET",
        "x_http_method_override: GET",
        "X-Original-URL: /paid",
        "X-Rewrite-URL: /paid",
        "X_Original_Url: /paid",
        "X-Original-URI: /paid",
    ];
    for header in headers {
        let answer =
            raw(&rig, &request(&rig, "POST /thing/1", &format!("{header}\r\nContent-Length: 0\r\n"))).await;
        assert_eq!(statuses(&answer), [200], "a POST is free here, and stays one");
        let seen = rig.upstream.seen().pop().unwrap();
        let name = header.split(':').next().unwrap();
        assert_eq!((seen.method.as_str(), seen.header(name)), ("POST", None), "{header}");
        let paid =
            raw(&rig, &request(&rig, "POST /paid", &format!("{header}\r\nContent-Length: 0\r\n"))).await;
        assert_eq!(statuses(&paid), [402], "{header}");
    }
    nothing_got_past(&rig, "an override");
    rig.end().await;
}

#[tokio::test]
async fn a_second_request_rides_on_the_first() {
    let rig = open_house().await;
    let host = rig.url.trim_start_matches("http://").to_owned();
    let second = format!("GET /paid HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let heads = [
        format!("GET /free/x HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!("GET /paid HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
        format!(
            "GET /paid HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\n\r\n"
        ),
        format!("POST /free/x HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("POST /free/x HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n"),
        format!("POST /paid HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\r\nhello"),
    ];
    for head in heads {
        let answer = raw(&rig, format!("{head}{second}").as_bytes()).await;
        nothing_got_past(&rig, &head);
        assert_ne!(statuses(&answer), [200, 200], "{head}");
    }
    rig.end().await;
}

/// A second `Upgrade` line beside `websocket` was passed on, and no test noticed.
#[tokio::test]
async fn a_free_upgrade_to_another_protocol_would_be_a_tunnel() {
    let answer = |seen: &Seen| match seen.header("upgrade") {
        Some(protocol) => Reply::text(101, "").with("Connection", "Upgrade").with("Upgrade", protocol),
        None => Reply::text(200, "no upgrade"),
    };
    let rig =
        Rig::with(Plan { routes: ROUTES.to_owned(), answer: Box::new(answer), ..Plan::default() }).await;
    // In a tunnel of HTTP/2, every path of the upstream could be asked for unseen.
    for protocol in [
        "h2c",
        "H2C",
        "websocket, h2c",
        "websocket\r\nUpgrade: h2c",
        "h2c\r\nUpgrade: websocket",
        "HTTP/2.0",
        "TLS/1.0",
    ] {
        let headers = format!(
            "Host: {}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\nHTTP2-Settings: AAAA\r\n",
            rig.url.trim_start_matches("http://")
        );
        let answer = raw(&rig, format!("GET /free/x HTTP/1.1\r\n{headers}\r\n").as_bytes()).await;
        assert_eq!(statuses(&answer).first(), Some(&200), "{protocol}: {answer}");
        let seen = rig.upstream.seen().pop().unwrap();
        assert_eq!((seen.header("upgrade"), seen.header("http2-settings")), (None, None), "{protocol}");
    }
    rig.end().await;
}

/// Pieces of which targets that mean harm are made.
fn target() -> impl Strategy<Value = String> {
    let piece = select(vec![
        "paid", "PAID", "Paid", "%70aid", "p%61id", "%2570aid", "deep", "DEEP", "%64eep", "free", "FREE",
        "thing", "x", "/", "/", "/", "//", "%2f", "%2F", "%252f", "\\", "%5c", ".", "..", "%2e", "%2E%2e",
        "%252e", ";", ";x=1", "%3b", "?", "#", "%00", "%", "%25", "%C3%A4", "~", "+", "%20", "@", ":", "*",
        "1", "\u{e4}", "&", "=",
    ]);
    let lead = select(vec!["/", "/", "/", "/paid/", "/free/", "/deep/", "//", "", "/."]);
    (lead, prop::collection::vec(piece, 1..7), any::<bool>()).prop_map(|(lead, pieces, slash)| {
        format!("{lead}{}{}", pieces.concat(), if slash { "/" } else { "" })
    })
}

#[tokio::test]
async fn whatever_the_target_nothing_priced_gets_past() {
    const CASES: usize = 400;
    let rig = open_house().await;
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let host = rig.url.trim_start_matches("http://").to_owned();
    let mut answered = std::collections::BTreeMap::new();
    for _ in 0..CASES {
        let target = target().new_tree(&mut runner).unwrap().current();
        let mut stream = TcpStream::connect(&host).await.unwrap();
        stream.write_all(&request(&rig, &format!("GET {target}"), "")).await.unwrap();
        let mut answer = String::new();
        // What follows the head does not matter here, nor does how the connection ends.
        let _reset = stream.read_to_string(&mut answer).await.is_err();
        nothing_got_past(&rig, &target);
        let status = statuses(&answer).first().copied().unwrap_or(0);
        *answered.entry(status).or_insert(0_usize) += 1;
    }
    for status in [200, 400, 402] {
        assert!(answered.get(&status).is_some_and(|it| *it > 5), "all kinds occur: {answered:?}");
    }
    rig.end().await;
}
