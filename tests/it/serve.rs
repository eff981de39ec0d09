//! The program as a process: how it starts, ends, reloads, and what it says when it cannot.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use faregate::devnet::{Devnet, DevnetOptions, InjectedFault, THRESHOLDS, Times};
use faregate::nano::Seed;
use faregate::x402::{PaymentProof, encode_header};
use reqwest::{Client, Response, Version};
use serde_json::Value;
use tempfile::TempDir;

use crate::metrics::assert_well_formed;
use crate::patience::{eventually, http_client, soon, within};
use crate::proxy::wire::Played;
use crate::rig::{PLENTY, capability, error, header, offers};
use crate::scripted::{Reply, Scripted};

mod acme;
mod admin;
mod drain;
mod listeners;
mod ready;
mod systemd;
mod upgrade;

/// What a gateway process needs around it.
struct World {
    devnet: Devnet,
    upstream: Scripted,
    folder: TempDir,
}

const ROUTES: &str = r#"
  - { name: search, match: "/v1/search/**", upstream: api, price: 1 raw, grants: { requests: 5, within: 1h } }
  - { match: "/free/**", upstream: api, free: true }
"#;

impl World {
    async fn start() -> Self {
        let devnet = Devnet::start(DevnetOptions::default()).await.unwrap();
        let upstream = Scripted::start(|seen| Reply::text(200, &format!("upstream saw {}", seen.path))).await;
        Self { devnet, upstream, folder: TempDir::new().unwrap() }
    }

    /// Writes the configuration; `listen` is what stands after that key, `more` whole lines: more
    /// upstreams first.
    fn write(&self, listen: &str, more: &str, routes: &str) -> PathBuf {
        self.write_draining("{ delay: 0s, grace: 20s }", listen, more, routes)
    }

    /// The same, with what stands after `drain`.
    fn write_draining(&self, drain: &str, listen: &str, more: &str, routes: &str) -> PathBuf {
        let (node, upstream) = (self.devnet.rpc_url(), &self.upstream.url);
        let text = format!(
            "public_url: https://api.example.com\nlisten: {listen}\ndrain: {drain}\nadmin: {{ listen: 127.0.0.1:0 }}\n\
             nano:\n  nodes: [{node}]\n  pool: {{ seed_file: pool.seed, size: 8 }}\n  \
             work: {{ send: \"{}\", receive: \"{}\" }}\nupstreams:\n  api: {{ url: \"{upstream}\" }}\n{more}\nroutes:\n{routes}",
            THRESHOLDS.send, THRESHOLDS.receive
        );
        let path = self.folder.path().join("faregate.yaml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Pays `url` and gives the answer.
    async fn pay(&self, client: &Client, url: &str) -> Response {
        self.pay_with_proof(client, url).await.0
    }

    /// Pays `url` and gives the answer and the header that paid.
    async fn pay_with_proof(&self, client: &Client, url: &str) -> (Response, String) {
        let key = Seed::from_bytes([0x5b; 32]).key(0);
        self.devnet.fund(key.account(), PLENTY).unwrap();
        self.devnet.receive_all(&key).unwrap();
        let bill = client.get(url).send().await.unwrap();
        assert_eq!(bill.status(), 402);
        let offer = offers(&bill).offers.remove(0);
        let block = self.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
        let proof = encode_header(&offer.answer(&PaymentProof::NanoTxn { block }));
        let answer = client.get(url).header("PAYMENT-SIGNATURE", &proof).send().await.unwrap();
        (answer, proof)
    }
}

/// A gateway process; ended with the test.
struct Process {
    child: Child,
    /// What it has logged so far, line by line.
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    /// By what is said of them: `listening`, `listening, TLS`, `listening, admin`.
    addresses: BTreeMap<String, SocketAddr>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already in most tests.
        let _ended = self.child.kill().is_err();
        let _reaped = self.child.wait().is_err();
    }
}

fn faregate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faregate"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command that ends by itself.
async fn run(arguments: &[&str]) -> Output {
    let mut command = faregate(arguments);
    let ran = tokio::task::spawn_blocking(move || command.output());
    within(Duration::from_secs(60), "the command ends", ran).await.unwrap().unwrap()
}

/// Writes a file that only its owner may use, as a key has to be.
pub(crate) fn write_private(path: &Path, text: impl AsRef<[u8]>) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

fn said(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

impl Process {
    /// Starts `faregate serve` and returns once all its listeners are there.
    async fn start(config: &Path, listeners: usize, level: &str) -> Self {
        let config = config.to_str().unwrap();
        let command = faregate(&["--log", level, "--log-format", "json", "serve", "--config", config]);
        Self::start_by(command, listeners).await
    }

    /// The same by a command.
    async fn start_by(mut command: Command, listeners: usize) -> Self {
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, stderr) = (Arc::clone(&log), BufReader::new(child.stderr.take().unwrap()));
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let reader = Some(reader);
        let mut process = Self { child, log, reader, addresses: BTreeMap::new() };
        eventually("it listens", || async { process.listening().len() == listeners }).await;
        let addresses = process.listening().into_iter();
        process.addresses =
            addresses.filter_map(|(message, address)| Some((message, address.parse().ok()?))).collect();
        process
    }

    fn logged(&self) -> Vec<Value> {
        self.log.lock().unwrap().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// What is said of each address at which it listens, in the order in which it began to.
    fn listening(&self) -> Vec<(String, String)> {
        let of = |line: &Value| {
            let fields = &line["fields"];
            let address = fields["address"].as_str()?.to_owned();
            fields["message"]
                .as_str()
                .filter(|it| it.starts_with("listening"))
                .map(|it| (it.to_owned(), address))
        };
        self.logged().iter().filter_map(of).collect()
    }

    fn has_said(&self, words: &str) -> bool {
        self.log.lock().unwrap().iter().any(|line| line.contains(words))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses["listening"])
    }

    fn admin(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses["listening, admin"])
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// How it ended, once it has and its last line is read.
    async fn ended(&mut self) -> ExitStatus {
        let child = Mutex::new(&mut self.child);
        eventually("it ends", || async { child.lock().unwrap().try_wait().unwrap().is_some() }).await;
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.child.wait().unwrap()
    }
}

fn client() -> Client {
    http_client().build().unwrap()
}

async fn text(client: &Client, url: String) -> (u16, String) {
    let answer = client.get(url).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

const LISTEN: &str = "{ http: 127.0.0.1:0 }";

#[tokio::test]
async fn it_serves_on_as_many_threads_as_it_is_told() {
    let world = World::start().await;
    let config = world.write(LISTEN, "limits: { threads: 3 }", ROUTES);
    let process = Process::start(&config, 2, "info").await;
    let threads: Vec<_> = process.logged().iter().filter_map(|it| it["fields"]["threads"].as_u64()).collect();
    assert_eq!(threads, [3]);
    assert_eq!(text(&client(), process.url("/free/x")).await.0, 200);
}

#[tokio::test]
async fn it_starts_sells_shows_how_it_is_and_ends() {
    let world = World::start().await;
    let mut process = Process::start(&world.write(LISTEN, "", ROUTES), 2, "info").await;
    let client = client();
    world.devnet.order("version", InjectedFault::ServerError, Times::ONCE);
    let paid = world.pay(&client, &process.url("/v1/search/x")).await;
    assert_eq!((paid.status().as_u16(), capability(&paid).1), (200, 4));
    let refused =
        client.get(process.url("/v1/search/x")).header("PAYMENT-CAPABILITY", "bm9uZQ").send().await.unwrap();
    assert_eq!(refused.status(), 402);

    assert_eq!(text(&client, process.admin("/healthz")).await, (200, "ok\n".to_owned()));
    let (status, ready) = text(&client, process.admin("/readyz")).await;
    let ready: Value = serde_json::from_str(&ready).unwrap();
    assert_eq!(
        (status, &ready["ready"], &ready["nodes"][0]["up"]),
        (200, &true.into(), &true.into()),
        "{ready}"
    );
    assert_eq!(text(&client, process.admin("/nowhere")).await.0, 404);
    assert_well_formed(&text(&client, process.admin("/metrics")).await.1);

    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
    assert!(process.has_said("\"ended\""));
}

#[tokio::test]
async fn told_to_end_it_finishes_what_is_under_way() {
    let world = World::start().await;
    let mut upstream = Played::start().await;
    let more = format!("  slow: {{ url: \"{}\" }}\n", upstream.url);
    let routes = format!("{ROUTES}\n  - {{ match: \"/slow\", upstream: slow, free: true }}\n");
    let mut process = Process::start(&world.write(LISTEN, &more, &routes), 2, "info").await;
    let (client, idle) =
        (client(), tokio::net::TcpStream::connect(process.addresses["listening"]).await.unwrap());
    let under_way = tokio::spawn(client.get(process.url("/slow")).send());
    let mut call = upstream.call().await;
    process.signal("-TERM");
    let address = process.addresses["listening"];
    eventually("no new connections", || async { tokio::net::TcpStream::connect(address).await.is_err() })
        .await;
    assert!(process.child.try_wait().unwrap().is_none(), "it waits for the request");
    call.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await;
    assert_eq!(soon("the answer", under_way).await.unwrap().unwrap().text().await.unwrap(), "done");
    // Neither an idle connection nor one that is kept for reuse holds it up.
    let ended = within(Duration::from_secs(5), "the gateway ends at once", process.ended()).await;
    assert_eq!(ended.code(), Some(0));
    drop((idle, client));
}

#[tokio::test]
async fn a_hangup_reloads_what_is_right_and_refuses_what_is_not() {
    let world = World::start().await;
    let config = world.write(LISTEN, "", ROUTES);
    let mut process = Process::start(&config, 2, "info").await;
    let client = client();
    let price = || async {
        let bill = client.get(process.url("/v1/search/x")).send().await.unwrap();
        offers(&bill).offers[0].amount.to_string()
    };
    assert_eq!(price().await, "1");
    world.write(LISTEN, "store: { path: other.db }", &ROUTES.replace("price: 1 raw", "price: 7 raw"));
    process.signal("-HUP");
    eventually("the new price", || async { price().await == "7" }).await;
    let named = || async { process.has_said("needs a restart") && process.has_said("store") };
    eventually("the key that stays is named", named).await;

    world.write(LISTEN, "limts: {}", &ROUTES.replace("price: 1 raw", "price: 0 raw"));
    process.signal("-HUP");
    eventually("it says why not", || async { process.has_said("not reloaded") }).await;
    for part in ["limts", "price", "faregate.yaml:"] {
        assert!(process.has_said(part), "{part}");
    }
    assert_eq!(price().await, "7");
    let metrics = text(&client, process.admin("/metrics")).await.1;
    assert!(metrics.contains("faregate_config_reload_failures_total 1\n"), "{metrics}");
    assert!(metrics.contains("faregate_config_generation 2\n"), "{metrics}");
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}

/// Before: the rest of the file was applied, and the reload counted as one that went well too.
#[tokio::test]
async fn a_reload_with_a_faulty_certificate_changes_nothing_at_all() {
    let world = World::start().await;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (world.folder.path().join("cert.pem"), world.folder.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    write_private(&key, made.signing_key.serialize_pem());
    let listen = "{ http: 127.0.0.1:0, tls: { address: 127.0.0.1:0, certificate: cert.pem, key: key.pem } }";
    let mut process = Process::start(&world.write(listen, "", ROUTES), 3, "info").await;
    let client = client();
    let price = || async {
        let bill = client.get(process.url("/v1/search/x")).send().await.unwrap();
        offers(&bill).offers[0].amount.to_string()
    };
    // A key of another certificate, and another price.
    write_private(&key, rcgen::KeyPair::generate().unwrap().serialize_pem());
    world.write(listen, "", &ROUTES.replace("price: 1 raw", "price: 7 raw"));
    process.signal("-HUP");
    eventually("it says why not", || async { process.has_said("do not belong together") }).await;
    eventually("it is counted", || async {
        let metrics = text(&client, process.admin("/metrics")).await.1;
        metrics.contains("faregate_config_reload_failures_total 1\n")
    })
    .await;
    let metrics = text(&client, process.admin("/metrics")).await.1;
    assert!(metrics.contains("faregate_config_generation 1\n"), "{metrics}");
    assert_eq!(price().await, "1");
    assert!(process.has_said("not reloaded") && !process.has_said("configuration reloaded"));
    write_private(&key, made.signing_key.serialize_pem());
    process.signal("-HUP");
    eventually("the new price", || async { price().await == "7" }).await;
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_gateway_that_cannot_start_says_why() {
    let world = World::start().await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = world.write(&format!("{{ http: {} }}", taken.local_addr().unwrap()), "", ROUTES);
    let ended = run(&["--log", "debug", "serve", "--config", config.to_str().unwrap()]).await;
    let message = said(&ended.stderr);
    assert_eq!(ended.status.code(), Some(69), "{message}");
    assert!(
        message.contains("`listen.http`") && message.contains(&taken.local_addr().unwrap().to_string()),
        "{message}"
    );

    let config = world.write(
        "{ htp: 127.0.0.1:0 }",
        "limits: { idle_connection: soon }",
        &ROUTES.replace("1 raw", "0 raw"),
    );
    let ended = run(&["serve", "--config", config.to_str().unwrap()]).await;
    let message = said(&ended.stderr);
    assert_eq!(ended.status.code(), Some(78), "{message}");
    for fault in ["htp", "idle_connection", "price"] {
        assert!(message.contains(fault), "{fault} in {message}");
    }

    for (file, key) in [("nowhere/faregate.db", "store.path"), ("faregate.yaml", "store.path")] {
        let config = world.write(LISTEN, &format!("store: {{ path: {file} }}"), ROUTES);
        let ended = run(&["serve", "--config", config.to_str().unwrap()]).await;
        let message = said(&ended.stderr);
        assert_eq!(ended.status.code(), Some(78), "{message}");
        assert!(message.contains(key), "{message}");
    }
    let ended = run(&["serve", "--config", "/nowhere/faregate.yaml"]).await;
    assert_eq!(ended.status.code(), Some(78));
    assert!(said(&ended.stderr).contains("/nowhere/faregate.yaml"));
}

#[tokio::test]
async fn tls_speaks_both_versions_of_http() {
    let world = World::start().await;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(world.folder.path().join("cert.pem"), made.cert.pem()).unwrap();
    write_private(&world.folder.path().join("key.pem"), made.signing_key.serialize_pem());
    let listen = "{ tls: { address: 127.0.0.1:0, certificate: cert.pem, key: key.pem } }";
    let routes = "  - { name: search, match: \"/v1/search/**\", upstream: kept, price: 1 raw, grants: { requests: 5, within: 1h } }\n  - { match: POST /mcp, upstream: api, mcp: { methods: { ping: free, tools/call: 1 raw } } }\n";
    let more = format!("  kept: {{ url: \"{}\", host_header: preserve }}\n", world.upstream.url);
    let mut process = Process::start(&world.write(listen, &more, routes), 2, "info").await;
    let address = process.addresses["listening, TLS"];
    let authority = format!("localhost:{}", address.port());
    let url = format!("https://{authority}/v1/search/x?y=z");
    let root = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let trusting = || http_client().add_root_certificate(root.clone()).resolve("localhost", address);
    for (client, version) in [
        (trusting().http1_only().build().unwrap(), Version::HTTP_11),
        (trusting().http2_prior_knowledge().build().unwrap(), Version::HTTP_2),
        (trusting().build().unwrap(), Version::HTTP_2),
    ] {
        let paid = world.pay(&client, &url).await;
        assert_eq!((paid.version(), paid.status().as_u16()), (version, 200));
        let (token, left) = capability(&paid);
        assert_eq!((left, paid.text().await.unwrap().as_str()), (4, "upstream saw /v1/search/x?y=z"));
        let body = vec![b'x'; 200_000];
        let posted =
            client.post(&url).header("PAYMENT-CAPABILITY", &token).body(body.clone()).send().await.unwrap();
        assert_eq!((posted.status().as_u16(), capability(&posted).1), (200, 3));
        let seen = world.upstream.seen().pop().unwrap();
        assert!(seen.method == "POST" && seen.body == body);
        for (name, value) in [
            ("host", authority.as_str()),
            ("x-forwarded-host", authority.as_str()),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-payment-route", "search"),
        ] {
            assert_eq!(seen.header(name), Some(value), "{name} over {version:?}");
        }
        let unpaid = client.post(&url).body(body).send().await.unwrap();
        assert_eq!(
            (unpaid.status().as_u16(), header(&unpaid, "cache-control")),
            (402, "no-store"),
            "{version:?}"
        );
        assert_eq!(error(unpaid).await, "PAYMENT_REQUIRED");
        crate::mcp::over(&client, &format!("https://{authority}"), &world.upstream).await;
        let head = client.head(&url).send().await.unwrap();
        assert_eq!((head.status().as_u16(), head.bytes().await.unwrap().len()), (402, 0));
        let head = client.head(&url).header("PAYMENT-CAPABILITY", &token).send().await.unwrap();
        assert_eq!((head.status().as_u16(), capability(&head).1), (200, 2));
        assert_eq!(head.bytes().await.unwrap().len(), 0);
    }
    assert!(client().get(&url).send().await.is_err(), "the certificate is its own");
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}

/// The host of HTTP/2 is in `:authority`, that of HTTP/1.1 in `Host`; both decide alike.
#[tokio::test]
async fn both_versions_of_http_find_the_route_of_their_host() {
    let world = World::start().await;
    let hosts = ["a.example", "b.example", "x.b.example"];
    let made = rcgen::generate_simple_self_signed(hosts.map(ToOwned::to_owned).to_vec()).unwrap();
    std::fs::write(world.folder.path().join("cert.pem"), made.cert.pem()).unwrap();
    write_private(&world.folder.path().join("key.pem"), made.signing_key.serialize_pem());
    let listen = "{ tls: { address: 127.0.0.1:0, certificate: cert.pem, key: key.pem } }";
    let routes = "  - { name: a, host: a.example, match: \"GET,POST /**\", upstream: api, price: 1 raw }\n  - { name: b, host: b.example, match: /**, upstream: api, price: 2 raw }\n  - { name: below, host: \"*.b.example\", match: /**, upstream: api, price: 3 raw }\n";
    let mut process = Process::start(&world.write(listen, "", routes), 2, "info").await;
    let address = process.addresses["listening, TLS"];
    let root = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let trusting = || {
        let client = http_client().add_root_certificate(root.clone());
        hosts.iter().fold(client, |client, host| client.resolve(host, address))
    };
    for (client, version) in [
        (trusting().http1_only().build().unwrap(), Version::HTTP_11),
        (trusting().http2_prior_knowledge().build().unwrap(), Version::HTTP_2),
    ] {
        for (host, price) in hosts.iter().zip(1..) {
            let url = format!("https://{}:{}/x?y", host.to_uppercase(), address.port());
            let bill = client.get(url).send().await.unwrap();
            assert_eq!((bill.version(), bill.status().as_u16()), (version, 402), "{host}");
            let bill: serde_json::Value = bill.json().await.unwrap();
            assert_eq!(bill["accepts"][0]["amount"], price.to_string(), "{host} over {version:?}");
            assert!(bill["resource"]["url"].as_str().unwrap().contains(&format!("://{host}")), "{bill}");
        }
        let url = format!("https://a.example:{}/x", address.port());
        let unknown = client.put(&url).body("").send().await.unwrap();
        assert_eq!(unknown.status().as_u16(), 404, "the method is not for sale");
    }
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_hangup_takes_a_renewed_certificate_over() {
    let world = World::start().await;
    let make = || {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(world.folder.path().join("cert.pem"), made.cert.pem()).unwrap();
        write_private(&world.folder.path().join("key.pem"), made.signing_key.serialize_pem());
        reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap()
    };
    let first = make();
    let listen = "{ tls: { address: 127.0.0.1:0, certificate: cert.pem, key: key.pem } }";
    let mut process = Process::start(&world.write(listen, "", ROUTES), 2, "info").await;
    let address = process.addresses["listening, TLS"];
    let url = format!("https://localhost:{}/free/x", address.port());
    let trusting = |root: &reqwest::Certificate| {
        let client = http_client().tls_certs_only([root.clone()]);
        client.resolve("localhost", address).build().unwrap()
    };
    let kept = trusting(&first);
    assert_eq!(kept.get(&url).send().await.unwrap().status(), 200);

    // A certificate that does not go with its key is left alone, and the log says so.
    let second = make();
    write_private(&world.folder.path().join("key.pem"), "no key");
    process.signal("-HUP");
    eventually("it says why not", || async { process.has_said("key.pem") }).await;
    assert_eq!(trusting(&first).get(&url).send().await.unwrap().status(), 200);
    assert!(trusting(&second).get(&url).send().await.is_err());

    let third = make();
    process.signal("-HUP");
    eventually("the renewed certificate", || async { trusting(&third).get(&url).send().await.is_ok() }).await;
    assert!(trusting(&first).get(&url).send().await.is_err());
    // Who was connected stays so.
    assert_eq!(kept.get(&url).send().await.unwrap().status(), 200);
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}

/// Before: the certificate changed, and the log said that it would with a restart.
#[tokio::test]
async fn a_hangup_takes_a_certificate_from_another_file() {
    let world = World::start().await;
    let make = |name: &str| {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(world.folder.path().join(format!("{name}.pem")), made.cert.pem()).unwrap();
        write_private(&world.folder.path().join(format!("{name}.key")), made.signing_key.serialize_pem());
        reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap()
    };
    let listen = |address: &str, name: &str| {
        format!("{{ tls: {{ address: {address}, certificate: {name}.pem, key: {name}.key }} }}")
    };
    let (first, second) = (make("first"), make("second"));
    let mut process =
        Process::start(&world.write(&listen("127.0.0.1:0", "first"), "", ROUTES), 2, "info").await;
    let address = process.addresses["listening, TLS"];
    let url = format!("https://localhost:{}/free/x", address.port());
    let takes = async |root: &reqwest::Certificate| {
        let client = http_client().tls_certs_only([root.clone()]).resolve("localhost", address);
        client.build().unwrap().get(&url).send().await.is_ok()
    };
    assert!(takes(&first).await);
    world.write(&listen("127.0.0.1:0", "second"), "", ROUTES);
    process.signal("-HUP");
    eventually("the other certificate", || async { takes(&second).await }).await;
    eventually("it is said", || async { process.has_said("configuration reloaded") }).await;
    assert!(!process.has_said("needs a restart"));
    // An address does need one.
    world.write(&listen("127.0.0.1:1", "first"), "", ROUTES);
    process.signal("-HUP");
    eventually("it is said", || async { process.has_said("needs a restart") }).await;
    assert!(takes(&first).await, "the certificate has changed");
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_hold_the_end_up() {
    let world = World::start().await;
    let mut process = Process::start(&world.write(LISTEN, "", ROUTES), 2, "info").await;
    let mut silent = Vec::new();
    for address in process.addresses.values() {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    assert_eq!(silent.len(), 2);
    // Both are accepted: an answer on a later connection comes after them.
    assert_eq!(client().get(process.url("/free/x")).send().await.unwrap().status(), 200);
    assert_eq!(client().get(process.admin("/healthz")).send().await.unwrap().status(), 200);
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}

/// Before: at the limit the admin listener did not answer either, and each accept that failed was a line
/// in the log, twenty a second.
#[tokio::test]
async fn at_the_limit_of_descriptors_the_operator_is_answered_and_the_log_stays_short() {
    let world = World::start().await;
    let config = world.write(LISTEN, "", ROUTES);
    let mut command = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_faregate");
    command.args(["-c", "ulimit -S -n 100; ulimit -H -n 160; exec \"$0\" \"$@\"", program]);
    command.args(["--log-format", "json", "serve", "--config", config.to_str().unwrap()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::start_by(command, 2).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.child.id())).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|it| it.starts_with(name)).unwrap();
        line.trim_start_matches(name).split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(limit("Max open files"), ["160", "160"], "it takes all that it may have");
    assert_eq!(limit("Max core file size"), ["0", "0"], "its memory goes to no disk");
    let mut strangers = Vec::new();
    for _ in 0..200 {
        let mut stranger = tokio::net::TcpStream::connect(process.addresses["listening"]).await.unwrap();
        // It may be closed already.
        let _sent = tokio::io::AsyncWriteExt::write_all(&mut stranger, b"G").await.is_ok();
        strangers.push(stranger);
    }
    assert_eq!(text(&client(), process.admin("/healthz")).await.0, 200);
    let (_, metrics) = text(&client(), process.admin("/metrics")).await;
    let reached = "\nfaregate_limits_reached_total{limit=\"descriptors\"} ";
    assert!(metrics.contains(reached) && !metrics.contains(&format!("{reached}0\n")), "{metrics}");
    let lines = process.log.lock().unwrap().len();
    assert!(lines < 20, "{lines} lines for 200 connections");
    drop(strangers);
    let back = async || client().get(process.url("/free/x")).send().await.is_ok_and(|it| it.status() == 200);
    eventually("the others are served again", back).await;
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}

/// Before: what clients may not have of the descriptors, their free requests took for connections to upstreams.
#[tokio::test]
async fn free_requests_that_hang_leave_descriptors_to_the_operator() {
    let hanging = Scripted::start(|_| Reply::Hang).await;
    let world = World::start().await;
    let more = format!("  hanging: {{ url: \"{}\" }}", hanging.url);
    let routes = format!("{ROUTES}  - {{ match: \"/hang\", upstream: hanging, free: true }}\n");
    let config = world.write(LISTEN, &more, &routes);
    let mut command = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_faregate");
    command.args(["-c", "ulimit -n 320; exec \"$0\" \"$@\"", program]);
    command.args(["--log-format", "json", "serve", "--config", config.to_str().unwrap()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::start_by(command, 2).await;
    let (proof_of, url) = (client(), process.url("/v1/search/x"));
    let (token, _) = capability(&world.pay(&proof_of, &url).await);
    let mut strangers = Vec::new();
    for _ in 0..100 {
        let mut stranger = tokio::net::TcpStream::connect(process.addresses["listening"]).await.unwrap();
        let asked = b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n";
        let _sent = tokio::io::AsyncWriteExt::write_all(&mut stranger, asked).await.is_ok();
        strangers.push(stranger);
    }
    // An eighth of 320.
    eventually("as many as may be are at the upstream", async || hanging.seen().len() == 40).await;
    let reached = async || {
        let metrics = text(&client(), process.admin("/metrics")).await.1;
        metrics.contains("faregate_limits_reached_total{limit=\"free_forwards\"} 60")
    };
    eventually("the others are turned away, and the operator is told", reached).await;
    let paid = client().get(&url).header("PAYMENT-CAPABILITY", &token).send().await.unwrap();
    assert_eq!(paid.status(), 200);
    assert_eq!(hanging.seen().len(), 40);
    drop(strangers);
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_tls_key_that_others_can_read_is_refused() {
    let world = World::start().await;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (world.folder.path().join("cert.pem"), world.folder.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    write_private(&key, made.signing_key.serialize_pem());
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let config =
        world.write("{ tls: { address: 127.0.0.1:0, certificate: cert.pem, key: key.pem } }", "", ROUTES);
    let output = run(&["serve", "--config", config.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(78), "{}", said(&output.stderr));
    assert!(said(&output.stderr).contains("run: chmod 600"));
}

#[tokio::test]
async fn even_the_most_talkative_log_keeps_what_opens_doors() {
    let world = World::start().await;
    let mut process = Process::start(&world.write(LISTEN, "", ROUTES), 2, "trace").await;
    let client = client();
    let url = process.url("/v1/search/x?key=in-the-query");
    let (paid, proof) = world.pay_with_proof(&client, &url).await;
    let (token, _) = capability(&paid);
    for (name, value, status) in [
        ("PAYMENT-CAPABILITY", token.as_str(), 200),
        ("payment-signature", &proof, 200),
        ("X-PAYMENT", &proof, 200),
        ("PAYMENT-CAPABILITY", "bm90LWEtdG9rZW4", 402),
    ] {
        let again = client.get(&url).header(name, value).send().await.unwrap();
        assert_eq!(again.status(), status, "{name}");
    }
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
    let seed = std::fs::read_to_string(world.folder.path().join("pool.seed")).unwrap();
    let key = std::fs::read_to_string(world.folder.path().join("challenge.key")).unwrap();
    let forwarded = format!("{:?}", world.upstream.seen());
    let lines = process.log.lock().unwrap();
    assert!(lines.iter().any(|line| line.contains("\"DEBUG\"")), "it was talkative");
    for secret in [token.as_str(), &proof, seed.trim(), key.trim(), "bm90LWEtdG9rZW4", "in-the-query"] {
        let line = lines.iter().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} in {line:?}");
    }
    assert!(!forwarded.contains(&token) && !forwarded.contains(&proof), "{forwarded}");
}

#[tokio::test]
async fn the_demo_shows_itself() {
    let ended = run(&["demo", "--once"]).await;
    assert_eq!(ended.status.code(), Some(0), "{}", said(&ended.stderr));
    let told = said(&ended.stdout);
    assert!(told.contains("402"), "{told}");
    // A millionth of an XNO for a token of input, four for one of output.
    for line in [
        "200, 1 token of input and 3 of output: it cost 0.000013 XNO, 0.000987 XNO left",
        "200, 7 tokens of input and 9 of output: it cost 0.000043 XNO, 0.000944 XNO left",
        "402 CAPABILITY_EXHAUSTED: 1000 tokens could cost more than 0.000944 XNO",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
}

#[tokio::test]
async fn wrong_usage_is_told_from_help() {
    for wrong in [&[][..], &["serv"], &["serve", "--config"], &["--log-format", "xml", "demo"], &["pool"]] {
        let ended = run(wrong).await;
        assert_eq!(ended.status.code(), Some(64), "{wrong:?}: {}", said(&ended.stderr));
        assert!(said(&ended.stdout).is_empty() && said(&ended.stderr).contains("--help"), "{wrong:?}");
    }
    let ended = run(&["--log", "loud=x=y", "serve", "--config", "x"]).await;
    assert_eq!(ended.status.code(), Some(64));
    for asked in [&["--help"][..], &["--version"], &["serve", "--help"], &["pool", "addresses", "--help"]] {
        let ended = run(asked).await;
        assert_eq!(ended.status.code(), Some(0), "{asked:?}");
        assert!(!ended.stdout.is_empty() && ended.stderr.is_empty(), "{asked:?}");
    }
}

#[tokio::test]
async fn the_pools_addresses_can_be_taken_to_a_gateway_without_a_key() {
    let world = World::start().await;
    let config = world.write(LISTEN, "", ROUTES);
    let config = config.to_str().unwrap();
    let ended = run(&["pool", "addresses", "--config", config]).await;
    assert_eq!(ended.status.code(), Some(0), "{}", said(&ended.stderr));
    let printed = said(&ended.stdout).to_owned();
    let addresses: Vec<&str> = printed.lines().filter(|line| line.starts_with("nano_")).collect();
    let all: std::collections::BTreeSet<_> = addresses.iter().collect();
    assert_eq!((addresses.len(), all.len()), (16, 16), "{printed}");
    assert_eq!(
        run(&["pool", "addresses", "--config", config]).await.stdout,
        ended.stdout,
        "the same each time"
    );

    let keyless = TempDir::new().unwrap();
    std::fs::write(keyless.path().join("pool.txt"), &printed).unwrap();
    let text = std::fs::read_to_string(config).unwrap();
    let text = text.replace("{ seed_file: pool.seed, size: 8 }", "{ addresses_file: pool.txt }");
    let keyless_config = keyless.path().join("faregate.yaml");
    std::fs::write(&keyless_config, text).unwrap();
    let again = run(&["pool", "addresses", "--config", keyless_config.to_str().unwrap()]).await;
    assert_eq!(said(&again.stdout), printed, "cut in the same way");
    let mut process = Process::start(&keyless_config, 2, "info").await;
    let client = client();
    let bill = client.get(process.url("/v1/search/x")).send().await.unwrap();
    for offer in offers(&bill).offers {
        assert!(addresses.contains(&offer.pay_to.to_string().as_str()));
    }
    assert_eq!(world.pay(&client, &process.url("/v1/search/x")).await.status(), 200);
    assert!(!keyless.path().join("pool.seed").exists());
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}
