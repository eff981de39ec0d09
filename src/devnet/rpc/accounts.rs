//! Answers about accounts.

use serde_json::{Map, Value, json};

use super::request::{HASH_DIGITS, RpcRequest, account};
use super::{RpcError, lenient_hex, list_or_empty};
use crate::devnet::lattice::{BlockKind, Lattice, LedgerEntry};
use crate::nano::{Account, BlockHash};

/// The version of every account here.
const ACCOUNT_VERSION: &str = "2";

pub(super) fn info(request: &RpcRequest, ledger: &Lattice) -> Result<Value, RpcError> {
    let account = request.account()?;
    let chain = ledger.chain(account).ok_or(RpcError::AccountNotFound)?;
    let include_confirmed = request.flag("include_confirmed", false);
    let confirmed = ledger.entry(chain.confirmed_frontier);
    let mut answer = Map::new();
    let mut put = |name: &str, value: String| answer.insert(name.to_owned(), Value::from(value));
    put("frontier", chain.frontier.to_string());
    put("open_block", chain.open.to_string());
    // Every state block names a representative.
    put("representative_block", chain.frontier.to_string());
    put("balance", chain.balance.to_string());
    put("modified_timestamp", chain.modified.to_string());
    put("block_count", chain.height.to_string());
    put("account_version", ACCOUNT_VERSION.to_owned());
    let height = chain.confirmed_height.to_string();
    if include_confirmed {
        put("confirmed_balance", ledger.confirmed_balance(account).to_string());
        put("confirmed_height", height);
        put("confirmed_frontier", chain.confirmed_frontier.to_string());
    } else {
        put("confirmation_height", height);
        put("confirmation_height_frontier", chain.confirmed_frontier.to_string());
    }
    if request.flag("representative", false) {
        put("representative", chain.representative.to_string());
        if include_confirmed {
            let representative = confirmed.map_or(Account::BURN, |entry| entry.block.representative.0);
            put("confirmed_representative", representative.to_string());
        }
    }
    if request.flag("weight", false) {
        put("weight", ledger.weight(account).to_string());
    }
    if request.flag("receivable", request.flag("pending", false)) {
        let sum = ledger.receivable_sum(account, false).to_string();
        put("pending", sum.clone());
        put("receivable", sum);
        if include_confirmed {
            let sum = ledger.receivable_sum(account, true).to_string();
            put("confirmed_pending", sum.clone());
            put("confirmed_receivable", sum);
        }
    }
    Ok(Value::Object(answer))
}

pub(super) fn balance(request: &RpcRequest, ledger: &Lattice) -> Result<Value, RpcError> {
    Ok(balance_of(request, ledger, request.account()?))
}

/// Both amounts are the confirmed ones unless `include_only_confirmed` is off.
fn balance_of(request: &RpcRequest, ledger: &Lattice, account: Account) -> Value {
    let only_confirmed = request.flag("include_only_confirmed", true);
    let balance = if only_confirmed { ledger.confirmed_balance(account) } else { ledger.balance(account) };
    let receivable = ledger.receivable_sum(account, only_confirmed);
    json!({ "balance": balance, "pending": receivable, "receivable": receivable })
}

pub(super) fn balances(request: &RpcRequest, ledger: &Lattice) -> Result<Value, RpcError> {
    for_each(request, "balances", |text| Ok((text.to_owned(), balance_of(request, ledger, account(text)?))))
}

pub(super) fn frontiers(request: &RpcRequest, ledger: &Lattice) -> Result<Value, RpcError> {
    for_each(request, "frontiers", |text| {
        let account = account(text)?;
        let frontier = ledger.frontier(account).ok_or(RpcError::AccountNotFound)?;
        Ok((account.to_string(), json!(frontier)))
    })
}

/// The `answer` for each of the request's `accounts` under `name`; accounts without one are under
/// `errors`.
fn for_each(
    request: &RpcRequest,
    name: &str,
    answer: impl Fn(&str) -> Result<(String, Value), RpcError>,
) -> Result<Value, RpcError> {
    let (mut found, mut errors) = (Map::new(), Map::new());
    for text in request.list("accounts")? {
        match answer(&text) {
            Ok((key, value)) => found.insert(key, value),
            Err(error) => errors.insert(text, Value::from(error.to_string())),
        };
    }
    let mut response = Map::new();
    for (name, part) in [(name, found), ("errors", errors)] {
        if !part.is_empty() {
            response.insert(name.to_owned(), Value::Object(part));
        }
    }
    if response.is_empty() { Err(RpcError::EmptyResponse) } else { Ok(Value::Object(response)) }
}

pub(super) fn history(request: &RpcRequest, ledger: &Lattice) -> Result<Value, RpcError> {
    request.required("count")?;
    let mut count = request.count()?.filter(|&count| count > 0).ok_or(RpcError::InvalidCount)?;
    let mut offset = request.offset()?;
    let (reverse, raw) = (request.flag("reverse", false), request.flag("raw", false));
    let (account, mut next) = history_start(request, ledger, reverse)?;
    let mut history = Vec::new();
    while count > 0
        && let Some((hash, entry)) = next.and_then(|hash| Some((hash, ledger.entry(hash)?)))
    {
        if offset > 0 {
            offset = offset.saturating_sub(1);
        } else if raw || entry.kind != BlockKind::Change {
            history.push(history_entry(ledger, hash, entry, raw));
            count = count.saturating_sub(1);
        }
        next = if reverse { entry.successor } else { Some(entry.block.previous) };
    }
    let mut answer = json!({ "account": account, "history": list_or_empty(history) });
    let rest = next.filter(|&hash| hash != BlockHash::ZERO);
    if let (Value::Object(fields), Some(rest)) = (&mut answer, rest) {
        let name = if reverse { "next" } else { "previous" };
        fields.insert(name.to_owned(), json!(rest));
    }
    Ok(answer)
}

/// The account and the block at which its history starts.
fn history_start(
    request: &RpcRequest,
    ledger: &Lattice,
    reverse: bool,
) -> Result<(Account, Option<BlockHash>), RpcError> {
    if let Some(head) = request.text("head") {
        let head = lenient_hex(&head, HASH_DIGITS).ok_or(RpcError::BadHash)?;
        let entry = ledger.entry(head).ok_or(RpcError::BlockNotFound)?;
        return Ok((entry.block.account, Some(head)));
    }
    let account = request.account()?;
    let chain = ledger.chain(account);
    if reverse {
        let chain = chain.ok_or(RpcError::AccountNotFound)?;
        return Ok((account, Some(chain.open)));
    }
    Ok((account, chain.map(|chain| chain.frontier)))
}

fn history_entry(ledger: &Lattice, hash: BlockHash, entry: &LedgerEntry, raw: bool) -> Value {
    let block = &entry.block;
    let mut answer = Map::new();
    let mut put = |name: &str, value: Value| answer.insert(name.to_owned(), value);
    put(if raw { "subtype" } else { "type" }, Value::from(entry.kind.subtype()));
    let other = match entry.kind {
        BlockKind::Send => Some(block.destination()),
        BlockKind::Receive => ledger.entry(BlockHash(block.link)).map(|send| send.block.account),
        BlockKind::Change => None,
    };
    if let Some(other) = other {
        put("account", json!(other));
    }
    if entry.kind != BlockKind::Change {
        put("amount", json!(entry.amount));
    }
    if raw {
        put("type", Value::from("state"));
        put("representative", json!(block.representative));
        put("link", json!(BlockHash(block.link)));
        put("balance", json!(block.balance));
        put("previous", json!(block.previous));
        put("work", json!(block.work));
        put("signature", json!(block.signature));
    }
    put("local_timestamp", Value::from(entry.arrived.to_string()));
    put("height", Value::from(entry.height.to_string()));
    put("hash", json!(hash));
    put("confirmed", Value::from(entry.confirmed.to_string()));
    Value::Object(answer)
}
