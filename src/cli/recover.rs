//! `faregate recover --from-ledger`: after an old backup was restored, what the pool has received
//! since is claimed again, so that no block is sold twice.
//!
//! The ledger is a second spent set: a send that was received paid for something that was granted
//! at the time. The chain of every pool account is walked from its head to its first block; each
//! block must hash to what its successor names, so that a node can leave blocks out at the head
//! only. What is receivable was not received yet and may be a payment under way: it is listed, not
//! claimed.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use futures_util::future::join_all;
use serde_json::json;

use super::{EX_CONFIG, EX_UNAVAILABLE, complain};
use crate::assemble::{AssembleError, address_pool, endpoints, open_store};
use crate::clock::Clock;
use crate::config::Config;
use crate::ledger::LedgerError;
use crate::ledger::node::{Contents, NodeClient, NodeSetupError, Receivable};
use crate::nano::{Account, BlockHash, Raw, StateBlock};
use crate::payment::Mechanism;
use crate::store::{Engine, Store, StoreError};

/// Accounts that are walked at one time.
const AT_ONCE: usize = 8;
/// Receivable blocks listed of one account.
const RECEIVABLE: u32 = 1000;

#[derive(Args, Clone, Debug)]
pub struct RecoverArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Claim what the ledger shows as received
    #[arg(long, required = true)]
    pub from_ledger: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Why a recovery broke off. What was claimed until then stays claimed; running it again goes on.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    #[error("`nano.nodes`: {0}")]
    Nodes(#[from] NodeSetupError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{account}: a node has the account and not its block {block}: ask one with the whole chain")]
    Missing { account: Account, block: BlockHash },
    #[error("{account}: the contents of block {block} do not hash to it: the node is not believed")]
    NotBelieved { account: Account, block: BlockHash },
    #[error("{account}: block {block} is from before state blocks; such an account cannot be walked")]
    Legacy { account: Account, block: BlockHash },
}

/// What a recovery did.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Accounts of the pool that have a block.
    pub accounts: u64,
    /// Blocks that were received.
    pub received: u64,
    /// Those of them that nobody had claimed.
    pub claimed: Vec<BlockHash>,
    /// Blocks that can be received and that the journal does not know.
    pub receivable: Vec<(Account, Receivable)>,
}

/// Claims what was received and writes what came of it.
///
/// # Errors
/// Where `out` cannot be written.
pub async fn run(args: RecoverArgs, out: &mut impl Write) -> io::Result<ExitCode> {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(faults) => return super::check::report_faults(&faults, args.json, out),
    };
    let recovered = match recover(&config).await {
        Ok(recovered) => recovered,
        Err(error) => {
            complain(&format!("{error}\nWhat was claimed so far stays claimed; run it again."));
            let code = match error {
                RecoverError::Assemble(_) | RecoverError::Nodes(_) => EX_CONFIG,
                RecoverError::Ledger(_)
                | RecoverError::Store(_)
                | RecoverError::Missing { .. }
                | RecoverError::NotBelieved { .. }
                | RecoverError::Legacy { .. } => EX_UNAVAILABLE,
            };
            return Ok(ExitCode::from(code));
        }
    };
    report(&recovered, args.json, out)?;
    Ok(ExitCode::SUCCESS)
}

fn report(recovered: &Recovered, json: bool, out: &mut impl Write) -> io::Result<()> {
    let Recovered { accounts, received, claimed, receivable } = recovered;
    if json {
        let claimed: Vec<_> = claimed.iter().map(ToString::to_string).collect();
        let receivable: Vec<_> = receivable
            .iter()
            .map(|(account, it)| {
                json!({
                    "account": account.to_string(),
                    "block": it.hash.to_string(),
                    "amount": it.amount,
                    "source": it.source.map(|source| source.to_string()),
                })
            })
            .collect();
        let whole = json!({ "accounts": accounts, "received": received, "claimed": claimed, "receivable": receivable });
        return writeln!(out, "{whole}");
    }
    for block in claimed {
        writeln!(out, "claimed     {block}")?;
    }
    for (account, it) in receivable {
        writeln!(out, "receivable  {}  {}  to {account}", it.hash, it.amount.xno())?;
    }
    writeln!(
        out,
        "{accounts} account(s), {received} block(s) received, {} of them claimed; {} receivable and unknown",
        claimed.len(),
        receivable.len()
    )
}

/// Walks the pool of `config` and claims what it received.
///
/// # Errors
/// [`RecoverError`]; running it again is safe.
pub async fn recover(config: &Config) -> Result<Recovered, RecoverError> {
    let pool = address_pool(&config.nano)?;
    let client = NodeClient::new(endpoints(&config.nano))?;
    let store = open_store(&config.store, None).await?;
    let accounts: Vec<Account> =
        Mechanism::ALL.into_iter().flat_map(|mechanism| pool.of(mechanism).to_vec()).collect();
    let mut whole = Recovered::default();
    let mut outcome = Ok(());
    for some in accounts.chunks(AT_ONCE) {
        let walks = some.iter().map(|account| walk(&client, &store, *account));
        for walked in join_all(walks).await {
            match walked {
                Ok(Some(one)) => {
                    whole.accounts = whole.accounts.saturating_add(one.accounts);
                    whole.received = whole.received.saturating_add(one.received);
                    whole.claimed.extend(one.claimed);
                    whole.receivable.extend(one.receivable);
                }
                Ok(None) => {}
                Err(error) => outcome = Err(error),
            }
        }
        if outcome.is_err() {
            break;
        }
    }
    store.close().await;
    outcome.map(|()| whole)
}

/// One account; nothing where it was never sent anything.
async fn walk(
    client: &NodeClient,
    store: &Engine,
    account: Account,
) -> Result<Option<Recovered>, RecoverError> {
    let mut found = Recovered::default();
    for it in client.receivable(account, RECEIVABLE, Raw::new(1)).await? {
        if store.payment(it.hash).await?.is_none() {
            found.receivable.push((account, it));
        }
    }
    let Some(info) = client.account_info(account).await? else {
        return Ok((!found.receivable.is_empty()).then_some(found));
    };
    found.accounts = 1;
    let clock = Clock::system();
    let mut block = read(client, account, info.frontier).await?;
    loop {
        let before = match block.previous {
            BlockHash::ZERO => None,
            previous => Some(read(client, account, previous).await?),
        };
        let balance_before = before.as_ref().map_or(Raw::ZERO, |before| before.balance);
        if block.balance > balance_before {
            found.received = found.received.saturating_add(1);
            let source = BlockHash(block.link);
            if store.mark_spent(source, clock.now()).await? {
                found.claimed.push(source);
            }
        }
        match before {
            Some(before) => block = before,
            None => return Ok(Some(found)),
        }
    }
}

async fn read(client: &NodeClient, account: Account, hash: BlockHash) -> Result<StateBlock, RecoverError> {
    let missing = RecoverError::Missing { account, block: hash };
    match client.block_info(hash).await?.ok_or(missing)?.contents {
        Contents::State(block) if block.hash() == hash && block.account == account => Ok(block),
        Contents::State(_) => Err(RecoverError::NotBelieved { account, block: hash }),
        Contents::Legacy(_) => Err(RecoverError::Legacy { account, block: hash }),
    }
}
