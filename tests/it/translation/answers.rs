//! What of an answer reaches the client.

use reqwest::Version;
use tokio::io::AsyncWriteExt;

use super::{Stage, answered, check, rest_of};
use crate::patience::http_client;

/// The rule, the upstream's bytes, and what a client of 1.1, of 1.0 and of 2 gets.
type Row = (&'static str, &'static str, [&'static [&'static str]; 3]);

const ROWS: &[Row] = &[
    (
        "9110 7.6.1 fields of the connection go no further",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Hop, Content-Length\r\nX-Hop: secret\r\n\
         Keep-Alive: secret\r\nProxy-Connection: secret\r\nTE: secret\r\nUpgrade: secret\r\n\
         Proxy-Authenticate: secret\r\nX-Own: stays\r\n\r\nok",
        [
            &["x-own: stays", "content-length: 2", "ok", "!secret", "!x-hop"],
            &["x-own: stays", "content-length: 2", "ok", "!secret", "!x-hop"],
            &["x-own: stays", "content-length: 2", "ok", "!secret", "!x-hop", "!connection"],
        ],
    ),
    (
        "9112 6.1 chunks are for those who know them",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
        [
            &["transfer-encoding: chunked", "2\r\nok\r\n0\r\n\r\n", "!x-sum"],
            &["!transfer-encoding", "connection: close", "\r\n\r\nok", "!0\r\n", "!x-sum"],
            &["!transfer-encoding", "\n\nok", "!x-sum"],
        ],
    ),
    (
        "9112 6.3 the end of the connection ends a body",
        "HTTP/1.0 200 OK\r\n\r\nok",
        [
            &["HTTP/1.1 200", "transfer-encoding: chunked", "2\r\nok\r\n0\r\n\r\n"],
            &["HTTP/1.1 200", "!transfer-encoding", "connection: close", "\r\n\r\nok"],
            &["!transfer-encoding", "\n\nok"],
        ],
    ),
    (
        "9110 6.2 the version is that of who speaks",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        [&["HTTP/1.1 200"], &["HTTP/1.1 200"], &["\n\nok"]],
    ),
    (
        "9112 7 a coding that was not asked for",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        [
            &["HTTP/1.1 502", "\"upstream_failed\"", "!gzip"],
            &["HTTP/1.1 502", "!gzip"],
            &["HTTP/2.0 502", "!gzip"],
        ],
    ),
    (
        "9110 15.2 an answer before the answer is for those who know it",
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nPAYMENT-REQUIRED: forged\r\nConnection: x-hop\r\n\
         X-Hop: secret\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        [
            &["HTTP/1.1 103", "link: </a.css>", "HTTP/1.1 200", "!secret", "!forged"],
            &["!103", "HTTP/1.1 200"],
            &["HTTP/2.0 200", "!103"],
        ],
    ),
    (
        "9110 8.6 no length where there can be no body",
        "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\nX-Own: stays\r\n\r\n",
        [
            &["HTTP/1.1 204", "x-own: stays", "!content-length", "!transfer-encoding"],
            &["HTTP/1.1 204", "!content-length", "!transfer-encoding"],
            &["HTTP/2.0 204", "!content-length"],
        ],
    ),
];

#[tokio::test]
async fn to_each_version() {
    let mut stage = Stage::set().await;
    let root = reqwest::Certificate::from_der(&stage.certificate).unwrap();
    let over_http2 = http_client().tls_certs_only([root]).resolve("gateway.test", stage.tls).build().unwrap();
    for (rule, answer, [new, old, two]) in ROWS {
        for (request, wanted) in [
            ("GET /free/x HTTP/1.1\r\nHost: gateway.test\r\nConnection: close\r\n\r\n", new),
            ("GET /free/x HTTP/1.0\r\n\r\n", old),
        ] {
            let mut client = stage.plain().await;
            client.write_all(request.as_bytes()).await.unwrap();
            let _seen = played(&mut stage, answer).await;
            check(rule, request, &rest_of(rule, &mut client).await, wanted);
        }
        let asked = over_http2.get(format!("https://gateway.test:{}/free/x", stage.tls.port())).send();
        let (got, ()) = tokio::join!(asked, played(&mut stage, answer));
        let got = got.unwrap();
        assert_eq!(got.version(), Version::HTTP_2, "{rule}");
        let mut text = format!("HTTP/2.0 {}\n", got.status().as_u16());
        for (name, value) in got.headers() {
            text += &format!("{name}: {}\n", value.to_str().unwrap());
        }
        text += &format!("\n{}", got.text().await.unwrap());
        check(rule, "HTTP/2", &text, two);
    }
    drop(over_http2);
    stage.end().await;
}

/// Answers the next call and ends its connection.
async fn played(stage: &mut Stage, answer: &str) {
    let call = stage.upstream.call().await;
    let _seen = answered(call, answer).await;
}

/// A client of HTTP/1.0 keeps its connection only if it asks to, and if the body's end is known.
#[tokio::test]
async fn an_old_client_keeps_its_connection_if_it_asks() {
    let mut stage = Stage::set().await;
    let kept = "GET /free/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let mut client = crate::proxy::wire::Wire::open(&stage.rig.url).await;
    for _ in 0..2 {
        client.send(kept).await;
        played(&mut stage, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let answer = client.answer().await;
        assert_eq!((answer.one("connection"), answer.text()), ("keep-alive", "ok"));
    }
    client.send(kept).await;
    played(&mut stage, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!((head.one("connection"), client.rest().await), ("close", b"ok".to_vec()));
    stage.end().await;
}
