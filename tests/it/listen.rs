//! The accept loop: who is calling is known, answers arrive whole, and stopping means stopping.

use std::sync::Arc;

use async_trait::async_trait;
use faregate::listen;
use http::Response;
use pingora::apps::http_app::{HttpServer, ServeHttp};
use pingora::protocols::http::ServerSession;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Answers with the address it sees, and then as many bytes as the path says.
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

    let client = reqwest::Client::new();
    for length in [1, 500, 16 * 1024, 16 * 1024 + 1, 300_000] {
        let answer = client.get(format!("http://{address}/{length}")).send().await.unwrap();
        let seen: std::net::SocketAddr = answer.headers()["client"].to_str().unwrap().parse().unwrap();
        assert!(seen.ip().is_loopback() && seen.port() != address.port(), "{seen}");
        assert_eq!(answer.bytes().await.unwrap().len(), length);
    }
    drop(client);

    stop.send(true).unwrap();
    served.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
}
