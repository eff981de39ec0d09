//! The keys for the MACs of challenges and tokens.

use std::fmt;
use std::sync::OnceLock;

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
    /// For challenges and for tokens.
    begun: [OnceLock<Begun>; 2],
}

/// A MAC with the active key that has begun: what all that are computed begin with is read already. Its
/// memory is wiped when it is dropped.
#[derive(Clone)]
struct Begun {
    domain: [u8; 16],
    first: Box<[u8]>,
    mac: Blake2bMac<U16>,
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Begun(****)")
    }
}

/// Calls the function that it is given with each part of the authenticated bytes, in order.
pub(super) type Feed<'a> = dyn Fn(&mut dyn FnMut(&[u8])) + 'a;

impl MacKeys {
    #[must_use]
    pub const fn new(active: MacKey, previous: Option<MacKey>) -> Self {
        Self { active, previous, begun: [const { OnceLock::new() }; 2] }
    }

    /// The MAC with the active key over `first` and the parts that `feed` gives. What the first calls for two purposes
    /// begin with is remembered, so that it and the key are read once.
    pub(super) fn mac_after(
        &self,
        domain: &[u8; 16],
        first: &[u8],
        feed: impl Fn(&mut dyn FnMut(&[u8])),
    ) -> [u8; 16] {
        self.continued(domain, first, &feed).finalize().into_bytes().into()
    }

    /// Whether `mac` is the MAC of one of the keys over the parts that `feed` gives. Takes the same time
    /// for every wrong `mac`.
    pub(super) fn verify(&self, domain: &[u8; 16], mac: &[u8], feed: impl Fn(&mut dyn FnMut(&[u8]))) -> bool {
        std::iter::once(&self.active)
            .chain(&self.previous)
            .any(|key| compute(key, domain, &feed).verify_slice(mac).is_ok())
    }

    /// As [`MacKeys::verify`], over `first` and the parts that `feed` gives, and as [`MacKeys::mac_after`].
    pub(super) fn verify_after(
        &self,
        domain: &[u8; 16],
        first: &[u8],
        mac: &[u8],
        feed: impl Fn(&mut dyn FnMut(&[u8])),
    ) -> bool {
        self.continued(domain, first, &feed).verify_slice(mac).is_ok()
            || self
                .previous
                .as_ref()
                .is_some_and(|key| after(key, domain, first, &feed).verify_slice(mac).is_ok())
    }

    /// The MACs of all keys over `first` and the parts that `feed` gives, as [`MacKeys::mac_after`].
    pub(super) fn macs_after<'a>(
        &'a self,
        domain: &'a [u8; 16],
        first: &'a [u8],
        feed: &'a Feed<'_>,
    ) -> impl Iterator<Item = [u8; 16]> + 'a {
        let active = std::iter::once_with(move || self.continued(domain, first, feed));
        let previous = self.previous.iter().map(move |key| after(key, domain, first, feed));
        active.chain(previous).map(|mac| mac.finalize().into_bytes().into())
    }

    fn continued(&self, domain: &[u8; 16], first: &[u8], feed: &Feed<'_>) -> Blake2bMac<U16> {
        let mut places = self.begun.iter().map(|it| {
            it.get_or_init(|| Begun {
                domain: *domain,
                first: first.into(),
                mac: after(&self.active, domain, first, &|_| {}),
            })
        });
        let Some(begun) = places.find(|it| it.domain == *domain && *it.first == *first) else {
            return after(&self.active, domain, first, feed);
        };
        let mut mac = begun.mac.clone();
        feed(&mut |part| Mac::update(&mut mac, part));
        mac
    }
}

/// A MAC whose key is another MAC: over `domain` and `part`, one behind the other.
pub(super) fn chained(mac: [u8; 16], domain: &[u8], part: &[u8]) -> Blake2bMac<U16> {
    #[expect(clippy::expect_used, reason = "BLAKE2b takes keys of up to 64 bytes")]
    let mut next =
        Blake2bMac::new_with_salt_and_personal(Some(&mac), &[], &[]).expect("the length is constant");
    Mac::update(&mut next, domain);
    Mac::update(&mut next, part);
    next
}

fn after(key: &MacKey, domain: &[u8; 16], first: &[u8], feed: &Feed<'_>) -> Blake2bMac<U16> {
    compute(key, domain, &|part| {
        part(first);
        feed(part);
    })
}

fn compute(key: &MacKey, domain: &[u8; 16], feed: &Feed<'_>) -> Blake2bMac<U16> {
    let mut mac = key.start(domain);
    feed(&mut |part| Mac::update(&mut mac, part));
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_the_same_whether_its_beginning_was_read_before_or_not() {
        let keys = MacKeys::new(MacKey::from_bytes([1; 32]), None);
        let whole = |domain: &[u8; 16], first: &[u8; 32], rest: &[u8]| {
            keys.mac_after(domain, &[], |part| {
                part(first);
                part(rest);
            })
        };
        for domain in [b"faregate chall 2", b"faregate another"] {
            for first in [[2; 32], [3; 32]] {
                for rest in [&b""[..], b"rest", &[7; 200]] {
                    let after = keys.mac_after(domain, &first, |part| part(rest));
                    assert_eq!(after, whole(domain, &first, rest));
                    assert_eq!(keys.clone().mac_after(domain, &first, |part| part(rest)), after);
                    assert!(keys.verify_after(domain, &first, &after, |part| part(rest)));
                    assert!(!keys.verify_after(domain, &first, &[0; 16], |part| part(rest)));
                    let rotated = MacKeys::new(MacKey::from_bytes([9; 32]), Some(keys.active.clone()));
                    assert!(rotated.verify_after(domain, &first, &after, |part| part(rest)));
                    assert_ne!(rotated.mac_after(domain, &first, |part| part(rest)), after);
                }
            }
        }
    }
}
