//! What an app can ask and tell the connection that its HTTP/1 request came over.

use std::time::Duration;

use pingora::protocols::http::ServerSession;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::head::HeadSignal;
use super::plain::Buffered;
use super::tls::Secured;

/// How long a reset takes to come back from a client that was sent an answer and is gone.
const ECHO: Duration = Duration::from_secs(1);

/// A connection to a client that was accepted by this module.
#[derive(Debug)]
pub struct Connection<'a> {
    tcp: &'a TcpStream,
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
        Some(Self { tcp: plain.tcp(), head: watch.signal() })
    }

    /// The app has the request: its head has ended, and what is written is the app's.
    /// `knows_interim`: its client knows answers before the answer.
    pub fn begin(&self, knows_interim: bool) {
        self.head.begin(knows_interim);
    }

    /// Nothing more belongs to the request. From here on its client may close its sending side and wait.
    pub fn complete(&self) {
        self.head.complete();
    }

    /// Whether the client has closed its sending side, and perhaps all of its connection.
    #[must_use]
    pub fn is_half_closed(&self) -> bool {
        self.head.is_half_closed()
    }

    /// Whether a reset has come back already. Says so once.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        self.tcp.take_error().is_ok_and(|it| it.is_some())
    }

    /// Whether a client that has closed its sending side, and was sent everything, turns out to be gone:
    /// it answers with a reset. Waits for one second at most.
    pub async fn is_left(&self) -> bool {
        timeout(ECHO, self.tcp.ready(Interest::ERROR)).await.is_ok()
    }

    /// Has the connection end with a reset, so that an answer that ends with it does not look whole.
    pub fn break_off(&self) {
        if let Err(error) = self.tcp.set_zero_linger() {
            tracing::debug!(%error, "connection was gone before it was broken off");
        }
    }
}
