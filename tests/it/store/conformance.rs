//! The contract of `Store`, one sentence for each test. Each test is a function of any store. The macro at
//! the end runs all of them over the model, SQLite and PostgreSQL.

mod identifiers;

use std::sync::Arc;

use faregate::nano::Raw;
use faregate::nano::{BlockHash, UnixSeconds};
use faregate::routes::{Grants, Terms, Unit};
use faregate::store::{
    Begin, CLOCK_GRACE, CapabilityRecord, Filter, Grant, Grantee, Health, Intent, Lease, LeaseRequest,
    PaymentRecord, PaymentState, Store, StoreError, Unsound,
};

use self::identifiers::{
    a_failed_payment_gives_its_id_up, a_held_frontier_costs_nobody_his_id,
    a_parked_payment_gives_its_id_to_one_on_its_frontier_only,
    a_parked_payment_has_its_id_back_where_the_next_failed, a_parked_payment_that_is_granted_has_its_id_back,
    an_id_goes_on_along_one_frontier, ids_and_answers_are_let_go_in_their_time_and_in_bites,
    of_many_payments_under_one_id_one_is_made, of_two_payments_under_one_id_the_first_holds_it,
    the_first_answer_to_a_granted_payment_is_kept,
};
use super::samples::{GOOD_FOR, NOW, USES, grantee, hash, holder, id, purse, sent, signed};

const LATER: UnixSeconds = UnixSeconds(NOW.0 + 5);

async fn begun(store: &impl Store, intent: &Intent) -> PaymentRecord {
    match store.begin(intent, NOW).await.unwrap() {
        Begin::Fresh(payment) => payment,
        other @ (Begin::Existing(_) | Begin::FrontierHeld(_) | Begin::IdHeld(_) | Begin::Spent) => {
            panic!("not fresh: {other:?}")
        }
    }
}

async fn granted(
    store: &impl Store,
    intent: &Intent,
    by: u8,
    want: u128,
    ttl: u64,
) -> (CapabilityRecord, Lease, bool) {
    match store.grant(intent, Grantee { ttl, ..grantee(intent.block, by, want) }, NOW).await.unwrap() {
        Grant::Granted { record, lease, fresh } => (record, lease, fresh),
        other @ (Grant::Taken | Grant::IdHeld(_)) => panic!("{other:?}"),
    }
}

/// A report by holder `by` on what `block` bought.
fn report(block: BlockHash, by: u8, sequence: u64, used: u128, returned: u128, want: u128) -> LeaseRequest {
    LeaseRequest {
        capability: id(block),
        holder: holder(by),
        sequence,
        used,
        returned,
        broken: 0,
        want,
        ttl: 30,
    }
}

/// The answer about a capability that is not revoked.
const fn lent(granted: u128, remaining: u128, elsewhere: u128, expires_at: UnixSeconds) -> Lease {
    Lease { granted, remaining, elsewhere, broken: 0, expires_at, revoked: false }
}

fn is_unfit<T>(answer: &Result<T, StoreError>) -> bool {
    matches!(answer, Err(StoreError::NotApplied(_)))
}

async fn state_of(store: &impl Store, block: BlockHash) -> PaymentState {
    store.payment(block).await.unwrap().unwrap().state
}

async fn an_intent_is_kept_to_the_last_bit<S: Store>(store: Arc<S>) {
    let with_work = signed(hash(1), hash(100), 1);
    let mut without_work = signed(hash(2), hash(101), 1);
    without_work.signed.as_mut().unwrap().work = None;
    let sent = sent(hash(3), 1);
    for (place, intent) in [with_work, without_work, sent].into_iter().enumerate() {
        let payment = begun(&*store, &intent).await;
        assert_eq!(payment.sequence, place as u64 + 1);
        assert_eq!(payment.intent, intent);
        assert_eq!((payment.created_at, payment.updated_at), (NOW, NOW));
        assert_eq!(store.payment(intent.block).await.unwrap(), Some(payment));
    }
}

async fn a_repeated_intent_is_existing<S: Store>(store: Arc<S>) {
    let intent = signed(hash(1), hash(100), 1);
    let first = begun(&*store, &intent).await;
    assert_eq!(store.begin(&intent, LATER).await, Ok(Begin::Existing(first.clone())));
    let stranger = signed(hash(1), hash(100), 2);
    assert_eq!(store.begin(&stranger, LATER).await, Ok(Begin::Existing(first)), "the first claim stands");
}

async fn a_live_intent_holds_its_frontier<S: Store>(store: Arc<S>) {
    begun(&*store, &signed(hash(1), hash(100), 1)).await;
    let fork = signed(hash(2), hash(100), 2);
    assert_eq!(store.begin(&fork, LATER).await, Ok(Begin::FrontierHeld(hash(1))));
    assert_eq!(store.payment(hash(2)).await, Ok(None), "and nothing is claimed");
    for let_go in [PaymentState::Parked, PaymentState::Failed] {
        let from = [PaymentState::Intent, PaymentState::Parked];
        assert_eq!(store.advance(hash(1), &from, let_go, LATER).await, Ok(true));
    }
    begun(&*store, &fork).await;
}

async fn a_granted_payment_holds_no_frontier<S: Store>(store: Arc<S>) {
    let intent = signed(hash(1), hash(100), 1);
    begun(&*store, &intent).await;
    granted(&*store, &intent, 1, 1, 30).await;
    begun(&*store, &signed(hash(2), hash(100), 2)).await;
}

async fn payments_without_a_block_share_no_frontier<S: Store>(store: Arc<S>) {
    begun(&*store, &sent(hash(1), 1)).await;
    begun(&*store, &sent(hash(2), 2)).await;
}

async fn a_parked_intent_lives_again_under_its_challenge<S: Store>(store: Arc<S>) {
    let intent = signed(hash(1), hash(100), 1);
    begun(&*store, &intent).await;
    store.advance(hash(1), &[PaymentState::Intent], PaymentState::Parked, NOW).await.unwrap();
    let stranger = signed(hash(1), hash(100), 2);
    assert!(
        matches!(store.begin(&stranger, LATER).await, Ok(Begin::Existing(it)) if it.state == PaymentState::Parked)
    );
    let Begin::Fresh(again) = store.begin(&intent, LATER).await.unwrap() else { panic!("not fresh") };
    assert_eq!((again.sequence, again.state), (1, PaymentState::Intent));
    assert_eq!((again.created_at, again.updated_at), (NOW, LATER));
    let fork = signed(hash(2), hash(100), 3);
    assert_eq!(
        store.begin(&fork, LATER).await,
        Ok(Begin::FrontierHeld(hash(1))),
        "it holds its frontier again"
    );
}

async fn a_parked_intent_waits_while_another_holds_its_frontier<S: Store>(store: Arc<S>) {
    let intent = signed(hash(1), hash(100), 1);
    begun(&*store, &intent).await;
    store.advance(hash(1), &[PaymentState::Intent], PaymentState::Parked, NOW).await.unwrap();
    begun(&*store, &signed(hash(2), hash(100), 2)).await;
    assert_eq!(store.begin(&intent, LATER).await, Ok(Begin::FrontierHeld(hash(2))));
    let revived = store.advance(hash(1), &[PaymentState::Parked], PaymentState::Intent, LATER).await;
    assert!(is_unfit(&revived), "{revived:?}");
    assert_eq!(state_of(&*store, hash(1)).await, PaymentState::Parked);
}

async fn a_parked_intent_is_moved_back_to_a_free_frontier<S: Store>(store: Arc<S>) {
    let intent = signed(hash(1), hash(100), 1);
    begun(&*store, &intent).await;
    store.advance(hash(1), &[PaymentState::Intent], PaymentState::Parked, NOW).await.unwrap();
    let back = store.advance(hash(1), &[PaymentState::Parked], PaymentState::Intent, LATER).await;
    assert_eq!(back, Ok(true));
    let again = store.advance(hash(1), &[PaymentState::Intent], PaymentState::Intent, LATER).await;
    assert_eq!(again, Ok(true), "it is no rival of itself");
    let fork = signed(hash(2), hash(100), 2);
    assert_eq!(store.begin(&fork, LATER).await, Ok(Begin::FrontierHeld(hash(1))));
}

async fn a_failed_intent_stays_failed_for_begin<S: Store>(store: Arc<S>) {
    let intent = signed(hash(1), hash(100), 1);
    begun(&*store, &intent).await;
    store.advance(hash(1), &[PaymentState::Intent], PaymentState::Failed, NOW).await.unwrap();
    assert!(
        matches!(store.begin(&intent, LATER).await, Ok(Begin::Existing(it)) if it.state == PaymentState::Failed)
    );
}

async fn advance_moves_only_from_where_the_caller_saw_it<S: Store>(store: Arc<S>) {
    begun(&*store, &signed(hash(1), hash(100), 1)).await;
    let parked = [PaymentState::Parked];
    assert_eq!(store.advance(hash(1), &parked, PaymentState::Failed, LATER).await, Ok(false));
    assert_eq!(store.advance(hash(1), &[], PaymentState::Failed, LATER).await, Ok(false));
    assert_eq!(state_of(&*store, hash(1)).await, PaymentState::Intent);
    let live = [PaymentState::Parked, PaymentState::Intent];
    assert_eq!(store.advance(hash(1), &live, PaymentState::Parked, LATER).await, Ok(true));
    assert_eq!(store.payment(hash(1)).await.unwrap().unwrap().updated_at, LATER);
    assert_eq!(
        store.advance(hash(9), &live, PaymentState::Failed, LATER).await,
        Ok(false),
        "no such payment"
    );
}

async fn nothing_but_a_grant_grants<S: Store>(store: Arc<S>) {
    begun(&*store, &signed(hash(1), hash(100), 1)).await;
    let forced = store.advance(hash(1), &[PaymentState::Intent], PaymentState::Granted, LATER).await;
    assert!(is_unfit(&forced), "{forced:?}");
    assert_eq!(state_of(&*store, hash(1)).await, PaymentState::Intent);
}

async fn a_granted_payment_is_never_moved<S: Store>(store: Arc<S>) {
    let intent = sent(hash(1), 1);
    granted(&*store, &intent, 1, 1, 30).await;
    let all = [PaymentState::Intent, PaymentState::Parked, PaymentState::Granted, PaymentState::Failed];
    for to in [PaymentState::Intent, PaymentState::Parked, PaymentState::Failed] {
        assert_eq!(store.advance(hash(1), &all, to, LATER).await, Ok(false));
    }
    assert_eq!(state_of(&*store, hash(1)).await, PaymentState::Granted);
}

async fn a_grant_makes_the_capability_of_the_terms<S: Store>(store: Arc<S>) {
    let intent = sent(hash(1), 1);
    let (record, lease, fresh) = granted(&*store, &intent, 1, 4, 30).await;
    assert!(fresh);
    let expected = CapabilityRecord {
        id: id(hash(1)),
        block: hash(1),
        route: intent.route.clone(),
        unit: Unit::Use,
        stock: USES,
        expires_at: NOW.plus(GOOD_FOR),
        revoked: false,
        added_to: None,
    };
    assert_eq!(record, expected);
    assert_eq!(lease, lent(4, USES - 4, 0, NOW.plus(30)));
    assert_eq!(store.capability(id(hash(1))).await, Ok(Some(expected)));
    assert_eq!(state_of(&*store, hash(1)).await, PaymentState::Granted, "without an intent before it");
}

async fn a_grant_leases_no_more_than_was_bought<S: Store>(store: Arc<S>) {
    let (_, lease, _) = granted(&*store, &sent(hash(1), 1), 1, u128::MAX, 30).await;
    assert_eq!((lease.granted, lease.remaining), (USES, 0));
}

async fn a_repeated_grant_gets_the_first_answer<S: Store>(store: Arc<S>) {
    let intent = sent(hash(1), 1);
    let (record, lease, _) = granted(&*store, &intent, 1, 4, 30).await;
    let again = store.grant(&intent, grantee(hash(1), 1, 4), LATER).await.unwrap();
    assert_eq!(again, Grant::Granted { record: record.clone(), lease, fresh: false });
    let under_another_name = store.grant(&intent, grantee(hash(9), 1, 4), LATER).await.unwrap();
    assert_eq!(under_another_name, Grant::Granted { record, lease, fresh: false }, "keys were rotated");
    assert_eq!(store.capability(id(hash(9))).await, Ok(None));
}

async fn a_grant_repeated_elsewhere_leases_there<S: Store>(store: Arc<S>) {
    let intent = sent(hash(1), 1);
    granted(&*store, &intent, 1, 4, 30).await;
    let (_, lease, fresh) = granted(&*store, &intent, 2, 4, 30).await;
    assert!(!fresh);
    assert_eq!((lease.granted, lease.remaining, lease.elsewhere), (4, 2, 4));
}

async fn a_grant_repeated_late_hands_out_nothing<S: Store>(store: Arc<S>) {
    let intent = sent(hash(1), 1);
    granted(&*store, &intent, 1, 4, 30).await;
    store.lease(report(hash(1), 1, 1, 1, 0, 0), LATER).await.unwrap();
    let (_, lease, _) = granted(&*store, &intent, 1, 4, 30).await;
    assert_eq!((lease.granted, lease.remaining), (0, USES - 4));
}

async fn another_challenge_finds_the_hash_taken<S: Store>(store: Arc<S>) {
    begun(&*store, &signed(hash(1), hash(100), 1)).await;
    granted(&*store, &sent(hash(2), 1), 1, 1, 30).await;
    for thief in [signed(hash(1), hash(100), 2), sent(hash(1), 2), sent(hash(2), 2)] {
        assert_eq!(store.grant(&thief, grantee(thief.block, 2, 1), LATER).await, Ok(Grant::Taken));
    }
    assert_eq!(state_of(&*store, hash(1)).await, PaymentState::Intent);
    assert_eq!(store.capability(id(hash(1))).await, Ok(None));
}

async fn parked_and_failed_intents_are_granted_after_all<S: Store>(store: Arc<S>) {
    for (number, gone) in [(1, PaymentState::Parked), (2, PaymentState::Failed)] {
        let intent = signed(hash(number), hash(100 + number), 1);
        begun(&*store, &intent).await;
        store.advance(intent.block, &[PaymentState::Intent], gone, NOW).await.unwrap();
        let (_, lease, fresh) = granted(&*store, &intent, 1, 1, 30).await;
        assert!(fresh);
        assert_eq!(lease.granted, 1);
        let payment = store.payment(intent.block).await.unwrap().unwrap();
        assert_eq!((payment.sequence, payment.state), (u64::from(number), PaymentState::Granted));
    }
}

async fn one_id_names_one_capability<S: Store>(store: Arc<S>) {
    granted(&*store, &sent(hash(1), 1), 1, 1, 30).await;
    let second = store.grant(&sent(hash(2), 1), grantee(hash(1), 1, 1), NOW).await;
    assert!(is_unfit(&second), "{second:?}");
    assert_eq!(store.payment(hash(2)).await, Ok(None), "and the whole step is undone");
}

async fn a_lease_counts_what_was_spent_and_handed_back<S: Store>(store: Arc<S>) {
    granted(&*store, &sent(hash(1), 1), 1, 6, 30).await;
    let lease = store.lease(report(hash(1), 1, 1, 2, 3, 0), LATER).await.unwrap();
    assert_eq!(lease, lent(0, 7, 0, LATER.plus(30)));
    let other = store.lease(report(hash(1), 2, 1, 0, 0, 99), LATER).await.unwrap();
    assert_eq!((other.granted, other.remaining, other.elsewhere), (7, 0, 1));
}

async fn a_repeated_report_counts_once<S: Store>(store: Arc<S>) {
    granted(&*store, &sent(hash(1), 1), 1, 6, 30).await;
    let request = report(hash(1), 1, 1, 2, 0, 3);
    let first = store.lease(request, LATER).await.unwrap();
    let far = NOW.plus(50);
    assert_eq!(store.lease(request, far).await, Ok(first), "even when the lease has lapsed");
    let stale = store.lease(report(hash(1), 1, 0, 0, 0, 1), far).await;
    assert!(is_unfit(&stale), "{stale:?}");
    let next = store.lease(report(hash(1), 1, 2, 7, 0, 0), LATER).await.unwrap();
    assert_eq!(next.remaining, USES - 9, "2 and 7 are spent, nothing twice");
}

async fn a_purse_is_counted_in_raw<S: Store>(store: Arc<S>) {
    // Of the price and what was paid beyond it, all is in the purse.
    let terms = Terms { amount: Raw::new(USES - 2), ..purse() };
    let intent = Intent { terms, amount: Raw::new(USES), ..sent(hash(1), 1) };
    let (record, lease, _) = granted(&*store, &intent, 1, 4, 30).await;
    assert_eq!((record.unit, record.stock, record.uses()), (Unit::Raw, USES, 0));
    assert_eq!(lease, lent(4, USES - 4, 0, NOW.plus(30)));
    assert_eq!(store.capability(id(hash(1))).await, Ok(Some(record)));
    assert_eq!(store.payment(hash(1)).await.unwrap().unwrap().intent, intent);
    let other = store.lease(report(hash(1), 2, 1, 0, 0, 99), LATER).await.unwrap();
    assert_eq!((other.granted, other.remaining, other.elsewhere), (USES - 4, 0, 4));
    let spent = store.lease(report(hash(1), 1, 1, 3, 1, 0), LATER).await.unwrap();
    assert_eq!((spent.granted, spent.remaining, spent.elsewhere), (0, 1, USES - 4));
}

async fn a_payment_is_added_to_the_purse_that_it_names<S: Store>(store: Arc<S>) {
    let of_purse = |number| Intent { terms: purse(), amount: purse().amount, ..sent(hash(number), number) };
    let first = of_purse(1);
    let (own, ..) = granted(&*store, &first, 1, 2, 30).await;
    let naming = |number: u8| {
        let intent = of_purse(number);
        Intent { route: intent.route.adding_to(own.id.0), ..intent }
    };
    // One that is granted at once, and one from the journal.
    for (number, journalled) in [(2, false), (3, true)] {
        let intent = naming(number);
        if journalled {
            assert!(matches!(store.begin(&intent, NOW).await, Ok(Begin::Fresh(_))));
        }
        let stock = USES * u128::from(number);
        let later = NOW.plus(u64::from(number));
        for fresh in [true, false] {
            let grant = store.grant(&intent, grantee(hash(number), 1, 0), later).await;
            let Ok(Grant::Granted { record, lease, fresh: was }) = grant else { panic!("{grant:?}") };
            assert_eq!((record.stock, record.added_to, was), (0, Some(own.id), fresh), "{number}");
            assert_eq!((lease.granted, lease.remaining), (0, 0));
            assert_eq!(record.route, first.route, "the purse is no part of what it is for");
            let now = store.capability(own.id).await.unwrap().unwrap();
            assert_eq!(
                (now.stock, now.expires_at),
                (stock, later.plus(GOOD_FOR)),
                "added once, and good as long"
            );
            assert_eq!(store.capability(record.id).await, Ok(Some(record)));
        }
    }
    let lease = store.lease(report(hash(1), 1, 1, 0, 0, u128::MAX), NOW).await.unwrap();
    assert_eq!((lease.granted, lease.remaining), (3 * USES - 2, 0));
    // What cannot be added is a purse of its own: nothing of it is lost.
    assert_eq!(store.revoke(own.id, NOW).await, Ok(true));
    let nobodys = Intent { route: of_purse(5).route.adding_to([9; 16]), ..of_purse(5) };
    let of_uses = Intent { terms: sent(hash(6), 6).terms, ..naming(6) };
    for (number, intent) in [(4, naming(4)), (5, nobodys), (6, of_uses)] {
        let (record, lease, fresh) = granted(&*store, &intent, 1, 1, 30).await;
        assert_eq!((record.stock, record.added_to, fresh), (USES, None, true), "{number}");
        assert_eq!((lease.granted, lease.remaining), (1, USES - 1), "{number}");
    }
}

/// A purse with all the money there is, of which single raw are spent. The model counts them one by one.
pub(crate) async fn a_purse_holds_amounts_of_any_size<S: Store>(store: Arc<S>) {
    let all = u128::MAX;
    let terms = Terms { amount: Raw::new(all), grants: Grants::of_balance(GOOD_FOR) };
    let intent = Intent { terms, amount: Raw::new(all), ..sent(hash(1), 1) };
    let (record, lease, _) = granted(&*store, &intent, 1, all / 2, 30).await;
    assert_eq!((record.stock, lease), (all, lent(all / 2, all / 2 + 1, 0, NOW.plus(30))));
    let other = store.lease(report(hash(1), 2, 1, 0, 0, 7), LATER).await.unwrap();
    assert_eq!((other.granted, other.remaining, other.elsewhere), (7, all / 2 - 6, all / 2));
    let spent = store.lease(report(hash(1), 1, 1, all / 2 - 1, 1, 0), LATER).await.unwrap();
    assert_eq!((spent.granted, spent.remaining, spent.elsewhere), (0, all / 2 - 5, 7));
    let (again, ..) = granted(&*store, &intent, 3, 1, 30).await;
    assert_eq!(again, record);
    let rest = store.lease(report(hash(1), 3, 1, 1, 0, all), LATER).await.unwrap();
    assert_eq!((rest.granted, rest.remaining), (all / 2 - 6, 0));
    let last = store.lease(report(hash(1), 3, 2, all / 2 - 6, 0, 1), LATER).await.unwrap();
    assert_eq!((last.granted, last.remaining, last.elsewhere), (0, 0, 7));
}

async fn nobody_reports_more_than_it_has<S: Store>(store: Arc<S>) {
    granted(&*store, &sent(hash(1), 1), 1, 4, 30).await;
    for (used, returned) in [(5, 0), (0, 5), (3, 2), (u128::MAX, u128::MAX)] {
        let answer = store.lease(report(hash(1), 1, 1, used, returned, 0), LATER).await;
        assert!(is_unfit(&answer), "{answer:?}");
    }
    let stranger = store.lease(report(hash(1), 2, 1, 1, 0, 0), LATER).await;
    assert!(is_unfit(&stranger), "{stranger:?}");
    let honest = store.lease(report(hash(1), 1, 1, 4, 0, 0), LATER).await.unwrap();
    assert_eq!(honest.remaining, USES - 4, "the refused reports left no trace");
}

async fn a_lapsed_lease_goes_back<S: Store>(store: Arc<S>) {
    granted(&*store, &sent(hash(1), 1), 1, USES, 30).await;
    let before = store.lease(report(hash(1), 2, 1, 0, 0, 5), NOW.plus(29)).await.unwrap();
    assert_eq!((before.granted, before.remaining, before.elsewhere), (0, 0, USES));
    let after = store.lease(report(hash(1), 2, 2, 0, 0, 4), NOW.plus(30)).await.unwrap();
    assert_eq!((after.granted, after.remaining, after.elsewhere), (4, USES - 4, 0));
}

async fn a_call_renews_the_lease<S: Store>(store: Arc<S>) {
    granted(&*store, &sent(hash(1), 1), 1, USES, 30).await;
    store.lease(report(hash(1), 1, 1, 0, 0, 0), NOW.plus(20)).await.unwrap();
    let other = store.lease(report(hash(1), 2, 1, 0, 0, 1), NOW.plus(40)).await.unwrap();
    assert_eq!((other.granted, other.elsewhere), (0, USES));
}

async fn a_late_report_counts_as_far_as_uses_remain<S: Store>(store: Arc<S>) {
    granted(&*store, &sent(hash(1), 1), 1, 6, 30).await;
    let other = store.lease(report(hash(1), 2, 1, 0, 0, 8), NOW.plus(30)).await.unwrap();
    assert_eq!((other.granted, other.remaining), (8, 2), "the six are back");
    let late = store.lease(report(hash(1), 1, 1, 5, 1, 9), NOW.plus(31)).await.unwrap();
    assert_eq!(late, lent(0, 0, 8, NOW.plus(61)));
    let again = store.lease(report(hash(1), 1, 2, 1, 0, 0), NOW.plus(31)).await;
    assert!(is_unfit(&again), "all six are accounted for: {again:?}");
    let rest = store.lease(report(hash(1), 2, 2, 8, 0, 9), NOW.plus(32)).await.unwrap();
    assert_eq!((rest.granted, rest.remaining), (0, 0));
}

async fn an_expired_capability_takes_reports_only<S: Store>(store: Arc<S>) {
    granted(&*store, &sent(hash(1), 1), 1, 4, 1000).await;
    let last = store.lease(report(hash(1), 2, 1, 0, 0, 1), NOW.plus(GOOD_FOR - 1)).await.unwrap();
    assert_eq!(last.granted, 1);
    let over = NOW.plus(GOOD_FOR);
    let lease = store.lease(report(hash(1), 1, 1, 2, 2, 5), over).await.unwrap();
    assert_eq!((lease.granted, lease.remaining), (0, USES - 3));
    let (_, joined, fresh) = granted(&*store, &sent(hash(1), 1), 1, 5, 30).await;
    assert_eq!((joined.granted, fresh), (0, false));
}

async fn a_revoked_capability_takes_reports_only<S: Store>(store: Arc<S>) {
    granted(&*store, &sent(hash(1), 1), 1, 4, 30).await;
    assert_eq!(store.revoke(id(hash(1)), LATER).await, Ok(true));
    assert_eq!(store.revoke(id(hash(1)), LATER).await, Ok(true), "as often as one likes");
    assert_eq!(store.revoke(id(hash(2)), LATER).await, Ok(false));
    assert!(store.capability(id(hash(1))).await.unwrap().unwrap().revoked);
    let lease = store.lease(report(hash(1), 1, 1, 3, 0, 5), LATER).await.unwrap();
    assert_eq!((lease.granted, lease.remaining, lease.revoked), (0, USES - 4, true));
    let (record, joined, _) = granted(&*store, &sent(hash(1), 1), 2, 5, 30).await;
    assert_eq!((joined.granted, joined.revoked, record.revoked), (0, true, true));
}

async fn broken_answers_are_counted_until_a_use_is_spent<S: Store>(store: Arc<S>) {
    granted(&*store, &sent(hash(1), 1), 1, 3, 30).await;
    let breaks =
        |by, sequence, used, broken| LeaseRequest { broken, ..report(hash(1), by, sequence, used, 0, 1) };
    let count = async |request| store.lease(request, LATER).await.unwrap().broken;
    assert_eq!(count(breaks(1, 1, 0, 1)).await, 1);
    assert_eq!(count(breaks(2, 1, 0, 1)).await, 2, "of all holders");
    assert_eq!(count(breaks(1, 1, 0, 1)).await, 1, "a repeat gets the same answer");
    assert_eq!(count(breaks(1, 2, 0, 0)).await, 2, "and counts nothing");
    assert_eq!(count(breaks(1, 3, 1, 1)).await, 1, "what was used came before");
    let (_, joined, _) = granted(&*store, &sent(hash(1), 1), 3, 1, 30).await;
    assert_eq!(joined.broken, 1);
    assert_eq!(count(breaks(2, 2, 1, 0)).await, 0);
}

async fn a_repeated_report_tells_a_revocation_since<S: Store>(store: Arc<S>) {
    granted(&*store, &sent(hash(1), 1), 1, 4, 30).await;
    let request = report(hash(1), 1, 1, 1, 0, 2);
    let first = store.lease(request, LATER).await.unwrap();
    store.revoke(id(hash(1)), LATER).await.unwrap();
    assert_eq!(store.lease(request, LATER).await, Ok(Lease { revoked: true, ..first }));
    granted(&*store, &sent(hash(2), 1), 1, 4, 30).await;
    store.revoke(id(hash(2)), LATER).await.unwrap();
    let (_, again, _) = granted(&*store, &sent(hash(2), 1), 1, 4, 30).await;
    assert_eq!((again.granted, again.revoked), (4, true), "the first answer, and what happened since");
}

async fn a_marked_hash_is_never_redeemed<S: Store>(store: Arc<S>) {
    assert_eq!(store.mark_spent(hash(1), NOW).await, Ok(true));
    assert_eq!(store.mark_spent(hash(1), LATER).await, Ok(false), "marked already");
    let intent = signed(hash(1), hash(100), 1);
    assert_eq!(store.begin(&intent, NOW).await, Ok(Begin::Spent));
    assert_eq!(store.grant(&intent, grantee(hash(1), 1, 1), NOW).await, Ok(Grant::Taken));
    assert_eq!(store.payment(hash(1)).await, Ok(None), "the journal has no such payment");
    assert_eq!(store.capability(id(hash(1))).await, Ok(None));
    assert_eq!(store.scan(0, Filter::default(), 9).await, Ok(vec![]));
    begun(&*store, &signed(hash(2), hash(100), 1)).await;
    granted(&*store, &sent(hash(3), 1), 1, 1, 30).await;
    assert_eq!(store.mark_spent(hash(2), LATER).await, Ok(false), "claimed by an intent");
    assert_eq!(store.mark_spent(hash(3), LATER).await, Ok(false), "claimed by a grant");
    assert_eq!(state_of(&*store, hash(2)).await, PaymentState::Intent);
    granted(&*store, &signed(hash(2), hash(100), 1), 1, 1, 30).await;
}

async fn of_a_mark_and_many_grants_one_has_the_hash<S: Store>(store: Arc<S>) {
    for number in 1..9 {
        let marking = tokio::spawn({
            let store = Arc::clone(&store);
            async move { store.mark_spent(hash(number), NOW).await.unwrap() }
        });
        let grants: Vec<_> = (0..8)
            .map(|by| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    store.grant(&sent(hash(number), 1), grantee(hash(number), by, 1), NOW).await.unwrap()
                })
            })
            .collect();
        let mut fresh = u32::from(marking.await.unwrap());
        for grant in grants {
            fresh += u32::from(matches!(grant.await.unwrap(), Grant::Granted { fresh: true, .. }));
        }
        assert_eq!(fresh, 1, "{number}");
    }
}

async fn a_lease_of_nothing_is_refused<S: Store>(store: Arc<S>) {
    let unknown = store.lease(report(hash(1), 1, 1, 0, 0, 1), NOW).await;
    assert!(is_unfit(&unknown), "{unknown:?}");
    granted(&*store, &sent(hash(1), 1), 1, 0, 30).await;
    let unnumbered = store.lease(report(hash(1), 2, 0, 0, 0, 1), NOW).await;
    assert!(is_unfit(&unnumbered), "{unnumbered:?}");
}

async fn a_scan_reads_the_journal_in_order<S: Store>(store: Arc<S>) {
    for number in 1..=5 {
        begun(&*store, &signed(hash(number), hash(100 + number), 1)).await;
    }
    store.advance(hash(2), &[PaymentState::Intent], PaymentState::Parked, NOW).await.unwrap();
    store.advance(hash(3), &[PaymentState::Intent], PaymentState::Failed, NOW).await.unwrap();
    granted(&*store, &signed(hash(4), hash(104), 1), 1, 1, 30).await;
    let places = async |after, state, limit| {
        let found = store.scan(after, Filter { state }, limit).await.unwrap();
        found.iter().map(|payment| payment.sequence).collect::<Vec<_>>()
    };
    assert_eq!(places(0, None, 99).await, [1, 2, 3, 4, 5]);
    assert_eq!(places(1, None, 2).await, [2, 3]);
    assert_eq!(places(0, Some(PaymentState::Intent), 99).await, [1, 5]);
    assert_eq!(places(1, Some(PaymentState::Intent), 99).await, [5]);
    assert_eq!(places(0, Some(PaymentState::Parked), 99).await, [2]);
    assert_eq!(places(0, Some(PaymentState::Failed), 99).await, [3]);
    assert_eq!(places(0, Some(PaymentState::Granted), 99).await, [4]);
    assert_eq!(places(5, None, 99).await, [0; 0]);
    assert_eq!(places(u64::MAX, None, usize::MAX).await, [0; 0]);
    assert_eq!(places(0, None, 0).await, [0; 0]);
}

async fn of_many_grants_of_one_hash_one_is_fresh<S: Store>(store: Arc<S>) {
    let tasks: Vec<_> = (0..64)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let challenge = number % 2;
                let intent = sent(hash(1), challenge);
                (challenge, store.grant(&intent, grantee(hash(1), number, 1), NOW).await.unwrap())
            })
        })
        .collect();
    let (mut fresh, mut leased, mut winners) = (0, 0, Vec::new());
    for task in tasks {
        if let (challenge, Grant::Granted { lease, fresh: first, .. }) = task.await.unwrap() {
            fresh += u32::from(first);
            leased += lease.granted;
            winners.push(challenge);
        }
    }
    assert_eq!(fresh, 1);
    assert_eq!(leased, USES, "what was bought, and no more");
    assert_eq!(winners.len(), 32);
    assert!(winners.iter().all(|challenge| *challenge == winners[0]), "one challenge has it");
}

async fn of_many_intents_on_one_frontier_one_is_fresh<S: Store>(store: Arc<S>) {
    let tasks: Vec<_> = (1..=64)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.begin(&signed(hash(number), hash(100), 1), NOW).await.unwrap() })
        })
        .collect();
    let (mut fresh, mut held) = (Vec::new(), Vec::new());
    for task in tasks {
        match task.await.unwrap() {
            Begin::Fresh(payment) => fresh.push(payment.intent.block),
            Begin::FrontierHeld(by) => held.push(by),
            other @ (Begin::Existing(_) | Begin::IdHeld(_) | Begin::Spent) => panic!("{other:?}"),
        }
    }
    assert_eq!((fresh.len(), held.len()), (1, 63));
    assert!(held.iter().all(|by| *by == fresh[0]));
}

async fn a_failing_call_takes_no_neighbour_with_it<S: Store>(store: Arc<S>) {
    granted(&*store, &sent(hash(1), 1), 1, 1, 30).await;
    let tasks: Vec<_> = (2..=65)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                // Every second one claims an id that is taken.
                let name = if number % 2 == 0 { hash(number) } else { hash(1) };
                store.grant(&sent(hash(number), 1), grantee(name, 1, 1), NOW).await
            })
        })
        .collect();
    for (task, number) in tasks.into_iter().zip(2_u8..) {
        let answer = task.await.unwrap();
        let kept = store.payment(hash(number)).await.unwrap().is_some();
        assert_eq!((is_unfit(&answer), kept), (number % 2 == 1, number % 2 == 0), "{number}: {answer:?}");
    }
}

async fn a_clock_behind_the_journal_sells_nothing<S: Store>(store: Arc<S>) {
    let before = |seconds| UnixSeconds(NOW.0 - seconds);
    let health = |at| Health { floor: 0, ..store.health() }.sells(at);
    assert_eq!(health(UnixSeconds(1)), Ok(()), "an empty journal is behind every clock");
    granted(&*store, &sent(hash(1), 1), 1, 1, 30).await;
    assert!(store.health().newest >= NOW);
    assert_eq!(health(NOW), Ok(()));
    assert_eq!(health(before(CLOCK_GRACE)), Ok(()), "as far apart as clocks of instances may be");
    assert_eq!(health(before(CLOCK_GRACE + 1)), Err(Unsound::ClockBehind));
    // An older entry moves nothing.
    let older = sent(hash(2), 1);
    let answer = store.grant(&older, grantee(older.block, 1, 1), before(3600)).await;
    assert!(matches!(answer, Ok(Grant::Granted { fresh: true, .. })), "what is paid for is granted");
    assert_eq!(health(before(CLOCK_GRACE + 1)), Err(Unsound::ClockBehind));
}

macro_rules! hold {
    ($($name:ident),* $(,)?) => {
        mod model {
            $(#[tokio::test]
            async fn $name() {
                super::$name(std::sync::Arc::new(crate::store::model::Model::default())).await;
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
    an_intent_is_kept_to_the_last_bit,
    a_repeated_intent_is_existing,
    a_live_intent_holds_its_frontier,
    a_granted_payment_holds_no_frontier,
    payments_without_a_block_share_no_frontier,
    a_parked_intent_lives_again_under_its_challenge,
    a_parked_intent_waits_while_another_holds_its_frontier,
    a_parked_intent_is_moved_back_to_a_free_frontier,
    a_failed_intent_stays_failed_for_begin,
    advance_moves_only_from_where_the_caller_saw_it,
    nothing_but_a_grant_grants,
    a_granted_payment_is_never_moved,
    a_grant_makes_the_capability_of_the_terms,
    a_grant_leases_no_more_than_was_bought,
    a_repeated_grant_gets_the_first_answer,
    a_grant_repeated_elsewhere_leases_there,
    a_grant_repeated_late_hands_out_nothing,
    another_challenge_finds_the_hash_taken,
    parked_and_failed_intents_are_granted_after_all,
    one_id_names_one_capability,
    a_lease_counts_what_was_spent_and_handed_back,
    a_repeated_report_counts_once,
    a_purse_is_counted_in_raw,
    a_payment_is_added_to_the_purse_that_it_names,
    nobody_reports_more_than_it_has,
    a_lapsed_lease_goes_back,
    a_call_renews_the_lease,
    a_late_report_counts_as_far_as_uses_remain,
    an_expired_capability_takes_reports_only,
    a_revoked_capability_takes_reports_only,
    broken_answers_are_counted_until_a_use_is_spent,
    a_repeated_report_tells_a_revocation_since,
    a_marked_hash_is_never_redeemed,
    of_a_mark_and_many_grants_one_has_the_hash,
    a_lease_of_nothing_is_refused,
    a_scan_reads_the_journal_in_order,
    of_many_grants_of_one_hash_one_is_fresh,
    of_many_intents_on_one_frontier_one_is_fresh,
    of_two_payments_under_one_id_the_first_holds_it,
    a_failed_payment_gives_its_id_up,
    a_parked_payment_gives_its_id_to_one_on_its_frontier_only,
    an_id_goes_on_along_one_frontier,
    a_parked_payment_has_its_id_back_where_the_next_failed,
    a_parked_payment_that_is_granted_has_its_id_back,
    a_held_frontier_costs_nobody_his_id,
    the_first_answer_to_a_granted_payment_is_kept,
    ids_and_answers_are_let_go_in_their_time_and_in_bites,
    of_many_payments_under_one_id_one_is_made,
    a_failing_call_takes_no_neighbour_with_it,
    a_clock_behind_the_journal_sells_nothing,
}
