//! Derives private keys from a seed.

use std::fmt;
use std::str::FromStr;

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{SecretKey, hex_bytes};

/// The seed of a wallet, 32 bytes. Prints as `****`; its memory is wiped when it is dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Seed([u8; 32]);

/// The text is not a seed. The message does not repeat it, since it may be a secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a seed is 64 hexadecimal digits")]
pub struct SeedError;

impl Seed {
    /// The seed with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The private key at `index`: BLAKE2b-256(seed ‖ index as u32 big-endian).
    #[must_use]
    pub fn key(&self, index: u32) -> SecretKey {
        let mut hash = Blake2b::<U32>::new();
        hash.update(self.0.as_slice());
        hash.update(index.to_be_bytes());
        SecretKey::from_bytes(hash.finalize().into())
    }

    /// The seed as 64 hexadecimal digits in lower case, for the file that stores it.
    #[must_use]
    pub fn expose_hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl FromStr for Seed {
    type Err = SeedError;

    fn from_str(text: &str) -> Result<Self, SeedError> {
        hex_bytes(text.trim()).map(Self).map_err(|_| SeedError)
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(****)")
    }
}
