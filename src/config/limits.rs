//! Times and limits: challenges, settlement, clients' ids, and what is held in memory.

use std::path::PathBuf;
use std::time::Duration;

use super::judge::{Judge, Judged, all};
use super::mirror::{
    ChallengeFile, LimitsFile, PaymentIdentifiersFile, PerCallerFile, PerClientFile, SettlementFile,
};

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChallengeConfig {
    /// Seconds for which a challenge can be answered.
    pub lifetime: u64,
    /// The file of the challenges' MAC key; created if it is missing.
    pub key_file: PathBuf,
    /// The file of the previous key, which is still accepted.
    pub previous_key_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settlement {
    /// How long a request waits for its payment's confirmation before the client has to ask again.
    pub wait: Duration,
    /// The pause between two looks at a block in its first second; later the pauses are longer.
    pub poll: Duration,
}

/// How long clients' ids and the answers to them are kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PaymentIdentifiersConfig {
    /// Seconds for which an id belongs to its payment.
    pub keep: u64,
    /// Seconds for which the answer is kept; not more than `keep`.
    pub keep_answers: u64,
    /// The largest body that is kept, in bytes.
    pub largest_answer: u64,
}

/// Reaching a limit rejects new work, never work under way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Bytes of a request's body that are read and discarded after an early answer; if there are
    /// more, the connection is closed.
    pub drained_body: u64,
    /// Threads that serve requests. `None`: one for each core.
    pub threads: Option<usize>,
    /// Capabilities in memory; others are looked up in the store.
    pub capabilities_cached: u64,
    /// Payments that are being settled at one time.
    pub pending_settlements: u32,
    /// How long a client's connection may be idle.
    pub idle_connection: Duration,
    /// How long the head of a request may take from its first byte to its last.
    pub head_time: Duration,
    /// Bytes of request bodies in memory at one time, of those that are read before the decision.
    pub bodies: u64,
    /// Free requests at upstreams at one time. `None`: an eighth of the file descriptors.
    pub free_forwards: Option<usize>,
    /// How long such a body may take to arrive.
    pub body_time: Duration,
    /// How long a client may pause in any body.
    pub body_idle: Duration,
    pub per_client: PerClient,
}

/// What one client may take of what is for all. A client is an IPv4 address or an IPv6 network of 64
/// bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PerClient {
    /// Connections at one time. Those of trusted proxies are not counted.
    pub connections: usize,
    /// Requests under way at one time that hold no paid use.
    pub unpaid: usize,
    /// Of these, those at upstreams.
    pub free_forwards: usize,
    /// Answers a second that sell nothing; the next ones wait.
    pub bills: u32,
    /// Payments that are being settled at one time.
    pub settlements: usize,
    /// Look-ups for proofs in vain, per minute, and look-ups under way at one time.
    pub lookups: u32,
    /// Bytes of request bodies in memory at one time, of those that are read before the decision.
    pub bodies: usize,
}

impl Default for PerClient {
    fn default() -> Self {
        Self {
            connections: 1024,
            unpaid: 512,
            free_forwards: 128,
            bills: 500,
            settlements: 128,
            lookups: 20,
            bodies: 8 * 1024 * 1024,
        }
    }
}

/// What one caller of the facilitator may take. It speaks for many payers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PerCaller {
    /// Payments that are being settled at one time.
    pub settlements: usize,
    /// Look-ups for proofs in vain, per minute, and look-ups under way at one time.
    pub lookups: u32,
}

impl Default for PerCaller {
    fn default() -> Self {
        Self { settlements: 512, lookups: 600 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            drained_body: 64 * 1024,
            threads: None,
            capabilities_cached: 1_000_000,
            pending_settlements: 1024,
            idle_connection: Duration::from_secs(60),
            head_time: Duration::from_secs(10),
            bodies: 64 * 1024 * 1024,
            free_forwards: None,
            body_time: Duration::from_secs(10),
            body_idle: Duration::from_secs(60),
            per_client: PerClient::default(),
        }
    }
}

/// Seconds.
const DEFAULT_LIFETIME: u64 = 120;
const MIN_LIFETIME: u64 = 10;
const MAX_LIFETIME: u64 = 3600;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// An id outlives the longest challenge, and the retries of a client whose payment was pending.
const MIN_KEEP: u64 = HOUR;
const MAX_KEEP: u64 = 366 * DAY;
const DEFAULT_ANSWER: u64 = 256 * 1024;
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

const MAX_DRAINED_BODY: u64 = 1024 * 1024 * 1024;
const MAX_BODIES: u64 = 1 << 40;
const MAX_THREADS: usize = 1024;
const MAX_CAPABILITIES: u64 = 100_000_000;
const MAX_PENDING: u32 = 1_000_000;
/// Of look-ups a minute, and of bills a second.
const MAX_LOOKUPS: u32 = 1_000_000;
/// Of connections, requests or settlements of one client.
const MAX_SHARE: usize = 1_000_000;

pub(super) fn challenge(judge: &mut Judge<'_>, file: ChallengeFile) -> Judged<ChallengeConfig> {
    let previous_place = file.previous_key_file.path.clone();
    let key_file = judge.file(file.key_file);
    let challenge = all!(ChallengeConfig {
        lifetime: judge.seconds(file.lifetime, MIN_LIFETIME..=MAX_LIFETIME, DEFAULT_LIFETIME),
        key_file: key_file.map(|it| it.unwrap_or_else(|| judge.base.join("challenge.key"))),
        previous_key_file: judge.file(file.previous_key_file),
    })?;
    if challenge.previous_key_file.as_ref() == Some(&challenge.key_file) {
        let message = "the same file as `key_file`";
        return Err(judge.fault(&previous_place, message, "name the file of the key before it"));
    }
    Ok(challenge)
}

pub(super) fn settlement(judge: &mut Judge<'_>, file: SettlementFile) -> Judged<Settlement> {
    let (second, milli) = (Duration::from_secs, Duration::from_millis);
    all!(Settlement {
        wait: judge.duration(file.wait, milli(100)..=second(120), second(15)),
        poll: judge.duration(file.poll, milli(10)..=second(10), milli(100)),
    })
}

pub(super) fn payment_identifiers(
    judge: &mut Judge<'_>,
    file: PaymentIdentifiersFile,
) -> Judged<PaymentIdentifiersConfig> {
    let answers_place = file.keep_answers.path.clone();
    let ids = all!(PaymentIdentifiersConfig {
        keep: judge.seconds(file.keep, MIN_KEEP..=MAX_KEEP, DAY),
        keep_answers: judge.seconds(file.keep_answers, 1..=MAX_KEEP, HOUR),
        largest_answer: judge.bytes(file.largest_answer, 0..=MAX_ANSWER, DEFAULT_ANSWER),
    })?;
    if ids.keep_answers > ids.keep {
        let message = "longer than `keep`: without its id an answer cannot be found";
        return Err(judge.fault(&answers_place, message, "make it `keep` at most, or `keep` longer"));
    }
    Ok(ids)
}

pub(super) fn limits(judge: &mut Judge<'_>, file: LimitsFile) -> Judged<Limits> {
    let default = Limits::default();
    let (second, milli) = (Duration::from_secs, Duration::from_millis);
    let (lookups_place, lookups) = (file.lookups_per_client.path.clone(), file.lookups_per_client);
    let (earlier, says_forwards) = (lookups.is_given(), file.free_forwards.is_given());
    let says_threads = file.threads.is_given();
    let lookups = judge.count(lookups, 1..=MAX_LOOKUPS, default.per_client.lookups);
    let per_client = judge.section(file.per_client).and_then(|it: PerClientFile| {
        if earlier && it.lookups.is_given() {
            let message = "`per_client.lookups` says the same";
            return Err(judge.fault(&lookups_place, message, "keep `per_client: { lookups: … }`"));
        }
        per_client(judge, it, lookups?)
    });
    all!(Limits {
        drained_body: judge.bytes(file.drained_body, 0..=MAX_DRAINED_BODY, default.drained_body),
        threads: judge.count(file.threads, 1..=MAX_THREADS, 1).map(|it| says_threads.then_some(it)),
        capabilities_cached: judge.count(
            file.capabilities_cached,
            1..=MAX_CAPABILITIES,
            default.capabilities_cached
        ),
        pending_settlements: judge.count(
            file.pending_settlements,
            1..=MAX_PENDING,
            default.pending_settlements
        ),
        idle_connection: judge.duration(
            file.idle_connection,
            second(1)..=second(3600),
            default.idle_connection
        ),
        head_time: judge.duration(file.head_time, milli(100)..=second(600), default.head_time),
        bodies: judge.bytes(file.bodies, 0..=MAX_BODIES, default.bodies),
        free_forwards: judge
            .count(file.free_forwards, 1..=MAX_SHARE, MAX_SHARE)
            .map(|it| says_forwards.then_some(it)),
        body_time: judge.duration(file.body_time, milli(100)..=second(600), default.body_time),
        body_idle: judge.duration(file.body_idle, milli(100)..=second(3600), default.body_idle),
        per_client,
    })
}

/// `lookups` is what counts if the section does not say it.
fn per_client(judge: &mut Judge<'_>, file: PerClientFile, lookups: u32) -> Judged<PerClient> {
    let default = PerClient::default();
    let bodies = u64::try_from(default.bodies).unwrap_or(MAX_BODIES);
    all!(PerClient {
        connections: judge.count(file.connections, 1..=MAX_SHARE, default.connections),
        unpaid: judge.count(file.unpaid, 1..=MAX_SHARE, default.unpaid),
        free_forwards: judge.count(file.free_forwards, 1..=MAX_SHARE, default.free_forwards),
        bills: judge.count(file.bills, 1..=MAX_LOOKUPS, default.bills),
        settlements: judge.count(file.settlements, 1..=MAX_SHARE, default.settlements),
        lookups: judge.count(file.lookups, 1..=MAX_LOOKUPS, lookups),
        bodies: judge
            .bytes(file.bodies, 0..=MAX_BODIES, bodies)
            .map(|it| usize::try_from(it).unwrap_or(usize::MAX)),
    })
}

pub(super) fn per_caller(judge: &mut Judge<'_>, file: PerCallerFile) -> Judged<PerCaller> {
    let default = PerCaller::default();
    all!(PerCaller {
        settlements: judge.count(file.settlements, 1..=MAX_SHARE, default.settlements),
        lookups: judge.count(file.lookups, 1..=MAX_LOOKUPS, default.lookups),
    })
}
