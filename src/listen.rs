//! The accept loop: from a bound TCP listener to connections served by a Pingora app.
//!
//! Pingora's own `Server` owns the process, needs addresses in advance, and always waits for its whole
//! grace period. This loop takes a bound listener (a test binds port 0 and reads the port), serves it on
//! the current runtime, and returns after the shutdown signal as soon as its connections are done. Many
//! of these loops can run in one process.

mod connection;
mod deadline;
mod door;
pub mod forwarded;
mod h2c;
mod half_closed;
mod head;
mod http2;
mod plain;
mod proxies;
mod proxy_protocol;
mod refusal;
mod stall;
mod tls;
mod write_buffer;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::SocketDigest;
use pingora::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora::protocols::tls::ALPN;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};

use crate::metrics::ReachedLimit;
use crate::shutdown::{self, StopSignal};
pub use connection::Connection;
pub use deadline::{Deadline, LastWords};
pub use door::{Door, DoorRules, MAX_CONNECTIONS, descriptors};
pub use proxies::TrustedProxies;
pub use stall::STALL;
pub use tls::{Tls, TlsError};

use door::{Complaints, Entered};
use head::{HeadSignal, HeadWatch, Timed};
use plain::Buffered;

/// How long connections may go on after the shutdown signal.
pub const GRACE: Duration = Duration::from_secs(10);

/// The pause after a failed accept. The usual cause is that no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `app` on `listener` until `shutdown` becomes true or its sender is gone. Then waits for the open
/// connections, at most [`GRACE`], and closes the rest. Must run inside a tokio runtime; the connections
/// run on it too, and end when this future is dropped.
pub async fn serve<A: HttpServerApp + Send + Sync + 'static>(
    listener: TcpListener,
    app: Arc<A>,
    shutdown: StopSignal,
) {
    serve_behind(Door::default(), listener, None, app, shutdown).await;
}

/// Like [`serve`], for connections that `door` lets in; with `tls` over TLS, and then with HTTP/2 if the
/// client wants it.
pub async fn serve_behind<A: HttpServerApp + Send + Sync + 'static>(
    door: Door,
    listener: TcpListener,
    tls: Option<Tls>,
    app: Arc<A>,
    shutdown: StopSignal,
) {
    let (mut turned_away, mut failed) = (Complaints::default(), Complaints::default());
    let mut connections = JoinSet::new();
    let mut stop = shutdown.clone();
    loop {
        tokio::select! {
            biased;
            () = shutdown::asked_for(&mut stop) => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((tcp, peer)) => match door.enter(&tcp, peer, connections.len()) {
                    Ok(entered) => {
                        let (door, tls, app) = (door.clone(), tls.clone(), Arc::clone(&app));
                        let serving = connection(tcp, entered, door.clone(), tls, app, shutdown.clone());
                        connections.spawn(door.counted(serving));
                    }
                    Err(limit) => if let Some(others) = turned_away.due() {
                        let limit = limit.as_str();
                        tracing::warn!(%peer, limit, others, "connection closed: a limit is reached");
                    }
                },
                Err(error) => {
                    if let Some(others) = failed.due() {
                        tracing::warn!(%error, others, "accept failed");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    // Before the wait: this tells the app to end idle connections. Requests under way go on.
    app.http_cleanup().await;
    let drained = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(GRACE, drained).await.is_err() {
        tracing::warn!(open = connections.len(), "open connections are closed: the grace period is over");
        connections.shutdown().await;
    }
}

/// A panic ends only its own connection, but it must be logged.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection panicked");
    }
}

/// Serves one connection as long as the app reuses it.
async fn connection<A: HttpServerApp + Send + Sync + 'static>(
    mut tcp: TcpStream,
    mut entered: Entered,
    door: Door,
    tls: Option<Tls>,
    app: Arc<A>,
    mut shutdown: StopSignal,
) {
    let (peer, idle) = (entered.peer, entered.rules.idle);
    if !begins(&tcp, idle, &mut shutdown).await {
        return;
    }
    let Some(client) = client_of(&mut tcp, &mut entered, &door).await else { return };
    if entered.is_proxied && !begins(&tcp, idle, &mut shutdown).await {
        return;
    }
    if let Err(error) = tcp.set_nodelay(true) {
        // The peer is gone already.
        tracing::debug!(%peer, %error, "connection lost before it was served");
        return;
    }
    let late = || {
        let limit = door.reached(ReachedLimit::HeadTime).as_str();
        tracing::debug!(%peer, limit, "connection closed: a head took too long");
    };
    let mut is_http2 = false;
    if tls.is_none() && entered.rules.h2c {
        let begins = Box::pin(h2c::begins(&tcp, entered.rules.head_time)).await;
        let Ok(begins) = begins else { return late() };
        is_http2 = begins;
    }
    let digest = SocketDigest::from_raw_fd(tcp.as_raw_fd());
    // Known from accept; the kernel may not know it any more once the peer has hung up.
    let _known = digest.peer_addr.set(Some(PeerAddress::Inet(client)));
    let head = Arc::new(HeadSignal::default());
    let watch = HeadWatch::new(&head, entered.rules.head_time);
    let stream: pingora::protocols::Stream = match tls {
        None => Box::new(Buffered::new(tcp, digest, Some(watch)).speaking_http2(is_http2)),
        // Boxed, as what follows: a connection would keep the room for it.
        Some(tls) => match Box::pin(tls.accept(Buffered::new(tcp, digest, None), watch)).await {
            Ok(secured) => Box::new(secured),
            Err(error) => {
                tracing::debug!(%peer, %error, "no TLS handshake");
                return;
            }
        },
    };
    let timed = Timed::new(app, &head, idle);
    let served = async {
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            return Box::pin(http2::serve(stream, timed, Arc::clone(&head), idle, shutdown)).await;
        }
        let mut next = Some(stream);
        while let Some(stream) = next {
            next = timed.process_new(stream, &shutdown).await;
        }
    };
    tokio::select! {
        () = served => {}
        () = head.late() => late(),
    }
    if let Some(tcp) = head.take_dropped() {
        refusal::linger(tcp).await;
    }
}

/// The client of a connection: its peer, or the one that a trusted proxy names; `None` if it may not come
/// in.
async fn client_of(tcp: &mut TcpStream, entered: &mut Entered, door: &Door) -> Option<SocketAddr> {
    let Entered { rules, peer, share, is_proxied } = entered;
    if !*is_proxied {
        return Some(*peer);
    }
    let named = tokio::time::timeout(rules.head_time, Box::pin(proxy_protocol::read(tcp, *peer)));
    let named = named.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut));
    match named.flatten() {
        Ok(client) if client == *peer => Some(client),
        Ok(client) => {
            *share = Some(door.share(client, rules).ok()?);
            Some(client)
        }
        Err(error) => {
            tracing::debug!(%peer, %error, "connection closed: no header of the PROXY protocol");
            None
        }
    }
}

/// Whether the client sends anything within the time `idle` and before the shutdown. Without this, a silent
/// connection would delay the shutdown by the whole grace period.
async fn begins(tcp: &TcpStream, idle: Duration, shutdown: &mut StopSignal) -> bool {
    // Peeking consumes nothing and, unlike readiness, never reports a byte that is not there.
    let mut first = [0];
    tokio::select! {
        biased;
        heard = tokio::time::timeout(idle, tcp.peek(&mut first)) => matches!(heard, Ok(Ok(1))),
        () = shutdown::asked_for(shutdown) => false,
    }
}
