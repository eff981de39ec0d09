//! A store of an earlier version becomes one of this version and loses nothing. The captures were made by
//! that version's program, with two payments: one had spent three uses, the other one use.

use faregate::nano::{BlockHash, UnixSeconds};
use faregate::payment::{IdentifiedRequest, IdentifierKey, Mechanism, RequestDigest};
use faregate::store::deposits::{Deposit, DepositJournal};
use faregate::store::{
    Begin, Claims, Engine, Filter, Grant, Grantee, LeaseRequest, Meters, PaymentJournal, PaymentRecord,
    PaymentState, SqliteOptions, SqliteStore,
};
use rusqlite::Connection;

use super::cluster::database;
use super::samples::{grantee, hash, holder, sent, signed};

const SQLITE: &str = include_str!("../../captures/store/version-1.sqlite.sql");
const POSTGRES: &str = include_str!("../../captures/store/version-1.postgres.sql");

/// All old rows are there, and what this version added works beside them.
async fn has_kept_everything(store: &Engine) {
    let payments: Vec<PaymentRecord> = store.scan(0, Filter::default(), 10).await.unwrap();
    let found: Vec<_> = payments.iter().map(|it| (it.sequence, it.state, it.intent.mechanism)).collect();
    let granted = PaymentState::Granted;
    assert_eq!(found, [(1, granted, Mechanism::NanoTxn), (2, granted, Mechanism::NanoSignature)]);
    let now: UnixSeconds = payments[1].created_at;
    for (payment, left) in payments.iter().zip([97, 99]) {
        assert_eq!((payment.intent.identified, payment.intent.exchange), (None, None));
        assert_eq!(store.begin(&payment.intent, now).await.unwrap(), Begin::Existing(payment.clone()));
        let capability = faregate::store::CapabilityId::of_payment(payment.intent.block);
        assert_eq!(store.capability(capability).await.unwrap().unwrap().uses(), 100);
        let request = LeaseRequest {
            capability,
            holder: holder(1),
            sequence: 1,
            used: 0,
            returned: 0,
            broken: 0,
            want: 100,
            ttl: 30,
        };
        assert_eq!(store.lease(request, now).await.unwrap().granted, left);
        let another = store
            .grant(&payment.intent, Grantee { id: capability, holder: holder(2), want: 0, ttl: 30 }, now)
            .await
            .unwrap();
        assert!(matches!(another, Grant::Granted { fresh: false, .. }), "{another:?}");
    }
    let deposit = |block| {
        let PaymentRecord { intent, .. } = &payments[0];
        Deposit { block, account: intent.pay_to, sender: None, amount: intent.amount }
    };
    let noted =
        store.note_deposits(&[deposit(payments[0].intent.block), deposit(hash(9))], 10, now).await.unwrap();
    assert_eq!(noted.fresh, 1, "what is paid is no deposit");
    let identified = IdentifiedRequest { id: IdentifierKey([1; 32]), request: RequestDigest([2; 32]) };
    let under = |block: BlockHash, previous| faregate::store::Intent {
        identified: Some(identified),
        exchange: "0.02 USD at 0.83".parse().ok(),
        ..signed(block, previous, 1)
    };
    assert!(matches!(store.begin(&under(hash(3), hash(4)), now).await.unwrap(), Begin::Fresh(_)));
    let exchange = store.payment(hash(3)).await.unwrap().unwrap().intent.exchange;
    assert_eq!(exchange.unwrap().to_string(), "0.02 USD at 0.83");
    assert!(!matches!(store.begin(&under(hash(5), hash(6)), now).await.unwrap(), Begin::Fresh(_)));
    let bought = store.grant(&sent(hash(7), 1), grantee(hash(7), 1, 1), now).await.unwrap();
    assert!(matches!(bought, Grant::Granted { fresh: true, .. }));
}

#[tokio::test]
async fn a_sqlite_file_of_version_1_is_brought_to_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let shape = |name: &str| -> Vec<(String, String)> {
        let db = Connection::open(folder.path().join(name)).unwrap();
        let mut rows =
            db.prepare("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").unwrap();
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    };
    Connection::open(folder.path().join("old.db")).unwrap().execute_batch(SQLITE).unwrap();
    let before = shape("old.db");
    for _twice in 0..2 {
        let store = SqliteStore::open(&folder.path().join("old.db"), SqliteOptions::default()).unwrap();
        store.close().await;
    }
    let fresh = SqliteStore::open(&folder.path().join("new.db"), SqliteOptions::default()).unwrap();
    fresh.close().await;
    let plain = |shape: Vec<(String, String)>| -> Vec<(String, String)> {
        let squeezed = |sql: String| sql.replace('"', "").split_whitespace().collect::<Vec<_>>().join(" ");
        shape.into_iter().map(|(name, sql)| (name, squeezed(sql))).collect()
    };
    assert_ne!(before, shape("old.db"));
    assert_eq!(plain(shape("old.db")), plain(shape("new.db")));
    let store = SqliteStore::open(&folder.path().join("old.db"), SqliteOptions::default()).unwrap();
    let store = Engine::from(store);
    has_kept_everything(&store).await;
    store.close().await;
}

#[tokio::test]
async fn postgresql_tables_of_version_1_are_brought_to_this_one() {
    let (Some(old), Some(new)) = (database().await, database().await) else { return };
    old.run(&POSTGRES.replace("public.", "")).await;
    let shape = "SELECT string_agg(format('%s.%s %s %s', table_name, column_name, data_type, is_nullable), ', ' \
                 ORDER BY table_name, column_name) FROM information_schema.columns \
                 WHERE table_schema = current_schema()";
    let indexes = "SELECT string_agg(replace(indexdef, current_schema(), ''), ', ' ORDER BY indexname) \
                   FROM pg_indexes WHERE schemaname = current_schema()";
    let before = old.run(shape).await;
    old.open().await.close().await;
    new.open().await.close().await;
    assert_ne!(before, old.run(shape).await);
    for query in [shape, indexes] {
        let (old, new) = (old.run(query).await, new.run(query).await);
        assert!(old.is_some());
        assert_eq!(old, new);
    }
    let store = Engine::from(old.open().await);
    has_kept_everything(&store).await;
    store.close().await;
}
