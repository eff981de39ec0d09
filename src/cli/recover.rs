//! `faregate recover --from-ledger`: after an old backup was restored, claims again what the pool has
//! received since, so that no block is redeemed twice.
//!
//! The ledger is a second set of spent blocks: a send that was received has most likely paid for
//! something already. The chain of every pool account is read from its head to its first block; each
//! block must hash to what its successor names, so a node can only leave out blocks at the head. What
//! is receivable was not received yet and may be a payment under way: it is listed, not claimed.
//!
//! A sweep also receives what nobody redeemed, and no ledger can tell the difference. So what will be
//! claimed is shown with amounts and senders (`--dry-run` first), and the operator can leave out what
//! is known to be unredeemed (`--except`). Nothing is claimed before everything was read.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::arguments::ConfigArgs;
use super::check::load;
use super::failure::Failure;
use super::words::counted;
use crate::assemble::{AssembleError, PoolError, address_pool, endpoints, open_store};
use crate::clock::Clock;
use crate::config::Config;
use crate::ledger::LedgerError;
use crate::ledger::node::{Contents, NodeClient, NodeSetupError, Receivable};
use crate::nano::{Account, BlockHash, Raw, StateBlock};
use crate::payment::Mechanism;
use crate::store::deposits::DepositJournal;
use crate::store::{Claims, Engine, StoreError};

/// Accounts that are read at one time.
const AT_ONCE: usize = 8;
/// The most receivable blocks that are listed for one account.
const RECEIVABLE: u32 = 1000;
/// Unclaimed sends read from the journal at once.
const PAGE: usize = 500;

#[derive(Args, Clone, Debug)]
pub struct RecoverArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Claim what the ledger shows as received
    #[arg(long, required = true)]
    pub from_ledger: bool,
    /// Only print what would be claimed
    #[arg(long)]
    pub dry_run: bool,
    /// The hash of a received send that nobody was served for. It is not claimed, so its payer can still
    /// redeem it. May be repeated
    #[arg(long, value_name = "HASH")]
    pub except: Vec<BlockHash>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Why a recovery stopped. Running it again is safe.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error("`nano.nodes`: {0}")]
    Nodes(#[from] NodeSetupError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{account}: the node has the account but not its block {block}: use a node with the whole chain")]
    Missing { account: Account, block: BlockHash },
    #[error("{account}: the contents of block {block} do not match its hash: the node cannot be trusted")]
    NotBelieved { account: Account, block: BlockHash },
    #[error("{account}: block {block} is older than state blocks; such an account cannot be read")]
    Legacy { account: Account, block: BlockHash },
    #[error(
        "--except {0}: it would not be claimed anyway (it was not received, or is claimed already); nothing \
         was claimed"
    )]
    NothingToExcept(BlockHash),
}

/// A send that the pool received.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReceivedSend {
    /// The send.
    pub block: BlockHash,
    /// The sender, if the node knows it.
    pub sender: Option<Account>,
    /// The pool's account.
    pub account: Account,
    pub amount: Raw,
    /// Whether the journal has it as an unclaimed send: it was not redeemed when the backup was made,
    /// and may have been since.
    pub was_unclaimed: bool,
}

/// What a recovery found and did.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Accounts of the pool that have a block.
    pub accounts: u64,
    /// Blocks that were received.
    pub received: u64,
    /// Those that nobody had claimed. They are claimed now, unless it was a dry run.
    pub claimed: Vec<ReceivedSend>,
    /// Those that nobody had claimed and that `--except` names.
    pub left: Vec<ReceivedSend>,
    /// Receivable blocks that the journal does not know.
    pub receivable: Vec<(Account, Receivable)>,
}

impl From<RecoverError> for Failure {
    fn from(error: RecoverError) -> Self {
        match error {
            RecoverError::Assemble(error) => error.into(),
            RecoverError::Pool(error) => error.into(),
            RecoverError::Nodes(error) => error.into(),
            RecoverError::NothingToExcept(_) => Self::Usage(error.to_string()),
            RecoverError::Ledger(_)
            | RecoverError::Store(_)
            | RecoverError::Missing { .. }
            | RecoverError::NotBelieved { .. }
            | RecoverError::Legacy { .. } => Self::Unavailable(error.to_string()),
        }
    }
}

/// Claims what was received and prints it.
///
/// # Errors
/// [`Failure`]; running it again is safe.
pub async fn run(args: RecoverArgs, out: &mut impl Write) -> Result<ExitCode, Failure> {
    let config = load(&args.config, args.json, out)?;
    let recovered = recover(&config, &args.except, args.dry_run).await?;
    report(&recovered, &args, out)?;
    Ok(ExitCode::SUCCESS)
}

/// What the operator has to know about these claims.
const NOTE: &str = "The ledger does not show whether a send was redeemed or only swept. All of these are treated \
     as redeemed: nobody can redeem them any more. The upstream's log shows which were served \
     (X-Payment-Transaction). For one that was not, use --except HASH before it is claimed.";

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
        for ReceivedSend { block, sender, account, amount, was_unclaimed } in some {
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
        "{}, {} received, {} {of_them}, {} left; {} receivable and unknown",
        counted(*accounts, "account"),
        counted(*received, "block"),
        claimed.len(),
        left.len(),
        receivable.len()
    )?;
    if claimed.is_empty() { Ok(()) } else { writeln!(out, "{NOTE}") }
}

fn as_json(it: &ReceivedSend) -> Value {
    json!({
        "block": it.block.to_string(),
        "sender": it.sender.map(|sender| sender.to_string()),
        "account": it.account.to_string(),
        "amount": it.amount,
        "unclaimedInBackup": it.was_unclaimed,
    })
}

/// Reads the chains of the pool of `config` and claims what it received, except for `except`. A
/// `dry_run` claims nothing.
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

/// The unclaimed sends in the journal.
async fn unclaimed(store: &Engine) -> Result<BTreeSet<BlockHash>, RecoverError> {
    let (mut all, mut after) = (BTreeSet::new(), None);
    loop {
        let page = store.unclaimed(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(all) };
        after = Some(last.mark());
        all.extend(page.iter().map(|it| it.deposit.block));
    }
}

/// Everything that was received and that nobody has claimed.
async fn find(client: &NodeClient, store: &Engine, accounts: &[Account]) -> Result<Recovered, RecoverError> {
    let mut whole = Recovered::default();
    let unclaimed = unclaimed(store).await?;
    for some in accounts.chunks(AT_ONCE) {
        let walks = some.iter().map(|account| walk(client, store, *account));
        for one in join_all(walks).await {
            let one = one?;
            whole.accounts = whole.accounts.saturating_add(one.accounts);
            whole.received = whole.received.saturating_add(one.received);
            let noted =
                |it: ReceivedSend| ReceivedSend { was_unclaimed: unclaimed.contains(&it.block), ..it };
            whole.claimed.extend(one.claimed.into_iter().map(noted));
            whole.receivable.extend(one.receivable);
        }
    }
    Ok(whole)
}

/// Claims what was found, except for `except`.
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

/// Reads one account's chain.
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
                // For the report; a node that no longer has the send does not know its sender.
                let sender = client.block_info(source).await?.map(|it| it.account);
                found.claimed.push(ReceivedSend {
                    block: source,
                    sender,
                    account,
                    amount,
                    was_unclaimed: false,
                });
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
