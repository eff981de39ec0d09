//! The settlements under way: one for each block, one for each frontier, and nobody waits in vain.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use shuttle::future::{block_on, spawn, yield_now};

use crate::nano::BlockHash;
use crate::payment::{Nonce, Refusal};
use crate::sync::{Handle, Mutex};

pub(crate) use faregate::cashier::{PendingReason, Wait};

#[expect(dead_code, reason = "the program's own, which uses all of it")]
#[path = "../../src/cashier/flights.rs"]
mod flights;

use flights::{FlightKey, Flights, SettlementResult, Unsettled};

/// What a settlement touches: the blocks that are spent, and which settlements run.
#[derive(Default)]
struct Books {
    spent: BTreeSet<BlockHash>,
    settled: usize,
    running: BTreeSet<BlockHash>,
    frontiers: BTreeSet<BlockHash>,
}

/// A settlement that would go wrong if another of its block or frontier ran beside it. What it ends
/// with stands for a grant.
async fn settle(books: Arc<Mutex<Books>>, key: FlightKey) -> SettlementResult {
    {
        let mut books = books.lock().unwrap();
        assert!(books.running.insert(key.block), "two settlements of one block");
        assert!(key.frontier.is_none_or(|it| books.frontiers.insert(it)), "two on one frontier");
    }
    yield_now().await;
    let is_new = !books.lock().unwrap().spent.contains(&key.block);
    yield_now().await;
    let mut books = books.lock().unwrap();
    if is_new {
        books.spent.insert(key.block);
        books.settled += 1;
    }
    books.running.remove(&key.block);
    if let Some(frontier) = key.frontier {
        books.frontiers.remove(&frontier);
    }
    Err(Unsettled::Wait(Wait::Pending { block: key.block, reason: PendingReason::Settlement }))
}

fn key(block: u8, nonce: u8, frontier: u8) -> FlightKey {
    FlightKey {
        block: BlockHash([block; 32]),
        nonce: Nonce([nonce; 32]),
        frontier: Some(BlockHash([frontier; 32])),
    }
}

#[test]
fn one_settlement_of_a_block_and_of_a_frontier_at_a_time() {
    crate::explore(|| {
        let (flights, books) = (Arc::new(Flights::default()), Arc::new(Mutex::new(Books::default())));
        // Copies of one proof, another challenge's, a rival on the frontier, and a block of its own.
        let proofs = [(1, 1, 9), (1, 1, 9), (1, 1, 9), (1, 2, 9), (2, 3, 9), (3, 4, 8)];
        let riders: Vec<_> = proofs
            .into_iter()
            .map(|(block, nonce, frontier)| {
                let (flights, books) = (Arc::clone(&flights), Arc::clone(&books));
                spawn(async move {
                    let key = key(block, nonce, frontier);
                    let start = || settle(books, key);
                    let settled = flights.join_or_start(key, 2, Duration::ZERO, &Handle, start).await;
                    let expected = match settled {
                        // Its own result, or not within its time.
                        Err(Unsettled::Wait(Wait::Pending { block, .. })) => block == key.block,
                        Err(Unsettled::Wait(wait)) => wait == Wait::Overloaded,
                        Err(Unsettled::Refused(refusal, _)) => refusal == Refusal::DuplicateFrontier,
                        Err(Unsettled::IdHeld) | Ok(_) => false,
                    };
                    assert!(expected, "another's result");
                    assert!(flights.count() <= 2, "more than the limit");
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
            // Nothing is left behind: the same may start again, and finds the journal.
            let again = key(1, 1, 9);
            assert!(!flights.is_under_way(again.block, again.nonce));
            let copy = Arc::clone(&books);
            flights.start(again, 1, &Handle, || settle(copy, again));
            while flights.count() > 0 {
                yield_now().await;
            }
        });
        let books = books.lock().unwrap();
        assert!(books.spent.contains(&BlockHash([1; 32])));
        assert_eq!(books.settled, books.spent.len(), "a block was settled twice");
        assert!(books.running.is_empty() && books.frontiers.is_empty());
    });
}
