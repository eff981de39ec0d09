//! Whether a grant still opens a route: a route may be given another name, a name may be given to
//! another path, and prices change.
//!
//! A grant opens the route that has the name it was bought under, now or `formerly`. If the name stands
//! for other requests than it did, the grant opens it only where a use costs no more than was paid.

use blake2::digest::consts::U4;
use blake2::{Blake2b, Digest};

use super::conditions::Conditions;
use super::pattern::Pattern;
use super::{Grants, Listed, RouteName, Terms};
use crate::money::{Cost, Fiat};

/// A short digest of a route's `match` and conditions, to tell whether its name was moved.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Place(pub [u8; 4]);

impl Place {
    /// Of this `match` without conditions.
    #[must_use]
    pub fn of(pattern: &str) -> Self {
        Self(Blake2b::<U4>::digest(pattern).into())
    }
}

/// What was bought: under which name, for what, and where the name stood.
#[derive(Clone, Copy, Debug)]
pub struct Bought<'a> {
    pub route: &'a RouteName,
    pub terms: Terms,
    /// The price of it, if that was in another currency.
    pub price: Option<Fiat>,
    pub place: Place,
}

/// How a grant stands to a route.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bearing {
    Opens,
    /// It is for another route.
    Elsewhere,
    /// The name was moved to another path, where a use costs more than was paid.
    Dearer,
    /// The name was moved to another path, and whether a use costs more there is not known: it is priced in another
    /// currency than it was, which has no rate at the moment.
    Unpriced,
}

/// The former names of a route, and where it stands.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Standing {
    formerly: Vec<RouteName>,
    /// The present `match` with its conditions, and the former names, since a name may be a `match`.
    places: Vec<Place>,
}

impl Standing {
    #[must_use]
    pub fn new(pattern: &Pattern, conditions: &Conditions, formerly: Vec<RouteName>) -> Self {
        let mut here = pattern.to_string();
        if !conditions.is_empty() {
            // No `match` has a line break in it.
            here = format!("{here}\n{conditions}");
        }
        let texts = std::iter::once(here.as_str()).chain(formerly.iter().map(RouteName::as_str));
        let places = texts.map(Place::of).collect();
        Self { formerly, places }
    }

    /// The names that it had.
    #[must_use]
    pub fn formerly(&self) -> &[RouteName] {
        &self.formerly
    }

    /// Where it stands now.
    #[must_use]
    pub fn place(&self) -> Place {
        self.places.first().copied().unwrap_or_default()
    }

    /// The names under which a grant opens what `asked` names, that one first.
    pub fn names<'a>(&'a self, asked: &'a RouteName) -> impl Iterator<Item = RouteName> + 'a {
        let former = self.formerly.iter().map(|it| it.with_part_of(asked));
        std::iter::once(asked.clone()).chain(former)
    }

    /// How what was `bought` stands to what `asked` names, which is sold as it is `listed`, for the `terms` of this
    /// moment; `None` if they are not known.
    #[must_use]
    pub fn bearing(
        &self,
        asked: &RouteName,
        listed: Listed,
        terms: Option<Terms>,
        bought: Bought<'_>,
    ) -> Bearing {
        if bought.route == asked {
            let moved = !self.places.is_empty() && !self.places.contains(&bought.place);
            if !moved {
                return Bearing::Opens;
            }
            return match is_dearer(listed, terms, bought) {
                None => Bearing::Unpriced,
                Some(true) => Bearing::Dearer,
                Some(false) => Bearing::Opens,
            };
        }
        if self.names(asked).any(|it| it == *bought.route) { Bearing::Opens } else { Bearing::Elsewhere }
    }
}

/// Whether a use costs more than what was `bought`; `None` if that is not known. What is left of a purse is worth as much
/// wherever it is spent; what a request costs by the meter, a use was not bought for. Two prices in one currency are
/// compared in it: between them XNO may have become cheaper, which makes no use dearer.
fn is_dearer(listed: Listed, terms: Option<Terms>, bought: Bought<'_>) -> Option<bool> {
    let uses = |grants: Grants| grants.requests().map(|it| u128::from(it.get()));
    let Some(had) = uses(bought.terms.grants) else { return Some(false) };
    let Some(uses) = uses(listed.grants) else { return Some(true) };
    let in_currency = match listed.price {
        Cost::Raw(_) => None,
        Cost::Fiat(price) => bought.price.and_then(|it| price.in_parts_with(it)),
    };
    let (asked, paid) = match in_currency {
        Some(parts) => parts,
        None => (terms?.amount.get(), bought.terms.amount.get()),
    };
    let (each, rest) = (asked.div_euclid(uses), asked.rem_euclid(uses));
    let (paid, paid_rest) = (paid.div_euclid(had), paid.rem_euclid(had));
    // The rests are below 2^32, so that nothing overflows.
    Some(each > paid || (each == paid && rest.saturating_mul(had) > paid_rest.saturating_mul(uses)))
}
