//! Settlements a second: so many payers at once, each paying again and again, over each engine.
//!
//! `cargo bench --bench store -- [--postgres ADDRESS] [--seconds N] [--spent N] [--directory PATH]`
//!
//! One settlement is one `grant`: hash claimed, payment journalled, capability made and leased, on
//! the disk. `--spent` first fills the SQLite store with so many spent hashes (ten million take some
//! 8 GB) and then measures lookups, too. The figures of a run belong together; those of two runs on
//! a busy machine do not.
#![expect(clippy::print_stdout, clippy::panic, reason = "a benchmark prints, and fails by panicking")]
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "as a test"
)]
#![expect(clippy::as_conversions, clippy::float_arithmetic, reason = "figures for people")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use faregate::nano::{Account, BlockHash, Raw, UnixSeconds};
use faregate::payment::{Mechanism, Nonce};
use faregate::routes::{Grants, RouteName, Terms};
use faregate::store::{
    CapabilityId, Engine, Grant, Holder, Intent, PostgresOptions, PostgresStore, SqliteOptions, SqliteStore,
    Store, postgres_server,
};

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const PAYERS: [usize; 4] = [1, 16, 64, 256];
/// Rounds over all engines, so that a disturbance hits each.
const ROUNDS: usize = 2;
/// Spent hashes that are written at one time.
const FILL: u64 = 512;

struct Options {
    postgres: Option<String>,
    seconds: u64,
    spent: u64,
    directory: PathBuf,
}

fn main() {
    let mut options = Options { postgres: None, seconds: 3, spent: 0, directory: std::env::temp_dir() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
        match argument.as_str() {
            "--postgres" => options.postgres = Some(value()),
            "--seconds" => options.seconds = value().parse().unwrap(),
            "--spent" => options.spent = value().parse().unwrap(),
            "--directory" => options.directory = value().into(),
            // What cargo itself says.
            "--bench" => {}
            other => panic!("unknown: {other}"),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(&options));
}

async fn run(options: &Options) {
    let folder = tempfile::Builder::new().prefix("faregate-bench").tempdir_in(&options.directory).unwrap();
    let path = folder.path().join("store.db");
    let sqlite = Arc::new(Engine::from(SqliteStore::open(&path, SqliteOptions::default()).unwrap()));
    let mut engines = vec![("SQLite", sqlite)];
    if let Some(address) = &options.postgres {
        let server = PostgresOptions::new(postgres_server(address).unwrap_or_else(|why| panic!("{why}")));
        let store = PostgresStore::open(&server).await.unwrap_or_else(|fault| panic!("{fault}"));
        engines.push(("PostgreSQL", Arc::new(Engine::from(store))));
    }
    // Starts where no earlier run has been, for a server that keeps what it has.
    let start = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let next = Arc::new(AtomicU64::new(start));
    if options.spent > 0 {
        fill(&engines[0].1, options.spent, &path).await;
        lookups(&engines[0].1, options.spent).await;
    }
    println!("{:<12} {:>7} {:>14} {:>10} {:>10}", "engine", "payers", "settlements/s", "p50 ms", "p99 ms");
    for payers in PAYERS {
        for _ in 0..ROUNDS {
            for (name, engine) in &engines {
                let time = Duration::from_secs(options.seconds);
                let mut took = settle(engine, payers, time, &next).await;
                took.sort_unstable();
                let rate = took.len() as f64 / options.seconds as f64;
                let (half, most) = (percentile(&took, 50), percentile(&took, 99));
                println!("{name:<12} {payers:>7} {rate:>14.0} {half:>10.2} {most:>10.2}");
            }
        }
    }
    for (_, engine) in engines {
        engine.close().await;
    }
}

async fn settle(engine: &Arc<Engine>, payers: usize, time: Duration, next: &Arc<AtomicU64>) -> Vec<Duration> {
    let end = Instant::now() + time;
    let payers: Vec<_> = (0..payers)
        .map(|_| {
            let (engine, next) = (Arc::clone(engine), Arc::clone(next));
            tokio::spawn(async move {
                let mut took = Vec::new();
                while Instant::now() < end {
                    let intent = intent(next.fetch_add(1, Ordering::Relaxed));
                    let watch = Instant::now();
                    let id = CapabilityId::of_payment(intent.block);
                    let granted = engine.grant(&intent, id, Holder([7; 16]), 1, 30, NOW).await;
                    assert!(matches!(granted, Ok(Grant::Granted { fresh: true, .. })), "{granted:?}");
                    took.push(watch.elapsed());
                }
                took
            })
        })
        .collect();
    let mut all = Vec::new();
    for payer in payers {
        all.extend(payer.await.unwrap());
    }
    all
}

async fn fill(engine: &Arc<Engine>, spent: u64, path: &Path) {
    let watch = Instant::now();
    let mut done = 0;
    while done < spent {
        let some = (done..spent.min(done + 4 * FILL)).map(|number| {
            let engine = Arc::clone(engine);
            tokio::spawn(async move { engine.mark_spent(hash(number), NOW).await.unwrap() })
        });
        for one in some.collect::<Vec<_>>() {
            assert!(one.await.unwrap());
            done += 1;
        }
    }
    let size = std::fs::metadata(path).unwrap().len() >> 20;
    println!("{spent} spent hashes in {:.0?}, {size} MiB", watch.elapsed());
}

/// One after the other: known ones, and such as nobody has spent.
async fn lookups(engine: &Arc<Engine>, spent: u64) {
    for (what, first) in [("spent", 0), ("unknown", u64::MAX / 2)] {
        let mut took = Vec::new();
        for number in 0..20_000_u64 {
            let block = hash(first + number.wrapping_mul(7_919) % spent);
            let watch = Instant::now();
            assert_eq!(engine.payment(block).await, Ok(None));
            took.push(watch.elapsed());
        }
        took.sort_unstable();
        println!(
            "lookup of a hash that is {what}, among {spent}: p50 {:.3} ms, p99 {:.3} ms",
            percentile(&took, 50),
            percentile(&took, 99)
        );
    }
}

/// In milliseconds.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    sorted.get(sorted.len() * percent / 100).map_or(0.0, |it| it.as_secs_f64() * 1000.0)
}

/// As random as a block's hash.
fn hash(number: u64) -> BlockHash {
    use blake2::digest::consts::U32;
    use blake2::{Blake2b, Digest};
    BlockHash(Blake2b::<U32>::digest(number.to_be_bytes()).into())
}

fn intent(number: u64) -> Intent {
    Intent {
        block: hash(number),
        signed: None,
        mechanism: Mechanism::NanoSignature,
        challenge: Nonce([3; 32]),
        route: RouteName::new("GET /v1/quote/{symbol}"),
        terms: Terms {
            amount: Raw::new(10_u128.pow(26)),
            grants: Grants { requests: NonZeroU32::new(10).unwrap(), seconds: 3600 },
        },
        payer: Account([5; 32]),
        amount: Raw::new(10_u128.pow(26)),
        pay_to: Account([6; 32]),
        valid_before: NOW.plus(120),
        identified: None,
    }
}
