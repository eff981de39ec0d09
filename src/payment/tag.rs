//! The tag of a `nanoSession`: what a session's amount adds to the price, so that its payment is told
//! from others.
//!
//! A session is a challenge like the others, known by its MAC and remembered by nobody, so that it
//! holds for every instance with the key and over a restart, and none can be filled up. Its amount
//! is the price and a tag, which is a hash of the identifier: 64 bits, at most 2·10^-11 XNO. Two
//! sessions on one address ask for the same amount with a chance of 2^-64, whoever mints them: a
//! million active on one address have any two alike with 3·10^-8. A registry could rule that out and
//! would be worse: finite, to be filled by whoever asks for bills, and one for each instance.
//!
//! Two alike are no harm between honest payers, for a payment is known by its block and not by its
//! amount. They are what a thief needs, who sees the block on the ledger and never the session that
//! it was sent for: he has to hold a session of the same address, route and amount. With 10^9 of
//! his own on that one address against a thousand blocks that are not redeemed yet, that is 5·10^-8.

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};

use super::Nonce;
use crate::nano::Raw;

/// For how long after its end a session is still redeemed, in seconds. Others who come late sign
/// their block again for a fresh challenge; a block with a tag fits no session but its own, and
/// refused it would be lost. Revision 5 (section 4.3) would refuse it; what is at stake is only that
/// a price of up to an hour ago is still taken.
pub const GRACE: u64 = 3600;

/// What the session named by `nonce` asks for beside the price.
#[must_use]
pub fn tag_amount(nonce: Nonce) -> Raw {
    let mut hash = Blake2b::<U8>::new();
    // The identifier cannot be found from the tag, which the whole world sees.
    hash.update(b"faregate nanoSession tag");
    hash.update(nonce.0);
    Raw::new(u128::from(u64::from_be_bytes(hash.finalize().into())))
}

/// What is to be sent for `price` in the session named by `nonce`. No price that can be paid is so
/// high that the two do not add up.
#[must_use]
pub fn due(nonce: Nonce, price: Raw) -> Raw {
    price.checked_add(tag_amount(nonce)).unwrap_or(Raw::MAX)
}
