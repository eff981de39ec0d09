//! When blocks are confirmed, and in which order; forks.

use std::time::Duration;

use faregate::devnet::lattice::genesis_key;
use faregate::devnet::{BlockRefusal, ForkError, Lattice, Now, THRESHOLDS};
use faregate::nano::{BlockHash, Raw, UnixSeconds};
use serde_json::json;

use super::{Net, accepted, block, block_for, key, process};

fn at(milliseconds: u64) -> Now {
    Now { wall: UnixSeconds(milliseconds / 1000), elapsed: Duration::from_millis(milliseconds) }
}

const SUPPLY: u128 = Raw::MAX.get();

#[test]
fn a_block_is_confirmed_when_it_is_due_and_not_before() {
    let mut ledger = Lattice::new(THRESHOLDS, Duration::from_millis(500), at(0));
    let genesis = ledger.genesis();
    let send = block(&genesis_key(), genesis, SUPPLY - 1, key(1).account().0);
    let open = block(&key(1), BlockHash::ZERO, 1, send.hash().0);
    ledger.process(send, at(100)).unwrap();
    ledger.process(open, at(200)).unwrap();
    for (now, sent, opened) in
        [(599, false, false), (600, true, false), (699, true, false), (700, true, true)]
    {
        ledger.advance(at(now));
        assert_eq!(
            (ledger.is_confirmed(send.hash()), ledger.is_confirmed(open.hash())),
            (sent, opened),
            "{now}"
        );
        ledger.check_invariants().unwrap();
    }
}

#[test]
fn nothing_is_confirmed_before_what_it_stands_on() {
    let mut ledger = Lattice::new(THRESHOLDS, Duration::ZERO, at(0));
    let genesis = ledger.genesis();
    let send = block(&genesis_key(), genesis, SUPPLY - 5, key(1).account().0);
    let next = block(&genesis_key(), send.hash(), SUPPLY - 6, key(2).account().0);
    let open = block(&key(1), BlockHash::ZERO, 5, send.hash().0);
    ledger.hold(send.hash());
    for block in [send, next, open] {
        ledger.process(block, at(1)).unwrap();
    }
    assert_eq!(ledger.confirmed_count(), 1, "the held send holds its successor and its receive");
    assert_eq!(ledger.confirmed_balance(genesis_key().account()), Raw::MAX);
    ledger.check_invariants().unwrap();

    let mut by_order = ledger.clone();
    assert!(by_order.confirm_now(open.hash()));
    assert!(by_order.is_confirmed(send.hash()) && !by_order.is_confirmed(next.hash()));
    by_order.advance(at(2));
    assert!(by_order.is_confirmed(next.hash()));
    by_order.check_invariants().unwrap();

    ledger.release();
    ledger.advance(at(2));
    assert_eq!(ledger.confirmed_count(), 4);
    assert!(!ledger.confirm_now(BlockHash::ZERO));
}

/// The block that was accepted first is rolled back with all blocks on it, and the other is confirmed.
#[tokio::test]
async fn a_fork_can_win() {
    let net = Net::start().await;
    let alice = net.opened(1, 100);
    net.devnet.lattice().hold_all();
    let lost = net.next(&alice, 60, key(2).account().0);
    let won = block(&alice, lost.previous, 90, key(3).account().0);
    assert_eq!(net.ask(&process("send", &lost)).await, accepted(&lost));
    // Two more blocks depend on it: its receive, and a send from there.
    let open = net.next(&key(2), 40, lost.hash().0);
    net.devnet.process(open).unwrap();
    let onward = net.next(&key(2), 1, key(4).account().0);
    net.devnet.process(onward).unwrap();

    assert_eq!(net.devnet.fork(won).unwrap(), won.hash());
    for gone in [lost, open, onward] {
        let info = net.ask(&json!({ "action": "block_info", "hash": gone.hash() })).await;
        assert_eq!(info, json!({ "error": "Block not found" }));
    }
    let info = net.ask(&json!({ "action": "block_info", "hash": won.hash() })).await;
    assert_eq!(info["confirmed"], "true");
    let repeated = net.ask(&process("send", &lost)).await;
    assert_eq!(repeated, json!({ "error": "Fork" }));
    let mut bare = process("send", &lost);
    bare.as_object_mut().unwrap().remove("subtype");
    assert_eq!(net.ask(&bare).await, json!({ "error": "Fork" }));
    let ledger = net.devnet.lattice();
    assert_eq!(ledger.balance(alice.account()).get(), 90);
    assert!(ledger.chain(key(2).account()).is_none());
    ledger.check_invariants().unwrap();
}

#[tokio::test]
async fn what_is_confirmed_cannot_be_forked() {
    let net = Net::start().await;
    let alice = net.opened(1, 100);
    let send = net.next(&alice, 60, key(2).account().0);
    net.devnet.process(send).unwrap();
    let rival = block(&alice, send.previous, 50, key(2).account().0);
    assert_eq!(net.devnet.fork(rival), Err(ForkError::Confirmed(send.hash())));
    let nowhere = block(&alice, BlockHash([3; 32]), 50, key(2).account().0);
    assert_eq!(net.devnet.fork(nowhere), Err(ForkError::NoRival));
    assert_eq!(net.devnet.fork(send), Err(ForkError::NoRival), "a block is no rival of itself");
    net.devnet.lattice().hold_all();
    let next = net.next(&alice, 59, key(2).account().0);
    net.devnet.process(next).unwrap();
    let mut forged = block(&alice, send.hash(), 58, key(2).account().0);
    forged.signature.0[0] ^= 1;
    assert_eq!(net.devnet.fork(forged), Err(ForkError::Refused(BlockRefusal::BadSignature)));
    net.devnet.lattice().check_invariants().unwrap();
}

/// An account's first block can lose too; what it received is receivable again.
#[tokio::test]
async fn an_opening_block_can_lose() {
    let net = Net::start().await;
    let bob = key(1);
    let send = net.devnet.fund(bob.account(), Raw::new(7)).unwrap();
    net.devnet.lattice().hold_all();
    let open = net.next(&bob, 7, send.0);
    net.devnet.process(open).unwrap();
    let representative = faregate::nano::Representative(key(9).account());
    let other = block_for(&bob, BlockHash::ZERO, representative, 7, send.0);
    net.devnet.fork(other).unwrap();
    let ledger = net.devnet.lattice();
    assert_eq!(ledger.frontier(bob.account()), Some(other.hash()));
    assert_eq!(ledger.weight(key(9).account()).get(), 7);
    ledger.check_invariants().unwrap();
}
