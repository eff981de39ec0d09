//! The one writing thread, and its group commit.
//!
//! Callers queue. The thread takes all that wait, runs each operation in its own savepoint inside one
//! transaction, commits once, and only then answers. So operations share the cost of the fsync, and one
//! that fails does not undo the others.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::ballast::Ballast;
use super::connection::{self, Identity};
use super::fault::{Fault, is_full, of_commit};
use crate::clock::Stopwatch;
use crate::store::free_space::FreeSpace;
use crate::store::{StoreError, StoreEvent, StoreObserver};
use crate::sync::mpsc;

/// Most operations in one commit.
const BATCH: usize = 512;

/// Why nothing more is written.
pub(super) const TAKEN_AWAY: &str = "the database file was removed or replaced while it was in use: put it \
     back, or stop the gateway, put the other file in its place, and start it again";

/// What the threads of one store share.
pub(super) struct Vitals {
    /// Whether the last write succeeded.
    pub(super) writable: AtomicBool,
    /// Commits so far.
    pub(super) commits: AtomicU64,
    /// The latest time that was written.
    pub(super) newest: AtomicU64,
    pub(super) ballast: Ballast,
    pub(super) free_space: FreeSpace,
    pub(super) observer: Option<StoreObserver>,
}

impl fmt::Debug for Vitals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vitals").field("writable", &self.writable).finish_non_exhaustive()
    }
}

/// A task for the writer.
pub(super) enum Command {
    Run(Operation),
    /// Empty the log: it is too long.
    Truncate,
    /// Find out whether writes succeed again.
    Probe,
    /// Finish what is queued, then end.
    Close,
}

/// An operation and its caller. It may be run more than once, in another transaction after one that failed.
/// It answers once.
pub(super) type Operation = Box<dyn FnMut(Step<'_>) -> Condition + Send>;

/// The next step of an operation.
pub(super) enum Step<'a> {
    /// Run, and keep the answer.
    Run(&'a Connection),
    /// Answer the caller: with the kept answer, or with the error that ended the transaction.
    Answer(Result<(), StoreError>),
}

/// What an operation shows about the file and its transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Condition {
    Sound,
    /// The file could not be written. The operation left no trace.
    Unwritable,
    /// The disk is full. The operation left no trace.
    Full,
    /// The operation could not be undone alone: the whole transaction must be undone.
    Broken,
}

/// The result of a transaction.
struct Attempt {
    outcome: Result<(), StoreError>,
    /// Whether every operation found the file sound.
    sound: bool,
    /// Whether the disk was full.
    full: bool,
    /// Whether anything was written.
    wrote: bool,
}

/// Puts operations into the writer's queue.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    commands: mpsc::Sender<Command>,
}

impl Queue {
    /// A queue for `capacity` operations, and its end for the thread.
    pub(super) fn new(capacity: usize) -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(capacity);
        (Self { commands }, receiver)
    }

    /// Runs `work` in the writer's next transaction and returns when that is durable. Queued work is done
    /// even if its caller no longer waits.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (caller, answer) = oneshot::channel();
        self.commands.try_send(Command::Run(operation(work, caller))).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Unavailable(format!(
                "{} writes are waiting already",
                self.commands.max_capacity()
            )),
            mpsc::error::TrySendError::Closed(_) => StoreError::Unavailable("the store is closed".to_owned()),
        })?;
        answer.await.unwrap_or_else(|_| Err(StoreError::Unknown("the writer ended".to_owned())))
    }

    /// Ends the writer after everything that is queued.
    pub(super) async fn close(&self) {
        // Refused only if the writer has ended already.
        drop(self.commands.send(Command::Close).await);
    }

    /// Whether the writer has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.commands.is_closed()
    }

    /// A way to reach the writer that does not keep it alive.
    pub(super) fn downgrade(&self) -> mpsc::WeakSender<Command> {
        self.commands.downgrade()
    }
}

fn operation<T: Send + 'static>(
    work: impl Fn(&Connection) -> Result<T, Fault> + Send + 'static,
    caller: oneshot::Sender<Result<T, StoreError>>,
) -> Operation {
    let (mut caller, mut kept) = (Some(caller), None);
    Box::new(move |step| match step {
        Step::Run(db) => {
            let (result, condition) = in_savepoint(db, &work);
            kept = Some(result);
            condition
        }
        Step::Answer(commit) => {
            let answer = match kept.take() {
                Some(result) => result.and_then(|value| commit.map(|()| value)),
                None => Err(commit.err().unwrap_or_else(|| StoreError::Unavailable("not run".to_owned()))),
            };
            if let Some(caller) = caller.take() {
                // The caller may have gone. What was done is done.
                drop(caller.send(answer));
            }
            Condition::Sound
        }
    })
}

/// Runs `work`, and undoes it if it fails.
fn in_savepoint<T>(
    db: &Connection,
    work: impl Fn(&Connection) -> Result<T, Fault>,
) -> (Result<T, StoreError>, Condition) {
    let result = statement(db, "SAVEPOINT operation").map_err(Fault::from).and_then(|()| work(db));
    let full = result.as_ref().is_err_and(Fault::is_full);
    let closing = match &result {
        Ok(_) => statement(db, "RELEASE operation"),
        // Some errors end the whole transaction. Then there is no savepoint to go back to.
        Err(_) if db.is_autocommit() => {
            let condition = if full { Condition::Full } else { Condition::Broken };
            return (result.map_err(Fault::before_commit), condition);
        }
        Err(_) => statement(db, "ROLLBACK TO operation").and_then(|()| statement(db, "RELEASE operation")),
    };
    let result = result.map_err(Fault::before_commit);
    match (closing, &result) {
        (Err(error), _) => (Err(Fault::from(error).before_commit()), Condition::Broken),
        (Ok(()), Err(_)) if full => (result, Condition::Full),
        (Ok(()), Err(StoreError::Unavailable(_))) => (result, Condition::Unwritable),
        (Ok(()), _) => (result, Condition::Sound),
    }
}

fn statement(db: &Connection, sql: &str) -> rusqlite::Result<()> {
    db.prepare_cached(sql)?.execute([]).map(drop)
}

/// The thread's own state.
pub(super) struct Writer {
    pub(super) path: PathBuf,
    /// The file at the path when it was opened. If another file is there, or none, a backup was restored or
    /// an accident happened: what is written to the open file would be lost.
    pub(super) identity: Option<Identity>,
    pub(super) busy_timeout: Duration,
    /// `None` after an error that leaves the connection in doubt. The next batch opens another one.
    pub(super) connection: Option<Connection>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) vitals: Arc<Vitals>,
}

impl Writer {
    /// Serves until the queue is closed and empty.
    pub(super) fn serve(&mut self) {
        while let Some(first) = self.commands.blocking_recv() {
            let mut batch = Vec::new();
            self.sort(first, &mut batch);
            while batch.len() < BATCH
                && let Ok(next) = self.commands.try_recv()
            {
                self.sort(next, &mut batch);
            }
            if !batch.is_empty() {
                self.commit(batch);
            }
        }
    }

    fn sort(&mut self, command: Command, batch: &mut Vec<Operation>) {
        match command {
            Command::Run(operation) => batch.push(operation),
            Command::Truncate => self.truncate(),
            Command::Probe => batch.push(probe()),
            Command::Close => self.commands.close(),
        }
    }

    /// Runs the batch in one transaction and answers all its callers. If the disk is full, the ballast is
    /// deleted for a second attempt.
    fn commit(&mut self, mut batch: Vec<Operation>) {
        let watch = Stopwatch::start();
        let mut attempt = self.attempt(&mut batch);
        if attempt.full && self.vitals.ballast.release() {
            attempt = self.attempt(&mut batch);
            self.vitals.free_space.look();
        }
        // A transaction that changed nothing shows nothing about the disk.
        if attempt.outcome.is_err() || !attempt.sound {
            self.vitals.writable.store(false, Ordering::Relaxed);
        } else if attempt.wrote {
            self.vitals.writable.store(true, Ordering::Relaxed);
        }
        self.vitals.commits.fetch_add(1, Ordering::Relaxed);
        if let Some(observer) = &self.vitals.observer {
            observer(StoreEvent::Commit { operations: batch.len(), elapsed: watch.elapsed() });
        }
        for mut operation in batch {
            operation(Step::Answer(attempt.outcome.clone()));
        }
    }

    /// Runs the batch in one transaction and commits it.
    fn attempt(&mut self, batch: &mut [Operation]) -> Attempt {
        let connection = match self.transaction() {
            Ok(connection) => connection,
            Err(error) => return Attempt { outcome: Err(error), sound: false, full: false, wrote: false },
        };
        let changes = connection.total_changes();
        let (mut sound, mut full, mut broken) = (true, false, false);
        for operation in batch {
            let condition = operation(Step::Run(connection));
            sound &= condition == Condition::Sound;
            full |= condition == Condition::Full;
            broken |= condition == Condition::Broken || connection.is_autocommit();
            if broken || full {
                break;
            }
        }
        let outcome = if broken || full {
            Err(StoreError::Unavailable(
                "another operation failed and the whole transaction was undone".to_owned(),
            ))
        } else {
            statement(connection, "COMMIT").map_err(|error| {
                full |= is_full(&error);
                of_commit(&error)
            })
        };
        let wrote = connection.total_changes() != changes;
        let outcome = match outcome {
            Ok(()) if connection::identity(&self.path) != self.identity => {
                Err(StoreError::Unknown(TAKEN_AWAY.to_owned()))
            }
            outcome => outcome,
        };
        if outcome.is_err() {
            self.abandon();
        }
        Attempt { outcome, sound, full, wrote }
    }

    /// The connection, with a transaction begun on it.
    fn transaction(&mut self) -> Result<&Connection, StoreError> {
        let unavailable = |error| Fault::Engine(error).before_commit();
        if connection::identity(&self.path) != self.identity {
            return Err(StoreError::Unavailable(TAKEN_AWAY.to_owned()));
        }
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connection::writing(&self.path, self.busy_timeout).map_err(unavailable)?,
        };
        // Takes the lock at once, so that no operation is refused half way. A connection that fails here is
        // closed, and the next batch opens another one.
        statement(&connection, "BEGIN IMMEDIATE").map_err(unavailable)?;
        Ok(self.connection.insert(connection))
    }

    /// Undoes the transaction. A connection that cannot do that is closed.
    fn abandon(&mut self) {
        if let Some(connection) = self.connection.take()
            && (connection.is_autocommit() || statement(&connection, "ROLLBACK").is_ok())
        {
            self.connection = Some(connection);
        }
    }

    /// Copies the log into the database and empties it, unless a reader still needs it: then the next attempt
    /// does.
    fn truncate(&mut self) {
        let Some(connection) = &self.connection else { return };
        let emptied = connection
            .busy_timeout(Duration::ZERO)
            .and_then(|()| connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())))
            .and(connection.busy_timeout(self.busy_timeout));
        if let Err(error) = emptied {
            tracing::warn!(%error, "the write-ahead log cannot be emptied");
        }
    }
}

/// A write without meaning.
fn probe() -> Operation {
    let (caller, _) = oneshot::channel();
    operation(
        |db| {
            db.prepare_cached("UPDATE probe SET writes = writes + 1")?.execute([])?;
            Ok(())
        },
        caller,
    )
}
