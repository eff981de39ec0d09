//! The proxies in front of the gateway that are believed about the clients they speak for.

use std::net::IpAddr;

use ipnet::IpNet;

use super::socket::Peer;

/// The networks of trusted proxies, and whether those that connect over a Unix socket are trusted too; none by
/// default.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    unix: bool,
}

impl TrustedProxies {
    #[must_use]
    pub const fn new(networks: Vec<IpNet>) -> Self {
        Self { networks, unix: false }
    }

    /// The same, and whoever connects over a Unix socket.
    #[must_use]
    pub fn and_unix(self) -> Self {
        Self { unix: true, ..self }
    }

    /// Whether the other end of a connection is trusted.
    #[must_use]
    pub fn trusts(&self, peer: Peer) -> bool {
        match peer {
            Peer::Inet(address) => self.contains(address.ip()),
            Peer::Unix => self.unix,
        }
    }

    /// Whether a proxy at `address` is trusted.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|it| it.contains(&address))
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    /// Whether some network is the whole internet.
    #[must_use]
    pub fn is_everybody(&self) -> bool {
        self.networks.iter().any(|it| it.prefix_len() == 0)
    }
}
