//! Upstreams over TLS as operators have them: an authority of their own, a certificate for the gateway,
//! another name than the URL's; and what the log says if the two do not agree.

mod versions;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use faregate::cli::doctor;
use faregate::clock::Clock;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::logs::Logs;
use crate::patience::eventually;
use crate::rig::{Plan, Rig, error};
use crate::scripted::{Reply, Scripted};

/// What the servers' certificates are for.
const NAME: &str = "quotes.test";

/// An authority that signs certificates.
struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = params.self_signed(&key).unwrap();
        Self { certificate: own.der().clone(), pem: own.pem(), issuer: Issuer::new(params, key) }
    }

    fn sign(&self, params: CertificateParams) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn signed(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        self.sign(CertificateParams::new(vec![name.to_owned()]).unwrap())
    }
}

/// TLS in front of an upstream.
struct Front {
    url: String,
    task: JoinHandle<()>,
    behind: Scripted,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server with this certificate; it asks for one that `clients` has signed, if there is such.
async fn front((certificate, key): (rcgen::Certificate, KeyPair), clients: Option<&Authority>) -> Front {
    let behind = Scripted::start(|_| Reply::text(200, "over TLS")).await;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.certificate.clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let acceptor =
        TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![certificate.der().clone()], key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let to = format!("{}:{}", behind.url.host_str().unwrap(), behind.url.port().unwrap());
    let task = tokio::spawn(async move {
        while let Ok((outer, _)) = listener.accept().await {
            let (acceptor, to) = (acceptor.clone(), to.clone());
            tokio::spawn(async move {
                match acceptor.accept(outer).into_fallible().await {
                    Ok(mut outer) => {
                        let mut inner = TcpStream::connect(to).await.unwrap();
                        let _ended = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                    }
                    // Closed at once it would be reset, and the client might not read the alert.
                    Err((_, mut refused)) => {
                        let _read = refused.read_to_end(&mut Vec::new()).await;
                    }
                }
            });
        }
    });
    Front { url, task, behind }
}

/// Files in a folder of their own.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn authority(&self, authority: &Authority) -> String {
        format!(", ca_file: {}", self.write("authority.pem", &authority.pem, 0o644).display())
    }

    fn client(&self, (certificate, key): &(rcgen::Certificate, KeyPair)) -> String {
        let certificate = self.write("client.pem", &certificate.pem(), 0o644);
        let key = self.write("client.key", &key.serialize_pem(), 0o600);
        format!(", certificate: {}, key: {}", certificate.display(), key.display())
    }
}

fn named() -> String {
    format!(", server_name: {NAME}")
}

/// A gateway before this server with these keys beside the URL.
async fn gateway(front: &Front, keys: &str) -> Rig {
    let more = format!("  tls: {{ url: \"{}\"{keys} }}\n", front.url);
    let routes = "  - { match: \"/**\", upstream: tls, free: true }\n".to_owned();
    Rig::with(Plan { more, routes, ..Plan::default() }).await
}

#[tokio::test]
async fn a_server_with_an_authority_and_a_name_of_its_own_that_asks_for_a_certificate_is_served() {
    let (servers, clients, files) = (Authority::new(), Authority::new(), Files::new());
    let front = front(servers.signed(NAME), Some(&clients)).await;
    let keys = files.authority(&servers) + &files.client(&clients.signed("gateway")) + &named();
    let rig = gateway(&front, &format!("{keys}, health: {{ path: /healthz, every: 100ms }}")).await;
    // A check that is late on a loaded machine makes it down for a moment.
    eventually("an answer", async || {
        let answer = rig.get("/x", &[]).await;
        answer.status() == 200 && answer.text().await.unwrap() == "over TLS"
    })
    .await;
    // The check of its health shows the same certificate.
    let checked = async || front.behind.seen().iter().filter(|it| it.path == "/healthz").count() > 1;
    eventually("two checks", checked).await;
    eventually("an answer", async || rig.get("/x", &[]).await.status() == 200).await;
    rig.end().await;
}

#[tokio::test]
async fn the_log_names_the_cause_of_a_failed_handshake_and_the_client_learns_nothing() {
    let (servers, others, files) = (Authority::new(), Authority::new(), Files::new());
    let trusted = files.authority(&servers);
    let mut old = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    (old.not_before, old.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
    let stranger = files.client(&others.signed("gateway"));
    let cases = [
        ("no authority", front(servers.signed(NAME), None).await, named(), "UnknownIssuer"),
        ("expired", front(servers.sign(old), None).await, trusted.clone() + &named(), "certificate expired"),
        (
            "another name",
            front(servers.signed("other.test"), None).await,
            trusted.clone() + &named(),
            "not valid for name",
        ),
        (
            "no certificate",
            front(servers.signed(NAME), Some(&servers)).await,
            trusted.clone() + &named(),
            "CertificateRequired",
        ),
        (
            "a stranger's",
            front(servers.signed(NAME), Some(&servers)).await,
            trusted.clone() + &stranger + &named(),
            "received fatal alert",
        ),
    ];
    for (what, front, keys, cause) in cases {
        let logs = Logs::keep();
        let rig = gateway(&front, &format!("{keys}, health: {{ failures: 0 }}")).await;
        let answer = rig.get("/x", &[]).await;
        assert_eq!(answer.status(), 502, "{what}");
        assert_eq!(error(answer).await, "upstream_failed", "{what}");
        eventually("a line in the log", async || logs.text().contains(cause)).await;
        let text = logs.text();
        let line = text.lines().find(|it| it.contains("request failed")).unwrap();
        assert!(line.contains(cause) && line.contains("/**"), "{what}: {line}");
        rig.end().await;
    }
    // Without a trial of its own the gateway would sell what it cannot serve.
    let logs = Logs::keep();
    let front = front(servers.signed(NAME), None).await;
    let rig = gateway(&front, &named()).await;
    let answer = rig.get("/x", &[]).await;
    let text = answer.text().await.unwrap();
    assert!(text.contains("upstream_down") && !text.contains("Issuer") && !text.contains(NAME), "{text}");
    assert!(logs.text().contains("UnknownIssuer"));
    rig.end().await;
}

/// Runs the program on a configuration with these keys; its exit code and what it printed.
fn run(command: &str, folder: &Path, keys: &str) -> (Option<i32>, String) {
    run_on(command, &configured(folder, "http: 127.0.0.1:8402", "https://127.0.0.1:1", keys))
}

/// A configuration that listens so, for an upstream with these keys beside its URL.
fn configured(folder: &Path, listen: &str, url: &str, keys: &str) -> PathBuf {
    let file = folder.join("faregate.yaml");
    let text = format!(
        "public_url: http://127.0.0.1:8402\nlisten: {{ {listen} }}\n\
         nano: {{ nodes: [http://127.0.0.1:1], pool: {{ seed_file: pool.seed }} }}\n\
         upstreams: {{ tls: {{ url: \"{url}\"{keys} }} }}\n\
         routes: [{{ match: /**, upstream: tls, free: true }}]\n"
    );
    std::fs::write(&file, text).unwrap();
    file
}

fn run_on(command: &str, file: &Path) -> (Option<i32>, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_faregate")).args([command, "--config"]).arg(file).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn check_and_doctor_open_the_files() {
    let (authority, files) = (Authority::new(), Files::new());
    let folder = files.0.path();
    let keys = files.authority(&authority) + &files.client(&authority.signed("gateway"));
    let (code, text) = run("check", folder, &keys);
    assert_eq!(code, Some(0), "{text}");
    assert!(run("doctor", folder, &keys).1.contains("ok       upstream certificates  "));

    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(folder.join("client.key"), open).unwrap();
    for command in ["check", "doctor"] {
        let (code, text) = run(command, folder, &keys);
        assert_ne!(code, Some(0), "{text}");
        assert!(text.contains("upstreams.tls.key") && text.contains("0644"), "{text}");
    }
    let other = files.write("other.key", &KeyPair::generate().unwrap().serialize_pem(), 0o600);
    let unfit = keys.replace("client.key", "other.key");
    assert!(other.exists());
    let (code, text) = run("check", folder, &unfit);
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("upstreams.tls.certificate") && text.contains("do not belong together"), "{text}");

    for (keys, complaint) in [
        (", certificate: client.pem", "needs both"),
        (", ca_file: nowhere.pem", "nowhere.pem"),
        (", server_name: \"not a name\"", "not a name that a certificate can be for"),
    ] {
        let (code, text) = run("check", folder, keys);
        assert_eq!(code, Some(78), "{text}");
        assert!(text.contains(complaint), "{text}");
    }
}

#[test]
fn check_and_doctor_open_the_listeners_own_files() {
    let (authority, files) = (Authority::new(), Files::new());
    let folder = files.0.path();
    files.client(&authority.signed("gateway"));
    files.write("open.key", &KeyPair::generate().unwrap().serialize_pem(), 0o644);
    files.write("other.key", &KeyPair::generate().unwrap().serialize_pem(), 0o600);
    files.write("empty.pem", "", 0o600);
    let run = |command: &str, certificate: &str, key: &str| {
        let listen = format!("tls: {{ address: 127.0.0.1:8443, certificate: {certificate}, key: {key} }}");
        run_on(command, &configured(folder, &listen, "http://127.0.0.1:1", ""))
    };
    let (code, text) = run("check", "client.pem", "client.key");
    assert_eq!(code, Some(0), "{text}");
    let (_, text) = run("doctor", "client.pem", "client.key");
    assert!(text.lines().any(|line| line.starts_with("ok       listen.tls ")), "{text}");
    for (certificate, key, place, complaint) in [
        ("nowhere.pem", "client.key", "listen.tls.certificate", "nowhere.pem"),
        ("empty.pem", "client.key", "listen.tls.certificate", "holds no certificate"),
        ("client.pem", "nowhere.key", "listen.tls.key", "nowhere.key"),
        ("client.pem", "empty.pem", "listen.tls.key", "empty.pem"),
        ("client.pem", "open.key", "listen.tls.key", "0644"),
        ("client.pem", "other.key", "listen.tls.certificate", "do not belong together"),
    ] {
        let (code, text) = run("check", certificate, key);
        assert_eq!(code, Some(78), "{text}");
        let (_, examined) = run("doctor", certificate, key);
        for text in [text, examined] {
            assert!(text.contains(place) && text.contains(complaint), "{place}, {complaint}:\n{text}");
        }
    }
}

#[tokio::test]
async fn the_doctor_connects_as_the_gateway_does() {
    let (servers, files) = (Authority::new(), Files::new());
    let front = front(servers.signed(NAME), None).await;
    let (trusted, named) = (files.authority(&servers), named());
    for (url, keys, good, told) in [
        (
            front.url.as_str(),
            format!("{trusted}{named}"),
            true,
            "answers 200 to HEAD /, with a certificate for ",
        ),
        (front.url.as_str(), named.clone(), false, "UnknownIssuer"),
        (front.url.as_str(), format!("{trusted}{named}, protocol: h2"), false, "did not choose HTTP/2"),
        ("http://127.0.0.1:1", String::new(), false, "127.0.0.1:1 takes no connections: Connection refused"),
        ("http://nowhere.invalid", String::new(), false, "nowhere.invalid: "),
    ] {
        let config = configured(files.0.path(), "http: 127.0.0.1:8402", url, &keys);
        let mut out = Vec::new();
        doctor::run(doctor::DoctorArgs { config: config.into(), json: true }, &mut out).await.unwrap();
        let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let checks = report["checks"].as_array().unwrap();
        let check = checks.iter().find(|it| it["what"] == "upstream tls").unwrap();
        assert_eq!(check["good"], good, "{check}");
        assert!(check["detail"].as_str().unwrap().contains(told), "{check}");
    }
}

#[tokio::test]
async fn a_reload_with_unusable_files_changes_nothing() {
    let (servers, files) = (Authority::new(), Files::new());
    let front = front(servers.signed(NAME), None).await;
    let keys = files.authority(&servers) + &named();
    let rig = gateway(&front, &keys).await;
    let more =
        format!("  tls: {{ url: \"{}\"{keys}{} }}\n", front.url, files.client(&servers.signed("gateway")));
    let config = rig.config(&more, "  - { match: \"/other\", upstream: tls, free: true }\n");
    std::fs::remove_file(files.0.path().join("client.key")).unwrap();
    let error = rig.services.reload(&config).await.unwrap_err().to_string();
    assert!(error.contains("upstreams.tls.key") && error.contains("client.key"), "{error}");
    assert_eq!(rig.get("/x", &[]).await.status(), 200);
    rig.end().await;
}

/// Before: only the gateway's own certificates were compared with the calendar.
#[tokio::test]
async fn the_doctor_warns_of_a_servers_certificate_that_ends_soon() {
    let (servers, files) = (Authority::new(), Files::new());
    let (trusted, named) = (files.authority(&servers), named());
    let at = |days: u64| UNIX_EPOCH + Duration::from_secs(Clock::system().now().0 + days * 24 * 3600 + 3600);
    for (days, mark, told) in [
        (6, "warning", "its certificate expires in 6 days"),
        (20, "ok", "with a certificate for 20 more days"),
    ] {
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        params.not_after = at(days).into();
        // One that also wants to see a certificate of its client.
        for clients in [None, Some(&servers)] {
            let front = front(servers.sign(params.clone()), clients).await;
            let keys = format!("{trusted}{named}{}", files.client(&servers.signed("gateway")));
            let config = configured(files.0.path(), "http: 127.0.0.1:8402", &front.url, &keys);
            let mut out = Vec::new();
            doctor::run(doctor::DoctorArgs { config: config.into(), json: false }, &mut out).await.unwrap();
            let text = String::from_utf8(out).unwrap();
            let line = text.lines().find(|it| it.contains("upstream tls ")).unwrap();
            assert!(line.starts_with(mark) && line.contains(told), "{line}");
        }
    }
}
