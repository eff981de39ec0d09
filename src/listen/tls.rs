//! TLS for the accept loop: certificates from PEM files, which can be replaced at run time, and HTTP/2 by
//! ALPN.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{ALPN, SslDigest};
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::half_closed::HalfClosed;
use super::head::HeadWatch;
use super::plain::{Buffered, say_last};
use super::refusal::Refused;
use crate::vault::{self, VaultError};

/// How long a client may take for the handshake.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: {why}", path.display())]
    File { path: PathBuf, why: String },
    #[error("{}: {why}", path.display())]
    KeyFile { path: PathBuf, why: String },
    #[error(transparent)]
    Key(#[from] VaultError),
    #[error("the certificate and the key do not belong together: {0}")]
    Unfit(rustls::Error),
}

impl TlsError {
    /// Which of the two files it is about: `certificate` or `key`.
    #[must_use]
    pub const fn key(&self) -> &'static str {
        match self {
            Self::File { .. } | Self::Unfit(_) => "certificate",
            Self::KeyFile { .. } | Self::Key(_) => "key",
        }
    }
}

/// A certificate and its key, which can be replaced while connections are served.
#[derive(Clone)]
pub struct Tls(Arc<ArcSwap<Loaded>>);

/// What was read from the files.
struct Loaded {
    config: Arc<ServerConfig>,
    /// In seconds since 1970.
    expires_at: i64,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(****)")
    }
}

impl Tls {
    /// Reads a certificate chain and its key, both in PEM.
    ///
    /// # Errors
    /// [`TlsError`], which names the file.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(load(certificate, key)?))))
    }

    /// Takes the certificate and key of `other`, which was loaded from the same files or from others, for future
    /// connections.
    pub fn replace(&self, other: &Self) {
        self.0.store(other.0.load_full());
    }

    /// When the certificate expires, or an earlier one of its chain, in seconds since 1970.
    #[must_use]
    pub fn expires_at(&self) -> i64 {
        self.0.load().expires_at
    }

    /// Makes the TLS handshake over `plain`.
    pub(super) async fn accept(&self, plain: Buffered, watch: HeadWatch) -> io::Result<Secured> {
        let accepted = TlsAcceptor::from(Arc::clone(&self.0.load().config)).accept(plain);
        let stream =
            tokio::time::timeout(HANDSHAKE, accepted).await.map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(Secured::new(stream, watch))
    }
}

fn load(certificate: &Path, key: &Path) -> Result<Loaded, TlsError> {
    let fault = |path: &Path| {
        let path = path.to_owned();
        move |error: rustls::pki_types::pem::Error| TlsError::File { path, why: error.to_string() }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .map_err(fault(certificate))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(fault(certificate))?;
    if chain.is_empty() {
        return Err(TlsError::File { path: certificate.to_owned(), why: "holds no certificate".to_owned() });
    }
    let expiry = |it: &CertificateDer<'_>| {
        let read = x509_parser::parse_x509_certificate(it).ok();
        read.map(|(_, it)| it.validity().not_after.timestamp())
    };
    let expires_at = chain.iter().filter_map(expiry).min().unwrap_or(0);
    vault::check_private(key)?;
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| TlsError::KeyFile { path: key.to_owned(), why: error.to_string() })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unfit)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Unfit)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Loaded { config: Arc::new(config), expires_at })
}

/// A TLS connection with the traits that Pingora asks of a stream.
#[derive(Debug)]
pub(super) struct Secured {
    stream: TlsStream<Buffered>,
    digest: Arc<SslDigest>,
    watch: HeadWatch,
    refused: Refused,
    half_closed: HalfClosed,
}

impl Secured {
    fn new(stream: TlsStream<Buffered>, watch: HeadWatch) -> Self {
        let session = stream.get_ref().1;
        let named = |text: Option<String>| text.unwrap_or_default();
        let cipher = named(session.negotiated_cipher_suite().map(|it| format!("{:?}", it.suite())));
        let version = named(session.protocol_version().map(|it| format!("{it:?}")));
        let digest = Arc::new(SslDigest::new(cipher, version, None, None, Vec::new()));
        Self { stream, digest, watch, refused: Refused::default(), half_closed: HalfClosed::default() }
    }

    pub(super) fn plain(&self) -> &Buffered {
        self.stream.get_ref().0
    }

    pub(super) const fn watch(&self) -> &HeadWatch {
        &self.watch
    }

    /// Whether something was decrypted that was not read yet.
    pub(super) fn has_plaintext(&self) -> bool {
        !self.stream.get_ref().1.wants_read()
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        if let Some(words) = self.watch.signal().last_words() {
            say_last(&mut self.stream, &words, &mut Context::from_waker(Waker::noop()));
            self.watch.signal().outlive(self.plain().tcp().as_fd().try_clone_to_owned());
        }
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, watch, half_closed, .. } = &mut *self;
        let before = buf.filled().len();
        ready!(watch.read(cx, buf, |cx, buf| Pin::new(&mut *stream).poll_read(cx, buf)))?;
        if buf.filled().len() > before {
            return Poll::Ready(Ok(()));
        }
        half_closed.poll_end(watch.signal(), stream, |it| it.get_ref().0.tcp(), cx)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, watch, refused, .. } = &mut *self;
        let stream = Pin::new(stream);
        if watch.is_unasked() { refused.write(stream, cx, buf) } else { stream.poll_write(cx, buf) }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, refused, .. } = &mut *self;
        if !refused.is_lingering() {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
        }
        refused.poll_linger(Pin::new(stream.get_mut().0), cx).map(Ok)
    }
}

#[async_trait]
impl Shutdown for Secured {
    async fn shutdown(&mut self) {
        if let Err(error) = self.stream.shutdown().await {
            tracing::debug!(%error, "connection was gone before it was closed");
        }
    }
}

impl UniqueID for Secured {
    fn id(&self) -> UniqueIDType {
        self.plain().id()
    }
}

impl Ssl for Secured {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        Some(Arc::clone(&self.digest))
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        match self.stream.get_ref().1.alpn_protocol()? {
            b"h2" => Some(ALPN::H2),
            _ => Some(ALPN::H1),
        }
    }
}

#[async_trait]
impl Peek for Secured {}

impl GetTimingDigest for Secured {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.plain().get_timing_digest()
    }
}

impl GetProxyDigest for Secured {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.plain().get_proxy_digest()
    }
}

impl GetSocketDigest for Secured {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.plain().get_socket_digest()
    }
}
