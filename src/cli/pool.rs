//! `faregate pool`: the addresses that payments are sent to.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::arguments::ConfigArgs;
use super::failure::Failure;
use super::words::counted;
use crate::assemble::address_pool;
use crate::payment::Mechanism;

#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Print the pool's addresses, one a line, for a gateway that must hold no key:
    /// `nano.pool: { addresses_file: … }`
    Addresses(AddressesArgs),
}

#[derive(Args, Clone, Debug)]
pub struct AddressesArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Prints the addresses, in turn for each mechanism: a file of them is divided as the seed is.
///
/// # Errors
/// [`Failure`], if the configuration has faults or the seed cannot be read.
pub fn run(command: &PoolCommand, out: &mut impl Write) -> Result<ExitCode, Failure> {
    let PoolCommand::Addresses(args) = command;
    let config = args.config.load()?;
    let pool = address_pool(&config.nano)?;
    let mechanisms: Vec<Mechanism> =
        Mechanism::ALL.into_iter().filter(|it| config.nano.in_use.contains(it)).collect();
    let count: usize = mechanisms.iter().map(|it| pool.of(*it).len()).sum();
    let names: Vec<_> = mechanisms.iter().map(|it| it.as_str()).collect();
    writeln!(out, "# {}, in turn for {}", counted(count, "address"), names.join(", "))?;
    let longest = mechanisms.iter().map(|it| pool.of(*it).len()).max().unwrap_or(0);
    for slot in 0..longest {
        for address in mechanisms.iter().filter_map(|it| pool.of(*it).get(slot)) {
            writeln!(out, "{address}")?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
