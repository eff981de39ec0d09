//! The meter of a capability over a store that loses answers, and the store's queue.

pub(crate) use faregate::store::{
    CapabilityId, CapabilityRecord, Filter, Grant, Grantee, Health, Holder, Intent, Lease, LeaseRequest,
    Meters, PaymentJournal, PaymentRecord, StoreError, StoreEvent, StoreHealth, StoreObserver,
};

#[expect(dead_code, unreachable_pub, unused_imports, reason = "the program's own, which uses all of it")]
#[path = "../../src/store/capabilities.rs"]
pub(crate) mod capabilities;
mod meter;
#[path = "../it/store/model.rs"]
mod model;
#[expect(dead_code, reason = "the integration tests' own")]
#[path = "../it/store/samples.rs"]
mod samples;
#[expect(dead_code, reason = "what only a whole store needs")]
#[path = "../../src/store/free_space.rs"]
pub(crate) mod free_space;
mod sqlite;

/// A settled payment.
pub(crate) mod settle {
    use super::{CapabilityRecord, Intent, Lease};

    /// Replaces the program's own, which only a confirmed payment makes.
    pub(crate) struct Settled(pub(super) Intent, pub(super) CapabilityRecord, pub(super) Lease);

    impl Settled {
        pub(super) fn into_parts(self) -> (Intent, CapabilityRecord, Lease) {
            (self.0, self.1, self.2)
        }
    }
}
