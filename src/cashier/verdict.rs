//! What the cashier is asked and what it answers. No HTTP.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::client::Client;
use super::lanes::Lane;
use super::proof::Proof;
use super::reasons::{IdentifierRefusal, Moved, Wait};
use crate::nano::{BlockHash, Raw};
use crate::payment::capability::CapabilityText;
use crate::payment::challenge::Challenge;
use crate::payment::derived::{Derived, NotOpened};
use crate::payment::{IdentifiedRequest, Mechanism, Purchase, Refusal};
use crate::routes::{Listed, Metering, Quoted, RouteName, Standing};
use crate::store::Answer;
use crate::store::capabilities::{CachedCapability, Use};
use crate::x402::PlainPayment;

/// What the cashier needs to know about a request to a priced route.
#[derive(Debug)]
pub struct Ask {
    pub route: RouteName,
    /// The former names of the route, and where it stands.
    pub standing: Arc<Standing>,
    /// The price as the configuration has it.
    pub listed: Listed,
    /// What a payment buys at this moment; `None` while no rate is known for the price's currency. Then nothing is
    /// billed, and what was bought or offered before is served.
    pub quoted: Option<Quoted>,
    pub metering: Metering,
    /// What the request may cost by the route's meter; `None` where the route has none.
    pub hold: Option<Raw>,
    pub presented: Presented,
    /// The payment identifier that came with a proof, and the request it stands for.
    pub identified: Option<IdentifiedRequest>,
    /// Limits count against this client. `None`: no limit per client.
    pub client: Option<Client>,
    /// Set while the upstream is known to be down: seconds after which it may be back. Then nothing is
    /// billed, and no payment is broadcast.
    pub down: Option<NonZeroU64>,
    /// The URL that was requested, with a proof. It decides nothing: a signature over it is explained.
    pub url: Option<String>,
}

/// What the request carries.
#[derive(Debug)]
pub enum Presented {
    Nothing,
    /// A capability's token, as received.
    Token(String),
    /// A token that was derived from one and opens this request, or why it does not ([`Cashier::recognise_derived`](super::Cashier::recognise_derived)).
    Derived(Box<Result<Derived, NotOpened>>),
    Proof(Box<Proof>),
    /// A signed block without the bill that it answers.
    Plain(Box<PlainPayment>),
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
    /// Its token is sent with the answer, so that the next use needs no payment.
    pub said: CapabilityText,
    pub how: How,
    /// Set if the answer is to be kept under the client's payment identifier.
    pub keeping: Option<Keeping>,
    /// The payment that came with the request, if it was added to the purse that the request takes from.
    pub added: Option<Arc<CachedCapability>>,
}

impl Replay {
    /// As [`Admitted::purchase`].
    #[must_use]
    pub fn purchase(&self) -> &Purchase {
        self.added.as_ref().unwrap_or(&self.held).purchase()
    }
}

impl Admitted {
    /// The payment that came with the request, or else the one that bought what it takes from.
    #[must_use]
    pub fn purchase(&self) -> &Purchase {
        self.added.as_ref().unwrap_or_else(|| self.taken.held()).purchase()
    }
}

/// What admitted a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum How {
    /// A payment that came with it.
    Paid,
    /// A capability.
    Unlocked,
}

/// The right and the duty to keep the answer to a request that was admitted under an id. While it
/// lives, no other request is served under the id.
#[derive(Debug)]
pub struct Keeping {
    pub(super) _lane: Lane,
    /// Bytes of the largest body that is kept.
    pub largest: usize,
}

/// A request that is answered from the store.
#[derive(Debug)]
pub struct Replay {
    pub answer: Answer,
    /// What the payment bought, or the purse that it was added to.
    pub held: Arc<CachedCapability>,
    /// As in [`Admitted`].
    pub added: Option<Arc<CachedCapability>>,
    pub said: CapabilityText,
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
