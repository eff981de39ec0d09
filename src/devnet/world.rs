//! What the nodes of one development ledger share: the ledger, its clock, and the stream of
//! confirmations.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, broadcast};

use super::lattice::{Lattice, LedgerEntry, Now};
use crate::clock::{Clock, Stopwatch};
use crate::nano::{BlockHash, Thresholds};
use crate::shutdown::{self, StopSignal};

/// The most computations of work at the same time; more wait.
const MAX_JOBS: usize = 2;

/// How many messages a slow subscriber may be behind before it misses some.
const MAX_NEWS: usize = 8192;

/// One block that was confirmed.
#[derive(Clone, Copy, Debug)]
pub(super) struct News {
    pub(super) hash: BlockHash,
    pub(super) entry: LedgerEntry,
    pub(super) now: Now,
}

/// The ledger and its clock.
pub(super) struct World {
    /// Locked while one request is answered, never across an await.
    ledger: Mutex<Lattice>,
    clock: Clock,
    started: Stopwatch,
    jobs: Semaphore,
    /// Notified when a [`LedgerGuard`] is dropped.
    touched: Notify,
    news: broadcast::Sender<News>,
}

/// The locked ledger. Dropping it wakes the task that publishes confirmations.
pub struct LedgerGuard<'a> {
    ledger: MutexGuard<'a, Lattice>,
    touched: &'a Notify,
}

impl Deref for LedgerGuard<'_> {
    type Target = Lattice;

    fn deref(&self) -> &Lattice {
        &self.ledger
    }
}

impl DerefMut for LedgerGuard<'_> {
    fn deref_mut(&mut self) -> &mut Lattice {
        &mut self.ledger
    }
}

impl Drop for LedgerGuard<'_> {
    fn drop(&mut self) {
        self.touched.notify_one();
    }
}

impl World {
    pub(super) fn new(thresholds: Thresholds, confirm_after: Duration, clock: Clock) -> Self {
        let now = Now { wall: clock.now(), elapsed: Duration::ZERO };
        Self {
            ledger: Mutex::new(Lattice::new(thresholds, confirm_after, now)),
            clock,
            started: Stopwatch::start(),
            jobs: Semaphore::new(MAX_JOBS),
            touched: Notify::new(),
            news: broadcast::Sender::new(MAX_NEWS),
        }
    }

    /// The ledger with everything confirmed that is due, and the time of that.
    pub(super) fn ledger(&self) -> (LedgerGuard<'_>, Now) {
        let (ledger, now) = self.locked();
        (LedgerGuard { ledger, touched: &self.touched }, now)
    }

    pub(super) const fn jobs(&self) -> &Semaphore {
        &self.jobs
    }

    /// Confirmations from now on, while [`World::publish`] runs.
    pub(super) fn news(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    pub(super) fn now(&self) -> Now {
        Now { wall: self.clock.now(), elapsed: self.started.elapsed() }
    }

    fn locked(&self) -> (MutexGuard<'_, Lattice>, Now) {
        // The clock may be a test's code: it is read before the lock is taken.
        let wall = self.clock.now();
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Now { wall, elapsed: self.started.elapsed() };
        ledger.advance(now);
        (ledger, now)
    }

    /// Confirms each block when it is due and informs the subscribers, until `shutdown`.
    pub(super) async fn publish(self: Arc<Self>, mut shutdown: StopSignal) {
        let mut published = self.locked().0.confirmed().len();
        loop {
            let touched = self.touched.notified();
            let wait = {
                let (ledger, now) = self.locked();
                for &hash in ledger.confirmed().get(published..).unwrap_or_default() {
                    if let Some(&entry) = ledger.entry(hash) {
                        // An error means that there is no subscriber.
                        let _received = self.news.send(News { hash, entry, now }).is_ok();
                    }
                }
                published = ledger.confirmed().len();
                ledger.next_due_after(now).map(|at| at.saturating_sub(now.elapsed))
            };
            let due = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = touched => {}
                () = due => {}
                () = shutdown::asked_for(&mut shutdown) => return,
            }
        }
    }
}
