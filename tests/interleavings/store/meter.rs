//! Uses of one capability, taken, spent and given back by many requests at two instances, while each
//! instance reports, renews and hands back: never more than were bought, and none is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shuttle::future::{block_on, spawn, yield_now};
use shuttle::rand::Rng;
use tokio::sync::watch;

use super::capabilities::{BrokenAnswer, Capabilities, LEASE_SECONDS, NoUse, Wish};
use super::model::Model;
use super::samples::{NOW, USES, hash, holder, id, sent};
use super::settle::Settled;
use super::{
    CapabilityId, CapabilityRecord, Filter, Grant, Grantee, Health, Intent, Lease, LeaseRequest, Meters,
    PaymentJournal, PaymentRecord, StoreError, StoreHealth,
};
use crate::clock::Clock;
use crate::nano::{BlockHash, UnixSeconds};
use crate::payment::IdentifierKey;
use crate::routes::Metering;
use crate::sync::Mutex;

/// Requests at all instances together; what each tries to take is more than there is.
const REQUESTS: u128 = 8;
/// Uses that a request tries to take, one after the other.
const TRIES: u8 = 3;

/// The store as an instance sees it: every call takes a while, and some answers are lost.
struct Far {
    store: Arc<Model>,
    /// Whether the answers of lease calls get lost.
    lossy: bool,
}

impl PaymentJournal for Far {
    async fn payment(&self, block: BlockHash) -> Result<Option<PaymentRecord>, StoreError> {
        yield_now().await;
        self.store.payment(block).await
    }

    async fn identified(&self, id: IdentifierKey) -> Result<Option<PaymentRecord>, StoreError> {
        self.store.identified(id).await
    }

    async fn scan(&self, after: u64, filter: Filter, limit: usize) -> Result<Vec<PaymentRecord>, StoreError> {
        self.store.scan(after, filter, limit).await
    }
}

impl Meters for Far {
    async fn grant(&self, intent: &Intent, grantee: Grantee, now: UnixSeconds) -> Result<Grant, StoreError> {
        self.store.grant(intent, grantee, now).await
    }

    async fn capability(&self, id: CapabilityId) -> Result<Option<CapabilityRecord>, StoreError> {
        yield_now().await;
        self.store.capability(id).await
    }

    async fn lease(&self, request: LeaseRequest, now: UnixSeconds) -> Result<Lease, StoreError> {
        yield_now().await;
        let fate = if self.lossy { shuttle::rand::thread_rng().gen_range(0..10) } else { 9 };
        match fate {
            0 => return Err(StoreError::Unavailable("it did not arrive".to_owned())),
            1 => return Err(StoreError::Unknown("it did not arrive, or it did".to_owned())),
            _ => {}
        }
        let answer = self.store.lease(request, now).await;
        yield_now().await;
        if fate == 2 { Err(StoreError::Unknown("the answer is lost".to_owned())) } else { answer }
    }

    async fn revoke(&self, id: CapabilityId, now: UnixSeconds) -> Result<bool, StoreError> {
        self.store.revoke(id, now).await
    }
}

impl StoreHealth for Far {
    fn is_writable(&self) -> bool {
        true
    }

    fn health(&self) -> Health {
        Health { writable: true, free_bytes: None, floor: 0, newest: NOW }
    }
}

/// What happened to the requests.
#[derive(Default)]
struct Tally {
    spent: u128,
    under_way: u128,
    called_used_up: u32,
}

/// What goes wrong, and what time does.
#[derive(Clone, Copy)]
struct Plan {
    instances: u128,
    /// Answers of the store get lost.
    lossy: bool,
    /// Seconds that pass at once, at some moment.
    passes: u64,
    /// Capabilities that an instance's cache remembers.
    cached: u64,
}

impl Plan {
    /// Whether a lease lapses under those who have taken uses of it.
    const fn lapses(self) -> bool {
        self.passes >= LEASE_SECONDS
    }

    /// Uses that may be out and spent together: those bought, and what was under way when a lease
    /// lapsed, which is one for each request at most.
    const fn bound(self) -> u128 {
        if self.lapses() { USES + REQUESTS } else { USES }
    }
}

/// Takes a use and spends it, gives it back, or is hung up on.
async fn request(capabilities: Arc<Capabilities<Far>>, tally: Arc<Mutex<Tally>>, plan: Plan) {
    let held = loop {
        match capabilities.find(id(hash(1))).await {
            Ok(found) => break found.expect("it was granted"),
            Err(_) => yield_now().await,
        }
    };
    let strict = shuttle::rand::thread_rng().gen_bool(0.3);
    let metering = if strict { Metering::Strict } else { Metering::Leased };
    for _ in 0..TRIES {
        match capabilities.reserve(&held, Wish::one(metering)).await {
            Ok(mut taken) => {
                {
                    let mut tally = tally.lock().unwrap();
                    tally.under_way += 1;
                    let out = tally.spent + tally.under_way;
                    assert!(out <= plan.bound(), "more uses are out than were bought");
                    let denied = tally.called_used_up > 0 && !plan.lapses();
                    assert!(!denied, "a use was left when a request got none");
                }
                yield_now().await;
                let dice = shuttle::rand::thread_rng().gen_range(0..5);
                // Counted before it happens, so that who takes it next is not counted first.
                let counted = |spent: u128| {
                    let mut tally = tally.lock().unwrap();
                    tally.under_way -= 1;
                    tally.spent += spent;
                    tally
                };
                match dice {
                    0 => {
                        let _tally = counted(0);
                        taken.give_back();
                    }
                    1 => {
                        drop(counted(0));
                        let broken = capabilities.broke(taken).await;
                        tally.lock().unwrap().spent += u128::from(broken == BrokenAnswer::Committed);
                    }
                    2 if metering == Metering::Strict => {
                        drop(counted(1));
                        // Unheard, it is reported in the background.
                        let _written = capabilities.commit_durably(&mut taken).await.is_ok();
                    }
                    _ => {
                        let _tally = counted(1);
                        taken.commit();
                    }
                }
            }
            Err(NoUse::Exhausted) => {
                tally.lock().unwrap().called_used_up += 1;
                return;
            }
            Err(NoUse::Busy | NoUse::Failing(_) | NoUse::Revoked | NoUse::Store(_)) => yield_now().await,
        }
    }
}

fn play(plan: Plan) {
    let store = Arc::new(Model::default());
    let tally = Arc::new(Mutex::new(Tally::default()));
    let time = Arc::new(AtomicU64::new(NOW.0));
    block_on(async {
        let intent = sent(hash(1), 1);
        let (stop, shutdown) = watch::channel(false);
        let (mut requests, mut running) = (Vec::new(), Vec::new());
        for instance in 0..plan.instances {
            let far = Arc::new(Far { store: Arc::clone(&store), lossy: plan.lossy });
            let shown = Arc::clone(&time);
            let clock = Clock::from_fn(move || UnixSeconds(shown.load(Ordering::SeqCst)));
            let own = holder(u8::try_from(instance).unwrap());
            let capabilities = Arc::new(Capabilities::new(far, clock, own, plan.cached));
            if instance == 0 {
                let granted = store
                    .grant(
                        &intent,
                        Grantee { id: id(hash(1)), holder: own, want: 2, ttl: LEASE_SECONDS },
                        NOW,
                    )
                    .await;
                let Ok(Grant::Granted { record, lease, .. }) = granted else { panic!("{granted:?}") };
                drop(capabilities.admit(Settled(intent.clone(), record, lease)));
            }
            for _ in 0..REQUESTS / plan.instances {
                requests.push(spawn(request(Arc::clone(&capabilities), Arc::clone(&tally), plan)));
            }
            let shutdown = shutdown.clone();
            running.push(spawn(async move { capabilities.run(shutdown).await }));
        }
        requests.push(spawn(async move {
            let moment = shuttle::rand::thread_rng().gen_range(0..12);
            for _ in 0..moment {
                yield_now().await;
            }
            time.fetch_add(plan.passes, Ordering::SeqCst);
        }));
        for request in requests {
            request.await.unwrap();
        }
        stop.send_replace(true);
        for instance in running {
            instance.await.unwrap();
        }
        compare(plan, &store, &tally.lock().unwrap()).await;
    });
}

/// Compares what the store says at the end with what was done.
async fn compare(plan: Plan, store: &Model, tally: &Tally) {
    let look = LeaseRequest {
        capability: id(hash(1)),
        holder: holder(99),
        sequence: 1,
        used: 0,
        returned: 0,
        broken: 0,
        want: 0,
        ttl: LEASE_SECONDS,
    };
    let left = store.lease(look, NOW).await.unwrap();
    assert_eq!(tally.under_way, 0);
    assert!(tally.spent + left.remaining + left.elsewhere >= USES, "a use is lost");
    if plan.lapses() {
        return;
    }
    if !plan.lossy {
        // With answers lost, the last report may have been one of them.
        assert_eq!((left.elsewhere, tally.spent + left.remaining), (0, USES), "reported and handed back");
    }
    if tally.called_used_up > 0 {
        assert_eq!(tally.spent, USES, "a request got no use although one was left");
    }
}

#[test]
fn uses_are_neither_lost_nor_doubled() {
    crate::explore(|| play(Plan { instances: 1, lossy: false, passes: 0, cached: 100 }));
}

/// Long enough that what is idle goes back to the store while others want it.
#[test]
fn instances_share_uses_exactly() {
    crate::explore(|| play(Plan { instances: 2, lossy: false, passes: 3, cached: 100 }));
}

#[test]
fn lost_answers_lose_no_use() {
    crate::explore(|| play(Plan { instances: 2, lossy: true, passes: 3, cached: 100 }));
}

#[test]
fn a_lease_that_lapses_gives_away_no_more_than_was_under_way() {
    crate::explore(|| play(Plan { instances: 2, lossy: true, passes: LEASE_SECONDS + 1, cached: 100 }));
}

/// Each request loads the capability again, and all use one meter.
#[test]
fn a_cache_that_forgets_at_once_meters_nothing_twice() {
    crate::explore(|| play(Plan { instances: 1, lossy: false, passes: 0, cached: 0 }));
    crate::explore(|| play(Plan { instances: 2, lossy: true, passes: 3, cached: 0 }));
}

/// A token of one instance can come to another while that one is settling the same payment.
#[test]
fn uses_leased_with_the_grant_are_added_once() {
    crate::explore(|| {
        let store = Arc::new(Model::default());
        let far = Arc::new(Far { store: Arc::clone(&store), lossy: false });
        let own = Arc::new(Capabilities::new(far, Clock::from_fn(|| NOW), holder(1), 100));
        block_on(async {
            let intent = sent(hash(1), 1);
            let grant = || {
                store.grant(
                    &intent,
                    Grantee { id: id(hash(1)), holder: holder(1), want: 2, ttl: LEASE_SECONDS },
                    NOW,
                )
            };
            let mut settled = Vec::new();
            for _ in 0..2 {
                let Ok(Grant::Granted { record, lease, .. }) = grant().await else { panic!("taken") };
                settled.push(Settled(intent.clone(), record, lease));
            }
            let held = own.find(id(hash(1))).await.unwrap().expect("it was granted");
            let admitting: Vec<_> = settled
                .into_iter()
                .map(|settled| {
                    let own = Arc::clone(&own);
                    spawn(async move { own.admit(settled) })
                })
                .collect();
            for admitted in admitting {
                assert!(Arc::ptr_eq(&held, &admitted.await.unwrap()));
            }
            for _ in 0..USES {
                own.reserve(&held, Wish::one(Metering::Leased)).await.unwrap().commit();
            }
            let none = own.reserve(&held, Wish::one(Metering::Leased)).await;
            assert!(matches!(none, Err(NoUse::Exhausted)), "{none:?}");
        });
    });
}
