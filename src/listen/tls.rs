//! TLS for the accept loop: certificates from PEM files, chosen by the name that a client asks for and replaced at run
//! time, and HTTP/2 by ALPN.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
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
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::challenges::{ACME_TLS, Challenges};
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

vocabulary! {
    /// The oldest version of TLS that is spoken.
    #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
    pub enum TlsVersion {
        #[default]
        Tls12 = "1.2",
        Tls13 = "1.3",
    }
    /// As the configuration writes it.
    pub fn as_str;
}

/// How TLS is spoken, beside the certificates.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TlsRules {
    pub oldest: TlsVersion,
    /// Whether a certificate comes from an authority by and by, see [`Tls::manage`].
    pub is_managed: bool,
    /// Whether that authority asks for its challenges here (tls-alpn-01).
    pub shows_challenges: bool,
}

/// A certificate and its key.
pub struct Certificate {
    key: Arc<CertifiedKey>,
    /// The DNS names that it is for, in lower case; with `*.` at the beginning for any one label.
    names: Vec<String>,
    /// In seconds since 1970.
    begins_at: i64,
    /// When it or an earlier one of its chain ends, in seconds since 1970.
    expires_at: i64,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Certificate {
    /// Reads a certificate chain and its key, both in PEM. The key's file must be private.
    ///
    /// # Errors
    /// [`TlsError`], which names the file.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let fault = |error: rustls::pki_types::pem::Error| TlsError::File {
            path: certificate.to_owned(),
            why: error.to_string(),
        };
        let chain = CertificateDer::pem_file_iter(certificate)
            .map_err(fault)?
            .collect::<Result<Vec<_>, _>>()
            .map_err(fault)?;
        let unreadable = |why: String| TlsError::File { path: certificate.to_owned(), why };
        if chain.is_empty() {
            return Err(unreadable("holds no certificate".to_owned()));
        }
        vault::check_private(key)?;
        let key = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| TlsError::KeyFile { path: key.to_owned(), why: error.to_string() })?;
        Self::of(chain, key)
    }

    /// The certificate of a chain, its own certificate first.
    ///
    /// # Errors
    /// [`TlsError::Unfit`]: the key is that of another certificate, or one of them cannot be read.
    pub fn of(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, TlsError> {
        let (mut names, mut begins_at) = (Vec::new(), 0);
        let mut expires_at = i64::MAX;
        for (index, certificate) in chain.iter().enumerate() {
            // One that this parser cannot read has no names. Whether it can be used is for rustls to say.
            let Ok((_, read)) = x509_parser::parse_x509_certificate(certificate) else { continue };
            expires_at = expires_at.min(read.validity().not_after.timestamp());
            if index == 0 {
                names = dns_names(&read);
                begins_at = read.validity().not_before.timestamp();
            }
        }
        let key = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(TlsError::Unfit)?;
        let expires_at = if expires_at == i64::MAX { 0 } else { expires_at };
        Ok(Self { key: Arc::new(key), names, begins_at, expires_at })
    }

    /// The DNS names that it is for, in lower case; with `*.` at the beginning for any one label.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether it is for `name`, which is in lower case.
    #[must_use]
    pub fn is_for(&self, name: &str) -> bool {
        self.names.iter().any(|it| it == name || is_below(it, name))
    }

    /// A number that differs between certificates as if it were drawn: a byte of the signature.
    #[must_use]
    pub fn lot(&self) -> u8 {
        self.key.cert.first().and_then(|it| it.last()).copied().unwrap_or(0)
    }

    /// When it begins to be valid, in seconds since 1970.
    #[must_use]
    pub const fn begins_at(&self) -> i64 {
        self.begins_at
    }

    /// When it expires, or an earlier one of its chain, in seconds since 1970.
    #[must_use]
    pub const fn expires_at(&self) -> i64 {
        self.expires_at
    }
}

/// The DNS names among the alternative names: nothing else says whose a certificate is (RFC 9525 section 2).
fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let found = certificate.subject_alternative_name().ok().flatten();
    let names = found.map(|it| it.value.general_names.as_slice()).unwrap_or_default();
    let dns =
        names.iter().filter_map(|it| if let GeneralName::DNSName(name) = it { Some(name) } else { None });
    dns.map(|it| it.to_ascii_lowercase()).collect()
}

/// Whether `name` is one label below the wildcard `pattern` (RFC 9525 section 6.3).
fn is_below(pattern: &str, name: &str) -> bool {
    let below = pattern.strip_prefix("*.").zip(name.split_once('.'));
    below.is_some_and(|(parent, (label, rest))| !label.is_empty() && parent == rest)
}

/// What a handshake chooses from.
#[derive(Debug, Default)]
struct Shelf {
    /// In the order of the configuration.
    files: ArcSwap<Vec<Arc<Certificate>>>,
    managed: ArcSwapOption<Certificate>,
    challenges: Challenges,
}

impl Shelf {
    fn all(&self) -> Vec<Arc<Certificate>> {
        let managed = self.managed.load_full();
        self.files.load().iter().cloned().chain(managed).collect()
    }

    /// The certificate for `name`: the first that names it, else the first with a wildcard for it, else the first.
    fn choose(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let files = self.files.load();
        let managed = self.managed.load();
        let all = || files.iter().chain(managed.iter());
        let named = name.map(str::to_ascii_lowercase).and_then(|name| {
            let exact = all().find(|it| it.names.contains(&name));
            exact.or_else(|| all().find(|it| it.is_for(&name)))
        });
        named.or_else(|| all().next()).map(|it| Arc::clone(&it.key))
    }
}

impl ResolvesServerCert for Shelf {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        let asks_for_challenge =
            hello.alpn().is_some_and(|mut it| it.next() == Some(ACME_TLS) && it.next().is_none());
        if asks_for_challenge {
            return self.challenges.certificate(name?);
        }
        self.choose(name)
    }
}

/// The certificates of a listener, which can be replaced while connections are served.
#[derive(Clone)]
pub struct Tls(Arc<State>);

struct State {
    config: ArcSwap<ServerConfig>,
    rules: ArcSwap<TlsRules>,
    shelf: Arc<Shelf>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(****)")
    }
}

impl Tls {
    /// Speaks TLS with `certificates`; the first is for clients that ask for no name, or for one that none is for.
    /// `challenges` are shown if the rules say so.
    ///
    /// # Errors
    /// [`TlsError::Unfit`], when the cryptography offers no usable version of TLS.
    pub fn new(
        certificates: Vec<Certificate>,
        rules: TlsRules,
        challenges: Challenges,
    ) -> Result<Self, TlsError> {
        let files = certificates.into_iter().map(Arc::new).collect();
        let shelf = Arc::new(Shelf { files: ArcSwap::from_pointee(files), challenges, ..Shelf::default() });
        let config = ArcSwap::new(config(rules, &shelf)?);
        Ok(Self(Arc::new(State { config, rules: ArcSwap::from_pointee(rules), shelf })))
    }

    /// The same with one certificate, from PEM files.
    ///
    /// # Errors
    /// [`TlsError`], which names the file.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let certificate = Certificate::load(certificate, key)?;
        Self::new(vec![certificate], TlsRules::default(), Challenges::default())
    }

    /// Takes the certificates and rules of `other` for future connections. A certificate that an authority gave
    /// stays, if `other` has none yet.
    ///
    /// # Errors
    /// As [`Tls::new`]; then everything stays as it was.
    pub fn replace(&self, other: &Self) -> Result<(), TlsError> {
        let (State { config: own, rules, shelf }, other) = (&*self.0, &*other.0);
        let new = **other.rules.load();
        own.store(config(new, shelf)?);
        rules.store(Arc::new(new));
        shelf.files.store(other.shelf.files.load_full());
        let managed = other.shelf.managed.load_full();
        if managed.is_some() || !new.is_managed {
            shelf.managed.store(managed);
        }
        Ok(())
    }

    /// Takes a certificate that an authority gave, in place of an earlier one.
    pub fn manage(&self, certificate: Certificate) {
        self.0.shelf.managed.store(Some(Arc::new(certificate)));
    }

    /// The certificate that an authority gave.
    #[must_use]
    pub fn managed(&self) -> Option<Arc<Certificate>> {
        self.0.shelf.managed.load_full()
    }

    /// When the first of the certificates expires, in seconds since 1970; 0 if there is none yet.
    #[must_use]
    pub fn expires_at(&self) -> i64 {
        self.0.shelf.all().iter().map(|it| it.expires_at).min().unwrap_or(0)
    }

    /// The names that two of the certificates are for, with the places of the first, which is shown, and the other.
    #[must_use]
    pub fn shared_names(&self) -> Vec<(String, usize, usize)> {
        let (all, mut shared) = (self.0.shelf.all(), Vec::new());
        for (later, certificate) in all.iter().enumerate() {
            for name in &certificate.names {
                let first = all.iter().take(later).position(|it| it.names.contains(name));
                if let Some(first) = first {
                    shared.push((name.clone(), first, later));
                }
            }
        }
        shared
    }

    /// Makes the TLS handshake over `plain`.
    pub(super) async fn accept(&self, plain: Buffered, watch: HeadWatch) -> io::Result<Secured> {
        let accepted = TlsAcceptor::from(self.0.config.load_full()).accept(plain);
        let mut stream =
            tokio::time::timeout(HANDSHAKE, accepted).await.map_err(|_| io::ErrorKind::TimedOut)??;
        if stream.get_ref().1.alpn_protocol() == Some(ACME_TLS) {
            // The handshake was all (RFC 8737 section 3).
            stream.shutdown().await?;
            return Err(io::Error::other("an authority has looked at its challenge"));
        }
        Ok(Secured::new(stream, watch))
    }
}

fn config(rules: TlsRules, shelf: &Arc<Shelf>) -> Result<Arc<ServerConfig>, TlsError> {
    let versions: &[_] = match rules.oldest {
        TlsVersion::Tls12 => &[&TLS13, &TLS12],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .map_err(TlsError::Unfit)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::<Shelf>::clone(shelf));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if rules.shows_challenges {
        config.alpn_protocols.push(ACME_TLS.to_vec());
    }
    Ok(Arc::new(config))
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
            self.watch.signal().outlive(self.plain().socket().as_fd().try_clone_to_owned());
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
        half_closed.poll_end(watch.signal(), stream, |it| it.get_ref().0.socket(), cx)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn made(names: &[&str]) -> Certificate {
        let names: Vec<_> = names.iter().map(|it| (*it).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
        Certificate::of(vec![made.cert.der().clone()], key).unwrap()
    }

    fn tls(all: &[&[&str]]) -> Tls {
        let all = all.iter().map(|it| made(it)).collect();
        Tls::new(all, TlsRules::default(), Challenges::default()).unwrap()
    }

    /// The place of the certificate that is shown for a name.
    fn chosen(tls: &Tls, name: Option<&str>) -> Option<usize> {
        let shelf = &tls.0.shelf;
        let key = shelf.choose(name)?;
        shelf.all().iter().position(|it| Arc::ptr_eq(&it.key, &key))
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        for (pattern, name, is_for) in [
            ("*.a.example", "x.a.example", true),
            ("*.a.example", "a.example", false),
            ("*.a.example", "y.x.a.example", false),
            ("*.a.example", ".a.example", false),
            ("*.a.example", "*.a.example", true),
            ("x*.a.example", "xy.a.example", false),
            ("a.example", "a.example", true),
            ("a.example", "b.example", false),
        ] {
            let it = Certificate { names: vec![pattern.to_owned()], ..made(&["unused.example"]) };
            assert_eq!(it.is_for(name), is_for, "{pattern} {name}");
        }
    }

    #[test]
    fn the_closest_name_wins_then_the_first_and_the_first_is_for_all_others() {
        let all: [&[&str]; 4] =
            [&["first.example"], &["*.a.example", "Shared.example"], &["x.a.example"], &["shared.example"]];
        let tls = tls(&all);
        for (name, place) in [
            (Some("first.example"), 0),
            (Some("y.a.example"), 1),
            (Some("X.a.example"), 2),
            (Some("shared.example"), 1),
            (Some("nowhere.example"), 0),
            (None, 0),
        ] {
            assert_eq!(chosen(&tls, name), Some(place), "{name:?}");
        }
        assert_eq!(tls.shared_names(), [("shared.example".to_owned(), 1, 3)]);
        tls.manage(made(&["managed.example", "first.example"]));
        assert_eq!(chosen(&tls, Some("managed.example")), Some(4));
        assert_eq!(chosen(&tls, Some("first.example")), Some(0));
    }

    #[test]
    fn what_an_authority_gave_stays_until_another_comes_or_none_is_wanted() {
        let managing = TlsRules { is_managed: true, ..TlsRules::default() };
        let none = || Tls::new(Vec::new(), managing, Challenges::default()).unwrap();
        let running = none();
        assert_eq!((chosen(&running, None), running.expires_at()), (None, 0));
        running.manage(made(&["a.example"]));
        running.replace(&none()).unwrap();
        assert_eq!(chosen(&running, None), Some(0));
        running.replace(&tls(&[&["b.example"]])).unwrap();
        assert!(running.managed().is_none());
        assert_eq!(running.0.shelf.all().iter().map(|it| it.names().len()).sum::<usize>(), 1);
    }
}
