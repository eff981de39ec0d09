//! A file that only takes up room, given up when the disk is full so that what is under way can
//! still be committed, and made again when there is room.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::connection;
use crate::store::free_space::free_bytes;

/// Bytes written at once.
const PIECE: usize = 64 * 1024;

/// The file, and whether it lies there.
#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    /// Bytes; none is kept where it is 0.
    size: u64,
    lies_there: AtomicBool,
}

impl Ballast {
    /// The ballast of the store at `store`, made if there is room for it.
    pub(super) fn new(store: &Path, size: u64) -> Self {
        let mut name = store.as_os_str().to_owned();
        name.push("-ballast");
        let ballast = Self { path: PathBuf::from(name), size, lies_there: AtomicBool::new(false) };
        ballast.restore();
        ballast
    }

    /// Gives the room free; false where there was none to give.
    pub(super) fn release(&self) -> bool {
        if !self.lies_there.swap(false, Ordering::Relaxed) {
            return false;
        }
        match fs::remove_file(&self.path) {
            Ok(()) => {
                tracing::error!(
                    ballast = %self.path.display(),
                    "the disk is full: the ballast was given up to finish what is under way; make room"
                );
                true
            }
            // Another process on the same file was quicker; the room is free all the same.
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => {
                tracing::error!(%error, "the ballast cannot be given up");
                false
            }
        }
    }

    /// Makes the file where it is missing and leaves as much room again beside it.
    pub(super) fn restore(&self) {
        if self.size == 0 || self.lies_there.load(Ordering::Relaxed) {
            return;
        }
        if fs::metadata(&self.path).is_ok_and(|found| found.len() == self.size) {
            self.lies_there.store(true, Ordering::Relaxed);
            return;
        }
        let free = free_bytes(&connection::directory(&self.path));
        if free.is_some_and(|free| free < self.room_needed()) {
            return;
        }
        match self.write() {
            Ok(()) => self.lies_there.store(true, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(%error, ballast = %self.path.display(), "the ballast cannot be made");
                // Half of it helps nobody.
                drop(fs::remove_file(&self.path));
            }
        }
    }

    /// Bytes that must be free for the ballast to be made; nothing where it lies there.
    pub(super) fn missing(&self) -> u64 {
        if self.lies_there.load(Ordering::Relaxed) { 0 } else { self.room_needed() }
    }

    const fn room_needed(&self) -> u64 {
        self.size.saturating_mul(2)
    }

    fn write(&self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&self.path)?;
        // Not zeros: some file systems keep none of them.
        let piece = [0xFA; PIECE];
        let mut left = self.size;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            file.write_all(piece.get(..length).unwrap_or(&piece))?;
            left = left.saturating_sub(u64::try_from(length).unwrap_or(left));
        }
        file.sync_all()
    }
}
