//! The wallet's own account: its state, and the blocks that continue it.
//!
//! A block builds on the newest confirmed one. Two blocks on the same predecessor are a fork, of
//! which the network confirms one; the wallet's turn sees to it that only one is made at a time.

use std::fmt;
use std::time::Duration;

use tokio::sync::OnceCell;

use super::offer::PayableEntry;
use super::{MAX_THRESHOLD, WalletError, WalletOptions};
use crate::ledger::node::{NodeClient, NodeLedger, Receivable, Subtype};
use crate::ledger::work::WorkSource;
use crate::ledger::{Ledger, LedgerError, Sighting};
use crate::nano::{Account, BlockHash, Raw, Representative, Signature, StateBlock, Threshold, Thresholds};
use crate::payment::Mechanism;
use crate::vault::Vault;

/// So many blocks are received for one payment at most; each costs work.
const MAX_RECEIVES: u32 = 64;

/// The pause between two looks at the account.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// An account as its next block needs it.
#[derive(Clone, Copy)]
struct State {
    /// Zero where there is no block yet.
    frontier: BlockHash,
    balance: Raw,
    representative: Representative,
}

/// What an account's next block says; the rest follows.
struct Step {
    balance: Raw,
    link: [u8; 32],
    threshold: Threshold,
}

/// One account, its key and what it needs of the network.
pub(super) struct Chain {
    vault: Vault,
    index: u32,
    account: Account,
    ledger: NodeLedger,
    work: WorkSource,
    configured: Option<Thresholds>,
    thresholds: OnceCell<Thresholds>,
    confirm_wait: Duration,
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("account", &self.account).finish_non_exhaustive()
    }
}

impl Chain {
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

    /// A signed send of what `entry` asks, not published. Funds that wait to be received are
    /// received first where the balance is too small. `last` is the block made before, which the
    /// node may not show yet.
    pub(super) async fn send(
        &self,
        last: Option<&StateBlock>,
        entry: &PayableEntry,
    ) -> Result<StateBlock, WalletError> {
        let state = self.settled(last).await?;
        let state = self.funded(state, entry.amount()).await?;
        let balance = state.balance.checked_sub(entry.amount()).ok_or(WalletError::NoFunds {
            account: self.account,
            needed: entry.amount(),
            balance: state.balance,
            receivable: Raw::ZERO,
        })?;
        let threshold = match (entry.mechanism, entry.threshold) {
            (Mechanism::NanoTxn, Some(threshold)) => threshold,
            (Mechanism::NanoTxn, None) | (Mechanism::NanoSignature | Mechanism::NanoSession, _) => {
                self.thresholds().await?.send
            }
        };
        self.next(&state, Step { balance, link: entry.pay_to().0, threshold }).await
    }

    /// Publishes a send and waits for its confirmation. It returns as well when the block is out
    /// and not confirmed yet: the gateway has the patience for the rest.
    pub(super) async fn publish_send(&self, block: &StateBlock) -> Result<(), WalletError> {
        let hash = block.hash();
        let told = self.ledger.client().process(block, Subtype::Send).await;
        let seen = self.ledger.await_confirmation(hash, self.confirm_wait).await;
        match (told, seen) {
            // An error of `process` is no proof that the block is not out (NODE trap 1); that no
            // node knows it is as good a proof as there is. Without either, the gateway's node is
            // left to tell.
            (Err(error), Ok(Sighting::Unknown)) => Err(WalletError::NotSent { hash, error }),
            (Ok(()), _) | (Err(_), Err(_) | Ok(Sighting::Confirmed(_) | Sighting::Unconfirmed(_))) => Ok(()),
        }
    }

    /// The account once everything on it is confirmed, `last` included.
    async fn settled(&self, last: Option<&StateBlock>) -> Result<State, WalletError> {
        let looks = async {
            loop {
                let info = self.ledger.client().account_info(self.account).await?;
                let state = info.map_or(self.unopened(), |info| State {
                    frontier: info.frontier,
                    balance: info.balance,
                    representative: info.representative,
                });
                let confirmed = info.is_none_or(|info| info.confirmed_frontier == info.frontier);
                // While the node stands where `last` was built, it has not seen `last`.
                if confirmed && last.is_none_or(|last| last.previous != state.frontier) {
                    return Ok::<_, LedgerError>(state);
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        };
        match tokio::time::timeout(self.confirm_wait, looks).await {
            Ok(state) => Ok(state?),
            Err(_elapsed) => Err(WalletError::Unsettled { account: self.account, wait: self.confirm_wait }),
        }
    }

    /// An account without a block; the first one names the account as its own representative.
    const fn unopened(&self) -> State {
        State { frontier: BlockHash::ZERO, balance: Raw::ZERO, representative: Representative(self.account) }
    }

    /// The account with at least `needed`, after receiving what waits for it, the largest first.
    async fn funded(&self, mut state: State, needed: Raw) -> Result<State, WalletError> {
        if state.balance >= needed {
            return Ok(state);
        }
        let waiting = self.ledger.client().receivable(self.account, MAX_RECEIVES, Raw::new(1)).await?;
        let receivable =
            waiting.iter().try_fold(Raw::ZERO, |sum, it| sum.checked_add(it.amount)).unwrap_or(Raw::MAX);
        // Before any work is done for what will not be enough.
        if state.balance.checked_add(receivable).unwrap_or(Raw::MAX) < needed {
            return Err(WalletError::NoFunds {
                account: self.account,
                needed,
                balance: state.balance,
                receivable,
            });
        }
        for send in waiting {
            if state.balance >= needed {
                break;
            }
            state = self.receive(&state, &send).await?;
        }
        Ok(state)
    }

    /// Receives one send and waits until that is confirmed.
    async fn receive(&self, state: &State, send: &Receivable) -> Result<State, WalletError> {
        let balance = state
            .balance
            .checked_add(send.amount)
            .ok_or_else(|| LedgerError::NotBelieved(format!("{} raw more than can exist", send.amount)))?;
        let threshold = self.thresholds().await?.receive;
        let block = self.next(state, Step { balance, link: send.hash.0, threshold }).await?;
        let hash = block.hash();
        let subtype = if state.frontier == BlockHash::ZERO { Subtype::Open } else { Subtype::Receive };
        let told = self.ledger.client().process(&block, subtype).await;
        match (told, self.ledger.await_confirmation(hash, self.confirm_wait).await) {
            (_, Ok(Sighting::Confirmed(_))) => Ok(State { frontier: hash, balance, ..*state }),
            (Err(error), Ok(Sighting::Unknown) | Err(_)) => Err(WalletError::NotReceived { hash, error }),
            (Ok(()), Err(error)) => Err(error.into()),
            (_, Ok(Sighting::Unconfirmed(_))) | (Ok(()), Ok(Sighting::Unknown)) => {
                Err(WalletError::Unsettled { account: self.account, wait: self.confirm_wait })
            }
        }
    }

    /// The account's next block, with work and signature.
    async fn next(&self, state: &State, step: Step) -> Result<StateBlock, WalletError> {
        let mut block = StateBlock {
            account: self.account,
            previous: state.frontier,
            representative: state.representative,
            balance: step.balance,
            link: step.link,
            signature: Signature([0; 64]),
            work: None,
        };
        block.work = Some(self.work.work(block.work_root(), step.threshold).await?);
        Ok(self.vault.sign(self.index, &block))
    }

    /// What the network asks of work: as configured, as the node says, or as the main network does.
    async fn thresholds(&self) -> Result<Thresholds, WalletError> {
        if let Some(configured) = self.configured {
            return Ok(configured);
        }
        let thresholds = self
            .thresholds
            .get_or_init(|| async {
                self.ledger.client().thresholds().await.unwrap_or_else(|error| {
                    tracing::debug!(%error, "no node says its thresholds, the main network's are taken");
                    Thresholds::MAINNET
                })
            })
            .await;
        let asked = thresholds.send.max(thresholds.receive);
        if asked > MAX_THRESHOLD { Err(WalletError::WorkTooHard { asked }) } else { Ok(*thresholds) }
    }
}
