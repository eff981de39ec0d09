//! The size of bills. A proxy before the gateway takes only so much of an answer's head.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use faregate::x402::encode_header;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::wire::{Answer, Wire};
use crate::patience::{eventually, soon};
use crate::rig::{Plan, Rig};
use crate::scripted::{Reply, Seen};

/// What nginx takes, by default (`proxy_buffer_size`).
const MOST: usize = 4096;
const PAGE: &str = "https://a-page-with-a-rather-long-name.app.example.com";

/// A route and the lengths of what is configured for it.
#[derive(Clone, Copy, Debug)]
struct Configured {
    name: usize,
    description: usize,
    mime_type: usize,
    has_identifiers: bool,
    has_session: bool,
}

impl Configured {
    fn yaml(self, index: usize) -> String {
        let Self { name, description, mime_type, has_identifiers, has_session } = self;
        let identifiers = if has_identifiers { ", payment_identifier: required" } else { "" };
        let session = if has_session { ", nanoSession" } else { "" };
        let mut line = format!(
            "  - {{ name: \"{:x<name$}\", match: \"/{index}/**\", upstream: api, \
             price: 340282366920938463463374607431768211455 raw, grants: {{ requests: 4000000, within: 30d }}, \
             mechanisms: [nanoTxn, nanoSignature{session}]{identifiers}",
            format!("r{index}")
        );
        if description > 0 {
            // Two bytes each: a description is not cut within a character.
            line.push_str(&format!(", description: \"{}\"", "ä".repeat(description / 2)));
        }
        if mime_type > 0 {
            line.push_str(&format!(", mime_type: \"a/{}\"", "m".repeat(mime_type - 2)));
        }
        line + " }\n"
    }
}

/// Routes with everything from the shortest to the longest that can be configured.
fn all() -> Vec<Configured> {
    let mut all = Vec::new();
    for name in [4, 60, 200] {
        for description in [0, 90, 500] {
            for mime_type in [0, 127] {
                for has_identifiers in [false, true] {
                    for has_session in [false, true] {
                        all.push(Configured { name, description, mime_type, has_identifiers, has_session });
                    }
                }
            }
        }
    }
    all
}

/// A request for a path of `path` bytes with a query of `query` bytes, and what comes with it.
#[derive(Clone, Copy, Debug)]
struct Asked {
    route: usize,
    path: usize,
    query: usize,
    folder: usize,
    with: usize,
}

fn asked(routes: usize) -> impl Strategy<Value = Asked> {
    let length = |most: usize| prop_oneof![0..80_usize, 0..1200_usize, 0..most];
    (0..routes, length(4000), length(16_000), 1..200_usize, 0..4_usize)
        .prop_map(|(route, path, query, folder, with)| Asked { route, path, query, folder, with })
}

impl Asked {
    fn target(self) -> String {
        let mut target = format!("/{}/", self.route);
        for at in 0..self.path {
            target.push(if at % self.folder == self.folder - 1 { '/' } else { 'p' });
        }
        let mut target = target.replace("//", "/q");
        if self.query > 0 {
            target.push_str(&format!("?q={}", "v".repeat(self.query)));
        }
        target
    }
}

fn header_of(answer: &Answer) -> Value {
    serde_json::from_slice(&STANDARD.decode(answer.one("payment-required")).unwrap()).unwrap()
}

/// Without the lengths of what is left out of the head, the head and the body say the same.
fn check(answer: &Answer, target: &str, url: &str, configured: Configured) {
    assert_eq!(answer.status, 402, "{}", answer.text());
    assert!(answer.head < MOST, "{} bytes", answer.head);
    let (head, body) = (header_of(answer), answer.json());
    assert_eq!(body["resource"]["url"], format!("{url}{target}"), "the body has it whole");
    let described = body["resource"]["description"].as_str().unwrap_or_default();
    assert_eq!(described.len(), configured.description, "the body has it whole");
    assert_eq!(body["accepts"].as_array().unwrap().len(), 2 + usize::from(configured.has_session));
    assert_eq!(body["extensions"]["payment-identifier"].is_object(), configured.has_identifiers);

    let named = head["resource"]["url"].as_str().unwrap();
    assert!(format!("{url}{target}").starts_with(named) && named.len() > url.len(), "{named}");
    let shown = head["resource"]["description"].as_str().unwrap_or_default();
    assert!(described.starts_with(shown.trim_end_matches('…')), "{shown}");
    if described != shown {
        // Who decides the URL cannot make the gateway's own words disappear.
        let path = target.split('/').nth(1).unwrap();
        assert!(named.len() <= url.len() + 1 + path.len() + 1, "{named} before {shown}");
    }
    let (kept, whole) = (head["accepts"].as_array().unwrap(), body["accepts"].as_array().unwrap());
    assert!(!kept.is_empty() && whole.starts_with(kept), "{kept:?}");
    let is_short = configured.name <= 60;
    assert!(!is_short || kept.len() == whole.len(), "{} bytes, {} entries", answer.head, kept.len());
    assert_eq!(
        head["extensions"]["payment-identifier"]["info"],
        body["extensions"]["payment-identifier"]["info"]
    );
}

/// What comes with a request, so that the bill is also a refusal.
fn with(number: usize) -> Vec<String> {
    let malformed = json!({ "x402Version": 2, "accepted": { "scheme": "e".repeat(400) }, "payload": {} });
    let [malformed, empty] =
        [malformed, json!({})].map(|it| format!("PAYMENT-SIGNATURE: {}", encode_header(&it)));
    match number {
        0 => vec![],
        1 => vec![format!("Origin: {PAGE}")],
        2 => vec![format!("Origin: {PAGE}"), malformed],
        _ => vec![empty, "X-PAYMENT-SESSION: none".to_owned()],
    }
}

/// Regression: nginx, with its defaults, answered 502 for bills of more than 4,096 bytes.
#[tokio::test]
async fn no_bill_has_a_head_that_a_proxy_before_the_gateway_refuses() {
    let routes = all();
    let lines: String = (0..).zip(&routes).map(|(index, it)| it.yaml(index)).collect();
    let more = format!("cors: {{ origins: [\"{PAGE}\"], credentials: true }}");
    let rig = Rig::with(Plan { routes: lines, more, ..Plan::default() }).await;
    let mut wire = Wire::open(&rig.url).await;
    let mut runner = TestRunner::deterministic();
    let asked = asked(routes.len());
    for _ in 0..600 {
        let case = asked.new_tree(&mut runner).unwrap().current();
        let target = case.target();
        let headers = with(case.with);
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        wire.ask(&format!("GET {target}"), &headers).await;
        let answer = wire.answer().await;
        check(&answer, &target, &rig.url, routes[case.route]);
    }
    drop(wire);
    rig.end().await;
}

/// What there is room for is said in full, so that clients that read only the header lose nothing.
#[tokio::test]
async fn a_usual_bill_says_the_same_in_its_head_and_its_body() {
    let usual =
        Configured { name: 12, description: 60, mime_type: 20, has_identifiers: true, has_session: false };
    let rig = Rig::with(Plan { routes: usual.yaml(0), ..Plan::default() }).await;
    let mut wire = Wire::open(&rig.url).await;
    wire.ask(&format!("GET /0/{}?q={}", "p".repeat(200), "v".repeat(100)), &[]).await;
    let answer = wire.answer().await;
    let (head, mut body) = (header_of(&answer), answer.json());
    assert!(body.as_object_mut().unwrap().remove("request_id").unwrap().is_string());
    let _for_people = body.as_object_mut().unwrap().remove("message").unwrap();
    assert_eq!(head, body);
    drop(wire);
    rig.end().await;
}

/// A nginx with its defaults before a gateway, on a socket in a folder of its own.
struct Nginx {
    folder: TempDir,
    process: Child,
}

impl Nginx {
    async fn before(gateway: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let place = folder.path().display().to_string();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|it| format!("    {it}_temp_path {place}/{it};\n"))
            .concat();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {place}/pid;\nerror_log {place}/error.log;\n\
             events {{ worker_connections 64; }}\nhttp {{\n    access_log off;\n{temporary}    server {{\n        \
             listen unix:{place}/socket;\n        location / {{ proxy_pass {gateway}; }}\n    }}\n}}\n"
        );
        std::fs::write(folder.path().join("nginx.conf"), text).unwrap();
        let mut command = Command::new("nginx");
        command
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(folder.path().join("nginx.conf"))
            .kill_on_drop(true);
        let process = command.spawn().expect("nginx in PATH");
        let nginx = Self { folder, process };
        eventually("nginx listens", || async { nginx.connect().await.is_ok() }).await;
        nginx
    }

    async fn connect(&self) -> std::io::Result<UnixStream> {
        UnixStream::connect(self.folder.path().join("socket")).await
    }

    /// The status and the bytes of an answer's head.
    async fn ask(&self, target: &str, headers: &[String]) -> (u16, String) {
        let lines: String = headers.iter().map(|it| format!("{it}\r\n")).collect();
        let mut stream = self.connect().await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        soon("an answer", stream.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, _) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_owned())
    }

    async fn end(mut self) {
        self.process.kill().await.unwrap();
    }
}

/// What [`no_bill_has_a_head_that_a_proxy_before_the_gateway_refuses`] holds for is what nginx takes.
#[tokio::test]
#[ignore = "needs nginx; run by tests/upstreams/run"]
async fn every_bill_passes_a_real_nginx_with_its_defaults() {
    let routes = all();
    let lines: String = (0..).zip(&routes).map(|(index, it)| it.yaml(index)).collect();
    let more = format!("cors: {{ origins: [\"{PAGE}\"], credentials: true }}");
    let lines = lines + "  - { match: \"/free/**\", upstream: api, free: true }\n";
    let answer = Box::new(|_: &Seen| Reply::text(200, "ok").with("X-Long", &"x".repeat(MOST)));
    let rig = Rig::with(Plan { routes: lines, more, answer, ..Plan::default() }).await;
    let nginx = Nginx::before(&rig.url).await;
    assert_eq!(nginx.ask("/free/x", &[]).await.0, 502, "it does refuse a head of that length");
    let mut bills = 0;
    for (route, named) in routes.iter().enumerate() {
        for (path, query) in [(3, 0), (1500, 0), (100, 5000)] {
            for number in 0..4 {
                let asked = Asked { route, path, query, folder: 50, with: number };
                let (status, head) = nginx.ask(&asked.target(), &with(number)).await;
                assert_eq!(status, 402, "{asked:?} of {named:?}: {head}");
                bills += 1;
            }
        }
    }
    #[expect(clippy::print_stdout, reason = "tests/upstreams/run shows the number")]
    let () = println!("nginx: {bills} bills passed");
    nginx.end().await;
    rig.end().await;
}
