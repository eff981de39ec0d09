//! Challenges: minted and verified with a key and never stored, so that they cost the gateway nothing.
//!
//! The 32 bytes that identify a challenge are 16 random bytes and a MAC over them and the terms
//! ([protocol guide](crate::guide::protocol), "The challenge"). If the MAC is right, some instance with
//! the key once offered exactly these terms, even if the price table has changed since.

use super::address_pool::AddressPool;
use super::capability::CapabilityId;
use super::key::MacKeys;
use super::{Mechanism, Nonce, Refusal, tag};
use crate::nano::{Account, Network, Raw, UnixSeconds};
use crate::routes::{Bought, RouteName, Terms, Unit};
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

const DOMAIN: &[u8; 16] = b"faregate chall 2";
/// Of challenges whose MAC does not cover the deployment. They are still recognised, and no longer made.
const WITHOUT_DEPLOYMENT: &[u8; 16] = b"faregate challng";

impl Challenge {
    /// Makes a challenge for an offer to be paid into `pool`. `random` must be new for each challenge.
    #[must_use]
    pub fn mint(keys: &MacKeys, pool: &AddressPool, random: [u8; 16], offer: Offer) -> Self {
        let deployment = pool.deployment();
        let mac = keys.mac_after(DOMAIN, &deployment, |part| feed(part, &random, &offer));
        let mut nonce = [0; 32];
        let (head, tail) = nonce.split_at_mut(16);
        head.copy_from_slice(&random);
        tail.copy_from_slice(&mac);
        Self { nonce: Nonce(nonce), offer }
    }

    /// Verifies a challenge that a client sent back: that it was made with one of `keys`, for exactly this
    /// offer, and to be paid into `pool`.
    ///
    /// # Errors
    /// [`Refusal::ChallengeUnknown`], also for the challenge of another deployment with the same key, whose
    /// payments go elsewhere.
    pub fn recognise(
        keys: &MacKeys,
        pool: &AddressPool,
        nonce: Nonce,
        offer: Offer,
    ) -> Result<Self, Refusal> {
        let (random, mac) = nonce.0.split_at(16);
        let deployment = pool.deployment();
        let of_deployment = keys.verify_after(DOMAIN, &deployment, mac, |part| feed(part, random, &offer));
        let is_ours = if of_deployment {
            pool.is_payee(offer.pay_to)
        } else {
            keys.verify(WITHOUT_DEPLOYMENT, mac, |part| feed(part, random, &offer)) && pool.has(offer.pay_to)
        };
        if is_ours { Ok(Self { nonce, offer }) } else { Err(Refusal::ChallengeUnknown) }
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

    /// The purse that a payment adds to: the challenge was made for whoever holds it.
    #[must_use]
    pub fn adds_to(&self) -> Option<CapabilityId> {
        adds_to(&self.offer.route, self.offer.terms)
    }

    /// The same challenge for a payment that comes without the purse's token: it buys a purse of its own.
    #[must_use]
    pub fn apart(mut self) -> Self {
        self.offer.route = self.offer.route.without_purse();
        self
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

/// The purse that a payment of these terms under the name `route` adds to.
pub(super) fn adds_to(route: &RouteName, terms: Terms) -> Option<CapabilityId> {
    let (unit, _) = terms.stock();
    route.adds_to().filter(|_| unit == Unit::Raw).map(CapabilityId)
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
    part(&terms.grants.count().to_be_bytes());
    part(&terms.grants.seconds.to_be_bytes());
    part(&pay_to.0);
    part(&valid_before.0.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::payment::MacKey;
    use crate::routes::Grants;

    fn keys() -> MacKeys {
        MacKeys::new(MacKey::from_bytes([3; 32]), None)
    }

    fn offer(pay_to: u8) -> Offer {
        let grants = Grants::of_requests(std::num::NonZeroU32::MIN, 60);
        Offer {
            mechanism: Mechanism::NanoTxn,
            route: RouteName::new("quote"),
            terms: Terms { amount: Raw::new(5), grants },
            pay_to: Account([pay_to; 32]),
            valid_before: UnixSeconds(100),
        }
    }

    fn list(addresses: &[u8]) -> AddressPool {
        AddressPool::new(addresses.iter().map(|it| Account([*it; 32])).collect(), Vec::new())
    }

    fn is_known(pool: &AddressPool, challenge: &Challenge) -> bool {
        Challenge::recognise(&keys(), pool, challenge.nonce, challenge.offer.clone()).is_ok()
    }

    #[test]
    fn a_challenge_is_good_for_the_pool_that_it_pays_into() {
        let seeded = |pool: AddressPool, seed: u8| pool.of_seed_with(Account([seed; 32]));
        let mint = |pool: &AddressPool| Challenge::mint(&keys(), pool, [7; 16], offer(1));
        let (one, other) = (seeded(list(&[1, 2]), 101), seeded(list(&[1, 2]), 102));
        assert!(is_known(&one, &mint(&one)));
        assert!(!is_known(&other, &mint(&one)), "another seed");
        assert!(!is_known(&list(&[1, 2]), &mint(&one)), "no seed");
        assert!(is_known(&seeded(list(&[2]), 101), &mint(&one)), "the same seed with a smaller pool");
        assert!(is_known(&list(&[3, 1]), &mint(&list(&[1, 2]))), "a list that was changed");
        assert!(!is_known(&list(&[2]), &mint(&list(&[1, 2]))), "a list without it");
        let once = list(&[2]).once_with(BTreeSet::from([Account([1; 32])]));
        assert!(is_known(&once, &mint(&list(&[1, 2]))), "a list that had it");
    }

    /// A payer who was billed before an upgrade and paid on-chain is not billed again after it.
    #[test]
    fn a_challenge_from_before_deployments_is_good_if_the_pool_has_its_address() {
        let random = [7; 16];
        let mac = keys().mac_after(WITHOUT_DEPLOYMENT, &[], |part| feed(part, &random, &offer(1)));
        let mut nonce = [7; 32];
        nonce[16..].copy_from_slice(&mac);
        let earlier = Challenge { nonce: Nonce(nonce), offer: offer(1) };
        assert!(is_known(&list(&[1, 2]), &earlier));
        assert!(is_known(&list(&[1, 2]).of_seed_with(Account([101; 32])), &earlier));
        assert!(!is_known(&list(&[2]).of_seed_with(Account([101; 32])), &earlier), "another pool's");
    }
}
