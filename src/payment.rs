//! The payment rules, as values and functions of values.
//!
//! Pure. Each stage of a payment is a type that can only be made from the stage before it. Only the
//! store can make the last one, `Settled`. This module also defines the facts that it needs from the
//! ledger, so that the answer of a node is checked before it is used.

pub mod capability;
mod capability_id;
pub mod challenge;
pub mod derived;
#[cfg(feature = "gateway")]
pub mod dpop;
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
use crate::routes::Place;

pub use intent::{Confirmed, Intent, Purchase, Seen};
pub use key::{MacKey, MacKeys};
pub use particular::Particular;
pub use payment_identifier::{IdentifiedRequest, IdentifierKey, RequestDigest};
pub use refusal::Refusal;

vocabulary! {
    /// How a client proves that it paid (x402.Nano, and NanoSession before it).
    #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
    pub enum Mechanism {
        /// Track A: the client signs a send and the gateway broadcasts it.
        NanoTxn = "nanoTxn",
        /// Track B: the client sends by itself, then signs the hash of the block together with the challenge.
        NanoSignature = "nanoSignature",
        /// NanoSession, revisions 5 to 7: the client sends a tagged amount, then presents the hash of the
        /// block with its session.
        NanoSession = "nanoSession",
    }
    /// The name on the wire, in the configuration and in metrics.
    pub fn as_str;
}

impl Mechanism {
    /// What a 402 offers by default, in this order: many clients take the first entry, and most
    /// support only signed blocks. `nanoSession` is offered only if it is configured.
    pub const DEFAULT: [Self; 2] = [Self::NanoTxn, Self::NanoSignature];

    /// Whether its proof shows that who pays holds the key of the account that sends. Otherwise the account may be an
    /// exchange's, and what is sent back there is lost to who paid.
    #[must_use]
    pub const fn proves_payer(self) -> bool {
        match self {
            Self::NanoTxn | Self::NanoSignature => true,
            Self::NanoSession => false,
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not the name of a mechanism.
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

/// The 32 bytes that identify a challenge: 16 random bytes and a MAC over the terms. On the wire they
/// are `challenge` for `nanoTxn`, `nonce` for `nanoSignature` and a part of `nanoSession.id` for
/// `nanoSession`. Whoever presents them received the challenge.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Nonce(pub [u8; 32]);

impl Nonce {
    /// Where the route stood when the challenge was made: the gateway puts it behind twelve random bytes,
    /// so that the journal keeps it.
    #[must_use]
    pub const fn place(self) -> Place {
        let [_, _, _, _, _, _, _, _, _, _, _, _, a, b, c, d, ..] = self.0;
        Place([a, b, c, d])
    }
}

hex_text!(Nonce, 32);
serde_text!(Nonce);

/// What the ledger knows of an account (`account_info` with `include_confirmed`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AccountFacts {
    /// The newest block, confirmed or not.
    pub frontier: BlockHash,
    /// The newest confirmed block; zero if there is none.
    pub confirmed_frontier: BlockHash,
    /// The balance after `confirmed_frontier`.
    pub confirmed_balance: Raw,
}

/// What the ledger knows of a block. It is made only if the contents from the node hash to the block
/// that was asked for: a node is not trusted about contents.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BlockFacts {
    hash: BlockHash,
    previous: BlockHash,
    kind: BlockKind,
    confirmed: bool,
}

/// What a block does, as far as payments need to know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BlockKind {
    /// A state block that lowers the balance of its account.
    Send { account: Account, destination: Account, amount: Raw },
    /// Any other block: a receive, a change of representative, an epoch, a legacy block.
    Other,
}

/// The contents that a node gave for a block do not hash to that block.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("asked for block {asked}, got contents that hash to {came}")]
pub struct WrongContents {
    asked: BlockHash,
    came: BlockHash,
}

impl BlockFacts {
    /// The facts of a state block. `before` is the balance of the account before the block, in raw
    /// (zero for its first block), which the block itself does not contain.
    ///
    /// # Errors
    /// [`WrongContents`], if the hash of `block` is not `asked`.
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

    /// The facts of a legacy block, which is never accepted as a payment. Its contents are not checked,
    /// since it is refused in any case.
    #[must_use]
    pub const fn of_legacy_block(asked: BlockHash, confirmed: bool) -> Self {
        Self { hash: asked, previous: BlockHash::ZERO, kind: BlockKind::Other, confirmed }
    }

    #[must_use]
    pub const fn hash(&self) -> BlockHash {
        self.hash
    }

    /// The block before it in the chain of its account; zero for the first block, and for a legacy
    /// block, for which it is not known.
    #[must_use]
    pub const fn previous(&self) -> BlockHash {
        self.previous
    }

    #[must_use]
    pub const fn kind(&self) -> BlockKind {
        self.kind
    }

    /// Whether the block is cemented (confirmed for ever).
    #[must_use]
    pub const fn confirmed(&self) -> bool {
        self.confirmed
    }
}
