//! What the cashier is asked and what it answers. No HTTP.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::client::Client;
use super::idempotency::{IdentifierRefusal, Keeping, Replay};
use super::proof::Proof;
use crate::nano::{BlockHash, UnixSeconds};
use crate::payment::capability::Token;
use crate::payment::challenge::Challenge;
use crate::payment::{IdentifiedRequest, Mechanism, Refusal};
use crate::routes::{Metering, RouteName, Standing, Terms};
use crate::store::capabilities::Use;

/// What the cashier needs to know about a request to a priced route.
#[derive(Debug)]
pub struct Ask {
    pub route: RouteName,
    /// The former names of the route, and where it stands.
    pub standing: Arc<Standing>,
    pub terms: Terms,
    pub metering: Metering,
    pub presented: Presented,
    /// The payment identifier that came with a proof, and the request it stands for.
    pub identified: Option<IdentifiedRequest>,
    /// Limits count against this client. `None`: no limit per client.
    pub client: Option<Client>,
    /// The URL that was requested, with a proof. It decides nothing: a signature over it is explained.
    pub url: Option<String>,
}

/// What the request carries.
#[derive(Debug)]
pub enum Presented {
    Nothing,
    /// A capability's token, as received.
    Token(String),
    Proof(Box<Proof>),
    /// A payment header that holds no proof, and what is wrong with it.
    Malformed(String),
    /// A payment that was refused before it became a proof.
    Refused(Refusal),
}

/// What to do with a request.
#[derive(Debug)]
pub enum Verdict {
    /// Forward it. It holds a use.
    Admit(Admitted),
    /// Answer 402 with these challenges.
    Bill(Bill),
    /// Answer 503: send the same request again later, do not pay again.
    Wait(Wait),
    /// Answer what was answered before, from the store.
    Replay(Box<Replay>),
    /// Answer that the payment identifier leads to no answer. Nothing was settled.
    Conflict(IdentifierRefusal),
    /// What was bought opens nothing any more.
    Moved(Box<Moved>),
}

/// The right to be forwarded.
#[derive(Debug)]
pub struct Admitted {
    pub taken: Use,
    /// Sent with the answer, so that the next use needs no payment.
    pub token: Token,
    pub how: How,
    /// Set if the answer is to be kept under the client's payment identifier.
    pub keeping: Option<Keeping>,
}

/// What admitted a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum How {
    /// A payment that came with it.
    Paid,
    /// A capability.
    Unlocked,
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
    /// Uses left and when they end, of a capability.
    pub left: Option<(u32, UnixSeconds)>,
}

/// A 402.
#[derive(Debug)]
pub struct Bill {
    pub challenges: Vec<Challenge>,
    pub refused: Option<Refused>,
}

/// What was refused, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    pub refusal: Refusal,
    pub mechanism: Option<Mechanism>,
    /// The payment's block, if it has one.
    pub block: Option<BlockHash>,
    /// What is wrong and what to do, for the client's author.
    pub message: String,
}

/// Why a request has to come again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wait {
    /// The payment is known and not confirmed. The same proof is served once it is.
    Pending { block: BlockHash, reason: PendingReason },
    /// Other requests or other instances hold the capability's last uses.
    UsesOut,
    /// The upstream failed again and again for the capability. It may be asked again after so many seconds.
    UpstreamFailing(NonZeroU64),
    /// A request under the same payment identifier is under way.
    SameId,
    /// No node is healthy: nothing is sold that could not be redeemed.
    NoNode,
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
