//! The proxies in front of the gateway that are believed about the clients they speak for.

use std::net::IpAddr;

use ipnet::IpNet;

/// The networks of trusted proxies; none by default.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    #[must_use]
    pub const fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether a proxy at `address` is trusted.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|it| it.contains(&address))
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether some network is the whole internet.
    #[must_use]
    pub fn is_everybody(&self) -> bool {
        self.0.iter().any(|it| it.prefix_len() == 0)
    }
}
