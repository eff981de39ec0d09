//! Reads what a plan is made of. The nodes only say which block is the newest and which sends wait; the
//! balances and amounts are proven by hashes.

use std::time::Duration;

use super::SweepError;
use crate::ledger::LedgerError;
use crate::ledger::node::{AccountInfo, NodeLedger, Receivable};
use crate::nano::{Account, BlockHash, ProvenHead, Raw};
use crate::store::deposits::Deposit;
use crate::sweep::PoolAccount;

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
    let head = match confirmed(ledger, account, wait).await? {
        Some(info) => ledger.proven_head(account, info.frontier).await?,
        None => ProvenHead::unopened(account),
    };
    let listed = ledger.client().receivable(account, RECEIVABLE, Raw::new(1)).await?;
    let receivable = ledger.proven_sends(account, &listed).await?;
    let deposit = |it: &Receivable| Deposit { block: it.hash, account, sender: it.source, amount: it.amount };
    let deposits = listed.iter().map(deposit).collect();
    Ok((PoolAccount { head, receivable }, deposits))
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
