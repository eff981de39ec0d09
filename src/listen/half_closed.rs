//! A client that has sent its whole request may close its sending side and wait for the answer (RFC 9112
//! section 9.6). A client that has closed its whole connection looks the same.
//!
//! So the end of what a client sends is kept from the app while a whole request of it is under way. If no
//! answer has begun after a while, the client is told to go on waiting: from one that is gone, a reset
//! comes back, and that the app is told. A client that leaves in the middle of its answer is believed.
//!
//! Over HTTP/2 [`http2`](super::http2) judges it, which knows of all requests. The client is sent a ping at once,
//! so it is looked at oftener at first, and no answer begins before.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::{Sleep, sleep};

use super::head::HeadSignal;
use super::socket::Socket;

/// How often a connection is looked at for a reset.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The same over HTTP/2, for so many looks until its answers may begin.
const LOOK_SOON: Duration = Duration::from_millis(20);
const SOON_LOOKS: u32 = 10;
/// After so many looks a client is told to wait, unless its answer has begun.
const LOOKS_BEFORE_ASKING: u32 = 4;
/// How late after the request the sending side may be closed although the answer has begun.
const LATE: Duration = Duration::from_secs(2);
/// The only answer before the answer that every client of HTTP/1.1 has always known.
const WAIT: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The wait of one client.
#[derive(Debug, Default)]
pub(super) struct HalfClosed {
    is_waiting: bool,
    looks: u32,
    next: Option<Pin<Box<Sleep>>>,
}

impl HalfClosed {
    /// What the app is told of the end that was read from `stream`: nothing as long as the client waits,
    /// an error once it turns out to be gone. `socket` is the connection under the stream.
    pub(super) fn poll_end<S: AsyncWrite + Unpin>(
        &mut self,
        head: &HeadSignal,
        stream: &mut S,
        socket: fn(&S) -> &Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let is_shared = head.is_shared();
        let leaves = || head.is_answered() && head.is_older_than(LATE);
        if !is_shared && (!head.is_whole() || (!self.is_waiting && leaves())) {
            *self = Self::default();
            return Poll::Ready(Ok(()));
        }
        self.is_waiting = true;
        head.close_half();
        loop {
            let pause = if is_shared && self.looks < SOON_LOOKS { LOOK_SOON } else { LOOK_EVERY };
            let next = self.next.get_or_insert_with(|| Box::pin(sleep(pause)));
            ready!(next.as_mut().poll(cx));
            self.next = None;
            self.looks = self.looks.saturating_add(1);
            if let Some(error) = socket(stream).take_error()? {
                return Poll::Ready(Err(error));
            }
            if is_shared {
                if self.looks == SOON_LOOKS {
                    head.keep_waiting();
                }
            } else if self.looks == LOOKS_BEFORE_ASKING && head.knows_interim() && !head.is_answered() {
                ask(stream, cx)?;
            }
        }
    }
}

/// Tells the client to go on waiting, which also asks whether it does.
fn ask<S: AsyncWrite + Unpin>(stream: &mut S, cx: &mut Context<'_>) -> io::Result<()> {
    match Pin::new(&mut *stream).poll_write(cx, WAIT) {
        Poll::Ready(Ok(written)) if written == WAIT.len() => {}
        Poll::Ready(Err(error)) => return Err(error),
        // Nothing was written to this client before, so there is room.
        Poll::Ready(Ok(_)) | Poll::Pending => return Err(io::ErrorKind::WriteZero.into()),
    }
    match Pin::new(stream).poll_flush(cx) {
        Poll::Ready(sent) => sent,
        // The rest goes with the answer.
        Poll::Pending => Ok(()),
    }
}
