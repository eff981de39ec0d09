//! Calls about many accounts at once and about an account's history. Sweeps and `reconcile` use them;
//! no payment does.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::answer::{nonsense, receivable_of, scalar, truth, typed};
use super::transport::TransportFault;
use super::{LedgerError, NodeClient, Receivable, RpcCall};
use crate::nano::{Account, BlockHash, Raw};

/// The most accounts in one call. The answer stays far below the longest that is read.
const ACCOUNTS_PER_CALL: usize = 256;

/// The most accounts in one call for their receivable sends, and the call's `count`. The C++ node reads
/// `count` as the sends of each account, RsNano as a number of accounts, so it must not be lower than
/// the number of accounts.
const RECEIVABLE_PER_CALL: usize = 64;

/// The most receivable sends of one account that are read; about 3 MiB of an answer.
pub const MOST_RECEIVABLE: u32 = 12_000;

/// Blocks in one page of a history.
const HISTORY_PAGE: u32 = 1000;

/// What an account has, in raw.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize)]
pub struct Balance {
    #[serde(deserialize_with = "scalar")]
    pub balance: Raw,
    /// Sent to the account and not received.
    #[serde(deserialize_with = "scalar")]
    pub receivable: Raw,
}

/// A send that an account has received, from the account's own chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReceivedSend {
    /// The send.
    pub send: BlockHash,
    pub amount: Raw,
    /// The sender, if the node reports it.
    pub source: Option<Account>,
}

/// One page of an account's history.
struct HistoryPage {
    received: Vec<ReceivedSend>,
    /// The first block of the next page; `None` if this is the last page.
    next: Option<BlockHash>,
}

impl NodeClient {
    /// `accounts_balances`: what each of `accounts` has, in their order. An account that the node does
    /// not know has zero.
    ///
    /// # Errors
    /// [`LedgerError`] if no node answered.
    pub async fn balances(&self, accounts: &[Account]) -> Result<Vec<Balance>, LedgerError> {
        let mut found = Vec::with_capacity(accounts.len());
        for part in accounts.chunks(ACCOUNTS_PER_CALL) {
            let call = RpcCall::new("accounts_balances", [("accounts", list(part))]);
            let balances = self.first(call, balances).await?;
            found.extend(part.iter().map(|it| balances.get(it).copied().unwrap_or_default()));
        }
        Ok(found)
    }

    /// `accounts_receivable`: confirmed sends of at least 1 raw to each of `accounts`, at most
    /// [`MOST_RECEIVABLE`] an account. Accounts with none are left out.
    ///
    /// # Errors
    /// [`LedgerError`] if no node answered.
    pub async fn accounts_receivable(
        &self,
        accounts: &[Account],
    ) -> Result<BTreeMap<Account, Vec<Receivable>>, LedgerError> {
        let mut found = BTreeMap::new();
        for part in accounts.chunks(RECEIVABLE_PER_CALL) {
            let call = RpcCall::new(
                "accounts_receivable",
                [
                    ("accounts", list(part)),
                    ("count", RECEIVABLE_PER_CALL.to_string().into()),
                    ("threshold", "1".into()),
                    ("source", "true".into()),
                    ("include_only_confirmed", "true".into()),
                ],
            );
            let asked: BTreeSet<_> = part.iter().copied().collect();
            for (account, mut blocks) in self.first(call, receivable_of_many).await? {
                if !asked.contains(&account) {
                    return Err(LedgerError::NotBelieved(format!("{account} was not asked for")));
                }
                if blocks.len() >= RECEIVABLE_PER_CALL {
                    blocks = self.receivable(account, MOST_RECEIVABLE, Raw::new(1)).await?;
                    if blocks.len() >= usize::try_from(MOST_RECEIVABLE).unwrap_or(usize::MAX) {
                        tracing::warn!(%account, read = blocks.len(), "the account has more receivable sends than are read");
                    }
                }
                found.insert(account, blocks);
            }
        }
        Ok(found)
    }

    /// `account_history`: every send that `account` has received in a confirmed block, the newest
    /// first.
    ///
    /// # Errors
    /// [`LedgerError`] if no node answered.
    pub async fn received(&self, account: Account) -> Result<Vec<ReceivedSend>, LedgerError> {
        let mut all = Vec::new();
        let mut seen = BTreeSet::new();
        let mut head: Option<BlockHash> = None;
        loop {
            let mut call = RpcCall::new(
                "account_history",
                [
                    ("account", account.to_string().into()),
                    ("count", HISTORY_PAGE.to_string().into()),
                    ("raw", "true".into()),
                ],
            );
            if let Some(hash) = head {
                call = call.with("head", hash.to_string().into());
            }
            let Some(page) = self.find(call, history).await? else { return Ok(all) };
            all.extend(page.received);
            // A node whose pages lead back to an earlier one would never end.
            match page.next {
                Some(next) if seen.insert(next) => head = Some(next),
                Some(_) | None => return Ok(all),
            }
        }
    }
}

fn list(accounts: &[Account]) -> Value {
    accounts.iter().map(|it| Value::from(it.to_string())).collect()
}

/// The entries of a map of accounts, which may be empty in any of three forms.
fn map_of<'a>(value: &'a Value, name: &str) -> Result<Vec<(Account, &'a Value)>, TransportFault> {
    let blocks = value.get(name).ok_or_else(|| nonsense(format_args!("`{name}` is missing")))?;
    match blocks {
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        Value::Array(list) if list.is_empty() => Ok(Vec::new()),
        Value::Object(entries) => {
            entries.iter().map(|(account, value)| Ok((account.parse().map_err(nonsense)?, value))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(nonsense(format_args!("`{name}` is not a map of accounts")))
        }
    }
}

fn balances(value: &Value) -> Result<BTreeMap<Account, Balance>, TransportFault> {
    // If a node can read no account of the call, it leaves out the map and lists errors.
    if value.get("balances").is_none() && value.get("errors").is_some() {
        return Ok(BTreeMap::new());
    }
    map_of(value, "balances")?.into_iter().map(|(account, it)| Ok((account, typed(it)?))).collect()
}

fn receivable_of_many(value: &Value) -> Result<BTreeMap<Account, Vec<Receivable>>, TransportFault> {
    map_of(value, "blocks")?.into_iter().map(|(account, it)| Ok((account, receivable_of(it)?))).collect()
}

fn history(value: &Value) -> Result<HistoryPage, TransportFault> {
    #[derive(Deserialize)]
    struct HistoryEntry {
        #[serde(default)]
        subtype: String,
        #[serde(default, deserialize_with = "some_truth")]
        confirmed: Option<bool>,
        link: Option<BlockHash>,
        amount: Option<Raw>,
        account: Option<Account>,
    }
    fn some_truth<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<bool>, D::Error> {
        truth(from).map(Some)
    }
    let entries = match value.get("history") {
        Some(Value::Array(entries)) => entries.as_slice(),
        Some(Value::String(text)) if text.is_empty() => &[],
        Some(_) | None => return Err(nonsense("`history` is not a list")),
    };
    let mut received = Vec::new();
    for entry in entries {
        let entry: HistoryEntry = typed(entry)?;
        let receives = matches!(entry.subtype.as_str(), "receive" | "open") && entry.confirmed != Some(false);
        if let (true, Some(send), Some(amount)) = (receives, entry.link, entry.amount) {
            received.push(ReceivedSend { send, amount, source: entry.account });
        }
    }
    let next = value.get("previous").and_then(Value::as_str).and_then(|it| it.parse().ok());
    Ok(HistoryPage { received, next: next.filter(|it| *it != BlockHash::ZERO) })
}
