//! One request at a time under each payment identifier of each payer. The next request waits for the
//! answer to the one before, and gets the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use crate::nano::Account;
use crate::payment::IdentifierKey;
use crate::sync::{self, Mutex, MutexGuard, PoisonError};

/// By payer, so that nobody who has seen an identifier can keep its owner's requests waiting.
type Key = (IdentifierKey, Account);

type Turns = BTreeMap<Key, Arc<tokio::sync::Mutex<()>>>;

/// The identifiers of the requests under way.
#[derive(Debug, Default)]
pub(super) struct Lanes(Arc<Mutex<Turns>>);

/// The turn of one request. Dropped, it passes to the next.
#[derive(Debug)]
#[must_use = "the turn is over when it is dropped"]
pub(super) struct Lane {
    turns: Arc<Mutex<Turns>>,
    key: Key,
    turn: Option<OwnedMutexGuard<()>>,
    /// Kept while waiting, so that the entry stays.
    queue: Option<Arc<tokio::sync::Mutex<()>>>,
}

impl Lanes {
    /// Waits for its turn; `None` after `wait`.
    pub(super) async fn enter(&self, id: IdentifierKey, payer: Account, wait: Duration) -> Option<Lane> {
        let key = (id, payer);
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

    const ID: IdentifierKey = IdentifierKey([1; 32]);
    const PAYER: Account = Account([2; 32]);

    #[tokio::test(start_paused = true)]
    async fn requests_under_one_id_take_turns_and_leave_nothing_behind() {
        let lanes = Lanes::default();
        let second = Duration::from_secs(1);
        let first = lanes.enter(ID, PAYER, second).await.unwrap();
        assert!(lanes.enter(ID, PAYER, second).await.is_none(), "it is taken");
        let stranger = lanes.enter(ID, Account([3; 32]), second).await;
        assert!(stranger.is_some(), "another payer does not wait");
        drop(stranger);
        let (next, ()) = tokio::join!(lanes.enter(ID, PAYER, second), async { drop(first) });
        assert!(next.is_some());
        assert_eq!(lanes.count(), 1);
        drop(next);
        assert_eq!(lanes.count(), 0);
    }
}
