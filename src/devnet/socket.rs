//! The WebSocket: confirmations as they happen, with the filters of the reference node and the
//! habits of either implementation (NODE section 3, appendix C, traps 15 and 16).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::lattice::{Kind, Now};
use super::rpc;
use super::world::{News, World};
use crate::nano::Account;
use crate::shutdown::{self, StopSignal};

/// Whose habits a WebSocket has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SocketDialect {
    /// The C++ node: `true` and `"true"` are the same to it.
    #[default]
    Reference,
    /// RsNano: closes the connection where a boolean is written as a string.
    RsNano,
}

/// All WebSocket connections of one node, and what is ordered for them.
pub(super) struct Sockets {
    world: Arc<World>,
    dialect: SocketDialect,
    /// Counts the orders to drop every connection.
    dropped: watch::Sender<u64>,
    /// How many connections are subscribed.
    subscribed: watch::Sender<usize>,
    refusing: AtomicBool,
    muted: AtomicBool,
}

impl Sockets {
    pub(super) fn new(world: Arc<World>, dialect: SocketDialect) -> Self {
        Self {
            world,
            dialect,
            dropped: watch::Sender::new(0),
            subscribed: watch::Sender::new(0),
            refusing: AtomicBool::new(false),
            muted: AtomicBool::new(false),
        }
    }

    pub(super) fn drop_all(&self) {
        self.dropped.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn refuse(&self, refuse: bool) {
        self.refusing.store(refuse, Ordering::SeqCst);
    }

    pub(super) fn mute(&self, mute: bool) {
        self.muted.store(mute, Ordering::SeqCst);
    }

    pub(super) async fn subscribed(&self, count: usize) {
        let mut subscribed = self.subscribed.subscribe();
        let _reached = subscribed.wait_for(|now| *now >= count).await.is_ok();
    }
}

/// Serves WebSocket connections until `shutdown`, or this is dropped.
pub(super) async fn serve(listener: TcpListener, sockets: Arc<Sockets>, mut shutdown: StopSignal) {
    let mut connections = JoinSet::new();
    loop {
        let tcp = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.join_next() => continue,
            () = shutdown::asked_for(&mut shutdown) => return,
        };
        match tcp {
            Ok(_) if sockets.refusing.load(Ordering::SeqCst) => {}
            Ok((tcp, _)) => {
                let (sockets, dropped) = (Arc::clone(&sockets), sockets.dropped.subscribe());
                connections.spawn(async move { connection(tcp, &sockets, dropped).await });
            }
            Err(error) => tracing::warn!(%error, "a WebSocket connection was not taken"),
        }
    }
}

async fn connection(tcp: TcpStream, sockets: &Sockets, mut dropped: watch::Receiver<u64>) {
    if tcp.set_nodelay(true).is_err() {
        return;
    }
    let ended = tokio::select! {
        ended = converse(tcp, sockets) => ended,
        _order = dropped.changed() => return,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a WebSocket connection to the development ledger broke off");
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
                Some(Message::Text(text)) => match subscription.hear(&text) {
                    Ok(Some(answer)) => say(&mut stream, &answer).await?,
                    Ok(None) => {}
                    Err(Unreadable) => return stream.close(None).await,
                },
                Some(Message::Close(_)) | None => return Ok(()),
                Some(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
            },
            confirmed = news.recv() => match confirmed {
                Ok(confirmed) => if let Some(message) = subscription.tell(&confirmed) {
                    say(&mut stream, &message).await?;
                },
                // What was missed is missed, as with a node.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
        }
    }
}

async fn say(stream: &mut WebSocketStream<TcpStream>, message: &Value) -> Result<(), Error> {
    stream.send(Message::text(rpc::pretty(message))).await
}

/// What the node cannot read, and closes the connection for.
struct Unreadable;

/// What one connection has asked for.
struct Subscription<'a> {
    sockets: &'a Sockets,
    options: Option<Options>,
}

struct Options {
    include_block: bool,
    include_election_info: bool,
    include_sideband_info: bool,
    /// Nothing: every block; an empty set: none.
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
    /// Takes a message from the client; gives what is to be answered.
    fn hear(&mut self, text: &str) -> Result<Option<Value>, Unreadable> {
        let message: Value = serde_json::from_str(text).map_err(|_| Unreadable)?;
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
            // Ignored without a word, by both implementations.
            _ => return Ok(None),
        }
        Ok(wants_ack.then(|| self.ack(action, &message)))
    }

    fn subscribe(&mut self, options: &Value) -> Result<(), Unreadable> {
        let read = Options {
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

    fn flag(&self, of: &Value, name: &str, default: bool) -> Result<bool, Unreadable> {
        match (of.get(name), self.sockets.dialect) {
            (None, _) => Ok(default),
            (Some(Value::Bool(truth)), _) => Ok(*truth),
            (Some(Value::String(text)), SocketDialect::Reference) => Ok(text == "true" || text == "1"),
            (Some(_), SocketDialect::Reference) => Ok(default),
            (Some(_), SocketDialect::RsNano) => Err(Unreadable),
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

    /// The message about a confirmed block, if this connection wants it.
    fn tell(&self, news: &News) -> Option<Value> {
        let options = self.options.as_ref()?;
        let block = &news.entry.block;
        if self.sockets.muted.load(Ordering::SeqCst) {
            return None;
        }
        if let Some(filter) = &options.accounts {
            let other = (news.entry.kind == Kind::Send).then(|| block.destination());
            let meant = filter.contains(&block.account) || other.is_some_and(|it| filter.contains(&it));
            // The filter looks into the block of the message: without one nothing passes.
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

/// Accounts that can be read; a node passes over the others.
fn accounts(list: &Value) -> impl Iterator<Item = Account> {
    list.as_array().into_iter().flatten().filter_map(|it| it.as_str()?.parse().ok())
}

fn milliseconds(now: Now) -> String {
    now.wall.0.saturating_mul(1000).to_string()
}
