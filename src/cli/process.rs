//! What the process asks of the system before anything else: no copy of its memory on the disk, and all
//! the file descriptors that it may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Keeps the process's memory, in which a seed may be, out of core dumps and from other processes of the
/// same user.
///
/// # Errors
/// The system refused.
pub(super) fn keep_memory_private() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // A core pattern with a pipe gets dumps in spite of the limit.
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Raises the number of file descriptors to what the system allows. Gives that number; `None` if there is
/// no limit.
///
/// # Errors
/// The system refused.
pub(super) fn raise_descriptors() -> std::io::Result<Option<u64>> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(limit.maximum)
}
