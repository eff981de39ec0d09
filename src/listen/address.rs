//! Where a listener is: at a TCP address, or at a Unix socket.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The longest path of a Unix socket. The system has room for 107 bytes (unix(7)), and a socket is made under a
/// longer name before it gets its own.
pub const LONGEST_SOCKET_PATH: usize = 90;

/// Where a listener is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum ListenAddress {
    Inet(SocketAddr),
    Unix(UnixAddress),
}

/// A Unix socket in the file system.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct UnixAddress {
    pub path: PathBuf,
    /// The permissions of the socket's file; `None`: what the process's umask leaves.
    pub mode: Option<u32>,
}

impl ListenAddress {
    /// Whether nobody on another machine can connect.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        match self {
            Self::Inet(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// The path of a Unix socket.
    #[must_use]
    pub fn socket_path(&self) -> Option<&Path> {
        match self {
            Self::Inet(_) => None,
            Self::Unix(it) => Some(&it.path),
        }
    }

    /// Whether two sockets cannot both listen. One for every address of IPv6 also listens at every address of IPv4
    /// (RFC 3493 section 5.3), as sockets of this program do.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Inet(one), Self::Inet(other)) => {
                one.port() == other.port()
                    && one.port() != 0
                    && (takes_in(one, other) || takes_in(other, one))
            }
            (Self::Unix(one), Self::Unix(other)) => one.path == other.path,
            (Self::Inet(_), Self::Unix(_)) | (Self::Unix(_), Self::Inet(_)) => false,
        }
    }
}

/// Whether a socket for `whole` gets what is sent to the address of `part`.
fn takes_in(whole: &SocketAddr, part: &SocketAddr) -> bool {
    whole.ip() == part.ip() || whole.ip().is_unspecified() && (whole.is_ipv6() || part.is_ipv4())
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(it) => write!(f, "unix:{}", it.path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_take_each_others_addresses() {
        let inet = |text: &str| ListenAddress::Inet(text.parse().unwrap());
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
            assert_eq!(!inet(one).overlaps(&inet(other)), together, "{one} and {other}");
        }
        let unix = |path: &str, mode| ListenAddress::Unix(UnixAddress { path: path.into(), mode });
        assert!(unix("/run/a", None).overlaps(&unix("/run/a", Some(0o600))));
        assert!(!unix("/run/a", None).overlaps(&unix("/run/b", None)));
        assert!(!unix("/run/a", None).overlaps(&inet("127.0.0.1:80")));
    }
}
