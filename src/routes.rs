//! The price table: which request costs what, and what the payment buys.
//!
//! Pure. A request is made canonical once (`request`), the canonical form is what is matched
//! (`pattern`, `table`) and what is forwarded, so that no two parties read one path differently.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::nano::Raw;

/// A route's identity: its configured `name`, or its `match` where it has none. A challenge and a
/// capability are bound to it, so it outlives a reload of the price table.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RouteName(Arc<str>);

impl RouteName {
    /// The identity `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What one payment buys on its route.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Grants {
    /// How many requests.
    pub requests: NonZeroU32,
    /// For how long after the grant, in seconds.
    pub seconds: u64,
}

/// What is asked and what is given for it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Terms {
    /// The price of one payment.
    pub amount: Raw,
    pub grants: Grants,
}
