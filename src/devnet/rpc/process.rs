//! `process`: a block is published.

use serde_json::{Value, json};

use super::request::{HASH_DIGITS, RpcRequest, WORK_DIGITS, account};
use super::{RpcError, lenient_hex};
use crate::devnet::lattice::{BlockRefusal, Lattice, Now};
use crate::nano::{BlockHash, Representative, StateBlock};

/// Hexadecimal digits of a signature.
const SIGNATURE_DIGITS: usize = 128;

pub(super) fn process(request: &RpcRequest, ledger: &mut Lattice, now: Now) -> Result<Value, RpcError> {
    let block = block(request)?;
    if let Some(subtype) = request.text("subtype").filter(|subtype| !subtype.is_empty()) {
        check_subtype(ledger, &block, &subtype)?;
    }
    // The least work of any block. What this one needs is known once its kind is.
    let thresholds = ledger.thresholds();
    let entry = thresholds.receive.min(thresholds.send);
    if !block.work.is_some_and(|work| work.reaches(&block.work_root(), entry)) {
        return Err(RpcError::WorkLow);
    }
    let outcome = ledger.process(block, now);
    if request.flag("async", false) {
        return Ok(json!({ "started": "1" }));
    }
    Ok(json!({ "hash": outcome? }))
}

/// Checks the block against its `subtype` before the ledger's rules apply
/// ([nodes guide](crate::guide::nodes)). Compares with the account's current balance, wherever in the
/// chain the block belongs.
fn check_subtype(ledger: &Lattice, block: &StateBlock, subtype: &str) -> Result<(), RpcError> {
    let opens = block.previous == BlockHash::ZERO;
    if !opens && ledger.entry(block.previous).is_none() {
        return Err(BlockRefusal::GapPrevious.into());
    }
    let balance = ledger.balance(block.account);
    match subtype {
        "send" if balance <= block.balance => Err(RpcError::SubtypeBalance),
        "receive" if balance > block.balance => Err(RpcError::SubtypeBalance),
        "open" if !opens => Err(RpcError::SubtypePrevious),
        "change" | "epoch" if balance != block.balance => Err(RpcError::SubtypeBalance),
        "change" if opens => Err(RpcError::SubtypePrevious),
        "epoch" => Err(RpcError::SubtypeEpochLink),
        "send" | "receive" | "open" | "change" => Ok(()),
        _ => Err(RpcError::InvalidSubtype),
    }
}

/// The block: an object with `json_block`, else text.
fn block(request: &RpcRequest) -> Result<StateBlock, RpcError> {
    let field = request.field("block").ok_or(RpcError::UnparsableJson)?;
    if request.flag("json_block", false) {
        return read_block(field).ok_or(RpcError::InvalidBlock);
    }
    let text = field.as_str().unwrap_or_default();
    let value = serde_json::from_str(text).map_err(|_| RpcError::InvalidBlock)?;
    read_block(&value).ok_or(RpcError::InvalidBlock)
}

/// Reads a block as leniently as nodes do: `link` counts and `link_as_account` is ignored
/// ([nodes guide](crate::guide::nodes)). [`StateBlock`]'s own reading is stricter.
fn read_block(value: &Value) -> Option<StateBlock> {
    let field = |name| value.get(name).and_then(Value::as_str);
    let hash = |name| lenient_hex::<BlockHash>(field(name)?, HASH_DIGITS);
    if field("type")? != "state" {
        return None;
    }
    Some(StateBlock {
        account: account(field("account")?).ok()?,
        previous: hash("previous")?,
        representative: Representative(account(field("representative")?).ok()?),
        balance: field("balance")?.parse().ok()?,
        link: hash("link")?.0,
        signature: lenient_hex(field("signature")?, SIGNATURE_DIGITS)?,
        work: Some(lenient_hex(field("work")?, WORK_DIGITS)?),
    })
}
