//! How a settlement ended: with a capability, or why without one.

use std::sync::Arc;

use super::reasons::{PendingReason, Wait};
use crate::nano::BlockHash;
use crate::payment::{Particular, Refusal};
use crate::store::capabilities::CachedCapability;

/// How a settlement ended, for everyone who waited for it: with the capability that was bought, or
/// without.
pub(super) type SettlementResult = Result<Arc<CachedCapability>, Unsettled>;

/// Why a settlement granted nothing.
#[derive(Clone, Debug)]
pub(super) enum Unsettled {
    /// With what there is to explain beside the refusal's own advice.
    Refused(Refusal, Option<Particular>),
    /// Another payment holds the client's payment identifier.
    IdHeld,
    /// The same proof may come again.
    Wait(Wait),
}

impl Unsettled {
    /// The payment of `block` is known and not confirmed.
    pub(super) const fn pending(block: BlockHash) -> Self {
        Self::Wait(Wait::Pending { block, reason: PendingReason::Settlement })
    }
}

impl From<Refusal> for Unsettled {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal, None)
    }
}
