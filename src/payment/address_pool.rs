//! The addresses that are paid, cut into one set per mechanism.
//!
//! Sets must not meet: a block that was sent on-chain to a `nanoSignature` address is public, and
//! if its address could be a `nanoTxn` challenge's too, a stranger could hand it in as his own
//! payment (PROTOCOL section 3).

use std::collections::BTreeSet;
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
}

impl AddressPool {
    /// A pool of these addresses. An address that stands in both lists is kept in the first only.
    #[must_use]
    pub fn new(nano_txn: Vec<Account>, nano_signature: Vec<Account>) -> Self {
        let first: BTreeSet<Account> = nano_txn.iter().copied().collect();
        let nano_signature = nano_signature.into_iter().filter(|it| !first.contains(it)).collect();
        Self { nano_txn, nano_signature, nano_session: Vec::new() }
    }

    /// The pool with these addresses for `nanoSession` as well, without those it has already.
    #[must_use]
    pub fn with_sessions(mut self, nano_session: Vec<Account>) -> Self {
        let taken: BTreeSet<Account> = self.nano_txn.iter().chain(&self.nano_signature).copied().collect();
        self.nano_session = nano_session.into_iter().filter(|it| !taken.contains(it)).collect();
        self
    }

    /// A pool of a list of addresses: all for the one mechanism that is in use, or in turn for each,
    /// so that a list that grows at its end moves no address.
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

    /// The mechanism's addresses.
    #[must_use]
    pub fn of(&self, mechanism: Mechanism) -> &[Account] {
        match mechanism {
            Mechanism::NanoTxn => &self.nano_txn,
            Mechanism::NanoSignature => &self.nano_signature,
            Mechanism::NanoSession => &self.nano_session,
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
