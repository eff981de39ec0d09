//! Calls that wait at the same time, which the store over PostgreSQL makes together: they share a transaction,
//! and each gets its own answer.

use faregate::nano::BlockHash;
use faregate::routes::RouteName;
use faregate::store::{
    Begin, Claims, Grant, Grantee, Intent, LeaseRequest, Meters, PaymentJournal, PostgresStore, StoreError,
};
use futures_util::future::join_all;

use super::cluster::database;
use super::samples::{NOW, USES, grantee, hash, holder, id, sent, signed, under_id};

fn grant_of(intent: Intent) -> (Intent, Grantee) {
    let grantee = grantee(intent.block, 1, 1);
    (intent, grantee)
}

async fn grant_all(store: &PostgresStore, calls: &[(Intent, Grantee)]) -> Vec<Result<Grant, StoreError>> {
    join_all(calls.iter().map(|(intent, grantee)| store.grant(intent, *grantee, NOW))).await
}

fn is_fresh(answer: &Result<Grant, StoreError>, block: BlockHash) -> bool {
    matches!(answer, Ok(Grant::Granted { record, lease, fresh: true })
        if record.block == block && record.stock == USES && lease.granted == 1 && lease.remaining == USES - 1)
}

#[tokio::test]
async fn settlements_that_wait_share_a_transaction_and_have_answers_of_their_own() {
    let Some(database) = database().await else { return };
    let store = database.open().await;
    store.mark_spent(hash(200), NOW).await.unwrap();
    store.begin(&signed(hash(201), hash(101), 1), NOW).await.unwrap();
    store
        .begin(&Intent { identified: Some(under_id(1, 1)), ..signed(hash(202), hash(102), 1) }, NOW)
        .await
        .unwrap();
    let mut calls: Vec<_> = (1..=60).map(|number| grant_of(sent(hash(number), 1))).collect();
    calls.push(grant_of(sent(hash(200), 1)));
    calls.push(grant_of(signed(hash(201), hash(101), 1)));
    calls.push(grant_of(signed(hash(202), hash(102), 1)));
    // The hash of the first call, for another challenge; and its capability, for another hash.
    calls.push(grant_of(sent(hash(1), 2)));
    calls.push((sent(hash(203), 1), Grantee { id: id(hash(1)), ..grantee(hash(203), 1, 1) }));
    calls.push(grant_of(Intent { identified: Some(under_id(1, 1)), ..sent(hash(204), 1) }));
    let answers = grant_all(&store, &calls).await;
    for (number, answer) in (1..=60).zip(&answers) {
        assert!(is_fresh(answer, hash(number)), "{number}: {answer:?}");
    }
    assert_eq!(answers[60], Ok(Grant::Taken), "its hash is marked as spent");
    assert!(is_fresh(&answers[61], hash(201)), "it was in the journal: {:?}", answers[61]);
    assert!(is_fresh(&answers[62], hash(202)), "so was this one, under an id: {:?}", answers[62]);
    assert_eq!(answers[63], Ok(Grant::Taken), "another challenge was first");
    assert!(matches!(answers[64], Err(StoreError::NotApplied(_))), "{:?}", answers[64]);
    assert_eq!(answers[65], Ok(Grant::IdHeld(hash(202))));
    // 62 payments were written: two of them by a call before, and one of these again alone.
    let transactions = database.run("SELECT count(DISTINCT xmin::text) FROM payments").await.unwrap();
    assert!(transactions.parse::<u32>().unwrap() <= 4, "{transactions} transactions");
    assert_eq!(store.payment(hash(201)).await.unwrap().map(|it| it.state.as_str()), Some("granted"));
    assert_eq!(store.inspect().await.unwrap().faults, Vec::<String>::new());
    let again = grant_all(&store, &calls[..60]).await;
    for answer in again {
        assert!(
            matches!(answer, Ok(Grant::Granted { fresh: false, lease, .. }) if lease.granted == 1),
            "{answer:?}"
        );
    }
    store.close().await;
}

#[tokio::test]
async fn a_settlement_that_the_server_refuses_does_not_fail_those_that_wait_with_it() {
    let Some(database) = database().await else { return };
    let store = database.open().await;
    // No text of the server's has this letter, so the statement that brings it fails.
    let refused = Intent { route: RouteName::new("a\0b"), ..sent(hash(100), 1) };
    let mut calls: Vec<_> = (1..=20).map(|number| grant_of(sent(hash(number), 1))).collect();
    calls.insert(10, grant_of(refused));
    let mut answers = grant_all(&store, &calls).await;
    let refused = answers.remove(10);
    assert!(matches!(refused, Err(StoreError::NotApplied(_))), "{refused:?}");
    for (number, answer) in (1..=20).zip(&answers) {
        assert!(is_fresh(answer, hash(number)), "{number}: {answer:?}");
    }
    assert_eq!(store.payment(hash(100)).await, Ok(None));
    store.close().await;
}

#[tokio::test]
async fn intents_that_wait_share_a_transaction_and_one_of_them_holds_a_frontier() {
    let Some(database) = database().await else { return };
    let store = database.open().await;
    store.mark_spent(hash(200), NOW).await.unwrap();
    let mut intents: Vec<_> = (1..=40).map(|number| signed(hash(number), hash(number + 100), 1)).collect();
    intents.push(signed(hash(200), hash(199), 1));
    intents.push(signed(hash(201), hash(101), 1));
    intents.push(signed(hash(1), hash(101), 2));
    let answers = join_all(intents.iter().map(|intent| store.begin(intent, NOW))).await;
    for (intent, answer) in intents.iter().zip(&answers).take(40) {
        assert!(matches!(answer, Ok(Begin::Fresh(payment)) if payment.intent == *intent), "{answer:?}");
    }
    let mut sequences: Vec<_> = answers[..40]
        .iter()
        .map(|answer| match answer {
            Ok(Begin::Fresh(payment)) => payment.sequence,
            other => panic!("{other:?}"),
        })
        .collect();
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences.len(), 40, "each has a place of its own in the journal");
    assert_eq!(answers[40], Ok(Begin::Spent));
    assert_eq!(answers[41], Ok(Begin::FrontierHeld(hash(1))));
    assert!(
        matches!(&answers[42], Ok(Begin::Existing(payment)) if payment.intent == intents[0]),
        "{:?}",
        answers[42]
    );
    let transactions = database.run("SELECT count(DISTINCT xmin::text) FROM payments").await;
    assert_eq!(transactions.as_deref(), Some("1"));
    store.close().await;
}

#[tokio::test]
async fn reports_that_wait_share_a_transaction_and_a_misfit_fails_alone() {
    let Some(database) = database().await else { return };
    let store = database.open().await;
    let calls: Vec<_> = (1..=40).map(|number| grant_of(sent(hash(number), 1))).collect();
    grant_all(&store, &calls).await;
    let report = |number, used| LeaseRequest {
        capability: id(hash(number)),
        holder: holder(1),
        sequence: 1,
        used,
        returned: 0,
        broken: 0,
        want: 2,
        ttl: 30,
    };
    let mut reports: Vec<_> = (1..=40).map(|number| report(number, 1)).collect();
    // More than it has out, a capability that is none, and the first one again.
    reports[39].used = 9;
    reports.push(report(99, 0));
    reports.push(report(1, 1));
    let answers = join_all(reports.iter().map(|request| store.lease(*request, NOW))).await;
    for (number, answer) in answers[..39].iter().enumerate() {
        assert!(
            matches!(answer, Ok(lease) if lease.granted == 2 && lease.remaining == USES - 3),
            "{number}: {answer:?}"
        );
    }
    assert!(matches!(answers[39], Err(StoreError::NotApplied(_))), "{:?}", answers[39]);
    assert!(matches!(answers[40], Err(StoreError::NotApplied(_))), "{:?}", answers[40]);
    assert_eq!(answers[41], answers[0], "the same call gets the same answer");
    let transactions = database.run("SELECT count(DISTINCT xmin::text) FROM leases WHERE sequence = 1").await;
    assert_eq!(transactions.as_deref(), Some("1"));
    assert_eq!(store.inspect().await.unwrap().faults, Vec::<String>::new());
    // The connection that refused something is as good as before.
    let next = join_all(
        (1..=39)
            .map(|number| LeaseRequest { sequence: 2, used: 2, ..report(number, 2) })
            .map(|it| store.lease(it, NOW)),
    )
    .await;
    assert!(next.iter().all(|answer| matches!(answer, Ok(lease) if lease.remaining == USES - 5)), "{next:?}");
    store.close().await;
}
