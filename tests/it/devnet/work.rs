//! `work_generate` and `work_validate`.

use faregate::devnet::DevnetOptions;
use faregate::nano::{BlockHash, Threshold, Thresholds, Work};
use serde_json::{Value, json};

use super::{Net, error};

#[tokio::test]
async fn generated_work_reaches_what_was_asked() {
    let net = Net::start().await;
    let hash = net.devnet.lattice().genesis();
    let generate = |more: Value| {
        let mut request = json!({ "action": "work_generate", "hash": hash.lower_hex() });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request
    };
    for (more, least) in [
        (json!({}), 0xfc00_0000_0000_0000),
        (json!({ "difficulty": "fe00000000000000" }), 0xfe00_0000_0000_0000),
        (json!({ "difficulty": "f000000000000000" }), 0xf000_0000_0000_0000),
        (json!({ "multiplier": "4" }), 0xff00_0000_0000_0000_u64),
    ] {
        let answer = net.ask(&generate(more)).await;
        let work: Work = serde_json::from_value(answer["work"].clone()).unwrap();
        assert!(work.reaches(&hash.0, Threshold(least)), "{answer}");
        assert_eq!(answer["hash"], hash.to_string());
        assert_eq!(answer["difficulty"], format!("{:016x}", work.value(&hash.0)));
        assert_eq!(answer["work"].as_str().unwrap().to_lowercase(), answer["work"]);
    }
    let limit = error("Difficulty above config limit or below publish threshold");
    net.table(&[
        ("bad hash", json!({ "action": "work_generate", "hash": "zz" }), error("Invalid block hash")),
        ("impossible", generate(json!({ "difficulty": "ffffffffffffffff" })), limit.clone()),
        ("too easy", generate(json!({ "difficulty": "efffffffffffffff" })), limit),
        ("decimal", generate(json!({ "difficulty": "18444428265440494353" })), error("Bad difficulty")),
        ("no number", generate(json!({ "multiplier": "much" })), error("Bad multiplier")),
    ])
    .await;
}

/// The reference node's numbers, at its development network's thresholds.
#[tokio::test]
async fn validated_as_the_reference_node_does() {
    let thresholds =
        Thresholds { send: Threshold(0xffc0_0000_0000_0000), receive: Threshold(0xf000_0000_0000_0000) };
    let net = Net::with(DevnetOptions { thresholds, ..DevnetOptions::default() }).await;
    let hash = "7442BB86A58594F1212F0AA9904E13F19816C211BA87F533F12407615A630419";
    let work = "cbaf14d31106c88e";
    net.table(&[
        (
            "good",
            json!({ "action": "work_validate", "hash": hash, "work": work }),
            json!({ "valid_all": "1", "valid_receive": "1", "difficulty": "ffc51c5a59487d1f",
                "multiplier": "1.086785855249276" }),
        ),
        (
            "mainnet difficulty",
            json!({ "action": "work_validate", "hash": hash, "work": work, "difficulty": "fffffff800000000" }),
            json!({ "valid": "0", "valid_all": "1", "valid_receive": "1",
                "difficulty": "ffc51c5a59487d1f", "multiplier": "1.086785855249276" }),
        ),
        ("bad work", json!({ "action": "work_validate", "hash": hash, "work": "zz" }), error("Bad work")),
    ])
    .await;
}

#[tokio::test]
async fn validates_the_vectors() {
    let net = Net::start().await;
    let vectors: Value = serde_json::from_str(include_str!("../../vectors/nano.json")).unwrap();
    let rows = vectors["work"].as_array().unwrap();
    assert!(rows.len() >= 10);
    for row in rows {
        let request = json!({ "action": "work_validate", "hash": row["root"], "work": row["work"],
            "difficulty": row["threshold"] });
        let answer = net.ask(&request).await;
        assert_eq!(answer["valid"], if row["valid"].as_bool().unwrap() { "1" } else { "0" }, "{row}");
        assert_eq!(answer["difficulty"], row["value"], "{row}");
    }
}

/// A computation whose client is gone does not delay the shutdown.
#[tokio::test]
async fn stopping_ends_computations() {
    let net = Net::with(DevnetOptions { thresholds: Thresholds::MAINNET, ..DevnetOptions::default() }).await;
    let request = json!({ "action": "work_generate", "hash": BlockHash([1; 32]), "multiplier": "64" });
    let asked = tokio::spawn(net.client.post(net.devnet.rpc_url()).body(request.to_string()).send());
    net.devnet.faults().called("work_generate", 1).await;
    net.devnet.stop().await;
    assert!(asked.await.unwrap().is_err(), "the connection was closed");
}
