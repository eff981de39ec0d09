//! Cached capabilities at two instances over one store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use faregate::clock::Clock;
use faregate::nano::UnixSeconds;
use faregate::routes::Metering;
use faregate::store::capabilities::{
    BrokenAnswer, CachedCapability, Capabilities, LEASE_SECONDS, NoUse, Use, Wish,
};
use faregate::store::{Intent, LeaseRequest, Meters};

use super::model::Model;
use super::samples::{GOOD_FOR, NOW, USES, grantee, hash, holder, id, purse, sent};
use crate::patience::eventually;

fn instance(store: &Arc<Model>, number: u8) -> Capabilities<Model> {
    Capabilities::new(Arc::clone(store), Clock::from_fn(|| NOW), holder(number), 100)
}

async fn bought(store: &Arc<Model>) {
    store.grant(&sent(hash(1), 1), grantee(hash(1), 9, 0), NOW).await.unwrap();
}

async fn found(capabilities: &Capabilities<Model>) -> Arc<CachedCapability> {
    capabilities.find(id(hash(1))).await.unwrap().unwrap()
}

/// Regression: hanging up was forgiven again at each instance and after each restart.
#[tokio::test]
async fn answers_that_break_off_are_counted_in_the_store() {
    let store = Arc::new(Model::default());
    bought(&store).await;
    let (back, spent) = (BrokenAnswer::GivenBack, BrokenAnswer::Committed);
    for (number, expected) in [(1, back), (2, back), (3, spent)] {
        let here = instance(&store, number);
        let held = found(&here).await;
        let taken = here.reserve(&held, Wish::one(Metering::Strict)).await.unwrap();
        assert_eq!(here.broke(taken).await, expected, "instance {number}");
        if expected == spent {
            // The next use has its own.
            for expected in [back, back, spent] {
                let taken = here.reserve(&held, Wish::one(Metering::Strict)).await.unwrap();
                assert_eq!(here.broke(taken).await, expected);
            }
        }
    }
}

/// A purse that was used up here is asked about again in the next second: a payment may have been added elsewhere.
#[tokio::test]
async fn what_is_added_to_a_purse_elsewhere_is_found() {
    let store = Arc::new(Model::default());
    let of_purse = |number| Intent { terms: purse(), amount: purse().amount, ..sent(hash(number), number) };
    store.grant(&of_purse(1), grantee(hash(1), 9, 0), NOW).await.unwrap();
    let now = Arc::new(AtomicU64::new(NOW.0));
    let clock = {
        let now = Arc::clone(&now);
        Clock::from_fn(move || UnixSeconds(now.load(Ordering::SeqCst)))
    };
    let here = Capabilities::new(Arc::clone(&store), clock, holder(1), 100);
    let held = found(&here).await;
    let all = Wish { amount: USES, metering: Metering::Leased };
    here.reserve(&held, all).await.unwrap().commit();
    let is_exhausted = async || matches!(here.reserve(&held, all).await, Err(NoUse::Exhausted));
    assert!(is_exhausted().await);
    let added = Intent { route: of_purse(2).route.adding_to(id(hash(1)).0), ..of_purse(2) };
    store.grant(&added, grantee(hash(2), 9, 0), NOW.plus(5)).await.unwrap();
    assert!(is_exhausted().await, "the store is not asked for each request in vain");
    now.fetch_add(1, Ordering::SeqCst);
    let taken = here.reserve(&held, all).await.unwrap();
    assert_eq!(taken.reserved(), USES);
    taken.give_back();
    // Who added it is told at once, and until when it is good.
    assert_eq!(held.expires_at(), NOW.plus(GOOD_FOR));
    let same = here.topped_up(id(hash(1))).await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&same, &held) && held.expires_at() == NOW.plus(5 + GOOD_FOR));
}

/// Where the uses of the capability are, for an instance that has none of them.
#[derive(Debug, Eq, PartialEq)]
struct InStore {
    remaining: u128,
    leased: u128,
}

/// Asks the store. `sequence` counts the calls.
async fn look(store: &Model, sequence: u64) -> InStore {
    let request = LeaseRequest {
        capability: id(hash(1)),
        holder: holder(9),
        sequence,
        used: 0,
        returned: 0,
        broken: 0,
        want: 0,
        ttl: 30,
    };
    let lease = store.lease(request, NOW).await.unwrap();
    InStore { remaining: lease.remaining, leased: lease.elsewhere }
}

#[tokio::test]
async fn a_revocation_elsewhere_ends_a_capability_with_the_next_report() {
    let store = Arc::new(Model::default());
    bought(&store).await;
    let (here, there) = (instance(&store, 1), instance(&store, 2));
    let held = found(&here).await;
    // The first call tells how many there are, so that the second takes several.
    here.reserve(&held, Wish::one(Metering::Leased)).await.unwrap().commit();
    let mut taken = here.reserve(&held, Wish::one(Metering::Leased)).await.unwrap();
    assert!(held.remaining() > 1, "more is leased here");
    assert!(there.revoke(id(hash(1))).await.unwrap());
    // Until it hears of it, an instance serves what it has.
    here.reserve(&held, Wish::one(Metering::Leased)).await.unwrap().give_back();
    here.commit_durably(&mut taken).await.unwrap();
    let refused = here.reserve(&held, Wish::one(Metering::Leased)).await;
    assert!(matches!(refused, Err(NoUse::Revoked)), "{refused:?}");
    let elsewhere = there.reserve(&found(&there).await, Wish::one(Metering::Leased)).await;
    assert!(matches!(elsewhere, Err(NoUse::Revoked)), "{elsewhere:?}");
}

#[tokio::test]
async fn strict_metering_leases_one_use_and_records_it_at_once() {
    let store = Arc::new(Model::default());
    bought(&store).await;
    let capabilities = instance(&store, 1);
    let held = found(&capabilities).await;
    for spent in 0..USES {
        let mut taken = capabilities.reserve(&held, Wish::one(Metering::Strict)).await.unwrap();
        assert_eq!(
            look(&store, spent as u64 * 2 + 1).await,
            InStore { remaining: USES - spent - 1, leased: 1 },
            "one is out"
        );
        capabilities.commit_durably(&mut taken).await.unwrap();
        assert_eq!(
            look(&store, spent as u64 * 2 + 2).await,
            InStore { remaining: USES - spent - 1, leased: 0 },
            "and spent"
        );
        // What the gateway does with it later changes nothing.
        taken.commit();
    }
    let none = capabilities.reserve(&held, Wish::one(Metering::Strict)).await;
    assert!(matches!(none, Err(NoUse::Exhausted)), "{none:?}");
}

#[tokio::test]
async fn a_strict_use_that_is_recorded_is_not_given_back() {
    let store = Arc::new(Model::default());
    bought(&store).await;
    let capabilities = instance(&store, 1);
    let held = found(&capabilities).await;
    let mut taken = capabilities.reserve(&held, Wish::one(Metering::Strict)).await.unwrap();
    capabilities.commit_durably(&mut taken).await.unwrap();
    assert_eq!(capabilities.broke(taken).await, BrokenAnswer::Committed);
    assert_eq!(look(&store, 1).await, InStore { remaining: USES - 1, leased: 0 });
    assert_eq!(held.remaining(), USES - 1);
}

/// What the clocks of all instances of a test show.
#[derive(Clone)]
struct Time(Arc<AtomicU64>);

impl Time {
    fn starts() -> Self {
        Self(Arc::new(AtomicU64::new(NOW.0)))
    }

    /// Shows this many seconds after the start.
    fn set(&self, seconds: u64) {
        self.0.store(NOW.0 + seconds, Ordering::SeqCst);
    }

    fn instance(&self, store: &Arc<Model>, number: u8) -> Arc<Capabilities<Model>> {
        let shown = Arc::clone(&self.0);
        let clock = Clock::from_fn(move || UnixSeconds(shown.load(Ordering::SeqCst)));
        Arc::new(Capabilities::new(Arc::clone(store), clock, holder(number), 100))
    }
}

/// Takes uses until there are no more.
async fn take_all(capabilities: &Capabilities<Model>) -> Vec<Use> {
    let (cached, mut taken) = (found(capabilities).await, Vec::new());
    while let Ok(one) = capabilities.reserve(&cached, Wish::one(Metering::Leased)).await {
        taken.push(one);
    }
    taken
}

fn commit_all(taken: Vec<Use>) -> u128 {
    let count = u128::try_from(taken.len()).unwrap();
    taken.into_iter().for_each(Use::commit);
    count
}

/// Takes one use, so that half of the others are leased here, and spends it durably.
async fn lease_half(capabilities: &Capabilities<Model>) -> u128 {
    let cached = found(capabilities).await;
    for _ in 0..2 {
        let mut one = capabilities.reserve(&cached, Wish::one(Metering::Leased)).await.unwrap();
        capabilities.commit_durably(&mut one).await.unwrap();
    }
    2
}

/// At the second at which a lease lapses, another instance may have leased the same uses. If they were
/// served here too, a client would get 15 uses of 10.
#[tokio::test]
async fn a_lease_is_not_served_at_the_second_at_which_it_lapses() {
    let store = Arc::new(Model::default());
    bought(&store).await;
    let time = Time::starts();
    let (here, there) = (time.instance(&store, 1), time.instance(&store, 2));
    let mut spent = lease_half(&here).await;
    let leased_here = look(&store, 1).await.leased;
    assert!(leased_here > 1, "uses lie here: {leased_here}");
    time.set(LEASE_SECONDS);
    spent += commit_all(take_all(&there).await);
    spent += commit_all(take_all(&here).await);
    assert_eq!(spent, USES);
}

/// One second earlier no other instance gets the uses, and they are served here.
#[tokio::test]
async fn a_lease_is_served_up_to_the_second_before_it_lapses() {
    let store = Arc::new(Model::default());
    bought(&store).await;
    let time = Time::starts();
    let (here, there) = (time.instance(&store, 1), time.instance(&store, 2));
    let mut spent = lease_half(&here).await;
    let leased_here = look(&store, 1).await.leased;
    time.set(LEASE_SECONDS - 1);
    let elsewhere = commit_all(take_all(&there).await);
    assert_eq!(elsewhere, USES - spent - leased_here);
    spent += elsewhere + commit_all(take_all(&here).await);
    assert_eq!(spent, USES);
}

/// Lets the background task of an instance check its leases, at the time that the clock shows.
async fn look_over() {
    tokio::time::sleep(Duration::from_millis(600)).await;
}

/// If a lease is renewed only at the second at which it lapses, another instance can get the use of a
/// request that is still under way: 11 uses of 10.
#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_before_it_lapses_while_a_request_is_under_way() {
    let store = Arc::new(Model::default());
    bought(&store).await;
    let time = Time::starts();
    let (here, there) = (time.instance(&store, 1), time.instance(&store, 2));
    let (stop, shutdown) = tokio::sync::watch::channel(false);
    let running = tokio::spawn({
        let here = Arc::clone(&here);
        async move { here.run(shutdown).await }
    });
    let under_way = here.reserve(&found(&here).await, Wish::one(Metering::Leased)).await.unwrap();
    let mut spent = 0;
    for second in 1..=3 * LEASE_SECONDS {
        time.set(second);
        // The other instance always asks first.
        spent += commit_all(take_all(&there).await);
        look_over().await;
    }
    assert_eq!(spent, USES - 1, "all but the one under way");
    under_way.commit();
    stop.send_replace(true);
    running.await.unwrap();
    assert_eq!(commit_all(take_all(&there).await), 0);
}

/// Or more of them would be forgotten with an instance that is killed, and could be taken again.
#[tokio::test(start_paused = true)]
async fn a_spent_use_is_reported_within_a_quarter_of_a_second() {
    let store = Arc::new(Model::default());
    bought(&store).await;
    let here = Time::starts().instance(&store, 1);
    let (_stop, shutdown) = tokio::sync::watch::channel(false);
    tokio::spawn({
        let here = Arc::clone(&here);
        async move { here.run(shutdown).await }
    });
    let taken = here.reserve(&found(&here).await, Wish::one(Metering::Leased)).await.unwrap();
    // The next one is far.
    look_over().await;
    let before = look(&store, 1).await;
    taken.commit();
    tokio::time::sleep(Duration::from_millis(250)).await;
    let expected = InStore { leased: before.leased - 1, ..before };
    assert_eq!(look(&store, 2).await, expected);
}

/// If idle uses stay leased here, another instance tells its clients to wait for them.
#[tokio::test(start_paused = true)]
async fn idle_uses_are_handed_back_after_two_seconds() {
    let store = Arc::new(Model::default());
    bought(&store).await;
    let time = Time::starts();
    let here = time.instance(&store, 1);
    let (_stop, shutdown) = tokio::sync::watch::channel(false);
    tokio::spawn({
        let here = Arc::clone(&here);
        async move { here.run(shutdown).await }
    });
    let spent = lease_half(&here).await;
    let leased_here = look(&store, 1).await.leased;
    assert!(leased_here > 1, "uses lie here: {leased_here}");
    time.set(1);
    look_over().await;
    assert_eq!(
        look(&store, 2).await,
        InStore { remaining: USES - spent - leased_here, leased: leased_here },
        "not idle yet"
    );
    time.set(2);
    look_over().await;
    assert_eq!(look(&store, 3).await, InStore { remaining: USES - spent, leased: 0 });
}

/// Uses that came with the grant do not stay out until they lapse.
#[tokio::test(start_paused = true)]
async fn uses_leased_with_the_grant_are_handed_back_too() {
    let store = Arc::new(Model::default());
    store.grant(&sent(hash(1), 1), grantee(hash(1), 1, 4), NOW).await.unwrap();
    let time = Time::starts();
    let here = time.instance(&store, 1);
    let (_stop, shutdown) = tokio::sync::watch::channel(false);
    tokio::spawn({
        let here = Arc::clone(&here);
        async move { here.run(shutdown).await }
    });
    assert_eq!(found(&here).await.remaining(), USES);
    look_over().await;
    assert_eq!(look(&store, 1).await, InStore { remaining: USES - 4, leased: 4 });
    time.set(2);
    look_over().await;
    assert_eq!(look(&store, 2).await, InStore { remaining: USES, leased: 0 });
}

#[tokio::test]
async fn a_capability_is_known_until_it_expires() {
    let store = Arc::new(Model::default());
    bought(&store).await;
    let time = Time::starts();
    let here = time.instance(&store, 1);
    found(&here).await;
    assert!(here.known(id(hash(1))).is_some());
    time.set(GOOD_FOR);
    let late = time.instance(&store, 2);
    found(&late).await;
    eventually("the cache lets it go", async || late.known(id(hash(1))).is_none()).await;
    assert!(here.known(id(hash(1))).is_some(), "it was looked up in its time");
}

#[tokio::test]
async fn the_cache_says_how_many_it_holds_and_how_many_it_had_no_room_for() {
    let store = Arc::new(Model::default());
    let here = Capabilities::new(Arc::clone(&store), Clock::from_fn(|| NOW), holder(1), 2);
    assert_eq!(here.counts(), (0, 0));
    for number in 1..=5 {
        store.grant(&sent(hash(number), number), grantee(hash(number), 9, 0), NOW).await.unwrap();
        here.find(id(hash(number))).await.unwrap().unwrap();
    }
    eventually("the oldest are dropped", async || {
        // A look makes the cache tidy up.
        drop(here.known(id(hash(5))));
        here.counts() == (2, 3)
    })
    .await;
}

/// A request may still have what the cache has dropped.
#[tokio::test]
async fn a_revocation_ends_a_capability_that_the_cache_has_dropped() {
    let store = Arc::new(Model::default());
    bought(&store).await;
    let here = Capabilities::new(Arc::clone(&store), Clock::from_fn(|| NOW), holder(1), 0);
    lease_half(&here).await;
    let held = here.known(id(hash(1))).expect("uses of it are out");
    here.reserve(&held, Wish::one(Metering::Leased)).await.unwrap().give_back();
    assert!(here.revoke(id(hash(1))).await.unwrap());
    let refused = here.reserve(&held, Wish::one(Metering::Leased)).await;
    assert!(matches!(refused, Err(NoUse::Revoked)), "{refused:?}");
}
