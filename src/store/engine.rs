//! The store as the gateway runs it: one of the engines, with an observer.

use std::fmt;

use super::deposits::{
    Deposit, DepositJournal, Mark, Noted, SeenDeposit, SweepBlock, SweepRecord, SweepState,
};
use super::operator::{CapabilityEntry, CapabilitySearch, OperatorJournal, PaymentSearch, Remark};
use super::refunds::{Closing, ExpiredPurse, ExpiryMark, RefundJournal, RefundRecord, RefundSearch};
use super::{
    Answer, Answers, Begin, CapabilityId, CapabilityRecord, Claims, Filter, Forget, Grant, Grantee, Health,
    Inspection, Intent, Lease, LeaseRequest, Meters, OutstandingGrants, PaymentJournal, PaymentRecord,
    PaymentState, PostgresStore, Replication, SqliteStore, StoreError, StoreEvent, StoreHealth,
    StoreObserver,
};
use crate::clock::Stopwatch;
use crate::nano::{BlockHash, Raw, StateBlock, UnixSeconds};
use crate::payment::IdentifierKey;

/// One of the engines, and an observer of each call.
pub struct Engine {
    kind: Kind,
    observer: Option<StoreObserver>,
}

enum Kind {
    Sqlite(SqliteStore),
    Postgres(PostgresStore),
}

/// `$call` with the engine there is as `$store`.
macro_rules! with_engine {
    ($self:ident, $store:ident => $call:expr) => {
        match &$self.kind {
            Kind::Sqlite($store) => $call,
            Kind::Postgres($store) => $call,
        }
    };
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_engine!(self, store => store.fmt(f))
    }
}

impl From<SqliteStore> for Engine {
    fn from(store: SqliteStore) -> Self {
        Self { kind: Kind::Sqlite(store), observer: None }
    }
}

impl From<PostgresStore> for Engine {
    fn from(store: PostgresStore) -> Self {
        Self { kind: Kind::Postgres(store), observer: None }
    }
}

impl Engine {
    /// This engine. `observer` gets each call.
    #[must_use]
    pub fn observed_by(mut self, observer: StoreObserver) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Checks the store. The result names what is broken.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it cannot be read.
    pub async fn inspect(&self) -> Result<Inspection, StoreError> {
        with_engine!(self, store => store.inspect().await)
    }

    /// Whether the hash is claimed, by a payment or without one ([`Claims::mark_spent`]).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it cannot be read.
    pub async fn is_claimed(&self, block: BlockHash) -> Result<bool, StoreError> {
        with_engine!(self, store => store.is_claimed(block).await)
    }

    /// The grants that have uses left at `now`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if they cannot be read.
    pub async fn outstanding(&self, now: UnixSeconds) -> Result<Vec<OutstandingGrants>, StoreError> {
        with_engine!(self, store => store.outstanding(now).await)
    }

    /// The replication of the server. `None` if the store is a file.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the server does not say.
    pub async fn replication(&self) -> Result<Option<Replication>, StoreError> {
        match &self.kind {
            Kind::Sqlite(_) => Ok(None),
            Kind::Postgres(store) => store.replication().await.map(Some),
        }
    }

    /// Finishes the calls under way and closes the engine. Later calls are refused.
    pub async fn close(&self) {
        with_engine!(self, store => store.close().await)
    }

    fn tell<T>(&self, operation: &'static str, watch: Stopwatch, answer: &Result<T, StoreError>) {
        if let Some(observer) = &self.observer {
            let ok = matches!(answer, Ok(_) | Err(StoreError::NotApplied(_)));
            observer(StoreEvent::Call { operation, elapsed: watch.elapsed(), ok });
        }
    }
}

/// Implements traits by passing each call to the engine there is. Tells the observer how long it took.
macro_rules! pass_on {
    ($($interface:ident { $($operation:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)* })*) => {$(
        impl $interface for Engine {$(
            async fn $operation(&self, $($argument: $kind),*) -> Result<$answer, StoreError> {
                let watch = Stopwatch::start();
                let answer = with_engine!(self, store => store.$operation($($argument),*).await);
                self.tell(stringify!($operation), watch, &answer);
                answer
            }
        )*}
    )*};
}

pass_on! {
    Claims {
        begin(intent: &Intent, now: UnixSeconds) -> Begin;
        advance(block: BlockHash, from: &[PaymentState], to: PaymentState, now: UnixSeconds) -> bool;
        mark_spent(block: BlockHash, now: UnixSeconds) -> bool;
    }
    PaymentJournal {
        payment(block: BlockHash) -> Option<PaymentRecord>;
        identified(id: IdentifierKey) -> Option<PaymentRecord>;
        scan(after: u64, filter: Filter, limit: usize) -> Vec<PaymentRecord>;
    }
    Meters {
        grant(intent: &Intent, grantee: Grantee, now: UnixSeconds) -> Grant;
        capability(id: CapabilityId) -> Option<CapabilityRecord>;
        lease(request: LeaseRequest, now: UnixSeconds) -> Lease;
        revoke(id: CapabilityId, now: UnixSeconds) -> bool;
    }
    Answers {
        keep(block: BlockHash, answer: &Answer, now: UnixSeconds) -> bool;
        kept(block: BlockHash) -> Option<Answer>;
        forget(what: Forget) -> u32;
    }
    OperatorJournal {
        search_payments(search: &PaymentSearch) -> Vec<PaymentRecord>;
        search_capabilities(search: &CapabilitySearch, now: UnixSeconds) -> Vec<CapabilityEntry>;
        capability_entry(id: CapabilityId, now: UnixSeconds) -> Option<CapabilityEntry>;
        revoke_by(id: CapabilityId, remark: &Remark, now: UnixSeconds) -> bool;
        note_given(id: CapabilityId, remark: &Remark, now: UnixSeconds) -> bool;
    }
    RefundJournal {
        close_capability(id: CapabilityId, at_least: Raw, now: UnixSeconds) -> Closing;
        refund(id: CapabilityId) -> Option<RefundRecord>;
        refunds(search: &RefundSearch) -> Vec<RefundRecord>;
        take_refunds(until: UnixSeconds, most: usize, now: UnixSeconds) -> Vec<RefundRecord>;
        sign_refund(id: CapabilityId, instead_of: Option<BlockHash>, block: &StateBlock, now: UnixSeconds) -> RefundRecord;
        confirm_refund(id: CapabilityId, block: BlockHash, now: UnixSeconds) -> bool;
        expired_purses(after: ExpiryMark, limit: usize, now: UnixSeconds) -> Vec<ExpiredPurse>;
    }
    DepositJournal {
        note_deposits(deposits: &[Deposit], keep: u32, now: UnixSeconds) -> Noted;
        unclaimed(after: Option<Mark>, limit: usize) -> Vec<SeenDeposit>;
        plan_sweep(block: &SweepBlock, now: UnixSeconds) -> ();
        end_sweep(block: BlockHash, confirmed: bool, now: UnixSeconds) -> bool;
        sweeps(state: Option<SweepState>, after: Option<Mark>, limit: usize) -> Vec<SweepRecord>;
    }
}

impl StoreHealth for Engine {
    fn is_writable(&self) -> bool {
        with_engine!(self, store => store.is_writable())
    }

    fn health(&self) -> Health {
        with_engine!(self, store => store.health())
    }
}
