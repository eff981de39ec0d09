//! Work for clients' blocks, from a work server. It is limited, because it costs the server's
//! operator money and the client nothing.
//!
//! Request work only for a block that is certain to be broadcast next, so that the client pays for
//! it. Work is cached by its root, so that no block's work is paid for twice. The caller makes sure
//! that only one request for a root runs at a time (the cashier settles one block a frontier).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::Semaphore;

use crate::ledger::LedgerError;
use crate::ledger::node::NodeClient;
use crate::nano::{Threshold, Work};

/// How long a computation counts against a client.
const WINDOW: Duration = Duration::from_secs(60);
/// The most clients that are counted. Beyond this number the oldest are forgotten.
const CLIENTS: u64 = 100_000;
/// How much work is cached, and for how long: long enough for its block to be journalled or retried.
const CACHED: u64 = 10_000;
const CACHE_FOR: Duration = Duration::from_secs(600);

/// The limits on requests to a work server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WorkLimits {
    /// Concurrent computations.
    pub at_once: u32,
    /// Requests that may wait for a computation. Further ones are turned away.
    pub waiting: u32,
    /// Computations a minute for one client.
    pub per_client: u32,
    /// The time for one computation, at most 30 seconds.
    pub patience: Duration,
}

/// Why there is no work.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoWork {
    #[error("this client has used up its share of work for this minute")]
    Share,
    #[error("too many blocks wait for work")]
    Crowded,
    #[error("the work server provided none: {0}")]
    Server(#[from] LedgerError),
}

/// A work server with limits. Clones share the limits.
#[derive(Clone)]
pub struct WorkServer(Arc<Shared>);

struct Shared {
    server: NodeClient,
    limits: WorkLimits,
    running: Semaphore,
    admitted: Semaphore,
    made: Cache<[u8; 32], Work>,
    clients: Cache<IpAddr, Arc<AtomicU32>>,
}

impl fmt::Debug for WorkServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkServer").field("server", &self.0.server).finish_non_exhaustive()
    }
}

impl WorkServer {
    /// Uses `server`, which answers `work_generate` like a node.
    #[must_use]
    pub fn new(server: NodeClient, limits: WorkLimits) -> Self {
        let permits = |count: u32| Semaphore::new(usize::try_from(count).unwrap_or(Semaphore::MAX_PERMITS));
        Self(Arc::new(Shared {
            server,
            limits,
            running: permits(limits.at_once.max(1)),
            admitted: permits(limits.at_once.max(1).saturating_add(limits.waiting)),
            made: Cache::builder().max_capacity(CACHED).time_to_live(CACHE_FOR).build(),
            clients: Cache::builder().max_capacity(CLIENTS).time_to_live(WINDOW).build(),
        }))
    }

    /// Work for `root` that reaches `threshold`, checked here. A request to the server counts against
    /// `client`, a host or network, if that is known.
    ///
    /// # Errors
    /// [`NoWork`]. The same request may be made again.
    pub async fn work(
        &self,
        root: [u8; 32],
        threshold: Threshold,
        client: Option<IpAddr>,
    ) -> Result<Work, NoWork> {
        let Shared { server, limits, running, admitted, made, clients } = &*self.0;
        if let Some(work) = made.get(&root).filter(|work| work.reaches(&root, threshold)) {
            return Ok(work);
        }
        let _admitted = admitted.try_acquire().map_err(|_full| NoWork::Crowded)?;
        if let Some(client) = client {
            let count = clients.get_with(client, Arc::default);
            if count.fetch_add(1, Ordering::Relaxed) >= limits.per_client {
                count.fetch_sub(1, Ordering::Relaxed);
                return Err(NoWork::Share);
            }
        }
        // The semaphore is never closed.
        let _running = running.acquire().await.map_err(|_closed| NoWork::Crowded)?;
        let asked = tokio::time::timeout(limits.patience, server.work_generate(root, threshold)).await;
        let work = asked.unwrap_or(Err(LedgerError::TimedOut))?;
        made.insert(root, work);
        Ok(work)
    }
}
