//! What a power cut leaves: the image of a mounted file system, copied as it lies under a store that
//! is being written, with nothing synced for the copy. Everything answered before it must be in it.
//!
//! More cuts: `POWER_CUTS=200 cargo test --release power_cut -- --nocapture`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use faregate::nano::BlockHash;
use faregate::store::{Begin, CapabilityId, Filter, Grant, PaymentState, SqliteOptions, SqliteStore, Store};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::store::samples::{NOW, holder, sent, signed};

const CUTS: u32 = 3;
const IMAGE_BYTES: u64 = 24 << 20;
/// Callers that settle at once.
const TELLERS: u32 = 8;
/// Payments that must be answered before the power is cut.
const BEFORE: usize = 300;

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

/// An empty ext4 in a file; nothing where the system cannot make one.
#[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
fn make_image(path: &Path, test: &str) -> bool {
    fs::File::create(path).unwrap().set_len(IMAGE_BYTES).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(path).status();
    let made = made.is_ok_and(|status| status.success());
    if !made {
        eprintln!("SKIPPED: {test} needs mkfs.ext4");
    }
    made
}

/// What was answered so far.
#[derive(Clone, Default)]
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

/// Settles one payment after the other, as the gateway does: half of them are claimed first.
async fn settle(
    store: Arc<SqliteStore>,
    next: Arc<AtomicU32>,
    answered: Arc<Mutex<Answered>>,
    off: Arc<AtomicBool>,
) {
    while !off.load(Ordering::SeqCst) {
        let number = next.fetch_add(1, Ordering::SeqCst);
        let block = numbered(number);
        let intent = if number.is_multiple_of(2) { sent(block, 1) } else { signed(block, block, 1) };
        if intent.signed.is_some() {
            assert!(matches!(store.begin(&intent, NOW).await, Ok(Begin::Fresh(_))));
            answered.lock().unwrap().claimed.insert(block);
        }
        let granted = store.grant(&intent, id(block), holder(1), 1, 30, NOW).await.unwrap();
        assert!(matches!(granted, Grant::Granted { fresh: true, .. }));
        answered.lock().unwrap().granted.insert(block);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_before_a_power_cut_is_there_after_it() {
    let test = "what_was_answered_before_a_power_cut_is_there_after_it";
    #[expect(clippy::disallowed_methods, reason = "a test's own argument")]
    let cuts = std::env::var("POWER_CUTS").map_or(CUTS, |it| it.parse().expect("POWER_CUTS"));
    let folder = TempDir::new().unwrap();
    let mut payments = 0;
    for cut in 0..cuts {
        let (image, copy) = (folder.path().join("disk.img"), folder.path().join("copy.img"));
        if !make_image(&image, test) {
            return;
        }
        let Some(disk) = Mounted::image(&image, test) else { return };
        let store =
            Arc::new(SqliteStore::open(&disk.path().join("store.db"), SqliteOptions::default()).unwrap());
        let (next, answered) = (Arc::new(AtomicU32::new(1)), Arc::new(Mutex::new(Answered::default())));
        let off = Arc::new(AtomicBool::new(false));
        let tellers: Vec<_> = (0..TELLERS)
            .map(|_| settle(Arc::clone(&store), Arc::clone(&next), Arc::clone(&answered), Arc::clone(&off)))
            .map(tokio::spawn)
            .collect();
        // Another point of the log each time.
        let before = BEFORE + cut as usize % 7 * 31;
        crate::rig::eventually("enough is settled", || async {
            answered.lock().unwrap().granted.len() >= before
        })
        .await;
        let known = answered.lock().unwrap().clone();
        fs::copy(&image, &copy).unwrap();
        let after = answered.lock().unwrap().granted.len();
        off.store(true, Ordering::SeqCst);
        for teller in tellers {
            teller.await.unwrap();
        }
        store.close().await;
        drop(disk);
        let Some(disk) = Mounted::image(&copy, test) else { panic!("the copy cannot be mounted") };
        compare(&disk.path().join("store.db"), &known).await;
        payments += known.granted.len();
        assert!(after > before, "nothing was written while the copy was made");
        drop(disk);
    }
    #[expect(clippy::print_stdout, reason = "the figures of a longer run")]
    let () = println!("{cuts} power cuts, {payments} payments answered before them, none lost");
}

/// What is in the copy holds everything that was known, and nothing twice.
async fn compare(path: &Path, known: &Answered) {
    let store = SqliteStore::open(path, SqliteOptions::default()).unwrap();
    let verdict: String =
        Connection::open(path).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
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
        let other = store.grant(&sent(*block, 2), id(*block), holder(2), 1, 30, NOW).await;
        assert_eq!(other, Ok(Grant::Taken));
        let own = store.grant(&sent(*block, 1), id(*block), holder(2), 1, 30, NOW).await;
        assert!(matches!(own, Ok(Grant::Granted { fresh: false, .. })));
    }
    store.close().await;
}
