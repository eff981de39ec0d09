//! The grants that are out: what a change of the routes would take away.

use crate::money::Fiat;
use crate::routes::{Bought, Place, RouteName, Terms};

/// Capabilities with uses left that were bought alike.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OutstandingGrants {
    pub route: RouteName,
    pub terms: Terms,
    /// The price of it, if that was in another currency.
    pub price: Option<Fiat>,
    pub place: Place,
    pub capabilities: u64,
    /// Uses that are left of all of them.
    pub uses: u64,
}

impl OutstandingGrants {
    /// What one of them bought.
    #[must_use]
    pub const fn bought(&self) -> Bought<'_> {
        Bought { route: &self.route, terms: self.terms, price: self.price, place: self.place }
    }
}
