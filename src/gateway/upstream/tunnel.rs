//! Connections on which a tunnel may begin.
//!
//! Pingora hands on the end of a request and reads the answer at the same time, whichever is ready. If an
//! upstream is so quick that a 101 is read first, the end of the request is taken for the end of the tunnel,
//! and that is closed. On these connections an answer is not ready before the end of the request had its
//! turn: after something was written, the first read waits for one turn of the task.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::prelude::{Error, ErrorType, Result};
use pingora::protocols::l4::ext::set_tcp_keepalive;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// Makes such connections, each within a time.
#[derive(Debug)]
pub(super) struct TunnelConnector {
    pub(super) within: Duration,
}

#[async_trait]
impl Connect for TunnelConnector {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        match address {
            SocketAddr::Inet(address) => {
                let socket = self.in_time(TcpStream::connect(address)).await?;
                Ok(Stream::from(VirtualSocketStream::new(Box::new(OneTurnLate {
                    socket,
                    has_written: false,
                }))))
            }
            SocketAddr::Unix(address) => {
                let path = address.as_pathname().unwrap_or(Path::new(""));
                let socket = self.in_time(UnixStream::connect(path)).await?;
                Ok(Stream::from(VirtualSocketStream::new(Box::new(OneTurnLate {
                    socket,
                    has_written: false,
                }))))
            }
        }
    }
}

impl TunnelConnector {
    async fn in_time<S>(&self, connected: impl Future<Output = io::Result<S>>) -> Result<S> {
        match timeout(self.within, connected).await {
            Ok(Ok(socket)) => Ok(socket),
            Ok(Err(error)) => Error::e_because(ErrorType::ConnectError, "no connection", error),
            Err(error) => Error::e_because(ErrorType::ConnectTimedout, "no connection in time", error),
        }
    }
}

/// A connection that reads one turn after it has written.
#[derive(Debug)]
struct OneTurnLate<S> {
    socket: S,
    has_written: bool,
}

impl VirtualSocket for OneTurnLate<TcpStream> {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.socket.set_nodelay(true),
            VirtualSockOpt::KeepAlive(keepalive) => {
                set_tcp_keepalive(&self.socket, &keepalive).map_err(io::Error::other)
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl VirtualSocket for OneTurnLate<UnixStream> {
    /// Neither is known of a Unix socket: what is written is there at once, and so is the end of the other side.
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for OneTurnLate<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.has_written) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for OneTurnLate<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.has_written = true;
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Both sides of a new connection.
    async fn connected() -> (OneTurnLate<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (other, _) = listener.accept().await.unwrap();
        (OneTurnLate { socket, has_written: false }, other)
    }

    #[tokio::test]
    async fn a_connection_sends_at_once_if_that_is_set() {
        let (ours, _other) = connected().await;
        assert!(!ours.socket.nodelay().unwrap());
        ours.set_socket_option(VirtualSockOpt::NoDelay).unwrap();
        assert!(ours.socket.nodelay().unwrap());
    }

    #[tokio::test]
    async fn what_was_written_arrives_and_so_does_the_end() {
        let (mut ours, mut other) = connected().await;
        ours.write_all(b"hello").await.unwrap();
        ours.shutdown().await.unwrap();
        let mut read = String::new();
        let end = timeout(Duration::from_secs(10), other.read_to_string(&mut read)).await;
        assert_eq!((end.unwrap().unwrap(), read.as_str()), (5, "hello"));
    }
}
