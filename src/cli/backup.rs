//! `faregate backup`: a verified copy of the store, taken while the gateway runs.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{EX_IOERR, Failure, complain, counted};
use crate::config::{Config, StoreLocation};
use crate::store::backup_sqlite;

#[derive(Args, Clone, Debug)]
pub struct BackupArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The copy's path; no file may be there yet
    #[arg(long, value_name = "PATH")]
    pub to: PathBuf,
}

/// Makes the copy. Exit code 0, 74 if it cannot be made, 78 if the configuration has faults.
///
/// # Errors
/// [`Failure::Config`], [`Failure::Output`].
pub fn run(args: &BackupArgs, out: &mut impl Write) -> Result<ExitCode, Failure> {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(faults) => return super::check::report_faults(&faults, false, out),
    };
    let path = match &config.store {
        StoreLocation::Sqlite { path, .. } => path,
        StoreLocation::Postgres(_) => {
            let message = "the store is on a PostgreSQL server: back it up with pg_dump or pg_basebackup";
            return Err(Failure::Config(message.to_owned()));
        }
    };
    match backup_sqlite(path, &args.to) {
        Ok(found) => {
            writeln!(out, "{}: {}, verified", args.to.display(), counted(found.payments, "payment"))?;
            writeln!(
                out,
                "After restoring it, run `faregate recover --from-ledger`: it claims what was spent since."
            )?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            complain(&error.to_string());
            Ok(ExitCode::from(EX_IOERR))
        }
    }
}
