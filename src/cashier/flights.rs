//! One settlement per block at a time: the first proof starts it, copies wait for its result. And
//! one per frontier: of two blocks on it the ledger takes one.
//!
//! The task belongs to nobody's connection. A waiter that goes away, or that waited long enough,
//! leaves it running.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared;
use tokio::sync::oneshot;

use super::{PendingReason, Wait};
use crate::nano::{BlockHash, Raw};
use crate::payment::{Nonce, Refusal};
use crate::store::capabilities::CachedCapability;
use crate::sync::{self, Handle, Mutex, MutexGuard, PoisonError};

/// How a settlement ended, for everyone who waited for it.
#[derive(Clone, Debug)]
pub(super) enum Landing {
    /// The payment is a capability.
    Granted(Arc<CachedCapability>),
    Refused(Refusal),
    /// Another payment holds the client's id.
    Identified,
    /// Refused, by more or less than was asked for, in raw.
    WrongAmount {
        came: Raw,
        asked: Raw,
    },
    /// Not yet: the same proof may come again.
    Pending(PendingReason),
    Unavailable(Wait),
}

/// Wakes those who wait in the order in which they came, which a simulation needs to play again.
type Result = Shared<oneshot::Receiver<Landing>>;

/// What is to be settled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passage {
    pub(super) block: BlockHash,
    pub(super) nonce: Nonce,
    /// What the block builds on, where the gateway broadcasts it.
    pub(super) frontier: Option<BlockHash>,
}

#[derive(Debug, Default)]
pub(super) struct Flights(Arc<Mutex<Aloft>>);

/// The settlements under way.
#[derive(Debug, Default)]
struct Aloft {
    blocks: BTreeMap<BlockHash, (Nonce, Result)>,
    frontiers: BTreeSet<BlockHash>,
}

/// Takes a flight off the list when its task ends, however it ends.
struct Strip {
    flights: Arc<Mutex<Aloft>>,
    passage: Passage,
}

impl Drop for Strip {
    fn drop(&mut self) {
        let mut aloft = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        aloft.blocks.remove(&self.passage.block);
        if let Some(frontier) = self.passage.frontier {
            aloft.frontiers.remove(&frontier);
        }
    }
}

/// What becomes of one more that wants to be settled.
enum Boarding {
    /// It is under way, under this challenge.
    Aloft(Nonce, Result),
    FrontierHeld,
    Full,
}

impl Flights {
    pub(super) fn count(&self) -> usize {
        self.lock().blocks.len()
    }

    /// Whether `block` is being settled under `nonce`.
    pub(super) fn is_under_way(&self, block: BlockHash, nonce: Nonce) -> bool {
        self.lock().blocks.get(&block).is_some_and(|(owner, _)| *owner == nonce)
    }

    /// Whether another block than `block` that builds on `frontier` is being settled.
    pub(super) fn holds_frontier(&self, frontier: BlockHash, block: BlockHash) -> bool {
        let aloft = self.lock();
        aloft.frontiers.contains(&frontier) && !aloft.blocks.contains_key(&block)
    }

    // Insertions and removals; nobody awaits while holding it.
    fn lock(&self) -> MutexGuard<'_, Aloft> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, at most `wait`, for the settlement of a block, starting it with `settle` on `runtime`
    /// unless one is under way. At most `limit` are under way at once, and one on each frontier.
    pub(super) async fn join_or_start<F>(
        &self,
        passage: Passage,
        limit: usize,
        wait: Duration,
        runtime: &Handle,
        settle: impl FnOnce() -> F,
    ) -> Landing
    where
        F: Future<Output = Landing> + Send + 'static,
    {
        let pending = Landing::Pending(PendingReason::Settlement);
        let (owner, result) = match self.find_or_start(passage, limit, runtime, settle) {
            Boarding::Aloft(owner, result) => (owner, result),
            Boarding::FrontierHeld => return Landing::Refused(Refusal::DuplicateFrontier),
            Boarding::Full => return Landing::Unavailable(Wait::Overloaded),
        };
        if owner != passage.nonce {
            // The block is being redeemed under another challenge; how that ends is not this
            // client's to see, but whether its own proof is good can only be said after.
            return pending;
        }
        match sync::timeout(wait, result).await {
            Ok(Ok(landing)) => landing,
            // The wait is over, or the task died; the journal knows how far it came.
            Ok(Err(_)) | Err(_) => pending,
        }
    }

    /// Starts `settle` for a block unless it or one on its frontier is under way or `limit` is
    /// reached, waiting for nothing.
    pub(super) fn start<F>(
        &self,
        passage: Passage,
        limit: usize,
        runtime: &Handle,
        settle: impl FnOnce() -> F,
    ) where
        F: Future<Output = Landing> + Send + 'static,
    {
        drop(self.find_or_start(passage, limit, runtime, settle));
    }

    fn find_or_start<F>(
        &self,
        passage: Passage,
        limit: usize,
        runtime: &Handle,
        settle: impl FnOnce() -> F,
    ) -> Boarding
    where
        F: Future<Output = Landing> + Send + 'static,
    {
        let Passage { block, nonce, frontier } = passage;
        let mut aloft = self.lock();
        if let Some((owner, result)) = aloft.blocks.get(&block) {
            return Boarding::Aloft(*owner, result.clone());
        }
        if frontier.is_some_and(|it| aloft.frontiers.contains(&it)) {
            return Boarding::FrontierHeld;
        }
        if aloft.blocks.len() >= limit {
            return Boarding::Full;
        }
        let (land, result) = oneshot::channel();
        let result = result.shared();
        aloft.blocks.insert(block, (nonce, result.clone()));
        aloft.frontiers.extend(frontier);
        // A runtime that is ending drops the task at once, and with it the strip, which locks.
        drop(aloft);
        let strip = Strip { flights: Arc::clone(&self.0), passage };
        let settle = settle();
        runtime.spawn(async move {
            let landing = settle.await;
            // Off the list first: whoever comes after finds the result in the journal.
            drop(strip);
            // Where nobody waits any more, the journal has it.
            let _waited_for = land.send(landing).is_ok();
        });
        Boarding::Aloft(nonce, result)
    }
}
