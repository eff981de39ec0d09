//! Directories that the gateway writes into: a file is made in each and removed.

use std::io::Write;
use std::path::Path;

use super::Checkup;
use crate::cli::secrets::{Found, Secret};
use crate::config::{AcmeConfig, Config, StoreLocation};
use crate::listen::ListenAddress;

/// The directories of the store, of secrets, of Unix sockets and of an authority's certificate: those that the gateway
/// cannot do without, and that of the seed, in which it remembers the size of the pool.
pub(super) fn places(config: &Config, secrets: &[Secret]) -> Vec<Checkup> {
    let mut found = Vec::new();
    // Payments, capabilities, kept answers and the journal of sweeps are all in the store.
    if let StoreLocation::Sqlite { path, .. } = &config.store {
        found.push(directory("store.path", path));
    }
    let listen = &config.listen;
    let tls = listen.tls.as_ref();
    let facilitator = config.facilitator.as_ref();
    for (key, addresses) in [
        ("listen.http", listen.http.as_slice()),
        ("listen.tls.address", tls.map(|it| it.addresses.as_slice()).unwrap_or_default()),
        ("listen.redirect", listen.redirect.as_slice()),
        ("admin.listen", config.admin.as_slice()),
        ("facilitator.listen", facilitator.map(|it| it.addresses.as_slice()).unwrap_or_default()),
    ] {
        found.extend(addresses.iter().filter_map(ListenAddress::socket_path).map(|it| directory(key, it)));
    }
    if let Some(acme) = tls.and_then(|it| it.acme.as_ref()) {
        found.push(cache(acme));
    }
    for secret in secrets {
        match secret.found {
            Ok(Found::MadeLater) => found.push(directory(secret.key, &secret.path)),
            Ok(Found::Good) if secret.key == "nano.pool.seed_file" => found.extend(memory(secret)),
            Ok(Found::Good) | Err(_) => {}
        }
    }
    found
}

/// The folder of an authority's certificate, which the first order makes.
fn cache(acme: &AcmeConfig) -> Checkup {
    let key = "listen.tls.acme.cache";
    if acme.cache.exists() {
        directory(key, &acme.cache.join("certificate"))
    } else {
        directory(key, &acme.cache)
    }
}

fn directory(key: &str, file: &Path) -> Checkup {
    let (what, directory) = (format!("directory of {key}"), beside(file));
    match try_to_write(directory) {
        Ok(()) => Checkup::ok(what, format!("{} can be written{}", directory.display(), as_root())),
        Err(why) => Checkup::broken(
            what,
            format!("{} cannot be written: {why}", directory.display()),
            "make it, give it to the gateway's user, and look whether its file system is read-only or full",
        ),
    }
}

/// A directory of keys may be read-only on purpose.
fn memory(secret: &Secret) -> Option<Checkup> {
    let directory = beside(&secret.path);
    let why = try_to_write(directory).err()?;
    Some(Checkup::warning(
        format!("directory of {}", secret.key),
        format!("{} cannot be written: {why}", directory.display()),
        "never make the pool smaller: its size so far cannot be remembered beside the seed",
    ))
}

fn beside(file: &Path) -> &Path {
    file.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn try_to_write(directory: &Path) -> std::io::Result<()> {
    let mut file =
        tempfile::Builder::new().prefix(".faregate-doctor-").tempfile_in(directory).map_err(bare)?;
    file.write_all(b"faregate doctor\n")?;
    file.as_file().sync_all()?;
    file.close().map_err(bare)
}

/// The error without the name of a file that was never there.
fn bare(error: std::io::Error) -> std::io::Error {
    error.kind().into()
}

/// Root may write where the gateway's own user may not.
fn as_root() -> &'static str {
    if rustix::process::geteuid().is_root() { " (by root; another user may not)" } else { "" }
}
