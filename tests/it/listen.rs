//! The accept loop: it knows the client's address, sends answers whole, and stops when asked to.

use std::sync::Arc;

use async_trait::async_trait;
use faregate::listen;
use faregate::shutdown::Shutdown;
use http::Response;
use pingora::apps::http_app::{HttpServer, ServeHttp};
use pingora::protocols::http::ServerSession;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use crate::patience::{PATIENCE, eventually, http_client, soon};
use crate::proxy::wire::Wire;

/// Answers with the client's address and as many bytes as the path says.
struct Mirror;

#[async_trait]
impl ServeHttp for Mirror {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let length: usize = session.req_header().uri.path()[1..].parse().unwrap();
        let client = session.client_addr().map(ToString::to_string).unwrap_or_default();
        Response::builder()
            .header("content-length", length)
            .header("client", client)
            .body(vec![b'x'; length])
            .unwrap()
    }
}

#[tokio::test]
async fn serves_knows_the_client_and_stops() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, shutdown) = watch::channel(false);
    let served = tokio::spawn(listen::serve(listener, Arc::new(HttpServer::new_app(Mirror)), shutdown));

    let client = http_client().build().unwrap();
    for length in [1, 500, 16 * 1024, 16 * 1024 + 1, 300_000] {
        let answer = client.get(format!("http://{address}/{length}")).send().await.unwrap();
        let seen: std::net::SocketAddr = answer.headers()["client"].to_str().unwrap().parse().unwrap();
        assert!(seen.ip().is_loopback() && seen.port() != address.port(), "{seen}");
        assert_eq!(answer.bytes().await.unwrap().len(), length);
    }
    drop(client);

    stop.send(true).unwrap();
    soon("the server ends", served).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
}

/// Answers when the test lets it.
struct Patient {
    asked: Notify,
    go_on: Notify,
}

#[async_trait]
impl ServeHttp for Patient {
    async fn response(&self, _: &mut ServerSession) -> Response<Vec<u8>> {
        self.asked.notify_one();
        self.go_on.notified().await;
        Response::builder().header("content-length", 4).body(b"done".to_vec()).unwrap()
    }
}

#[tokio::test]
async fn what_is_in_flight_is_finished() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, shutdown) = watch::channel(false);
    let patient = Arc::new(Patient { asked: Notify::new(), go_on: Notify::new() });
    let served = tokio::spawn(listen::serve(listener, Arc::clone(&patient), shutdown));
    let asked = tokio::spawn(http_client().build().unwrap().get(format!("http://{address}/")).send());
    soon("the request arrives", patient.asked.notified()).await;

    stop.send(true).unwrap();
    eventually("no new connection", async || TcpStream::connect(address).await.is_err()).await;
    assert!(!served.is_finished(), "it waits for the request");
    patient.go_on.notify_one();
    assert_eq!(soon("the answer", asked).await.unwrap().unwrap().text().await.unwrap(), "done");
    soon("the server ends", served).await.unwrap();
}

/// A client that connects as the listener closes could not know better: it has its answer.
#[tokio::test]
async fn who_has_just_come_when_it_closes_is_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, closes) = watch::channel(false);
    let (_serving, drains) = watch::channel(false);
    let (patience, grace) = (PATIENCE, PATIENCE);
    let shutdown = Shutdown { drains, closes, patience, grace };
    let served = tokio::spawn(listen::serve(listener, Arc::new(HttpServer::new_app(Mirror)), shutdown));
    let url = format!("http://{address}");
    let (mut silent, mut half, idle) =
        (Wire::open(&url).await, Wire::open(&url).await, Wire::open(&url).await);
    half.send("GET /3 HTTP/1.1\r\n").await;
    stop.send(true).unwrap();
    eventually("no new connection", async || TcpStream::connect(address).await.is_err()).await;
    silent.ask("GET /3", &[]).await;
    half.send("Host: gateway.test\r\n\r\n").await;
    for mut wire in [silent, half] {
        assert_eq!(wire.answer().await.text(), "xxx");
    }
    assert!(!served.is_finished(), "one of them says nothing yet");
    drop(idle);
    soon("the server ends", served).await.unwrap();
}

/// Those whom the system has accepted and the server has not: closed with the listener, they would be reset.
#[tokio::test]
async fn who_waits_to_be_accepted_when_it_closes_is_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut wire = Wire::open(&url).await;
        wire.ask("GET /3", &[]).await;
        waiting.push(wire);
    }
    let (_stopped, closes) = watch::channel(true);
    let shutdown = Shutdown { drains: closes.clone(), closes, patience: PATIENCE, grace: PATIENCE };
    let served = tokio::spawn(listen::serve(listener, Arc::new(HttpServer::new_app(Mirror)), shutdown));
    for mut wire in waiting {
        assert_eq!(wire.answer().await.text(), "xxx");
    }
    soon("the server ends", served).await.unwrap();
}
