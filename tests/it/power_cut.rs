//! What a power cut leaves: the image of a mounted file system, copied as it lies while the processes
//! that write the store on it stand still somewhere in the middle, with nothing synced for the
//! copy. Everything answered before must be in it.
//!
//! More cuts: `POWER_CUTS=200 cargo test --release power_cut -- --nocapture`.

mod postgres;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use faregate::nano::BlockHash;
use faregate::store::{
    Begin, CapabilityId, Filter, Grant, Grantee, PaymentState, SqliteOptions, SqliteStore, Store,
};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use crate::patience::{eventually, soon};
use crate::store::samples::{NOW, grantee, sent, signed};

const CUTS: u32 = 3;
/// Of the disk that a file lies on.
const IMAGE_BYTES: u64 = 24 << 20;
/// Callers that settle at once.
const TELLERS: u32 = 8;
/// Payments that must be answered before the power is cut.
const BEFORE: usize = 300;
/// What the writing process says of each payment, with its number.
const CLAIMED: &str = "@claimed ";
const GRANTED: &str = "@granted ";

/// A file system mounted for a test, gone with the value, however the test ends.
pub(crate) struct Mounted(TempDir);

impl Mounted {
    /// One in memory, of `size`.
    pub(crate) fn tmpfs(size: &str, test: &str) -> Option<Self> {
        Self::mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "faregate-test"], test)
    }

    /// The one in `image`, with a loop device that goes away with it.
    fn image(image: &Path, test: &str) -> Option<Self> {
        Self::mount(&["-t", "ext4", "-o", "loop", &image.display().to_string()], test)
    }

    #[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
    fn mount(arguments: &[&str], test: &str) -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let mount = Command::new("mount").args(arguments).arg(directory.path()).output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(directory)),
            Ok(output) => {
                eprintln!("SKIPPED: {test} cannot mount: {}", String::from_utf8_lossy(&output.stderr));
                None
            }
            Err(error) => {
                eprintln!("SKIPPED: {test} cannot mount: {error}");
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        let gone = unmounted.is_ok_and(|status| status.success());
        assert!(gone || std::thread::panicking(), "{} stays mounted", self.0.path().display());
    }
}

/// An empty ext4 in a file; `None` if the system cannot make one.
#[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
fn make_image(path: &Path, bytes: u64, test: &str) -> bool {
    fs::File::create(path).unwrap().set_len(bytes).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(path).status();
    let made = made.is_ok_and(|status| status.success());
    if !made {
        eprintln!("SKIPPED: {test} needs mkfs.ext4");
    }
    made
}

/// What was answered so far.
#[derive(Default)]
struct Answered {
    claimed: BTreeSet<BlockHash>,
    granted: BTreeSet<BlockHash>,
}

fn numbered(number: u32) -> BlockHash {
    // Spread as hashes are.
    let mut bytes = [0; 32];
    for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
        chunk.copy_from_slice(&number.wrapping_mul(0x9E37_79B1).rotate_left(index as u32 * 3).to_be_bytes());
    }
    BlockHash(bytes)
}

fn id(block: BlockHash) -> CapabilityId {
    CapabilityId::of_payment(block)
}

/// Settles one payment after the other, as the gateway does: half of them are claimed first. Says
/// what was answered.
async fn settle(store: Arc<impl Store>, next: Arc<AtomicU32>, say: impl Fn(&'static str, u32)) {
    loop {
        let number = next.fetch_add(1, Ordering::SeqCst);
        let block = numbered(number);
        let intent = if number.is_multiple_of(2) { sent(block, 1) } else { signed(block, block, 1) };
        if intent.signed.is_some() {
            assert!(matches!(store.begin(&intent, NOW).await, Ok(Begin::Fresh(_))));
            say(CLAIMED, number);
        }
        let granted =
            store.grant(&intent, Grantee { id: id(block), ..grantee(block, 1, 1) }, NOW).await.unwrap();
        assert!(matches!(granted, Grant::Granted { fresh: true, .. }));
        say(GRANTED, number);
    }
}

#[expect(clippy::print_stdout, reason = "how one process tells the other")]
fn say(what: &str, number: u32) {
    println!("{what}{number}");
}

/// Names the store to the process that writes it.
const STORE: &str = "POWER_CUT_STORE";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the process whose power is cut; the other test starts it"]
async fn the_process_that_writes() {
    #[expect(clippy::disallowed_methods, reason = "a test's own argument")]
    let Ok(path) = std::env::var(STORE) else { return };
    let store = Arc::new(SqliteStore::open(Path::new(&path), SqliteOptions::default()).unwrap());
    let next = Arc::new(AtomicU32::new(1));
    let tellers = (0..TELLERS).map(|_| tokio::spawn(settle(Arc::clone(&store), Arc::clone(&next), say)));
    for teller in tellers {
        teller.await.unwrap();
    }
}

/// Writes a store at `path` until `grants` are answered and then stands still, wherever it is.
async fn write_and_stop(path: &Path, grants: usize) -> (Child, Answered) {
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["power_cut::the_process_that_writes", "--exact", "--ignored", "--nocapture"])
        .env(STORE, path)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut answered = Answered::default();
    while answered.granted.len() < grants {
        let line =
            soon("the next answer of the store", lines.next_line()).await.unwrap().expect("it writes on");
        let numbers = |mark| line.rsplit_once(mark).map(|(_, number)| numbered(number.parse().unwrap()));
        answered.claimed.extend(numbers(CLAIMED));
        answered.granted.extend(numbers(GRANTED));
    }
    let pid = child.id().expect("running");
    assert!(Command::new("kill").args(["-STOP", &pid.to_string()]).status().unwrap().success());
    eventually("every thread stands still", || async move { stands_still(pid) }).await;
    (child, answered)
}

/// Whether no thread of a process can do anything, a write to the disk included.
fn stands_still(pid: u32) -> bool {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|thread| {
        let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
        // The state comes after the name, which is in parentheses.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}

/// The image as it lies at one moment: read until two readings are the same.
fn copy(image: &Path, copy: &Path) {
    let mut last = fs::read(image).unwrap();
    loop {
        let next = fs::read(image).unwrap();
        if next == last {
            fs::write(copy, next).unwrap();
            return;
        }
        // The system writes something of its own now and then.
        last = next;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_before_a_power_cut_is_there_after_it() {
    let test = "what_was_answered_before_a_power_cut_is_there_after_it";
    let cuts = cuts(CUTS);
    let folder = TempDir::new().unwrap();
    let mut payments = 0;
    for cut in 0..cuts {
        let (image, copied) = (folder.path().join("disk.img"), folder.path().join("copy.img"));
        if !make_image(&image, IMAGE_BYTES, test) {
            return;
        }
        let Some(disk) = Mounted::image(&image, test) else { return };
        // Another point of the log each time.
        let before = BEFORE + cut as usize % 7 * 31;
        let (mut child, known) = write_and_stop(&disk.path().join("store.db"), before).await;
        copy(&image, &copied);
        child.kill().await.unwrap();
        drop(disk);
        let Some(disk) = Mounted::image(&copied, test) else { panic!("the copy cannot be mounted") };
        compare_file(&disk.path().join("store.db"), &known).await;
        payments += known.granted.len();
        drop(disk);
    }
    #[expect(clippy::print_stdout, reason = "the figures of a longer run")]
    let () = println!("{cuts} power cuts, {payments} payments answered before them, none lost");
}

/// How often the power is cut: `usually`, unless the environment says.
fn cuts(usually: u32) -> u32 {
    #[expect(clippy::disallowed_methods, reason = "a test's own argument")]
    std::env::var("POWER_CUTS").map_or(usually, |it| it.parse().expect("POWER_CUTS"))
}

async fn compare_file(path: &Path, known: &Answered) {
    let store = SqliteStore::open(path, SqliteOptions::default()).unwrap();
    let verdict: String =
        Connection::open(path).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    compare(&store, known).await;
    store.close().await;
}

/// What is in the copy holds everything that was known, and nothing twice.
async fn compare(store: &impl Store, known: &Answered) {
    let journal = store.scan(0, Filter::default(), 1_000_000).await.unwrap();
    let blocks: BTreeSet<_> = journal.iter().map(|it| it.intent.block).collect();
    assert_eq!(blocks.len(), journal.len(), "a block is in the journal twice");
    assert!(known.claimed.is_subset(&blocks), "an intent is lost");
    let granted: BTreeSet<_> =
        journal.iter().filter(|it| it.state == PaymentState::Granted).map(|it| it.intent.block).collect();
    assert!(
        known.granted.is_subset(&granted),
        "{} of {} grants are lost",
        known.granted.difference(&granted).count(),
        known.granted.len()
    );
    for block in &known.granted {
        assert!(store.capability(id(*block)).await.unwrap().is_some(), "{block}: no capability");
    }
    // Spent is spent: neither by another's challenge nor a second time by its own.
    for block in known.granted.iter().take(20) {
        let other =
            store.grant(&sent(*block, 2), Grantee { id: id(*block), ..grantee(*block, 2, 1) }, NOW).await;
        assert_eq!(other, Ok(Grant::Taken));
        let own =
            store.grant(&sent(*block, 1), Grantee { id: id(*block), ..grantee(*block, 2, 1) }, NOW).await;
        assert!(matches!(own, Ok(Grant::Granted { fresh: false, .. })));
    }
}
