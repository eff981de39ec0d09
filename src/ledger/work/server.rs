//! Work for other people's blocks, from a server: bounded, since it costs whoever runs the server
//! money and whoever asks nothing.
//!
//! Ask only for a block that is certain to be broadcast then: whoever has it made pays its price.
//! What was made is remembered by its root, so that the same block is never paid for twice; that
//! only one asks for a root at a time is the caller's to hold (the cashier settles one block a
//! frontier).

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

/// For how long requests count against a client.
const WINDOW: Duration = Duration::from_secs(60);
/// Clients that are counted at once; beyond, the oldest are forgotten.
const CLIENTS: u64 = 100_000;
/// Work that is remembered, and for how long: until its block is in the journal, or was tried again.
const REMEMBERED: u64 = 10_000;
const REMEMBER: Duration = Duration::from_secs(600);

/// How much is asked of a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WorkLimits {
    /// Computations at one time.
    pub at_once: u32,
    /// Requests that wait for one of these; one more is turned away.
    pub waiting: u32,
    /// Computations that one client may cause a minute.
    pub per_client: u32,
    /// How long one may take, at most 30 seconds.
    pub patience: Duration,
}

/// No work came.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoWork {
    #[error("this client has had its share of work for a minute")]
    Share,
    #[error("too many blocks wait for work")]
    Crowded,
    #[error("the work server gave none: {0}")]
    Server(#[from] LedgerError),
}

/// A server that makes work, within bounds. Clones share them.
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
    /// Asks `server`, which answers `work_generate` as nodes do.
    #[must_use]
    pub fn new(server: NodeClient, limits: WorkLimits) -> Self {
        let permits = |count: u32| Semaphore::new(usize::try_from(count).unwrap_or(Semaphore::MAX_PERMITS));
        Self(Arc::new(Shared {
            server,
            limits,
            running: permits(limits.at_once.max(1)),
            admitted: permits(limits.at_once.max(1).saturating_add(limits.waiting)),
            made: Cache::builder().max_capacity(REMEMBERED).time_to_live(REMEMBER).build(),
            clients: Cache::builder().max_capacity(CLIENTS).time_to_live(WINDOW).build(),
        }))
    }

    /// Work over `root` that reaches `threshold`, which is checked here. It counts against `client`,
    /// a host or network, where that is known, as soon as the server is asked.
    ///
    /// # Errors
    /// [`NoWork`]; the same request may come again.
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
        // Nobody closes it.
        let _running = running.acquire().await.map_err(|_closed| NoWork::Crowded)?;
        let asked = tokio::time::timeout(limits.patience, server.work_generate(root, threshold)).await;
        let work = asked.unwrap_or(Err(LedgerError::TimedOut))?;
        made.insert(root, work);
        Ok(work)
    }
}
