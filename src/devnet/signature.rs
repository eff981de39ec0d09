//! Checks signatures as nodes do, more leniently than the gateway.
//!
//! Nodes accept S + L for S, and keys of small order ([nodes guide](crate::guide::nodes)). This ledger
//! accepts them too, so that tests meet what the gateway meets in the field.

use blake2::Blake2b512;
use ed25519_dalek::VerifyingKey;
use ed25519_dalek::hazmat::raw_verify;

use crate::nano::StateBlock;

/// L, the order of the group, little-endian: 2^252 + 27742317777372353535851937790883648493.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// The bits of the last byte of S that must be zero for nodes: S < 2^253.
const TOP_BITS: u8 = 0b1110_0000;

/// Whether a node accepts the block's signature.
pub(super) fn node_accepts(block: &StateBlock) -> bool {
    verifies(&block.account.0, &block.hash().0, block.signature.0)
}

fn verifies(key: &[u8; 32], digest: &[u8; 32], mut signature: [u8; 64]) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(key) else { return false };
    let Some(scalar) = signature.last_chunk_mut::<32>() else { return false };
    if scalar[31] & TOP_BITS != 0 {
        return false;
    }
    // The library refuses S ≥ L; its equation holds modulo L. Below 2^253 one subtraction is enough.
    if let Some(reduced) = minus_order(scalar) {
        *scalar = reduced;
    }
    raw_verify::<Blake2b512>(&key, digest, &ed25519_dalek::Signature::from_bytes(&signature)).is_ok()
}

/// `scalar` − L; `None` if `scalar` is below L. Both are little-endian.
fn minus_order(scalar: &[u8; 32]) -> Option<[u8; 32]> {
    let mut difference = [0; 32];
    let mut borrow = false;
    for (place, (&digit, &order)) in difference.iter_mut().zip(scalar.iter().zip(&ORDER)) {
        let (partial, under) = digit.overflowing_sub(order);
        let (digit, under_again) = partial.overflowing_sub(u8::from(borrow));
        *place = digit;
        borrow = under || under_again;
    }
    (!borrow).then_some(difference)
}

#[cfg(test)]
mod tests {

    use super::verifies;

    /// Compares with the C library that the reference node uses.
    #[test]
    fn agrees_with_donna_on_every_edge_case() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/vectors/nano.json")).unwrap();
        let cases = vectors.get("signature_edge_cases").unwrap().as_array().unwrap();
        assert!(cases.len() >= 20);
        for case in cases {
            let text = |field: &str| case.get(field).unwrap().as_str().unwrap();
            let ours = verifies(
                &crate::nano::hex_bytes(text("public_key")).unwrap(),
                &crate::nano::hex_bytes(text("digest")).unwrap(),
                crate::nano::hex_bytes(text("signature")).unwrap(),
            );
            let donna = case.get("observed").unwrap().get("nanopy_donna").unwrap().as_bool().unwrap();
            assert_eq!(ours, donna, "{}", text("name"));
        }
    }
}
