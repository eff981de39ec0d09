//! Settlements per second: several payers at the same time, each paying repeatedly, over each engine.
//!
//! `cargo bench --bench store -- [--postgres ADDRESS] [--instances N] [--seconds N] [--spent N] [--directory PATH]`
//!
//! One settlement is one `grant`: the hash is claimed, the payment journalled, the capability made and
//! leased, all on the disk. One report is one `lease`: a use that is spent, and another one leased. One purchase
//! is a whole `nanoTxn` payment at the cashier, from the decoded proof to the right to be forwarded, with a ledger
//! that confirms after a fixed time; that time is taken off.
//!
//! With `--instances` the payers are spread over so many stores on one server. `--spent` first fills each store
//! with this many spent hashes (ten million take about a gigabyte in each) and then measures look-ups too. Compare
//! only the figures of one run: two runs on a busy machine differ.
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

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use faregate::cashier::{
    Ask, Cashier, ClientLimits, IdentifierSettings, Parts, Presented, Proof, Settings, Verdict, WorkRules,
};
use faregate::clock::Clock;
use faregate::entropy::Entropy;
use faregate::ledger::{Ledger, LedgerError, PublishError, Sighting};
use faregate::metrics::Metrics;
use faregate::nano::{
    Account, BlockHash, Raw, Representative, SecretKey, Seed, Signature, StateBlock, Threshold, UnixSeconds,
    Work,
};
use faregate::payment::address_pool::AddressPool;
use faregate::payment::challenge::{Challenge, Offer};
use faregate::payment::{AccountFacts, BlockFacts, MacKey, MacKeys, Mechanism, Nonce};
use faregate::routes::{Grants, Metering, RouteName, Terms};
use faregate::store::{
    CapabilityId, Claims, Engine, Grant, Grantee, Holder, Intent, Lease, LeaseRequest, Meters,
    PaymentJournal, PaymentRecord, PostgresOptions, PostgresStore, SqliteOptions, SqliteStore,
    postgres_server,
};
use faregate::x402::{PaymentProof, PresentedPayment, WorkPolicy, WorkTerms};
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
/// What the ledger of the purchases takes to confirm a block: the main network's usual time.
const CONFIRMED_AFTER: Duration = Duration::from_millis(350);
/// What an account of the purchases has at first, and what one costs, in raw.
const PLENTY: Raw = Raw::new(10_u128.pow(33));
const PRICE: Raw = Raw::new(10_u128.pow(26));

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
    println!("{:<12} {:>7} {:>14} {:>10} {:>10}", "engine", "payers", "purchases/s", "p50 ms", "p99 ms");
    for payers in PAYERS {
        for _ in 0..ROUNDS {
            for (name, instances) in &engines {
                let time = Duration::from_secs(options.seconds);
                let took = purchases(instances, payers, time).await;
                report_line(name, payers, took, time);
            }
        }
    }
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
                let took = repeat(instances, payers, time, next, kind).await;
                report_line(name, payers, took, time);
            }
        }
    }
}

fn report_line(name: &str, payers: usize, mut took: Vec<Duration>, time: Duration) {
    took.sort_unstable();
    let rate = took.len() as f64 / time.as_secs_f64();
    let (half, most) = (percentile(&took, 50), percentile(&took, 99));
    println!("{name:<12} {payers:>7} {rate:>14.0} {half:>10.2} {most:>10.2}");
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

fn route() -> RouteName {
    RouteName::new("GET /v1/quote/{symbol}")
}

fn terms() -> Terms {
    Terms { amount: PRICE, grants: Grants::of_requests(NonZeroU32::MAX, 3600) }
}

fn intent(number: u64) -> Intent {
    Intent {
        block: hash(number),
        signed: None,
        mechanism: Mechanism::NanoSignature,
        challenge: Nonce([3; 32]),
        route: route(),
        terms: terms(),
        payer: Account([5; 32]),
        amount: PRICE,
        pay_to: Account([6; 32]),
        valid_before: NOW.plus(120),
        exchange: None,
        identified: None,
    }
}

/// A ledger on which every account has [`PLENTY`] at first, whose calls take no time but for the confirmation.
#[derive(Debug, Default)]
struct Prompt {
    /// The newest block of an account, and its balance.
    chains: Mutex<HashMap<Account, (BlockHash, Raw)>>,
    /// Blocks that were broadcast, with the balance before.
    blocks: Mutex<HashMap<BlockHash, (StateBlock, Raw)>>,
    /// For how long a block's confirmation was waited for.
    waited: Mutex<HashMap<BlockHash, Duration>>,
}

impl Prompt {
    /// The newest block and the balance of `account`.
    fn chain(&self, account: Account) -> (BlockHash, Raw) {
        self.chains.lock().unwrap().get(&account).copied().unwrap_or((BlockHash(account.0), PLENTY))
    }

    fn facts(&self, hash: BlockHash, confirmed: bool) -> Option<BlockFacts> {
        let blocks = self.blocks.lock().unwrap();
        let (block, before) = blocks.get(&hash)?;
        Some(BlockFacts::of_state_block(hash, block, *before, confirmed).unwrap())
    }
}

impl Ledger for Prompt {
    async fn account(&self, account: Account) -> Result<Option<AccountFacts>, LedgerError> {
        let (frontier, confirmed_balance) = self.chain(account);
        Ok(Some(AccountFacts { frontier, confirmed_frontier: frontier, confirmed_balance }))
    }

    async fn block(&self, hash: BlockHash) -> Result<Option<BlockFacts>, LedgerError> {
        Ok(self.facts(hash, false))
    }

    async fn successor(&self, _hash: BlockHash) -> Result<Option<BlockHash>, LedgerError> {
        Ok(None)
    }

    async fn publish_send(&self, block: &StateBlock) -> Result<(), PublishError> {
        let (frontier, before) = self.chain(block.account);
        assert_eq!(block.previous, frontier);
        let hash = block.hash();
        self.blocks.lock().unwrap().insert(hash, (*block, before));
        self.chains.lock().unwrap().insert(block.account, (hash, block.balance));
        Ok(())
    }

    async fn await_confirmation(&self, hash: BlockHash, _wait: Duration) -> Result<Sighting, LedgerError> {
        let watch = Instant::now();
        tokio::time::sleep(CONFIRMED_AFTER).await;
        self.waited.lock().unwrap().insert(hash, watch.elapsed());
        Ok(self.facts(hash, true).map_or(Sighting::Unknown, Sighting::Confirmed))
    }

    fn is_healthy(&self) -> bool {
        true
    }
}

/// What is sold, and by whom.
struct Shop {
    keys: MacKeys,
    pool: AddressPool,
    ledger: Arc<Prompt>,
    cashiers: Vec<Cashier<Prompt, Engine>>,
}

impl Shop {
    fn over(instances: &[Arc<Engine>]) -> Self {
        let keys = || MacKeys::new(MacKey::from_bytes([0x42; 32]), None);
        let pool = || AddressPool::new(vec![Account([6; 32])], Vec::new());
        let ledger = Arc::new(Prompt::default());
        let limits = || ClientLimits { settlements: 1024, lookups: 1024 };
        let cashier = |engine: &Arc<Engine>| {
            Cashier::new(Parts {
                keys: keys(),
                pool: pool(),
                work: WorkRules { threshold: Threshold(0), server: None },
                ledger: Arc::clone(&ledger),
                store: Arc::clone(engine),
                clock: Clock::from_fn(|| NOW),
                entropy: Entropy::system(),
                metrics: Arc::new(Metrics::new().unwrap()),
                settings: Settings {
                    mechanisms: Mechanism::ALL.to_vec(),
                    by_route: BTreeMap::new(),
                    routes: BTreeSet::from([route()]),
                    lifetime: 120,
                    wait: Duration::from_secs(10),
                    without_extra: false,
                    pending_settlements: 1024,
                    per_client: limits(),
                    per_caller: limits(),
                    identifiers: IdentifierSettings { ids: 60, answers: 60, largest_answer: 1024 },
                },
                holder: Holder(faregate::entropy::bytes().unwrap()),
                capabilities_cached: 100_000,
                runtime: tokio::runtime::Handle::current(),
            })
        };
        Self { keys: keys(), pool: pool(), cashiers: instances.iter().map(cashier).collect(), ledger }
    }

    /// The next payment of `key`'s account, as it comes out of its header.
    fn payment(&self, key: &SecretKey) -> (BlockHash, Ask) {
        let terms = terms();
        let offer = Offer {
            mechanism: Mechanism::NanoTxn,
            route: route(),
            terms,
            pay_to: Account([6; 32]),
            valid_before: NOW.plus(120),
            exchange: None,
        };
        let challenge = Challenge::mint(&self.keys, &self.pool, faregate::entropy::bytes().unwrap(), offer);
        let (previous, balance) = self.ledger.chain(key.account());
        let unsigned = StateBlock {
            account: key.account(),
            previous,
            representative: Representative(key.account()),
            balance: balance.checked_sub(PRICE).unwrap(),
            link: challenge.offer().pay_to.0,
            signature: Signature([0; 64]),
            work: Some(Work(u64::MAX)),
        };
        let block = unsigned.signed(key);
        let hash = block.hash();
        let work = WorkTerms { policy: WorkPolicy::Required, threshold: Threshold(0) };
        let payment = PresentedPayment {
            accepted: challenge.requirements(120, work),
            proof: PaymentProof::NanoTxn { block },
        };
        let ask = Ask {
            hold: None,
            route: route(),
            standing: Arc::default(),
            listed: terms.into(),
            quoted: Some(terms.into()),
            metering: Metering::Leased,
            presented: Presented::Proof(Box::new(Proof::from(payment))),
            identified: None,
            client: None,
            down: None,
            url: None,
        };
        (hash, ask)
    }
}

/// What purchases by `payers` at a time took, beside the ledger's time to confirm. Each payer buys from one instance.
async fn purchases(instances: &[Arc<Engine>], payers: usize, time: Duration) -> Vec<Duration> {
    let shop = Arc::new(Shop::over(instances));
    let seed = Seed::from_bytes(faregate::entropy::bytes().unwrap());
    let buying: Vec<_> = (0..payers)
        .map(|payer| {
            let (shop, key) = (Arc::clone(&shop), seed.key(u32::try_from(payer).unwrap()));
            tokio::spawn(async move {
                let cashier = &shop.cashiers[payer % shop.cashiers.len()];
                // Not all of them at the same moment, as they would go on.
                tokio::time::sleep(CONFIRMED_AFTER * u32::try_from(payer).unwrap() / 256).await;
                let end = Instant::now() + time;
                let mut took = Vec::new();
                while Instant::now() < end {
                    let (hash, ask) = shop.payment(&key);
                    let watch = Instant::now();
                    let verdict = cashier.decide(ask).await;
                    let all = watch.elapsed();
                    assert!(matches!(verdict, Verdict::Admit(_)), "{verdict:?}");
                    let waited = shop.ledger.waited.lock().unwrap().remove(&hash).unwrap();
                    took.push(all.checked_sub(waited).unwrap());
                }
                took
            })
        })
        .collect();
    let mut all = Vec::new();
    for payer in buying {
        all.extend(payer.await.unwrap());
    }
    all
}
