//! The store's queue and its one writing thread, over a real file: an answered call is written, a refused
//! one is not, and the end comes after everything that was queued.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use rusqlite::Connection;
use shuttle::future::{block_on, spawn};
use shuttle::thread;
use tempfile::TempDir;

use super::StoreError;
use super::free_space::FreeSpace;

#[path = "../../../src/store/sqlite/ballast.rs"]
mod ballast;
#[path = "../../../src/store/sqlite/connection.rs"]
mod connection;
#[path = "../../../src/store/sqlite/fault.rs"]
mod fault;
/// As the program's own.
mod open_error {
    pub(super) use faregate::store::OpenFault;
}
#[expect(dead_code, reason = "what only a whole store needs")]
#[path = "../../../src/store/sqlite/writer.rs"]
mod writer;

use ballast::Ballast;
use fault::Fault;
use writer::{Queue, Vitals, Writer};

/// Operations that may wait; fewer than there are callers.
const CAPACITY: usize = 3;
const CALLERS: i64 = 5;

fn insert(db: &Connection, number: i64) -> Result<i64, Fault> {
    db.prepare_cached("INSERT INTO written (number) VALUES (?1)")?.execute([number])?;
    // Every third leaves a trace and then does not fit.
    if number % 3 == 2 { Err(Fault::Unfit("not this one".to_owned())) } else { Ok(number) }
}

fn numbers(db: &Connection) -> Vec<i64> {
    let mut query = db.prepare("SELECT number FROM written ORDER BY number").unwrap();
    query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn vitals(folder: &Path, path: &Path) -> Arc<Vitals> {
    Arc::new(Vitals {
        writable: AtomicBool::new(true),
        commits: AtomicU64::new(0),
        newest: AtomicU64::new(0),
        ballast: Ballast::new(path, 0),
        free_space: FreeSpace::new(folder.to_owned()),
        observer: None,
    })
}

#[test]
fn an_answered_call_is_written_and_a_refused_one_is_not() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("queue.db");
    connection::prepare(&path).unwrap();
    let db = connection::writing(&path, Duration::ZERO).unwrap();
    connection::use_wal(&db).unwrap();
    db.execute_batch(
        "CREATE TABLE written (number INTEGER PRIMARY KEY) STRICT; CREATE TABLE probe (writes INTEGER)",
    )
    .unwrap();
    drop(db);
    let kept = folder.path().to_owned();
    crate::explore(move || {
        let path = kept.join("queue.db");
        let reader = Connection::open(&path).unwrap();
        reader.execute_batch("PRAGMA synchronous = OFF; DELETE FROM written").unwrap();
        let connection = connection::writing(&path, Duration::ZERO).unwrap();
        // Nothing here is about the disk.
        connection.pragma_update(None, "synchronous", "OFF").unwrap();
        let vitals = vitals(&kept, &path);
        let (queue, commands) = Queue::new(CAPACITY);
        let mut writer = Writer {
            identity: connection::identity(&path),
            path,
            busy_timeout: Duration::ZERO,
            connection: Some(connection),
            commands,
            vitals,
        };
        let serving = thread::spawn(move || writer.serve());
        let callers: Vec<_> = (0..CALLERS)
            .map(|number| {
                let queue = queue.clone();
                spawn(async move {
                    shuttle::future::yield_now().await;
                    (number, queue.run(move |db| insert(db, number)).await)
                })
            })
            .collect();
        let closing = queue.clone();
        let closed = spawn(async move { closing.close().await });
        let mut expected = Vec::new();
        block_on(async {
            for caller in callers {
                let (number, answer) = caller.await.unwrap();
                match answer {
                    Ok(written) => {
                        assert_eq!(written, number);
                        assert!(numbers(&reader).contains(&number), "answered before it was committed");
                        expected.push(number);
                    }
                    Err(StoreError::NotApplied(_)) => assert_eq!(number % 3, 2),
                    Err(StoreError::Unavailable(why)) => {
                        assert!(why.contains("closed") || why.contains("waiting"), "{why}");
                    }
                    Err(StoreError::Unknown(why)) => panic!("{number}: {why}"),
                }
            }
            closed.await.unwrap();
        });
        serving.join().unwrap();
        assert_eq!(numbers(&reader), expected, "what is written is what was answered");
        assert!(queue.is_closed());
        let late = block_on(queue.run(|db| insert(db, 100)));
        assert!(matches!(late, Err(StoreError::Unavailable(_))), "{late:?}");
    });
    drop(folder);
}
