//! The keys for the MACs of challenges and tokens.

use std::fmt;

use blake2::Blake2bMac;
use blake2::digest::Mac;
use blake2::digest::consts::U16;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A 32-byte key that all instances of one gateway share. Prints as `****`; its memory is wiped when
/// it is dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MacKey([u8; 32]);

impl MacKey {
    /// The key with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the file that stores them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// BLAKE2b-128 with this key. `domain` is BLAKE2's personalisation, so that a MAC for one purpose
    /// is not valid for another.
    fn start(&self, domain: &[u8; 16]) -> Blake2bMac<U16> {
        #[expect(
            clippy::expect_used,
            reason = "BLAKE2b takes keys of up to 64 bytes and 16 of personalisation"
        )]
        Blake2bMac::new_with_salt_and_personal(Some(&self.0), &[], domain).expect("lengths are constant")
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(****)")
    }
}

/// The active key and, while keys are rotated, the previous one, with which older MACs are still
/// verified.
#[derive(Clone, Debug)]
pub struct MacKeys {
    active: MacKey,
    previous: Option<MacKey>,
}

/// Calls the function that it is given with each part of the authenticated bytes, in order.
type Feed<'a> = dyn Fn(&mut dyn FnMut(&[u8])) + 'a;

impl MacKeys {
    #[must_use]
    pub const fn new(active: MacKey, previous: Option<MacKey>) -> Self {
        Self { active, previous }
    }

    /// The MAC with the active key over the parts that `feed` gives.
    pub(super) fn mac(&self, domain: &[u8; 16], feed: impl Fn(&mut dyn FnMut(&[u8]))) -> [u8; 16] {
        compute(&self.active, domain, &feed).finalize().into_bytes().into()
    }

    /// Whether `mac` is the MAC of one of the keys over the parts that `feed` gives. Takes the same time
    /// for every wrong `mac`.
    pub(super) fn verify(&self, domain: &[u8; 16], mac: &[u8], feed: impl Fn(&mut dyn FnMut(&[u8]))) -> bool {
        std::iter::once(&self.active)
            .chain(&self.previous)
            .any(|key| compute(key, domain, &feed).verify_slice(mac).is_ok())
    }
}

fn compute(key: &MacKey, domain: &[u8; 16], feed: &Feed<'_>) -> Blake2bMac<U16> {
    let mut mac = key.start(domain);
    feed(&mut |part| Mac::update(&mut mac, part));
    mac
}
