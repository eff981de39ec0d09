//! Requests with a derived token. It spends from the capability of the token that it was made of.

use std::sync::Arc;

use super::denied::Denied;
use super::reasons::Wait;
use super::used_proofs::NotNew;
use super::{Admitted, Cashier, Wanted, troubles};
use crate::ledger::Ledger;
use crate::nano::UnixSeconds;
use crate::payment::derived::{self, Derived, NotOpened, Restriction};
use crate::payment::dpop::{self, ProofOf};
use crate::payment::{Refusal, capability};
use crate::routes::CanonicalTarget;
use crate::store::Store;
use crate::store::capabilities::CachedCapability;

/// What a derived token is to open.
pub struct HandedOn<'a> {
    /// As received.
    pub presented: &'a str,
    pub method: &'a str,
    pub target: &'a CanonicalTarget,
    /// The request's `DPoP` header, and the URL that it has to be for; an error if there is not exactly one. It is asked
    /// only of a token that is real and bound to a key.
    pub proof: &'a dyn Fn() -> Result<(String, String), String>,
}

impl<L: Ledger, S: Store> Cashier<L, S> {
    /// The derived token that a text is, if all its restrictions let the request pass. A proof of a key that comes with
    /// it is good for this once. Asks neither store nor cache.
    ///
    /// # Errors
    /// [`NotOpened`].
    pub fn recognise_derived(&self, request: &HandedOn<'_>) -> Result<Derived, NotOpened> {
        let derived = derived::recognise(&self.0.keys, request.presented)?;
        derived.admits(request.method, request.target, self.0.clock.now())?;
        if derived.keys().next().is_some() {
            self.prove(&derived, request)?;
        }
        Ok(derived)
    }

    /// Verifies the proof of the key that a token is bound to.
    fn prove(&self, derived: &Derived, request: &HandedOn<'_>) -> Result<(), NotOpened> {
        let now = self.0.clock.now();
        let (proof, url) = (request.proof)().map_err(NotOpened::Unproven)?;
        let of = ProofOf { method: request.method, url: &url, token: derived.token().expose() };
        let proven = dpop::verify(&proof, of, now).map_err(|it| NotOpened::Unproven(it.to_string()))?;
        if derived.keys().any(|it| it != proven.key) {
            return Err(NotOpened::Unproven("the DPoP proof is of another key".to_owned()));
        }
        let remembered = self.0.used_proofs.remember(proven.id, derived.claim().id, proven.until, now);
        remembered.map_err(|why| match why {
            NotNew::Used => {
                NotOpened::Unproven("the DPoP proof was used before: make one for each request".to_owned())
            }
            NotNew::Full => NotOpened::TooManyProofs,
        })
    }

    /// Takes a use of the capability that a derived token spends from. The client gets its own token back.
    pub(super) async fn unlock_derived(
        &self,
        derived: Result<Derived, NotOpened>,
        wanted: Wanted<'_>,
    ) -> Result<Admitted, Denied> {
        let derived = derived?;
        let claim = derived.claim();
        let elsewhere = !wanted.standing.names(wanted.route).any(|it| claim.is_for(&it));
        if claim.expires_at <= self.0.clock.now() && !elsewhere {
            return Err(Refusal::CapabilityExpired.into());
        }
        let until = if elsewhere { UnixSeconds(0) } else { claim.expires_at };
        let held = self.find(claim.id, until, elsewhere).await?;
        let opened = self.open(held, elsewhere, wanted).await;
        if let Err(Denied::Refused { refusal: Refusal::CapabilityExhausted, .. }) = opened {
            // A payment is added to a purse by those who have the token that it was sold with.
            let explanation = "what the token spends from has not enough left for the request: nothing was charged; ask \
                               for less, ask who gave you the token, or pay for what will be your own";
            return Err(Denied::explained(Refusal::CapabilityExhausted, explanation.to_owned()));
        }
        let mut admitted = opened?;
        admitted.said = admitted.said.by(derived.token(), derived.expires_at());
        Ok(admitted)
    }
}

/// What the holder of a token has, as far as this instance knows.
#[derive(Debug)]
pub struct Holding {
    pub held: Arc<CachedCapability>,
    pub restrictions: Vec<Restriction>,
    /// The first second at which the token is no longer valid.
    pub expires_at: UnixSeconds,
    /// When that was looked up.
    pub now: UnixSeconds,
}

impl<L: Ledger, S: Store> Cashier<L, S> {
    /// What the holder of a token has that a payment bought, or that was derived from one. Takes no use, and asks for no
    /// proof of a key. The store is asked only for a token that is real.
    ///
    /// # Errors
    /// [`NotHeld`].
    pub async fn holding(&self, presented: &str) -> Result<Holding, NotHeld> {
        let (claim, expires_at, restrictions) = match capability::claim_in(&self.0.keys, presented) {
            Some(claim) => (claim, claim.expires_at, Vec::new()),
            None => {
                let derived = derived::recognise(&self.0.keys, presented)?;
                (*derived.claim(), derived.expires_at(), derived.restrictions().to_vec())
            }
        };
        let found = self.0.capabilities.find(claim.id).await.map_err(|error| {
            troubles::no_store(&error, "a capability could not be looked up");
            NotHeld::NoStore
        })?;
        let held = found.ok_or(NotHeld::Token(NotOpened::Unknown))?;
        held.is_good_until(claim.expires_at);
        Ok(Holding { held, restrictions, expires_at, now: self.0.clock.now() })
    }
}

/// Why nothing can be said of a token.
#[derive(Debug)]
pub enum NotHeld {
    Token(NotOpened),
    NoStore,
}

impl From<NotOpened> for NotHeld {
    fn from(why: NotOpened) -> Self {
        Self::Token(why)
    }
}

impl From<NotOpened> for Denied {
    fn from(why: NotOpened) -> Self {
        match why.refusal() {
            Some(refusal) => Self::explained(refusal, why.to_string()),
            None => Self::Wait(Wait::Overloaded),
        }
    }
}
