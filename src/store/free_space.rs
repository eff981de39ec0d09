//! How much room is left where a store writes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The free room of a directory as it was last looked at, so that a bill costs no system call.
#[derive(Debug)]
pub(super) struct FreeSpace {
    directory: PathBuf,
    /// Bytes; [`u64::MAX`] where the system does not say.
    free: AtomicU64,
}

impl FreeSpace {
    /// The room in `directory`, looked at.
    pub(super) fn new(directory: PathBuf) -> Self {
        let space = Self { directory, free: AtomicU64::new(u64::MAX) };
        space.look();
        space
    }

    pub(super) fn look(&self) {
        let free = free_bytes(&self.directory).unwrap_or(u64::MAX);
        self.free.store(free, Ordering::Relaxed);
    }

    /// Bytes free at the last look, where the system said.
    pub(super) fn free(&self) -> Option<u64> {
        Some(self.free.load(Ordering::Relaxed)).filter(|free| *free != u64::MAX)
    }
}

/// Bytes free for this program in `directory`, where the system says.
pub(super) fn free_bytes(directory: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(directory).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}
