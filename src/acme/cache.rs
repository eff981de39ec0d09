//! The folder of what an authority gave: the account's key, and the certificate with its key. Both are of one
//! directory, whose name the files bear: another one begins with nothing.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use instant_acme::AccountCredentials;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use crate::config::AcmeConfig;
use crate::listen::{Certificate, TlsError};
use crate::vault::{self, VaultError};

/// What is wrong with a file in the folder.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error(transparent)]
    Private(#[from] VaultError),
    #[error("{}: {why}", path.display())]
    Unusable { path: PathBuf, why: String },
    #[error("{}: {fault}", path.display())]
    Unfit { path: PathBuf, fault: TlsError },
    #[error("{}: cannot be written: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
}

/// The account at an authority, as it is kept.
#[derive(Deserialize, Serialize)]
pub(super) struct KeptAccount {
    /// What the authority was told last.
    pub(super) contact: Option<String>,
    pub(super) credentials: AccountCredentials,
}

/// The files of one directory.
#[derive(Clone, Debug)]
pub struct Cache {
    account: PathBuf,
    certificate: PathBuf,
}

impl Cache {
    /// The files of the directory that `config` names.
    #[must_use]
    pub fn of(config: &AcmeConfig) -> Self {
        let name = config.directory.strip_prefix("https://").unwrap_or(&config.directory);
        let is_plain = |it: char| it.is_ascii_alphanumeric() || matches!(it, '.' | '-');
        let name: String = name.chars().map(|it| if is_plain(it) { it } else { '_' }).collect();
        let file = |what: &str| config.cache.join(format!("{name}.{what}"));
        Self { account: file("account.json"), certificate: file("certificate.pem") }
    }

    /// The file of the certificate and its key.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.certificate
    }

    /// The certificate and its key; `None` if there is none yet.
    ///
    /// # Errors
    /// [`CacheError`]: users other than its owner may read it, or it is no certificate with its key.
    pub fn certificate(&self) -> Result<Option<Certificate>, CacheError> {
        read(&self.certificate)?.map(|pem| certificate(&self.certificate, &pem)).transpose()
    }

    /// Keeps a certificate and its key, both in one text.
    pub(super) fn keep_certificate(&self, pem: &str) -> Result<(), CacheError> {
        write(&self.certificate, pem.as_bytes())
    }

    /// The account; `None` if there is none yet.
    pub(super) fn account(&self) -> Result<Option<KeptAccount>, CacheError> {
        let Some(text) = read(&self.account)? else { return Ok(None) };
        let unusable = |why: String| CacheError::Unusable { path: self.account.clone(), why };
        serde_json::from_slice(&text).map(Some).map_err(|error| unusable(error.to_string()))
    }

    pub(super) fn keep_account(&self, account: &KeptAccount) -> Result<(), CacheError> {
        let unusable = |why: String| CacheError::Unusable { path: self.account.clone(), why };
        let text = serde_json::to_vec(account).map_err(|error| unusable(error.to_string()))?;
        write(&self.account, &text)
    }
}

/// The certificate of a text with the chain and the key.
pub(super) fn certificate(path: &Path, pem: &[u8]) -> Result<Certificate, CacheError> {
    let unusable = |why: String| CacheError::Unusable { path: path.to_owned(), why };
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(error.to_string()))?;
    if chain.is_empty() {
        return Err(unusable("holds no certificate".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| unusable(error.to_string()))?;
    Certificate::of(chain, key).map_err(|fault| CacheError::Unfit { path: path.to_owned(), fault })
}

/// The bytes of a private file; `None` if it is not there.
fn read(path: &Path) -> Result<Option<Vec<u8>>, CacheError> {
    match vault::check_private(path) {
        Ok(()) => {}
        Err(VaultError::Missing { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let unusable = |error: io::Error| CacheError::Unusable { path: path.to_owned(), why: error.to_string() };
    fs::read(path).map(Some).map_err(unusable)
}

/// Replaces a file, which only its owner may use. Whoever reads it sees the old one or the new one, whole.
fn write(path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = || {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // Made with mode 0600.
        let mut file = tempfile::Builder::new().prefix(".faregate-acme-").tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        let _file = file.persist(path).map_err(|error| error.error)?;
        File::open(folder)?.sync_all()
    };
    written().map_err(|error| CacheError::Write { path: path.to_owned(), error })
}
