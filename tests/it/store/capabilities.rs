//! Capabilities in hand on two instances over one store.

use std::sync::Arc;

use faregate::clock::Clock;
use faregate::routes::Metering;
use faregate::store::capabilities::{BrokenAnswer, CachedCapability, Capabilities, NoUse};
use faregate::store::{LeaseRequest, Store};

use super::model::Model;
use super::samples::{NOW, USES, hash, holder, id, sent};

fn instance(store: &Arc<Model>, number: u8) -> Capabilities<Model> {
    Capabilities::new(Arc::clone(store), Clock::from_fn(|| NOW), holder(number), 100)
}

async fn bought(store: &Arc<Model>) {
    store.grant(&sent(hash(1), 1), id(hash(1)), holder(9), 0, 30, NOW).await.unwrap();
}

async fn found(capabilities: &Capabilities<Model>) -> Arc<CachedCapability> {
    capabilities.find(id(hash(1))).await.unwrap().unwrap()
}

/// Regression: hanging up was forgiven anew at each instance and after each restart.
#[tokio::test]
async fn answers_that_break_off_are_counted_in_the_store() {
    let store = Arc::new(Model::default());
    bought(&store).await;
    let (back, spent) = (BrokenAnswer::GivenBack, BrokenAnswer::Committed);
    for (number, expected) in [(1, back), (2, back), (3, spent)] {
        let here = instance(&store, number);
        let held = found(&here).await;
        let taken = here.reserve(&held, Metering::Strict).await.unwrap();
        assert_eq!(here.broke(taken).await, expected, "instance {number}");
        if expected == spent {
            // The next use has its own.
            for expected in [back, back, spent] {
                let taken = here.reserve(&held, Metering::Strict).await.unwrap();
                assert_eq!(here.broke(taken).await, expected);
            }
        }
    }
}

/// What the store has left and out, seen by a bystander.
async fn left(store: &Model, sequence: u64) -> (u32, u32) {
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
    (lease.remaining, lease.elsewhere)
}

#[tokio::test]
async fn a_revocation_elsewhere_ends_a_capability_with_the_next_report() {
    let store = Arc::new(Model::default());
    bought(&store).await;
    let (here, there) = (instance(&store, 1), instance(&store, 2));
    let held = found(&here).await;
    // The first call tells how many there are, so that the second takes several.
    here.reserve(&held, Metering::Leased).await.unwrap().commit();
    let mut taken = here.reserve(&held, Metering::Leased).await.unwrap();
    assert!(held.remaining() > 1, "more is leased here");
    assert!(there.revoke(id(hash(1))).await.unwrap());
    // Until it hears of it, an instance serves what it has.
    here.reserve(&held, Metering::Leased).await.unwrap().give_back();
    here.commit_durably(&mut taken).await.unwrap();
    let refused = here.reserve(&held, Metering::Leased).await;
    assert!(matches!(refused, Err(NoUse::Exhausted)), "{refused:?}");
    let elsewhere = there.reserve(&found(&there).await, Metering::Leased).await;
    assert!(matches!(elsewhere, Err(NoUse::Exhausted)), "{elsewhere:?}");
}

#[tokio::test]
async fn strict_metering_leases_one_use_and_records_it_at_once() {
    let store = Arc::new(Model::default());
    bought(&store).await;
    let capabilities = instance(&store, 1);
    let held = found(&capabilities).await;
    for spent in 0..USES {
        let mut taken = capabilities.reserve(&held, Metering::Strict).await.unwrap();
        assert_eq!(left(&store, u64::from(spent) * 2 + 1).await, (USES - spent - 1, 1), "one is out");
        capabilities.commit_durably(&mut taken).await.unwrap();
        assert_eq!(left(&store, u64::from(spent) * 2 + 2).await, (USES - spent - 1, 0), "and spent");
        // What the gateway does with it later changes nothing.
        taken.commit();
    }
    let none = capabilities.reserve(&held, Metering::Strict).await;
    assert!(matches!(none, Err(NoUse::Exhausted)), "{none:?}");
}

#[tokio::test]
async fn a_strict_use_that_is_recorded_is_not_given_back() {
    let store = Arc::new(Model::default());
    bought(&store).await;
    let capabilities = instance(&store, 1);
    let held = found(&capabilities).await;
    let mut taken = capabilities.reserve(&held, Metering::Strict).await.unwrap();
    capabilities.commit_durably(&mut taken).await.unwrap();
    assert_eq!(capabilities.broke(taken).await, BrokenAnswer::Committed);
    assert_eq!(left(&store, 1).await, (USES - 1, 0));
    assert_eq!(held.remaining(), USES - 1);
}
