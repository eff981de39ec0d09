//! Synchronisation primitives shared by concurrent requests: for the meter of a capability, the
//! settlements under way and the store's queue. They are imported only here, so that
//! `tests/interleavings` can compile the same sources with a scheduler that tries all orders of events.

pub(crate) use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use tokio::runtime::Handle;
pub(crate) use tokio::sync::mpsc;
pub(crate) use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
