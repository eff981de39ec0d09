//! What the operator asks of a store, of both engines alike.

use faregate::nano::{Account, Raw, UnixSeconds};
use faregate::routes::RouteName;
use faregate::store::operator::{CapabilityEntry, CapabilitySearch, OperatorJournal, PaymentSearch, Remark};
use faregate::store::{
    Claims, Engine, Filter, Grantee, Intent, LeaseRequest, Meters, PaymentJournal, PaymentState,
    SqliteOptions, SqliteStore,
};

use super::cluster::database;
use super::samples::{GOOD_FOR, NOW, USES, grantee, hash, holder, id, sent, signed};

fn remark(who: &str, why: &str) -> Remark {
    Remark { who: who.to_owned(), why: why.to_owned() }
}

/// The payment of nothing by which a capability is given away.
fn nothing(number: u8) -> Intent {
    Intent { amount: Raw::ZERO, payer: Account::BURN, ..sent(hash(number), number) }
}

async fn pages(store: &Engine) {
    let route = RouteName::new("other");
    for (number, at) in [(1, NOW), (2, NOW.plus(10)), (3, NOW.plus(20))] {
        let mut intent = sent(hash(number), number);
        if number == 2 {
            intent.route = route.part("tool:x");
            intent.payer = Account([7; 32]);
        }
        store.grant(&intent, grantee(intent.block, 1, 4), at).await.unwrap();
    }
    store.begin(&signed(hash(4), hash(100), 1), NOW.plus(30)).await.unwrap();
    store.grant(&nothing(5), grantee(hash(5), 1, 0), NOW.plus(40)).await.unwrap();

    let all = PaymentSearch { limit: 10, ..PaymentSearch::default() };
    let found = async |search: PaymentSearch| -> Vec<u64> {
        store.search_payments(&search).await.unwrap().iter().map(|it| it.sequence).collect()
    };
    assert_eq!(found(all.clone()).await, [4, 3, 2, 1], "the newest first, and no free grant");
    assert_eq!(found(PaymentSearch { limit: 2, ..all.clone() }).await, [4, 3]);
    assert_eq!(found(PaymentSearch { before: Some(3), ..all.clone() }).await, [2, 1]);
    assert_eq!(found(PaymentSearch { before: Some(u64::MAX), ..all.clone() }).await, [4, 3, 2, 1]);
    assert_eq!(found(PaymentSearch { route: Some(route.clone()), ..all.clone() }).await, [2], "a part of it");
    assert_eq!(found(PaymentSearch { route: Some(RouteName::new("othe")), ..all.clone() }).await, [0; 0]);
    assert_eq!(found(PaymentSearch { payer: Some(Account([7; 32])), ..all.clone() }).await, [2]);
    assert_eq!(found(PaymentSearch { state: Some(PaymentState::Intent), ..all.clone() }).await, [4]);
    assert_eq!(found(PaymentSearch { state: Some(PaymentState::Granted), ..all.clone() }).await, [3, 2, 1]);
    let (since, until) = (Some(NOW.plus(10)), Some(NOW.plus(30)));
    assert_eq!(found(PaymentSearch { since, until, ..all }).await, [3, 2]);
    let scanned = store.scan(0, Filter::default(), 10).await.unwrap();
    assert_eq!(scanned.iter().map(|it| it.sequence).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(store.payment(hash(5)).await.unwrap().is_some(), "it is there for whoever has its hash");
    assert_eq!(store.inspect().await.unwrap().faults, [""; 0]);

    let every = CapabilitySearch { limit: 10, ..CapabilitySearch::default() };
    let listed = async |search: CapabilitySearch, now: UnixSeconds| -> Vec<u64> {
        store.search_capabilities(&search, now).await.unwrap().iter().map(|it| it.sequence).collect()
    };
    assert_eq!(listed(every.clone(), NOW).await, [5, 3, 2, 1]);
    assert_eq!(listed(CapabilitySearch { limit: 1, before: Some(5), ..every.clone() }, NOW).await, [3]);
    assert_eq!(listed(CapabilitySearch { free: true, ..every.clone() }, NOW).await, [5]);
    assert_eq!(listed(CapabilitySearch { route: Some(route), ..every.clone() }, NOW).await, [2]);
    assert_eq!(listed(CapabilitySearch { payer: Some(Account([7; 32])), ..every.clone() }, NOW).await, [2]);
    let open = CapabilitySearch { open: true, ..every };
    assert_eq!(listed(open.clone(), NOW.plus(GOOD_FOR)).await, [5, 3, 2], "one has expired");
    store.revoke(id(hash(3)), NOW).await.unwrap();
    let all_of_it = LeaseRequest {
        capability: id(hash(2)),
        holder: holder(2),
        sequence: 1,
        used: 0,
        returned: 0,
        broken: 0,
        want: USES,
        ttl: 90,
    };
    let lease = store.lease(all_of_it, NOW.plus(50)).await.unwrap();
    store
        .lease(LeaseRequest { sequence: 2, used: lease.granted, want: 0, ..all_of_it }, NOW.plus(50))
        .await
        .unwrap();
    assert_eq!(listed(open, NOW.plus(50)).await, [5, 1], "one is revoked, one used up");
}

async fn acts(store: &Engine) {
    let entry = async |number| -> CapabilityEntry {
        store.capability_entry(id(hash(number)), NOW.plus(5)).await.unwrap().unwrap()
    };
    store.grant(&sent(hash(1), 1), Grantee { ttl: 30, ..grantee(hash(1), 1, 4) }, NOW).await.unwrap();
    store.grant(&nothing(2), grantee(hash(2), 1, 0), NOW).await.unwrap();
    let fresh = entry(1).await;
    assert_eq!((fresh.leased, fresh.spent, fresh.granted_at, fresh.is_free()), (4, 0, NOW, false));
    assert_eq!((fresh.given, fresh.revoked_at, fresh.revoked_by), (None, None, None));
    assert_eq!(
        store.capability_entry(id(hash(1)), NOW.plus(30)).await.unwrap().unwrap().leased,
        0,
        "it lapsed"
    );
    assert_eq!(store.capability_entry(id(hash(9)), NOW).await.unwrap(), None);

    assert!(store.note_given(id(hash(2)), &remark("ada", "a tester"), NOW.plus(1)).await.unwrap());
    assert!(
        store.note_given(id(hash(2)), &remark("bob", ""), NOW.plus(2)).await.unwrap(),
        "as often as one likes"
    );
    let given = entry(2).await;
    let noted = given.given.clone().unwrap();
    assert_eq!((noted.at, noted.remark, given.is_free()), (NOW.plus(1), remark("ada", "a tester"), true));

    for (at, who) in [(3, "ada"), (4, "bob")] {
        assert!(store.revoke_by(id(hash(1)), &remark(who, "it's \"shared\""), NOW.plus(at)).await.unwrap());
    }
    let ended = entry(1).await;
    assert!(ended.record.revoked);
    assert_eq!(ended.revoked_at, Some(NOW.plus(3)), "the first counts");
    let by = ended.revoked_by.unwrap();
    assert_eq!((by.at, by.remark), (NOW.plus(3), remark("ada", "it's \"shared\"")));
    for call in [
        store.revoke_by(id(hash(9)), &remark("ada", ""), NOW).await,
        store.note_given(id(hash(9)), &remark("ada", ""), NOW).await,
    ] {
        assert_eq!(call, Ok(false), "there is none");
    }
    let request = LeaseRequest {
        capability: id(hash(1)),
        holder: holder(1),
        sequence: 1,
        used: 1,
        returned: 0,
        broken: 0,
        want: 9,
        ttl: 30,
    };
    let lease = store.lease(request, NOW.plus(6)).await.unwrap();
    assert_eq!((lease.granted, lease.revoked), (0, true), "it ends what others lease");
}

fn sqlite(folder: &std::path::Path) -> Engine {
    SqliteStore::open(&folder.join("store.db"), SqliteOptions::default()).unwrap().into()
}

#[tokio::test]
async fn a_file_is_searched_page_by_page() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(folder.path());
    pages(&store).await;
    store.close().await;
}

#[tokio::test]
async fn a_server_is_searched_page_by_page() {
    let Some(database) = database().await else { return };
    let store = Engine::from(database.open().await);
    pages(&store).await;
    store.close().await;
}

#[tokio::test]
async fn a_file_keeps_who_did_what_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(folder.path());
    acts(&store).await;
    store.close().await;
    let again = sqlite(folder.path());
    let kept = again.capability_entry(id(hash(1)), NOW).await.unwrap().unwrap();
    assert!(kept.record.revoked && kept.revoked_by.is_some());
    again.close().await;
}

#[tokio::test]
async fn a_server_keeps_who_did_what_by_hand() {
    let Some(database) = database().await else { return };
    let store = Engine::from(database.open().await);
    acts(&store).await;
    store.close().await;
}
