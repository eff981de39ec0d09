//! The pool's addresses.

use super::reach::{earlier_addresses, reach, remember};
use crate::config::{Nano, PoolSource};
use crate::nano::Account;
use crate::payment::Mechanism;
use crate::payment::address_pool::{AddressPool, seed_indexes};
use crate::vault::{Vault, VaultError};

/// Why a pool has no addresses.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    #[error("`nano.pool.seed_file`: {0}")]
    Seed(VaultError),
    #[error("the pool has no address for {0}: give it more addresses, or remove {0} from `nano.mechanisms`")]
    NoAddress(Mechanism),
}

/// The pool's addresses, derived once. A missing seed file is created: then only this file holds the
/// key to what the gateway earns.
///
/// # Errors
/// [`PoolError`].
pub fn address_pool(nano: &Nano) -> Result<AddressPool, PoolError> {
    let pool = match &nano.pool {
        PoolSource::Seed { file, size } => {
            if !file.exists() {
                tracing::warn!(
                    file = %file.display(),
                    "created a new seed for the address pool: back it up, earnings can only be spent with it"
                );
            }
            let vault = Vault::open_or_create(file).map_err(PoolError::Seed)?;
            remember(file, *size);
            let accounts = |mechanism| {
                if nano.in_use.contains(&mechanism) {
                    vault.accounts(seed_indexes(mechanism, *size))
                } else {
                    Vec::new()
                }
            };
            AddressPool::new(accounts(Mechanism::NanoTxn), accounts(Mechanism::NanoSignature))
                .with_sessions(accounts(Mechanism::NanoSession))
                .of_seed_with(vault.account(0))
        }
        PoolSource::Addresses { file, accounts } => {
            AddressPool::of_list(accounts, &nano.in_use).once_with(earlier_addresses(file, accounts))
        }
        PoolSource::Address(address) => AddressPool::of_list(&[*address], &nano.in_use),
    };
    match nano.in_use.iter().find(|it| pool.of(**it).is_empty()) {
        Some(mechanism) => Err(PoolError::NoAddress(*mechanism)),
        None => Ok(pool),
    }
}

/// Every address of a pool: also those of mechanisms that are no longer offered, and those beyond its
/// size that were in use once. The seed must exist.
///
/// # Errors
/// [`VaultError`], if the seed cannot be read.
pub fn pool_accounts(nano: &Nano) -> Result<Vec<Account>, VaultError> {
    Ok(match &nano.pool {
        PoolSource::Seed { file, size } => {
            let (vault, size) = (Vault::open(file)?, reach(file, *size));
            Mechanism::ALL.into_iter().flat_map(|it| vault.accounts(seed_indexes(it, size))).collect()
        }
        PoolSource::Addresses { accounts, .. } => accounts.clone(),
        PoolSource::Address(address) => vec![*address],
    })
}
