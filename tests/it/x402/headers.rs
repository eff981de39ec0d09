//! The coding of headers, and which of their faults are not even worth a refusal.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use faregate::x402::{
    MAX_HEADER_BYTES, Malformed, NanoOffers, PaymentPayload, PaymentRequired, SettlementResponse,
    UnreadableHeader, decode_header, encode_header,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::any_object;

proptest! {
    #[test]
    fn all_four_variants_are_read(object in any_object()) {
        let json = Value::Object(object.clone());
        let ours = encode_header(&json);
        prop_assert_eq!(&ours, &STANDARD.encode(json.to_string()), "standard alphabet, padded");
        prop_assume!(ours.len() + 2 <= MAX_HEADER_BYTES);
        for engine in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
            let coded = engine.encode(json.to_string());
            prop_assert_eq!(decode_header(&coded), Ok(object.clone()));
            prop_assert_eq!(decode_header(format!("\t{coded} ")), Ok(object.clone()));
        }
    }

    /// The official clients test a header against this before they decode it.
    #[test]
    fn what_is_written_passes_the_official_clients_check(object in any_object()) {
        let header = encode_header(&Value::Object(object));
        let digits = header.trim_end_matches('=');
        prop_assert!(header.len() - digits.len() <= 2);
        prop_assert!(digits.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'+' || it == b'/'));
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), text in any::<String>()) {
        for value in [bytes.clone(), STANDARD.encode(&bytes).into_bytes(), STANDARD.encode(&text).into_bytes()] {
            drop((decode_header(&value), PaymentPayload::from_header(&value)));
            drop((PaymentRequired::from_header(&value), NanoOffers::from_header(&value)));
            drop(SettlementResponse::from_header(&value));
        }
    }

    #[test]
    fn no_truncation_of_a_header_is_read(cut in 1..400_usize) {
        let header = super::challenge().to_header();
        let digits = header.trim_end_matches('=');
        let kept = &digits[..digits.len() - cut];
        prop_assert!(decode_header(kept).is_err());
    }
}

#[test]
fn the_limit_is_a_limit_of_bytes_and_exact() {
    // The object's other bytes are `{"a":""}`, and three bytes make four characters.
    let filled = |bytes: usize| encode_header(&json!({ "a": "x".repeat(bytes - 8) }));
    let most = filled(MAX_HEADER_BYTES / 4 * 3);
    assert_eq!(most.len(), MAX_HEADER_BYTES);
    assert!(decode_header(&most).is_ok());
    let over = filled(MAX_HEADER_BYTES / 4 * 3 + 1);
    assert_eq!(decode_header(&over), Err(UnreadableHeader::TooLong(over.len())));
    // Refused by its length, before it is seen to be no base64.
    assert_eq!(
        decode_header("!".repeat(MAX_HEADER_BYTES + 1)),
        Err(UnreadableHeader::TooLong(MAX_HEADER_BYTES + 1))
    );
}

#[test]
fn nesting_does_not_reach_the_stack() {
    for bomb in ["[".repeat(12_000), "{\"a\":".repeat(2_400), format!("{{\"a\":{}", "[".repeat(12_000))] {
        let header = STANDARD.encode(bomb);
        assert!(header.len() <= MAX_HEADER_BYTES);
        assert!(
            matches!(decode_header(&header), Err(UnreadableHeader::Json(why)) if why.contains("recursion limit"))
        );
    }
    let closed = format!("{{\"a\":{}{}}}", "[".repeat(6_000), "]".repeat(6_000));
    assert!(matches!(decode_header(STANDARD.encode(closed)), Err(UnreadableHeader::Json(_))));
    let shallow = format!("{{\"a\":{}{}}}", "[".repeat(100), "]".repeat(100));
    assert!(decode_header(STANDARD.encode(shallow)).is_ok());
}

#[test]
fn what_cannot_be_read_is_told_apart_from_what_is_refused() {
    let of = |value: &str| PaymentPayload::from_header(value).unwrap_err();
    let unreadable = |value: &str| match of(value) {
        Malformed::Unreadable(why) => why,
        Malformed::Refused(fault) => panic!("{value:?} was read: {fault}"),
    };
    assert_eq!(unreadable(""), UnreadableHeader::Empty);
    assert_eq!(unreadable(" \t "), UnreadableHeader::Empty);
    // `{}` without its padding: read, and no payment.
    assert!(matches!(of("e30"), Malformed::Refused(_)));
    for bad in ["%%%%", "e30\n", "e-/w", "e===", "e", "é"] {
        assert!(matches!(unreadable(bad), UnreadableHeader::Base64(_)), "{bad:?}");
    }
    for not_json in ["{", "{}{}", "{\"a\":1,}", "\u{0}", "nul"] {
        assert!(matches!(unreadable(&STANDARD.encode(not_json)), UnreadableHeader::Json(_)), "{not_json:?}");
    }
    assert!(matches!(
        unreadable(&STANDARD.encode([b'{', b'"', 0xff, b'"', b'}'])),
        UnreadableHeader::Json(_)
    ));
    for (json, what) in [
        ("null", "null"),
        ("[]", "an array"),
        ("1", "a number"),
        ("\"x\"", "a string"),
        ("true", "a boolean"),
    ] {
        assert_eq!(unreadable(&STANDARD.encode(json)), UnreadableHeader::NotAnObject(what));
    }
}

#[test]
fn an_unreadable_header_is_not_repeated_in_the_message() {
    for secret in ["c2VjcmV0LXRva2Vu", "{\"credential\":\"c2VjcmV0\"", "c2VjcmV0-/"] {
        for value in [secret.to_owned(), STANDARD.encode(secret)] {
            let message = PaymentPayload::from_header(&value).unwrap_err().to_string();
            assert!(!message.contains("c2VjcmV0") && !message.contains("secret"), "{message}");
        }
    }
}
