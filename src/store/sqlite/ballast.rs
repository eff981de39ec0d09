//! A file that only takes up space. It is deleted when the disk is full, so that what is under way can
//! still be committed, and made again when there is space.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::connection;
use crate::store::free_space::free_bytes;

/// Bytes in one write.
const PIECE: usize = 64 * 1024;

/// The file, and whether it exists.
#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    /// Bytes. 0 means no ballast.
    size: u64,
    exists: AtomicBool,
}

impl Ballast {
    /// The ballast of the store at `store`. Made if there is space for it.
    pub(super) fn new(store: &Path, size: u64) -> Self {
        let mut name = store.as_os_str().to_owned();
        name.push("-ballast");
        let ballast = Self { path: PathBuf::from(name), size, exists: AtomicBool::new(false) };
        ballast.restore();
        ballast
    }

    /// Frees the space. False if there was no ballast.
    pub(super) fn release(&self) -> bool {
        if !self.exists.swap(false, Ordering::Relaxed) {
            return false;
        }
        match fs::remove_file(&self.path) {
            Ok(()) => {
                tracing::error!(
                    ballast = %self.path.display(),
                    "the disk is full: the ballast was deleted to finish what is under way; free some space"
                );
                true
            }
            // Another process on the same file deleted it. The space is free all the same.
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => {
                tracing::error!(%error, "the ballast cannot be deleted");
                false
            }
        }
    }

    /// Makes the file if it is missing and if as much space again is left beside it.
    pub(super) fn restore(&self) {
        if self.size == 0 || self.exists.load(Ordering::Relaxed) {
            return;
        }
        if fs::metadata(&self.path).is_ok_and(|found| found.len() == self.size) {
            self.exists.store(true, Ordering::Relaxed);
            return;
        }
        if !self.fits(free_bytes(&connection::directory(&self.path))) {
            return;
        }
        match self.write() {
            Ok(()) => self.exists.store(true, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(%error, ballast = %self.path.display(), "the ballast cannot be made");
                // A part of it is of no use.
                drop(fs::remove_file(&self.path));
            }
        }
    }

    /// Bytes that must be free for the ballast to be made. 0 if it exists.
    pub(super) fn missing(&self) -> u64 {
        if self.exists.load(Ordering::Relaxed) { 0 } else { self.space_needed() }
    }

    const fn space_needed(&self) -> u64 {
        self.size.saturating_mul(2)
    }

    /// Whether `free` bytes are enough to make it. If the system does not say, it is tried.
    fn fits(&self, free: Option<u64>) -> bool {
        free.is_none_or(|free| free >= self.space_needed())
    }

    fn write(&self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&self.path)?;
        // Not zeros: some file systems do not store them.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ballast_frees_its_space_once_whoever_deletes_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store.db");
        let size = u64::try_from(PIECE).unwrap().saturating_add(5);
        let ballast = Ballast::new(&store, size);
        let length = || fs::metadata(&ballast.path).map(|it| it.len()).ok();
        assert_eq!((length(), ballast.missing()), (Some(size), 0));
        assert!(ballast.release(), "its space is free");
        assert_eq!((length(), ballast.missing()), (None, size.saturating_mul(2)));
        assert!(!ballast.release(), "there is none any more");
        ballast.restore();
        assert_eq!(length(), Some(size));
        fs::remove_file(&ballast.path).unwrap();
        assert!(ballast.release(), "another process deleted it");
        ballast.restore();
        fs::remove_file(&ballast.path).unwrap();
        fs::create_dir(&ballast.path).unwrap();
        assert!(!ballast.release(), "it cannot be deleted");
    }

    #[test]
    fn ballast_is_made_only_if_as_much_space_again_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(&folder.path().join("store.db"), 10);
        assert!(!ballast.fits(Some(19)));
        assert!(ballast.fits(Some(20)));
        assert!(ballast.fits(None), "the system does not say");
    }

    #[test]
    fn ballast_that_was_cut_short_is_made_whole() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("store.db-ballast");
        fs::write(&part, b"part").unwrap();
        assert_eq!(Ballast::new(&folder.path().join("store.db"), 1000).missing(), 0);
        assert_eq!(fs::metadata(&part).unwrap().len(), 1000);
    }

    #[test]
    fn without_ballast_no_file_is_made() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Ballast::new(&folder.path().join("store.db"), 0).missing(), 0);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
