//! The accept loop: it knows the client's address, sends answers whole, and stops when asked to.

use std::sync::Arc;

use async_trait::async_trait;
use faregate::listen;
use http::Response;
use pingora::apps::http_app::{HttpServer, ServeHttp};
use pingora::protocols::http::ServerSession;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use crate::patience::{eventually, http_client, soon};

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
