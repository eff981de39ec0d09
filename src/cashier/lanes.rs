//! One request at a time under each payment identifier of each payer. The next request waits for the
//! answer to the one before, and gets the same. Only who has proven to be the payer waits in its lane: a
//! block is public, and a stranger who shows it has a lane of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use crate::nano::{Account, BlockHash};
use crate::payment::{IdentifierKey, Nonce};
use crate::sync::{self, Mutex, MutexGuard, PoisonError};

/// Who takes turns with whom.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct LaneKey {
    pub(super) id: IdentifierKey,
    /// So that nobody who has seen an identifier can keep its owner's requests waiting.
    pub(super) payer: Account,
    /// The proof, unless it has shown that it is the payer's.
    pub(super) unproven: Option<(BlockHash, Nonce)>,
}

type Turns = BTreeMap<LaneKey, Arc<tokio::sync::Mutex<()>>>;

/// The identifiers of the requests under way.
#[derive(Debug, Default)]
pub(super) struct Lanes(Arc<Mutex<Turns>>);

/// The turn of one request. Dropped, it passes to the next.
#[derive(Debug)]
#[must_use = "the turn is over when it is dropped"]
pub(super) struct Lane {
    turns: Arc<Mutex<Turns>>,
    key: LaneKey,
    turn: Option<OwnedMutexGuard<()>>,
    /// Kept while waiting, so that the entry stays.
    queue: Option<Arc<tokio::sync::Mutex<()>>>,
}

impl Lanes {
    /// Waits for its turn; `None` after `wait`.
    pub(super) async fn enter(&self, key: LaneKey, wait: Duration) -> Option<Lane> {
        let queue = Arc::clone(locked(&self.0).entry(key).or_default());
        let turns = Arc::clone(&self.0);
        let mut lane = Lane { turns, key, turn: None, queue: Some(Arc::clone(&queue)) };
        lane.turn = Some(sync::timeout(wait, queue.lock_owned()).await.ok()?);
        Some(lane)
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        locked(&self.0).len()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        drop(self.turn.take());
        let mut turns = locked(&self.turns);
        drop(self.queue.take());
        // Nobody can join under the lock: the last request out removes the entry.
        if turns.get(&self.key).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            turns.remove(&self.key);
        }
    }
}

// Insertions and removals only; no await while it is held.
fn locked(turns: &Mutex<Turns>) -> MutexGuard<'_, Turns> {
    turns.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYERS: LaneKey = LaneKey { id: IdentifierKey([1; 32]), payer: Account([2; 32]), unproven: None };

    #[tokio::test(start_paused = true)]
    async fn requests_under_one_id_take_turns_and_leave_nothing_behind() {
        let lanes = Lanes::default();
        let second = Duration::from_secs(1);
        let first = lanes.enter(PAYERS, second).await.unwrap();
        assert!(lanes.enter(PAYERS, second).await.is_none(), "it is taken");
        for stranger in [
            LaneKey { payer: Account([3; 32]), ..PAYERS },
            LaneKey { unproven: Some((BlockHash([4; 32]), Nonce([5; 32]))), ..PAYERS },
        ] {
            let entered = lanes.enter(stranger, second).await;
            assert!(entered.is_some(), "{stranger:?} does not wait");
        }
        let (next, ()) = tokio::join!(lanes.enter(PAYERS, second), async { drop(first) });
        assert!(next.is_some());
        assert_eq!(lanes.count(), 1);
        drop(next);
        assert_eq!(lanes.count(), 0);
    }
}
