//! The one thread that writes, and its group commit.
//!
//! Callers queue; the thread takes all that waits, runs each operation in a savepoint of its own
//! inside one transaction, commits once, and only then answers. So the price of the fsync is shared,
//! and an operation that fails takes nobody down with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::connection;
use super::fault::{Fault, of_commit};
use crate::store::StoreError;

/// Operations in one commit, at most.
const BATCH: usize = 512;

/// What the threads of one store tell each other.
#[derive(Debug)]
pub(super) struct Vitals {
    /// Whether the last write went through.
    pub(super) writable: AtomicBool,
    /// Commits so far.
    pub(super) commits: AtomicU64,
}

/// What the writer is asked to do.
pub(super) enum Command {
    Run(Operation),
    /// Empty the log: it has outgrown its bound.
    Truncate,
    /// Find out whether writing works again.
    Probe,
    /// Finish what is queued, then end.
    Close,
}

/// An operation and its caller: it runs on the connection, or is refused with the error, and gives
/// the answer that waits for the commit.
pub(super) type Operation = Box<dyn FnOnce(Result<&Connection, StoreError>) -> Ran + Send>;

/// Answers the caller once it is known what became of the commit.
type Reply = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// An operation that has run, or was refused.
pub(super) struct Ran {
    reply: Reply,
    condition: Condition,
}

/// What an operation says about the file and the transaction it ran in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Condition {
    Sound,
    /// The file could not be written; the operation left no trace.
    Unwritable,
    /// The operation could not be undone alone: the transaction must go.
    Broken,
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

    /// Runs `work` in the writer's next transaction and returns once that is durable. Work that was
    /// queued is done even where nobody waits for it any more.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
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
        // Refused only where the writer has ended already.
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
    work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    caller: oneshot::Sender<Result<T, StoreError>>,
) -> Operation {
    Box::new(move |db| {
        let (result, condition) = match db {
            Ok(db) => in_savepoint(db, work),
            Err(error) => (Err(error), Condition::Unwritable),
        };
        let reply: Reply = Box::new(move |commit| {
            // A caller who has gone is not missed: what was done is done.
            drop(caller.send(result.and_then(|value| commit.map(|()| value))));
        });
        Ran { reply, condition }
    })
}

/// Runs `work`, and undoes it where it fails.
fn in_savepoint<T>(
    db: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> (Result<T, StoreError>, Condition) {
    let result = statement(db, "SAVEPOINT operation").map_err(Fault::from).and_then(|()| work(db));
    let closing = match &result {
        Ok(_) => statement(db, "RELEASE operation"),
        // Some faults end the whole transaction; then there is no savepoint to go back to.
        Err(_) if db.is_autocommit() => return (result.map_err(Fault::before_commit), Condition::Broken),
        Err(_) => statement(db, "ROLLBACK TO operation").and_then(|()| statement(db, "RELEASE operation")),
    };
    let result = result.map_err(Fault::before_commit);
    match (closing, &result) {
        (Err(error), _) => (Err(Fault::from(error).before_commit()), Condition::Broken),
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
    pub(super) busy_timeout: Duration,
    /// Nothing after a fault that leaves the connection in doubt; the next batch opens another.
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

    /// Runs the batch in one transaction and answers everybody in it.
    fn commit(&mut self, batch: Vec<Operation>) {
        let connection = match self.transaction() {
            Ok(connection) => connection,
            Err(error) => {
                self.vitals.writable.store(false, Ordering::Relaxed);
                refuse(batch, &error);
                return;
            }
        };
        let changes = connection.total_changes();
        let mut replies = Vec::with_capacity(batch.len());
        let mut waiting = batch.into_iter();
        let (mut sound, mut broken) = (true, false);
        for operation in waiting.by_ref() {
            let ran = operation(Ok(connection));
            replies.push(ran.reply);
            sound &= ran.condition == Condition::Sound;
            if ran.condition == Condition::Broken {
                broken = true;
                break;
            }
        }
        let outcome = if broken {
            Err(StoreError::Unavailable("the transaction was undone with another's failure".to_owned()))
        } else {
            statement(connection, "COMMIT").map_err(|error| of_commit(&error))
        };
        let wrote = connection.total_changes() != changes;
        if outcome.is_err() {
            self.abandon();
        }
        // A transaction that changed nothing says nothing about the disk.
        if outcome.is_err() || !sound {
            self.vitals.writable.store(false, Ordering::Relaxed);
        } else if wrote {
            self.vitals.writable.store(true, Ordering::Relaxed);
        }
        self.vitals.commits.fetch_add(1, Ordering::Relaxed);
        for reply in replies {
            reply(outcome.clone());
        }
        refuse(waiting, &StoreError::Unavailable("the transaction was undone before its turn".to_owned()));
    }

    /// The connection, with a transaction begun on it.
    fn transaction(&mut self) -> Result<&Connection, StoreError> {
        let unavailable = |error| Fault::Engine(error).before_commit();
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connection::writing(&self.path, self.busy_timeout).map_err(unavailable)?,
        };
        // Takes the lock at once, so that no operation finds itself refused half way. A connection
        // that fails here is given up: the next batch opens another.
        statement(&connection, "BEGIN IMMEDIATE").map_err(unavailable)?;
        Ok(self.connection.insert(connection))
    }

    /// Undoes the transaction. A connection that cannot even do that is given up.
    fn abandon(&mut self) {
        if let Some(connection) = self.connection.take()
            && (connection.is_autocommit() || statement(&connection, "ROLLBACK").is_ok())
        {
            self.connection = Some(connection);
        }
    }

    /// Writes the log into the database and empties it, unless a reader is in the way: then the next
    /// attempt will do.
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

fn refuse(batch: impl IntoIterator<Item = Operation>, error: &StoreError) {
    for operation in batch {
        let ran = operation(Err(error.clone()));
        (ran.reply)(Ok(()));
    }
}

/// A write that changes nothing that matters.
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
