//! Makes challenges: for the gateway's own bills and for what other servers sell. Minting keeps no
//! state and asks neither the store nor a node.

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};

use super::Cashier;
use super::reasons::Wait;
use super::verdict::{Bill, Refused, Verdict};
use crate::entropy::NoEntropy;
use crate::ledger::Ledger;
use crate::nano::UnixSeconds;
use crate::payment::Mechanism;
use crate::payment::challenge::{Challenge, Offer};
use crate::routes::{Place, Quoted, RouteName};
use crate::store::Store;

impl<L: Ledger, S: Store> Cashier<L, S> {
    /// A bill for one payment of what is `quoted` on `route`, with what was `refused`. For a payment that came
    /// `late` it names the same address.
    pub(super) fn bill(
        &self,
        route: &RouteName,
        quoted: Quoted,
        place: Place,
        late: Option<&Challenge>,
        refused: Option<Refused>,
    ) -> Verdict {
        let settings = self.0.settings.load();
        let mechanisms = settings.by_route.get(route.configured()).unwrap_or(&settings.mechanisms);
        match self.challenges(mechanisms.iter().copied(), (route, place), quoted, settings.lifetime, late) {
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
        quoted: Quoted,
        lifetime: u64,
        late: Option<&Challenge>,
    ) -> Result<Vec<Challenge>, Wait> {
        self.readiness()?;
        let valid_before = self.0.clock.now().plus(lifetime);
        let minted = mechanisms
            .filter_map(|mechanism| {
                self.mint(mechanism, (route, place), quoted, late, valid_before).transpose()
            })
            .collect::<Result<_, NoEntropy>>()
            .map_err(|error| {
                tracing::error!(%error, "no challenge can be made");
                Wait::Overloaded
            })?;
        self.0.metrics.challenge(route.label());
        Ok(minted)
    }

    fn mint(
        &self,
        mechanism: Mechanism,
        (route, place): (&RouteName, Place),
        Quoted { terms, exchange }: Quoted,
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
            let offer = Offer { mechanism, route: route.clone(), terms, pay_to, valid_before, exchange };
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
