//! Which part of the journal a command prints.

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use crate::admin::instant;
use crate::assemble::open_store;
use crate::cli::arguments::ConfigArgs;
use crate::cli::failure::Failure;
use crate::clock::Clock;
use crate::config::{Config, StoreLocation};
use crate::nano::UnixSeconds;
use crate::store::{Engine, Filter, PaymentJournal, PaymentRecord, PaymentState};

/// Rows that are read at a time.
pub(super) const PAGE: usize = 500;

/// Which part of the journal.
#[derive(Args, Clone, Debug)]
pub(super) struct JournalArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// Only payments in this state
    #[arg(long, value_enum)]
    pub(super) state: Option<PaymentState>,
    /// Only payments that began since: `24h`, `2026-01-31` or `2026-01-31T12:00:00Z` (UTC)
    #[arg(long, value_name = "TIME")]
    pub(super) since: Option<String>,
}

impl ValueEnum for PaymentState {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let meaning = match self {
            Self::Intent => "In the journal, on its way to the ledger",
            Self::Parked => "No node knew its block at the last look",
            Self::Granted => "Paid and redeemed",
            Self::Failed => "Another block was confirmed in its place",
        };
        Some(PossibleValue::new(self.as_str()).help(meaning))
    }
}

/// The journal of a configuration. It is not created.
pub(in crate::cli) async fn open(config: &Config) -> Result<Engine, Failure> {
    match &config.store {
        StoreLocation::Sqlite { path, .. } if !path.exists() => Err(Failure::NoJournal(path.clone())),
        StoreLocation::Sqlite { .. } | StoreLocation::Postgres(_) => {
            Ok(open_store(&config.store, None).await?)
        }
    }
}

/// The part of a journal that arguments select, page by page.
pub(super) struct Selection {
    pub(super) store: Engine,
    filter: Filter,
    pub(super) since: UnixSeconds,
    after: u64,
}

impl Selection {
    pub(super) async fn open(args: &JournalArgs) -> Result<Self, Failure> {
        let since =
            args.since.as_deref().map_or(Ok(UnixSeconds(0)), |it| since(it, Clock::system().now()))?;
        let store = open(&args.config.load()?).await?;
        let filter = Filter { state: args.state };
        Ok(Self { store, filter, since, after: 0 })
    }

    /// The next payments; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<PaymentRecord>>, Failure> {
        let mut page = self.store.scan(self.after, self.filter, PAGE).await?;
        let Some(last) = page.last() else { return Ok(None) };
        self.after = last.sequence;
        page.retain(|it| it.created_at >= self.since);
        Ok(Some(page))
    }
}

/// # Errors
/// [`Failure::Usage`] for a text that is no instant.
fn since(text: &str, now: UnixSeconds) -> Result<UnixSeconds, Failure> {
    instant(text, now).ok_or_else(|| {
        Failure::Usage(format!(
            "`--since`: {text:?} is neither a time nor a duration: write `24h`, `2026-01-31` or \
             `2026-01-31T12:00:00Z`"
        ))
    })
}
