//! What the places synchronise by in which requests meet: the meter of a capability, the settlements
//! under way, the store's queue. They name it here and nowhere else, so that `tests/interleavings`
//! can compile the same sources over a scheduler that tries the orders in which things can happen.

pub(crate) use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use tokio::runtime::Handle;
pub(crate) use tokio::sync::mpsc;
pub(crate) use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
