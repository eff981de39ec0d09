//! The payment rules as functions of values: names and limits that no exchange over the network shows.

use faregate::nano::{BlockHash, UnixSeconds};
use faregate::payment::Refusal;
use faregate::payment::capability::CapabilityId;

#[test]
fn a_refusal_prints_as_its_code() {
    for refusal in Refusal::ALL {
        assert_eq!(refusal.to_string(), refusal.code());
    }
}

#[test]
fn a_capability_is_called_by_the_beginning_of_its_payments_hash() {
    let id = CapabilityId::of_payment(BlockHash([0xAB; 32]));
    assert_eq!(id.to_string(), "ab".repeat(16));
}

#[test]
fn time_is_counted_forward_only() {
    let (early, late) = (UnixSeconds(100), UnixSeconds(160));
    assert_eq!((late.since(early), early.since(late), early.since(early)), (60, 0, 0));
    assert_eq!((early.plus(60), UnixSeconds(u64::MAX).plus(1)), (late, UnixSeconds(u64::MAX)));
}
