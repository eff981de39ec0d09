//! What a configuration takes away from those who have paid: grants that open no route of it.

use std::collections::BTreeMap;
use std::fmt;

use crate::nano::UnixSeconds;
use crate::routes::{Bearing, PriceTable, RouteName};
use crate::store::{Engine, StoreError};

/// The grants of one route that open nothing any more.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stranded {
    /// The name that they were bought under.
    pub route: RouteName,
    /// Whether a route has the name, at another path and for a higher price.
    pub dearer: bool,
    pub capabilities: u64,
    /// Uses that are left of all of them.
    pub uses: u64,
}

impl fmt::Display for Stranded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { route, dearer, capabilities, uses } = self;
        let (why, hint) = if *dearer {
            ("was moved to a path where a use costs more", "give the route at the new path another name")
        } else {
            ("has no route", "write it under `formerly` of the route that took its place")
        };
        let (noun, verb) =
            if *capabilities == 1 { ("capability", "opens") } else { ("capabilities", "open") };
        let left = if *uses == 1 { "use" } else { "uses" };
        write!(f, "{capabilities} {noun} with {uses} {left} left {verb} nothing: `{route}` {why}: {hint}")
    }
}

/// The grants in `store` at `now` that open no route of `table`, by route.
///
/// # Errors
/// [`StoreError::Unavailable`] if the store cannot be read.
pub async fn stranded(
    store: &Engine,
    table: &PriceTable,
    now: UnixSeconds,
) -> Result<Vec<Stranded>, StoreError> {
    let mut found: BTreeMap<(RouteName, bool), Stranded> = BTreeMap::new();
    for grants in store.outstanding(now).await? {
        let dearer = match table.bearing(grants.bought()) {
            // Without a rate nobody can tell, and with one it is compared again.
            Bearing::Opens | Bearing::Unpriced => continue,
            Bearing::Elsewhere => false,
            Bearing::Dearer => true,
        };
        let route = grants.route;
        if route.is_foreign() {
            continue;
        }
        let fresh = || Stranded { route: route.clone(), dearer, capabilities: 0, uses: 0 };
        let sum = found.entry((route.clone(), dearer)).or_insert_with(fresh);
        sum.capabilities = sum.capabilities.saturating_add(grants.capabilities);
        sum.uses = sum.uses.saturating_add(grants.uses);
    }
    Ok(found.into_values().collect())
}
