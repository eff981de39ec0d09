//! Watches the pool: journals sends that no payment claims, and measures how much is receivable.
//!
//! It looks at the whole pool from time to time. It also looks at each send that a WebSocket reports,
//! after its payer has had the time to show a proof: a journal row for every sale would double what a
//! sale writes. A send that neither look sees is journalled by the sweep that receives it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::pool::pool_accounts;
use super::swept::SweptCount;
use crate::admin::{LastPoolLook, PoolLook};
use crate::clock::{Clock, Stopwatch};
use crate::config::Config;
use crate::ledger::Ledger;
use crate::ledger::node::NodeLedger;
use crate::metrics::Metrics;
use crate::nano::{Account, BlockHash, Raw};
use crate::payment::BlockKind;
use crate::reconcile::{Arrival, Books, Discrepancy, ReconcileError};
use crate::shutdown::{self, StopSignal};
use crate::store::deposits::{Deposit, DepositJournal, SeenDeposit, note_all};
use crate::store::{Engine, PaymentJournal};

/// The pause between two looks at a pool that is not swept.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// How often the journal is asked what was swept.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// After a sweep, the pool is looked at again no sooner than this after the last look.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// The most reported sends that wait for their proof. The next look sees those beyond.
const AWAITING: usize = 100_000;

/// The most unclaimed sends that are remembered as logged. Those beyond are logged again.
const REPORTED: usize = 100_000;

/// Unclaimed deposits that are read at a time.
const PAGE: usize = 1000;

/// Watches the deposits of one gateway.
#[derive(Debug)]
pub(super) struct DepositWatch {
    pub(super) ledger: NodeLedger,
    pub(super) store: Arc<Engine>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) swept: SweptCount,
    /// Where each look is kept for the operator.
    pub(super) last_look: LastPoolLook,
}

impl DepositWatch {
    /// Watches until `shutdown`. It looks at once, then as often as the pool is swept, or every ten
    /// minutes.
    pub(super) async fn run(self, config: Config, mut shutdown: StopSignal) {
        tokio::select! {
            () = self.watch(config) => {}
            () = shutdown::asked_for(&mut shutdown) => {}
        }
    }

    async fn watch(mut self, config: Config) {
        let heard = self.ledger.sends_heard();
        let every = config.sweep.as_ref().map_or(LOOK_EVERY, |it| it.every);
        let grace = Duration::from_secs(config.challenge.lifetime);
        // This takes seconds for a pool of a million accounts: the start does not wait for it.
        let pool = match tokio::task::spawn_blocking(move || pool_accounts(&config.nano)).await {
            Ok(Ok(pool)) => pool,
            Ok(Err(error)) => return tracing::error!(%error, "the pool is not watched"),
            Err(error) => return tracing::error!(%error, "the pool is not watched"),
        };
        let mut awaited =
            Awaited { heard, pool: pool.iter().copied().collect(), queue: VecDeque::new(), grace };
        let books = Books::new(self.ledger.clone(), Arc::clone(&self.store), pool);
        let (started, mut next_look) = (Stopwatch::start(), Duration::ZERO);
        let mut reported = BTreeSet::new();
        let (mut last_look, mut next_count) = (Duration::ZERO, Duration::ZERO);
        loop {
            if started.elapsed() >= next_count {
                match self.swept.look().await {
                    // What was swept is received.
                    Ok(true) => next_look = next_look.min(last_look.saturating_add(LOOK_AGAIN_AFTER)),
                    Ok(false) => {}
                    Err(error) => tracing::debug!(%error, "the journal of sweeps cannot be read"),
                }
                next_count = started.elapsed().saturating_add(COUNT_EVERY);
            }
            if started.elapsed() >= next_look {
                if let Err(error) = self.look(&books, &mut reported).await {
                    tracing::debug!(%error, "the pool cannot be looked at");
                }
                last_look = started.elapsed();
                next_look = last_look.saturating_add(every);
            }
            let due = awaited.due(&started);
            if !due.is_empty()
                && let Err(error) = self.judge(&due, &awaited.pool).await
            {
                tracing::debug!(%error, "reported sends cannot be looked up; the next look will see them");
            }
            awaited.listen(&started, next_look.min(next_count)).await;
        }
    }

    /// Looks at everything that the pool can receive.
    async fn look(
        &self,
        books: &Books<Engine>,
        reported: &mut BTreeSet<BlockHash>,
    ) -> Result<(), ReconcileError> {
        let waiting = books.waiting().await?;
        let receivable =
            waiting.iter().fold(Raw::ZERO, |sum, it| sum.checked_add(it.amount).unwrap_or(Raw::MAX));
        let found = books.without_grant(waiting).await?;
        let mut deposits = Vec::new();
        for discrepancy in found {
            let (Discrepancy::Unclaimed(arrival) | Discrepancy::NotGranted { arrival, .. }) = discrepancy
            else {
                continue;
            };
            deposits.push(deposit(&arrival));
            if reported.len() >= REPORTED {
                reported.clear();
            }
            if reported.insert(arrival.send) {
                report(&arrival);
            }
        }
        self.note(&deposits).await?;
        let unclaimed = self.unclaimed().await?;
        self.metrics.pool_waits(receivable, unclaimed);
        self.last_look.store(Some(Arc::new(PoolLook { at: self.clock.now(), receivable, unclaimed })));
        Ok(())
    }

    /// Journals those of `sends` that went to the pool and that no proof has claimed.
    async fn judge(&self, sends: &[BlockHash], pool: &BTreeSet<Account>) -> Result<(), ReconcileError> {
        let mut deposits = Vec::new();
        for send in sends {
            if self.store.payment(*send).await?.is_some() {
                continue;
            }
            let Some(facts) = self.ledger.block(*send).await?.filter(|it| it.confirmed()) else { continue };
            if let BlockKind::Send { account, destination, amount } = facts.kind()
                && pool.contains(&destination)
            {
                let (block, sender) = (*send, Some(account));
                deposits.push(Deposit { block, account: destination, sender, amount });
            }
        }
        if !deposits.is_empty() {
            self.note(&deposits).await?;
            self.metrics.unclaimed(self.unclaimed().await?);
        }
        Ok(())
    }

    async fn note(&self, deposits: &[Deposit]) -> Result<(), ReconcileError> {
        let noted = note_all(&*self.store, deposits, self.clock.now()).await?;
        self.metrics.unclaimed_noted(noted.fresh, noted.dropped);
        if noted.dropped > 0 {
            tracing::warn!(
                dropped = noted.dropped,
                "the journal has no room for the smallest unclaimed sends; \
                 `payments list --unclaimed --from-ledger` shows them"
            );
        }
        Ok(())
    }

    /// How many unclaimed sends are in the journal.
    async fn unclaimed(&self) -> Result<usize, ReconcileError> {
        let (mut after, mut count) = (None, 0_usize);
        loop {
            let page = self.store.unclaimed(after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(count) };
            after = Some(SeenDeposit::mark(last));
            count = count.saturating_add(page.len());
        }
    }
}

fn deposit(it: &Arrival) -> Deposit {
    Deposit { block: it.send, account: it.account, sender: it.sender, amount: it.amount }
}

fn report(arrival: &Arrival) {
    let sender = arrival.sender.map_or_else(|| "unknown".to_owned(), |it| it.to_string());
    tracing::info!(
        block = %arrival.send, account = %arrival.account, amount_raw = %arrival.amount, sender,
        "no payment claims this send to the pool; a late proof can still redeem it"
    );
}

/// Sends to the pool that a WebSocket reported, until the time for their proof is over.
struct Awaited {
    heard: broadcast::Receiver<(BlockHash, Account)>,
    pool: BTreeSet<Account>,
    /// When each is due; the times only grow.
    queue: VecDeque<(Duration, BlockHash)>,
    grace: Duration,
}

impl Awaited {
    /// Removes and gives the sends that are due.
    fn due(&mut self, started: &Stopwatch) -> Vec<BlockHash> {
        let now = started.elapsed();
        let ripe = self.queue.partition_point(|(at, _)| *at <= now);
        self.queue.drain(..ripe).map(|(_, send)| send).collect()
    }

    /// Listens until a send is due, or the next look is.
    async fn listen(&mut self, started: &Stopwatch, next_look: Duration) {
        loop {
            let at = self.queue.front().map_or(next_look, |(at, _)| next_look.min(*at));
            let left = at.saturating_sub(started.elapsed());
            tokio::select! {
                () = tokio::time::sleep(left) => return,
                heard = self.heard.recv() => match heard {
                    Ok((send, destination)) => {
                        if self.pool.contains(&destination) && self.queue.len() < AWAITING {
                            self.queue.push_back((started.elapsed().saturating_add(self.grace), send));
                        }
                    }
                    Err(RecvError::Lagged(missed)) => {
                        tracing::debug!(missed, "confirmations came faster than they were read");
                    }
                    // There will be no more reports; the looks go on.
                    Err(RecvError::Closed) => {
                        tokio::time::sleep(left).await;
                        return;
                    }
                },
            }
        }
    }
}
