//! The price table: which request costs what, and what the payment buys.
//!
//! Pure. A request is made canonical once (`request`), the canonical form is what is matched
//! (`pattern`, `table`) and what is forwarded, so that no two parties read one path differently.

mod calls;
mod pattern;
mod request;
mod table;

use std::borrow::Borrow;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use blake2::digest::consts::U16;
use blake2::{Blake2b, Digest};

use crate::nano::Raw;

pub use calls::{CallFault, CallPrices, Claimed, Line, Lines, MAX_BATCH, MAX_DEPTH, Price, Quote};
pub use pattern::{MAX_SEGMENTS, Part, Pattern, PatternError};
pub use request::{AbsoluteTarget, CanonicalTarget, MAX_PATH, MAX_QUERY, NotCanonical};
pub use table::{Found, PriceTable, TableFault};

/// A route's identity: its configured `name`, or its `match` where it has none. A challenge and a
/// capability are bound to it, so it outlives a reload of the price table.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RouteName(Arc<str>);

/// What the identity of a foreign resource begins with. No route of a price table may be called so:
/// what is bought of another server must never open a door here, nor the other way round.
const FOREIGN: &str = "foreign:";
/// Bytes of a foreign resource's name that its identity repeats; a longer one is hashed.
const MAX_FOREIGN: usize = 192;

impl RouteName {
    /// The identity `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// The identity of what another server sells as `resource`, its URL as a rule. Readable where
    /// it is short and plain, else a hash; two resources never share one.
    #[must_use]
    pub fn of_foreign(resource: &str) -> Self {
        let plain = resource.bytes().all(|byte| byte.is_ascii_graphic()) && !resource.starts_with('#');
        if plain && resource.len() <= MAX_FOREIGN {
            return Self(Arc::from(format!("{FOREIGN}{resource}")));
        }
        let hash = hex::encode(Blake2b::<U16>::digest(resource));
        Self(Arc::from(format!("{FOREIGN}#{hash}")))
    }

    /// Whether this is no route of a price table, but what another server sells.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.0.starts_with(FOREIGN)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The identity of one `part` of the route that is sold by itself.
    #[must_use]
    pub fn part(&self, part: &str) -> Self {
        Self(Arc::from(format!("{}{PART}{part}", self.configured())))
    }

    /// The route as the configuration calls it, without the part.
    #[must_use]
    pub fn configured(&self) -> &str {
        self.0.split(PART).next().unwrap_or(&self.0)
    }

    /// The `route` label of metrics: the route as it is configured. All foreign resources
    /// share one, since callers name them.
    #[must_use]
    pub fn label(&self) -> &str {
        if self.is_foreign() { FOREIGN } else { self.configured() }
    }
}

/// So that routes can be found by a name that is borrowed.
impl Borrow<str> for RouteName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Stands between a route's name and a part of it; no configured name has it.
pub const PART: char = '#';

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which upstream serves a route.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UpstreamName(Arc<str>);

impl UpstreamName {
    /// The upstream called `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UpstreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What one payment buys on its route.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Grants {
    /// How many requests.
    pub requests: NonZeroU32,
    /// For how long after the grant, in seconds.
    pub seconds: u64,
}

/// What is asked and what is given for it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Terms {
    /// The price of one payment.
    pub amount: Raw,
    pub grants: Grants,
}

/// Who may pass.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Access {
    Free,
    Priced(Terms),
    /// By what an MCP client calls in the request's body.
    Calls(Arc<CallPrices>),
}

impl Access {
    #[must_use]
    pub const fn is_free(&self) -> bool {
        match self {
            Self::Free => true,
            Self::Priced(_) | Self::Calls(_) => false,
        }
    }
}

/// Which answers of the upstream use up a use; any other gives it back (PROTOCOL section 5).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum ChargeOn {
    /// An answer below 500: the upstream did not fail.
    #[default]
    Below500,
    /// An answer below 400: the request succeeded.
    Below400,
    /// Any answer at all.
    Answered,
}

impl ChargeOn {
    /// Every rule, in the order of their leniency towards the upstream.
    pub const ALL: [Self; 3] = [Self::Below500, Self::Below400, Self::Answered];

    /// The name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Below500 => "below_500",
            Self::Below400 => "below_400",
            Self::Answered => "answered",
        }
    }

    /// Whether an answer with this status uses up the use that was reserved for it.
    #[must_use]
    pub const fn charges(self, status: u16) -> bool {
        match self {
            Self::Below500 => status < 500,
            Self::Below400 => status < 400,
            Self::Answered => true,
        }
    }
}

/// When the uses of a route's capabilities are recorded (PROTOCOL section 6).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Metering {
    /// Leased in chunks and reported soon after: no store on the path of a request.
    #[default]
    Leased,
    /// Leased one by one, and on the disk before the client has its answer: a crash serves none
    /// twice but those that were under way.
    Strict,
}

impl Metering {
    /// Both, the usual first.
    pub const ALL: [Self; 2] = [Self::Leased, Self::Strict];

    /// The name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leased => "leased",
            Self::Strict => "strict",
        }
    }
}

/// Whether a payment carries an id of the client's own, which makes a retry idempotent (x402,
/// `payment-identifier`).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum PaymentIdentifiers {
    /// It may.
    Optional,
    /// A payment without one is not taken.
    Required,
}

impl PaymentIdentifiers {
    pub const ALL: [Self; 2] = [Self::Optional, Self::Required];

    /// The name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Optional => "optional",
            Self::Required => "required",
        }
    }
}

/// Who answers the preflights of cross-origin requests.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum PreflightRule {
    /// The gateway, by `cors`.
    #[default]
    Gateway,
    /// The upstream. No body goes either way, and only the headers about access come back.
    Upstream,
}

impl PreflightRule {
    pub const ALL: [Self; 2] = [Self::Gateway, Self::Upstream];

    /// The name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Upstream => "upstream",
        }
    }
}

/// What happens to a request with a body whose method has none (GET, HEAD, DELETE, OPTIONS, TRACE).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum BodyRule {
    /// 400.
    #[default]
    Refuse,
    /// It is forwarded.
    Allow,
}

impl BodyRule {
    pub const ALL: [Self; 2] = [Self::Refuse, Self::Allow];

    /// The name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Allow => "allow",
        }
    }
}

/// One line of the price table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    pub name: RouteName,
    pub pattern: Pattern,
    pub access: Access,
    pub upstream: UpstreamName,
    /// What the payer is told it buys; may be empty.
    pub description: String,
    /// The media type of what it buys; may be empty.
    pub mime_type: String,
    /// Left out of what the gateway publishes about its prices.
    pub hidden: bool,
    pub charge_on: ChargeOn,
    pub metering: Metering,
    /// Nothing where the route does not speak of ids, and ignores them.
    pub payment_identifier: Option<PaymentIdentifiers>,
    /// `None`: as the whole gateway.
    pub preflight: Option<PreflightRule>,
    pub body: BodyRule,
    /// Letter case and a trailing slash make another path.
    pub case_sensitive: bool,
}

/// Why one route that covers a request comes before another that does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Precedence {
    /// Segment `number`, from 1, says more closely what it wants.
    Segment { number: usize, winner: String, loser: String },
    /// The paths are the same, only the winner is case-sensitive.
    CaseSensitive,
    /// The paths are the same, only the winner names the method.
    Method,
}

impl Route {
    /// Why this route comes before `other`, for two that cover one request, this one the winner.
    #[must_use]
    pub fn precedence_over(&self, other: &Self) -> Precedence {
        if let Some(position) = self.pattern.first_difference(&other.pattern) {
            return Precedence::Segment {
                number: position.saturating_add(1),
                winner: self.pattern.shown(position).to_owned(),
                loser: other.pattern.shown(position).to_owned(),
            };
        }
        if self.case_sensitive && !other.case_sensitive {
            Precedence::CaseSensitive
        } else {
            Precedence::Method
        }
    }
}

impl fmt::Display for Precedence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment { number, winner, loser } => {
                write!(f, "in segment {number}, `{winner}` is closer than `{loser}`")
            }
            Self::CaseSensitive => f.write_str("of equal paths, the case-sensitive one wins"),
            Self::Method => f.write_str("of equal paths, the one that names the method wins"),
        }
    }
}
