//! Strangers that take what is for all: each reaches a limit of its own, and the others go on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use faregate::devnet::DevnetOptions;
use faregate::listen::{self, Tls};
use faregate::nano::BlockHash;
use pingora::server::configuration::ServerConf;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::metrics::sample;
use crate::patience::{eventually, soon};
use crate::proxy::wire::Wire;
use crate::rig::{PLENTY, Plan, Rig, capability, error};
use crate::scripted::{Reply, Seen};

/// The loopback of the tests' other client.
const OTHER: &str = "127.0.0.2";

/// One free route whose upstream never answers, the usual ones, and an MCP endpoint.
const ROUTES: &str = r#"
  - { name: search, match: "/v1/search/**", upstream: api, price: 0.001 XNO, grants: { requests: 5, within: 1h } }
  - { match: "/free/**", upstream: api, free: true }
  - { match: "POST /mcp", upstream: api, mcp: { methods: { ping: free, hang: free, "tools/call": 1 raw } } }
"#;

/// A gateway with these limits, before an upstream that never answers what has `hang` in it.
async fn scene(limits: &str) -> Rig {
    let answer = |seen: &Seen| {
        let hangs = seen.path.contains("hang") || String::from_utf8_lossy(&seen.body).contains("hang");
        if hangs { Reply::Hang } else { Reply::text(200, "here") }
    };
    let (routes, more) = (ROUTES.to_owned(), format!("limits: {{ {limits} }}"));
    Rig::with(Plan { routes, more, answer: Box::new(answer), ..Plan::default() }).await
}

/// A listener of a gateway's for TLS.
struct Secured {
    address: SocketAddr,
    certificate: CertificateDer<'static>,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
}

impl Secured {
    async fn start(rig: &Rig) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (certificate, key) = (rig.folder.path().join("cert.pem"), rig.folder.path().join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        crate::serve::write_private(&key, made.signing_key.serialize_pem());
        let tls = Tls::load(&certificate, &key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let proxy =
            Arc::new(pingora::proxy::http_proxy(&Arc::new(ServerConf::default()), rig.services.gateway()));
        let (stop, shutdown) = watch::channel(false);
        let served =
            tokio::spawn(listen::serve_behind(rig.services.door(), listener, Some(tls), proxy, shutdown));
        let certificate = CertificateDer::from(made.cert.der().to_vec());
        Self { address, certificate, stop, served }
    }

    async fn connect(&self, protocol: &[u8]) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let plain = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        soon("TLS", TlsConnector::from(Arc::new(config)).connect(name, plain)).await.unwrap()
    }

    async fn end(self) {
        self.stop.send_replace(true);
        soon("the listener ends", self.served).await.unwrap();
    }
}

fn reached(rig: &Rig, limit: &str) -> f64 {
    sample(rig, &format!("limits_reached_total{{limit=\"{limit}\"}}"))
}

/// Asks for a free answer and gives its status.
async fn ask(wire: &mut Wire) -> u16 {
    wire.ask("GET /free/x", &[]).await;
    wire.answer().await.status
}

/// Before: 16,384 connections with one byte each, and the next client was reset.
#[tokio::test]
async fn one_client_has_its_share_of_connections_and_the_others_go_on() {
    let rig = scene("per_client: { connections: 3 }").await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut wire = Wire::open(&rig.url).await;
        assert_eq!(ask(&mut wire).await, 200);
        wire.send("G").await;
        held.push(wire);
    }
    let mut more = Wire::open(&rig.url).await;
    assert!(more.rest().await.is_empty(), "it is closed before it is read");
    assert_eq!(reached(&rig, "per_client.connections"), 1.0);
    assert_eq!(ask(&mut Wire::open_from(OTHER, &rig.url).await).await, 200);
    held.clear();
    let comes_in = async || {
        let mut wire = Wire::open(&rig.url).await;
        let sent = wire.try_send("GET /free/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        sent && wire.rest().await.starts_with(b"HTTP/1.1 200")
    };
    eventually("the share comes back", comes_in).await;
    rig.end().await;
}

/// Before: a head that came a byte every 50 s was served after 350 s.
#[tokio::test]
async fn a_head_has_a_time_for_its_whole() {
    let rig = scene("head_time: 300ms").await;
    let mut wire = Wire::open(&rig.url).await;
    // The second head on a connection as well as the first, and empty lines before it are no end.
    assert_eq!(ask(&mut wire).await, 200);
    let mut fresh = Wire::open(&rig.url).await;
    for wire in [&mut wire, &mut fresh] {
        wire.send("\r\n\r\nGET /free/x HTTP/1.1\r\n").await;
        let dripped = async {
            loop {
                tokio::time::sleep(Duration::from_millis(60)).await;
                if !wire.try_send("X-More: 1\r\n").await {
                    return;
                }
            }
        };
        soon("the connection is closed", dripped).await;
    }
    eventually("both are counted", async || reached(&rig, "head_time") == 2.0).await;
    // A body has its own time.
    let mut wire = Wire::open(&rig.url).await;
    wire.send("POST /free/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab").await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    wire.send("cd").await;
    assert_eq!(wire.answer().await.status, 200);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(ask(&mut wire).await, 200, "nor is an idle connection a slow head");
    rig.end().await;
}

/// Before: a connection over HTTP/2 was kept for ever.
#[tokio::test]
async fn over_tls_too_a_slow_head_and_an_idle_connection_end() {
    let rig = scene("head_time: 300ms, idle_connection: 1s").await;
    let secured = Secured::start(&rig).await;
    let connect = async |protocol: &[u8]| secured.connect(protocol).await;

    let mut slow = connect(b"http/1.1").await;
    slow.write_all(b"GET /free/x HTTP/1.1\r\n").await.unwrap();
    let mut bytes = Vec::new();
    let _reset = soon("the slow head ends", slow.read_to_end(&mut bytes)).await.is_err();
    // A preface that is not whole is a slow head as well.
    let mut slow = connect(b"h2").await;
    slow.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let _reset = soon("the slow preface ends", slow.read_to_end(&mut bytes)).await.is_err();
    eventually("both are counted", async || reached(&rig, "head_time") == 2.0).await;

    let mut idle = connect(b"h2").await;
    idle.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let _reset = soon("the idle connection ends", idle.read_to_end(&mut bytes)).await.is_err();
    assert_eq!(reached(&rig, "head_time"), 2.0, "that was for idleness");
    secured.end().await;
    rig.end().await;
}

/// Before: 60 s, whatever the setting said, and over HTTP/2 for ever.
#[tokio::test]
async fn a_connection_that_says_nothing_is_an_idle_one_from_its_beginning() {
    let more = "limits: { idle_connection: 1s }".to_owned();
    let plan = |listen| Plan { routes: ROUTES.to_owned(), more: more.clone(), listen, ..Plan::default() };
    let rig = Rig::with(plan(Some("h2c: true"))).await;
    let proxied =
        Rig::with(plan(Some("h2c: true, trusted_proxies: [127.0.0.1], proxy_protocol: true"))).await;
    let secured = Secured::start(&rig).await;
    let over_tls = format!("http://{}", secured.address);
    let mut plain = Vec::new();
    for (url, said) in [
        (&rig.url, ""),
        (&proxied.url, ""),
        (&proxied.url, "PROXY TCP4 192.0.2.1 127.0.0.1 4711 80\r\n"),
        (&over_tls, ""),
        (&rig.url, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ] {
        let mut wire = Wire::open(url).await;
        wire.send(said).await;
        plain.push((said, wire));
    }
    let mut shaken = Vec::new();
    for (protocol, said) in [("http/1.1", ""), ("h2", ""), ("h2", "PRI * HTTP/2.0\r\n\r\nSM\r\n")] {
        let mut stream = secured.connect(protocol.as_bytes()).await;
        stream.write_all(said.as_bytes()).await.unwrap();
        shaken.push((protocol, said, stream));
    }
    for (said, mut wire) in plain {
        let seen = wire.rest().await;
        assert!(seen.is_empty() || said.starts_with("PRI"), "{said:?}: {seen:?}");
    }
    for (protocol, said, mut stream) in shaken {
        let mut seen = Vec::new();
        let _reset = soon(&format!("{protocol} {said:?}"), stream.read_to_end(&mut seen)).await.is_err();
    }
    secured.end().await;
    rig.end().await;
    proxied.end().await;
}

#[tokio::test]
async fn unpaid_requests_of_one_client_leave_room_for_others_and_for_paid_ones() {
    let rig = scene("per_client: { unpaid: 2, bills: 1 }").await;
    let (token, _) = capability(&rig.pay(&rig.payer(1, PLENTY), "/v1/search/a").await);
    let mut hanging = Vec::new();
    for _ in 0..2 {
        let mut wire = Wire::open(&rig.url).await;
        wire.ask("GET /free/hang", &[]).await;
        hanging.push(wire);
    }
    eventually("both are under way", async || rig.upstream.seen().len() == 3).await;
    let forwarded = rig.upstream.seen().len();
    for (target, header) in
        [("/free/x", "X-A: 1"), ("/v1/search/a", "X-A: 1"), ("/free/x", "PAYMENT-CAPABILITY: bm9uZQ")]
    {
        let mut wire = Wire::open(&rig.url).await;
        wire.ask(&format!("GET {target}"), &[header]).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.json()["error"].as_str()), (503, Some("overloaded")), "{target}");
        assert_eq!(answer.one("retry-after"), "1");
    }
    assert_eq!(rig.upstream.seen().len(), forwarded);
    assert_eq!(reached(&rig, "per_client.unpaid"), 3.0);
    // Once each of them was held until its turn, beyond its client's share.
    for _ in 0..10 {
        assert_eq!(ask(&mut Wire::open(&rig.url).await).await, 503);
    }
    assert_eq!(reached(&rig, "per_client.bills"), 0.0, "nothing beyond the share waits for a turn");
    let paid = rig.get("/v1/search/b", &[("PAYMENT-CAPABILITY", &token)]).await;
    assert_eq!(paid.status(), 200);
    assert_eq!(ask(&mut Wire::open_from(OTHER, &rig.url).await).await, 200);
    hanging.clear();
    eventually("the share comes back", async || rig.get("/free/x", &[]).await.status() == 200).await;
    rig.end().await;
}

/// A gateway with these limits, before a ledger that confirms when it is told to, and the proof of a payment.
async fn unconfirmed(limits: &str) -> (Rig, String, BlockHash) {
    let devnet = DevnetOptions { confirm_after: Duration::from_secs(3600), ..DevnetOptions::default() };
    let more = format!("settlement: {{ wait: 100ms }}\nlimits: {{ per_client: {{ {limits} }} }}");
    let answer =
        |seen: &Seen| if seen.path.contains("hang") { Reply::Hang } else { Reply::text(200, "here") };
    let plan = Plan { routes: ROUTES.to_owned(), more, devnet, answer: Box::new(answer), ..Plan::default() };
    let rig = Rig::with(plan).await;
    let payer = rig.payer(1, PLENTY);
    let [offer, _] = rig.bill("/v1/search/a").await;
    let (proof, block) = rig.txn(&payer, &offer);
    (rig, proof, block.hash())
}

/// Status and reason of an answer to what came with this header.
async fn told(rig: &Rig, path: &str, header: (&str, &str)) -> (u16, String) {
    let answer = rig.get(path, &[header]).await;
    (answer.status().as_u16(), error(answer).await)
}

/// Before: `overloaded`, so that the payer could not tell whether its payment was seen.
#[tokio::test]
async fn a_payer_hears_of_its_payment_amid_unpaid_requests_of_its_client() {
    let (rig, proof, block) = unconfirmed("unpaid: 1").await;
    let mut hanging = Wire::open(&rig.url).await;
    hanging.ask("GET /free/hang", &[]).await;
    eventually("it is under way", async || rig.upstream.seen().len() == 1).await;
    let overloaded = (503, "overloaded".to_owned());
    for (path, header) in [
        ("/v1/search/a", ("x-a", "1")),
        ("/v1/search/a", ("payment-signature", "e30=")),
        ("/v1/search/a", ("payment-capability", "bm9uZQ")),
        ("/free/x", ("payment-signature", proof.as_str())),
    ] {
        assert_eq!(told(&rig, path, header).await, overloaded, "{path} {header:?} shows no right");
    }
    let header = ("payment-signature", proof.as_str());
    for _ in 0..3 {
        assert_eq!(told(&rig, "/v1/search/a", header).await, (503, "settlement_pending".to_owned()));
    }
    rig.confirm(block).await;
    assert_eq!(rig.ask_until_decided("/v1/search/a", &proof).await.status(), 200);
    assert_eq!(rig.upstream.seen().len(), 2);
    drop(hanging);
    rig.end().await;
}

/// A limit that is told although nobody met it would have an operator raise it for nothing.
#[tokio::test]
async fn a_settlement_beyond_the_share_is_turned_away_and_told_and_no_other() {
    let (rig, proof, block) = unconfirmed("settlements: 1").await;
    let header = ("payment-signature", proof.as_str());
    for _ in 0..2 {
        assert_eq!(told(&rig, "/v1/search/a", header).await, (503, "settlement_pending".to_owned()));
    }
    assert_eq!(reached(&rig, "per_client.settlements"), 0.0, "the share is taken, and nobody wanted more");
    let [offer, _] = rig.bill("/v1/search/a").await;
    let (other, _) = rig.txn(&rig.payer(2, PLENTY), &offer);
    let beyond = told(&rig, "/v1/search/a", ("payment-signature", &other)).await;
    assert_eq!((beyond, reached(&rig, "per_client.settlements")), ((503, "overloaded".to_owned()), 1.0));
    rig.confirm(block).await;
    assert_eq!(rig.ask_until_decided("/v1/search/a", &proof).await.status(), 200);
    rig.end().await;
}

/// Before: a client whose share was taken had proofs checked as fast as it could send them.
#[tokio::test]
async fn proofs_beyond_the_share_that_show_no_right_take_turns() {
    let (rig, _, _) = unconfirmed("unpaid: 1, bills: 2").await;
    let mut hanging = Wire::open(&rig.url).await;
    hanging.ask("GET /free/hang", &[]).await;
    eventually("it is under way", async || rig.upstream.seen().len() == 1).await;
    let before = reached(&rig, "per_client.bills");
    for _ in 0..6 {
        let told = told(&rig, "/v1/search/a", ("payment-signature", "e30=")).await;
        assert_eq!(told, (503, "overloaded".to_owned()));
    }
    assert!(reached(&rig, "per_client.bills") > before, "the last of them waited");
    drop(hanging);
    rig.end().await;
}

/// Before: the answer waited for a turn behind the bills, and after five seconds was `overloaded`.
#[tokio::test]
async fn a_payment_that_is_known_takes_no_turn() {
    let (rig, proof, _) = unconfirmed("bills: 1").await;
    let url = format!("{}/v1/search/a", rig.url);
    let unpaid: Vec<_> = (0..12).map(|_| tokio::spawn(rig.http.get(&url).send())).collect();
    eventually("they wait", async || reached(&rig, "per_client.bills") >= 1.0).await;
    let pending = told(&rig, "/v1/search/a", ("payment-signature", &proof)).await;
    assert_eq!(pending, (503, "settlement_pending".to_owned()));
    assert!(unpaid.iter().any(|it| !it.is_finished()), "it is answered before them");
    for one in unpaid {
        soon("each is answered", one).await.unwrap().unwrap();
    }
    rig.end().await;
}

/// A call with a body of about this many bytes.
fn call(method: &str, length: usize) -> String {
    let padding = "x".repeat(length);
    format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{method}\",\"params\":{{\"x\":\"{padding}\"}}}}")
}

fn head(length: usize) -> String {
    format!(
        "POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// Before: 1,024 stalled bodies made every `mcp` request of others 503.
#[tokio::test]
async fn stalled_bodies_of_one_client_leave_room_for_those_of_others() {
    let rig = scene("bodies: 1 MiB, per_client: { bodies: 16 KiB }").await;
    let body = call("ping", 10_000);
    let mut stalled = Wire::open(&rig.url).await;
    stalled.send(head(body.len()) + &body[..body.len() - 1]).await;
    let send = async |mut wire: Wire| {
        wire.send(head(body.len()) + &body).await;
        wire.answer().await
    };
    let is_full = async || send(Wire::open(&rig.url).await).await.status == 503;
    eventually("one more body is too many", is_full).await;
    let answer = send(Wire::open(&rig.url).await).await;
    assert_eq!((answer.status, answer.json()["error"].as_str()), (503, Some("overloaded")));
    assert!(reached(&rig, "per_client.bodies") >= 2.0);
    assert_eq!(send(Wire::open_from(OTHER, &rig.url).await).await.status, 200);
    stalled.send(&body[body.len() - 1..]).await;
    assert_eq!(stalled.answer().await.status, 200);
    assert_eq!(send(Wire::open(&rig.url).await).await.status, 200);
    rig.end().await;
}

/// Before: the room of a body was held until its answer had ended.
#[tokio::test]
async fn the_room_of_a_body_is_free_once_it_was_forwarded() {
    let rig = scene("bodies: 16 KiB").await;
    let (slow, quick) = (call("hang", 10_000), call("ping", 10_000));
    let mut hanging = Wire::open(&rig.url).await;
    hanging.send(head(slow.len()) + &slow).await;
    eventually("it was forwarded", async || rig.upstream.seen().len() == 1).await;
    let mut wire = Wire::open(&rig.url).await;
    wire.send(head(quick.len()) + &quick).await;
    assert_eq!(wire.answer().await.status, 200);
    drop(hanging);
    rig.end().await;
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A GET of `path` on a stream of its own, its fields as HPACK writes them without tables.
fn stream(number: u32, path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    let fields = [&b"\x82\x87\x04"[..], &[length], path.as_bytes(), b"\x01\x09localhost"].concat();
    frame(1, 5, number, &fields)
}

/// Before: each of the streams of one connection took a connection to the upstream, among them those
/// descriptors that are kept from clients.
#[tokio::test]
async fn free_requests_at_upstreams_are_bounded_for_each_client_and_for_all() {
    let rig = scene("free_forwards: 3, per_client: { free_forwards: 2 }").await;
    let (token, _) = capability(&rig.pay(&rig.payer(1, PLENTY), "/v1/search/a").await);
    let before = rig.upstream.seen().len();
    let secured = Secured::start(&rig).await;
    let mut streams = secured.connect(b"h2").await;
    let begin = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat();
    streams.write_all(&begin).await.unwrap();
    for number in 0..10 {
        streams.write_all(&stream(2 * number + 1, "/free/hang")).await.unwrap();
    }
    eventually("the rest is turned away", async || reached(&rig, "per_client.free_forwards") == 8.0).await;
    eventually("two are at the upstream", async || rig.upstream.seen().len() == before + 2).await;

    let mut others = Wire::open_from(OTHER, &rig.url).await;
    others.ask("GET /free/hang", &[]).await;
    eventually("so is one of another client", async || rig.upstream.seen().len() == before + 3).await;
    let mut more = Wire::open_from("127.0.0.3", &rig.url).await;
    assert_eq!(ask(&mut more).await, 503, "three are at upstreams");
    assert_eq!(reached(&rig, "free_forwards"), 1.0);
    assert_eq!(rig.get("/v1/search/b", &[("PAYMENT-CAPABILITY", &token)]).await.status(), 200);
    drop(streams);
    let comes_in = async || ask(&mut Wire::open_from("127.0.0.3", &rig.url).await).await == 200;
    eventually("the share comes back", comes_in).await;
    drop(others);
    secured.end().await;
    rig.end().await;
}

/// Before: whoever asked fastest had the processor, and those who had paid waited behind it.
#[tokio::test]
async fn answers_that_sell_nothing_take_turns_and_what_is_paid_waits_for_nobody() {
    let rig = scene("per_client: { bills: 2 }").await;
    let (token, _) = capability(&rig.pay(&rig.payer(1, PLENTY), "/v1/search/a").await);
    let answered = Arc::new(AtomicUsize::new(0));
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let (request, answered) =
                (rig.http.get(format!("{}/v1/search/a", rig.url)), Arc::clone(&answered));
            tokio::spawn(async move {
                let status = request.send().await.unwrap().status().as_u16();
                answered.fetch_add(1, Ordering::SeqCst);
                status
            })
        })
        .collect();
    eventually("they wait", async || {
        reached(&rig, "per_client.bills") >= 1.0 || answered.load(Ordering::SeqCst) >= 3
    })
    .await;
    assert_eq!(rig.get("/v1/search/b", &[("PAYMENT-CAPABILITY", &token)]).await.status(), 200);
    assert_eq!(ask(&mut Wire::open_from(OTHER, &rig.url).await).await, 200);
    let mut others = Wire::open_from(OTHER, &rig.url).await;
    others.ask("GET /v1/search/a", &[]).await;
    assert_eq!(others.answer().await.status, 402, "another client has turns of its own");
    assert!(answered.load(Ordering::SeqCst) < 20, "they are waiting yet");
    let mut statuses = Vec::new();
    for one in asked {
        statuses.push(soon("each is answered", one).await.unwrap());
    }
    let billed = statuses.iter().filter(|it| **it == 402).count();
    let shed = statuses.iter().filter(|it| **it == 503).count();
    // Two a second for five seconds, and up to three at once. The payment's own bill took one.
    assert!((10..=14).contains(&billed) && billed + shed == 20, "{statuses:?}");
    rig.end().await;
}
