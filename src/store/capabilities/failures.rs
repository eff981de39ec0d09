//! How failures of the upstream are rationed in time. A failure costs the payer no use, so nothing else
//! would keep a client from causing them without end.
//!
//! Counted for each capability, in the memory of one instance.

use std::num::NonZeroU64;

use crate::nano::UnixSeconds;

/// Failures in a row after which the upstream is left alone for a while.
const PATIENCE: u32 = 5;
/// The longest pause, in seconds.
const LONGEST_PAUSE: u64 = 60;

/// The failures in a row of one capability's requests.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Failures {
    /// How many there were, those not among them that were under way when a pause began.
    in_a_row: u32,
    /// When the upstream may be asked again.
    next: UnixSeconds,
    /// Whether a request asks the upstream whether it is well again.
    probing: bool,
}

impl Failures {
    /// A request failed at `now`. One that was under way when a pause began does not make it longer.
    pub(super) fn fail(&mut self, now: UnixSeconds) {
        if self.in_a_row < PATIENCE || std::mem::take(&mut self.probing) {
            self.in_a_row = self.in_a_row.saturating_add(1);
            self.next = now.plus(self.length());
        }
    }

    /// How many seconds a request at `now` has to wait; `None` if it may ask the upstream. After each
    /// pause one request may, and the others wait for what becomes of it.
    pub(super) fn pause(&mut self, now: UnixSeconds) -> Option<NonZeroU64> {
        if self.in_a_row < PATIENCE {
            return None;
        }
        let wait = NonZeroU64::new(self.next.since(now));
        if wait.is_none() {
            self.probing = true;
            self.next = now.plus(self.length());
        }
        wait
    }

    /// How long a pause is after so many failures, in seconds.
    fn length(self) -> u64 {
        let Some(doublings) = self.in_a_row.checked_sub(PATIENCE) else { return 0 };
        1_u64.checked_shl(doublings).map_or(LONGEST_PAUSE, |it| it.min(LONGEST_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    #[test]
    fn a_pause_is_as_long_as_when_it_began_whatever_was_under_way() {
        let mut failures = Failures::default();
        for _ in 0..PATIENCE {
            assert_eq!(failures.pause(NOW), None, "failures are forgiven");
            failures.fail(NOW);
        }
        for _ in 0..3 {
            assert_eq!(failures.pause(NOW), NonZeroU64::new(1));
            failures.fail(NOW);
        }
        let later = NOW.plus(1);
        assert_eq!(failures.pause(later), None, "one request asks the upstream");
        assert_eq!(failures.pause(later), NonZeroU64::new(1), "the others wait for what becomes of it");
        for _ in 0..3 {
            failures.fail(later);
            assert_eq!(failures.pause(later), NonZeroU64::new(2), "it counts once");
        }
    }

    #[test]
    fn no_pause_is_longer_than_a_minute() {
        let mut failures = Failures::default();
        let mut now = NOW;
        let mut pauses = Vec::new();
        for _ in 0..80 {
            while failures.pause(now).is_some() {
                now = now.plus(1);
            }
            failures.fail(now);
            pauses.extend(failures.pause(now).map(NonZeroU64::get));
        }
        assert_eq!(pauses.get(..8), Some(&[1, 2, 4, 8, 16, 32, 60, 60][..]));
        assert_eq!(pauses.last(), Some(&60));
    }
}
