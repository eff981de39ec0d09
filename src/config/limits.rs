//! Times, places and bounds: challenges, settlement, the store, what is held in memory.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use serde_yaml::Value;

use super::document::below;
use super::judge::Judge;
use super::mirror::{ChallengeFile, LimitsFile, PaymentIdentifiersFile, Piece, SettlementFile, StoreFile};
use crate::store::{PostgresOptions, SqliteOptions, postgres_server};

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChallengeConfig {
    /// Seconds for which a challenge can be answered.
    pub lifetime: u64,
    /// The key of the challenges' MAC; made where there is none.
    pub key_file: PathBuf,
    /// The key before it, still good for what was minted under it.
    pub previous_key_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settlement {
    /// How long a request waits for its payment's confirmation before it is told to come again.
    pub wait: Duration,
    /// Between two looks at a block in its first second; later they are rarer.
    pub poll: Duration,
}

/// What outlives the process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoreLocation {
    /// One file, for one machine.
    Sqlite {
        path: PathBuf,
        /// With fewer bytes free than this, nothing new is sold.
        free_space: u64,
    },
    /// A server, for several instances.
    Postgres(Box<PostgresOptions>),
}

/// How long what clients' ids stand for is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PaymentIdentifiersConfig {
    /// Seconds for which an id stands for its payment.
    pub keep: u64,
    /// Seconds for which what was answered under it is kept; not more than `keep`.
    pub keep_answers: u64,
    /// Bytes of the largest body that is kept.
    pub largest_answer: u64,
}

/// What is held at most. Reaching one sheds new work, never live work.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Bytes of a request's body that are read and thrown away after an early answer; with more,
    /// the connection is closed.
    pub drained_body: u64,
    /// Capabilities in memory; others are looked up in the store.
    pub capabilities_cached: u64,
    /// Payments that settle at one time.
    pub pending_settlements: u32,
    /// Look-ups of blocks that no node knows, a minute and client.
    pub lookups_per_client: u32,
    /// How long a client's connection may lie idle.
    pub idle_connection: Duration,
    /// Bytes of requests' bodies that are held at one time, of those that are looked into.
    pub bodies: u64,
    /// How long such a body may take to arrive.
    pub body_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            drained_body: 64 * 1024,
            capabilities_cached: 1_000_000,
            pending_settlements: 1024,
            lookups_per_client: 30,
            idle_connection: Duration::from_secs(60),
            bodies: 64 * 1024 * 1024,
            body_time: Duration::from_secs(10),
        }
    }
}

/// Seconds.
const DEFAULT_LIFETIME: u64 = 120;
const MIN_LIFETIME: u64 = 10;
const MAX_LIFETIME: u64 = 3600;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// An id outlives the longest challenge, and the retries of a client that was told to come again.
const MIN_KEEP: u64 = HOUR;
const MAX_KEEP: u64 = 366 * DAY;
const DEFAULT_ANSWER: u64 = 256 * 1024;
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

const MAX_DRAINED_BODY: u64 = 1024 * 1024 * 1024;
const MAX_BODIES: u64 = 1 << 40;
const MAX_FREE_SPACE: u64 = 1 << 50;
const MAX_CONNECTIONS: usize = 1000;
const MAX_CAPABILITIES: u64 = 100_000_000;
const MAX_PENDING: u32 = 1_000_000;
const MAX_LOOKUPS: u32 = 1_000_000;

pub(super) fn challenge(judge: &mut Judge<'_>, piece: Piece<Value>) -> Option<ChallengeConfig> {
    let file: ChallengeFile = judge.section_or_default("challenge", piece)?;
    let range = MIN_LIFETIME..=MAX_LIFETIME;
    let lifetime = judge.seconds("challenge.lifetime", file.lifetime, range, DEFAULT_LIFETIME);
    let key_file = match file.key_file {
        Piece::Missing => Some(judge.base.join("challenge.key")),
        given @ (Piece::Empty | Piece::Is(_) | Piece::Wrong(_)) => judge.file("challenge.key_file", given),
    };
    let previous_given = file.previous_key_file.is_given();
    let previous = judge.file("challenge.previous_key_file", file.previous_key_file);
    if previous.is_some() && previous == key_file {
        let message = "the same file as `key_file`";
        judge.fault("challenge.previous_key_file", message, "name the file of the key before it");
    }
    (previous_given == previous.is_some()).then_some(ChallengeConfig {
        lifetime: lifetime?,
        key_file: key_file?,
        previous_key_file: previous,
    })
}

pub(super) fn settlement(judge: &mut Judge<'_>, piece: Piece<Value>) -> Option<Settlement> {
    let file: SettlementFile = judge.section_or_default("settlement", piece)?;
    let (second, milli) = (Duration::from_secs, Duration::from_millis);
    let wait = judge.duration("settlement.wait", file.wait, milli(100)..=second(120), second(15));
    let poll = judge.duration("settlement.poll", file.poll, milli(10)..=second(10), milli(100));
    Some(Settlement { wait: wait?, poll: poll? })
}

pub(super) fn store(judge: &mut Judge<'_>, piece: Piece<Value>) -> Option<StoreLocation> {
    let mut file: StoreFile = judge.section_or_default("store", piece)?;
    let for_a_server = [
        ("password_file", file.password_file.is_given()),
        ("ca_file", file.ca_file.is_given()),
        ("connections", file.connections.is_given()),
        ("allow_unsafe", file.allow_unsafe.is_given()),
    ];
    let for_a_file = [("path", file.path.is_given())];
    let (others, hint) = if file.postgres.is_given() {
        (&for_a_file[..], "a store is a file (`path`) or a server (`postgres`), not both")
    } else {
        (&for_a_server[..], "it belongs to `postgres: \"postgres://USER@HOST/DATABASE\"`")
    };
    let mut misplaced = false;
    for (key, _) in others.iter().filter(|(_, given)| *given) {
        judge.fault(&below("store", key), "it does not belong to this kind of store", hint);
        misplaced = true;
    }
    if misplaced {
        return None;
    }
    let free_space = std::mem::take(&mut file.free_space);
    let free_space = bytes(judge, "store.free_space", free_space, MAX_FREE_SPACE, SqliteOptions::FREE_SPACE);
    if file.postgres.is_given() {
        return postgres(judge, file, free_space?);
    }
    let path = match file.path {
        Piece::Missing => Some(judge.base.join("faregate.db")),
        given @ (Piece::Empty | Piece::Is(_) | Piece::Wrong(_)) => judge.file("store.path", given),
    };
    Some(StoreLocation::Sqlite { path: path?, free_space: free_space? })
}

fn postgres(judge: &mut Judge<'_>, file: StoreFile, free_space: u64) -> Option<StoreLocation> {
    let hint = "write `postgres: \"postgres://USER@HOST/DATABASE\"`, with `?host=/var/run/postgresql` for a \
         socket, `?sslmode=disable` for a network that needs no protection, and the password in a \
         `password_file` or a ${VARIABLE}";
    let server = judge.text("store.postgres", file.postgres, hint, postgres_server);
    let mut named = |path, piece: Piece<String>| {
        if piece.is_given() { judge.file(path, piece).map(Some) } else { Some(None) }
    };
    let password_file = named("store.password_file", file.password_file);
    let ca_file = named("store.ca_file", file.ca_file);
    let default = PostgresOptions::CONNECTIONS.get();
    let connections = judge.count("store.connections", file.connections, 1..=MAX_CONNECTIONS, default);
    let allow_unsafe = match file.allow_unsafe {
        Piece::Missing => Some(false),
        given @ (Piece::Empty | Piece::Is(_) | Piece::Wrong(_)) => {
            judge.get("store.allow_unsafe", given, "write `true` or `false`")
        }
    };
    Some(StoreLocation::Postgres(Box::new(PostgresOptions {
        server: server?,
        password_file: password_file?,
        ca_file: ca_file?,
        connections: NonZeroUsize::new(connections?)?,
        allow_unsafe: allow_unsafe?,
        free_space,
    })))
}

pub(super) fn payment_identifiers(
    judge: &mut Judge<'_>,
    piece: Piece<Value>,
) -> Option<PaymentIdentifiersConfig> {
    let file: PaymentIdentifiersFile = judge.section_or_default("payment_identifiers", piece)?;
    let answers_path = "payment_identifiers.keep_answers";
    let keep = judge.seconds("payment_identifiers.keep", file.keep, MIN_KEEP..=MAX_KEEP, DAY);
    let answers = judge.seconds(answers_path, file.keep_answers, 1..=MAX_KEEP, HOUR);
    let largest =
        bytes(judge, "payment_identifiers.largest_answer", file.largest_answer, MAX_ANSWER, DEFAULT_ANSWER);
    let (keep, keep_answers) = (keep?, answers?);
    if keep_answers > keep {
        let message = "longer than `keep`: without its id an answer cannot be found";
        judge.fault(answers_path, message, "make it `keep` at most, or `keep` longer");
        return None;
    }
    Some(PaymentIdentifiersConfig { keep, keep_answers, largest_answer: largest? })
}

pub(super) fn limits(judge: &mut Judge<'_>, piece: Piece<Value>) -> Option<Limits> {
    let default = Limits::default();
    let file: LimitsFile = judge.section_or_default("limits", piece)?;
    let drained_body =
        bytes(judge, "limits.drained_body", file.drained_body, MAX_DRAINED_BODY, default.drained_body);
    let capabilities_cached = judge.count(
        "limits.capabilities_cached",
        file.capabilities_cached,
        1..=MAX_CAPABILITIES,
        default.capabilities_cached,
    );
    let pending_settlements = judge.count(
        "limits.pending_settlements",
        file.pending_settlements,
        1..=MAX_PENDING,
        default.pending_settlements,
    );
    let lookups_per_client = judge.count(
        "limits.lookups_per_client",
        file.lookups_per_client,
        1..=MAX_LOOKUPS,
        default.lookups_per_client,
    );
    let idle_connection = judge.duration(
        "limits.idle_connection",
        file.idle_connection,
        Duration::from_secs(1)..=Duration::from_secs(3600),
        default.idle_connection,
    );
    let bodies = bytes(judge, "limits.bodies", file.bodies, MAX_BODIES, default.bodies);
    let body_time = judge.duration(
        "limits.body_time",
        file.body_time,
        Duration::from_millis(100)..=Duration::from_secs(600),
        default.body_time,
    );
    Some(Limits {
        drained_body: drained_body?,
        capabilities_cached: capabilities_cached?,
        pending_settlements: pending_settlements?,
        lookups_per_client: lookups_per_client?,
        idle_connection: idle_connection?,
        bodies: bodies?,
        body_time: body_time?,
    })
}

/// A number of bytes: `65536`, `64 KiB`, `1 MiB`.
pub(super) fn bytes(
    judge: &mut Judge<'_>,
    path: &str,
    piece: Piece<Value>,
    most: u64,
    default: u64,
) -> Option<u64> {
    if !piece.is_given() {
        return Some(default);
    }
    let most_shown =
        if most < 1 << 20 { format!("{} KiB", most >> 10) } else { format!("{} MiB", most >> 20) };
    let hint = format!("write a number of bytes, or `64 KiB`, `1 MiB`; at most {most_shown}");
    let value = judge.get(path, piece, &hint)?;
    let number = value.as_u64().or_else(|| value.as_str().and_then(parse_bytes));
    let number = number.filter(|it| *it <= most);
    if number.is_none() {
        judge.fault(path, "not a number of bytes that can be used here", &hint);
    }
    number
}

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}
