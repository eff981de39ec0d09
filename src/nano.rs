//! The currency: amounts, accounts, state blocks, signatures, key derivation and work.
//!
//! Pure: no clock, randomness, lock, socket or file. Text is decoded to bytes here, once, and compared
//! as bytes from then on. Two spellings of one account (`nano_`, `xrb_`) or of one hash (upper or
//! lower case) are equal.

mod account;
mod amount;
mod block;
mod derive;
mod message;
mod proven;
mod signature;
mod work;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use account::{Account, AccountError};
pub use amount::{AmountError, Raw, Xno};
pub use block::{BlockError, BlockHash, Representative, StateBlock};
pub use derive::{Seed, SeedError};
pub use message::noms_digest;
pub use proven::{NotProven, ProvenHead, ProvenSend, UnsignedBlock};
pub use signature::{SecretKey, Signature, SignatureError};
pub use work::{Threshold, Thresholds, Work};

/// Seconds since the Unix epoch, the protocol's only unit of time (`validBefore`). An integer in JSON.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// This instant plus `seconds`; saturates at `u64::MAX`.
    #[must_use]
    pub const fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// Seconds from `earlier` to this instant; 0 if `earlier` is the later one.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is not hexadecimal of the expected length.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits, found {found:?}")]
pub struct HexError {
    expected: usize,
    found: String,
}

/// Decodes exactly `N` bytes of hexadecimal, in either case, with no other characters.
pub(crate) fn hex_bytes<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes)
        .map_err(|_| HexError { expected: N.saturating_mul(2), found: text.chars().take(80).collect() })?;
    Ok(bytes)
}

/// Implements the text form of a newtype of bytes: hexadecimal, read in either case and printed in
/// upper case as Nano's own tools print it.
macro_rules! hex_text {
    ($name:ident, $len:literal) => {
        impl std::str::FromStr for $name {
            type Err = $crate::nano::HexError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::nano::hex_bytes::<$len>(text).map(Self)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&hex::encode_upper(self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }

        impl $name {
            /// Lower-case hexadecimal, the form that x402.Nano signs and puts in challenges.
            #[must_use]
            pub fn lower_hex(&self) -> String {
                hex::encode(self.0)
            }
        }
    };
}
pub(crate) use hex_text;

/// Implements serde through [`fmt::Display`] and [`FromStr`]. Only a JSON *string* is read: a number is
/// refused, so that no amount passes through floating point.
macro_rules! serde_text {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_text;

/// The name of a network, as ORIS-006 and CAIP-2 write it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Network {
    /// `nano:mainnet`, the only network on which payments are accepted. The development ledger uses
    /// this name too, with its own keys and its own genesis block.
    #[default]
    Mainnet,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mainnet => f.write_str("nano:mainnet"),
        }
    }
}

/// The text is not the name of a supported network.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("unknown network {0:?}: only nano:mainnet is served")]
pub struct NetworkError(String);

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        match text {
            "nano:mainnet" => Ok(Self::Mainnet),
            other => Err(NetworkError(other.chars().take(80).collect())),
        }
    }
}

serde_text!(Network);
