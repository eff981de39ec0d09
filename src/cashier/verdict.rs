//! What the cashier is asked and what it answers, without a word of HTTP.

use std::net::IpAddr;

use super::identified::{IdentifierRefusal, Keeping, Replay};
use super::proof::Proof;
use crate::nano::BlockHash;
use crate::payment::capability::Token;
use crate::payment::challenge::Challenge;
use crate::payment::{IdentifiedRequest, Mechanism, Particular, Refusal};
use crate::routes::{Metering, RouteName, Terms};
use crate::store::capabilities::Use;

/// What the cashier needs to know of a request to a priced route; no HTTP types.
#[derive(Debug)]
pub struct Ask {
    pub route: RouteName,
    pub terms: Terms,
    pub metering: Metering,
    pub presented: Presented,
    /// The id that a proof came under, and the request.
    pub identified: Option<IdentifiedRequest>,
    /// Whom to count look-ups against.
    pub client: Option<IpAddr>,
}

/// What came along with the request.
#[derive(Debug)]
pub enum Presented {
    Nothing,
    /// A capability's token, as received.
    Token(String),
    Proof(Box<Proof>),
    /// Something that was refused before it was a proof.
    Refused(Refusal),
}

/// What is to be done with a request.
#[derive(Debug)]
pub enum Verdict {
    /// Forward it; the use is taken.
    Admit(Admitted),
    /// Answer 402 with these challenges.
    Bill(Bill),
    /// Answer 503: try the same again later, pay nothing anew.
    Wait(Wait),
    /// Answer what was answered before, from the store.
    Replay(Box<Replay>),
    /// Answer that the id does not lead to an answer; nothing was settled.
    Conflict(IdentifierRefusal),
}

/// The right to be forwarded.
#[derive(Debug)]
pub struct Admitted {
    pub taken: Use,
    /// Sent with the answer, so that the next use needs no payment.
    pub token: Token,
    pub how: How,
    /// The answer is to be kept under the client's id.
    pub keeping: Option<Keeping>,
}

/// How a request with something on it gets through.
pub(super) enum Passed {
    Admit(Admitted),
    Replay(Box<Replay>),
}

/// What let a request in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum How {
    /// A payment that came along.
    Paid,
    /// A capability.
    Unlocked,
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
    /// The payment's block, where there was one.
    pub block: Option<BlockHash>,
    /// What there is to say of it beside the refusal's advice.
    pub particular: Option<Particular>,
}

/// Why a request has to come again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wait {
    /// The payment is on its way; the same proof will be served once it is confirmed.
    Pending { block: BlockHash, reason: PendingReason },
    /// The last uses of the capability are under way or with another instance.
    UsesOut,
    /// A request under the same id is under way.
    SameId,
    /// No node is healthy: nothing is sold that could not be redeemed.
    NoNode,
    /// The store takes no writes: nothing is sold that could not be recorded.
    NoStore,
    /// The block came without work, and nobody makes it just then.
    NoWork,
    /// A limit is reached.
    Overloaded,
}

/// What a pending payment waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PendingReason {
    /// Its confirmation.
    Settlement,
    /// To be seen by any node.
    BlockNotFound,
}
