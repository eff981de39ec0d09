//! The `faregate` program: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Only a build for tests has failpoints and reads FAILPOINTS.
    let _points = fail::has_failpoints().then(fail::FailScenario::setup);
    faregate::cli::run()
}
