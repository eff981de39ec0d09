//! Capabilities, which payments are redeemed into, and their tokens.
//!
//! A token contains the id of its capability, the route, the number of uses and the expiry, with a MAC
//! ([protocol guide](crate::guide::protocol), "Capability"). Every instance that has the key can verify
//! a token without a look-up. The store knows how many uses are left.

use std::fmt;

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};
use bytes::Bytes;

pub use super::capability_id::CapabilityId;
use super::key::MacKeys;
use super::{Purchase, Refusal};
use crate::nano::UnixSeconds;
use crate::routes::RouteName;

/// The content of a token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Capability {
    pub id: CapabilityId,
    pub route: RouteName,
    /// The number of uses that were bought; 0 for a purse.
    pub uses: u32,
    /// The first second at which it is no longer valid.
    pub expires_at: UnixSeconds,
}

/// What a token says of its capability, whether it is real or not. It names no route, but a digest of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Claim {
    pub id: CapabilityId,
    route: [u8; 8],
    /// The number of uses that were bought; 0 for a purse.
    pub uses: u32,
    /// The first second at which it is no longer valid.
    pub expires_at: UnixSeconds,
}

impl Claim {
    /// Reads the body of a token, without its version.
    pub(super) fn read(body: &[u8]) -> Self {
        let mut fields = Fields(body);
        let (id, route) = (CapabilityId(fields.take()), fields.take());
        let (uses, expires_at) =
            (u32::from_be_bytes(fields.take()), UnixSeconds(u64::from_be_bytes(fields.take())));
        Self { id, route, uses, expires_at }
    }

    /// Whether the capability was bought for `route`.
    #[must_use]
    pub fn is_for(&self, route: &RouteName) -> bool {
        self.route == route_tag(route)
    }
}

/// The text that a client holds. Prints as `****`, since it is worth money.
#[derive(Clone, Eq, PartialEq)]
pub struct Token(String);

pub(super) const TOKEN_DOMAIN: &[u8; 16] = b"faregate token 1";
pub(super) const VERSION: u8 = 1;
/// Version, id, route tag, uses, expiry.
pub(super) const BODY: usize = 1 + 16 + 8 + 4 + 8;
const LENGTH: usize = BODY + 16;

impl Token {
    /// The token of `capability`.
    #[must_use]
    pub fn issue(keys: &MacKeys, capability: &Capability) -> Self {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.push(VERSION);
        bytes.extend(capability.id.0);
        bytes.extend(route_tag(&capability.route));
        bytes.extend(capability.uses.to_be_bytes());
        bytes.extend(capability.expires_at.0.to_be_bytes());
        let mac = keys.mac_after(TOKEN_DOMAIN, &[VERSION], |part| part(bytes.get(1..).unwrap_or_default()));
        bytes.extend(mac);
        Self::of_bytes(&bytes)
    }

    /// The token that these bytes are.
    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        Self(base64_simd::URL_SAFE_NO_PAD.encode_to_string(bytes))
    }

    /// The text. Send it only to the client that paid.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(****)")
    }
}

/// What is said of a capability with each request that it opens: its token, and the payment that bought it.
/// Written once, into one piece of memory. Prints as `****`.
#[derive(Clone)]
pub struct CapabilityText {
    /// The first second at which the token is no longer valid if that is before its capability's, the length of the
    /// amount, payer, block, amount and token, one behind the other.
    text: Bytes,
}

/// Where the length of the amount is.
const AMOUNT_LENGTH: usize = 8;
const PAYER: usize = AMOUNT_LENGTH + 1;
/// Where the block begins: after `nano_` and the 60 characters of an account.
const BLOCK: usize = PAYER + 65;
/// Where the amount begins: after the 64 digits of a hash.
const AMOUNT: usize = BLOCK + 64;

/// The length of a token that a payment buys: [`LENGTH`] bytes in base64 without padding.
pub(super) const TEXT_LENGTH: usize = (LENGTH * 4).div_ceil(3);

impl CapabilityText {
    /// The text of a capability that has this `token` and was bought by `purchase`.
    #[must_use]
    pub fn new(token: &Token, purchase: &Purchase) -> Self {
        let (payer, block, amount) =
            (purchase.payer.to_string(), purchase.block.to_string(), purchase.amount.to_string());
        // Of 39 digits at most.
        let length = [u8::try_from(amount.len()).unwrap_or_default()];
        let until = u64::MAX.to_be_bytes();
        let parts = [payer.as_bytes(), block.as_bytes(), amount.as_bytes(), token.expose().as_bytes()];
        Self { text: [&until[..], &length, &parts.concat()].concat().into() }
    }

    /// The same of another `token` for the capability, which is valid `until` then at most.
    #[must_use]
    pub fn by(&self, token: &Token, until: UnixSeconds) -> Self {
        let same = self.text.get(AMOUNT_LENGTH..self.token_at()).unwrap_or_default();
        Self { text: [&until.0.to_be_bytes(), same, token.expose().as_bytes()].concat().into() }
    }

    /// Whether a client presents this token, with or without the `; remaining=…` that it was sent with.
    /// Every wrong token of the right length takes the same time.
    #[must_use]
    pub fn is_presented(&self, presented: &str) -> bool {
        let text = bare(presented).as_bytes();
        let (_, token) = self.text.split_at(self.token_at());
        let differing = token.iter().zip(text).fold(0, |all, (own, other)| all | (own ^ other));
        token.len() == text.len() && std::hint::black_box(differing) == 0
    }

    /// The token. Send it only to the client that presented it, or that paid.
    #[must_use]
    pub fn token(&self) -> Bytes {
        self.text.slice(self.token_at()..)
    }

    /// The first second at which the token is no longer valid, of a capability that ends at `expires_at`.
    #[must_use]
    pub fn valid_until(&self, expires_at: UnixSeconds) -> UnixSeconds {
        let until = self.text.first_chunk().map_or(u64::MAX, |it| u64::from_be_bytes(*it));
        expires_at.min(UnixSeconds(until))
    }

    /// The account that paid.
    #[must_use]
    pub fn payer(&self) -> Bytes {
        self.text.slice(PAYER..BLOCK)
    }

    /// The hash of the payment's block.
    #[must_use]
    pub fn block(&self) -> Bytes {
        self.text.slice(BLOCK..AMOUNT)
    }

    /// What was paid, in raw.
    #[must_use]
    pub fn amount(&self) -> Bytes {
        self.text.slice(AMOUNT..self.token_at())
    }

    fn token_at(&self) -> usize {
        let length = self.text.get(AMOUNT_LENGTH).copied().unwrap_or_default();
        AMOUNT.saturating_add(usize::from(length))
    }
}

impl fmt::Debug for CapabilityText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CapabilityText(****)")
    }
}

/// A token as presented, without what was sent after it.
pub(super) fn bare(presented: &str) -> &str {
    let end = memchr::memchr(b';', presented.as_bytes()).unwrap_or(presented.len());
    presented.get(..end).unwrap_or_default().trim()
}

/// Verifies a token that a client presents for `route` at `now`. The token may be followed by the
/// `; remaining=…` that it was sent with.
///
/// # Errors
/// [`Refusal::CapabilityUnknown`] for a text that was not made with one of `keys`,
/// [`Refusal::WrongResource`] for the token of another route, [`Refusal::CapabilityExpired`] for an
/// expired one.
pub fn recognise(
    keys: &MacKeys,
    presented: &str,
    route: &RouteName,
    now: UnixSeconds,
) -> Result<Capability, Refusal> {
    let claim = claim_in(keys, presented).ok_or(Refusal::CapabilityUnknown)?;
    if !claim.is_for(route) {
        return Err(Refusal::WrongResource);
    }
    let Claim { id, uses, expires_at, .. } = claim;
    if expires_at <= now {
        return Err(Refusal::CapabilityExpired);
    }
    Ok(Capability { id, route: route.clone(), uses, expires_at })
}

/// What a token says that a payment bought; `None` for a text that was not made with one of `keys`.
#[must_use]
pub fn claim_in(keys: &MacKeys, presented: &str) -> Option<Claim> {
    let bytes = bytes_in(presented)?;
    let (body, mac) = bytes.split_at(BODY);
    let (version, body) = body.split_at(1);
    let is_real = version == [VERSION] && keys.verify_after(TOKEN_DOMAIN, version, mac, |part| part(body));
    is_real.then(|| Claim::read(body))
}

/// The capability of a token that was made with one of `keys`, for whatever route and however old. `None` for any
/// other text.
#[must_use]
pub fn holder_of(keys: &MacKeys, presented: &str) -> Option<CapabilityId> {
    claim_in(keys, presented).map(|it| it.id)
}

/// The id that a token claims. It counts only if the token is found to be real: by [`recognise`], or because
/// it is the very text of a capability that was recognised before ([`CapabilityText::is_presented`]).
#[must_use]
pub fn id_in(presented: &str) -> Option<CapabilityId> {
    let bytes = bytes_in(presented)?;
    let mut fields = Fields(&bytes);
    let [_version] = fields.take();
    Some(CapabilityId(fields.take()))
}

/// The bytes of a token's text; `None` if it is not as long as one, or no base64.
fn bytes_in(presented: &str) -> Option<[u8; LENGTH]> {
    let text = bare(presented).as_bytes();
    let mut bytes = [0; LENGTH];
    let encoding = base64_simd::URL_SAFE_NO_PAD;
    if encoding.encoded_length(LENGTH) != text.len() {
        return None;
    }
    encoding.decode(text, base64_simd::Out::from_slice(&mut bytes)).ok()?;
    Some(bytes)
}

/// The bytes of a token that are not read yet; their length was checked before.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk() else { return [0; N] };
        self.0 = rest;
        *field
    }
}

/// A short digest of the name of a route. The MAC covers it.
fn route_tag(route: &RouteName) -> [u8; 8] {
    Blake2b::<U8>::digest(route.as_str()).into()
}
