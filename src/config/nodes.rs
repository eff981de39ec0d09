//! Which nodes are asked, whose word is taken, and where confirmations are heard of.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_yaml::Value;
use url::Url;

use super::document::item;
use super::judge::Judge;
use super::mirror::{Count, NodeFile, Piece};
use crate::ledger::node::{is_near, provider};

/// Where a node answers RPC. Prints without path and parameters: they may be keys.
#[derive(Clone, Eq, PartialEq)]
pub struct NodeUrl {
    /// Without query.
    pub url: Url,
    /// What stood in the query; it travels in the body of each call.
    pub parameters: Vec<(String, String)>,
    /// How long one call may take.
    pub timeout: Duration,
    /// Whether its word alone confirms a payment.
    pub trusted: bool,
}

/// Where a node's WebSocket listens. Prints without path and parameters: they may be keys.
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

pub(super) fn nodes(judge: &mut Judge<'_>, piece: Piece<Vec<Value>>) -> Option<Vec<NodeUrl>> {
    let hint = "write `nodes: [http://127.0.0.1:7076]`";
    let items = judge.need("nano", "nodes", piece, hint)?;
    if items.is_empty() {
        judge.fault("nano.nodes", "no node: payments could not be seen", hint);
        return None;
    }
    let count = items.len();
    let mut nodes: Vec<NodeUrl> = Vec::new();
    for (index, value) in items.into_iter().enumerate() {
        let path = item("nano.nodes", index);
        let Some(node) = node(judge, &path, value) else { continue };
        if nodes.iter().any(|it| it.url == node.url && it.parameters == node.parameters) {
            judge.fault(&path, "this node is named twice", "name each node once");
        } else {
            nodes.push(node);
        }
    }
    (nodes.len() == count).then_some(nodes)
}

fn node(judge: &mut Judge<'_>, path: &str, value: Value) -> Option<NodeUrl> {
    let hint = "write `http://HOST:PORT` or `https://HOST/PATH?key=${NODE_KEY}`";
    let (mut timeout, mut trusted) = (Some(NODE_TIMEOUT), None);
    let (place, text) = if let Value::String(text) = value {
        (path.to_owned(), Some(text))
    } else {
        let file: NodeFile = judge.open(path, value)?;
        let text = judge.need(path, "url", file.url, hint);
        let range = MIN_NODE_TIMEOUT..=MAX_NODE_TIMEOUT;
        timeout = judge.duration(&format!("{path}.timeout"), file.timeout, range, NODE_TIMEOUT);
        trusted = judge.get(&format!("{path}.trusted"), file.trusted, "write `true` or `false`");
        (format!("{path}.url"), text)
    };
    let (url, parameters) = judge.read(&place, &text?, hint, node_url)?;
    let near = is_near(&url);
    if trusted == Some(true) && !near && url.scheme() == "http" {
        judge.warn(
            &place,
            "a trusted node is asked over plain http: whoever is on the way can confirm payments",
            "use https, or a node on your own network",
        );
    }
    Some(NodeUrl { url, parameters, timeout: timeout?, trusted: trusted.unwrap_or(near) })
}

/// The message repeats nothing of the URL: keys stand in it.
pub(super) fn node_url(text: &str) -> Result<(Url, Vec<(String, String)>), String> {
    let mut url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("a node is asked over http or https".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a user or password in the URL is not read".to_owned());
    }
    if url.fragment().is_some() {
        return Err("a fragment (`#`) has no meaning here".to_owned());
    }
    let parameters = url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    url.set_query(None);
    Ok((url, parameters))
}

/// How many nodes that are not trusted must agree; faults where payments could never be confirmed,
/// or one stranger's word would confirm them.
pub(super) fn quorum(judge: &mut Judge<'_>, piece: Piece<Count>, nodes: Option<&[NodeUrl]>) -> Option<usize> {
    let given = piece.is_given();
    let quorum = judge.count("nano.quorum", piece, 1..=MAX_QUORUM, DEFAULT_QUORUM)?;
    let nodes = nodes?;
    let strangers: BTreeSet<_> = nodes.iter().filter(|it| !it.trusted).map(|it| provider(&it.url)).collect();
    // Which node a variable that is not set would have named is not known.
    let unknown = (0..nodes.len()).any(|index| judge.places.is_spoiled(&item("nano.nodes", index)));
    if nodes.iter().all(|it| !it.trusted) && strangers.len() < quorum && !unknown {
        let place = if given { "nano.quorum" } else { "nano.nodes" };
        judge.fault(
            place,
            format_args!(
                "{} node(s) of strangers, and it takes {quorum} that agree to confirm a payment",
                strangers.len()
            ),
            "add nodes of other operators, or write `trusted: true` beside the url of a node that is yours",
        );
        return None;
    }
    if quorum == 1 && !strangers.is_empty() {
        judge.warn(
            "nano.quorum",
            "any one node can grant payments that were never made, those that are not trusted too",
            "leave `quorum` out (it is 2), or write `trusted: true` where you mean it",
        );
    }
    Some(quorum)
}

/// The certificates of a PEM file, at least one; none where the key is not there.
pub(super) fn authorities(
    judge: &mut Judge<'_>,
    piece: Piece<String>,
) -> Option<Vec<CertificateDer<'static>>> {
    const PATH: &str = "nano.ca_file";
    if !piece.is_given() {
        return Some(Vec::new());
    }
    let path = judge.file(PATH, piece)?;
    let read = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let hint = "name a PEM file with the certificate of the authority that signed your node's";
    match read {
        Ok(found) if !found.is_empty() => Some(found),
        Ok(_none) => {
            judge.refuse(PATH, format_args!("{}: there is no certificate in it", path.display()), hint);
            None
        }
        Err(error) => {
            judge.refuse(PATH, format_args!("{}: {error}", path.display()), hint);
            None
        }
    }
}

/// One WebSocket or a list of them; none where the key is not there.
pub(super) fn websockets(judge: &mut Judge<'_>, piece: Piece<Value>) -> Option<Vec<SocketUrl>> {
    const PATH: &str = "nano.websocket";
    let hint = "write `ws://HOST:PORT` or `wss://HOST/PATH`, or a list of them";
    if !piece.is_given() {
        return Some(Vec::new());
    }
    let items = match judge.get(PATH, piece, hint)? {
        Value::Sequence(items) => {
            (0..).zip(items).map(|(index, it)| (item(PATH, index), it)).collect::<Vec<_>>()
        }
        one @ (Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Mapping(_)
        | Value::Tagged(_)) => vec![(PATH.to_owned(), one)],
    };
    let count = items.len();
    let mut sockets: Vec<SocketUrl> = Vec::new();
    for (path, value) in items {
        let text = value.as_str().unwrap_or_default();
        let Some(url) = judge.read(&path, text, hint, socket_url) else { continue };
        if sockets.contains(&url) {
            judge.fault(&path, "this WebSocket is named twice", "name each once");
        } else {
            sockets.push(url);
        }
    }
    (sockets.len() == count).then_some(sockets)
}

/// The message repeats nothing of the URL: keys stand in it.
fn socket_url(text: &str) -> Result<SocketUrl, String> {
    let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
    if !matches!(url.scheme(), "ws" | "wss") {
        return Err("a WebSocket is reached over ws or wss".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err("a user, password or fragment in the URL is not read".to_owned());
    }
    Ok(SocketUrl(url))
}
