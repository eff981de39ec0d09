//! The proofs of keys that were shown lately: each is good for one request.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::nano::UnixSeconds;
use crate::payment::capability::CapabilityId;
use crate::sync::{Mutex, PoisonError};

/// Proofs that are remembered at once, and of one capability. With that many, new ones are turned away: to forget one
/// would make it good again.
const MOST: usize = 131_072;
const MOST_OF_ONE: usize = 16_384;

/// Why a proof opens nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NotNew {
    /// It was shown before.
    Used,
    /// Too many are remembered.
    Full,
}

/// All that are remembered. Locked for a few look-ups, never across an await.
#[derive(Debug, Default)]
pub(super) struct UsedProofs(Mutex<Used>);

#[derive(Debug, Default)]
struct Used {
    ids: HashSet<[u8; 16]>,
    /// What can be forgotten after a second.
    until: BTreeMap<UnixSeconds, Vec<([u8; 16], CapabilityId)>>,
    counts: HashMap<CapabilityId, usize>,
}

impl UsedProofs {
    /// Remembers a proof that holds `until` then, shown for a token of `capability`.
    pub(super) fn remember(
        &self,
        id: [u8; 16],
        capability: CapabilityId,
        until: UnixSeconds,
        now: UnixSeconds,
    ) -> Result<(), NotNew> {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        used.forget_before(now);
        if used.ids.contains(&id) {
            return Err(NotNew::Used);
        }
        let count = used.counts.get(&capability).copied().unwrap_or_default();
        if used.ids.len() >= MOST || count >= MOST_OF_ONE {
            return Err(NotNew::Full);
        }
        used.counts.insert(capability, count.saturating_add(1));
        used.ids.insert(id);
        used.until.entry(until).or_default().push((id, capability));
        Ok(())
    }
}

impl Used {
    fn forget_before(&mut self, now: UnixSeconds) {
        while let Some(first) = self.until.first_entry().filter(|it| *it.key() < now) {
            for (id, capability) in first.remove() {
                self.ids.remove(&id);
                if let Some(count) = self.counts.get_mut(&capability) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        self.counts.remove(&capability);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1000);

    fn id(number: usize) -> [u8; 16] {
        u128::try_from(number).unwrap().to_be_bytes()
    }

    #[test]
    fn a_proof_is_good_once_and_forgotten_when_it_holds_no_more() {
        let (used, one) = (UsedProofs::default(), CapabilityId([1; 16]));
        let until = NOW.plus(60);
        assert_eq!(used.remember(id(1), one, until, NOW), Ok(()));
        for now in [NOW, until] {
            assert_eq!(used.remember(id(1), one, until, now), Err(NotNew::Used));
        }
        assert_eq!(used.remember(id(2), one, until.plus(1), until), Ok(()));
        let used = {
            assert_eq!(used.remember(id(3), one, until.plus(9), until.plus(1)), Ok(()));
            used.0.into_inner().unwrap()
        };
        assert_eq!((used.ids.len(), used.until.len(), used.counts.get(&one)), (2, 2, Some(&2)));
    }

    #[test]
    fn one_capability_has_its_share_and_nothing_is_forgotten_for_room() {
        let used = UsedProofs::default();
        let (mut number, until) = (0, NOW.plus(60));
        let mut fill = |owner: u8, count: usize| {
            (0..count)
                .map(|_| {
                    number += 1;
                    used.remember(id(number), CapabilityId([owner; 16]), until, NOW)
                })
                .filter(Result::is_ok)
                .count()
        };
        assert_eq!(fill(1, MOST_OF_ONE + 1), MOST_OF_ONE, "its share");
        assert_eq!(fill(2, 1), 1, "another one's");
        let others: usize = (3..=10).map(|owner| fill(owner, MOST_OF_ONE)).sum();
        assert_eq!(others, MOST - MOST_OF_ONE - 1, "all there is");
        assert_eq!(used.remember(id(1), CapabilityId([1; 16]), until, NOW), Err(NotNew::Used));
        assert_eq!(used.remember(id(0), CapabilityId([99; 16]), until, NOW), Err(NotNew::Full));
        assert_eq!(used.remember(id(0), CapabilityId([99; 16]), until, until.plus(1)), Ok(()));
    }
}
