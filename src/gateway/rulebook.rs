//! The rules of routes at work: who is turned away, and who is not billed.
//!
//! What is counted is in memory, for each instance, and starts again with it.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};
use bytes::Bytes;
use ipnet::IpNet;
use moka::policy::EvictionPolicy;

use super::client::Caller;
use super::rejection::Rejection;
use super::turns::{Pace, Turns};
use crate::cashier::{Admitted, Client, How};
use crate::clock::Clock;
use crate::metrics::Outcome;
use crate::nano::{Account, UnixSeconds};
use crate::routes::{CountedBy, RateLimit, Route, RouteName, Rules, Terms};
use crate::sync::{Mutex, PoisonError};

/// Clients and payers that are counted at once, and how long without a request. Beyond, the oldest begin
/// again.
const COUNTED: u64 = 100_000;
const DAY: u64 = 24 * 3600;
const SHARE_DOMAIN: &[u8] = b"faregate enforced share 1";

/// What is counted for the rules of all routes. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct Rulebook {
    turns: Turns<(RouteName, Counted)>,
    free: moka::sync::Cache<(RouteName, Client), Arc<Mutex<FreeToday>>>,
    clock: Clock,
}

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Counted {
    Client(Client),
    Payer(Account),
}

/// The free requests of one client at one route.
#[derive(Debug, Default)]
struct FreeToday {
    day: u64,
    used: u32,
}

/// Why a request is forwarded free although it has a price.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unbilled {
    /// The client has free requests on this day.
    Allowance {
        /// How many are left.
        left: u32,
        /// Seconds until it has all of them again.
        resets: u64,
    },
    /// It is not one of those who are billed yet. It would have been billed this; `None` if no rate is known for
    /// the currency of the price.
    Shadow(Option<Terms>),
}

impl Unbilled {
    pub(super) const fn outcome(self) -> Outcome {
        match self {
            Self::Allowance { .. } => Outcome::Allowance,
            Self::Shadow(_) => Outcome::Shadow,
        }
    }

    /// What the client is told of it.
    pub(super) fn header(self) -> (&'static str, Bytes) {
        match self {
            Self::Allowance { left, resets } => {
                ("Faregate-Allowance", format!("remaining={left}; resets={resets}").into())
            }
            Self::Shadow(None) => ("Faregate-Shadow", "rate_unavailable".into()),
            Self::Shadow(Some(Terms { amount, grants })) => {
                let text =
                    format!("amount={amount}; requests={}; within={}", grants.requests, grants.seconds);
                ("Faregate-Shadow", text.into())
            }
        }
    }
}

impl Rulebook {
    /// Nothing is counted yet. `clock` says which day it is.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let free = moka::sync::Cache::builder()
            .max_capacity(COUNTED)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(Duration::from_secs(DAY))
            .build();
        Self { turns: Turns::new(COUNTED, Duration::from_secs(DAY)), free, clock }
    }

    /// Whether the sender of a request to `route` may ask, and so often. One who `pays` is not counted: the
    /// payment is to arrive.
    pub(super) fn admit_client(&self, route: &Route, caller: Caller, pays: bool) -> Result<(), Rejection> {
        let Some(rules) = route.rules.as_deref() else { return Ok(()) };
        let address = caller.address().map(|it| IpNet::from(it.to_canonical()));
        if !rules.admits_client(address) {
            return Err(Rejection::ClientNotAllowed);
        }
        match (rules.limit, caller.client()) {
            (Some(limit @ RateLimit { by: CountedBy::Client, .. }), Some(client)) if !pays => {
                self.count(route, Counted::Client(client), limit)
            }
            _ => Ok(()),
        }
    }

    /// Whether a payment of `payer` is taken for `route`. It is asked before anything is settled.
    pub(super) fn admit_payment(&self, route: &Route, payer: Option<Account>) -> Result<(), Rejection> {
        let refused = |rules: &Rules| payer.is_some_and(|it| !rules.admits_payer(it));
        if route.rules.as_deref().is_some_and(refused) { Err(Rejection::PayerNotAllowed) } else { Ok(()) }
    }

    /// Whether what was bought opens `route` now.
    pub(super) fn admit_use(&self, route: &Route, admitted: &Admitted) -> Result<(), Rejection> {
        let Some(rules) = route.rules.as_deref() else { return Ok(()) };
        let payer = admitted.taken.held().purchase().payer;
        self.admit_payment(route, Some(payer))?;
        match rules.limit {
            Some(limit @ RateLimit { by: CountedBy::Payer, .. }) if admitted.how == How::Unlocked => {
                self.count(route, Counted::Payer(payer), limit)
            }
            _ => Ok(()),
        }
    }

    fn count(&self, route: &Route, who: Counted, limit: RateLimit) -> Result<(), Rejection> {
        let each = limit.each();
        let saved = each.saturating_mul(limit.burst.get().saturating_sub(1));
        let pace = Pace { each, saved, longest_wait: Duration::ZERO };
        match self.turns.take((route.name.clone(), who), pace) {
            Ok(_at_once) => Ok(()),
            Err(until) => Err(Rejection::TooOften(whole_seconds(until))),
        }
    }

    /// Why a request of `client` that shows no payment is not billed; `None` if it is. Takes one of its free
    /// requests.
    pub(super) fn unbilled(
        &self,
        route: &Route,
        client: Option<Client>,
        terms: Option<Terms>,
    ) -> Option<Unbilled> {
        let rules = route.rules.as_deref()?;
        if let Some((most, client)) = rules.free_per_day.zip(client)
            && let Some(allowance) = self.take_free(&route.name, client, most.get())
        {
            return Some(allowance);
        }
        // A client that is not known is billed with any share of the others.
        let place = client.map_or(0, |it| place(&route.name, it));
        (!rules.enforcement.bills(place)).then_some(Unbilled::Shadow(terms))
    }

    fn take_free(&self, route: &RouteName, client: Client, most: u32) -> Option<Unbilled> {
        let UnixSeconds(now) = self.clock.now();
        let day = now.div_euclid(DAY);
        let counted = self.free.get_with((route.clone(), client), Arc::default);
        let mut today = counted.lock().unwrap_or_else(PoisonError::into_inner);
        if today.day != day {
            *today = FreeToday { day, used: 0 };
        }
        let left = most.checked_sub(today.used)?.checked_sub(1)?;
        today.used = today.used.saturating_add(1);
        Some(Unbilled::Allowance { left, resets: DAY.saturating_sub(now.rem_euclid(DAY)) })
    }
}

/// Rounded up.
fn whole_seconds(time: Duration) -> NonZeroU64 {
    let more = u64::from(time.subsec_nanos() > 0);
    NonZeroU64::new(time.as_secs().saturating_add(more)).unwrap_or(NonZeroU64::MIN)
}

/// The place of a client among the hundred, the same at every instance and after every start.
fn place(route: &RouteName, client: Client) -> u8 {
    let mut hash = Blake2b::<U8>::new_with_prefix(SHARE_DOMAIN);
    hash.update(client.network().to_canonical().to_string());
    hash.update(route.as_str());
    let number = u64::from_be_bytes(hash.finalize().into());
    u8::try_from(number.rem_euclid(100)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::scenes::config;
    use super::*;
    use crate::nano::Raw;
    use crate::routes::{Enforcement, Grants};

    const TERMS: Terms =
        Terms { amount: Raw::new(7), grants: Grants { requests: NonZeroU32::MIN, seconds: 60 } };

    fn client(last: u8) -> Client {
        Client::at(std::net::IpAddr::from([192, 0, 2, last]))
    }

    fn route(rules: Rules) -> Route {
        let route = config("url: http://a").table.routes()[0].as_ref().clone();
        Route { rules: Some(Arc::new(rules)), ..route }
    }

    #[test]
    fn a_client_has_its_free_requests_each_day() {
        let now = Arc::new(AtomicU64::new(10 * DAY + 100));
        let at = Arc::clone(&now);
        let book = Rulebook::new(Clock::from_fn(move || UnixSeconds(at.load(Ordering::Relaxed))));
        let route = route(Rules { free_per_day: NonZeroU32::new(2), ..Rules::default() });
        let ask = |last| book.unbilled(&route, Some(client(last)), Some(TERMS));
        let free = |left| Some(Unbilled::Allowance { left, resets: DAY - 100 });
        assert_eq!([ask(1), ask(1), ask(1), ask(2)], [free(1), free(0), None, free(1)]);
        assert_eq!(book.unbilled(&route, None, Some(TERMS)), None, "who is not known has none");
        now.store(11 * DAY, Ordering::Relaxed);
        assert_eq!(ask(1), Some(Unbilled::Allowance { left: 1, resets: DAY }), "on the next day");
    }

    #[test]
    fn a_share_of_the_clients_is_billed_and_always_the_same() {
        let book = || Rulebook::new(Clock::system());
        let route = route(Rules { enforcement: Enforcement::Percent(25), ..Rules::default() });
        let clients = || (0..=255).map(client);
        let billed = |book: &Rulebook| -> Vec<_> {
            clients().map(|it| book.unbilled(&route, Some(it), Some(TERMS)).is_none()).collect()
        };
        let (one, other) = (book(), book());
        assert_eq!(billed(&one), billed(&other));
        assert_eq!(billed(&one), billed(&one));
        let count = billed(&one).into_iter().filter(|it| *it).count();
        assert!((40..90).contains(&count), "{count} of 256");
        let all = Route { rules: None, ..route.clone() };
        assert!(clients().all(|it| one.unbilled(&all, Some(it), Some(TERMS)).is_none()));
    }

    #[test]
    fn a_client_that_asks_too_often_is_told_when_to_come_again() {
        let limit = RateLimit {
            requests: NonZeroU32::new(2).unwrap(),
            per: Duration::from_secs(3600),
            burst: NonZeroU32::new(3).unwrap(),
            by: CountedBy::Client,
        };
        let book = Rulebook::new(Clock::system());
        let route = route(Rules { limit: Some(limit), ..Rules::default() });
        let ask = |who| book.count(&route, Counted::Client(client(who)), limit);
        for _ in 0..3 {
            assert!(ask(1).is_ok());
        }
        let Err(Rejection::TooOften(after)) = ask(1) else { panic!("a fourth at once") };
        assert!((1799..=1800).contains(&after.get()), "{after}");
        assert!(ask(2).is_ok(), "another client has its own");
    }

    #[test]
    fn what_a_client_is_told_has_the_figures() {
        let (name, text) = Unbilled::Shadow(Some(TERMS)).header();
        assert_eq!((name, text.as_ref()), ("Faregate-Shadow", &b"amount=7; requests=1; within=60"[..]));
        let (name, text) = Unbilled::Allowance { left: 3, resets: 9 }.header();
        assert_eq!((name, text.as_ref()), ("Faregate-Allowance", &b"remaining=3; resets=9"[..]));
    }
}
