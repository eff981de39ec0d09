//! `faregate refunds`: lists what is sent back to those who paid, and sends it where the seed is.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::arguments::ConfigArgs;
use super::failure::Failure;
use super::payments::selection::open;
use super::words::counted;
use crate::admin::views;
use crate::assemble::{node_client, refunder};
use crate::clock::Clock;
use crate::config::{Config, MIN_POOL, PoolSource};
use crate::ledger::node::NodeLedger;
use crate::ledger::work::WorkSource;
use crate::nano::Raw;
use crate::refunder::Sent;
use crate::store::refunds::{Closing, RefundJournal, RefundRecord, RefundSearch, RefundState};
use crate::store::{Engine, StoreError};
use crate::vault::Turn;

/// Refunds that are read at a time.
const PAGE: usize = 500;

#[derive(Clone, Debug, Subcommand)]
pub enum RefundsCommand {
    /// Print a table of refunds, the oldest payment first
    List(RefundListArgs),
    /// Send what is owed and end. A gateway with `refunds: { pay: gateway }` does this by itself
    Pay(RefundPayArgs),
}

#[derive(Args, Clone, Debug)]
pub struct RefundListArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Only those that are not confirmed yet
    #[arg(long)]
    open: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
pub struct RefundPayArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The seed of the pool, if the configuration names none
    #[arg(long, value_name = "FILE")]
    seed_file: Option<PathBuf>,
    /// Print what would be sent, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the command. Exit code 0, 1 if not everything that is owed was sent, 69 without a node, 75 while another
/// process makes blocks of the pool, 78 if the configuration does not allow it.
pub async fn run(
    command: RefundsCommand,
    out: &mut (dyn Write + Send),
    err: &mut (dyn Write + Send),
) -> ExitCode {
    let outcome = match command {
        RefundsCommand::List(args) => list(&args, out).await,
        RefundsCommand::Pay(args) => pay(args, out).await,
    };
    Failure::end_on(outcome.map(|complete| ExitCode::from(u8::from(!complete))), err)
}

async fn list(args: &RefundListArgs, out: &mut (dyn Write + Send)) -> Result<bool, Failure> {
    let store = open(&args.config.load()?).await?;
    let found = all(&store, RefundSearch { unfinished: args.open, ..RefundSearch::default() }).await;
    store.close().await;
    let found = found?;
    print(&found, args.json, out)?;
    if !args.json {
        let owed = found.iter().filter(|it| !it.state.is_final()).map(|it| it.amount);
        writeln!(out, "{}, {} not sent yet", counted(found.len(), "refund"), sum(owed).xno())?;
    }
    Ok(true)
}

/// All refunds that are searched for, in the order of their payments.
async fn all(store: &Engine, mut search: RefundSearch) -> Result<Vec<RefundRecord>, StoreError> {
    let mut found = Vec::new();
    search.limit = PAGE;
    loop {
        let page = store.refunds(&search).await?;
        search.after = page.last().map(|it| it.sequence);
        let is_last = page.len() < PAGE;
        found.extend(page);
        if is_last {
            return Ok(found);
        }
    }
}

fn sum(amounts: impl Iterator<Item = Raw>) -> Raw {
    amounts.fold(Raw::ZERO, |sum, it| sum.checked_add(it).unwrap_or(Raw::MAX))
}

fn print(refunds: &[RefundRecord], as_json: bool, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    for refund in refunds {
        if as_json {
            writeln!(out, "{}", shown(refund, None))?;
        } else {
            line(refund, "", out)?;
        }
    }
    Ok(())
}

fn line(refund: &RefundRecord, more: &str, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let (state, amount) = (refund.state.as_str(), refund.amount.xno().to_string());
    writeln!(out, "{}  {state:<9}  {amount:>24}  {}{more}", refund.capability, refund.account)?;
    Ok(())
}

fn shown(refund: &RefundRecord, error: Option<String>) -> Value {
    let mut shown = views::refund(refund);
    if let (Value::Object(shown), Some(error)) = (&mut shown, error) {
        shown.insert("error".to_owned(), json!(error));
    }
    shown
}

async fn pay(args: RefundPayArgs, out: &mut (dyn Write + Send)) -> Result<bool, Failure> {
    let mut config = args.config.load()?;
    if let Some(file) = args.seed_file.clone() {
        config.nano.pool = PoolSource::Seed { file, size: size(&config) };
    }
    let client = node_client(&config.nano)?;
    let (work, clock) = (WorkSource::node_first(client.clone()), Clock::system());
    let store = Arc::new(open(&config).await?);
    let refunder = refunder(&config, NodeLedger::new(client), work, &store, &clock);
    let outcome = async {
        let (refunder, seed_file) = refunder?;
        if args.dry_run {
            let owed = to_be_sent(&store).await?;
            print(&owed, args.json, out)?;
            if !args.json {
                let total = sum(owed.iter().map(|it| it.amount));
                writeln!(out, "{}, {} would be sent", counted(owed.len(), "refund"), total.xno())?;
            }
            return Ok(true);
        }
        let Some(_turn) = Turn::take(&seed_file)? else { return Err(Failure::SweptElsewhere) };
        end_closing(&store, config.refunds.at_least, &clock).await?;
        let sent = refunder.send_all(to_be_sent(&store).await?).await;
        told(&sent, args.json, out)?;
        Ok(sent.iter().all(|it| it.error.is_none()))
    }
    .await;
    store.close().await;
    outcome
}

/// The size of the pool of this configuration, of which the seed is elsewhere.
fn size(config: &Config) -> u32 {
    match &config.nano.pool {
        PoolSource::Seed { size, .. } => *size,
        PoolSource::Addresses { accounts, .. } => {
            u32::try_from(accounts.len()).unwrap_or(u32::MAX).max(MIN_POOL)
        }
        PoolSource::Address(_) => MIN_POOL,
    }
}

/// What is owed, or has a block that is not seen confirmed.
async fn to_be_sent(store: &Engine) -> Result<Vec<RefundRecord>, StoreError> {
    let mut found = all(store, RefundSearch { unfinished: true, ..RefundSearch::default() }).await?;
    found.retain(|it| it.state != RefundState::Closing);
    Ok(found)
}

/// Has those that are closing become owed whose last requests have ended.
async fn end_closing(store: &Engine, at_least: Raw, clock: &Clock) -> Result<(), StoreError> {
    let search =
        RefundSearch { state: Some(RefundState::Closing), unfinished: true, ..RefundSearch::default() };
    for refund in all(store, search).await? {
        match store.close_capability(refund.capability, at_least, clock.now()).await? {
            Closing::Refund(_) | Closing::Unknown | Closing::Revoked | Closing::NotProven => {}
        }
    }
    Ok(())
}

fn told(sent: &[Sent], as_json: bool, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    for Sent { refund, error } in sent {
        if as_json {
            writeln!(out, "{}", shown(refund, error.as_ref().map(ToString::to_string)))?;
        } else {
            let more = error.as_ref().map(|it| format!("  not sent: {it}")).unwrap_or_default();
            line(refund, &more, out)?;
        }
    }
    if !as_json {
        let done = || sent.iter().filter(|it| it.error.is_none()).map(|it| it.refund.amount);
        write!(out, "{} sent, {}", counted(done().count(), "refund"), sum(done()).xno())?;
        let failed = sent.iter().filter(|it| it.error.is_some()).count();
        if failed > 0 {
            write!(out, "; {failed} not: run it again")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
