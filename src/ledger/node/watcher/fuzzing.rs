//! What the fuzz targets in `tests/fuzz` call of the wait for a confirmation.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::{broadcast, watch};

use super::{BlockHash, BlockInfo, DueBlocks, NodeClient, Watcher};
use crate::ledger::{LedgerError, Sighting};
use crate::nano::Account;

/// A wait for one block. No node is called: their answers are given to it.
#[derive(Debug)]
pub struct Watch {
    watcher: Watcher,
    hash: BlockHash,
    result: watch::Receiver<Result<Sighting, LedgerError>>,
    sends: broadcast::Receiver<(BlockHash, Account)>,
}

impl Watch {
    /// A wait for `hash`, by the nodes of `client`.
    #[must_use]
    pub fn new(client: NodeClient, hash: BlockHash) -> Self {
        let watcher = Watcher::new(client);
        let (result, sends) = (watcher.join(hash), watcher.sends());
        Self { watcher, hash, result, sends }
    }

    /// Waits for another block, with what is known of it forgotten.
    pub fn restart(&mut self, hash: BlockHash) {
        self.watcher.state().waiting.clear();
        self.result = self.watcher.join(hash);
        self.hash = hash;
    }

    /// Takes the blocks that the node at `index` of the client says it has.
    pub fn report(&mut self, index: usize, found: &BTreeMap<BlockHash, BlockInfo>) {
        let Some(node) = self.watcher.client.nodes.get(index).cloned() else { return };
        let due = DueBlocks { hashes: vec![self.hash], previous: BTreeSet::new() };
        let _missing = self.watcher.keep_contents(index, &due, found);
        self.watcher.decide(index, &node, &due, found);
    }

    pub(in crate::ledger::node) const fn watcher(&self) -> &Watcher {
        &self.watcher
    }

    /// The sends that were reported since the last time, with their destinations.
    pub(in crate::ledger::node) fn heard(&mut self) -> Vec<(BlockHash, Account)> {
        std::iter::from_fn(|| self.sends.try_recv().ok()).collect()
    }

    /// What is known of the block now.
    pub fn sighting(&self) -> Result<Sighting, LedgerError> {
        self.result.borrow().clone()
    }
}
