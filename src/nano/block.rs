//! State blocks, the only kind of block that has been created since 2018.

use std::fmt;

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest};
use serde::{Deserialize, Serialize};

use super::{
    Account, AccountError, AmountError, HexError, Raw, SecretKey, Signature, SignatureError, Work, hex_text,
    serde_text,
};

/// The hash of a block: the identity of a payment. The signature, the work and the bytes of a block
/// cannot be its identity, because others can change them without changing the block.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BlockHash(pub [u8; 32]);

hex_text!(BlockHash, 32);
serde_text!(BlockHash);

impl BlockHash {
    /// The `previous` of an account's first block.
    pub const ZERO: Self = Self([0; 32]);
}

/// The account that votes with a balance. A separate type, so that it cannot be confused with the
/// account that is paid.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Representative(pub Account);

/// A signed state block.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "BlockText", into = "BlockText")]
pub struct StateBlock {
    pub account: Account,
    /// The hash of the account's block before this one; zero for its first block.
    pub previous: BlockHash,
    pub representative: Representative,
    /// The account's balance *after* this block.
    pub balance: Raw,
    /// The destination key of a send, the source hash of a receive, or zero.
    pub link: [u8; 32],
    pub signature: Signature,
    /// `None` if somebody else is to supply it. Nodes refuse a block without work.
    pub work: Option<Work>,
}

/// Why a JSON object is not a state block.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BlockError {
    #[error("`type` is {0:?}, only `state` blocks are accepted")]
    Type(String),
    #[error("`{field}`: {error}")]
    Account { field: &'static str, error: AccountError },
    #[error("`{field}`: {error}")]
    Hex { field: &'static str, error: HexError },
    #[error("`balance`: {0}")]
    Balance(AmountError),
    #[error("`link_as_account` and `link` are different accounts: only `link` is signed")]
    LinkDisagrees,
}

/// 31 zero bytes and 0x06, which the hash of a state block starts with.
const PREAMBLE: [u8; 32] = {
    let mut bytes = [0; 32];
    bytes[31] = 6;
    bytes
};

impl StateBlock {
    /// BLAKE2b-256(preamble ‖ account ‖ previous ‖ representative ‖ balance ‖ link). Signature and
    /// work are not hashed.
    #[must_use]
    pub fn hash(&self) -> BlockHash {
        let mut hash = Blake2b::<U32>::new();
        hash.update(PREAMBLE);
        hash.update(self.account.0);
        hash.update(self.previous.0);
        hash.update(self.representative.0.0);
        hash.update(self.balance.to_be_bytes());
        hash.update(self.link);
        BlockHash(hash.finalize().into())
    }

    /// The input of the work: the hash of the previous block, or the public key for a first block.
    #[must_use]
    pub fn work_root(&self) -> [u8; 32] {
        if self.previous == BlockHash::ZERO { self.account.0 } else { self.previous.0 }
    }

    /// The link, read as the account that a send pays. Only the balance before the block shows whether
    /// it *is* a send.
    #[must_use]
    pub const fn destination(&self) -> Account {
        Account(self.link)
    }

    /// Checks the signature over the hash of the block.
    ///
    /// # Errors
    /// [`SignatureError`], as in [`Signature::verify`].
    pub fn verify(&self) -> Result<(), SignatureError> {
        self.signature.verify(&self.account, &self.hash().0)
    }

    /// This block, signed with `key`.
    #[must_use]
    pub fn signed(mut self, key: &SecretKey) -> Self {
        self.signature = key.sign(&self.hash().0);
        self
    }
}

/// A block as nodes and clients write it in JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct BlockText {
    r#type: String,
    account: String,
    previous: String,
    representative: String,
    balance: String,
    link: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link_as_account: Option<String>,
    signature: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    work: Option<String>,
}

impl TryFrom<BlockText> for StateBlock {
    type Error = BlockError;

    fn try_from(text: BlockText) -> Result<Self, BlockError> {
        if text.r#type != "state" {
            return Err(BlockError::Type(text.r#type.chars().take(40).collect()));
        }
        let account =
            |field, value: &str| value.parse().map_err(|error| BlockError::Account { field, error });
        let BlockHash(link) = hex_field("link", &text.link)?;
        if let Some(repeated) = &text.link_as_account {
            let repeated: Account = account("link_as_account", repeated)?;
            if repeated.0 != link {
                return Err(BlockError::LinkDisagrees);
            }
        }
        let work = match text.work.as_deref() {
            None | Some("") => None,
            Some(work) => Some(hex_field("work", work)?),
        };
        Ok(Self {
            account: account("account", &text.account)?,
            previous: hex_field("previous", &text.previous)?,
            representative: Representative(account("representative", &text.representative)?),
            balance: text.balance.parse().map_err(BlockError::Balance)?,
            link,
            signature: hex_field("signature", &text.signature)?,
            work,
        })
    }
}

fn hex_field<T: std::str::FromStr<Err = HexError>>(
    field: &'static str,
    value: &str,
) -> Result<T, BlockError> {
    value.parse().map_err(|error| BlockError::Hex { field, error })
}

impl From<StateBlock> for BlockText {
    // Hexadecimal in lower case: x402.Nano's Track A asks for it, and nodes read both cases.
    fn from(block: StateBlock) -> Self {
        Self {
            r#type: "state".to_owned(),
            account: block.account.to_string(),
            previous: block.previous.lower_hex(),
            representative: block.representative.to_string(),
            balance: block.balance.to_string(),
            link: BlockHash(block.link).lower_hex(),
            link_as_account: Some(block.destination().to_string()),
            signature: block.signature.lower_hex(),
            work: block.work.map(|work| work.to_string()),
        }
    }
}

impl fmt::Display for Representative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
