//! `faregate payments`: the journal, printed and held against the ledger.
//!
//! Reads beside a running gateway and changes nothing. A challenge is not printed: whoever knows
//! it can redeem its payment's capability again.

mod books;
mod pool;
mod print;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};

use super::{EX_CONFIG, EX_IOERR, EX_UNAVAILABLE, EX_USAGE};
use crate::assemble::{AssembleError, open_store};
use crate::clock::Clock;
use crate::config::{Config, Faults, StoreLocation};
use crate::ledger::node::NodeSetupError;
use crate::nano::{BlockHash, UnixSeconds};
use crate::reconcile::ReconcileError;
use crate::store::{Engine, Filter, PaymentJournal, PaymentRecord, PaymentState, StoreError};
use crate::vault::VaultError;

/// Payments that are read at a time.
const PAGE: usize = 500;

#[derive(Clone, Debug, Subcommand)]
pub enum PaymentsCommand {
    /// The journal as a table, the oldest payment first, and then what nobody has claimed
    List(ListArgs),
    /// One payment
    Show(ShowArgs),
    /// The journal for another program, amounts in raw and in XNO
    Export(ExportArgs),
    /// Hold the journal against the ledger: 0 where both agree, 1 where not, 69 without a node
    Reconcile(ReconcileArgs),
}

#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    journal: JournalArgs,
    /// Only the newest so many
    #[arg(long, value_name = "COUNT")]
    last: Option<NonZeroUsize>,
    /// Only confirmed sends to the pool that no payment claims; a late proof still redeems them
    #[arg(long, conflicts_with_all = ["state", "last", "sweeps"])]
    unclaimed: bool,
    /// With `--unclaimed`: ask the nodes instead, which also shows what came in while nobody looked
    #[arg(long, requires = "unclaimed", conflicts_with = "since")]
    from_ledger: bool,
    /// Instead: the blocks by which the pool was swept
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
    state: Option<State>,
    /// Only payments that began since: `24h`, `2026-01-31` or `2026-01-31T12:00:00Z` (UTC)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Csv,
    /// One JSON object a line
    Jsonl,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    /// Journalled, on its way to the ledger
    Intent,
    /// No node knew its block when last asked
    Parked,
    /// Paid and redeemed
    Granted,
    /// Another block was confirmed in its place
    Failed,
}

impl State {
    const fn of_store(self) -> PaymentState {
        match self {
            Self::Intent => PaymentState::Intent,
            Self::Parked => PaymentState::Parked,
            Self::Granted => PaymentState::Granted,
            Self::Failed => PaymentState::Failed,
        }
    }
}

/// Why nothing, or not all, was printed.
#[derive(Debug, thiserror::Error)]
enum PaymentsError {
    #[error("{0}")]
    Faults(Faults),
    #[error(
        "`--since`: {0:?} is neither a time nor a duration: write `24h`, `2026-01-31` or `2026-01-31T12:00:00Z`"
    )]
    Since(String),
    #[error("`store.path`: {}: there is no journal yet: the gateway makes it at its first start", .0.display())]
    NoJournal(PathBuf),
    #[error("{0}")]
    Open(Box<AssembleError>),
    #[error("the journal has no payment by block {0}")]
    NoPayment(BlockHash),
    #[error("`nano.pool.seed_file`: {0}")]
    Seed(#[from] VaultError),
    #[error("`nano.nodes`: {0}")]
    Nodes(#[from] NodeSetupError),
    #[error(transparent)]
    Reconcile(#[from] ReconcileError),
    #[error("the journal cannot be read: {0}")]
    Store(#[from] StoreError),
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
}

impl PaymentsError {
    const fn exit_code(&self) -> u8 {
        match self {
            Self::Faults(_) | Self::NoJournal(_) | Self::Seed(_) | Self::Nodes(_) | Self::Open(_) => {
                EX_CONFIG
            }
            Self::Since(_) => EX_USAGE,
            Self::NoPayment(_) => 1,
            Self::Reconcile(ReconcileError::Ledger(_)) => EX_UNAVAILABLE,
            Self::Reconcile(ReconcileError::Store(_)) | Self::Store(_) | Self::Output(_) => EX_IOERR,
        }
    }
}

/// Runs a subcommand of `faregate payments`.
pub async fn run(
    command: PaymentsCommand,
    out: &mut (dyn Write + Send),
    err: &mut (dyn Write + Send),
) -> ExitCode {
    let outcome = match command {
        PaymentsCommand::List(args) if args.from_ledger => {
            books::list_unclaimed(&args.journal.config, args.json, out).await
        }
        PaymentsCommand::List(args) if args.unclaimed || args.sweeps => {
            let form = if args.json { pool::Form::JsonLines } else { pool::Form::Table };
            pool::print(&args.journal, pool::Part::of(args.sweeps), form, out).await
        }
        PaymentsCommand::List(args) => list(&args, out).await,
        PaymentsCommand::Show(args) => show(&args, out).await,
        PaymentsCommand::Export(args) if args.unclaimed || args.sweeps => {
            let form = match args.format {
                Format::Csv => pool::Form::Csv,
                Format::Jsonl => pool::Form::JsonLines,
            };
            pool::print(&args.journal, pool::Part::of(args.sweeps), form, out).await
        }
        PaymentsCommand::Export(args) => export(&args, out).await,
        PaymentsCommand::Reconcile(args) => books::reconcile(&args.config, args.json, out).await,
    };
    match outcome.and_then(|code| out.flush().map(|()| code).map_err(Into::into)) {
        Ok(code) => code,
        Err(error) => {
            // Where even that cannot be written, the exit code says it.
            let _written = writeln!(err, "faregate: {error}").is_ok();
            ExitCode::from(error.exit_code())
        }
    }
}

fn load(path: &Path) -> Result<Config, PaymentsError> {
    Config::load(path).map_err(PaymentsError::Faults)
}

/// The journal of a configuration. None is made.
async fn open(config: &Config) -> Result<Engine, PaymentsError> {
    if let StoreLocation::Sqlite { path, .. } = &config.store
        && !path.exists()
    {
        return Err(PaymentsError::NoJournal(path.clone()));
    }
    open_store(&config.store, None).await.map_err(|error| PaymentsError::Open(Box::new(error)))
}

/// The part of a journal that arguments name, page by page.
struct Part {
    store: Engine,
    filter: Filter,
    since: UnixSeconds,
    after: u64,
}

impl Part {
    async fn open(args: &JournalArgs) -> Result<Self, PaymentsError> {
        let since = match &args.since {
            Some(text) => since(text, Clock::system().now())?,
            None => UnixSeconds(0),
        };
        let store = open(&load(&args.config)?).await?;
        let filter = Filter { state: args.state.map(State::of_store) };
        Ok(Self { store, filter, since, after: 0 })
    }

    /// The next payments; nothing at the end.
    async fn next(&mut self) -> Result<Option<Vec<PaymentRecord>>, StoreError> {
        let mut page = self.store.scan(self.after, self.filter, PAGE).await?;
        let Some(last) = page.last() else { return Ok(None) };
        self.after = last.sequence;
        page.retain(|it| it.created_at >= self.since);
        Ok(Some(page))
    }
}

/// An instant: a date, a time, or a duration before `now`.
fn since(text: &str, now: UnixSeconds) -> Result<UnixSeconds, PaymentsError> {
    const DATE: usize = "2026-01-31".len();
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(UnixSeconds(now.0.saturating_sub(ago.as_secs())));
    }
    let whole = if text.len() == DATE { format!("{text}T00:00:00Z") } else { text.to_owned() };
    humantime::parse_rfc3339_weak(&whole)
        .ok()
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
        .map(|at: Duration| UnixSeconds(at.as_secs()))
        .ok_or_else(|| PaymentsError::Since(text.to_owned()))
}

async fn list(args: &ListArgs, out: &mut (dyn Write + Send)) -> Result<ExitCode, PaymentsError> {
    let mut part = Part::open(&args.journal).await?;
    if !args.json {
        print::heading(out)?;
    }
    let mut print = |payment: &PaymentRecord| {
        if args.json { print::json_line(payment, out) } else { print::row(payment, out) }
    };
    let mut newest = VecDeque::new();
    while let Some(page) = part.next().await? {
        for payment in page {
            let Some(last) = args.last else {
                print(&payment)?;
                continue;
            };
            if newest.len() >= last.get() {
                newest.pop_front();
            }
            newest.push_back(payment);
        }
    }
    newest.iter().try_for_each(&mut print)?;
    if args.journal.state.is_none() && args.last.is_none() {
        pool::append_unclaimed(&part.store, part.since, args.json, out).await?;
    }
    part.store.close().await;
    Ok(ExitCode::SUCCESS)
}

async fn show(args: &ShowArgs, out: &mut (dyn Write + Send)) -> Result<ExitCode, PaymentsError> {
    let store = open(&load(&args.config)?).await?;
    let payment = store.payment(args.hash).await?.ok_or(PaymentsError::NoPayment(args.hash))?;
    if args.json { print::json_line(&payment, out) } else { print::whole(&payment, out) }?;
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

async fn export(args: &ExportArgs, out: &mut (dyn Write + Send)) -> Result<ExitCode, PaymentsError> {
    let mut part = Part::open(&args.journal).await?;
    if matches!(args.format, Format::Csv) {
        print::csv_heading(out)?;
    }
    while let Some(page) = part.next().await? {
        for payment in &page {
            match args.format {
                Format::Csv => print::csv_line(payment, out),
                Format::Jsonl => print::json_line(payment, out),
            }?;
        }
    }
    part.store.close().await;
    Ok(ExitCode::SUCCESS)
}
