//! The accept loop: from a bound TCP listener to connections served by a Pingora app.
//!
//! Pingora's own `Server` owns the process, takes addresses that are known beforehand and waits
//! out a whole grace period. This loop takes a listener that is bound already (a test binds port
//! 0 and reads the port back), serves it on the runtime it runs on, and returns when it is told to
//! stop and its connections are done. Any number of them live beside one another.

mod tls;

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora::protocols::l4::stream::Stream as TcpLayer;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};

use crate::shutdown::{self, StopSignal};
pub use tls::{Tls, TlsError};

/// Connections that one listener serves at once. One more is closed as soon as it is accepted:
/// the ones that are being served go on.
pub const MAX_CONNECTIONS: usize = 16_384;

/// How long connections may go on after the listener was told to stop.
pub const GRACE: Duration = Duration::from_secs(10);

/// How long a fresh connection may say nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// An answer's head and a body of the usual size leave in one packet; Pingora's default of 1460
/// bytes splits them in two.
const WRITE_BUFFER: usize = 16 * 1024;

/// How long the loop waits after a failed accept (no file descriptor left, as a rule) before it
/// tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `app` on `listener` until `shutdown` turns true (or its sender is gone), then waits for
/// the open connections, at most [`GRACE`], and cuts off those that remain. Must run inside a
/// tokio runtime; the connections run on it too, and end when this future is dropped.
pub async fn serve<A: ServerApp + Send + Sync + 'static>(
    listener: TcpListener,
    app: Arc<A>,
    shutdown: StopSignal,
) {
    accept(listener, None, app, shutdown).await;
}

/// As [`serve`], over TLS; HTTP/2 where the client wants it.
pub async fn serve_tls<A: ServerApp + Send + Sync + 'static>(
    listener: TcpListener,
    tls: Tls,
    app: Arc<A>,
    shutdown: StopSignal,
) {
    accept(listener, Some(tls), app, shutdown).await;
}

async fn accept<A: ServerApp + Send + Sync + 'static>(
    listener: TcpListener,
    tls: Option<Tls>,
    app: Arc<A>,
    shutdown: StopSignal,
) {
    let mut connections = JoinSet::new();
    let mut told = shutdown.clone();
    loop {
        tokio::select! {
            biased;
            () = shutdown::asked_for(&mut told) => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((_, peer)) if connections.len() >= MAX_CONNECTIONS => {
                    tracing::warn!(%peer, limit = MAX_CONNECTIONS, "connection refused, too many are open");
                }
                Ok((tcp, peer)) => {
                    let (tls, app) = (tls.clone(), Arc::clone(&app));
                    connections.spawn(connection(tcp, peer, tls, app, shutdown.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    // Before the wait: by this the app learns that connections which lie idle are to end. Requests
    // under way go on.
    app.cleanup().await;
    let drained = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(GRACE, drained).await.is_err() {
        tracing::warn!(open = connections.len(), "connections cut off, the grace period is over");
        connections.shutdown().await;
    }
}

/// A panic in one connection ends that connection; it must be seen all the same.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection panicked");
    }
}

/// Serves one connection for as long as the app wants to reuse it.
async fn connection<A: ServerApp + Send + Sync + 'static>(
    tcp: TcpStream,
    peer: SocketAddr,
    tls: Option<Tls>,
    app: Arc<A>,
    mut shutdown: StopSignal,
) {
    if !begins(&tcp, &mut shutdown).await {
        return;
    }
    if let Err(error) = tcp.set_nodelay(true) {
        // The peer is gone already; there is nobody to serve.
        tracing::debug!(%peer, %error, "connection lost before it was served");
        return;
    }
    let digest = SocketDigest::from_raw_fd(tcp.as_raw_fd());
    // Known from accept; asking the kernel again could fail once the peer has hung up.
    let _known = digest.peer_addr.set(Some(PeerAddress::Inet(peer)));
    let mut layer = TcpLayer::from(tcp);
    layer.set_socket_digest(digest);
    let plain = Buffered::new(layer);
    let mut next: Option<pingora::protocols::Stream> = match tls {
        None => Some(Box::new(plain)),
        Some(tls) => match tls.accept(plain).await {
            Ok(secured) => Some(Box::new(secured)),
            Err(error) => {
                tracing::debug!(%peer, %error, "no TLS handshake");
                None
            }
        },
    };
    while let Some(stream) = next {
        next = app.process_new(stream, &shutdown).await;
    }
}

/// Whether the client says anything before it has been silent for too long or the listener is to
/// stop. What serves the connection would wait for it until the grace period is over.
async fn begins(tcp: &TcpStream, shutdown: &mut StopSignal) -> bool {
    // Nothing is taken out; and unlike readiness, a byte that is there is no guess.
    let mut first = [0];
    tokio::select! {
        biased;
        heard = tokio::time::timeout(SILENCE, tcp.peek(&mut first)) => matches!(heard, Ok(Ok(1))),
        () = shutdown::asked_for(shutdown) => false,
    }
}

/// A TCP stream with a write buffer of [`WRITE_BUFFER`] bytes. (Pingora's own buffers can be sized
/// through its own listeners only.) Reads are not buffered here: the HTTP session reads into its
/// own buffer, and an idle connection costs no second one.
#[derive(Debug)]
struct Buffered(BufWriter<TcpLayer>);

impl Buffered {
    fn new(layer: TcpLayer) -> Self {
        Self(BufWriter::with_capacity(WRITE_BUFFER, layer))
    }
}

impl Drop for Buffered {
    /// Sends what was written and not flushed, as far as the socket takes it at once. What it does
    /// not take is for a peer that has stopped reading.
    fn drop(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let _sent = Pin::new(&mut self.0).poll_flush(&mut context);
    }
}

impl AsyncRead for Buffered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Buffered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for Buffered {
    async fn shutdown(&mut self) {
        if let Err(error) = self.0.shutdown().await {
            tracing::debug!(%error, "connection was gone before it was closed");
        }
    }
}

impl UniqueID for Buffered {
    fn id(&self) -> UniqueIDType {
        self.0.get_ref().id()
    }
}

impl Ssl for Buffered {}

#[async_trait]
impl Peek for Buffered {
    async fn try_peek(&mut self, buf: &mut [u8]) -> std::io::Result<bool> {
        self.0.get_mut().try_peek(buf).await
    }
}

impl GetTimingDigest for Buffered {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.0.get_ref().get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.0.get_ref().get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.0.get_ref().get_write_pending_time()
    }
}

impl GetProxyDigest for Buffered {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.0.get_ref().get_proxy_digest()
    }

    fn set_proxy_digest(&mut self, digest: ProxyDigest) {
        self.0.get_mut().set_proxy_digest(digest);
    }
}

impl GetSocketDigest for Buffered {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.0.get_ref().get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.0.get_mut().set_socket_digest(digest);
    }
}
