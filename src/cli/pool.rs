//! `faregate pool`: the addresses that are paid.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{EX_CONFIG, EX_IOERR, complain};
use crate::assemble::{AssembleError, address_pool};
use crate::config::Config;
use crate::payment::Mechanism;

#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Prints the pool's addresses, one a line, for a gateway that must hold no key:
    /// `nano.pool: { addresses_file: … }`
    Addresses(AddressesArgs),
}

#[derive(Args, Clone, Debug)]
pub struct AddressesArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Why the addresses cannot be printed.
#[derive(Debug, thiserror::Error)]
enum PoolError {
    #[error("{0}")]
    Faults(String),
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
}

/// Runs a subcommand of `faregate pool`.
pub fn run(command: &PoolCommand, out: &mut impl Write) -> ExitCode {
    let PoolCommand::Addresses(args) = command;
    match addresses(args, out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(if matches!(error, PoolError::Output(_)) { EX_IOERR } else { EX_CONFIG })
        }
    }
}

/// In turn for each mechanism, so that the file read back cuts the pool as the seed does.
fn addresses(args: &AddressesArgs, out: &mut impl Write) -> Result<(), PoolError> {
    let config = Config::load(&args.config).map_err(|faults| PoolError::Faults(faults.to_string()))?;
    let pool = address_pool(&config.nano)?;
    let mechanisms: Vec<Mechanism> =
        Mechanism::ALL.into_iter().filter(|it| config.nano.in_use.contains(it)).collect();
    let count: usize = mechanisms.iter().map(|it| pool.of(*it).len()).sum();
    let names: Vec<_> = mechanisms.iter().map(|it| it.as_str()).collect();
    writeln!(out, "# {count} addresses, in turn for {}", names.join(", "))?;
    let longest = mechanisms.iter().map(|it| pool.of(*it).len()).max().unwrap_or(0);
    for slot in 0..longest {
        for mechanism in &mechanisms {
            if let Some(address) = pool.of(*mechanism).get(slot) {
                writeln!(out, "{address}")?;
            }
        }
    }
    out.flush()?;
    Ok(())
}
