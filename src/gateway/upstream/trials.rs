//! Which addresses of an upstream take connections. One that fails several times in a row is left out
//! until the gateway itself has connected to it: no request is risked to find that out, and no payment.
//!
//! An address is on the list from its first failure until a connection to it is made. While it is there,
//! one task tries it, at once and then after longer and longer pauses.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pingora::protocols::l4::socket::SocketAddr;
use tokio::sync::Notify;

use crate::config::{HealthRules, MAX_BACK_OFF};

/// The pause between two trials of an address that does not count as down yet.
const QUICK: Duration = Duration::from_millis(50);

/// The addresses that are in doubt.
#[derive(Debug)]
pub(super) struct Trials {
    rules: HealthRules,
    doubtful: Mutex<BTreeMap<SocketAddr, Doubt>>,
    /// The length of the list, for requests: most of the time it is empty.
    count: AtomicUsize,
    /// An address is on the list that no task tries.
    untried: Notify,
}

/// What is known about an address in doubt.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// Failures in a row.
    failures: u32,
    is_tried: bool,
    /// The pause before the next trial once the address counts as down.
    pause: Duration,
}

impl Trials {
    pub(super) fn new(rules: &HealthRules) -> Self {
        Self {
            rules: rules.clone(),
            doubtful: Mutex::default(),
            count: AtomicUsize::new(0),
            untried: Notify::new(),
        }
    }

    /// Whether addresses are tried at all.
    pub(super) const fn are_made(&self) -> bool {
        self.rules.failures > 0
    }

    // Look-ups and changes only; no await while it is held.
    fn locked(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Doubt>> {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<SocketAddr, Doubt>) -> T) -> T {
        let mut doubtful = self.locked();
        let outcome = change(&mut doubtful);
        self.count.store(doubtful.len(), Ordering::Release);
        outcome
    }

    /// The pause before the next trial, if `address` counts as down.
    pub(super) fn pause(&self, address: &SocketAddr) -> Option<Duration> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let doubt = self.locked().get(address).copied()?;
        (doubt.failures >= self.rules.failures).then_some(doubt.pause)
    }

    /// Has `address` tried as soon as possible.
    pub(super) fn doubt(&self, address: SocketAddr) {
        if !self.are_made() {
            return;
        }
        let new = Doubt { failures: 0, is_tried: false, pause: self.rules.back_off };
        self.change(|it| {
            it.entry(address).or_insert(new);
        });
        self.untried.notify_one();
    }

    /// A request could not connect to `address`. Returns whether the address has just been found down.
    pub(super) fn failed(&self, address: &SocketAddr) -> bool {
        self.doubt(address.clone());
        self.change(|it| {
            let Some(doubt) = it.get_mut(address) else { return false };
            doubt.failures = doubt.failures.saturating_add(1);
            doubt.failures == self.rules.failures
        })
    }

    /// A request connected to `address`. The task that tries it ends.
    pub(super) fn connected(&self, address: &SocketAddr) {
        if self.count.load(Ordering::Acquire) > 0 {
            self.change(|it| {
                if let Some(doubt) = it.get_mut(address) {
                    doubt.failures = 0;
                }
            });
        }
    }

    /// Waits for an address that no task tries.
    pub(super) async fn untried(&self) {
        self.untried.notified().await;
    }

    /// An address that no task tries. The caller tries it.
    pub(super) fn next(&self) -> Option<SocketAddr> {
        let mut doubtful = self.locked();
        let (address, doubt) = doubtful.iter_mut().find(|(_, it)| !it.is_tried)?;
        doubt.is_tried = true;
        Some(address.clone())
    }

    /// The caller of [`Trials::next`] gives `address` back untried: `failed` ones count as down.
    pub(super) fn leave(&self, address: &SocketAddr, failed: bool) {
        self.change(|it| {
            if let Some(doubt) = it.get_mut(address) {
                doubt.is_tried = false;
                if failed {
                    doubt.failures = self.rules.failures;
                }
            }
        });
        self.untried.notify_one();
    }

    /// Takes `address` off the list; returns whether it counted as down.
    pub(super) fn clear(&self, address: &SocketAddr) -> bool {
        let doubt = self.change(|it| it.remove(address));
        doubt.is_some_and(|it| it.failures >= self.rules.failures)
    }

    /// A trial of `address` failed. Returns the pause before the next one, and whether the address has
    /// just been found down; `None` if it is off the list.
    pub(super) fn trial_failed(&self, address: &SocketAddr) -> Option<(Duration, bool)> {
        let most = self.rules.failures;
        self.change(|it| {
            let doubt = it.get_mut(address)?;
            doubt.failures = doubt.failures.saturating_add(1);
            if doubt.failures < most {
                return Some((QUICK, false));
            }
            let pause = doubt.pause;
            doubt.pause = pause.saturating_mul(2).min(MAX_BACK_OFF);
            Some((pause, doubt.failures == most))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::Inet(std::net::SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn trials(failures: u32) -> Trials {
        Trials::new(&HealthRules { check: None, failures, back_off: Duration::from_secs(10) })
    }

    #[test]
    fn an_address_is_down_after_so_many_failures_in_a_row_and_up_after_one_connection() {
        let (trials, one) = (trials(3), address(1));
        assert!(!trials.failed(&one));
        assert_eq!(trials.next(), Some(one.clone()));
        assert_eq!(trials.next(), None, "one task tries an address");
        assert_eq!(trials.trial_failed(&one), Some((QUICK, false)));
        trials.connected(&one);
        assert!(!trials.failed(&one) && !trials.failed(&one), "the count began again");
        assert_eq!(trials.pause(&one), None);
        assert_eq!(trials.trial_failed(&one), Some((Duration::from_secs(10), true)));
        assert!(trials.pause(&one).is_some());
        assert_eq!(trials.trial_failed(&one), Some((Duration::from_secs(20), false)));
        assert_eq!(trials.trial_failed(&one), Some((MAX_BACK_OFF, false)));
        assert!(trials.clear(&one));
        assert_eq!((trials.pause(&one), trials.trial_failed(&one)), (None, None));
    }

    #[test]
    fn without_a_number_of_failures_no_address_is_ever_down() {
        let (trials, one) = (trials(0), address(1));
        assert!(!trials.failed(&one));
        assert_eq!((trials.pause(&one), trials.next()), (None, None));
    }
}
