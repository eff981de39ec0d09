//! Holds the journal against the ledger: is every payment that was granted on it, and is every send
//! to the pool a payment that was granted?
//!
//! Reads both and changes neither. The ledger is read before the journal, which has each payment
//! before it is broadcast: what is under way is not mistaken for unclaimed.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;

use crate::ledger::node::NodeLedger;
use crate::ledger::{Ledger, LedgerError};
use crate::nano::{Account, BlockHash, Raw};
use crate::payment::BlockKind;
use crate::store::{Filter, PaymentJournal, PaymentRecord, PaymentState, StoreError};

/// Payments of one page of the journal.
const PAGE: usize = 500;

/// Questions to the nodes side by side.
const AT_ONCE: usize = 16;

/// Why the books cannot be held against each other. It says nothing about them.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error("the nodes: {0}")]
    Ledger(#[from] LedgerError),
    #[error("the journal: {0}")]
    Store(#[from] StoreError),
}

/// A confirmed send to an address of the pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Arrival {
    pub send: BlockHash,
    pub amount: Raw,
    /// Where the node says.
    pub sender: Option<Account>,
    /// The address of the pool.
    pub account: Account,
    /// Whether the pool has received it, or it still waits.
    pub received: bool,
}

/// What the two do not agree about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Discrepancy {
    /// Granted, and no node knows the block.
    Missing(PaymentRecord),
    /// Granted, and the block is not confirmed.
    Unconfirmed(PaymentRecord),
    /// Granted, and the block is another send than the journal says, or none.
    Different { payment: PaymentRecord, found: BlockKind },
    /// Paid, and the journal has given the payment up.
    NotGranted { payment: PaymentRecord, arrival: Arrival },
    /// Paid, and the journal knows nothing of it. A late proof may still redeem it.
    Unclaimed(Arrival),
}

/// What came of holding the books against each other.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Granted payments that were looked for on the ledger.
    pub payments: usize,
    /// What they moved, in raw.
    pub revenue: Raw,
    /// Sends to the pool that were looked for in the journal.
    pub arrivals: usize,
    pub discrepancies: Vec<Discrepancy>,
}

/// The journal, and the ledger of the pool's addresses.
#[derive(Debug)]
pub struct Books<S> {
    ledger: NodeLedger,
    store: Arc<S>,
    pool: Vec<Account>,
}

impl<S: PaymentJournal> Books<S> {
    #[must_use]
    pub const fn new(ledger: NodeLedger, store: Arc<S>, pool: Vec<Account>) -> Self {
        Self { ledger, store, pool }
    }

    /// Both directions.
    ///
    /// # Errors
    /// [`ReconcileError`], when either cannot be read.
    pub async fn reconcile(&self) -> Result<Outcome, ReconcileError> {
        let arrivals = self.arrivals().await?;
        let mut outcome = Outcome { arrivals: arrivals.len(), ..Outcome::default() };
        self.check_granted(&mut outcome).await?;
        outcome.discrepancies.extend(self.without_grant(arrivals).await?);
        Ok(outcome)
    }

    /// The sends to the pool, received or not, that no payment claims.
    ///
    /// # Errors
    /// [`ReconcileError`], when either cannot be read.
    pub async fn unclaimed(&self) -> Result<Vec<Arrival>, ReconcileError> {
        let found = self.without_grant(self.arrivals().await?).await?.into_iter();
        Ok(found
            .filter_map(|it| match it {
                Discrepancy::Unclaimed(arrival) => Some(arrival),
                Discrepancy::Missing(_)
                | Discrepancy::Unconfirmed(_)
                | Discrepancy::Different { .. }
                | Discrepancy::NotGranted { .. } => None,
            })
            .collect())
    }

    /// The confirmed sends that wait at the pool.
    ///
    /// # Errors
    /// [`LedgerError`], when no node answered.
    pub async fn waiting(&self) -> Result<Vec<Arrival>, LedgerError> {
        let found = self.ledger.client().accounts_receivable(&self.pool).await?;
        let arrival = |account, it: crate::ledger::node::Receivable| Arrival {
            send: it.hash,
            amount: it.amount,
            sender: it.source,
            account,
            received: false,
        };
        let each =
            |(account, blocks): (Account, Vec<_>)| blocks.into_iter().map(move |it| arrival(account, it));
        Ok(found.into_iter().flat_map(each).collect())
    }

    /// Every confirmed send to the pool, each once: one may be received between the two readings.
    async fn arrivals(&self) -> Result<Vec<Arrival>, LedgerError> {
        let waiting = self.waiting().await?;
        let received = self.received().await?;
        let by_send: BTreeMap<_, _> = waiting.into_iter().chain(received).map(|it| (it.send, it)).collect();
        Ok(by_send.into_values().collect())
    }

    /// The sends that the pool has received.
    async fn received(&self) -> Result<Vec<Arrival>, LedgerError> {
        let mut histories = stream::iter(self.pool.clone())
            .map(|account| async move { (account, self.ledger.client().received(account).await) })
            .buffered(AT_ONCE);
        let mut arrivals = Vec::new();
        while let Some((account, history)) = histories.next().await {
            arrivals.extend(history?.into_iter().map(|it| Arrival {
                send: it.send,
                amount: it.amount,
                sender: it.source,
                account,
                received: true,
            }));
        }
        Ok(arrivals)
    }

    /// Those of `arrivals` that no payment claims, or whose payment was given up.
    ///
    /// # Errors
    /// [`StoreError`], when the journal cannot be read.
    pub async fn without_grant(&self, arrivals: Vec<Arrival>) -> Result<Vec<Discrepancy>, StoreError> {
        let mut found = Vec::new();
        for arrival in arrivals {
            match self.store.payment(arrival.send).await? {
                None => found.push(Discrepancy::Unclaimed(arrival)),
                Some(payment) => match payment.state {
                    PaymentState::Granted | PaymentState::Intent => {}
                    PaymentState::Parked | PaymentState::Failed => {
                        found.push(Discrepancy::NotGranted { payment, arrival });
                    }
                },
            }
        }
        Ok(found)
    }

    /// Looks for every granted payment on the ledger.
    async fn check_granted(&self, outcome: &mut Outcome) -> Result<(), ReconcileError> {
        let filter = Filter { state: Some(PaymentState::Granted) };
        let mut after = 0;
        loop {
            let page = self.store.scan(after, filter, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.sequence;
            outcome.payments = outcome.payments.saturating_add(page.len());
            let mut checks = stream::iter(page)
                .map(|payment| async move { (self.ledger.block(payment.intent.block).await, payment) })
                .buffered(AT_ONCE);
            while let Some((facts, payment)) = checks.next().await {
                outcome.revenue = outcome.revenue.checked_add(payment.intent.amount).unwrap_or(Raw::MAX);
                let intent = &payment.intent;
                let said = BlockKind::Send {
                    account: intent.payer,
                    destination: intent.pay_to,
                    amount: intent.amount,
                };
                match facts? {
                    None => outcome.discrepancies.push(Discrepancy::Missing(payment)),
                    Some(facts) if facts.kind() != said => {
                        outcome.discrepancies.push(Discrepancy::Different { payment, found: facts.kind() });
                    }
                    Some(facts) if !facts.confirmed() => {
                        outcome.discrepancies.push(Discrepancy::Unconfirmed(payment));
                    }
                    Some(_) => {}
                }
            }
        }
    }
}
