//! Whether a node is behind its own peers, according to its `telemetry`.
//!
//! A single configured node cannot be compared with another one. Its telemetry is an average over its
//! peers without the extremes, up to a minute old, so a node that keeps up is at or ahead of it. The
//! margins are wide and several comparisons are needed, so that a few peers with false counts do not
//! mark a node. If a node does not answer `telemetry`, as public nodes do not, nothing is known.

use std::time::Duration;

/// A node that misses more confirmed blocks than this is behind.
const FAR: u64 = 1000;
/// A node that misses no more than this has caught up.
const NEAR: u64 = 200;
/// How many comparisons in a row have to show the node far behind.
const LOOKS: u32 = 3;
/// Interval between two comparisons, and after a node has refused `telemetry`.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(15);
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// The comparison of one node with its peers.
#[derive(Debug, Default)]
pub(super) struct Lag {
    /// When the next comparison is due, counted from the node's setup.
    next: Duration,
    known: bool,
    looks: u32,
    behind: bool,
}

impl Lag {
    /// Whether a comparison is due at `now`. If so, the next is due `every` later.
    pub(super) fn is_due(&mut self, now: Duration, every: Duration) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now.saturating_add(every);
        }
        due
    }

    /// Records that the node has `own` confirmed blocks and its peers have `peers`.
    pub(super) fn look(&mut self, own: u64, peers: u64) {
        self.known = true;
        let missing = peers.saturating_sub(own);
        if self.behind {
            self.behind = missing > NEAR;
            self.looks = 0;
        } else if missing > FAR {
            self.looks = self.looks.saturating_add(1);
            self.behind = self.looks >= LOOKS;
        } else {
            self.looks = 0;
        }
    }

    /// Records that the node does not answer `telemetry`.
    pub(super) fn no_answer(&mut self, now: Duration) {
        *self = Self { next: now.saturating_add(ASK_AGAIN), ..Self::default() };
    }

    /// Whether a comparison was possible.
    pub(super) const fn is_known(&self) -> bool {
        self.known
    }

    pub(super) const fn is_behind(&self) -> bool {
        self.behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_comparisons_mark_a_node_behind_and_one_shows_that_it_caught_up() {
        let mut lag = Lag::default();
        assert!(!lag.is_known());
        for (own, peers, behind) in [
            (10_000, 11_001, false),
            (10_000, 11_001, false),
            // Not in a row.
            (10_000, 10_500, false),
            (10_000, 11_001, false),
            (10_000, 11_001, false),
            (10_000, 11_001, true),
            // Closer, but not close enough.
            (10_500, 11_001, true),
            (10_801, 11_001, false),
            (10_801, 11_900, false),
            (20_000, 11_900, false),
        ] {
            lag.look(own, peers);
            assert_eq!((lag.is_behind(), lag.is_known()), (behind, true), "{own} of {peers}");
        }
    }

    #[test]
    fn a_node_without_telemetry_is_not_behind_and_is_asked_again_later() {
        let (mut lag, second) = (Lag::default(), Duration::from_secs);
        assert!(lag.is_due(second(0), LOOK_EVERY));
        assert!(!lag.is_due(second(14), LOOK_EVERY) && lag.is_due(second(15), LOOK_EVERY));
        for _ in 0..3 {
            lag.look(0, 5000);
        }
        lag.no_answer(second(15));
        assert!(!lag.is_behind() && !lag.is_known());
        assert!(!lag.is_due(second(614), LOOK_EVERY) && lag.is_due(second(615), LOOK_EVERY));
    }
}
