//! What of a request reaches the upstream.

use tokio::io::AsyncWriteExt;

use super::{Stage, answered, check, rest_of};
use crate::patience::PATIENCE;
use crate::upstreams::cases::Piece;
use crate::upstreams::http2;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const FORM: &str = "Host: gateway.test\r\nConnection: close";

/// The rule, a request of HTTP/1 (`{H}` for [`FORM`]), what the upstream sees of it (nothing if it is not
/// forwarded), and what the client gets.
type Row = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const OVER_HTTP1: &[Row] = &[
    (
        "9110 7.6.1 fields of the connection go no further",
        "GET /free/x HTTP/1.1\r\nHost: gateway.test\r\nConnection: close, X-Hop\r\nX-Hop: secret\r\n\
         Keep-Alive: secret\r\nProxy-Connection: secret\r\nTE: trailers\r\nTrailer: secret\r\nX-Own: stays\r\n\r\n",
        &["x-own: stays", "!secret", "!x-hop", "!\nte:", "!keep-alive", "!proxy-connection"],
        &["HTTP/1.1 200", "Connection: close"],
    ),
    (
        "9110 7.6.1 naming what the gateway adds does not take it away",
        "GET /free/x HTTP/1.1\r\nHost: gateway.test\r\nConnection: close, Via, X-Payment-Route\r\n\r\n",
        &["via: 1.1 faregate", "x-forwarded-for: 127.0.0.1"],
        &["HTTP/1.1 200"],
    ),
    (
        "9110 7.6.1 naming what the upstream must know is refused",
        "GET /free/x HTTP/1.1\r\nHost: gateway.test\r\nConnection: close, X-Forwarded-For\r\n\r\n",
        &[],
        &["HTTP/1.1 400", "\"bad_request\"", "goes further than this connection"],
    ),
    (
        "9110 7.6.1 so is naming Host",
        "GET /free/x HTTP/1.1\r\nHost: gateway.test\r\nConnection: close, host\r\n\r\n",
        &[],
        &["HTTP/1.1 400", "\"bad_request\""],
    ),
    (
        "9110 7.6.1 and what is no name",
        "GET /free/x HTTP/1.1\r\nHost: gateway.test\r\nConnection: close, \"x\"\r\n\r\n",
        &[],
        &["HTTP/1.1 400", "not a list of names"],
    ),
    (
        "9110 7.6.1 the lines of a list are one list",
        "GET /free/x HTTP/1.1\r\nHost: gateway.test\r\nConnection: X-Hop\r\nConnection: close\r\nX-Hop: secret\r\n\r\n",
        &["!x-hop"],
        &["HTTP/1.1 200", "Connection: close"],
    ),
    (
        "9110 7.6.3 a gateway says that it was on the way",
        "GET /free/x HTTP/1.0\r\nVia: 1.1 before\r\n\r\n",
        &["via: 1.1 before", "via: 1.0 faregate"],
        &["HTTP/1.1 200"],
    ),
    (
        "9110 7.6.2 OPTIONS that is to go no further is answered here",
        "OPTIONS /free/x HTTP/1.1\r\n{H}\r\nMax-Forwards: 0\r\n\r\n",
        &[],
        &["HTTP/1.1 204"],
    ),
    (
        "9110 7.6.2 and goes one less far otherwise",
        "OPTIONS /free/x HTTP/1.1\r\n{H}\r\nMax-Forwards: 3\r\n\r\n",
        &["max-forwards: 2"],
        &["HTTP/1.1 200"],
    ),
    (
        "9110 9.3.8 TRACE would show what is for the upstream alone",
        "TRACE /free/x HTTP/1.1\r\n{H}\r\n\r\n",
        &[],
        &["HTTP/1.1 405", "allow: get, head, post", "\"method_not_allowed\""],
    ),
    (
        "9110 10.1.1 HTTP/1.0 expects nothing",
        "POST /free/x HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
        &["!expect", "\n\nabc"],
        &["HTTP/1.1 200", "!100 Continue"],
    ),
    (
        "9110 7.8 an upgrade that Connection does not name is ignored",
        "GET /free/x HTTP/1.1\r\n{H}\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
        &["!\nupgrade:", "!connection: upgrade", "sec-websocket-version: 13"],
        &["HTTP/1.1 200", "Connection: close"],
    ),
    (
        "9110 7.8 so its request may have a body",
        "POST /free/x HTTP/1.1\r\n{H}\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc",
        &["!\nupgrade:", "\n\nabc"],
        &["HTTP/1.1 200"],
    ),
    (
        "9110 7.8 HTTP/1.0 has none",
        "POST /free/x HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc",
        &["!\nupgrade:", "!connection: upgrade", "\n\nabc"],
        &["HTTP/1.1 200"],
    ),
    (
        "9110 8.6 no body is said to be none",
        "POST /free/x HTTP/1.1\r\n{H}\r\n\r\n",
        &["content-length: 0", "!transfer-encoding"],
        &["HTTP/1.1 200"],
    ),
    (
        "9112 7.1 a chunked body has one end",
        "POST /free/x HTTP/1.1\r\n{H}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        &["transfer-encoding: chunked", "\n\n3\r\nabc\r\n0\r\n\r\n", "!0\r\n\r\n0\r\n\r\n"],
        &["HTTP/1.1 200"],
    ),
    (
        "9112 7.1 an empty one too",
        "POST /free/x HTTP/1.1\r\n{H}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &["\n\n0\r\n\r\n", "!0\r\n\r\n0\r\n\r\n"],
        &["HTTP/1.1 200"],
    ),
    (
        "9112 7.1.2 trailers are left out",
        "POST /free/x HTTP/1.1\r\n{H}\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
        &["abc\r\n0\r\n\r\n", "!x-sum"],
        &["HTTP/1.1 200"],
    ),
];

#[tokio::test]
async fn over_http1() {
    let mut stage = Stage::set().await;
    for (rule, asks, sees, gets) in OVER_HTTP1 {
        let mut client = stage.plain().await;
        client.write_all(asks.replace("{H}", FORM).as_bytes()).await.unwrap();
        if !sees.is_empty() {
            let call = stage.upstream.call().await;
            check(rule, "the upstream", &answered(call, OK).await, sees);
        }
        check(rule, "the client", &rest_of(rule, &mut client).await, gets);
        assert!(stage.upstream.is_idle(), "{rule}: nothing else was forwarded");
    }
    stage.end().await;
}

/// The rule, the fields after the pseudo-fields, parts of the body (`None` if the head ends the request),
/// trailers, what the upstream sees, and the status; `None` for a stream error.
type Row2 = (
    &'static str,
    &'static [(&'static str, &'static str)],
    Option<&'static [&'static str]>,
    &'static [(&'static str, &'static str)],
    &'static [&'static str],
    Option<u16>,
);

const OVER_HTTP2: &[Row2] = &[
    (
        "9113 8.1 a body that ends in an empty frame has one end",
        &[],
        Some(&["abc", ""]),
        &[],
        &["transfer-encoding: chunked", "\n\n3\r\nabc\r\n0\r\n\r\n", "!0\r\n\r\n0\r\n\r\n"],
        Some(200),
    ),
    (
        "9113 8.1 so has one of an empty frame alone",
        &[],
        Some(&[""]),
        &[],
        &["\n\n0\r\n\r\n", "!0\r\n\r\n0\r\n\r\n"],
        Some(200),
    ),
    (
        "9113 8.1 and one with empty frames between",
        &[],
        Some(&["", "ab", "", "c", ""]),
        &[],
        &["\n\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", "!0\r\n\r\n0\r\n\r\n"],
        Some(200),
    ),
    (
        "9113 8.1 trailers end a body once, and are left out",
        &[],
        Some(&["abc"]),
        &[("x-sum", "1")],
        &["\n\n3\r\nabc\r\n0\r\n\r\n", "!0\r\n\r\n0\r\n\r\n", "!x-sum"],
        Some(200),
    ),
    (
        "9113 8.1 a declared length is kept",
        &[("content-length", "3")],
        Some(&["abc", ""]),
        &[],
        &["content-length: 3", "!transfer-encoding", "\n\nabc"],
        Some(200),
    ),
    (
        "9113 8.1 END_STREAM on the head is no body",
        &[],
        None,
        &[],
        &["content-length: 0", "!transfer-encoding"],
        Some(200),
    ),
    (
        "9113 8.1.1 less than the declared length is a stream error",
        &[("content-length", "5")],
        Some(&["abc"]),
        &[],
        &[],
        None,
    ),
    ("9113 8.1.1 so is more", &[("content-length", "2")], Some(&["abc"]), &[], &[], None),
    ("9113 8.2.2 so is a field of the connection", &[("connection", "close")], None, &[], &[], None),
    ("9113 8.2.2 or a transfer coding", &[("transfer-encoding", "chunked")], Some(&["abc"]), &[], &[], None),
    ("9113 8.2.2 or TE of another kind", &[("te", "gzip")], None, &[], &[], None),
    (
        "9113 8.2.3 pieces of Cookie become one",
        &[("cookie", "a=1"), ("x-own", "stays"), ("cookie", "b=2")],
        None,
        &[],
        &["cookie: a=1; b=2\n", "x-own: stays"],
        Some(200),
    ),
    (
        "9113 8.3.1 :authority becomes Host, and the way is told",
        &[],
        None,
        &[],
        &["via: 2 faregate", "x-forwarded-host: gateway.test", "post /free/"],
        Some(200),
    ),
];

#[tokio::test]
async fn over_http2() {
    let mut stage = Stage::set().await;
    for (number, (rule, fields, body, trailers, sees, status)) in OVER_HTTP2.iter().enumerate() {
        let bytes = |it: &str| it.as_bytes().to_vec();
        let path = format!("/free/{number}");
        let pseudo = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", "gateway.test"),
            (":path", path.as_str()),
        ];
        let fields =
            pseudo.iter().chain(*fields).map(|(name, value)| Piece::Field(bytes(name), bytes(value)));
        let data = body.iter().copied().flatten().map(|it| Piece::Data(bytes(it)));
        let trailers = trailers.iter().map(|(name, value)| Piece::Trailer(bytes(name), bytes(value)));
        let pieces: Vec<_> = fields.chain(data).chain(trailers).collect();
        let stream = stage.secured(b"h2").await;
        let exchange = http2::exchange(stream, &pieces, PATIENCE);
        let answer = if sees.is_empty() {
            exchange.await
        } else {
            let called = async {
                loop {
                    let call = stage.upstream.call().await;
                    // The head of a request that turned out to be none may have gone ahead of its body.
                    if call.head[0].contains(&path) {
                        return answered(call, OK).await;
                    }
                }
            };
            let (answer, seen) = tokio::join!(exchange, called);
            check(rule, "the upstream", &seen, sees);
            answer
        };
        assert_eq!(answer.map(|it| it.0), *status, "{rule}");
    }
    stage.end().await;
}
