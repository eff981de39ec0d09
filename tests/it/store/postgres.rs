//! Faults that only a server can have: settings that lose writes, tables of another version, a connection
//! lost at the worst moment, a server that goes away and comes back.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use faregate::nano::{BlockHash, UnixSeconds};
use faregate::store::{
    Begin, CLOCK_GRACE, Claims, Filter, Grant, Health, LeaseRequest, Meters, PaymentJournal, PostgresFault,
    PostgresOptions, PostgresStore, Replication, StoreError, StoreHealth, Unsound, postgres_server,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::cluster::{Database, database};
use super::samples::{NOW, USES, grantee, hash, holder, id, sent, set_back, signed};

async fn grant(store: &PostgresStore, block: BlockHash) -> Result<Grant, StoreError> {
    store.grant(&sent(block, 1), grantee(block, 1, 1), NOW).await
}

fn through(database: &Database, socket: &Path) -> PostgresOptions {
    PostgresOptions::new(postgres_server(&database.address_with(socket, "")).unwrap())
}

#[tokio::test]
async fn instances_that_start_at_once_agree_on_the_tables() {
    let Some(database) = database().await else { return };
    let options = database.options();
    let opening: Vec<_> = (0..6)
        .map(|_| {
            let options = options.clone();
            tokio::spawn(async move { PostgresStore::open(&options).await.unwrap() })
        })
        .collect();
    let mut stores = Vec::new();
    for store in opening {
        stores.push(store.await.unwrap());
    }
    let mut fresh = 0;
    for store in &stores {
        let Grant::Granted { fresh: first, .. } = grant(store, hash(1)).await.unwrap() else {
            panic!("taken")
        };
        fresh += u32::from(first);
    }
    assert_eq!(fresh, 1);
    for store in stores {
        store.close().await;
    }
}

#[tokio::test]
async fn a_server_that_forgets_is_refused_unless_that_is_allowed() {
    let Some(database) = database().await else { return };
    let address = database.address_with(database.socket, "-c synchronous_commit=off");
    let mut options = PostgresOptions::new(postgres_server(&address).unwrap());
    let refused = PostgresStore::open(&options).await.unwrap_err();
    assert!(
        matches!(&refused, PostgresFault::Unsafe(why) if why.contains("synchronous_commit off")),
        "{refused}"
    );
    assert_eq!(database.run("SELECT to_regclass('payments')").await, None, "nothing was made");
    options.allow_unsafe = true;
    let store = PostgresStore::open(&options).await.unwrap();
    grant(&store, hash(1)).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn tables_of_a_newer_program_are_refused() {
    let Some(database) = database().await else { return };
    database.open().await.close().await;
    database.run("UPDATE faregate_version SET version = 99").await;
    let refused = PostgresStore::open(&database.options()).await.unwrap_err();
    assert!(matches!(refused, PostgresFault::Newer { found: 99, .. }), "{refused}");
}

#[tokio::test]
async fn tables_of_another_program_are_refused_untouched() {
    let Some(database) = database().await else { return };
    database.run("CREATE TABLE payments (theirs text)").await;
    let refused = PostgresStore::open(&database.options()).await.unwrap_err();
    assert!(matches!(refused, PostgresFault::Foreign), "{refused}");
    assert_eq!(database.run("SELECT to_regclass('faregate_version')").await, None);
}

#[tokio::test]
async fn no_server_is_said_and_no_password_with_it() {
    let nowhere = "postgres://gateway:s3cr3t@127.0.0.1:1/faregate";
    let options = PostgresOptions::new(postgres_server(nowhere).unwrap());
    let fault = PostgresStore::open(&options).await.unwrap_err();
    let text = format!("{fault} {fault:?} {options:?}");
    assert!(matches!(fault, PostgresFault::Unreachable(_)) && text.contains("refused"), "{text}");
    assert!(!text.contains("s3cr3t"), "{text}");
}

#[test]
fn what_leaves_the_machine_is_protected() {
    use tokio_postgres::config::SslMode::{Disable, Require};
    let mode = |address| postgres_server(address).map(|config| config.get_ssl_mode());
    assert_eq!(mode("postgres://u@db.example.com/f"), Ok(Require));
    assert_eq!(mode("postgres://u@db.example.com/f?sslmode=disable"), Ok(Disable));
    assert_eq!(mode("postgres://u@localhost/f"), Ok(Disable));
    assert_eq!(mode("postgres://u@127.0.0.1,10.0.0.1/f"), Ok(Require));
    assert_eq!(mode("postgres://u@/f?host=/var/run/postgresql"), Ok(Disable));
    mode("postgres://u@db.example.com/f?sslmode=prefer").unwrap_err();
    mode("postgres:///f").unwrap_err();
    mode("mysql://u@localhost/f").unwrap_err();
    mode("host=localhost user=u").unwrap_err();
}

#[tokio::test]
async fn a_server_is_believed_only_with_a_certificate() {
    let Some(database) = database().await else { return };
    let address = format!(
        "postgres://faregate@localhost:{}/faregate?sslmode=require&options=-csearch_path%3D{}",
        database.port, database.schema
    );
    let mut options = PostgresOptions::new(postgres_server(&address).unwrap());
    let stranger = PostgresStore::open(&options).await.unwrap_err();
    assert!(
        matches!(&stranger, PostgresFault::Unreachable(why) if why.contains("certificate")),
        "no authority vouches for it: {stranger}"
    );
    options.ca_file = Some(database.socket.join("cert.pem"));
    let store = PostgresStore::open(&options).await.unwrap();
    grant(&store, hash(1)).await.unwrap();
    let secured = database
        .run("SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE client_addr IS NOT NULL")
        .await;
    assert_eq!(secured.as_deref(), Some("t"));
    store.close().await;
    options.ca_file = Some(database.socket.join("key.pem"));
    let unreadable = PostgresStore::open(&options).await.unwrap_err();
    assert!(matches!(unreadable, PostgresFault::File { .. }), "{unreadable}");
}

#[tokio::test]
async fn the_tables_keep_what_must_be_kept_and_show_exact_amounts() {
    let Some(database) = database().await else { return };
    let store = database.open().await;
    let mut intent = sent(hash(1), 1);
    intent.amount = faregate::nano::Raw::new(u128::MAX);
    store.grant(&intent, grantee(hash(1), 1, 1), NOW).await.unwrap();
    store.close().await;
    assert_eq!(database.run("SELECT amount FROM payments").await, Some(u128::MAX.to_string()));
    let harms = [
        "DELETE FROM claims",
        "DELETE FROM payments",
        "TRUNCATE claims",
        "TRUNCATE payments CASCADE",
        "UPDATE payments SET state = 0",
    ];
    for harm in harms {
        let sql = format!(
            "DO $$ BEGIN {harm}; RAISE 'done'; EXCEPTION WHEN OTHERS THEN \
             IF SQLERRM = 'done' THEN RAISE 'the harm was done'; END IF; END $$"
        );
        database.run(&sql).await;
    }
}

/// Stands between a store and the server, and can keep the server's answers to itself.
struct Wire {
    directory: tempfile::TempDir,
    deaf: Arc<AtomicBool>,
}

impl Wire {
    /// Forwards to the server; while deaf, what the server says ends the connection instead.
    fn to(database: &Database) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let name = format!(".s.PGSQL.{}", database.port);
        let listener = UnixListener::bind(directory.path().join(&name)).unwrap();
        let deaf = Arc::new(AtomicBool::new(false));
        let (server, hears_nothing) = (database.socket.join(&name), Arc::clone(&deaf));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, deaf) = (server.clone(), Arc::clone(&hears_nothing));
                tokio::spawn(async move {
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) =
                        UnixStream::connect(server).await.unwrap().into_split();
                    let asks = tokio::spawn(async move {
                        let _end = tokio::io::copy(&mut from_client, &mut to_server).await.is_ok();
                    });
                    let mut piece = vec![0; 65_536];
                    while let Ok(length @ 1..) = from_server.read(&mut piece).await {
                        if deaf.load(Ordering::SeqCst) || to_client.write_all(&piece[..length]).await.is_err()
                        {
                            break;
                        }
                    }
                    asks.abort();
                });
            }
        });
        Self { directory, deaf }
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_is_unknown_and_the_same_call_finds_out() {
    let Some(database) = database().await else { return };
    let wire = Wire::to(&database);
    let mut options = through(&database, wire.directory.path());
    options.connections = 1.try_into().unwrap();
    let store = PostgresStore::open(&options).await.unwrap();
    // Makes the statement known, so that the next call is one message and its answer.
    grant(&store, hash(1)).await.unwrap();
    wire.deaf.store(true, Ordering::SeqCst);
    let lost = grant(&store, hash(2)).await;
    assert!(matches!(lost, Err(StoreError::Unknown(_))), "{lost:?}");
    assert!(!store.health().writable);
    let unreachable = grant(&store, hash(2)).await;
    assert!(matches!(unreachable, Err(StoreError::Unavailable(_))), "{unreachable:?}");
    wire.deaf.store(false, Ordering::SeqCst);
    let again = grant(&store, hash(2)).await.unwrap();
    assert!(matches!(again, Grant::Granted { fresh: false, lease, .. } if lease.granted == 1), "{again:?}");
    assert!(store.health().writable);
    store.close().await;
}

#[tokio::test]
async fn an_idle_store_notices_that_the_server_is_gone_and_back() {
    let Some(database) = database().await else { return };
    let wire = Wire::to(&database);
    let store = PostgresStore::open(&through(&database, wire.directory.path())).await.unwrap();
    wire.deaf.store(true, Ordering::SeqCst);
    let turns = async |writable| {
        let noticed = async || store.health().writable == writable;
        crate::patience::eventually("the store notices", noticed).await;
    };
    turns(false).await;
    wire.deaf.store(false, Ordering::SeqCst);
    turns(true).await;
    grant(&store, hash(1)).await.unwrap();
    store.close().await;
    assert!(!store.health().writable, "closed");
    assert!(matches!(grant(&store, hash(2)).await, Err(StoreError::Unavailable(_))), "closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_share_one_database() {
    let Some(database) = database().await else { return };
    let stores = [Arc::new(database.open().await), Arc::new(database.open().await)];
    let mut tasks = Vec::new();
    for number in 0..60_u8 {
        for store in &stores {
            let store = Arc::clone(store);
            tasks.push(tokio::spawn(async move { grant(&store, hash(number)).await.unwrap() }));
        }
    }
    let mut fresh = 0;
    for task in tasks {
        let Grant::Granted { fresh: first, .. } = task.await.unwrap() else { panic!("taken") };
        fresh += u32::from(first);
    }
    assert_eq!(fresh, 60, "each hash is granted by one of the two");
    let [one, other] = &stores;
    assert!(matches!(one.begin(&signed(hash(200), hash(100), 1), NOW).await, Ok(Begin::Fresh(_))));
    let rival = other.begin(&signed(hash(201), hash(100), 1), NOW).await;
    assert_eq!(rival, Ok(Begin::FrontierHeld(hash(200))));
    one.close().await;
    other.close().await;
}

/// Whoever follows the journal while others write into it sees every payment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_follows_the_journal_misses_nothing() {
    let Some(database) = database().await else { return };
    let store = Arc::new(database.open().await);
    let writers: Vec<_> = (0..8_u8)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for number in 0..20 {
                    grant(&store, hash(writer * 20 + number)).await.unwrap();
                }
            })
        })
        .collect();
    let follow = async {
        let (mut after, mut seen) = (0, 0);
        while seen < 160 {
            let page = store.scan(after, Filter::default(), 7).await.unwrap();
            seen += page.len();
            after = page.last().map_or(after, |payment| payment.sequence);
        }
    };
    crate::patience::within(Duration::from_secs(60), "every payment is found", follow).await;
    for writer in writers {
        writer.await.unwrap();
    }
    store.close().await;
}

/// A server's, a database's or a role's default does not decide how statements see each other: under
/// this one, who waited for a capability's row would look at the leases from before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_is_lent_than_was_bought_whatever_the_servers_isolation() {
    let Some(database) = database().await else { return };
    let address =
        database.address_with(database.socket, "-c default_transaction_isolation=repeatable%5C%20read");
    let options = PostgresOptions::new(postgres_server(&address).unwrap());
    let store = Arc::new(PostgresStore::open(&options).await.unwrap());
    grant(&store, hash(1)).await.unwrap();
    let leases: Vec<_> = (2..14)
        .map(|by| {
            let store = Arc::clone(&store);
            let request = LeaseRequest {
                capability: id(hash(1)),
                holder: holder(by),
                sequence: 1,
                used: 0,
                returned: 0,
                broken: 0,
                want: USES,
                ttl: 30,
            };
            tokio::spawn(async move { store.lease(request, NOW).await.unwrap().granted })
        })
        .collect();
    let mut lent = 1;
    for lease in leases {
        lent += lease.await.unwrap();
    }
    assert_eq!(lent, USES);
    assert_eq!(store.inspect().await.unwrap().faults, Vec::<String>::new());
    store.close().await;
}

#[tokio::test]
async fn the_room_of_a_server_is_seen_through_its_socket_and_by_who_may() {
    let Some(database) = database().await else { return };
    let mut options = database.options();
    options.free_space = u64::MAX;
    let store = PostgresStore::open(&options).await.unwrap();
    assert!(store.health().free_bytes.is_some(), "behind a socket, by a role that may read all settings");
    assert_eq!(store.health().sells(NOW), Err(Unsound::NoSpace));
    store.close().await;
    // A role of no rights beyond the tables; and a server that may be anywhere.
    let role = format!("plain_{}", database.schema);
    database
        .run(&format!("CREATE ROLE {role} LOGIN; GRANT ALL ON SCHEMA {} TO {role}", database.schema))
        .await;
    database
        .run(&format!("GRANT ALL ON ALL TABLES IN SCHEMA {0} TO {role}; GRANT ALL ON ALL SEQUENCES IN SCHEMA {0} TO {role}", database.schema))
        .await;
    let address = database.address().replace("postgres://faregate@", &format!("postgres://{role}@"));
    let mut options = PostgresOptions::new(postgres_server(&address).unwrap());
    options.free_space = u64::MAX;
    let store = PostgresStore::open(&options).await.unwrap();
    assert_eq!((store.health().free_bytes, store.health().sells(NOW)), (None, Ok(())));
    assert_eq!(store.replication().await, Ok(Replication::None));
    store.close().await;
    let address = format!(
        "postgres://faregate@localhost:{}/faregate?options=-csearch_path%3D{}",
        database.port, database.schema
    );
    let store = PostgresStore::open(&PostgresOptions::new(postgres_server(&address).unwrap())).await.unwrap();
    assert_eq!(store.health().free_bytes, None);
    store.close().await;
}

#[tokio::test]
async fn the_newest_entry_is_known_to_an_instance_that_starts_and_told_to_one_that_runs() {
    let Some(database) = database().await else { return };
    let idle = database.open().await;
    let busy = database.open().await;
    grant(&busy, hash(1)).await.unwrap();
    let behind = UnixSeconds(NOW.0 - CLOCK_GRACE - 1);
    let sells = |store: &PostgresStore| Health { floor: 0, ..store.health() }.sells(behind);
    assert_eq!(sells(&busy), Err(Unsound::ClockBehind));
    let late = database.open().await;
    assert_eq!(sells(&late), Err(Unsound::ClockBehind), "the server remembers");
    crate::rig::eventually("the idle instance knows the newest entry", || async {
        sells(&idle) == Err(Unsound::ClockBehind)
    })
    .await;
    for store in [idle, busy, late] {
        store.close().await;
    }
    database.run(&set_back(behind)).await;
    let store = database.open().await;
    assert_eq!(sells(&store), Ok(()), "the clock was ahead, and that is mended");
    store.close().await;
}
