//! Who connects: the one place where the gateway takes a client's address from.

use std::net::IpAddr;

use pingora::prelude::Session;

/// The address that the client connects from; `None` if it does not connect by IP.
pub(super) fn address(session: &Session) -> Option<IpAddr> {
    session.client_addr().and_then(|it| it.as_inet()).map(std::net::SocketAddr::ip)
}
