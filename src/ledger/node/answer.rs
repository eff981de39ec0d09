//! Parses a node's JSON, in either dialect.
//!
//! The C++ node writes every number and boolean as a string, and an empty collection as `""`. RsNano
//! writes some of them as JSON values. Any other form is an error; no default takes its place.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::transport::TransportFault;
use crate::nano::{Account, BlockHash, Raw, Representative, StateBlock, Threshold, Thresholds, Work};

/// `account_info`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize)]
pub struct AccountInfo {
    /// The newest block, confirmed or not.
    #[serde(deserialize_with = "scalar")]
    pub frontier: BlockHash,
    /// The balance after `frontier`.
    #[serde(deserialize_with = "scalar")]
    pub balance: Raw,
    /// The representative after `frontier`.
    pub representative: Representative,
    /// The newest confirmed block; zero if there is none.
    #[serde(deserialize_with = "scalar")]
    pub confirmed_frontier: BlockHash,
    /// The balance after `confirmed_frontier`.
    #[serde(deserialize_with = "scalar")]
    pub confirmed_balance: Raw,
    /// How many of its blocks are confirmed, if the node reports it. A node that is behind has fewer.
    #[serde(default, deserialize_with = "scalar_if_any")]
    pub confirmed_height: Option<u64>,
    /// The amount sent to the account and not received yet, if the node reports it.
    #[serde(default, deserialize_with = "scalar_if_any")]
    pub receivable: Option<Raw>,
}

/// `block_info`. The answer itself proves nothing; only a state block's contents can be checked, by
/// their hash.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BlockInfo {
    /// The account whose chain the block is on.
    pub account: Account,
    /// The account's balance after the block, as the node reports it.
    pub balance: Raw,
    pub confirmed: bool,
    /// The next block on the chain, if the node has one.
    pub successor: Option<BlockHash>,
    pub contents: Contents,
}

/// The contents of a block, as a node reports them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Contents {
    State(StateBlock),
    /// A legacy block, with its `type`.
    Legacy(String),
}

/// One send that can be received.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Receivable {
    pub hash: BlockHash,
    pub amount: Raw,
    /// The sender, if the node reports it.
    pub source: Option<Account>,
}

/// `version`.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize)]
pub struct Version {
    /// The name and version of the software.
    pub node_vendor: String,
    /// `live`, `beta`, `test` or `dev`.
    pub network: String,
}

/// `block_count`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize)]
pub struct BlockCount {
    #[serde(deserialize_with = "scalar")]
    pub count: u64,
    #[serde(deserialize_with = "scalar")]
    pub cemented: u64,
}

/// `telemetry`, averaged over the node's peers.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize)]
pub struct Telemetry {
    #[serde(deserialize_with = "scalar")]
    pub block_count: u64,
    #[serde(deserialize_with = "scalar")]
    pub cemented_count: u64,
    #[serde(deserialize_with = "scalar")]
    pub peer_count: u64,
    /// Identifies the network.
    #[serde(deserialize_with = "scalar")]
    pub genesis_block: BlockHash,
}

/// Whether a node's `error` means that there is no such account or block. No other field shows it in
/// either dialect, so the text has to decide here and in [`refuses_block`], and nowhere else.
pub(super) fn says_not_found(error: &str) -> bool {
    matches!(error, "Account not found" | "Block not found")
}

/// Whether a node's `error` to `process` refuses the block. Any other text comes from a proxy in front
/// of the node ("Rate limit exceeded", "No Node available") or does not concern the block, so the
/// block may still be accepted. These are the refusals of both implementations (see the
/// [nodes guide](crate::guide::nodes)).
pub(super) fn refuses_block(error: &str) -> bool {
    matches!(
        error,
        "Bad signature"
            | "Old block"
            | "Negative spend"
            | "Fork"
            | "Unreceivable"
            | "Gap previous block"
            | "Gap source block"
            | "Gap pending for open epoch block"
            | "Block attempts to open the burn account"
            | "Balance and amount delta do not match"
            | "This block cannot follow the previous block"
            | "Block work is insufficient"
            | "Block work is less than threshold"
            | "Block is invalid"
            | "Invalid block subtype"
            | "Invalid block balance for given subtype"
            | "Invalid previous block for given subtype"
            | "Conflict while processing block"
    ) || error.starts_with("Failed to deserialize the JSON body")
}

pub(super) fn account_info(value: &Value) -> Result<AccountInfo, TransportFault> {
    typed(value)
}

pub(super) fn version(value: &Value) -> Result<Version, TransportFault> {
    typed(value)
}

pub(super) fn block_count(value: &Value) -> Result<BlockCount, TransportFault> {
    typed(value)
}

pub(super) fn telemetry(value: &Value) -> Result<Telemetry, TransportFault> {
    typed(value)
}

pub(super) fn block_info(value: &Value) -> Result<BlockInfo, TransportFault> {
    #[derive(Deserialize)]
    struct BlockInfoFields {
        block_account: Account,
        #[serde(deserialize_with = "scalar")]
        balance: Raw,
        #[serde(deserialize_with = "truth")]
        confirmed: bool,
        #[serde(default)]
        successor: Option<BlockHash>,
        contents: Value,
    }
    let fields: BlockInfoFields = typed(value)?;
    // A string of JSON, unless the node knows `json_block`.
    let contents = match fields.contents.as_str() {
        Some(text) => serde_json::from_str(text).map_err(nonsense)?,
        None => fields.contents,
    };
    let contents = match contents.get("type").and_then(Value::as_str) {
        Some("state") => Contents::State(typed(&contents)?),
        Some(kind @ ("send" | "receive" | "open" | "change")) => Contents::Legacy(kind.to_owned()),
        Some(_) | None => return Err(nonsense("`contents` has no known `type`")),
    };
    Ok(BlockInfo {
        account: fields.block_account,
        balance: fields.balance,
        confirmed: fields.confirmed,
        successor: fields.successor.filter(|next| *next != BlockHash::ZERO),
        contents,
    })
}

/// `blocks_info` with `include_not_found`: the blocks that the node has, by hash.
pub(super) fn blocks_info(value: &Value) -> Result<BTreeMap<BlockHash, BlockInfo>, TransportFault> {
    let blocks = value.get("blocks").ok_or_else(|| nonsense("`blocks` is missing"))?;
    let Value::Object(blocks) = blocks else {
        return if is_empty(blocks) { Ok(BTreeMap::new()) } else { Err(nonsense("`blocks` is not a map")) };
    };
    let read = |(hash, info): (&String, &Value)| Ok((hash.parse().map_err(nonsense)?, block_info(info)?));
    blocks.iter().map(read).collect()
}

/// Whether the value is an empty collection, in any of its three forms.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// `receivable`, the largest amount first.
pub(super) fn receivable(value: &Value) -> Result<Vec<Receivable>, TransportFault> {
    receivable_of(value.get("blocks").ok_or_else(|| nonsense("`blocks` is missing"))?)
}

/// The receivable sends of one account, the largest amount first.
pub(super) fn receivable_of(blocks: &Value) -> Result<Vec<Receivable>, TransportFault> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum ReceivableEntry {
        Sourced {
            #[serde(deserialize_with = "scalar")]
            amount: Raw,
            source: Account,
        },
        Amount(Raw),
    }
    if is_empty(blocks) {
        return Ok(Vec::new());
    }
    let entries: BTreeMap<String, ReceivableEntry> = typed(blocks)?;
    let mut found = Vec::with_capacity(entries.len());
    for (hash, entry) in entries {
        let hash = hash.parse().map_err(nonsense)?;
        let (amount, source) = match entry {
            ReceivableEntry::Sourced { amount, source } => (amount, Some(source)),
            ReceivableEntry::Amount(amount) => (amount, None),
        };
        found.push(Receivable { hash, amount, source });
    }
    found.sort_by_key(|it| Reverse(it.amount));
    Ok(found)
}

pub(super) fn thresholds(value: &Value) -> Result<Thresholds, TransportFault> {
    #[derive(Deserialize)]
    struct ThresholdFields {
        network_minimum: Threshold,
        network_receive_minimum: Threshold,
    }
    let fields: ThresholdFields = typed(value)?;
    Ok(Thresholds { send: fields.network_minimum, receive: fields.network_receive_minimum })
}

/// `work_generate`, checked against the threshold, because RsNano's own check ignores it.
pub(super) fn work(value: &Value, root: &[u8; 32], threshold: Threshold) -> Result<Work, TransportFault> {
    #[derive(Deserialize)]
    struct WorkField {
        work: Work,
    }
    let WorkField { work } = typed(value)?;
    if work.reaches(root, threshold) {
        Ok(work)
    } else {
        Err(TransportFault::NotBelieved(format!("its work {work} does not reach {threshold}")))
    }
}

/// `process`: checks that the node accepted the block that was sent.
pub(super) fn processed(value: &Value, sent: BlockHash) -> Result<(), TransportFault> {
    #[derive(Deserialize)]
    struct HashField {
        hash: BlockHash,
    }
    let HashField { hash } = typed(value)?;
    if hash == sent {
        Ok(())
    } else {
        Err(TransportFault::NotBelieved(format!("it was given {sent} and accepted {hash}")))
    }
}

pub(super) fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, TransportFault> {
    T::deserialize(value).map_err(nonsense)
}

pub(super) fn nonsense(why: impl fmt::Display) -> TransportFault {
    TransportFault::Nonsense(why.to_string().chars().take(200).collect())
}

/// A value that is a string or a JSON value. A fraction is an error, so no amount passes through
/// floating point.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Number(u64),
    Truth(bool),
}

pub(super) fn scalar<'de, D: Deserializer<'de>, T>(from: D) -> Result<T, D::Error>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    let text = match Scalar::deserialize(from)? {
        Scalar::Text(text) => text,
        Scalar::Number(number) => number.to_string(),
        Scalar::Truth(_) => return Err(serde::de::Error::custom("a boolean where a number belongs")),
    };
    text.parse().map_err(serde::de::Error::custom)
}

/// For a field that may be missing. A field with a wrong value is still an error.
fn scalar_if_any<'de, D: Deserializer<'de>, T>(from: D) -> Result<Option<T>, D::Error>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    scalar(from).map(Some)
}

pub(super) fn truth<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    match Scalar::deserialize(from)? {
        Scalar::Truth(truth) => Ok(truth),
        Scalar::Number(0) => Ok(false),
        Scalar::Number(1) => Ok(true),
        Scalar::Text(text) => match text.as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(serde::de::Error::custom("neither true nor false")),
        },
        Scalar::Number(_) => Err(serde::de::Error::custom("neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn not_found_is_distinguished_from_every_other_error() {
        assert!(says_not_found("Account not found") && says_not_found("Block not found"));
        for other in
            ["Active confirmation not found", "Bad account number", "Unknown command", "", "not found"]
        {
            assert!(!says_not_found(other), "{other}");
        }
    }

    #[test]
    fn empty_collections_have_three_forms() {
        for empty in [json!({"blocks": ""}), json!({"blocks": []}), json!({"blocks": {}})] {
            assert_eq!(receivable(&empty), Ok(Vec::new()), "{empty}");
        }
        for nonsense in [json!({}), json!({"blocks": "x"}), json!({"blocks": 1}), json!({"blocks": ["AB"]})] {
            assert!(matches!(receivable(&nonsense), Err(TransportFault::Nonsense(_))), "{nonsense}");
        }
    }

    /// Captured from both implementations and shortened: hashes in upper and lower case, `contents` as
    /// text or as JSON, and an empty answer in each form.
    #[test]
    fn many_blocks_are_read_in_either_dialect() {
        let contents = json!({
            "type": "state",
            "account": Account::BURN, "previous": BlockHash::ZERO, "representative": Account::BURN,
            "balance": "7", "link": BlockHash::ZERO, "signature": "00".repeat(64), "work": "CBAF14D31106C88E",
        });
        let info = |contents: Value| json!({"block_account": Account::BURN, "balance": "7", "confirmed": "true", "contents": contents});
        let (upper, lower) = ("AB".repeat(32), "cd".repeat(32));
        let answer = json!({
            "blocks": {upper.as_str(): info(contents.clone()), lower.as_str(): info(contents.to_string().into())},
            "blocks_not_found": ["00".repeat(32)],
        });
        let found = blocks_info(&answer).unwrap();
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [BlockHash([0xab; 32]), BlockHash([0xcd; 32])]);
        assert!(found.values().all(|info| info.confirmed && info.balance.get() == 7));
        for none in [json!({"blocks": ""}), json!({"blocks": {}}), json!({"blocks": []})] {
            assert_eq!(blocks_info(&none), Ok(BTreeMap::new()), "{none}");
        }
        for nonsense in [json!({}), json!({"blocks": [1]}), json!({"blocks": {"AB": info(contents)}})] {
            assert!(matches!(blocks_info(&nonsense), Err(TransportFault::Nonsense(_))), "{nonsense}");
        }
    }

    #[test]
    fn the_largest_receivable_comes_first() {
        let (small, large) = ("11".repeat(32), "22".repeat(32));
        let found = receivable(&json!({"blocks": {small.as_str(): "1", large.as_str(): "10"}})).unwrap();
        assert_eq!(found.iter().map(|it| it.amount.get()).collect::<Vec<_>>(), [10, 1]);
    }

    #[test]
    fn numbers_and_booleans_come_as_strings_or_values() {
        let expected = BlockCount { count: 3, cemented: 2 };
        assert_eq!(block_count(&json!({"count": "3", "cemented": 2})), Ok(expected));
        assert!(block_count(&json!({"count": "3", "cemented": 2.5})).is_err());
        assert!(block_count(&json!({"count": true, "cemented": 2})).is_err());
        for (value, meant) in
            [(json!("true"), true), (json!(true), true), (json!("1"), true), (json!(0), false)]
        {
            assert_eq!(truth(&value).ok(), Some(meant), "{value}");
        }
        assert!(truth(json!("yes")).is_err() && truth(json!(2)).is_err());
    }

    #[test]
    fn work_below_the_threshold_is_not_believed() {
        let answer = json!({"work": "0000000000000000"});
        let root = [7; 32];
        assert!(work(&answer, &root, Threshold(0)).is_ok());
        assert!(matches!(work(&answer, &root, Threshold(u64::MAX)), Err(TransportFault::NotBelieved(_))));
    }

    #[test]
    fn an_accepted_block_is_the_one_that_was_sent() {
        let answer = json!({"hash": "ab".repeat(32)});
        assert_eq!(processed(&answer, BlockHash([0xab; 32])), Ok(()));
        assert!(matches!(processed(&answer, BlockHash([1; 32])), Err(TransportFault::NotBelieved(_))));
        assert!(matches!(
            processed(&json!({"started": "1"}), BlockHash([1; 32])),
            Err(TransportFault::Nonsense(_))
        ));
    }
}
