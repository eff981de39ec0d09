//! The keys that challenges and capabilities are made with.

use std::fmt;

use blake2::Blake2bMac;
use blake2::digest::Mac;
use blake2::digest::consts::U16;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A 32-byte key that every instance of one gateway shares. Prints as `****` and is wiped when
/// dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MacKey([u8; 32]);

impl MacKey {
    /// The key with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the file they are kept in.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// BLAKE2b-128 keyed with this key. `domain` goes in as BLAKE2's personalisation, so that what
    /// is computed for one purpose means nothing for another.
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

/// The key in use and, while keys are rotated, the one before it, which still recognises what it
/// made.
#[derive(Clone, Debug)]
pub struct MacKeys {
    active: MacKey,
    previous: Option<MacKey>,
}

/// Feeds the parts of what is authenticated, in order, to the function it is given.
type Feed<'a> = dyn Fn(&mut dyn FnMut(&[u8])) + 'a;

impl MacKeys {
    #[must_use]
    pub const fn new(active: MacKey, previous: Option<MacKey>) -> Self {
        Self { active, previous }
    }

    /// The active key's MAC over what `feed` feeds.
    pub(super) fn mac(&self, domain: &[u8; 16], feed: impl Fn(&mut dyn FnMut(&[u8]))) -> [u8; 16] {
        compute(&self.active, domain, &feed).finalize().into_bytes().into()
    }

    /// Whether an active key made `mac` over what `feed` feeds. Takes the same time for every
    /// wrong `mac`.
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
