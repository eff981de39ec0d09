//! What upstreams are shown, and who is believed for those over TLS.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::config::{ClientIdentity, Config, UpstreamAuth, UpstreamConfig};
use crate::gateway::upstream::PeerSecurity;
use crate::routes::UpstreamName;
use crate::vault::{self, VaultError};

/// Why the files of an upstream cannot be used. Its `key` says at which key of the configuration.
#[derive(Debug, thiserror::Error)]
#[error("`upstreams.{upstream}.{key}`: {fault}")]
pub struct UpstreamTlsError {
    pub upstream: UpstreamName,
    /// `ca_file`, `certificate`, `key` or `auth.value_file`.
    pub key: &'static str,
    pub fault: UpstreamTlsFault,
}

/// What is wrong with such a file.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamTlsFault {
    #[error("{}: {why}", path.display())]
    File { path: PathBuf, why: String },
    #[error(transparent)]
    Key(#[from] VaultError),
    #[error("{}: not the value of a header, which is one line of visible characters", path.display())]
    NoValue { path: PathBuf },
    #[error("not the certificate of an authority: {0}")]
    Authority(rustls::Error),
    #[error("the certificate and the key do not belong together: {0}")]
    Unfit(rustls::Error),
}

/// The TLS of every upstream of `config`. It opens the files and calls nobody.
///
/// # Errors
/// [`UpstreamTlsError`], for the first upstream with a fault.
pub fn upstreams_tls(config: &Config) -> Result<BTreeMap<UpstreamName, PeerSecurity>, UpstreamTlsError> {
    let tls = |(name, settings): (&UpstreamName, &UpstreamConfig)| {
        let error = |(key, fault)| UpstreamTlsError { upstream: name.clone(), key, fault };
        Ok((name.clone(), peer_security(settings).map_err(error)?))
    };
    config.upstreams.iter().map(tls).collect()
}

fn peer_security(settings: &UpstreamConfig) -> Result<PeerSecurity, (&'static str, UpstreamTlsFault)> {
    let mut roots = RootCertStore::empty();
    for authority in &settings.authorities {
        roots.add(authority.clone()).map_err(|it| ("ca_file", UpstreamTlsFault::Authority(it)))?;
    }
    let authorities = (!settings.authorities.is_empty())
        .then(|| settings.authorities.iter().map(|it| WrappedX509::new(it.to_vec(), parse_x509)).collect());
    let identity = settings.identity.as_ref().map(|it| identity(it, roots)).transpose()?.map(Arc::new);
    let auth = settings.auth.as_ref().map(auth).transpose().map_err(|it| ("auth.value_file", it))?;
    Ok(PeerSecurity { authorities, identity, server_name: settings.server_name.clone(), auth })
}

/// The header by which an upstream knows the gateway's operator.
fn auth(settings: &UpstreamAuth) -> Result<(HeaderName, HeaderValue), UpstreamTlsFault> {
    let UpstreamAuth { header, file, prefix } = settings;
    let secret = vault::text(file)?;
    let value = Zeroizing::new(format!("{prefix}{}", secret.as_str()));
    let mut value = HeaderValue::from_str(&value)
        .ok()
        .filter(|it| it.len() > prefix.len())
        .ok_or_else(|| UpstreamTlsFault::NoValue { path: file.clone() })?;
    value.set_sensitive(true);
    Ok((header.clone(), value))
}

/// A client's certificate chain and its key.
fn identity(
    files: &ClientIdentity,
    roots: RootCertStore,
) -> Result<CertKey, (&'static str, UpstreamTlsFault)> {
    let ClientIdentity { certificate, key } = files;
    let chain = chain(certificate).map_err(|it| ("certificate", it))?;
    let secret = vault::check_private(key).map_err(UpstreamTlsFault::from).and_then(|()| {
        PrivateKeyDer::from_pem_file(key)
            .map_err(|error| UpstreamTlsFault::File { path: key.clone(), why: error.to_string() })
    });
    let secret = secret.map_err(|it| ("key", it))?;
    // Made for its faults only: Pingora makes its own for each connection, and panics at these.
    rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|it| {
            it.with_root_certificates(roots).with_client_auth_cert(chain.clone(), secret.clone_key())
        })
        .map_err(|it| ("certificate", UpstreamTlsFault::Unfit(it)))?;
    let chain = chain.iter().map(|it| it.to_vec()).collect();
    Ok(CertKey::new(chain, secret.secret_der().to_vec()))
}

/// The certificates of a PEM file, at least one.
fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, UpstreamTlsFault> {
    let fault = |why: String| UpstreamTlsFault::File { path: path.to_owned(), why };
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<_, _>>)
        .map_err(|error| fault(error.to_string()))?;
    if chain.is_empty() {
        return Err(fault("holds no certificate".to_owned()));
    }
    let mut read = RootCertStore::empty();
    for certificate in &chain {
        read.add(certificate.clone()).map_err(|error| fault(error.to_string()))?;
    }
    Ok(chain)
}
