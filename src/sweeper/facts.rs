//! What a plan is made of, read from nodes that are not taken at their word.
//!
//! The balance comes from the frontier block, whose hash covers it. A frontier or an amount that is
//! not so makes blocks that the network refuses; only an understated balance could cost money.

use std::time::Duration;

use super::SweepError;
use crate::ledger::LedgerError;
use crate::ledger::node::{AccountInfo, Contents, NodeLedger, Receivable};
use crate::nano::{Account, BlockHash, Raw};
use crate::store::deposits::Deposit;
use crate::sweep::{Head, PoolAccount, Waiting};

/// Receivable blocks of one plan; the next plan takes those beyond.
const WAITING: u32 = 2000;

/// The pause between two looks at an account whose newest block is not confirmed.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// Reads an account and what waits for it, once everything on it is confirmed, which may take `wait`.
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
    let waiting = ledger.client().receivable(account, WAITING, Raw::new(1)).await?;
    let deposit = |it: &Receivable| Deposit { block: it.hash, account, sender: it.source, amount: it.amount };
    let deposits = waiting.iter().map(deposit).collect();
    let waiting = waiting.iter().map(|it| Waiting { hash: it.hash, amount: it.amount }).collect();
    Ok((PoolAccount { account, head, waiting }, deposits))
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
