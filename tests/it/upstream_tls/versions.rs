//! Which version of HTTP an upstream over TLS is spoken to in: what `protocol` allows and the server chooses
//! in the handshake (ALPN, RFC 7301).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Authority, Files, NAME, named};
use crate::logs::Logs;
use crate::patience::{eventually, soon};
use crate::rig::{Plan, Rig, error};

const HTTP1: &[u8] = b"http/1.1";
const H2: &[u8] = b"h2";

/// A server that answers with the version it is spoken to in, and the number of the connection.
struct Server {
    url: String,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Chooses between these versions, or makes no choice if there are none.
    async fn start(authority: &Authority, versions: &[&[u8]]) -> Self {
        let (certificate, key) = authority.signed(NAME);
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_no_client_auth();
        let mut config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = versions.iter().map(|it| it.to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            let connections = AtomicUsize::new(0);
            while let Ok((tcp, _)) = listener.accept().await {
                let number = connections.fetch_add(1, Ordering::Relaxed);
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    match acceptor.accept(tcp).into_fallible().await {
                        Ok(stream) if stream.get_ref().1.alpn_protocol() == Some(H2) => {
                            serve_http2(stream, number).await;
                        }
                        Ok(stream) => serve_http1(stream, number).await.unwrap_or_default(),
                        // Closed at once it would be reset, and the client might not read the alert.
                        Err((_, mut refused)) => {
                            let _read = refused.read_to_end(&mut Vec::new()).await;
                        }
                    }
                });
            }
        });
        Self { url, task }
    }
}

async fn serve_http2(stream: TlsStream<TcpStream>, number: usize) {
    // A trial of the gateway asks for nothing.
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(Bytes::from(format!("h2 {number}")), false).unwrap();
        let trailers = [(HeaderName::from_static("x-number"), HeaderValue::from(number))];
        body.send_trailers(trailers.into_iter().collect()).unwrap();
    }
}

/// `None`: the client is gone.
async fn serve_http1(stream: TlsStream<TcpStream>, number: usize) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut line, mut length, mut closes) = (String::new(), 0, false);
        while line != "\r\n" {
            line.clear();
            (stream.read_line(&mut line).await.ok()? > 0).then_some(())?;
            let lower = line.trim().to_ascii_lowercase();
            closes |= lower == "connection: close";
            length = lower.strip_prefix("content-length: ").map_or(length, |it| it.parse().unwrap());
        }
        stream.read_exact(&mut vec![0; length]).await.ok()?;
        let body = format!("http1 {number}");
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await.ok()?;
        stream.flush().await.ok()?;
        if closes {
            return stream.shutdown().await.ok();
        }
    }
}

/// A gateway with an upstream for each of these names, protocols and further keys, all of them this server.
async fn gateway(server: &Server, files: &Files, authority: &Authority, each: &[(&str, &str, &str)]) -> Rig {
    let (more, routes) = upstreams(server, files, authority, each);
    Rig::with(Plan { more, routes, ..Plan::default() }).await
}

fn upstreams(
    server: &Server,
    files: &Files,
    authority: &Authority,
    each: &[(&str, &str, &str)],
) -> (String, String) {
    let keys = files.authority(authority) + &named();
    let (mut more, mut routes) = (String::new(), String::new());
    for (name, protocol, further) in each {
        more += &format!("  {name}: {{ url: \"{}\"{keys}, protocol: {protocol}{further} }}\n", server.url);
        routes += &format!("  - {{ match: \"/{name}/**\", upstream: {name}, free: true }}\n");
        routes += &format!("  - {{ match: \"/sold/{name}\", upstream: {name}, price: 1 raw }}\n");
    }
    (more, routes)
}

async fn said(rig: &Rig, path: &str) -> String {
    let answer = rig.get(path, &[]).await;
    assert_eq!(answer.status(), 200, "{path}");
    answer.text().await.unwrap()
}

#[tokio::test]
async fn the_server_chooses_among_what_is_configured() {
    let (authority, files) = (Authority::new(), Files::new());
    for (protocol, offered, wanted) in [
        ("auto", &[H2, HTTP1][..], "h2"),
        ("auto", &[H2], "h2"),
        ("auto", &[HTTP1], "http1"),
        ("auto", &[], "http1"),
        ("h2", &[H2, HTTP1], "h2"),
        ("http1", &[H2, HTTP1], "http1"),
        ("http1", &[], "http1"),
    ] {
        let server = Server::start(&authority, offered).await;
        let rig = gateway(&server, &files, &authority, &[("tls", protocol, "")]).await;
        for path in ["/tls/1", "/tls/2"] {
            let text = said(&rig, path).await;
            assert!(text.starts_with(wanted), "{protocol} before {} versions: {text}", offered.len());
        }
        rig.end().await;
    }
}

/// In them, for one, a call of gRPC says how it ended.
#[tokio::test]
async fn trailers_of_a_server_reach_a_client_of_http2() {
    let (authority, files) = (Authority::new(), Files::new());
    let server = Server::start(&authority, &[H2, HTTP1]).await;
    let (more, routes) = upstreams(&server, &files, &authority, &[("two", "h2", ""), ("both", "auto", "")]);
    let rig = Rig::with(Plan { more, routes, listen: Some("h2c: true"), ..Plan::default() }).await;
    let mut client = crate::translation::http2::plain(&rig).await;
    for path in ["/two/x", "/both/x"] {
        let request = Request::get(format!("http://gateway.test{path}")).body(()).unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        let (mut body, mut text) = (soon("the answer", answer).await.unwrap().into_body(), Vec::new());
        while let Some(part) = soon("a part", body.data()).await {
            text.extend(part.unwrap());
        }
        let trailers = soon("the trailers", body.trailers()).await.unwrap().unwrap();
        let number = trailers["x-number"].to_str().unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), format!("h2 {number}"), "{path}");
    }
    drop(client);
    rig.end().await;
}

/// Regression: a server without ALPN was spoken to in HTTP/1.1, which was not to be.
#[tokio::test]
async fn nothing_is_sold_for_a_server_that_does_not_speak_what_is_configured() {
    let (authority, files) = (Authority::new(), Files::new());
    for (protocol, offered, cause) in [
        ("h2", &[][..], "did not choose HTTP/2"),
        ("h2", &[HTTP1], "NoApplicationProtocol"),
        ("http1", &[H2], "NoApplicationProtocol"),
    ] {
        let server = Server::start(&authority, offered).await;
        let each = [("tried", protocol, ""), ("untried", protocol, ", health: { failures: 0 }")];
        let logs = Logs::keep();
        let rig = gateway(&server, &files, &authority, &each).await;
        let answer = rig.get("/sold/tried", &[]).await;
        assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (503, "upstream_down"));
        let line = logs.text().lines().find(|it| it.contains("takes no connections")).map(str::to_owned);
        assert!(line.as_ref().is_some_and(|it| it.contains(cause)), "{protocol}: {line:?}");
        // If it is not tried before, a request finds out.
        let answer = rig.get("/untried/x", &[]).await;
        assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (502, "upstream_failed"));
        eventually("a line in the log", async || logs.text().contains("request failed")).await;
        let line = logs.text().lines().find(|it| it.contains("request failed")).map(str::to_owned);
        assert!(line.as_ref().is_some_and(|it| it.contains(cause)), "{protocol}: {line:?}");
        rig.end().await;
    }
}

#[tokio::test]
async fn the_log_names_a_certificate_that_is_not_trusted_in_each_version() {
    let (authority, other, files) = (Authority::new(), Authority::new(), Files::new());
    let server = Server::start(&authority, &[H2, HTTP1]).await;
    for protocol in ["auto", "h2"] {
        let logs = Logs::keep();
        let each = [("tls", protocol, ", health: { failures: 0 }")];
        let rig = gateway(&server, &files, &other, &each).await;
        assert_eq!(rig.get("/tls/x", &[]).await.status(), 502, "{protocol}");
        eventually("a line in the log", async || logs.text().contains("invalid peer certificate")).await;
        rig.end().await;
    }
}

/// One server, by several upstreams and after a reload: no request goes over a connection that was made for
/// another version.
#[tokio::test]
async fn a_connection_is_kept_for_its_own_version() {
    let (authority, files) = (Authority::new(), Files::new());
    let server = Server::start(&authority, &[H2, HTTP1]).await;
    let each = [("one", "http1", ""), ("both", "auto", ""), ("two", "h2", "")];
    let rig = gateway(&server, &files, &authority, &each).await;
    let mut first = Vec::new();
    for (name, version) in [("one", "http1"), ("both", "h2"), ("two", "h2")] {
        let text = said(&rig, &format!("/{name}/1")).await;
        assert!(text.starts_with(version), "{name}: {text}");
        // The connection is used again.
        eventually("the same connection", async || said(&rig, &format!("/{name}/2")).await == text).await;
        first.push(text);
    }
    first.sort();
    first.dedup();
    assert_eq!(first.len(), 3, "each has a connection of its own: {first:?}");
    for (protocol, version) in [("h2", "h2"), ("http1", "http1"), ("auto", "h2"), ("http1", "http1")] {
        let (more, routes) = upstreams(&server, &files, &authority, &[("one", protocol, "")]);
        rig.services.reload(&rig.config(&more, &routes)).await.unwrap();
        for number in 0..3 {
            let text = said(&rig, &format!("/one/{number}")).await;
            assert!(text.starts_with(version), "{protocol}: {text}");
        }
    }
    rig.end().await;
}

/// Regression: with `auto`, what may be done only once went over an old connection of HTTP/1.1.
#[tokio::test]
async fn with_auto_too_what_may_be_done_only_once_meets_no_old_connection_of_http1() {
    let (authority, files) = (Authority::new(), Files::new());
    let server = Server::start(&authority, &[HTTP1]).await;
    let rig = gateway(&server, &files, &authority, &[("tls", "auto", "")]).await;
    let kept = said(&rig, "/tls/x").await;
    let mut alone = Vec::new();
    for _ in 0..3 {
        let answer = soon("an answer", rig.http.post(format!("{}/tls/x", rig.url)).body("abc").send()).await;
        alone.push(answer.unwrap().text().await.unwrap());
        eventually("the old one", async || said(&rig, "/tls/x").await == kept).await;
    }
    alone.push(kept);
    alone.sort();
    alone.dedup();
    assert_eq!(alone.len(), 4, "{alone:?}");
    rig.end().await;
}
