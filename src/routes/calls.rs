//! Prices of the calls of an MCP server: by JSON-RPC method and tool name, with the sum for a batch.
//!
//! Each line of the list is sold separately: a payment for one line is valid only for its calls, just
//! as a payment for one route is valid only there. A call that is on no line has the price `otherwise`,
//! so that it is never free by accident.

mod enclosed;
mod message;
mod text;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;

use blake2::digest::consts::U16;
use blake2::{Blake2b, Digest};

use super::Grants;
use crate::money::Cost;
use crate::nano::Raw;

pub use enclosed::{CAPABILITY_KEY, Enclosed, PAYMENT_KEY};
use message::{Call, calls};
pub use message::{CallFault, MAX_BATCH, MAX_DEPTH};
pub use text::{MemberText, ObjectText, array_items, replaced};

/// The longest name of what a payment buys on a route, in bytes. A longer one becomes a digest.
const MAX_PART: usize = 100;

/// The price list of an MCP endpoint. All its prices are in one money, so that a batch has a sum.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CallPrices {
    /// The longest body of a request, in bytes. A longer one is refused.
    pub bound: usize,
    /// What one payment buys of its line.
    pub grants: Grants,
    pub methods: Lines,
    pub tools: Lines,
    /// The price of a call that is on no line.
    pub otherwise: Price,
    pub bills: BillForm,
}

vocabulary! {
    /// Which form the bill for a call of a tool has.
    #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
    pub enum BillForm {
        /// HTTP 402. What is in `_meta` is not looked at.
        #[default]
        Http = "http",
        /// A result of the tool, which is an error (x402 v2, transport MCP).
        Result = "result",
        /// A result for a client whose call has a key of x402 in `_meta`, else HTTP 402.
        Both = "both",
    }
    /// The name in the configuration.
    pub fn as_str;
}

impl BillForm {
    /// Whether payments and capabilities are taken from `_meta`.
    #[must_use]
    pub const fn takes_enclosed(self) -> bool {
        match self {
            Self::Http => false,
            Self::Result | Self::Both => true,
        }
    }

    /// Whether the call that carried `enclosed` is billed in its result. Only a call of a tool has a result that may
    /// be an error, and a notification has none.
    #[must_use]
    pub fn is_result_for(self, enclosed: &Enclosed) -> bool {
        let reads_results = match self {
            Self::Http => false,
            Self::Result => true,
            Self::Both => enclosed.speaks_x402,
        };
        reads_results && enclosed.calls_tool && enclosed.id.is_some()
    }
}

/// The price on one line.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Price {
    Free,
    Costs(Cost),
    /// Not offered at all.
    Refused,
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Free => f.write_str("free"),
            Self::Costs(cost) => f.write_str(&cost.in_full()),
            Self::Refused => f.write_str("refused"),
        }
    }
}

/// What a price is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Line<'a> {
    Method(&'a str),
    Tool(&'a str),
    /// Every call that is on no line.
    Otherwise,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method(name) => write!(f, "method {name}"),
            Self::Tool(name) => write!(f, "tool {name}"),
            Self::Otherwise => f.write_str("anything else"),
        }
    }
}

/// Names with their prices. A name that ends in `*` covers every name that starts with the text before
/// it. A full name comes before such a prefix, and a longer prefix before a shorter one.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Lines(BTreeMap<String, Price>);

/// The headers `Mcp-Method` and `Mcp-Name`, which some servers read instead of the body.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ClaimedCall<'a> {
    pub method: Option<&'a str>,
    pub name: Option<&'a str>,
}

impl ClaimedCall<'_> {
    fn check(&self, call: &Call) -> Result<(), CallFault> {
        let (method, tool) = match call {
            Call::Answer => (None, None),
            Call::Tool { name } => (Some(message::TOOLS_CALL), Some(name.as_str())),
            Call::Method { name, .. } => (Some(name.as_str()), None),
        };
        let is_method = self.method.is_none() || self.method == method;
        // For another method, the name is of something that has no price.
        let is_tool = self.name.is_none() || tool.is_none() || self.name == tool;
        if is_method && is_tool { Ok(()) } else { Err(CallFault::Claimed) }
    }
}

/// The price of the body of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Quote {
    Free,
    Costs {
        /// The lines that are bought, independent of their order in the body.
        part: String,
        amount: Cost,
        /// How many calls have a price: several in a batch.
        calls: NonZeroU32,
    },
}

impl CallPrices {
    /// The price of all calls in `body` together.
    ///
    /// # Errors
    /// [`CallFault`], for a body that is not JSON-RPC, that two parsers could read differently, or that
    /// calls something that is not offered.
    pub fn quote(&self, body: &[u8]) -> Result<Quote, CallFault> {
        self.quote_claimed(body, &ClaimedCall::default())
    }

    /// Like [`CallPrices::quote`], for a body whose calls must agree with `claimed`.
    ///
    /// # Errors
    /// [`CallFault`]; also if the body does not agree.
    pub fn quote_claimed(&self, body: &[u8], claimed: &ClaimedCall<'_>) -> Result<Quote, CallFault> {
        let mut parts = Vec::new();
        let mut sum: Option<Cost> = None;
        for call in calls(body)? {
            claimed.check(&call)?;
            let (part, price) = self.line(&call)?;
            match price {
                Price::Free => {}
                Price::Costs(amount) => {
                    let before = sum.unwrap_or(amount.nothing());
                    sum = Some(before.checked_add(amount).ok_or(CallFault::Sum)?);
                    parts.push(part);
                }
                Price::Refused => return Err(call.not_offered()),
            }
        }
        let Some(amount) = sum else { return Ok(Quote::Free) };
        // Far less than this fit into a body.
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        let calls = NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        parts.sort_unstable();
        Ok(Quote::Costs { part: shortened(parts.join("+")), amount, calls })
    }

    /// Every price of the list, with what it is for.
    pub fn lines(&self) -> impl Iterator<Item = (Line<'_>, Price)> {
        let methods = self.methods.0.iter().map(|(name, price)| (Line::Method(name), *price));
        let tools = self.tools.0.iter().map(|(name, price)| (Line::Tool(name), *price));
        methods.chain(tools).chain([(Line::Otherwise, self.otherwise)])
    }

    /// The lowest and the highest price of a single call; `None` if every call is refused.
    #[must_use]
    pub fn span(&self) -> Option<(Cost, Cost)> {
        let free = self.costs().next().map_or(Cost::Raw(Raw::ZERO), Cost::nothing);
        let amounts = self.lines().filter_map(|(_, price)| match price {
            Price::Free => Some(free),
            Price::Costs(amount) => Some(amount),
            Price::Refused => None,
        });
        amounts.fold(None, |span, amount| match span {
            None => Some((amount, amount)),
            Some((least, most)) => Some((
                if amount.compare(least) == Some(Ordering::Less) { amount } else { least },
                if amount.compare(most) == Some(Ordering::Greater) { amount } else { most },
            )),
        })
    }

    /// The prices that are not nothing.
    pub fn costs(&self) -> impl Iterator<Item = Cost> {
        self.lines().filter_map(|(_, price)| match price {
            Price::Costs(amount) => Some(amount),
            Price::Free | Price::Refused => None,
        })
    }

    fn line(&self, call: &Call) -> Result<(String, Price), CallFault> {
        let (method, is_notification) = match call {
            Call::Answer => return Ok((String::new(), Price::Free)),
            Call::Tool { name } => {
                if let Some((line, price)) = self.tools.find(name)? {
                    return Ok((format!("tool:{line}"), price));
                }
                (message::TOOLS_CALL, false)
            }
            Call::Method { name, is_notification } => (name.as_str(), *is_notification),
        };
        if let Some((line, price)) = self.methods.find(method)? {
            return Ok((format!("method:{line}"), price));
        }
        if is_notification && method.starts_with(message::NOTIFICATIONS) {
            // It keeps a session going: by the protocol it asks for nothing and has no answer.
            return Ok((String::new(), Price::Free));
        }
        Ok(("otherwise".to_owned(), self.otherwise))
    }
}

/// Keeps the text short, since it is a part of every bill.
fn shortened(part: String) -> String {
    if part.len() <= MAX_PART {
        return part;
    }
    let digest: [u8; 16] = Blake2b::<U16>::digest(part.as_bytes()).into();
    format!("lines:{}", hex::encode(digest))
}

impl Lines {
    /// The lines of `prices`. The caller has checked the names.
    #[must_use]
    pub const fn new(prices: BTreeMap<String, Price>) -> Self {
        Self(prices)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The line that covers `name`, as it is written, and its price.
    ///
    /// # Errors
    /// [`CallFault::Spelling`], if only the letter case differs from a line: the upstream may ignore
    /// letter case.
    fn find(&self, name: &str) -> Result<Option<(&str, Price)>, CallFault> {
        if let Some((line, price)) = self.0.get_key_value(name) {
            return Ok(Some((line, *price)));
        }
        // Whether a line covers the name, and whether it would if letter case did not count.
        let covers = |line: &str| match line.strip_suffix('*') {
            None => (false, name.eq_ignore_ascii_case(line)),
            Some(begins) => {
                let near = name.get(..begins.len()).is_some_and(|it| it.eq_ignore_ascii_case(begins));
                (name.starts_with(begins), near)
            }
        };
        let mut found: Option<(&str, Price)> = None;
        let mut near: Option<&str> = None;
        for (line, price) in &self.0 {
            match covers(line) {
                (true, _) if found.is_none_or(|(best, _)| line.len() > best.len()) => {
                    found = Some((line, *price));
                }
                (false, true) if near.is_none_or(|best| line.len() > best.len()) => near = Some(line),
                (_, _) => {}
            }
        }
        match near {
            // A line that would be more specific if letter case did not count.
            Some(line) if found.is_none_or(|(best, _)| line.len() > best.len() || !line.ends_with('*')) => {
                Err(CallFault::Spelling { given: name.to_owned(), listed: line.to_owned() })
            }
            Some(_) | None => Ok(found),
        }
    }
}
