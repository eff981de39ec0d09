//! How often each client may have something looked up for a proof that anybody could have made: in the
//! store or at a node.
//!
//! A look-up is reserved before anything is asked, so that many proofs at once do not get past the limit.
//! It is given back if the payment is good, and counts for [`WINDOW`] if it was in vain. While as many are
//! being asked as may be, the next waits: a client with many good payments is slowed, not refused.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::client::Client;
use super::reasons::Wait;
use super::unsettled::{SettlementResult, Unsettled};
use crate::sync::{self, Mutex, MutexGuard, PoisonError};

/// How long look-ups in vain count against a client.
const WINDOW: Duration = Duration::from_secs(60);
/// Clients whose look-ups are counted at once. Beyond that, the oldest are forgotten.
const CLIENTS: u64 = 100_000;

/// The look-ups of each client.
#[derive(Debug)]
pub(super) struct LookUps(moka::sync::Cache<Client, Arc<Allowance>>);

/// What one client has used of its look-ups.
#[derive(Debug, Default)]
struct Allowance {
    used: Mutex<Used>,
    /// Wakes those that wait for a look-up of the same client to end.
    ended: Notify,
}

#[derive(Clone, Copy, Debug, Default)]
struct Used {
    /// Look-ups whose answer is not there.
    asking: u32,
    in_vain: u32,
}

/// One reserved look-up. Given back when it is dropped.
#[derive(Debug)]
#[must_use = "a look-up that is dropped is given back"]
pub(super) struct LookUp {
    /// `None` if nobody counts.
    allowance: Option<Arc<Allowance>>,
    asking: bool,
    limit: u32,
}

impl Default for LookUps {
    fn default() -> Self {
        Self(moka::sync::Cache::builder().max_capacity(CLIENTS).time_to_live(WINDOW).build())
    }
}

impl LookUps {
    /// Reserves one of `limit` look-ups of `client`; waits at most `wait` for one that ends well. `None` if
    /// all were in vain, or none ended in time.
    pub(super) async fn reserve(&self, client: Option<Client>, limit: u32, wait: Duration) -> Option<LookUp> {
        let Some(client) = client else {
            return Some(LookUp { allowance: None, asking: false, limit });
        };
        let allowance = self.0.get_with(client, Arc::default);
        let reserved = sync::timeout(wait, allowance.reserve(limit)).await;
        reserved.unwrap_or(false).then(|| LookUp { allowance: Some(allowance), asking: true, limit })
    }
}

impl Allowance {
    /// False if all look-ups were in vain.
    async fn reserve(&self, limit: u32) -> bool {
        loop {
            let ended = self.ended.notified();
            {
                let mut used = self.lock();
                if used.in_vain >= limit {
                    return false;
                }
                if used.asking.saturating_add(used.in_vain) < limit {
                    used.asking = used.asking.saturating_add(1);
                    return true;
                }
            }
            ended.await;
        }
    }

    // A few instructions; no await while it is held.
    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LookUp {
    /// The answer bears the payment out: the next look-up may begin, though this payment is under way.
    pub(super) fn bear_out(&mut self) {
        if let Some(allowance) = &self.allowance
            && std::mem::take(&mut self.asking)
        {
            let mut used = allowance.lock();
            used.asking = used.asking.saturating_sub(1);
            drop(used);
            allowance.ended.notify_one();
        }
    }

    /// Whether nothing has borne the payment out yet.
    pub(super) const fn is_asking(&self) -> bool {
        self.asking
    }

    /// It led to nothing, and counts.
    pub(super) fn was_in_vain(self) {
        if let Some(allowance) = &self.allowance {
            let mut used = allowance.lock();
            used.in_vain = used.in_vain.saturating_add(1);
            let is_last = used.in_vain >= self.limit;
            drop(used);
            if is_last {
                allowance.ended.notify_waiters();
            }
        }
    }

    /// Ends with the settlement it was reserved for. Whatever can be provoked without a right to it
    /// counts; what the gateway or the network owes to a payment that was borne out does not.
    pub(super) fn ends_with(self, settled: &SettlementResult) {
        let in_vain = match settled {
            Ok(_) => false,
            Err(Unsettled::Refused(..) | Unsettled::IdHeld) => true,
            Err(Unsettled::Wait(wait)) => match wait {
                Wait::Pending { .. } | Wait::NoNode => self.asking,
                Wait::UsesOut
                | Wait::SameId
                | Wait::UpstreamFailing(_)
                | Wait::UpstreamDown(_)
                | Wait::NoRate
                | Wait::NoStore
                | Wait::NoWork
                | Wait::Overloaded => false,
            },
        };
        if in_vain {
            self.was_in_vain();
        }
    }
}

impl Drop for LookUp {
    fn drop(&mut self) {
        self.bear_out();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(3);

    fn client(last: u8) -> Option<Client> {
        Some(Client::at(std::net::IpAddr::from([192, 0, 2, last])))
    }

    #[tokio::test(start_paused = true)]
    async fn many_at_once_do_not_get_past_the_limit() {
        let look_ups = LookUps::default();
        let asked: Vec<_> =
            futures_util::future::join_all((0..1000).map(|_| look_ups.reserve(client(1), 20, WAIT))).await;
        let reserved: Vec<_> = asked.into_iter().flatten().collect();
        assert_eq!(reserved.len(), 20);
        assert!(look_ups.reserve(client(2), 20, WAIT).await.is_some(), "another client has its own");
        reserved.into_iter().for_each(LookUp::was_in_vain);
        #[expect(clippy::disallowed_methods, reason = "the runtime's clock is paused")]
        let before = tokio::time::Instant::now();
        assert!(look_ups.reserve(client(1), 20, WAIT).await.is_none());
        assert_eq!(before.elapsed(), Duration::ZERO, "there is nothing to wait for");
    }

    #[tokio::test(start_paused = true)]
    async fn good_payments_wait_for_one_another() {
        let look_ups = LookUps::default();
        let served = futures_util::future::join_all((0..100).map(async |_| {
            let look_up = look_ups.reserve(client(1), 5, WAIT).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            look_up.is_some()
        }));
        assert!(served.await.into_iter().all(|it| it));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_hear_that_the_rest_was_in_vain() {
        let look_ups = LookUps::default();
        let first = look_ups.reserve(client(1), 1, WAIT).await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "the runtime's clock is paused")]
        let before = tokio::time::Instant::now();
        let next = || look_ups.reserve(client(1), 1, WAIT);
        let (second, third, ()) = tokio::join!(next(), next(), async { first.was_in_vain() });
        assert!(second.is_none() && third.is_none());
        assert_eq!(before.elapsed(), Duration::ZERO, "all of them hear it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_payment_that_was_borne_out_counts_if_it_is_refused() {
        let look_ups = LookUps::default();
        for settled in [
            Err(Unsettled::pending(crate::nano::BlockHash([1; 32]))),
            Err(Unsettled::Wait(Wait::NoStore)),
            Err(Unsettled::IdHeld),
        ] {
            let mut look_up = look_ups.reserve(client(1), 1, WAIT).await.unwrap();
            look_up.bear_out();
            look_up.ends_with(&settled);
        }
        assert!(look_ups.reserve(client(1), 1, WAIT).await.is_none());
        assert!(look_ups.reserve(None, 1, WAIT).await.is_some(), "nobody counts");
    }

    #[tokio::test]
    async fn a_look_up_asks_until_it_is_borne_out() {
        let look_ups = LookUps::default();
        let mut look_up = look_ups.reserve(client(1), 1, WAIT).await.unwrap();
        assert!(look_up.is_asking());
        look_up.bear_out();
        assert!(!look_up.is_asking());
        assert!(!look_ups.reserve(None, 1, WAIT).await.unwrap().is_asking(), "nobody counts");
    }
}
