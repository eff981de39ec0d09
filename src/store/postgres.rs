//! The store of several instances: one PostgreSQL database.
//!
//! Every operation is one statement or one short transaction, and is correct under READ COMMITTED. The
//! number of connections is bounded, and so is every wait. A call that was not sent is `Unavailable`. A call
//! whose connection was lost after it was sent is `Unknown`.
//!
//! Use it from the runtime it was opened on, which drives its connections.

mod answers;
mod capabilities;
mod claims;
mod connect;
mod fault;
mod journal;
mod options;
mod probe;
mod query;
mod replication;
mod deposits;
mod rows;
mod schema;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use deadpool_postgres::{Client, HookError, Object, Pool, PoolError};
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use self::fault::{Fault, unreachable};
use self::probe::{CALL_WITHIN, Vitals};
use super::deposits::{
    Deposit, DepositJournal, Mark, Noted, SeenDeposit, SweepBlock, SweepRecord, SweepState,
};
use super::free_space::FreeSpace;
use super::{
    Answer, Answers, Begin, CapabilityId, CapabilityRecord, Claims, Filter, Forget, Grant, Grantee, Health,
    Inspection, Intent, Lease, LeaseRequest, Meters, OutstandingGrants, PaymentJournal, PaymentRecord,
    PaymentState, StoreError, StoreHealth,
};
use crate::nano::{BlockHash, UnixSeconds};
use crate::payment::IdentifierKey;

pub use connect::server;
pub use options::{PostgresFault, PostgresOptions};
pub use replication::Replication;

/// How often a call that another call overtook is tried.
const ATTEMPTS: u32 = 6;

/// The store in one PostgreSQL database.
#[derive(Debug)]
pub struct PostgresStore {
    connections: Pool,
    vitals: Arc<Vitals>,
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
        tokio::spawn(probe::serve(connections.clone(), Arc::clone(&vitals), stopped));
        Ok(Self { connections, vitals, floor: options.free_space, stop })
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
        self.connections.close();
        // A connection ends when its last user drops it.
        while self.connections.status().size > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// One call that writes.
    async fn write<T>(
        &self,
        now: UnixSeconds,
        work: impl for<'c> Fn(&'c mut Client) -> BoxFuture<'c, Result<T, Fault>> + Send + Sync,
    ) -> Result<T, StoreError> {
        let outcome = self.run(work, StoreError::Unknown).await;
        match &outcome {
            Ok(_) => {
                // A write that fits into an existing page shows nothing about the next one.
                if !self.vitals.full.load(Ordering::Relaxed) {
                    self.vitals.writable.store(true, Ordering::Relaxed);
                }
                self.vitals.newest.fetch_max(now.0, Ordering::Relaxed);
            }
            Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) => {
                self.vitals.writable.store(false, Ordering::Relaxed);
            }
            Err(StoreError::NotApplied(_)) => {}
        }
        outcome
    }

    /// One call that only reads.
    async fn read<T>(
        &self,
        work: impl for<'c> Fn(&'c mut Client) -> BoxFuture<'c, Result<T, Fault>> + Send + Sync,
    ) -> Result<T, StoreError> {
        self.run(work, StoreError::Unavailable).await
    }

    async fn run<T>(
        &self,
        work: impl for<'c> Fn(&'c mut Client) -> BoxFuture<'c, Result<T, Fault>> + Send + Sync,
        late: impl Fn(String) -> StoreError + Send + Sync,
    ) -> Result<T, StoreError> {
        let mut overtaken = String::new();
        for _ in 0..ATTEMPTS {
            let mut client =
                self.connections.get().await.map_err(|error| StoreError::Unavailable(unreachable(&error)))?;
            match tokio::time::timeout(CALL_WITHIN, work(&mut client)).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(Fault::Overtaken(why))) => overtaken = why,
                Ok(Err(fault)) => {
                    if matches!(fault, Fault::Unknown(_)) {
                        drop(Object::take(client));
                    }
                    if matches!(fault, Fault::Full(_)) {
                        self.vitals.full.store(true, Ordering::Relaxed);
                    }
                    return Err(fault.into_error());
                }
                Err(_elapsed) => {
                    // Whatever still happens on that connection, no caller waits for it.
                    drop(Object::take(client));
                    return Err(late(format!("no answer within {} s", CALL_WITHIN.as_secs())));
                }
            }
        }
        Err(StoreError::Unavailable(format!("overtaken {ATTEMPTS} times: {overtaken}")))
    }
}

impl Claims for PostgresStore {
    async fn begin(&self, intent: &Intent, now: UnixSeconds) -> Result<Begin, StoreError> {
        self.write(now, |client| Box::pin(claims::begin(client, intent.clone(), now))).await
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
        self.write(now, |client| Box::pin(claims::grant(client, intent.clone(), grantee, now))).await
    }

    async fn capability(&self, id: CapabilityId) -> Result<Option<CapabilityRecord>, StoreError> {
        self.read(|client| Box::pin(capabilities::find(client, id))).await
    }

    async fn lease(&self, request: LeaseRequest, now: UnixSeconds) -> Result<Lease, StoreError> {
        self.write(now, |client| Box::pin(capabilities::lease(client, request, now))).await
    }

    async fn revoke(&self, id: CapabilityId, now: UnixSeconds) -> Result<bool, StoreError> {
        self.write(now, |client| Box::pin(capabilities::revoke(client, id, now))).await
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
        self.vitals.writable.load(Ordering::Relaxed) && !self.connections.is_closed()
    }

    fn health(&self) -> Health {
        Health {
            writable: self.is_writable(),
            free_bytes: self.vitals.free_space.as_ref().and_then(FreeSpace::free),
            floor: self.floor,
            newest: UnixSeconds(self.vitals.newest.load(Ordering::Relaxed)),
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
