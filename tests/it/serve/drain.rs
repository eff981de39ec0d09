//! How the gateway ends: what balancers, clients and the operator see of it, in which order.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::net::TcpStream;

use super::*;
use crate::proxy::wire::Wire;

/// A delay that only a second signal ends.
const LONG: &str = "{ delay: 10m, grace: 20s }";
/// The next request comes over another connection, which is another call.
const ANSWER: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ndone";

impl Process {
    /// What `/readyz` says with this query.
    async fn ready(&self, query: &str) -> (u16, Value) {
        let (status, ready) = text(&client(), self.admin(&format!("/readyz{query}"))).await;
        (status, serde_json::from_str(&ready).unwrap())
    }

    async fn refuses_connections(&self) {
        let address = self.addresses["listening"];
        eventually("no new connections", async || TcpStream::connect(address).await.is_err()).await;
    }
}

/// Before: it stopped accepting at once, the admin listener was gone before a balancer could ask it, and what was under
/// way was told `keep-alive`.
#[tokio::test]
async fn it_says_that_it_is_not_ready_and_accepts_until_that_is_known() {
    let world = World::start().await;
    let mut upstream = Played::start().await;
    let more = format!("  slow: {{ url: \"{}\" }}\n", upstream.url);
    let routes = format!("{ROUTES}\n  - {{ match: \"/slow/**\", upstream: slow, free: true }}\n");
    let mut process = Process::start(&world.write_draining(LONG, LISTEN, &more, &routes), 2, "info").await;
    let url = process.url("");
    let mut kept = Wire::open(&url).await;
    for path in ["/free/x", "/v1/search/x"] {
        kept.ask(&format!("GET {path}"), &[]).await;
        assert_eq!(kept.answer().await.one("connection"), "keep-alive");
    }
    let mut under_way = Wire::open(&url).await;
    under_way.ask("GET /slow/first", &[]).await;
    let mut first = upstream.call().await;
    assert_eq!(process.ready("").await.1["reason"], Value::Null);

    process.signal("-TERM");
    eventually("it is not ready", async || process.ready("").await.0 == 503).await;
    for query in ["", "?for=sales", "?for=bought"] {
        let (status, said) = process.ready(query).await;
        assert_eq!((status, &said["ready"], &said["reason"]), (503, &false.into(), &"draining".into()));
    }
    for path in ["/healthz", "/livez"] {
        assert_eq!(text(&client(), process.admin(path)).await, (200, "ok\n".to_owned()), "{path}");
    }
    assert!(text(&client(), process.admin("/metrics")).await.1.contains("\nfaregate_ready 0\n"));

    first.send(ANSWER).await;
    for (wire, asked, status) in [
        (&mut under_way, "", 200),
        (&mut kept, "GET /free/x", 200),
        (&mut Wire::open(&url).await, "GET /v1/search/x", 402),
        (&mut Wire::open(&url).await, "GET /nowhere", 404),
    ] {
        if !asked.is_empty() {
            wire.ask(asked, &[]).await;
        }
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.one("connection")), (status, "close"), "{asked}");
        assert!(wire.rest().await.is_empty(), "the connection ends with the answer");
    }
    assert_eq!(
        world.pay(&client(), &process.url("/v1/search/x")).await.status(),
        200,
        "it sells all the same"
    );

    let mut last = Wire::open(&url).await;
    last.ask("GET /slow/last", &[]).await;
    let mut call = upstream.call().await;
    process.signal("-TERM");
    process.refuses_connections().await;
    assert!(process.has_said("a second signal ends the delay"));
    assert_eq!(process.ready("").await.1["reason"], "draining", "the operator is answered until the end");
    call.send(ANSWER).await;
    assert_eq!(last.answer().await.one("connection"), "close");
    let ended = within(Duration::from_secs(10), "nothing is left to wait for", process.ended()).await;
    assert_eq!(ended.code(), Some(0));
}

/// RFC 9113 section 6.8.
#[tokio::test]
async fn clients_of_http_2_are_told_to_connect_again_and_can() {
    let world = World::start().await;
    let config = world.write_draining(LONG, "{ http: 127.0.0.1:0, h2c: true }", "", ROUTES);
    let mut process = Process::start(&config, 2, "info").await;
    let address = process.addresses["listening"];
    let connect = async || {
        let stream = TcpStream::connect(address).await.unwrap();
        let (client, connection) = soon("the handshake", h2::client::handshake(stream)).await.unwrap();
        (client, tokio::spawn(connection))
    };
    let ask = async |client: h2::client::SendRequest<Bytes>| {
        let request = Request::get("http://gateway.test/free/x").body(()).unwrap();
        let mut client = soon("a stream", client.ready()).await.unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        assert_eq!(soon("the answer", answer).await.unwrap().status(), 200);
        client
    };
    let (client, connection) = connect().await;
    let client = ask(client).await;
    assert!(!connection.is_finished());
    process.signal("-TERM");
    // The client holds on to it: it is the gateway that ends it.
    let _ended = soon("the connection ends", connection).await.unwrap().is_ok();
    drop(client);
    for _ in 0..3 {
        let (client, connection) = connect().await;
        let client = ask(client).await;
        let _ended = soon("the connection ends", connection).await.unwrap().is_ok();
        drop(client);
    }
    process.signal("-INT");
    assert_eq!(process.ended().await.code(), Some(0));
}

/// Before: ten seconds, whatever upstreams may take.
#[tokio::test]
async fn what_is_under_way_has_the_grace_and_no_more() {
    let hanging = Scripted::start(|_| Reply::Hang).await;
    let world = World::start().await;
    let more = format!("  hanging: {{ url: \"{}\" }}\n", hanging.url);
    let routes = format!("{ROUTES}\n  - {{ match: \"/hang\", upstream: hanging, free: true }}\n");
    let drain = "{ delay: 0s, grace: 300ms }";
    let mut process = Process::start(&world.write_draining(drain, LISTEN, &more, &routes), 2, "info").await;
    let mut stuck = Wire::open(&process.url("")).await;
    stuck.ask("GET /hang", &[]).await;
    eventually("it is at the upstream", async || !hanging.seen().is_empty()).await;
    process.signal("-TERM");
    let ended = within(Duration::from_secs(10), "it is cut off", process.ended()).await;
    assert_eq!(ended.code(), Some(0));
    assert!(process.has_said("the grace period is over"));
    assert!(!String::from_utf8(stuck.rest().await).unwrap().contains(" 200 "), "it ends too");
}

#[tokio::test]
async fn while_it_ends_nothing_is_reloaded() {
    let world = World::start().await;
    let mut process = Process::start(&world.write_draining(LONG, LISTEN, "", ROUTES), 2, "info").await;
    process.signal("-INT");
    eventually("it drains", async || process.has_said("draining")).await;
    process.signal("-HUP");
    eventually("it says why not", async || process.has_said("not reloaded: the gateway is ending")).await;
    process.signal("-INT");
    assert_eq!(process.ended().await.code(), Some(0));
}
