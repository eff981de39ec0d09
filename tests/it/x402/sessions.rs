//! The entry of `nanoSession`, its identifier and its headers.

use std::num::NonZeroU32;

use faregate::nano::{Account, BlockHash, Raw, UnixSeconds};
use faregate::routes::Grants;
use faregate::x402::{
    FieldFault, NanoOffers, NoSession, Payload, PaymentPayload, PaymentProof, PaymentRequirements,
    ProofRequest, SessionId, SessionTerms, TAG_MODULUS, Track, session_headers,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::entry;

const TERMS: SessionTerms =
    SessionTerms { price: Raw::new(10_u128.pow(26)), tag_amount: Raw::new(12_345_678_901_234_567) };

fn session_entry() -> PaymentRequirements {
    let mut entry = entry(Track::NanoSession(TERMS));
    entry.amount = TERMS.amount().unwrap();
    entry
}

fn payload(entry: &Value, payload: Value) -> Value {
    json!({ "x402Version": 2, "accepted": entry, "payload": payload })
}

#[test]
fn an_entry_has_the_names_and_kinds_of_revisions_6_and_7() {
    let entry = session_entry();
    let id = entry.session().unwrap().to_string();
    let expected = json!({
        "scheme": "exact", "network": "nano:mainnet", "asset": "XNO",
        "amount": "100000000012345678901234567", "payTo": entry.pay_to.to_string(), "maxTimeoutSeconds": 120,
        "extra": {
            "mechanism": "nanoSession", "validBefore": 1_800_000_000, "route": "GET /v1/quote/{symbol}",
            "grants": { "requests": 100, "seconds": 3600 }, "paymentFlow": "upfront",
            "nanoSession": {
                "id": id, "tag": 1_234_567, "resourceAmountRaw": "100000000000000000000000000",
                "tagAmountRaw": "12345678901234567", "expiresAt": "2027-01-15T08:00:00Z",
            },
        },
    });
    assert_eq!(entry.to_json(), expected);
    assert_eq!(PaymentRequirements::read(&expected).unwrap(), entry);
}

#[test]
fn the_headers_say_what_the_entry_says() {
    let entry = session_entry();
    let id = entry.session().unwrap().to_string();
    let pay_to = entry.pay_to.to_string();
    let expected = [
        ("X-PAYMENT-ADDRESS", pay_to.as_str()),
        ("X-PAYMENT-AMOUNT", "100000000012345678900000000"),
        ("X-PAYMENT-TAG", "1234567"),
        ("X-PAYMENT-SESSION", &id),
        ("X-PAYMENT-EXPIRES", "2027-01-15T08:00:00Z"),
    ];
    let headers = session_headers(&entry).unwrap();
    assert_eq!(headers.each_ref().map(|(name, value)| (*name, value.as_str())), expected);
    // Revision 5 wants a base amount that is a multiple of the modulus, as the price is.
    assert_eq!(headers[1].1.parse::<u128>().unwrap() % TAG_MODULUS, 0);
    assert!(session_headers(&super::entry(Track::NanoSignature)).is_none());
    assert!(super::txn_entry().session().is_none());
}

#[test]
fn an_identifier_is_told_from_other_texts_and_does_not_print() {
    let session = session_entry().session().unwrap();
    let text = session.to_string();
    assert_eq!(text.parse(), Ok(session.clone()));
    assert!(text.len() < 200 && text.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it)));
    assert_eq!(format!("{session:?}"), "SessionId(****)");
    assert_eq!(
        session.route(std::iter::empty()),
        Some(faregate::routes::RouteName::new("GET /v1/quote/{symbol}"))
    );
    let long = text.clone() + &"AAAA".repeat(400);
    // A name that is cut off is another route's, which the MAC does not cover.
    for other in ["", "uuid-1234", &text[1..], &text[..120], &long, &text.replace(&text[..2], "Aw")] {
        assert_eq!(other.parse::<SessionId>(), Err(NoSession), "{other}");
    }
}

#[test]
fn a_proof_is_a_hash_with_the_entry() {
    let entry = session_entry();
    for hash in ["cd".repeat(32), "CD".repeat(32)] {
        let json = payload(&entry.to_json(), json!({ "proof": hash }));
        let Payload::Payment(payment) = PaymentPayload::read(&json).unwrap().presented else { panic!() };
        assert_eq!(payment.accepted, entry);
        assert_eq!(payment.proof, PaymentProof::NanoSession { block_hash: BlockHash([0xCD; 32]) });
        assert_eq!(payment.proof.to_json(), json!({ "proof": "cd".repeat(32) }));
    }
}

#[test]
fn what_does_not_fit_is_told() {
    let entry = session_entry().to_json();
    let fault = |json: &Value| PaymentPayload::read(json).unwrap_err();
    let proof = json!({ "proof": "cd".repeat(32) });
    let mut bent = payload(&entry, proof.clone());
    bent["accepted"]["amount"] = "1".into();
    let sum = "`accepted.amount`: not the sum of `resourceAmountRaw` and `tagAmountRaw`";
    assert_eq!(fault(&bent).to_string(), sum);
    let mut bent = payload(&entry, proof.clone());
    bent["accepted"]["extra"]["nanoSession"]["id"] = "uuid-1234".into();
    let strange = "`accepted.extra.nanoSession.id`: this is not the identifier of a session of this gateway";
    assert_eq!(fault(&bent).to_string(), strange);
    for (track, name) in [(Track::NanoTxn { work: None }, "nanoTxn"), (Track::NanoSignature, "nanoSignature")]
    {
        let crossed = payload(&super::entry(track).to_json(), proof.clone());
        assert_eq!(fault(&crossed), FieldFault::TrackDisagrees { payload: "nanoSession", accepted: name });
    }
    let signed = json!({ "proof": "cd".repeat(32), "signature": "ef".repeat(64) });
    let of_revision_7 = payload(&super::entry(Track::NanoSignature).to_json(), signed.clone());
    assert_eq!(fault(&of_revision_7), FieldFault::UrlBound);
    assert!(PaymentPayload::read(&payload(&entry, signed)).is_ok(), "a session's client that signs as well");
}

#[test]
fn the_entries_of_others_are_offers_where_they_add_up() {
    let read = |entry: &Value| {
        let bill = json!({ "x402Version": 2, "resource": { "url": "https://x" }, "accepts": [entry] });
        NanoOffers::read(&bill).unwrap()
    };
    let mut entry = session_entry().to_json();
    entry["extra"] = json!({
        "validBefore": 1_800_000_000,
        "nanoSession": { "id": "uuid-1234", "tag": 1, "resourceAmountRaw": TERMS.price, "tagAmountRaw": TERMS.tag_amount },
    });
    let offer = read(&entry).offers.remove(0);
    assert_eq!((offer.ask, Some(offer.amount)), (ProofRequest::NanoSession(TERMS), TERMS.amount()));
    entry["amount"] = "5".into();
    assert!(read(&entry).passed_over[0].to_string().contains("not the sum"));
}

proptest! {
    #[test]
    fn entries_and_identifiers_read_back(
        nonce in any::<[u8; 32]>(), key in any::<[u8; 32]>(), price in any::<u64>(), tag in any::<u64>(),
        grants in any::<(NonZeroU32, u64)>(), until in any::<u64>(), route in any::<String>(),
        rate in proptest::option::of(1_u64..1_000_000_000),
    ) {
        let terms = SessionTerms { price: Raw::new(price.into()), tag_amount: Raw::new(tag.into()) };
        let mut written = session_entry();
        (written.amount, written.pay_to) = (terms.amount().unwrap(), Account(key));
        (written.extra.challenge, written.extra.valid_before) = (nonce, UnixSeconds(until));
        written.extra.grants = Grants::of_requests(grants.0, grants.1);
        (written.extra.route, written.extra.track) = (route, Track::NanoSession(terms));
        written.extra.exchange = rate.map(|it| format!("0.02 USD at {it}").parse().unwrap());
        prop_assert_eq!(PaymentRequirements::read(&written.to_json()).unwrap(), written.clone());
        let session = written.session().unwrap();
        prop_assert_eq!(session.to_string().parse::<SessionId>(), Ok(session));
        let [_, amount, tag, ..] = session_headers(&written).unwrap().map(|(_, value)| value.parse::<u128>());
        prop_assert_eq!(amount.unwrap() + tag.unwrap(), written.amount.get());
    }

    #[test]
    fn no_text_makes_the_reader_of_identifiers_panic(text in any::<String>(), bytes in any::<Vec<u8>>()) {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        for text in [text, encoded] {
            if let Ok(session) = text.parse::<SessionId>() {
                prop_assert_eq!(session.to_string(), text);
            }
        }
    }
}
