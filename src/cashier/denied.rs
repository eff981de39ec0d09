//! Why a request with something on it was not let in, on its way to a verdict.

use super::{IdentifierRefusal, Refused, Wait};
use crate::nano::BlockHash;
use crate::payment::challenge::Challenge;
use crate::payment::{Mechanism, Particular, Refusal};
use crate::store::capabilities::NoUse;

/// Why a request with something on it was not let in.
#[derive(Debug)]
pub(super) enum Denied {
    /// With the challenge of a payment that came too late.
    Refused(Refused, Option<Box<Challenge>>),
    Wait(Wait),
    Identifier(IdentifierRefusal),
}

impl Denied {
    pub(super) const fn refused(
        refusal: Refusal,
        mechanism: Option<Mechanism>,
        block: Option<BlockHash>,
    ) -> Self {
        Self::Refused(Refused { refusal, mechanism, block, particular: None }, None)
    }

    /// The same with what there is to say of it.
    pub(super) fn because(self, particular: Particular) -> Self {
        match self {
            Self::Refused(refused, late) => {
                Self::Refused(Refused { particular: Some(particular), ..refused }, late)
            }
            Self::Wait(_) | Self::Identifier(_) => self,
        }
    }

    /// The same with the challenge that was answered too late.
    pub(super) fn late(self, challenge: Challenge) -> Self {
        match self {
            Self::Refused(refused, _) => Self::Refused(refused, Some(Box::new(challenge))),
            Self::Wait(_) | Self::Identifier(_) => self,
        }
    }

    /// Why no use could be taken; `exhausted` is the answer where all are spent.
    pub(super) fn of(why: &NoUse, exhausted: Self) -> Self {
        match why {
            NoUse::Exhausted => exhausted,
            NoUse::Busy => Self::Wait(Wait::UsesOut),
            NoUse::Store(error) => {
                tracing::warn!(%error, "no use could be leased");
                Self::Wait(Wait::NoStore)
            }
        }
    }
}
