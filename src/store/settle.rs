//! The two steps that only the store can take: claiming a payment before it is broadcast, and
//! settling one that is confirmed.
//!
//! [`Claimed`] and [`Settled`] have no other makers, so nothing is broadcast that the journal does
//! not know, and nothing is unlocked that was not spent in the same durable step.

use std::time::Duration;

use super::{
    Begin, CapabilityId, CapabilityRecord, Grant, Holder, Intent, Lease, PaymentRecord, PaymentState, Store,
    StoreError,
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

    /// The intent, to be held against the ledger.
    #[must_use]
    pub fn into_intent(self) -> Intent {
        self.intent
    }
}

/// What became of a claim.
#[derive(Debug)]
pub enum Claim {
    /// The caller's: to broadcast and resolve.
    Mine(Box<Claimed>),
    /// The hash was claimed before; what became of it decides.
    Existing(Box<PaymentRecord>),
    /// Another payment on the same frontier is under way.
    FrontierHeld,
    /// Another payment holds the client's id.
    IdHeld,
    /// The hash is spent, and the journal does not know by which payment.
    Spent,
}

/// Journals an approved payment.
///
/// # Errors
/// [`StoreError`], when nothing is known to be durable: the block must then not be broadcast.
pub async fn claim<S: Store>(
    store: &S,
    approved: nano_txn::Approved,
    now: UnixSeconds,
) -> Result<Claim, StoreError> {
    begin(store, approved.intent().clone(), now).await
}

/// Journals a payment that its client sent, when it is seen and not confirmed: it was presented in time,
/// however long its confirmation takes. False where its block is claimed under another challenge.
///
/// # Errors
/// [`StoreError`], as [`claim`].
pub async fn note<S: Store>(store: &S, seen: &Seen, now: UnixSeconds) -> Result<bool, StoreError> {
    let intent = seen.intent();
    Ok(match repeat_unknown(|| store.begin(intent, now)).await? {
        Begin::Fresh(_) => true,
        Begin::Existing(payment) => payment.intent.challenge == intent.challenge,
        Begin::FrontierHeld(_) | Begin::IdHeld(_) | Begin::Spent => false,
    })
}

/// Takes up a payment from the journal again, after a crash or for a client that tries again.
/// Gives [`Claim::Existing`] where it is granted or failed by now.
///
/// # Errors
/// [`StoreError`], as [`claim`].
pub async fn resume<S: Store>(
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

async fn begin<S: Store>(store: &S, intent: Intent, now: UnixSeconds) -> Result<Claim, StoreError> {
    let begun = repeat_unknown(|| store.begin(&intent, now)).await?;
    Ok(match begun {
        Begin::Fresh(payment) => Claim::Mine(Box::new(Claimed { intent: payment.intent })),
        // A call that was repeated after an unknown outcome finds its own first try.
        Begin::Existing(payment) if payment.state == PaymentState::Intent && payment.intent == intent => {
            Claim::Mine(Box::new(Claimed { intent: payment.intent }))
        }
        Begin::Existing(payment) => Claim::Existing(Box::new(payment)),
        Begin::FrontierHeld(_) => Claim::FrontierHeld,
        Begin::IdHeld(_) => Claim::IdHeld,
        Begin::Spent => Claim::Spent,
    })
}

/// A payment that is spent for ever and has become a capability, in one durable step.
///
/// It cannot be made but by the store:
///
/// ```compile_fail,E0451
/// # use faregate::store::{CapabilityRecord, Intent, Lease};
/// # use faregate::store::settle::Settled;
/// fn forge(intent: Intent, record: CapabilityRecord, lease: Lease) -> Settled {
///     Settled { intent, record, lease, fresh: true }
/// }
/// ```
///
/// nor be used twice:
///
/// ```compile_fail,E0382
/// # use faregate::store::{Store, settle::Settled, capabilities::Capabilities};
/// fn twice<S: Store>(capabilities: &Capabilities<S>, settled: Settled) {
///     let _first = capabilities.admit(settled);
///     let _second = capabilities.admit(settled);
/// }
/// ```
///
/// nor be dropped without a word, which `unused_must_use` denies.
#[derive(Debug)]
#[must_use = "a settled payment that is dropped is a customer robbed"]
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

    /// Whether this settlement made the grant, or found it made.
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

/// Who settles, and what it takes along: `want` uses leased for `ttl` seconds.
#[derive(Clone, Copy, Debug)]
pub struct Teller {
    pub holder: Holder,
    pub want: u32,
    pub ttl: u64,
}

/// Settles a confirmed payment into the capability `id`.
///
/// # Errors
/// [`SettleError`]. After [`SettleError::Store`] the payment may or may not be settled; settling it
/// again is safe and gives the same capability.
pub async fn settle<S: Store>(
    store: &S,
    confirmed: Confirmed,
    id: CapabilityId,
    teller: Teller,
    now: UnixSeconds,
) -> Result<Settled, SettleError> {
    let intent = confirmed.intent().clone();
    grant(store, intent, id, teller, now).await
}

/// Finds the capability of a payment that the journal shows as granted, leasing nothing.
///
/// # Errors
/// [`SettleError`], as [`settle`]; [`StoreError::NotApplied`] for a payment that is not granted.
pub async fn find_granted<S: Store>(
    store: &S,
    payment: PaymentRecord,
    id: CapabilityId,
    holder: Holder,
    now: UnixSeconds,
) -> Result<Settled, SettleError> {
    if payment.state != PaymentState::Granted {
        return Err(StoreError::NotApplied("the payment is not granted".to_owned()).into());
    }
    grant(store, payment.intent, id, Teller { holder, want: 0, ttl: 0 }, now).await
}

async fn grant<S: Store>(
    store: &S,
    intent: Intent,
    id: CapabilityId,
    teller: Teller,
    now: UnixSeconds,
) -> Result<Settled, SettleError> {
    let Teller { holder, want, ttl } = teller;
    match repeat_unknown(|| store.grant(&intent, id, holder, want, ttl, now)).await? {
        Grant::Granted { record, lease, fresh } => Ok(Settled { intent, record, lease, fresh }),
        Grant::Taken => Err(SettleError::Taken),
        Grant::IdHeld(_) => Err(SettleError::IdHeld),
    }
}

/// How often a call whose outcome is unknown is made again before that is reported.
const REPEATS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Makes the same call again while its outcome is unknown, as the store's contract asks.
pub(super) async fn repeat_unknown<T, F>(call: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut pause = FIRST_PAUSE;
    for _ in 0..REPEATS {
        match call().await {
            Err(StoreError::Unknown(_)) => tokio::time::sleep(pause).await,
            known => return known,
        }
        pause = pause.saturating_mul(2);
    }
    call().await
}
