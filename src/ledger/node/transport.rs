//! One exchange with one node: the HTTP around a call, its limits, and the node's health.

use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value};

use super::breaker::{Breaker, BreakerState};
use super::lag::Lag;
use super::pace::Pace;
use super::{NodeEndpoint, NodeSetupError};
use crate::clock::Stopwatch;
use crate::outbound;

/// The longest answer that is read. A `block_info` has 1.5 KiB, the longest list that is asked for
/// some hundred.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// How much of a node's own words an error repeats.
const MAX_QUOTE: usize = 200;

/// Connecting is a round trip or two; whoever takes longer is not there.
const MAX_CONNECT: Duration = Duration::from_secs(3);

/// The C++ node closes each connection itself; an older idle one may be about to be closed.
const IDLE: Duration = Duration::from_secs(10);

/// Why one node gave no answer that can be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Fault {
    #[error("no answer in time")]
    TimedOut,
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// The node says no, in its own words.
    #[error("says {0:?}")]
    Refused(String),
    /// What came is not what a node answers.
    #[error("answers with nonsense: {0}")]
    Nonsense(String),
    /// What came has the right form and cannot be true.
    #[error("is not believed: {0}")]
    NotBelieved(String),
}

impl Fault {
    /// Whether the node did answer, if only with a no.
    pub(super) const fn is_answer(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::TimedOut | Self::Unreachable(_) | Self::Nonsense(_) | Self::NotBelieved(_) => false,
        }
    }

    /// The node's no, with the node's name.
    pub(super) fn refusal(&self, label: &str) -> Option<String> {
        match self {
            Self::Refused(text) => Some(format!("{label}: {text}")),
            Self::TimedOut | Self::Unreachable(_) | Self::Nonsense(_) | Self::NotBelieved(_) => None,
        }
    }
}

/// Whether a node is of use: what calls, probes and comparisons have shown.
#[derive(Debug)]
pub(super) struct Health {
    started: Stopwatch,
    /// It answered, and since then neither did a probe fail nor the breaker open.
    up: AtomicBool,
    breaker: Breaker,
    pub(super) pace: Pace,
    /// How many blocks it knows to be confirmed, as it last said.
    cemented: AtomicU64,
    /// It knows far fewer than the others, or than its own peers.
    behind: AtomicBool,
    /// How it is beside its own peers. Held for a few instructions, never across an await.
    lag: Mutex<Lag>,
}

impl Health {
    fn new() -> Self {
        Self {
            started: Stopwatch::start(),
            up: AtomicBool::new(false),
            breaker: Breaker::default(),
            pace: Pace::default(),
            cemented: AtomicU64::new(0),
            behind: AtomicBool::new(false),
            lag: Mutex::default(),
        }
    }

    /// What is known of the node beside its own peers.
    pub(super) fn lag(&self) -> MutexGuard<'_, Lag> {
        self.lag.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since the node was set up.
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

    /// Whether it would be asked.
    pub(super) fn would_admit(&self) -> bool {
        self.breaker.would_admit(self.started.elapsed())
    }

    /// Whether it may be asked, by this call.
    pub(super) fn admit(&self) -> bool {
        self.breaker.admit(self.started.elapsed())
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

    /// Leaves the node alone for a while, though it answers.
    pub(super) fn trip(&self) {
        self.breaker.trip(self.started.elapsed());
        self.down();
    }
}

/// One node.
pub(super) struct Node {
    endpoint: NodeEndpoint,
    label: String,
    http: reqwest::Client,
    pub(super) health: Health,
}

impl Node {
    pub(super) fn new(endpoint: NodeEndpoint, label: String) -> Result<Self, NodeSetupError> {
        if !matches!(endpoint.url.scheme(), "http" | "https") {
            return Err(NodeSetupError::Scheme(endpoint.url.scheme().to_owned()));
        }
        let http = outbound::http(&endpoint.authorities)
            .map_err(|error| NodeSetupError::Tls(error.to_string()))?
            .connect_timeout(endpoint.timeout.min(MAX_CONNECT))
            .pool_idle_timeout(IDLE)
            // A node does not redirect, and a key must not follow where it points.
            .redirect(reqwest::redirect::Policy::none())
            // Money is asked about where the configuration says, not where the environment says.
            .no_proxy();
        let http = http.build().map_err(|error| NodeSetupError::Tls(chain(&error)))?;
        Ok(Self { endpoint, label, http, health: Health::new() })
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }

    pub(super) const fn is_trusted(&self) -> bool {
        self.endpoint.trusted
    }

    /// Whose word it is: two accounts with one provider have one voice.
    pub(super) fn voice(&self) -> String {
        self.endpoint.label()
    }

    /// How long one call may take at most, as configured.
    pub(super) const fn timeout(&self) -> Duration {
        self.endpoint.timeout
    }

    /// Sends one call and gives back the node's JSON, which is an object without an `error`.
    pub(super) async fn ask(
        &self,
        action: &str,
        fields: Map<String, Value>,
        patience: Duration,
    ) -> Result<Value, Fault> {
        let mut body = Map::new();
        for (name, value) in &self.endpoint.parameters {
            body.insert(name.clone(), value.as_str().into());
        }
        body.extend(fields);
        body.insert("action".to_owned(), action.into());
        let exchange = self.exchange(Value::Object(body).to_string());
        match tokio::time::timeout(patience, exchange).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(Fault::TimedOut),
        }
    }

    async fn exchange(&self, body: String) -> Result<Value, Fault> {
        let request =
            self.http.post(self.endpoint.url.clone()).header(CONTENT_TYPE, "application/json").body(body);
        let mut response = request.send().await.map_err(lost)?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            if bytes.len().saturating_add(chunk.len()) > MAX_ANSWER {
                return Err(Fault::Nonsense(format!("more than {MAX_ANSWER} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        self.judge(status, &bytes)
    }

    /// The C++ node answers 200 whatever it says; RsNano answers 400 and 422 in plain text where
    /// it cannot read the call (trap 7). Any other status comes from something before the node.
    fn judge(&self, status: StatusCode, bytes: &[u8]) -> Result<Value, Fault> {
        let json = serde_json::from_slice::<Value>(bytes).ok().filter(Value::is_object);
        let from_node = matches!(
            status,
            StatusCode::OK
                | StatusCode::BAD_REQUEST
                | StatusCode::UNPROCESSABLE_ENTITY
                | StatusCode::INTERNAL_SERVER_ERROR
        );
        match json {
            Some(_) if !from_node => Err(Fault::Unreachable(format!("status {status}"))),
            Some(value) => match value.get("error") {
                Some(Value::String(text)) => Err(Fault::Refused(self.quote(text))),
                Some(Value::Null) | None if status == StatusCode::OK => Ok(value),
                Some(Value::Null) | None => Err(Fault::Nonsense(format!("status {status} without an error"))),
                Some(other) => Err(Fault::Refused(self.quote(&other.to_string()))),
            },
            None if matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY) => {
                Err(Fault::Refused(self.quote(&String::from_utf8_lossy(bytes))))
            }
            None if from_node => Err(Fault::Nonsense(format!("status {status}, no JSON object"))),
            None => Err(Fault::Unreachable(format!("status {status}"))),
        }
    }

    /// The node's words, short and on one line; a parameter that they repeat is masked.
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

fn lost(error: reqwest::Error) -> Fault {
    if error.is_timeout() { Fault::TimedOut } else { Fault::Unreachable(chain(&error.without_url())) }
}

/// An error with its causes; reqwest itself says only that it failed.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
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
    fn a_parameter_is_masked_where_the_node_repeats_it() {
        let fault = node().judge(StatusCode::OK, br#"{"error":"key s3cret is over its quota"}"#);
        assert_eq!(fault, Err(Fault::Refused("key **** is over its quota".to_owned())));
    }

    #[test]
    fn only_the_nodes_own_statuses_are_its_word() {
        let node = node();
        let refused = |status| matches!(node.judge(status, br#"{"error":"Fork"}"#), Err(Fault::Refused(_)));
        assert!(refused(StatusCode::OK) && refused(StatusCode::INTERNAL_SERVER_ERROR));
        assert!(!refused(StatusCode::TOO_MANY_REQUESTS) && !refused(StatusCode::BAD_GATEWAY));
        let text = node.judge(StatusCode::UNPROCESSABLE_ENTITY, b"Failed to deserialize\nthe JSON body");
        assert_eq!(text, Err(Fault::Refused("Failed to deserialize the JSON body".to_owned())));
        assert!(matches!(node.judge(StatusCode::OK, b"<html>"), Err(Fault::Nonsense(_))));
        assert!(matches!(node.judge(StatusCode::OK, b"[]"), Err(Fault::Nonsense(_))));
    }
}
