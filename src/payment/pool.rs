//! The addresses that are paid, cut into one set per mechanism.
//!
//! Sets must not meet: a block that was sent on-chain to a `nanoSignature` address is public, and
//! if its address could be a `nanoTxn` challenge's too, a stranger could hand it in as his own
//! payment (PROTOCOL section 3).

use std::ops::Range;

use super::Mechanism;
use crate::nano::Account;

/// How many indexes of the seed each mechanism owns. The pool may grow and shrink inside them
/// without any address changing sides.
pub const INDEXES_PER_MECHANISM: u32 = 1 << 20;

/// The seed indexes of a mechanism's first `size` addresses.
#[must_use]
pub fn seed_indexes(mechanism: Mechanism, size: u32) -> Range<u32> {
    let first: u32 = match mechanism {
        Mechanism::NanoTxn => 0,
        Mechanism::NanoSignature => INDEXES_PER_MECHANISM,
    };
    first..first.saturating_add(size.min(INDEXES_PER_MECHANISM))
}

/// The addresses in use. At least one for each mechanism that is offered.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AddressPool {
    nano_txn: Vec<Account>,
    nano_signature: Vec<Account>,
}

impl AddressPool {
    /// A pool of these addresses. An address that stands in both lists is kept in the first only.
    #[must_use]
    pub fn new(nano_txn: Vec<Account>, nano_signature: Vec<Account>) -> Self {
        let first: std::collections::BTreeSet<Account> = nano_txn.iter().copied().collect();
        let nano_signature = nano_signature.into_iter().filter(|it| !first.contains(it)).collect();
        Self { nano_txn, nano_signature }
    }

    /// A pool of a list of addresses: all for the one mechanism that is offered, or in turn for
    /// each, so that a list that grows at its end moves no address.
    #[must_use]
    pub fn of_list(addresses: &[Account], mechanisms: &[Mechanism]) -> Self {
        match mechanisms {
            [Mechanism::NanoTxn] => Self::new(addresses.to_vec(), Vec::new()),
            [Mechanism::NanoSignature] => Self::new(Vec::new(), addresses.to_vec()),
            _ => Self::new(
                addresses.iter().copied().step_by(2).collect(),
                addresses.iter().copied().skip(1).step_by(2).collect(),
            ),
        }
    }

    /// The mechanism's addresses.
    #[must_use]
    pub fn of(&self, mechanism: Mechanism) -> &[Account] {
        match mechanism {
            Mechanism::NanoTxn => &self.nano_txn,
            Mechanism::NanoSignature => &self.nano_signature,
        }
    }

    /// The address that `random` picks, or nothing where the mechanism has none.
    #[must_use]
    pub fn pick(&self, mechanism: Mechanism, random: [u8; 8]) -> Option<Account> {
        let addresses = self.of(mechanism);
        let count = u64::try_from(addresses.len()).ok()?;
        let slot = u64::from_le_bytes(random).checked_rem(count)?;
        addresses.get(usize::try_from(slot).ok()?).copied()
    }
}
