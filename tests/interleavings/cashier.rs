//! The settlements under way: one for each proof, one block for each frontier, and nobody waits in vain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use shuttle::future::{block_on, spawn, yield_now};

use crate::nano::{Account, BlockHash};
use crate::payment::{Nonce, Refusal};
use crate::sync::{Handle, Mutex};

mod client {
    pub(super) use faregate::cashier::Client;
}

mod reasons {
    pub(super) use faregate::cashier::{PendingReason, Wait};
}

#[expect(dead_code, reason = "the program's own, which uses all of it")]
#[path = "../../src/cashier/unsettled.rs"]
mod unsettled;

#[path = "../../src/cashier/flights.rs"]
mod flights;

use client::Client;
use flights::{FlightKey, Flights, Frontier, SettlementLimit};
use reasons::{PendingReason, Wait};
use unsettled::{SettlementResult, Unsettled};

/// What a settlement touches: the blocks that are spent, and which settlements run.
#[derive(Default)]
struct Books {
    spent: BTreeSet<BlockHash>,
    settled: usize,
    running: BTreeSet<(BlockHash, Nonce)>,
    /// Which block is settled on a frontier, and by how many.
    frontiers: BTreeMap<Frontier, (BlockHash, usize)>,
}

/// Settlements that one client may have under way, of the three for all.
const SHARE: usize = 2;

/// A settlement that would go wrong if another of its proof, or of another block on its frontier, ran
/// beside it. What it ends with stands for a grant.
async fn settle(flights: Arc<Flights>, books: Arc<Mutex<Books>>, key: FlightKey) -> SettlementResult {
    {
        let running = &mut books.lock().unwrap().running;
        assert!(running.insert((key.block, key.nonce)), "two settlements of one proof");
        let own = running.iter().filter(|(block, _)| *block == key.block).count();
        assert!(own <= SHARE, "a client has more than its share");
    }
    // The ledger is asked.
    yield_now().await;
    let result = match key.frontier.map(|it| (it, flights.hold_frontier(it, key.block))) {
        Some((_, None)) => Err(Refusal::DuplicateFrontier.into()),
        held => {
            let frontier = held.map(|(frontier, hold)| {
                let mut books = books.lock().unwrap();
                let (holder, count) = books.frontiers.entry(frontier).or_insert((key.block, 0));
                assert_eq!(*holder, key.block, "two blocks on one frontier");
                *count += 1;
                (frontier, hold)
            });
            yield_now().await;
            // The store claims a block once, whoever asks.
            let is_new = books.lock().unwrap().spent.insert(key.block);
            yield_now().await;
            let mut books = books.lock().unwrap();
            books.settled += usize::from(is_new);
            if let Some((frontier, _held)) = frontier {
                let left = books.frontiers.get_mut(&frontier).unwrap();
                left.1 -= 1;
                if left.1 == 0 {
                    books.frontiers.remove(&frontier);
                }
            }
            Err(Unsettled::Wait(Wait::Pending { block: key.block, reason: PendingReason::Settlement }))
        }
    };
    books.lock().unwrap().running.remove(&(key.block, key.nonce));
    result
}

fn key(block: u8, nonce: u8, frontier: u8) -> FlightKey {
    let frontier = Frontier { account: Account([frontier; 32]), previous: BlockHash([frontier; 32]) };
    FlightKey { block: BlockHash([block; 32]), nonce: Nonce([nonce; 32]), frontier: Some(frontier) }
}

fn client(last: u8) -> Client {
    Client::at(std::net::IpAddr::from([192, 0, 2, last]))
}

/// Who shows a block.
fn client_of(block: BlockHash) -> Client {
    client(block.0[0])
}

/// When all settlements are over, the same may start again, and finds the journal.
async fn nothing_is_left_behind(flights: &Arc<Flights>, books: &Arc<Mutex<Books>>) {
    let again = key(1, 1, 9);
    assert!(!flights.is_under_way(again.block, again.nonce));
    for number in [1, 2] {
        assert!(!flights.has_its_share((client(number), 1)), "nothing of its is under way");
    }
    let rival = key(2, 3, 9);
    let free = flights.hold_frontier(rival.frontier.unwrap(), rival.block);
    assert!(free.is_some() && flights.holds_frontier(again.frontier.unwrap(), again.block));
    drop(free);
    let copy = Arc::clone(books);
    let limit = SettlementLimit { all: 1, client: Some((client(1), 1)) };
    let fleet = Arc::clone(flights);
    let (go_on, told) = tokio::sync::oneshot::channel();
    flights.start(again, limit, &Handle, || async move {
        told.await.unwrap();
        settle(fleet, copy, again).await
    });
    assert!(flights.is_under_way(again.block, again.nonce) && flights.count() == 1);
    assert!(flights.has_its_share((client(1), 1)) && !flights.has_its_share((client(1), 2)));
    let joined = flights.join(again, Duration::ZERO);
    let (waited, ()) = futures_util::future::join(joined, async { go_on.send(()).unwrap() }).await;
    assert!(matches!(waited, Some(Err(Unsettled::Wait(Wait::Pending { .. })))), "{waited:?}");
    assert!(flights.join(key(3, 4, 8), Duration::ZERO).await.is_none(), "it is over");
    while flights.count() > 0 {
        yield_now().await;
    }
}

#[test]
fn one_settlement_of_a_proof_and_one_block_of_a_frontier_at_a_time() {
    crate::explore(|| {
        let (flights, books) = (Arc::new(Flights::default()), Arc::new(Mutex::new(Books::default())));
        // Copies of one proof, other challenges' of its client, a rival on the frontier, and a block of its
        // own, of a client that nobody counts.
        let proofs = [(1, 1, 9), (1, 1, 9), (1, 2, 9), (1, 5, 9), (1, 6, 9), (2, 3, 9), (3, 4, 8)];
        let riders: Vec<_> = proofs
            .into_iter()
            .map(|(block, nonce, frontier)| {
                let (flights, books) = (Arc::clone(&flights), Arc::clone(&books));
                spawn(async move {
                    let key = key(block, nonce, frontier);
                    let client = (block != 3).then(|| (client_of(key.block), SHARE));
                    let limit = SettlementLimit { all: 3, client };
                    let start = || settle(Arc::clone(&flights), books, key);
                    let settled = flights.join_or_start(key, limit, Duration::ZERO, &Handle, start).await;
                    let expected = match settled {
                        // Its own result, or not within its time.
                        Err(Unsettled::Wait(Wait::Pending { block, .. })) => block == key.block,
                        Err(Unsettled::Wait(wait)) => wait == Wait::Overloaded,
                        Err(Unsettled::Refused(refusal, _)) => refusal == Refusal::DuplicateFrontier,
                        Err(Unsettled::IdHeld) | Ok(_) => false,
                    };
                    assert!(expected, "another's result");
                    assert!(flights.count() <= 3, "more than the limit");
                })
            })
            .collect();
        block_on(async {
            for rider in riders {
                rider.await.unwrap();
            }
            // Those who waited too short left theirs running.
            while flights.count() > 0 {
                yield_now().await;
            }
            nothing_is_left_behind(&flights, &books).await;
        });
        let books = books.lock().unwrap();
        assert!(books.spent.contains(&BlockHash([1; 32])));
        assert_eq!(books.settled, books.spent.len(), "a block was settled twice");
        assert!(books.running.is_empty() && books.frontiers.is_empty());
    });
}
