//! The payment rules, as values and functions of values.
//!
//! Pure. Each stage of a payment is a type, made only by consuming the stage before it; the last
//! one, `Settled`, only the store can make. This module owns the facts it asks the ledger for, so
//! that what a node says is checked on the way in.

pub mod capability;
pub mod challenge;
pub mod payment_identifier;
mod intent;
mod key;
pub mod nano_session;
pub mod nano_signature;
pub mod nano_txn;
mod particular;
pub mod address_pool;
mod refusal;
pub mod tag;

use std::fmt;
use std::str::FromStr;

use crate::nano::{Account, BlockHash, Raw, StateBlock, hex_text, serde_text};

pub use intent::{Confirmed, Intent, Seen};
pub use key::{MacKey, MacKeys};
pub use particular::Particular;
pub use payment_identifier::{IdentifiedRequest, IdentifierKey, RequestDigest};
pub use refusal::Refusal;

/// How a client proves that it paid (x402.Nano, and NanoSession before it).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Mechanism {
    /// Track A: the client signs a send, the gateway broadcasts it.
    NanoTxn,
    /// Track B: the client sends on its own, then signs the block's hash with the challenge.
    NanoSignature,
    /// NanoSession, revisions 5 to 7: the client sends a tagged amount, then shows the block's hash
    /// under its session.
    NanoSession,
}

impl Mechanism {
    pub const ALL: [Self; 3] = [Self::NanoTxn, Self::NanoSignature, Self::NanoSession];

    /// What a 402 offers where nothing else is configured, in this order: clients that know one take
    /// the first, and most know only signed blocks. `nanoSession` is offered by name only.
    pub const DEFAULT: [Self; 2] = [Self::NanoTxn, Self::NanoSignature];

    /// The name on the wire, in the configuration and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NanoTxn => "nanoTxn",
            Self::NanoSignature => "nanoSignature",
            Self::NanoSession => "nanoSession",
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no mechanism.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("unknown mechanism {0:?}: `nanoTxn`, `nanoSignature` and `nanoSession` are known")]
pub struct MechanismError(String);

impl FromStr for Mechanism {
    type Err = MechanismError;

    fn from_str(text: &str) -> Result<Self, MechanismError> {
        Self::ALL
            .into_iter()
            .find(|it| it.as_str() == text)
            .ok_or_else(|| MechanismError(text.chars().take(40).collect()))
    }
}

serde_text!(Mechanism);

/// The 32 bytes that name a challenge: 16 random ones and a MAC over the terms. Called `challenge`
/// in `nanoTxn`, `nonce` in `nanoSignature`, within `nanoSession.id` in `nanoSession`. Whoever shows it has been sent the challenge.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Nonce(pub [u8; 32]);

hex_text!(Nonce, 32);
serde_text!(Nonce);

/// What the ledger knows of an account (`account_info` with `include_confirmed`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AccountFacts {
    /// The newest block, confirmed or not.
    pub frontier: BlockHash,
    /// The newest confirmed block; zero where none is.
    pub confirmed_frontier: BlockHash,
    /// The balance after `confirmed_frontier`.
    pub confirmed_balance: Raw,
}

/// What the ledger knows of a block. Only a block whose contents hash to what was asked for
/// becomes one: a node's word for the contents is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BlockFacts {
    hash: BlockHash,
    previous: BlockHash,
    kind: BlockKind,
    confirmed: bool,
}

/// What a block does, as far as payments care.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BlockKind {
    /// A state block whose account's balance went down.
    Send { account: Account, destination: Account, amount: Raw },
    /// Anything else: a receive, a change of representative, an epoch, a legacy block.
    Other,
}

/// A node's contents for a block do not hash to the block that was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("asked for block {asked}, the contents that came hash to {came}")]
pub struct WrongContents {
    asked: BlockHash,
    came: BlockHash,
}

impl BlockFacts {
    /// The facts of a state block. `before` is the account's balance before it (raw; zero for an
    /// account's first block), which the block itself does not carry.
    ///
    /// # Errors
    /// [`WrongContents`], when `block` is not the block `asked` for.
    pub fn of_state_block(
        asked: BlockHash,
        block: &StateBlock,
        before: Raw,
        confirmed: bool,
    ) -> Result<Self, WrongContents> {
        let came = block.hash();
        if came != asked {
            return Err(WrongContents { asked, came });
        }
        let kind = match before.checked_sub(block.balance) {
            Some(amount) if !amount.is_zero() => {
                BlockKind::Send { account: block.account, destination: block.destination(), amount }
            }
            Some(_) | None => BlockKind::Other,
        };
        Ok(Self { hash: asked, previous: block.previous, kind, confirmed })
    }

    /// The facts of a block from before state blocks, which no payment is made with. Its contents
    /// are not checked: whatever they are, it is refused.
    #[must_use]
    pub const fn of_legacy_block(asked: BlockHash, confirmed: bool) -> Self {
        Self { hash: asked, previous: BlockHash::ZERO, kind: BlockKind::Other, confirmed }
    }

    #[must_use]
    pub const fn hash(&self) -> BlockHash {
        self.hash
    }

    /// The block before it on its account's chain; zero for the first, and for a legacy block,
    /// where it is not known.
    #[must_use]
    pub const fn previous(&self) -> BlockHash {
        self.previous
    }

    #[must_use]
    pub const fn kind(&self) -> BlockKind {
        self.kind
    }

    /// Whether the network has cemented the block: it cannot be undone.
    #[must_use]
    pub const fn confirmed(&self) -> bool {
        self.confirmed
    }
}
