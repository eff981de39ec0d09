//! A node's RPC with the formats and the error texts of the C++ reference node: numbers and booleans
//! are strings, an empty collection is `""`, and every error is an HTTP 200
//! ([nodes guide](crate::guide::nodes)).

mod accounts;
mod blocks;
mod node;
mod process;
mod receivable;
mod request;
mod work;

use serde_json::{Map, Value, json};

use super::lattice::{BlockRefusal, Lattice, Now};
use crate::nano::{Account, BlockHash, HexError, Raw, Signature, StateBlock, Work};
use request::RpcRequest;

pub(super) use work::{Cancel, WorkJob, generate};

/// An error that a node answers. The texts are the reference node's.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum RpcError {
    #[error("Can only POST requests")]
    NotPost,
    #[error("Unable to parse JSON")]
    UnparsableJson,
    #[error("Unknown command")]
    UnknownCommand,
    #[error("Empty response")]
    EmptyResponse,
    #[error("Account not found")]
    AccountNotFound,
    #[error("Bad account number")]
    BadAccount,
    #[error("Block not found")]
    BlockNotFound,
    #[error("Invalid block hash")]
    InvalidBlockHash,
    #[error("Bad hash number")]
    BadHash,
    #[error("Block is invalid")]
    InvalidBlock,
    #[error("Block work is less than threshold")]
    WorkLow,
    #[error("Invalid block subtype")]
    InvalidSubtype,
    #[error("Invalid block balance for given subtype")]
    SubtypeBalance,
    #[error("Invalid previous block for given subtype")]
    SubtypePrevious,
    #[error("Invalid epoch link")]
    SubtypeEpochLink,
    #[error("Invalid count")]
    InvalidCount,
    #[error("Invalid offset")]
    InvalidOffset,
    #[error("Bad threshold number")]
    BadThreshold,
    #[error("Bad work")]
    BadWork,
    #[error("Bad difficulty")]
    BadDifficulty,
    #[error("Bad multiplier")]
    BadMultiplier,
    #[error("Difficulty above config limit or below publish threshold")]
    DifficultyLimit,
    #[error("Work generation cancellation or failure")]
    WorkFailed,
    #[error("Active confirmation not found")]
    ConfirmationNotFound,
    #[error("Invalid root hash")]
    InvalidRoot,
    #[error(transparent)]
    Refused(#[from] BlockRefusal),
}

impl RpcError {
    pub(super) fn to_json(&self) -> Value {
        json!({ "error": self.to_string() })
    }
}

/// The result of a request.
pub(super) enum RpcReply {
    /// The complete answer.
    Now(Value),
    /// Work, to be computed outside the ledger's lock.
    Work(WorkJob),
}

/// A request whose action is known.
pub(super) struct RpcCall(RpcRequest);

impl RpcCall {
    /// Reads a body.
    ///
    /// # Errors
    /// [`RpcError::UnparsableJson`], also if there is no `action`.
    pub(super) fn parse(body: &[u8]) -> Result<(String, Self), RpcError> {
        let request = RpcRequest::parse(body)?;
        let action = request.required("action")?;
        Ok((action, Self(request)))
    }

    /// Answers from `ledger`. Only `process` changes it.
    ///
    /// # Errors
    /// The [`RpcError`] of the reference node.
    pub(super) fn answer(&self, action: &str, ledger: &mut Lattice, now: Now) -> Result<RpcReply, RpcError> {
        let request = &self.0;
        let answer = match action {
            "account_balance" => accounts::balance(request, ledger),
            "account_history" => accounts::history(request, ledger),
            "account_info" => accounts::info(request, ledger),
            "accounts_balances" => accounts::balances(request, ledger),
            "accounts_frontiers" => accounts::frontiers(request, ledger),
            "receivable" => receivable::of_account(request, ledger),
            "pending" => receivable::of_account(request, ledger).map(deprecated),
            "accounts_receivable" => receivable::of_accounts(request, ledger),
            "accounts_pending" => receivable::of_accounts(request, ledger).map(deprecated),
            "receivable_exists" => receivable::exists(request, ledger),
            "pending_exists" => receivable::exists(request, ledger).map(deprecated),
            "block_info" => blocks::info(request, ledger),
            "blocks_info" => blocks::infos(request, ledger),
            "block_confirm" => blocks::confirm(request, ledger),
            "block_count" => Ok(node::block_count(ledger)),
            "confirmation_info" => blocks::confirmation_info(request),
            "confirmation_quorum" => Ok(node::confirmation_quorum(ledger)),
            "active_difficulty" => Ok(node::active_difficulty(ledger)),
            "telemetry" => Ok(node::telemetry(ledger, now)),
            "uptime" => Ok(node::uptime(now)),
            "version" => Ok(node::version(ledger)),
            "process" => process::process(request, ledger, now),
            "work_generate" => return work::job(request, ledger).map(RpcReply::Work),
            "work_validate" => work::validate(request, ledger),
            _ => Err(RpcError::UnknownCommand),
        }?;
        Ok(RpcReply::Now(request.with_account_format_notice(answer)))
    }
}

/// Whether an action only reads, and so can be answered from an old state of the ledger.
#[cfg(feature = "devnet-faults")]
pub(super) fn only_reads(action: &str) -> bool {
    !matches!(action, "process" | "work_generate")
}

fn deprecated(mut answer: Value) -> Value {
    if let Value::Object(fields) = &mut answer {
        fields.insert("deprecated".to_owned(), Value::from("1"));
    }
    answer
}

/// A map; the reference node prints an empty one as `""`.
fn map_or_empty(map: Map<String, Value>) -> Value {
    if map.is_empty() { Value::from("") } else { Value::Object(map) }
}

/// A list; the reference node prints an empty one as `""`.
fn list_or_empty(list: Vec<Value>) -> Value {
    if list.is_empty() { Value::from("") } else { Value::Array(list) }
}

fn flag(value: bool) -> Value {
    Value::from(if value { "1" } else { "0" })
}

/// A block as `contents` carries it: an object if `json_block` was asked for, else text.
pub(super) fn contents(block: &StateBlock, as_json: bool) -> Value {
    let block = NodeBlock::of(block);
    if as_json {
        return serde_json::to_value(block).unwrap_or_default();
    }
    let mut text = pretty(&block);
    text.push('\n');
    Value::from(text)
}

/// A block as the reference node prints it: hexadecimal in upper case, except for the work.
#[derive(serde::Serialize)]
struct NodeBlock {
    r#type: &'static str,
    account: Account,
    previous: BlockHash,
    representative: Account,
    balance: Raw,
    link: BlockHash,
    link_as_account: Account,
    signature: Signature,
    work: Option<Work>,
}

impl NodeBlock {
    const fn of(block: &StateBlock) -> Self {
        Self {
            r#type: "state",
            account: block.account,
            previous: block.previous,
            representative: block.representative.0,
            balance: block.balance,
            link: BlockHash(block.link),
            link_as_account: block.destination(),
            signature: block.signature,
            work: block.work,
        }
    }
}

/// JSON with the reference node's layout.
pub(super) fn pretty(value: &impl serde::Serialize) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let written = value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter));
    debug_assert!(written.is_ok(), "writing maps with text keys to memory cannot fail");
    String::from_utf8(bytes).unwrap_or_default()
}

/// Reads hexadecimal as the reference node does: missing leading zeros are allowed.
fn lenient_hex<T: std::str::FromStr<Err = HexError>>(text: &str, digits: usize) -> Option<T> {
    if text.is_empty() || text.len() > digits {
        return None;
    }
    format!("{text:0>digits$}").parse().ok()
}
