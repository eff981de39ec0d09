//! The rules of routes at work: who is turned away, and who is not billed.
//!
//! What is counted is in memory, for each instance, and starts again with it.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};
use bytes::Bytes;
use http::StatusCode;
use ipnet::IpNet;
use moka::policy::EvictionPolicy;

use super::rejection::Rejection;
use super::turns::{Pace, Turns};
use crate::admission::{AnswerTraits, Charge, Ending};
use crate::cashier::{Admitted, Client, How};
use crate::clock::Clock;
use crate::metrics::Outcome;
use crate::nano::{Account, UnixSeconds};
use crate::routes::{ChargeOn, CountedBy, Measure, RateLimit, Route, RouteName, Rules, Terms};
use crate::sync::{Mutex, PoisonError};

/// Clients and payers that are counted at once. Beyond, the oldest begin again.
const COUNTED: u64 = 100_000;
const DAY: u64 = 24 * 3600;
/// How long the turns of one that does not ask are counted: whoever is forgotten has all that can be saved again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(31 * DAY);
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
#[derive(Debug)]
pub(super) enum Unbilled {
    /// The client has free requests on this day.
    Allowance(FreeCalls),
    /// It is not one of those who are billed yet. It would have been billed this.
    Shadow(Terms),
}

/// What a request takes of its client's free ones. Dropped before it is spent, it comes back to the client.
#[derive(Debug)]
pub(super) struct FreeCalls {
    /// How many are left, without these.
    left: u32,
    /// Seconds until the client has all of them again.
    resets: u64,
    calls: u32,
    charge_on: ChargeOn,
    /// Where it is counted and for which day, unless it is spent or back.
    held: Option<(Arc<Mutex<FreeToday>>, u64)>,
}

impl FreeCalls {
    fn spend(&mut self) {
        self.held = None;
    }

    fn give_back(&mut self) {
        let Some((counted, day)) = self.held.take() else { return };
        self.left = self.left.saturating_add(self.calls);
        let mut today = counted.lock().unwrap_or_else(PoisonError::into_inner);
        if today.day == day {
            today.used = today.used.saturating_sub(self.calls);
        }
    }
}

impl Drop for FreeCalls {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Unbilled {
    pub(super) const fn outcome(&self) -> Outcome {
        match self {
            Self::Allowance(_) => Outcome::Allowance,
            Self::Shadow(_) => Outcome::Shadow,
        }
    }

    /// An answer with `status` begins. Like a use, a free request is spent if the answer is charged for, and comes
    /// back otherwise.
    pub(super) fn judge(&mut self, status: StatusCode, traits: AnswerTraits) -> Charge {
        let Self::Allowance(allowance) = self else { return Charge::Excused };
        let charge_on = allowance.charge_on;
        let charge = if !charge_on.charges(status.as_u16()) {
            Charge::Failed
        } else if traits.is_excused {
            Charge::Excused
        } else if traits.redirects && !charge_on.charges_redirects() {
            Charge::Redirected
        } else {
            Charge::Taken
        };
        if charge == Charge::Taken {
            allowance.spend()
        } else {
            allowance.give_back()
        }
        charge
    }

    /// The exchange ended. If it did without an answer, a free request comes back, but to a client that hung up: the
    /// upstream has had its work.
    pub(super) fn close(&mut self, ending: Ending) {
        let Self::Allowance(allowance) = self else { return };
        match ending {
            Ending::ClientGone => allowance.spend(),
            Ending::Whole | Ending::Failed => allowance.give_back(),
        }
    }

    /// What the client is told of it.
    pub(super) fn header(&self) -> (&'static str, Bytes) {
        match self {
            Self::Allowance(FreeCalls { left, resets, .. }) => {
                ("Faregate-Allowance", format!("remaining={left}; resets={resets}").into())
            }
            Self::Shadow(Terms { amount, grants }) => {
                let text = match grants.buys {
                    Measure::Requests(count) => {
                        format!("amount={amount}; requests={count}; within={}", grants.seconds)
                    }
                    Measure::Balance => format!("amount={amount}; balance; within={}", grants.seconds),
                };
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
        Self { turns: Turns::new(COUNTED, FORGOTTEN_AFTER), free, clock }
    }

    /// Whether a client, whose `address` may not be known, may ask for `route`, and so often. One who `pays` is not counted: the
    /// payment is to arrive.
    pub(super) fn admit_client(
        &self,
        route: &Route,
        (address, client): (Option<IpAddr>, Option<Client>),
        pays: bool,
    ) -> Result<(), Rejection> {
        let Some(rules) = route.rules.as_deref() else { return Ok(()) };
        let address = address.map(|it| IpNet::from(it.to_canonical()));
        if !rules.admits_client(address) {
            return Err(Rejection::ClientNotAllowed);
        }
        match (rules.limit, client) {
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

    /// Whether what was bought opens `route` now for `client`. A proof that opens it again is counted like the
    /// capability that it stands for.
    pub(super) fn admit_use(
        &self,
        route: &Route,
        client: Option<Client>,
        admitted: &Admitted,
    ) -> Result<(), Rejection> {
        let Some(rules) = route.rules.as_deref() else { return Ok(()) };
        let held = admitted.taken.held();
        let payer = admitted.purchase().payer;
        self.admit_payment(route, Some(payer))?;
        let Some(limit) = rules.limit else { return Ok(()) };
        let is_first = held.remaining().saturating_add(admitted.taken.reserved()) >= held.record().stock;
        let who = match (limit.by, admitted.how) {
            (CountedBy::Payer, How::Unlocked) => Some(Counted::Payer(payer)),
            (CountedBy::Payer, How::Paid) => (!is_first).then_some(Counted::Payer(payer)),
            (CountedBy::Client, How::Paid) => client.filter(|_| !is_first).map(Counted::Client),
            // It was counted when it came.
            (CountedBy::Client, How::Unlocked) => None,
        };
        who.map_or(Ok(()), |it| self.count(route, it, limit))
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

    /// Why a request of `client` that shows no payment is not billed for so many calls; `None` if it is. Takes as
    /// many of its free requests.
    pub(super) fn unbilled(
        &self,
        route: &Route,
        client: Option<Client>,
        (terms, calls): (Terms, NonZeroU32),
    ) -> Option<Unbilled> {
        let rules = route.rules.as_deref()?;
        if let Some((most, client)) = rules.free_per_day.zip(client)
            && let Some(allowance) = self.take_free(route, client, (most.get(), calls.get()))
        {
            return Some(Unbilled::Allowance(allowance));
        }
        // A client that is not known is billed with any share of the others.
        let place = client.map_or(0, |it| place(&route.name, it));
        (!rules.enforcement.bills(place)).then_some(Unbilled::Shadow(terms))
    }

    fn take_free(&self, route: &Route, client: Client, (most, calls): (u32, u32)) -> Option<FreeCalls> {
        let UnixSeconds(now) = self.clock.now();
        let day = now.div_euclid(DAY);
        let counted = self.free.get_with((route.name.clone(), client), Arc::default);
        let mut today = counted.lock().unwrap_or_else(PoisonError::into_inner);
        if today.day != day {
            *today = FreeToday { day, used: 0 };
        }
        let left = most.checked_sub(today.used)?.checked_sub(calls)?;
        today.used = today.used.saturating_add(calls);
        drop(today);
        let resets = DAY.saturating_sub(now.rem_euclid(DAY));
        let charge_on = route.charge_on;
        Some(FreeCalls { left, resets, calls, charge_on, held: Some((counted, day)) })
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
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::scenes::config;
    use super::*;
    use crate::nano::Raw;
    use crate::routes::{Enforcement, Grants};

    const TERMS: Terms = Terms { amount: Raw::new(7), grants: Grants::of_requests(NonZeroU32::MIN, 60) };

    const ONE: (Terms, NonZeroU32) = (TERMS, NonZeroU32::MIN);

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
        let ask = |last| spent(&book, &route, last, 1);
        let free = |left| Some((left, DAY - 100));
        assert_eq!([ask(1), ask(1), ask(1), ask(2)], [free(1), free(0), None, free(1)]);
        assert!(book.unbilled(&route, None, ONE).is_none(), "who is not known has none");
        now.store(11 * DAY, Ordering::Relaxed);
        assert_eq!(ask(1), Some((1, DAY)), "on the next day");
    }

    /// What a client takes for so many calls and uses up: how many are left, and until when.
    fn spent(book: &Rulebook, route: &Route, last: u8, calls: u32) -> Option<(u32, u64)> {
        let calls = NonZeroU32::new(calls).unwrap();
        let Unbilled::Allowance(mut taken) = book.unbilled(route, Some(client(last)), (TERMS, calls))? else {
            return None;
        };
        taken.spend();
        Some((taken.left, taken.resets))
    }

    #[test]
    fn a_batch_takes_a_free_request_for_each_of_its_calls() {
        let book = Rulebook::new(Clock::from_fn(|| UnixSeconds(10 * DAY)));
        let route = route(Rules { free_per_day: NonZeroU32::new(3), ..Rules::default() });
        let taken = [4, 2, 2, 1, 1].map(|calls| spent(&book, &route, 1, calls).map(|(left, _)| left));
        assert_eq!(taken, [None, Some(1), None, Some(0), None]);
    }

    /// It was spent once, whatever became of the request.
    #[test]
    fn a_free_request_is_spent_by_an_answer_that_is_charged_for_and_comes_back_otherwise() {
        let now = Arc::new(AtomicU64::new(10 * DAY));
        let at = Arc::clone(&now);
        let book = Rulebook::new(Clock::from_fn(move || UnixSeconds(at.load(Ordering::Relaxed))));
        let route = route(Rules { free_per_day: NonZeroU32::new(1), ..Rules::default() });
        let take = |last| book.unbilled(&route, Some(client(last)), ONE);
        let traits = |is_excused, redirects| AnswerTraits { is_excused, redirects };
        for (last, status, traits, charge, comes_back) in [
            (1, 200, traits(false, false), Charge::Taken, false),
            (2, 404, traits(false, false), Charge::Taken, false),
            (3, 101, traits(false, false), Charge::Taken, false),
            (4, 302, traits(false, false), Charge::Taken, false),
            (5, 302, traits(false, true), Charge::Redirected, true),
            (6, 200, traits(true, false), Charge::Excused, true),
            (7, 500, traits(false, false), Charge::Failed, true),
        ] {
            let mut taken = take(last).unwrap();
            assert_eq!(taken.judge(StatusCode::from_u16(status).unwrap(), traits), charge, "{status}");
            let left = if comes_back { "remaining=1;" } else { "remaining=0;" };
            assert!(taken.header().1.starts_with(left.as_bytes()), "{status}");
            // The end of an exchange that was answered changes nothing.
            taken.close(Ending::Failed);
            drop(taken);
            assert_eq!(take(last).is_some(), comes_back, "{status}");
        }
        for (last, ending, comes_back) in
            [(151, Ending::Failed, true), (152, Ending::Whole, true), (153, Ending::ClientGone, false)]
        {
            take(last).unwrap().close(ending);
            assert_eq!(take(last).is_some(), comes_back, "{ending:?}");
        }
        drop(take(154));
        let held = take(154).unwrap();
        assert!(take(154).is_none(), "it is under way");
        now.store(11 * DAY, Ordering::Relaxed);
        let today = take(154).unwrap();
        drop(held);
        assert!(take(154).is_none(), "what is left of yesterday is not today's");
        drop(today);
    }

    #[test]
    fn a_share_of_the_clients_is_billed_and_always_the_same() {
        let book = || Rulebook::new(Clock::system());
        let route = route(Rules { enforcement: Enforcement::Percent(25), ..Rules::default() });
        let clients = || (0..=255).map(client);
        let billed = |book: &Rulebook| -> Vec<_> {
            clients().map(|it| book.unbilled(&route, Some(it), ONE).is_none()).collect()
        };
        let (one, other) = (book(), book());
        assert_eq!(billed(&one), billed(&other));
        assert_eq!(billed(&one), billed(&one));
        let count = billed(&one).into_iter().filter(|it| *it).count();
        assert!((40..90).contains(&count), "{count} of 256");
        let all = Route { rules: None, ..route.clone() };
        assert!(clients().all(|it| one.unbilled(&all, Some(it), ONE).is_none()));
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
        let (name, text) = Unbilled::Shadow(TERMS).header();
        assert_eq!((name, text.as_ref()), ("Faregate-Shadow", &b"amount=7; requests=1; within=60"[..]));
        let charge_on = ChargeOn::default();
        let allowance = FreeCalls { left: 3, resets: 9, calls: 1, charge_on, held: None };
        let (name, text) = Unbilled::Allowance(allowance).header();
        assert_eq!((name, text.as_ref()), ("Faregate-Allowance", &b"remaining=3; resets=9"[..]));
    }
}
