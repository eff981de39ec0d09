//! Work for a block: from a node that provides it, else computed here on all cores.

#[cfg(feature = "gateway")]
mod server;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::node::NodeClient;
use crate::nano::{Threshold, Work};

#[cfg(feature = "gateway")]
pub use server::{NoWork, WorkLimits, WorkServer};

/// Nonces tried between two checks whether to stop; about a hundredth of a second.
const BATCH: u64 = 1 << 16;

/// The progress of a computation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WorkProgress {
    /// Nonces tried so far, on all threads.
    pub tried: u64,
    /// Nonces needed on average. A computation can need several times as many.
    pub expected: u64,
    /// Whether work was found. This report is the last one then.
    pub found: bool,
}

/// Called with the progress, from a computing thread and many times a second.
pub type WorkObserver = Arc<dyn Fn(WorkProgress) + Send + Sync>;

/// Why no work could be computed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WorkError {
    #[error("no nonce reaches the threshold {0}")]
    OutOfNonces(Threshold),
    #[error("the computation was stopped: {0}")]
    Stopped(String),
}

/// A source of work.
#[derive(Clone)]
pub struct WorkSource {
    /// Asked in this order.
    servers: Vec<NodeClient>,
    threads: NonZeroUsize,
    observer: Option<WorkObserver>,
}

impl fmt::Debug for WorkSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkSource")
            .field("servers", &self.servers)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl WorkSource {
    /// A source that computes on all cores of this machine.
    #[must_use]
    pub fn local() -> Self {
        let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self { servers: Vec::new(), threads, observer: None }
    }

    /// A source that asks `node` first and computes only if it provides no work.
    #[must_use]
    pub fn node_first(node: NodeClient) -> Self {
        Self { servers: vec![node], ..Self::local() }
    }

    /// Makes the source ask `server` before all others.
    #[must_use]
    pub fn served_by(mut self, server: NodeClient) -> Self {
        self.servers.insert(0, server);
        self
    }

    /// Limits the threads that compute.
    #[must_use]
    pub const fn on_threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = threads;
        self
    }

    /// Makes the source call `observer` with the progress of computations on this machine.
    #[must_use]
    pub fn observed_by(mut self, observer: WorkObserver) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Work for `root` that reaches `threshold`, checked here whatever its source. Dropping the future
    /// stops the computation.
    ///
    /// # Errors
    /// [`WorkError`] if it cannot be computed here either.
    pub async fn work(&self, root: [u8; 32], threshold: Threshold) -> Result<Work, WorkError> {
        for server in &self.servers {
            match server.work_generate(root, threshold).await {
                Ok(work) => return Ok(work),
                Err(error) => {
                    tracing::debug!(%error, "a server provided no work; the next is asked, or it is computed here")
                }
            }
        }
        let search = Arc::new(Search {
            root,
            threshold,
            stop: AtomicBool::new(false),
            tried: AtomicU64::new(0),
            observer: self.observer.clone(),
        });
        let _stop_when_dropped = StopOnDrop(Arc::clone(&search));
        let threads = self.threads;
        tokio::task::spawn_blocking(move || search.run(threads))
            .await
            .map_err(|error| WorkError::Stopped(error.to_string()))?
            .ok_or(WorkError::OutOfNonces(threshold))
    }
}

struct StopOnDrop(Arc<Search>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// One search for a nonce, shared by its threads.
struct Search {
    root: [u8; 32],
    threshold: Threshold,
    stop: AtomicBool,
    tried: AtomicU64,
    observer: Option<WorkObserver>,
}

impl Search {
    /// Searches on `threads` threads, each over its own part of the nonces.
    fn run(&self, threads: NonZeroUsize) -> Option<Work> {
        let parts = u64::try_from(threads.get()).ok()?;
        let length = u64::MAX.checked_div(parts)?;
        thread::scope(|scope| {
            let searches: Vec<_> = (0..parts)
                .map(|part| scope.spawn(move || self.run_from(part.wrapping_mul(length), length)))
                .collect();
            searches.into_iter().filter_map(|search| search.join().ok().flatten()).next()
        })
    }

    fn run_from(&self, first: u64, length: u64) -> Option<Work> {
        let mut done = 0_u64;
        while done < length && !self.stop.load(Ordering::Relaxed) {
            let from = first.wrapping_add(done);
            let mut nonces = (0..BATCH).map(|step| Work(from.wrapping_add(step)));
            let found = nonces.find(|it| it.reaches(&self.root, self.threshold));
            let tried = self.tried.fetch_add(BATCH, Ordering::Relaxed).saturating_add(BATCH);
            if found.is_some() {
                // Only the first thread to find work reports it.
                if !self.stop.swap(true, Ordering::Relaxed) {
                    self.report(tried, true);
                }
                return found;
            }
            self.report(tried, false);
            done = done.saturating_add(BATCH);
        }
        None
    }

    fn report(&self, tried: u64, found: bool) {
        if let Some(observer) = &self.observer {
            observer(WorkProgress { tried, expected: expected_tries(self.threshold), found });
        }
    }
}

/// How many nonces have to be tried on average to reach the threshold: 2^64 / (2^64 - threshold).
#[must_use]
pub fn expected_tries(threshold: Threshold) -> u64 {
    let values = 1_u128 << 64;
    let enough = values.saturating_sub(u128::from(threshold.0)).max(1);
    values.checked_div(enough).and_then(|tries| u64::try_from(tries).ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nano::Thresholds;

    #[test]
    fn the_main_networks_thresholds_cost_what_is_known() {
        assert_eq!(expected_tries(Thresholds::MAINNET.send), 1 << 29);
        assert_eq!(expected_tries(Thresholds::MAINNET.receive), 1 << 23);
        assert_eq!(expected_tries(Threshold(0)), 1);
        assert_eq!(expected_tries(Threshold(u64::MAX)), u64::MAX);
    }
}
