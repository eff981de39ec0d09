//! The contract of `RefundJournal`, of both engines alike: what is left is spent or owed, never both, and is sent by one
//! block.

use std::sync::Arc;

use faregate::nano::{Account, Raw, StateBlock, UnixSeconds};
use faregate::payment::Mechanism;
use faregate::store::operator::{OperatorJournal, Remark};
use faregate::store::refunds::{Closing, ExpiryMark, RefundJournal, RefundRecord, RefundSearch, RefundState};
use faregate::store::{
    Engine, Grant, Intent, LeaseRequest, Meters, PostgresStore, SqliteOptions, SqliteStore, StoreError,
};

use super::samples::{GOOD_FOR, NOW, USES, grantee, hash, holder, id, purse, sent, signed};

const LATER: UnixSeconds = UnixSeconds(NOW.0 + 5);
/// When leases for 30 seconds have lapsed.
const LAPSED: UnixSeconds = UnixSeconds(NOW.0 + 60);
const ONE: Raw = Raw::new(1);

/// A payment for a purse of [`USES`] raw.
fn for_purse(number: u8) -> Intent {
    Intent { terms: purse(), amount: Raw::new(USES), ..sent(hash(number), number) }
}

fn call(number: u8, by: u8, sequence: u64) -> LeaseRequest {
    LeaseRequest {
        capability: id(hash(number)),
        holder: holder(by),
        sequence,
        used: 0,
        returned: 0,
        broken: 0,
        want: 0,
        ttl: 30,
    }
}

async fn grant(store: &Engine, intent: &Intent, want: u128) {
    let granted = store.grant(intent, grantee(intent.block, 1, want), NOW).await.unwrap();
    assert!(matches!(granted, Grant::Granted { fresh: true, .. }), "{granted:?}");
}

async fn close(store: &Engine, number: u8, now: UnixSeconds) -> RefundRecord {
    match store.close_capability(id(hash(number)), ONE, now).await.unwrap() {
        Closing::Refund(refund) => *refund,
        other @ (Closing::Unknown | Closing::Revoked | Closing::NotProven) => panic!("{other:?}"),
    }
}

/// A send to the account that paid, which differs by its `balance`.
fn block(balance: u128) -> StateBlock {
    let mut block = signed(hash(99), hash(98), 1).signed.unwrap();
    block.link = sent(hash(1), 1).payer.0;
    block.balance = Raw::new(balance);
    block
}

async fn what_is_left_is_owed_once_nothing_is_leased(store: &Engine) {
    grant(store, &for_purse(1), 4).await;
    let closing = close(store, 1, LATER).await;
    assert_eq!((closing.state, closing.amount, closing.closed_at), (RefundState::Closing, Raw::ZERO, LATER));
    let spent = store.lease(LeaseRequest { used: 3, want: 5, ..call(1, 1, 1) }, LATER).await.unwrap();
    assert_eq!((spent.granted, spent.revoked), (0, true), "it hands out nothing, and says so");
    assert_eq!(close(store, 1, LATER).await.state, RefundState::Closing, "one raw is leased still");
    store.lease(LeaseRequest { returned: 1, ..call(1, 1, 2) }, LATER).await.unwrap();
    let owed = close(store, 1, LATER).await;
    let expected = RefundRecord {
        sequence: 1,
        capability: id(hash(1)),
        route: for_purse(1).route,
        payment: hash(1),
        account: for_purse(1).payer,
        paid_to: for_purse(1).pay_to,
        amount: Raw::new(USES - 3),
        state: RefundState::Owed,
        block: None,
        closed_at: LATER,
        updated_at: LATER,
    };
    assert_eq!(owed, expected);
    assert_eq!(close(store, 1, LAPSED).await, expected, "as often as one likes");
    assert_eq!(store.refund(id(hash(1))).await, Ok(Some(expected.clone())));
    let all = RefundSearch { limit: 9, ..RefundSearch::default() };
    assert_eq!(store.refunds(&all).await, Ok(vec![expected]));
    let more = store.lease(LeaseRequest { want: 9, ..call(1, 2, 1) }, LATER).await.unwrap();
    assert_eq!((more.granted, more.remaining), (0, 0), "what is owed is in no purse any more");
    let again = store.grant(&for_purse(1), grantee(hash(1), 3, 9), LATER).await.unwrap();
    assert!(matches!(again, Grant::Granted { lease, fresh: false, .. } if lease.granted == 0), "{again:?}");
    assert_eq!(store.inspect().await.unwrap().faults, [""; 0]);
}

async fn what_lapsed_is_owed_and_a_late_report_changes_nothing(store: &Engine) {
    grant(store, &for_purse(1), 4).await;
    let owed = close(store, 1, LAPSED).await;
    assert_eq!((owed.state, owed.amount), (RefundState::Owed, Raw::new(USES)));
    let late = store.lease(LeaseRequest { used: 4, ..call(1, 1, 1) }, LAPSED).await.unwrap();
    assert_eq!((late.granted, late.remaining), (0, 0));
    assert_eq!(close(store, 1, LAPSED).await, owed);
    assert_eq!(store.inspect().await.unwrap().faults, [""; 0]);
}

async fn unused_uses_are_worth_their_part_of_the_price(store: &Engine) {
    // A raw more was paid than the price. It bought nothing.
    let intent = sent(hash(1), 1);
    grant(store, &intent, 4).await;
    store.lease(LeaseRequest { used: 3, returned: 1, ..call(1, 1, 1) }, LATER).await.unwrap();
    let owed = close(store, 1, LATER).await;
    assert_eq!((owed.state, owed.amount.get()), (RefundState::Owed, intent.terms.amount.get() / 10 * 7));
}

async fn what_is_too_little_is_not_owed(store: &Engine) {
    for (number, used, at_least, left) in [(1, USES, 0, 0), (2, 8, 3, 2)] {
        grant(store, &for_purse(number), USES).await;
        let report = LeaseRequest { used, returned: USES - used, ..call(number, 1, 1) };
        store.lease(report, LATER).await.unwrap();
        let closed = store.close_capability(id(hash(number)), Raw::new(at_least), LATER).await.unwrap();
        let Closing::Refund(refund) = closed else { panic!("{closed:?}") };
        assert_eq!((refund.state, refund.amount.get()), (RefundState::Nothing, left));
    }
    // A limit that is lowered later changes nothing.
    assert_eq!(close(store, 2, LATER).await.state, RefundState::Nothing);
    // It was given away.
    let gift = Intent { amount: Raw::ZERO, payer: Account::BURN, ..sent(hash(3), 3) };
    grant(store, &gift, 0).await;
    assert_eq!(close(store, 3, LATER).await.state, RefundState::Nothing);
    assert_eq!(store.take_refunds(LAPSED, 9, LATER).await, Ok(Vec::new()));
}

async fn only_what_is_proven_and_not_revoked_is_closed(store: &Engine) {
    grant(store, &Intent { mechanism: Mechanism::NanoSession, ..for_purse(1) }, 0).await;
    assert_eq!(store.close_capability(id(hash(1)), ONE, LATER).await, Ok(Closing::NotProven));
    let open = store.lease(LeaseRequest { want: 2, ..call(1, 1, 1) }, LATER).await.unwrap();
    assert_eq!(open.granted, 2, "it is as it was");
    grant(store, &for_purse(2), 0).await;
    store.revoke(id(hash(2)), LATER).await.unwrap();
    assert_eq!(store.close_capability(id(hash(2)), ONE, LATER).await, Ok(Closing::Revoked));
    assert_eq!(store.close_capability(id(hash(3)), ONE, LATER).await, Ok(Closing::Unknown));
    for number in 1..=3 {
        assert_eq!(store.refund(id(hash(number))).await, Ok(None));
    }
    // What is closed is owed whatever the operator does later.
    grant(store, &for_purse(4), 0).await;
    let owed = close(store, 4, LATER).await;
    let remark = Remark { who: "me".to_owned(), why: "late".to_owned() };
    assert_eq!(store.revoke_by(id(hash(4)), &remark, LAPSED).await, Ok(true));
    assert_eq!(close(store, 4, LAPSED).await, owed);
}

async fn of_all_blocks_the_journal_takes_one(store: &Engine) {
    grant(store, &for_purse(1), 0).await;
    let name = id(hash(1));
    let owed = close(store, 1, LATER).await;
    let [first, second, third] = [1, 2, 3].map(block);
    let astray = StateBlock { link: [7; 32], ..first };
    let refused = store.sign_refund(name, None, &astray, LATER).await;
    assert!(matches!(refused, Err(StoreError::NotApplied(_))), "{refused:?}");
    assert!(matches!(
        store.sign_refund(id(hash(2)), None, &first, LATER).await,
        Err(StoreError::NotApplied(_))
    ));
    assert_eq!(store.confirm_refund(name, first.hash(), LATER).await, Ok(false), "nothing is signed");
    let signed = store.sign_refund(name, None, &first, LAPSED).await.unwrap();
    let expected =
        RefundRecord { state: RefundState::Signed, block: Some(first), updated_at: LAPSED, ..owed };
    assert_eq!(signed, expected);
    assert_eq!(
        store.sign_refund(name, None, &second, LAPSED).await,
        Ok(expected.clone()),
        "another was faster"
    );
    let wrong = store.sign_refund(name, Some(third.hash()), &second, LAPSED).await;
    assert_eq!(wrong, Ok(expected), "it stands in the place of none that is there");
    let replaced = store.sign_refund(name, Some(first.hash()), &second, LAPSED).await.unwrap();
    assert_eq!(replaced.block, Some(second));
    assert_eq!(store.sign_refund(name, Some(first.hash()), &second, LAPSED).await, Ok(replaced), "repeated");
    assert_eq!(store.confirm_refund(name, first.hash(), LAPSED).await, Ok(false));
    assert_eq!(store.confirm_refund(name, second.hash(), LAPSED).await, Ok(true));
    assert_eq!(store.confirm_refund(name, second.hash(), LAPSED).await, Ok(false), "known");
    let ended = store.sign_refund(name, Some(second.hash()), &third, LAPSED).await.unwrap();
    assert_eq!((ended.state, ended.block), (RefundState::Confirmed, Some(second)));
    assert_eq!(close(store, 1, LAPSED).await, ended);
    assert_eq!(store.take_refunds(LAPSED, 9, LAPSED).await, Ok(Vec::new()));
    let open = RefundSearch { unfinished: true, limit: 9, ..RefundSearch::default() };
    assert_eq!(store.refunds(&open).await, Ok(Vec::new()));
}

async fn a_refund_is_taken_by_one_at_a_time(store: &Engine) {
    for number in 1..=4 {
        grant(store, &for_purse(number), u128::from(number == 4)).await;
        close(store, number, NOW).await;
    }
    store.sign_refund(id(hash(2)), None, &block(1), NOW).await.unwrap();
    let taken = async |most, until, now| -> Vec<u64> {
        let mut found: Vec<_> =
            store.take_refunds(until, most, now).await.unwrap().iter().map(|it| it.sequence).collect();
        found.sort_unstable();
        found
    };
    assert_eq!(taken(2, LATER, NOW).await, [1, 2], "the oldest first, signed or not");
    assert_eq!(taken(9, LAPSED, NOW).await, [3], "one is closing");
    assert_eq!(taken(9, LAPSED, NOW).await, [0; 0]);
    assert_eq!(taken(9, LAPSED, LATER).await, [1, 2], "their time is over");
    let pages = RefundSearch { after: Some(1), limit: 2, ..RefundSearch::default() };
    let page = store.refunds(&pages).await.unwrap();
    assert_eq!(page.iter().map(|it| it.sequence).collect::<Vec<_>>(), [2, 3]);
    let closing = RefundSearch { state: Some(RefundState::Closing), limit: 9, ..RefundSearch::default() };
    let page = store.refunds(&closing).await.unwrap();
    assert_eq!(page.iter().map(|it| it.sequence).collect::<Vec<_>>(), [4]);
}

async fn purses_that_have_run_out_are_found_until_they_are_closed(store: &Engine) {
    // One of uses, one that is spent, one that is revoked, two that are neither.
    grant(store, &sent(hash(1), 1), 0).await;
    for number in 2..=5 {
        let mut intent = for_purse(number);
        if number == 4 {
            // It was to be added to a purse that is not open.
            intent.route = intent.route.adding_to([9; 16]);
        }
        grant(store, &intent, USES).await;
        let used = if number == 2 { USES } else { 1 };
        let report = LeaseRequest { used, returned: USES - used, ..call(number, 1, 1) };
        store.lease(report, LATER).await.unwrap();
    }
    store.revoke(id(hash(3)), LATER).await.unwrap();
    let start = ExpiryMark::default();
    let over = NOW.plus(GOOD_FOR);
    assert_eq!(store.expired_purses(start, 9, UnixSeconds(over.0 - 1)).await, Ok(Vec::new()));
    let found = store.expired_purses(start, 9, over).await.unwrap();
    assert_eq!(found.iter().map(|it| it.capability).collect::<Vec<_>>(), [4, 5].map(|it| id(hash(it))));
    assert_eq!(found[0].route, for_purse(4).route);
    let rest = store.expired_purses(found[0].mark, 9, over).await.unwrap();
    assert_eq!(rest, found[1..]);
    assert_eq!(store.expired_purses(start, 1, over).await.unwrap(), found[..1]);
    let owed = close(store, 4, over).await;
    assert_eq!((owed.state, owed.amount), (RefundState::Owed, Raw::new(USES - 1)));
    assert_eq!(owed.route, for_purse(4).route);
    assert_eq!(store.expired_purses(start, 9, over).await.unwrap(), found[1..]);
}

/// Instances lease, spend and hand back while others close: what is spent and what is owed is what was paid.
async fn nothing_is_both_spent_and_owed(store: &Arc<Engine>) {
    let stock = 1000;
    let intent = Intent { terms: purse(), amount: Raw::new(stock), ..sent(hash(1), 1) };
    grant(store, &intent, 0).await;
    let instances = (1..=6_u8).map(|by| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            let (mut spent, mut out) = (0, 0);
            for sequence in 1..=12_u64 {
                let used = out / 2;
                let is_last = sequence == 12;
                let request = LeaseRequest {
                    used,
                    returned: if is_last { out - used } else { 0 },
                    want: if is_last { 0 } else { 7 },
                    ..call(1, by, sequence)
                };
                let lease = store.lease(request, LATER).await.unwrap();
                spent += used;
                out = out - request.used - request.returned + lease.granted;
            }
            assert_eq!(out, 0);
            spent
        })
    });
    let instances: Vec<_> = instances.collect();
    let closers: Vec<_> = (0..4)
        .map(|_| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                store.close_capability(id(hash(1)), ONE, LATER).await.unwrap()
            })
        })
        .collect();
    let mut spent = 0;
    for instance in instances {
        spent += instance.await.unwrap();
    }
    for closer in closers {
        assert!(matches!(closer.await.unwrap(), Closing::Refund(_)));
    }
    let owed = close(store, 1, LATER).await;
    assert_eq!((owed.state, owed.amount.get() + spent), (RefundState::Owed, stock));
    assert_eq!(store.inspect().await.unwrap().faults, [""; 0]);
}

macro_rules! hold {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("store.db");
                let store = super::SqliteStore::open(&path, super::SqliteOptions::default()).unwrap();
                let store = std::sync::Arc::new(super::Engine::from(store));
                super::$name(&store).await;
                store.close().await;
            })*
        }

        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                let Some(database) = crate::store::cluster::database().await else { return };
                let store: super::PostgresStore = database.open().await;
                let store = std::sync::Arc::new(super::Engine::from(store));
                super::$name(&store).await;
                store.close().await;
            })*
        }
    };
}

hold! {
    what_is_left_is_owed_once_nothing_is_leased,
    what_lapsed_is_owed_and_a_late_report_changes_nothing,
    unused_uses_are_worth_their_part_of_the_price,
    what_is_too_little_is_not_owed,
    only_what_is_proven_and_not_revoked_is_closed,
    of_all_blocks_the_journal_takes_one,
    a_refund_is_taken_by_one_at_a_time,
    purses_that_have_run_out_are_found_until_they_are_closed,
    nothing_is_both_spent_and_owed,
}
