//! The sockets of the listeners: bound here, or handed over by systemd.
//!
//! A new process can take over from an old one without a refused connection in two ways. Systemd keeps the
//! sockets and hands them to each process in turn (`LISTEN_FDS`). Or, with `listen.reuse_port`, both processes
//! listen on the same address, and while the old one drains, the system gives new connections to the new one.

use std::io;
use std::net::{SocketAddr, TcpListener as InheritedListener};
use std::os::fd::{AsFd, OwnedFd};

use listenfd::ListenFd;
use tokio::net::{TcpListener, TcpSocket};

use crate::cli::failure::Failure;

/// How many connections may wait to be accepted, if the system allows as many.
const BACKLOG: u32 = 1024;

/// The name of a listener, by which systemd can name its socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Name {
    Http,
    Tls,
    Admin,
    Facilitator,
}

impl Name {
    const ALL: [Self; 4] = [Self::Http, Self::Tls, Self::Admin, Self::Facilitator];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tls => "tls",
            Self::Admin => "admin",
            Self::Facilitator => "facilitator",
        }
    }

    /// The key of the configuration that says where it listens.
    const fn key(self) -> &'static str {
        match self {
            Self::Http => "listen.http",
            Self::Tls => "listen.tls.address",
            Self::Admin => "admin.listen",
            Self::Facilitator => "facilitator.listen",
        }
    }
}

/// A socket that systemd has handed over.
#[derive(Debug)]
struct Handed {
    /// The name that its unit gives it; that of the unit if it gives none.
    name: String,
    address: SocketAddr,
    listener: InheritedListener,
}

/// The sockets that systemd has handed over and that no listener has taken yet.
#[derive(Debug, Default)]
pub(super) struct HandedOver(Vec<Handed>);

impl HandedOver {
    /// Takes the sockets that the environment names. Call it while the process has one thread: the variables are
    /// removed from the environment.
    ///
    /// # Errors
    /// [`Failure::Config`]: one of them is no TCP socket, or the variables contradict one another.
    pub(super) fn take() -> Result<Self, Failure> {
        let fault = |error: io::Error| Failure::Config(format!("sockets from systemd: {error}"));
        let names: Vec<_> =
            sd_notify::listen_fds_with_names().map_err(fault)?.map(|(_, name)| name).collect();
        let mut sockets = ListenFd::from_env();
        let mut handed = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            if let Some(listener) = sockets.take_tcp_listener(index).map_err(fault)? {
                listener.set_nonblocking(true).map_err(fault)?;
                let address = listener.local_addr().map_err(fault)?;
                handed.push(Handed { name, address, listener });
            }
        }
        Ok(Self(handed))
    }

    /// The socket for a listener: one with its name, or else one at its address.
    fn for_listener(&mut self, name: Name, address: SocketAddr) -> Option<Handed> {
        let position = self.0.iter().position(|it| it.name == name.as_str()).or_else(|| {
            self.0.iter().position(|it| {
                let is_named = Name::ALL.iter().any(|other| it.name == other.as_str());
                !is_named && is_at(it.address, address)
            })
        })?;
        Some(self.0.remove(position))
    }

    /// Says whether there was a listener for every socket. One that nobody accepts from would keep its clients
    /// waiting.
    ///
    /// # Errors
    /// [`Failure::Config`], which names one.
    pub(super) fn all_taken(&self) -> Result<(), Failure> {
        let Some(Handed { name, address, .. }) = self.0.first() else { return Ok(()) };
        let names = Name::ALL.map(Name::as_str).join(", ");
        Err(Failure::Config(format!(
            "systemd hands over a socket `{name}` at {address}, where no listener of the configuration is: let its \
             `FileDescriptorName` be one of {names}, or take it out of the socket unit"
        )))
    }
}

/// Whether a socket at `bound` is what `wanted` asks for. Systemd binds `[::]`, which is every address, where a port
/// alone is given.
fn is_at(bound: SocketAddr, wanted: SocketAddr) -> bool {
    bound == wanted
        || (bound.port() == wanted.port() && bound.ip().is_unspecified() && wanted.ip().is_unspecified())
}

/// The socket of a listener, before the gateway can serve.
#[derive(Debug)]
pub(super) enum Socket {
    Listens(TcpListener),
    /// Other processes listen there too. It does not before it can serve: the system would give it connections.
    Shared(Name, TcpSocket),
}

impl Socket {
    /// The socket of the listener `name`, which the configuration wants at `address`. `is_shared`: other processes of
    /// this user may listen there too.
    ///
    /// # Errors
    /// [`Failure::Unavailable`]: somebody else listens there.
    pub(super) async fn of(
        name: Name,
        address: SocketAddr,
        is_shared: bool,
        handed_over: &mut HandedOver,
    ) -> Result<Self, Failure> {
        let fault = |error| unavailable(name, address, &error);
        if let Some(Handed { address, listener, .. }) = handed_over.for_listener(name, address) {
            tracing::info!(key = name.key(), %address, "the socket is systemd's");
            return TcpListener::from_std(listener).map(Self::Listens).map_err(fault);
        }
        if !is_shared {
            return TcpListener::bind(address).await.map(Self::Listens).map_err(fault);
        }
        let is_free = bound(address, false).is_ok();
        let socket = bound(address, true).map_err(fault)?;
        if !is_free {
            tracing::warn!(
                key = name.key(), %address,
                "another process of this user listens there: both get connections until one of them ends"
            );
        }
        Ok(Self::Shared(name, socket))
    }

    /// Where new connections can be led away from, see [`Others`].
    pub(super) fn for_others(&self) -> Option<OwnedFd> {
        match self {
            Self::Listens(_) => None,
            Self::Shared(_, socket) => socket.as_fd().try_clone_to_owned().ok(),
        }
    }

    /// Listens from here on.
    ///
    /// # Errors
    /// [`Failure::Unavailable`]: somebody else listens there since.
    pub(super) fn listen(self) -> Result<TcpListener, Failure> {
        match self {
            Self::Listens(listener) => Ok(listener),
            Self::Shared(name, socket) => {
                let address = socket.local_addr();
                socket.listen(BACKLOG).map_err(|error| match address {
                    Ok(address) => unavailable(name, address, &error),
                    Err(_) => Failure::Unavailable(format!("`{}`: {error}", name.key())),
                })
            }
        }
    }
}

fn bound(address: SocketAddr, is_shared: bool) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(is_shared)?;
    socket.bind(address)?;
    Ok(socket)
}

fn unavailable(name: Name, address: SocketAddr, error: &io::Error) -> Failure {
    let key = name.key();
    Failure::Unavailable(format!(
        "`{key}`: cannot listen on {address}: {error}; is it in use, or may this user not use ports below 1024?"
    ))
}

/// The shared sockets of this process, from which new connections can be led to the other process.
#[derive(Debug)]
pub(super) struct Others(pub(super) Vec<OwnedFd>);

impl Others {
    /// Has the system give new connections to the other process, if there is one or as soon as there is one. Without
    /// this, it gives some of them to both, and resets those whose handshake is not over when this one closes.
    pub(super) fn take_over(self) {
        for socket in &self.0 {
            if let Err(error) = lead_to_second(socket) {
                tracing::warn!(%error, "new connections are not led to the other process");
            }
        }
        // Dropped here: a socket listens as long as any copy of it is open.
    }
}

/// Of the sockets at one address, which are in the order in which they began to listen, has the second get the new
/// connections. A group of one ignores that.
#[cfg(target_os = "linux")]
fn lead_to_second(socket: &OwnedFd) -> nix::Result<()> {
    use nix::libc::{sock_filter, sock_fprog};
    use nix::sys::socket::{setsockopt, sockopt};

    /// `BPF_RET | BPF_K`: return the constant.
    const RETURN: u16 = 0x06;
    let mut program = sock_filter { code: RETURN, jt: 0, jf: 0, k: 1 };
    let program = sock_fprog { len: 1, filter: std::ptr::from_mut(&mut program) };
    setsockopt(socket, sockopt::AttachReusePortCbpf, &program)
}

/// Other systems give new connections to the one that began to listen last, or have no means.
#[cfg(not(target_os = "linux"))]
fn lead_to_second(_: &OwnedFd) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_at_the_address_that_is_wanted_or_at_every_address() {
        let is_at = |bound: &str, wanted: &str| is_at(bound.parse().unwrap(), wanted.parse().unwrap());
        for (bound, wanted) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::]:80", "0.0.0.0:80"),
            ("0.0.0.0:80", "[::]:80"),
            ("[::]:80", "[::]:80"),
        ] {
            assert!(is_at(bound, wanted), "{bound} {wanted}");
        }
        for (bound, wanted) in [
            ("127.0.0.1:80", "127.0.0.1:81"),
            ("127.0.0.1:80", "127.0.0.2:80"),
            ("[::]:80", "127.0.0.1:80"),
            ("127.0.0.1:80", "0.0.0.0:80"),
        ] {
            assert!(!is_at(bound, wanted), "{bound} {wanted}");
        }
    }
}
