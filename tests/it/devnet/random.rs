//! Random blocks in random order: no raw is made or lost, and the order of confirmation holds.

use std::time::Duration;

use faregate::devnet::lattice::genesis_key;
use faregate::devnet::{Lattice, Now, THRESHOLDS};
use faregate::nano::{BlockHash, SecretKey, StateBlock};
use proptest::prelude::*;

use super::{block, burn_link, key};

const ACCOUNTS: u32 = 4;

/// One step; indices and amounts are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Send {
        from: u32,
        to: u32,
        amount: u128,
    },
    Receive {
        account: u32,
        which: usize,
    },
    Change {
        account: u32,
    },
    /// A block with a false balance.
    Cheat {
        account: u32,
        balance: u128,
        link: [u8; 32],
    },
    /// The successor before the block itself.
    OutOfOrder {
        from: u32,
        to: u32,
    },
    Fork {
        account: u32,
    },
    Hold {
        account: u32,
    },
    Release,
    Confirm {
        account: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let account = 0..=ACCOUNTS;
    prop_oneof![
        4 => (account.clone(), account.clone(), 1..u128::MAX)
            .prop_map(|(from, to, amount)| Step::Send { from, to, amount }),
        4 => (account.clone(), any::<usize>()).prop_map(|(account, which)| Step::Receive { account, which }),
        1 => account.clone().prop_map(|account| Step::Change { account }),
        1 => (account.clone(), any::<u128>(), any::<[u8; 32]>())
            .prop_map(|(account, balance, link)| Step::Cheat { account, balance, link }),
        1 => (account.clone(), account.clone()).prop_map(|(from, to)| Step::OutOfOrder { from, to }),
        1 => account.clone().prop_map(|account| Step::Fork { account }),
        1 => account.clone().prop_map(|account| Step::Hold { account }),
        1 => Just(Step::Release),
        1 => account.prop_map(|account| Step::Confirm { account }),
    ]
}

/// Index 0 is the genesis account.
fn holder(index: u32) -> SecretKey {
    if index == 0 { genesis_key() } else { key(index) }
}

fn frontier(ledger: &Lattice, key: &SecretKey) -> BlockHash {
    ledger.frontier(key.account()).unwrap_or(BlockHash::ZERO)
}

fn run(ledger: &mut Lattice, step: &Step, now: Now) {
    match *step {
        Step::Send { from, to, amount } => {
            let key = holder(from);
            let balance = ledger.balance(key.account()).get();
            if balance > 0 {
                let rest = balance - 1 - (amount - 1) % balance;
                let send = block(&key, frontier(ledger, &key), rest, holder(to).account().0);
                ledger.process(send, now).unwrap();
            }
        }
        Step::Receive { account, which } => {
            let key = holder(account);
            let waiting: Vec<_> = ledger.receivables(key.account()).collect();
            if !waiting.is_empty() {
                let (source, receivable) = waiting[which % waiting.len()];
                let balance = ledger.balance(key.account()).checked_add(receivable.amount).unwrap();
                let receive = block(&key, frontier(ledger, &key), balance.get(), source.0);
                ledger.process(receive, now).unwrap();
            }
        }
        Step::Change { account } => {
            let key = holder(account);
            let balance = ledger.balance(key.account()).get();
            let change = block(&key, frontier(ledger, &key), balance, burn_link());
            let opened = ledger.chain(key.account()).is_some();
            assert_eq!(ledger.process(change, now).is_ok(), opened);
        }
        Step::Cheat { account, balance, link } => {
            let key = holder(account);
            let cheat = block(&key, frontier(ledger, &key), balance, link);
            let sends = balance < ledger.balance(key.account()).get();
            assert_eq!(ledger.process(cheat, now).is_ok(), sends);
        }
        Step::OutOfOrder { from, to } => out_of_order(ledger, from, to, now),
        Step::Fork { account } => fork(ledger, account, now),
        Step::Hold { account } => ledger.hold(frontier(ledger, &holder(account))),
        Step::Release => ledger.release(),
        Step::Confirm { account } => {
            let hash = frontier(ledger, &holder(account));
            assert_eq!(ledger.confirm_now(hash), hash != BlockHash::ZERO);
        }
    }
    ledger.advance(now);
}

fn out_of_order(ledger: &mut Lattice, from: u32, to: u32, now: Now) {
    let key = holder(from);
    let balance = ledger.balance(key.account()).get();
    if balance >= 2 {
        let first = block(&key, frontier(ledger, &key), balance - 1, holder(to).account().0);
        let second = block(&key, first.hash(), balance - 2, holder(to).account().0);
        ledger.process(second, now).unwrap_err();
        ledger.process(first, now).unwrap();
        assert_eq!(ledger.frontier(key.account()), Some(second.hash()));
    }
}

/// Replaces the account's last block by another, if it is not confirmed.
fn fork(ledger: &mut Lattice, account: u32, now: Now) {
    let Some(&entry) = ledger.entry(frontier(ledger, &holder(account))) else { return };
    let rival =
        StateBlock { representative: faregate::nano::Representative(key(99).account()), ..entry.block };
    if rival != entry.block {
        let outcome = ledger.replace(rival.signed(&holder(account)), now);
        assert_eq!(outcome.is_ok(), !entry.confirmed, "{outcome:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_made_or_lost(
        steps in prop::collection::vec((step(), 0..400_u64), 1..40),
        confirm_after in 0..500_u64,
    ) {
        let mut ledger = Lattice::new(THRESHOLDS, Duration::from_millis(confirm_after), Now::default());
        let mut now = Now::default();
        for (step, pause) in &steps {
            now.elapsed += Duration::from_millis(*pause);
            run(&mut ledger, step, now);
            ledger.check_invariants().map_err(TestCaseError::fail)?;
        }
        ledger.release();
        now.elapsed += Duration::from_secs(1);
        ledger.advance(now);
        prop_assert_eq!(ledger.confirmed_count(), ledger.block_count(), "all are confirmed in the end");
        ledger.check_invariants().map_err(TestCaseError::fail)?;
    }
}
