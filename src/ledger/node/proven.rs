//! What a block to be signed is made of, proven: the head of an account and the sends that it receives.
//!
//! Nodes only say which block is the newest and which sends wait. Balances and amounts come from blocks
//! whose hashes are recomputed here, so that a node that lies about them gets nothing signed. One amount
//! cannot be proven so: that of a send that is, or follows, a block from before state blocks
//! ([`ProvenSend::listed`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::contents::check_contents;
use super::reads::{block_info_call, blocks_info_call};
use super::transport::Node;
use super::{BlockInfo, Contents, NodeLedger, Receivable, answer};
use crate::ledger::LedgerError;
use crate::nano::{Account, BlockHash, ProvenHead, ProvenSend, StateBlock};

/// Blocks of one call.
const BATCH: usize = 256;
/// Blocks that are asked for at the same time, each by itself, if a call for many did not give them.
const SINGLES: usize = 16;

impl NodeLedger {
    /// The head of `account`, whose newest block is `frontier`.
    ///
    /// # Errors
    /// [`LedgerError::NotBelieved`], if no node gives contents with that hash, or they are of another
    /// account; [`LedgerError::Legacy`]; else if no node answered.
    pub async fn proven_head(
        &self,
        account: Account,
        frontier: BlockHash,
    ) -> Result<ProvenHead, LedgerError> {
        Ok(ProvenHead::of_block(account, frontier, &self.state_block(frontier).await?)?)
    }

    /// The sends to `account` that a node has listed, in the same order.
    ///
    /// # Errors
    /// [`LedgerError::NotBelieved`], if no node gives contents with one of the hashes, or one of them sends
    /// another amount than the node said; else if no node answered.
    pub async fn proven_sends(
        &self,
        account: Account,
        listed: &[Receivable],
    ) -> Result<Vec<ProvenSend>, LedgerError> {
        let mut blocks = self.looked_up(listed.iter().map(|it| it.hash).collect()).await?;
        let unknown = |it: &BlockHash| *it != BlockHash::ZERO && !blocks.contains_key(it);
        let before = blocks.values().flatten().map(|it| it.previous).filter(unknown).collect();
        blocks.extend(self.looked_up(before).await?);
        let prove = |listed: &Receivable| {
            let Receivable { hash, amount, .. } = *listed;
            let Some(block) = blocks.get(&hash).ok_or_else(|| missing(hash))? else {
                return Ok(ProvenSend::listed(hash, account, amount));
            };
            let before = match blocks.get(&block.previous) {
                Some(None) if block.destination() == account => {
                    return Ok(ProvenSend::listed(hash, account, amount));
                }
                known => known.and_then(Option::as_ref),
            };
            let send = ProvenSend::of_blocks(hash, block, before)?;
            if send.amount() == amount {
                return Ok(send);
            }
            let why =
                format!("block {hash} sends {} raw, not the {amount} raw that were listed", send.amount());
            Err(LedgerError::NotBelieved(why))
        };
        listed.iter().map(prove).collect()
    }

    /// The block `hash`, which its account's key has signed. No node can make one up.
    ///
    /// # Errors
    /// [`LedgerError::NotBelieved`], if no node gives contents with that hash, or they are not signed;
    /// [`LedgerError::Legacy`]; else if no node answered.
    pub async fn signed_block(&self, hash: BlockHash) -> Result<StateBlock, LedgerError> {
        let block = self.state_block(hash).await?;
        block.verify().map_err(|error| LedgerError::NotBelieved(format!("block {hash}: {error}")))?;
        Ok(block)
    }

    /// Blocks by their recomputed hashes, all that are asked for; `None` for one from before state blocks.
    async fn looked_up(
        &self,
        mut hashes: Vec<BlockHash>,
    ) -> Result<BTreeMap<BlockHash, Option<StateBlock>>, LedgerError> {
        let mut found = BTreeMap::new();
        for batch in hashes.chunks(BATCH).filter(|batch| batch.len() > 1) {
            // A node may be behind or not offer this call: what is missing is asked for block by block.
            match self.client().first(blocks_info_call(batch), answer::blocks_info).await {
                Ok(infos) => found.extend(infos.into_iter().filter_map(believed)),
                Err(error) => tracing::debug!(%error, "no node gives many blocks at once"),
            }
        }
        hashes.retain(|hash| !found.contains_key(hash));
        let look = |hash| async move {
            match self.state_block(hash).await {
                Ok(block) => Ok((hash, Some(block))),
                Err(LedgerError::Legacy(_)) => Ok((hash, None)),
                Err(error) => Err(error),
            }
        };
        let looks = stream::iter(hashes.into_iter().map(look)).buffer_unordered(SINGLES);
        let singles: Vec<_> = looks.try_collect().await?;
        found.extend(singles);
        Ok(found)
    }

    /// The block `hash`, from the first node that gives contents with that hash.
    async fn state_block(&self, hash: BlockHash) -> Result<StateBlock, LedgerError> {
        let look = |node: Arc<Node>| {
            let client = self.client().clone();
            async move {
                let info = client.look_up(&node, &block_info_call(hash), answer::block_info).await?;
                let Some(info) = info else { return Ok(None) };
                check_contents(hash, &info)?;
                Ok(Some(info.contents))
            }
        };
        match self.client().read(look).await? {
            Some(Contents::State(block)) => Ok(block),
            Some(Contents::Legacy(_)) => Err(LedgerError::Legacy(hash)),
            None => Err(missing(hash)),
        }
    }
}

fn believed((hash, info): (BlockHash, BlockInfo)) -> Option<(BlockHash, Option<StateBlock>)> {
    match info.contents {
        Contents::State(block) if block.hash() == hash => Some((hash, Some(block))),
        Contents::State(_) | Contents::Legacy(_) => None,
    }
}

fn missing(hash: BlockHash) -> LedgerError {
    LedgerError::NotBelieved(format!("no node has block {hash}"))
}
