//! The tag of a `nanoSession`: the amount that a session adds to the price to identify its payment.
//!
//! A session is a challenge like the others: it is verified by its MAC and never stored. So it is valid
//! for every instance that has the key and after a restart, and there is no table to fill up. Its
//! amount is the price plus a tag, which is a hash of the identifier: 64 bits, at most 2·10^-11 XNO. Two
//! sessions on one address have the same amount with probability 2^-64. Among a million active sessions
//! on one address, any two have the same amount with probability 3·10^-8. A registry could rule this
//! out, but it would be limited, anyone could fill it by asking for bills, and each instance would need
//! one.
//!
//! Two equal amounts do no harm between honest payers, since the block identifies a payment, not the
//! amount. A thief sees the block on the ledger but never the session that it was sent for. To steal it,
//! the thief needs a session with the same address, route and amount. With 10^9 sessions on that
//! address and a thousand blocks that are not redeemed yet, the probability is 5·10^-8.

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};

use super::Nonce;
use crate::nano::Raw;

/// How long after its end a session is still redeemed, in seconds. With other mechanisms a late client
/// signs its block again for a new challenge. A block with a tag fits only its own session, so if it
/// were refused it would be lost. Revision 5 (section 4.3) would refuse it. The only cost is that a
/// price of up to an hour ago is still accepted.
pub const GRACE: u64 = 3600;

/// The amount that the session of `nonce` adds to the price.
#[must_use]
pub fn tag_amount(nonce: Nonce) -> Raw {
    let mut hash = Blake2b::<U8>::new();
    // The tag is public. The identifier cannot be computed from it.
    hash.update(b"faregate nanoSession tag");
    hash.update(nonce.0);
    Raw::new(u128::from(u64::from_be_bytes(hash.finalize().into())))
}

/// The amount to send for `price` in the session of `nonce`. The sum does not overflow for any price
/// that can be paid.
#[must_use]
pub fn due(nonce: Nonce, price: Raw) -> Raw {
    price.checked_add(tag_amount(nonce)).unwrap_or(Raw::MAX)
}
