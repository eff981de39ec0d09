//! Confirmation: when a block becomes final, and in which order.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{BlockKind, Lattice, Now};
use crate::nano::BlockHash;

/// The blocks to confirm, and the blocks not to confirm.
#[derive(Clone, Debug, Default)]
pub(super) struct Agenda {
    /// The time since the ledger's start at which a block may be confirmed, and its number in the
    /// order of arrival.
    due: BTreeSet<(Duration, u64, BlockHash)>,
    arrivals: u64,
    held: BTreeSet<BlockHash>,
    all_held: bool,
}

impl Agenda {
    pub(super) fn schedule(&mut self, hash: BlockHash, at: Duration) {
        self.arrivals = self.arrivals.saturating_add(1);
        self.due.insert((at, self.arrivals, hash));
    }
}

impl Lattice {
    /// Confirms what is due: a block after its predecessor and, if it receives, after its source. Held
    /// blocks are not confirmed.
    pub fn advance(&mut self, now: Now) {
        while let Some(next) = self.next_due(now) {
            self.agenda.due.remove(&next);
            self.cement(next.2);
        }
    }

    /// The first block that may be confirmed.
    fn next_due(&self, now: Now) -> Option<(Duration, u64, BlockHash)> {
        if self.agenda.all_held {
            return None;
        }
        let mut due = self.agenda.due.iter().take_while(|&&(at, ..)| at <= now.elapsed);
        due.find(|&&(.., hash)| {
            !self.agenda.held.contains(&hash) && self.unconfirmed_dependencies(hash).is_empty()
        })
        .copied()
    }

    /// The next time at which a block may become due, counted from the ledger's start.
    pub(in crate::devnet) fn next_due_after(&self, now: Now) -> Option<Duration> {
        self.agenda.due.iter().map(|&(at, ..)| at).find(|&at| at > now.elapsed)
    }

    /// The blocks that must be confirmed before this one.
    fn unconfirmed_dependencies(&self, hash: BlockHash) -> Vec<BlockHash> {
        let Some(entry) = self.entry(hash) else { return Vec::new() };
        let source = (entry.kind == BlockKind::Receive).then_some(BlockHash(entry.block.link));
        [Some(entry.block.previous), source]
            .into_iter()
            .flatten()
            .filter(|&dependency| self.entry(dependency).is_some_and(|entry| !entry.confirmed))
            .collect()
    }

    fn cement(&mut self, hash: BlockHash) {
        let Some(entry) = self.blocks.get_mut(&hash) else { return };
        entry.confirmed = true;
        self.confirmed.push(hash);
        if let Some(chain) = self.chains.get_mut(&entry.block.account) {
            chain.confirmed_height = entry.height;
            chain.confirmed_frontier = hash;
        }
        self.agenda.held.remove(&hash);
    }

    /// Confirms the block and everything it depends on, held or not. Returns whether the ledger has the
    /// block.
    pub fn confirm_now(&mut self, hash: BlockHash) -> bool {
        let mut pending = vec![hash];
        while let Some(&top) = pending.last() {
            let dependencies = self.unconfirmed_dependencies(top);
            if dependencies.is_empty() {
                pending.pop();
                if !self.is_confirmed(top) {
                    self.cement(top);
                }
            } else {
                pending.extend(dependencies);
            }
        }
        self.agenda.due.retain(|&(_, _, due)| !self.blocks.get(&due).is_some_and(|entry| entry.confirmed));
        self.entry(hash).is_some()
    }

    /// Does not confirm this block, nor any that depends on it, until [`Lattice::release`]. The block
    /// need not have arrived yet.
    pub fn hold(&mut self, hash: BlockHash) {
        self.agenda.held.insert(hash);
    }

    /// Confirms nothing until [`Lattice::release`].
    pub fn hold_all(&mut self) {
        self.agenda.all_held = true;
    }

    /// Ends every hold. The next [`Lattice::advance`] confirms what is due.
    pub fn release(&mut self) {
        self.agenda.all_held = false;
        self.agenda.held.clear();
    }

    /// Removes a block that was rolled back.
    #[cfg(feature = "devnet-faults")]
    pub(super) fn unschedule(&mut self, hash: BlockHash) {
        self.agenda.due.retain(|&(_, _, due)| due != hash);
    }
}
