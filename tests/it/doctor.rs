//! `faregate doctor` and `faregate check` on what is broken: each thing that a gateway depends on, broken in turn.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, UNIX_EPOCH};

use faregate::cli::doctor;
use faregate::clock::Clock;
use faregate::devnet::{Devnet, DevnetOptions, THRESHOLDS};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::scripted::{Reply, Scripted};
use crate::serve::write_private;

/// A configuration in a folder of its own, in front of a ledger.
struct Site {
    folder: TempDir,
    devnet: Devnet,
    public_url: &'static str,
    listen: String,
    /// Lines under `nano`.
    nano: String,
    /// An upstream's URL and what else there is of it.
    upstream: String,
    /// Sections at the end.
    more: String,
}

impl Site {
    /// One in which nothing is broken but that its upstream is not there.
    async fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
            devnet: Devnet::start(DevnetOptions::default()).await.unwrap(),
            public_url: "https://api.example.com",
            listen: "http: 127.0.0.1:8402".to_owned(),
            nano: String::new(),
            upstream: "url: http://127.0.0.1:1".to_owned(),
            more: String::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> PathBuf {
        let text = format!(
            "public_url: {}\nlisten: {{ {} }}\nnano:\n  nodes: [{}]\n  pool: {{ seed_file: pool.seed, size: 8 }}\n{}\
             upstreams: {{ api: {{ {} }} }}\n{}\nroutes: [{{ match: /v1/**, upstream: api, price: 1 raw }}]\n",
            self.public_url,
            self.listen,
            self.devnet.rpc_url(),
            self.nano,
            self.upstream,
            self.more
        );
        let path = self.path("faregate.yaml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// What the doctor says of `what`, as `ok`, `warning` or `broken` and its words; the first that begins so.
    async fn examined(&self, what: &str) -> (&'static str, String) {
        let mut out = Vec::new();
        let args = doctor::DoctorArgs { config: self.config().into(), json: true };
        let code = doctor::run(args, &mut out).await.unwrap();
        let report: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(format!("{code:?}").contains("(0)"), report["good"] == true, "{report}");
        let checks = report["checks"].as_array().unwrap();
        let found = checks.iter().find(|it| it["what"].as_str().unwrap().starts_with(what));
        let found = found.unwrap_or_else(|| panic!("{what} is not in {report}"));
        let mark = match (found["good"] == true, found["warning"] == true) {
            (true, false) => "ok",
            (true, true) => "warning",
            (false, _) => "broken",
        };
        assert_eq!(found["advice"].is_string(), mark != "ok", "what to do: {found}");
        (mark, format!("{}: {}", found["what"].as_str().unwrap(), found["detail"].as_str().unwrap()))
    }

    /// Runs the program on the configuration.
    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_faregate"))
            .args(arguments)
            .arg("--config")
            .arg(self.config())
            .output()
            .unwrap()
    }

    /// What `check` prints, and its exit code.
    fn checked(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.run(&[&["check"], arguments].concat());
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

const HEX: &str = "5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b\n";

/// Before: a name that could be looked up and a port that took connections was all that was asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_is_asked_and_its_answer_counts() {
    let mut site = Site::new().await;
    let answers = Scripted::start(|seen| match seen.path.as_str() {
        "/base/" => Reply::text(404, "nothing here"),
        "/" => Reply::text(500, "broken"),
        "/base/healthz" => Reply::text(200, "well"),
        _ => Reply::text(503, "not well"),
    })
    .await;
    let (hangs, drops) = (Scripted::start(|_| Reply::Hang).await, Scripted::start(|_| Reply::Drop).await);
    let at = |server: &Scripted, rest: &str| {
        format!("url: \"{}\"", server.url.as_str().trim_end_matches('/').to_owned() + rest)
    };
    for (upstream, mark, said) in [
        (at(&answers, "/base"), "ok", "answers 404 to HEAD /base/"),
        (at(&answers, ""), "warning", "answers 500 to HEAD /"),
        (at(&answers, "/base") + ", health: { path: /healthz }", "ok", "answers 200 to GET /base/healthz"),
        (
            at(&answers, "") + ", health: { path: /healthz }",
            "broken",
            "answers 503 to GET /healthz, its health check",
        ),
        (at(&hangs, "") + ", timeout: 200ms, connect_timeout: 200ms", "broken", "does not answer"),
        (at(&drops, ""), "broken", "does not answer"),
        ("url: http://127.0.0.1:1".to_owned(), "broken", "takes no connections: Connection refused"),
        ("url: http://nowhere.invalid".to_owned(), "broken", "nowhere.invalid: "),
    ] {
        site.upstream = upstream.clone();
        let (found, words) = site.examined("upstream api").await;
        assert_eq!(found, mark, "{upstream}: {words}");
        assert!(words.contains(said), "{upstream}: {words}");
    }
    // It exits with 1 and says what to do on the same line.
    let output = site.run(&["doctor"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|it| it.contains("upstream api")).unwrap();
    assert!(line.starts_with("broken   upstream api") && line.contains(" -> start it"), "{text}");
}

#[tokio::test]
async fn a_certificate_is_judged_by_its_key_its_names_and_its_end() {
    let mut site = Site::new().await;
    let (certificate, key_file) = (site.path("cert.pem"), site.path("key.pem"));
    let write = |from: (i32, u8, u8), to: (i32, u8, u8), names: &[&str]| {
        let names: Vec<_> = names.iter().map(|it| (*it).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(to.0, to.1, to.2);
        let key = KeyPair::generate().unwrap();
        std::fs::write(&certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        write_private(&key_file, key.serialize_pem());
    };
    let tls = "tls: { address: 127.0.0.1:8443, certificate: cert.pem, key: key.pem }";
    let own = ["api.example.com"];
    write((2020, 1, 1), (4000, 1, 1), &own);
    site.listen = tls.to_owned();
    let (mark, words) = site.examined("listen.tls").await;
    assert!(mark == "ok" && words.contains("more days"), "{mark} {words}");

    let week = UNIX_EPOCH + Duration::from_secs(Clock::system().now().0 + 7 * 24 * 3600 - 3600);
    let mut params = CertificateParams::new(vec!["api.example.com".to_owned()]).unwrap();
    params.not_after = week.into();
    let key = KeyPair::generate().unwrap();
    std::fs::write(&certificate, params.self_signed(&key).unwrap().pem()).unwrap();
    write_private(&key_file, key.serialize_pem());
    let (mark, words) = site.examined("listen.tls").await;
    assert!(mark == "warning" && words.contains("expires in 6 days"), "{mark} {words}");

    for (from, to, said) in
        [((2001, 1, 1), (2002, 1, 1), "has expired"), ((3000, 1, 1), (4000, 1, 1), "is not valid yet")]
    {
        write(from, to, &own);
        let (mark, words) = site.examined("listen.tls").await;
        assert!(mark == "broken" && words.contains(said), "{mark} {words}");
    }
    // A key that belongs to another certificate.
    write_private(&key_file, KeyPair::generate().unwrap().serialize_pem());
    let (mark, words) = site.examined("listen.tls").await;
    assert!(mark == "broken" && words.contains("do not belong together"), "{mark} {words}");

    write((2020, 1, 1), (4000, 1, 1), &["*.example.com"]);
    assert_eq!(site.examined("names of listen.tls").await.0, "ok", "a certificate for all names below");
    write((2020, 1, 1), (4000, 1, 1), &["other.example.com"]);
    let (mark, words) = site.examined("names of listen.tls").await;
    assert!(mark == "broken" && words.contains("is not for api.example.com"), "{mark} {words}");
    // Clients of a proxy may be shown the proxy's.
    site.listen = format!("{tls}, trusted_proxies: [127.0.0.1]");
    assert_eq!(site.examined("names of listen.tls").await.0, "warning");
    site.public_url = "http://api.example.com";
    assert_eq!(site.examined("listen.tls").await.0, "ok", "clients ask for no certificate");
}

#[tokio::test]
async fn the_authorities_and_the_certificate_for_an_upstream_are_judged_by_their_end() {
    let mut site = Site::new().await;
    let mut params = CertificateParams::new(vec!["api.example.com".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
    let key = KeyPair::generate().unwrap();
    std::fs::write(site.path("old.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    write_private(&site.path("old.key"), key.serialize_pem());
    site.upstream = "url: https://127.0.0.1:1, certificate: old.pem, key: old.key".to_owned();
    let (mark, words) = site.examined("upstreams.api.certificate").await;
    assert!(mark == "broken" && words.contains("has expired"), "{mark} {words}");
    site.nano = "  ca_file: old.pem\n".to_owned();
    assert_eq!(site.examined("nano.ca_file").await.0, "broken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_cannot_be_written_is_broken_and_one_that_can_is_left_as_it_was() {
    let mut site = Site::new().await;
    let before = std::fs::read_dir(site.folder.path()).unwrap().count();
    for what in
        ["directory of store.path", "directory of challenge.key_file", "directory of nano.pool.seed_file"]
    {
        let (mark, words) = site.examined(what).await;
        assert_eq!(mark, "ok", "{words}");
    }
    let after = std::fs::read_dir(site.folder.path()).unwrap().count();
    assert_eq!(after, before + 1, "the configuration alone");
    // Nobody can make a file there, not even root.
    for place in ["/proc/faregate.db", "nowhere/faregate.db", "faregate.yaml/faregate.db"] {
        site.more = format!("store: {{ path: {place} }}");
        let (mark, words) = site.examined("directory of store.path").await;
        assert!(mark == "broken" && words.contains("cannot be written"), "{place}: {words}");
    }
    site.more = "challenge: { key_file: nowhere/challenge.key }".to_owned();
    assert_eq!(site.examined("directory of challenge.key_file").await.0, "broken");
    // A key that is there is only read.
    write_private(&site.path("challenge.key"), HEX);
    site.more = String::new();
    let output = site.run(&["doctor"]);
    assert!(!String::from_utf8(output.stdout).unwrap().contains("directory of challenge.key_file"));
}

#[tokio::test]
async fn a_work_server_is_asked_for_work() {
    let mut site = Site::new().await;
    let maker = site.devnet.rpc_url();
    let work = |server: &str| {
        format!(
            "  work: {{ send: \"{}\", receive: \"{}\", optional: {{ server: \"{server}\" }} }}\n",
            THRESHOLDS.send, THRESHOLDS.receive
        )
    };
    site.nano = work(&maker);
    let (mark, words) = site.examined("nano.work.optional").await;
    assert_eq!(mark, "ok", "{words}");
    let lazy =
        Scripted::start(|_| Reply::json(&json!({ "error": "Local work generation is disabled" }))).await;
    for server in [lazy.url.as_str(), "http://127.0.0.1:1"] {
        site.nano = work(server);
        let (mark, words) = site.examined("nano.work.optional").await;
        assert!(mark == "broken" && words.contains("makes no work"), "{words}");
    }
}

#[tokio::test]
async fn a_node_that_is_behind_is_told_from_one_that_is_not_there() {
    let mut site = Site::new().await;
    let ahead =
        Scripted::start(|_| Reply::json(&json!({ "count": "9000", "unchecked": "0", "cemented": "9000" })))
            .await;
    let node = site.devnet.rpc_url();
    let label = node.trim_start_matches("http://").to_owned();
    assert_eq!(site.examined(&format!("node {label}")).await.0, "ok");
    site.upstream = "url: http://127.0.0.1:1".to_owned();
    let text = std::fs::read_to_string(site.config()).unwrap();
    let both = text.replace(
        &format!("nodes: [{node}]"),
        &format!("nodes: [{node}, \"{}\", http://127.0.0.1:1]", ahead.url),
    );
    let file = site.path("both.yaml");
    std::fs::write(&file, both).unwrap();
    let mut out = Vec::new();
    let code = doctor::run(doctor::DoctorArgs { config: file.into(), json: false }, &mut out).await.unwrap();
    assert!(format!("{code:?}").contains("(1)"), "{code:?}");
    let text = String::from_utf8(out).unwrap();
    let line = |of: &str| text.lines().find(|it| it.contains(of)).unwrap_or_else(|| panic!("{of}: {text}"));
    assert!(
        line(&format!("node {label} ")).starts_with("warning") && text.contains("fewer than others have"),
        "{text}"
    );
    assert!(line("node 127.0.0.1:1 ").starts_with("broken"), "{text}");
}

/// Before: only the files for TLS were opened, and a start found the others.
#[tokio::test]
async fn check_opens_every_file_that_is_named() {
    let mut site = Site::new().await;
    assert_eq!(site.checked(&[]).0, Some(0), "what the first start makes may be missing");
    site.more = "facilitator: { listen: 127.0.0.1:4402, token_file: facilitator.token }\n".to_owned();
    for name in ["pool.seed", "challenge.key", "facilitator.token"] {
        write_private(&site.path(name), HEX);
    }
    assert_eq!(site.checked(&[]).0, Some(0));
    for (name, key) in [
        ("pool.seed", "nano.pool.seed_file"),
        ("challenge.key", "challenge.key_file"),
        ("facilitator.token", "facilitator.token_file"),
    ] {
        let path = site.path(name);
        set_mode(&path, 0o644);
        let (code, text) = site.checked(&[]);
        assert!(code == Some(78) && text.contains(key) && text.contains("0644"), "{text}");
        write_private(&path, "not hexadecimal");
        let (code, text) = site.checked(&[]);
        assert!(code == Some(78) && text.contains(key) && text.contains("64 hexadecimal digits"), "{text}");
        assert_eq!(site.checked(&["--offline"]).0, Some(0), "{name}");
        write_private(&path, HEX);
    }
    site.more = "challenge: { previous_key_file: nowhere.key }".to_owned();
    let (code, text) = site.checked(&[]);
    assert!(code == Some(78) && text.contains("challenge.previous_key_file"), "{text}");
    site.more =
        "store: { postgres: \"postgres://a@127.0.0.1/b\", password_file: nowhere.password }".to_owned();
    let (code, text) = site.checked(&[]);
    assert!(
        code == Some(78) && text.contains("store.postgres") && text.contains("nowhere.password"),
        "{text}"
    );
}

/// A machine for tests has neither keys nor certificates, and may have no network.
#[tokio::test]
async fn offline_check_reads_the_configuration_alone() {
    let mut site = Site::new().await;
    site.listen = "tls: { address: 127.0.0.1:8443, certificate: nowhere.pem, key: nowhere.key }".to_owned();
    site.nano = "  ca_file: nowhere.pem\n".to_owned();
    site.upstream =
        "url: https://nowhere.invalid, ca_file: nowhere.pem, certificate: nowhere.pem, key: nowhere.key"
            .to_owned();
    site.more = "challenge: { previous_key_file: nowhere.key }".to_owned();
    assert_eq!(site.checked(&[]).0, Some(78));
    let (code, text) = site.checked(&["--offline"]);
    assert_eq!(code, Some(0), "{text}");
    let text = std::fs::read_to_string(site.config()).unwrap();
    let file = site.path("list.yaml");
    std::fs::write(
        &file,
        text.replace("{ seed_file: pool.seed, size: 8 }", "{ addresses_file: nowhere.list }"),
    )
    .unwrap();
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_faregate"))
            .args(arguments)
            .arg(&file)
            .output()
            .unwrap()
            .status
            .code()
    };
    assert_eq!(run(&["check", "--config"]), Some(78));
    assert_eq!(run(&["check", "--offline", "--config"]), Some(0));
    // A fault of the file itself is still one.
    std::fs::write(&file, text.replace("price: 1 raw", "price: 0 raw")).unwrap();
    assert_eq!(run(&["check", "--offline", "--config"]), Some(78));
    assert_eq!(run(&["check", "--offline", "--against-store", "--config"]), Some(64));
}

/// Before: `nano.websocket` was not tried at all.
#[tokio::test]
async fn a_websocket_is_subscribed_at() {
    let mut site = Site::new().await;
    let options =
        DevnetOptions { websocket: Some("127.0.0.1:0".parse().unwrap()), ..DevnetOptions::default() };
    site.devnet = Devnet::start(options).await.unwrap();
    let socket = site.devnet.websocket_url().unwrap();
    site.nano = format!("  websocket: {socket}\n");
    let (mark, words) = site.examined("nano.websocket").await;
    assert!(mark == "ok" && words.contains("subscribes to confirmations"), "{words}");
    // The port of the RPC, which speaks HTTP alone, is the likeliest mistake.
    let rpc = site.devnet.rpc_url().replacen("http://", "ws://", 1);
    for (socket, said) in [(rpc, "HTTP"), ("ws://127.0.0.1:1".to_owned(), "no connection: ")] {
        site.nano = format!("  websocket: \"{socket}?key=hidden\"\n");
        let (mark, words) = site.examined("nano.websocket").await;
        assert!(mark == "broken" && words.contains(said) && !words.contains("hidden"), "{socket}: {words}");
    }
}
