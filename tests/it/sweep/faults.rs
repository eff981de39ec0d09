//! A node that refuses, loses answers, never confirms and lies; two sweepers at once; one that is
//! killed anywhere.

use std::sync::Arc;
use std::time::Duration;

use faregate::devnet::{DevnetOptions, InjectedFault, Lie, Times};
use faregate::ledger::LedgerError;
use faregate::nano::{Account, Raw, Representative};
use faregate::sweeper::SweepError;

use super::Pool;

#[tokio::test]
async fn two_sweepers_at_once_never_fork_and_lose_nothing() {
    let confirm_after = Duration::from_millis(5);
    let options = DevnetOptions { confirm_after, ..DevnetOptions::default() };
    let mut pool = Pool::with(6, options).await;
    pool.fund_all(8);
    let (one, other) = (pool.sweeper(), pool.sweeper_with(|it| it.at_once = 3));
    let (one, other) = tokio::join!(one.sweep(), other.sweep());
    pool.assert_nothing_lost();
    let published =
        [one.unwrap(), other.unwrap()].iter().map(faregate::sweeper::SweepRound::blocks).sum::<usize>();
    assert!(published >= 54, "{published}");
    pool.sweeper().sweep().await.unwrap();
    pool.assert_all_home();
    // One block for each send that came in and one to the treasury; no other block was made.
    for index in 0..6 {
        assert_eq!(pool.height(index), 9, "account {index}");
    }
}

#[tokio::test]
async fn killed_between_any_two_blocks_the_next_run_does_the_rest() {
    let mut pool = Pool::new(1).await;
    for done in 0..=4_usize {
        for number in 1..=3 {
            pool.fund(0, number * 1000);
        }
        let place = pool.place(0);
        let plan = pool.sweeper().plan(place).await.unwrap();
        assert_eq!(plan.len(), 4);
        let killed = pool.sweeper();
        for step in &plan[..done] {
            killed.take(place, step).await.unwrap();
        }
        drop(killed);
        pool.assert_nothing_lost();
        let rest = pool.sweeper().plan(place).await.unwrap();
        assert_eq!(rest, plan[done..]);
        let swept = pool.sweeper().sweep_account(place).await;
        assert_eq!(swept.blocks, plan[done..]);
        pool.assert_all_home();
    }
}

#[tokio::test]
async fn killed_while_a_block_is_on_its_way_the_next_run_does_the_rest() {
    for done in 1..=6_u64 {
        let mut pool = Pool::new(1).await;
        for number in 1..=5 {
            pool.fund(0, number * 1000);
        }
        // The node accepts the block, but the answer is lost.
        let before = pool.devnet.faults().calls("process");
        let (sweeper, place) = (pool.sweeper(), pool.place(0));
        let sweep = tokio::spawn(async move { sweeper.sweep_account(place).await });
        pool.devnet.faults().called("process", before + done).await;
        sweep.abort();
        assert!(sweep.await.is_err() || done == 6);
        pool.assert_nothing_lost();
        pool.sweeper().sweep().await.unwrap();
        pool.assert_all_home();
        assert_eq!(pool.height(0), 6);
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_loses_nothing() {
    let mut pool = Pool::new(2).await;
    pool.fund_all(3);
    for action in ["process", "account_info", "block_info", "receivable"] {
        pool.devnet.order(action, InjectedFault::LoseAnswer, Times::Only(2));
    }
    let first = pool.sweeper().sweep().await.unwrap();
    pool.assert_nothing_lost();
    pool.devnet.faults().clear();
    let second = pool.sweeper().sweep().await.unwrap();
    pool.assert_all_home();
    assert_eq!(first.blocks() + second.blocks(), 8);
}

#[tokio::test]
async fn a_node_that_refuses_is_asked_again_and_then_left() {
    let mut pool = Pool::new(1).await;
    pool.fund_all(2);
    pool.devnet.order("process", InjectedFault::Refuse("Fork".to_owned()), Times::Only(2));
    assert_eq!(pool.sweeper().sweep().await.unwrap().failed().count(), 0);
    pool.assert_all_home();

    pool.fund_all(1);
    pool.devnet.order("process", InjectedFault::Refuse("Gap previous block".to_owned()), Times::Always);
    let before = pool.devnet.faults().calls("process");
    let round = pool.sweeper().sweep().await.unwrap();
    let (_, error) = round.failed().next().expect("it cannot be swept");
    assert!(matches!(error, SweepError::Refused { .. }), "{error}");
    assert!(pool.devnet.faults().calls("process") - before <= 4);
    pool.assert_nothing_lost();
    pool.devnet.faults().clear();
    pool.sweeper().sweep().await.unwrap();
    pool.assert_all_home();
}

#[tokio::test]
async fn a_block_that_is_not_confirmed_is_not_built_upon() {
    let confirm_after = Duration::from_secs(3600);
    let options = DevnetOptions { confirm_after, ..DevnetOptions::default() };
    let mut pool = Pool::with(1, options).await;
    pool.fund_all(2);
    let hasty = |pool: &Pool| pool.sweeper_with(|it| it.confirm_wait = Duration::from_millis(100));
    let round = hasty(&pool).sweep().await.unwrap();
    let (_, error) = round.failed().next().expect("it is not confirmed");
    let SweepError::Unconfirmed(hash) = *error else { panic!("{error}") };
    assert_eq!(pool.height(0), 1);
    // The next run waits for the block and builds nothing on it.
    let place = pool.place(0);
    let again = hasty(&pool).sweep_account(place).await;
    assert!(matches!(again.error, Some(SweepError::Unsettled(it)) if it == hash), "{:?}", again.error);
    assert_eq!(pool.height(0), 1);
    // Confirm each block by hand, until the account is empty.
    while pool.treasury() == 0 {
        let frontier = pool.devnet.lattice().frontier(pool.account(0)).unwrap();
        assert!(pool.devnet.confirm_now(frontier));
        if pool.treasury() == 0 {
            hasty(&pool).sweep_account(place).await;
        }
    }
    pool.assert_all_home();
    assert_eq!(pool.height(0), 3);
}

#[tokio::test]
async fn a_node_that_lies_about_a_balance_gets_no_block_that_loses_money() {
    let mut pool = Pool::new(1).await;
    // The account has a balance. With a lower one, a receive would be a send that nobody can receive.
    pool.fund(0, 1_000_000);
    pool.devnet.receive_all(&faregate::nano::Seed::from_bytes(super::SEED).key(0)).unwrap();
    pool.fund(0, 500);
    let lower = || InjectedFault::Lie(Lie::Balance(Raw::new(1)));
    let stranger = Representative(Account([0x66; 32]));
    let swapped = InjectedFault::Lie(Lie::Representative(stranger));
    pool.devnet.order("account_info", swapped, Times::Always);
    pool.devnet.order("account_info", lower(), Times::Always);
    pool.devnet.order("block_info", lower(), Times::Always);
    let keeping = pool.sweeper_with(|it| it.rules.representative = None);
    let plan = keeping.plan(pool.place(0)).await.unwrap();
    assert_eq!((plan[0].before.get(), plan[1].amount.get()), (1_000_000, 1_000_500));
    assert!(plan.iter().all(|step| step.block.representative != stranger));

    // Another block in place of the frontier shows by its hash, and nothing is published.
    let frontier = pool.devnet.lattice().frontier(pool.account(0)).unwrap();
    let mut forged = pool.devnet.lattice().entry(frontier).unwrap().block;
    forged.balance = Raw::new(1);
    pool.devnet.order("block_info", InjectedFault::Lie(Lie::Contents(Box::new(forged))), Times::Always);
    let published = pool.devnet.faults().calls("process");
    let swept = pool.sweeper().sweep_account(pool.place(0)).await;
    assert!(matches!(swept.error, Some(SweepError::Ledger(_))), "{:?}", swept.error);
    assert_eq!(pool.devnet.faults().calls("process"), published);

    // Nor is anything published on a false amount.
    pool.devnet.faults().clear();
    for amount in [1, 499, 501] {
        pool.devnet.order("receivable", InjectedFault::Lie(Lie::Amount(Raw::new(amount))), Times::Always);
        let swept = pool.sweeper().sweep_account(pool.place(0)).await;
        assert!(matches!(swept.error, Some(SweepError::Ledger(LedgerError::NotBelieved(_)))), "{swept:?}");
        assert_eq!(pool.devnet.faults().calls("process"), published);
        pool.devnet.faults().clear();
    }
    pool.assert_nothing_lost();

    pool.devnet.faults().clear();
    pool.devnet.order("accounts_balances", InjectedFault::Lie(Lie::Balance(Raw::new(0))), Times::Always);
    pool.sweeper().sweep().await.unwrap();
    pool.devnet.faults().clear();
    pool.sweeper().sweep().await.unwrap();
    pool.assert_all_home();
}

#[tokio::test]
async fn a_node_that_is_behind_is_left_and_not_asked_for_ever() {
    let mut pool = Pool::new(1).await;
    pool.fund_all(2);
    for action in ["account_info", "receivable"] {
        pool.devnet.order(action, InjectedFault::Stale, Times::Always);
    }
    let swept = pool.sweeper().sweep_account(pool.place(0)).await;
    assert!(matches!(swept.error, Some(SweepError::Behind(_))), "{:?}", swept.error);
    pool.assert_all_home();
    assert_eq!((swept.sent.get(), swept.blocks.len()), (pool.funded, 3));
}

#[tokio::test]
async fn without_a_node_the_pool_is_not_read() {
    let mut pool = Pool::new(1).await;
    pool.fund_all(1);
    pool.devnet.order("accounts_balances", InjectedFault::ServerError, Times::Always);
    assert!(pool.sweeper().sweep().await.is_err());
    pool.assert_nothing_lost();
}

#[tokio::test]
async fn each_confirmed_block_is_reported() {
    let mut pool = Pool::new(1).await;
    pool.fund_all(2);
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&told);
    let sweeper = pool.sweeper().observed_by(Arc::new(move |step| seen.lock().unwrap().push(*step)));
    let round = sweeper.sweep().await.unwrap();
    assert_eq!(*told.lock().unwrap(), round.accounts[0].blocks);
}
