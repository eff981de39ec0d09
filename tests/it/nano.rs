//! The currency, compared with vectors on which independent Nano libraries agree
//! (`tests/vectors/nano.json`).

pub(crate) mod properties;

pub(crate) use properties::{block, raw};

use std::collections::BTreeSet;

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest};
use faregate::nano::{
    Account, BlockHash, Raw, Representative, SecretKey, Seed, Signature, SignatureError, StateBlock,
    Threshold, Thresholds, Work, noms_digest,
};
use serde_json::Value;

/// The sections that the tests below exercise, one test each.
const SECTIONS: [&str; 9] = [
    "addresses",
    "key_derivation",
    "noms",
    "noms_negative",
    "raw_keys",
    "signature_edge_cases",
    "state_blocks",
    "thresholds",
    "work",
];

fn vectors() -> Value {
    serde_json::from_str(include_str!("../vectors/nano.json")).unwrap()
}

/// Every vector of `section`; there is at least one.
fn section(name: &str) -> Vec<Value> {
    assert!(SECTIONS.contains(&name), "{name} is not counted among the sections that are exercised");
    let all = vectors()[name].as_array().unwrap_or_else(|| panic!("no section {name}")).clone();
    assert!(!all.is_empty(), "section {name} is empty");
    all
}

fn text<'a>(vector: &'a Value, field: &str) -> &'a str {
    vector[field].as_str().unwrap_or_else(|| panic!("no text {field:?} in {vector}"))
}

fn bytes<const N: usize>(vector: &Value, field: &str) -> [u8; N] {
    hex::decode(text(vector, field)).unwrap().try_into().unwrap()
}

fn account(vector: &Value) -> Account {
    Account(bytes(vector, "public_key"))
}

fn key(vector: &Value) -> SecretKey {
    SecretKey::from_bytes(bytes(vector, "private_key"))
}

/// Checks the deterministic signature by signing, and it and every other valid one by verifying.
fn check_signatures(vector: &Value, digest: &[u8; 32]) {
    let ours = key(vector).sign(digest);
    assert_eq!(ours.lower_hex(), text(vector, "signature_deterministic"), "{vector}");
    ours.verify(&account(vector), digest).unwrap();
    let others = vector["other_valid_signatures"].as_object().unwrap();
    assert!(!others.is_empty(), "{vector}");
    for (maker, signature) in others {
        let signature: Signature = signature.as_str().unwrap().parse().unwrap();
        assert_eq!(signature.verify(&account(vector), digest), Ok(()), "{maker} in {vector}");
    }
}

#[test]
fn no_section_of_the_vectors_goes_unread() {
    let vectors = vectors();
    let found: BTreeSet<&str> = vectors.as_object().unwrap().keys().map(String::as_str).collect();
    let mut read: BTreeSet<&str> = SECTIONS.into_iter().collect();
    read.insert("meta");
    assert_eq!(found, read);
}

#[test]
fn keys_derive_from_a_seed_as_in_other_libraries() {
    for vector in section("key_derivation") {
        let seed: Seed = text(&vector, "seed").parse().unwrap();
        let index = u32::try_from(vector["index"].as_u64().unwrap()).unwrap();
        let derived = seed.key(index);
        // A key does not show its bytes, so the private key is compared by what it signs for.
        assert_eq!(derived.account(), account(&vector), "{vector}");
        assert_eq!(key(&vector).account(), account(&vector), "{vector}");
        assert_eq!(derived.sign(&[7; 32]), key(&vector).sign(&[7; 32]), "{vector}");
        assert_eq!(account(&vector).to_string(), text(&vector, "address"));
        assert_eq!(text(&vector, "address").parse(), Ok(account(&vector)));
        assert_eq!(text(&vector, "xrb_address").parse(), Ok(account(&vector)));
    }
}

#[test]
fn private_keys_give_their_accounts() {
    for vector in section("raw_keys") {
        assert_eq!(key(&vector).account(), account(&vector));
        assert_eq!(account(&vector).to_string(), text(&vector, "address"));
    }
}

#[test]
fn addresses_are_taken_and_refused_as_elsewhere() {
    let (mut taken, mut refused, mut disputed) = (0, 0, 0);
    for vector in section("addresses") {
        let parsed = text(&vector, "address").parse::<Account>();
        match vector["expect_valid"].as_bool() {
            Some(true) => {
                taken += 1;
                assert_eq!(parsed, Ok(account(&vector)), "{vector}");
                assert_eq!(account(&vector).to_string(), text(&vector, "address"));
            }
            Some(false) => {
                refused += 1;
                parsed.expect_err(&vector.to_string());
            }
            // `nano-` and `xrb-`: nodes take them, wallets do not, and neither does the gateway.
            None => {
                disputed += 1;
                assert!(text(&vector, "name").ends_with("_dash"), "{vector}");
                parsed.expect_err(&vector.to_string());
            }
        }
    }
    assert!(taken > 0 && refused > 0 && disputed > 0);
}

#[test]
fn state_blocks_hash_and_sign_as_in_other_libraries() {
    for vector in section("state_blocks") {
        let mut json = vector["block"].clone();
        json["signature"] = vector["signature_deterministic"].clone();
        let block: StateBlock = serde_json::from_value(json).unwrap();
        assert_eq!(block.hash().lower_hex(), text(&vector, "hash"), "{vector}");
        assert_eq!(block.account, account(&vector));
        block.verify().unwrap();
        check_signatures(&vector, &block.hash().0);
        assert_eq!(StateBlock { signature: Signature([0; 64]), ..block }.signed(&key(&vector)), block);
        let root = if text(&vector, "subtype") == "open" { block.account.0 } else { block.previous.0 };
        assert_eq!(block.work_root(), root, "{vector}");
    }
}

#[test]
fn a_change_to_any_signed_field_breaks_a_block() {
    let vector = section("state_blocks").remove(0);
    let mut json = vector["block"].clone();
    json["signature"] = vector["signature_deterministic"].clone();
    let block: StateBlock = serde_json::from_value(json).unwrap();
    let flipped = |mut bytes: [u8; 32]| {
        bytes[31] ^= 1;
        bytes
    };
    for changed in [
        StateBlock { previous: BlockHash(flipped(block.previous.0)), ..block },
        StateBlock { representative: Representative(Account(flipped(block.representative.0.0))), ..block },
        StateBlock { balance: Raw::new(block.balance.get() + 1), ..block },
        StateBlock { link: flipped(block.link), ..block },
    ] {
        assert_ne!(changed.hash(), block.hash());
        assert_eq!(changed.verify(), Err(SignatureError::Mismatch), "{changed:?}");
    }
    // Work is not signed: anybody may add it.
    let worked = StateBlock { work: Some(Work(1)), ..block };
    assert_eq!((worked.hash(), worked.verify()), (block.hash(), Ok(())));
}

#[test]
fn messages_are_signed_as_in_other_libraries() {
    for vector in section("noms") {
        let message = text(&vector, "message");
        assert_eq!(hex::encode(message), text(&vector, "message_hex"));
        assert_eq!(message.len() as u64, vector["message_length"].as_u64().unwrap());
        let digest = noms_digest(message).unwrap();
        assert_eq!(hex::encode(digest), text(&vector, "digest"), "{vector}");
        let payload = hex::decode(text(&vector, "payload_hex")).unwrap();
        assert_eq!(digest[..], Blake2b::<U32>::digest(payload)[..], "{vector}");
        check_signatures(&vector, &digest);
        assert_eq!(text(&vector, "account").parse(), Ok(account(&vector)));
    }
}

#[test]
fn a_signature_over_another_length_is_none() {
    for vector in section("noms_negative") {
        let typo: [u8; 32] = bytes(&vector, "digest_of_typo_payload");
        let digest = noms_digest(text(&vector, "message")).unwrap();
        assert_ne!(digest, typo);
        let signature = key(&vector).sign(&typo);
        signature.verify(&account(&vector), &typo).unwrap();
        assert_eq!(signature.verify(&account(&vector), &digest), Err(SignatureError::Mismatch));
    }
}

#[test]
fn forged_and_malleated_signatures_are_refused() {
    let mut disputed = 0;
    for vector in section("signature_edge_cases") {
        let signature: Signature = text(&vector, "signature").parse().unwrap();
        let result = signature.verify(&account(&vector), &bytes(&vector, "digest"));
        match (vector["recommended"].as_bool(), text(&vector, "name")) {
            (Some(false), "A_not_on_curve") => assert_eq!(result, Err(SignatureError::NotAKey)),
            (Some(false), name) if name.starts_with("small_order_A") || name == "burn_account_forgery" => {
                assert_eq!(result, Err(SignatureError::WeakKey), "{vector}");
            }
            (Some(false), _) => assert!(result.is_err(), "{vector}"),
            // Only the equation multiplied by the cofactor holds; the one without it is checked,
            // as nodes check it.
            (None, name) => {
                disputed += 1;
                assert_eq!(name, "mixed_order_A_cofactored_only");
                assert_eq!(result, Err(SignatureError::Mismatch), "{vector}");
            }
            (Some(true), name) => panic!("{name}: no case recommends acceptance"),
        }
    }
    assert_eq!(disputed, 1);
}

#[test]
fn work_is_valued_as_in_other_libraries() {
    let thresholds = vectors()["thresholds"].clone();
    let (mut enough, mut short) = (0, 0);
    for vector in section("work") {
        let work: Work = text(&vector, "work").parse().unwrap();
        let root = bytes(&vector, "root");
        let threshold: Threshold = text(&vector, "threshold").parse().unwrap();
        assert_eq!(Threshold(work.value(&root)).to_string(), text(&vector, "value"), "{vector}");
        assert_eq!(work.reaches(&root, threshold), vector["valid"].as_bool().unwrap(), "{vector}");
        if vector["valid"] == true {
            enough += 1
        } else {
            short += 1
        }
        let network = if text(&vector, "network") == "main" { "mainnet" } else { "dev" };
        let kind =
            if text(&vector, "kind") == "send" { "send_change_epoch_2" } else { "receive_open_epoch_2" };
        assert_eq!(vector["threshold"], thresholds[network][kind], "{vector}");
    }
    assert!(enough > 0 && short > 0);
}

#[test]
fn work_reaches_its_own_value_and_no_more() {
    let (work, root) = (Work(0x0123_4567_89ab_cdef), [9; 32]);
    let value = work.value(&root);
    assert!(work.reaches(&root, Threshold(value)));
    assert!(!work.reaches(&root, Threshold(value + 1)));
}

#[test]
fn thresholds_are_the_networks() {
    let all = vectors()["thresholds"].clone();
    assert!(SECTIONS.contains(&"thresholds"));
    let networks: BTreeSet<&str> = all.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(networks, BTreeSet::from(["dev", "mainnet"]));
    let read = |network: &str, name: &str| all[network][name].as_str().unwrap().parse::<Threshold>().unwrap();
    let mainnet = Thresholds {
        send: read("mainnet", "send_change_epoch_2"),
        receive: read("mainnet", "receive_open_epoch_2"),
    };
    assert_eq!(mainnet, Thresholds::MAINNET);
    assert_eq!(Thresholds::default(), Thresholds::MAINNET);
    for network in ["mainnet", "dev"] {
        let epoch_1 = read(network, "epoch_1");
        assert!(read(network, "receive_open_epoch_2") < epoch_1, "{network}");
        assert!(epoch_1 < read(network, "send_change_epoch_2"), "{network}");
    }
}

#[test]
fn a_stated_destination_must_be_the_signed_one() {
    let vector = section("state_blocks").remove(0);
    let mut json = vector["block"].clone();
    json["signature"] = vector["signature_deterministic"].clone();
    let link = Account(hex::decode(text(&json, "link")).unwrap().try_into().unwrap());
    json["link_as_account"] = link.to_string().replacen("nano_", "xrb_", 1).into();
    serde_json::from_value::<StateBlock>(json.clone()).unwrap();
    json["link_as_account"] = json["account"].clone();
    let error = serde_json::from_value::<StateBlock>(json).unwrap_err().to_string();
    assert!(error.contains("link_as_account"), "{error}");
}

#[test]
fn secrets_do_not_print() {
    let seed: Seed = "0123456789abcdef".repeat(4).parse().unwrap();
    for shown in [format!("{seed:?}"), format!("{:?}", seed.key(0))] {
        assert!(shown.contains("****") && !shown.contains("0123"), "{shown}");
    }
    let error = format!("{0} {0:?}", "5ecre7".parse::<Seed>().unwrap_err());
    assert!(!error.contains("5ecre7"), "{error}");
}
