//! The embedded store: one SQLite file, for one machine.
//!
//! It uses a write-ahead log and an fsync for every commit. One thread writes and commits in groups
//! ([`writer`]), others read ([`reader`]), one makes checkpoints ([`checkpoint`]). The threads belong to no
//! runtime, so any runtime may call. Two processes may have the file open at once, so that one can take
//! over from the other.
//!
//! Every answered write is on the disk. A store that is dropped without [`SqliteStore::close`] still
//! finishes what is queued, as long as the process lives.

mod backup;
mod answers;
mod ballast;
mod capabilities;
mod checkpoint;
mod claims;
mod connection;
mod fault;
mod journal;
mod open_error;
mod deposits;
mod reader;
mod rows;
mod schema;
mod writer;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::watch;

use self::ballast::Ballast;
use self::checkpoint::Checkpointer;
use self::fault::Fault;
use self::reader::Queries;
use self::writer::{Queue, Vitals, Writer};
use super::deposits::{
    Deposit, DepositJournal, Mark, Noted, SeenDeposit, SweepBlock, SweepRecord, SweepState,
};
use super::free_space::FreeSpace;
use super::{
    Answer, Answers, Begin, CapabilityId, CapabilityRecord, Claims, Filter, Forget, Grant, Grantee, Health,
    Inspection, Intent, Lease, LeaseRequest, Meters, OutstandingGrants, PaymentJournal, PaymentRecord,
    PaymentState, StoreError, StoreHealth, StoreObserver,
};
use crate::nano::{BlockHash, UnixSeconds};
use crate::payment::IdentifierKey;

pub use backup::{BackupError, backup_sqlite};
pub use open_error::{OpenError, OpenFault};

/// The settings of a store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SqliteOptions {
    /// Calls that may wait, for writing and for reading each. One more is refused.
    pub queue: NonZeroUsize,
    /// Threads that read.
    pub readers: NonZeroUsize,
    /// How long to wait for another process that is writing.
    pub busy_timeout: Duration,
    /// With fewer bytes free than this, nothing new is sold ([`Health::floor`]).
    pub free_space: u64,
    /// Bytes of a file beside the database that is deleted when the disk is full.
    pub ballast: u64,
}

impl SqliteOptions {
    /// The usual [`SqliteOptions::free_space`].
    pub const FREE_SPACE: u64 = 64 << 20;
}

impl Default for SqliteOptions {
    fn default() -> Self {
        const QUEUE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
        const READERS: NonZeroUsize = NonZeroUsize::new(4).unwrap();
        Self {
            queue: QUEUE,
            readers: READERS,
            busy_timeout: Duration::from_secs(5),
            free_space: Self::FREE_SPACE,
            ballast: 4 << 20,
        }
    }
}

/// The store in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    writer: Queue,
    readers: Queries,
    vitals: Arc<Vitals>,
    /// [`Health::floor`] while the ballast exists.
    floor: u64,
    /// Closed when every reading thread has ended.
    reading: watch::Receiver<()>,
    /// Closed when the writing thread has ended.
    writing: watch::Receiver<()>,
}

impl SqliteStore {
    /// Opens the store at `path`, and brings it to this program's version. Makes the file if there is none
    /// (mode 0600; its directory must exist). Blocks.
    ///
    /// # Errors
    /// [`OpenError`], which says what to do.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Self, OpenError> {
        Self::open_observed(path, options, None)
    }

    /// As [`SqliteStore::open`]. `observer` gets each commit.
    pub fn open_observed(
        path: &Path,
        options: SqliteOptions,
        observer: Option<StoreObserver>,
    ) -> Result<Self, OpenError> {
        Self::start(path, options, observer).map_err(|fault| OpenError { path: path.to_owned(), fault })
    }

    fn start(
        path: &Path,
        options: SqliteOptions,
        observer: Option<StoreObserver>,
    ) -> Result<Self, OpenFault> {
        connection::prepare(path)?;
        let mut connection = connection::writing(path, options.busy_timeout)?;
        // Before anything is changed: the file of another program stays as it is.
        schema::inspect(&connection)?;
        connection::use_wal(&connection)?;
        schema::migrate(&mut connection)?;
        let identity = connection::identity(path);

        let (reads, reading) = watch::channel(());
        let vitals = Arc::new(Vitals {
            writable: AtomicBool::new(true),
            commits: AtomicU64::new(0),
            newest: AtomicU64::new(journal::newest(&connection)?),
            ballast: Ballast::new(path, options.ballast),
            free_space: FreeSpace::new(connection::directory(path)),
            observer,
        });
        let (queries, waiting) = Queries::new(options.queue.get());
        for _ in 0..options.readers.get() {
            let (connection, waiting) =
                (connection::reading(path, options.busy_timeout)?, Arc::clone(&waiting));
            let reads = reads.clone();
            spawn("store-reader", move || {
                reader::serve(&connection, &waiting);
                drop(connection);
                drop(reads);
            })?;
        }
        let (queue, commands) = Queue::new(options.queue.get());
        let (writer_ends, writer_lives) = std::sync::mpsc::channel();
        let checkpointer = Checkpointer {
            connection: connection::writing(path, options.busy_timeout)?,
            path: path.to_owned(),
            identity,
            wal: connection::wal_path(path),
            writer: queue.downgrade(),
            vitals: Arc::clone(&vitals),
            writer_lives,
        };
        let checkpoints = spawn("store-checkpoint", move || checkpointer.serve())?;
        let (writes, writing) = watch::channel(());
        let mut writer = Writer {
            path: path.to_owned(),
            identity,
            busy_timeout: options.busy_timeout,
            connection: Some(connection),
            commands,
            vitals: Arc::clone(&vitals),
        };
        spawn("store-writer", move || {
            writer.serve();
            drop(writer_ends);
            if checkpoints.join().is_err() {
                tracing::error!("the store's checkpoint thread panicked");
            }
            drop(writer);
            drop(writes);
        })?;
        Ok(Self { writer: queue, readers: queries, vitals, floor: options.free_space, reading, writing })
    }

    /// One write at `now`.
    async fn write<T: Send + 'static>(
        &self,
        now: UnixSeconds,
        work: impl Fn(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let answer = self.writer.run(work).await?;
        self.vitals.newest.fetch_max(now.0, Ordering::Relaxed);
        Ok(answer)
    }

    /// As [`Engine::inspect`](super::Engine::inspect). Reads the whole file.
    pub async fn inspect(&self) -> Result<Inspection, StoreError> {
        self.readers.ask(|db| Ok(backup::inspect(db)?)).await
    }

    /// As [`Engine::is_claimed`](super::Engine::is_claimed).
    pub async fn is_claimed(&self, block: BlockHash) -> Result<bool, StoreError> {
        self.readers.ask(move |db| journal::is_claimed(db, block)).await
    }

    /// As [`Engine::outstanding`](super::Engine::outstanding).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the file cannot be read.
    pub async fn outstanding(&self, now: UnixSeconds) -> Result<Vec<OutstandingGrants>, StoreError> {
        self.readers.ask(move |db| capabilities::outstanding(db, now)).await
    }

    /// Finishes everything that is queued and closes the file. Later calls are refused.
    pub async fn close(&self) {
        self.readers.close().await;
        ended(&self.reading).await;
        // Last and alone: the connection that closes the file last merges the log into it.
        self.writer.close().await;
        ended(&self.writing).await;
    }
}

/// Waits until the other end is dropped.
async fn ended(threads: &watch::Receiver<()>) {
    let mut threads = threads.clone();
    while threads.changed().await.is_ok() {}
}

fn spawn(name: &str, serve: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenFault> {
    Ok(std::thread::Builder::new().name(name.to_owned()).spawn(serve)?)
}

impl Claims for SqliteStore {
    async fn begin(&self, intent: &Intent, now: UnixSeconds) -> Result<Begin, StoreError> {
        let intent = intent.clone();
        self.write(now, move |db| claims::begin(db, &intent, now)).await
    }

    async fn advance(
        &self,
        block: BlockHash,
        from: &[PaymentState],
        to: PaymentState,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        let from = from.to_vec();
        self.write(now, move |db| claims::advance(db, block, &from, to, now)).await
    }

    async fn mark_spent(&self, block: BlockHash, now: UnixSeconds) -> Result<bool, StoreError> {
        self.write(now, move |db| journal::mark_spent(db, block)).await
    }
}

impl PaymentJournal for SqliteStore {
    async fn payment(&self, block: BlockHash) -> Result<Option<PaymentRecord>, StoreError> {
        self.readers.ask(move |db| journal::find(db, block)).await
    }

    async fn identified(&self, id: IdentifierKey) -> Result<Option<PaymentRecord>, StoreError> {
        self.readers.ask(move |db| journal::id_holder(db, id)).await
    }

    async fn scan(&self, after: u64, filter: Filter, limit: usize) -> Result<Vec<PaymentRecord>, StoreError> {
        self.readers.ask(move |db| journal::scan(db, after, filter, limit)).await
    }
}

impl Meters for SqliteStore {
    async fn grant(&self, intent: &Intent, grantee: Grantee, now: UnixSeconds) -> Result<Grant, StoreError> {
        let intent = intent.clone();
        self.write(now, move |db| claims::grant(db, &intent, grantee, now)).await
    }

    async fn capability(&self, id: CapabilityId) -> Result<Option<CapabilityRecord>, StoreError> {
        self.readers.ask(move |db| capabilities::find(db, id)).await
    }

    async fn lease(&self, request: LeaseRequest, now: UnixSeconds) -> Result<Lease, StoreError> {
        self.write(now, move |db| capabilities::lease(db, &request, now)).await
    }

    async fn revoke(&self, id: CapabilityId, now: UnixSeconds) -> Result<bool, StoreError> {
        self.write(now, move |db| capabilities::revoke(db, id, now)).await
    }
}

impl Answers for SqliteStore {
    async fn keep(&self, block: BlockHash, answer: &Answer, now: UnixSeconds) -> Result<bool, StoreError> {
        let answer = answer.clone();
        self.write(now, move |db| answers::keep(db, block, &answer, now)).await
    }

    async fn kept(&self, block: BlockHash) -> Result<Option<Answer>, StoreError> {
        self.readers.ask(move |db| answers::kept(db, block)).await
    }

    async fn forget(&self, what: Forget) -> Result<u32, StoreError> {
        self.writer.run(move |db| answers::forget(db, what)).await
    }
}

impl StoreHealth for SqliteStore {
    fn is_writable(&self) -> bool {
        self.vitals.writable.load(Ordering::Relaxed) && !self.writer.is_closed()
    }

    fn health(&self) -> Health {
        Health {
            writable: self.is_writable(),
            free_bytes: self.vitals.free_space.free(),
            // Without the ballast, too little is free until there is space for it.
            floor: self.floor.max(self.vitals.ballast.missing()),
            newest: UnixSeconds(self.vitals.newest.load(Ordering::Relaxed)),
        }
    }
}

impl DepositJournal for SqliteStore {
    async fn note_deposits(
        &self,
        deposits: &[Deposit],
        keep: u32,
        now: UnixSeconds,
    ) -> Result<Noted, StoreError> {
        let deposits = deposits.to_vec();
        self.write(now, move |db| deposits::note_deposits(db, &deposits, keep, now)).await
    }

    async fn unclaimed(&self, after: Option<Mark>, limit: usize) -> Result<Vec<SeenDeposit>, StoreError> {
        self.readers.ask(move |db| deposits::unclaimed(db, after, limit)).await
    }

    async fn plan_sweep(&self, block: &SweepBlock, now: UnixSeconds) -> Result<(), StoreError> {
        let block = *block;
        self.write(now, move |db| deposits::plan_sweep(db, &block, now)).await
    }

    async fn end_sweep(
        &self,
        block: BlockHash,
        confirmed: bool,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        self.write(now, move |db| deposits::end_sweep(db, block, confirmed, now)).await
    }

    async fn sweeps(
        &self,
        state: Option<SweepState>,
        after: Option<Mark>,
        limit: usize,
    ) -> Result<Vec<SweepRecord>, StoreError> {
        self.readers.ask(move |db| deposits::sweeps(db, state, after, limit)).await
    }
}
