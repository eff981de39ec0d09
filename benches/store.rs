//! Settlements per second: several payers at the same time, each paying repeatedly, over each engine.
//!
//! `cargo bench --bench store -- [--postgres ADDRESS] [--instances N] [--seconds N] [--spent N] [--directory PATH]`
//!
//! One settlement is one `grant`: the hash is claimed, the payment journalled, the capability made and
//! leased, all on the disk. One report is one `lease`: a use that is spent, and another one leased. With
//! `--instances` the payers are spread over so many stores on one server. `--spent` first fills each store with this many spent hashes (ten million take
//! about a gigabyte in each) and then measures look-ups too. Compare only the figures of one run: two runs
//! on a busy machine differ.
//!
//! The fill goes in the order of the keys, which are spread evenly over all hashes: in random order each row
//! would change a page of its own, and ten million would take hours. What is measured afterwards hits pages
//! at random, as block hashes do. A tree that was only appended to is denser than one that grew at random,
//! so its first random insertions split pages more often.
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
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use faregate::nano::{Account, BlockHash, Raw, UnixSeconds};
use faregate::payment::{Mechanism, Nonce};
use faregate::routes::{Grants, RouteName, Terms};
use faregate::store::{
    CapabilityId, Claims, Engine, Grant, Grantee, Holder, Intent, Lease, LeaseRequest, Meters,
    PaymentJournal, PaymentRecord, PostgresOptions, PostgresStore, SqliteOptions, SqliteStore,
    postgres_server,
};
use futures_util::{SinkExt, StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::Barrier;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const PAYERS: [usize; 4] = [1, 16, 64, 256];
/// Rounds over all engines, so that a disturbance hits each of them.
const ROUNDS: usize = 2;
/// Calls under way while a store is filled: several commits of the largest group.
const FILL: usize = 2048;
/// Rows in one message to the server while it is filled.
const ROWS: u64 = 10_000;
/// Look-ups of each kind.
const LOOKUPS: u64 = 20_000;

struct Options {
    postgres: Option<String>,
    instances: usize,
    seconds: u64,
    spent: u64,
    directory: PathBuf,
}

fn main() {
    let mut options =
        Options { postgres: None, instances: 1, seconds: 3, spent: 0, directory: std::env::temp_dir() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
        match argument.as_str() {
            "--postgres" => options.postgres = Some(value()),
            "--instances" => options.instances = value().parse().unwrap(),
            "--seconds" => options.seconds = value().parse().unwrap(),
            "--spent" => options.spent = value().parse().unwrap(),
            "--directory" => options.directory = value().into(),
            // An argument of cargo.
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
    let mut engines = vec![("SQLite", vec![sqlite])];
    if let Some(address) = &options.postgres {
        let server = PostgresOptions::new(postgres_server(address).unwrap_or_else(|why| panic!("{why}")));
        let mut instances = Vec::new();
        for _ in 0..options.instances {
            let store = PostgresStore::open(&server).await.unwrap_or_else(|fault| panic!("{fault}"));
            instances.push(Arc::new(Engine::from(store)));
        }
        engines.push(("PostgreSQL", instances));
    }
    // Starts after all earlier runs: a server keeps its rows.
    let start = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let next = Arc::new(AtomicU64::new(start));
    if options.spent > 0 {
        fill(&engines[0].1[0], options.spent, &path).await;
        if let Some(address) = &options.postgres {
            fill_server(address, options.spent).await;
        }
        for (name, instances) in &engines {
            let engine = &instances[0];
            let spent = |number| filler(number % options.spent, options.spent);
            lookups(name, engine, "spent", &spent, |found| assert_eq!(found, None)).await;
            let nobodys = |number| hash(u64::MAX / 2 + number);
            lookups(name, engine, "unknown", &nobodys, |found| assert_eq!(found, None)).await;
        }
    }
    println!("{:<12} {:>7} {:>14} {:>10} {:>10}", "engine", "payers", "settlements/s", "p50 ms", "p99 ms");
    measure(options, &engines, &next, Kind::Settlements).await;
    println!("{:<12} {:>7} {:>14} {:>10} {:>10}", "engine", "holders", "reports/s", "p50 ms", "p99 ms");
    measure(options, &engines, &next, Kind::Reports).await;
    for (name, instances) in engines {
        let engine = &instances[0];
        // Those of the last rounds, of all engines in turn: not each is in this one's journal.
        let granted = granted_by(engine, start..next.load(Ordering::Relaxed)).await;
        let known = |number: u64| granted[number as usize % granted.len()];
        lookups(name, engine, "granted", &known, |found| assert!(found.is_some())).await;
        for engine in instances {
            engine.close().await;
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Settlements,
    Reports,
}

async fn measure(options: &Options, engines: &[(&str, Vec<Arc<Engine>>)], next: &Arc<AtomicU64>, kind: Kind) {
    for payers in PAYERS {
        for _ in 0..ROUNDS {
            for (name, instances) in engines {
                let time = Duration::from_secs(options.seconds);
                let mut took = repeat(instances, payers, time, next, kind).await;
                took.sort_unstable();
                let rate = took.len() as f64 / options.seconds as f64;
                let (half, most) = (percentile(&took, 50), percentile(&took, 99));
                println!("{name:<12} {payers:>7} {rate:>14.0} {half:>10.2} {most:>10.2}");
            }
        }
    }
}

async fn repeat(
    instances: &[Arc<Engine>],
    payers: usize,
    time: Duration,
    next: &Arc<AtomicU64>,
    kind: Kind,
) -> Vec<Duration> {
    let ready = Arc::new(Barrier::new(payers));
    let payers: Vec<_> = instances
        .iter()
        .cycle()
        .take(payers)
        .enumerate()
        .map(|(holder, engine)| {
            let (engine, next, ready) = (Arc::clone(engine), Arc::clone(next), Arc::clone(&ready));
            tokio::spawn(async move {
                let holder = Holder([holder as u8; 16]);
                let mut used = 0;
                let mut took = Vec::new();
                let own = settle(&engine, holder, &next).await;
                ready.wait().await;
                let end = Instant::now() + time;
                while Instant::now() < end {
                    let watch = Instant::now();
                    match kind {
                        Kind::Settlements => drop(settle(&engine, holder, &next).await),
                        Kind::Reports => {
                            used += 1;
                            report(&engine, own, holder, used).await;
                        }
                    }
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

async fn settle(engine: &Engine, holder: Holder, next: &AtomicU64) -> CapabilityId {
    let intent = intent(next.fetch_add(1, Ordering::Relaxed));
    let id = CapabilityId::of_payment(intent.block);
    let granted = engine.grant(&intent, Grantee { id, holder, want: 1, ttl: 30 }, NOW).await;
    assert!(matches!(granted, Ok(Grant::Granted { fresh: true, .. })), "{granted:?}");
    id
}

async fn report(engine: &Engine, capability: CapabilityId, holder: Holder, sequence: u64) {
    let request =
        LeaseRequest { capability, holder, sequence, used: 1, returned: 0, broken: 0, want: 1, ttl: 30 };
    let leased = engine.lease(request, NOW).await;
    assert!(matches!(leased, Ok(Lease { granted: 1, .. })), "{leased:?}");
}

/// Fills the file through the store's own calls, many of them in one commit.
async fn fill(engine: &Engine, spent: u64, path: &Path) {
    let (watch, bar) = (Instant::now(), bar("SQLite", spent));
    let marks = stream::iter(0..spent).map(|number| engine.mark_spent(filler(number, spent), NOW));
    let mut marks = marks.buffered(FILL);
    while let Some(marked) = marks.next().await {
        assert!(marked.unwrap());
        bar.inc(1);
    }
    bar.finish_and_clear();
    let size = std::fs::metadata(path).unwrap().len() >> 20;
    let (took, rate) = speed(watch, spent);
    println!(
        "SQLite: {spent} spent hashes by `mark_spent`, in ascending order, in {took} s ({rate}/s): {size} MiB"
    );
}

/// Fills the server's table by COPY: a call for each row would wait for the network each time.
async fn fill_server(address: &str, spent: u64) {
    let server = postgres_server(address).unwrap_or_else(|why| panic!("{why}"));
    let (client, connection) = server.connect(tokio_postgres::NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    let (watch, bar) = (Instant::now(), bar("PostgreSQL", spent));
    let mut sink = Box::pin(client.copy_in("COPY claims (block) FROM STDIN").await.unwrap());
    let mut next = 0;
    while next < spent {
        let some = next..spent.min(next + ROWS);
        let rows = some.clone().map(|number| format!("\\\\x{}\n", hex::encode(filler(number, spent).0)));
        sink.send(Bytes::from(rows.collect::<String>())).await.unwrap();
        bar.inc(some.end - some.start);
        next = some.end;
    }
    assert_eq!(sink.as_mut().finish().await.unwrap(), spent);
    client.batch_execute("ANALYZE claims").await.unwrap();
    let size = "SELECT pg_total_relation_size('claims') >> 20";
    let size: i64 = client.query_one(size, &[]).await.unwrap().get(0);
    bar.finish_and_clear();
    let (took, rate) = speed(watch, spent);
    println!(
        "PostgreSQL: {spent} spent hashes by COPY, in ascending order, in {took} s ({rate}/s): {size} MiB"
    );
    drop((sink, client));
    driver.await.unwrap().unwrap();
}

fn bar(engine: &'static str, spent: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {human_pos}/{human_len} {eta}").unwrap();
    ProgressBar::new(spent).with_style(style).with_prefix(engine)
}

fn speed(watch: Instant, rows: u64) -> (u64, u64) {
    let took = watch.elapsed();
    (took.as_secs(), (rows as f64 / took.as_secs_f64()) as u64)
}

/// Hash `number` of `spent` hashes that are spread evenly, in ascending order. Only their beginning is not
/// random.
fn filler(number: u64, spent: u64) -> BlockHash {
    let mut filler = hash(u64::MAX - number);
    filler.0[..8].copy_from_slice(&(number * (u64::MAX / spent)).to_be_bytes());
    filler
}

/// Some of the payments `numbers` that `engine` granted.
async fn granted_by(engine: &Engine, numbers: Range<u64>) -> Vec<BlockHash> {
    let mut granted = Vec::new();
    for number in numbers.rev() {
        let block = hash(number);
        if engine.payment(block).await.unwrap().is_some() {
            granted.push(block);
        }
        if granted.len() as u64 >= LOOKUPS {
            break;
        }
    }
    granted
}

/// One after the other, at random places.
async fn lookups(
    name: &str,
    engine: &Engine,
    what: &str,
    block: &impl Fn(u64) -> BlockHash,
    check: impl Fn(Option<PaymentRecord>),
) {
    let mut took = Vec::new();
    for number in 0..LOOKUPS {
        let block = block(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 1);
        let watch = Instant::now();
        let found = engine.payment(block).await.unwrap();
        took.push(watch.elapsed());
        check(found);
    }
    took.sort_unstable();
    let (half, most) = (percentile(&took, 50), percentile(&took, 99));
    println!("{name}: `payment` of a hash that is {what}: p50 {half:.3} ms, p99 {most:.3} ms");
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
            grants: Grants { requests: NonZeroU32::MAX, seconds: 3600 },
        },
        payer: Account([5; 32]),
        amount: Raw::new(10_u128.pow(26)),
        pay_to: Account([6; 32]),
        valid_before: NOW.plus(120),
        exchange: None,
        identified: None,
    }
}
