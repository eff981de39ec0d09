//! Log lines that would repeat: said once when something changes, then once a minute with a count, and once more
//! when it is over.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Stopwatch;

/// How often the log says of something that it still goes wrong.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Something that may go wrong again and again.
#[derive(Debug, Default)]
pub struct Repeats(Mutex<Option<State>>);

#[derive(Debug)]
struct State {
    began: Stopwatch,
    last: Stopwatch,
    said: Stopwatch,
    /// How often it went wrong, and how often of that since it was last said.
    times: u64,
    held_back: u64,
}

/// A time in which something went wrong, from the first time to the end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Spell {
    pub times: u64,
    pub lasted: Duration,
}

impl Repeats {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// It went wrong. If that is to be said: how often it went wrong since it was last said, unsaid.
    #[must_use]
    pub fn again(&self) -> Option<u64> {
        // A few additions, never held while something is awaited.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = state.as_mut() else {
            let now = Stopwatch::start();
            *state = Some(State { began: now, last: now, said: now, times: 1, held_back: 0 });
            return Some(0);
        };
        state.last = Stopwatch::start();
        state.times = state.times.saturating_add(1);
        if state.said.elapsed() < SAY_EVERY {
            state.held_back = state.held_back.saturating_add(1);
            return None;
        }
        state.said = Stopwatch::start();
        Some(std::mem::take(&mut state.held_back))
    }

    /// It went well. If it went wrong before, that is over, which is to be said.
    #[must_use]
    pub fn over(&self) -> Option<Spell> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.take().map(|it| Spell { times: it.times, lasted: it.began.elapsed() })
    }

    /// The same where going well once says little: it is over once it has not gone wrong for as long as `quiet`.
    #[must_use]
    pub fn over_after(&self, quiet: Duration) -> Option<Spell> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = state.take_if(|it| it.last.elapsed() >= quiet)?;
        let lasted = ended.began.elapsed().saturating_sub(ended.last.elapsed());
        Some(Spell { times: ended.times, lasted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_repeats_is_said_at_the_change_and_once_a_minute_with_a_count() {
        let repeats = Repeats::new();
        assert_eq!(repeats.over(), None, "nothing was wrong");
        assert_eq!(repeats.again(), Some(0));
        for _ in 0..995 {
            assert_eq!(repeats.again(), None);
        }
        tokio::time::advance(SAY_EVERY).await;
        assert_eq!(repeats.again(), Some(995));
        assert_eq!(repeats.again(), None);
        let spell = repeats.over().unwrap();
        assert_eq!((spell.times, spell.lasted), (998, SAY_EVERY));
        assert_eq!(repeats.over(), None);
        assert_eq!(repeats.again(), Some(0), "said at once when it begins again");
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_well_now_and_then_is_over_when_it_has_been_quiet() {
        const QUIET: Duration = Duration::from_secs(30);
        let repeats = Repeats::new();
        assert_eq!(repeats.over_after(QUIET), None, "nothing was wrong");
        for _ in 0..3 {
            let _said_or_not = repeats.again();
            tokio::time::advance(QUIET / 2).await;
            assert_eq!(repeats.over_after(QUIET), None);
        }
        tokio::time::advance(QUIET / 2).await;
        assert_eq!(repeats.over_after(QUIET), Some(Spell { times: 3, lasted: QUIET }));
        assert_eq!(repeats.over_after(QUIET), None);
        assert_eq!(repeats.again(), Some(0), "said at once when it begins again");
    }
}
