//! Sockets of clients and the listeners they come from: over TCP, or over a Unix socket.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use nix::sys::socket::{AddressFamily, MsgFlags, SockaddrLike, SockaddrStorage, getsockname, recv};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::address::{ListenAddress, UnixAddress};
use crate::cashier::Client;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Peer {
    Inet(SocketAddr),
    /// A process of this machine, over a Unix socket. It has no name.
    Unix,
}

impl Peer {
    /// What the limits for each client count by.
    #[must_use]
    pub fn client(self) -> Client {
        match self {
            Self::Inet(address) => Client::at(address.ip()),
            Self::Unix => Client::local(),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// A bound socket from which connections are accepted.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    /// With the path of its file, if that is not the one it was bound to.
    Unix(UnixListener, Option<PathBuf>),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener, None)
    }
}

impl Listener {
    /// A Unix socket whose file was renamed to `path`.
    #[must_use]
    pub const fn renamed(listener: UnixListener, path: PathBuf) -> Self {
        Self::Unix(listener, Some(path))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say it, or it is a Unix socket without a path.
    pub fn address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Tcp(it) => it.local_addr().map(ListenAddress::Inet),
            Self::Unix(_, Some(path)) => {
                Ok(ListenAddress::Unix(UnixAddress { path: path.clone(), mode: None }))
            }
            Self::Unix(it, None) => {
                let address = it.local_addr()?;
                let path = address.as_pathname().ok_or(io::ErrorKind::AddrNotAvailable)?.to_owned();
                Ok(ListenAddress::Unix(UnixAddress { path, mode: None }))
            }
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Self::Tcp(it) => it.accept().await.map(|(tcp, peer)| (Socket::Tcp(tcp), Peer::Inet(peer))),
            Self::Unix(it, _) => it.accept().await.map(|(unix, _)| (Socket::Unix(unix), Peer::Unix)),
        }
    }

    /// The same without the runtime, which learns of a connection a little later.
    pub(super) fn into_std(self) -> io::Result<StdListener> {
        match self {
            Self::Tcp(it) => it.into_std().map(StdListener::Tcp),
            Self::Unix(it, _) => it.into_std().map(StdListener::Unix),
        }
    }
}

/// A listener that does not wait.
#[derive(Debug)]
pub(super) enum StdListener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl StdListener {
    /// The next connection that waits to be accepted.
    pub(super) fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Self::Tcp(it) => {
                let (tcp, peer) = it.accept()?;
                tcp.set_nonblocking(true)?;
                Ok((Socket::Tcp(TcpStream::from_std(tcp)?), Peer::Inet(peer)))
            }
            Self::Unix(it) => {
                let (unix, _) = it.accept()?;
                unix.set_nonblocking(true)?;
                Ok((Socket::Unix(UnixStream::from_std(unix)?), Peer::Unix))
            }
        }
    }
}

/// A connection to a client.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// The connection of a descriptor, which does not block.
    pub(super) fn from_fd(descriptor: OwnedFd) -> io::Result<Self> {
        let address = getsockname::<SockaddrStorage>(descriptor.as_raw_fd())?;
        if address.family() == Some(AddressFamily::Unix) {
            UnixStream::from_std(descriptor.into()).map(Self::Unix)
        } else {
            TcpStream::from_std(descriptor.into()).map(Self::Tcp)
        }
    }

    /// What came, without taking it; 0 bytes at the end.
    pub(super) async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(it) => it.peek(buf).await,
            Self::Unix(it) => {
                let look = || Ok(recv(it.as_raw_fd(), buf, MsgFlags::MSG_PEEK)?);
                it.async_io(Interest::READABLE, look).await
            }
        }
    }

    pub(super) fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(it) => it.try_write(buf),
            Self::Unix(it) => it.try_write(buf),
        }
    }

    /// What went wrong with the connection since this was last asked.
    pub(super) fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Self::Tcp(it) => it.take_error(),
            Self::Unix(it) => it.take_error(),
        }
    }

    pub(super) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Tcp(it) => it.ready(interest).await,
            Self::Unix(it) => it.ready(interest).await,
        }
    }

    /// Has what is written sent at once, as over a Unix socket it always is.
    pub(super) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(it) => it.set_nodelay(true),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Has the connection end with a reset. A Unix socket knows none: its end looks like any other.
    pub(super) fn reset_at_end(&self) -> io::Result<()> {
        match self {
            Self::Tcp(it) => it.set_zero_linger(),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Whether what is written is at the other end at once, in the memory of this system.
    pub(super) const fn is_local(&self) -> bool {
        matches!(self, Self::Unix(_))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(it) => it.as_fd(),
            Self::Unix(it) => it.as_fd(),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(it) => it.as_raw_fd(),
            Self::Unix(it) => it.as_raw_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(it) => Pin::new(it).poll_read(cx, buf),
            Self::Unix(it) => Pin::new(it).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(it) => Pin::new(it).poll_write(cx, buf),
            Self::Unix(it) => Pin::new(it).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(it) => Pin::new(it).poll_flush(cx),
            Self::Unix(it) => Pin::new(it).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(it) => Pin::new(it).poll_shutdown(cx),
            Self::Unix(it) => Pin::new(it).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(it) => Pin::new(it).poll_write_vectored(cx, bufs),
            Self::Unix(it) => Pin::new(it).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(it) => it.is_write_vectored(),
            Self::Unix(it) => it.is_write_vectored(),
        }
    }
}
