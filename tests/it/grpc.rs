//! gRPC from end to end over HTTP/2 without TLS: a bill that its clients can read, what a call costs that
//! fails, and who may wait how long.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use faregate::nano::SecretKey;
use faregate::x402::{NanoOffer, NanoOffers};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::net::TcpStream;

use crate::listening::Listening;
use crate::metrics::Uses;
use crate::patience::{eventually, soon};
use crate::proxy::wire::Wire;
use crate::rig::{PLENTY, Plan, Rig};

/// A server whose methods do what their names say.
struct Server {
    listening: Listening,
    seen: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Server {
    async fn start() -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let listening = Listening::start(move |tcp| serve(tcp, Arc::clone(&log))).await;
        Self { listening, seen }
    }
}

async fn serve(tcp: TcpStream, log: Arc<Mutex<Vec<HeaderMap>>>) {
    // A trial of the gateway asks for nothing.
    let Ok(mut connection) = h2::server::handshake(tcp).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        log.lock().unwrap().push(request.headers().clone());
        tokio::spawn(call(request, respond));
    }
}

fn status(code: &str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_str(code).unwrap())])
}

/// Serves one call: the last segment of its path says how it ends.
async fn call(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
    let mut body = request.into_body();
    let mut message = Vec::new();
    while let Some(Ok(part)) = body.data().await {
        body.flow_control().release_capacity(part.len()).unwrap();
        message.extend(part);
    }
    let mut head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let code = match method.as_str() {
        "Late" => {
            // Until the gateway gives up.
            let _reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await.is_ok();
            return;
        }
        "Unavailable" => {
            head.headers_mut().extend(status("14"));
            respond.send_response(head, true).unwrap();
            return;
        }
        "Refused" => "3",
        "Broken" => "13",
        _ => "0",
    };
    let mut stream = respond.send_response(head, false).unwrap();
    stream.send_data(message.into(), false).unwrap();
    let mut trailers = status(code);
    trailers.insert("payment-capability", HeaderValue::from_static("forged"));
    stream.send_trailers(trailers).unwrap();
}

/// What a client of gRPC makes of an answer.
#[derive(Debug)]
struct Ended {
    head: HeaderMap,
    message: Vec<u8>,
    trailers: HeaderMap,
}

impl Ended {
    fn code(&self) -> &str {
        let found = self.trailers.get("grpc-status").or_else(|| self.head.get("grpc-status"));
        found.expect("a status").to_str().unwrap()
    }

    fn text(&self, name: &str) -> &str {
        self.head.get(name).unwrap_or_else(|| panic!("no {name}: {self:?}")).to_str().unwrap()
    }

    fn remaining(&self) -> &str {
        let value = self.text("payment-capability");
        value.split("; ").find_map(|it| it.strip_prefix("remaining=")).unwrap()
    }

    fn token(&self) -> String {
        self.text("payment-capability").split(';').next().unwrap().to_owned()
    }
}

/// A client on a connection of its own.
struct Client(h2::client::SendRequest<Bytes>);

impl Client {
    async fn connect(rig: &Rig) -> Self {
        let tcp = TcpStream::connect(rig.url.trim_start_matches("http://")).await.unwrap();
        let (client, connection) = soon("the handshake", h2::client::handshake(tcp)).await.unwrap();
        tokio::spawn(async move {
            // It ends with the gateway.
            let _ended = connection.await.is_ok();
        });
        Self(client)
    }

    async fn call(&self, method: &str, metadata: &[(&str, &str)]) -> Result<Ended, h2::Error> {
        let mut request = Request::post(format!("http://gateway.test/svc/{method}"))
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers");
        for (name, value) in metadata {
            request = request.header(*name, *value);
        }
        let mut client = soon("a stream", self.0.clone().ready()).await.unwrap();
        let (answer, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
        body.send_data(Bytes::from_static(b"\0\0\0\0\x02hi"), true).unwrap();
        let (head, mut body) = soon("the answer", answer).await?.into_parts();
        assert_eq!(head.status, 200);
        assert_eq!(head.headers["content-type"], "application/grpc");
        // Clients take no other end for one.
        assert_eq!(body.is_end_stream(), head.headers.contains_key("grpc-status"));
        let mut message = Vec::new();
        while let Some(part) = soon("a message", body.data()).await {
            message.extend(part?);
        }
        let trailers = soon("trailers", body.trailers()).await?.unwrap_or_default();
        Ok(Ended { head: head.headers, message, trailers })
    }
}

async fn rig(options: &str) -> (Rig, Server) {
    rig_that_takes("price: 1 raw, grants: { requests: 5, within: 1h }", options).await
}

async fn rig_that_takes(price: &str, options: &str) -> (Rig, Server) {
    let server = Server::start().await;
    let more = format!("  grpc: {{ url: \"{}\", protocol: h2c{options} }}\n", server.listening.url);
    let routes = format!(
        r#"
  - {{ name: call, match: "/svc/**", upstream: grpc, {price} }}
  - {{ match: "/free/**", upstream: api, free: true }}
"#
    );
    let plan = Plan { more, routes, listen: Some("h2c: true"), ..Plan::default() };
    (Rig::with(plan).await, server)
}

/// Pays for a call, and gives its answer.
async fn pay(rig: &Rig, client: &Client, key: &SecretKey) -> Ended {
    let bill = client.call("Ok", &[]).await.unwrap();
    let offers: Vec<NanoOffer> = NanoOffers::from_header(bill.text("payment-required")).unwrap().offers;
    let (proof, _) = rig.txn(key, &offers[0]);
    client.call("Ok", &[("payment-signature", &proof)]).await.unwrap()
}

#[tokio::test]
async fn a_bill_is_metadata_of_a_call_that_failed_and_its_payment_is_metadata_of_the_next() {
    let (rig, server) = rig("").await;
    let client = Client::connect(&rig).await;
    let bill = client.call("Ok", &[]).await.unwrap();
    assert_eq!((bill.code(), bill.message.len()), ("9", 0));
    assert!(bill.text("grpc-message").contains("paid for per use"), "{bill:?}");
    assert!(server.seen.lock().unwrap().is_empty());

    let paid = pay(&rig, &client, &rig.payer(1, PLENTY)).await;
    assert_eq!((paid.code(), paid.message.as_slice()), ("0", b"\0\0\0\0\x02hi".as_slice()));
    assert_eq!(paid.remaining(), "4");
    assert!(paid.head.contains_key("payment-response"));
    assert!(!paid.trailers.contains_key("payment-capability"), "an upstream cannot speak for the gateway");
    let seen = server.seen.lock().unwrap().pop().unwrap();
    assert_eq!(seen["te"], "trailers");
    assert_eq!(seen["x-payment-route"], "call");
    assert!(!seen.contains_key("payment-signature") && !seen.contains_key("connection"), "{seen:?}");

    // Other refusals too: a proof that is none.
    let wrong = client.call("Ok", &[("payment-signature", "bm9uZQ")]).await.unwrap();
    assert!(["3", "9"].contains(&wrong.code()), "{wrong:?}");
    rig.end().await;
}

#[tokio::test]
async fn a_call_is_charged_for_by_its_own_status() {
    let (rig, _server) = rig("").await;
    let client = Client::connect(&rig).await;
    let token = pay(&rig, &client, &rig.payer(1, PLENTY)).await.token();
    let capability = [("payment-capability", token.as_str())];
    let after = async |method: &str, code: &str, committed: u64, given_back: u64| {
        let ended = client.call(method, &capability).await.unwrap();
        assert_eq!(ended.code(), code, "{method}");
        eventually("the use is counted", async || Uses::of(&rig, "call") == Uses { committed, given_back })
            .await;
        ended
    };
    // The head says so already: nothing was taken.
    assert_eq!(after("Unavailable", "14", 1, 1).await.remaining(), "4");
    after("Broken", "13", 1, 2).await;
    after("Refused", "3", 2, 2).await;
    assert_eq!(after("Ok", "0", 3, 2).await.remaining(), "2", "what was given back is there");
    rig.end().await;
}

/// Once such a use came back without end. A client decides when a call of it fails: by its deadline.
#[tokio::test]
async fn an_answer_that_fails_at_its_end_is_given_back_twice_for_one_use() {
    let (rig, _server) = rig("").await;
    let client = Client::connect(&rig).await;
    let token = pay(&rig, &client, &rig.payer(1, PLENTY)).await.token();
    for (committed, given_back) in [(1, 1), (1, 2), (2, 2)] {
        let ended = client.call("Broken", &[("payment-capability", token.as_str())]).await.unwrap();
        assert_eq!(ended.code(), "13");
        eventually("the use is counted", async || Uses::of(&rig, "call") == Uses { committed, given_back })
            .await;
    }
    rig.end().await;
}

#[tokio::test]
async fn a_metered_call_that_fails_at_its_end_costs_nothing_twice() {
    let meter = "meter: { deposit: 10000 raw, within: 1h, usage: header, hold: 2000 raw }";
    let (rig, _server) = rig_that_takes(meter, "").await;
    let client = Client::connect(&rig).await;
    let token = pay(&rig, &client, &rig.payer(1, PLENTY)).await.token();
    let mut count = 1;
    for (method, costs) in [("Broken", "0"), ("Broken", "0"), ("Broken", "2000"), ("Ok", "2000")] {
        client.call(method, &[("payment-capability", token.as_str())]).await.unwrap();
        count += 1;
        let line = rig.lines(count).await.pop().unwrap();
        assert_eq!(line["cost_raw"], costs, "{method}: {line}");
    }
    rig.end().await;
}

#[tokio::test]
async fn the_wait_is_no_longer_than_the_clients_own() {
    let (rig, _server) = rig(", timeout: 60s").await;
    let client = Client::connect(&rig).await;
    let token = pay(&rig, &client, &rig.payer(1, PLENTY)).await.token();
    let metadata = [("payment-capability", token.as_str()), ("grpc-timeout", "200m")];
    let late = client.call("Late", &metadata);
    let late = crate::patience::within(Duration::from_secs(20), "an answer", late).await.unwrap();
    assert_eq!((late.code(), late.remaining()), ("4", "4"), "too late, and nothing was taken");
    eventually("its use came back", async || Uses::of(&rig, "call").given_back == 1).await;
    assert_eq!(client.call("Ok", &metadata[..1]).await.unwrap().remaining(), "3", "the connection lives");
    rig.end().await;
}

#[tokio::test]
async fn an_upstream_that_is_gone_is_unavailable() {
    let dead = crate::scripted::nobody();
    let more = format!("  grpc: {{ url: \"{}\", protocol: h2c }}\n", dead.url);
    let routes = "  - { match: \"/svc/**\", upstream: grpc, price: 1 raw }\n".to_owned();
    let plan = Plan { more, routes, listen: Some("h2c: true"), ..Plan::default() };
    let rig = Rig::with(plan).await;
    let answer = Client::connect(&rig).await.call("Ok", &[]).await.unwrap();
    assert_eq!(answer.code(), "14");
    assert!(answer.text("retry-after").parse::<u32>().unwrap() > 0);
    rig.end().await;
}

#[tokio::test]
async fn a_listener_of_both_versions_waits_for_no_preface_that_does_not_come() {
    let (rig, _server) = rig("").await;
    // Shorter than the preface, and with its first letter.
    for request in ["GET /free/x HTTP/1.0\r\n\r\n", "PUT /free/x HTTP/1.0\r\nContent-Length: 0\r\n\r\n"] {
        let mut wire = Wire::open(&rig.url).await;
        wire.send(request).await;
        assert_eq!(wire.head().await.status, 200, "{request:?}");
    }
    let mut wire = Wire::open(&rig.url).await;
    wire.send("PRI * HT").await;
    wire.send("TP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    // A frame of settings comes back.
    assert_eq!(wire.exactly(9).await[3], 4);
    rig.end().await;
}
