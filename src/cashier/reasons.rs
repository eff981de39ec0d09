//! Why a request to a priced route is not served: what [`Denied`](super::denied::Denied), inside the
//! cashier, and [`Verdict`](super::Verdict), for its callers, have in common.

use std::num::NonZeroU64;

use crate::nano::{BlockHash, UnixSeconds};
use crate::routes::{Left, RouteName};

/// Why a request has to come again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wait {
    /// The payment is known and not confirmed. The same proof is served once it is.
    Pending { block: BlockHash, reason: PendingReason },
    /// Other requests or other instances hold the capability's last uses.
    UsesOut,
    /// No address of the upstream takes connections, or none is known. It may be back after so many seconds.
    UpstreamDown(NonZeroU64),
    /// The upstream failed again and again for the capability. It may be asked again after so many seconds.
    UpstreamFailing(NonZeroU64),
    /// A request under the same payment identifier is under way.
    SameId,
    /// No node is healthy: nothing is sold that could not be redeemed.
    NoNode,
    /// No rate is known for the currency of the price, or only one that is too old: nothing is sold by it.
    NoRate,
    /// The store takes no writes: nothing is sold that could not be recorded.
    NoStore,
    /// The block came without work, and the work server made none.
    NoWork,
    /// A limit is reached.
    Overloaded,
}

/// What a pending payment waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PendingReason {
    /// Its confirmation.
    Settlement,
    /// That any node sees its block.
    BlockNotFound,
}

/// Why a payment identifier leads to no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IdentifierRefusal {
    /// It stands for another request, or for a payment that this proof does not belong to. Not every
    /// client may know which of the two.
    Conflict,
    /// The payment of this proof was made under another id.
    OtherId,
    /// What was bought under it was delivered or has expired, and the answer is not kept.
    Gone,
}

/// What was bought on a route that is gone, or whose name was moved to something dearer. Whoever bought it
/// is not billed for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Moved {
    /// The name that it was bought under.
    pub route: RouteName,
    /// Whether a route has the name, at another path and for a higher price.
    pub dearer: bool,
    /// The payment's block.
    pub block: BlockHash,
    /// What is left and when it ends, of a capability.
    pub left: Option<(Left, UnixSeconds)>,
}
