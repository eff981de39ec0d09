//! The `faregate` program: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    faregate::cli::run()
}
