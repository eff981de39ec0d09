//! What a client's payment identifier stands for: one payment, and one request.
//!
//! The first payment under an id holds it; the id is kept as a hash, so that it has one length and
//! the store does not show it. The request is kept as a digest: the same id with another request is
//! a conflict (x402, `payment-identifier`; PROTOCOL section 7).

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest};

use crate::nano::hex_text;
use crate::routes::RouteName;

/// The hash of an id that a client chose.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct IdentifierKey(pub [u8; 32]);

hex_text!(IdentifierKey, 32);

/// The digest of a request, as far as it decides on the answer.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct RequestDigest(pub [u8; 32]);

hex_text!(RequestDigest, 32);

/// An id and the request that it came with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IdentifiedRequest {
    pub id: IdentifierKey,
    pub request: RequestDigest,
}

const ID_DOMAIN: &[u8] = b"faregate payment identifier 1";
const REQUEST_DOMAIN: &[u8] = b"faregate identified request 1";

impl IdentifierKey {
    /// The hash of `id`.
    #[must_use]
    pub fn of(id: &str) -> Self {
        let mut hash = Blake2b::<U32>::new();
        hash.update(ID_DOMAIN);
        hash.update(id);
        Self(hash.finalize().into())
    }
}

impl RequestDigest {
    /// The digest of a request on `route`: its method, its canonical target with the query, the
    /// values of the headers that say what it means (an empty one where it has none), its body.
    #[must_use]
    pub fn of(route: &RouteName, method: &str, target: &str, headers: &[&[u8]], body: &[u8]) -> Self {
        let mut hash = Blake2b::<U32>::new();
        hash.update(REQUEST_DOMAIN);
        let mut part = |bytes: &[u8]| {
            // With its length, so that no two lists of parts run into the same bytes.
            hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(bytes);
        };
        part(route.as_str().as_bytes());
        part(method.as_bytes());
        part(target.as_bytes());
        headers.iter().for_each(|value| part(value));
        part(body);
        Self(hash.finalize().into())
    }
}
