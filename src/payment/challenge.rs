//! Challenges: minted and verified with a key and never stored, so that they cost the gateway nothing.
//!
//! The 32 bytes that identify a challenge are 16 random bytes and a MAC over them and the terms
//! ([protocol guide](crate::guide::protocol), "The challenge"). If the MAC is right, some instance with
//! the key once offered exactly these terms, even if the price table has changed since.

use super::key::MacKeys;
use super::{Mechanism, Nonce, Refusal, tag};
use crate::nano::{Account, Network, Raw, UnixSeconds};
use crate::routes::{Bought, RouteName, Terms};
use crate::x402;

/// What a challenge offers: all that the MAC covers except the random bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Offer {
    pub mechanism: Mechanism,
    pub route: RouteName,
    pub terms: Terms,
    pub pay_to: Account,
    /// The first second at which the offer is no longer valid.
    pub valid_before: UnixSeconds,
}

/// An offer that this gateway made. Only [`Challenge::mint`] and [`Challenge::recognise`] return one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Challenge {
    nonce: Nonce,
    offer: Offer,
}

const DOMAIN: &[u8; 16] = b"faregate challng";

impl Challenge {
    /// Makes a challenge for an offer. `random` must be new for each challenge.
    #[must_use]
    pub fn mint(keys: &MacKeys, random: [u8; 16], offer: Offer) -> Self {
        let mac = keys.mac(DOMAIN, |part| feed(part, &random, &offer));
        let mut nonce = [0; 32];
        let (head, tail) = nonce.split_at_mut(16);
        head.copy_from_slice(&random);
        tail.copy_from_slice(&mac);
        Self { nonce: Nonce(nonce), offer }
    }

    /// Verifies a challenge that a client sent back.
    ///
    /// # Errors
    /// [`Refusal::ChallengeUnknown`], if none of `keys` made this nonce for exactly this offer.
    pub fn recognise(keys: &MacKeys, nonce: Nonce, offer: Offer) -> Result<Self, Refusal> {
        let (random, mac) = nonce.0.split_at(16);
        if keys.verify(DOMAIN, mac, |part| feed(part, random, &offer)) {
            Ok(Self { nonce, offer })
        } else {
            Err(Refusal::ChallengeUnknown)
        }
    }

    #[must_use]
    pub const fn nonce(&self) -> Nonce {
        self.nonce
    }

    /// What it offers, for comparison with a route.
    #[must_use]
    pub const fn bought(&self) -> Bought<'_> {
        Bought { route: &self.offer.route, terms: self.offer.terms, place: self.nonce.place() }
    }

    #[must_use]
    pub const fn offer(&self) -> &Offer {
        &self.offer
    }

    /// The amount to send, in raw: the price, plus the tag for a session.
    #[must_use]
    pub fn due(&self) -> Raw {
        let price = self.offer.terms.amount;
        match self.offer.mechanism {
            Mechanism::NanoTxn | Mechanism::NanoSignature => price,
            Mechanism::NanoSession => tag::due(self.nonce, price),
        }
    }

    /// Whether a proof is too late at `now`: the offer has expired, or for a session it expired
    /// [`tag::GRACE`] ago.
    #[must_use]
    pub fn has_expired(&self, now: UnixSeconds) -> bool {
        let grace = match self.offer.mechanism {
            Mechanism::NanoTxn | Mechanism::NanoSignature => 0,
            Mechanism::NanoSession => tag::GRACE,
        };
        self.offer.valid_before.plus(grace) <= now
    }
}

impl Challenge {
    /// The entry of `accepts` that offers this challenge for `seconds`. `work` is the requirement for a
    /// block that the gateway broadcasts.
    #[must_use]
    pub fn requirements(&self, seconds: u64, work: x402::WorkTerms) -> x402::PaymentRequirements {
        let Offer { mechanism, route, terms, pay_to, valid_before } = &self.offer;
        let track = match mechanism {
            Mechanism::NanoTxn => x402::Track::NanoTxn { work: Some(work) },
            Mechanism::NanoSignature => x402::Track::NanoSignature,
            Mechanism::NanoSession => {
                let tag_amount = tag::tag_amount(self.nonce);
                x402::Track::NanoSession(x402::SessionTerms { price: terms.amount, tag_amount })
            }
        };
        x402::PaymentRequirements {
            scheme: x402::Scheme::Exact,
            network: Network::Mainnet,
            asset: x402::Asset::Xno,
            amount: self.due(),
            pay_to: *pay_to,
            max_timeout_seconds: seconds,
            extra: x402::Extra {
                challenge: self.nonce.0,
                valid_before: *valid_before,
                route: route.as_str().to_owned(),
                grants: terms.grants,
                track,
            },
        }
    }
}

/// Feeds the bytes that the MAC covers. The route is the only part of variable length, so its length
/// comes first.
fn feed(part: &mut dyn FnMut(&[u8]), random: &[u8], offer: &Offer) {
    let Offer { mechanism, route, terms, pay_to, valid_before } = offer;
    part(random);
    part(&[match mechanism {
        Mechanism::NanoTxn => 1,
        Mechanism::NanoSignature => 2,
        Mechanism::NanoSession => 3,
    }]);
    let route = route.as_str().as_bytes();
    part(&u64::try_from(route.len()).unwrap_or(u64::MAX).to_be_bytes());
    part(route);
    part(&terms.amount.to_be_bytes());
    part(&terms.grants.requests.get().to_be_bytes());
    part(&terms.grants.seconds.to_be_bytes());
    part(&pay_to.0);
    part(&valid_before.0.to_be_bytes());
}
