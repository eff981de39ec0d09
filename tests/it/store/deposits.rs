//! The contract of `DepositJournal`, over the model, SQLite and PostgreSQL.

use std::sync::Arc;

use faregate::nano::{Account, BlockHash, Raw, UnixSeconds};
use faregate::store::Store;
use faregate::store::deposits::{
    Deposit, DepositJournal, Noted, SeenDeposit, SweepBlock, SweepRecord, SweepState,
};
use faregate::sweep::Action;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::model::Model;
use super::samples::{NOW, grantee, hash, sent, signed};

const LATER: UnixSeconds = UnixSeconds(NOW.0 + 5);
const MANY: u32 = 1000;

fn deposit(number: u8, amount: u128) -> Deposit {
    // Of some the sender is not known.
    let sender = number.is_multiple_of(2).then_some(Account([0x88; 32]));
    Deposit { block: hash(number), account: Account([number; 32]), sender, amount: Raw::new(amount) }
}

const fn swept(number: u8, action: Action) -> SweepBlock {
    SweepBlock {
        block: hash(number),
        account: Account([0x11; 32]),
        action,
        amount: Raw::new(u128::MAX - 7),
        previous: BlockHash([number - 1; 32]),
        link: [0xfe; 32],
    }
}

async fn listed(store: &impl DepositJournal) -> Vec<SeenDeposit> {
    store.unclaimed(None, usize::MAX).await.unwrap()
}

/// Grants a `nanoSignature` payment by block `number`.
async fn grant(store: &impl Store, number: u8) {
    let intent = sent(hash(number), 1);
    store.grant(&intent, grantee(intent.block, 1, 1), NOW).await.unwrap();
}

async fn a_deposit_is_kept_to_the_last_bit<S: Store + DepositJournal>(store: Arc<S>) {
    let deposits = [deposit(1, u128::MAX), deposit(2, 1), deposit(3, 10_u128.pow(30))];
    let noted = store.note_deposits(&deposits, MANY, NOW).await;
    assert_eq!(noted, Ok(Noted { fresh: 3, dropped: 0 }));
    assert_eq!(listed(&*store).await, deposits.map(|deposit| SeenDeposit { seen_at: NOW, deposit }));
    // Repeated, alone and with another, it changes nothing of what is there.
    let more = [deposits[2], deposit(4, 5), deposits[0]];
    assert_eq!(store.note_deposits(&more, MANY, LATER).await, Ok(Noted { fresh: 1, dropped: 0 }));
    let times: Vec<_> = listed(&*store).await.iter().map(|it| (it.deposit.block, it.seen_at)).collect();
    assert_eq!(times, [(hash(1), NOW), (hash(2), NOW), (hash(3), NOW), (hash(4), LATER)]);
}

async fn a_claimed_deposit_is_not_unclaimed<S: Store + DepositJournal>(store: Arc<S>) {
    grant(&*store, 1).await;
    store.begin(&signed(hash(2), hash(100), 1), NOW).await.unwrap();
    store.mark_spent(hash(3), NOW).await.unwrap();
    let deposits = [1, 2, 3, 4, 5].map(|number| deposit(number, 7));
    assert_eq!(store.note_deposits(&deposits, MANY, NOW).await.unwrap().fresh, 2);
    let open = |found: Vec<SeenDeposit>| found.iter().map(|it| it.deposit.block).collect::<Vec<_>>();
    assert_eq!(open(listed(&*store).await), [hash(4), hash(5)]);
    // A late proof redeems one.
    grant(&*store, 4).await;
    assert_eq!(open(listed(&*store).await), [hash(5)]);
    assert_eq!(store.note_deposits(&deposits, MANY, LATER).await.unwrap().fresh, 0);
    assert_eq!(open(listed(&*store).await), [hash(5)]);
}

async fn dust_drives_out_no_money<S: Store + DepositJournal>(store: Arc<S>) {
    let first = [deposit(1, 50), deposit(2, 40), deposit(3, 30)];
    store.note_deposits(&first, 3, NOW).await.unwrap();
    let dust: Vec<_> = (10..60).map(|number| deposit(number, 1)).collect();
    assert_eq!(store.note_deposits(&dust, 3, LATER).await, Ok(Noted { fresh: 50, dropped: 50 }));
    let amounts =
        |found: Vec<SeenDeposit>| found.iter().map(|it| it.deposit.amount.get()).collect::<Vec<_>>();
    assert_eq!(amounts(listed(&*store).await), [50, 40, 30]);
    // A larger one takes the place of the smallest; one that was claimed goes first.
    assert_eq!(store.note_deposits(&[deposit(4, 60)], 3, LATER).await.unwrap().dropped, 1);
    assert_eq!(amounts(listed(&*store).await), [50, 40, 60]);
    grant(&*store, 1).await;
    assert_eq!(store.note_deposits(&[deposit(5, 2)], 3, LATER).await, Ok(Noted { fresh: 1, dropped: 0 }));
    assert_eq!(amounts(listed(&*store).await), [40, 60, 2]);
    assert_eq!(store.note_deposits(&[], 3, LATER).await, Ok(Noted::default()));
}

async fn pages_follow_each_other<S: Store + DepositJournal>(store: Arc<S>) {
    for (number, at) in [(9, NOW), (3, NOW), (5, LATER), (1, LATER)] {
        store.note_deposits(&[deposit(number, 1)], MANY, at).await.unwrap();
        store.plan_sweep(&swept(number, Action::Receive), at).await.unwrap();
    }
    let (mut deposits, mut sweeps, mut seen, mut planned) = (None, None, Vec::new(), Vec::new());
    for _ in 0..3 {
        let page = store.unclaimed(deposits, 2).await.unwrap();
        deposits = page.last().map(SeenDeposit::mark).or(deposits);
        seen.extend(page.iter().map(|it| it.deposit.block));
        let page = store.sweeps(None, sweeps, 2).await.unwrap();
        sweeps = page.last().map(SweepRecord::mark).or(sweeps);
        planned.extend(page.iter().map(|it| it.block.block));
    }
    assert_eq!(seen, [hash(3), hash(9), hash(1), hash(5)]);
    assert_eq!(planned, seen);
}

async fn a_sweep_is_planned_once_and_ends<S: Store + DepositJournal>(store: Arc<S>) {
    let blocks = [swept(1, Action::Open), swept(2, Action::Receive), swept(3, Action::Send)];
    for block in &blocks {
        store.plan_sweep(block, NOW).await.unwrap();
        store.plan_sweep(block, LATER).await.unwrap();
    }
    let planned = |block| SweepRecord { block, state: SweepState::Planned, planned_at: NOW, ended_at: None };
    assert_eq!(store.sweeps(Some(SweepState::Planned), None, 9).await, Ok(blocks.map(planned).to_vec()));
    assert_eq!(store.end_sweep(hash(1), true, LATER).await, Ok(true));
    assert_eq!(store.end_sweep(hash(2), false, LATER).await, Ok(true));
    for (number, confirmed, moves) in
        [(1, true, false), (1, false, false), (2, false, false), (7, true, false)]
    {
        assert_eq!(store.end_sweep(hash(number), confirmed, LATER).await, Ok(moves), "{number} {confirmed}");
    }
    // What was given up is confirmed after all.
    assert_eq!(store.end_sweep(hash(2), true, LATER).await, Ok(true));
    store.plan_sweep(&blocks[0], LATER).await.unwrap();
    let states: Vec<_> =
        store.sweeps(None, None, 9).await.unwrap().iter().map(|it| (it.state, it.ended_at)).collect();
    let ended = (SweepState::Confirmed, Some(LATER));
    assert_eq!(states, [ended, ended, (SweepState::Planned, None)]);
    assert_eq!(store.sweeps(Some(SweepState::Planned), None, 9).await.unwrap().len(), 1);
}

/// Any calls, in any order: an engine answers as the model does.
async fn answers_as_the_model_does<S: Store + DepositJournal>(store: Arc<S>) {
    let model = Model::default();
    let mut runner = TestRunner::deterministic();
    let call = (0..5_u8, 1..30_u8, 0..6_u128, any::<bool>());
    for second in 0..150 {
        let (kind, number, amount, flag) = call.new_tree(&mut runner).unwrap().current();
        let now = NOW.plus(second / 10);
        match kind {
            0 | 1 => {
                let deposits = [deposit(number, amount), deposit(number + 1, amount + 1)];
                let answers = (
                    store.note_deposits(&deposits, 8, now).await,
                    model.note_deposits(&deposits, 8, now).await,
                );
                assert_eq!(answers.0, answers.1);
            }
            2 => {
                grant(&*store, number).await;
                grant(&model, number).await;
            }
            3 => {
                store.plan_sweep(&swept(number, Action::Receive), now).await.unwrap();
                model.plan_sweep(&swept(number, Action::Receive), now).await.unwrap();
            }
            _ => assert_eq!(
                store.end_sweep(hash(number), flag, now).await,
                model.end_sweep(hash(number), flag, now).await
            ),
        }
        assert_eq!(listed(&*store).await, listed(&model).await);
        assert_eq!(store.sweeps(None, None, 99).await, model.sweeps(None, None, 99).await);
    }
}

async fn two_journals_at_once_keep_each_deposit_once<S: Store + DepositJournal>(store: Arc<S>) {
    let forward: Vec<_> = (1..=100).map(|number| deposit(number, 1)).collect();
    let backward: Vec<_> = forward.iter().rev().copied().collect();
    let (one, other) =
        tokio::join!(store.note_deposits(&forward, MANY, NOW), store.note_deposits(&backward, MANY, NOW));
    assert_eq!(one.unwrap().fresh + other.unwrap().fresh, 100);
    assert_eq!(listed(&*store).await.len(), 100);
}

/// Runs each of these over every store there is.
macro_rules! hold {
    ($($name:ident),* $(,)?) => {
        mod model {
            $(#[tokio::test]
            async fn $name() {
                super::$name(std::sync::Arc::<crate::store::model::Model>::default()).await;
            })*
        }

        mod sqlite {
            use faregate::store::{SqliteOptions, SqliteStore};

            $(#[tokio::test]
            async fn $name() {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("store.db");
                let store = std::sync::Arc::new(SqliteStore::open(&path, SqliteOptions::default()).unwrap());
                super::$name(std::sync::Arc::clone(&store)).await;
                store.close().await;
            })*
        }

        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                let Some(database) = crate::store::cluster::database().await else { return };
                let store = std::sync::Arc::new(database.open().await);
                super::$name(std::sync::Arc::clone(&store)).await;
                store.close().await;
            })*
        }
    };
}

hold! {
    a_deposit_is_kept_to_the_last_bit,
    a_claimed_deposit_is_not_unclaimed,
    dust_drives_out_no_money,
    pages_follow_each_other,
    a_sweep_is_planned_once_and_ends,
    answers_as_the_model_does,
    two_journals_at_once_keep_each_deposit_once,
}
