//! Load balancers in front of the gateway: who is believed about a client, and who is not.

use std::path::Path;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::metrics::sample;
use crate::patience::eventually;
use crate::program::free_address;
use crate::proxy::wire::Wire;
use crate::rig::{Plan, Rig};
use crate::scripted::{Reply, Seen};

/// A client that no rule trusts; the tests' proxy is 127.0.0.1.
const STRANGER: &str = "127.0.0.2";

/// A gateway with these lines under `listen` and `limits.per_client`, before an upstream that never answers
/// what has `hang` in its path.
async fn scene(listen: &'static str, limits: &str) -> Rig {
    let answer =
        |seen: &Seen| if seen.path.contains("hang") { Reply::Hang } else { Reply::text(200, "here") };
    let more = format!("limits: {{ per_client: {{ {limits} }} }}");
    Rig::with(Plan { listen: Some(listen), more, answer: Box::new(answer), ..Plan::default() }).await
}

const TRUSTED: &str = "trusted_proxies: [127.0.0.1]";

/// What the upstream saw of these headers: `X-Forwarded-For`, `-Proto`, `-Host`, `Forwarded`.
fn told(rig: &Rig) -> [Option<String>; 4] {
    let seen = rig.upstream.seen().pop().unwrap();
    ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"]
        .map(|name| seen.header(name).map(str::to_owned))
}

fn some(texts: [&str; 4]) -> [Option<String>; 4] {
    texts.map(|it| Some(it).filter(|it| !it.is_empty()).map(str::to_owned))
}

/// Before: what a proxy said was dropped, so that the upstream saw neither client nor scheme.
#[tokio::test]
async fn a_trusted_proxy_is_believed_and_others_are_replaced() {
    let rig = scene(TRUSTED, "bodies: 1 MiB").await;
    let headers = [
        "X-Forwarded-For: 203.0.113.5, 192.0.2.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: api.example.com",
        "X-Forwarded-Prefix: /a",
        "Forwarded: for=203.0.113.5, for=192.0.2.1;proto=https",
    ];
    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /free/x", &headers).await;
    assert_eq!(wire.answer().await.status, 200);
    let for_all = "203.0.113.5, 192.0.2.1, 127.0.0.1";
    let forwarded = "for=203.0.113.5, for=192.0.2.1;proto=https, for=127.0.0.1;proto=http";
    assert_eq!(told(&rig), some([for_all, "https", "api.example.com", forwarded]));
    assert_eq!(rig.upstream.seen()[0].header("x-forwarded-prefix"), None);

    let mut wire = Wire::open_from(STRANGER, &rig.url).await;
    wire.ask("GET /free/x", &headers).await;
    assert_eq!(wire.answer().await.status, 200);
    assert_eq!(told(&rig), some([STRANGER, "http", "gateway.test", ""]));

    // A proxy that sets one of two headers passes the other on as a client wrote it. One that adds to a quote
    // that a client left open writes into the client's text.
    let disagree = ["X-Forwarded-For: 192.0.2.1", "Forwarded: for=203.0.113.5"];
    let left_open = ["Forwarded: for=203.0.113.5;x=\", for=192.0.2.1"];
    for headers in [&disagree[..], &left_open] {
        let mut wire = Wire::open(&rig.url).await;
        wire.ask("GET /free/x", headers).await;
        assert_eq!(wire.answer().await.status, 200);
        assert_eq!(told(&rig), some(["127.0.0.1", "http", "gateway.test", ""]));
    }
    rig.end().await;
}

/// Before: behind a load balancer all clients were one.
#[tokio::test]
async fn the_limits_count_the_client_that_a_trusted_proxy_names() {
    let rig = scene(TRUSTED, "unpaid: 1").await;
    let ask = async |target: &str, from: &str| {
        let mut wire = Wire::open(&rig.url).await;
        wire.ask(&format!("GET {target}"), &[&format!("X-Forwarded-For: {from}")]).await;
        wire
    };
    let mut hanging = vec![ask("/free/hang", "192.0.2.1").await];
    eventually("it is under way", async || rig.upstream.seen().len() == 1).await;
    assert_eq!(ask("/free/x", "192.0.2.1").await.answer().await.status, 503);
    // What a client puts before its proxy's entry makes it no other client.
    assert_eq!(ask("/free/x", "198.51.100.1, 192.0.2.1").await.answer().await.status, 503);
    assert_eq!(ask("/free/x", "192.0.2.2").await.answer().await.status, 200);
    hanging.push(ask("/free/hang", "2001:db8:1:2::1").await);
    eventually("it is under way", async || rig.upstream.seen().len() == 3).await;
    assert_eq!(ask("/free/x", "2001:db8:1:2:ffff::9").await.answer().await.status, 503);
    assert_eq!(ask("/free/x", "2001:db8:1:3::1").await.answer().await.status, 200);

    // A stranger cannot pretend.
    let mut wire = Wire::open_from(STRANGER, &rig.url).await;
    wire.ask("GET /free/hang", &["X-Forwarded-For: 192.0.2.7"]).await;
    hanging.push(wire);
    eventually("it is under way", async || rig.upstream.seen().len() == 5).await;
    let mut wire = Wire::open_from(STRANGER, &rig.url).await;
    wire.ask("GET /free/x", &["X-Forwarded-For: 192.0.2.8"]).await;
    assert_eq!(wire.answer().await.status, 503);
    drop(hanging);
    rig.end().await;
}

/// The header of version 2 for an IPv4 client and a TLV that means nothing; a LOCAL one without a client.
fn version_2(client: Option<[u8; 4]>) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    match client {
        Some(client) => {
            header.extend([0x21, 0x11, 0, 12 + 4]);
            header.extend(client);
            header.extend([127, 0, 0, 1, 0x12, 0x67, 0, 80]);
            header.extend([0xea, 0, 1, 7]);
        }
        None => header.extend([0x20, 0, 0, 0]),
    }
    header
}

#[tokio::test]
async fn the_proxy_protocol_names_the_client_of_a_connection() {
    let rig = scene("trusted_proxies: [127.0.0.1], proxy_protocol: true", "bodies: 1 MiB").await;
    let asked = b"GET /free/x HTTP/1.1\r\nHost: gateway.test\r\nX-Forwarded-For: 203.0.113.5\r\n\r\n";
    let line = |text: &str| text.as_bytes().to_vec();
    for (header, client) in [
        (line("PROXY TCP4 192.0.2.1 127.0.0.1 4711 80\r\n"), "192.0.2.1"),
        (line("PROXY TCP6 2001:db8::1 2001:db8::2 4711 80\r\n"), "2001:db8::1"),
        (version_2(Some([192, 0, 2, 2])), "192.0.2.2"),
        // A health check speaks for the proxy itself, which is trusted.
        (line("PROXY UNKNOWN\r\n"), "203.0.113.5, 127.0.0.1"),
        (version_2(None), "203.0.113.5, 127.0.0.1"),
    ] {
        let mut wire = Wire::open(&rig.url).await;
        wire.send([header.as_slice(), asked].concat()).await;
        assert_eq!(wire.answer().await.status, 200, "{client}");
        assert_eq!(told(&rig)[0].as_deref(), Some(client));
    }
    // A trusted proxy has to send it, and it has to be whole.
    for wrong in ["GET /free/x HTTP/1.1\r\nHost: a\r\n\r\n", "PROXY TCP4 here there 1 2\r\n", "PROXY \r\n"] {
        let mut wire = Wire::open(&rig.url).await;
        wire.send(wrong).await;
        assert!(wire.rest().await.is_empty(), "{wrong}");
    }
    // Nobody else may.
    let mut wire = Wire::open_from(STRANGER, &rig.url).await;
    assert_eq!(
        {
            wire.ask("GET /free/x", &[]).await;
            wire.answer().await.status
        },
        200
    );
    let mut wire = Wire::open_from(STRANGER, &rig.url).await;
    wire.send("PROXY TCP4 192.0.2.1 127.0.0.1 4711 80\r\nGET /free/x HTTP/1.1\r\n\r\n").await;
    assert!(wire.rest().await.starts_with(b"HTTP/1.1 400"));
    assert_eq!(rig.upstream.seen().len(), 6);
    rig.end().await;
}

#[tokio::test]
async fn connections_are_counted_for_the_client_that_the_proxy_protocol_names() {
    let rig = scene("trusted_proxies: [127.0.0.1], proxy_protocol: true", "connections: 2").await;
    let open = async |client: &str| {
        let mut wire = Wire::open(&rig.url).await;
        let asked = "GET /free/x HTTP/1.1\r\nHost: a\r\n\r\n";
        wire.send(format!("PROXY TCP4 {client} 127.0.0.1 4711 80\r\n{asked}")).await;
        wire
    };
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut wire = open("192.0.2.1").await;
        assert_eq!(wire.answer().await.status, 200);
        held.push(wire);
    }
    assert!(open("192.0.2.1").await.rest().await.is_empty());
    assert_eq!(sample(&rig, "limits_reached_total{limit=\"per_client.connections\"}"), 1.0);
    assert_eq!(open("192.0.2.2").await.answer().await.status, 200);
    drop(held);
    rig.end().await;
}

/// A proxy of other people before a gateway.
struct Front {
    url: String,
    process: Child,
    _folder: TempDir,
}

impl Front {
    /// `text` is its configuration, `arguments` come before the file's name.
    async fn start(program: &str, arguments: &[&str], text: impl FnOnce(&Path, &str) -> String) -> Self {
        let (folder, address) = (TempDir::new().unwrap(), free_address());
        let file = folder.path().join("front.conf");
        std::fs::write(&file, text(folder.path(), &address)).unwrap();
        let mut command = Command::new(program);
        command.current_dir(folder.path()).args(arguments).arg(&file).kill_on_drop(true);
        let process = command.spawn().unwrap_or_else(|error| panic!("{program} in PATH: {error}"));
        eventually("it listens", async || TcpStream::connect(&address).await.is_ok()).await;
        Self { url: format!("http://{address}"), process, _folder: folder }
    }

    /// What the upstream is told of a client that says so of itself.
    async fn told(&self, rig: &Rig) -> [Option<String>; 4] {
        let headers = [
            "X-Forwarded-For: 203.0.113.5",
            "X-Forwarded-Proto: gopher",
            "X-Forwarded-Host: other.test",
            "Forwarded: for=203.0.113.5;proto=gopher",
        ];
        let mut wire = Wire::open_from(STRANGER, &self.url).await;
        wire.ask("GET /free/x", &headers).await;
        assert_eq!(wire.answer().await.status, 200);
        told(rig)
    }

    async fn end(mut self) {
        self.process.kill().await.unwrap();
    }
}

/// `deploy/nginx.conf`, without TLS and on other ports.
#[tokio::test]
#[ignore = "needs nginx; run by tests/upstreams/run"]
async fn the_shipped_configuration_of_nginx_says_who_the_client_is() {
    let rig = scene(TRUSTED, "unpaid: 1").await;
    let shipped = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/nginx.conf")).unwrap();
    let gateway = rig.url.trim_start_matches("http://");
    let front = Front::start("nginx", &["-p", ".", "-c"], |folder, address| {
        let server = shipped
            .replace("server 127.0.0.1:8402;", &format!("server {gateway};"))
            .replace("listen 443 ssl;", &format!("listen {address};"));
        assert!(server.contains(gateway) && server.contains(address), "both are replaced");
        let server: Vec<_> = server.lines().filter(|it| !it.contains("ssl_certificate")).collect();
        let place = folder.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|it| format!("{it}_temp_path {place}/{it};\n"))
            .concat();
        format!(
            "daemon off;\nmaster_process off;\npid {place}/pid;\nerror_log {place}/error.log;\n\
             events {{ worker_connections 64; }}\nhttp {{\naccess_log off;\n{temporary}{}\n}}\n",
            server.join("\n")
        )
    })
    .await;
    let client = format!("{STRANGER}, 127.0.0.1");
    assert_eq!(front.told(&rig).await, some([&client, "http", "gateway.test", ""]));
    // Its limits are its own, and not nginx's.
    let mut hanging = Wire::open_from(STRANGER, &front.url).await;
    hanging.ask("GET /free/hang", &[]).await;
    eventually("it is under way", async || rig.upstream.seen().len() == 2).await;
    for (from, status) in [(STRANGER, 503), ("127.0.0.3", 200)] {
        let mut wire = Wire::open_from(from, &front.url).await;
        wire.ask("GET /free/x", &["X-Forwarded-For: 203.0.113.9"]).await;
        assert_eq!(wire.answer().await.status, status, "{from}");
    }
    drop(hanging);
    front.end().await;
    rig.end().await;
}

/// What `deploy/README.md` says of HAProxy.
#[tokio::test]
#[ignore = "needs haproxy; run by tests/upstreams/run"]
async fn haproxy_says_who_the_client_is() {
    let rig = scene("trusted_proxies: [127.0.0.1], proxy_protocol: true", "bodies: 1 MiB").await;
    let shipped = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/README.md")).unwrap();
    let gateway = rig.url.trim_start_matches("http://");
    let front = Front::start("haproxy", &["-q", "-f"], |_, address| {
        let lines = [
            "server gateway 127.0.0.1:8402 send-proxy-v2",
            "http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]",
            "http-request del-header X-Forwarded-For",
            "http-request del-header X-Forwarded-Host",
            "http-request del-header Forwarded",
        ];
        for line in lines {
            assert!(shipped.contains(&format!("`{line}`")) || line.starts_with("server"), "{line}");
        }
        let [server, rules @ ..] = lines;
        format!(
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
             frontend all\n  bind {address}\n  {}\n  default_backend gateways\nbackend gateways\n  {}\n",
            rules.join("\n  "),
            server.replace("127.0.0.1:8402", gateway)
        )
    })
    .await;
    assert_eq!(front.told(&rig).await, some([STRANGER, "http", "gateway.test", ""]));
    front.end().await;
    rig.end().await;
}
