//! The receipt in `PAYMENT-RESPONSE`, as the official clients and x402.Nano's parser read it.

use faregate::nano::{Account, BlockHash, Network, Raw, UnixSeconds};
use faregate::routes::Left;
use faregate::x402::{CapabilityNotice, Credential, SettlementOutcome, SettlementResponse, decode_header};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{any_json, any_object};

fn settled() -> SettlementResponse {
    SettlementResponse {
        network: Network::Mainnet,
        outcome: SettlementOutcome::Settled {
            transaction: BlockHash([0xAB; 32]),
            payer: Account([5; 32]),
            amount: Raw::new(7),
            capability: Some(CapabilityNotice {
                token: Credential::new("t0ken".to_owned()),
                left: Left::Uses(99),
                expires: UnixSeconds(1_800_000_000),
            }),
        },
        extensions: Map::new(),
    }
}

fn failed(transaction: Option<BlockHash>) -> SettlementResponse {
    SettlementResponse {
        network: Network::Mainnet,
        outcome: SettlementOutcome::Failed {
            transaction,
            payer: None,
            reason: "settlement_pending".to_owned(),
            message: Some("not confirmed yet".to_owned()),
        },
        extensions: Map::new(),
    }
}

#[test]
fn a_settled_receipt_has_what_either_parser_reads() {
    let (hash, payer) = ("ab".repeat(32), Account([5; 32]).to_string());
    let expected = json!({
        "x402Version": 2, "success": true, "transaction": hash, "network": "nano:mainnet", "payer": payer,
        "amount": "7",
        "result": { "mode": "settled", "sendHash": hash, "payerAccount": payer, "amount": "7" },
        "extensions": { "capability": { "token": "t0ken", "remaining": 99, "expires": 1_800_000_000 } },
    });
    assert_eq!(settled().to_json(), expected);
    assert_eq!(Value::Object(decode_header(settled().to_header()).unwrap()), expected);
    assert!(!format!("{:?}", settled()).contains("t0ken"));
}

#[test]
fn a_failed_receipt_always_has_a_transaction() {
    let json = failed(None).to_json();
    assert_eq!(json["transaction"], "");
    assert_eq!(json["success"], false);
    assert_eq!(json["errorReason"], "settlement_pending");
    assert_eq!(json["errorMessage"], "not confirmed yet");
    assert_eq!(json["result"]["mode"], "failed");
    assert_eq!(failed(Some(BlockHash([1; 32]))).to_json()["transaction"], "01".repeat(32));
    assert!(settled().to_json().get("errorReason").is_none(), "only a failure has a reason");
}

#[test]
fn a_receipt_that_lacks_something_is_told_what() {
    for (field, message) in [
        ("success", "`success` is missing"),
        ("network", "`network` is missing"),
        ("transaction", "`transaction` is missing"),
        ("payer", "`payer` is missing"),
        ("amount", "`amount` is missing"),
    ] {
        let mut json = settled().to_json();
        json.as_object_mut().unwrap().remove(field);
        assert_eq!(SettlementResponse::read(&json).unwrap_err().to_string(), message);
    }
    // The official type has neither of these two.
    let mut json = settled().to_json();
    json.as_object_mut().unwrap().remove("x402Version");
    json.as_object_mut().unwrap().remove("result");
    assert_eq!(SettlementResponse::read(&json).unwrap(), settled());
    json["transaction"] = "".into();
    assert!(SettlementResponse::read(&json).is_err(), "settled, and no block named");
}

proptest! {
    #[test]
    fn receipts_read_back(
        hash in any::<Option<[u8; 32]>>(), reason in any::<String>(), message in any::<Option<String>>(),
        mut extensions in any_object(),
    ) {
        extensions.remove("capability");
        let failed = SettlementResponse {
            network: Network::Mainnet,
            outcome: SettlementOutcome::Failed {
                transaction: hash.map(BlockHash), payer: hash.map(Account), reason, message,
            },
            extensions: extensions.clone(),
        };
        prop_assert_eq!(SettlementResponse::read(&failed.to_json()).unwrap(), failed);
        let settled = SettlementResponse { extensions, ..settled() };
        prop_assert_eq!(SettlementResponse::read(&settled.to_json()).unwrap(), settled);
    }

    #[test]
    fn no_json_makes_the_reader_panic(json in any_json(), which in 0..8_usize) {
        drop(SettlementResponse::read(&json));
        let mut spoiled = settled().to_json();
        let fields = ["x402Version", "success", "transaction", "network", "payer", "amount", "result", "extensions"];
        spoiled[fields[which]] = json;
        drop(SettlementResponse::read(&spoiled));
    }
}
