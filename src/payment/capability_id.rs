//! The names of capabilities.

use std::fmt;

use crate::nano::BlockHash;

/// The public name of a capability: the first 16 bytes of the hash of its payment. A payment gives the
/// same capability however often it is redeemed, and under whichever key. The name is not secret.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CapabilityId(pub [u8; 16]);

impl CapabilityId {
    /// The capability that `block` pays for.
    #[must_use]
    pub fn of_payment(block: BlockHash) -> Self {
        let (head, _) = block.0.split_at(16);
        let mut id = [0; 16];
        id.copy_from_slice(head);
        Self(id)
    }
}

impl fmt::Display for CapabilityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
