//! The store of several instances: one PostgreSQL database.
//!
//! Every operation is one statement or one short transaction that holds under READ COMMITTED. The
//! connections are few and bounded, and so is every wait. A call that was not sent is
//! `Unavailable`; one whose connection was lost after it was sent is `Unknown`.
//!
//! Use it from the runtime it was opened on: its connections are driven there.

mod answers;
mod capabilities;
mod connect;
mod fault;
mod payments;
mod probe;
mod replication;
mod deposits;
mod rows;
mod schema;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use deadpool_postgres::{Client, HookError, Object, Pool, PoolError};
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use self::fault::{Fault, text};
use self::payments::Grantee;
use super::deposits::{
    Deposit, DepositJournal, Mark, Noted, SeenDeposit, SweepBlock, SweepRecord, SweepState,
};
use super::free_space::FreeSpace;
use super::{
    Answer, Begin, CapabilityId, CapabilityRecord, Filter, Forget, Grant, Health, Holder, Inspection, Intent,
    Lease, LeaseRequest, PaymentRecord, PaymentState, Store, StoreError,
};
use crate::nano::{BlockHash, UnixSeconds};
use crate::payment::IdentifierKey;

pub use connect::server;
pub use replication::Replication;

/// How long one call may take on its connection, whatever the server says.
const CALL_WITHIN: Duration = Duration::from_secs(10);
/// How often a call that was overtaken by another looks again.
const ATTEMPTS: u32 = 6;

/// Where a store is and how it is used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PostgresOptions {
    /// As [`server`] gives it. Prints without its password.
    pub server: tokio_postgres::Config,
    /// Takes the place of a password in `server`.
    pub password_file: Option<PathBuf>,
    /// Certificates (PEM) of the authorities that vouch for the server; those that browsers trust
    /// where there is none.
    pub ca_file: Option<PathBuf>,
    /// Connections at most.
    pub connections: NonZeroUsize,
    /// Use a server that forgets at a power cut what it has acknowledged.
    pub allow_unsafe: bool,
    /// With fewer bytes free than this where the server keeps its data, nothing new is sold; as far as
    /// that can be seen from here ([`Health::free_bytes`]).
    pub free_space: u64,
}

impl PostgresOptions {
    /// Connections where nothing else is said.
    pub const CONNECTIONS: NonZeroUsize = NonZeroUsize::new(16).unwrap();
    /// The usual [`PostgresOptions::free_space`].
    pub const FREE_SPACE: u64 = 64 << 20;

    /// The usual use of `server`.
    #[must_use]
    pub const fn new(server: tokio_postgres::Config) -> Self {
        Self {
            server,
            password_file: None,
            ca_file: None,
            connections: Self::CONNECTIONS,
            allow_unsafe: false,
            free_space: Self::FREE_SPACE,
        }
    }
}

/// Why a store cannot be opened, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum PostgresFault {
    #[error("the PostgreSQL server cannot be used: {0}")]
    Unreachable(String),
    #[error(
        "the PostgreSQL server is a standby, which takes no writes: name the primary, or all of them \
         (`postgres://USER@ONE,OTHER/DATABASE`)"
    )]
    Standby,
    /// Its settings lose what was acknowledged.
    #[error("{0}")]
    Unsafe(String),
    #[error("the tables are of a newer Faregate (version {found}, this program knows {known}): run that one")]
    Newer { found: i32, known: i32 },
    #[error(
        "the schema holds tables of another program: give the gateway a database of its own, or a schema \
         (`?options=-csearch_path%3Dfaregate` at the end of the address)"
    )]
    Foreign,
    #[error("{}: {why}", path.display())]
    File { path: PathBuf, why: String },
    #[error("the tables cannot be made: {}", text(.0))]
    Schema(#[from] tokio_postgres::Error),
}

/// What the calls and the probe tell each other.
#[derive(Debug)]
struct Vitals {
    /// Whether the last write went through.
    writable: AtomicBool,
    /// Whether a write found no room, and none was seen since. Other writes may still find some.
    full: AtomicBool,
    /// The latest time that is known to be in the journal.
    newest: AtomicU64,
    /// Where the server keeps its data, if that is on this machine.
    free_space: Option<FreeSpace>,
}

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
    /// Opens the store; its tables are made if they are not there, and brought to this program's
    /// version. Instances that open one database at once agree.
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
        let newest = payments::newest(&client)
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

    /// Looks at what must hold between the rows. The server itself looks after its files.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], where it cannot be read.
    pub async fn inspect(&self) -> Result<Inspection, StoreError> {
        self.read(|client| Box::pin(payments::inspect(client))).await
    }

    /// Whether the hash is claimed, by a payment or without one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], where it cannot be read.
    pub async fn is_claimed(&self, block: BlockHash) -> Result<bool, StoreError> {
        self.read(|client| Box::pin(payments::is_claimed(client, block))).await
    }

    /// How the server's standbys are kept.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], where the server does not say.
    pub async fn replication(&self) -> Result<Replication, StoreError> {
        self.read(|client| Box::pin(replication::of(client))).await
    }

    /// Ends the probe and the connections. Calls after it are refused.
    pub async fn close(&self) {
        self.stop.send_replace(true);
        self.connections.close();
        // Connections end with their last user.
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
                // A write that found its place in a page says nothing about the next one.
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
                    // Whatever still happens on that connection, nobody waits for it.
                    drop(Object::take(client));
                    return Err(late(format!("no answer within {} s", CALL_WITHIN.as_secs())));
                }
            }
        }
        Err(StoreError::Unavailable(format!("overtaken {ATTEMPTS} times: {overtaken}")))
    }
}

/// Why there is no connection.
fn unreachable(error: &PoolError) -> String {
    match error {
        PoolError::Backend(error) => text(error),
        PoolError::PostCreateHook(HookError::Message(why)) => why.to_string(),
        PoolError::PostCreateHook(HookError::Backend(error)) => text(error),
        PoolError::Timeout(_) | PoolError::Closed | PoolError::NoRuntimeSpecified => error.to_string(),
    }
}

impl Store for PostgresStore {
    async fn begin(&self, intent: &Intent, now: UnixSeconds) -> Result<Begin, StoreError> {
        self.write(now, |client| {
            let intent = intent.clone();
            Box::pin(async move { payments::begin(client, &intent, now).await })
        })
        .await
    }

    async fn advance(
        &self,
        block: BlockHash,
        from: &[PaymentState],
        to: PaymentState,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        self.write(now, |client| {
            let from = from.to_vec();
            Box::pin(async move { payments::advance(client, block, &from, to, now).await })
        })
        .await
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
        let grantee = Grantee { id, holder, want, ttl };
        self.write(now, |client| {
            let intent = intent.clone();
            Box::pin(async move { payments::grant(client, &intent, grantee, now).await })
        })
        .await
    }

    async fn payment(&self, block: BlockHash) -> Result<Option<PaymentRecord>, StoreError> {
        self.read(|client| Box::pin(payments::find(client, block))).await
    }

    async fn identified(&self, id: IdentifierKey) -> Result<Option<PaymentRecord>, StoreError> {
        self.read(|client| Box::pin(answers::identified(client, id))).await
    }

    async fn keep(&self, block: BlockHash, answer: &Answer, now: UnixSeconds) -> Result<bool, StoreError> {
        self.write(now, |client| {
            let answer = answer.clone();
            Box::pin(async move { answers::keep(client, block, &answer, now).await })
        })
        .await
    }

    async fn kept(&self, block: BlockHash) -> Result<Option<Answer>, StoreError> {
        self.read(|client| Box::pin(answers::kept(client, block))).await
    }

    async fn forget(&self, what: Forget) -> Result<u32, StoreError> {
        self.write(UnixSeconds(0), |client| Box::pin(answers::forget(client, what))).await
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

    async fn mark_spent(&self, block: BlockHash, now: UnixSeconds) -> Result<bool, StoreError> {
        self.write(now, |client| Box::pin(payments::mark_spent(client, block))).await
    }

    async fn scan(&self, after: u64, filter: Filter, limit: usize) -> Result<Vec<PaymentRecord>, StoreError> {
        self.read(|client| Box::pin(payments::scan(client, after, filter, limit))).await
    }

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
        self.write(now, |client| {
            let deposits = deposits.to_vec();
            Box::pin(async move { deposits::note_deposits(client, &deposits, keep, now).await })
        })
        .await
    }

    async fn unclaimed(&self, after: Option<Mark>, limit: usize) -> Result<Vec<SeenDeposit>, StoreError> {
        self.read(|client| Box::pin(deposits::unclaimed(client, after, limit))).await
    }

    async fn plan_sweep(&self, block: &SweepBlock, now: UnixSeconds) -> Result<(), StoreError> {
        let block = *block;
        self.write(now, |client| Box::pin(async move { deposits::plan_sweep(client, &block, now).await }))
            .await
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
