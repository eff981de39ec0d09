//! `faregate completions` and `faregate man`: what shells and manual readers install.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;

use super::failure::Failure;

#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// Write a page for each subcommand into this directory instead of printing one
    #[arg(long, value_name = "DIRECTORY")]
    pub to: Option<PathBuf>,
}

/// Prints the completions of `program`.
///
/// # Errors
/// [`Failure::Output`].
pub fn completions(
    args: &CompletionsArgs,
    mut program: Command,
    out: &mut impl Write,
) -> Result<ExitCode, Failure> {
    // Into memory first: clap_complete panics if its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "faregate", &mut script);
    out.write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints or writes manual pages of `program`.
///
/// # Errors
/// [`Failure::Output`], [`Failure::Unavailable`] if the directory cannot be written.
pub fn manual(args: &ManArgs, program: Command, out: &mut impl Write) -> Result<ExitCode, Failure> {
    match &args.to {
        Some(directory) => {
            let unwritable =
                |error: io::Error| Failure::Unavailable(format!("{}: {error}", directory.display()));
            clap_mangen::generate_to(program, directory).map_err(unwritable)?;
        }
        None => clap_mangen::Man::new(program).render(out)?,
    }
    Ok(ExitCode::SUCCESS)
}
