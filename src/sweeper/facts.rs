//! Reads from the nodes what a plan needs, without trusting them.
//!
//! The balance comes from the frontier block, whose hash covers it. A false frontier or amount makes
//! blocks that the network refuses; only a balance that is too low could cost money.

use std::time::Duration;

use super::SweepError;
use crate::ledger::LedgerError;
use crate::ledger::node::{AccountInfo, Contents, NodeLedger, Receivable};
use crate::nano::{Account, BlockHash, Raw};
use crate::store::deposits::Deposit;
use crate::sweep::{Head, PoolAccount, ReceivableSend};

/// The most receivable sends in one plan. The next plan takes the rest.
const RECEIVABLE: u32 = 2000;

/// The pause between two reads of an account whose newest block is not confirmed.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// Reads an account and its receivable sends, once its newest block is confirmed. Waits for that for
/// at most `wait`.
pub(super) async fn read(
    ledger: &NodeLedger,
    account: Account,
    wait: Duration,
) -> Result<(PoolAccount, Vec<Deposit>), SweepError> {
    let info = confirmed(ledger, account, wait).await?;
    let head = match info {
        Some(info) => Some(head(ledger, account, info.frontier).await?),
        None => None,
    };
    let receivable = ledger.client().receivable(account, RECEIVABLE, Raw::new(1)).await?;
    let deposit = |it: &Receivable| Deposit { block: it.hash, account, sender: it.source, amount: it.amount };
    let deposits = receivable.iter().map(deposit).collect();
    let receivable =
        receivable.iter().map(|it| ReceivableSend { hash: it.hash, amount: it.amount }).collect();
    Ok((PoolAccount { account, head, receivable }, deposits))
}

async fn confirmed(
    ledger: &NodeLedger,
    account: Account,
    wait: Duration,
) -> Result<Option<AccountInfo>, SweepError> {
    let mut frontier = BlockHash::ZERO;
    let looks = async {
        loop {
            match ledger.client().account_info(account).await? {
                Some(info) if info.confirmed_frontier != info.frontier => frontier = info.frontier,
                settled => return Ok::<_, LedgerError>(settled),
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    };
    match tokio::time::timeout(wait, looks).await {
        Ok(settled) => Ok(settled?),
        Err(_elapsed) if frontier == BlockHash::ZERO => Err(LedgerError::TimedOut.into()),
        Err(_elapsed) => Err(SweepError::Unsettled(frontier)),
    }
}

async fn head(ledger: &NodeLedger, account: Account, frontier: BlockHash) -> Result<Head, SweepError> {
    let disbelieve = |why: String| SweepError::from(LedgerError::NotBelieved(why));
    let info = ledger.client().block_info(frontier).await?;
    let info = info.ok_or_else(|| disbelieve(format!("no node has the frontier {frontier}")))?;
    match info.contents {
        Contents::State(block) if block.hash() == frontier && block.account == account => {
            Ok(Head { hash: frontier, balance: block.balance, representative: block.representative })
        }
        Contents::State(block) => Err(disbelieve(format!(
            "asked for the frontier {frontier} of {account}, the contents that came hash to {}",
            block.hash()
        ))),
        Contents::Legacy(_) => Err(SweepError::Legacy(frontier)),
    }
}
