//! The price table: what a request costs, and what its payment buys.
//!
//! Pure. The path of a request is made canonical once (`request`). The same canonical form is matched
//! (`pattern`, `table`) and forwarded, so that gateway and upstream never read a path differently. A price
//! may also depend on the host, the query and headers (`conditions`); a request that servers could read
//! differently there has no price and is refused.

mod calls;
mod conditions;
mod head;
mod host;
mod own_headers;
mod pattern;
mod precedence;
mod request;
mod rules;
mod standing;
mod strip;
mod table;

use std::borrow::Borrow;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use blake2::digest::consts::U16;
use blake2::{Blake2b, Digest};

use crate::money::{Cost, Exchange};
use crate::nano::Raw;
use crate::usage::MeterPlan;

pub use calls::{
    BillForm, CAPABILITY_KEY, CallFault, CallPrices, ClaimedCall, Enclosed, Line, Lines, MAX_BATCH,
    MAX_DEPTH, MemberText, ObjectText, PAYMENT_KEY, Price, Quote, array_items, replaced,
};
pub use conditions::{
    ConditionFault, Conditions, Doubt, HeaderCondition, MAX_CONDITION_NAME, MAX_CONDITION_VALUE,
    MAX_CONDITIONS, Met, QueryCondition, Unclear,
};
pub use head::RequestHead;
pub use host::{HostFault, HostPattern, MAX_HOST, RequestHost};
pub use own_headers::{is_of_the_connection, is_own_header};
pub use pattern::{MAX_METHODS, MAX_SEGMENTS, Part, Pattern, PatternError};
pub use precedence::Precedence;
pub use request::{AbsoluteTarget, CanonicalTarget, MAX_PATH, MAX_QUERY, NotCanonical};
pub use rules::{CountedBy, Enforcement, Guests, RateLimit, Rules};
pub use standing::{Bearing, Bought, Place, Standing};
pub use strip::{Strip, StripFault};
pub use table::{Candidate, Found, MAX_ALTERNATIVES, PriceTable, TableFault};

/// The name of a route: its configured `name`, or else its `match`. Challenges and capabilities are
/// bound to it, so they stay valid when the price table is reloaded.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RouteName(Arc<str>);

/// The prefix of the name of a foreign resource. No route of a price table can have such a name: what
/// is bought from another server must not be valid here, nor the other way round.
const FOREIGN: &str = "foreign:";
/// The longest name of a foreign resource that is kept as it is, in bytes; a longer one is hashed.
const MAX_FOREIGN: usize = 192;

impl RouteName {
    /// The route called `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// The name for what another server sells as `resource`, usually its URL. It is readable if the
    /// resource is short and printable ASCII, else a hash. Two resources never have the same name.
    #[must_use]
    pub fn of_foreign(resource: &str) -> Self {
        let plain = resource.bytes().all(|byte| byte.is_ascii_graphic()) && !resource.starts_with('#');
        if plain && resource.len() <= MAX_FOREIGN {
            return Self(Arc::from(format!("{FOREIGN}{resource}")));
        }
        let hash = hex::encode(Blake2b::<U16>::digest(resource));
        Self(Arc::from(format!("{FOREIGN}#{hash}")))
    }

    /// Whether this is the resource of another server, not a route of a price table.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.0.starts_with(FOREIGN)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of one `part` of the route that is sold separately.
    #[must_use]
    pub fn part(&self, part: &str) -> Self {
        Self(Arc::from(format!("{}{PART}{part}", self.configured())))
    }

    /// This name, with the part that `other` has.
    #[must_use]
    pub fn with_part_of(&self, other: &Self) -> Self {
        other.0.split_once(PART).map_or_else(|| self.clone(), |(_, part)| self.part(part))
    }

    /// The name under which a payment for the route adds to the purse with this id.
    #[must_use]
    pub fn adding_to(&self, purse: [u8; 16]) -> Self {
        self.part(&format!("{ADDS_TO}{}", hex::encode(purse)))
    }

    /// The id of the purse that a payment under this name adds to.
    #[must_use]
    pub fn adds_to(&self) -> Option<[u8; 16]> {
        let (_, part) = self.0.split_once(PART)?;
        let mut id = [0; 16];
        hex::decode_to_slice(part.strip_prefix(ADDS_TO)?, &mut id).ok()?;
        Some(id)
    }

    /// This name, without the purse that a payment under it adds to.
    #[must_use]
    pub fn without_purse(&self) -> Self {
        if self.adds_to().is_some() { Self(Arc::from(self.configured())) } else { self.clone() }
    }

    /// The name of the route in the configuration, without the part.
    #[must_use]
    pub fn configured(&self) -> &str {
        self.0.split(PART).next().unwrap_or(&self.0)
    }

    /// The `route` label of metrics: the name in the configuration. All foreign resources share one
    /// label, since callers choose their names.
    #[must_use]
    pub fn label(&self) -> &str {
        if self.is_foreign() { FOREIGN } else { self.configured() }
    }
}

/// Allows look-ups of a route by `&str`.
impl Borrow<str> for RouteName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Separates the name of a route from a part of it. No configured name contains it.
pub const PART: char = '#';
/// Begins the part that names a purse.
const ADDS_TO: char = '+';

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of the upstream that serves a route.
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
    pub buys: Measure,
    /// How long after the grant it can be used, in seconds.
    pub seconds: u64,
}

/// In what is counted what a payment buys.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Measure {
    /// So many requests.
    Requests(NonZeroU32),
    /// A purse of as many raw as the price: each request costs what it uses.
    Balance,
}

impl Grants {
    /// So many requests within so many seconds.
    #[must_use]
    pub const fn of_requests(requests: NonZeroU32, seconds: u64) -> Self {
        Self { buys: Measure::Requests(requests), seconds }
    }

    /// The price as a balance, to be used within so many seconds.
    #[must_use]
    pub const fn of_balance(seconds: u64) -> Self {
        Self { buys: Measure::Balance, seconds }
    }

    /// As it is stored, and covered by a challenge's MAC: the number of requests, 0 for a balance.
    #[must_use]
    pub fn count(self) -> u32 {
        self.requests().map_or(0, NonZeroU32::get)
    }

    /// The inverse of [`Grants::count`].
    #[must_use]
    pub fn of_count(count: u32, seconds: u64) -> Self {
        Self { buys: NonZeroU32::new(count).map_or(Measure::Balance, Measure::Requests), seconds }
    }

    /// The number of requests; `None` for a balance.
    #[must_use]
    pub const fn requests(self) -> Option<NonZeroU32> {
        match self.buys {
            Measure::Requests(requests) => Some(requests),
            Measure::Balance => None,
        }
    }
}

impl fmt::Display for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let within = humantime::format_duration(Duration::from_secs(self.seconds));
        match self.buys {
            Measure::Requests(NonZeroU32::MIN) => write!(f, "1 request within {within}"),
            Measure::Requests(requests) => write!(f, "{requests} requests within {within}"),
            Measure::Balance => write!(f, "as much as was paid, within {within}"),
        }
    }
}

/// What a capability is counted in.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Unit {
    /// Each request takes one.
    Use,
    /// A purse: each request takes what it costs.
    Raw,
}

/// What is left of a capability.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Left {
    Uses(u64),
    /// Of a purse.
    Balance(Raw),
}

impl Left {
    /// So much of this unit.
    #[must_use]
    pub fn new(unit: Unit, amount: u128) -> Self {
        match unit {
            Unit::Use => Self::Uses(u64::try_from(amount).unwrap_or(u64::MAX)),
            Unit::Raw => Self::Balance(Raw::new(amount)),
        }
    }

    /// What it is called in headers and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uses(_) => "remaining",
            Self::Balance(_) => "balance",
        }
    }
}

/// A count as a number; raw as text, since no number of JSON is so exact.
impl serde::Serialize for Left {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Uses(uses) => serializer.serialize_u64(*uses),
            Self::Balance(raw) => serializer.collect_str(raw),
        }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uses(uses) => uses.fmt(f),
            Self::Balance(raw) => raw.fmt(f),
        }
    }
}

impl Terms {
    /// What a payment buys, in its unit.
    #[must_use]
    pub fn stock(self) -> (Unit, u128) {
        match self.grants.buys {
            Measure::Requests(requests) => (Unit::Use, u128::from(requests.get())),
            Measure::Balance => (Unit::Raw, self.amount.get()),
        }
    }

    /// The price of one request, rounded up; `None` where it depends on what the request uses.
    #[must_use]
    pub fn each(self) -> Option<Raw> {
        let requests = self.grants.requests()?;
        Some(Raw::new(self.amount.get().div_ceil(u128::from(requests.get()))))
    }
}

/// A price in raw and what it buys.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Terms {
    /// The price of one payment.
    pub amount: Raw,
    pub grants: Grants,
}

/// A price as the configuration has it, and what it buys.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Listed {
    /// The price of one payment.
    pub price: Cost,
    pub grants: Grants,
}

impl From<Terms> for Listed {
    fn from(Terms { amount, grants }: Terms) -> Self {
        Self { price: amount.into(), grants }
    }
}

impl Listed {
    /// The terms, if the price is in raw.
    #[must_use]
    pub fn terms(self) -> Option<Terms> {
        let grants = self.grants;
        self.price.raw().map(|amount| Terms { amount, grants })
    }
}

/// What a payment buys at this moment, and for how much.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Quoted {
    pub terms: Terms,
    /// How the amount came about, of a price in another currency.
    pub exchange: Option<Exchange>,
}

impl From<Terms> for Quoted {
    fn from(terms: Terms) -> Self {
        Self { terms, exchange: None }
    }
}

/// Which requests need a payment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Access {
    Free,
    Priced(Listed),
    /// It depends on what an MCP client calls in the body of the request.
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

    /// What one payment buys; `None` if there is none.
    #[must_use]
    pub fn grants(&self) -> Option<Grants> {
        match self {
            Self::Free => None,
            Self::Priced(listed) => Some(listed.grants),
            Self::Calls(prices) => Some(prices.grants),
        }
    }
}

vocabulary! {
    /// Which answers of the upstream consume a use; every other answer gives it back
    /// ([protocol guide](crate::guide::protocol), "Settlement").
    #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
    pub enum ChargeOn {
        /// An answer below 500: the upstream did not fail. See [`ChargeOn::charges_redirects`].
        #[default]
        Below500 = "below_500",
        /// An answer below 400: the request succeeded.
        Below400 = "below_400",
        /// Every answer, redirects too.
        Answered = "answered",
    }
    /// The name in the configuration.
    pub fn as_str;
}

impl ChargeOn {
    /// Whether an answer with this status consumes the use that was reserved for it.
    #[must_use]
    pub const fn charges(self, status: u16) -> bool {
        match self {
            Self::Below500 => status < 500,
            Self::Below400 => status < 400,
            Self::Answered => true,
        }
    }

    /// Whether an answer that only redirects to something with a price of its own consumes a use.
    #[must_use]
    pub const fn charges_redirects(self) -> bool {
        match self {
            Self::Below500 | Self::Below400 => false,
            Self::Answered => true,
        }
    }
}

vocabulary! {
    /// When the uses of the capabilities of a route are recorded
    /// ([protocol guide](crate::guide::protocol), "Capability").
    #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
    pub enum Metering {
        /// Leased in chunks and reported soon after, so that a request does not wait for the store.
        #[default]
        Leased = "leased",
        /// Leased one by one and stored before the client has its answer. After a crash only the uses that
        /// were under way can be served again.
        Strict = "strict",
    }
    /// The name in the configuration.
    pub fn as_str;
}

vocabulary! {
    /// Whether a payment has an id that the client chooses, which makes a retry idempotent (x402,
    /// `payment-identifier`).
    #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
    pub enum PaymentIdentifiers {
        /// It may have one.
        Optional = "optional",
        /// A payment without one is refused.
        Required = "required",
    }
    /// The name in the configuration.
    pub fn as_str;
}

vocabulary! {
    /// Whether what is left of what a payment bought goes back to the account that paid.
    #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
    pub enum RefundRule {
        #[default]
        Never = "never",
        /// When its holder closes it, and if it is a purse when it runs out.
        OnClose = "on_close",
    }
    /// The name in the configuration.
    pub fn as_str;
}

vocabulary! {
    /// Who answers the preflights of cross-origin requests.
    #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
    pub enum PreflightRule {
        /// The gateway, by `cors`.
        #[default]
        Gateway = "gateway",
        /// The upstream. No body goes either way, and only the headers about access come back.
        Upstream = "upstream",
    }
    /// The name in the configuration.
    pub fn as_str;
}

vocabulary! {
    /// What happens to a request with a body whose method has none (GET, HEAD, DELETE, OPTIONS, TRACE).
    #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
    pub enum BodyRule {
        /// 400.
        #[default]
        Refuse = "refuse",
        /// It is forwarded.
        Allow = "allow",
    }
    /// The name in the configuration.
    pub fn as_str;
}

/// One entry of the price table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    pub name: RouteName,
    /// Its former names, and where it stands.
    pub standing: Arc<Standing>,
    pub pattern: Pattern,
    /// What must be true of a request beside its method and path.
    pub conditions: Conditions,
    pub access: Access,
    /// How a request is charged for what it uses, where what it costs is known only afterwards. Then `access` has
    /// the price of a purse.
    pub meter: Option<Arc<MeterPlan>>,
    pub upstream: UpstreamName,
    /// What the upstream does not see of a path.
    pub strip: Option<Strip>,
    /// The description for the payer; may be empty.
    pub description: String,
    /// The media type of the answer; may be empty.
    pub mime_type: String,
    /// Not listed in the discovery documents.
    pub hidden: bool,
    pub charge_on: ChargeOn,
    pub metering: Metering,
    pub refund: RefundRule,
    /// `None` if the route does not offer ids and ignores them.
    pub payment_identifier: Option<PaymentIdentifiers>,
    /// `None`: as the whole gateway.
    pub preflight: Option<PreflightRule>,
    pub body: BodyRule,
    /// Whether letter case and a trailing slash make a different path.
    pub case_sensitive: bool,
    /// The rules beside the price, if there are any.
    pub rules: Option<Arc<Rules>>,
}

/// The method and path that a route matches, and its conditions in brackets: `GET /img (query size=large)`.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pattern.fmt(f)?;
        if self.conditions.is_empty() { Ok(()) } else { write!(f, " ({})", self.conditions) }
    }
}
