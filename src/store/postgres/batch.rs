//! Calls that wait go to the server together: one statement or a few for all of them, in one transaction.
//! So they share a commit and the time on the way, as the writes of the SQLite store do.
//!
//! While [`UNDER_WAY`] batches are with the server, the calls that come wait, and the next batch takes all of
//! them: one call alone waits for nobody. A call that has something in its way, and each call of a batch that
//! the server refused, is made alone. So none fails because of its neighbours. A caller is answered after the
//! commit, and what is queued is done even if its caller no longer waits.

use std::collections::BTreeSet;
use std::sync::Arc;

use deadpool_postgres::Client;
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::{Semaphore, oneshot};

use super::attempt::Server;
use super::fault::Fault;
use crate::nano::BlockHash;
use crate::payment::IdentifierKey;
use crate::store::{CapabilityId, StoreError};
use crate::sync::mpsc;

/// Most calls in one batch.
const LARGEST: usize = 256;
/// Batches of one kind of call that are under way at the same time: while one is on its way to the disk, the
/// server works on the next.
const UNDER_WAY: usize = 3;
/// Calls of one kind that may wait. One more is refused.
const WAITING: usize = 4096;

/// What at most one call of a batch may change. The first part of the order in which a batch changes things,
/// so that two batches do not wait for each other.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Key {
    Frontier(BlockHash),
    Block(BlockHash),
    Identifier(IdentifierKey),
    Capability(CapabilityId),
}

/// A call that can be made together with others of its kind.
pub(super) trait Call: Send + Sync + Sized + 'static {
    type Answer: Send + 'static;

    /// What it changes.
    fn keys(&self) -> Vec<Key>;

    /// Makes the calls in one transaction. `None` for a call that has to be made alone: nothing of it was
    /// applied.
    fn together(
        client: &mut Client,
        calls: Arc<Vec<Self>>,
    ) -> BoxFuture<'_, Result<Vec<Option<Self::Answer>>, Fault>>;

    /// Makes one call, whatever is in its way.
    fn alone(client: &mut Client, call: Arc<Self>) -> BoxFuture<'_, Result<Self::Answer, Fault>>;
}

/// A call and its caller.
struct Waiting<C: Call> {
    call: C,
    caller: Caller<C>,
}

type Caller<C> = oneshot::Sender<Result<<C as Call>::Answer, StoreError>>;

/// The calls of one kind that wait.
#[derive(Debug)]
pub(super) struct Batches<C: Call> {
    calls: mpsc::Sender<Waiting<C>>,
}

impl<C: Call> Batches<C> {
    /// Takes calls until it is dropped, on the current runtime.
    pub(super) fn start(server: Server) -> Self {
        let (calls, waiting) = mpsc::channel(WAITING);
        tokio::spawn(serve(server, waiting));
        Self { calls }
    }

    /// Makes the call.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn make(&self, call: C) -> Result<C::Answer, StoreError> {
        let (caller, answer) = oneshot::channel();
        self.calls.try_send(Waiting { call, caller }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                StoreError::Unavailable(format!("{WAITING} calls are waiting already"))
            }
            mpsc::error::TrySendError::Closed(_) => StoreError::Unavailable("the store is closed".to_owned()),
        })?;
        answer.await.unwrap_or_else(|_| Err(StoreError::Unknown("the store's task ended".to_owned())))
    }
}

async fn serve<C: Call>(server: Server, mut waiting: mpsc::Receiver<Waiting<C>>) {
    let free = Arc::new(Semaphore::new(UNDER_WAY));
    while let Some(first) = waiting.recv().await {
        let Ok(turn) = Arc::clone(&free).acquire_owned().await else { return };
        // Callers who were answered together call again together.
        tokio::task::yield_now().await;
        let mut batch = vec![first];
        while batch.len() < LARGEST
            && let Ok(next) = waiting.try_recv()
        {
            batch.push(next);
        }
        let server = server.clone();
        tokio::spawn(async move {
            let alone = make_together(&server, batch).await;
            drop(turn);
            join_all(alone.into_iter().map(|(call, caller)| make_alone(&server, call, caller))).await;
        });
    }
}

/// Makes the calls of a batch. Gives those that have to be made alone.
async fn make_together<C: Call>(server: &Server, batch: Vec<Waiting<C>>) -> Vec<(C, Caller<C>)> {
    let mut changed = BTreeSet::new();
    let (mut together, mut alone) = (Vec::new(), Vec::new());
    for Waiting { call, caller } in batch {
        let keys = call.keys();
        if keys.iter().any(|key| changed.contains(key)) {
            alone.push((call, caller));
        } else {
            changed.extend(keys);
            together.push((call, caller));
        }
    }
    together.sort_by_cached_key(|(call, _)| call.keys());
    let (calls, callers): (Vec<C>, Vec<Caller<C>>) = together.into_iter().unzip();
    let calls = Arc::new(calls);
    let outcome = server.once(|client| C::together(client, Arc::clone(&calls)), Fault::Unknown).await;
    let again = match outcome {
        Ok(answers) => {
            let answers = answers.into_iter().chain(std::iter::repeat_with(|| None));
            let pairs = callers.into_iter().zip(answers);
            pairs.map(|(caller, answer)| tell(caller, answer.map(Ok))).collect()
        }
        // One of them is the reason, and nothing was applied.
        Err(Fault::Overtaken(_) | Fault::Unfit(_)) => callers.into_iter().map(Some).collect(),
        Err(fault) => {
            let error = fault.into_error();
            callers.into_iter().map(|caller| tell(caller, Some(Err(error.clone())))).collect::<Vec<_>>()
        }
    };
    let calls = Arc::into_inner(calls).unwrap_or_default();
    alone.extend(calls.into_iter().zip(again).filter_map(|(call, caller)| Some((call, caller?))));
    alone
}

async fn make_alone<C: Call>(server: &Server, call: C, caller: Caller<C>) {
    let call = Arc::new(call);
    let answer = server.run(|client| C::alone(client, Arc::clone(&call)), Fault::Unknown).await;
    tell(caller, Some(answer));
}

/// Answers the caller, who may have gone. Gives the caller of a call that has no answer yet.
fn tell<A>(
    caller: oneshot::Sender<Result<A, StoreError>>,
    answer: Option<Result<A, StoreError>>,
) -> Option<oneshot::Sender<Result<A, StoreError>>> {
    let Some(answer) = answer else { return Some(caller) };
    drop(caller.send(answer));
    None
}
