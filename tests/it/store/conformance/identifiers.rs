//! What the contract says of clients' ids and of what was answered under them.

use std::sync::Arc;

use faregate::nano::UnixSeconds;
use faregate::store::{Answer, Begin, Forget, Grant, Intent, PaymentState, Store};

use super::{begun, granted};
use crate::store::samples::{NOW, grantee, hash, sent, signed, under_id};

/// The payment under an id, for the request that all of these are made for.
fn under(intent: Intent) -> Intent {
    Intent { identified: Some(under_id(7, 1)), ..intent }
}

fn ok_answer() -> Answer {
    let headers =
        vec![("content-type".to_owned(), b"text/plain".to_vec()), ("x".to_owned(), vec![0xff, b':'])];
    Answer { status: 201, headers, body: Some(b"hello".to_vec()) }
}

pub(super) async fn of_two_payments_under_one_id_the_first_holds_it<S: Store>(store: Arc<S>) {
    let first = under(signed(hash(1), hash(100), 1));
    let payment = begun(&*store, &first).await;
    assert_eq!(payment.intent.identified, Some(under_id(7, 1)));
    assert_eq!(store.identified(under_id(7, 1).id).await, Ok(Some(payment.clone())));
    assert_eq!(store.payment(hash(1)).await, Ok(Some(payment)), "the id is read back with it");
    let second = under(signed(hash(2), hash(101), 1));
    assert_eq!(store.begin(&second, NOW).await, Ok(Begin::IdHeld(hash(1))));
    let third = under(sent(hash(3), 1));
    assert_eq!(store.grant(&third, grantee(hash(3), 1, 1), NOW).await, Ok(Grant::IdHeld(hash(1))));
    assert_eq!(store.payment(hash(2)).await, Ok(None), "nothing of them is kept");
    assert_eq!(store.payment(hash(3)).await, Ok(None));
    granted(&*store, &first, 1, 1, 30).await;
    assert_eq!(store.begin(&second, NOW).await, Ok(Begin::IdHeld(hash(1))), "bought is bought");
    assert!(matches!(store.begin(&first, NOW).await, Ok(Begin::Existing(_))), "its own is no rival");
}

pub(super) async fn a_failed_payment_gives_its_id_up<S: Store>(store: Arc<S>) {
    let first = under(signed(hash(1), hash(100), 1));
    begun(&*store, &first).await;
    assert_eq!(store.advance(hash(1), &[PaymentState::Intent], PaymentState::Failed, NOW).await, Ok(true));
    let second = under(signed(hash(2), hash(101), 1));
    begun(&*store, &second).await;
    assert_eq!(store.identified(under_id(7, 1).id).await.unwrap().unwrap().intent.block, hash(2));
    assert_eq!(store.payment(hash(1)).await.unwrap().unwrap().intent.identified, None);
}

pub(super) async fn a_parked_payment_gives_its_id_to_one_on_its_frontier_only<S: Store>(store: Arc<S>) {
    begun(&*store, &under(signed(hash(1), hash(100), 1))).await;
    assert_eq!(store.advance(hash(1), &[PaymentState::Intent], PaymentState::Parked, NOW).await, Ok(true));
    let elsewhere = under(signed(hash(2), hash(101), 1));
    assert_eq!(store.begin(&elsewhere, NOW).await, Ok(Begin::IdHeld(hash(1))), "both could be paid");
    let sent = under(sent(hash(3), 1));
    assert_eq!(store.grant(&sent, grantee(hash(3), 1, 1), NOW).await, Ok(Grant::IdHeld(hash(1))));
    begun(&*store, &under(signed(hash(4), hash(100), 1))).await;
    assert_eq!(store.identified(under_id(7, 1).id).await.unwrap().unwrap().intent.block, hash(4));
}

/// The ledger takes one of them at most, so the newest one may have the id.
pub(super) async fn an_id_goes_on_along_one_frontier<S: Store>(store: Arc<S>) {
    for number in 1..=3 {
        begun(&*store, &under(signed(hash(number), hash(100), 1))).await;
        assert_eq!(store.identified(under_id(7, 1).id).await.unwrap().unwrap().intent.block, hash(number));
        let parked = store.advance(hash(number), &[PaymentState::Intent], PaymentState::Parked, NOW).await;
        assert_eq!(parked, Ok(true));
    }
    granted(&*store, &under(signed(hash(1), hash(100), 1)), 1, 1, 30).await;
    assert_eq!(store.identified(under_id(7, 1).id).await.unwrap().unwrap().intent.block, hash(1));
}

/// Parked, so that it gave its id to another on its frontier; and that other, which failed.
async fn parked_and_overtaken<S: Store>(store: &S) -> [Intent; 2] {
    let [first, second] = [1, 2].map(|number| under(signed(hash(number), hash(100), 1)));
    for (intent, to) in [(&first, PaymentState::Parked), (&second, PaymentState::Failed)] {
        begun(store, intent).await;
        assert_eq!(store.advance(intent.block, &[PaymentState::Intent], to, NOW).await, Ok(true));
    }
    assert_eq!(store.identified(under_id(7, 1).id).await.unwrap().unwrap().intent.block, hash(2));
    [first, second]
}

pub(super) async fn a_parked_payment_has_its_id_back_where_the_next_failed<S: Store>(store: Arc<S>) {
    parked_and_overtaken(&*store).await;
    // What overtook the second may be the first.
    let third = under(signed(hash(3), hash(101), 1));
    for _ in 0..2 {
        assert_eq!(store.begin(&third, NOW).await, Ok(Begin::IdHeld(hash(1))), "both could be paid");
    }
    let sent = under(sent(hash(4), 1));
    assert_eq!(store.grant(&sent, grantee(hash(4), 1, 1), NOW).await, Ok(Grant::IdHeld(hash(1))));
    let holder = store.identified(under_id(7, 1).id).await.unwrap().unwrap();
    assert_eq!((holder.intent.block, holder.intent.identified), (hash(1), Some(under_id(7, 1))));
    assert_eq!(store.advance(hash(1), &[PaymentState::Parked], PaymentState::Failed, NOW).await, Ok(true));
    begun(&*store, &third).await;
}

pub(super) async fn a_parked_payment_that_is_granted_has_its_id_back<S: Store>(store: Arc<S>) {
    let [first, second] = parked_and_overtaken(&*store).await;
    let known = store.payment(hash(1)).await.unwrap().unwrap().intent;
    assert_eq!(known, Intent { identified: None, ..first });
    granted(&*store, &known, 1, 1, 30).await;
    let holder = store.identified(under_id(7, 1).id).await.unwrap().unwrap();
    assert_eq!((holder.intent.block, holder.state), (hash(1), PaymentState::Granted));
    assert_eq!(store.payment(second.block).await.unwrap().unwrap().intent.identified, None);
    let third = under(signed(hash(3), hash(101), 1));
    assert_eq!(store.begin(&third, NOW).await, Ok(Begin::IdHeld(hash(1))), "bought is bought");
}

pub(super) async fn a_held_frontier_costs_nobody_his_id<S: Store>(store: Arc<S>) {
    begun(&*store, &under(signed(hash(1), hash(100), 1))).await;
    assert_eq!(store.advance(hash(1), &[PaymentState::Intent], PaymentState::Parked, NOW).await, Ok(true));
    begun(&*store, &signed(hash(2), hash(100), 1)).await;
    let third = under(signed(hash(3), hash(100), 1));
    assert_eq!(store.begin(&third, NOW).await, Ok(Begin::FrontierHeld(hash(2))));
    assert_eq!(store.identified(under_id(7, 1).id).await.unwrap().unwrap().intent.block, hash(1));
}

pub(super) async fn the_first_answer_to_a_granted_payment_is_kept<S: Store>(store: Arc<S>) {
    let first = under(signed(hash(1), hash(100), 1));
    assert_eq!(store.keep(hash(1), &ok_answer(), NOW).await, Ok(false), "of no payment");
    begun(&*store, &first).await;
    assert_eq!(store.keep(hash(1), &ok_answer(), NOW).await, Ok(false), "of an intent");
    granted(&*store, &first, 1, 1, 30).await;
    assert_eq!(store.kept(hash(1)).await, Ok(None));
    assert_eq!(store.keep(hash(1), &ok_answer(), NOW).await, Ok(true));
    assert_eq!(store.keep(hash(1), &Answer::not_kept(500), NOW).await, Ok(false));
    assert_eq!(store.kept(hash(1)).await, Ok(Some(ok_answer())));
    assert_eq!(store.kept(hash(2)).await, Ok(None));
}

pub(super) async fn ids_and_answers_are_let_go_in_their_time_and_in_bites<S: Store>(store: Arc<S>) {
    for number in 1..=3 {
        let intent = Intent { identified: Some(under_id(number, 1)), ..sent(hash(number), 1) };
        granted(&*store, &intent, 1, 1, 30).await;
        assert_eq!(store.keep(hash(number), &ok_answer(), NOW).await, Ok(true));
    }
    let undecided = Intent { identified: Some(under_id(4, 1)), ..signed(hash(4), hash(100), 1) };
    begun(&*store, &undecided).await;
    let forget = |ids_until, answers_until| store.forget(Forget { ids_until, answers_until, limit: 2 });
    let before = UnixSeconds(NOW.0 - 1);
    assert_eq!(forget(before, before).await, Ok(0), "it is not their time");
    assert_eq!(forget(before, NOW).await, Ok(2));
    assert_eq!(forget(before, NOW).await, Ok(1));
    assert_eq!(forget(before, NOW).await, Ok(0));
    assert_eq!(store.kept(hash(1)).await, Ok(Some(Answer::not_kept(201))), "that it was given stays known");
    assert_eq!(store.keep(hash(1), &ok_answer(), NOW).await, Ok(false));
    assert_eq!(forget(NOW, NOW).await, Ok(2));
    assert_eq!(forget(NOW, NOW).await, Ok(1));
    assert_eq!(forget(NOW, NOW).await, Ok(0));
    assert_eq!(store.identified(under_id(1, 1).id).await, Ok(None));
    assert_eq!(store.kept(hash(1)).await, Ok(None));
    assert_eq!(store.payment(hash(1)).await.unwrap().unwrap().state, PaymentState::Granted);
    assert!(store.identified(under_id(4, 1).id).await.unwrap().is_some(), "an intent keeps its id");
    let again = Intent { identified: Some(under_id(1, 1)), ..sent(hash(9), 1) };
    granted(&*store, &again, 1, 1, 30).await;
}

pub(super) async fn of_many_payments_under_one_id_one_is_made<S: Store>(store: Arc<S>) {
    let calls = (1..=24_u8).map(|number| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let intent = under(signed(hash(number), hash(number + 100), 1));
            match store.begin(&intent, NOW).await.unwrap() {
                Begin::Fresh(_) => (Some(number), None),
                Begin::IdHeld(by) => (None, Some(by)),
                other @ (Begin::Existing(_) | Begin::FrontierHeld(_) | Begin::Spent) => panic!("{other:?}"),
            }
        })
    });
    let answers: Vec<_> = futures_util::future::join_all(calls).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    let made: Vec<u8> = answers.iter().filter_map(|it| it.0).collect();
    assert_eq!(made.len(), 1, "{answers:?}");
    assert!(answers.iter().filter_map(|it| it.1).all(|by| by == hash(made[0])), "{answers:?}");
}
