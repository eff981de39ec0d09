//! Answers about sends that have not been received.

use serde_json::{Map, Value, json};

use super::request::{RpcRequest, account};
use super::{RpcError, flag, list_or_empty, map_or_empty};
use crate::devnet::lattice::Lattice;
use crate::nano::{Account, BlockHash, Raw};

/// Which receivable sends the request asks for, and in which format.
struct ReceivableQuery {
    count: usize,
    threshold: Raw,
    source: bool,
    only_confirmed: bool,
    sorting: bool,
}

impl ReceivableQuery {
    fn read(request: &RpcRequest) -> Result<Self, RpcError> {
        let count = request.count()?.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
        Ok(Self {
            count,
            threshold: request.threshold()?,
            source: request.flag("source", false),
            only_confirmed: request.flag("include_only_confirmed", true),
            sorting: request.flag("sorting", false),
        })
    }

    /// A list of hashes if only hashes were asked for, else a map.
    fn print(&self, ledger: &Lattice, account: Account, offset: usize) -> Value {
        let mut chosen: Vec<_> = ledger
            .receivables(account)
            .filter(|&(hash, _)| !self.only_confirmed || ledger.is_confirmed(hash))
            .filter(|(_, receivable)| receivable.amount >= self.threshold)
            .collect();
        if self.sorting {
            chosen.sort_by_key(|&(_, receivable)| std::cmp::Reverse(receivable.amount));
        }
        let chosen = chosen.into_iter().skip(offset).take(self.count);
        if self.threshold.is_zero() && !self.source && !self.sorting {
            return list_or_empty(chosen.map(|(hash, _)| json!(hash)).collect());
        }
        let print = |(hash, it): (BlockHash, crate::devnet::lattice::UnreceivedSend)| {
            let amount = json!(it.amount);
            let value = if self.source { json!({ "amount": amount, "source": it.source }) } else { amount };
            (hash.to_string(), value)
        };
        map_or_empty(chosen.map(print).collect())
    }
}

pub(super) fn of_account(request: &RpcRequest, ledger: &Lattice) -> Result<Value, RpcError> {
    let account = request.account()?;
    let form = ReceivableQuery::read(request)?;
    let offset = usize::try_from(request.offset()?).unwrap_or(usize::MAX);
    Ok(json!({ "blocks": form.print(ledger, account, offset) }))
}

pub(super) fn of_accounts(request: &RpcRequest, ledger: &Lattice) -> Result<Value, RpcError> {
    let form = ReceivableQuery::read(request)?;
    let mut blocks = Map::new();
    for text in request.list("accounts")? {
        let account = account(&text)?;
        let receivable = form.print(ledger, account, 0);
        if receivable != "" {
            blocks.insert(account.to_string(), receivable);
        }
    }
    Ok(json!({ "blocks": map_or_empty(blocks) }))
}

pub(super) fn exists(request: &RpcRequest, ledger: &Lattice) -> Result<Value, RpcError> {
    let hash = request.hash()?;
    let entry = ledger.entry(hash).ok_or(RpcError::BlockNotFound)?;
    let only_confirmed = request.flag("include_only_confirmed", true);
    let waits = is_receivable(ledger, hash) && (!only_confirmed || entry.confirmed);
    Ok(json!({ "exists": flag(waits) }))
}

/// Whether the block is a send that has not been received.
pub(super) fn is_receivable(ledger: &Lattice, hash: BlockHash) -> bool {
    ledger
        .entry(hash)
        .is_some_and(|entry| ledger.receivables(entry.block.destination()).any(|(it, _)| it == hash))
}
