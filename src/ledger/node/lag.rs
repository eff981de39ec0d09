//! Whether a node lags behind its own peers, as it tells of them (`telemetry`).
//!
//! With one node there is no other to hold it against. What it tells is an average over its peers
//! without the extremes, up to a minute old, so that a node in step is at or before it. The margins
//! are wide and it takes several looks: a few peers that boast put no node in the wrong. Where a
//! node does not answer the question, as public ones do not, nothing is known.

use std::time::Duration;

/// With so many confirmed blocks fewer than its peers, a node is behind.
const FAR: u64 = 1000;
/// It has caught up when so few are missing.
const NEAR: u64 = 200;
/// Looks in a row that have to show it far behind.
const LOOKS: u32 = 3;
/// Between two looks, and after a node has refused to answer: it will hardly change its mind.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(15);
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// One node beside its peers.
#[derive(Debug, Default)]
pub(super) struct Lag {
    /// When it is looked at next, since the node was set up.
    next: Duration,
    known: bool,
    looks: u32,
    behind: bool,
}

impl Lag {
    /// Whether it is time for a look; the next is due `every` later.
    pub(super) fn is_due(&mut self, now: Duration, every: Duration) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now.saturating_add(every);
        }
        due
    }

    /// The node has `own` confirmed blocks and its peers `peers`.
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

    /// The node does not say how its peers are.
    pub(super) fn unsaid(&mut self, now: Duration) {
        *self = Self { next: now.saturating_add(ASK_AGAIN), ..Self::default() };
    }

    /// Whether anything is known.
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
    fn it_takes_several_looks_to_be_behind_and_one_to_have_caught_up() {
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
            // Nearer is not there yet.
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
    fn a_node_that_does_not_say_is_left_alone_and_not_behind() {
        let (mut lag, second) = (Lag::default(), Duration::from_secs);
        assert!(lag.is_due(second(0), LOOK_EVERY));
        assert!(!lag.is_due(second(14), LOOK_EVERY) && lag.is_due(second(15), LOOK_EVERY));
        for _ in 0..3 {
            lag.look(0, 5000);
        }
        lag.unsaid(second(15));
        assert!(!lag.is_behind() && !lag.is_known());
        assert!(!lag.is_due(second(614), LOOK_EVERY) && lag.is_due(second(615), LOOK_EVERY));
    }
}
