//! NOMS: signatures of messages that are not blocks (OpenRai ORIS-001).

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest};

// 0x18 is the length of the text that follows. The hashed bytes of a block never start with it, so
// nobody can present a signed message as a block.
const PREFIX: &[u8; 25] = b"\x18Nano Off-chain Message:\n";

/// The digest to sign for `message`: BLAKE2b-256(prefix ‖ length as u32 big-endian ‖ UTF-8).
/// `None` if the message is too long for the length field (4 GiB).
#[must_use]
pub fn noms_digest(message: &str) -> Option<[u8; 32]> {
    let length = u32::try_from(message.len()).ok()?;
    let mut hash = Blake2b::<U32>::new();
    hash.update(PREFIX);
    hash.update(length.to_be_bytes());
    hash.update(message.as_bytes());
    Some(hash.finalize().into())
}
