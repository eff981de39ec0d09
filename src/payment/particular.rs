//! What there is to say of one refusal, where its advice in general would leave the payer guessing.

use std::fmt;

use super::tag::GRACE;
use crate::nano::Raw;
use crate::x402::URL_BOUND;

/// The particulars of a refusal, for the client's author. Nothing is decided by them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Particular {
    /// A `nanoSession` block that moves another amount than the session's, in raw.
    Amount { came: Raw, asked: Raw },
    /// A session that is over: no other takes its block.
    SessionOver,
    /// A signature over `blockHash + url`.
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
                "the session ended more than {GRACE} seconds ago and no other takes its block: ask the operator \
                 about a block that was sent, which is kept as unclaimed, and pay anew"
            ),
            Self::UrlBound => f.write_str(URL_BOUND),
        }
    }
}
