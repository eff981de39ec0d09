//! Derived tokens: what the holder of a token makes of it, offline, to hand on less than it has.
//!
//! A derived token is the body of the token that a payment bought, a list of restrictions, and a MAC. The
//! MAC is a chain: the first link is the MAC of the bought token, and each further one is keyed with the link
//! before it and covers one restriction. Only the last link is in the text. So whoever has a token can add a
//! restriction, and nobody can take one away or get the token before it
//! ([protocol guide](crate::guide::protocol), "Derived tokens").

use std::fmt;

use blake2::digest::Mac;
use serde_json::{Value, json};

use super::Refusal;
use super::capability::{self, BODY, Claim, TEXT_LENGTH, TOKEN_DOMAIN, Token, VERSION};
use super::key::{MacKeys, chained};
use crate::nano::UnixSeconds;
use crate::routes::{CanonicalTarget, Pattern, PatternError};

/// Begins what each link of the chain covers.
const STEP_DOMAIN: &[u8; 16] = b"faregate child 1";

/// The most restrictions of one token.
pub const MAX_RESTRICTIONS: usize = 16;
/// The longest that they are together, in bytes.
pub const MAX_RESTRICTION_BYTES: usize = 512;

const MAC: usize = 16;
const LONGEST: usize = BODY + MAX_RESTRICTION_BYTES + MAC;

/// The kinds of restrictions on the wire. 3 and 4 are for limits of their own: so many uses, so much raw.
const UNTIL: u8 = 1;
const REQUESTS: u8 = 2;
const USES: u8 = 3;
const RAW: u8 = 4;
const KEY: u8 = 5;

/// What a derived token may not do. All of a token's restrictions hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Restriction {
    /// The first second at which it is no longer valid.
    Until(UnixSeconds),
    /// It opens only requests that the pattern matches, letter case and trailing slash as written.
    Requests(Pattern),
    /// It opens only requests with a proof (DPoP, RFC 9449) of the key with this thumbprint.
    Key(Thumbprint),
}

/// The SHA-256 thumbprint of a public key (RFC 7638), on the wire in base64url: the `jkt` of RFC 9449.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Thumbprint(pub [u8; 32]);

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64_simd::URL_SAFE_NO_PAD.encode_to_string(self.0))
    }
}

/// The text is no thumbprint.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a thumbprint is SHA-256 in base64url, of 43 characters (RFC 7638)")]
pub struct ThumbprintError;

impl std::str::FromStr for Thumbprint {
    type Err = ThumbprintError;

    fn from_str(text: &str) -> Result<Self, ThumbprintError> {
        let mut bytes = [0; 32];
        let encoding = base64_simd::URL_SAFE_NO_PAD;
        if encoding.encoded_length(bytes.len()) != text.len() {
            return Err(ThumbprintError);
        }
        let decoded = encoding.decode(text.as_bytes(), base64_simd::Out::from_slice(&mut bytes));
        decoded.map(drop).map_err(|_| ThumbprintError)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Restriction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Until(end) => write!(f, "until {} (Unix seconds)", end.0),
            Self::Requests(pattern) => write!(f, "only {pattern}"),
            Self::Key(key) => write!(f, "only with a proof of the key {key}"),
        }
    }
}

/// Why no token can be derived.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DeriveError {
    #[error("it is no token of a capability")]
    NoToken,
    #[error("no restriction is named: the token would open all that the other one does")]
    NoRestriction,
    #[error("a token has at most {MAX_RESTRICTIONS} restrictions, of {MAX_RESTRICTION_BYTES} bytes together")]
    TooMany,
    #[error("a pattern in a token has at most 255 characters")]
    PatternTooLong,
}

/// A token that may do less than `token`, which is one that a payment bought or itself derived. It may be followed by
/// what it was sent with. The gateway is not asked, and does not learn of it before it is used.
///
/// # Errors
/// [`DeriveError`].
pub fn derive(token: &str, restrictions: &[Restriction]) -> Result<Token, DeriveError> {
    if restrictions.is_empty() {
        return Err(DeriveError::NoRestriction);
    }
    let mut space = [0; LONGEST];
    let bytes = bytes_in(token, &mut space).ok_or(DeriveError::NoToken)?;
    let parts = Parts::of(bytes).ok_or(DeriveError::NoToken)?;
    let mut derived = [parts.body, parts.steps].concat();
    let mut mac = parts.mac;
    for restriction in restrictions {
        let step = restriction.step()?;
        mac = chained(mac, STEP_DOMAIN, &step).finalize().into_bytes().into();
        derived.extend(step);
    }
    derived.extend(mac);
    // The limits are those of a reader.
    Parts::of(&derived).ok_or(DeriveError::TooMany)?;
    Ok(Token::of_bytes(&derived))
}

impl Restriction {
    /// It as JSON, for the holder of the token.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Until(end) => json!({ "until": end.0 }),
            Self::Requests(pattern) => json!({ "requests": pattern.as_str() }),
            Self::Key(key) => json!({ "key": key.to_string() }),
        }
    }

    /// It on the wire: its kind, the length of what follows, and that.
    fn step(&self) -> Result<Vec<u8>, DeriveError> {
        let (kind, value) = match self {
            Self::Until(end) => (UNTIL, end.0.to_be_bytes().to_vec()),
            Self::Requests(pattern) => (REQUESTS, pattern.as_str().as_bytes().to_vec()),
            Self::Key(Thumbprint(key)) => (KEY, key.to_vec()),
        };
        let length = u8::try_from(value.len()).map_err(|_| DeriveError::PatternTooLong)?;
        Ok([&[kind, length], value.as_slice()].concat())
    }

    fn read(step: &Step<'_>) -> Result<Self, Unreadable> {
        let Step { kind, value, .. } = *step;
        let wrong = || Unreadable::Value { kind, why: "it has not the length of its kind".to_owned() };
        match kind {
            UNTIL => {
                let end = value.try_into().map(u64::from_be_bytes).map_err(|_| wrong())?;
                Ok(Self::Until(UnixSeconds(end)))
            }
            REQUESTS => {
                let text = std::str::from_utf8(value)
                    .map_err(|_| Unreadable::Value { kind, why: "it is not UTF-8".to_owned() })?;
                let pattern = Pattern::parse(text)
                    .map_err(|why: PatternError| Unreadable::Value { kind, why: why.to_string() })?;
                Ok(Self::Requests(pattern))
            }
            KEY => Ok(Self::Key(Thumbprint(value.try_into().map_err(|_| wrong())?))),
            USES | RAW => Err(Unreadable::Limit),
            _ => Err(Unreadable::Kind(kind)),
        }
    }
}

/// Why a restriction cannot be read, so that the token opens nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unreadable {
    #[error("it has a restriction of kind {0}, which this gateway does not know")]
    Kind(u8),
    #[error("it has a limit of its own, on uses or raw, which this gateway does not keep")]
    Limit,
    #[error("its restriction of kind {kind} cannot be read: {why}")]
    Value { kind: u8, why: String },
}

/// Why a derived token does not open a request.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotOpened {
    #[error("this gateway knows no such capability: ask who gave you the token")]
    Unknown,
    #[error("the token was derived from another, and {0}: nothing was charged")]
    Unreadable(#[from] Unreadable),
    #[error("the token was derived from another and restricted to {0:?}: nothing was charged")]
    Elsewhere(String),
    #[error(
        "the token was derived from another and was valid until {0} (Unix seconds): nothing was charged; ask who gave it \
         to you for another"
    )]
    Late(u64),
    #[error("the token was derived from another and is bound to a key: {0}; nothing was charged")]
    Unproven(String),
    #[error("too many proofs of keys came lately: try again")]
    TooManyProofs,
}

impl NotOpened {
    /// The code on the wire; `None` if the same request may be tried again as it is.
    #[must_use]
    pub const fn refusal(&self) -> Option<Refusal> {
        Some(match self {
            Self::Unknown => Refusal::CapabilityUnknown,
            Self::Unreadable(_) => Refusal::MalformedPayload,
            Self::Elsewhere(_) => Refusal::WrongResource,
            Self::Late(_) => Refusal::CapabilityExpired,
            Self::Unproven(_) => Refusal::InvalidSignature,
            Self::TooManyProofs => return None,
        })
    }
}

/// A derived token that is real, made of one that this gateway issued. What it restricts is to be asked before it opens
/// anything.
#[derive(Debug)]
pub struct Derived {
    token: Token,
    claim: Claim,
    restrictions: Vec<Restriction>,
}

/// Whether a text may be a derived token. It is if [`recognise`] says so. One that a payment bought is shorter.
#[must_use]
pub fn may_be(presented: &str) -> bool {
    presented.as_bytes().get(TEXT_LENGTH).is_some_and(|it| !matches!(it, b';' | b' ' | b'\t'))
}

/// Verifies that a text is a token derived from one that was made with one of `keys`. Nothing is allocated for one that
/// is not.
///
/// # Errors
/// [`NotOpened::Unknown`], [`NotOpened::Unreadable`].
pub fn recognise(keys: &MacKeys, presented: &str) -> Result<Derived, NotOpened> {
    let mut space = [0; LONGEST];
    let bytes = bytes_in(presented, &mut space).ok_or(NotOpened::Unknown)?;
    let parts = Parts::of(bytes).filter(|it| !it.steps.is_empty()).ok_or(NotOpened::Unknown)?;
    let (version, body) = parts.body.split_at(1);
    let feed = |part: &mut dyn FnMut(&[u8])| part(body);
    let is_real = keys.macs_after(TOKEN_DOMAIN, version, &feed).any(|mac| parts.is_chained_to(mac));
    if !is_real {
        return Err(NotOpened::Unknown);
    }
    let restrictions = parts.steps().map(|it| Restriction::read(&it)).collect::<Result<_, _>>()?;
    Ok(Derived { token: Token::of_bytes(bytes), claim: Claim::read(body), restrictions })
}

impl Derived {
    /// What the token says of the capability that it spends from.
    #[must_use]
    pub const fn claim(&self) -> &Claim {
        &self.claim
    }

    /// The token, without what it was sent with.
    #[must_use]
    pub const fn token(&self) -> &Token {
        &self.token
    }

    /// In the order in which they were made.
    #[must_use]
    pub fn restrictions(&self) -> &[Restriction] {
        &self.restrictions
    }

    /// The first second at which it is no longer valid, by its restrictions and the token it was made of.
    #[must_use]
    pub fn expires_at(&self) -> UnixSeconds {
        let ends = self.restrictions.iter().filter_map(|it| match it {
            Restriction::Until(end) => Some(*end),
            Restriction::Requests(_) | Restriction::Key(_) => None,
        });
        ends.chain([self.claim.expires_at]).min().unwrap_or(self.claim.expires_at)
    }

    /// The keys of which a request must have a proof. If it is more than one, none can.
    pub fn keys(&self) -> impl Iterator<Item = Thumbprint> {
        self.restrictions.iter().filter_map(|it| match it {
            Restriction::Key(key) => Some(*key),
            Restriction::Until(_) | Restriction::Requests(_) => None,
        })
    }

    /// Whether it opens a request at `now`, as far as time, method and path say. Its keys are another matter.
    ///
    /// # Errors
    /// [`NotOpened::Elsewhere`], [`NotOpened::Late`].
    pub fn admits(&self, method: &str, target: &CanonicalTarget, now: UnixSeconds) -> Result<(), NotOpened> {
        self.restrictions.iter().try_for_each(|restriction| match restriction {
            Restriction::Until(end) if *end <= now => Err(NotOpened::Late(end.0)),
            Restriction::Requests(pattern) if !pattern.is_of(method, target) => {
                Err(NotOpened::Elsewhere(pattern.to_string()))
            }
            Restriction::Until(_) | Restriction::Requests(_) | Restriction::Key(_) => Ok(()),
        })
    }
}

/// What a token says, for its holder. Nobody has verified it.
#[derive(Debug)]
pub struct Inspected {
    pub claim: Claim,
    /// None of one that a payment bought.
    pub restrictions: Vec<Result<Restriction, Unreadable>>,
}

/// What a text says that is, or may be, a token; `None` if it has not the form of one.
#[must_use]
pub fn inspect(token: &str) -> Option<Inspected> {
    let mut space = [0; LONGEST];
    let parts = Parts::of(bytes_in(token, &mut space)?)?;
    let (_version, body) = parts.body.split_at(1);
    let restrictions = parts.steps().map(|it| Restriction::read(&it)).collect();
    Some(Inspected { claim: Claim::read(body), restrictions })
}

/// The parts of a token, bought or derived.
struct Parts<'a> {
    body: &'a [u8],
    steps: &'a [u8],
    mac: [u8; MAC],
}

/// One restriction on the wire.
#[derive(Clone, Copy)]
struct Step<'a> {
    kind: u8,
    value: &'a [u8],
    /// All of it.
    bytes: &'a [u8],
}

impl<'a> Parts<'a> {
    /// `None` if the bytes do not have the form of a token.
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let (rest, mac) = bytes.split_last_chunk::<MAC>()?;
        let (body, steps) = rest.split_at_checked(BODY)?;
        let parts = Self { body, steps, mac: *mac };
        let (count, read) = parts.steps().fold((0_usize, 0_usize), |(count, read), step| {
            (count.saturating_add(1), read.saturating_add(step.bytes.len()))
        });
        let is_whole = read == steps.len() && count <= MAX_RESTRICTIONS && read <= MAX_RESTRICTION_BYTES;
        (body.first() == Some(&VERSION) && is_whole).then_some(parts)
    }

    /// Ends before what is no whole one.
    fn steps(&self) -> impl Iterator<Item = Step<'a>> + use<'a> {
        let mut rest = self.steps;
        std::iter::from_fn(move || {
            let (kind, length) = (*rest.first()?, usize::from(*rest.get(1)?));
            let (bytes, after) = rest.split_at_checked(length.saturating_add(2))?;
            rest = after;
            Some(Step { kind, value: bytes.get(2..)?, bytes })
        })
    }

    /// Whether the MAC ends the chain that begins with `mac`. Takes the same time for every wrong one.
    fn is_chained_to(&self, mac: [u8; MAC]) -> bool {
        let mut steps = self.steps();
        let Some(first) = steps.next() else { return false };
        let last = steps.fold(chained(mac, STEP_DOMAIN, first.bytes), |link, step| {
            chained(link.finalize().into_bytes().into(), STEP_DOMAIN, step.bytes)
        });
        last.verify_slice(&self.mac).is_ok()
    }
}

/// The bytes of a token's text; `None` if it is longer than one, or no base64.
fn bytes_in<'s>(presented: &str, space: &'s mut [u8; LONGEST]) -> Option<&'s [u8]> {
    let text = capability::bare(presented).as_bytes();
    let encoding = base64_simd::URL_SAFE_NO_PAD;
    if encoding.encoded_length(LONGEST) < text.len() {
        return None;
    }
    let bytes = encoding.decode(text, base64_simd::Out::from_slice(space)).ok()?;
    Some(bytes)
}
