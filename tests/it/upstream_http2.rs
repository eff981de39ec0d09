//! Upstreams that are to be spoken to in HTTP/2 without TLS: one that does not speak it sells nothing, and one
//! that refuses a request gets it once more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::listening::Listening;
use crate::logs::Logs;
use crate::metrics::Uses;
use crate::patience::eventually;
use crate::rig::{PLENTY, Plan, Rig, capability, error, header};

/// What a server does with a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Manner {
    /// It answers every request of HTTP/2.
    Speaks,
    /// It answers as a server of HTTP/1.1 that cannot read the preface.
    SpeaksHttp1,
    /// It takes connections, and says nothing.
    IsMute,
    /// It refuses every stream.
    Refuses,
    /// It refuses every second stream, from the first on.
    RefusesEverySecond,
}

/// A server without TLS that can change its manner.
struct Server {
    listening: Listening,
    speaks: Arc<AtomicBool>,
    /// Requests that came.
    seen: Arc<AtomicUsize>,
}

impl Server {
    /// It has this manner for as long as it does not speak.
    async fn start(manner: Manner, speaks: bool) -> Self {
        let (speaks, seen) = (Arc::new(AtomicBool::new(speaks)), Arc::new(AtomicUsize::new(0)));
        let (now, count) = (Arc::clone(&speaks), Arc::clone(&seen));
        let listening = Listening::start(move |tcp| {
            let manner = if now.load(Ordering::SeqCst) { Manner::Speaks } else { manner };
            serve(tcp, manner, Arc::clone(&count))
        });
        Self { listening: listening.await, speaks, seen }
    }
}

async fn serve(mut tcp: TcpStream, manner: Manner, seen: Arc<AtomicUsize>) {
    match manner {
        Manner::SpeaksHttp1 => {
            let mut preface = [0; 24];
            if tcp.read_exact(&mut preface).await.is_ok() {
                let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _sent = tcp.write_all(answer.as_bytes()).await.is_ok();
            }
        }
        Manner::IsMute => {
            let _read = tcp.read_to_end(&mut Vec::new()).await.is_ok();
        }
        Manner::Speaks | Manner::Refuses | Manner::RefusesEverySecond => {
            // A trial of the gateway asks for nothing.
            let Ok(mut connection) = h2::server::handshake(tcp).await else { return };
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let number = seen.fetch_add(1, Ordering::SeqCst);
                if manner == Manner::Refuses
                    || (manner == Manner::RefusesEverySecond && number.is_multiple_of(2))
                {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                } else {
                    let mut body = respond.send_response(Response::new(()), false).unwrap();
                    body.send_data(Bytes::from_static(b"here"), true).unwrap();
                }
            }
        }
    }
}

/// A gateway before this server.
async fn gateway(server: &Server, options: &str) -> Rig {
    let more = format!("  two: {{ url: \"{}\", protocol: h2c{options} }}\n", server.listening.url);
    let routes = r#"
  - { name: two, match: "/two/**", upstream: two, price: 1 raw, grants: { requests: 10, within: 1h } }
  - { match: "/open/**", upstream: two, free: true }
"#;
    Rig::with(Plan { more, routes: routes.to_owned(), ..Plan::default() }).await
}

async fn is_down(rig: &Rig) -> bool {
    let answer = rig.get("/two/x", &[]).await;
    if answer.status() != 503 {
        return false;
    }
    assert!(header(&answer, "retry-after").parse::<u32>().unwrap() > 0);
    assert!(answer.headers().get("payment-required").is_none());
    error(answer).await == "upstream_down"
}

/// Regression: that it took a connection was enough to sell it.
#[tokio::test]
async fn nothing_is_sold_for_a_server_that_does_not_speak_it() {
    for manner in [Manner::SpeaksHttp1, Manner::IsMute] {
        let logs = Logs::keep();
        let server = Server::start(manner, false).await;
        let rig = gateway(&server, ", connect_timeout: 400ms, health: { back_off: 20ms }").await;
        // From the first request on.
        assert!(is_down(&rig).await, "{manner:?}");
        let line = logs.text().lines().find(|it| it.contains("takes no connections")).map(str::to_owned);
        assert!(line.as_ref().is_some_and(|it| it.contains("HTTP/2")), "{manner:?}: {line:?}");
        server.speaks.store(true, Ordering::SeqCst);
        eventually("bills", async || !is_down(&rig).await).await;
        assert_eq!(rig.pay(&rig.payer(1, PLENTY), "/two/x").await.status(), 200, "{manner:?}");
        rig.end().await;
    }
}

/// Regression: every payer was billed, and found out alone.
#[tokio::test]
async fn one_failed_request_finds_out_that_a_server_speaks_it_no_more() {
    for manner in [Manner::SpeaksHttp1, Manner::IsMute] {
        let server = Server::start(manner, true).await;
        let options = ", timeout: 300ms, connect_timeout: 300ms, health: { back_off: 20ms }";
        let rig = gateway(&server, options).await;
        assert!(!is_down(&rig).await);
        server.speaks.store(false, Ordering::SeqCst);
        let failed = rig.get("/open/x", &[]).await;
        assert!(matches!(failed.status().as_u16(), 502 | 504), "{manner:?}");
        eventually("no bill", async || is_down(&rig).await).await;
        server.speaks.store(true, Ordering::SeqCst);
        eventually("bills", async || !is_down(&rig).await).await;
        rig.end().await;
    }
}

/// RFC 9113 section 8.7: the server has done nothing of it.
#[tokio::test]
async fn a_request_that_is_refused_is_sent_once_more_and_no_oftener() {
    let server = Server::start(Manner::RefusesEverySecond, false).await;
    let rig = gateway(&server, "").await;
    let paid = rig.pay(&rig.payer(1, PLENTY), "/two/x").await;
    assert_eq!((paid.status().as_u16(), capability(&paid).1), (200, 9), "one use");
    assert_eq!(server.seen.load(Ordering::SeqCst), 2);
    let token = capability(&paid).0;
    drop(server);

    let server = Server::start(Manner::Refuses, false).await;
    let more = format!("  two: {{ url: \"{}\", protocol: h2c }}\n", server.listening.url);
    let routes = r#"
  - { name: two, match: "/two/**", upstream: two, price: 1 raw, grants: { requests: 10, within: 1h } }
"#;
    rig.services.reload(&rig.config(&more, routes)).await.unwrap();
    let url = format!("{}/two/x", rig.url);
    for (method, times) in [(reqwest::Method::GET, 2), (reqwest::Method::PUT, 2), (reqwest::Method::POST, 1)]
    {
        let before = server.seen.load(Ordering::SeqCst);
        let asked = rig.http.request(method.clone(), &url).header("PAYMENT-CAPABILITY", &token);
        let answer = asked.send().await.unwrap();
        assert_eq!(answer.status(), 502, "{method}");
        assert_eq!(capability(&answer).1, 9, "{method}: the use came back");
        assert_eq!(server.seen.load(Ordering::SeqCst) - before, times, "{method}");
    }
    eventually("each is counted once", async || {
        Uses::of(&rig, "two") == Uses { committed: 1, given_back: 3 }
    })
    .await;
    rig.end().await;
}
