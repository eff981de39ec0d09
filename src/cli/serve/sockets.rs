//! The sockets of the listeners: bound here, or handed over by systemd.
//!
//! A new process can take over from an old one without a refused connection in two ways. Systemd keeps the
//! sockets and hands them to each process in turn (`LISTEN_FDS`). Or, with `listen.reuse_port`, both processes
//! listen at the same address, and while the old one drains, the system gives new connections to the new one. A Unix
//! socket's new process puts its own file in the place of the old one's: from that moment it has the new connections.

use std::io;
use std::net::{SocketAddr, TcpListener as InheritedListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener as InheritedUnixListener;

use listenfd::ListenFd;
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::socket_file::{self, SocketFile};
use crate::cli::failure::Failure;
use crate::listen::{ListenAddress, Listener, UnixAddress};

/// How many connections may wait to be accepted, if the system allows as many.
const BACKLOG: u32 = 1024;

/// The name of a listener, by which systemd can name its socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Name {
    Http,
    Tls,
    Redirect,
    Admin,
    Facilitator,
}

impl Name {
    const ALL: [Self; 5] = [Self::Http, Self::Tls, Self::Redirect, Self::Admin, Self::Facilitator];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tls => "tls",
            Self::Redirect => "redirect",
            Self::Admin => "admin",
            Self::Facilitator => "facilitator",
        }
    }

    /// The key of the configuration that says where it listens.
    const fn key(self) -> &'static str {
        match self {
            Self::Http => "listen.http",
            Self::Tls => "listen.tls.address",
            Self::Redirect => "listen.redirect",
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
    address: ListenAddress,
    listener: Inherited,
}

/// It is the runtime's once there is one.
#[derive(Debug)]
enum Inherited {
    Tcp(InheritedListener),
    Unix(InheritedUnixListener),
}

impl Inherited {
    /// The socket at a place among those that the environment names; `None` if there is none.
    fn take(sockets: &mut ListenFd, index: usize) -> io::Result<Option<(ListenAddress, Self)>> {
        // One of another kind is left where it is.
        if let Ok(Some(unix)) = sockets.take_unix_listener(index) {
            unix.set_nonblocking(true)?;
            // In the abstract namespace, or without any name: then only the unit's name says what it is for.
            let path = unix.local_addr()?.as_pathname().unwrap_or(std::path::Path::new("")).to_owned();
            return Ok(Some((ListenAddress::Unix(UnixAddress { path, mode: None }), Self::Unix(unix))));
        }
        let Some(tcp) = sockets.take_tcp_listener(index)? else { return Ok(None) };
        tcp.set_nonblocking(true)?;
        Ok(Some((ListenAddress::Inet(tcp.local_addr()?), Self::Tcp(tcp))))
    }

    fn into_listener(self) -> io::Result<Listener> {
        match self {
            Self::Tcp(it) => TcpListener::from_std(it).map(Listener::from),
            Self::Unix(it) => UnixListener::from_std(it).map(Listener::from),
        }
    }
}

/// The sockets that systemd has handed over and that no listener has taken yet.
#[derive(Debug, Default)]
pub(super) struct HandedOver(Vec<Handed>);

impl HandedOver {
    /// Takes the sockets that the environment names. Call it while the process has one thread: the variables are
    /// removed from the environment.
    ///
    /// # Errors
    /// [`Failure::Config`]: one of them is no socket that accepts connections, or the variables contradict one another.
    pub(super) fn take() -> Result<Self, Failure> {
        let fault = |error: io::Error| Failure::Config(format!("sockets from systemd: {error}"));
        let names: Vec<_> =
            sd_notify::listen_fds_with_names().map_err(fault)?.map(|(_, name)| name).collect();
        let mut sockets = ListenFd::from_env();
        let mut handed = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            if let Some((address, listener)) = Inherited::take(&mut sockets, index).map_err(fault)? {
                handed.push(Handed { name, address, listener });
            }
        }
        Ok(Self(handed))
    }

    /// The sockets for the addresses of a listener, in their order. One with its name and at the address comes first,
    /// then any with its name, then one without a listener's name at the address.
    fn for_listener(&mut self, name: Name, addresses: &[ListenAddress]) -> Vec<Option<Handed>> {
        type Way<'a> = &'a dyn Fn(&Handed, &ListenAddress) -> bool;
        let is_named = |it: &Handed| it.name == name.as_str();
        let has_no_name = |it: &Handed| Name::ALL.iter().all(|other| it.name != other.as_str());
        let mut found: Vec<Option<Handed>> = addresses.iter().map(|_| None).collect();
        let ways: [Way<'_>; 3] = [
            &|it, address| is_named(it) && is_at(&it.address, address),
            &|it, _| is_named(it),
            &|it, address| has_no_name(it) && is_at(&it.address, address),
        ];
        for way in ways {
            for (address, place) in addresses.iter().zip(&mut found).filter(|(_, place)| place.is_none()) {
                let position = self.0.iter().position(|it| way(it, address));
                *place = position.map(|it| self.0.remove(it));
            }
        }
        found
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
fn is_at(bound: &ListenAddress, wanted: &ListenAddress) -> bool {
    match (bound, wanted) {
        (ListenAddress::Inet(bound), ListenAddress::Inet(wanted)) => {
            bound == wanted
                || bound.port() == wanted.port()
                    && bound.ip().is_unspecified()
                    && wanted.ip().is_unspecified()
        }
        (ListenAddress::Unix(bound), ListenAddress::Unix(wanted)) => bound.path == wanted.path,
        (ListenAddress::Inet(_), ListenAddress::Unix(_))
        | (ListenAddress::Unix(_), ListenAddress::Inet(_)) => false,
    }
}

/// The socket of a listener, before the gateway can serve.
#[derive(Debug)]
pub(super) enum Socket {
    Listens(Listener),
    /// Other processes listen there too. It does not before it can serve: the system would give it connections.
    Shared(Name, TcpSocket),
    /// A Unix socket that has not the name yet by which clients know it.
    Unix(Name, socket_file::Draft),
}

/// The sockets of one listener.
///
/// # Errors
/// [`Failure::Unavailable`]: somebody else listens there. `is_shared`: other processes of this user may.
pub(super) async fn of(
    name: Name,
    addresses: &[ListenAddress],
    is_shared: bool,
    handed_over: &mut HandedOver,
) -> Result<Vec<Socket>, Failure> {
    let mut sockets = Vec::new();
    for (address, handed) in addresses.iter().zip(handed_over.for_listener(name, addresses)) {
        let fault = |error: io::Error| unavailable(name, address, &error);
        sockets.push(match (handed, address) {
            (Some(Handed { address, listener, .. }), _) => {
                tracing::info!(key = name.key(), %address, "the socket is systemd's");
                listener.into_listener().map(Socket::Listens).map_err(fault)?
            }
            (None, ListenAddress::Unix(unix)) => {
                let draft = socket_file::draft(unix, is_shared).await.map_err(fault)?;
                if draft.replaces_a_listener() {
                    warn_of_another(name, address);
                }
                Socket::Unix(name, draft)
            }
            (None, ListenAddress::Inet(inet)) if is_shared => {
                let is_free = bound(*inet, false).is_ok();
                let socket = bound(*inet, true).map_err(fault)?;
                if !is_free {
                    warn_of_another(name, address);
                }
                Socket::Shared(name, socket)
            }
            (None, ListenAddress::Inet(inet)) => {
                TcpListener::bind(inet).await.map(|it| Socket::Listens(it.into())).map_err(fault)?
            }
        });
    }
    Ok(sockets)
}

fn warn_of_another(name: Name, address: &ListenAddress) {
    tracing::warn!(
        key = name.key(), %address,
        "another process of this user listens there: both get connections until one of them ends"
    );
}

impl Socket {
    /// Where new connections can be led away from, see [`Others`].
    pub(super) fn for_others(&self) -> Option<OwnedFd> {
        match self {
            Self::Listens(_) | Self::Unix(..) => None,
            Self::Shared(_, socket) => socket.as_fd().try_clone_to_owned().ok(),
        }
    }

    /// Listens from here on. Gives the file of a Unix socket beside, which goes when that is dropped.
    ///
    /// # Errors
    /// [`Failure::Unavailable`]: somebody else listens there since.
    pub(super) async fn listen(self) -> Result<(Listener, Option<SocketFile>), Failure> {
        match self {
            Self::Listens(listener) => Ok((listener, None)),
            Self::Shared(name, socket) => {
                let address = socket.local_addr();
                let listener = socket.listen(BACKLOG).map_err(|error| match address {
                    Ok(address) => unavailable(name, &address.into(), &error),
                    Err(_) => Failure::Unavailable(format!("`{}`: {error}", name.key())),
                })?;
                Ok((listener.into(), None))
            }
            Self::Unix(name, draft) => {
                let place = draft.address().clone();
                let path = place.path.clone();
                let address = ListenAddress::Unix(place);
                let (listener, file) =
                    draft.publish().await.map_err(|error| unavailable(name, &address, &error))?;
                Ok((Listener::renamed(listener, path), Some(file)))
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

fn unavailable(name: Name, address: &ListenAddress, error: &io::Error) -> Failure {
    let (key, advice) = match address {
        ListenAddress::Inet(_) => (name.key(), "; is it in use, or may this user not use ports below 1024?"),
        ListenAddress::Unix(_) => {
            (name.key(), "; the gateway's user makes the socket, in a folder that it may write")
        }
    };
    Failure::Unavailable(format!("`{key}`: cannot listen on {address}: {error}{advice}"))
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

    fn address(text: &str) -> ListenAddress {
        match text.strip_prefix("unix:") {
            Some(path) => ListenAddress::Unix(UnixAddress { path: path.into(), mode: None }),
            None => ListenAddress::Inet(text.parse().unwrap()),
        }
    }

    #[test]
    fn a_socket_is_at_the_address_that_is_wanted_or_at_every_address() {
        for (bound, wanted) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::]:80", "0.0.0.0:80"),
            ("0.0.0.0:80", "[::]:80"),
            ("[::]:80", "[::]:80"),
            ("unix:/run/a", "unix:/run/a"),
        ] {
            assert!(is_at(&address(bound), &address(wanted)), "{bound} {wanted}");
        }
        for (bound, wanted) in [
            ("127.0.0.1:80", "127.0.0.1:81"),
            ("127.0.0.1:80", "127.0.0.2:80"),
            ("[::]:80", "127.0.0.1:80"),
            ("127.0.0.1:80", "0.0.0.0:80"),
            ("unix:/run/a", "unix:/run/b"),
            ("unix:/run/a", "127.0.0.1:80"),
        ] {
            assert!(!is_at(&address(bound), &address(wanted)), "{bound} {wanted}");
        }
    }

    /// Which sockets, by their number, the addresses of `http` get.
    fn given(handed: &[&str], wanted: &[&str]) -> Vec<Option<String>> {
        let sockets = handed.iter().map(|it| {
            let bound = InheritedListener::bind("127.0.0.1:0").unwrap();
            let (name, at) = it.split_once('@').unwrap();
            Handed { name: name.to_owned(), address: address(at), listener: Inherited::Tcp(bound) }
        });
        let wanted: Vec<_> = wanted.iter().map(|it| address(it)).collect();
        let mut all = HandedOver(sockets.collect());
        let taken = all.for_listener(Name::Http, &wanted);
        taken.into_iter().map(|it| it.map(|it| format!("{}@{}", it.name, it.address))).collect()
    }

    #[test]
    fn a_listener_with_several_addresses_gets_the_socket_of_each() {
        let (one, two, unix) = ("127.0.0.1:1", "127.0.0.1:2", "unix:/run/a");
        let some = |it: &str| Some(it.to_owned());
        assert_eq!(
            given(&["http@unix:/run/a", "http@127.0.0.1:2", "http@127.0.0.1:1"], &[one, two, unix]),
            [some("http@127.0.0.1:1"), some("http@127.0.0.1:2"), some("http@unix:/run/a")]
        );
        // By its name at another address; the exact one is left to its own.
        assert_eq!(
            given(&["http@127.0.0.1:2", "http@127.0.0.1:9"], &[one, two]),
            [some("http@127.0.0.1:9"), some("http@127.0.0.1:2")]
        );
        assert_eq!(
            given(&["unit.socket@127.0.0.1:2", "tls@127.0.0.1:1"], &[one, two]),
            [None, some("unit.socket@127.0.0.1:2")]
        );
    }
}
