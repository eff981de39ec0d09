//! `faregate payments`: prints the journal and compares it with the ledger.
//!
//! It reads while a gateway runs, and changes nothing. Challenges are not printed: whoever knows one
//! can redeem its payment's capability again.

mod books;
mod deposits;
mod print;

use std::collections::VecDeque;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};

use self::print::{Format, Printer};
use super::Failure;
use crate::assemble::open_store;
use crate::clock::Clock;
use crate::config::{Config, StoreLocation};
use crate::nano::{BlockHash, UnixSeconds};
use crate::store::{Engine, Filter, PaymentRecord, PaymentState, Store};

/// Payments that are read at a time.
const PAGE: usize = 500;

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
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
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
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Which part of the journal.
#[derive(Args, Clone, Debug)]
struct JournalArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only payments in this state
    #[arg(long, value_enum)]
    state: Option<StateFilter>,
    /// Only payments that began since: `24h`, `2026-01-31` or `2026-01-31T12:00:00Z` (UTC)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StateFilter {
    /// In the journal, on its way to the ledger
    Intent,
    /// No node knew its block at the last look
    Parked,
    /// Paid and redeemed
    Granted,
    /// Another block was confirmed in its place
    Failed,
}

impl StateFilter {
    const fn state(self) -> PaymentState {
        match self {
            Self::Intent => PaymentState::Intent,
            Self::Parked => PaymentState::Parked,
            Self::Granted => PaymentState::Granted,
            Self::Failed => PaymentState::Failed,
        }
    }
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

/// The journal of a configuration. It is not created.
async fn open(config: &Config) -> Result<Engine, Failure> {
    match &config.store {
        StoreLocation::Sqlite { path, .. } if !path.exists() => Err(Failure::NoJournal(path.clone())),
        StoreLocation::Sqlite { .. } | StoreLocation::Postgres(_) => {
            Ok(open_store(&config.store, None).await?)
        }
    }
}

/// The part of a journal that arguments select, page by page.
struct Selection {
    store: Engine,
    filter: Filter,
    since: UnixSeconds,
    after: u64,
}

impl Selection {
    async fn open(args: &JournalArgs) -> Result<Self, Failure> {
        let since =
            args.since.as_deref().map_or(Ok(UnixSeconds(0)), |it| since(it, Clock::system().now()))?;
        let store = open(&Config::load(&args.config)?).await?;
        let filter = Filter { state: args.state.map(StateFilter::state) };
        Ok(Self { store, filter, since, after: 0 })
    }

    /// The next payments; `None` at the end.
    async fn next(&mut self) -> Result<Option<Vec<PaymentRecord>>, Failure> {
        let mut page = self.store.scan(self.after, self.filter, PAGE).await?;
        let Some(last) = page.last() else { return Ok(None) };
        self.after = last.sequence;
        page.retain(|it| it.created_at >= self.since);
        Ok(Some(page))
    }
}

/// An instant: a date, a time, or a duration before `now`.
fn since(text: &str, now: UnixSeconds) -> Result<UnixSeconds, Failure> {
    const DATE: usize = "2026-01-31".len();
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(UnixSeconds(now.0.saturating_sub(ago.as_secs())));
    }
    let whole = if text.len() == DATE { format!("{text}T00:00:00Z") } else { text.to_owned() };
    humantime::parse_rfc3339_weak(&whole)
        .ok()
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
        .map(|at: Duration| UnixSeconds(at.as_secs()))
        .ok_or_else(|| {
            Failure::Usage(format!(
                "`--since`: {text:?} is neither a time nor a duration: write `24h`, `2026-01-31` or \
                 `2026-01-31T12:00:00Z`"
            ))
        })
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
    let store = open(&Config::load(&args.config)?).await?;
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
