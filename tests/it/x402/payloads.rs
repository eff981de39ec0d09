//! What clients hand in: the three shapes, and a message for each way to get them wrong.

use faregate::nano::{Account, BlockHash, Signature, StateBlock};
use faregate::x402::{
    Credential, FieldFault, NanoOffers, Payload, PaymentPayload, PaymentProof, PaymentRequirements,
    PresentedPayment, ProofRequest, Track,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{any_json, any_object, challenge, entry, txn_entry};
use crate::nano::block;

fn of(accepted: PaymentRequirements, proof: PaymentProof) -> PaymentPayload {
    PaymentPayload {
        resource: None,
        presented: Payload::Payment(Box::new(PresentedPayment { accepted, proof })),
        extensions: Map::new(),
    }
}

fn signature_proof() -> PaymentProof {
    PaymentProof::NanoSignature {
        block_hash: BlockHash([0xCD; 32]),
        account: Account([5; 32]),
        signature: Signature([0xEF; 64]),
    }
}

fn signature_payload() -> Value {
    of(entry(Track::NanoSignature), signature_proof()).to_json()
}

fn some_block() -> StateBlock {
    StateBlock {
        account: Account([1; 32]),
        previous: BlockHash([2; 32]),
        representative: faregate::nano::Representative(Account([3; 32])),
        balance: faregate::nano::Raw::new(4),
        link: [5; 32],
        signature: Signature([6; 64]),
        work: Some(faregate::nano::Work(7)),
    }
}

fn txn_payload() -> Value {
    of(txn_entry(), PaymentProof::NanoTxn { block: some_block() }).to_json()
}

fn fault(json: &Value) -> FieldFault {
    PaymentPayload::read(json).expect_err(&json.to_string())
}

/// `json` without what stands at `path` (`accepted.extra.nonce`).
fn without(json: &Value, path: &str) -> Value {
    let mut json = json.clone();
    let (parents, field) = path
        .rsplit_once('.')
        .map_or((vec![], path), |(parents, field)| (parents.split('.').collect(), field));
    let parent = parents.iter().fold(&mut json, |at, name| &mut at[*name]);
    parent.as_object_mut().unwrap().remove(field).unwrap_or_else(|| panic!("no {path}"));
    json
}

fn with(json: &Value, pointer: &str, value: Value) -> Value {
    let mut json = json.clone();
    *json.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
    json
}

proptest! {
    #[test]
    fn payloads_read_back(block in block(), extensions in any_object(), token in ".{1,40}", hash in any::<[u8; 32]>()) {
        let proof = PaymentProof::NanoSignature {
            block_hash: BlockHash(hash), account: block.account, signature: block.signature,
        };
        for mut written in [
            of(txn_entry(), PaymentProof::NanoTxn { block }),
            of(entry(Track::NanoSignature), proof),
            PaymentPayload {
                resource: Some(challenge().resource),
                presented: Payload::Access { credential: Credential::new(token) },
                extensions: Map::new(),
            },
        ] {
            written.extensions = extensions.clone();
            prop_assert_eq!(PaymentPayload::read(&written.to_json()).unwrap(), written.clone());
            let header = written.to_header();
            if header.len() <= faregate::x402::MAX_HEADER_BYTES {
                prop_assert_eq!(PaymentPayload::from_header(header).unwrap(), written);
            }
        }
    }

    #[test]
    fn no_json_makes_the_reader_panic(json in any_json(), which in 0..20_usize) {
        drop(PaymentPayload::read(&json));
        for whole in [txn_payload(), signature_payload()] {
            for pointer in ["/x402Version", "/accepted", "/payload", "/accepted/extra", "/accepted/extra/grants"] {
                drop(PaymentPayload::read(&with(&whole, pointer, json.clone())));
            }
            let fields: Vec<String> = whole["accepted"].as_object().unwrap().keys().cloned().collect();
            let pointer = format!("/accepted/{}", fields[which % fields.len()]);
            drop(PaymentPayload::read(&with(&whole, &pointer, json.clone())));
        }
    }

    #[test]
    fn what_is_not_known_is_ignored(unknown in any_json()) {
        for whole in [txn_payload(), signature_payload()] {
            let mut more = whole.clone();
            for pointer in ["", "/accepted", "/accepted/extra", "/accepted/extra/grants", "/payload"] {
                let object = more.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
                object.insert("somethingNew".to_owned(), unknown.clone());
            }
            prop_assert_eq!(PaymentPayload::read(&more).unwrap(), PaymentPayload::read(&whole).unwrap());
        }
    }
}

#[test]
fn a_missing_field_is_named() {
    for (whole, paths) in [
        (txn_payload(), vec!["accepted.extra.challenge", "accepted.extra.workThreshold"]),
        (signature_payload(), vec!["accepted.extra.nonce", "accepted.extra.grants.seconds"]),
    ] {
        let common = [
            "accepted",
            "accepted.scheme",
            "accepted.network",
            "accepted.asset",
            "accepted.amount",
            "accepted.payTo",
            "accepted.maxTimeoutSeconds",
            "accepted.extra",
            "accepted.extra.mechanism",
            "accepted.extra.validBefore",
            "accepted.extra.route",
            "accepted.extra.grants",
            "accepted.extra.grants.requests",
        ];
        for path in paths.into_iter().chain(common) {
            let fault = fault(&without(&whole, path));
            assert_eq!(fault, FieldFault::NotEchoed { path: path.to_owned() }, "{fault}");
            assert!(fault.to_string().contains("with its `extra`"), "{fault}");
            // The official schemas write absence as null too.
            let null = with(&whole, &format!("/{}", path.replace('.', "/")), Value::Null);
            assert_eq!(self::fault(&null), fault);
        }
        for path in ["x402Version", "payload"] {
            assert_eq!(fault(&without(&whole, path)), FieldFault::Missing { path: path.to_owned() });
        }
    }
    for field in ["blockHash", "account", "signature"] {
        let path = format!("payload.{field}");
        assert_eq!(fault(&without(&signature_payload(), &path)), FieldFault::Missing { path });
    }
    for field in ["type", "account", "previous", "representative", "balance", "link", "signature"] {
        let message = fault(&without(&txn_payload(), &format!("payload.block.{field}"))).to_string();
        assert!(message.starts_with("`payload.block`") && message.contains(field), "{message}");
    }
}

#[test]
fn an_entry_sent_back_without_its_extra_is_told_what_is_missing() {
    assert_eq!(
        fault(&without(&txn_payload(), "accepted.extra")).to_string(),
        "`accepted.extra` is missing: `accepted` must be an entry of `accepts`, unchanged, with its `extra`"
    );
}

#[test]
fn a_wrong_value_is_named_with_what_is_wrong() {
    for (pointer, value, message) in [
        ("/x402Version", json!(1), "`x402Version` is 1, only version 2 is supported"),
        ("/x402Version", json!("2"), "`x402Version` is \"2\", only version 2 is supported"),
        ("/x402Version", json!(2.5), "`x402Version` is 2.5, only version 2 is supported"),
        ("/accepted", json!([]), "`accepted` is an array, expected an object"),
        ("/accepted/scheme", json!("upto"), "`accepted.scheme` is \"upto\", only \"exact\" is supported"),
        (
            "/accepted/network",
            json!("nano:testnet"),
            "`accepted.network` is \"nano:testnet\", only \"nano:mainnet\" is supported",
        ),
        ("/accepted/asset", json!("USDC"), "`accepted.asset` is \"USDC\", only \"XNO\" is supported"),
        ("/accepted/asset", json!({}), "`accepted.asset` is an object, only \"XNO\" is supported"),
        ("/accepted/amount", json!(100), "`accepted.amount` is a number, expected a string"),
        (
            "/accepted/maxTimeoutSeconds",
            json!("120"),
            "`accepted.maxTimeoutSeconds` is a string, expected an integer",
        ),
        (
            "/accepted/maxTimeoutSeconds",
            json!(1.5),
            "`accepted.maxTimeoutSeconds`: 1.5 is not a whole number from 0",
        ),
        ("/accepted/extra", json!("x"), "`accepted.extra` is a string, expected an object"),
        (
            "/accepted/extra/validBefore",
            json!("1"),
            "`accepted.extra.validBefore` is a string, expected an integer",
        ),
        (
            "/accepted/extra/validBefore",
            json!(-1),
            "`accepted.extra.validBefore`: -1 is not a whole number from 0",
        ),
        (
            "/accepted/extra/grants/requests",
            json!(0),
            "`accepted.extra.grants.requests`: 0 is not from 1 to 4294967295",
        ),
        (
            "/accepted/extra/mechanism",
            json!("cash"),
            "`accepted.extra.mechanism`: \"nanoTxn\", \"nanoSignature\" and \"nanoSession\" are known",
        ),
        (
            "/accepted/extra/nonce",
            json!("ab"),
            "`accepted.extra.nonce`: expected 64 hexadecimal digits, found \"ab\"",
        ),
        ("/payload", json!("x"), "`payload` is a string, expected an object"),
        (
            "/payload/account",
            json!("nano_1"),
            "`payload.account`: an account has 60 characters after `nano_`, this one has 1",
        ),
        ("/payload/signature", json!(7), "`payload.signature` is a number, expected a string"),
    ] {
        assert_eq!(fault(&with(&signature_payload(), pointer, value)).to_string(), message);
    }
    for amount in ["", "0100", "1e3", "-1", "1.0", "+1"] {
        let fault = fault(&with(&signature_payload(), "/accepted/amount", json!(amount)));
        assert!(matches!(&fault, FieldFault::Value { path, .. } if path == "accepted.amount"), "{fault}");
    }
    let number = fault(&with(&txn_payload(), "/payload/block/balance", json!(4))).to_string();
    assert!(number.starts_with("`payload.block`:") && number.contains("integer `4`"), "{number}");
}

/// The order of the protocol guide's "Verification": of several faults the first is reported.
#[test]
fn faults_are_told_in_the_order_of_verification() {
    let mut json = json!({
        "x402Version": 1,
        "accepted": { "scheme": "upto", "network": "eip155:1", "asset": "USDC", "amount": 1 },
        "payload": {},
    });
    assert!(matches!(fault(&json), FieldFault::Version { .. }));
    json["x402Version"] = 2.into();
    assert!(matches!(fault(&json), FieldFault::Scheme { .. }));
    json["accepted"]["scheme"] = "exact".into();
    assert!(matches!(fault(&json), FieldFault::Network { .. }));
    json["accepted"]["network"] = "nano:mainnet".into();
    assert!(matches!(fault(&json), FieldFault::Asset { .. }));
    json["accepted"]["asset"] = "XNO".into();
    assert_eq!(fault(&json), FieldFault::NoProof);
    json["payload"] = signature_payload()["payload"].clone();
    assert!(matches!(fault(&json), FieldFault::Type { path, .. } if path == "accepted.amount"));
}

#[test]
fn a_proof_answers_an_entry_of_its_own_mechanism() {
    let crossed = with(&txn_payload(), "/payload", signature_payload()["payload"].clone());
    assert_eq!(fault(&crossed), FieldFault::TrackDisagrees { payload: "nanoSignature", accepted: "nanoTxn" });
    let crossed = with(&signature_payload(), "/payload", txn_payload()["payload"].clone());
    assert_eq!(fault(&crossed), FieldFault::TrackDisagrees { payload: "nanoTxn", accepted: "nanoSignature" });
}

#[test]
fn a_payload_of_no_known_shape_is_told_the_known_ones() {
    for payload in [json!({}), json!({ "hash": "ab" }), json!({ "mode": "settle" }), json!({ "mode": 1 })] {
        let fault = fault(&with(&txn_payload(), "/payload", payload));
        assert_eq!(fault, FieldFault::NoProof);
        for word in ["block", "blockHash", "account", "signature", "proof", "access", "credential"] {
            assert!(fault.to_string().contains(word), "{fault}");
        }
    }
}

#[test]
fn a_block_may_come_without_work() {
    let json = without(&txn_payload(), "payload.block.work");
    let Payload::Payment(payment) = PaymentPayload::read(&json).unwrap().presented else { panic!() };
    assert_eq!(payment.proof, PaymentProof::NanoTxn { block: StateBlock { work: None, ..some_block() } });
}

#[test]
fn hexadecimal_of_either_case_and_the_old_prefix_are_one_proof() {
    let mut json = signature_payload();
    for field in ["blockHash", "signature"] {
        json["payload"][field] = json["payload"][field].as_str().unwrap().to_ascii_uppercase().into();
    }
    json["payload"]["account"] = json["payload"]["account"].as_str().unwrap().replace("nano_", "xrb_").into();
    json["accepted"]["payTo"] = json["accepted"]["payTo"].as_str().unwrap().replace("nano_", "xrb_").into();
    assert_eq!(PaymentPayload::read(&json).unwrap(), PaymentPayload::read(&signature_payload()).unwrap());
}

#[test]
fn a_capability_needs_no_entry_and_does_not_print() {
    let mut json = json!({ "x402Version": 2, "payload": { "mode": "access", "credential": "t0ken" } });
    let read = PaymentPayload::read(&json).unwrap();
    assert!(matches!(&read.presented, Payload::Access { credential } if credential.expose() == "t0ken"));
    let shown = format!("{read:?}");
    assert!(shown.contains("****") && !shown.contains("t0ken"), "{shown}");
    // An official client sends the entry along, here one that is not even whole.
    json["accepted"] = json!({ "scheme": "exact", "network": "nano:mainnet", "asset": "XNO" });
    assert_eq!(PaymentPayload::read(&json).unwrap(), read);
    json["payload"]["credential"] = "".into();
    assert_eq!(fault(&json).to_string(), "`payload.credential`: it is empty");
    json["payload"]["credential"] = json!(["t0ken"]);
    assert_eq!(fault(&json).to_string(), "`payload.credential` is an array, expected a string");
    assert_eq!(
        fault(&without(&json, "payload.credential")),
        FieldFault::Missing { path: "payload.credential".to_owned() }
    );
}

/// The whole way round: what the client makes of a challenge is a payload the gateway reads, with
/// the entry as the gateway wrote it.
#[test]
fn an_offer_is_answered_with_its_entry_unchanged() {
    let mut json = challenge().to_json();
    json["accepts"][0]["extra"]["somethingNew"] = json!([1, 2]);
    let offers = NanoOffers::read(&json).unwrap().offers;
    assert!(matches!(offers[0].ask, ProofRequest::NanoTxn { work: Some(_) }));
    assert_eq!(offers[1].ask, ProofRequest::NanoSignature { nonce: [0xAB; 32] });
    for (index, proof) in
        [PaymentProof::NanoTxn { block: some_block() }, signature_proof()].into_iter().enumerate()
    {
        let answer = offers[index].answer(&proof);
        assert_eq!(answer["accepted"], json["accepts"][index]);
        assert_eq!(answer["resource"], json["resource"]);
        let Payload::Payment(payment) = PaymentPayload::read(&answer).unwrap().presented else { panic!() };
        assert_eq!(*payment, PresentedPayment { accepted: challenge().accepts[index].clone(), proof });
    }
}
