//! Proof of work, Nano's protection against spam. It is not part of the hash of a block.

use std::fmt;
use std::str::FromStr;

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};

use super::{HexError, hex_bytes, serde_text};

/// The text form of a number of 64 bits: 16 hexadecimal digits, big-endian.
macro_rules! hex_number {
    ($name:ident) => {
        impl FromStr for $name {
            type Err = HexError;

            fn from_str(text: &str) -> Result<Self, HexError> {
                hex_bytes(text).map(|bytes| Self(u64::from_be_bytes(bytes)))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        serde_text!($name);
    };
}

/// A work nonce. Its text form is 16 hexadecimal digits, big-endian.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Work(pub u64);

impl Work {
    /// BLAKE2b-64(nonce little-endian ‖ root), read little-endian. `root` is the previous block's
    /// hash, or the public key for an account's first block.
    #[must_use]
    pub fn value(self, root: &[u8; 32]) -> u64 {
        let mut hash = Blake2b::<U8>::new();
        hash.update(self.0.to_le_bytes());
        hash.update(root);
        u64::from_le_bytes(hash.finalize().into())
    }

    /// Whether the work of this nonce on `root` reaches `threshold`.
    #[must_use]
    pub fn reaches(self, root: &[u8; 32], threshold: Threshold) -> bool {
        self.value(root) >= threshold.0
    }
}

hex_number!(Work);

/// The lowest [`Work::value`] that is accepted. Its text form is 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Threshold(pub u64);

hex_number!(Threshold);

/// The thresholds of a network, by kind of block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Thresholds {
    /// For blocks that send or change the representative.
    pub send: Threshold,
    /// For blocks that receive, including the first block of an account.
    pub receive: Threshold,
}

impl Thresholds {
    /// The main network since epoch 2.
    pub const MAINNET: Self =
        Self { send: Threshold(0xffff_fff8_0000_0000), receive: Threshold(0xffff_fe00_0000_0000) };
}

impl Default for Thresholds {
    fn default() -> Self {
        Self::MAINNET
    }
}
