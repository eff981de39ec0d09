//! When a node is left alone for a while: it failed several times in a row, or most of the time.
//!
//! Time comes in as an argument, so that the rules can be tested without waiting.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// So many failures in a row open the breaker.
const IN_A_ROW: u32 = 5;
/// The time over which the share of failures is looked at, in slots of one second.
const SLOTS: usize = 10;
/// Fewer calls than that in the window say nothing about a share.
const ENOUGH: u32 = 10;
/// How long the breaker is open the first time; twice as long after each trial that fails.
const FIRST_REST: Duration = Duration::from_secs(2);
const LONGEST_REST: Duration = Duration::from_secs(60);
/// A trial whose caller went away does not keep others out for longer than this.
const TRIAL: Duration = Duration::from_secs(10);

/// How a node's breaker stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BreakerState {
    /// The node is asked.
    Closed,
    /// One call is let through, to see.
    HalfOpen,
    /// The node is not asked.
    Open,
}

impl BreakerState {
    /// As it is shown to operators.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed,
    Open { until: Duration },
    Trial { until: Duration },
}

/// The calls of one second.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    second: u64,
    calls: u32,
    failures: u32,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    in_a_row: u32,
    rest: Duration,
    slots: [Slot; SLOTS],
}

/// One node's breaker.
#[derive(Debug)]
pub(super) struct Breaker(
    /// Held for a few instructions, never across an await.
    Mutex<State>,
);

impl Default for Breaker {
    fn default() -> Self {
        let slots = [Slot::default(); SLOTS];
        Self(Mutex::new(State { phase: Phase::Closed, in_a_row: 0, rest: FIRST_REST, slots }))
    }
}

impl Breaker {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state_at(&self, now: Duration) -> BreakerState {
        match self.state().phase {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { until } if now < until => BreakerState::Open,
            Phase::Open { .. } | Phase::Trial { .. } => BreakerState::HalfOpen,
        }
    }

    /// Whether a call would be let through.
    pub(super) fn would_admit(&self, now: Duration) -> bool {
        match self.state().phase {
            Phase::Closed => true,
            Phase::Open { until } | Phase::Trial { until } => now >= until,
        }
    }

    /// Whether this call may be made; of several that ask after a rest, one.
    pub(super) fn admit(&self, now: Duration) -> bool {
        let mut state = self.state();
        match state.phase {
            Phase::Closed => true,
            Phase::Open { until } | Phase::Trial { until } if now >= until => {
                state.phase = Phase::Trial { until: now.saturating_add(TRIAL) };
                true
            }
            Phase::Open { .. } | Phase::Trial { .. } => false,
        }
    }

    /// Notes how a call went. True where that opened the breaker.
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
                *state = State {
                    phase: Phase::Closed,
                    in_a_row: 0,
                    rest: FIRST_REST,
                    slots: [Slot::default(); SLOTS],
                };
                false
            }
            (Phase::Trial { .. }, false) => {
                state.open(now);
                true
            }
            // A call from before, or one that is made whatever the breaker says.
            (Phase::Open { .. }, _) => false,
        }
    }

    /// Opens the breaker of a node that answers, and is not believed.
    pub(super) fn trip(&self, now: Duration) {
        self.state().open(now);
    }
}

impl State {
    fn open(&mut self, now: Duration) {
        self.phase = Phase::Open { until: now.saturating_add(self.rest) };
        self.rest = self.rest.saturating_mul(2).min(LONGEST_REST);
        self.in_a_row = 0;
        self.slots = [Slot::default(); SLOTS];
    }

    fn count(&mut self, now: Duration, ok: bool) {
        self.in_a_row = if ok { 0 } else { self.in_a_row.saturating_add(1) };
        let second = now.as_secs();
        let place = usize::try_from(second).ok().and_then(|it| it.checked_rem(SLOTS));
        let Some(slot) = place.and_then(|place| self.slots.get_mut(place)) else { return };
        if slot.second != second {
            *slot = Slot { second, ..Slot::default() };
        }
        slot.calls = slot.calls.saturating_add(1);
        slot.failures = slot.failures.saturating_add(u32::from(!ok));
    }

    /// Whether more than half of the calls of the window failed, if they were enough to tell.
    fn mostly_fails(&self, now: Duration) -> bool {
        let oldest = now.as_secs().saturating_sub(u64::try_from(SLOTS).unwrap_or(u64::MAX));
        let recent = self.slots.iter().filter(|slot| slot.second > oldest || oldest == 0);
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
        let breaker = Breaker::default();
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
    fn one_call_tries_after_a_rest_and_rests_double_to_a_minute() {
        let breaker = Breaker::default();
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
    fn a_trial_that_never_ends_keeps_nobody_out_for_ever() {
        let breaker = Breaker::default();
        breaker.trip(at(0));
        assert!(breaker.admit(at(2000)) && !breaker.admit(at(11_999)) && breaker.admit(at(12_000)));
    }

    #[test]
    fn more_failures_than_answers_within_ten_seconds_open_it() {
        let (steady, failing) = (Breaker::default(), Breaker::default());
        let calls = |breaker: &Breaker, pattern: &[bool]| {
            (0..40_u64).any(|call| {
                let ok = pattern[usize::try_from(call).unwrap() % pattern.len()];
                breaker.record(at(call * 250), ok)
            })
        };
        assert!(!calls(&steady, &[true, false]), "a half is not more than half");
        assert!(calls(&failing, &[false, true, false]));
        // The same share over a longer time than the window is not looked at.
        let slow = Breaker::default();
        assert!(!(0..60_u64).any(|call| slow.record(at(call * 2000), call % 3 == 0)));
    }
}
