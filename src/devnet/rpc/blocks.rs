//! Answers about blocks.

use serde_json::{Map, Value, json};

use super::receivable::is_receivable;
use super::request::{HASH_DIGITS, RpcRequest};
use super::{RpcError, contents, flag, lenient_hex, list_or_empty, map_or_empty};
use crate::devnet::lattice::{BlockKind, Lattice, LedgerEntry};
use crate::nano::BlockHash;

/// A qualified root is the root followed by the previous block.
const ROOT_DIGITS: usize = 2 * HASH_DIGITS;

pub(super) fn info(request: &RpcRequest, ledger: &Lattice) -> Result<Value, RpcError> {
    let entry = ledger.entry(request.hash()?).ok_or(RpcError::BlockNotFound)?;
    Ok(Value::Object(describe(entry, request.flag("json_block", false))))
}

fn describe(entry: &LedgerEntry, json_block: bool) -> Map<String, Value> {
    let mut answer = Map::new();
    let mut put = |name: &str, value: Value| answer.insert(name.to_owned(), value);
    put("block_account", json!(entry.block.account));
    put("amount", json!(entry.amount));
    put("balance", json!(entry.block.balance));
    put("height", Value::from(entry.height.to_string()));
    put("local_timestamp", Value::from(entry.arrived.to_string()));
    put("successor", json!(entry.successor.unwrap_or(BlockHash::ZERO)));
    put("confirmed", Value::from(entry.confirmed.to_string()));
    put("contents", contents(&entry.block, json_block));
    put("subtype", Value::from(entry.kind.subtype()));
    answer
}

pub(super) fn infos(request: &RpcRequest, ledger: &Lattice) -> Result<Value, RpcError> {
    let include_not_found = request.flag("include_not_found", false);
    let (mut blocks, mut not_found) = (Map::new(), Vec::new());
    for text in request.list("hashes")? {
        let hash = lenient_hex(&text, HASH_DIGITS).ok_or(RpcError::BadHash)?;
        match ledger.entry(hash) {
            Some(entry) => {
                let described = describe_more(request, ledger, hash, entry);
                blocks.insert(text, Value::Object(described));
            }
            None if include_not_found => not_found.push(Value::from(text)),
            None => return Err(RpcError::BlockNotFound),
        }
    }
    let mut answer = json!({ "blocks": map_or_empty(blocks) });
    if include_not_found && let Value::Object(fields) = &mut answer {
        fields.insert("blocks_not_found".to_owned(), list_or_empty(not_found));
    }
    Ok(answer)
}

fn describe_more(
    request: &RpcRequest,
    ledger: &Lattice,
    hash: BlockHash,
    entry: &LedgerEntry,
) -> Map<String, Value> {
    let mut answer = describe(entry, request.flag("json_block", false));
    let mut put = |name: &str, value: Value| answer.insert(name.to_owned(), value);
    if request.flag("receivable", request.flag("pending", false)) {
        let waits = entry.kind == BlockKind::Send && is_receivable(ledger, hash);
        put("pending", flag(waits));
        put("receivable", flag(waits));
    }
    if request.flag("receive_hash", false) {
        put("receive_hash", json!(ledger.received_by(hash).unwrap_or(BlockHash::ZERO)));
    }
    if request.flag("source", false) {
        let receives = entry.kind == BlockKind::Receive;
        let send = receives.then(|| ledger.entry(BlockHash(entry.block.link))).flatten();
        put("source_account", send.map_or(Value::from("0"), |send| json!(send.block.account)));
    }
    answer
}

/// Asks for an election. Blocks are confirmed without elections here, so none is started.
pub(super) fn confirm(request: &RpcRequest, ledger: &Lattice) -> Result<Value, RpcError> {
    ledger.entry(request.hash()?).ok_or(RpcError::BlockNotFound)?;
    Ok(json!({ "started": "1" }))
}

/// There are no elections here.
pub(super) fn confirmation_info(request: &RpcRequest) -> Result<Value, RpcError> {
    let root = request.required("root")?;
    let is_root = root.len() == ROOT_DIGITS && root.bytes().all(|byte| byte.is_ascii_hexdigit());
    Err(if is_root { RpcError::ConfirmationNotFound } else { RpcError::InvalidRoot })
}
