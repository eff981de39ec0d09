//! What a node's JSON means, in either dialect.
//!
//! The C++ node writes every number and boolean as a string and an empty collection as `""`;
//! RsNano writes some as JSON values. Whatever has neither form is nonsense, not a default.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::transport::Fault;
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
    /// Votes with the balance after `frontier`.
    pub representative: Representative,
    /// The newest confirmed block; zero where none is.
    #[serde(deserialize_with = "scalar")]
    pub confirmed_frontier: BlockHash,
    /// The balance after `confirmed_frontier`.
    #[serde(deserialize_with = "scalar")]
    pub confirmed_balance: Raw,
    /// How many of its blocks are confirmed, where the node says; one that is behind shows fewer.
    #[serde(default, deserialize_with = "scalar_if_any")]
    pub confirmed_height: Option<u64>,
    /// What was sent to the account and not received yet, where the node says.
    #[serde(default, deserialize_with = "scalar_if_any")]
    pub receivable: Option<Raw>,
}

/// `block_info`. Nothing in it is proved by it; a state block's contents are by their hash.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BlockInfo {
    /// Whose chain the block is on.
    pub account: Account,
    /// The account's balance after the block, as the node tells it.
    pub balance: Raw,
    pub confirmed: bool,
    /// The next block of the chain, if the node has one.
    pub successor: Option<BlockHash>,
    pub contents: Contents,
}

/// A block as a node shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Contents {
    State(StateBlock),
    /// From before state blocks; its `type`.
    Legacy(String),
}

/// One block that can be received.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Receivable {
    /// The send.
    pub hash: BlockHash,
    pub amount: Raw,
    /// Who sent it, where the node says.
    pub source: Option<Account>,
}

/// `version`.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize)]
pub struct Version {
    /// Name and number of the software.
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

/// `telemetry`, summed over the node's peers.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize)]
pub struct Telemetry {
    #[serde(deserialize_with = "scalar")]
    pub block_count: u64,
    #[serde(deserialize_with = "scalar")]
    pub cemented_count: u64,
    #[serde(deserialize_with = "scalar")]
    pub peer_count: u64,
    /// Tells networks apart.
    #[serde(deserialize_with = "scalar")]
    pub genesis_block: BlockHash,
}

/// Whether a node's `error` says that there is no such account or block. The one place where a
/// node's text decides anything: neither dialect says it in another way (NODE, appendix A).
pub(super) fn says_not_found(error: &str) -> bool {
    matches!(error, "Account not found" | "Block not found")
}

pub(super) fn account_info(value: &Value) -> Result<AccountInfo, Fault> {
    typed(value)
}

pub(super) fn version(value: &Value) -> Result<Version, Fault> {
    typed(value)
}

pub(super) fn block_count(value: &Value) -> Result<BlockCount, Fault> {
    typed(value)
}

pub(super) fn telemetry(value: &Value) -> Result<Telemetry, Fault> {
    typed(value)
}

pub(super) fn block_info(value: &Value) -> Result<BlockInfo, Fault> {
    #[derive(Deserialize)]
    struct Told {
        block_account: Account,
        #[serde(deserialize_with = "scalar")]
        balance: Raw,
        #[serde(deserialize_with = "truth")]
        confirmed: bool,
        #[serde(default)]
        successor: Option<BlockHash>,
        contents: Value,
    }
    let told: Told = typed(value)?;
    // A string of JSON, unless the node knows `json_block` (trap 9).
    let contents = match told.contents.as_str() {
        Some(text) => serde_json::from_str(text).map_err(nonsense)?,
        None => told.contents,
    };
    let contents = match contents.get("type").and_then(Value::as_str) {
        Some("state") => Contents::State(typed(&contents)?),
        Some(kind @ ("send" | "receive" | "open" | "change")) => Contents::Legacy(kind.to_owned()),
        Some(_) | None => return Err(nonsense("`contents` has no known `type`")),
    };
    Ok(BlockInfo {
        account: told.block_account,
        balance: told.balance,
        confirmed: told.confirmed,
        successor: told.successor.filter(|next| *next != BlockHash::ZERO),
        contents,
    })
}

/// `blocks_info` with `include_not_found`: what is known, by hash. What is not is left out.
pub(super) fn blocks_info(value: &Value) -> Result<BTreeMap<BlockHash, BlockInfo>, Fault> {
    let blocks = value.get("blocks").ok_or_else(|| nonsense("`blocks` is missing"))?;
    let Value::Object(blocks) = blocks else {
        return if is_empty(blocks) { Ok(BTreeMap::new()) } else { Err(nonsense("`blocks` is no map")) };
    };
    let read = |(hash, info): (&String, &Value)| Ok((hash.parse().map_err(nonsense)?, block_info(info)?));
    blocks.iter().map(read).collect()
}

/// An empty collection, in any of its spellings.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The largest first.
pub(super) fn receivable(value: &Value) -> Result<Vec<Receivable>, Fault> {
    receivable_of(value.get("blocks").ok_or_else(|| nonsense("`blocks` is missing"))?)
}

/// The blocks of one account, the largest first.
pub(super) fn receivable_of(blocks: &Value) -> Result<Vec<Receivable>, Fault> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Entry {
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
    let entries: BTreeMap<String, Entry> = typed(blocks)?;
    let mut found = Vec::with_capacity(entries.len());
    for (hash, entry) in entries {
        let hash = hash.parse().map_err(nonsense)?;
        let (amount, source) = match entry {
            Entry::Sourced { amount, source } => (amount, Some(source)),
            Entry::Amount(amount) => (amount, None),
        };
        found.push(Receivable { hash, amount, source });
    }
    found.sort_by_key(|it| Reverse(it.amount));
    Ok(found)
}

pub(super) fn thresholds(value: &Value) -> Result<Thresholds, Fault> {
    #[derive(Deserialize)]
    struct Told {
        network_minimum: Threshold,
        network_receive_minimum: Threshold,
    }
    let told: Told = typed(value)?;
    Ok(Thresholds { send: told.network_minimum, receive: told.network_receive_minimum })
}

/// Work that does reach the threshold: RsNano's own check ignores it (trap 12).
pub(super) fn work(value: &Value, root: &[u8; 32], threshold: Threshold) -> Result<Work, Fault> {
    #[derive(Deserialize)]
    struct Told {
        work: Work,
    }
    let Told { work } = typed(value)?;
    if work.reaches(root, threshold) {
        Ok(work)
    } else {
        Err(Fault::NotBelieved(format!("its work {work} does not reach {threshold}")))
    }
}

/// Whether the node accepted the block that it was given.
pub(super) fn processed(value: &Value, sent: BlockHash) -> Result<(), Fault> {
    #[derive(Deserialize)]
    struct Told {
        hash: BlockHash,
    }
    let told: Told = typed(value)?;
    if told.hash == sent {
        Ok(())
    } else {
        Err(Fault::NotBelieved(format!("it was given {sent} and accepted {}", told.hash)))
    }
}

pub(super) fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, Fault> {
    T::deserialize(value).map_err(nonsense)
}

pub(super) fn nonsense(why: impl fmt::Display) -> Fault {
    Fault::Nonsense(why.to_string().chars().take(200).collect())
}

/// A value that is written as a string or as a JSON value. A fraction is neither: no amount passes
/// through floating point.
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

/// For a field that may be left out, not for one that is written wrong.
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
    fn not_found_is_told_from_every_other_error() {
        assert!(says_not_found("Account not found") && says_not_found("Block not found"));
        for other in
            ["Active confirmation not found", "Bad account number", "Unknown command", "", "not found"]
        {
            assert!(!says_not_found(other), "{other}");
        }
    }

    #[test]
    fn empty_collections_have_three_spellings() {
        for empty in [json!({"blocks": ""}), json!({"blocks": []}), json!({"blocks": {}})] {
            assert_eq!(receivable(&empty), Ok(Vec::new()), "{empty}");
        }
        for nonsense in [json!({}), json!({"blocks": "x"}), json!({"blocks": 1}), json!({"blocks": ["AB"]})] {
            assert!(matches!(receivable(&nonsense), Err(Fault::Nonsense(_))), "{nonsense}");
        }
    }

    /// As captured from both implementations, shortened: the hash in either case, `contents` as
    /// text or not, nothing found in any spelling.
    #[test]
    fn many_blocks_are_read_in_either_dialect() {
        let contents = json!({
            "type": "state",
            "account": Account::BURN, "previous": BlockHash::ZERO, "representative": Account::BURN,
            "balance": "7", "link": BlockHash::ZERO, "signature": "00".repeat(64), "work": "CBAF14D31106C88E",
        });
        let info = |contents: Value| json!({"block_account": Account::BURN, "balance": "7", "confirmed": "true", "contents": contents});
        let (upper, lower) = ("AB".repeat(32), "cd".repeat(32));
        let told = json!({
            "blocks": {upper.as_str(): info(contents.clone()), lower.as_str(): info(contents.to_string().into())},
            "blocks_not_found": ["00".repeat(32)],
        });
        let found = blocks_info(&told).unwrap();
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [BlockHash([0xab; 32]), BlockHash([0xcd; 32])]);
        assert!(found.values().all(|info| info.confirmed && info.balance.get() == 7));
        for none in [json!({"blocks": ""}), json!({"blocks": {}}), json!({"blocks": []})] {
            assert_eq!(blocks_info(&none), Ok(BTreeMap::new()), "{none}");
        }
        for nonsense in [json!({}), json!({"blocks": [1]}), json!({"blocks": {"AB": info(contents)}})] {
            assert!(matches!(blocks_info(&nonsense), Err(Fault::Nonsense(_))), "{nonsense}");
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
        let told = json!({"work": "0000000000000000"});
        let root = [7; 32];
        assert!(work(&told, &root, Threshold(0)).is_ok());
        assert!(matches!(work(&told, &root, Threshold(u64::MAX)), Err(Fault::NotBelieved(_))));
    }

    #[test]
    fn an_accepted_block_is_the_one_that_was_sent() {
        let told = json!({"hash": "ab".repeat(32)});
        assert_eq!(processed(&told, BlockHash([0xab; 32])), Ok(()));
        assert!(matches!(processed(&told, BlockHash([1; 32])), Err(Fault::NotBelieved(_))));
        assert!(matches!(processed(&json!({"started": "1"}), BlockHash([1; 32])), Err(Fault::Nonsense(_))));
    }
}
