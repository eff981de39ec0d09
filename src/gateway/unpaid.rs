//! What requests that hold no paid use may take: each client its share, and all together a part of what
//! there is.
//!
//! A capability or a confirmed payment is the right to be served. Without one, a client has so many
//! requests under way, so many of them at upstreams, and so many answers a second. Beyond the first two it
//! is turned away; answers beyond the last wait for their turn. So does the answer that turns one away, if
//! not too many wait already: a client that asks again at once would else take all of a core by being
//! refused. Waiting takes no processor time, so that those who have paid find it free. Requests with a proof of payment have a share beside, so that a flood of
//! requests without one does not keep a payer from hearing of its payment ([security guide](crate::guide::security)).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::tariff::EdgeLimits;
use super::turns::{Pace, Turns};
use crate::cashier::{Client, Share, Shares};
use crate::metrics::ReachedLimit;

/// The longest that an answer waits for its turn.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How long a client waits to hear that it is turned away: as long as `Retry-After` then tells it to wait.
const TURNED_AWAY_AFTER: Duration = Duration::from_secs(1);
/// Turns that a client did not take are saved for so long.
const SAVED: Duration = Duration::from_secs(1);
/// Clients whose turns are counted at once, and how long without an answer. Beyond, the oldest begin again.
const CLIENTS: u64 = 100_000;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// What is counted of unpaid requests. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct Unpaid {
    under_way: Shares,
    with_proof: Shares,
    turned_away: Shares,
    at_upstreams: Shares,
    all_at_upstreams: Arc<AtomicUsize>,
    turns: Turns<Client>,
}

impl Default for Unpaid {
    fn default() -> Self {
        Self {
            under_way: Shares::default(),
            with_proof: Shares::default(),
            turned_away: Shares::default(),
            at_upstreams: Shares::default(),
            all_at_upstreams: Arc::default(),
            turns: Turns::new(CLIENTS, FORGOTTEN_AFTER),
        }
    }
}

/// A free request that is at an upstream, until this is dropped.
#[derive(Debug)]
pub(super) struct AtUpstream {
    _share: Option<Share>,
    all: Arc<AtomicUsize>,
}

impl Drop for AtUpstream {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Unpaid {
    /// Counts a request among those of `client`; `None` if it has its share.
    pub(super) fn enter(&self, client: Client, limits: &EdgeLimits) -> Option<Share> {
        self.under_way.take(client, 1, limits.unpaid_per_client)
    }

    /// Counts a request that came with a proof of payment, after [`enter`](Self::enter) has turned it away: as
    /// many as the client may have settlements. `None` beyond that.
    pub(super) fn enter_with_proof(&self, client: Client, limits: &EdgeLimits) -> Option<Share> {
        self.with_proof.take(client, 1, limits.settlements_per_client)
    }

    /// Counts a free request among those at upstreams.
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub(super) fn forward(
        &self,
        client: Option<Client>,
        limits: &EdgeLimits,
    ) -> Result<AtUpstream, ReachedLimit> {
        let take = |it| self.at_upstreams.take(it, 1, limits.free_forwards_per_client);
        let share = client.map(|it| take(it).ok_or(ReachedLimit::ClientFreeForwards)).transpose()?;
        let one_more = |count: usize| (count < limits.free_forwards).then(|| count.saturating_add(1));
        let (set, read) = (Ordering::Relaxed, Ordering::Relaxed);
        let counted = self.all_at_upstreams.fetch_update(set, read, one_more);
        counted.map_err(|_| ReachedLimit::FreeForwards)?;
        Ok(AtUpstream { _share: share, all: Arc::clone(&self.all_at_upstreams) })
    }

    /// Waits before `client` is told that it has its share of requests under way. As many of them wait as may be
    /// under way; the answer to one beyond that does not wait, since what waits takes memory.
    pub(super) async fn turn_away(&self, client: Client, limits: &EdgeLimits) {
        let waits = self.turned_away.take(client, 1, limits.unpaid_per_client);
        if waits.is_some() {
            tokio::time::sleep(TURNED_AWAY_AFTER).await;
        }
    }

    /// Waits until it is `client`'s turn for an answer that sells nothing. Gives whether it had to wait.
    ///
    /// # Errors
    /// [`ReachedLimit::ClientBills`], after the longest wait, if its turn has not come.
    pub(super) async fn turn(&self, client: Client, limits: &EdgeLimits) -> Result<bool, ReachedLimit> {
        let wait = self.turns.take(client, pace(limits.bills_per_client));
        let pause = wait.unwrap_or(LONGEST_WAIT);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        if wait.is_ok() { Ok(!pause.is_zero()) } else { Err(ReachedLimit::ClientBills) }
    }
}

/// So many turns a second.
fn pace(per_second: u32) -> Pace {
    let each = Duration::from_secs(1).checked_div(per_second).unwrap_or(Duration::MAX);
    Pace { each, saved: SAVED, longest_wait: LONGEST_WAIT }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn client(last: u8) -> Client {
        Client::at(std::net::IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn proofs_have_a_share_beside_that_is_bounded_for_each_client_too() {
        let limits = EdgeLimits { settlements_per_client: 2, ..limits(1, 1) };
        let unpaid = Unpaid::default();
        let _bill = unpaid.enter(client(1), &limits).unwrap();
        assert!(unpaid.enter(client(1), &limits).is_none());
        let proofs: Vec<_> = (0..3).filter_map(|_| unpaid.enter_with_proof(client(1), &limits)).collect();
        assert_eq!(proofs.len(), 2);
        assert!(unpaid.enter_with_proof(client(2), &limits).is_some(), "another client has its own");
        drop(proofs);
        assert!(unpaid.enter_with_proof(client(1), &limits).is_some());
    }

    fn limits(of_one: usize, of_all: usize) -> EdgeLimits {
        EdgeLimits {
            idle_connection: Duration::ZERO,
            body_idle: Duration::ZERO,
            drained_body: 0,
            unpaid_per_client: of_one,
            free_forwards_per_client: of_one,
            free_forwards: of_all,
            bills_per_client: 1,
            settlements_per_client: of_one,
        }
    }

    #[test]
    fn a_client_has_its_share_of_requests_under_way() {
        let (unpaid, limits) = (Unpaid::default(), limits(2, 0));
        let held = [unpaid.enter(client(1), &limits), unpaid.enter(client(1), &limits)];
        assert!(held.iter().all(Option::is_some));
        assert!(unpaid.enter(client(1), &limits).is_none());
        assert!(unpaid.enter(client(2), &limits).is_some());
        drop(held);
        assert!(unpaid.enter(client(1), &limits).is_some(), "what has ended counts no more");
    }

    #[test]
    fn free_requests_at_upstreams_are_counted_by_client_and_together() {
        let (unpaid, limits) = (Unpaid::default(), limits(1, 2));
        let forward = |last| unpaid.forward(Some(client(last)), &limits);
        let one = forward(1).unwrap();
        assert_eq!(forward(1).unwrap_err(), ReachedLimit::ClientFreeForwards);
        let unnamed = unpaid.forward(None, &limits).unwrap();
        assert_eq!(forward(3).unwrap_err(), ReachedLimit::FreeForwards);
        drop(one);
        assert!(forward(3).is_ok(), "what has ended counts no more, and what was refused never did");
        drop(unnamed);
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_wait_to_be_turned_away_as_may_be_under_way() {
        let (unpaid, limits) = (Unpaid::default(), limits(2, 1));
        let mut waiting: Vec<_> = (0..2).map(|_| Box::pin(unpaid.turn_away(client(1), &limits))).collect();
        for one in &mut waiting {
            assert!(one.as_mut().now_or_never().is_none(), "it waits");
        }
        assert!(unpaid.turn_away(client(1), &limits).now_or_never().is_some(), "there is no room to wait");
        assert!(unpaid.turn_away(client(2), &limits).now_or_never().is_none(), "another client has its own");
        #[expect(clippy::disallowed_methods, reason = "the runtime's clock is paused")]
        let before = tokio::time::Instant::now();
        for one in waiting {
            one.await;
        }
        assert_eq!(before.elapsed(), TURNED_AWAY_AFTER);
        assert!(unpaid.turn_away(client(1), &limits).now_or_never().is_none(), "there is room again");
    }

    #[tokio::test(start_paused = true)]
    async fn whose_turn_it_is_does_not_wait() {
        let (unpaid, limits) = (Unpaid::default(), limits(1, 1));
        #[expect(clippy::disallowed_methods, reason = "the runtime's clock is paused")]
        let before = tokio::time::Instant::now();
        for _ in ["its turn", "the one that was saved"] {
            assert_eq!(unpaid.turn(client(1), &limits).await, Ok(false));
        }
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert_eq!(unpaid.turn(client(1), &limits).await, Ok(true));
        assert!(!before.elapsed().is_zero());
        let taken = std::iter::from_fn(|| unpaid.turns.take(client(1), pace(1)).ok()).count();
        assert!(taken > 0, "turns were ahead");
        assert_eq!(unpaid.turn(client(1), &limits).await, Err(ReachedLimit::ClientBills));
    }
}
