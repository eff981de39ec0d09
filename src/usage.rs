//! What a request used of its upstream, and what that costs: routes with a `meter`.
//!
//! Pure. A request is admitted against an amount that is held ([`MeterPlan::admit`]); then its answer is read as it
//! passes, unchanged, and says what it used ([`Gauge`]). Nothing of an answer is kept but the few values that are
//! looked for, so that it does not matter how long it is, nor how long one of its events.
//!
//! Prices are exact: counts times rates, rounded up once, to the next raw.

mod body;
mod events;
mod gauge;
mod no_rate;
mod pointer;
mod rates;
mod request;
mod scan;
mod strict;
mod tally;

use std::sync::Arc;

use crate::nano::Raw;

pub use gauge::{AnswerHead, Ending, Gauge};
pub use no_rate::{MAX_COUNT, MAX_MODEL, NoRate};
pub use pointer::{JsonPointers, MAX_STEPS, Pointer, PointerFault};
pub use rates::{Counts, Per, Rate, Rates};

/// How one route charges for what is used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MeterPlan {
    /// What one payment buys. More, if the request may cost more.
    pub deposit: Raw,
    /// How long what was paid can be used, in seconds.
    pub seconds: u64,
    pub source: UsageSource,
    pub rates: Rates,
    /// What is held for a request that does not bound itself; what an answer costs that does not say what it used.
    pub hold: Raw,
    pub overdraft: Overdraft,
    /// Whether the last line of a stream of events says what it cost, in a comment.
    pub announce: bool,
    /// Whether an OpenAI stream is asked for its usage where the client does not ask (`include_usage`).
    pub ask_usage: bool,
}

/// Who says what was used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum UsageSource {
    /// OpenAI's chat completions, completions, responses and embeddings: `usage` in the answer or in its events.
    OpenAi,
    /// Anthropic's messages: `usage` in the answer, or in `message_start` and `message_delta`.
    Anthropic,
    /// The header or trailer `Faregate-Cost`: an amount with its unit.
    Header,
    /// Values of a JSON answer, of its events or of its lines.
    Json(JsonPointers),
    /// The bytes of the answer's body.
    Bytes,
    /// The time that the answer takes.
    Seconds,
}

impl UsageSource {
    /// The name in the configuration.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Header => "header",
            Self::Json(_) => "json",
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
        }
    }

    /// Whether the upstream says an amount, for which no rates are needed.
    #[must_use]
    pub const fn says_amount(&self) -> bool {
        match self {
            Self::Header => true,
            Self::Json(pointers) => pointers.cost.is_some(),
            Self::OpenAi | Self::Anthropic | Self::Bytes | Self::Seconds => false,
        }
    }
}

vocabulary! {
    /// What happens within an answer whose purse runs dry.
    #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
    pub enum Overdraft {
        /// It goes on to its end.
        #[default]
        Finish = "finish",
        /// It is cut off.
        Cut = "cut",
    }
    /// The name in the configuration.
    pub fn as_str;
}

/// A request that may be forwarded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Admitted {
    /// What is set aside for it. It is no ceiling: an answer that says that it used more costs more, unless it says
    /// nothing at all.
    pub hold: Raw,
    /// The rate of the model that the request names.
    pub rate: Arc<Rate>,
    /// The body to forward instead of the client's, where the usage of a stream is asked for. All else in it is as it
    /// was, byte for byte.
    pub body: Option<Vec<u8>>,
    /// The bytes of the request's body, by which its input is estimated where the answer says nothing.
    pub request_bytes: u64,
}

impl MeterPlan {
    /// Whether the body of a request must be read before it is forwarded.
    #[must_use]
    pub fn reads_request(&self) -> bool {
        match &self.source {
            UsageSource::OpenAi | UsageSource::Anthropic => true,
            UsageSource::Json(pointers) => pointers.model.is_some() && self.rates.names_models(),
            UsageSource::Header | UsageSource::Bytes | UsageSource::Seconds => false,
        }
    }

    /// What is held for a request with this `body`, and its rate.
    ///
    /// A request to a language model bounds itself if it says how many tokens its answer may have, or if output is
    /// free: then the bound is held, with each byte of the request taken for a token of input, at the dearest rate of
    /// input. If the request also refers to what is not in it (a file, an image, a conversation), the configured hold
    /// is the least. Every other request has the configured hold, and one at a rate of zero has none.
    ///
    /// # Errors
    /// [`NoRate`], if the request cannot be priced: it must not be forwarded.
    pub fn admit(&self, body: Option<&[u8]>) -> Result<Admitted, NoRate> {
        let asked = match &self.source {
            UsageSource::OpenAi => request::openai(body, self.ask_usage)?,
            UsageSource::Anthropic => request::anthropic(body)?,
            UsageSource::Json(pointers) if self.reads_request() => request::by_pointer(body, pointers)?,
            UsageSource::Json(_) | UsageSource::Header | UsageSource::Bytes | UsageSource::Seconds => {
                request::Asked::default()
            }
        };
        let rate = self.rates.of_request(asked.model.as_deref());
        let rate = rate.ok_or_else(|| NoRate::model(asked.model.as_deref()))?;
        let request_bytes = u64::try_from(body.unwrap_or_default().len()).unwrap_or(u64::MAX);
        let output = if asked.speaks_of_tokens && rate.output.is_zero() { Some(0) } else { asked.output };
        let hold = match output {
            _ if rate.is_free() && !self.source.says_amount() => Raw::ZERO,
            None => self.hold,
            Some(output) => {
                let bound = rate.at_most(request_bytes, output).unwrap_or(Raw::MAX);
                if asked.refers { bound.max(self.hold) } else { bound }
            }
        };
        Ok(Admitted { hold, rate, body: asked.body, request_bytes })
    }

    /// What reads the answer to an admitted request.
    #[must_use]
    pub fn gauge(&self, admitted: &Admitted, head: AnswerHead<'_>) -> Gauge {
        Gauge::new(self, admitted, head)
    }
}
