//! The `faregate` program: arguments in, exit code out.

use std::process::ExitCode;

/// What a request takes and gives back is many small pieces: this allocator needs fewer instructions for
/// them than the C library's.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Only a build for tests has failpoints and reads FAILPOINTS.
    let _points = fail::has_failpoints().then(fail::FailScenario::setup);
    faregate::cli::run()
}
