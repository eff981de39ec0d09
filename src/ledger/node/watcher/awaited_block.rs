//! One block that callers wait for: each node's report on it, what the reports mean together, and
//! when the block is asked for next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::super::contents::{BalanceAfter, balance_of, check_contents, facts_of, without_previous};
use super::super::transport::{Node, TransportFault};
use super::super::{BlockInfo, Contents, NodeClient};
use crate::ledger::{LedgerError, Sighting};
use crate::nano::{BlockHash, Raw};

/// Interval between two polls of a block after its first second, and after [`OLD`].
const SECOND_TICK: Duration = Duration::from_millis(250);
const LAST_TICK: Duration = Duration::from_secs(1);
/// Interval between two polls while a WebSocket is subscribed.
const QUIET_TICK: Duration = Duration::from_secs(2);
/// From this age on a block is polled least often.
const OLD: Duration = Duration::from_secs(5);

/// How long an honest node may be ahead of the others in calling a block confirmed, beside the time that their answers
/// take.
const AHEAD: Duration = Duration::from_millis(1500);

/// One block that callers wait for.
#[derive(Debug)]
pub(super) struct AwaitedBlock {
    pub(super) waiters: usize,
    pub(super) result: watch::Sender<Result<Sighting, LedgerError>>,
    /// Its age counts from here: when it was first waited for, or when the last hint came.
    pub(super) since: Duration,
    hinted: bool,
    /// When each node was last asked.
    pub(super) asked: BTreeMap<usize, Duration>,
    pub(super) reports: BTreeMap<usize, NodeReport>,
    pub(super) contents: Option<Contents>,
    /// The block before, and the proven balance after that block; `None` while not known.
    pub(super) previous: Option<BlockHash>,
    pub(super) before: Option<Raw>,
    /// Nodes that were already reported as disagreeing.
    odd: BTreeSet<usize>,
}

/// What a node last reported about a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeReport {
    /// Whether the node has the block.
    present: bool,
    confirmed: bool,
    /// Whether it calls the block one from before state blocks, which nothing proves.
    legacy: bool,
    /// The balance before the block, in raw, if only nodes can say it.
    before: Option<Raw>,
    /// When it first reported this, and when last.
    first: Duration,
    last: Duration,
}

/// How many providers these nodes belong to.
fn providers<'a>(nodes: impl Iterator<Item = &'a Arc<Node>>) -> usize {
    nodes.map(|node| node.provider()).collect::<BTreeSet<_>>().len()
}

impl AwaitedBlock {
    /// A block that is waited for from `now` on, with its `previous` if that is known.
    pub(super) fn new(now: Duration, previous: Option<BlockHash>) -> Self {
        Self {
            waiters: 0,
            result: watch::Sender::new(Err(LedgerError::TimedOut)),
            since: now,
            hinted: false,
            asked: BTreeMap::new(),
            reports: BTreeMap::new(),
            contents: None,
            previous,
            before: (previous == Some(BlockHash::ZERO)).then_some(Raw::ZERO),
            odd: BTreeSet::new(),
        }
    }

    /// The interval between two polls, by the block's age. `quiet`: a WebSocket is subscribed.
    /// `decides`: the node is one of those whose reports decide.
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

    /// Makes the block due at every node.
    pub(super) fn make_due(&mut self, now: Duration, hinted: bool) {
        self.since = now;
        self.hinted = hinted;
        self.asked.clear();
    }

    /// Records a node's answer about the block.
    pub(super) fn record(
        &mut self,
        index: usize,
        hash: BlockHash,
        found: &BTreeMap<BlockHash, BlockInfo>,
        now: Duration,
    ) -> Result<(), TransportFault> {
        let (mut confirmed, mut legacy) = (false, false);
        if let Some(info) = found.get(&hash) {
            check_contents(hash, info)?;
            legacy = matches!(info.contents, Contents::Legacy(_));
            if legacy && matches!(self.contents, Some(Contents::State(_))) {
                return Err(TransportFault::NotBelieved(format!(
                    "{hash} is a state block, not a legacy one"
                )));
            }
            confirmed = info.confirmed;
        }
        let present = found.contains_key(&hash);
        let mut before = None;
        if let (Some(previous), None) = (self.previous, self.before) {
            match found.get(&previous).map(|info| balance_of(previous, info)).transpose()? {
                Some(BalanceAfter::Proven(balance)) => self.before = Some(balance),
                Some(BalanceAfter::Claimed(balance)) => before = Some(balance),
                None if present => return Err(without_previous(previous)),
                None => {}
            }
        }
        let same = self.reports.get(&index).filter(|report| report.confirmed == confirmed);
        let first = same.map_or(now, |report| report.first);
        self.reports.insert(index, NodeReport { present, confirmed, legacy, before, first, last: now });
        Ok(())
    }

    /// Keeps contents that were checked. A state block is proven by its hash, so it takes the place of a
    /// legacy block that a node claimed; the nodes that claimed it have then said nothing of this one.
    pub(super) fn keep_contents(&mut self, contents: &Contents) {
        let proven = match (&self.contents, contents) {
            (None | Some(Contents::Legacy(_)), Contents::State(block)) => block,
            (None, Contents::Legacy(_)) => {
                self.contents = Some(contents.clone());
                return;
            }
            (Some(_), _) => return,
        };
        self.reports.retain(|_, report| !report.legacy);
        self.contents = Some(contents.clone());
        self.previous = Some(proven.previous);
        if proven.previous == BlockHash::ZERO {
            self.before = Some(Raw::ZERO);
        }
    }

    /// The balance before the block: the proven one, or else the one that a quorum of nodes claims.
    fn balance_before(&self, client: &NodeClient) -> Option<Raw> {
        let claimed = || self.reports.values().filter_map(|report| report.before);
        let is_agreed = |balance: &Raw| {
            let claiming = self.reports.iter().filter(|(_, report)| report.before == Some(*balance));
            client.is_quorum(claiming.filter_map(|(index, _)| client.nodes.get(*index)))
        };
        self.before.or_else(|| claimed().find(is_agreed))
    }

    /// Publishes to the waiters what the reports mean together.
    pub(super) fn conclude(&self, hash: BlockHash, client: &NodeClient) {
        let node = |index: &usize| client.nodes.get(*index);
        let confirming = self.reports.iter().filter(|(_, report)| report.confirmed);
        let confirmed = client.is_quorum(confirming.filter_map(|(index, _)| node(index)));
        let is_legacy = matches!(self.contents, Some(Contents::Legacy(_)));
        let before = self.balance_before(client);
        let sighting = match &self.contents {
            None if self.reports.is_empty() => return,
            None => Ok(Sighting::Unknown),
            // The block was there and was rolled back.
            Some(_) if self.reports.values().all(|report| !report.present) => Ok(Sighting::Unknown),
            Some(_) if before.is_none() && !is_legacy => return,
            Some(contents) => facts_of(hash, contents, before, confirmed).map(|facts| {
                if confirmed { Sighting::Confirmed(facts) } else { Sighting::Unconfirmed(facts) }
            }),
        };
        self.result.send_if_modified(|result| {
            let changes = !matches!(result, Ok(Sighting::Confirmed(_))) && *result != sighting;
            if changes {
                *result = sighting;
            }
            changes
        });
    }

    /// Nodes that have called the block confirmed alone for longer than [`AHEAD`], each returned once,
    /// and whether the other nodes outvote it.
    pub(super) fn odd_ones(&mut self, client: &NodeClient, now: Duration) -> Vec<(Arc<Node>, bool)> {
        let (mut found, ahead) = (Vec::new(), AHEAD.saturating_add(client.pace()));
        for (index, report) in self.reports.iter().filter(|(_, report)| report.confirmed) {
            let Some(node) = client.nodes.get(*index) else { continue };
            let since = report.first.saturating_add(ahead);
            if node.is_trusted() || now < since || self.odd.contains(index) {
                continue;
            }
            let denying = || {
                let reports = self.reports.iter().filter(|(_, it)| !it.confirmed && it.last >= since);
                reports.filter_map(|(index, _)| client.nodes.get(*index))
            };
            let agreeing = self.reports.iter().filter(|(_, it)| it.confirmed);
            let agreeing = providers(agreeing.filter_map(|(index, _)| client.nodes.get(*index)));
            let trusted = denying().any(|node| node.is_trusted());
            let denying = providers(denying());
            let outvoted = trusted || denying > agreeing;
            // One against one: the other node may be the late one, so this is reported later.
            if outvoted || (denying > 0 && now >= since.saturating_add(ahead)) {
                found.push((*index, Arc::clone(node), outvoted));
            }
        }
        self.odd.extend(found.iter().map(|(index, ..)| *index));
        found.into_iter().map(|(_, node, outvoted)| (node, outvoted)).collect()
    }
}
