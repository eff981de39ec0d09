//! The addresses that receive payments, in one set per mechanism.
//!
//! The sets must not overlap. A block that was sent on-chain to a `nanoSignature` address is public. If
//! a `nanoTxn` challenge could have the same address, a stranger could present that block as its own
//! payment ([protocol guide](crate::guide::protocol), "The challenge").

use std::collections::BTreeSet;
use std::ops::Range;

use super::Mechanism;
use crate::nano::Account;

/// The number of seed indexes for each mechanism. Within them the pool can grow and shrink without
/// moving an address to another mechanism.
pub const INDEXES_PER_MECHANISM: u32 = 1 << 20;

/// The seed indexes of the first `size` addresses of a mechanism.
#[must_use]
pub fn seed_indexes(mechanism: Mechanism, size: u32) -> Range<u32> {
    let first: u32 = match mechanism {
        Mechanism::NanoTxn => 0,
        Mechanism::NanoSignature => INDEXES_PER_MECHANISM,
        Mechanism::NanoSession => INDEXES_PER_MECHANISM.saturating_mul(2),
    };
    first..first.saturating_add(size.min(INDEXES_PER_MECHANISM))
}

/// The addresses in use. At least one for each mechanism that is offered.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AddressPool {
    nano_txn: Vec<Account>,
    nano_signature: Vec<Account>,
    nano_session: Vec<Account>,
    /// An account that only the pool's seed makes; `None` without a seed.
    seed: Option<Account>,
    /// Addresses that were in the pool's list before and have been taken out of it.
    earlier: BTreeSet<Account>,
}

impl AddressPool {
    /// A pool of these addresses. An address that is in both lists is kept only in the first.
    #[must_use]
    pub fn new(nano_txn: Vec<Account>, nano_signature: Vec<Account>) -> Self {
        let first: BTreeSet<Account> = nano_txn.iter().copied().collect();
        let nano_signature = nano_signature.into_iter().filter(|it| !first.contains(it)).collect();
        Self { nano_txn, nano_signature, ..Self::default() }
    }

    /// The same pool, whose addresses all come from the seed that makes `account`.
    #[must_use]
    pub fn of_seed_with(mut self, account: Account) -> Self {
        self.seed = Some(account);
        self
    }

    /// The same pool, which also had `earlier` addresses.
    #[must_use]
    pub fn once_with(mut self, earlier: BTreeSet<Account>) -> Self {
        self.earlier = earlier;
        self
    }

    /// The same pool with addresses for `nanoSession`, except those that it already has.
    #[must_use]
    pub fn with_sessions(mut self, nano_session: Vec<Account>) -> Self {
        let taken: BTreeSet<Account> = self.nano_txn.iter().chain(&self.nano_signature).copied().collect();
        self.nano_session = nano_session.into_iter().filter(|it| !taken.contains(it)).collect();
        self
    }

    /// A pool of a list of addresses. The mechanisms in use take addresses in turn, so that a list can
    /// grow at its end without moving an address to another mechanism.
    #[must_use]
    pub fn of_list(addresses: &[Account], mechanisms: &[Mechanism]) -> Self {
        let used: Vec<Mechanism> = Mechanism::ALL.into_iter().filter(|it| mechanisms.contains(it)).collect();
        let share = |mechanism| match used.iter().position(|it| *it == mechanism) {
            Some(place) => addresses.iter().copied().skip(place).step_by(used.len()).collect(),
            None => Vec::new(),
        };
        Self::new(share(Mechanism::NanoTxn), share(Mechanism::NanoSignature))
            .with_sessions(share(Mechanism::NanoSession))
    }

    /// The addresses of a mechanism.
    #[must_use]
    pub fn of(&self, mechanism: Mechanism) -> &[Account] {
        match mechanism {
            Mechanism::NanoTxn => &self.nano_txn,
            Mechanism::NanoSignature => &self.nano_signature,
            Mechanism::NanoSession => &self.nano_session,
        }
    }

    /// What tells this deployment from others with the same key: the MAC of a challenge covers it. All
    /// pools without a seed have the same; [`AddressPool::is_payee`] tells these apart.
    #[must_use]
    pub(super) fn deployment(&self) -> [u8; 32] {
        self.seed.map_or([0; 32], |it| it.0)
    }

    /// Whether a challenge that was made for this deployment asked for a payment into this pool. What
    /// a seed has billed is its own, however large the pool was. A list is compared with `pay_to`.
    #[must_use]
    pub(super) fn is_payee(&self, pay_to: Account) -> bool {
        self.seed.is_some() || self.has(pay_to)
    }

    /// Whether the pool has the address, for any mechanism, or had it in its list.
    #[must_use]
    pub fn has(&self, account: Account) -> bool {
        Mechanism::ALL.into_iter().any(|it| self.of(it).contains(&account)) || self.earlier.contains(&account)
    }

    /// The address that `random` selects; `None` if the mechanism has no address.
    #[must_use]
    pub fn pick(&self, mechanism: Mechanism, random: [u8; 8]) -> Option<Account> {
        let addresses = self.of(mechanism);
        let count = u64::try_from(addresses.len()).ok()?;
        let slot = u64::from_le_bytes(random).checked_rem(count)?;
        addresses.get(usize::try_from(slot).ok()?).copied()
    }
}
