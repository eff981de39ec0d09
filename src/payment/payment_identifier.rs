//! Payment identifiers: an id that a client chose stands for one payment and one request.
//!
//! The first payment with an id holds it. The id is stored as a hash, so that it has a fixed length
//! and cannot be read in the store. The request is stored as a digest: the same id with another
//! request is a conflict (x402, `payment-identifier`;
//! [protocol guide](crate::guide::protocol), "Extensions and neighbours").

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest};

use crate::nano::hex_text;
use crate::routes::RouteName;

/// The hash of an id that a client chose.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct IdentifierKey(pub [u8; 32]);

hex_text!(IdentifierKey, 32);

/// The digest of those parts of a request that determine the answer.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct RequestDigest(pub [u8; 32]);

hex_text!(RequestDigest, 32);

/// An id, and the request that it came with.
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
    /// values of the headers that change its meaning (empty if missing), its host if that decides the
    /// price, and its body.
    #[must_use]
    pub fn of(route: &RouteName, method: &str, target: &str, headers: &[&[u8]], body: &[u8]) -> Self {
        let mut hash = Blake2b::<U32>::new();
        hash.update(REQUEST_DOMAIN);
        let mut part = |bytes: &[u8]| {
            // The length comes first, so that two different lists of parts never give the same bytes.
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
