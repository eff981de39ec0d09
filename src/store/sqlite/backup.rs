//! Backups of the file, made while the gateway runs. Each is checked before it gets its name.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::Backup;

use super::open_error::OpenFault;
use super::{connection, schema};
use crate::store::inspection::{INVARIANTS, Inspection};

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{}: {fault}", path.display())]
    Source { path: PathBuf, fault: OpenFault },
    #[error("{}: there is no store yet; the gateway makes it at its first start", .0.display())]
    Missing(PathBuf),
    #[error("{}: exists already and is left as it is", .0.display())]
    Exists(PathBuf),
    #[error("{}: {fault}", path.display())]
    Copy { path: PathBuf, fault: OpenFault },
    #[error("the copy is not sound and was deleted: {0}")]
    Unsound(String),
}

/// Copies the store at `from` to `to`, which must not exist. The copy is one snapshot, also if a process
/// writes meanwhile. Gives the result of the copy's inspection. Blocks.
///
/// # Errors
/// [`BackupError`]. Then there is no file at `to`.
pub fn backup_sqlite(from: &Path, to: &Path) -> Result<Inspection, BackupError> {
    if !from.exists() {
        return Err(BackupError::Missing(from.to_owned()));
    }
    if to.exists() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let mut name = to.as_os_str().to_owned();
    name.push(".partial");
    let partial = PathBuf::from(name);
    let copied = copy(from, to, &partial);
    if copied.is_err() {
        // A part of it must not be mistaken for a backup.
        drop(fs::remove_file(&partial));
    }
    copied
}

fn copy(from: &Path, to: &Path, partial: &Path) -> Result<Inspection, BackupError> {
    let source_fault = |fault| BackupError::Source { path: from.to_owned(), fault };
    let copy_fault = |fault| BackupError::Copy { path: to.to_owned(), fault };
    let source = connection::reading(from, BUSY).map_err(|error| source_fault(error.into()))?;
    schema::inspect(&source).map_err(source_fault)?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    drop(options.open(partial).map_err(|error| copy_fault(error.into()))?);
    let mut copy = Connection::open(partial).map_err(|error| copy_fault(error.into()))?;
    {
        let backup = Backup::new(&source, &mut copy).map_err(|error| copy_fault(error.into()))?;
        // One step is one snapshot. Several steps would start over with each commit.
        backup.step(-1).map_err(|error| copy_fault(error.into()))?;
    }
    // A single file, in whatever mode the source is.
    copy.pragma_update(None, "journal_mode", "DELETE").map_err(|error| copy_fault(error.into()))?;
    schema::inspect(&copy).map_err(copy_fault)?;
    let found = inspect(&copy).map_err(|error| copy_fault(error.into()))?;
    drop(copy);
    if !found.faults.is_empty() {
        return Err(BackupError::Unsound(found.faults.join("; ")));
    }
    let named = File::open(partial)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(partial, to))
        .and_then(|()| File::open(connection::directory(to)))
        .and_then(|directory| directory.sync_all());
    named.map_err(|error| copy_fault(error.into()))?;
    Ok(found)
}

/// How long to wait for another process that is writing.
const BUSY: Duration = Duration::from_secs(5);

/// At most this many faults are named.
const FAULTS: u32 = 10;

/// Checks the whole file, and the rules between its rows.
pub(super) fn inspect(db: &Connection) -> rusqlite::Result<Inspection> {
    let mut statement = db.prepare(&format!("PRAGMA integrity_check({FAULTS})"))?;
    let said = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    let faults: Vec<String> = said.into_iter().filter(|it| it != "ok").collect();
    let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0));
    let counts = INVARIANTS.iter().map(|(_, sql)| count(sql)).collect::<Result<Vec<_>, _>>()?;
    Ok(Inspection::of(count("SELECT count(*) FROM payments")?, faults, &counts))
}
