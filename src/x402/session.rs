//! The session of a `nanoSession` entry: its terms and its identifier.
//!
//! The identifier of a session is opaque to clients. It contains all that the gateway needs to check
//! a proof that comes with two headers only (`X-PAYMENT-BLOCK`, `X-PAYMENT-SESSION`), so that the
//! gateway stores no sessions. Its content is not trusted until [`payment`](crate::payment) has
//! verified the MAC. Sources: NanoSession revisions 5 (sections 2.3, 3.1, 3.2), 6 and 7 (section 4).

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};
use serde_json::{Map, Value};

use super::FieldFault;
use super::fields::Fields;
use crate::money::Exchange;
use crate::nano::{Account, Raw, UnixSeconds};
use crate::routes::{Grants, RouteName};

/// The default `TAG_MODULUS` of revision 5: its tags are lower, and its base amount is a multiple of
/// it if the price is one.
pub const TAG_MODULUS: u128 = 10_000_000;

/// The amount of a `nanoSession` entry: the price, and a tag that identifies the payment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SessionTerms {
    /// In raw; `resourceAmountRaw`.
    pub price: Raw,
    /// In raw; `tagAmountRaw`. The `amount` of the entry is the sum of both.
    pub tag_amount: Raw,
}

/// The content of the identifier of a session. Prints as `****`: together with the hash of a block,
/// which is public, it is the proof.
#[derive(Clone, Eq, PartialEq)]
pub struct SessionId {
    /// Random bytes and the MAC over the terms.
    pub nonce: [u8; 32],
    pub pay_to: Account,
    /// The price without the tag, in raw.
    pub price: Raw,
    pub grants: Grants,
    pub valid_before: UnixSeconds,
    /// How the price came about, if it is in another currency.
    pub exchange: Option<Exchange>,
    route: ForRoute,
}

/// Which route a session claims to be for.
#[derive(Clone, Eq, PartialEq)]
enum ForRoute {
    Named(RouteName),
    /// As earlier versions wrote it: a digest, which can only be compared.
    Digest([u8; 8]),
}

/// The text is not the identifier of a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("this is not the identifier of a session of this gateway")]
pub struct NoSession;

/// The route is a digest of 8 bytes, or its name to the end. With an exchange, that comes before the name.
const DIGESTED: u8 = 1;
const NAMED: u8 = 2;
const EXCHANGED: u8 = 3;
/// The most bytes of a route's name.
const MAX_ROUTE: usize = 1024;
/// Version, nonce, address, price, requests, seconds, expiry, perhaps an exchange; then the route.
const LENGTH: usize = 1 + 32 + 32 + 16 + 4 + 8 + 8 + Exchange::BYTES;

impl SessionId {
    /// The identifier of a session on `route` with these terms.
    pub(super) fn new(
        nonce: [u8; 32],
        pay_to: Account,
        price: Raw,
        grants: Grants,
        valid_before: UnixSeconds,
        route: &str,
    ) -> Self {
        let route = ForRoute::Named(RouteName::new(route));
        Self { nonce, pay_to, price, grants, valid_before, exchange: None, route }
    }

    /// The same, whose price came about by `exchange`.
    pub(super) const fn exchanged(mut self, exchange: Option<Exchange>) -> Self {
        self.exchange = exchange;
        self
    }

    /// The route that the session claims to be for. A session of an earlier version does not name it: then
    /// it is one of `names`, or `None`.
    #[must_use]
    pub fn route(&self, mut names: impl Iterator<Item = RouteName>) -> Option<RouteName> {
        match &self.route {
            ForRoute::Named(name) => Some(name.clone()),
            ForRoute::Digest(digested) => names.find(|it| digest(it.as_str()) == *digested),
        }
    }
}

/// A short digest of the name of a route, to tell routes apart. The MAC covers the whole name.
fn digest(route: &str) -> [u8; 8] {
    Blake2b::<U8>::digest(route).into()
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, route) = match &self.route {
            ForRoute::Named(name) if self.exchange.is_some() => (EXCHANGED, name.as_str().as_bytes()),
            ForRoute::Named(name) => (NAMED, name.as_str().as_bytes()),
            ForRoute::Digest(digest) => (DIGESTED, digest.as_slice()),
        };
        let mut bytes = Vec::with_capacity(LENGTH.saturating_add(route.len()));
        bytes.push(version);
        bytes.extend(self.nonce);
        bytes.extend(self.pay_to.0);
        bytes.extend(self.price.to_be_bytes());
        bytes.extend(self.grants.count().to_be_bytes());
        bytes.extend(self.grants.seconds.to_be_bytes());
        bytes.extend(self.valid_before.0.to_be_bytes());
        bytes.extend(self.exchange.iter().flat_map(Exchange::to_bytes));
        bytes.extend(route);
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(****)")
    }
}

impl FromStr for SessionId {
    type Err = NoSession;

    fn from_str(text: &str) -> Result<Self, NoSession> {
        let mut bytes = [0; LENGTH + MAX_ROUTE];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).map_err(|_| NoSession)?;
        let mut rest = Rest(bytes.get(..length).unwrap_or_default());
        let [version] = rest.take()?;
        Ok(Self {
            nonce: rest.take()?,
            pay_to: Account(rest.take()?),
            price: Raw::from_be_bytes(rest.take()?),
            grants: Grants::of_count(u32::from_be_bytes(rest.take()?), u64::from_be_bytes(rest.take()?)),
            valid_before: UnixSeconds(u64::from_be_bytes(rest.take()?)),
            exchange: match version {
                EXCHANGED => Some(Exchange::from_bytes(rest.take()?).ok_or(NoSession)?),
                _ => None,
            },
            route: match version {
                NAMED | EXCHANGED => {
                    ForRoute::Named(RouteName::new(std::str::from_utf8(rest.0).map_err(|_| NoSession)?))
                }
                DIGESTED => ForRoute::Digest(rest.0.try_into().map_err(|_| NoSession)?),
                _ => return Err(NoSession),
            },
        })
    }
}

/// The bytes that are not read yet; fields of fixed length are taken from the front.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], NoSession> {
        let (field, rest) = self.0.split_first_chunk().ok_or(NoSession)?;
        self.0 = rest;
        Ok(*field)
    }
}

impl SessionTerms {
    /// The amount to send, in raw; `None` if it is over 2^128 - 1.
    #[must_use]
    pub fn amount(self) -> Option<Raw> {
        self.price.checked_add(self.tag_amount)
    }

    /// The tag of revision 5: the last digits of the tag's amount, small enough for the integers of
    /// every language.
    pub(super) fn tag(self) -> u64 {
        let tag = self.tag_amount.get().checked_rem(TAG_MODULUS);
        tag.and_then(|it| u64::try_from(it).ok()).unwrap_or_default()
    }

    /// Checks that `amount` is the sum of its parts (revision 6, section 3.2).
    pub(super) fn check_sum(self, amount: Raw, entry: &Fields<'_>) -> Result<(), FieldFault> {
        if self.amount() == Some(amount) {
            return Ok(());
        }
        Err(entry.wrong("amount", "not the sum of `resourceAmountRaw` and `tagAmountRaw`"))
    }

    /// The object `extra.nanoSession` for these terms.
    pub(super) fn to_json(self, session: &SessionId) -> Value {
        let mut json = Map::new();
        json.insert("id".to_owned(), session.to_string().into());
        json.insert("tag".to_owned(), self.tag().into());
        json.insert("resourceAmountRaw".to_owned(), self.price.to_string().into());
        json.insert("tagAmountRaw".to_owned(), self.tag_amount.to_string().into());
        json.insert("expiresAt".to_owned(), iso_8601(session.valid_before).into());
        Value::Object(json)
    }

    /// Reads the terms in `extra.nanoSession` of any server. `tag` and `expiresAt` are for people.
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self, FieldFault> {
        Ok(Self { price: fields.parsed("resourceAmountRaw")?, tag_amount: fields.parsed("tagAmountRaw")? })
    }
}

/// The last second of the year 9999, since ISO 8601 has years of four digits.
const YEAR_9999: u64 = 253_402_300_799;

pub(super) fn iso_8601(at: UnixSeconds) -> String {
    let since = Duration::from_secs(at.0.min(YEAR_9999));
    humantime::format_rfc3339_seconds(UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)).to_string()
}
