//! Details of a refusal, if the general advice would not tell the payer what to do.

use std::fmt;

use super::tag::GRACE;
use crate::nano::Raw;
use crate::x402::URL_BOUND;

/// Details of a refusal, for the author of the client. No decision depends on them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Particular {
    /// A `nanoSession` block whose amount is not the one of the session; both in raw.
    Amount { came: Raw, asked: Raw },
    /// The session has ended. No other session accepts its block.
    SessionOver,
    /// The signature is over `blockHash + url`.
    UrlBound,
}

impl fmt::Display for Particular {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Amount { came, asked } => write!(
                f,
                "the block moves {came} raw, the session asks for exactly {asked}: send that amount in a block of \
                 its own, and ask the operator about this one, which is kept as unclaimed"
            ),
            Self::SessionOver => write!(
                f,
                "the session ended more than {GRACE} seconds ago and no other session accepts its block: ask the \
                 operator about a block that was sent, which is kept as unclaimed; to buy, pay for a new session"
            ),
            Self::UrlBound => f.write_str(URL_BOUND),
        }
    }
}
