//! The session of a `nanoSession` entry, and the headers that revision 5 of NanoSession told it in.
//!
//! A session's identifier is opaque to clients. It carries what the gateway needs to check a proof
//! that comes with nothing else (`X-PAYMENT-BLOCK`, `X-PAYMENT-SESSION`), so that no session is
//! remembered. Nothing in it is believed before `payment` has recognised it by its MAC. Sources:
//! NanoSession revisions 5 (sections 2.3, 3.1, 3.2), 6 and 7 (section 4).

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};
use serde_json::{Map, Value};

use super::fields::Fields;
use super::{Fault, Grants, PaymentRequirements, Track};
use crate::nano::{Account, Raw, UnixSeconds};

/// Revision 5's default `TAG_MODULUS`: its tags are below, and its base amount a multiple of it
/// where the price is one.
pub const TAG_MODULUS: u128 = 10_000_000;

/// What a `nanoSession` entry asks for: the price, and what tells its payment from others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SessionTerms {
    /// In raw; `resourceAmountRaw`.
    pub price: Raw,
    /// In raw; `tagAmountRaw`. The entry's `amount` is the sum of the two.
    pub tag_amount: Raw,
}

/// What a session's identifier says. Prints as `****`: together with a block's hash, which is
/// public, it is the proof.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Session {
    /// Random bytes and the MAC over the terms.
    pub nonce: [u8; 32],
    pub pay_to: Account,
    /// Without the tag, in raw.
    pub price: Raw,
    pub grants: Grants,
    pub valid_before: UnixSeconds,
    route: [u8; 8],
}

/// The text is no session's identifier.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("this is not the identifier of a session of this gateway")]
pub struct NoSession;

const VERSION: u8 = 1;
/// Version, nonce, address, price, requests, seconds, end, route.
const LENGTH: usize = 1 + 32 + 32 + 16 + 4 + 8 + 8 + 8;

impl Session {
    /// The session that `entry` offers; nothing for an entry of another mechanism.
    #[must_use]
    pub fn of(entry: &PaymentRequirements) -> Option<Self> {
        let Track::NanoSession(terms) = entry.extra.track else { return None };
        Some(Self {
            nonce: entry.extra.challenge,
            pay_to: entry.pay_to,
            price: terms.price,
            grants: entry.extra.grants,
            valid_before: entry.extra.valid_before,
            route: digest(&entry.extra.route),
        })
    }

    /// Whether the session says that it is for this route.
    #[must_use]
    pub fn is_for(&self, route: &str) -> bool {
        self.route == digest(route)
    }
}

/// Enough of a route's identity to tell one from another; the MAC is over the whole of it.
fn digest(route: &str) -> [u8; 8] {
    Blake2b::<U8>::digest(route).into()
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.push(VERSION);
        bytes.extend(self.nonce);
        bytes.extend(self.pay_to.0);
        bytes.extend(self.price.to_be_bytes());
        bytes.extend(self.grants.requests.get().to_be_bytes());
        bytes.extend(self.grants.seconds.to_be_bytes());
        bytes.extend(self.valid_before.0.to_be_bytes());
        bytes.extend(self.route);
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(****)")
    }
}

impl FromStr for Session {
    type Err = NoSession;

    fn from_str(text: &str) -> Result<Self, NoSession> {
        let mut bytes = [0; LENGTH];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).map_err(|_| NoSession)?;
        let mut rest = Rest(bytes.get(..length).unwrap_or_default());
        let [version] = rest.take()?;
        let session = Self {
            nonce: rest.take()?,
            pay_to: Account(rest.take()?),
            price: Raw::from_be_bytes(rest.take()?),
            grants: Grants {
                requests: NonZeroU32::new(u32::from_be_bytes(rest.take()?)).ok_or(NoSession)?,
                seconds: u64::from_be_bytes(rest.take()?),
            },
            valid_before: UnixSeconds(u64::from_be_bytes(rest.take()?)),
            route: rest.take()?,
        };
        if version == VERSION { Ok(session) } else { Err(NoSession) }
    }
}

/// Takes fields of fixed length off the front.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], NoSession> {
        let (field, rest) = self.0.split_first_chunk().ok_or(NoSession)?;
        self.0 = rest;
        Ok(*field)
    }
}

impl SessionTerms {
    /// What is to be sent, in raw; nothing where that is more than can exist.
    #[must_use]
    pub fn amount(self) -> Option<Raw> {
        self.price.checked_add(self.tag_amount)
    }

    /// The number that revision 5 calls the tag: the end of the tag's amount, small enough for every
    /// language's integers.
    fn tag(self) -> u64 {
        let tag = self.tag_amount.get().checked_rem(TAG_MODULUS);
        tag.and_then(|it| u64::try_from(it).ok()).unwrap_or_default()
    }

    /// Holds an entry's `amount` against its parts (revision 6, section 3.2).
    pub(super) fn check_sum(self, amount: Raw, entry: &Fields<'_>) -> Result<(), Fault> {
        if self.amount() == Some(amount) {
            return Ok(());
        }
        Err(entry.wrong("amount", "it is not the sum of `resourceAmountRaw` and `tagAmountRaw`"))
    }

    /// `extra.nanoSession` of these terms.
    pub(super) fn to_json(self, session: &Session) -> Value {
        let mut json = Map::new();
        json.insert("id".to_owned(), session.to_string().into());
        json.insert("tag".to_owned(), self.tag().into());
        json.insert("resourceAmountRaw".to_owned(), self.price.to_string().into());
        json.insert("tagAmountRaw".to_owned(), self.tag_amount.to_string().into());
        json.insert("expiresAt".to_owned(), iso_8601(session.valid_before).into());
        Value::Object(json)
    }

    /// The terms in an `extra.nanoSession`, whoever wrote it; `tag` and `expiresAt` are for people.
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self, Fault> {
        Ok(Self { price: fields.parsed("resourceAmountRaw")?, tag_amount: fields.parsed("tagAmountRaw")? })
    }
}

/// The headers of a 402 in which revision 5 tells what `entry` offers; nothing for an entry of
/// another mechanism. A client sends address `amount + tag`, which is the entry's `amount`.
#[must_use]
pub fn session_headers(entry: &PaymentRequirements) -> Option<[(&'static str, String); 5]> {
    let Track::NanoSession(terms) = entry.extra.track else { return None };
    let session = Session::of(entry)?;
    let tag = terms.tag();
    let base = entry.amount.checked_sub(Raw::new(u128::from(tag)))?;
    Some([
        ("X-PAYMENT-ADDRESS", session.pay_to.to_string()),
        ("X-PAYMENT-AMOUNT", base.to_string()),
        ("X-PAYMENT-TAG", tag.to_string()),
        ("X-PAYMENT-SESSION", session.to_string()),
        ("X-PAYMENT-EXPIRES", iso_8601(session.valid_before)),
    ])
}

/// The last second that ISO 8601's four-digit years reach.
const YEAR_9999: u64 = 253_402_300_799;

fn iso_8601(at: UnixSeconds) -> String {
    let since = Duration::from_secs(at.0.min(YEAR_9999));
    humantime::format_rfc3339_seconds(UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)).to_string()
}
