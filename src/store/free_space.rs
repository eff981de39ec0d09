//! The free space on the store's disk.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The free space of a directory when it was last checked, so that a bill costs no system call.
#[derive(Debug)]
pub(super) struct FreeSpace {
    directory: PathBuf,
    /// Bytes. [`u64::MAX`] if the system does not say.
    free: AtomicU64,
}

impl FreeSpace {
    /// The free space in `directory`, checked once.
    pub(super) fn new(directory: PathBuf) -> Self {
        let space = Self { directory, free: AtomicU64::new(u64::MAX) };
        space.look();
        space
    }

    pub(super) fn look(&self) {
        let free = free_bytes(&self.directory).unwrap_or(u64::MAX);
        self.free.store(free, Ordering::Relaxed);
    }

    /// Bytes free at the last check. `None` if the system did not say.
    pub(super) fn free(&self) -> Option<u64> {
        Some(self.free.load(Ordering::Relaxed)).filter(|free| *free != u64::MAX)
    }
}

/// Bytes free for this program in `directory`. `None` if the system does not say.
pub(super) fn free_bytes(directory: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(directory).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}
