//! Closing a capability for its holder: what is left of it is owed to the account that paid.

use super::troubles;
use super::{Cashier, Wait};
use crate::ledger::Ledger;
use crate::nano::Raw;
use crate::payment::capability;
use crate::routes::RouteName;
use crate::store::refunds::{Closing, RefundJournal, RefundRecord, RefundState};
use crate::store::{CapabilityId, Store, StoreError, repeat_unknown};

/// What became of a token that was presented to be closed.
#[derive(Debug)]
pub enum Closed {
    /// It is closed, by this call or an earlier one, and this becomes of what was left.
    Refund(Box<RefundRecord>),
    /// This gateway made no such token.
    Unknown,
    /// The operator has ended what it opens.
    Revoked,
    /// Its route gives nothing back.
    NotOffered,
    /// Nobody has shown to hold the key of the account that paid.
    NotProven,
    /// The same may be sent again.
    Wait(Wait),
}

impl Closed {
    /// What becomes of what was left, if it is closed.
    #[must_use]
    pub const fn refund(&self) -> Option<&RefundRecord> {
        match self {
            Self::Refund(refund) => Some(refund),
            Self::Unknown | Self::Revoked | Self::NotOffered | Self::NotProven | Self::Wait(_) => None,
        }
    }
}

impl<L: Ledger, S: Store + RefundJournal> Cashier<L, S> {
    /// Closes the capability of a token, if the route that it was bought for `gives_back` what is left and that is
    /// no less than `at_least`. Nothing is looked up for a text that is no token of this gateway.
    pub async fn close(
        &self,
        token: &str,
        at_least: Raw,
        gives_back: impl Fn(&RouteName) -> bool + Send,
    ) -> Closed {
        let Some(id) = capability::holder_of(&self.0.keys, token) else { return Closed::Unknown };
        match self.find_and_close(id, at_least, gives_back).await {
            Ok(closed) => closed,
            Err(error) => {
                troubles::no_store(&error, "a capability could not be closed");
                Closed::Wait(Wait::NoStore)
            }
        }
    }

    async fn find_and_close(
        &self,
        id: CapabilityId,
        at_least: Raw,
        gives_back: impl Fn(&RouteName) -> bool + Send,
    ) -> Result<Closed, StoreError> {
        match self.0.store.refund(id).await? {
            // What is closed is paid back, whatever its route has become since.
            Some(refund) if refund.state != RefundState::Closing => {
                return Ok(Closed::Refund(Box::new(refund)));
            }
            Some(_) => {}
            None => {
                let Some(record) = self.0.store.capability(id).await? else { return Ok(Closed::Unknown) };
                if !gives_back(&record.route) {
                    return Ok(Closed::NotOffered);
                }
            }
        }
        Ok(match self.close_known(id, at_least).await? {
            Closing::Refund(refund) => Closed::Refund(refund),
            Closing::Unknown => Closed::Unknown,
            Closing::Revoked => Closed::Revoked,
            Closing::NotProven => Closed::NotProven,
        })
    }

    /// Closes a capability, at once here and in the store. What this instance has of it goes back, but for what
    /// requests under way have. Other instances learn it as they do of a revocation.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn close_known(&self, id: CapabilityId, at_least: Raw) -> Result<Closing, StoreError> {
        let close = || self.0.store.close_capability(id, at_least, self.0.clock.now());
        let closing = repeat_unknown(close).await?;
        let Closing::Refund(refund) = &closing else { return Ok(closing) };
        self.0.capabilities.end_here(id);
        if refund.state != RefundState::Closing {
            return Ok(closing);
        }
        self.0.capabilities.hand_back(id).await?;
        repeat_unknown(close).await
    }
}
