//! A circuit breaker: a node that failed several times in a row, or most of the time, is not called
//! for a while.
//!
//! Time comes in as an argument, so that the rules can be tested without waiting.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The breaker opens after this many failures in a row.
const IN_A_ROW: u32 = 5;
/// The window for the share of failures, in seconds.
const SECONDS: usize = 10;
/// The share counts only with at least this many calls in the window.
const ENOUGH: u32 = 10;
/// How long the breaker is open the first time. Each failed trial doubles it.
const FIRST_REST: Duration = Duration::from_secs(2);
const LONGEST_REST: Duration = Duration::from_secs(60);
/// A trial without an outcome keeps other calls out for so long at least.
const TRIAL: Duration = Duration::from_secs(10);

vocabulary! {
    /// The state of a node's breaker.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum BreakerState {
        /// The node is called.
        Closed = "closed",
        /// One call is let through as a trial.
        HalfOpen = "half-open",
        /// The node is not called.
        Open = "open",
    }
    /// The name shown to operators.
    pub fn as_str;
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed,
    Open { until: Duration },
    Trial { until: Duration },
}

/// The calls of one second.
#[derive(Clone, Copy, Debug, Default)]
struct SecondCount {
    second: u64,
    calls: u32,
    failures: u32,
}

#[derive(Debug)]
struct BreakerRecord {
    phase: Phase,
    in_a_row: u32,
    rest: Duration,
    window: [SecondCount; SECONDS],
    /// It was opened because the node is not believed. That it answers does not close it.
    doubted: bool,
}

/// One node's breaker.
#[derive(Debug)]
pub(super) struct Breaker {
    /// Locked for a few instructions, never across an await.
    record: Mutex<BreakerRecord>,
    /// How long a trial may last.
    trial: Duration,
}

impl Breaker {
    /// The breaker of a node whose calls may take this long.
    pub(super) fn new(timeout: Duration) -> Self {
        Self { record: Mutex::new(BreakerRecord::closed()), trial: TRIAL.max(timeout) }
    }

    fn state(&self) -> MutexGuard<'_, BreakerRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state_at(&self, now: Duration) -> BreakerState {
        match self.state().phase {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { until } if now < until => BreakerState::Open,
            Phase::Open { .. } | Phase::Trial { .. } => BreakerState::HalfOpen,
        }
    }

    /// Whether a call would be admitted.
    pub(super) fn would_admit(&self, now: Duration) -> bool {
        match self.state().phase {
            Phase::Closed => true,
            Phase::Open { until } | Phase::Trial { until } => now >= until,
        }
    }

    /// Whether this call is admitted. Of several calls after a rest, one is.
    pub(super) fn admit(&self, now: Duration) -> bool {
        let mut state = self.state();
        match state.phase {
            Phase::Closed => true,
            Phase::Open { until } | Phase::Trial { until } if now >= until => {
                state.phase = Phase::Trial { until: now.saturating_add(self.trial) };
                true
            }
            Phase::Open { .. } | Phase::Trial { .. } => false,
        }
    }

    /// Whether a probe is admitted. An `urgent` one always is, unless the node is not believed: while too few nodes answer
    /// to sell anything, a rest is no use to anybody.
    pub(super) fn admit_probe(&self, now: Duration, urgent: bool) -> bool {
        let is_doubted = self.state().doubted;
        (urgent && !is_doubted) || self.admit(now)
    }

    /// Closes the breaker of a node that has answered a probe, unless the node is not believed.
    pub(super) fn recover(&self) {
        let mut state = self.state();
        if !state.doubted && !matches!(state.phase, Phase::Closed) {
            *state = BreakerRecord::closed();
        }
    }

    /// Records the outcome of a call. Returns true if it opened the breaker.
    pub(super) fn record(&self, now: Duration, ok: bool) -> bool {
        let mut state = self.state();
        match (state.phase, ok) {
            (Phase::Closed, _) => {
                state.count(now, ok);
                let opens = !ok && (state.in_a_row >= IN_A_ROW || state.mostly_fails(now));
                if opens {
                    state.open(now);
                }
                opens
            }
            (Phase::Trial { .. }, true) => {
                *state = BreakerRecord::closed();
                false
            }
            (Phase::Trial { .. }, false) => {
                state.open(now);
                true
            }
            // A call that began earlier, or one that is made whatever the breaker's state.
            (Phase::Open { .. }, _) => false,
        }
    }

    /// Opens the breaker of a node that answers but is not believed.
    pub(super) fn trip(&self, now: Duration) {
        let mut state = self.state();
        state.open(now);
        state.doubted = true;
    }
}

impl BreakerRecord {
    const fn closed() -> Self {
        let window = [SecondCount { second: 0, calls: 0, failures: 0 }; SECONDS];
        Self { phase: Phase::Closed, in_a_row: 0, rest: FIRST_REST, window, doubted: false }
    }

    fn open(&mut self, now: Duration) {
        self.phase = Phase::Open { until: now.saturating_add(self.rest) };
        self.rest = self.rest.saturating_mul(2).min(LONGEST_REST);
        self.in_a_row = 0;
        self.window = [SecondCount::default(); SECONDS];
    }

    fn count(&mut self, now: Duration, ok: bool) {
        self.in_a_row = if ok { 0 } else { self.in_a_row.saturating_add(1) };
        let second = now.as_secs();
        let place = usize::try_from(second).ok().and_then(|it| it.checked_rem(SECONDS));
        let Some(slot) = place.and_then(|place| self.window.get_mut(place)) else { return };
        if slot.second != second {
            *slot = SecondCount { second, ..SecondCount::default() };
        }
        slot.calls = slot.calls.saturating_add(1);
        slot.failures = slot.failures.saturating_add(u32::from(!ok));
    }

    /// Whether more than half of the calls in the window failed, if there were [`ENOUGH`].
    fn mostly_fails(&self, now: Duration) -> bool {
        let oldest = now.as_secs().saturating_sub(u64::try_from(SECONDS).unwrap_or(u64::MAX));
        let recent = self.window.iter().filter(|slot| slot.second > oldest || oldest == 0);
        let (calls, failures) = recent.fold((0_u32, 0_u32), |(calls, failures), slot| {
            (calls.saturating_add(slot.calls), failures.saturating_add(slot.failures))
        });
        calls >= ENOUGH && failures.saturating_mul(2) > calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn five_failures_in_a_row_open_it_and_an_answer_between_does_not() {
        let breaker = Breaker::new(Duration::ZERO);
        for _ in 0..4 {
            assert!(!breaker.record(at(0), false));
        }
        assert!(!breaker.record(at(1), true));
        for failures in 1..=5 {
            assert!(breaker.admit(at(2)));
            assert_eq!(breaker.record(at(2), false), failures == 5);
        }
        assert!(!breaker.admit(at(2001)));
        assert_eq!(breaker.state_at(at(2001)), BreakerState::Open);
    }

    #[test]
    fn one_trial_follows_a_rest_and_rests_double_up_to_a_minute() {
        let breaker = Breaker::new(Duration::ZERO);
        breaker.trip(at(0));
        let mut now = 0;
        for rest in [2, 4, 8, 16, 32, 60, 60] {
            assert!(!breaker.would_admit(at(now + rest * 1000 - 1)), "{rest}");
            now += rest * 1000;
            assert_eq!(breaker.state_at(at(now)), BreakerState::HalfOpen);
            assert!(breaker.admit(at(now)) && !breaker.admit(at(now)), "one trial");
            assert!(breaker.record(at(now), false));
        }
        now += 60_000;
        assert!(breaker.admit(at(now)));
        assert!(!breaker.record(at(now), true));
        assert_eq!(breaker.state_at(at(now)), BreakerState::Closed);
        breaker.trip(at(now));
        assert!(breaker.would_admit(at(now + 2000)), "the rest is short again");
    }

    #[test]
    fn a_trial_without_an_outcome_does_not_keep_calls_out_for_ever() {
        let breaker = Breaker::new(Duration::ZERO);
        breaker.trip(at(0));
        assert!(breaker.admit(at(2000)) && !breaker.admit(at(11_999)) && breaker.admit(at(12_000)));
    }

    #[test]
    fn more_failures_than_answers_within_ten_seconds_open_it() {
        let (steady, failing) = (Breaker::new(Duration::ZERO), Breaker::new(Duration::ZERO));
        let calls = |breaker: &Breaker, pattern: &[bool]| {
            (0..40_u64).any(|call| {
                let ok = pattern[usize::try_from(call).unwrap() % pattern.len()];
                breaker.record(at(call * 250), ok)
            })
        };
        assert!(!calls(&steady, &[true, false]), "a half is not more than half");
        assert!(calls(&failing, &[false, true, false]));
        // The same share over a longer time than the window does not count.
        let slow = Breaker::new(Duration::ZERO);
        assert!(!(0..60_u64).any(|call| slow.record(at(call * 2000), call % 3 == 0)));
    }

    #[test]
    fn an_urgent_probe_waits_for_no_rest_and_its_answer_ends_it() {
        let breaker = Breaker::new(Duration::ZERO);
        for failure in 0..9 {
            breaker.record(at(failure), false);
        }
        let resting = at(10);
        assert!(!breaker.admit(resting) && !breaker.admit_probe(resting, false));
        assert!(breaker.admit_probe(resting, true) && breaker.admit_probe(resting, true));
        // Ordinary calls wait until one has been answered.
        assert!(!breaker.would_admit(resting));
        breaker.recover();
        assert_eq!(breaker.state_at(resting), BreakerState::Closed);
    }

    /// A liar answers probes too.
    #[test]
    fn a_node_that_is_not_believed_rests_whatever_it_answers() {
        let breaker = Breaker::new(Duration::ZERO);
        breaker.trip(at(0));
        assert!(!breaker.admit_probe(at(1999), true));
        breaker.recover();
        assert!(!breaker.would_admit(at(1999)));
        assert!(breaker.admit_probe(at(2000), true) && !breaker.record(at(2001), true));
        assert_eq!(breaker.state_at(at(2001)), BreakerState::Closed);
        // That is forgiven.
        for failure in 0..9 {
            breaker.record(at(3000 + failure), false);
        }
        assert!(breaker.admit_probe(at(3010), true));
    }

    #[test]
    fn a_trial_may_take_as_long_as_a_call() {
        let breaker = Breaker::new(at(60_000));
        breaker.trip(at(0));
        assert!(breaker.admit(at(2000)) && !breaker.admit(at(61_999)) && breaker.admit(at(62_000)));
    }
}
