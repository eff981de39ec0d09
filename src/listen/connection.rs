//! What an app can ask and tell the connection that its HTTP/1 request came over.

use std::time::Duration;

use pingora::protocols::SocketDigest;
use pingora::protocols::http::ServerSession;
use tokio::io::Interest;
use tokio::time::timeout;

use super::head::HeadSignal;
use super::plain::Buffered;
use super::socket::Socket;
use super::tls::Secured;

/// How often, and for how long, a client that was sent an answer is looked at. From one that is gone, a reset
/// comes back in that time.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const MOST_LOOKS: u32 = 50;

/// A connection to a client that was accepted by this module.
#[derive(Debug)]
pub struct Connection<'a> {
    socket: &'a Socket,
    digest: &'a SocketDigest,
    head: &'a HeadSignal,
}

impl<'a> Connection<'a> {
    /// The connection of a session; `None` over HTTP/2, where requests share one, and in tests without one.
    #[must_use]
    pub fn of(session: &'a ServerSession) -> Option<Self> {
        let stream = session.stream()?.as_any();
        let (plain, watch) = match stream.downcast_ref::<Buffered>() {
            Some(plain) => (plain, plain.watch()?),
            None => {
                let secured = stream.downcast_ref::<Secured>()?;
                (secured.plain(), secured.watch())
            }
        };
        Some(Self { socket: plain.socket(), digest: plain.digest(), head: watch.signal() })
    }

    /// The app has the request: its head has ended, and what is written is the app's.
    /// `knows_interim`: its client knows answers before the answer. `body`: how many bytes follow, if the head says
    /// it.
    pub fn begin(&self, knows_interim: bool, body: Option<u64>) {
        self.head.begin(knows_interim, body);
    }

    /// Nothing more belongs to the request. From here on its client may close its sending side and wait.
    pub fn complete(&self) {
        self.head.complete();
    }

    /// Whether the client is gone, although all of its answer was written: its system has not acknowledged all
    /// of it, and has sent a reset. Of a client that has closed its sending side, either is waited for, for a
    /// second at most. What a system has acknowledged, it keeps for the client to read.
    pub async fn is_left(&self) -> bool {
        let is_reset = || self.socket.take_error().is_ok_and(|it| it.is_some());
        if self.socket.is_local() {
            // What was written is with the client's system, and what it left unread is a reset at once.
            return is_reset();
        }
        if !self.head.is_half_closed() {
            return is_reset() && !self.is_delivered();
        }
        for _ in 0..MOST_LOOKS {
            if self.is_delivered() {
                return false;
            }
            if timeout(LOOK_EVERY, self.socket.ready(Interest::ERROR)).await.is_ok() {
                return !self.is_delivered();
            }
        }
        false
    }

    /// Whether the client's system has acknowledged all that was written. No, if this system does not say so.
    fn is_delivered(&self) -> bool {
        self.digest.tcp_info().is_some_and(|it| {
            let sent = it.tcpi_bytes_sent.saturating_sub(it.tcpi_bytes_retrans);
            sent > 0 && it.tcpi_notsent_bytes == 0 && it.tcpi_bytes_acked >= sent
        })
    }

    /// Has the connection end with a reset, so that an answer that ends with it does not look whole. A Unix socket
    /// has no resets: to a client of HTTP/1.0, whose answers end with the connection, it does look whole there.
    pub fn break_off(&self) {
        if let Err(error) = self.socket.reset_at_end() {
            tracing::debug!(%error, "connection was gone before it was broken off");
        }
    }
}
