//! The thread that keeps the write-ahead log short, beside the commits. While the disk refuses writes, it
//! makes the writer try again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::mpsc::WeakSender;

use super::connection::{self, Identity};
use super::writer::{Command, TAKEN_AWAY, Vitals};

/// How often the log's size is checked.
const EVERY: Duration = Duration::from_millis(100);

/// A log of more bytes than this is copied into the database, as far as readers allow it.
const CHECKPOINT_ABOVE: u64 = 4 << 20;

/// A log of more bytes than this is emptied by the writer between two commits: under steady load it has no
/// other moment to start over.
const TRUNCATE_ABOVE: u64 = 256 << 20;

/// While the disk refuses writes, one is tried every so many checks.
const PROBE_EVERY: u32 = 10;

/// The thread's own state.
pub(super) struct Checkpointer {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    /// The file at the path when it was opened.
    pub(super) identity: Option<Identity>,
    pub(super) wal: PathBuf,
    pub(super) writer: WeakSender<Command>,
    pub(super) vitals: Arc<Vitals>,
    /// Nothing is ever sent. It hangs up when the writer has ended.
    pub(super) writer_lives: Receiver<std::convert::Infallible>,
}

/// What the checks so far have shown.
#[derive(Debug, Default)]
pub(super) struct Progress {
    looks: u32,
    /// The commits after which the log was last short enough.
    seen: u64,
    /// Whether the last checkpoint failed. It is logged once.
    pub(super) failing: bool,
}

impl Checkpointer {
    /// Serves as long as the writer lives.
    pub(super) fn serve(self) {
        let mut progress = Progress::default();
        while self.writer_lives.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
            self.look(&mut progress);
        }
    }

    /// One check.
    pub(super) fn look(&self, progress: &mut Progress) {
        progress.looks = progress.looks.wrapping_add(1);
        let is_tenth = progress.looks.is_multiple_of(PROBE_EVERY);
        if is_tenth && !self.vitals.writable.load(Ordering::Relaxed) {
            self.ask(Command::Probe);
        }
        self.vitals.free_space.look();
        if connection::identity(&self.path) != self.identity
            && self.vitals.writable.swap(false, Ordering::Relaxed)
        {
            tracing::error!(path = %self.path.display(), "{TAKEN_AWAY}");
        }
        if is_tenth {
            self.vitals.ballast.restore();
        }
        let commits = self.vitals.commits.load(Ordering::Relaxed);
        if commits == progress.seen {
            return;
        }
        match self.checkpoint() {
            Ok(()) => (progress.seen, progress.failing) = (commits, false),
            // The next check tries again.
            Err(error) => {
                if !std::mem::replace(&mut progress.failing, true) {
                    tracing::warn!(%error, "the write-ahead log cannot be checkpointed");
                }
            }
        }
    }

    fn checkpoint(&self) -> rusqlite::Result<()> {
        let length = std::fs::metadata(&self.wal).map_or(0, |wal| wal.len());
        if length > TRUNCATE_ABOVE {
            self.ask(Command::Truncate);
        }
        if length > CHECKPOINT_ABOVE {
            self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
        }
        Ok(())
    }

    fn ask(&self, command: Command) {
        if let Some(writer) = self.writer.upgrade() {
            // A full queue has work that shows as much as a probe would. The next check asks again.
            drop(writer.try_send(command));
        }
    }
}
