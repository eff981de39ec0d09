//! `faregate backup`: a verified copy of the store, taken while the gateway runs.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::arguments::ConfigArgs;
use super::check::load;
use super::failure::Failure;
use super::words::counted;
use crate::config::StoreLocation;
use crate::store::backup_sqlite;

#[derive(Args, Clone, Debug)]
pub struct BackupArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The copy's path; no file may be there yet
    #[arg(long, value_name = "PATH")]
    pub to: PathBuf,
}

/// Makes the copy.
///
/// # Errors
/// [`Failure::Backup`], [`Failure::Config`], [`Failure::Output`].
pub fn run(args: &BackupArgs, out: &mut impl Write) -> Result<ExitCode, Failure> {
    let config = load(&args.config, false, out)?;
    let path = match &config.store {
        StoreLocation::Sqlite { path, .. } => path,
        StoreLocation::Postgres(_) => {
            let message = "the store is on a PostgreSQL server: back it up with pg_dump or pg_basebackup";
            return Err(Failure::Config(message.to_owned()));
        }
    };
    let found = backup_sqlite(path, &args.to)?;
    writeln!(out, "{}: {}, verified", args.to.display(), counted(found.payments, "payment"))?;
    writeln!(
        out,
        "After restoring it, run `faregate recover --from-ledger`: it claims what was spent since."
    )?;
    Ok(ExitCode::SUCCESS)
}
