//! The wallet's own account: its head, and the blocks that continue it.
//!
//! A block builds on the newest block, which must be confirmed. Two blocks on the same predecessor are
//! a fork, of which the network confirms one; the wallet's lock lets only one be made at a time.
//! Nothing is signed on a node's word: balance, representative and amounts are proven by hashes
//! ([`crate::nano::UnsignedBlock`]).

use std::fmt;
use std::time::Duration;

use tokio::sync::OnceCell;

use super::offer::PayableEntry;
use super::{WalletError, WalletOptions, refuse_hard};
use crate::ledger::node::{NodeClient, NodeLedger, ProcessError, Receivable, Subtype};
use crate::ledger::work::WorkSource;
use crate::ledger::{Ledger, LedgerError, Sighting};
use crate::nano::{
    Account, ProvenHead, ProvenSend, Raw, Signature, StateBlock, Threshold, Thresholds, UnsignedBlock,
};
use crate::payment::Mechanism;
use crate::vault::Vault;

/// The most blocks that are received for one payment; each costs work.
const MAX_RECEIVES: u32 = 64;

/// The pause before the account is looked at again.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// One account, its key, and its access to the network.
pub(super) struct PayerChain {
    vault: Vault,
    index: u32,
    account: Account,
    ledger: NodeLedger,
    work: WorkSource,
    configured: Option<Thresholds>,
    thresholds: OnceCell<Thresholds>,
    confirm_wait: Duration,
}

impl fmt::Debug for PayerChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayerChain").field("account", &self.account).finish_non_exhaustive()
    }
}

impl PayerChain {
    pub(super) fn new(
        vault: Vault,
        index: u32,
        nodes: NodeClient,
        work: WorkSource,
        options: &WalletOptions,
    ) -> Self {
        Self {
            account: vault.account(index),
            vault,
            index,
            ledger: NodeLedger::new(nodes),
            work,
            configured: options.thresholds,
            thresholds: OnceCell::new(),
            confirm_wait: options.confirm_wait,
        }
    }

    pub(super) const fn account(&self) -> Account {
        self.account
    }

    pub(super) fn sign_message(&self, message: &str) -> Option<Signature> {
        self.vault.sign_message(self.index, message)
    }

    /// A signed send of what `entry` asks, not published. If the balance is too small, waiting sends
    /// are received first. `last` is the block that was made before, which the node may not show yet.
    pub(super) async fn send(
        &self,
        last: Option<&StateBlock>,
        entry: &PayableEntry,
    ) -> Result<StateBlock, WalletError> {
        let head = self.settled(last).await?;
        let head = self.funded(head, entry.amount()).await?;
        let block = head.send(entry.pay_to(), entry.amount()).map_err(LedgerError::from)?;
        let threshold = match (entry.mechanism, entry.threshold) {
            (Mechanism::NanoTxn, Some(threshold)) => threshold,
            (Mechanism::NanoTxn, None) | (Mechanism::NanoSignature | Mechanism::NanoSession, _) => {
                self.thresholds().await?.send
            }
        };
        self.finish(&block, threshold).await
    }

    /// Publishes a send and waits for its confirmation. Also returns if the block is out and not
    /// confirmed yet: the gateway waits for the rest.
    ///
    /// # Errors
    /// No node accepted it, and none knows it.
    pub(super) async fn publish_send(&self, block: &StateBlock) -> Result<(), ProcessError> {
        let hash = block.hash();
        let published = self.ledger.client().process(block, Subtype::Send).await;
        let seen = self.ledger.await_confirmation(hash, self.confirm_wait).await;
        match (published, seen) {
            // An error of `process` does not mean that the block is not out
            // ([nodes guide](crate::guide::nodes)). That no node knows it is the best proof there is.
            // Without an answer the gateway's node decides.
            (Err(error), Ok(Sighting::Unknown)) => Err(error),
            (Ok(()), _) | (Err(_), Err(_) | Ok(Sighting::Confirmed(_) | Sighting::Unconfirmed(_))) => Ok(()),
        }
    }

    /// The head of the account, once all its blocks are confirmed, `last` included.
    async fn settled(&self, last: Option<&StateBlock>) -> Result<ProvenHead, WalletError> {
        let looks = async {
            loop {
                let info = self.ledger.client().account_info(self.account).await?;
                let confirmed = info.as_ref().is_none_or(|info| info.confirmed_frontier == info.frontier);
                if confirmed {
                    let head = match info {
                        Some(info) => self.ledger.proven_head(self.account, info.frontier).await?,
                        None => ProvenHead::unopened(self.account),
                    };
                    // A node that shows the block before `last` as the newest has not seen `last`.
                    if last.is_none_or(|last| last.previous != head.hash()) {
                        return Ok::<_, LedgerError>(head);
                    }
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        };
        match tokio::time::timeout(self.confirm_wait, looks).await {
            Ok(head) => Ok(head?),
            Err(_elapsed) => Err(WalletError::Unsettled { account: self.account, wait: self.confirm_wait }),
        }
    }

    /// The head with at least `needed` raw, after receiving waiting sends, the largest first.
    async fn funded(&self, mut head: ProvenHead, needed: Raw) -> Result<ProvenHead, WalletError> {
        if head.balance() >= needed {
            return Ok(head);
        }
        let waiting = self.ledger.client().receivable(self.account, MAX_RECEIVES, Raw::new(1)).await?;
        let sum = |sum: Raw, it: &Receivable| sum.checked_add(it.amount).unwrap_or(Raw::MAX);
        let receivable = waiting.iter().fold(Raw::ZERO, sum);
        // Checked before any work is computed.
        if head.balance().checked_add(receivable).unwrap_or(Raw::MAX) < needed {
            let (account, balance) = (self.account, head.balance());
            return Err(WalletError::NoFunds { account, needed, balance, receivable });
        }
        for send in self.ledger.proven_sends(self.account, &waiting).await? {
            if head.balance() >= needed {
                break;
            }
            head = self.receive(&head, &send).await?;
        }
        Ok(head)
    }

    /// Receives one send and waits for the confirmation.
    async fn receive(&self, head: &ProvenHead, send: &ProvenSend) -> Result<ProvenHead, WalletError> {
        let unsigned = head.receive(send).map_err(LedgerError::from)?;
        let block = self.finish(&unsigned, self.thresholds().await?.receive).await?;
        let hash = block.hash();
        let subtype = if head.is_open() { Subtype::Receive } else { Subtype::Open };
        let published = self.ledger.client().process(&block, subtype).await;
        match (published, self.ledger.await_confirmation(hash, self.confirm_wait).await) {
            (_, Ok(Sighting::Confirmed(_))) => Ok(ProvenHead::after(&unsigned)),
            (Err(error), Ok(Sighting::Unknown) | Err(_)) => Err(WalletError::NotReceived { hash, error }),
            (Ok(()), Err(error)) => Err(error.into()),
            (_, Ok(Sighting::Unconfirmed(_))) | (Ok(()), Ok(Sighting::Unknown)) => {
                Err(WalletError::Unsettled { account: self.account, wait: self.confirm_wait })
            }
        }
    }

    /// The block with work and signature.
    async fn finish(&self, block: &UnsignedBlock, threshold: Threshold) -> Result<StateBlock, WalletError> {
        let work = self.work.work(block.work_root(), threshold).await?;
        Ok(self.vault.sign(self.index, block, work))
    }

    /// The network's work thresholds: from the options, else from a node, else the main network's.
    async fn thresholds(&self) -> Result<Thresholds, WalletError> {
        if let Some(configured) = self.configured {
            return Ok(configured);
        }
        let thresholds = self
            .thresholds
            .get_or_init(|| async {
                self.ledger.client().thresholds().await.unwrap_or_else(|error| {
                    tracing::debug!(%error, "no node gives work thresholds, the main network's are used");
                    Thresholds::MAINNET
                })
            })
            .await;
        refuse_hard(thresholds.send.max(thresholds.receive))?;
        Ok(*thresholds)
    }
}
