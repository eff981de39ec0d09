//! Compares the journal with the ledger: is every granted payment on the ledger, and is every send to
//! the pool a granted payment?
//!
//! Both are only read. The ledger is read first. The journal has each payment before it is broadcast,
//! so a payment under way is not mistaken for an unclaimed one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;

use crate::ledger::node::NodeLedger;
use crate::ledger::{Ledger, LedgerError};
use crate::nano::{Account, BlockHash, Raw};
use crate::payment::BlockKind;
use crate::store::{Filter, PaymentJournal, PaymentRecord, PaymentState, StoreError};

/// Payments in one page of the journal.
const PAGE: usize = 500;

/// Concurrent calls to the nodes.
const AT_ONCE: usize = 16;

/// Why journal and ledger could not be compared. It does not mean that they differ.
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
    /// The sender, if the node reports it.
    pub sender: Option<Account>,
    /// The address of the pool.
    pub account: Account,
    /// Whether the pool has received it; else it is still receivable.
    pub received: bool,
}

/// A difference between journal and ledger.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Discrepancy {
    /// Granted, but no node knows the block.
    Missing(PaymentRecord),
    /// Granted, but the block is not confirmed.
    Unconfirmed(PaymentRecord),
    /// Granted and confirmed, but the nodes do not list the send among those to the pool. Their lists are
    /// incomplete, so unclaimed sends may be missing too.
    Unlisted(PaymentRecord),
    /// Granted, but the block is not the send that the journal has.
    Different { payment: PaymentRecord, found: BlockKind },
    /// Paid, but the journal has given the payment up.
    NotGranted { payment: PaymentRecord, arrival: Arrival },
    /// Paid, but not in the journal. A late proof may still redeem it.
    Unclaimed(Arrival),
}

/// The outcome of the comparison.
#[derive(Clone, Debug, Default)]
pub struct Reconciliation {
    /// How many granted payments were looked up on the ledger.
    pub payments: usize,
    /// What they moved, in raw.
    pub revenue: Raw,
    /// How many sends to the pool were looked up in the journal.
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

    /// Compares both, in both directions.
    ///
    /// # Errors
    /// [`ReconcileError`] if either cannot be read.
    pub async fn reconcile(&self) -> Result<Reconciliation, ReconcileError> {
        let arrivals = self.arrivals(&self.pool).await?;
        let mut outcome = Reconciliation { arrivals: arrivals.len(), ..Reconciliation::default() };
        let listed = arrivals.iter().map(|it| it.send).collect();
        let unlisted = self.check_granted(&mut outcome, &listed).await?;
        outcome.discrepancies.extend(self.still_unlisted(unlisted).await?);
        outcome.discrepancies.extend(self.without_grant(arrivals).await?);
        Ok(outcome)
    }

    /// The sends to the pool, received or not, that no payment claims.
    ///
    /// # Errors
    /// [`ReconcileError`] if either cannot be read.
    pub async fn unclaimed(&self) -> Result<Vec<Arrival>, ReconcileError> {
        let found = self.without_grant(self.arrivals(&self.pool).await?).await?.into_iter();
        Ok(found
            .filter_map(|it| match it {
                Discrepancy::Unclaimed(arrival) => Some(arrival),
                Discrepancy::Missing(_)
                | Discrepancy::Unconfirmed(_)
                | Discrepancy::Unlisted(_)
                | Discrepancy::Different { .. }
                | Discrepancy::NotGranted { .. } => None,
            })
            .collect())
    }

    /// The confirmed sends to the pool that it has not received.
    ///
    /// # Errors
    /// [`LedgerError`] if no node answered.
    pub async fn waiting(&self) -> Result<Vec<Arrival>, LedgerError> {
        self.receivable(&self.pool).await
    }

    /// The confirmed sends to `accounts` that they have not received.
    async fn receivable(&self, accounts: &[Account]) -> Result<Vec<Arrival>, LedgerError> {
        let found = self.ledger.client().accounts_receivable(accounts).await?;
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

    /// Every confirmed send to `accounts`, each once, even if it is received between the two reads.
    async fn arrivals(&self, accounts: &[Account]) -> Result<Vec<Arrival>, LedgerError> {
        let waiting = self.receivable(accounts).await?;
        let received = self.received(accounts).await?;
        let by_send: BTreeMap<_, _> = waiting.into_iter().chain(received).map(|it| (it.send, it)).collect();
        Ok(by_send.into_values().collect())
    }

    /// The sends that `accounts` have received.
    async fn received(&self, accounts: &[Account]) -> Result<Vec<Arrival>, LedgerError> {
        let mut histories = stream::iter(accounts.to_vec())
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
    /// [`StoreError`] if the journal cannot be read.
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

    /// Looks up every granted payment on the ledger. Returns those to the pool that are not among the
    /// `listed` sends.
    async fn check_granted(
        &self,
        outcome: &mut Reconciliation,
        listed: &BTreeSet<BlockHash>,
    ) -> Result<Vec<PaymentRecord>, ReconcileError> {
        let pool: BTreeSet<_> = self.pool.iter().copied().collect();
        let mut unlisted = Vec::new();
        let filter = Filter { state: Some(PaymentState::Granted) };
        let mut after = 0;
        loop {
            let page = self.store.scan(after, filter, PAGE).await?;
            let Some(last) = page.last() else { return Ok(unlisted) };
            after = last.sequence;
            outcome.payments = outcome.payments.saturating_add(page.len());
            let mut checks = stream::iter(page)
                .map(|payment| async move { (self.ledger.block(payment.intent.block).await, payment) })
                .buffered(AT_ONCE);
            while let Some((facts, payment)) = checks.next().await {
                outcome.revenue = outcome.revenue.checked_add(payment.intent.amount).unwrap_or(Raw::MAX);
                let intent = &payment.intent;
                let expected = BlockKind::Send {
                    account: intent.payer,
                    destination: intent.pay_to,
                    amount: intent.amount,
                };
                match facts? {
                    None => outcome.discrepancies.push(Discrepancy::Missing(payment)),
                    Some(facts) if facts.kind() != expected => {
                        outcome.discrepancies.push(Discrepancy::Different { payment, found: facts.kind() });
                    }
                    Some(facts) if !facts.confirmed() => {
                        outcome.discrepancies.push(Discrepancy::Unconfirmed(payment));
                    }
                    Some(_) if pool.contains(&intent.pay_to) && !listed.contains(&intent.block) => {
                        unlisted.push(payment);
                    }
                    Some(_) => {}
                }
            }
        }
    }

    /// Those of `payments` that a second reading does not list either: the others were granted after
    /// the first one.
    async fn still_unlisted(&self, payments: Vec<PaymentRecord>) -> Result<Vec<Discrepancy>, LedgerError> {
        let accounts: BTreeSet<_> = payments.iter().map(|it| it.intent.pay_to).collect();
        let arrivals = self.arrivals(&Vec::from_iter(accounts)).await?;
        let listed: BTreeSet<_> = arrivals.iter().map(|it| it.send).collect();
        let unlisted = payments.into_iter().filter(|it| !listed.contains(&it.intent.block));
        Ok(unlisted.map(Discrepancy::Unlisted).collect())
    }
}
