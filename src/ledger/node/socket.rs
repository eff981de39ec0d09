//! Confirmations as they happen, over a node's WebSocket.
//!
//! A message is only a hint: the block is looked up, and that answer is checked like any other. So a
//! WebSocket needs no trust, and a lost message costs time, not money. Booleans are sent as JSON
//! booleans, because RsNano closes the connection on strings.

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

use super::endpoint::host_and_port;
use super::reads::jittered;
use super::watcher::Watcher;
use super::{Authorities, NodeSetupError};
use crate::clock::Stopwatch;
use crate::nano::{Account, BlockHash};
use crate::outbound;
use crate::repeats::Repeats;

/// The most accounts in one message. A node accepts 2000 in about 30 ms.
const CHUNK: usize = 1000;
/// With more accounts than this, the filter is left out: naming the accounts would cost more than the
/// messages about all blocks of the network.
const MAX_FILTER: usize = 50_000;
/// The largest message that is read, in bytes. A confirmation has 1.5 KiB.
const MAX_MESSAGE: usize = 256 * 1024;

/// The time for connecting, and for each answer that is awaited from the node.
const SETUP: Duration = Duration::from_secs(10);
/// After a silence of this length the node is pinged.
const PING_AFTER: Duration = Duration::from_secs(15);

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// After a connection that lasted this long, the backoff starts again from the beginning.
const HELD: Duration = Duration::from_secs(10);

/// The address of a node's WebSocket. Prints without path and query, which may hold keys.
#[derive(Clone, Eq, PartialEq)]
pub struct SocketEndpoint {
    url: Url,
    authorities: Authorities,
}

impl SocketEndpoint {
    /// The endpoint at `url`.
    ///
    /// # Errors
    /// [`NodeSetupError::SocketScheme`] if the URL is neither `ws` nor `wss`.
    pub fn from_url(url: Url) -> Result<Self, NodeSetupError> {
        if matches!(url.scheme(), "ws" | "wss") && url.host_str().is_some() {
            Ok(Self { url, authorities: Authorities::default() })
        } else {
            Err(NodeSetupError::SocketScheme(url.scheme().to_owned()))
        }
    }

    /// Makes the endpoint's `wss` trust these authorities too.
    #[must_use]
    pub fn believing(self, authorities: Authorities) -> Self {
        Self { authorities, ..self }
    }

    /// Host and port.
    #[must_use]
    pub fn label(&self) -> String {
        host_and_port(&self.url)
    }

    /// Connects, subscribes to the confirmations of `account` as the gateway does, and hangs up.
    ///
    /// # Errors
    /// Why it cannot, in words for people, with nothing of the URL.
    pub async fn try_subscription(&self, account: Account) -> Result<(), String> {
        let tried = async {
            let mut stream = within(SETUP, self.open()).await?;
            within(SETUP, subscribe(&mut stream, &|_| {}, &[account])).await
        };
        tried.await.map_err(|ended: Ended| ended.to_string())
    }

    async fn open(&self) -> Result<Stream, Ended> {
        let url = &self.url;
        let (host, port) = (url.host_str().ok_or(Ended::Host)?, url.port_or_known_default().unwrap_or(80));
        // An IPv6 address has brackets in a URL and none in a socket address.
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let tcp = TcpStream::connect((bare, port)).await.map_err(Ended::Connect)?;
        tcp.set_nodelay(true).map_err(Ended::Connect)?;
        let layer: Box<dyn Duplex> = if url.scheme() == "wss" {
            let name = ServerName::try_from(bare.to_owned()).map_err(|_| Ended::Host)?;
            Box::new(tls(&self.authorities)?.connect(name, tcp).await.map_err(Ended::Connect)?)
        } else {
            Box::new(tcp)
        };
        let (stream, _) =
            tokio_tungstenite::client_async_with_config(url.as_str(), layer, Some(config())).await?;
        Ok(stream)
    }
}

impl fmt::Debug for SocketEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SocketEndpoint({})", self.label())
    }
}

/// The status of one WebSocket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SocketStatus {
    pub label: String,
    /// Whether the node has acknowledged the subscription.
    pub connected: bool,
}

/// One WebSocket, connected or not.
#[derive(Debug)]
pub(super) struct Socket {
    endpoint: SocketEndpoint,
    label: String,
    connected: AtomicBool,
    trouble: Repeats,
}

/// Why a connection ended. It contains nothing of the URL.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
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
    #[error("the node did not answer in time")]
    Silent,
}

pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub(super) type Stream = WebSocketStream<Box<dyn Duplex>>;

/// Marks a socket as subscribed until it is dropped.
struct Subscribed<'a> {
    socket: &'a Socket,
    watcher: &'a Watcher,
}

impl<'a> Subscribed<'a> {
    fn new(socket: &'a Socket, watcher: &'a Watcher) -> Self {
        socket.connected.store(true, Ordering::Relaxed);
        // Blocks that were confirmed before the subscription are found at once.
        watcher.set_subscribed(true);
        let _was_away = socket.trouble.over().is_some();
        tracing::info!(node = socket.label, "subscribed to confirmations");
        Self { socket, watcher }
    }
}

impl Drop for Subscribed<'_> {
    fn drop(&mut self) {
        self.socket.connected.store(false, Ordering::Relaxed);
        self.watcher.set_subscribed(false);
    }
}

impl Socket {
    pub(super) fn new(endpoint: SocketEndpoint) -> Self {
        Self { label: endpoint.label(), endpoint, connected: AtomicBool::new(false), trouble: Repeats::new() }
    }

    pub(super) fn status(&self) -> SocketStatus {
        SocketStatus { label: self.label.clone(), connected: self.connected.load(Ordering::Relaxed) }
    }

    /// Keeps a subscription for these accounts and never returns. Each failed try makes the pause before
    /// the next one longer.
    pub(super) async fn run(&self, watcher: &Watcher, accounts: &[Account]) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let watch = Stopwatch::start();
            let ended = self.connection(watcher, accounts).await;
            if watch.elapsed() >= HELD {
                backoff = FIRST_BACKOFF;
            }
            if let Some(held_back) = self.trouble.again() {
                tracing::warn!(node = self.label, %ended, held_back, "a WebSocket is not connected");
            }
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
        let mut stream = within(SETUP, self.endpoint.open()).await?;
        within(SETUP, subscribe(&mut stream, &|message| take_hint(watcher, message), accounts)).await?;
        let _subscribed = Subscribed::new(self, watcher);
        loop {
            if let Ok(message) = tokio::time::timeout(PING_AFTER, next(&mut stream)).await {
                take_hint(watcher, &message?);
                continue;
            }
            send(&mut stream, &json!({ "action": "ping", "id": "ping" })).await?;
            let message = within(SETUP, next(&mut stream)).await?;
            take_hint(watcher, &message);
        }
    }
}

/// The limits of a connection.
pub(super) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .read_buffer_size(16 * 1024)
}

/// TLS that trusts the usual web authorities and these.
fn tls(authorities: &Authorities) -> Result<TlsConnector, rustls::Error> {
    let config = outbound::tls(outbound::authorities(authorities)?)?;
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn within<T>(time: Duration, done: impl Future<Output = Result<T, Ended>>) -> Result<T, Ended> {
    tokio::time::timeout(time, done).await.unwrap_or(Err(Ended::Silent))
}

async fn send(stream: &mut Stream, message: &Value) -> Result<(), Ended> {
    Ok(stream.send(Message::text(message.to_string())).await?)
}

/// The next message that is JSON. Other messages are skipped.
pub(super) async fn next(stream: &mut Stream) -> Result<Value, Ended> {
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

/// Takes a message that comes before the one that is waited for.
type Hear<'a> = &'a (dyn Fn(&Value) + Sync);

/// Subscribes to the first accounts and adds the others. Each step waits until the one before it is
/// acknowledged, because a node ignores without an error what it does not know.
async fn subscribe(stream: &mut Stream, hear: Hear<'_>, accounts: &[Account]) -> Result<(), Ended> {
    let mut chunks = accounts.chunks(CHUNK);
    let texts = |chunk: &[Account]| chunk.iter().map(ToString::to_string).collect::<Vec<_>>();
    let options = if accounts.len() > MAX_FILTER {
        chunks = accounts.get(..0).unwrap_or_default().chunks(CHUNK);
        json!({ "include_block": false })
    } else {
        // The node's filter reads the block in the message, so the block has to be included.
        json!({ "include_block": true, "accounts": texts(chunks.next().unwrap_or_default()) })
    };
    let subscribe = json!({
        "action": "subscribe", "topic": "confirmation", "ack": true, "id": "0", "options": options,
    });
    acknowledged(stream, hear, &subscribe, "0").await?;
    for (number, chunk) in (1_usize..).zip(chunks) {
        let id = number.to_string();
        let update = json!({
            "action": "update", "topic": "confirmation", "ack": true, "id": id,
            "options": { "accounts_add": texts(chunk) },
        });
        acknowledged(stream, hear, &update, &id).await?;
    }
    Ok(())
}

async fn acknowledged(stream: &mut Stream, hear: Hear<'_>, message: &Value, id: &str) -> Result<(), Ended> {
    send(stream, message).await?;
    loop {
        let answer = next(stream).await?;
        let field = |name| answer.get(name).and_then(Value::as_str);
        if field("ack").is_some() && field("id") == Some(id) {
            return Ok(());
        }
        hear(&answer);
    }
}

/// Reports to the watcher what a message says about a confirmation.
pub(super) fn take_hint(watcher: &Watcher, message: &Value) {
    let confirmed = message.get("topic").and_then(Value::as_str) == Some("confirmation");
    let hash = message.get("message").and_then(|it| it.get("hash")).and_then(Value::as_str);
    if let (true, Some(hash)) = (confirmed, hash.and_then(|it| it.parse::<BlockHash>().ok())) {
        watcher.hint(hash);
        // The block is there only if accounts were subscribed to; else sends are not reported.
        let block = message.get("message").and_then(|it| it.get("block"));
        let field = |name| block.and_then(|it| it.get(name)).and_then(Value::as_str);
        if let (Some("send"), Some(to)) = (field("subtype"), field("link_as_account"))
            && let Ok(destination) = to.parse()
        {
            watcher.report_send(hash, destination);
        }
    }
}
