//! The envelopes of x402: what other clients need of ours, and what is made of theirs.

mod facilitate;
mod headers;
mod payloads;
mod receipts;
mod sessions;

use std::num::NonZeroU32;

use faregate::nano::{Account, Network, Raw, SecretKey, Threshold, UnixSeconds};
use faregate::routes::Grants;
use faregate::x402::{
    Asset, Extra, FieldFault, MAX_RESPONSE_HEADERS_BYTES, NanoOffers, PaymentRequired, PaymentRequirements,
    Resource, Scheme, Track, WorkPolicy, WorkTerms,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Any JSON, a few levels deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Sums of powers of two, which every reader of decimals reads exactly.
        prop::sample::select(vec![0.5, -0.25, 2.75, 1e10]).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(".{0,8}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_object() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::btree_map(".{0,8}", any_json(), 0..5).prop_map(|map| map.into_iter().collect())
}

/// An entry of the mechanism of `track` with everything said.
fn entry(track: Track) -> PaymentRequirements {
    PaymentRequirements {
        scheme: Scheme::Exact,
        network: Network::Mainnet,
        asset: Asset::Xno,
        amount: Raw::with_unit("0.0001 XNO").unwrap(),
        pay_to: SecretKey::from_bytes([3; 32]).account(),
        max_timeout_seconds: 120,
        extra: Extra {
            challenge: [0xAB; 32],
            valid_before: UnixSeconds(1_800_000_000),
            route: "GET /v1/quote/{symbol}".to_owned(),
            grants: Grants::of_requests(NonZeroU32::new(100).unwrap(), 3600),
            exchange: None,
            track,
        },
    }
}

fn txn_entry() -> PaymentRequirements {
    let threshold = Threshold(0xffff_fff8_0000_0000);
    entry(Track::NanoTxn { work: Some(WorkTerms { policy: WorkPolicy::Required, threshold }) })
}

fn challenge() -> PaymentRequired {
    PaymentRequired {
        error: Some("PAYMENT_EXPIRED".to_owned()),
        resource: Resource {
            url: "https://api.example.com/v1/quote/XNO".to_owned(),
            description: Some("A quote".to_owned()),
            mime_type: Some("application/json".to_owned()),
        },
        accepts: vec![txn_entry(), entry(Track::NanoSignature)],
        extensions: Map::new(),
    }
}

#[test]
fn a_challenge_has_the_names_and_kinds_of_the_specification() {
    let pay_to = txn_entry().pay_to.to_string();
    let grants = json!({ "requests": 100, "seconds": 3600 });
    let common = |extra: Value| {
        json!({
            "scheme": "exact", "network": "nano:mainnet", "asset": "XNO",
            "amount": "100000000000000000000000000", "payTo": pay_to, "maxTimeoutSeconds": 120, "extra": extra,
        })
    };
    let txn = common(json!({
        "mechanism": "nanoTxn", "challenge": "ab".repeat(32), "validBefore": 1_800_000_000,
        "route": "GET /v1/quote/{symbol}", "grants": grants, "work": "required",
        "workThreshold": "fffffff800000000",
    }));
    let signature = common(json!({
        "mechanism": "nanoSignature", "nonce": "ab".repeat(32), "validBefore": 1_800_000_000,
        "route": "GET /v1/quote/{symbol}", "grants": grants, "paymentFlow": "upfront",
    }));
    let expected = json!({
        "x402Version": 2, "error": "PAYMENT_EXPIRED",
        "resource": {
            "url": "https://api.example.com/v1/quote/XNO", "description": "A quote",
            "mimeType": "application/json",
        },
        "accepts": [txn, signature],
    });
    assert_eq!(challenge().to_json(), expected);
    assert_eq!(serde_json::to_value(challenge()).unwrap(), expected);
    assert_eq!(serde_json::from_value::<PaymentRequired>(expected).unwrap(), challenge());
    assert_eq!(PaymentRequired::from_header(challenge().to_header()).unwrap(), challenge());
}

#[test]
fn what_is_not_said_is_left_out_and_never_null() {
    let mut bare = challenge();
    bare.error = None;
    bare.resource.description = None;
    bare.resource.mime_type = None;
    bare.accepts = vec![entry(Track::NanoTxn { work: None })];
    assert!(!bare.to_json().to_string().contains("null"));
    assert_eq!(PaymentRequired::read(&bare.to_json()).unwrap(), bare);
}

/// Beside the challenge a 402 has a dozen short headers; a quarter of the limit is theirs.
#[test]
fn a_long_challenge_leaves_room_for_the_other_headers() {
    let mut long = challenge();
    long.error = Some("x".repeat(200));
    long.resource.url = format!("https://api.example.com/{}", "p".repeat(1000));
    long.resource.description = Some("d".repeat(200));
    for accepted in &mut long.accepts {
        accepted.amount = Raw::MAX;
        accepted.extra.route = format!("GET /{}", "r".repeat(250));
    }
    let (usual, long) = (challenge().to_header().len(), long.to_header().len());
    assert!(usual < 2 * 1024, "{usual}");
    assert!(long < MAX_RESPONSE_HEADERS_BYTES * 3 / 4, "{long}");
}

#[test]
fn an_offer_among_other_currencies_is_found() {
    let mut json = challenge().to_json();
    let evm = json!({ "scheme": "exact", "network": "eip155:8453", "asset": "0x8335", "amount": "10000",
        "payTo": "0x2096", "maxTimeoutSeconds": 60, "extra": { "name": "USDC", "version": "2" } });
    json["accepts"].as_array_mut().unwrap().insert(0, evm);
    json["accepts"].as_array_mut().unwrap().push(json!("no entry"));
    let read = NanoOffers::read(&json).unwrap();
    assert_eq!(read.offers.len(), 2);
    assert!(matches!(&read.passed_over[0], FieldFault::Network { path, .. } if path == "accepts[0].network"));
    assert!(matches!(&read.passed_over[1], FieldFault::Type { path, .. } if path == "accepts[3]"));
    assert!(PaymentRequired::read(&json).is_err(), "the gateway's own challenge has no such entry");
}

#[test]
fn the_entries_of_the_x402_nano_specification_are_offers() {
    use faregate::x402::ProofRequest;
    let of = |extra: Value| {
        let pay_to = Account([9; 32]).to_string();
        let entry = json!({ "scheme": "exact", "network": "nano:mainnet", "asset": "XNO",
            "amount": "1000000000000000000000000000", "payTo": pay_to, "maxTimeoutSeconds": 60, "extra": extra });
        let json = json!({ "x402Version": 2, "resource": { "url": "https://x" }, "accepts": [entry] });
        NanoOffers::read(&json).unwrap()
    };
    let track_a = of(json!({ "validBefore": 1_749_111_600 }));
    assert_eq!(track_a.offers[0].ask, ProofRequest::NanoTxn { work: None });
    assert_eq!(track_a.offers[0].valid_before, UnixSeconds(1_749_111_600));
    let track_b = of(json!({ "validBefore": 1_718_123_456, "nonce": "a9".repeat(32) }));
    assert_eq!(track_b.offers[0].ask, ProofRequest::NanoSignature { nonce: [0xa9; 32] });
    let session = of(json!({ "nanoSession": { "id": "x", "tag": 1 } }));
    assert!(session.offers.is_empty());
    let missing = "`accepts[0].extra.nanoSession.resourceAmountRaw` is missing";
    assert_eq!(session.passed_over[0].to_string(), missing);
}

#[test]
fn an_offer_of_another_version_is_none() {
    let mut json = challenge().to_json();
    json["x402Version"] = 1.into();
    let message = NanoOffers::read(&json).unwrap_err().to_string();
    assert_eq!(message, "`x402Version` is 1, only version 2 is supported");
}

proptest! {
    #[test]
    fn challenges_read_back(
        error in any::<Option<String>>(), url in any::<String>(), description in any::<Option<String>>(),
        route in any::<String>(), amount in crate::nano::raw(), key in any::<[u8; 32]>(),
        numbers in any::<(u64, u64, u64, NonZeroU32)>(), bits in any::<[u8; 32]>(), extensions in any_object(),
    ) {
        let mut written = challenge();
        (written.error, written.resource.url, written.resource.description) = (error, url, description);
        written.extensions = extensions;
        for entry in &mut written.accepts {
            (entry.amount, entry.pay_to, entry.max_timeout_seconds) = (amount, Account(key), numbers.0);
            entry.extra.challenge = bits;
            entry.extra.valid_before = UnixSeconds(numbers.1);
            entry.extra.route.clone_from(&route);
            entry.extra.grants = Grants::of_requests(numbers.3, numbers.2);
        }
        prop_assert_eq!(PaymentRequired::read(&written.to_json()).unwrap(), written.clone());
        let offers = NanoOffers::from_header(written.to_header());
        if written.to_header().len() <= faregate::x402::MAX_HEADER_BYTES {
            prop_assert_eq!(offers.unwrap().offers.len(), 2);
        }
    }

    #[test]
    fn no_json_makes_a_challenge_panic(json in any_json(), field in 0..7_usize, extra in any_json()) {
        drop((PaymentRequired::read(&json), NanoOffers::read(&json), PaymentRequirements::read(&json)));
        let mut spoiled = challenge().to_json();
        let name = ["scheme", "network", "asset", "amount", "payTo", "maxTimeoutSeconds", "extra"][field];
        spoiled["accepts"][1][name] = json;
        prop_assert!(!NanoOffers::read(&spoiled).unwrap().offers.is_empty());
        spoiled["accepts"][1] = extra;
        prop_assert_eq!(NanoOffers::read(&spoiled).unwrap().offers.len(), 1);
    }
}
