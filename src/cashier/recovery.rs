//! Finishes what a crash, a restart or an impatient client left unfinished.
//!
//! Every intent in the journal is compared with the ledger: confirmed is granted, unconfirmed is
//! broadcast again, overtaken has failed. A block that no node knows is not broadcast, because the
//! client may have moved on. Its intent is parked and never closed by time, because anyone may still
//! publish the block ([money guide](crate::guide::money), crash points).

use std::sync::Arc;
use std::time::Duration;

use super::flights::{FlightKey, Frontier, SettlementLimit};
use super::unsettled::{SettlementResult, Unsettled};
use super::{Cashier, Core};
use crate::clock::Stopwatch;
use crate::ledger::{Ledger, Sighting};
use crate::nano::StateBlock;
use crate::payment::{Confirmed, Intent};
use crate::shutdown::{self, StopSignal};
use crate::store::{Filter, PaymentRecord, PaymentState, Store, StoreError};

/// How often unfinished payments are looked at.
const EVERY: Duration = Duration::from_secs(15);
/// Payments read from the journal at once.
const PAGE: usize = 256;
/// Parked payments are looked at once in this many rounds.
const PARKED_ROUNDS: u64 = 8;

impl<L: Ledger, S: Store> Cashier<L, S> {
    /// Resolves unfinished payments at once and then every [`EVERY`], until `shutdown` turns true.
    pub async fn recover(&self, mut shutdown: StopSignal) {
        let mut rounds: u64 = 0;
        loop {
            if self.0.ledger.is_healthy() {
                if let Err(error) = self.recover_once(PaymentState::Intent).await {
                    tracing::warn!(%error, "unfinished payments could not be read");
                }
                if rounds.is_multiple_of(PARKED_ROUNDS)
                    && let Err(error) = self.recover_once(PaymentState::Parked).await
                {
                    tracing::warn!(%error, "parked payments could not be read");
                }
                rounds = rounds.saturating_add(1);
            }
            tokio::select! {
                biased;
                () = shutdown::asked_for(&mut shutdown) => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// Starts the resolution of every payment that is in `state` and not under way.
    async fn recover_once(&self, state: PaymentState) -> Result<(), StoreError> {
        let limit = SettlementLimit { all: self.0.settings.load().pending_settlements, client: None };
        let mut after = 0;
        loop {
            let page = self.0.store.scan(after, Filter { state: Some(state) }, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.sequence;
            for payment in page {
                let Intent { block, challenge: nonce, .. } = payment.intent;
                // A parked payment holds no frontier.
                let frontier = Frontier::of(&payment.intent).filter(|_| state == PaymentState::Intent);
                let key = FlightKey { block, nonce, frontier };
                let core = Arc::clone(&self.0);
                self.0.flights.start(key, limit, &self.0.runtime, || core.resolve(payment));
            }
        }
    }
}

impl<L: Ledger, S: Store> Core<L, S> {
    /// Compares a journalled payment with the ledger, and grants it once it is confirmed.
    pub(super) async fn resolve(self: Arc<Self>, payment: PaymentRecord) -> SettlementResult {
        let (watch, intent) = (Stopwatch::start(), payment.intent);
        // It was journalled after the ledger had shown the frontier as its account's.
        let frontier = Frontier::of(&intent).filter(|_| payment.state == PaymentState::Intent);
        let _held = frontier.and_then(|it| self.flights.hold_frontier(it, intent.block));
        let pending = Err(Unsettled::pending(intent.block));
        let mut facts = match self.ledger.block(intent.block).await {
            Ok(Some(facts)) => facts,
            Ok(None) => {
                if let Some(block) = intent.signed {
                    self.set_aside(&block).await;
                }
                return pending;
            }
            Err(_) => return pending,
        };
        if !facts.confirmed() {
            if let Some(block) = intent.signed
                && let Err(error) = self.ledger.publish_send(&block).await
            {
                tracing::debug!(block = %intent.block, %error, "broadcast again without effect");
            }
            match self.ledger.await_confirmation(intent.block, self.patience()).await {
                Ok(Sighting::Confirmed(confirmed)) => facts = confirmed,
                Ok(Sighting::Unconfirmed(_) | Sighting::Unknown) | Err(_) => return pending,
            }
        }
        tracing::info!(block = %intent.block, "an unfinished payment is confirmed");
        self.grant(Confirmed::by_ledger(intent, &facts), watch).await
    }

    /// Fails or parks an intent whose block no node knows.
    async fn set_aside(&self, block: &StateBlock) {
        let to = match self.was_overtaken(block).await {
            Some(true) => PaymentState::Failed,
            Some(false) => PaymentState::Parked,
            None => return,
        };
        let from = [PaymentState::Intent, PaymentState::Parked];
        match self.store.advance(block.hash(), &from, to, self.clock.now()).await {
            Ok(_) => tracing::info!(block = %block.hash(), ?to, "an unfinished payment is set aside"),
            Err(error) => tracing::warn!(block = %block.hash(), %error, "not set aside"),
        }
    }
}
