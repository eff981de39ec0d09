//! One exchange with one node: HTTP, its limits, and the node's health.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value};

use super::breaker::{Breaker, BreakerState};
use super::lag::Lag;
use super::pace::Pace;
use super::{NodeEndpoint, NodeSetupError, provider};
use crate::clock::Stopwatch;
use crate::outbound;

/// The longest answer that is read, in bytes. A `block_info` has 1.5 KiB.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// How many characters of a node's text an error repeats.
const MAX_QUOTE: usize = 200;

/// Connecting takes a round trip or two. A node that takes longer than this, and than half of its time, is treated as
/// unreachable.
const CONNECT: Duration = Duration::from_secs(3);

/// How long an idle connection is kept. The C++ node closes each connection itself, so an older one
/// may be about to close.
const IDLE: Duration = Duration::from_secs(10);

/// Why one node gave no usable answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum TransportFault {
    #[error("no answer in time")]
    TimedOut,
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// The node, or a proxy in front of it, refused the call with this text.
    #[error("says {0:?}")]
    Refused(String),
    /// The answer does not have the form of a node's answer.
    #[error("gives no proper answer: {0}")]
    Nonsense(String),
    /// The answer has the right form but cannot be true.
    #[error("is not believed: {0}")]
    NotBelieved(String),
}

impl TransportFault {
    /// Whether the node did answer. A refusal is an answer.
    pub(super) const fn is_answer(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::TimedOut | Self::Unreachable(_) | Self::Nonsense(_) | Self::NotBelieved(_) => false,
        }
    }
}

/// The health of a node, from calls, probes and comparisons.
#[derive(Debug)]
pub(super) struct NodeHealth {
    started: Stopwatch,
    /// The node answered, and since then no probe has failed and the breaker has not opened.
    up: AtomicBool,
    breaker: Breaker,
    pub(super) pace: Pace,
    /// How many confirmed blocks it had at the last probe.
    cemented: AtomicU64,
    /// It has far fewer confirmed blocks than the other nodes or its own peers.
    behind: AtomicBool,
    /// Compares it with its own peers. Locked for a few instructions, never across an await.
    lag: Mutex<Lag>,
}

impl NodeHealth {
    fn new(timeout: Duration) -> Self {
        Self {
            started: Stopwatch::start(),
            up: AtomicBool::new(false),
            breaker: Breaker::new(timeout),
            pace: Pace::default(),
            cemented: AtomicU64::new(0),
            behind: AtomicBool::new(false),
            lag: Mutex::default(),
        }
    }

    /// The comparison of the node with its own peers.
    pub(super) fn lag(&self) -> MutexGuard<'_, Lag> {
        self.lag.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time since the node was set up.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    pub(super) fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed)
    }

    pub(super) fn set_behind(&self, behind: bool) {
        self.behind.store(behind, Ordering::Relaxed);
    }

    pub(super) fn cemented(&self) -> u64 {
        self.cemented.load(Ordering::Relaxed)
    }

    pub(super) fn set_cemented(&self, count: u64) {
        self.cemented.store(count, Ordering::Relaxed);
    }

    pub(super) fn breaker(&self) -> BreakerState {
        self.breaker.state_at(self.started.elapsed())
    }

    /// Whether a call would be admitted.
    pub(super) fn would_admit(&self) -> bool {
        self.breaker.would_admit(self.started.elapsed())
    }

    /// Whether this call is admitted; after a rest only one call at a time is.
    pub(super) fn admit(&self) -> bool {
        self.breaker.admit(self.started.elapsed())
    }

    /// Whether a probe is admitted; an `urgent` one waits for no rest.
    pub(super) fn admit_probe(&self, urgent: bool) -> bool {
        self.breaker.admit_probe(self.started.elapsed(), urgent)
    }

    /// Ends a rest: the node has answered a probe.
    pub(super) fn recovered(&self) {
        self.breaker.recover();
    }

    pub(super) fn answered(&self) {
        self.breaker.record(self.started.elapsed(), true);
        self.up.store(true, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        if self.breaker.record(self.started.elapsed(), false) {
            self.down();
        }
    }

    pub(super) fn down(&self) {
        self.up.store(false, Ordering::Relaxed);
    }

    /// Leaves the node alone for a while although it answers.
    pub(super) fn trip(&self) {
        self.breaker.trip(self.started.elapsed());
        self.down();
    }
}

/// One node.
pub(super) struct Node {
    endpoint: NodeEndpoint,
    label: String,
    provider: String,
    http: reqwest::Client,
    pub(super) health: NodeHealth,
}

impl Node {
    pub(super) fn new(endpoint: NodeEndpoint, label: String) -> Result<Self, NodeSetupError> {
        if !matches!(endpoint.url.scheme(), "http" | "https") {
            return Err(NodeSetupError::Scheme(endpoint.url.scheme().to_owned()));
        }
        let half = endpoint.timeout.checked_div(2).unwrap_or_default();
        let http = outbound::http(&endpoint.authorities)
            .map_err(|error| NodeSetupError::Tls(error.to_string()))?
            .connect_timeout(half.max(CONNECT).min(endpoint.timeout))
            .pool_idle_timeout(IDLE)
            // A node does not redirect, and a key must not be sent to the target of a redirect.
            .redirect(reqwest::redirect::Policy::none())
            // Only the configuration decides who is asked about money, not the environment.
            .no_proxy();
        let http = http.build().map_err(|error| NodeSetupError::Tls(outbound::chain(&error)))?;
        let provider = provider(&endpoint.url);
        let health = NodeHealth::new(endpoint.timeout);
        Ok(Self { endpoint, label, provider, http, health })
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }

    pub(super) const fn is_trusted(&self) -> bool {
        self.endpoint.trusted
    }

    /// Who runs the node.
    pub(super) fn provider(&self) -> &str {
        &self.provider
    }

    /// The configured time for one whole call.
    pub(super) const fn timeout(&self) -> Duration {
        self.endpoint.timeout
    }

    /// Sends one call and returns the node's answer: a JSON object without an `error`.
    pub(super) async fn ask(
        &self,
        action: &str,
        fields: Map<String, Value>,
        patience: Duration,
    ) -> Result<Value, TransportFault> {
        let mut body = Map::new();
        for (name, value) in &self.endpoint.parameters {
            body.insert(name.clone(), value.as_str().into());
        }
        body.extend(fields);
        body.insert("action".to_owned(), action.into());
        let exchange = self.exchange(Value::Object(body).to_string());
        match tokio::time::timeout(patience, exchange).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(TransportFault::TimedOut),
        }
    }

    async fn exchange(&self, body: String) -> Result<Value, TransportFault> {
        let request =
            self.http.post(self.endpoint.url.clone()).header(CONTENT_TYPE, "application/json").body(body);
        let mut response = request.send().await.map_err(lost)?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            if bytes.len().saturating_add(chunk.len()) > MAX_ANSWER {
                return Err(TransportFault::Nonsense(format!("more than {MAX_ANSWER} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        self.judge(status, &bytes)
    }

    /// The C++ node always answers with status 200. RsNano answers with 400 and 422 in plain text if it
    /// cannot parse the call. Any other status comes from a proxy in front of the node.
    pub(super) fn judge(&self, status: StatusCode, bytes: &[u8]) -> Result<Value, TransportFault> {
        let json = serde_json::from_slice::<Value>(bytes).ok().filter(Value::is_object);
        let from_node = matches!(
            status,
            StatusCode::OK
                | StatusCode::BAD_REQUEST
                | StatusCode::UNPROCESSABLE_ENTITY
                | StatusCode::INTERNAL_SERVER_ERROR
        );
        match json {
            Some(_) if !from_node => Err(TransportFault::Unreachable(format!("status {status}"))),
            Some(value) => match value.get("error") {
                Some(Value::String(text)) => Err(TransportFault::Refused(self.quote(text))),
                Some(Value::Null) | None if status == StatusCode::OK => Ok(value),
                Some(Value::Null) | None => {
                    Err(TransportFault::Nonsense(format!("status {status} without an error")))
                }
                // Both nodes write their error as text. This one comes from a proxy.
                Some(_) => Err(TransportFault::Unreachable(self.quote(&value.to_string()))),
            },
            None if matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY) => {
                Err(TransportFault::Refused(self.quote(&String::from_utf8_lossy(bytes))))
            }
            None if from_node => Err(TransportFault::Nonsense(format!("status {status}, no JSON object"))),
            None => Err(TransportFault::Unreachable(format!("status {status}"))),
        }
    }

    /// The node's text, shortened and on one line, with the endpoint's parameters masked.
    fn quote(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (_, value) in &self.endpoint.parameters {
            if !value.is_empty() {
                text = text.replace(value.as_str(), "****");
            }
        }
        text.chars().map(|it| if it.is_control() { ' ' } else { it }).take(MAX_QUOTE).collect()
    }
}

fn lost(error: reqwest::Error) -> TransportFault {
    if error.is_timeout() {
        TransportFault::TimedOut
    } else {
        TransportFault::Unreachable(outbound::chain(&error.without_url()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        let url = "http://user:pass@rpc.example/KEY?key=s3cret".parse().unwrap();
        let endpoint = NodeEndpoint::from_url(url, Duration::from_secs(1)).unwrap();
        let label = endpoint.label();
        Node::new(endpoint, label).unwrap()
    }

    #[test]
    fn a_label_shows_no_key() {
        let node = node();
        assert_eq!(node.label(), "rpc.example:80");
        assert_eq!(node.endpoint.parameters, [("key".to_owned(), "s3cret".to_owned())]);
        let printed = format!("{:?}", node.endpoint);
        assert!(
            !printed.contains("s3cret") && !printed.contains("pass") && !printed.contains("KEY"),
            "{printed}"
        );
    }

    #[test]
    fn a_parameter_is_masked_if_the_node_repeats_it() {
        let fault = node().judge(StatusCode::OK, br#"{"error":"key s3cret is over its quota"}"#);
        assert_eq!(fault, Err(TransportFault::Refused("key **** is over its quota".to_owned())));
    }

    #[test]
    fn only_the_nodes_own_statuses_are_its_word() {
        let node = node();
        let refused =
            |status| matches!(node.judge(status, br#"{"error":"Fork"}"#), Err(TransportFault::Refused(_)));
        assert!(refused(StatusCode::OK) && refused(StatusCode::INTERNAL_SERVER_ERROR));
        assert!(!refused(StatusCode::TOO_MANY_REQUESTS) && !refused(StatusCode::BAD_GATEWAY));
        let text = node.judge(StatusCode::UNPROCESSABLE_ENTITY, b"Failed to deserialize\nthe JSON body");
        assert_eq!(text, Err(TransportFault::Refused("Failed to deserialize the JSON body".to_owned())));
        let proxy = node.judge(StatusCode::OK, br#"{"error":500,"message":"No Node available"}"#);
        assert!(matches!(proxy, Err(TransportFault::Unreachable(_))), "{proxy:?}");
        assert!(matches!(node.judge(StatusCode::OK, b"<html>"), Err(TransportFault::Nonsense(_))));
        assert!(matches!(node.judge(StatusCode::OK, b"[]"), Err(TransportFault::Nonsense(_))));
    }
}
