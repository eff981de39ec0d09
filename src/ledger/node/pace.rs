//! How fast a node usually answers, and how often a second node may be asked because it is slow.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How many answer times are kept.
const WINDOW: usize = 64;
/// With fewer answer times than this, the pace is not known.
const ENOUGH: usize = 16;
/// How many answer times say what is typical at present.
const LAST: usize = 7;
/// When a second node is asked if the pace is not known.
const UNKNOWN: Duration = Duration::from_millis(250);
/// A second call earlier than this would only double the load.
const SHORTEST: Duration = Duration::from_millis(10);

/// The pace of one node.
#[derive(Debug, Default)]
pub(super) struct Pace(
    /// Locked for a push or a copy, never across an await.
    Mutex<VecDeque<Duration>>,
);

impl Pace {
    /// Records how long an answer took, or how long it was waited for without one.
    pub(super) fn took(&self, time: Duration) {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.len() >= WINDOW {
            window.pop_front();
        }
        window.push_back(time);
    }

    /// How long the node takes at present: the median of its last few answers. Zero if it has given none.
    pub(super) fn typical(&self) -> Duration {
        let window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last: Vec<_> = window.iter().rev().take(LAST).copied().collect();
        drop(window);
        last.sort_unstable();
        last.get(last.len().div_euclid(2)).copied().unwrap_or_default()
    }

    /// The time within which the node gives 95 of 100 answers. After it, a second node may be asked.
    pub(super) fn hedge_after(&self) -> Duration {
        let mut window: Vec<_> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        if window.len() < ENOUGH {
            return UNKNOWN;
        }
        window.sort_unstable();
        let place = window.len().saturating_mul(95).div_ceil(100).saturating_sub(1);
        window.get(place).copied().unwrap_or(UNKNOWN).max(SHORTEST)
    }
}

/// Limits hedged calls to one in ten. Up to [`HedgeBudget::MOST`] can be saved up.
#[derive(Debug)]
pub(super) struct HedgeBudget(Mutex<u32>);

impl HedgeBudget {
    /// How many calls earn one hedged call.
    const PRICE: u32 = 10;
    /// The most hedged calls that can be saved up.
    const MOST: u32 = 10;

    pub(super) const fn new() -> Self {
        Self(Mutex::new(Self::PRICE))
    }

    /// Records a call.
    pub(super) fn earn(&self) {
        let mut saved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *saved = saved.saturating_add(1).min(Self::PRICE.saturating_mul(Self::MOST));
    }

    /// Takes one hedged call from the budget. Returns false if there is none.
    pub(super) fn spend(&self) -> bool {
        let mut saved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match saved.checked_sub(Self::PRICE) {
            Some(left) => {
                *saved = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slow_twentieth_sets_the_time() {
        let pace = Pace::default();
        assert_eq!(pace.hedge_after(), UNKNOWN);
        for time in 1..=100 {
            pace.took(Duration::from_millis(time));
        }
        // The last 64 are 37..=100; the 61st of them in order.
        assert_eq!(pace.hedge_after(), Duration::from_millis(97));
    }

    #[test]
    fn hedges_are_one_call_in_ten() {
        let budget = HedgeBudget::new();
        assert!(budget.spend() && !budget.spend());
        for _ in 0..9 {
            budget.earn();
        }
        assert!(!budget.spend());
        budget.earn();
        assert!(budget.spend());
        let hedges = (0..1000).filter(|_| {
            budget.earn();
            budget.spend()
        });
        assert_eq!(hedges.count(), 100);
    }

    #[test]
    fn what_is_typical_is_the_middle_of_the_last_few() {
        let pace = Pace::default();
        assert_eq!(pace.typical(), Duration::ZERO);
        pace.took(Duration::from_secs(3));
        assert_eq!(pace.typical(), Duration::from_secs(3), "one answer is all that is known");
        for time in [9000, 10, 10, 10, 9000, 10, 11, 12] {
            pace.took(Duration::from_millis(time));
        }
        assert_eq!(pace.typical(), Duration::from_millis(10), "a late one among them changes little");
    }
}
