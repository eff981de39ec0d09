//! The settlements under way: one for each block, and one for each frontier, because the ledger takes
//! one of two blocks on it. The first proof starts a settlement; copies wait for its result.
//!
//! The task belongs to no connection. A request that goes away, or has waited long enough, leaves it
//! running.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared;
use tokio::sync::oneshot;

use super::{PendingReason, Wait};
use crate::nano::BlockHash;
use crate::payment::{Nonce, Particular, Refusal};
use crate::store::capabilities::CachedCapability;
use crate::sync::{self, Handle, Mutex, MutexGuard, PoisonError};

/// How a settlement ended, for everyone who waited for it: with the capability that was bought, or
/// without.
pub(super) type SettlementResult = Result<Arc<CachedCapability>, Unsettled>;

/// Why a settlement granted nothing.
#[derive(Clone, Debug)]
pub(super) enum Unsettled {
    /// With what there is to explain beside the refusal's own advice.
    Refused(Refusal, Option<Particular>),
    /// Another payment holds the client's payment identifier.
    IdHeld,
    /// The same proof may come again.
    Wait(Wait),
}

impl Unsettled {
    /// The payment of `block` is known and not confirmed.
    pub(super) const fn pending(block: BlockHash) -> Self {
        Self::Wait(Wait::Pending { block, reason: PendingReason::Settlement })
    }

    /// Whether a look-up counts against the client that caused it. Anyone can name a block of someone
    /// else, so a block that does not fit counts like one that no node knows.
    pub(super) const fn is_in_vain(&self) -> bool {
        match self {
            Self::Refused(refusal, particular) => {
                matches!(refusal, Refusal::WrongDestination)
                    || matches!(particular, Some(Particular::Amount { .. }))
            }
            Self::Wait(wait) => {
                matches!(wait, Wait::Pending { reason: PendingReason::BlockNotFound, .. })
            }
            Self::IdHeld => false,
        }
    }
}

impl From<Refusal> for Unsettled {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal, None)
    }
}

/// A settlement's result, to wait for. It wakes the waiting in the order in which they came: a
/// simulation needs that to play again.
type SharedResult = Shared<oneshot::Receiver<SettlementResult>>;

/// What a settlement excludes others from.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlightKey {
    pub(super) block: BlockHash,
    pub(super) nonce: Nonce,
    /// What the block builds on, if the gateway broadcasts it.
    pub(super) frontier: Option<BlockHash>,
}

#[derive(Debug, Default)]
pub(super) struct Flights(Arc<Mutex<UnderWay>>);

/// The settlements under way.
#[derive(Debug, Default)]
struct UnderWay {
    blocks: BTreeMap<BlockHash, (Nonce, SharedResult)>,
    frontiers: BTreeSet<BlockHash>,
}

/// Takes a settlement off the list when its task ends, however it ends.
struct Entry {
    flights: Arc<Mutex<UnderWay>>,
    key: FlightKey,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut under_way = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.blocks.remove(&self.key.block);
        if let Some(frontier) = self.key.frontier {
            under_way.frontiers.remove(&frontier);
        }
    }
}

/// What a request for a settlement meets.
enum Joined {
    /// It is under way, under this challenge.
    UnderWay(Nonce, SharedResult),
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
        let under_way = self.lock();
        under_way.frontiers.contains(&frontier) && !under_way.blocks.contains_key(&block)
    }

    // Insertions and removals only; no await while it is held.
    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, at most `wait`, for the settlement of a block. Starts it with `settle` on `runtime` unless
    /// one is under way. At most `limit` are under way at once, and one on each frontier.
    pub(super) async fn join_or_start<F>(
        &self,
        key: FlightKey,
        limit: usize,
        wait: Duration,
        runtime: &Handle,
        settle: impl FnOnce() -> F,
    ) -> SettlementResult
    where
        F: Future<Output = SettlementResult> + Send + 'static,
    {
        let pending = Err(Unsettled::pending(key.block));
        let (owner, result) = match self.find_or_start(key, limit, runtime, settle) {
            Joined::UnderWay(owner, result) => (owner, result),
            Joined::FrontierHeld => return Err(Refusal::DuplicateFrontier.into()),
            Joined::Full => return Err(Unsettled::Wait(Wait::Overloaded)),
        };
        if owner != key.nonce {
            // The block is being redeemed under another challenge. How that ends is not for this client
            // to see, and whether its own proof is good can only be said afterwards.
            return pending;
        }
        match sync::timeout(wait, result).await {
            Ok(Ok(settled)) => settled,
            // The wait is over, or the task died. The journal knows how far it came.
            Ok(Err(_)) | Err(_) => pending,
        }
    }

    /// Starts `settle` unless the block or its frontier is under way or `limit` is reached. Does not
    /// wait for it.
    pub(super) fn start<F>(&self, key: FlightKey, limit: usize, runtime: &Handle, settle: impl FnOnce() -> F)
    where
        F: Future<Output = SettlementResult> + Send + 'static,
    {
        drop(self.find_or_start(key, limit, runtime, settle));
    }

    fn find_or_start<F>(
        &self,
        key: FlightKey,
        limit: usize,
        runtime: &Handle,
        settle: impl FnOnce() -> F,
    ) -> Joined
    where
        F: Future<Output = SettlementResult> + Send + 'static,
    {
        let FlightKey { block, nonce, frontier } = key;
        let mut under_way = self.lock();
        if let Some((owner, result)) = under_way.blocks.get(&block) {
            return Joined::UnderWay(*owner, result.clone());
        }
        if frontier.is_some_and(|it| under_way.frontiers.contains(&it)) {
            return Joined::FrontierHeld;
        }
        if under_way.blocks.len() >= limit {
            return Joined::Full;
        }
        let (sender, result) = oneshot::channel();
        let result = result.shared();
        under_way.blocks.insert(block, (nonce, result.clone()));
        under_way.frontiers.extend(frontier);
        // A runtime that ends drops the task at once, and with it the entry, which locks.
        drop(under_way);
        let entry = Entry { flights: Arc::clone(&self.0), key };
        let settle = settle();
        runtime.spawn(async move {
            let settled = settle.await;
            // Off the list first: a request that comes after finds the result in the journal.
            drop(entry);
            // If nobody waits for it, the journal has it.
            let _waited_for = sender.send(settled).is_ok();
        });
        Joined::UnderWay(nonce, result)
    }
}
