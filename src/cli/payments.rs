//! `faregate payments`: prints the journal and compares it with the ledger.
//!
//! It reads while a gateway runs, and changes nothing. Challenges are not printed: whoever knows one
//! can redeem its payment's capability again.

mod books;
mod deposits;
mod print;
pub(super) mod selection;

use std::collections::VecDeque;
use std::io::Write;
use std::num::NonZeroUsize;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use self::print::{Format, Printer};
use self::selection::{JournalArgs, Selection, open};
use super::arguments::ConfigArgs;
use super::failure::Failure;
use crate::nano::BlockHash;
use crate::store::{PaymentJournal, PaymentRecord};

#[derive(Clone, Debug, Subcommand)]
pub enum PaymentsCommand {
    /// Print a table of payments, the oldest first, and then the sends that nobody has claimed
    List(ListArgs),
    /// Print one payment
    Show(ShowArgs),
    /// Print the journal for another program, amounts in raw and in XNO
    Export(ExportArgs),
    /// Compare the journal with the ledger: exit code 0 if both agree, 1 if not, 69 without a node
    Reconcile(ReconcileArgs),
}

#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    journal: JournalArgs,
    /// Only so many, the newest
    #[arg(long, value_name = "COUNT")]
    last: Option<NonZeroUsize>,
    /// Only confirmed sends to the pool that no payment claims; a late proof still redeems them
    #[arg(long, conflicts_with_all = ["state", "last", "sweeps"])]
    unclaimed: bool,
    /// With `--unclaimed`: ask the nodes, which also know sends that the gateway has not seen
    #[arg(long, requires = "unclaimed", conflicts_with = "since")]
    from_ledger: bool,
    /// Instead of payments: the blocks by which the pool was swept
    #[arg(long, conflicts_with_all = ["state", "last"])]
    sweeps: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
pub struct ShowArgs {
    /// The hash of the payment's block
    hash: BlockHash,
    #[command(flatten)]
    config: ConfigArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    #[command(flatten)]
    journal: JournalArgs,
    /// The output's format
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Instead of payments: confirmed sends to the pool that no payment claims
    #[arg(long, conflicts_with_all = ["state", "sweeps"])]
    unclaimed: bool,
    /// Instead of payments: the blocks by which the pool was swept
    #[arg(long, conflicts_with = "state")]
    sweeps: bool,
}

#[derive(Args, Clone, Debug)]
pub struct ReconcileArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Runs a subcommand of `faregate payments`.
pub async fn run(
    command: PaymentsCommand,
    out: &mut (dyn Write + Send),
    err: &mut (dyn Write + Send),
) -> ExitCode {
    let form = |json| if json { Format::Jsonl } else { Format::Table };
    let outcome = match command {
        PaymentsCommand::List(args) if args.from_ledger => {
            books::list_unclaimed(&args.journal.config, args.json, out).await
        }
        PaymentsCommand::List(args) if args.unclaimed || args.sweeps => {
            deposits::print(&args.journal, args.sweeps, &mut Printer { format: form(args.json), out }).await
        }
        PaymentsCommand::List(args) => list(&args, &mut Printer { format: form(args.json), out }).await,
        PaymentsCommand::Show(args) => show(&args, out).await,
        PaymentsCommand::Export(args) if args.unclaimed || args.sweeps => {
            deposits::print(&args.journal, args.sweeps, &mut Printer { format: args.format, out }).await
        }
        PaymentsCommand::Export(args) => export(&args, &mut Printer { format: args.format, out }).await,
        PaymentsCommand::Reconcile(args) => books::reconcile(&args.config, args.json, out).await,
    };
    let flushed = outcome.and_then(|code| out.flush().map(|()| code).map_err(Into::into));
    Failure::end_on(flushed, err)
}

async fn list(args: &ListArgs, printer: &mut Printer<'_>) -> Result<ExitCode, Failure> {
    let mut selection = Selection::open(&args.journal).await?;
    printer.heading::<PaymentRecord>()?;
    let mut newest = VecDeque::new();
    while let Some(page) = selection.next().await? {
        for payment in page {
            let Some(last) = args.last else {
                printer.row(&payment)?;
                continue;
            };
            if newest.len() >= last.get() {
                newest.pop_front();
            }
            newest.push_back(payment);
        }
    }
    newest.iter().try_for_each(|it| printer.row(it))?;
    if args.journal.state.is_none() && args.last.is_none() {
        deposits::print_unclaimed(&selection.store, selection.since, printer).await?;
    }
    selection.store.close().await;
    Ok(ExitCode::SUCCESS)
}

async fn show(args: &ShowArgs, out: &mut (dyn Write + Send)) -> Result<ExitCode, Failure> {
    let store = open(&args.config.load()?).await?;
    let payment = store
        .payment(args.hash)
        .await?
        .ok_or_else(|| Failure::NotFound(format!("the journal has no payment by block {}", args.hash)))?;
    if args.json {
        Printer { format: Format::Jsonl, out }.row(&payment)?;
    } else {
        print::fields(&payment, out)?;
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

async fn export(args: &ExportArgs, printer: &mut Printer<'_>) -> Result<ExitCode, Failure> {
    let mut selection = Selection::open(&args.journal).await?;
    printer.heading::<PaymentRecord>()?;
    while let Some(page) = selection.next().await? {
        page.iter().try_for_each(|it| printer.row(it))?;
    }
    selection.store.close().await;
    Ok(ExitCode::SUCCESS)
}
