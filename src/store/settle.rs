//! The two steps that only the store can take: claiming a payment before it is broadcast, and
//! settling a confirmed one.
//!
//! Nothing else makes a [`Claimed`] or a [`Settled`]. So no block is broadcast that is not in the journal,
//! and no capability exists whose payment was not spent in the same durable step.

use super::repeat::repeat_unknown;
use super::{
    Begin, CapabilityId, CapabilityRecord, Claims, Grant, Grantee, Holder, Intent, Lease, Meters,
    PaymentRecord, PaymentState, StoreError,
};
use crate::nano::UnixSeconds;
use crate::payment::{Confirmed, Seen, nano_txn};

/// A `nanoTxn` payment whose intent is durable and whose frontier is held: it may be broadcast.
#[derive(Debug)]
#[must_use = "a claimed payment holds its frontier until it is broadcast and resolved"]
pub struct Claimed {
    intent: Intent,
}

impl Claimed {
    #[must_use]
    pub const fn intent(&self) -> &Intent {
        &self.intent
    }

    /// The intent, to be compared with the ledger.
    #[must_use]
    pub fn into_intent(self) -> Intent {
        self.intent
    }
}

/// The result of a claim.
#[derive(Debug)]
pub enum Claim {
    /// The caller broadcasts and resolves it.
    Mine(Box<Claimed>),
    /// The hash was claimed before. The state of that payment decides.
    Existing(Box<PaymentRecord>),
    /// Another payment on the same frontier is under way.
    FrontierHeld,
    /// Another payment holds the client's id.
    IdHeld,
    /// The hash is spent, and the journal has no payment of it.
    Spent,
}

/// Journals an approved payment. It was approved by what the ledger showed of its account, so the frontier
/// that it holds is its own: a block that another key signed on it never comes this far.
///
/// # Errors
/// [`StoreError`]. The intent may not be durable, so its block must not be broadcast.
pub async fn claim<S: Claims>(
    store: &S,
    approved: nano_txn::Approved,
    now: UnixSeconds,
) -> Result<Claim, StoreError> {
    begin(store, approved.intent().clone(), now).await
}

/// Journals a payment that its client sent and that is not confirmed yet: it was presented in time,
/// however long its confirmation takes. False if its block is claimed under another challenge.
///
/// # Errors
/// [`StoreError`], as [`claim`].
pub async fn note<S: Claims>(store: &S, seen: &Seen, now: UnixSeconds) -> Result<bool, StoreError> {
    let intent = seen.intent();
    Ok(is_noted(&repeat_unknown(|| store.begin(intent, now)).await?, intent))
}

fn is_noted(begun: &Begin, intent: &Intent) -> bool {
    match begun {
        Begin::Fresh(_) => true,
        Begin::Existing(payment) => payment.intent.challenge == intent.challenge,
        Begin::FrontierHeld(_) | Begin::IdHeld(_) | Begin::Spent => false,
    }
}

/// Takes up a payment of the journal again, after a crash or when the client retries. Gives
/// [`Claim::Existing`] if it is granted or failed.
///
/// # Errors
/// [`StoreError`], as [`claim`].
pub async fn resume<S: Claims>(
    store: &S,
    payment: PaymentRecord,
    now: UnixSeconds,
) -> Result<Claim, StoreError> {
    match payment.state {
        PaymentState::Intent => Ok(Claim::Mine(Box::new(Claimed { intent: payment.intent }))),
        PaymentState::Parked => begin(store, payment.intent, now).await,
        PaymentState::Granted | PaymentState::Failed => Ok(Claim::Existing(Box::new(payment))),
    }
}

async fn begin<S: Claims>(store: &S, intent: Intent, now: UnixSeconds) -> Result<Claim, StoreError> {
    Ok(claimed(repeat_unknown(|| store.begin(&intent, now)).await?, &intent))
}

fn claimed(begun: Begin, intent: &Intent) -> Claim {
    match begun {
        Begin::Fresh(payment) => Claim::Mine(Box::new(Claimed { intent: payment.intent })),
        // A call that is repeated after an unknown outcome finds its own first attempt.
        Begin::Existing(payment) if payment.state == PaymentState::Intent && payment.intent == *intent => {
            Claim::Mine(Box::new(Claimed { intent: payment.intent }))
        }
        Begin::Existing(payment) => Claim::Existing(Box::new(payment)),
        Begin::FrontierHeld(_) => Claim::FrontierHeld,
        Begin::IdHeld(_) => Claim::IdHeld,
        Begin::Spent => Claim::Spent,
    }
}

/// A payment that is spent for ever and has become a capability, in one durable step.
///
/// Only the store can make one:
///
/// ```compile_fail,E0451
/// # use faregate::store::{CapabilityRecord, Intent, Lease};
/// # use faregate::store::settle::Settled;
/// fn forge(intent: Intent, record: CapabilityRecord, lease: Lease) -> Settled {
///     Settled { intent, record, lease, fresh: true }
/// }
/// ```
///
/// It cannot be used twice:
///
/// ```compile_fail,E0382
/// # use faregate::store::{Store, settle::Settled, capabilities::Capabilities};
/// fn twice<S: Store>(capabilities: &Capabilities<S>, settled: Settled) {
///     let _first = capabilities.admit(settled);
///     let _second = capabilities.admit(settled);
/// }
/// ```
///
/// It cannot be dropped unused: `unused_must_use` denies that.
#[derive(Debug)]
#[must_use = "a client paid for it"]
pub struct Settled {
    intent: Intent,
    record: CapabilityRecord,
    lease: Lease,
    fresh: bool,
}

impl Settled {
    #[must_use]
    pub const fn intent(&self) -> &Intent {
        &self.intent
    }

    /// Whether this settlement made the grant. False if it was made before.
    #[must_use]
    pub const fn is_fresh(&self) -> bool {
        self.fresh
    }

    pub(super) fn into_parts(self) -> (Intent, CapabilityRecord, Lease) {
        (self.intent, self.record, self.lease)
    }
}

/// Why a confirmed payment was not settled.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// Its block was redeemed under another challenge.
    #[error("the block is spent")]
    Taken,
    /// Another payment holds the client's id.
    #[error("another payment is made under the id")]
    IdHeld,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Settles a confirmed payment into its capability.
///
/// # Errors
/// [`SettleError`]. After [`SettleError::Store`] the payment may be settled or not. Settling it again is
/// safe and gives the same capability.
pub async fn settle<S: Meters>(
    store: &S,
    confirmed: Confirmed,
    grantee: Grantee,
    now: UnixSeconds,
) -> Result<Settled, SettleError> {
    grant(store, confirmed.intent().clone(), grantee, now).await
}

/// Finds the capability of a granted payment. Leases nothing.
///
/// # Errors
/// [`SettleError`], as [`settle`]; [`StoreError::NotApplied`] for a payment that is not granted.
pub async fn find_granted<S: Meters>(
    store: &S,
    payment: PaymentRecord,
    holder: Holder,
    now: UnixSeconds,
) -> Result<Settled, SettleError> {
    if payment.state != PaymentState::Granted {
        return Err(StoreError::NotApplied("the payment is not granted".to_owned()).into());
    }
    let id = CapabilityId::of_payment(payment.intent.block);
    grant(store, payment.intent, Grantee { id, holder, want: 0, ttl: 0 }, now).await
}

async fn grant<S: Meters>(
    store: &S,
    intent: Intent,
    grantee: Grantee,
    now: UnixSeconds,
) -> Result<Settled, SettleError> {
    match repeat_unknown(|| store.grant(&intent, grantee, now)).await? {
        Grant::Granted { record, lease, fresh } => Ok(Settled { intent, record, lease, fresh }),
        Grant::Taken => Err(SettleError::Taken),
        Grant::IdHeld(_) => Err(SettleError::IdHeld),
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::intent;
    use super::*;

    /// A journalled payment for challenge 1.
    fn payment(state: PaymentState) -> PaymentRecord {
        let at = UnixSeconds(1);
        PaymentRecord { sequence: 3, intent: intent(1), state, created_at: at, updated_at: at }
    }

    /// A call that is repeated after an unknown outcome finds what its first attempt has journalled. No other
    /// payment that is found may be broadcast by this call.
    #[test]
    fn a_claim_is_the_callers_if_it_is_new_or_its_own_first_attempt() {
        let is_mine = |begun: Begin, asked: &Intent| matches!(claimed(begun, asked), Claim::Mine(_));
        let asked = intent(1);
        assert!(is_mine(Begin::Fresh(payment(PaymentState::Intent)), &asked));
        assert!(is_mine(Begin::Existing(payment(PaymentState::Intent)), &asked));
        assert!(!is_mine(Begin::Existing(payment(PaymentState::Intent)), &intent(2)), "another challenge");
        for state in [PaymentState::Parked, PaymentState::Granted, PaymentState::Failed] {
            assert!(!is_mine(Begin::Existing(payment(state)), &asked), "{state:?}");
            assert!(!is_mine(Begin::Existing(payment(state)), &intent(2)), "{state:?}: another challenge");
        }
        let block = asked.block;
        assert!(matches!(claimed(Begin::FrontierHeld(block), &asked), Claim::FrontierHeld));
        assert!(matches!(claimed(Begin::IdHeld(block), &asked), Claim::IdHeld));
        assert!(matches!(claimed(Begin::Spent, &asked), Claim::Spent));
    }

    #[test]
    fn a_payment_is_noted_under_one_challenge() {
        for state in [PaymentState::Intent, PaymentState::Parked, PaymentState::Granted, PaymentState::Failed]
        {
            assert!(is_noted(&Begin::Existing(payment(state)), &intent(1)), "{state:?}");
            assert!(!is_noted(&Begin::Existing(payment(state)), &intent(2)), "{state:?}: another challenge");
        }
        let asked = intent(1);
        assert!(is_noted(&Begin::Fresh(payment(PaymentState::Intent)), &asked));
        for begun in [Begin::FrontierHeld(asked.block), Begin::IdHeld(asked.block), Begin::Spent] {
            assert!(!is_noted(&begun, &asked), "{begun:?}");
        }
    }
}
