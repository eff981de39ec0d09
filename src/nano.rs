//! The currency: amounts, accounts, state blocks, signatures, key derivation and work.
//!
//! Pure: no clock, randomness, lock, socket or file. Everything that enters as text is turned into
//! bytes here, once, and compared as bytes ever after. Two spellings of one account (`nano_`,
//! `xrb_`) or of one hash (either case) are one value.

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

/// Seconds since the Unix epoch: the only clock the protocol speaks (`validBefore`). In JSON an
/// integer.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// This instant moved `seconds` later; saturates at the end of time.
    #[must_use]
    pub const fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// Whole seconds from `earlier` to this instant, 0 if it lies before.
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

/// Why a hexadecimal text is not the fixed number of bytes it should be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits, found {found:?}")]
pub struct HexError {
    expected: usize,
    found: String,
}

/// `N` bytes of hexadecimal in either case; nothing before, between or after.
pub(crate) fn hex_bytes<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes)
        .map_err(|_| HexError { expected: N.saturating_mul(2), found: text.chars().take(80).collect() })?;
    Ok(bytes)
}

/// Gives a newtype of bytes its text form: hexadecimal, read in either case, printed in upper case
/// as Nano's own tools print it.
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

/// Serialises through [`fmt::Display`] and deserialises from a JSON *string* through
/// [`FromStr`]: a number is refused, so no amount passes through floating point on the way.
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

/// A network's name as ORIS-006 and CAIP-2 spell it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Network {
    /// `nano:mainnet`, the only network payments are taken on. A development ledger answers to
    /// this name too, with keys and a genesis of its own.
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

/// The text names no network that payments are taken on.
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
