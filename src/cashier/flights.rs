//! The settlements under way: one for each proof, and one for each frontier, because the ledger takes
//! one of two blocks on it. The first copy of a proof starts a settlement; the others wait for its result.
//!
//! A settlement excludes only those who could prove the same right. Blocks are public, so it is named by
//! the block and the challenge: a stranger who shows a payer's block under a challenge of its own has a
//! settlement of its own, which ends without a grant. A frontier is named with its account, whose key
//! signed the block: blocks that other keys sign on it do not meet it.
//!
//! The task belongs to no connection. A request that goes away, or has waited long enough, leaves it
//! running.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared;
use tokio::sync::oneshot;
use tracing::{Instrument, Span};

use super::client::Client;
use super::reasons::Wait;
use super::unsettled::{SettlementResult, Unsettled};
use crate::nano::{Account, BlockHash};
use crate::payment::{Nonce, Refusal};
use crate::sync::{self, Handle, Mutex, MutexGuard, PoisonError};

/// A settlement's result, to wait for. It wakes the waiting in the order in which they came: a
/// simulation needs that to play again.
type SharedResult = Shared<oneshot::Receiver<SettlementResult>>;

/// A block of an account, on which the ledger takes one other of that account.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Frontier {
    pub(super) account: Account,
    pub(super) previous: BlockHash,
}

/// What a settlement excludes others from.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlightKey {
    pub(super) block: BlockHash,
    pub(super) nonce: Nonce,
    /// What the block builds on, if the gateway broadcasts it.
    pub(super) frontier: Option<Frontier>,
}

/// How many settlements may be under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct SettlementLimit {
    pub(super) all: usize,
    /// Of these, those of the client that asks.
    pub(super) client: Option<(Client, usize)>,
}

#[derive(Debug, Default)]
pub(super) struct Flights(Arc<Mutex<UnderWay>>);

/// The settlements under way.
#[derive(Debug, Default)]
struct UnderWay {
    proofs: BTreeMap<(BlockHash, Nonce), SharedResult>,
    /// How many are under way for each client that has any.
    clients: BTreeMap<Client, usize>,
    /// Which block is settled on a frontier, and by how many holders.
    frontiers: BTreeMap<Frontier, (BlockHash, usize)>,
}

/// Takes a settlement off the list when its task ends, however it ends.
struct Entry {
    flights: Arc<Mutex<UnderWay>>,
    key: FlightKey,
    client: Option<Client>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut under_way = locked(&self.flights);
        under_way.proofs.remove(&(self.key.block, self.key.nonce));
        if let Some(client) = self.client
            && let Some(count) = under_way.clients.get_mut(&client)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                under_way.clients.remove(&client);
            }
        }
    }
}

/// A frontier on which one block is settled. Dropped, it is free for another.
#[must_use = "the frontier is free when this is dropped"]
pub(super) struct HeldFrontier {
    flights: Arc<Mutex<UnderWay>>,
    frontier: Frontier,
}

impl Drop for HeldFrontier {
    fn drop(&mut self) {
        let mut under_way = locked(&self.flights);
        if let Some((_, holders)) = under_way.frontiers.get_mut(&self.frontier) {
            *holders = holders.saturating_sub(1);
            if *holders == 0 {
                under_way.frontiers.remove(&self.frontier);
            }
        }
    }
}

/// What a request for a settlement meets.
enum Joined {
    UnderWay(SharedResult),
    FrontierHeld,
    Full,
}

// Insertions and removals only; no await while it is held.
fn locked(flights: &Mutex<UnderWay>) -> MutexGuard<'_, UnderWay> {
    flights.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Flights {
    pub(super) fn count(&self) -> usize {
        locked(&self.0).proofs.len()
    }

    /// Whether `block` is being settled under `nonce`.
    pub(super) fn is_under_way(&self, block: BlockHash, nonce: Nonce) -> bool {
        locked(&self.0).proofs.contains_key(&(block, nonce))
    }

    /// Whether another block than `block` is being settled on `frontier`.
    pub(super) fn holds_frontier(&self, frontier: Frontier, block: BlockHash) -> bool {
        locked(&self.0).holds_frontier(frontier, block)
    }

    /// Whether this client has its share of the settlements under way.
    pub(super) fn has_its_share(&self, (client, share): (Client, usize)) -> bool {
        locked(&self.0).clients.get(&client).is_some_and(|count| *count >= share)
    }

    /// Holds `frontier` for `block`; `None` if another block is being settled on it. Only for a block that
    /// its account has signed and that the journal does not have under another challenge: such a block is
    /// public, and anybody can show it.
    pub(super) fn hold_frontier(&self, frontier: Frontier, block: BlockHash) -> Option<HeldFrontier> {
        let mut under_way = locked(&self.0);
        if under_way.holds_frontier(frontier, block) {
            return None;
        }
        let (_, holders) = under_way.frontiers.entry(frontier).or_insert((block, 0));
        *holders = holders.saturating_add(1);
        Some(HeldFrontier { flights: Arc::clone(&self.0), frontier })
    }

    /// Waits, at most `wait`, for the settlement of this proof; `None` if it is not under way.
    pub(super) async fn join(&self, key: FlightKey, wait: Duration) -> Option<SettlementResult> {
        let result = locked(&self.0).proofs.get(&(key.block, key.nonce))?.clone();
        Some(result_of(key.block, result, wait).await)
    }

    /// Waits, at most `wait`, for the settlement of a proof. Starts it with `settle` on `runtime` unless it
    /// is under way. It is not started beyond `limit`, or if another block is being settled on its frontier.
    pub(super) async fn join_or_start<F>(
        &self,
        key: FlightKey,
        limit: SettlementLimit,
        wait: Duration,
        runtime: &Handle,
        settle: impl FnOnce() -> F,
    ) -> SettlementResult
    where
        F: Future<Output = SettlementResult> + Send + 'static,
    {
        match self.find_or_start(key, limit, runtime, settle) {
            Joined::UnderWay(result) => result_of(key.block, result, wait).await,
            Joined::FrontierHeld => Err(Refusal::DuplicateFrontier.into()),
            Joined::Full => Err(Unsettled::Wait(Wait::Overloaded)),
        }
    }

    /// As [`Flights::join_or_start`], and does not wait for it.
    pub(super) fn start<F>(
        &self,
        key: FlightKey,
        limit: SettlementLimit,
        runtime: &Handle,
        settle: impl FnOnce() -> F,
    ) where
        F: Future<Output = SettlementResult> + Send + 'static,
    {
        drop(self.find_or_start(key, limit, runtime, settle));
    }

    fn find_or_start<F>(
        &self,
        key: FlightKey,
        limit: SettlementLimit,
        runtime: &Handle,
        settle: impl FnOnce() -> F,
    ) -> Joined
    where
        F: Future<Output = SettlementResult> + Send + 'static,
    {
        let mut under_way = locked(&self.0);
        if let Some(result) = under_way.proofs.get(&(key.block, key.nonce)) {
            return Joined::UnderWay(result.clone());
        }
        if key.frontier.is_some_and(|it| under_way.holds_frontier(it, key.block)) {
            return Joined::FrontierHeld;
        }
        if !under_way.has_room(limit) {
            return Joined::Full;
        }
        let (sender, result) = oneshot::channel();
        let result = result.shared();
        under_way.proofs.insert((key.block, key.nonce), result.clone());
        let client = limit.client.map(|(client, _)| client);
        if let Some(client) = client {
            let count = under_way.clients.entry(client).or_default();
            *count = count.saturating_add(1);
        }
        // A runtime that ends drops the task at once, and with it the entry, which locks.
        drop(under_way);
        let entry = Entry { flights: Arc::clone(&self.0), key, client };
        let settle = settle();
        // What it logs, it logs for the request that began it.
        let span = Span::current();
        let task = async move {
            let settled = settle.await;
            // Off the list first: a request that comes after finds the result in the journal.
            drop(entry);
            // If nobody waits for it, the journal has it.
            let _waited_for = sender.send(settled).is_ok();
        };
        runtime.spawn(task.instrument(span));
        Joined::UnderWay(result)
    }
}

impl UnderWay {
    fn holds_frontier(&self, frontier: Frontier, block: BlockHash) -> bool {
        self.frontiers.get(&frontier).is_some_and(|(holder, _)| *holder != block)
    }

    fn has_room(&self, limit: SettlementLimit) -> bool {
        let has_share = |(client, share)| self.clients.get(&client).is_none_or(|count| *count < share);
        self.proofs.len() < limit.all && limit.client.is_none_or(has_share)
    }
}

/// The result of a settlement of `block`, if it comes within `wait`.
async fn result_of(block: BlockHash, result: SharedResult, wait: Duration) -> SettlementResult {
    match sync::timeout(wait, result).await {
        Ok(Ok(settled)) => settled,
        // The wait is over, or the task died. The journal knows how far it came.
        Ok(Err(_)) | Err(_) => Err(Unsettled::pending(block)),
    }
}
