//! A buffer for what is written to a socket, which takes memory only while something is in it: most
//! connections are idle most of the time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The head of an answer and a usual body are sent in one packet; Pingora's default of 1460 bytes splits
/// them.
const MOST: usize = 16 * 1024;
/// Enough for most answers with a small body.
const FIRST: usize = 2 * 1024;

/// A socket with a write buffer of [`MOST`] bytes at most. Reads are not buffered: the HTTP session
/// has a buffer of its own, and an idle connection does not need a second one.
#[derive(Debug)]
pub(super) struct WriteBuffer<S> {
    socket: S,
    waiting: Vec<u8>,
    /// How much of `waiting` the socket has.
    sent: usize,
}

impl<S> WriteBuffer<S> {
    pub(super) const fn new(socket: S) -> Self {
        Self { socket, waiting: Vec::new(), sent: 0 }
    }

    pub(super) const fn socket(&self) -> &S {
        &self.socket
    }

    /// What the socket does not have yet.
    pub(super) fn waiting(&self) -> &[u8] {
        self.waiting.get(self.sent..).unwrap_or_default()
    }
}

impl<S: AsyncWrite + Unpin> WriteBuffer<S> {
    /// Hands what waits to the socket, and gives the buffer up.
    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest @ [_, ..]) = self.waiting.get(self.sent..) {
            let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, rest))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent = self.sent.saturating_add(sent);
        }
        (self.waiting, self.sent) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Makes room for `more` bytes. False if so many do not fit and the buffer is empty.
    fn poll_room(&mut self, more: usize, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.waiting.len().saturating_add(more) > MOST {
            ready!(self.poll_empty(cx))?;
        }
        if more >= MOST {
            return Poll::Ready(Ok(false));
        }
        if self.waiting.capacity() == 0 {
            self.waiting.reserve(more.max(FIRST));
        }
        Poll::Ready(Ok(true))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteBuffer<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteBuffer<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !ready!(self.poll_room(buf.len(), cx))? {
            return Pin::new(&mut self.socket).poll_write(cx, buf);
        }
        self.waiting.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().fold(0_usize, |sum, buf| sum.saturating_add(buf.len()));
        if !ready!(self.poll_room(length, cx))? {
            return Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        }
        for buf in bufs {
            self.waiting.extend_from_slice(buf);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_written_comes_out_in_order_and_the_buffer_is_given_up() {
        let (near, mut far) = tokio::io::duplex(1000);
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            all
        });
        let mut socket = WriteBuffer::new(near);
        let mut written = Vec::new();
        for length in [1, 500, MOST - 1, 1, MOST, 3 * MOST, 7, 0, FIRST] {
            let part: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            socket.write_all(&part).await.unwrap();
            written.extend(part);
        }
        assert!(socket.waiting.capacity() > 0, "the last part waits");
        socket.flush().await.unwrap();
        assert_eq!(socket.waiting.capacity(), 0);
        let (head, body) = ([1; 300], vec![2; 600]);
        let slices = [io::IoSlice::new(&head), io::IoSlice::new(&body)];
        assert_eq!(socket.write_vectored(&slices).await.unwrap(), 900);
        written.extend(head);
        written.extend(body);
        assert!(socket.waiting.capacity() <= FIRST, "no more than what most answers need");
        socket.shutdown().await.unwrap();
        drop(socket);
        assert!(reader.await.unwrap() == written);
    }

    #[tokio::test]
    async fn nothing_is_sent_before_it_is_flushed() {
        let (near, mut far) = tokio::io::duplex(1000);
        let mut socket = WriteBuffer::new(near);
        socket.write_all(b"head").await.unwrap();
        socket.write_all(b"body").await.unwrap();
        let mut got = [0; 8];
        assert!(futures_util::FutureExt::now_or_never(far.read(&mut got)).is_none());
        socket.flush().await.unwrap();
        assert_eq!(far.read(&mut got).await.unwrap(), 8, "in one piece");
    }
}
