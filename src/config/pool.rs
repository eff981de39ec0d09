//! The accounts that payments are sent to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::judge::{Judge, Judged, all};
use super::mirror::{Piece, PoolFile};
use crate::nano::Account;

/// Where payments are sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PoolSource {
    /// `size` accounts for each mechanism, derived from the seed in `file`.
    Seed { file: PathBuf, size: u32 },
    /// The accounts in `file`, whose keys are elsewhere; none twice. None at all if the file was not read.
    Addresses { file: PathBuf, accounts: Vec<Account> },
    /// One account, for one mechanism.
    Address(Account),
}

/// The most accounts of one pool.
pub const MAX_POOL: u32 = 1_000_000;
/// A pool is cut into one range for each mechanism, none of them empty.
pub const MIN_POOL: u32 = 2;
const DEFAULT_POOL: u32 = 1024;

const ACCOUNT_HINT: &str = "copy the whole address: `nano_` and 60 characters";
const BURN: &str = "this is the burn account: what is sent there is lost";
const TREASURY_IN_POOL: &str = "the treasury is in the pool: a sweep would leave the money where it is";

/// An account that somebody holds the key of; `None` if it is missing.
pub(super) fn account(judge: &mut Judge<'_>, piece: Piece<String>) -> Judged<Option<Account>> {
    judge.text(piece, ACCOUNT_HINT, |text| match text.parse::<Account>() {
        Ok(Account::BURN) => Err(BURN.to_owned()),
        Ok(account) => Ok(account),
        Err(error) => Err(error.to_string()),
    })
}

pub(super) const POOL_HINT: &str = "write one of `seed_file`, `addresses_file`, `address`";

pub(super) fn pool(judge: &mut Judge<'_>, file: PoolFile, treasury: Option<Account>) -> Judged<PoolSource> {
    let given = [file.seed_file.is_given(), file.addresses_file.is_given(), file.address.is_given()];
    if given.iter().filter(|it| **it).count() != 1 {
        return Err(judge.fault("nano.pool", "a pool has exactly one source of addresses", POOL_HINT));
    }
    if let (Some(path), false) = (file.size.given_path(), file.seed_file.is_given()) {
        judge.fault(&path, "only a pool with a `seed_file` has a size", "leave `size` out");
    }
    let place = file.addresses_file.path.clone();
    if let Some(path) = judge.file(file.addresses_file)? {
        // Nobody knows them then.
        let accounts = if judge.offline { Vec::new() } else { addresses(judge, &place, &path, treasury)? };
        return Ok(PoolSource::Addresses { file: path, accounts });
    }
    let place = file.address.path.clone();
    if let Some(account) = account(judge, file.address)? {
        if treasury == Some(account) {
            return Err(judge.fault(&place, TREASURY_IN_POOL, "use another account for one of the two"));
        }
        return Ok(PoolSource::Address(account));
    }
    all!(PoolSource::Seed {
        size: judge.count(file.size, MIN_POOL..=MAX_POOL, DEFAULT_POOL),
        file: judge.need_file(file.seed_file, POOL_HINT),
    })
}

/// The accounts of a file, one a line; `#` begins a comment. Faults are reported at `place`.
fn addresses(
    judge: &mut Judge<'_>,
    place: &str,
    path: &Path,
    treasury: Option<Account>,
) -> Judged<Vec<Account>> {
    let name = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| judge.refuse(place, format_args!("{name}: {error}"), "one address a line"))?;
    let mut outcome = Ok(());
    let mut accounts = Vec::new();
    let mut lines = BTreeMap::new();
    for (number, line) in (1_usize..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let (message, hint) = match line.parse::<Account>() {
            Err(error) => (error.to_string(), ACCOUNT_HINT),
            Ok(Account::BURN) => (BURN.to_owned(), "remove it"),
            Ok(account) if treasury == Some(account) => (TREASURY_IN_POOL.to_owned(), "remove it"),
            Ok(account) => {
                let first = *lines.entry(account).or_insert(number);
                if first == number {
                    accounts.push(account);
                    continue;
                }
                (format!("the same address as in line {first}"), "keep one")
            }
        };
        outcome = Err(judge.refuse(place, format_args!("{name} line {number}: {message}"), hint));
    }
    outcome?;
    if accounts.is_empty() {
        return Err(judge.refuse(place, format_args!("{name}: no address in it"), "one address a line"));
    }
    if u32::try_from(accounts.len()).map_or(true, |count| count > MAX_POOL) {
        return Err(judge.refuse(place, format_args!("more than {MAX_POOL} addresses"), "use fewer"));
    }
    Ok(accounts)
}
