//! Faults that only a server can have: settings that lose writes, tables of another version, a connection
//! lost at the worst moment, a server that goes away and comes back.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use faregate::nano::{BlockHash, UnixSeconds};
use faregate::store::{
    Begin, CLOCK_GRACE, Claims, Engine, Filter, Grant, Health, LeaseRequest, Meters, OutstandingGrants,
    PaymentJournal, PostgresFault, PostgresOptions, PostgresStore, Replication, SqliteOptions, SqliteStore,
    StoreError, StoreEvent, StoreHealth, Unsound, postgres_server,
};
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_postgres::NoTls;

use super::cluster::{Database, database};
use super::conformance;
use super::samples::{GOOD_FOR, NOW, USES, grantee, hash, holder, id, sent, set_back, signed};

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
    ears: Arc<Ears>,
}

#[derive(Default)]
struct Ears {
    deaf: AtomicBool,
    /// What is in the next message after which the wire is deaf.
    until: Mutex<Option<BlockHash>>,
}

impl Ears {
    /// Passes on what a client asks, to its last byte.
    async fn pass_on(&self, mut from_client: impl AsyncRead + Unpin, mut to_server: impl AsyncWrite + Unpin) {
        let mut piece = vec![0; 65_536];
        while let Ok(length @ 1..) = from_client.read(&mut piece).await {
            let asked = &piece[..length];
            let is_in = |it: &mut BlockHash| asked.windows(it.0.len()).any(|part| part == it.0);
            if self.until.lock().unwrap().take_if(is_in).is_some() {
                self.deaf.store(true, Ordering::SeqCst);
            }
            if to_server.write_all(asked).await.is_err() {
                return;
            }
        }
    }
}

impl Wire {
    /// Forwards to the server; while deaf, what the server says ends the connection instead.
    fn to(database: &Database) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let name = format!(".s.PGSQL.{}", database.port);
        let listener = UnixListener::bind(directory.path().join(&name)).unwrap();
        let ears = Arc::new(Ears::default());
        let (server, shared) = (database.socket.join(&name), Arc::clone(&ears));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, ears) = (server.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let (from_client, mut to_client) = client.into_split();
                    let (mut from_server, to_server) =
                        UnixStream::connect(server).await.unwrap().into_split();
                    let asking = Arc::clone(&ears);
                    // It ends with the client: what was asked before the connection ends arrives.
                    tokio::spawn(async move { asking.pass_on(from_client, to_server).await });
                    let mut piece = vec![0; 65_536];
                    while let Ok(length @ 1..) = from_server.read(&mut piece).await {
                        if ears.deaf.load(Ordering::SeqCst)
                            || to_client.write_all(&piece[..length]).await.is_err()
                        {
                            break;
                        }
                    }
                });
            }
        });
        Self { directory, ears }
    }

    fn is_deaf(&self, deaf: bool) {
        self.ears.deaf.store(deaf, Ordering::SeqCst);
    }

    /// Deaf as soon as a message about `block` is on its way to the server, which hears that still.
    fn is_deaf_after(&self, block: BlockHash) {
        *self.ears.until.lock().unwrap() = Some(block);
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
    let mut found_out = false;
    for number in 2..10 {
        // Not before: what ends the connection while the store only looks at the server would end no call.
        wire.is_deaf_after(hash(number));
        let lost = grant(&store, hash(number)).await;
        assert!(matches!(lost, Err(StoreError::Unknown(_))), "{lost:?}");
        assert!(!store.health().writable);
        let unreachable = grant(&store, hash(number)).await;
        assert!(matches!(unreachable, Err(StoreError::Unavailable(_))), "{unreachable:?}");
        wire.is_deaf(false);
        let again = grant(&store, hash(number)).await.unwrap();
        let Grant::Granted { fresh, lease, .. } = again else { panic!("{again:?}") };
        assert_eq!(lease.granted, 1);
        assert!(store.health().writable);
        // On a busy machine the wire can break before the server has heard the first call.
        found_out = !fresh;
        if found_out {
            break;
        }
    }
    assert!(found_out, "the server never heard a call whose answer was lost");
    store.close().await;
}

#[tokio::test]
async fn an_idle_store_notices_that_the_server_is_gone_and_back() {
    let Some(database) = database().await else { return };
    let wire = Wire::to(&database);
    let store = PostgresStore::open(&through(&database, wire.directory.path())).await.unwrap();
    wire.is_deaf(true);
    let turns = async |writable| {
        let noticed = async || store.health().writable == writable;
        crate::patience::eventually("the store notices", noticed).await;
    };
    turns(false).await;
    wire.is_deaf(false);
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

/// What was begun before a stop is answered, and nothing is begun after it.
#[tokio::test]
async fn a_close_waits_for_calls_under_way() {
    let Some(database) = database().await else { return };
    let store = Arc::new(database.open().await);
    let (holder, connection) = postgres_server(&database.address()).unwrap().connect(NoTls).await.unwrap();
    let driven = tokio::spawn(connection);
    holder.batch_execute("BEGIN; LOCK TABLE claims IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let caller = Arc::clone(&store);
    let call = tokio::spawn(async move { caller.mark_spent(hash(1), NOW).await });
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'claims'::regclass";
    crate::rig::eventually("the call waits for the table", async || {
        database.run(waiting).await.as_deref() == Some("1")
    })
    .await;
    let mut closing = Box::pin(store.close());
    assert!(closing.as_mut().now_or_never().is_none(), "the call is under way");
    holder.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(call.await.unwrap(), Ok(true));
    closing.await;
    let refused = store.is_claimed(hash(1)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    drop(holder);
    driven.await.unwrap().unwrap();
}

/// Both engines, as the gateway runs them.
#[tokio::test]
async fn an_engine_says_what_is_claimed_and_what_is_out_and_tells_of_each_call() {
    let folder = tempfile::tempdir().unwrap();
    let file = SqliteStore::open(&folder.path().join("store.db"), SqliteOptions::default()).unwrap();
    let mut engines = vec![Engine::from(file)];
    if let Some(database) = database().await {
        engines.push(Engine::from(database.open().await));
    }
    for engine in engines {
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let list = Arc::clone(&told);
        let engine = engine.observed_by(Arc::new(move |event| {
            let StoreEvent::Call { operation, ok, .. } = event else { return };
            list.lock().unwrap().push((operation, ok));
        }));
        assert!(engine.is_writable());
        assert_eq!(engine.outstanding(NOW).await, Ok(Vec::new()));
        for number in [1, 2] {
            engine.grant(&sent(hash(number), 1), grantee(hash(number), 1, 1), NOW).await.unwrap();
        }
        engine.mark_spent(hash(3), NOW).await.unwrap();
        for (number, claimed) in [(1, true), (2, true), (3, true), (4, false)] {
            assert_eq!(engine.is_claimed(hash(number)).await, Ok(claimed), "{number}");
        }
        let sale = sent(hash(1), 1);
        let alike = OutstandingGrants {
            route: sale.route.clone(),
            terms: sale.terms,
            price: None,
            place: sale.challenge.place(),
            capabilities: 2,
            uses: 2 * USES as u64,
        };
        assert_eq!(engine.outstanding(NOW).await, Ok(vec![alike]));
        assert_eq!(engine.outstanding(NOW.plus(GOOD_FOR)).await, Ok(Vec::new()), "they have expired");
        let misfit = engine.lease(LeaseRequest { capability: id(hash(9)), ..nothing() }, NOW).await;
        assert!(matches!(misfit, Err(StoreError::NotApplied(_))), "{misfit:?}");
        engine.close().await;
        assert!(!engine.is_writable(), "it is closed");
        let closed = engine.mark_spent(hash(5), NOW).await;
        assert!(matches!(closed, Err(StoreError::Unavailable(_))), "{closed:?}");
        let calls =
            [("grant", true), ("grant", true), ("mark_spent", true), ("lease", true), ("mark_spent", false)];
        assert_eq!(*told.lock().unwrap(), calls, "a refusal of the arguments is no failure");
    }
}

/// A lease call that reports and asks for nothing.
fn nothing() -> LeaseRequest {
    LeaseRequest {
        capability: id(hash(1)),
        holder: holder(1),
        sequence: 1,
        used: 0,
        returned: 0,
        broken: 0,
        want: 0,
        ttl: 30,
    }
}

/// Makes the server refuse to mark one hash as spent, with this SQLSTATE.
async fn refuse(database: &Database, block: u8, code: &str) {
    let name = format!("refuse_{block}");
    database
        .run(&format!(
            "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RAISE EXCEPTION 'as the test says' USING ERRCODE = '{code}'; END $$; \
             CREATE TRIGGER {name} BEFORE INSERT ON claims FOR EACH ROW \
             WHEN (NEW.block = '\\x{}') EXECUTE FUNCTION {name}()",
            hash(block).lower_hex()
        ))
        .await;
}

/// If an error that ended the connection at a commit counted as "not applied", a sale that was recorded
/// would be made again.
#[tokio::test]
async fn what_the_server_says_at_a_commit_decides_whether_it_was_applied() {
    let Some(database) = database().await else { return };
    let store = database.open().await;
    let codes = ["57P01", "08006", "22003", "23514", "P0001"];
    for (number, code) in (1..).zip(codes) {
        refuse(&database, number, code).await;
        let answer = store.mark_spent(hash(number), NOW).await;
        let expected = match code {
            "57P01" | "08006" => matches!(answer, Err(StoreError::Unknown(_))),
            "22003" | "23514" => matches!(answer, Err(StoreError::NotApplied(_))),
            _ => matches!(answer, Err(StoreError::Unavailable(_))),
        };
        assert!(expected, "{code}: {answer:?}");
    }
    store.close().await;
}

/// A write that fits into an existing page shows nothing about the room for the next one.
#[tokio::test]
async fn a_server_that_was_full_sells_again_when_it_has_room_for_more_than_a_row() {
    let Some(database) = database().await else { return };
    refuse_after_tables(&database, 1, "53100").await;
    let store = database.open().await;
    database.run("CREATE TABLE faregate_room (taken int)").await;
    let full = store.mark_spent(hash(1), NOW).await;
    assert!(matches!(full, Err(StoreError::Unavailable(_))), "{full:?}");
    assert!(!store.is_writable());
    assert_eq!(store.mark_spent(hash(2), NOW).await, Ok(true));
    assert!(!store.is_writable(), "one row shows nothing");
    // The server is checked twice meanwhile.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(!store.is_writable(), "nor does a row that the check itself writes");
    database.run("DROP TABLE faregate_room").await;
    crate::rig::eventually("the room is found", async || store.is_writable()).await;
    assert_eq!(
        database.run("SELECT to_regclass('faregate_room')").await,
        None,
        "nothing is left of the probe"
    );
    store.close().await;
}

/// A role without the right to make tables cannot make the one that shows whether there is room.
#[tokio::test]
async fn a_role_that_may_only_change_rows_notices_that_the_server_takes_writes_again() {
    let Some(database) = database().await else { return };
    refuse_after_tables(&database, 1, "53100").await;
    let (role, schema) = (format!("rows_{}", database.schema), &database.schema);
    database
        .run(&format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role}; \
             GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}; \
             GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {role}"
        ))
        .await;
    let address = database.address().replace("postgres://faregate@", &format!("postgres://{role}@"));
    let store = PostgresStore::open(&PostgresOptions::new(postgres_server(&address).unwrap())).await.unwrap();
    let full = store.mark_spent(hash(1), NOW).await;
    assert!(matches!(full, Err(StoreError::Unavailable(_))), "{full:?}");
    crate::rig::eventually("it takes writes again", async || store.is_writable()).await;
    store.close().await;
}

/// As [`refuse`], in a schema that has no tables yet.
async fn refuse_after_tables(database: &Database, block: u8, code: &str) {
    database.open().await.close().await;
    refuse(database, block, code).await;
}

/// A server that asks for the password in clear and tells what it got.
async fn asks_for_the_password(listener: UnixListener) -> String {
    let (mut client, _) = listener.accept().await.unwrap();
    let length = client.read_u32().await.unwrap();
    let mut startup = vec![0; length as usize - 4];
    client.read_exact(&mut startup).await.unwrap();
    client.write_all(b"R\0\0\0\x08\0\0\0\x03").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'p');
    let length = client.read_u32().await.unwrap();
    let mut password = vec![0; length as usize - 4];
    client.read_exact(&mut password).await.unwrap();
    String::from_utf8(password).unwrap()
}

#[tokio::test]
async fn the_password_is_the_first_line_of_a_file_that_only_its_owner_may_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let write = |text: &str, mode: u32| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let address = format!("postgres://gateway@/f?host={}", folder.path().display());
    let mut options = PostgresOptions::new(postgres_server(&address).unwrap());
    options.password_file = Some(file.clone());
    for (text, mode, part) in [("s3cr3t\n", 0o644, "chmod 600"), ("\ns3cr3t\n", 0o600, "first line")] {
        write(text, mode);
        let refused = PostgresStore::open(&options).await.unwrap_err();
        assert!(matches!(&refused, PostgresFault::File { why, .. } if why.contains(part)), "{refused}");
    }
    write("s3cr3t\nof last year\n", 0o600);
    let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
    let asked = asks_for_the_password(listener);
    let (opened, sent) =
        tokio::join!(PostgresStore::open(&options), crate::patience::soon("it is asked", asked));
    assert_eq!(sent, "s3cr3t\0");
    assert!(matches!(opened, Err(PostgresFault::Unreachable(_))), "the server hung up");
}

#[tokio::test]
async fn a_purse_holds_amounts_of_any_size() {
    let Some(database) = database().await else { return };
    let store = Arc::new(database.open().await);
    conformance::a_purse_holds_amounts_of_any_size(Arc::clone(&store)).await;
    store.close().await;
}
