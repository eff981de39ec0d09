//! Whether a grant still opens a route: a route may be given another name, a name may be given to
//! another path, and prices change.
//!
//! A grant opens the route that has the name it was bought under, now or `formerly`. If the name stands
//! for other requests than it did, the grant opens it only where a use costs no more than was paid.

use blake2::digest::consts::U4;
use blake2::{Blake2b, Digest};

use super::conditions::Conditions;
use super::pattern::Pattern;
use super::{RouteName, Terms};

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
    /// The name was moved to another path, and what a use costs there is not known: it is priced in a currency
    /// that has no rate at the moment.
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

    /// How what was `bought` stands to what `asked` names, for which a payment buys `now`; `None` if that is not
    /// known.
    #[must_use]
    pub fn bearing(&self, asked: &RouteName, now: Option<Terms>, bought: Bought<'_>) -> Bearing {
        if bought.route == asked {
            let moved = !self.places.is_empty() && !self.places.contains(&bought.place);
            return match now {
                _ if !moved => Bearing::Opens,
                None => Bearing::Unpriced,
                Some(now) if is_dearer(now, bought.terms) => Bearing::Dearer,
                Some(_) => Bearing::Opens,
            };
        }
        if self.names(asked).any(|it| it == *bought.route) { Bearing::Opens } else { Bearing::Elsewhere }
    }
}

/// Whether a use costs more `now` than `then`. What is left of a purse is worth as much wherever it is spent; what a
/// request costs by the meter, a use was not bought for.
fn is_dearer(now: Terms, then: Terms) -> bool {
    let [asked, had] = [now, then].map(|it| Some((it.amount.get(), u128::from(it.grants.requests()?.get()))));
    let Some((had, bought)) = had else { return false };
    let Some((asked, uses)) = asked else { return true };
    let (each, rest) = (asked.div_euclid(uses), asked.rem_euclid(uses));
    let (paid, paid_rest) = (had.div_euclid(bought), had.rem_euclid(bought));
    // The rests are below 2^32, so that nothing overflows.
    each > paid || (each == paid && rest.saturating_mul(bought) > paid_rest.saturating_mul(uses))
}
