//! The store of several instances: one PostgreSQL database.
//!
//! Every operation is one statement or one short transaction, and is correct under READ COMMITTED. Claims,
//! grants and leases that wait share a transaction ([`batch`]). The number of connections is bounded, and so
//! is every wait. A call that was not sent is `Unavailable`. A call whose connection was lost after it was
//! sent is `Unknown`.
//!
//! Use it from the runtime it was opened on, which drives its connections.

mod answers;
mod attempt;
mod batch;
mod capabilities;
mod claims;
mod connect;
mod fault;
mod journal;
mod operator;
mod options;
mod probe;
mod query;
mod refunds;
mod replication;
mod deposits;
mod rows;
mod schema;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use deadpool_postgres::{Client, HookError, PoolError};
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use self::attempt::{Server, Vitals};
use self::batch::{Batches, Call};
use self::capabilities::Leasing;
use self::claims::{Beginning, Granting};
use self::fault::{Fault, unreachable};
use super::deposits::{
    Deposit, DepositJournal, Mark, Noted, SeenDeposit, SweepBlock, SweepRecord, SweepState,
};
use super::free_space::FreeSpace;
use super::operator::{CapabilityEntry, CapabilitySearch, OperatorJournal, PaymentSearch, Remark};
use super::refunds::{Closing, ExpiredPurse, ExpiryMark, RefundJournal, RefundRecord, RefundSearch};
use super::{
    Answer, Answers, Begin, CapabilityId, CapabilityRecord, Claims, Filter, Forget, Grant, Grantee, Health,
    Inspection, Intent, Lease, LeaseRequest, Meters, OutstandingGrants, PaymentJournal, PaymentRecord,
    PaymentState, StoreError, StoreHealth,
};
use crate::nano::{BlockHash, Raw, StateBlock, UnixSeconds};
use crate::payment::IdentifierKey;

pub use connect::{check_files, server};
pub use options::{PostgresFault, PostgresOptions};
pub use replication::Replication;

/// The store in one PostgreSQL database.
#[derive(Debug)]
pub struct PostgresStore {
    server: Server,
    begins: Batches<Beginning>,
    grants: Batches<Granting>,
    leases: Batches<Leasing>,
    /// [`Health::floor`].
    floor: u64,
    /// Ends the probe.
    stop: watch::Sender<bool>,
}

impl PostgresStore {
    /// Opens the store. Makes its tables if there are none, and brings them to this program's version.
    /// Several instances may open one database at the same time.
    ///
    /// # Errors
    /// [`PostgresFault`], which says what to do.
    pub async fn open(options: &PostgresOptions) -> Result<Self, PostgresFault> {
        let connections = connect::connections(options)?;
        let mut client = match connections.get().await {
            Ok(client) => client,
            Err(PoolError::PostCreateHook(HookError::Message(why))) => {
                return Err(PostgresFault::Unsafe(why.into_owned()));
            }
            Err(PoolError::Backend(_)) if connect::answers_as_standby(options).await => {
                return Err(PostgresFault::Standby);
            }
            Err(error) => return Err(PostgresFault::Unreachable(unreachable(&error))),
        };
        schema::migrate(&mut client).await?;
        let newest = journal::newest(&client)
            .await
            .map_err(|fault| PostgresFault::Unreachable(fault.into_error().to_string()))?;
        let free_space = probe::free_space(&client, &options.server).await;
        drop(client);
        let vitals = Arc::new(Vitals {
            writable: AtomicBool::new(true),
            full: AtomicBool::new(false),
            newest: AtomicU64::new(newest),
            free_space,
        });
        let (stop, stopped) = watch::channel(false);
        let server = Server { connections, vitals };
        tokio::spawn(probe::serve(server.clone(), stopped));
        Ok(Self {
            begins: Batches::start(server.clone()),
            grants: Batches::start(server.clone()),
            leases: Batches::start(server.clone()),
            server,
            floor: options.free_space,
            stop,
        })
    }

    /// As [`Engine::inspect`](super::Engine::inspect). The server checks its files itself.
    pub async fn inspect(&self) -> Result<Inspection, StoreError> {
        self.read(|client| Box::pin(journal::inspect(client))).await
    }

    /// As [`Engine::is_claimed`](super::Engine::is_claimed).
    pub async fn is_claimed(&self, block: BlockHash) -> Result<bool, StoreError> {
        self.read(|client| Box::pin(journal::is_claimed(client, block))).await
    }

    /// As [`Engine::outstanding`](super::Engine::outstanding).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the server does not answer.
    pub async fn outstanding(&self, now: UnixSeconds) -> Result<Vec<OutstandingGrants>, StoreError> {
        self.read(|client| Box::pin(capabilities::outstanding(client, now))).await
    }

    /// The replication of the server.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the server does not say.
    pub async fn replication(&self) -> Result<Replication, StoreError> {
        self.read(|client| Box::pin(replication::of(client))).await
    }

    /// Ends the probe and the connections. Later calls are refused.
    pub async fn close(&self) {
        self.stop.send_replace(true);
        self.server.connections.close();
        // A connection ends when its last user drops it.
        while self.server.connections.status().size > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// One call that writes.
    async fn write<T>(
        &self,
        now: UnixSeconds,
        work: impl for<'c> Fn(&'c mut Client) -> BoxFuture<'c, Result<T, Fault>> + Send + Sync,
    ) -> Result<T, StoreError> {
        let outcome = self.server.run(work, Fault::Unknown).await;
        self.server.note(now, &outcome);
        outcome
    }

    /// One call that writes, together with others of its kind.
    async fn batched<C: Call>(
        &self,
        batches: &Batches<C>,
        call: C,
        now: UnixSeconds,
    ) -> Result<C::Answer, StoreError> {
        let outcome = batches.make(call).await;
        self.server.note(now, &outcome);
        outcome
    }

    /// One call that only reads.
    async fn read<T>(
        &self,
        work: impl for<'c> Fn(&'c mut Client) -> BoxFuture<'c, Result<T, Fault>> + Send + Sync,
    ) -> Result<T, StoreError> {
        self.server.run(work, Fault::Unavailable).await
    }
}

impl Claims for PostgresStore {
    async fn begin(&self, intent: &Intent, now: UnixSeconds) -> Result<Begin, StoreError> {
        self.batched(&self.begins, Beginning { intent: intent.clone(), now }, now).await
    }

    async fn advance(
        &self,
        block: BlockHash,
        from: &[PaymentState],
        to: PaymentState,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        self.write(now, |client| Box::pin(claims::advance(client, block, from.to_vec(), to, now))).await
    }

    async fn mark_spent(&self, block: BlockHash, now: UnixSeconds) -> Result<bool, StoreError> {
        self.write(now, |client| Box::pin(journal::mark_spent(client, block))).await
    }
}

impl PaymentJournal for PostgresStore {
    async fn payment(&self, block: BlockHash) -> Result<Option<PaymentRecord>, StoreError> {
        self.read(|client| Box::pin(journal::find(client, block))).await
    }

    async fn identified(&self, id: IdentifierKey) -> Result<Option<PaymentRecord>, StoreError> {
        self.read(|client| Box::pin(journal::id_holder(&*client, id, ""))).await
    }

    async fn scan(&self, after: u64, filter: Filter, limit: usize) -> Result<Vec<PaymentRecord>, StoreError> {
        self.read(|client| Box::pin(journal::scan(client, after, filter, limit))).await
    }
}

impl Meters for PostgresStore {
    async fn grant(&self, intent: &Intent, grantee: Grantee, now: UnixSeconds) -> Result<Grant, StoreError> {
        self.batched(&self.grants, Granting { intent: intent.clone(), grantee, now }, now).await
    }

    async fn capability(&self, id: CapabilityId) -> Result<Option<CapabilityRecord>, StoreError> {
        self.read(|client| Box::pin(capabilities::find(client, id))).await
    }

    async fn lease(&self, request: LeaseRequest, now: UnixSeconds) -> Result<Lease, StoreError> {
        self.batched(&self.leases, Leasing { request, now }, now).await
    }

    async fn revoke(&self, id: CapabilityId, now: UnixSeconds) -> Result<bool, StoreError> {
        self.write(now, |client| Box::pin(capabilities::revoke(client, id, now))).await
    }
}

impl OperatorJournal for PostgresStore {
    async fn search_payments(&self, search: &PaymentSearch) -> Result<Vec<PaymentRecord>, StoreError> {
        self.read(|client| Box::pin(operator::search_payments(client, search.clone()))).await
    }

    async fn search_capabilities(
        &self,
        search: &CapabilitySearch,
        now: UnixSeconds,
    ) -> Result<Vec<CapabilityEntry>, StoreError> {
        self.read(|client| Box::pin(operator::search_capabilities(client, search.clone(), now))).await
    }

    async fn capability_entry(
        &self,
        id: CapabilityId,
        now: UnixSeconds,
    ) -> Result<Option<CapabilityEntry>, StoreError> {
        self.read(|client| Box::pin(operator::entry(client, id, now))).await
    }

    async fn revoke_by(
        &self,
        id: CapabilityId,
        remark: &Remark,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        self.write(now, |client| Box::pin(operator::revoke(client, id, remark.clone(), now))).await
    }

    async fn note_given(
        &self,
        id: CapabilityId,
        remark: &Remark,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        self.write(now, |client| Box::pin(operator::note_given(client, id, remark.clone(), now))).await
    }
}

impl RefundJournal for PostgresStore {
    async fn close_capability(
        &self,
        id: CapabilityId,
        at_least: Raw,
        now: UnixSeconds,
    ) -> Result<Closing, StoreError> {
        self.write(now, |client| Box::pin(refunds::close(client, id, at_least, now))).await
    }

    async fn refund(&self, id: CapabilityId) -> Result<Option<RefundRecord>, StoreError> {
        self.read(|client| Box::pin(refunds::find(&*client, id))).await
    }

    async fn refunds(&self, search: &RefundSearch) -> Result<Vec<RefundRecord>, StoreError> {
        self.read(|client| Box::pin(refunds::list(client, search.clone()))).await
    }

    async fn take_refunds(
        &self,
        until: UnixSeconds,
        most: usize,
        now: UnixSeconds,
    ) -> Result<Vec<RefundRecord>, StoreError> {
        self.write(now, |client| Box::pin(refunds::take(client, until, most, now))).await
    }

    async fn sign_refund(
        &self,
        id: CapabilityId,
        instead_of: Option<BlockHash>,
        block: &StateBlock,
        now: UnixSeconds,
    ) -> Result<RefundRecord, StoreError> {
        self.write(now, |client| Box::pin(refunds::sign(client, id, instead_of, *block, now))).await
    }

    async fn confirm_refund(
        &self,
        id: CapabilityId,
        block: BlockHash,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        self.write(now, |client| Box::pin(refunds::confirm(client, id, block, now))).await
    }

    async fn expired_purses(
        &self,
        after: ExpiryMark,
        limit: usize,
        now: UnixSeconds,
    ) -> Result<Vec<ExpiredPurse>, StoreError> {
        self.read(|client| Box::pin(refunds::expired(client, after, limit, now))).await
    }
}

impl Answers for PostgresStore {
    async fn keep(&self, block: BlockHash, answer: &Answer, now: UnixSeconds) -> Result<bool, StoreError> {
        self.write(now, |client| Box::pin(answers::keep(client, block, answer.clone(), now))).await
    }

    async fn kept(&self, block: BlockHash) -> Result<Option<Answer>, StoreError> {
        self.read(|client| Box::pin(answers::kept(client, block))).await
    }

    async fn forget(&self, what: Forget) -> Result<u32, StoreError> {
        self.write(UnixSeconds(0), |client| Box::pin(answers::forget(client, what))).await
    }
}

impl StoreHealth for PostgresStore {
    fn is_writable(&self) -> bool {
        self.server.vitals.writable.load(Ordering::Relaxed) && !self.server.connections.is_closed()
    }

    fn health(&self) -> Health {
        Health {
            writable: self.is_writable(),
            free_bytes: self.server.vitals.free_space.as_ref().and_then(FreeSpace::free),
            floor: self.floor,
            newest: UnixSeconds(self.server.vitals.newest.load(Ordering::Relaxed)),
        }
    }
}

impl DepositJournal for PostgresStore {
    async fn note_deposits(
        &self,
        deposits: &[Deposit],
        keep: u32,
        now: UnixSeconds,
    ) -> Result<Noted, StoreError> {
        self.write(now, |client| Box::pin(deposits::note_deposits(client, deposits.to_vec(), keep, now)))
            .await
    }

    async fn unclaimed(&self, after: Option<Mark>, limit: usize) -> Result<Vec<SeenDeposit>, StoreError> {
        self.read(|client| Box::pin(deposits::unclaimed(client, after, limit))).await
    }

    async fn plan_sweep(&self, block: &SweepBlock, now: UnixSeconds) -> Result<(), StoreError> {
        self.write(now, |client| Box::pin(deposits::plan_sweep(client, *block, now))).await
    }

    async fn end_sweep(
        &self,
        block: BlockHash,
        confirmed: bool,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        self.write(now, |client| Box::pin(deposits::end_sweep(client, block, confirmed, now))).await
    }

    async fn sweeps(
        &self,
        state: Option<SweepState>,
        after: Option<Mark>,
        limit: usize,
    ) -> Result<Vec<SweepRecord>, StoreError> {
        self.read(|client| Box::pin(deposits::sweeps(client, state, after, limit))).await
    }
}
