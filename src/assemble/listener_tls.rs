//! What the listener that speaks TLS shows: the certificates of its files, and the one that an authority gave before.

use crate::acme::{Cache, CacheError};
use crate::config::TlsListener;
use crate::listen::{Certificate, Challenges, Tls, TlsError};

/// Why the files of a certificate cannot be used. Its `key` says at which key of the configuration.
#[derive(Debug, thiserror::Error)]
#[error("`{key}`: {fault}")]
pub struct ListenerTlsError {
    pub key: String,
    pub fault: TlsError,
}

/// Reads the files, and with ACME the folder. A certificate there that cannot be used is left out, and why it cannot is
/// given beside: another one is ordered in its place.
///
/// # Errors
/// [`ListenerTlsError`], for the first file with a fault.
pub fn listener_tls(
    listener: &TlsListener,
    challenges: &Challenges,
) -> Result<(Tls, Option<CacheError>), ListenerTlsError> {
    let certificates = listener.certificates.iter().map(|it| {
        let error =
            |fault: TlsError| ListenerTlsError { key: format!("{}.{}", it.place, fault.key()), fault };
        Certificate::load(&it.certificate, &it.key).map_err(error)
    });
    let certificates = certificates.collect::<Result<Vec<_>, _>>()?;
    let tls = Tls::new(certificates, listener.rules(), challenges.clone());
    let tls = tls.map_err(|fault| ListenerTlsError { key: "listen.tls".to_owned(), fault })?;
    let kept = match &listener.acme {
        Some(acme) => Cache::of(acme).certificate(),
        None => Ok(None),
    };
    let unusable = match kept {
        Ok(Some(certificate)) => {
            tls.manage(certificate);
            None
        }
        Ok(None) => None,
        Err(error) => Some(error),
    };
    Ok((tls, unusable))
}

/// What is odd about the certificates that a listener shows, in words.
#[must_use]
pub fn shared_names(listener: &TlsListener, tls: &Tls) -> Vec<String> {
    let place =
        |index: usize| listener.certificates.get(index).map_or("listen.tls.acme", |it| it.place.as_str());
    let told = |(name, first, later): (String, usize, usize)| {
        format!("{} is for {name} too, for which {} is shown", place(later), place(first))
    };
    tls.shared_names().into_iter().map(told).collect()
}
