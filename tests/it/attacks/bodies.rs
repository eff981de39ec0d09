//! Attacks by a body that an upstream does not read: it becomes the next client's request.

use crate::proxy::wire::Wire;
use crate::rig::{Plan, Rig};
use crate::sloppy::{Manner, Sloppy};

const ROUTES: &str = r#"
  - { name: paid, match: "/paid", upstream: sloppy, price: 1 raw }
  - { match: "/free/**", upstream: sloppy, free: true }
  - { match: "/open/**", upstream: sloppy, free: true, body: allow }
"#;

const UNDUE: [&str; 5] = ["GET", "HEAD", "DELETE", "OPTIONS", "TRACE"];

async fn before(manner: Manner) -> (Rig, Sloppy) {
    before_as(manner, "").await
}

/// As [`before`], with more in the upstream's section.
async fn before_as(manner: Manner, terms: &str) -> (Rig, Sloppy) {
    let sloppy = Sloppy::start(manner).await;
    let more = format!("  sloppy: {{ url: \"{}\"{terms} }}", sloppy.url);
    (Rig::with(Plan { more, routes: ROUTES.to_owned(), ..Plan::default() }).await, sloppy)
}

/// Sends a request whose body is a request for what has a price, then asks as another client.
async fn smuggle(rig: &Rig, line: &str, framing: &str) -> u16 {
    let hidden = "GET /paid HTTP/1.1\r\nHost: gateway.test\r\n\r\n";
    let body = if framing == "length" {
        format!("Content-Length: {}\r\n\r\n{hidden}", hidden.len())
    } else {
        format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len())
    };
    let mut wire = Wire::open(&rig.url).await;
    wire.send(format!("{line} HTTP/1.1\r\nHost: gateway.test\r\n{body}")).await;
    let status = wire.head().await.status;
    for turn in 0..3 {
        let mut other = Wire::open(&rig.url).await;
        other.ask(&format!("GET /free/{turn}"), &[]).await;
        assert_eq!(
            other.answer().await.text(),
            format!("GET /free/{turn}"),
            "{line} ({framing}): its own answer"
        );
    }
    status
}

/// The body of a free GET was answered as a request for what has a price, to the next client.
#[tokio::test]
async fn a_body_where_none_is_due_is_refused() {
    let (rig, sloppy) = before(Manner::ReadsNoBody).await;
    for method in UNDUE.into_iter().chain(["get", "Delete"]) {
        for framing in ["length", "chunks"] {
            for path in ["/free/x", "/paid", "/nowhere"] {
                assert_eq!(smuggle(&rig, &format!("{method} {path}"), framing).await, 400, "{method} {path}");
            }
        }
    }
    assert!(sloppy.log().iter().all(|it| it.path.starts_with("/free/")), "{:?}", sloppy.log());
    // A length of zero says that there is none.
    let mut wire = Wire::open(&rig.url).await;
    for method in ["GET", "DELETE", "OPTIONS"] {
        wire.ask(&format!("{method} /free/zero"), &["Content-Length: 0"]).await;
        assert_eq!(wire.answer().await.text(), format!("{method} /free/zero"));
    }
    drop(wire);
    rig.end().await;
}

/// As before, where a body is allowed, or due: the connection to the upstream is not used again.
#[tokio::test]
async fn what_an_upstream_leaves_unread_meets_nobody() {
    let (rig, sloppy) = before(Manner::ReadsNoBody).await;
    let due = ["POST", "PUT", "PATCH", "BREW"].map(|it| (it, "/free/x"));
    let undue = UNDUE.into_iter().filter(|it| *it != "TRACE");
    for (method, path) in undue.map(|it| (it, "/open/x")).chain(due) {
        for framing in ["length", "chunks"] {
            let before = sloppy.log().len();
            assert_eq!(smuggle(&rig, &format!("{method} {path}"), framing).await, 200, "{method} {path}");
            let log = sloppy.log();
            let paths: Vec<_> = log[before..].iter().map(|it| it.path.as_str()).collect();
            assert_eq!(paths, [path, "/free/0", "/free/1", "/free/2"], "{method} ({framing})");
            assert_eq!(log[before].header("connection"), Some("close"), "{method} ({framing})");
        }
    }
    rig.end().await;
}

/// The default costs a connection for each request with a body; an operator who knows the upstream need not
/// pay that.
#[tokio::test]
async fn an_upstream_that_is_said_to_read_bodies_keeps_its_connections() {
    for (terms, connections, said) in [("", 11, Some("close")), (", after_body: keep", 1, None)] {
        let (rig, proper) = before_as(Manner::Proper, terms).await;
        let mut wire = Wire::open(&rig.url).await;
        // The gateway has tried the address by itself.
        let before = proper.connections();
        for turn in 0..10 {
            wire.send(format!("POST /free/{turn} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"))
                .await;
            assert_eq!(wire.answer().await.text(), format!("POST /free/{turn}"));
        }
        wire.ask("GET /free/last", &[]).await;
        assert_eq!(wire.answer().await.text(), "GET /free/last");
        assert_eq!(proper.connections() - before, connections, "{terms:?}");
        let log = proper.log();
        assert_eq!(
            (log.len(), log[0].header("connection"), &log[0].body),
            (11, said, &Some(b"body".to_vec()))
        );
        rig.end().await;
    }
}

#[tokio::test]
async fn an_answer_to_head_with_a_body_meets_nobody() {
    let (rig, sloppy) = before(Manner::AnswersHeadWithBody).await;
    for _ in 0..5 {
        let mut wire = Wire::open(&rig.url).await;
        wire.ask("HEAD /free/head", &[]).await;
        assert_eq!(wire.head().await.status, 200);
        wire.ask("GET /free/next", &[]).await;
        assert_eq!(wire.answer().await.text(), "GET /free/next");
    }
    assert!(
        sloppy
            .log()
            .iter()
            .filter(|it| it.method == "HEAD")
            .all(|it| it.header("connection") == Some("close"))
    );
    rig.end().await;
}

/// What else two servers may read in two ways.
#[tokio::test]
async fn the_end_of_a_request_is_where_everybody_sees_it() {
    let (rig, sloppy) = before(Manner::Proper).await;
    let host = "Host: gateway.test\r\n";
    for (what, status, bytes) in [
        (
            "a length twice",
            400,
            format!("POST /free/x HTTP/1.1\r\n{host}Content-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
        ),
        ("a list of lengths", 400, format!("POST /free/x HTTP/1.1\r\n{host}Content-Length: 1, 1\r\n\r\nx")),
        (
            "an encoding twice",
            400,
            format!(
                "POST /free/x HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
        ),
        (
            "two encodings",
            400,
            format!("POST /free/x HTTP/1.1\r\n{host}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "an encoding in HTTP/1.0",
            400,
            format!("POST /free/x HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        ("lines that end with LF", 400, "GET /free/x HTTP/1.1\nHost: gateway.test\n\n".to_owned()),
        (
            "one line that ends with LF",
            400,
            format!("GET /free/x HTTP/1.1\r\nX: y\nContent-Length: 5\r\n{host}\r\n"),
        ),
        ("a CR within a line", 400, format!("GET /free/x HTTP/1.1\r\n{host}X: y\rContent-Length: 5\r\n\r\n")),
        (
            "a body before a tunnel",
            400,
            format!(
                "POST /free/x HTTP/1.1\r\n{host}Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx"
            ),
        ),
        (
            "an expectation of something else",
            417,
            format!("POST /free/x HTTP/1.1\r\n{host}Expect: a-miracle\r\nContent-Length: 1\r\n\r\nx"),
        ),
    ] {
        let mut wire = Wire::open(&rig.url).await;
        wire.send(bytes).await;
        assert_eq!(wire.head().await.status, status, "{what}");
    }
    assert_eq!(sloppy.log().len(), 0, "{:?}", sloppy.log());
    rig.end().await;
}

/// A server that takes `_` for `-` could read them.
#[tokio::test]
async fn other_spellings_of_the_names_of_framing_go_nowhere() {
    let (rig, sloppy) = before(Manner::Proper).await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask(
        "POST /free/x",
        &[
            "Content_Length: 9",
            "Transfer_Encoding: chunked",
            "content_type: x",
            "mcp_name: y",
            "X_Own: z",
            "Content-Length: 0",
            "Expect: 100-continue",
        ],
    )
    .await;
    assert_eq!(wire.answer().await.text(), "POST /free/x");
    let seen = sloppy.log().pop().unwrap();
    for name in ["content_length", "transfer_encoding", "content_type", "mcp_name", "expect"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(seen.header("x_own"), Some("z"), "{seen:?}");
    drop(wire);
    rig.end().await;
}
