//! When whose next turn is: so many in a time, some of them at once after a pause.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use moka::policy::EvictionPolicy;

use crate::clock::Stopwatch;
use crate::sync::{Mutex, PoisonError};

/// What the clock shows at the start: long enough that everybody has saved all turns that can be saved.
const AT_START: Duration = Duration::from_secs(1 << 40);

/// How often one has a turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The time that one turn takes up.
    pub(super) each: Duration,
    /// Turns that were not taken are saved for so long.
    pub(super) saved: Duration,
    /// The longest wait for a turn.
    pub(super) longest_wait: Duration,
}

/// When the next turn of each `K` is. Cheap to clone; clones count together.
pub(super) struct Turns<K> {
    next: moka::sync::Cache<K, Arc<Mutex<Duration>>>,
    clock: Stopwatch,
}

impl<K> fmt::Debug for Turns<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").field("clock", &self.clock).finish_non_exhaustive()
    }
}

impl<K> Clone for Turns<K> {
    fn clone(&self) -> Self {
        Self { next: self.next.clone(), clock: self.clock }
    }
}

impl<K: Eq + Hash + Send + Sync + 'static> Turns<K> {
    /// Counts for at most `most` of them, each for `forgotten_after` since its last turn. Beyond, the oldest
    /// begin again.
    pub(super) fn new(most: u64, forgotten_after: Duration) -> Self {
        let next = moka::sync::Cache::builder()
            .max_capacity(most)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(forgotten_after)
            .build();
        Self { next, clock: Stopwatch::start() }
    }

    /// Takes the next turn of `key`; gives how long it is until then.
    ///
    /// # Errors
    /// How long it is until a turn can be taken, if that is beyond the longest wait. Nothing is taken.
    pub(super) fn take(&self, key: K, pace: Pace) -> Result<Duration, Duration> {
        self.take_at(AT_START.saturating_add(self.clock.elapsed()), key, pace)
    }

    pub(super) fn take_at(&self, now: Duration, key: K, pace: Pace) -> Result<Duration, Duration> {
        let next = self.next.get_with(key, Arc::default);
        let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*next).max(now.saturating_sub(pace.saved));
        let wait = turn.saturating_sub(now);
        if wait > pace.longest_wait {
            return Err(wait.saturating_sub(pace.longest_wait));
        }
        *next = turn.saturating_add(pace.each);
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_has_its_turns_and_those_it_saved() {
        let pace = Pace { each: SECOND / 10, saved: SECOND, longest_wait: 5 * SECOND };
        let (turns, now) = (Turns::new(10, SECOND), 10 * SECOND);
        let waits: Vec<_> = (0..30).filter_map(|_| turns.take_at(now, 1, pace).ok()).collect();
        assert_eq!(waits.len(), 30);
        assert!(waits[..11].iter().all(Duration::is_zero), "a second's worth was saved: {waits:?}");
        assert_eq!(waits[11..14], [1, 2, 3].map(|it| it * SECOND / 10));
        assert_eq!(turns.take_at(now, 2, pace), Ok(Duration::ZERO), "another has its own");
        assert_eq!(turns.take_at(now + 2 * SECOND, 1, pace), Ok(Duration::ZERO));
    }

    /// The clock began at 0 once, and nobody had saved anything then.
    #[test]
    fn all_that_can_be_saved_is_there_from_the_start() {
        let pace = Pace { each: 3600 * SECOND, saved: 24 * 3600 * SECOND, longest_wait: Duration::ZERO };
        let turns = Turns::new(10, SECOND);
        let taken = std::iter::from_fn(|| turns.take(1, pace).ok()).take(100).count();
        assert_eq!(taken, 25);
        // As much as a configuration can say: a million at once, of one a day.
        let day = 24 * 3600 * SECOND;
        let pace = Pace { each: day, saved: 999_999 * day, longest_wait: Duration::ZERO };
        let taken = std::iter::from_fn(|| turns.take(2, pace).ok()).take(100_000).count();
        assert_eq!(taken, 100_000);
    }

    #[test]
    fn nobody_waits_longer_than_the_longest_wait() {
        let pace = Pace { each: SECOND / 10, saved: SECOND, longest_wait: 5 * SECOND };
        let turns = Turns::new(10, SECOND);
        let waits: Vec<_> = (0..1000).map_while(|_| turns.take_at(SECOND, 1, pace).ok()).collect();
        assert_eq!(waits.len(), 61, "ten saved, then ten a second for five seconds");
        assert!(waits.iter().all(|it| *it <= pace.longest_wait));
        assert_eq!(turns.take_at(SECOND, 1, pace), Err(SECOND / 10), "the next one may wait then");
        assert_eq!(
            turns.take_at(2 * SECOND, 1, pace),
            Ok(Duration::from_millis(4100)),
            "what it took is ahead of it"
        );
    }

    #[test]
    fn without_a_wait_a_turn_that_is_not_there_is_refused_with_its_time() {
        let pace = Pace { each: 10 * SECOND, saved: 20 * SECOND, longest_wait: Duration::ZERO };
        let (turns, now) = (Turns::new(10, 100 * SECOND), 100 * SECOND);
        for _ in 0..3 {
            assert_eq!(turns.take_at(now, 1, pace), Ok(Duration::ZERO));
        }
        assert_eq!(turns.take_at(now, 1, pace), Err(10 * SECOND));
        assert_eq!(turns.take_at(now + 9 * SECOND, 1, pace), Err(SECOND), "asking in vain takes nothing");
        assert_eq!(turns.take_at(now + 10 * SECOND, 1, pace), Ok(Duration::ZERO));
    }
}
