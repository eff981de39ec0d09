//! Which nodes are asked, which of them are trusted, and which sockets report confirmations.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde_yaml::Value;
use url::Url;

use super::document::item;
use super::judge::{Judge, Judged};
use super::mirror::{Count, Given, NodeFile, Piece};
use super::web_address::{self, HTTP};
use crate::ledger::node::{is_near, provider, read_authorities};

/// The address of a node's RPC. Prints without path and parameters: they may contain keys.
#[derive(Clone, Eq, PartialEq)]
pub struct NodeUrl {
    /// Without query.
    pub url: Url,
    /// The URL's query; it is sent in the body of each call.
    pub parameters: Vec<(String, String)>,
    /// How long one call may take.
    pub timeout: Duration,
    /// Whether its word alone confirms a payment.
    pub trusted: bool,
}

/// The address of a node's WebSocket. Prints without path and parameters: they may contain keys.
#[derive(Clone, Eq, PartialEq)]
pub struct SocketUrl(pub Url);

/// How many nodes that are not trusted have to agree, unless the file says otherwise.
pub const DEFAULT_QUORUM: usize = 2;
const MAX_QUORUM: usize = 100;

/// How long a node may take for one answer.
const NODE_TIMEOUT: Duration = Duration::from_secs(10);
const MIN_NODE_TIMEOUT: Duration = Duration::from_millis(100);
const MAX_NODE_TIMEOUT: Duration = Duration::from_secs(120);

fn masked(url: &Url, has_more: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{}://{}", url.scheme(), url.host_str().unwrap_or("?"))?;
    if let Some(port) = url.port() {
        write!(f, ":{port}")?;
    }
    if url.path() == "/" && !has_more { Ok(()) } else { f.write_str("/****") }
}

impl fmt::Display for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        masked(&self.url, !self.parameters.is_empty(), f)
    }
}

impl fmt::Debug for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trust = if self.trusted { "trusted" } else { "not trusted" };
        write!(f, "NodeUrl({self}, {:?}, {trust})", self.timeout)
    }
}

impl fmt::Display for SocketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        masked(&self.0, self.0.query().is_some(), f)
    }
}

impl fmt::Debug for SocketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SocketUrl({self})")
    }
}

pub(super) fn nodes(judge: &mut Judge<'_>, piece: Piece<Vec<Value>>) -> Judged<Vec<NodeUrl>> {
    let hint = "write `nodes: [http://127.0.0.1:7076]`";
    let items = judge.items(piece, "no node: payments could not be seen", hint)?;
    judge.each(items, "node", |it: &NodeUrl| (it.url.clone(), it.parameters.clone()), node)
}

fn node(judge: &mut Judge<'_>, piece: Piece<Value>) -> Judged<NodeUrl> {
    let hint = "write `http://HOST:PORT` or `https://HOST/PATH?key=${NODE_KEY}`";
    if let Given::Is(text @ Value::String(_)) = piece.given {
        return judge.need_text(Piece::new(piece.path, Some(text)), hint, node_url);
    }
    let file: NodeFile = judge.section(piece)?;
    let place = file.url.path.clone();
    let url = judge.need_text(file.url, hint, node_url);
    let timeout = judge.duration(file.timeout, MIN_NODE_TIMEOUT..=MAX_NODE_TIMEOUT, NODE_TIMEOUT);
    let trusted = judge.get(file.trusted, "write `true` or `false`")?;
    let node = url?;
    if trusted == Some(true) && !node.trusted && node.url.scheme() == "http" {
        judge.warn(
            &place,
            "a trusted node is asked over plain http: anybody on the network path can confirm payments",
            "use https, or a node on your own network",
        );
    }
    Ok(NodeUrl { timeout: timeout?, trusted: trusted.unwrap_or(node.trusted), ..node })
}

/// A node as its URL describes it: trusted if it is near.
///
/// # Errors
/// What is wrong. The message repeats nothing of the URL, which may contain keys.
pub(super) fn node_url(text: &str) -> Result<NodeUrl, String> {
    let mut url = web_address::parse(text, HTTP)?;
    let parameters = url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    url.set_query(None);
    let trusted = is_near(&url);
    Ok(NodeUrl { url, parameters, timeout: NODE_TIMEOUT, trusted })
}

/// How many nodes that are not trusted must agree. It is a fault if payments could never be
/// confirmed. `nodes` is `None` if a fault was found in them.
pub(super) fn quorum(judge: &mut Judge<'_>, piece: Piece<Count>, nodes: Option<&[NodeUrl]>) -> Judged<usize> {
    let place = piece.given_path().unwrap_or_else(|| "nano.nodes".to_owned());
    let quorum = judge.count(piece, 1..=MAX_QUORUM, DEFAULT_QUORUM)?;
    let Some(nodes) = nodes else { return Ok(quorum) };
    let strangers: BTreeSet<_> = nodes.iter().filter(|it| !it.trusted).map(|it| provider(&it.url)).collect();
    // A variable that is not set may name a node that is trusted.
    let unknown = (0..nodes.len()).any(|index| judge.places.is_spoiled(&item("nano.nodes", index)));
    if nodes.iter().all(|it| !it.trusted) && strangers.len() < quorum && !unknown {
        let message = format!(
            "{quorum} nodes that are not trusted must agree to confirm a payment, but the list has {}",
            strangers.len()
        );
        return Err(judge.fault(
            &place,
            message,
            "add nodes of other operators, or write `trusted: true` beside the url of a node that is yours",
        ));
    }
    if quorum == 1 && !strangers.is_empty() {
        judge.warn(
            "nano.quorum",
            "any one node, also one that is not trusted, can confirm payments that were never made",
            "leave `quorum` out (it is 2), or write `trusted: true` at the nodes that you trust",
        );
    }
    Ok(quorum)
}

/// The certificates of a PEM file, at least one; none if the key is missing, or no file is read.
pub(super) fn authorities(
    judge: &mut Judge<'_>,
    piece: Piece<String>,
) -> Judged<Vec<CertificateDer<'static>>> {
    let place = piece.path.clone();
    let Some(path) = judge.file(piece)?.filter(|_| !judge.offline) else { return Ok(Vec::new()) };
    let fault = match read_authorities(&path) {
        Ok(found) => return Ok(found.to_vec()),
        Err(error) => error,
    };
    let hint = "name a PEM file with the certificate of the authority that signed the server's";
    Err(judge.refuse(&place, format_args!("{fault}"), hint))
}

/// One WebSocket or a list of them; none if the key is missing.
pub(super) fn websockets(judge: &mut Judge<'_>, piece: Piece<Value>) -> Judged<Vec<SocketUrl>> {
    let hint = "write `ws://HOST:PORT` or `wss://HOST/PATH`, or a list of them";
    let items = match piece.given {
        Given::Is(Value::Sequence(items)) => Piece::items(&piece.path, items),
        Given::Is(one) => vec![Piece::new(piece.path, Some(one))],
        given @ (Given::Missing | Given::Empty | Given::Wrong(_)) => {
            judge.get(Piece { given, ..piece }, hint)?;
            Vec::new()
        }
    };
    let socket = |judge: &mut Judge<'_>, it| judge.need_text(it, hint, socket_url);
    judge.each(items, "WebSocket", |it: &SocketUrl| it.0.clone(), socket)
}

fn socket_url(text: &str) -> Result<SocketUrl, String> {
    web_address::parse(text, ["ws", "wss"]).map(SocketUrl)
}
