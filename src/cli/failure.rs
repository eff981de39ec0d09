//! Why a subcommand ended early, and the exit code that says so.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::assemble::{AssembleError, PoolError, SweepSetupError};
use crate::config::Faults;
use crate::devnet::DevnetError;
use crate::ledger::LedgerError;
use crate::ledger::node::NodeSetupError;
use crate::reconcile::ReconcileError;
use crate::store::{BackupError, StoreError};
use crate::vault::VaultError;

/// Exit codes of sysexits.h.
pub(super) const EX_USAGE: u8 = 64;
pub(super) const EX_DATAERR: u8 = 65;
pub(super) const EX_UNAVAILABLE: u8 = 69;
pub(super) const EX_SOFTWARE: u8 = 70;
pub(super) const EX_IOERR: u8 = 74;
pub(super) const EX_TEMPFAIL: u8 = 75;
pub(super) const EX_NOPERM: u8 = 77;
pub(super) const EX_CONFIG: u8 = 78;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Faults(#[from] Faults),
    #[error("{0}")]
    Assemble(Box<AssembleError>),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error("`nano.nodes`: {0}")]
    Nodes(#[from] NodeSetupError),
    #[error("`nano.pool.seed_file`: {0}")]
    Seed(#[from] VaultError),
    #[error(transparent)]
    Sweep(#[from] SweepSetupError),
    #[error("{0}: look whether the node runs, and at `nano.nodes`")]
    Ledger(#[from] LedgerError),
    #[error("the journal cannot be read or written: {0}")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Reconcile(#[from] ReconcileError),
    #[error(transparent)]
    Devnet(#[from] DevnetError),
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(
        "`store.path`: {}: there is no journal yet; the gateway creates it at its first start", .0.display()
    )]
    NoJournal(PathBuf),
    #[error("another process is sweeping this pool; this one does nothing")]
    SweptElsewhere,
    #[error("the demo failed: {0}")]
    Demo(String),
    #[error("threads cannot be started: {0}; set `limits.threads` to fewer")]
    Threads(io::Error),
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
    /// The configuration does not allow what was asked for.
    #[error("{0}")]
    Config(String),
    /// An argument is wrong.
    #[error("{0}")]
    Usage(String),
    /// Nothing was found.
    #[error("{0}")]
    NotFound(String),
    /// The admin API does not take the token.
    #[error("{0}")]
    Refused(String),
    /// The new configuration of a gateway has faults.
    #[error("{0}")]
    Faulty(String),
    /// Something that is needed is not there now.
    #[error("{0}")]
    Unavailable(String),
    /// What is wrong has been printed; this is the exit code.
    #[error("it has been printed")]
    Printed(u8),
}

impl From<AssembleError> for Failure {
    fn from(error: AssembleError) -> Self {
        Self::Assemble(Box::new(error))
    }
}

impl Failure {
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Printed(code) => *code,
            Self::NotFound(_) => 1,
            Self::Usage(_) => EX_USAGE,
            Self::Faulty(_) => EX_DATAERR,
            Self::Refused(_) => EX_NOPERM,
            Self::Ledger(_)
            | Self::Reconcile(ReconcileError::Ledger(_))
            | Self::Devnet(_)
            | Self::Threads(_)
            | Self::Signals(_)
            | Self::Unavailable(_) => EX_UNAVAILABLE,
            Self::Demo(_) => EX_SOFTWARE,
            Self::Store(_)
            | Self::Reconcile(ReconcileError::Store(_))
            | Self::Backup(_)
            | Self::Output(_) => EX_IOERR,
            Self::SweptElsewhere => EX_TEMPFAIL,
            Self::Faults(_)
            | Self::Assemble(_)
            | Self::Pool(_)
            | Self::Nodes(_)
            | Self::Seed(_)
            | Self::Sweep(_)
            | Self::NoJournal(_)
            | Self::Config(_) => EX_CONFIG,
        }
    }

    /// Whether the reader of the output has ended, as `head` does. It knows that itself.
    fn is_end_of_reader(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The process's exit code; an error is printed to standard error.
    pub(super) fn end(outcome: Result<ExitCode, Self>) -> ExitCode {
        Self::end_on(outcome, &mut io::stderr())
    }

    /// The process's exit code; an error is printed to `err`.
    pub(super) fn end_on(outcome: Result<ExitCode, Self>, err: &mut dyn Write) -> ExitCode {
        outcome.unwrap_or_else(|failure| {
            if !matches!(failure, Self::Printed(_)) && !failure.is_end_of_reader() {
                // If even that fails, the exit code has to say it.
                let _written = writeln!(err, "faregate: {failure}").is_ok();
            }
            ExitCode::from(failure.exit_code())
        })
    }
}
