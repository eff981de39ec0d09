//! One block that is waited for: what each node says of it, what that comes to, and when it is
//! looked at next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::super::ledger::{balance_of, believe, facts_of};
use super::super::transport::{Fault, Node};
use super::super::{BlockInfo, Contents, NodeClient};
use crate::ledger::{LedgerError, Sighting};
use crate::nano::{BlockHash, Raw};

/// Between two looks at a block past its first second, then past [`OLD`].
const SECOND_TICK: Duration = Duration::from_millis(250);
const LAST_TICK: Duration = Duration::from_secs(1);
/// Between two looks while a WebSocket would tell.
const QUIET_TICK: Duration = Duration::from_secs(2);
/// Past its first second a block is looked at less often, past this least often.
const OLD: Duration = Duration::from_secs(5);

/// How long one node may say "confirmed" before the others, and still be only ahead of them.
const AHEAD: Duration = Duration::from_millis(1500);

/// One block that is waited for.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) waiters: usize,
    pub(super) told: watch::Sender<Result<Sighting, LedgerError>>,
    /// From here its looks become rarer: when it was first waited for, or last hinted at.
    pub(super) since: Duration,
    hinted: bool,
    /// When each node was last asked.
    pub(super) asked: BTreeMap<usize, Duration>,
    pub(super) words: BTreeMap<usize, Word>,
    pub(super) contents: Option<Contents>,
    /// The block before, and the balance after it where that is known.
    pub(super) previous: Option<BlockHash>,
    pub(super) before: Option<Raw>,
    /// Nodes that were found to say what the others deny.
    odd: BTreeSet<usize>,
}

/// What a node last said of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word {
    /// Whether it has the block.
    present: bool,
    confirmed: bool,
    /// When it first said so, and when last.
    first: Duration,
    last: Duration,
}

/// Whether the contents are those of the block that was asked for.
pub(super) fn honest(hash: BlockHash, info: &BlockInfo) -> Result<(), Fault> {
    match &info.contents {
        Contents::State(block) => believe(hash, block),
        Contents::Legacy(_) => Ok(()),
    }
}

impl Waiting {
    /// A block that is waited for from `now` on; `previous` where it is known.
    pub(super) fn new(now: Duration, previous: Option<BlockHash>) -> Self {
        Self {
            waiters: 0,
            told: watch::Sender::new(Err(LedgerError::TimedOut)),
            since: now,
            hinted: false,
            asked: BTreeMap::new(),
            words: BTreeMap::new(),
            contents: None,
            previous,
            before: (previous == Some(BlockHash::ZERO)).then_some(Raw::ZERO),
            odd: BTreeSet::new(),
        }
    }

    /// Between two looks, by how long the block is waited for.
    pub(super) fn pause(&self, now: Duration, tick: Duration, quiet: bool, decides: bool) -> Duration {
        let age = now.saturating_sub(self.since);
        let pause = match age {
            _ if quiet && !self.hinted => QUIET_TICK,
            age if age < LAST_TICK => tick,
            age if age < OLD => SECOND_TICK,
            _ => LAST_TICK,
        };
        pause.max(if decides { tick } else { LAST_TICK })
    }

    /// Makes every node due.
    pub(super) fn look_anew(&mut self, now: Duration, hinted: bool) {
        self.since = now;
        self.hinted = hinted;
        self.asked.clear();
    }

    /// Notes what a node says of the block.
    pub(super) fn hear(
        &mut self,
        index: usize,
        hash: BlockHash,
        found: &BTreeMap<BlockHash, BlockInfo>,
        now: Duration,
    ) -> Result<(), Fault> {
        let confirmed = match found.get(&hash) {
            Some(info) => {
                honest(hash, info)?;
                info.confirmed
            }
            None => false,
        };
        if let (Some(previous), None) = (self.previous, self.before) {
            match found.get(&previous) {
                Some(info) => self.before = Some(balance_of(previous, info)?),
                None if found.contains_key(&hash) => {
                    let text = format!("it has a block and not the one before, {previous}");
                    return Err(Fault::NotBelieved(text));
                }
                None => {}
            }
        }
        let first = self.words.get(&index).filter(|word| word.confirmed == confirmed).map(|word| word.first);
        let present = found.contains_key(&hash);
        self.words.insert(index, Word { present, confirmed, first: first.unwrap_or(now), last: now });
        Ok(())
    }

    /// Tells those who wait what the nodes' words come to.
    pub(super) fn conclude(&self, hash: BlockHash, client: &NodeClient) {
        let say = |index: &usize| client.nodes.get(*index);
        let confirming = self.words.iter().filter(|(_, word)| word.confirmed);
        let confirmed = client.suffice(confirming.filter_map(|(index, _)| say(index)));
        let is_legacy = matches!(self.contents, Some(Contents::Legacy(_)));
        let sighting = match &self.contents {
            None if self.words.is_empty() => return,
            None => Ok(Sighting::Unknown),
            // It was there, and was rolled back.
            Some(_) if self.words.values().all(|word| !word.present) => Ok(Sighting::Unknown),
            Some(_) if self.before.is_none() && !is_legacy => return,
            Some(contents) => facts_of(hash, contents, self.before, confirmed).map(|facts| {
                if confirmed { Sighting::Confirmed(facts) } else { Sighting::Unconfirmed(facts) }
            }),
        };
        self.told.send_if_modified(|told| {
            let changes = !matches!(told, Ok(Sighting::Confirmed(_))) && *told != sighting;
            if changes {
                *told = sighting;
            }
            changes
        });
    }

    /// Nodes that call the block confirmed for longer than they can be merely ahead, each once, and
    /// whether others outvote it.
    pub(super) fn odd_ones(&mut self, client: &NodeClient, now: Duration) -> Vec<(Arc<Node>, bool)> {
        let mut found = Vec::new();
        for (index, word) in self.words.iter().filter(|(_, word)| word.confirmed) {
            let Some(node) = client.nodes.get(*index) else { continue };
            let since = word.first.saturating_add(AHEAD);
            if node.is_trusted() || now < since || self.odd.contains(index) {
                continue;
            }
            let denying = || {
                let words = self.words.iter().filter(|(_, word)| !word.confirmed && word.last >= since);
                words.filter_map(|(index, _)| client.nodes.get(*index))
            };
            let agreeing = self.words.values().filter(|word| word.confirmed).count();
            let trusted = denying().any(|node| node.is_trusted());
            let voices: BTreeSet<_> = denying().map(|node| node.voice()).collect();
            let outvoted = trusted || voices.len() > agreeing;
            // One against one: the other may be the one that is late. It is told of in time.
            if outvoted || (!voices.is_empty() && now >= since.saturating_add(AHEAD)) {
                found.push((*index, Arc::clone(node), outvoted));
            }
        }
        self.odd.extend(found.iter().map(|(index, ..)| *index));
        found.into_iter().map(|(_, node, outvoted)| (node, outvoted)).collect()
    }
}
