//! A second gateway takes over from the first, under a load of clients, each with a new connection.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::*;
use crate::program::free_address;
use crate::store::cluster::database;

const SOLD: &str = r#"
  - { name: search, match: "/v1/search/**", upstream: api, price: 1 raw, grants: { requests: 1000000, within: 1h } }
  - { match: "/free/**", upstream: api, free: true }
"#;
/// A client on a busy machine may pause between its handshake and its request.
const DRAIN: &str = "{ delay: 1s, grace: 20s }";
/// Requests between two events.
const SOME: usize = 150;

/// Clients that ask again and again, each over a connection of its own.
struct Load {
    answered: Arc<AtomicUsize>,
    /// What was no 200, or no answer at all.
    failures: Arc<Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    /// `token` pays for every other request.
    fn begin(address: SocketAddr, token: &str) -> Self {
        let load = Self {
            answered: Arc::default(),
            failures: Arc::default(),
            is_over: Arc::default(),
            clients: JoinSet::new(),
        };
        let mut clients = JoinSet::new();
        for client in 0..3 {
            let (answered, failures) = (Arc::clone(&load.answered), Arc::clone(&load.failures));
            let (is_over, token) = (Arc::clone(&load.is_over), token.to_owned());
            clients.spawn(async move {
                for number in 0_usize.. {
                    if is_over.load(Ordering::SeqCst) {
                        return;
                    }
                    let request = if number.is_multiple_of(2) {
                        format!("GET /free/{client} HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
                    } else {
                        format!(
                            "GET /v1/search/{client} HTTP/1.1\r\nHost: gateway.test\r\nPAYMENT-CAPABILITY: {token}\r\nConnection: close\r\n\r\n"
                        )
                    };
                    match soon("an answer", ask(address, &request)).await {
                        Ok(head) if head.starts_with("HTTP/1.1 200 ") => {}
                        other => failures.lock().unwrap().push(format!("{number}: {other:?}")),
                    }
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { clients, ..load }
    }

    /// Waits until so many more requests were made.
    async fn goes_on(&self) {
        let before = self.answered.load(Ordering::SeqCst);
        eventually("the load goes on", async || self.answered.load(Ordering::SeqCst) > before + SOME).await;
    }

    async fn end(mut self) -> Vec<String> {
        self.is_over.store(true, Ordering::SeqCst);
        while let Some(ended) = soon("the load ends", self.clients.join_next()).await {
            ended.unwrap();
        }
        std::mem::take(&mut self.failures.lock().unwrap())
    }
}

/// The beginning of the answer to a request on a connection of its own.
async fn ask(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = vec![0; 4096];
    let length = stream.read(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

impl World {
    /// A configuration at fixed addresses, which a second gateway may share.
    fn write_shared(&self, store: &str) -> (PathBuf, SocketAddr) {
        let (http, admin) = (free_address(), free_address());
        let listen = format!("{{ http: {http}, reuse_port: true }}");
        let config = self.write_draining(DRAIN, &listen, store, SOLD);
        let text = std::fs::read_to_string(&config).unwrap();
        let text = text.replacen("{ listen: 127.0.0.1:0 }", &format!("{{ listen: {admin} }}"), 1);
        std::fs::write(&config, text).unwrap();
        (config, http.parse().unwrap())
    }
}

/// Upgrades twice over this store.
async fn upgrade_over(store: &str) {
    let world = World::start().await;
    let (config, address) = world.write_shared(store);
    let mut running = Process::start(&config, 2, "info").await;
    let shares = "another process of this user listens there";
    assert!(!running.has_said(shares));
    let (token, _) = capability(&world.pay(&client(), &running.url("/v1/search/x")).await);
    let load = Load::begin(address, &token);
    for _ in 0..2 {
        load.goes_on().await;
        let next = Process::start(&config, 2, "info").await;
        assert!(next.has_said(shares), "nobody starts a second one without seeing it");
        load.goes_on().await;
        running.signal("-TERM");
        assert_eq!(running.ended().await.code(), Some(0));
        running = next;
        assert_eq!(text(&client(), running.admin("/readyz")).await.0, 200, "it is the new one that is asked");
    }
    load.goes_on().await;
    let failures = load.end().await;
    assert!(failures.is_empty(), "{failures:#?}");
    running.signal("-TERM");
    assert_eq!(running.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_sees_an_upgrade() {
    upgrade_over("").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_sees_an_upgrade_over_a_shared_server() {
    let Some(database) = database().await else { return };
    upgrade_over(&format!("store: {{ postgres: \"{}\" }}\n", database.address())).await;
}

#[tokio::test]
async fn an_address_that_another_program_has_is_not_shared() {
    let world = World::start().await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let listen = format!("{{ http: {address}, reuse_port: true }}");
    let config = world.write(&listen, "", ROUTES);
    let ended = run(&["serve", "--config", config.to_str().unwrap()]).await;
    let message = said(&ended.stderr);
    assert_eq!(ended.status.code(), Some(69), "{message}");
    assert!(
        message.contains("`listen.http`: cannot listen on") && message.contains("is it in use"),
        "{message}"
    );
}

/// Off by default: a second one that nobody means to start does not take half of the requests.
#[tokio::test]
async fn a_second_gateway_is_refused_unless_the_file_allows_it() {
    let world = World::start().await;
    let (config, _) = world.write_shared("");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replacen(", reuse_port: true", "", 1)).unwrap();
    let mut first = Process::start(&config, 2, "info").await;
    let ended = run(&["serve", "--config", config.to_str().unwrap()]).await;
    assert_eq!(ended.status.code(), Some(69), "{}", said(&ended.stderr));
    first.signal("-TERM");
    assert_eq!(first.ended().await.code(), Some(0));
}
