//! What one call of an MCP server's endpoint costs: by JSON-RPC method and tool name, the calls of a
//! batch added up.
//!
//! Each line of the list is sold by itself: a payment for one opens the calls of that line and no
//! others, as a payment for one route opens no other. What is on no line is never a free door.

mod message;

use std::collections::BTreeMap;
use std::fmt;

use blake2::digest::consts::U16;
use blake2::{Blake2b, Digest};

use super::Grants;
use crate::nano::Raw;

use message::{Call, calls};
pub use message::{CallFault, MAX_BATCH, MAX_DEPTH};

/// Bytes of what a payment names as bought beside its route, before it is shortened to a digest.
const MAX_PART: usize = 100;

/// The price list of an MCP endpoint.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CallPrices {
    /// Bytes of a request's body that are looked at; longer ones are refused.
    pub bound: usize,
    /// What one payment buys of the line it pays for.
    pub grants: Grants,
    pub methods: Lines,
    pub tools: Lines,
    /// For what stands on no line.
    pub otherwise: Price,
}

/// What one line says.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Price {
    Free,
    Costs(Raw),
    /// Not offered at all.
    Refused,
}

/// What one price is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Line<'a> {
    Method(&'a str),
    Tool(&'a str),
    /// What is on no other line.
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

/// Names with their prices. A name that ends in `*` stands for all that begin with what is before it;
/// a whole name comes before those, a longer beginning before a shorter.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Lines(BTreeMap<String, Price>);

/// What the headers `Mcp-Method` and `Mcp-Name` say of the body, for servers that go by them.
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
        // Of another method it names what has no price of its own.
        let is_tool = self.name.is_none() || tool.is_none() || self.name == tool;
        if is_method && is_tool { Ok(()) } else { Err(CallFault::Claimed) }
    }
}

/// What a request's body costs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Quote {
    Free,
    Costs {
        /// Which lines are bought, whatever their order in the body.
        part: String,
        amount: Raw,
    },
}

impl CallPrices {
    /// What the calls in `body` cost together.
    ///
    /// # Errors
    /// [`CallFault`], for a body that is no JSON-RPC, that two readers could read differently, or that
    /// calls what is not offered.
    pub fn quote(&self, body: &[u8]) -> Result<Quote, CallFault> {
        self.quote_claimed(body, &ClaimedCall::default())
    }

    /// As [`CallPrices::quote`], of a body whose calls must be what is `claimed` of them.
    ///
    /// # Errors
    /// [`CallFault`]; also where the body says otherwise.
    pub fn quote_claimed(&self, body: &[u8], claimed: &ClaimedCall<'_>) -> Result<Quote, CallFault> {
        let mut parts = Vec::new();
        let mut sum = Raw::default();
        for call in calls(body)? {
            claimed.check(&call)?;
            let (part, price) = self.line(&call)?;
            match price {
                Price::Free => {}
                Price::Costs(amount) => {
                    sum = sum.checked_add(amount).ok_or(CallFault::Sum)?;
                    parts.push(part);
                }
                Price::Refused => return Err(call.not_offered()),
            }
        }
        if parts.is_empty() {
            return Ok(Quote::Free);
        }
        parts.sort_unstable();
        Ok(Quote::Costs { part: shortened(parts.join("+")), amount: sum })
    }

    /// Every price of the list with what it is for.
    pub fn lines(&self) -> impl Iterator<Item = (Line<'_>, Price)> {
        let methods = self.methods.0.iter().map(|(name, price)| (Line::Method(name), *price));
        let tools = self.tools.0.iter().map(|(name, price)| (Line::Tool(name), *price));
        methods.chain(tools).chain([(Line::Otherwise, self.otherwise)])
    }

    /// The lowest and the highest price of a single call that is not refused; nothing where all are.
    #[must_use]
    pub fn span(&self) -> Option<(Raw, Raw)> {
        let amounts = self.lines().filter_map(|(_, price)| match price {
            Price::Free => Some(Raw::default()),
            Price::Costs(amount) => Some(amount),
            Price::Refused => None,
        });
        amounts.fold(None, |span, amount| match span {
            None => Some((amount, amount)),
            Some((least, most)) => Some((least.min(amount), most.max(amount))),
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
            // Part of a session's upkeep; by the protocol nothing is asked for and nothing answered.
            return Ok((String::new(), Price::Free));
        }
        Ok(("otherwise".to_owned(), self.otherwise))
    }
}

/// Keeps short what travels in each bill.
fn shortened(part: String) -> String {
    if part.len() <= MAX_PART {
        return part;
    }
    let digest: [u8; 16] = Blake2b::<U16>::digest(part.as_bytes()).into();
    format!("lines:{}", hex::encode(digest))
}

impl Lines {
    /// The lines `prices`; names are for the caller to have judged.
    #[must_use]
    pub const fn new(prices: BTreeMap<String, Price>) -> Self {
        Self(prices)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The line that `name` falls under, as it is written, and what it says.
    ///
    /// # Errors
    /// [`CallFault::Spelling`], where only letter case keeps the name from a line: the server behind
    /// may not mind it.
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
            // A line that is nearer but for its letter case.
            Some(line) if found.is_none_or(|(best, _)| line.len() > best.len() || !line.ends_with('*')) => {
                Err(CallFault::Spelling { given: name.to_owned(), listed: line.to_owned() })
            }
            Some(_) | None => Ok(found),
        }
    }
}
