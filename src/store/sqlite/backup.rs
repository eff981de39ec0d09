//! Copies of the file, made beside a running gateway and verified before they get their name.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::Backup;

use super::{OpenFault, connection, schema};
use crate::store::inspection::{INVARIANTS, Inspection, broken};

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
    #[error("the copy is not sound and was thrown away: {0}")]
    Unsound(String),
}

/// Copies the store at `from` to `to`, which must not exist: as it is at one moment, whoever writes
/// meanwhile. Gives what the inspection of the copy found. Blocks.
///
/// # Errors
/// [`BackupError`]; nothing lies at `to` then.
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
        // What is left of it must not be taken for a backup.
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
        // In one step, which is one snapshot: a step after another would begin anew with each commit.
        backup.step(-1).map_err(|error| copy_fault(error.into()))?;
    }
    // One file, whatever the mode of the source.
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

/// How long to wait for a process that is writing.
const BUSY: Duration = Duration::from_secs(5);

/// Faults named at most.
const FAULTS: u32 = 10;

/// Looks through the whole file and at what must hold between its rows.
pub(super) fn inspect(db: &Connection) -> rusqlite::Result<Inspection> {
    let mut statement = db.prepare(&format!("PRAGMA integrity_check({FAULTS})"))?;
    let said = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    let mut faults: Vec<String> = said.into_iter().filter(|it| it != "ok").collect();
    for (rule, sql) in INVARIANTS {
        let count: i64 = db.query_row(sql, [], |row| row.get(0))?;
        if count > 0 {
            faults.push(broken(rule, count));
        }
    }
    let payments: i64 = db.query_row("SELECT count(*) FROM payments", [], |row| row.get(0))?;
    Ok(Inspection { payments: payments.cast_unsigned(), faults })
}
