//! How many addresses a pool has ever had in use: a pool that is made smaller still owns what was
//! sent to the others.
//!
//! The number is in a file beside the seed, so that it is moved with the seed, whatever store is used.
//! It is not secret. If the file is lost or cannot be written, the pool is as large as its
//! configuration says. Beside a list of addresses the file has those that were ever in the list, so that a
//! payment to one that was taken out is still a payment into this pool.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::nano::Account;

/// What is remembered of the pool in `source`: `pool.seed.reach` for `pool.seed`.
fn file_of(source: &Path) -> PathBuf {
    let mut name = source.as_os_str().to_owned();
    name.push(".reach");
    PathBuf::from(name)
}

/// The largest size that the pool of this seed is known to have had, at least `size`.
pub(super) fn reach(seed: &Path, size: u32) -> u32 {
    let file = file_of(seed);
    let known = match fs::read_to_string(&file) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(known) => known.min(crate::config::MAX_POOL),
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "not a number of addresses; it is ignored");
                0
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "the pool's earlier size cannot be read");
            0
        }
    };
    known.max(size)
}

/// Remembers that the pool of this seed has `size` addresses in use, if it never had as many.
pub(super) fn remember(seed: &Path, size: u32) {
    let reached = reach(seed, 0);
    if reached > size {
        tracing::info!(
            size,
            reached,
            "the pool is smaller than it was: addresses beyond its size are still watched and swept, but not offered"
        );
    }
    if reached >= size {
        return;
    }
    let file = file_of(seed);
    if let Err(error) = replace(&file, &format!("{size}\n")) {
        tracing::warn!(
            file = %file.display(), %error,
            "the pool's size cannot be remembered: never make the pool smaller"
        );
    }
}

/// The addresses that the list in `file` had before and that are not among `accounts`; remembers those
/// that are new.
pub(super) fn earlier_addresses(file: &Path, accounts: &[Account]) -> BTreeSet<Account> {
    let file = file_of(file);
    let known: BTreeSet<Account> = match fs::read_to_string(&file) {
        Ok(text) => text.lines().filter_map(|line| line.trim().parse().ok()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "the pool's earlier addresses cannot be read");
            BTreeSet::new()
        }
    };
    let mut all = known.clone();
    all.extend(accounts);
    if all.len() > known.len() {
        let text: String = all.iter().map(|it| format!("{it}\n")).collect();
        if let Err(error) = replace(&file, &text) {
            tracing::warn!(
                file = %file.display(), %error,
                "the pool's addresses cannot be remembered: a payment to one that is taken out of the list is refused"
            );
        }
    }
    for account in accounts {
        all.remove(account);
    }
    all
}

/// Writes the whole file or nothing.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut written = File::create(&new)?;
    written.write_all(text.as_bytes())?;
    written.sync_all()?;
    fs::rename(new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_reaches_as_far_as_it_ever_did() {
        let folder = tempfile::tempdir().unwrap();
        let seed = folder.path().join("pool.seed");
        assert_eq!(reach(&seed, 8), 8);
        remember(&seed, 8);
        remember(&seed, 4);
        assert_eq!((reach(&seed, 4), reach(&seed, 9)), (8, 9));
        remember(&seed, 16);
        assert_eq!(reach(&seed, 2), 16);
        // Nonsense, or more than there can be, is not believed.
        fs::write(file_of(&seed), "many").unwrap();
        assert_eq!(reach(&seed, 3), 3);
        fs::write(file_of(&seed), "4000000000").unwrap();
        assert_eq!(reach(&seed, 3), crate::config::MAX_POOL);
    }

    #[test]
    fn a_list_remembers_the_addresses_that_it_had() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pool.addresses");
        let [a, b, c] = [1, 2, 3].map(|it| Account([it; 32]));
        assert!(earlier_addresses(&file, &[a, b]).is_empty());
        assert_eq!(earlier_addresses(&file, &[b, c]), BTreeSet::from([a]));
        assert_eq!(earlier_addresses(&file, &[c]), BTreeSet::from([a, b]));
        assert!(earlier_addresses(&folder.path().join("nowhere/list"), &[a]).is_empty());
    }

    #[test]
    fn where_nothing_can_be_written_the_size_is_what_the_configuration_says() {
        let folder = tempfile::tempdir().unwrap();
        let seed = folder.path().join("nowhere/pool.seed");
        remember(&seed, 8);
        assert_eq!(reach(&seed, 2), 2);
    }
}
