//! Why one of two routes that match a request comes before the other.

use std::cmp::Ordering;
use std::fmt;

use super::Route;

/// The first of the rules of the price table that tells two routes apart.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Precedence {
    /// Segment `number`, counted from 1, is more specific.
    Segment { number: usize, winner: String, loser: String },
    /// The paths are equal and only the winner is case-sensitive.
    CaseSensitive,
    /// The paths are equal and only the winner names a method.
    Method,
    /// The winner names fewer methods.
    FewerMethods,
    /// The winner's host is more specific.
    Host,
    /// The winner has more conditions on the query.
    Query,
    /// The winner has more conditions on headers.
    Headers,
}

impl Route {
    /// Why this route comes before `other`. Both match one request, and this one wins.
    #[must_use]
    pub fn precedence_over(&self, other: &Self) -> Precedence {
        if let Some(position) = self.pattern.first_difference(&other.pattern) {
            return Precedence::Segment {
                number: position.saturating_add(1),
                winner: self.pattern.shown(position).to_owned(),
                loser: other.pattern.shown(position).to_owned(),
            };
        }
        if self.case_sensitive != other.case_sensitive {
            return Precedence::CaseSensitive;
        }
        match (self.pattern.methods().len(), other.pattern.methods().len()) {
            (own, others) if own == others => {}
            (_, 0) => return Precedence::Method,
            (_, _) => return Precedence::FewerMethods,
        }
        if self.conditions.host_rank() != other.conditions.host_rank() {
            return Precedence::Host;
        }
        match self.conditions.query().len().cmp(&other.conditions.query().len()) {
            Ordering::Equal => Precedence::Headers,
            Ordering::Less | Ordering::Greater => Precedence::Query,
        }
    }
}

impl fmt::Display for Precedence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Segment { number, winner, loser } => {
                return write!(f, "in segment {number}, `{winner}` is closer than `{loser}`");
            }
            Self::CaseSensitive => "of equal paths, the case-sensitive one wins",
            Self::Method => "of equal paths, the one that names the method wins",
            Self::FewerMethods => "of equal paths, the one that names fewer methods wins",
            Self::Host => "of equal paths and methods, the one with the closer host wins",
            Self::Query => "of equal paths, methods and hosts, the one with more query conditions wins",
            Self::Headers => "of otherwise equal routes, the one with more header conditions wins",
        })
    }
}
