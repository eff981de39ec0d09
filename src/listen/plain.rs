//! A connection, over TCP or a Unix socket, with the traits that Pingora asks of a stream.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::ALPN;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::half_closed::HalfClosed;
use super::head::HeadWatch;
use super::refusal::Refused;
use super::socket::Socket;
use super::stall::Unstalled;
use super::write_buffer::WriteBuffer;

/// A socket with a write buffer.
#[derive(Debug)]
pub(super) struct Buffered {
    stream: WriteBuffer<Unstalled<Socket>>,
    digest: Arc<SocketDigest>,
    /// Over the heads, if no other layer reads them.
    watch: Option<HeadWatch>,
    refused: Refused,
    half_closed: HalfClosed,
    /// Whether the client began with the preface of HTTP/2.
    is_http2: bool,
}

impl Buffered {
    pub(super) fn new(socket: Socket, digest: SocketDigest, watch: Option<HeadWatch>) -> Self {
        Self {
            stream: WriteBuffer::new(Unstalled::new(socket)),
            digest: Arc::new(digest),
            watch,
            refused: Refused::default(),
            half_closed: HalfClosed::default(),
            is_http2: false,
        }
    }

    /// The same for a client that began with the preface of HTTP/2, if `is_http2`.
    pub(super) fn speaking_http2(mut self, is_http2: bool) -> Self {
        self.is_http2 = is_http2;
        self
    }

    pub(super) fn socket(&self) -> &Socket {
        self.stream.socket().get_ref()
    }

    pub(super) fn digest(&self) -> &SocketDigest {
        &self.digest
    }

    /// The watch over the heads, if no other layer reads them.
    pub(super) const fn watch(&self) -> Option<&HeadWatch> {
        self.watch.as_ref()
    }
}

impl Drop for Buffered {
    /// Sends what was written and not flushed, as much as the socket takes at once. The rest would go to a
    /// peer that has stopped reading. There may be no runtime any more whose timer could limit it.
    fn drop(&mut self) {
        if let Some(signal) = self.watch.as_ref().map(HeadWatch::signal)
            && let Some(words) = signal.last_words()
        {
            say_last(&mut self.stream, &words, &mut Context::from_waker(Waker::noop()));
            signal.outlive(self.socket().as_fd().try_clone_to_owned());
        }
        let _sent = self.socket().try_write(self.stream.waiting()).is_ok();
    }
}

/// Writes an answer to a client whose request is dropped, and ends what is sent. Nothing was written to it
/// before, so there is room; if there is not, the client is gone.
pub(super) fn say_last(stream: &mut (impl AsyncWrite + Unpin), words: &[u8], cx: &mut Context<'_>) {
    let written = Pin::new(&mut *stream).poll_write(cx, words);
    if !matches!(written, Poll::Ready(Ok(length)) if length == words.len())
        || !matches!(Pin::new(&mut *stream).poll_flush(cx), Poll::Ready(Ok(())))
        || !matches!(Pin::new(stream).poll_shutdown(cx), Poll::Ready(Ok(())))
    {
        tracing::debug!("the client was gone before it was answered");
    }
}

impl AsyncRead for Buffered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, watch, half_closed, .. } = &mut *self;
        let Some(watch) = watch else { return Pin::new(stream).poll_read(cx, buf) };
        let before = buf.filled().len();
        ready!(watch.read(cx, buf, |cx, buf| Pin::new(&mut *stream).poll_read(cx, buf)))?;
        if buf.filled().len() > before {
            return Poll::Ready(Ok(()));
        }
        half_closed.poll_end(watch.signal(), stream, |it| it.socket().get_ref(), cx)
    }
}

impl AsyncWrite for Buffered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, watch, refused, .. } = &mut *self;
        let stream = Pin::new(stream);
        match watch {
            Some(watch) if watch.is_unasked() => refused.write(stream, cx, buf),
            Some(_) | None => stream.poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, refused, .. } = &mut *self;
        if !refused.is_lingering() {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
        }
        refused.poll_linger(Pin::new(stream), cx).map(Ok)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for Buffered {
    async fn shutdown(&mut self) {
        if let Err(error) = self.stream.shutdown().await {
            tracing::debug!(%error, "connection was gone before it was closed");
        }
    }
}

impl UniqueID for Buffered {
    fn id(&self) -> UniqueIDType {
        self.socket().as_raw_fd()
    }
}

impl Ssl for Buffered {
    /// What TLS would have agreed on.
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.is_http2.then_some(ALPN::H2)
    }
}

#[async_trait]
impl Peek for Buffered {}

impl GetTimingDigest for Buffered {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Buffered {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Buffered {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }
}
