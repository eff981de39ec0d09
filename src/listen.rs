//! The accept loop: from a bound listener (TCP or a Unix socket) to connections served by a Pingora app.
//!
//! Pingora's own `Server` owns the process, needs addresses in advance, and always waits for its whole
//! grace period. This loop takes a bound listener (a test binds port 0 and reads the port), serves it on
//! the current runtime, and returns after it was told to close as soon as its connections are done. Many
//! of these loops can run in one process.
//!
//! Nobody who could connect is turned away by an end ([`Shutdown`]): what the system has accepted when the
//! listener closes is served, and a client that has just come is waited for.

mod address;
mod challenges;
mod connection;
mod deadline;
mod door;
pub mod forwarded;
mod h2c;
mod half_closed;
mod head;
mod http1;
mod http2;
mod plain;
mod proxies;
mod proxy_protocol;
mod refusal;
mod socket;
mod stall;
mod tls;
mod write_buffer;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use pingora::apps::HttpServerApp;
use pingora::protocols::SocketDigest;
use pingora::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora::protocols::tls::ALPN;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use crate::clock::Stopwatch;
use crate::metrics::ReachedLimit;
use crate::shutdown::{self, Shutdown};
pub use address::{LONGEST_SOCKET_PATH, ListenAddress, UnixAddress};
pub use challenges::{CHALLENGE_PATH, Challenges};
pub use connection::Connection;
pub use deadline::{Deadline, LastWords};
pub use door::{Door, DoorRules, MAX_CONNECTIONS, descriptors};
pub use proxies::TrustedProxies;
pub use socket::{Listener, Peer};
pub use stall::STALL;
pub use tls::{Certificate, Tls, TlsError, TlsRules, TlsVersion};

use door::{Complaints, Entered};
use head::{HeadSignal, HeadWatch, Timed};
use plain::Buffered;
use socket::Socket;

/// The pause after a failed accept. The usual cause is that no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The most connections that are taken from a listener's queue when it closes. A queue has no more; but if
/// another process accepts from it too, it may never be empty.
const MOST_WAITING: usize = 4096;

/// Serves `app` on `listener` until `shutdown` tells it to close. Then waits for the open connections, at most
/// for its grace, and closes the rest. Must run inside a tokio runtime; the connections run on it too, and end
/// when this future is dropped.
pub async fn serve<A: HttpServerApp + Send + Sync + 'static>(
    listener: impl Into<Listener>,
    app: Arc<A>,
    shutdown: impl Into<Shutdown>,
) {
    serve_behind(Door::default(), listener, None, app, shutdown).await;
}

/// Like [`serve`], for connections that `door` lets in; with `tls` over TLS, and then with HTTP/2 if the
/// client wants it.
pub async fn serve_behind<A: HttpServerApp + Send + Sync + 'static>(
    door: Door,
    listener: impl Into<Listener>,
    tls: Option<Tls>,
    app: Arc<A>,
    shutdown: impl Into<Shutdown>,
) {
    let (listener, shutdown): (Listener, Shutdown) = (listener.into(), shutdown.into());
    let (mut turned_away, mut failed) = (Complaints::default(), Complaints::default());
    let mut connections = JoinSet::new();
    let mut let_in = |connections: &mut JoinSet<()>, socket: Socket, peer: Peer| match door.enter(
        &socket,
        peer,
        connections.len(),
    ) {
        Ok(entered) => {
            let (door, tls, app) = (door.clone(), tls.clone(), Arc::clone(&app));
            let serving = connection(socket, entered, door, tls, app, shutdown.clone());
            connections.spawn(serving);
        }
        Err(limit) => {
            if let Some(others) = turned_away.due() {
                let limit = limit.as_str();
                tracing::warn!(%peer, limit, others, "connection closed: a limit is reached");
            }
        }
    };
    let mut closes = shutdown.closes.clone();
    loop {
        tokio::select! {
            biased;
            () = shutdown::asked_for(&mut closes) => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => let_in(&mut connections, socket, peer),
                Err(error) => {
                    if let Some(others) = failed.due() {
                        tracing::warn!(%error, others, "accept failed");
                    }
                    if !is_of_one_connection(&error) {
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            },
        }
    }
    // Not by way of the runtime, which learns of a connection a little later.
    let waiting = async {
        let listener = listener.into_std()?;
        let let_in = |socket, peer| let_in(&mut connections, socket, peer);
        accept_waiting(|| listener.accept(), shutdown.patience, let_in).await
    };
    if let Err(error) = waiting.await {
        tracing::warn!(%error, "connections that waited to be accepted are lost");
    }
    if timeout(shutdown.patience, all_ended(&mut connections)).await.is_ok() {
        return;
    }
    // This tells the app to end idle connections. Requests under way go on.
    app.http_cleanup().await;
    if timeout(shutdown.grace, all_ended(&mut connections)).await.is_err() {
        tracing::warn!(open = connections.len(), "open connections are closed: the grace period is over");
        connections.shutdown().await;
    }
}

/// Hands on the connections that the system has accepted for a listener that closes: closed with it, they would be
/// reset. What fails is tried again for the time `patience`: descriptors become free as other connections end.
///
/// # Errors
/// The last failure, if there may be connections left.
async fn accept_waiting(
    mut accept: impl FnMut() -> io::Result<(Socket, Peer)>,
    patience: Duration,
    mut let_in: impl FnMut(Socket, Peer),
) -> io::Result<()> {
    let closing = Stopwatch::start();
    for _ in 0..MOST_WAITING {
        let error = match accept() {
            Ok((socket, peer)) => {
                let_in(socket, peer);
                continue;
            }
            // The queue is empty.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => error,
        };
        tracing::debug!(%error, "accept failed while the listener closes");
        if is_of_one_connection(&error) {
            continue;
        }
        if closing.elapsed() >= patience {
            return Err(error);
        }
        sleep(ACCEPT_PAUSE).await;
    }
    Ok(())
}

/// Whether an accept failed because the connection that was next is gone, which says nothing of those behind it.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    [ConnectionAborted, ConnectionRefused, ConnectionReset].contains(&error.kind())
}

async fn all_ended(connections: &mut JoinSet<()>) {
    while let Some(ended) = connections.join_next().await {
        report(ended);
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
    mut socket: Socket,
    mut entered: Entered,
    door: Door,
    tls: Option<Tls>,
    app: Arc<A>,
    mut shutdown: Shutdown,
) {
    let _open = door.opened();
    let (peer, idle) = (entered.peer, entered.rules.idle);
    if !begins(&socket, idle, &mut shutdown).await {
        return;
    }
    let Some(client) = client_of(&mut socket, &mut entered, &door).await else { return };
    if entered.is_proxied && !begins(&socket, idle, &mut shutdown).await {
        return;
    }
    if let Err(error) = socket.set_nodelay() {
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
        let begins = Box::pin(h2c::begins(&socket, entered.rules.head_time)).await;
        let Ok(begins) = begins else { return late() };
        is_http2 = begins;
    }
    let digest = SocketDigest::from_raw_fd(socket.as_raw_fd());
    // Known from accept; the kernel may not know it any more once the peer has hung up.
    let _known = digest.peer_addr.set(address_of(client));
    let head = Arc::new(HeadSignal::default());
    let watch = HeadWatch::new(&head, entered.rules.head_time);
    let stream: pingora::protocols::Stream = match tls {
        None => Box::new(Buffered::new(socket, digest, Some(watch)).speaking_http2(is_http2)),
        // Boxed, as what follows: a connection would keep the room for it.
        Some(tls) => match Box::pin(tls.accept(Buffered::new(socket, digest, None), watch)).await {
            Ok(secured) => Box::new(secured),
            Err(error) => {
                tracing::debug!(%peer, %error, "no TLS handshake");
                return;
            }
        },
    };
    let timed = Timed::new(app, &head);
    let served = async {
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            return Box::pin(http2::serve(stream, timed, Arc::clone(&head), idle, shutdown)).await;
        }
        http1::serve(stream, timed, &head, idle, &mut shutdown).await;
    };
    tokio::select! {
        () = served => {}
        () = head.late() => late(),
    }
    if let Some(socket) = head.take_dropped() {
        Box::pin(refusal::linger(socket)).await;
    }
}

/// A client's address as Pingora has it. A Unix socket of a client has no path.
fn address_of(client: Peer) -> Option<PeerAddress> {
    match client {
        Peer::Inet(address) => Some(PeerAddress::Inet(address)),
        Peer::Unix => std::os::unix::net::SocketAddr::from_pathname("").ok().map(PeerAddress::Unix),
    }
}

/// The client of a connection: its peer, or the one that a trusted proxy names; `None` if it may not come
/// in.
async fn client_of(socket: &mut Socket, entered: &mut Entered, door: &Door) -> Option<Peer> {
    let Entered { rules, peer, share, is_proxied } = entered;
    if !*is_proxied {
        return Some(*peer);
    }
    let named = timeout(rules.head_time, Box::pin(proxy_protocol::read(socket)));
    let named = named.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut));
    match named.flatten().map(|it| it.map_or(*peer, Peer::Inet)) {
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

/// Whether the client sends anything within the time `idle`, and before it is not waited for any more. Without
/// this, a silent connection would delay the shutdown by the whole grace period.
async fn begins(socket: &Socket, idle: Duration, shutdown: &mut Shutdown) -> bool {
    // Peeking consumes nothing and, unlike readiness, never reports a byte that is not there.
    let mut first = [0];
    tokio::select! {
        biased;
        heard = timeout(idle, socket.peek(&mut first)) => matches!(heard, Ok(Ok(1))),
        () = out_of_patience(shutdown) => false,
    }
}

/// Returns once the listener has closed and a connection that begins now is not waited for any more.
async fn out_of_patience(shutdown: &mut Shutdown) {
    let age = Stopwatch::start();
    shutdown::asked_for(&mut shutdown.closes).await;
    sleep(shutdown.patience.saturating_sub(age.elapsed())).await;
}

#[cfg(test)]
mod tests {
    use std::iter::repeat_n;

    use rustix::io::Errno;

    use super::socket::StdListener;
    use super::*;

    /// What comes of a listener on which two clients wait, each accept of which fails with the error that is given,
    /// if one is: how many were let in, and whether nobody was lost.
    async fn let_in(patience: Duration, outcomes: impl IntoIterator<Item = Option<Errno>>) -> (usize, bool) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _clients = [(); 2].map(|()| std::net::TcpStream::connect(address).unwrap());
        let listener = StdListener::Tcp(listener);
        let mut outcomes = outcomes.into_iter();
        let accept = || match outcomes.next().unwrap() {
            Some(error) => Err(error.into()),
            None => listener.accept(),
        };
        let mut entered = Vec::new();
        let outcome = accept_waiting(accept, patience, |socket, _| entered.push(socket)).await;
        (entered.len(), outcome.is_ok())
    }

    /// Regression: any error but an empty queue lost those who waited behind it.
    #[tokio::test(start_paused = true)]
    async fn who_waits_is_let_in_whatever_happened_to_others() {
        let (gone, empty) = (Some(Errno::CONNABORTED), Some(Errno::AGAIN));
        let patience = Duration::from_secs(1);
        for (before, between) in [
            (gone, gone),
            (Some(Errno::MFILE), Some(Errno::NFILE)),
            (Some(Errno::NOBUFS), Some(Errno::NOMEM)),
            (Some(Errno::PROTO), Some(Errno::NETDOWN)),
        ] {
            let outcomes = [before, None, between, before, None, gone, empty];
            assert_eq!(let_in(patience, outcomes).await, (2, true), "{before:?}");
        }
        // What is about one connection needs no time.
        assert_eq!(let_in(Duration::ZERO, [gone, None, gone, None, empty]).await, (2, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_cannot_accept_is_given_up_in_time() {
        let started = Stopwatch::start();
        let patience = Duration::from_secs(2);
        let failing = [None].into_iter().chain(repeat_n(Some(Errno::MFILE), MOST_WAITING));
        assert_eq!(let_in(patience, failing).await, (1, false));
        assert!((patience..patience * 2).contains(&started.elapsed()), "{:?}", started.elapsed());
        let never_empty = repeat_n(Some(Errno::CONNABORTED), MOST_WAITING);
        assert_eq!(let_in(patience, never_empty).await, (0, true));
    }
}
