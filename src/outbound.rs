//! Calls that this program makes: who is trusted over TLS, the HTTP client, and why a call failed.

use std::error::Error;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

/// The certificate authorities that browsers trust, and `authorities` beside them.
///
/// # Errors
/// [`rustls::Error`], when one of `authorities` is not a certificate of an authority.
pub(crate) fn authorities(own: &[CertificateDer<'static>]) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    for authority in own {
        roots.add(authority.clone())?;
    }
    Ok(roots)
}

/// TLS towards servers whose certificate one of `roots` has signed.
///
/// # Errors
/// [`rustls::Error`], when the cryptography offers no usable version of TLS.
pub(crate) fn tls(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// The beginning of an HTTP client (1.1, and 2 over TLS) that also trusts `own` authorities.
///
/// # Errors
/// As [`authorities`] and [`tls`].
pub(crate) fn http(own: &[CertificateDer<'static>]) -> Result<reqwest::ClientBuilder, rustls::Error> {
    let mut config = tls(authorities(own)?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(reqwest::Client::builder().tls_backend_preconfigured(config))
}

/// An error with its causes, which many errors do not show themselves.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
