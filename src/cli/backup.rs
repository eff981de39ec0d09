//! `faregate backup`: a copy of the store, taken beside a running gateway and verified.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{EX_CONFIG, EX_IOERR, complain};
use crate::config::{Config, StoreLocation};
use crate::store::backup_sqlite;

#[derive(Args, Clone, Debug)]
pub struct BackupArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Where the copy is to lie; nothing may be there yet
    #[arg(long, value_name = "PATH")]
    pub to: PathBuf,
}

/// Makes the copy. Exit code 0, 74 where it cannot be made, 78 for a faulty configuration.
///
/// # Errors
/// Where `out` cannot be written.
pub fn run(args: &BackupArgs, out: &mut impl Write) -> io::Result<ExitCode> {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(faults) => return super::check::report_faults(&faults, false, out),
    };
    let path = match &config.store {
        StoreLocation::Sqlite { path, .. } => path,
        StoreLocation::Postgres(_) => {
            complain("the store is on a PostgreSQL server: back it up with pg_dump or pg_basebackup");
            return Ok(ExitCode::from(EX_CONFIG));
        }
    };
    match backup_sqlite(path, &args.to) {
        Ok(found) => {
            writeln!(out, "{}: {} payment(s), verified", args.to.display(), found.payments)?;
            writeln!(
                out,
                "After it is restored, `faregate recover --from-ledger` claims what was spent since."
            )?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            complain(&error.to_string());
            Ok(ExitCode::from(EX_IOERR))
        }
    }
}
