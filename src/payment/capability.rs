//! Capabilities, which payments are redeemed into, and their tokens.
//!
//! A token contains the id of its capability, the route, the number of uses and the expiry, with a MAC
//! ([protocol guide](crate::guide::protocol), "Capability"). Every instance that has the key can verify
//! a token without a look-up. The store knows how many uses are left.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};

use super::Refusal;
use super::key::MacKeys;
use crate::nano::{BlockHash, UnixSeconds};
use crate::routes::RouteName;

/// The public name of a capability: the first 16 bytes of the hash of its payment. A payment gives the
/// same capability however often it is redeemed, and under whichever key. The name is not secret.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CapabilityId(pub [u8; 16]);

impl CapabilityId {
    /// The capability that `block` pays for.
    #[must_use]
    pub fn of_payment(block: BlockHash) -> Self {
        let (head, _) = block.0.split_at(16);
        let mut id = [0; 16];
        id.copy_from_slice(head);
        Self(id)
    }
}

impl fmt::Display for CapabilityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The content of a token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Capability {
    pub id: CapabilityId,
    pub route: RouteName,
    /// The number of uses that were bought.
    pub uses: u32,
    /// The first second at which it is no longer valid.
    pub expires_at: UnixSeconds,
}

/// The text that a client holds. Prints as `****`, since it is worth money.
#[derive(Clone, Eq, PartialEq)]
pub struct Token(String);

const TOKEN_DOMAIN: &[u8; 16] = b"faregate token 1";
const VERSION: u8 = 1;
/// Version, id, route tag, uses, expiry.
const BODY: usize = 1 + 16 + 8 + 4 + 8;
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
        let mac = keys.mac(TOKEN_DOMAIN, |part| part(&bytes));
        bytes.extend(mac);
        Self(URL_SAFE_NO_PAD.encode(bytes))
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
    let text = presented.split(';').next().unwrap_or_default().trim();
    let mut bytes = [0; LENGTH];
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).map_err(|_| Refusal::CapabilityUnknown)?;
    if length != LENGTH {
        return Err(Refusal::CapabilityUnknown);
    }
    let (body, mac) = bytes.split_at(BODY);
    if !keys.verify(TOKEN_DOMAIN, mac, |part| part(body)) {
        return Err(Refusal::CapabilityUnknown);
    }
    let mut fields = Fields(body);
    let version = fields.take::<1>();
    let (id, tag) = (CapabilityId(fields.take()), fields.take::<8>());
    let (uses, expires_at) =
        (u32::from_be_bytes(fields.take()), UnixSeconds(u64::from_be_bytes(fields.take())));
    if version != [VERSION] {
        return Err(Refusal::CapabilityUnknown);
    }
    if tag != route_tag(route) {
        return Err(Refusal::WrongResource);
    }
    if expires_at <= now {
        return Err(Refusal::CapabilityExpired);
    }
    Ok(Capability { id, route: route.clone(), uses, expires_at })
}

/// The id in a token that is not of the route it is presented on. It counts only if [`recognise`] has found
/// the token to be real.
#[must_use]
pub fn id_in(presented: &str) -> Option<CapabilityId> {
    let text = presented.split(';').next().unwrap_or_default().trim();
    let mut bytes = [0; LENGTH];
    URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    let mut fields = Fields(&bytes);
    let [_version] = fields.take();
    Some(CapabilityId(fields.take()))
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
