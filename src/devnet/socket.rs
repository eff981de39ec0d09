//! The WebSocket: confirmations as they happen, with the reference node's filters, in the dialect of
//! either implementation ([nodes guide](crate::guide::nodes), the part on WebSockets).

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

#[cfg(feature = "devnet-faults")]
use super::faults::SocketFaults;
use super::lattice::{BlockKind, Now};
use super::rpc;
use super::world::{News, World};
use crate::nano::Account;
use crate::shutdown::{self, StopSignal};

/// Which implementation a WebSocket imitates.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SocketDialect {
    /// The C++ node, which takes `"true"` for `true`.
    #[default]
    Reference,
    /// RsNano, which closes the connection if a boolean is written as a string.
    RsNano,
}

/// All WebSocket connections of one node.
pub(super) struct Sockets {
    world: Arc<World>,
    dialect: SocketDialect,
    /// How many connections are subscribed.
    subscribed: watch::Sender<usize>,
    #[cfg(feature = "devnet-faults")]
    pub(super) faults: SocketFaults,
}

impl Sockets {
    pub(super) fn new(world: Arc<World>, dialect: SocketDialect) -> Self {
        Self {
            world,
            dialect,
            subscribed: watch::Sender::new(0),
            #[cfg(feature = "devnet-faults")]
            faults: SocketFaults::default(),
        }
    }

    pub(super) async fn subscribed(&self, count: usize) {
        let mut subscribed = self.subscribed.subscribe();
        let _reached = subscribed.wait_for(|now| *now >= count).await.is_ok();
    }
}

/// Serves WebSocket connections until `shutdown`, or until this future is dropped.
pub(super) async fn serve(listener: TcpListener, sockets: Arc<Sockets>, mut shutdown: StopSignal) {
    let mut connections = JoinSet::new();
    loop {
        let tcp = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.join_next() => continue,
            () = shutdown::asked_for(&mut shutdown) => return,
        };
        match tcp {
            #[cfg(feature = "devnet-faults")]
            Ok(_) if sockets.faults.is_refusing() => {}
            Ok((tcp, _)) => {
                connections.spawn(connection(tcp, Arc::clone(&sockets)));
            }
            Err(error) => tracing::warn!(%error, "a WebSocket connection was not accepted"),
        }
    }
}

/// Serves one connection to its end. What is confirmed or ordered from this call on concerns it.
fn connection(tcp: TcpStream, sockets: Arc<Sockets>) -> impl Future<Output = ()> {
    #[cfg(feature = "devnet-faults")]
    let dropped = sockets.faults.next_drop();
    #[cfg(not(feature = "devnet-faults"))]
    let dropped = std::future::pending();
    async move {
        if tcp.set_nodelay(true).is_err() {
            return;
        }
        let ended = tokio::select! {
            ended = converse(tcp, &sockets) => ended,
            () = dropped => return,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a WebSocket connection to the development ledger was lost");
        }
    }
}

async fn converse(tcp: TcpStream, sockets: &Sockets) -> Result<(), Error> {
    // Before the handshake, so that nothing between it and a subscription is missed.
    let mut news = sockets.world.news();
    let mut stream = tokio_tungstenite::accept_async(tcp).await?;
    let mut subscription = Subscription { sockets, options: None };
    loop {
        tokio::select! {
            message = stream.next() => match message.transpose()? {
                Some(Message::Text(text)) => match subscription.handle(&text) {
                    Ok(Some(answer)) => send(&mut stream, &answer).await?,
                    Ok(None) => {}
                    Err(UnreadableMessage) => return stream.close(None).await,
                },
                Some(Message::Close(_)) | None => return Ok(()),
                Some(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
            },
            confirmed = news.recv() => match confirmed {
                Ok(confirmed) => if let Some(message) = subscription.message(&confirmed) {
                    send(&mut stream, &message).await?;
                },
                // A node does not repeat what a slow client missed.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
        }
    }
}

async fn send(stream: &mut WebSocketStream<TcpStream>, message: &Value) -> Result<(), Error> {
    stream.send(Message::text(rpc::pretty(message))).await
}

/// A message that the node cannot read; it closes the connection.
struct UnreadableMessage;

/// The subscription of one connection.
struct Subscription<'a> {
    sockets: &'a Sockets,
    options: Option<SubscriptionOptions>,
}

struct SubscriptionOptions {
    include_block: bool,
    include_election_info: bool,
    include_sideband_info: bool,
    /// `None`: every block; an empty set: no block.
    accounts: Option<BTreeSet<Account>>,
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        if self.options.is_some() {
            self.sockets.subscribed.send_modify(|count| *count = count.saturating_sub(1));
        }
    }
}

impl Subscription<'_> {
    /// Handles a message from the client and returns the answer, if any.
    fn handle(&mut self, text: &str) -> Result<Option<Value>, UnreadableMessage> {
        let message: Value = serde_json::from_str(text).map_err(|_| UnreadableMessage)?;
        let word = |name| message.get(name).and_then(Value::as_str).unwrap_or_default();
        let action = word("action");
        let on_confirmations = word("topic") == "confirmation";
        let wants_ack = self.flag(&message, "ack", false)?;
        let options = message.get("options").cloned().unwrap_or_else(|| json!({}));
        match action {
            "ping" => return Ok(Some(self.ack("pong", &message))),
            "subscribe" if on_confirmations => self.subscribe(&options)?,
            "update" if on_confirmations => self.update(&options),
            "unsubscribe" if on_confirmations => {
                if self.options.take().is_some() {
                    self.sockets.subscribed.send_modify(|count| *count = count.saturating_sub(1));
                }
            }
            // Both implementations ignore it silently.
            _ => return Ok(None),
        }
        Ok(wants_ack.then(|| self.ack(action, &message)))
    }

    fn subscribe(&mut self, options: &Value) -> Result<(), UnreadableMessage> {
        let read = SubscriptionOptions {
            include_block: self.flag(options, "include_block", true)?,
            include_election_info: self.flag(options, "include_election_info", false)?,
            include_sideband_info: self.flag(options, "include_sideband_info", false)?,
            accounts: options.get("accounts").map(|list| accounts(list).collect()),
        };
        if self.options.replace(read).is_none() {
            self.sockets.subscribed.send_modify(|count| *count = count.saturating_add(1));
        }
        Ok(())
    }

    fn update(&mut self, options: &Value) {
        let Some(filter) = self.options.as_mut().and_then(|it| it.accounts.as_mut()) else { return };
        if let Some(added) = options.get("accounts_add") {
            filter.extend(accounts(added));
        }
        if let Some(gone) = options.get("accounts_del") {
            for account in accounts(gone) {
                filter.remove(&account);
            }
        }
    }

    fn flag(&self, of: &Value, name: &str, default: bool) -> Result<bool, UnreadableMessage> {
        match (of.get(name), self.sockets.dialect) {
            (None, _) => Ok(default),
            (Some(Value::Bool(truth)), _) => Ok(*truth),
            (Some(Value::String(text)), SocketDialect::Reference) => Ok(text == "true" || text == "1"),
            (Some(_), SocketDialect::Reference) => Ok(default),
            (Some(_), SocketDialect::RsNano) => Err(UnreadableMessage),
        }
    }

    fn ack(&self, action: &str, message: &Value) -> Value {
        let mut answer = Map::new();
        answer.insert("ack".to_owned(), Value::from(action));
        answer.insert("time".to_owned(), Value::from(milliseconds(self.sockets.world.now())));
        if let Some(id) = message.get("id").and_then(Value::as_str) {
            answer.insert("id".to_owned(), Value::from(id));
        }
        Value::Object(answer)
    }

    /// The message about a confirmed block, if this connection subscribed to it.
    fn message(&self, news: &News) -> Option<Value> {
        let options = self.options.as_ref()?;
        let block = &news.entry.block;
        #[cfg(feature = "devnet-faults")]
        if self.sockets.faults.is_muted() {
            return None;
        }
        if let Some(filter) = &options.accounts {
            let other = (news.entry.kind == BlockKind::Send).then(|| block.destination());
            let meant = filter.contains(&block.account) || other.is_some_and(|it| filter.contains(&it));
            // The filter reads the message's block: without the block nothing passes.
            if !meant || !options.include_block {
                return None;
            }
        }
        let mut message = json!({
            "account": block.account,
            "amount": news.entry.amount,
            "hash": news.hash,
            "confirmation_type": "active_quorum",
        });
        let mut put = |name: &str, value: Value| {
            if let Value::Object(fields) = &mut message {
                fields.insert(name.to_owned(), value);
            }
        };
        if options.include_election_info {
            put("election_info", json!({ "duration": "0", "time": milliseconds(news.now), "tally": "0" }));
        }
        if options.include_block {
            let mut contents = rpc::contents(block, true);
            if let Value::Object(fields) = &mut contents {
                fields.insert("subtype".to_owned(), Value::from(news.entry.kind.subtype()));
            }
            put("block", contents);
        }
        if options.include_sideband_info {
            let arrived = news.entry.arrived;
            let time = match self.sockets.dialect {
                SocketDialect::Reference => arrived.to_string(),
                SocketDialect::RsNano => milliseconds(Now { wall: arrived, ..news.now }),
            };
            put("sideband", json!({ "height": news.entry.height.to_string(), "local_timestamp": time }));
        }
        Some(json!({ "topic": "confirmation", "time": milliseconds(news.now), "message": message }))
    }
}

/// The accounts that can be read; a node ignores the others.
fn accounts(list: &Value) -> impl Iterator<Item = Account> {
    list.as_array().into_iter().flatten().filter_map(|it| it.as_str()?.parse().ok())
}

fn milliseconds(now: Now) -> String {
    now.wall.0.saturating_mul(1000).to_string()
}
