//! Calls about many accounts at once, and about an account's past: what bringing the money home
//! and checking the books ask for, and no payment does.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::answer::{nonsense, receivable_of, scalar, truth, typed};
use super::transport::Fault;
use super::{Call, LedgerError, NodeClient, Receivable};
use crate::nano::{Account, BlockHash, Raw};

/// Accounts of one call. An answer about so many stays far below what is read of one.
const ACCOUNTS_PER_CALL: usize = 256;

/// Receivable blocks of one account in a call about many. An account with more is asked for alone.
const FEW: u32 = 32;

/// Receivable blocks of one account that are read at most; about 3 MiB of an answer.
pub const MOST_RECEIVABLE: u32 = 12_000;

/// Blocks of one page of a history.
const HISTORY_PAGE: u32 = 1000;

/// What an account has, confirmed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize)]
pub struct Balance {
    #[serde(deserialize_with = "scalar")]
    pub balance: Raw,
    /// Sent to it and not received.
    #[serde(deserialize_with = "scalar")]
    pub receivable: Raw,
}

/// A send that an account has received, as its own chain shows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Received {
    /// The send.
    pub send: BlockHash,
    pub amount: Raw,
    /// Who sent it, where the node says.
    pub source: Option<Account>,
}

/// A page of an account's history.
struct Page {
    received: Vec<Received>,
    /// Where the next one begins.
    next: Option<BlockHash>,
}

impl NodeClient {
    /// `accounts_balances`: what each of `accounts` has, in their order; nothing is zero.
    ///
    /// # Errors
    /// [`LedgerError`], when no node answered.
    pub async fn balances(&self, accounts: &[Account]) -> Result<Vec<Balance>, LedgerError> {
        let mut found = Vec::with_capacity(accounts.len());
        for part in accounts.chunks(ACCOUNTS_PER_CALL) {
            let call = Call::new("accounts_balances", [("accounts", list(part))]);
            let balances = self.first(call, balances).await?;
            found.extend(part.iter().map(|it| balances.get(it).copied().unwrap_or_default()));
        }
        Ok(found)
    }

    /// What can be received on `accounts`, at least 1 raw and confirmed, at most
    /// [`MOST_RECEIVABLE`] of an account. Accounts without are left out.
    ///
    /// # Errors
    /// [`LedgerError`], when no node answered.
    pub async fn accounts_receivable(
        &self,
        accounts: &[Account],
    ) -> Result<BTreeMap<Account, Vec<Receivable>>, LedgerError> {
        let mut found = BTreeMap::new();
        for part in accounts.chunks(ACCOUNTS_PER_CALL) {
            let call = Call::new(
                "accounts_receivable",
                [
                    ("accounts", list(part)),
                    ("count", FEW.to_string().into()),
                    ("threshold", "1".into()),
                    ("source", "true".into()),
                    ("include_only_confirmed", "true".into()),
                ],
            );
            let asked: BTreeSet<_> = part.iter().copied().collect();
            let few = usize::try_from(FEW).unwrap_or(usize::MAX);
            for (account, mut blocks) in self.first(call, receivable_of_many).await? {
                if !asked.contains(&account) {
                    return Err(LedgerError::NotBelieved(format!("{account} was not asked for")));
                }
                if blocks.len() >= few {
                    blocks = self.receivable(account, MOST_RECEIVABLE, Raw::new(1)).await?;
                    if blocks.len() >= usize::try_from(MOST_RECEIVABLE).unwrap_or(usize::MAX) {
                        tracing::warn!(%account, read = blocks.len(), "more waits here than is read at once");
                    }
                }
                found.insert(account, blocks);
            }
        }
        Ok(found)
    }

    /// Every send that `account` has received in a confirmed block, the newest first.
    ///
    /// # Errors
    /// [`LedgerError`], when no node answered.
    pub async fn received(&self, account: Account) -> Result<Vec<Received>, LedgerError> {
        let mut all = Vec::new();
        let mut seen = BTreeSet::new();
        let mut head: Option<BlockHash> = None;
        loop {
            let mut call = Call::new(
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
            // A page that leads back would never end.
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

/// A map whose empty form has three spellings (NODE trap 6).
fn map_of<'a>(value: &'a Value, name: &str) -> Result<Vec<(Account, &'a Value)>, Fault> {
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

fn balances(value: &Value) -> Result<BTreeMap<Account, Balance>, Fault> {
    // Where no account of a call can be read, a node leaves the map out and names errors.
    if value.get("balances").is_none() && value.get("errors").is_some() {
        return Ok(BTreeMap::new());
    }
    map_of(value, "balances")?.into_iter().map(|(account, it)| Ok((account, typed(it)?))).collect()
}

fn receivable_of_many(value: &Value) -> Result<BTreeMap<Account, Vec<Receivable>>, Fault> {
    map_of(value, "blocks")?.into_iter().map(|(account, it)| Ok((account, receivable_of(it)?))).collect()
}

fn history(value: &Value) -> Result<Page, Fault> {
    #[derive(Deserialize)]
    struct Entry {
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
        let entry: Entry = typed(entry)?;
        let receives = matches!(entry.subtype.as_str(), "receive" | "open") && entry.confirmed != Some(false);
        if let (true, Some(send), Some(amount)) = (receives, entry.link, entry.amount) {
            received.push(Received { send, amount, source: entry.account });
        }
    }
    let next = value.get("previous").and_then(Value::as_str).and_then(|it| it.parse().ok());
    Ok(Page { received, next: next.filter(|it| *it != BlockHash::ZERO) })
}
