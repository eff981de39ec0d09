//! What was seen of the pool, for the operator.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::nano::{Raw, UnixSeconds};

/// The last look at the pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PoolLook {
    pub at: UnixSeconds,
    /// What it could receive, in raw.
    pub receivable: Raw,
    /// Sends that no payment claims.
    pub unclaimed: usize,
}

/// Where the last look is kept; empty before the first.
pub type LastPoolLook = Arc<ArcSwapOption<PoolLook>>;
