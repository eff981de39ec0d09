//! The one place that reads a clock.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::nano::UnixSeconds;

/// A source of the time in Unix seconds. Cheap to clone. The code that assembles the gateway chooses
/// the clock, so a simulation can run years in a second.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> UnixSeconds + Send + Sync>);

impl Clock {
    /// The machine's clock. A time before 1970 reads as 0.
    #[must_use]
    pub fn system() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        Self::from_fn(|| {
            UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
        })
    }

    /// A clock that shows what `now` returns.
    pub fn from_fn(now: impl Fn() -> UnixSeconds + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    #[must_use]
    pub fn now(&self) -> UnixSeconds {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

/// The machine's time as a log shows it. Nothing is decided by it.
#[must_use]
pub fn for_logs() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    SystemTime::now()
}

/// The moment that is `after` this time from now; `None` if there is none that late.
#[must_use]
pub fn in_future(after: Duration) -> Option<Instant> {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    Instant::now().checked_add(after)
}

/// Measures elapsed time. It is monotonic, and it stops while a simulation pauses the runtime's clock.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    #[must_use]
    pub fn start() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        Self(Instant::now())
    }

    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
