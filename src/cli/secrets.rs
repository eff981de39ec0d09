//! The files of secrets that a configuration names: whether each can be read, and by its owner alone.

use std::path::{Path, PathBuf};

use crate::config::{Config, PoolSource};
use crate::vault::{self, Vault, VaultError};

/// The file of a secret.
#[derive(Debug)]
pub(super) struct Secret {
    /// Where the configuration names it.
    pub(super) key: &'static str,
    pub(super) path: PathBuf,
    /// Whether it is good; else what is wrong, which names the file.
    pub(super) found: Result<Found, String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Found {
    Good,
    /// It is not there, and the first start makes it.
    MadeLater,
}

/// Every secret of `config` but a database's password.
pub(super) fn secrets(config: &Config) -> Vec<Secret> {
    let key = |path: &Path| vault::existing_mac_key(path).map(drop);
    let mut all = vec![secret("challenge.key_file", &config.challenge.key_file, true, key)];
    if let Some(path) = &config.challenge.previous_key_file {
        all.push(secret("challenge.previous_key_file", path, false, key));
    }
    if let PoolSource::Seed { file, .. } = &config.nano.pool {
        all.push(secret("nano.pool.seed_file", file, true, |path| Vault::open(path).map(drop)));
    }
    if let Some(path) = config.facilitator.as_ref().and_then(|it| it.token_file.as_ref()) {
        let token = |path: &Path| vault::existing_bearer_token(path).map(drop);
        all.push(secret("facilitator.token_file", path, true, token));
    }
    if let Some(path) = &config.admin_token_file {
        let token = |path: &Path| vault::existing_admin_token(path).map(drop);
        all.push(secret("admin.token_file", path, true, token));
    }
    all
}

fn secret(
    key: &'static str,
    path: &Path,
    is_made: bool,
    read: impl Fn(&Path) -> Result<(), VaultError>,
) -> Secret {
    let found = match read(path) {
        Ok(()) => Ok(Found::Good),
        Err(VaultError::Missing { .. }) if is_made => Ok(Found::MadeLater),
        Err(error) => Err(error.to_string()),
    };
    Secret { key, path: path.to_owned(), found }
}
