//! Watches over what is closed: refunds whose last requests have ended become owed, and purses that have run out are
//! closed where their route gives back what is left.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::cashier::Cashier;
use crate::gateway::closing::gives_back;
use crate::gateway::tariff::Tariff;
use crate::ledger::node::NodeLedger;
use crate::metrics::Metrics;
use crate::nano::{Raw, UnixSeconds};
use crate::shutdown::{self, StopSignal};
use crate::store::refunds::{ExpiryMark, RefundJournal, RefundSearch, RefundState};
use crate::store::{Engine, StoreError};

/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Refunds and purses that are read at a time.
const PAGE: usize = 1000;

/// Seconds after its end at which a purse is closed: instances' clocks are not the same.
const GRACE: u64 = 5;

/// Watches over the closed capabilities of one gateway.
#[derive(Debug)]
pub(super) struct RefundWatch {
    pub(super) cashier: Cashier<NodeLedger, Engine>,
    pub(super) store: Arc<Engine>,
    pub(super) tariff: Arc<ArcSwap<Tariff>>,
    pub(super) metrics: Arc<Metrics>,
    /// The last of the purses that have run out and were looked at.
    pub(super) seen: ExpiryMark,
}

impl RefundWatch {
    pub(super) async fn run(mut self, mut shutdown: StopSignal) {
        let looks = async {
            loop {
                if let Err(error) = self.look().await {
                    tracing::debug!(%error, "closed capabilities cannot be looked at");
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            () = looks => {}
            () = shutdown::asked_for(&mut shutdown) => {}
        }
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let at_least = self.tariff.load().refunds_at_least;
        let closing =
            RefundSearch { state: Some(RefundState::Closing), unfinished: true, after: None, limit: PAGE };
        for refund in self.store.refunds(&closing).await? {
            self.cashier.close_known(refund.capability, at_least).await?;
        }
        self.close_expired(at_least).await?;
        let waiting = self.store.refunds(&RefundSearch { state: None, ..closing }).await?;
        let owed = waiting.iter().fold(Raw::ZERO, |sum, it| sum.checked_add(it.amount).unwrap_or(Raw::MAX));
        self.metrics.refunds_wait(waiting.len(), owed);
        Ok(())
    }

    /// Closes the purses that have run out since the last look. The first look after a start is at all of them.
    async fn close_expired(&mut self, at_least: Raw) -> Result<(), StoreError> {
        loop {
            let over = UnixSeconds(self.cashier.now().0.saturating_sub(GRACE));
            let found = self.store.expired_purses(self.seen, PAGE, over).await?;
            let tariff = self.tariff.load_full();
            for purse in &found {
                if gives_back(&tariff.table, &purse.route) {
                    self.cashier.close_known(purse.capability, at_least).await?;
                    tracing::info!(capability = %purse.capability, route = purse.route.as_str(), "a purse has run out and is closed");
                }
                self.seen = purse.mark;
            }
            if found.len() < PAGE {
                return Ok(());
            }
        }
    }
}
