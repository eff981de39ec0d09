//! Measures the parts of a request's path, without sockets.
//!
//! Run all with `make bench`, or one group with `cargo bench --bench hot_path -- challenge`. `benches/proxy/run`
//! measures whole requests.
#![expect(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "a benchmark fails by panicking")]
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::hint::black_box;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use faregate::clock::Clock;
use faregate::nano::{
    Account, BlockHash, Raw, Representative, SecretKey, Seed, Signature, StateBlock, Threshold, UnixSeconds,
    Work, noms_digest,
};
use faregate::payment::address_pool::AddressPool;
use faregate::payment::capability::{self, Capability, Token};
use faregate::payment::challenge::{Challenge, Offer};
use faregate::payment::{IdentifierKey, MacKey, MacKeys, Mechanism, Nonce};
use faregate::routes::Metering;
use faregate::routes::{
    Access, BodyRule, CanonicalTarget, ChargeOn, Conditions, Grants, Pattern, PriceTable, RefundRule,
    RequestHead, Route, RouteName, Terms, Unit, UpstreamName,
};
use faregate::store::capabilities::{Capabilities, Wish};
use faregate::store::{
    CapabilityId, CapabilityRecord, Filter, Grant, Grantee, Health, Holder, Intent, Lease, LeaseRequest,
    Meters, PaymentJournal, PaymentRecord, PaymentState, StoreError, StoreHealth,
};
use faregate::x402::{self, Payload, PaymentPayload, PaymentRequired, PaymentRequirements, Resource};

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const LATER: UnixSeconds = UnixSeconds(1_800_003_600);
const PRICE: Raw = Raw::new(1_000_000_000_000_000_000_000_000);
const THRESHOLD: Threshold = Threshold(0xffff_fff8_0000_0000);
/// Capabilities in the cache.
const CACHED: u64 = 1_000_000;
/// The most memory that one of them may take, with the cache's part of it.
const BYTES_EACH: u64 = 850;
/// Addresses in a large pool.
const ADDRESSES: u32 = 10_000;

// The gateway's allocator.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn keys() -> MacKeys {
    MacKeys::new(MacKey::from_bytes([0x42; 32]), None)
}

fn payer() -> SecretKey {
    Seed::from_bytes([0x17; 32]).key(0)
}

fn route() -> RouteName {
    RouteName::new("GET /v1/quote/{symbol}")
}

fn terms() -> Terms {
    Terms { amount: PRICE, grants: Grants::of_requests(NonZeroU32::new(100).unwrap(), 3600) }
}

fn pay_to() -> Account {
    Seed::from_bytes([0x18; 32]).key(7).account()
}

fn pool() -> AddressPool {
    AddressPool::new(vec![pay_to()], Vec::new())
}

fn offer(mechanism: Mechanism) -> Offer {
    Offer {
        mechanism,
        route: route(),
        terms: terms(),
        pay_to: pay_to(),
        valid_before: NOW.plus(120),
        exchange: None,
    }
}

fn mint(keys: &MacKeys, mechanism: Mechanism, random: u128) -> Challenge {
    Challenge::mint(keys, &pool(), random.to_le_bytes(), offer(mechanism))
}

fn requirements(challenge: &Challenge) -> PaymentRequirements {
    let policy = faregate::x402::WorkPolicy::Required;
    challenge.requirements(120, faregate::x402::WorkTerms { policy, threshold: THRESHOLD })
}

fn block() -> StateBlock {
    let key = payer();
    let unsigned = StateBlock {
        account: key.account(),
        previous: BlockHash([0x33; 32]),
        representative: Representative(key.account()),
        balance: Raw::new(5_000_000_000_000_000_000_000_000_000_000),
        link: offer(Mechanism::NanoTxn).pay_to.0,
        signature: Signature([0; 64]),
        work: Some(Work(0x0123_4567_89ab_cdef)),
    };
    unsigned.signed(&key)
}

/// A bill: minting its two challenges, and writing them as header and body of a 402.
fn bill(c: &mut Criterion) {
    let (keys, pool) = (keys(), pool());
    let mut random = 0_u128;
    // The address is derived at start, not for each challenge.
    let offers = Mechanism::DEFAULT.map(offer);
    let mut both = move || {
        random += 1;
        offers.each_ref().map(|offer| Challenge::mint(&keys, &pool, random.to_le_bytes(), offer.clone()))
    };
    let mut group = c.benchmark_group("challenge");
    group.bench_function("mint two", |b| b.iter(&mut both));
    group.bench_function("mint two, header and body of the 402", |b| {
        b.iter(|| {
            let required = PaymentRequired {
                error: Some("PAYMENT_REQUIRED".to_owned()),
                resource: Resource {
                    url: "https://api.example.com/v1/quote/XNO".to_owned(),
                    description: None,
                    mime_type: None,
                },
                accepts: both().iter().map(requirements).collect(),
                extensions: serde_json::Map::new(),
            };
            (required.to_header(), required.to_json().to_string())
        });
    });
    let (keys, pool) = (self::keys(), self::pool());
    let minted = mint(&keys, Mechanism::NanoTxn, 1);
    group.bench_function("recognise", |b| {
        b.iter_batched(
            || offer(Mechanism::NanoTxn),
            |offer| Challenge::recognise(&keys, &pool, minted.nonce(), offer).unwrap(),
            BatchSize::SmallInput,
        );
    });
    // The pool of which the address of an offer is.
    let seed = Seed::from_bytes([0x18; 32]);
    let large = AddressPool::new((0..ADDRESSES).map(|index| seed.key(index).account()).collect(), Vec::new());
    let minted = Challenge::mint(&keys, &large, 1_u128.to_le_bytes(), offer(Mechanism::NanoTxn));
    let mut random = 0_u128;
    group.bench_function(format!("mint one, {ADDRESSES} addresses"), |b| {
        b.iter(|| {
            random += 1;
            Challenge::mint(&keys, &large, random.to_le_bytes(), offer(Mechanism::NanoTxn))
        });
    });
    group.bench_function(format!("recognise, {ADDRESSES} addresses"), |b| {
        b.iter_batched(
            || minted.offer().clone(),
            |offer| Challenge::recognise(&keys, &large, minted.nonce(), offer).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// A proof: decoding it, and verifying the signatures that it may hold.
fn proof(c: &mut Criterion) {
    let (keys, block) = (keys(), block());
    let challenge = mint(&keys, Mechanism::NanoTxn, 1);
    let payment = x402::PresentedPayment {
        accepted: requirements(&challenge),
        proof: x402::PaymentProof::NanoTxn { block },
    };
    let payload = PaymentPayload {
        resource: None,
        presented: Payload::Payment(Box::new(payment)),
        extensions: serde_json::Map::new(),
    };
    let header = payload.to_header();
    let mut group = c.benchmark_group("proof");
    group.bench_function("decode PAYMENT-SIGNATURE", |b| {
        b.iter(|| PaymentPayload::from_header(black_box(&header)).unwrap());
    });
    group.bench_function("verify a block's signature", |b| b.iter(|| black_box(&block).verify().unwrap()));
    group.bench_function("a block's hash", |b| b.iter(|| black_box(&block).hash()));

    let message = format!("{}:{}:{}", block.hash().lower_hex(), challenge.nonce().lower_hex(), NOW.plus(120));
    let signature = payer().sign(&noms_digest(&message).unwrap());
    group.bench_function("verify a NOMS signature", |b| {
        b.iter(|| signature.verify(&block.account, &noms_digest(black_box(&message)).unwrap()).unwrap());
    });
    group.finish();
}

fn table(routes: u32) -> PriceTable {
    let route = |number: u32| Route {
        name: RouteName::new(&format!("route {number}")),
        standing: std::sync::Arc::default(),
        pattern: Pattern::parse(&format!("GET /v1/service-{number}/{{item}}/detail")).unwrap(),
        access: Access::Priced(terms().into()),
        conditions: Conditions::default(),
        strip: None,
        upstream: UpstreamName::new("api"),
        description: String::new(),
        mime_type: String::new(),
        hidden: false,
        charge_on: ChargeOn::default(),
        metering: Metering::default(),
        payment_identifier: None,
        preflight: None,
        body: BodyRule::default(),
        case_sensitive: false,
        refund: RefundRule::default(),
        meter: None,
        rules: None,
    };
    PriceTable::new((0..routes).map(route).collect()).unwrap()
}

fn routes(c: &mut Criterion) {
    let mut group = c.benchmark_group("route");
    for count in [10, 10_000] {
        let table = table(count);
        let raw = format!("/v1/service-{}/XNO/detail?full=1", count - 1);
        group.bench_function(format!("canonical form and match, {count} routes"), |b| {
            b.iter(|| {
                let target = CanonicalTarget::parse(black_box(&raw)).unwrap();
                black_box(table.find(&RequestHead::new("GET", &target)));
            });
        });
    }
    group.finish();
}

/// A store that knows every capability, each with all uses there are. So the cache can be filled without a
/// million writes.
#[derive(Debug)]
struct Plenty;

fn unused<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("not part of this benchmark".to_owned()))
}

fn hash_of(id: CapabilityId) -> BlockHash {
    let mut hash = [0; 32];
    for (byte, of) in hash.iter_mut().zip(id.0) {
        *byte = of;
    }
    BlockHash(hash)
}

impl PaymentJournal for Plenty {
    async fn payment(&self, block: BlockHash) -> Result<Option<PaymentRecord>, StoreError> {
        let account = Account([0x77; 32]);
        let intent = Intent {
            block,
            signed: None,
            mechanism: Mechanism::NanoSignature,
            challenge: Nonce([1; 32]),
            route: route(),
            terms: terms(),
            payer: account,
            amount: PRICE,
            pay_to: account,
            valid_before: LATER,
            exchange: None,
            identified: None,
        };
        let state = PaymentState::Granted;
        Ok(Some(PaymentRecord { sequence: 1, intent, state, created_at: NOW, updated_at: NOW }))
    }

    async fn identified(&self, _: IdentifierKey) -> Result<Option<PaymentRecord>, StoreError> {
        unused()
    }

    async fn scan(&self, _: u64, _: Filter, _: usize) -> Result<Vec<PaymentRecord>, StoreError> {
        unused()
    }
}

impl Meters for Plenty {
    /// A look-up calls this: the capability is granted already, and nothing is leased.
    async fn grant(
        &self,
        intent: &Intent,
        Grantee { id, .. }: Grantee,
        _: UnixSeconds,
    ) -> Result<Grant, StoreError> {
        let (block, expires_at, stock) = (intent.block, LATER, u128::from(u32::MAX));
        let record = CapabilityRecord {
            id,
            block,
            route: route(),
            unit: Unit::Use,
            stock,
            expires_at,
            revoked: false,
            added_to: None,
        };
        let lease = Lease {
            granted: 0,
            remaining: stock,
            elsewhere: 0,
            broken: 0,
            expires_at: UnixSeconds(0),
            revoked: false,
        };
        Ok(Grant::Granted { record, lease, fresh: false })
    }

    async fn capability(&self, id: CapabilityId) -> Result<Option<CapabilityRecord>, StoreError> {
        let (block, expires_at, stock) = (hash_of(id), LATER, u128::from(u32::MAX));
        Ok(Some(CapabilityRecord {
            id,
            block,
            route: route(),
            unit: Unit::Use,
            stock,
            expires_at,
            revoked: false,
            added_to: None,
        }))
    }

    async fn lease(&self, request: LeaseRequest, _: UnixSeconds) -> Result<Lease, StoreError> {
        Ok(Lease {
            granted: request.want,
            remaining: u128::from(u32::MAX / 2),
            elsewhere: 0,
            broken: 0,
            expires_at: LATER,
            revoked: false,
        })
    }

    async fn revoke(&self, _: CapabilityId, _: UnixSeconds) -> Result<bool, StoreError> {
        unused()
    }
}

impl StoreHealth for Plenty {
    fn is_writable(&self) -> bool {
        true
    }

    fn health(&self) -> Health {
        Health { writable: true, free_bytes: None, floor: 0, newest: UnixSeconds(0) }
    }
}

/// The result of a future that is ready at once. The hot path waits for nothing, and a runtime would cost more
/// than what is measured.
fn at_once<T>(work: impl Future<Output = T>) -> T {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(it) => it,
        Poll::Pending => unreachable!("the store of this benchmark answers at once"),
    }
}

fn id(number: u64) -> CapabilityId {
    let mut id = [0; 16];
    for (byte, of) in id.iter_mut().zip(number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()) {
        *byte = of;
    }
    CapabilityId(id)
}

/// The resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// A capability: its token, the cache, a use.
fn capabilities(c: &mut Criterion) {
    let (keys, route) = (keys(), route());
    let token = |number| {
        let capability = Capability { id: id(number), route: route.clone(), uses: 100, expires_at: LATER };
        Token::issue(&keys, &capability).expose().to_owned()
    };
    let mut group = c.benchmark_group("capability");
    let one = token(1);
    group.bench_function("issue a token", |b| b.iter(|| token(black_box(1))));
    group.bench_function("recognise a token", |b| {
        b.iter(|| capability::recognise(&keys, black_box(&one), &route, NOW).unwrap());
    });

    let clock = Clock::from_fn(|| NOW);
    let held = Capabilities::new(Arc::new(Plenty), clock, Holder([1; 16]), CACHED * 2);
    let before = resident();
    for number in 0..CACHED {
        at_once(held.find(id(number))).unwrap().unwrap();
    }
    let each = resident().saturating_sub(before) / CACHED;
    let before = resident();
    let empty = moka::sync::Cache::builder()
        .max_capacity(CACHED * 2)
        .eviction_policy(moka::policy::EvictionPolicy::lru())
        .time_to_live(Duration::from_secs(3600))
        .build();
    for number in 0..CACHED {
        empty.insert(id(number), Arc::new(()));
    }
    let cache = resident().saturating_sub(before) / CACHED;
    println!(
        "{each} bytes of memory for each of {CACHED} cached capabilities, {cache} without what is cached"
    );
    assert!(each <= BYTES_EACH, "a cached capability takes more than {BYTES_EACH} bytes");
    let mut number = 0_u64;
    group.bench_function("find one of a million, reserve a use, commit it", |b| {
        b.iter(|| {
            // The step visits all of them, in places that are far apart in memory.
            number = (number + 7_919) % CACHED;
            let found = at_once(held.find(id(number))).unwrap().unwrap();
            at_once(held.reserve(&found, Wish::one(Metering::Leased))).unwrap().commit();
        });
    });
    group.finish();
}

criterion_group!(hot_path, bill, proof, routes, capabilities);
criterion_main!(hot_path);
