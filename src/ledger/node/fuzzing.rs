//! What the fuzz targets in `tests/fuzz` call of this module's private functions.

use std::collections::BTreeMap;
use std::io::Cursor;

use futures_util::FutureExt;
use http::StatusCode;
use serde_json::Value;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::transport::{Node, TransportFault};
use super::{
    AccountInfo, BlockCount, BlockInfo, NodeEndpoint, NodeSetupError, Receivable, Telemetry, Version, answer,
    socket,
};
use crate::nano::{Account, BlockHash, Threshold, Thresholds, Work};

pub use super::watcher::fuzzing::Watch;

/// How the fault of a node counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FaultClass {
    TimedOut,
    Unreachable,
    Refused,
    Nonsense,
    NotBelieved,
}

/// The class of a fault, and its text.
pub type Classed<T> = Result<T, (FaultClass, String)>;

fn classed<T>(answer: Result<T, TransportFault>) -> Classed<T> {
    answer.map_err(|fault| {
        let class = match &fault {
            TransportFault::TimedOut => FaultClass::TimedOut,
            TransportFault::Unreachable(_) => FaultClass::Unreachable,
            TransportFault::Refused(_) => FaultClass::Refused,
            TransportFault::Nonsense(_) => FaultClass::Nonsense,
            TransportFault::NotBelieved(_) => FaultClass::NotBelieved,
        };
        (class, fault.to_string())
    })
}

/// A node that is never called: its answers are given to it.
pub struct SilentNode(Node);

impl SilentNode {
    /// The node at `endpoint`.
    ///
    /// # Errors
    /// [`NodeSetupError`].
    pub fn new(endpoint: NodeEndpoint) -> Result<Self, NodeSetupError> {
        let label = endpoint.label();
        Node::new(endpoint, label).map(Self)
    }

    /// What an answer with this status and body counts as.
    ///
    /// # Errors
    /// The fault.
    pub fn judge(&self, status: StatusCode, body: &[u8]) -> Classed<Value> {
        classed(self.0.judge(status, body))
    }
}

/// Declares the readers of answers, each with its type.
macro_rules! readers {
    ($($name:ident: $type:ty,)*) => {
        $(
            /// Reads the answer to the call of this name.
            ///
            /// # Errors
            /// The fault.
            pub fn $name(answer: &Value) -> Classed<$type> {
                classed(answer::$name(answer))
            }
        )*
    };
}

readers! {
    account_info: AccountInfo,
    version: Version,
    block_count: BlockCount,
    telemetry: Telemetry,
    block_info: BlockInfo,
    blocks_info: BTreeMap<BlockHash, BlockInfo>,
    receivable: Vec<Receivable>,
    thresholds: Thresholds,
}

/// Reads the answer to `work_generate`.
///
/// # Errors
/// The fault.
pub fn work(answer: &Value, root: &[u8; 32], threshold: Threshold) -> Classed<Work> {
    classed(answer::work(answer, root, threshold))
}

/// Reads the answer to `process`.
///
/// # Errors
/// The fault.
pub fn processed(answer: &Value, sent: BlockHash) -> Classed<()> {
    classed(answer::processed(answer, sent))
}

/// The messages in the frames that a node sends, until the connection ends.
#[must_use]
pub fn messages(frames: &[u8]) -> Vec<Value> {
    let stream = tokio::io::join(Cursor::new(frames.to_vec()), tokio::io::sink());
    let stream: Box<dyn socket::Duplex> = Box::new(stream);
    let read = async {
        let mut stream = WebSocketStream::from_raw_socket(stream, Role::Client, Some(socket::config())).await;
        let mut found = Vec::new();
        while let Ok(message) = socket::next(&mut stream).await {
            found.push(message);
        }
        found
    };
    read.now_or_never().unwrap_or_default()
}

/// Gives a message of a WebSocket to the watcher. Returns the sends that it reports, with their destinations.
pub fn hear(watch: &mut Watch, message: &Value) -> Vec<(BlockHash, Account)> {
    socket::take_hint(watch.watcher(), message);
    watch.heard()
}
