//! Where a node is, and what must not be said about it: its URL and parameters may hold keys.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use url::Url;

/// Certificates of authorities that are believed about who a node is, beside those that browsers
/// believe.
pub type Authorities = Arc<[CertificateDer<'static>]>;

/// Where a node listens and what each call to it carries.
#[derive(Clone)]
pub struct NodeEndpoint {
    /// `http` or `https`; the query is not used, see [`NodeEndpoint::from_url`].
    pub url: Url,
    /// Sent as fields of each call's body, where public nodes look for a key. Secret.
    pub parameters: Vec<(String, String)>,
    /// For one whole call, connecting included. Some calls have less: they are quick or useless.
    pub timeout: Duration,
    /// Whether its word alone is enough to take a payment as confirmed. Others need agreement.
    pub trusted: bool,
    /// For `https`.
    pub authorities: Authorities,
}

impl NodeEndpoint {
    /// The endpoint that a configured URL names, trusted: what its query says travels in the body of each
    /// call (`https://rpc.example.net?key=…`).
    ///
    /// # Errors
    /// [`NodeSetupError::Scheme`], when it is neither `http` nor `https`.
    pub fn from_url(mut url: Url, timeout: Duration) -> Result<Self, NodeSetupError> {
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(NodeSetupError::Scheme(url.scheme().to_owned()));
        }
        let parameters = url.query_pairs().into_owned().collect();
        url.set_query(None);
        url.set_fragment(None);
        Ok(Self { url, parameters, timeout, trusted: true, authorities: Authorities::default() })
    }

    /// Host and port: what logs, metrics and errors call the node. Never a key, wherever in the
    /// URL it hides.
    #[must_use]
    pub fn label(&self) -> String {
        let host = self.url.host_str().unwrap_or("?");
        self.url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }
}

impl fmt::Debug for NodeEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeEndpoint")
            .field("node", &self.label())
            .field("timeout", &self.timeout)
            .field("trusted", &self.trusted)
            .finish_non_exhaustive()
    }
}

/// Why no client can be made for these nodes.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NodeSetupError {
    #[error("no node is named")]
    NoNodes,
    #[error("a node's URL starts with http:// or https://, not {0}:")]
    Scheme(String),
    #[error("a node's WebSocket URL starts with ws:// or wss://, not {0}:")]
    SocketScheme(String),
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}
