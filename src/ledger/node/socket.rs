//! Confirmations as they happen, over a node's WebSocket.
//!
//! A message is only a hint: what it names is looked up, and the answer is judged as any other. So
//! a socket needs no trust, and a message that is lost costs time, not money. Booleans are sent as
//! such: RsNano closes the connection on strings (NODE trap 15).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use url::Url;

use super::reads::jittered;
use super::watcher::Watcher;
use super::{Authorities, NodeSetupError};
use crate::clock::Stopwatch;
use crate::nano::{Account, BlockHash};
use crate::outbound;

/// Accounts in one message; a node takes 2000 in about 30 ms.
const CHUNK: usize = 1000;
/// With more accounts than that, everything is subscribed to: the whole network confirms fewer
/// blocks than it would take to name them.
const MAX_FILTER: usize = 50_000;
/// The largest message that is read; a confirmation has 1.5 KiB.
const MAX_MESSAGE: usize = 256 * 1024;

/// For the connection, and for a node to say that it has subscribed us.
const SETUP: Duration = Duration::from_secs(10);
/// After so long a silence the node is asked whether it is there.
const PING_AFTER: Duration = Duration::from_secs(15);

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// A connection that held this long was a good one: the next is tried at once.
const HELD: Duration = Duration::from_secs(10);

/// Where a node's WebSocket listens. Prints without path and query: they may hold keys.
#[derive(Clone, Eq, PartialEq)]
pub struct SocketEndpoint {
    url: Url,
    authorities: Authorities,
}

impl SocketEndpoint {
    /// The endpoint at `url`.
    ///
    /// # Errors
    /// [`NodeSetupError::SocketScheme`], when it is neither `ws` nor `wss`.
    pub fn from_url(url: Url) -> Result<Self, NodeSetupError> {
        if matches!(url.scheme(), "ws" | "wss") && url.host_str().is_some() {
            Ok(Self { url, authorities: Authorities::default() })
        } else {
            Err(NodeSetupError::SocketScheme(url.scheme().to_owned()))
        }
    }

    /// This endpoint, its `wss` believing these authorities too.
    #[must_use]
    pub fn believing(self, authorities: Authorities) -> Self {
        Self { authorities, ..self }
    }

    /// Host and port.
    #[must_use]
    pub fn label(&self) -> String {
        let (host, port) = (self.url.host_str().unwrap_or("?"), self.url.port_or_known_default());
        port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }
}

impl fmt::Debug for SocketEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SocketEndpoint({})", self.label())
    }
}

/// How one WebSocket is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SocketStatus {
    pub label: String,
    /// Whether the node has said that it will tell us.
    pub connected: bool,
}

/// One WebSocket, connected or on its way to be.
#[derive(Debug)]
pub(super) struct Socket {
    endpoint: SocketEndpoint,
    label: String,
    connected: AtomicBool,
}

/// Why a connection ended. Nothing in it comes from the URL.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("no connection: {0}")]
    Connect(std::io::Error),
    #[error("{0}")]
    Protocol(#[from] tungstenite::Error),
    #[error("the URL's host cannot be used for TLS")]
    Host,
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the node closed it")]
    Closed,
    #[error("no sign of life in time")]
    Silent,
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

type Stream = WebSocketStream<Box<dyn Duplex>>;

/// Says that a socket is connected, for as long as it lives.
struct Subscribed<'a> {
    socket: &'a Socket,
    watcher: &'a Watcher,
}

impl<'a> Subscribed<'a> {
    fn new(socket: &'a Socket, watcher: &'a Watcher) -> Self {
        socket.connected.store(true, Ordering::Relaxed);
        // What was confirmed while nobody listened is looked for at once.
        watcher.hearing(true);
        tracing::info!(node = socket.label, "subscribed to confirmations");
        Self { socket, watcher }
    }
}

impl Drop for Subscribed<'_> {
    fn drop(&mut self) {
        self.socket.connected.store(false, Ordering::Relaxed);
        self.watcher.hearing(false);
    }
}

impl Socket {
    pub(super) fn new(endpoint: SocketEndpoint) -> Self {
        Self { label: endpoint.label(), endpoint, connected: AtomicBool::new(false) }
    }

    pub(super) fn status(&self) -> SocketStatus {
        SocketStatus { label: self.label.clone(), connected: self.connected.load(Ordering::Relaxed) }
    }

    /// Keeps a subscription for these accounts, for ever; each time it is lost, with a longer pause
    /// before the next try.
    pub(super) async fn run(&self, watcher: &Watcher, accounts: &[Account]) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let watch = Stopwatch::start();
            let ended = self.connection(watcher, accounts).await;
            if watch.elapsed() >= HELD {
                backoff = FIRST_BACKOFF;
            }
            tracing::warn!(node = self.label, %ended, "a WebSocket is not connected");
            tokio::time::sleep(jittered(backoff)).await;
            backoff = backoff.saturating_mul(2).min(LONGEST_BACKOFF);
        }
    }

    /// One connection, until it ends.
    async fn connection(&self, watcher: &Watcher, accounts: &[Account]) -> Ended {
        match self.converse(watcher, accounts).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn converse(
        &self,
        watcher: &Watcher,
        accounts: &[Account],
    ) -> Result<std::convert::Infallible, Ended> {
        let mut stream = within(SETUP, self.open()).await?;
        within(SETUP, subscribe(&mut stream, watcher, accounts)).await?;
        let _subscribed = Subscribed::new(self, watcher);
        loop {
            if let Ok(message) = tokio::time::timeout(PING_AFTER, next(&mut stream)).await {
                hear(watcher, &message?);
                continue;
            }
            say(&mut stream, &json!({ "action": "ping", "id": "ping" })).await?;
            let message = within(SETUP, next(&mut stream)).await?;
            hear(watcher, &message);
        }
    }

    async fn open(&self) -> Result<Stream, Ended> {
        let url = &self.endpoint.url;
        let (host, port) = (url.host_str().ok_or(Ended::Host)?, url.port_or_known_default().unwrap_or(80));
        // As URLs have it, an IPv6 address is in brackets; as sockets have it, it is not.
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let tcp = TcpStream::connect((bare, port)).await.map_err(Ended::Connect)?;
        tcp.set_nodelay(true).map_err(Ended::Connect)?;
        let layer: Box<dyn Duplex> = if url.scheme() == "wss" {
            let name = ServerName::try_from(bare.to_owned()).map_err(|_| Ended::Host)?;
            Box::new(tls(&self.endpoint.authorities)?.connect(name, tcp).await.map_err(Ended::Connect)?)
        } else {
            Box::new(tcp)
        };
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE))
            .read_buffer_size(16 * 1024);
        let (stream, _) =
            tokio_tungstenite::client_async_with_config(url.as_str(), layer, Some(config)).await?;
        Ok(stream)
    }
}

/// TLS that believes what browsers believe, and these authorities.
fn tls(authorities: &Authorities) -> Result<TlsConnector, rustls::Error> {
    let config = outbound::tls(outbound::authorities(authorities)?)?;
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn within<T>(time: Duration, done: impl Future<Output = Result<T, Ended>>) -> Result<T, Ended> {
    tokio::time::timeout(time, done).await.unwrap_or(Err(Ended::Silent))
}

async fn say(stream: &mut Stream, message: &Value) -> Result<(), Ended> {
    Ok(stream.send(Message::text(message.to_string())).await?)
}

/// The next message that is JSON; others are passed over.
async fn next(stream: &mut Stream) -> Result<Value, Ended> {
    loop {
        match stream.next().await {
            Some(Ok(Message::Text(text))) => {
                if let Ok(message) = serde_json::from_str(&text) {
                    return Ok(message);
                }
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_))) | None => return Err(Ended::Closed),
            Some(Err(error)) => return Err(error.into()),
        }
    }
}

/// Subscribes to the first accounts and adds the others, each step when the one before it is
/// acknowledged: what a node does not know it ignores without a word.
async fn subscribe(stream: &mut Stream, watcher: &Watcher, accounts: &[Account]) -> Result<(), Ended> {
    let mut chunks = accounts.chunks(CHUNK);
    let texts = |chunk: &[Account]| chunk.iter().map(ToString::to_string).collect::<Vec<_>>();
    let options = if accounts.len() > MAX_FILTER {
        chunks = accounts.get(..0).unwrap_or_default().chunks(CHUNK);
        json!({ "include_block": false })
    } else {
        // The filter looks into the block of the message, so it has to be there.
        json!({ "include_block": true, "accounts": texts(chunks.next().unwrap_or_default()) })
    };
    let subscribe = json!({
        "action": "subscribe", "topic": "confirmation", "ack": true, "id": "0", "options": options,
    });
    acknowledged(stream, watcher, &subscribe, "0").await?;
    for (number, chunk) in (1_usize..).zip(chunks) {
        let id = number.to_string();
        let update = json!({
            "action": "update", "topic": "confirmation", "ack": true, "id": id,
            "options": { "accounts_add": texts(chunk) },
        });
        acknowledged(stream, watcher, &update, &id).await?;
    }
    Ok(())
}

async fn acknowledged(
    stream: &mut Stream,
    watcher: &Watcher,
    message: &Value,
    id: &str,
) -> Result<(), Ended> {
    say(stream, message).await?;
    loop {
        let answer = next(stream).await?;
        let field = |name| answer.get(name).and_then(Value::as_str);
        if field("ack").is_some() && field("id") == Some(id) {
            return Ok(());
        }
        hear(watcher, &answer);
    }
}

/// Takes a message for the hint that it is.
fn hear(watcher: &Watcher, message: &Value) {
    let confirmed = message.get("topic").and_then(Value::as_str) == Some("confirmation");
    let hash = message.get("message").and_then(|it| it.get("hash")).and_then(Value::as_str);
    if let (true, Some(hash)) = (confirmed, hash.and_then(|it| it.parse::<BlockHash>().ok())) {
        watcher.hint(hash);
        // Only there where accounts are subscribed to; of the whole network's nothing is to be kept.
        let block = message.get("message").and_then(|it| it.get("block"));
        let field = |name| block.and_then(|it| it.get(name)).and_then(Value::as_str);
        if let (Some("send"), Some(to)) = (field("subtype"), field("link_as_account"))
            && let Ok(destination) = to.parse()
        {
            watcher.heard(hash, destination);
        }
    }
}
