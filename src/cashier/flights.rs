//! One settlement per block at a time: the first proof starts it, copies wait for its result.
//!
//! The task belongs to nobody's connection. A waiter that goes away, or that waited long enough,
//! leaves it running.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::{PendingReason, Wait};
use crate::nano::BlockHash;
use crate::payment::{Nonce, Refusal};
use crate::store::capabilities::Held;

/// How a settlement ended, for everyone who waited for it.
#[derive(Clone, Debug)]
pub(super) enum Landing {
    /// The payment is a capability.
    Granted(Arc<Held>),
    Refused(Refusal),
    /// Not yet: the same proof may come again.
    Pending(PendingReason),
    Unavailable(Wait),
}

type Result = watch::Receiver<Option<Landing>>;

#[derive(Debug, Default)]
pub(super) struct Flights(Arc<Mutex<BTreeMap<BlockHash, (Nonce, Result)>>>);

/// Takes a flight off the list when its task ends, however it ends.
struct Strip {
    flights: Arc<Mutex<BTreeMap<BlockHash, (Nonce, Result)>>>,
    block: BlockHash,
}

impl Drop for Strip {
    fn drop(&mut self) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.block);
    }
}

impl Flights {
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Whether `block` is being settled under `nonce`.
    pub(super) fn is_under_way(&self, block: BlockHash, nonce: Nonce) -> bool {
        self.lock().get(&block).is_some_and(|(owner, _)| *owner == nonce)
    }

    // Insertions and removals; nobody awaits while holding it.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<BlockHash, (Nonce, Result)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, at most `wait`, for the settlement of `block`, starting it with `settle` on `runtime`
    /// unless one is under way. At most `limit` are under way at once.
    pub(super) async fn join_or_start<F>(
        &self,
        block: BlockHash,
        nonce: Nonce,
        limit: usize,
        wait: Duration,
        runtime: &tokio::runtime::Handle,
        settle: impl FnOnce() -> F,
    ) -> Landing
    where
        F: Future<Output = Landing> + Send + 'static,
    {
        let pending = Landing::Pending(PendingReason::Settlement);
        let Some((owner, mut result)) = self.find_or_start(block, nonce, limit, runtime, settle) else {
            return Landing::Unavailable(Wait::Overloaded);
        };
        if owner != nonce {
            // The block is being redeemed under another challenge; how that ends is not this
            // client's to see, but whether its own proof is good can only be said after.
            return pending;
        }
        let landed = tokio::time::timeout(wait, result.wait_for(Option::is_some)).await;
        match landed {
            Ok(Ok(landing)) => landing.clone().unwrap_or(pending),
            // The wait is over, or the task died; the journal knows how far it came.
            Ok(Err(_)) | Err(_) => pending,
        }
    }

    /// Starts `settle` for `block` unless a settlement is under way or `limit` is reached, waiting
    /// for nothing.
    pub(super) fn start<F>(
        &self,
        block: BlockHash,
        nonce: Nonce,
        limit: usize,
        runtime: &tokio::runtime::Handle,
        settle: impl FnOnce() -> F,
    ) where
        F: Future<Output = Landing> + Send + 'static,
    {
        drop(self.find_or_start(block, nonce, limit, runtime, settle));
    }

    fn find_or_start<F>(
        &self,
        block: BlockHash,
        nonce: Nonce,
        limit: usize,
        runtime: &tokio::runtime::Handle,
        settle: impl FnOnce() -> F,
    ) -> Option<(Nonce, Result)>
    where
        F: Future<Output = Landing> + Send + 'static,
    {
        let mut flights = self.lock();
        if let Some(flight) = flights.get(&block) {
            return Some(flight.clone());
        }
        if flights.len() >= limit {
            return None;
        }
        let (land, result) = watch::channel(None);
        flights.insert(block, (nonce, result.clone()));
        let strip = Strip { flights: Arc::clone(&self.0), block };
        let settle = settle();
        runtime.spawn(async move {
            let landing = settle.await;
            // Off the list first: whoever comes after finds the result in the journal.
            drop(strip);
            land.send_replace(Some(landing));
        });
        Some((nonce, result))
    }
}
