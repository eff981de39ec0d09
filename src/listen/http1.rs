//! The requests of an HTTP/1 connection, one after the other.
//!
//! Pingora has such a loop too. But between two requests it keeps what serves one, and what the next is read into:
//! some 20 KiB for a connection that does nothing. Here the socket is waited for, and the rest made when there is
//! something to read.

use std::sync::Arc;
use std::time::Duration;

use pingora::apps::{HttpPersistentSettings, HttpServerApp};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use tokio::io::Interest;
use tokio::time::timeout;

use super::head::{HeadSignal, Timed};
use super::out_of_patience;
use super::plain::Buffered;
use super::tls::Secured;
use crate::shutdown::Shutdown;

/// Serves a connection as long as the app reuses it, its client goes on within the time `idle` and the listener is
/// not over.
pub(super) async fn serve<A: HttpServerApp + Send + Sync + 'static>(
    mut stream: Stream,
    app: Arc<Timed<A>>,
    head: &HeadSignal,
    idle: Duration,
    shutdown: &mut Shutdown,
) {
    let mut settings = None;
    loop {
        let mut session = ServerSession::new_http1(stream);
        match settings {
            Some(settings) => HttpPersistentSettings::apply_to_session(settings, &mut session),
            // For 0 Pingora would wait for ever.
            None => session.set_keepalive(Some(idle.as_secs().max(1)).filter(|_| !*shutdown.drains.borrow())),
        }
        let Some(reused) = app.process_new_http(session, &shutdown.drains).await else { return };
        (stream, settings) = reused.consume();
        if head.is_level() && !resumes(&stream, idle, shutdown).await {
            return;
        }
    }
}

/// Whether there is something to read within the time `idle`, be it the end, and before the listener is over. Of
/// a connection of which everything was read that came with its last request.
async fn resumes(stream: &Stream, idle: Duration, shutdown: &mut Shutdown) -> bool {
    let any = stream.as_any();
    let socket = match (any.downcast_ref::<Buffered>(), any.downcast_ref::<Secured>()) {
        (Some(plain), _) => plain.socket(),
        // What is decrypted already is no more to be seen at the socket.
        (None, Some(secured)) if !secured.has_plaintext() => secured.plain().socket(),
        (None, Some(_) | None) => return true,
    };
    tokio::select! {
        biased;
        heard = timeout(idle, socket.ready(Interest::READABLE)) => heard.is_ok(),
        () = out_of_patience(shutdown) => false,
    }
}
