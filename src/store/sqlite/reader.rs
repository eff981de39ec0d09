//! The threads that read, each on a connection of its own, so that no query waits for a commit and
//! no caller's runtime is blocked.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::connection;
use super::fault::Fault;
use crate::store::StoreError;

/// What a reader is asked to do.
pub(super) enum Query {
    Ask(Box<dyn FnOnce(&Connection) + Send>),
    /// Answer what is queued, then end.
    Close,
}

/// Puts queries into the readers' queue.
#[derive(Clone, Debug)]
pub(super) struct Queries {
    queue: mpsc::Sender<Query>,
}

/// The queue's end that the readers share: whoever is idle holds the lock while it waits.
type Waiting = Arc<Mutex<mpsc::Receiver<Query>>>;

impl Queries {
    /// A queue for `capacity` queries, and its end for the threads.
    pub(super) fn new(capacity: usize) -> (Self, Waiting) {
        let (queue, receiver) = mpsc::channel(capacity);
        (Self { queue }, Arc::new(Mutex::new(receiver)))
    }

    /// Asks `query` of the newest committed state.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (caller, answer) = oneshot::channel();
        let ask = Query::Ask(Box::new(move |db| {
            // A caller who has gone wants no answer.
            drop(caller.send(query(db).map_err(Fault::before_commit)));
        }));
        self.queue.try_send(ask).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                StoreError::Unavailable(format!("{} queries are waiting already", self.queue.max_capacity()))
            }
            mpsc::error::TrySendError::Closed(_) => StoreError::Unavailable("the store is closed".to_owned()),
        })?;
        // A query has no effect, so that not knowing its end is no unknown outcome.
        answer.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the reader ended".to_owned())))
    }

    /// Ends the readers after everything that is queued.
    pub(super) async fn close(&self) {
        // Refused only where the readers have ended already.
        drop(self.queue.send(Query::Close).await);
    }
}

/// Serves until the queue is closed and empty.
pub(super) fn serve(connection: &Connection, waiting: &Waiting) {
    loop {
        let next = {
            let mut queue = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let next = queue.blocking_recv();
            if matches!(next, Some(Query::Close)) {
                queue.close();
            }
            next
        };
        match next {
            Some(Query::Ask(query)) => query(connection),
            Some(Query::Close) => {}
            None => return,
        }
    }
}

/// A reader's connection.
pub(super) fn open(path: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    connection::reading(path, busy_timeout)
}
