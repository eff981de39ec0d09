//! What one RPC call is answered over HTTP.

use serde_json::Value;

use super::rpc;

/// What goes back to the client.
pub(super) struct HttpAnswer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl HttpAnswer {
    /// A node answers everything with a 200, errors too.
    pub(super) fn json(answer: &Value) -> Self {
        Self { status: 200, content_type: "application/json", body: rpc::pretty(answer) }
    }
}
