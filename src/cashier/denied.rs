//! Why a request with a payment or a capability was not admitted. Every other reason in the cashier
//! becomes this one, and [`Cashier::decide`](super::Cashier::decide) turns it into a verdict.

use super::reasons::{IdentifierRefusal, Moved, Wait};
use super::troubles;
use super::unsettled::Unsettled;
use crate::payment::capability::CapabilityId;
use crate::payment::challenge::Challenge;
use crate::payment::{Mechanism, Particular, Refusal};
use crate::store::StoreError;
use crate::store::capabilities::NoUse;

/// Why a request with a payment or a capability was not admitted.
#[derive(Debug)]
pub(super) enum Denied {
    Refused {
        refusal: Refusal,
        /// Says more to the client's author than the refusal's own advice.
        explanation: Option<String>,
        /// The challenge of a payment that came too late.
        late: Option<Box<Challenge>>,
        /// The purse that a payment may be added to.
        purse: Option<CapabilityId>,
    },
    Wait(Wait),
    Identifier(IdentifierRefusal),
    /// What it shows was bought, and opens nothing any more.
    Moved(Box<Moved>),
}

impl Denied {
    pub(super) fn explained(refusal: Refusal, explanation: String) -> Self {
        Self::Refused { refusal, explanation: Some(explanation), late: None, purse: None }
    }

    /// A proof came after its challenge had expired.
    pub(super) fn expired(challenge: Challenge) -> Self {
        let refusal = Refusal::PaymentExpired;
        match challenge.offer().mechanism {
            Mechanism::NanoTxn | Mechanism::NanoSignature => {
                Self::Refused { refusal, explanation: None, late: Some(Box::new(challenge)), purse: None }
            }
            Mechanism::NanoSession => Self::explained(refusal, Particular::SessionOver.to_string()),
        }
    }

    /// Why no use could be taken; `exhausted` if all are spent.
    pub(super) fn no_use(why: &NoUse, exhausted: Self) -> Self {
        match why {
            NoUse::Exhausted => exhausted,
            NoUse::Revoked => Refusal::CapabilityRevoked.into(),
            NoUse::Busy => Self::Wait(Wait::UsesOut),
            NoUse::Failing(pause) => Self::Wait(Wait::UpstreamFailing(*pause)),
            NoUse::Store(error) => Self::no_store(error, "no use could be leased"),
        }
    }

    /// The store could not be asked; `what` is for the log.
    pub(super) fn no_store(error: &StoreError, what: &str) -> Self {
        troubles::no_store(error, what);
        Self::Wait(Wait::NoStore)
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::Refused { refusal, explanation: None, late: None, purse: None }
    }
}

impl From<Unsettled> for Denied {
    fn from(why: Unsettled) -> Self {
        match why {
            Unsettled::Refused(refusal, None) => refusal.into(),
            Unsettled::Refused(refusal, Some(particular)) => Self::explained(refusal, particular.to_string()),
            Unsettled::IdHeld => Self::Wait(Wait::SameId),
            Unsettled::Wait(wait) => Self::Wait(wait),
        }
    }
}
