//! The address of a node. Its URL and parameters may hold keys, so neither is ever printed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::{Host, Url};

/// Certificates of authorities that are trusted for nodes, in addition to the usual web authorities.
pub type Authorities = Arc<[CertificateDer<'static>]>;

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// [`NodeSetupError::Authorities`].
pub fn read_authorities(path: &Path) -> Result<Authorities, NodeSetupError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let why = match read {
        Ok(found) if !found.is_empty() => return Ok(found.into()),
        Ok(_none) => "there is no certificate in it".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(NodeSetupError::Authorities { path: path.to_owned(), why })
}

/// The address of a node and the parameters of each call to it.
#[derive(Clone)]
pub struct NodeEndpoint {
    /// `http` or `https`, without a query (see [`NodeEndpoint::from_url`]).
    pub url: Url,
    /// Sent as fields of each call's body, where public nodes expect a key. Secret.
    pub parameters: Vec<(String, String)>,
    /// The time for one whole call, including the connection. Some calls have less.
    pub timeout: Duration,
    /// Whether this node alone can confirm a payment. Nodes that are not trusted have to agree.
    pub trusted: bool,
    /// Used for `https`.
    pub authorities: Authorities,
}

impl NodeEndpoint {
    /// The endpoint at a configured URL, trusted. The URL's query (`https://rpc.example.net?key=…`) is
    /// sent in the body of each call.
    ///
    /// # Errors
    /// [`NodeSetupError::Scheme`] if the URL is neither `http` nor `https`.
    pub fn from_url(mut url: Url, timeout: Duration) -> Result<Self, NodeSetupError> {
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(NodeSetupError::Scheme(url.scheme().to_owned()));
        }
        let parameters = url.query_pairs().into_owned().collect();
        url.set_query(None);
        url.set_fragment(None);
        Ok(Self { url, parameters, timeout, trusted: true, authorities: Authorities::default() })
    }

    /// Makes the endpoint's `https` trust these authorities too.
    #[must_use]
    pub fn believing(self, authorities: Authorities) -> Self {
        Self { authorities, ..self }
    }

    /// Host and port: the node's name in logs, metrics and errors. It never contains a key.
    #[must_use]
    pub fn label(&self) -> String {
        host_and_port(&self.url)
    }
}

pub(super) fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Who runs the node at `url`. Nodes of one provider count once in a quorum, so a provider is a host
/// name, whatever the port and the key. On the operator's own network each port is a node of its own.
#[must_use]
pub fn provider(url: &Url) -> String {
    if is_near(url) {
        return host_and_port(url);
    }
    // A host name is the same in upper case and with a dot at its end.
    url.host_str().unwrap_or("?").trim_end_matches('.').to_ascii_lowercase()
}

/// Whether a URL leads to this machine or its own network: a node there is the operator's.
#[must_use]
pub fn is_near(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Some(Host::Ipv6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        // A name without a dot is looked up in the operator's own network, like a container's.
        Some(Host::Domain(name)) => {
            !name.contains('.') || [".localhost", ".internal", ".local"].iter().any(|it| name.ends_with(it))
        }
        None => false,
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

/// Why a client cannot be set up for these nodes.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NodeSetupError {
    #[error("no node is given")]
    NoNodes,
    #[error("a node's URL must start with http:// or https://, not {0}:")]
    Scheme(String),
    #[error("a node's WebSocket URL must start with ws:// or wss://, not {0}:")]
    SocketScheme(String),
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error("{}: {why}", path.display())]
    Authorities { path: PathBuf, why: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two URLs that differ only in their key were taken for two providers, so that one provider alone
    /// made the quorum of two that confirms a payment.
    #[test]
    fn a_provider_is_a_host_whatever_its_port_and_key() {
        let provider_of = |url: &str| provider(&url.parse().unwrap());
        for same in [
            "https://rpc.example.net?key=2",
            "http://RPC.Example.net:7076/proxy",
            "https://rpc.example.net.:81",
        ] {
            assert_eq!(provider_of(same), provider_of("https://rpc.example.net?key=1"), "{same}");
        }
        assert_eq!(provider_of("https://203.0.113.7:81"), provider_of("http://203.0.113.7"));
        assert_ne!(provider_of("https://other.example.net"), provider_of("https://rpc.example.net"));
        // One machine of the operator's may run several nodes.
        for (one, other) in [
            ("http://127.0.0.1:7076", "http://127.0.0.1:7077"),
            ("http://[::1]:7076", "http://[::1]:7077"),
            ("http://10.0.0.5:7076", "http://10.0.0.5:7077"),
            ("http://nano-node:7076", "http://nano-node:7077"),
        ] {
            assert_ne!(provider_of(one), provider_of(other));
            assert_eq!(provider_of(one), provider_of(&format!("{one}?key=2")));
        }
    }
}
