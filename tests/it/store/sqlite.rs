//! Faults that only a file can have: reopening, two stores at once, a copy made while others write, a full
//! disk, a file of another version.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use faregate::nano::{BlockHash, Raw, UnixSeconds};
use faregate::store::{
    Begin, CLOCK_GRACE, Claims, Engine, Filter, Grant, Health, Meters, OpenFault, PaymentJournal,
    SqliteOptions, SqliteStore, StoreError, StoreHealth, Unsound, backup_sqlite,
};
use rusqlite::Connection;
use tempfile::TempDir;

use super::conformance;
use super::samples::{NOW, grantee, hash, id, sent, set_back, signed};

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, SqliteOptions::default()).unwrap()
}

fn numbered(number: u32) -> BlockHash {
    let mut bytes = [0xab; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    BlockHash(bytes)
}

/// Polls a call once: then it is queued, or answered already.
async fn asked<T>(mut call: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    std::future::poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await
}

async fn grant(store: &SqliteStore, block: BlockHash) -> Result<Grant, StoreError> {
    store.grant(&sent(block, 1), grantee(block, 1, 1), NOW).await
}

#[tokio::test]
async fn the_file_is_its_owners_only() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path);
    grant(&store, hash(1)).await.unwrap();
    for name in ["store.db", "store.db-wal", "store.db-shm"] {
        let mode = fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    store.close().await;
    assert!(!directory.path().join("store.db-wal").exists(), "a closed store is one file");
}

#[tokio::test]
async fn a_log_shows_whether_a_store_can_be_written() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory.path().join("store.db"));
    let shown = format!("{store:?}");
    assert!(shown.contains("writable: true"), "{shown}");
    assert_eq!(format!("{:?}", Engine::from(store)), shown);
}

#[test]
fn a_missing_directory_is_said() {
    let directory = TempDir::new().unwrap();
    let missing = directory.path().join("missing");
    let error = SqliteStore::open(&missing.join("store.db"), SqliteOptions::default()).unwrap_err();
    assert!(matches!(&error.fault, OpenFault::NoDirectory(named) if *named == missing));
    let text = error.to_string();
    assert!(text.contains("missing/store.db") && text.contains("does not exist"), "{text}");
    let error = SqliteStore::open(directory.path(), SqliteOptions::default()).unwrap_err();
    assert!(matches!(error.fault, OpenFault::NotAFile), "{error}");
}

#[tokio::test]
async fn the_file_of_a_newer_program_is_refused_untouched() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    open(&path).close().await;
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = fs::read(&path).unwrap();
    let error = SqliteStore::open(&path, SqliteOptions::default()).unwrap_err();
    assert!(matches!(error.fault, OpenFault::Newer { found: 99, .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_database_of_another_program_is_refused_untouched() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (it TEXT)").unwrap();
    let before = fs::read(&path).unwrap();
    let error = SqliteStore::open(&path, SqliteOptions::default()).unwrap_err();
    assert!(matches!(error.fault, OpenFault::Foreign), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
    fs::write(&path, "not a database, and long enough to be looked at as one ".repeat(20)).unwrap();
    let error = SqliteStore::open(&path, SqliteOptions::default()).unwrap_err();
    assert!(matches!(error.fault, OpenFault::Sqlite(_)), "{error}");
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_drop() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path);
    for number in 0..20 {
        grant(&store, numbered(number)).await.unwrap();
    }
    drop(store);
    let store = open(&path);
    assert_eq!(store.scan(0, Filter::default(), 99).await.unwrap().len(), 20);
    assert!(matches!(grant(&store, numbered(7)).await, Ok(Grant::Granted { fresh: false, .. })));
    store.close().await;
}

#[tokio::test]
async fn what_was_queued_is_done_before_the_close() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path);
    let (mut calls, mut answers) = (Vec::new(), Vec::new());
    for number in 0..200 {
        let mut call = Box::pin(grant(&store, numbered(number)));
        match asked(call.as_mut()).await {
            Poll::Pending => calls.push(call),
            Poll::Ready(answer) => answers.push(answer),
        }
    }
    store.close().await;
    for call in calls {
        answers.push(call.await);
    }
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Grant::Granted { fresh: true, .. }))));
    assert!(matches!(grant(&store, hash(1)).await, Err(StoreError::Unavailable(_))), "closed");
    assert!(!store.health().writable);
    assert!(matches!(store.payment(hash(1)).await, Err(StoreError::Unavailable(_))), "closed");
    let store = open(&path);
    assert_eq!(store.scan(0, Filter::default(), 999).await.unwrap().len(), 200);
    store.close().await;
}

#[tokio::test]
async fn two_stores_share_one_file() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let stores = [Arc::new(open(&path)), Arc::new(open(&path))];
    let mut tasks = Vec::new();
    for number in 0..100 {
        for store in &stores {
            let store = Arc::clone(store);
            tasks.push(tokio::spawn(async move { grant(&store, numbered(number)).await.unwrap() }));
        }
    }
    let mut fresh = 0;
    for task in tasks {
        let Grant::Granted { fresh: first, .. } = task.await.unwrap() else { panic!("taken") };
        fresh += u32::from(first);
    }
    assert_eq!(fresh, 100, "each hash is granted by one of the two");
    let [one, other] = &stores;
    assert!(matches!(one.begin(&signed(hash(1), hash(100), 1), NOW).await, Ok(Begin::Fresh(_))));
    let rival = other.begin(&signed(hash(2), hash(100), 1), NOW).await;
    assert_eq!(rival, Ok(Begin::FrontierHeld(hash(1))));
    one.close().await;
    grant(other, hash(9)).await.unwrap();
    other.close().await;
}

/// As near to a kill as a test in one process comes: the files as they lie, while they are written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_taken_while_writing_holds_what_was_answered() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let store = Arc::new(open(&path));
    for round in 0..3_u32 {
        let first = round * 1000;
        for number in first..first + 50 {
            grant(&store, numbered(number)).await.unwrap();
        }
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let writing = tokio::spawn({
            let store = Arc::clone(&store);
            async move {
                let mut number = first + 50;
                while stopped.try_recv().is_err() {
                    grant(&store, numbered(number)).await.unwrap();
                    number += 1;
                }
            }
        });
        // An open snapshot keeps the log from starting over between the two copies, which a kill
        // would not see apart.
        let snapshot = Connection::open(&path).unwrap();
        snapshot.execute_batch("BEGIN; SELECT count(*) FROM payments").unwrap();
        let copy = directory.path().join(format!("copy-{round}.db"));
        fs::copy(&path, &copy).unwrap();
        fs::copy(
            directory.path().join("store.db-wal"),
            directory.path().join(format!("copy-{round}.db-wal")),
        )
        .unwrap();
        drop(snapshot);
        stop.send(()).unwrap();
        writing.await.unwrap();

        let copy = open(&copy);
        for number in (0..=round).flat_map(|round| round * 1000..round * 1000 + 50) {
            assert!(copy.capability(id(numbered(number))).await.unwrap().is_some(), "{number}");
        }
        grant(&copy, hash(1)).await.unwrap();
        copy.close().await;
    }
    store.close().await;
}

#[tokio::test]
async fn a_full_queue_refuses_new_work_and_keeps_the_old() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let options = SqliteOptions { queue: 2.try_into().unwrap(), ..SqliteOptions::default() };
    let store = SqliteStore::open(&path, options).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    // The writer takes some and waits for the lock with them; the queue behind it has two places.
    let mut calls = Vec::new();
    let refused = loop {
        let mut call = Box::pin(grant(&store, numbered(calls.len() as u32)));
        match asked(call.as_mut()).await {
            Poll::Pending => calls.push(call),
            Poll::Ready(answer) => break answer,
        }
        assert!(calls.len() < 1000, "the queue never fills");
    };
    assert!(
        matches!(&refused, Err(StoreError::Unavailable(reason)) if reason.contains("waiting")),
        "{refused:?}"
    );
    other.execute_batch("ROLLBACK").unwrap();
    let accepted = calls.len();
    for call in calls {
        assert!(matches!(call.await, Ok(Grant::Granted { fresh: true, .. })));
    }
    assert_eq!(store.scan(0, Filter::default(), 9999).await.unwrap().len(), accepted);
    store.close().await;
}

#[tokio::test]
async fn a_store_locked_by_another_is_unavailable_and_comes_back() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let options = SqliteOptions { busy_timeout: Duration::from_millis(20), ..SqliteOptions::default() };
    let store = SqliteStore::open(&path, options).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(matches!(grant(&store, hash(1)).await, Err(StoreError::Unavailable(_))));
    assert!(!store.health().writable);
    assert_eq!(store.payment(hash(1)).await, Ok(None), "reading goes on");
    other.execute_batch("ROLLBACK").unwrap();
    assert!(matches!(grant(&store, hash(1)).await, Ok(Grant::Granted { fresh: true, .. })));
    assert!(store.health().writable);
    store.close().await;
}

/// A file system of its own, gone with the value.
struct Disk(TempDir);

impl Disk {
    /// One of `size`, where the system lets this process mount one.
    fn mount(size: &str) -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "faregate-test"])
            .arg(directory.path())
            .output();
        mount.is_ok_and(|output| output.status.success()).then(|| Self(directory))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "{} stays mounted", self.0.path().display());
    }
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
async fn a_full_disk_is_survived_in_the_same_process() {
    let Some(disk) = Disk::mount("2m") else {
        eprintln!("SKIPPED: a_full_disk_is_survived_in_the_same_process needs the right to mount a tmpfs");
        return;
    };
    let path = disk.0.path().join("store.db");
    let store = open(&path);
    assert!(store.health().free_bytes.is_some_and(|free| free > 0 && free <= 2 << 20));
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![1; 1 << 20]).unwrap();

    let mut done = 0;
    let error = loop {
        match grant(&store, numbered(done)).await {
            Ok(_) => done += 1,
            Err(error) => break error,
        }
        assert!(done < 10_000, "the disk never fills");
    };
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert!(!store.health().writable);
    assert!(store.payment(numbered(0)).await.unwrap().is_some(), "reading goes on");
    assert_eq!(store.payment(numbered(done)).await, Ok(None), "what was refused is not there");

    fs::remove_file(&ballast).unwrap();
    assert!(matches!(grant(&store, numbered(done)).await, Ok(Grant::Granted { fresh: true, .. })));
    assert!(store.health().writable);
    store.close().await;
    let store = open(&path);
    assert_eq!(store.scan(0, Filter::default(), 99_999).await.unwrap().len(), done as usize + 1);
    store.close().await;
}

/// What is under way when the disk fills is finished; nothing new is sold until there is room.
#[tokio::test]
#[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
async fn the_ballast_lets_what_is_under_way_be_finished() {
    let Some(disk) = Disk::mount("3m") else {
        eprintln!("SKIPPED: the_ballast_lets_what_is_under_way_be_finished needs the right to mount a tmpfs");
        return;
    };
    let (path, ballast) = (disk.0.path().join("store.db"), disk.0.path().join("store.db-ballast"));
    let options = SqliteOptions { free_space: 0, ballast: 512 << 10, ..SqliteOptions::default() };
    let store = SqliteStore::open(&path, options).unwrap();
    assert_eq!(fs::metadata(&ballast).unwrap().len(), 512 << 10);
    assert_eq!(store.health().sells(NOW), Ok(()));
    let filler = disk.0.path().join("filler");
    fs::write(&filler, vec![1; 1536 << 10]).unwrap();

    let mut done = 0;
    while ballast.exists() {
        grant(&store, numbered(done)).await.unwrap();
        done += 1;
        assert!(done < 10_000, "the disk never fills");
    }
    assert!(done > 1, "the grant that found the disk full was made all the same");
    assert_eq!(store.health().sells(NOW), Err(Unsound::NoSpace));
    grant(&store, numbered(done)).await.unwrap();

    fs::remove_file(&filler).unwrap();
    let restored = async || store.health().sells(NOW) == Ok(()) && ballast.exists();
    crate::patience::eventually("the ballast is made again", restored).await;
    store.close().await;
    let store = open(&path);
    assert_eq!(store.scan(0, Filter::default(), 99_999).await.unwrap().len(), done as usize + 1);
    store.close().await;
}

/// A backup that is put in place under a running gateway, the classic accident: what was granted from
/// then on would be lost with the old file.
#[tokio::test]
async fn a_file_that_is_exchanged_under_a_running_store_is_not_written_any_more() {
    let directory = TempDir::new().unwrap();
    let [path, away, other] = ["store.db", "away.db", "other.db"].map(|name| directory.path().join(name));
    open(&other).close().await;
    let store = open(&path);
    grant(&store, hash(1)).await.unwrap();
    fs::rename(&path, &away).unwrap();
    let refused = grant(&store, hash(2)).await;
    assert!(matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("removed")), "{refused:?}");
    fs::copy(&other, &path).unwrap();
    let refused = grant(&store, hash(2)).await;
    assert!(matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("replaced")), "{refused:?}");
    assert!(!store.health().writable);
    fs::rename(&away, &path).unwrap();
    grant(&store, hash(2)).await.unwrap();
    assert!(store.health().writable, "put back, it is the same file");
    // Nobody is paying: the store notices by itself.
    fs::rename(&path, &away).unwrap();
    crate::rig::eventually("noticed", || async { !store.health().writable }).await;
    fs::rename(&away, &path).unwrap();
    crate::rig::eventually("noticed too", || async { store.health().writable }).await;
    store.close().await;
}

#[tokio::test]
async fn nothing_is_sold_while_the_clock_is_behind_the_journal() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path);
    assert_eq!(store.health().sells(UnixSeconds(0)), Ok(()), "nothing is journalled yet");
    grant(&store, hash(1)).await.unwrap();
    let sells = |store: &SqliteStore| {
        let health = Health { floor: 0, ..store.health() };
        [0, CLOCK_GRACE, CLOCK_GRACE + 1].map(|behind| health.sells(UnixSeconds(NOW.0 - behind)))
    };
    assert_eq!(sells(&store), [Ok(()), Ok(()), Err(Unsound::ClockBehind)]);
    store.close().await;
    let store = open(&path);
    assert_eq!(sells(&store), [Ok(()), Ok(()), Err(Unsound::ClockBehind)], "the file remembers");
    let greedy = Health { floor: u64::MAX, ..store.health() };
    assert_eq!(greedy.sells(NOW), Err(Unsound::NoSpace));
    store.close().await;
    let right = UnixSeconds(NOW.0 - CLOCK_GRACE - 1);
    Connection::open(&path).unwrap().execute_batch(&set_back(right)).unwrap();
    let store = open(&path);
    assert_eq!(sells(&store), [Ok(()); 3], "the clock was ahead, and that is mended");
    store.close().await;
}

/// The copy has everything that was answered before it began, whatever is written meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_taken_while_others_write() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let store = Arc::new(open(&path));
    for number in 0..100 {
        grant(&store, numbered(number)).await.unwrap();
    }
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            let mut number = 100;
            while stopped.try_recv().is_err() {
                grant(&store, numbered(number)).await.unwrap();
                number += 1;
            }
            number
        }
    });
    let (from, to) = (path.clone(), directory.path().join("copy.db"));
    let copied = to.clone();
    let found = tokio::task::spawn_blocking(move || backup_sqlite(&from, &to)).await.unwrap().unwrap();
    stop.send(()).unwrap();
    let written = writing.await.unwrap();
    assert!((100..=u64::from(written)).contains(&found.payments), "{found:?}");
    assert_eq!(found.faults, Vec::<String>::new());
    assert_eq!(fs::metadata(&copied).unwrap().permissions().mode() & 0o777, 0o600);
    store.close().await;
    let copy = open(&copied);
    assert_eq!(copy.scan(0, Filter::default(), 999_999).await.unwrap().len() as u64, found.payments);
    assert!(matches!(grant(&copy, numbered(7)).await, Ok(Grant::Granted { fresh: false, .. })));
    copy.close().await;
}

#[tokio::test]
async fn writing_is_tried_again_while_nobody_calls() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let options = SqliteOptions { busy_timeout: Duration::from_millis(1), ..SqliteOptions::default() };
    let store = SqliteStore::open(&path, options).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    grant(&store, hash(1)).await.unwrap_err();
    assert!(!store.health().writable);
    other.execute_batch("ROLLBACK").unwrap();
    crate::patience::eventually("the store is writable again", async || store.health().writable).await;
    store.close().await;
}

#[tokio::test]
async fn any_sqlite_tool_reads_exact_amounts() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path);
    let amounts = [0, 1, 9_999_999_999_999, 10_u128.pow(13), 10_u128.pow(26), 10_u128.pow(38), u128::MAX];
    for (number, amount) in (1..).zip(amounts) {
        let mut intent = sent(hash(number), 1);
        intent.amount = Raw::new(amount);
        store.begin(&intent, NOW).await.unwrap();
    }
    let tool = Connection::open(&path).unwrap();
    let mut query = tool.prepare("SELECT amount_raw FROM payments_readable ORDER BY sequence").unwrap();
    let shown: Vec<String> = query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(shown, amounts.map(|amount| amount.to_string()));
    let state: String = tool
        .query_row("SELECT state FROM payments_readable WHERE block = ?1", [hash(1).to_string()], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(state, "intent");
    store.close().await;
}

#[tokio::test]
async fn the_file_itself_keeps_what_must_be_kept() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.db");
    let store = open(&path);
    grant(&store, hash(1)).await.unwrap();
    store.close().await;
    let tool = Connection::open(&path).unwrap();
    for harm in ["DELETE FROM claims", "DELETE FROM payments", "UPDATE payments SET state = 0"] {
        tool.execute_batch(harm).unwrap_err();
    }
}

#[test]
fn a_store_serves_callers_of_any_runtime() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory.path().join("store.db"));
    for number in 1..3 {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(grant(&store, hash(number))).unwrap();
        assert!(runtime.block_on(store.payment(hash(number))).unwrap().is_some());
    }
}

#[tokio::test]
async fn a_purse_holds_amounts_of_any_size() {
    let directory = TempDir::new().unwrap();
    let store = Arc::new(open(&directory.path().join("store.db")));
    conformance::a_purse_holds_amounts_of_any_size(Arc::clone(&store)).await;
    store.close().await;
}
