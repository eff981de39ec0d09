//! The invariants that hold after every change, for tests to check.

use std::collections::BTreeSet;

use super::{AccountChain, BlockKind, Lattice};
use crate::nano::{Account, BlockHash, Raw};

impl Lattice {
    /// Checks that no raw is made or lost, that each chain is whole, and that a confirmed block depends
    /// on confirmed blocks only.
    ///
    /// # Errors
    /// A sentence about the first violation.
    pub fn check_invariants(&self) -> Result<(), String> {
        let amounts = self.chains.values().map(|chain| chain.balance);
        let total = amounts
            .chain(self.receivable.values().map(|receivable| receivable.amount))
            .try_fold(Raw::ZERO, Raw::checked_add);
        if total != Some(Raw::MAX) {
            return Err(format!("balances and receivables are {total:?}, the supply is {}", Raw::MAX));
        }
        let mut seen = BTreeSet::new();
        for (account, chain) in &self.chains {
            self.check_chain(*account, chain, &mut seen)?;
        }
        if seen.len() != self.blocks.len() {
            return Err(format!("{} blocks, {} of them in chains", self.blocks.len(), seen.len()));
        }
        Ok(())
    }

    fn check_chain(
        &self,
        account: Account,
        chain: &AccountChain,
        seen: &mut BTreeSet<BlockHash>,
    ) -> Result<(), String> {
        let mut next = Some(chain.open);
        let (mut height, mut last) = (0_u64, BlockHash::ZERO);
        while let Some(hash) = next {
            let entry = self.entry(hash).ok_or_else(|| format!("{account}: {hash} is missing"))?;
            height = height.saturating_add(1);
            let follows = entry.block.previous == last && entry.height == height;
            if !follows || entry.block.account != account || !seen.insert(hash) {
                return Err(format!("{account}: {hash} does not follow {last}"));
            }
            if entry.confirmed != (height <= chain.confirmed_height) {
                return Err(format!("{account}: {hash} is confirmed out of order"));
            }
            if entry.confirmed && entry.kind == BlockKind::Receive && hash != self.genesis {
                let source = BlockHash(entry.block.link);
                if !self.is_confirmed(source) {
                    return Err(format!("{hash} is confirmed before its source {source}"));
                }
            }
            last = hash;
            next = entry.successor;
        }
        if last == chain.frontier && height == chain.height {
            Ok(())
        } else {
            Err(format!("{account}: the chain ends in {last}, its frontier is {}", chain.frontier))
        }
    }
}
