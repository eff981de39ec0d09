//! A client that reads nothing more.
//!
//! Pingora limits the time in which a client takes a part of a body, but not that for a head, for its own
//! refusals, or for the last bytes before a connection is closed; the library for HTTP/2 limits nothing. So
//! the limit is here, under all of them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep};

/// How long a client may take to accept more of what it is sent.
pub const STALL: Duration = Duration::from_secs(60);

/// A stream whose writes fail once nothing was taken for [`STALL`].
#[derive(Debug)]
pub(super) struct Unstalled<S> {
    stream: S,
    /// Runs from a write that found no room to the next that finds some.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Unstalled<S> {
    pub(super) const fn new(stream: S) -> Self {
        Self { stream, stalled: None }
    }

    pub(super) const fn get_ref(&self) -> &S {
        &self.stream
    }

    /// What is told of a write with this outcome.
    fn limit<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        // A stream that is dropped with its runtime may have last words to say.
        if Handle::try_current().is_err() {
            return Poll::Ready(Err(io::ErrorKind::WouldBlock.into()));
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALL)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unstalled<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unstalled<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.limit(cx, outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.limit(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn without_a_runtime_nothing_is_waited_for() {
        let (ours, _theirs) = tokio::io::duplex(4);
        let mut stream = Unstalled::new(ours);
        let mut write = || {
            let mut context = Context::from_waker(std::task::Waker::noop());
            Pin::new(&mut stream).poll_write(&mut context, &[0; 4])
        };
        assert!(matches!(write(), Poll::Ready(Ok(4))));
        assert!(matches!(write(), Poll::Ready(Err(why)) if why.kind() == io::ErrorKind::WouldBlock));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_fails_if_nothing_is_taken_and_not_if_a_little_is() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut stream = Unstalled::new(ours);
        let slow = async {
            for _ in 0..6 {
                tokio::time::sleep(STALL * 2 / 3).await;
                let _byte = theirs.read_u8().await.unwrap();
            }
            theirs
        };
        let (sent, _theirs) = tokio::join!(stream.write_all(&[0; 10]), slow);
        sent.unwrap();
        let next = timeout(Duration::from_secs(30), stream.write_all(&[0; 10])).await;
        assert!(next.is_err(), "it has the whole time again");
        let late = timeout(STALL, stream.write_all(&[0; 10])).await.unwrap();
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
