//! Makes challenges: for the gateway's own bills and for what other servers sell. Minting keeps no
//! state and asks neither the store nor a node.

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};

use super::denied::Denied;
use super::proof::{Evidence, Proof};
use super::reasons::Wait;
use super::verdict::{Bill, Refused, Verdict};
use super::{Cashier, Wanted};
use crate::entropy::NoEntropy;
use crate::ledger::Ledger;
use crate::nano::UnixSeconds;
use crate::payment::challenge::{Challenge, Offer};
use crate::payment::{Mechanism, Refusal};
use crate::routes::{Place, RouteName, Terms};
use crate::store::Store;
use crate::x402::{FieldFault, PlainPayment};

impl<L: Ledger, S: Store> Cashier<L, S> {
    /// A bill for one payment of `terms` on `route`, with what was `refused`. For a payment that came
    /// `late` it names the same address.
    pub(super) fn bill(
        &self,
        route: &RouteName,
        terms: Terms,
        place: Place,
        late: Option<&Challenge>,
        refused: Option<Refused>,
    ) -> Verdict {
        let settings = self.0.settings.load();
        let mechanisms = settings.by_route.get(route.configured()).unwrap_or(&settings.mechanisms);
        match self.challenges(mechanisms.iter().copied(), (route, place), terms, settings.lifetime, late) {
            Ok(challenges) => Verdict::Bill(Bill { challenges, refused }),
            Err(wait) => Verdict::Wait(wait),
        }
    }

    /// A challenge for each of `mechanisms` that has an address in the pool, good for `lifetime`
    /// seconds.
    ///
    /// # Errors
    /// [`Wait`], if a payment could not be settled now, or there is no entropy.
    pub(super) fn challenges(
        &self,
        mechanisms: impl Iterator<Item = Mechanism>,
        (route, place): (&RouteName, Place),
        terms: Terms,
        lifetime: u64,
        late: Option<&Challenge>,
    ) -> Result<Vec<Challenge>, Wait> {
        self.readiness()?;
        let valid_before = self.0.clock.now().plus(lifetime);
        let minted = mechanisms
            .filter_map(|mechanism| {
                self.mint(mechanism, (route, place), terms, late, valid_before).transpose()
            })
            .collect::<Result<_, NoEntropy>>()
            .map_err(|error| {
                tracing::error!(%error, "no challenge can be made");
                Wait::Overloaded
            })?;
        self.0.metrics.challenge(route.label());
        Ok(minted)
    }

    /// What a signed block claims that came without the bill which it answers: that it pays what one payment on the
    /// route costs now, to an address of the pool. Nothing shows who was billed, so it is good only while nobody but its
    /// signer can have it: its account must not have gone on to it yet, and a copy of it gets nothing.
    pub(super) fn plain_proof(&self, plain: &PlainPayment, wanted: Wanted<'_>) -> Result<Proof, Denied> {
        let settings = self.0.settings.load();
        if !settings.without_extra {
            let fault = FieldFault::NotEchoed { path: "accepted.extra".to_owned() };
            return Err(Denied::explained(Refusal::MalformedPayload, format!("payment-signature: {fault}")));
        }
        let Wanted { route, standing, terms, .. } = wanted;
        if !self.offered(route).contains(&Mechanism::NanoTxn) {
            let explanation = "no signed block is taken here: pay as `accepts` says".to_owned();
            return Err(Denied::explained(Refusal::MalformedPayload, explanation));
        }
        if plain.amount != terms.amount {
            let explanation = format!("{} raw is asked for: nothing was charged", terms.amount);
            return Err(Denied::explained(Refusal::InsufficientAmount, explanation));
        }
        let valid_before = self.0.clock.now().plus(settings.lifetime);
        let mut random: [u8; 16] = self.0.entropy.bytes().map_err(|_| Denied::Wait(Wait::Overloaded))?;
        let [.., p, q, r, s] = &mut random;
        [*p, *q, *r, *s] = standing.place().0;
        let offer = Offer {
            mechanism: Mechanism::NanoTxn,
            route: route.clone(),
            terms,
            pay_to: plain.pay_to,
            valid_before,
        };
        if !self.0.pool.has(plain.pay_to) {
            return Err(Refusal::WrongDestination.into());
        }
        let challenge = Challenge::mint(&self.0.keys, &self.0.pool, random, offer);
        let evidence = Evidence::Txn(plain.block);
        Ok(Proof { nonce: challenge.nonce(), offer: challenge.offer().clone(), evidence, beside: None })
    }

    fn mint(
        &self,
        mechanism: Mechanism,
        (route, place): (&RouteName, Place),
        terms: Terms,
        late: Option<&Challenge>,
        valid_before: UnixSeconds,
    ) -> Result<Option<Challenge>, NoEntropy> {
        let mut random: [u8; 16] = self.0.entropy.bytes()?;
        let [a, b, c, d, e, f, g, h, .., p, q, r, s] = &mut random;
        let eight = [*a, *b, *c, *d, *e, *f, *g, *h];
        [*p, *q, *r, *s] = place.0;
        let slot = foreign_slot(route).unwrap_or(eight);
        let again = late.map(Challenge::offer).filter(|offer| offer.mechanism == mechanism);
        let pay_to = again.map(|offer| offer.pay_to).or_else(|| self.0.pool.pick(mechanism, slot));
        Ok(pay_to.map(|pay_to| {
            let offer = Offer { mechanism, route: route.clone(), terms, pay_to, valid_before };
            Challenge::mint(&self.0.keys, &self.0.pool, random, offer)
        }))
    }
}

/// The pool's slot for a foreign resource; `None` for a route of the price table. By its name, not at
/// random: a middleware makes its entries again with each request and compares `payTo`, and a payment
/// that comes too late can be presented under the next challenge.
fn foreign_slot(route: &RouteName) -> Option<[u8; 8]> {
    route.is_foreign().then(|| Blake2b::<U8>::digest(route.as_str()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_resource_has_the_same_address_each_time_and_a_route_has_any() {
        let slot = |resource| foreign_slot(&RouteName::of_foreign(resource));
        assert!(slot("https://a.example/one").is_some());
        assert_eq!(slot("https://a.example/one"), slot("https://a.example/one"));
        assert_ne!(slot("https://a.example/one"), slot("https://a.example/two"));
        assert_eq!(foreign_slot(&RouteName::new("GET /")), None);
    }
}
