//! Nano's signatures: Ed25519 with BLAKE2b-512 in place of SHA-512.

use std::fmt;

use blake2::{Blake2b512, Digest};
use ed25519_dalek::VerifyingKey;
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign, raw_verify};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Account, hex_text, serde_text};

/// A signature, R ‖ S. It shows who signed, but it does not identify a payment: nodes accept S + L in
/// place of S, so one block has many valid signatures. The hash of the block identifies the payment.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Signature(pub [u8; 64]);

hex_text!(Signature, 64);
serde_text!(Signature);

/// Why a signature is not valid.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SignatureError {
    #[error("the account's key is not a point of the curve")]
    NotAKey,
    #[error("the account's key has small order: anyone can sign for it")]
    WeakKey,
    #[error("the signature does not match")]
    Mismatch,
}

impl Signature {
    /// Checks that the holder of `account`'s key signed `digest`.
    ///
    /// # Errors
    /// [`SignatureError`]. An S that is not canonical is refused. So is a key of small order, for which
    /// anyone can sign ([protocol guide](crate::guide::protocol), "Money and identity").
    pub fn verify(&self, account: &Account, digest: &[u8; 32]) -> Result<(), SignatureError> {
        let key = VerifyingKey::from_bytes(&account.0).map_err(|_| SignatureError::NotAKey)?;
        if key.is_weak() {
            return Err(SignatureError::WeakKey);
        }
        let signature = ed25519_dalek::Signature::from_bytes(&self.0);
        raw_verify::<Blake2b512>(&key, digest, &signature).map_err(|_| SignatureError::Mismatch)
    }
}

/// A private key. Prints as `****`; its memory is wiped when it is dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// The key with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    fn expand(&self) -> ExpandedSecretKey {
        let hash: Zeroizing<[u8; 64]> = Zeroizing::new(Blake2b512::digest(self.0.as_slice()).into());
        ExpandedSecretKey::from_bytes(&hash)
    }

    /// The account this key signs for.
    #[must_use]
    pub fn account(&self) -> Account {
        Account(VerifyingKey::from(&self.expand()).to_bytes())
    }

    /// Signs `digest`. The same key and digest always give the same signature (RFC 8032).
    #[must_use]
    pub fn sign(&self, digest: &[u8; 32]) -> Signature {
        let expanded = self.expand();
        let public = VerifyingKey::from(&expanded);
        Signature(raw_sign::<Blake2b512>(&expanded, digest, &public).to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(****)")
    }
}
