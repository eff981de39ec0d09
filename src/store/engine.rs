//! The store as the gateway runs it: one of the engines, watched.

use std::fmt;

use super::deposits::{
    Deposit, DepositJournal, Mark, Noted, SeenDeposit, SweepBlock, SweepRecord, SweepState,
};
use super::{
    Answer, Begin, CapabilityId, CapabilityRecord, Filter, Forget, Grant, Health, Holder, Inspection, Intent,
    Lease, LeaseRequest, PaymentRecord, PaymentState, PostgresStore, Replication, SqliteStore, Store,
    StoreError, StoreEvent, StoreObserver,
};
use crate::clock::Stopwatch;
use crate::nano::{BlockHash, UnixSeconds};
use crate::payment::IdentifierKey;

/// One of the engines, and who is told of each call.
pub struct Engine {
    kind: Kind,
    observer: Option<StoreObserver>,
}

enum Kind {
    Sqlite(SqliteStore),
    Postgres(PostgresStore),
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Sqlite(store) => store.fmt(f),
            Kind::Postgres(store) => store.fmt(f),
        }
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
    /// This engine, telling `observer` of each call.
    #[must_use]
    pub fn observed_by(mut self, observer: StoreObserver) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Looks through the store: what does not hold is in the answer.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], where it cannot be read.
    pub async fn inspect(&self) -> Result<Inspection, StoreError> {
        match &self.kind {
            Kind::Sqlite(store) => store.inspect().await,
            Kind::Postgres(store) => store.inspect().await,
        }
    }

    /// Whether the hash is spent or claimed, by a payment or without one ([`Store::mark_spent`]).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], where the store cannot be read.
    pub async fn is_claimed(&self, block: BlockHash) -> Result<bool, StoreError> {
        match &self.kind {
            Kind::Sqlite(store) => store.is_claimed(block).await,
            Kind::Postgres(store) => store.is_claimed(block).await,
        }
    }

    /// How the standbys of the server are kept; nothing where the store is a file.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], where the server does not say.
    pub async fn replication(&self) -> Result<Option<Replication>, StoreError> {
        match &self.kind {
            Kind::Sqlite(_) => Ok(None),
            Kind::Postgres(store) => store.replication().await.map(Some),
        }
    }

    /// Finishes what is under way and closes the engine. Calls after it are refused.
    pub async fn close(&self) {
        match &self.kind {
            Kind::Sqlite(store) => store.close().await,
            Kind::Postgres(store) => store.close().await,
        }
    }

    fn tell<T>(&self, operation: &'static str, watch: Stopwatch, answer: &Result<T, StoreError>) {
        if let Some(observer) = &self.observer {
            let ok = matches!(answer, Ok(_) | Err(StoreError::NotApplied(_)));
            observer(StoreEvent::Call { operation, elapsed: watch.elapsed(), ok });
        }
    }
}

/// Passes a call to the engine there is, and tells how long it took.
macro_rules! pass {
    ($self:ident.$operation:ident($($argument:expr),*)) => {{
        let watch = Stopwatch::start();
        let answer = match &$self.kind {
            Kind::Sqlite(store) => store.$operation($($argument),*).await,
            Kind::Postgres(store) => store.$operation($($argument),*).await,
        };
        $self.tell(stringify!($operation), watch, &answer);
        answer
    }};
}

impl Store for Engine {
    async fn begin(&self, intent: &Intent, now: UnixSeconds) -> Result<Begin, StoreError> {
        pass!(self.begin(intent, now))
    }

    async fn advance(
        &self,
        block: BlockHash,
        from: &[PaymentState],
        to: PaymentState,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        pass!(self.advance(block, from, to, now))
    }

    async fn grant(
        &self,
        intent: &Intent,
        id: CapabilityId,
        holder: Holder,
        want: u32,
        ttl: u64,
        now: UnixSeconds,
    ) -> Result<Grant, StoreError> {
        pass!(self.grant(intent, id, holder, want, ttl, now))
    }

    async fn payment(&self, block: BlockHash) -> Result<Option<PaymentRecord>, StoreError> {
        pass!(self.payment(block))
    }

    async fn identified(&self, id: IdentifierKey) -> Result<Option<PaymentRecord>, StoreError> {
        pass!(self.identified(id))
    }

    async fn keep(&self, block: BlockHash, answer: &Answer, now: UnixSeconds) -> Result<bool, StoreError> {
        pass!(self.keep(block, answer, now))
    }

    async fn kept(&self, block: BlockHash) -> Result<Option<Answer>, StoreError> {
        pass!(self.kept(block))
    }

    async fn forget(&self, what: Forget) -> Result<u32, StoreError> {
        pass!(self.forget(what))
    }

    async fn capability(&self, id: CapabilityId) -> Result<Option<CapabilityRecord>, StoreError> {
        pass!(self.capability(id))
    }

    async fn lease(&self, request: LeaseRequest, now: UnixSeconds) -> Result<Lease, StoreError> {
        pass!(self.lease(request, now))
    }

    async fn revoke(&self, id: CapabilityId, now: UnixSeconds) -> Result<bool, StoreError> {
        pass!(self.revoke(id, now))
    }

    async fn mark_spent(&self, block: BlockHash, now: UnixSeconds) -> Result<bool, StoreError> {
        pass!(self.mark_spent(block, now))
    }

    async fn scan(&self, after: u64, filter: Filter, limit: usize) -> Result<Vec<PaymentRecord>, StoreError> {
        pass!(self.scan(after, filter, limit))
    }

    fn is_writable(&self) -> bool {
        match &self.kind {
            Kind::Sqlite(store) => store.is_writable(),
            Kind::Postgres(store) => store.is_writable(),
        }
    }

    fn health(&self) -> Health {
        match &self.kind {
            Kind::Sqlite(store) => store.health(),
            Kind::Postgres(store) => store.health(),
        }
    }
}

impl DepositJournal for Engine {
    async fn note_deposits(
        &self,
        deposits: &[Deposit],
        keep: u32,
        now: UnixSeconds,
    ) -> Result<Noted, StoreError> {
        pass!(self.note_deposits(deposits, keep, now))
    }

    async fn unclaimed(&self, after: Option<Mark>, limit: usize) -> Result<Vec<SeenDeposit>, StoreError> {
        pass!(self.unclaimed(after, limit))
    }

    async fn plan_sweep(&self, block: &SweepBlock, now: UnixSeconds) -> Result<(), StoreError> {
        pass!(self.plan_sweep(block, now))
    }

    async fn end_sweep(
        &self,
        block: BlockHash,
        confirmed: bool,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        pass!(self.end_sweep(block, confirmed, now))
    }

    async fn sweeps(
        &self,
        state: Option<SweepState>,
        after: Option<Mark>,
        limit: usize,
    ) -> Result<Vec<SweepRecord>, StoreError> {
        pass!(self.sweeps(state, after, limit))
    }
}
