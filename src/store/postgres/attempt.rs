//! The server: its connections, how often and how long one call is tried, and what each outcome says of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use deadpool_postgres::{Client, Object, Pool};
use futures_util::future::BoxFuture;

use super::fault::{Fault, unreachable};
use crate::nano::UnixSeconds;
use crate::store::StoreError;
use crate::store::free_space::FreeSpace;

/// How long one call may take on its connection.
pub(super) const CALL_WITHIN: Duration = Duration::from_secs(10);
/// How often a call that another call overtook is tried.
const ATTEMPTS: u32 = 6;

/// What the calls and the probe share.
#[derive(Debug)]
pub(super) struct Vitals {
    /// Whether the last write succeeded.
    pub(super) writable: AtomicBool,
    /// Whether a write found the disk full and no space was seen since. Other writes may still succeed.
    pub(super) full: AtomicBool,
    /// The latest time in the journal, as far as is known.
    pub(super) newest: AtomicU64,
    /// The free space on the server's disk, if that is on this machine.
    pub(super) free_space: Option<FreeSpace>,
}

/// The connections to the server, and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) connections: Pool,
    pub(super) vitals: Arc<Vitals>,
}

impl Server {
    /// Makes one call, again if another one overtook it. `late` is the fault of a call that takes too long.
    pub(super) async fn run<T>(
        &self,
        work: impl for<'c> Fn(&'c mut Client) -> BoxFuture<'c, Result<T, Fault>> + Send + Sync,
        late: fn(String) -> Fault,
    ) -> Result<T, StoreError> {
        let mut overtaken = String::new();
        for _ in 0..ATTEMPTS {
            match self.once(&work, late).await {
                Ok(value) => return Ok(value),
                Err(Fault::Overtaken(why)) => overtaken = why,
                Err(fault) => return Err(fault.into_error()),
            }
        }
        Err(StoreError::Unavailable(format!("overtaken {ATTEMPTS} times: {overtaken}")))
    }

    /// Makes one call once.
    pub(super) async fn once<T>(
        &self,
        work: impl for<'c> Fn(&'c mut Client) -> BoxFuture<'c, Result<T, Fault>> + Send + Sync,
        late: fn(String) -> Fault,
    ) -> Result<T, Fault> {
        let mut client =
            self.connections.get().await.map_err(|error| Fault::Unavailable(unreachable(&error)))?;
        match tokio::time::timeout(CALL_WITHIN, work(&mut client)).await {
            Ok(Err(fault)) => {
                if matches!(fault, Fault::Unknown(_)) {
                    drop(Object::take(client));
                }
                if matches!(fault, Fault::Full(_)) {
                    self.vitals.full.store(true, Ordering::Relaxed);
                }
                Err(fault)
            }
            Ok(value) => value,
            Err(_elapsed) => {
                // Whatever still happens on that connection, no caller waits for it.
                drop(Object::take(client));
                Err(late(format!("no answer within {} s", CALL_WITHIN.as_secs())))
            }
        }
    }

    /// Notes what the outcome of a write at `now` says of the server.
    pub(super) fn note<T>(&self, now: UnixSeconds, outcome: &Result<T, StoreError>) {
        match outcome {
            Ok(_) => {
                // A write that fits into an existing page shows nothing about the next one.
                if !self.vitals.full.load(Ordering::Relaxed) {
                    self.vitals.writable.store(true, Ordering::Relaxed);
                }
                self.vitals.newest.fetch_max(now.0, Ordering::Relaxed);
            }
            Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) => {
                self.vitals.writable.store(false, Ordering::Relaxed);
            }
            Err(StoreError::NotApplied(_)) => {}
        }
    }
}
