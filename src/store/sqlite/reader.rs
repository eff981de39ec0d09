//! The reading threads, each with its own connection: no query waits for a commit, and no caller's
//! runtime is blocked.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::fault::Fault;
use crate::store::StoreError;

/// A task for a reader.
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

/// The queue's end that the readers share. An idle reader holds the lock while it waits.
type Waiting = Arc<Mutex<mpsc::Receiver<Query>>>;

impl Queries {
    /// A queue for `capacity` queries, and its end for the threads.
    pub(super) fn new(capacity: usize) -> (Self, Waiting) {
        let (queue, receiver) = mpsc::channel(capacity);
        (Self { queue }, Arc::new(Mutex::new(receiver)))
    }

    /// Runs `query` on the newest committed state.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (caller, answer) = oneshot::channel();
        let ask = Query::Ask(Box::new(move |db| {
            // A caller that has gone needs no answer.
            drop(caller.send(query(db).map_err(Fault::before_commit)));
        }));
        self.queue.try_send(ask).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                StoreError::Unavailable(format!("{} queries are waiting already", self.queue.max_capacity()))
            }
            mpsc::error::TrySendError::Closed(_) => StoreError::Unavailable("the store is closed".to_owned()),
        })?;
        // A query has no effect, so a lost answer is not an unknown outcome.
        answer.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the reader ended".to_owned())))
    }

    /// Ends the readers after everything that is queued.
    pub(super) async fn close(&self) {
        // Refused only if the readers have ended already.
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
