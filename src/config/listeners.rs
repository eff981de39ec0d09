//! Listeners that take each other's addresses.

use std::net::SocketAddr;

use super::judge::Judge;
use super::{FacilitatorConfig, Listen};

/// Reports every listener whose address another listener has already; `None` stands for one with a fault of its own.
pub(super) fn apart(
    judge: &mut Judge<'_>,
    listen: Option<&Listen>,
    admin: Option<SocketAddr>,
    facilitator: Option<&FacilitatorConfig>,
) {
    let own = [
        ("listen.http", "http", listen.and_then(|it| it.http)),
        ("listen.tls.address", "tls", listen.and_then(|it| it.tls.as_ref()).map(|it| it.address)),
        ("admin.listen", "admin.listen", admin),
        ("facilitator.listen", "facilitator.listen", facilitator.map(|it| it.address)),
    ];
    let mut taken: Vec<(&str, SocketAddr)> = Vec::new();
    for (place, name, address) in own {
        let Some(address) = address else { continue };
        if let Some((other, at)) = taken.iter().find(|(_, it)| overlap(*it, address)) {
            let message = match at.ip().is_unspecified() {
                _ if *at == address => format!("`{other}` listens there already"),
                true => format!("`{other}` listens there already: {at} takes in {address}"),
                false => format!("`{other}` listens there already: {address} takes in {at}"),
            };
            judge.fault(place, message, "give each listener its own port");
        }
        taken.push((name, address));
    }
}

/// Whether two sockets cannot both listen. One for every address of IPv6 also listens at every address of IPv4 (RFC 3493
/// section 5.3), as sockets of this program do.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let takes_in = |whole: SocketAddr, part: SocketAddr| {
        whole.ip() == part.ip() || whole.ip().is_unspecified() && (whole.is_ipv6() || part.is_ipv4())
    };
    one.port() == other.port() && one.port() != 0 && (takes_in(one, other) || takes_in(other, one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_take_each_others_addresses() {
        for (one, other, together) in [
            ("127.0.0.1:80", "127.0.0.1:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", false),
            ("127.0.0.1:80", "0.0.0.0:80", false),
            ("[::]:80", "127.0.0.1:80", false),
            ("[::]:80", "[::1]:80", false),
            ("[::]:80", "0.0.0.0:80", false),
            ("127.0.0.1:80", "127.0.0.2:80", true),
            ("0.0.0.0:80", "[::1]:80", true),
            ("127.0.0.1:80", "[::1]:80", true),
            ("0.0.0.0:80", "0.0.0.0:81", true),
            ("127.0.0.1:0", "127.0.0.1:0", true),
        ] {
            assert_eq!(!overlap(one.parse().unwrap(), other.parse().unwrap()), together, "{one} and {other}");
        }
    }
}
