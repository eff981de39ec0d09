//! HTTP/1.0, 1.1 and 2 into one another: a table with a row for each rule and its section (RFC 9110, RFC
//! 9112, RFC 9113), each tried on a gateway between a client and an upstream that send these very bytes.

mod answers;
mod half_closed;
pub(crate) mod http2;
mod pipelined;
mod requests;
mod stale;
mod stalled;

use std::net::SocketAddr;
use std::sync::Arc;

use faregate::listen::{self, Tls};
use pingora::server::configuration::ServerConf;
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use crate::patience::soon;
use crate::proxy::wire::{Call, Played};
use crate::rig::{Plan, Rig};

/// A gateway over TCP and over TLS before an upstream that the test plays.
struct Stage {
    rig: Rig,
    upstream: Played,
    tls: SocketAddr,
    certificate: CertificateDer<'static>,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
}

const ROUTES: &str = r#"
  - { match: "/free/**", upstream: played, free: true }
  - { name: once, match: "/once/**", upstream: played, price: 1 raw }
  - { name: many, match: "/many/**", upstream: played, price: 1 raw, grants: { requests: 10, within: 1h } }
"#;

impl Stage {
    async fn set() -> Self {
        Self::with("").await
    }

    /// With these `limits`.
    async fn with(limits: &str) -> Self {
        let upstream = Played::start().await;
        let limits = if limits.is_empty() { String::new() } else { format!("limits: {{ {limits} }}\n") };
        let more = format!("  played: {{ url: \"{}\" }}\n{limits}", upstream.url);
        Self::before(upstream, more, ROUTES).await
    }

    /// With these upstreams and routes, and HTTP/2 without TLS too.
    async fn before(upstream: Played, more: String, routes: &str) -> Self {
        let plan = Plan { more, routes: routes.to_owned(), listen: Some("h2c: true"), ..Plan::default() };
        let rig = Rig::with(plan).await;
        let made = rcgen::generate_simple_self_signed(vec!["gateway.test".to_owned()]).unwrap();
        let [cert, key] = ["cert.pem", "key.pem"].map(|name| rig.folder.path().join(name));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        crate::serve::write_private(&key, made.signing_key.serialize_pem());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tls = listener.local_addr().unwrap();
        let proxy = pingora::proxy::http_proxy(&Arc::new(ServerConf::default()), rig.services.gateway());
        let (stop, shutdown) = watch::channel(false);
        let secured = Some(Tls::load(&cert, &key).unwrap());
        let door = rig.services.door();
        let served = tokio::spawn(listen::serve_behind(door, listener, secured, Arc::new(proxy), shutdown));
        Self { rig, upstream, tls, certificate: made.cert.der().clone(), stop, served }
    }

    /// A connection over TLS that speaks `protocol`.
    async fn secured(&self, protocol: &[u8]) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let plain = TcpStream::connect(self.tls).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = "gateway.test".try_into().unwrap();
        soon("TLS", connector.connect(name, plain)).await.unwrap()
    }

    async fn plain(&self) -> TcpStream {
        let stream = TcpStream::connect(self.rig.url.trim_start_matches("http://")).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    async fn end(self) {
        self.stop.send_replace(true);
        soon("the listener ends", self.served).await.unwrap();
        drop(self.upstream);
        self.rig.end().await;
    }
}

/// Everything until the other side closes, or resets.
async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    rest_of("the end", stream).await
}

/// The same, for the test of a rule.
async fn rest_of(rule: &str, stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut bytes = Vec::new();
    let _reset = soon(rule, stream.read_to_end(&mut bytes)).await.is_err();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads the body of a call, answers it, and gives the whole request as text, with whatever followed it.
async fn answered(mut call: Call, answer: &str) -> String {
    let head = call.head.join("\n").to_ascii_lowercase();
    let has = |what: &str| head.lines().any(|it| it == what);
    let length = head.lines().find_map(|it| it.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    soon("the body", call.stream.read_exact(&mut body)).await.unwrap();
    while has("transfer-encoding: chunked") && !body.ends_with(b"0\r\n\r\n") {
        match soon(&head, call.stream.read_u8()).await {
            Ok(byte) => body.push(byte),
            Err(_) => break,
        }
    }
    call.send(answer).await;
    let mut text = format!("{}\n\n{}", call.head.join("\n"), String::from_utf8_lossy(&body));
    if has("connection: close") {
        text += &rest(&mut call.stream).await;
    }
    text
}

/// Checks what a text says: each of `wanted`, and not what follows a `!`. Letter case is no difference.
fn check(rule: &str, who: &str, text: &str, wanted: &[&str]) {
    let lower = text.to_ascii_lowercase();
    for &it in wanted {
        let (is_wanted, what) = it.strip_prefix('!').map_or((true, it), |what| (false, what));
        assert_eq!(
            lower.contains(&what.to_ascii_lowercase()),
            is_wanted,
            "{rule}: {who} and {it:?} in\n{text}"
        );
    }
}
