//! `faregate recover --from-ledger`: after an old backup was restored, what the pool has received
//! since is claimed again, so that no block is sold twice.
//!
//! The ledger is a second spent set: a send that was received most likely paid for something that
//! was granted at the time. The chain of every pool account is walked from its head to its first
//! block; each block must hash to what its successor names, so that a node can leave blocks out at
//! the head only. What is receivable was not received yet and may be a payment under way: it is
//! listed, not claimed.
//!
//! A sweep receives what nobody redeemed, too, and no ledger tells the one from the other. So what
//! is to be claimed is shown with amounts and senders (`--dry-run` first), and what the operator
//! knows to be unredeemed is left (`--except`). Nothing is claimed before everything was read.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{EX_CONFIG, EX_UNAVAILABLE, EX_USAGE, complain};
use crate::assemble::{AssembleError, address_pool, endpoints, open_store};
use crate::clock::Clock;
use crate::config::Config;
use crate::ledger::LedgerError;
use crate::ledger::node::{Contents, NodeClient, NodeSetupError, Receivable};
use crate::nano::{Account, BlockHash, Raw, StateBlock};
use crate::payment::Mechanism;
use crate::store::deposits::DepositJournal;
use crate::store::{Claims, Engine, StoreError};

/// Accounts that are walked at one time.
const AT_ONCE: usize = 8;
/// Receivable blocks listed of one account.
const RECEIVABLE: u32 = 1000;
/// Unclaimed sends read from the journal at once.
const PAGE: usize = 500;

#[derive(Args, Clone, Debug)]
pub struct RecoverArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Claim what the ledger shows as received
    #[arg(long, required = true)]
    pub from_ledger: bool,
    /// Only show what would be claimed
    #[arg(long)]
    pub dry_run: bool,
    /// The hash of a received send that nobody was served for: it is not claimed, so that its payer can
    /// still redeem it. Can be given again
    #[arg(long, value_name = "HASH")]
    pub except: Vec<BlockHash>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Why a recovery broke off. Running it again is safe.
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
    #[error(
        "--except {0}: not among what would be claimed (it was not received, or is claimed already); nothing \
         was claimed"
    )]
    NothingToExcept(BlockHash),
}

/// A send that the pool received.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Received {
    /// The send.
    pub block: BlockHash,
    /// Whose it was, where the node says.
    pub sender: Option<Account>,
    /// The pool's account.
    pub account: Account,
    pub amount: Raw,
    /// Whether the journal has it as a send that nobody had claimed: it was not redeemed when the
    /// backup was made, and may have been since.
    pub was_unclaimed: bool,
}

/// What a recovery found, and did.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Accounts of the pool that have a block.
    pub accounts: u64,
    /// Blocks that were received.
    pub received: u64,
    /// Those of them that nobody had claimed, and that are claimed unless it was a dry run.
    pub claimed: Vec<Received>,
    /// Those that nobody had claimed and that were excepted.
    pub left: Vec<Received>,
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
    let recovered = match recover(&config, &args.except, args.dry_run).await {
        Ok(recovered) => recovered,
        Err(error) => {
            complain(&error.to_string());
            let code = match error {
                RecoverError::NothingToExcept(_) => EX_USAGE,
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
    report(&recovered, &args, out)?;
    Ok(ExitCode::SUCCESS)
}

/// What has to be known about a claim of this kind.
const NOTE: &str = "No ledger tells a send that was redeemed from one that was only swept: all of these are taken \
     for redeemed, and cannot be redeemed any more. The upstream's log shows which were served \
     (X-Payment-Transaction). One that was not: --except HASH, before it is claimed.";

fn report(recovered: &Recovered, args: &RecoverArgs, out: &mut impl Write) -> io::Result<()> {
    let Recovered { accounts, received, claimed, left, receivable } = recovered;
    let to_claim = if args.dry_run { "toClaim" } else { "claimed" };
    if args.json {
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
        let (claimed, left): (Vec<_>, Vec<_>) =
            (claimed.iter().map(as_json).collect(), left.iter().map(as_json).collect());
        let whole = json!({
            "accounts": accounts, "received": received, to_claim: claimed, "left": left,
            "receivable": receivable,
        });
        return writeln!(out, "{whole}");
    }
    for (what, some) in [(if args.dry_run { "to claim" } else { "claimed" }, claimed), ("left", left)] {
        for Received { block, sender, account, amount, was_unclaimed } in some {
            let sender = sender.map_or_else(|| "unknown".to_owned(), |it| it.to_string());
            let note = if *was_unclaimed { "  (unclaimed in the backup)" } else { "" };
            writeln!(out, "{what:<10}  {block}  {}  from {sender}  to {account}{note}", amount.xno())?;
        }
    }
    for (account, it) in receivable {
        writeln!(out, "receivable  {}  {}  to {account}", it.hash, it.amount.xno())?;
    }
    let of_them = if args.dry_run { "of them to claim" } else { "of them claimed" };
    writeln!(
        out,
        "{accounts} account(s), {received} block(s) received, {} {of_them}, {} left; {} receivable and unknown",
        claimed.len(),
        left.len(),
        receivable.len()
    )?;
    if claimed.is_empty() { Ok(()) } else { writeln!(out, "{NOTE}") }
}

fn as_json(it: &Received) -> Value {
    json!({
        "block": it.block.to_string(),
        "sender": it.sender.map(|sender| sender.to_string()),
        "account": it.account.to_string(),
        "amount": it.amount,
        "unclaimedInBackup": it.was_unclaimed,
    })
}

/// Walks the pool of `config` and claims what it received, `except` these; claims nothing where it is
/// a `dry_run`.
///
/// # Errors
/// [`RecoverError`]; running it again is safe.
pub async fn recover(
    config: &Config,
    except: &[BlockHash],
    dry_run: bool,
) -> Result<Recovered, RecoverError> {
    let pool = address_pool(&config.nano)?;
    let client = NodeClient::new(endpoints(&config.nano))?;
    let store = open_store(&config.store, None).await?;
    let accounts: Vec<Account> =
        Mechanism::ALL.into_iter().flat_map(|mechanism| pool.of(mechanism).to_vec()).collect();
    let outcome = async {
        let found = find(&client, &store, &accounts).await?;
        claim(&store, found, except, dry_run).await
    };
    let outcome = outcome.await;
    store.close().await;
    outcome
}

/// What the journal has as sends that nobody has claimed.
async fn unclaimed(store: &Engine) -> Result<BTreeSet<BlockHash>, RecoverError> {
    let (mut all, mut after) = (BTreeSet::new(), None);
    loop {
        let page = store.unclaimed(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(all) };
        after = Some(last.mark());
        all.extend(page.iter().map(|it| it.deposit.block));
    }
}

/// Everything that was received and is claimed by nobody.
async fn find(client: &NodeClient, store: &Engine, accounts: &[Account]) -> Result<Recovered, RecoverError> {
    let mut whole = Recovered::default();
    let unclaimed = unclaimed(store).await?;
    for some in accounts.chunks(AT_ONCE) {
        let walks = some.iter().map(|account| walk(client, store, *account));
        for one in join_all(walks).await {
            let one = one?;
            whole.accounts = whole.accounts.saturating_add(one.accounts);
            whole.received = whole.received.saturating_add(one.received);
            let noted = |it: Received| Received { was_unclaimed: unclaimed.contains(&it.block), ..it };
            whole.claimed.extend(one.claimed.into_iter().map(noted));
            whole.receivable.extend(one.receivable);
        }
    }
    Ok(whole)
}

/// Claims what was found.
async fn claim(
    store: &Engine,
    mut found: Recovered,
    except: &[BlockHash],
    dry_run: bool,
) -> Result<Recovered, RecoverError> {
    let known = |block: &BlockHash| found.claimed.iter().any(|it| it.block == *block);
    if let Some(stranger) = except.iter().find(|block| !known(block)) {
        return Err(RecoverError::NothingToExcept(*stranger));
    }
    (found.left, found.claimed) = found.claimed.into_iter().partition(|it| except.contains(&it.block));
    if !dry_run {
        let now = Clock::system().now();
        for it in &found.claimed {
            store.mark_spent(it.block, now).await?;
        }
    }
    Ok(found)
}

/// One account.
async fn walk(client: &NodeClient, store: &Engine, account: Account) -> Result<Recovered, RecoverError> {
    let mut found = Recovered::default();
    for it in client.receivable(account, RECEIVABLE, Raw::new(1)).await? {
        if !store.is_claimed(it.hash).await? {
            found.receivable.push((account, it));
        }
    }
    let Some(info) = client.account_info(account).await? else { return Ok(found) };
    found.accounts = 1;
    let mut block = read(client, account, info.frontier).await?;
    loop {
        let before = match block.previous {
            BlockHash::ZERO => None,
            previous => Some(read(client, account, previous).await?),
        };
        let balance_before = before.as_ref().map_or(Raw::ZERO, |before| before.balance);
        if let Some(amount) = block.balance.checked_sub(balance_before).filter(|it| *it > Raw::ZERO) {
            found.received = found.received.saturating_add(1);
            let source = BlockHash(block.link);
            if !store.is_claimed(source).await? {
                // For people to look at; a node that has forgotten the send says nothing of it.
                let sender = client.block_info(source).await?.map(|it| it.account);
                found.claimed.push(Received { block: source, sender, account, amount, was_unclaimed: false });
            }
        }
        match before {
            Some(before) => block = before,
            None => return Ok(found),
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
