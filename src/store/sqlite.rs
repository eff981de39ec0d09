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
mod operator;
mod reader;
mod refunds;
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
use super::operator::{CapabilityEntry, CapabilitySearch, OperatorJournal, PaymentSearch, Remark};
use super::refunds::{Closing, ExpiredPurse, ExpiryMark, RefundJournal, RefundRecord, RefundSearch};
use super::{
    Answer, Answers, Begin, CapabilityId, CapabilityRecord, Claims, Filter, Forget, Grant, Grantee, Health,
    Inspection, Intent, Lease, LeaseRequest, Meters, OutstandingGrants, PaymentJournal, PaymentRecord,
    PaymentState, StoreError, StoreHealth, StoreObserver,
};
use crate::nano::{BlockHash, Raw, StateBlock, UnixSeconds};
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

impl OperatorJournal for SqliteStore {
    async fn search_payments(&self, search: &PaymentSearch) -> Result<Vec<PaymentRecord>, StoreError> {
        let search = search.clone();
        self.readers.ask(move |db| operator::search_payments(db, &search)).await
    }

    async fn search_capabilities(
        &self,
        search: &CapabilitySearch,
        now: UnixSeconds,
    ) -> Result<Vec<CapabilityEntry>, StoreError> {
        let search = search.clone();
        self.readers.ask(move |db| operator::search_capabilities(db, &search, now)).await
    }

    async fn capability_entry(
        &self,
        id: CapabilityId,
        now: UnixSeconds,
    ) -> Result<Option<CapabilityEntry>, StoreError> {
        self.readers.ask(move |db| operator::entry(db, id, now)).await
    }

    async fn revoke_by(
        &self,
        id: CapabilityId,
        remark: &Remark,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        let remark = remark.clone();
        self.write(now, move |db| operator::revoke(db, id, &remark, now)).await
    }

    async fn note_given(
        &self,
        id: CapabilityId,
        remark: &Remark,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        let remark = remark.clone();
        self.write(now, move |db| operator::note_given(db, id, &remark, now)).await
    }
}

impl RefundJournal for SqliteStore {
    async fn close_capability(
        &self,
        id: CapabilityId,
        at_least: Raw,
        now: UnixSeconds,
    ) -> Result<Closing, StoreError> {
        self.write(now, move |db| refunds::close(db, id, at_least, now)).await
    }

    async fn refund(&self, id: CapabilityId) -> Result<Option<RefundRecord>, StoreError> {
        self.readers.ask(move |db| refunds::find(db, id)).await
    }

    async fn refunds(&self, search: &RefundSearch) -> Result<Vec<RefundRecord>, StoreError> {
        let search = search.clone();
        self.readers.ask(move |db| refunds::list(db, &search)).await
    }

    async fn take_refunds(
        &self,
        until: UnixSeconds,
        most: usize,
        now: UnixSeconds,
    ) -> Result<Vec<RefundRecord>, StoreError> {
        self.write(now, move |db| refunds::take(db, until, most, now)).await
    }

    async fn sign_refund(
        &self,
        id: CapabilityId,
        instead_of: Option<BlockHash>,
        block: &StateBlock,
        now: UnixSeconds,
    ) -> Result<RefundRecord, StoreError> {
        let block = *block;
        self.write(now, move |db| refunds::sign(db, id, instead_of, &block, now)).await
    }

    async fn confirm_refund(
        &self,
        id: CapabilityId,
        block: BlockHash,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        self.write(now, move |db| refunds::confirm(db, id, block, now)).await
    }

    async fn expired_purses(
        &self,
        after: ExpiryMark,
        limit: usize,
        now: UnixSeconds,
    ) -> Result<Vec<ExpiredPurse>, StoreError> {
        self.readers.ask(move |db| refunds::expired(db, after, limit, now)).await
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::pin::Pin;
    use std::sync::Mutex;

    use futures_util::FutureExt;
    use rusqlite::ErrorCode;
    use tempfile::TempDir;

    use super::checkpoint::Progress;
    use super::writer::{Command, TAKEN_AWAY};
    use super::*;
    use crate::store::StoreEvent;

    type Work = Box<dyn Fn(&Connection) -> Result<(), Fault> + Send>;

    /// A writing thread's state, before a thread has it, over a file.
    struct Desk {
        folder: TempDir,
        path: PathBuf,
        writer: Writer,
        /// The operations of each commit.
        commits: Arc<Mutex<Vec<usize>>>,
    }

    fn insert(number: i64) -> Work {
        Box::new(move |db| {
            db.execute("INSERT INTO written (number) VALUES (?1)", [number])?;
            Ok(())
        })
    }

    fn unfit(db: &Connection, sql: &str) -> Result<(), Fault> {
        db.execute_batch(sql)?;
        Err(Fault::Unfit("not this one".to_owned()))
    }

    fn refused(code: ErrorCode) -> Fault {
        Fault::Engine(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error { code, extended_code: 0 }, None))
    }

    fn outlook(answers: &[Result<(), StoreError>]) -> Vec<&'static str> {
        let word = |answer: &Result<(), StoreError>| match answer {
            Ok(()) => "done",
            Err(StoreError::NotApplied(_)) => "not applied",
            Err(StoreError::Unavailable(_)) => "unavailable",
            Err(StoreError::Unknown(_)) => "unknown",
        };
        answers.iter().map(word).collect()
    }

    impl Desk {
        fn new(ballast: u64) -> Self {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("store.db");
            connection::prepare(&path).unwrap();
            let connection = connection::writing(&path, Duration::ZERO).unwrap();
            connection::use_wal(&connection).unwrap();
            let tables = "CREATE TABLE written (number INTEGER PRIMARY KEY, filler BLOB); \
                 CREATE TABLE probe (writes INTEGER)";
            connection.execute_batch(tables).unwrap();
            let commits = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&commits);
            let vitals = Arc::new(Vitals {
                writable: AtomicBool::new(true),
                commits: AtomicU64::new(0),
                newest: AtomicU64::new(0),
                ballast: Ballast::new(&path, ballast),
                free_space: FreeSpace::new(folder.path().to_owned()),
                observer: Some(Arc::new(move |event| {
                    if let StoreEvent::Commit { operations, .. } = event {
                        seen.lock().unwrap().push(operations);
                    }
                })),
            });
            let writer = Writer {
                identity: connection::identity(&path),
                path: path.clone(),
                busy_timeout: Duration::ZERO,
                connection: Some(connection),
                commands: Queue::new(1).1,
                vitals,
            };
            Self { folder, path, writer, commits }
        }

        /// Queues all of `works`, then lets the writer serve them. Gives the answers.
        fn serve(&mut self, works: impl IntoIterator<Item = Work>) -> Vec<Result<(), StoreError>> {
            let (queue, commands) = Queue::new(1024);
            self.writer.commands = commands;
            let mut calls: Vec<Pin<Box<dyn Future<Output = _> + '_>>> = Vec::new();
            for work in works {
                let mut call = Box::pin(queue.run(work));
                assert!(call.as_mut().now_or_never().is_none(), "queued");
                calls.push(call);
            }
            assert!(queue.close().now_or_never().is_some());
            self.writer.serve();
            calls.into_iter().map(|call| call.now_or_never().unwrap()).collect()
        }

        fn numbers(&self) -> Vec<i64> {
            let db = connection::reading(&self.path, Duration::ZERO).unwrap();
            let mut query = db.prepare("SELECT number FROM written ORDER BY number").unwrap();
            query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        }

        fn is_writable(&self) -> bool {
            self.writer.vitals.writable.load(Ordering::Relaxed)
        }

        fn log(&self) -> PathBuf {
            connection::wal_path(&self.path)
        }

        /// The checkpoint thread's state, with the other ends of its channels.
        fn checkpointer(
            &self,
            queue: &Queue,
        ) -> (Checkpointer, std::sync::mpsc::Sender<std::convert::Infallible>) {
            let (writer_ends, writer_lives) = std::sync::mpsc::channel();
            let checkpointer = Checkpointer {
                connection: connection::writing(&self.path, Duration::ZERO).unwrap(),
                path: self.path.clone(),
                identity: self.writer.identity,
                wal: self.log(),
                writer: queue.downgrade(),
                vitals: Arc::clone(&self.writer.vitals),
                writer_lives,
            };
            (checkpointer, writer_ends)
        }
    }

    #[test]
    fn calls_that_wait_share_a_commit_of_at_most_512() {
        let mut desk = Desk::new(0);
        let answers = desk.serve((0..513).map(insert));
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(*desk.commits.lock().unwrap(), [512, 1]);
        assert_eq!(desk.numbers().len(), 513);
    }

    #[test]
    fn a_call_that_does_not_fit_is_undone_alone() {
        let mut desk = Desk::new(0);
        let does_not_fit: Work = Box::new(|db| unfit(db, "INSERT INTO written (number) VALUES (2)"));
        let answers = desk.serve([insert(1), does_not_fit, insert(3)]);
        assert_eq!(outlook(&answers), ["done", "not applied", "done"]);
        assert_eq!(desk.numbers(), [1, 3]);
        assert!(desk.is_writable());
    }

    #[test]
    fn a_write_that_the_disk_refused_stops_sales_until_one_succeeds() {
        let mut desk = Desk::new(0);
        let answers = desk.serve([insert(1), Box::new(|_| Err(refused(ErrorCode::SystemIoFailure)))]);
        assert_eq!(outlook(&answers), ["done", "unavailable"]);
        assert!(!desk.is_writable(), "though another call was written in the same commit");
        let reads: Work = Box::new(|_| Ok(()));
        desk.serve([reads]);
        assert!(!desk.is_writable(), "nothing was written, which shows nothing");
        desk.serve([insert(2)]);
        assert!(desk.is_writable());
    }

    /// What ran before it in the transaction is gone, and what runs after it would be written outside of any.
    #[test]
    fn a_call_that_ended_the_transaction_is_refused_with_all_others() {
        let mut desk = Desk::new(0);
        let ends_it: Work = Box::new(|db| unfit(db, "ROLLBACK"));
        let answers = desk.serve([insert(1), ends_it, insert(3)]);
        assert_eq!(outlook(&answers), ["unavailable", "not applied", "unavailable"]);
        assert_eq!(desk.numbers(), [0; 0]);
        assert!(desk.serve([insert(4)])[0].is_ok());
        assert_eq!(desk.numbers(), [4]);
    }

    #[test]
    fn a_call_that_cannot_be_undone_alone_is_undone_with_all_others() {
        let mut desk = Desk::new(0);
        let ends_its_savepoint: Work = Box::new(|db| Ok(db.execute_batch("RELEASE operation")?));
        let answers = desk.serve([insert(1), ends_its_savepoint]);
        assert_eq!(outlook(&answers), ["unavailable", "unavailable"]);
        assert_eq!(desk.numbers(), [0; 0]);
    }

    #[test]
    fn on_a_full_disk_the_ballast_makes_room_and_all_is_done_again_once() {
        let mut desk = Desk::new(1000);
        let ballast = desk.folder.path().join("store.db-ballast");
        assert!(ballast.exists());
        let needed = ballast.clone();
        let needs_room: Work =
            Box::new(
                move |db| {
                    if needed.exists() { Err(refused(ErrorCode::DiskFull)) } else { insert(2)(db) }
                },
            );
        let answers = desk.serve([insert(1), needs_room, insert(3)]);
        assert_eq!(outlook(&answers), ["done", "done", "done"]);
        assert_eq!(desk.numbers(), [1, 2, 3]);
        assert!(!ballast.exists());
        assert!(desk.is_writable());
    }

    #[test]
    fn on_a_full_disk_without_ballast_nothing_of_the_commit_is_left() {
        let mut desk = Desk::new(0);
        let answers = desk.serve([insert(1), Box::new(|_| Err(refused(ErrorCode::DiskFull)))]);
        assert_eq!(outlook(&answers), ["unavailable", "unavailable"]);
        assert_eq!(desk.numbers(), [0; 0]);
        assert!(!desk.is_writable());
        assert!(desk.writer.connection.is_some(), "a transaction that was undone costs no connection");
        assert!(desk.serve([insert(2)])[0].is_ok(), "the next one begins again");
    }

    #[test]
    fn a_commit_into_a_file_that_was_replaced_meanwhile_may_be_lost() {
        let mut desk = Desk::new(0);
        let (path, old) = (desk.path.clone(), desk.folder.path().join("old.db"));
        let replaces: Work = Box::new(move |_| {
            fs::rename(&path, &old).unwrap();
            fs::write(&path, b"").unwrap();
            Ok(())
        });
        let taken_away = || TAKEN_AWAY.to_owned();
        let answers = desk.serve([insert(1), replaces]);
        assert_eq!(answers, [Err(StoreError::Unknown(taken_away())), Err(StoreError::Unknown(taken_away()))]);
        assert_eq!(desk.serve([insert(2)]), [Err(StoreError::Unavailable(taken_away()))]);
    }

    #[test]
    fn the_log_is_emptied_when_the_writer_is_asked_to() {
        let mut desk = Desk::new(0);
        desk.serve([insert(1)]);
        assert!(fs::metadata(desk.log()).unwrap().len() > 0);
        let (queue, commands) = Queue::new(1);
        desk.writer.commands = commands;
        queue.downgrade().upgrade().unwrap().try_send(Command::Truncate).unwrap();
        drop(queue);
        desk.writer.serve();
        assert_eq!(fs::metadata(desk.log()).unwrap().len(), 0);
        assert_eq!(desk.numbers(), [1]);
    }

    /// A probe shows an idle gateway that the disk takes writes again.
    #[test]
    fn while_the_disk_refuses_writes_every_tenth_check_probes() {
        let desk = Desk::new(0);
        let (queue, mut commands) = Queue::new(100);
        let (checkpointer, _writer_ends) = desk.checkpointer(&queue);
        let mut progress = Progress::default();
        let mut probes = |looks| {
            (0..looks).for_each(|_| checkpointer.look(&mut progress));
            std::iter::from_fn(|| commands.try_recv().ok()).filter(|it| matches!(it, Command::Probe)).count()
        };
        assert_eq!(probes(10), 0, "nothing was refused");
        desk.writer.vitals.writable.store(false, Ordering::Relaxed);
        assert_eq!(probes(9), 0);
        assert_eq!(probes(1), 1);
        assert_eq!(probes(20), 2);
    }

    #[test]
    fn a_long_log_is_copied_into_the_database_and_a_short_one_is_not() {
        let mut desk = Desk::new(0);
        let (queue, _commands) = Queue::new(1);
        let (checkpointer, _writer_ends) = desk.checkpointer(&queue);
        let mut progress = Progress::default();
        let fill = |number: i64, mib: i64| -> Work {
            Box::new(move |db| {
                db.execute("INSERT INTO written VALUES (?1, zeroblob(?2 << 20))", [number, mib])?;
                Ok(())
            })
        };
        let file = |desk: &Desk| fs::metadata(&desk.path).unwrap().len();
        let empty = file(&desk);
        desk.serve([fill(1, 3)]);
        checkpointer.look(&mut progress);
        assert_eq!(file(&desk), empty, "3 MiB may wait");
        desk.serve([fill(2, 2)]);
        checkpointer.look(&mut progress);
        assert!(file(&desk) > 5 << 20);
    }

    #[test]
    fn the_writer_is_asked_to_empty_a_log_that_is_too_long() {
        let mut desk = Desk::new(0);
        let (queue, mut commands) = Queue::new(9);
        let (mut checkpointer, _writer_ends) = desk.checkpointer(&queue);
        checkpointer.wal = desk.folder.path().join("long");
        let log = fs::File::create(&checkpointer.wal).unwrap();
        let mut is_asked = |number, length| {
            desk.serve([insert(number)]);
            log.set_len(length).unwrap();
            checkpointer.look(&mut Progress::default());
            std::iter::from_fn(|| commands.try_recv().ok()).any(|it| matches!(it, Command::Truncate))
        };
        assert!(!is_asked(1, 256 << 20));
        assert!(is_asked(2, (256 << 20) + 1));
        assert!(is_asked(3, 1 << 30));
    }

    #[test]
    fn a_checkpoint_that_failed_is_tried_again() {
        let mut desk = Desk::new(0);
        let (queue, _commands) = Queue::new(1);
        let (mut checkpointer, _writer_ends) = desk.checkpointer(&queue);
        let long = desk.folder.path().join("long");
        fs::write(&long, vec![1; 5 << 20]).unwrap();
        desk.serve([insert(1)]);
        // Bytes that are no database cannot be checkpointed.
        let sound = std::mem::replace(&mut checkpointer.connection, Connection::open(&long).unwrap());
        checkpointer.wal = long;
        let mut progress = Progress::default();
        checkpointer.look(&mut progress);
        assert!(progress.failing, "it failed");
        checkpointer.look(&mut progress);
        assert!(progress.failing);
        checkpointer.connection = sound;
        checkpointer.look(&mut progress);
        assert!(!progress.failing);
    }

    #[test]
    fn the_checkpoint_thread_works_until_the_writer_has_ended() {
        let desk = Desk::new(0);
        let (queue, mut commands) = Queue::new(1);
        let (checkpointer, writer_ends) = desk.checkpointer(&queue);
        desk.writer.vitals.writable.store(false, Ordering::Relaxed);
        let thread = std::thread::spawn(move || checkpointer.serve());
        assert!(matches!(commands.blocking_recv(), Some(Command::Probe)));
        assert!(!thread.is_finished());
        drop(writer_ends);
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn a_closed_store_refuses_calls_and_leaves_one_file() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("store.db");
        let options = SqliteOptions { ballast: 0, ..SqliteOptions::default() };
        let store = SqliteStore::open(&path, options).unwrap();
        let spent = BlockHash([1; 32]);
        assert_eq!(store.mark_spent(spent, UnixSeconds(1)).await, Ok(true));
        store.close().await;
        let refused = store.mark_spent(spent, UnixSeconds(1)).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
        assert!(store.is_claimed(spent).await.is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the log is merged into the file");
        let again = SqliteStore::open(&path, options).unwrap();
        assert_eq!(again.is_claimed(spent).await, Ok(true));
        again.close().await;
    }

    #[test]
    fn nothing_is_sold_with_less_than_64_mib_free_unless_told_otherwise() {
        assert_eq!(SqliteOptions::default().free_space, 67_108_864);
    }
}
