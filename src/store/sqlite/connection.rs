//! How the file is made, where it may be, and how a connection to it is set up.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::open_error::OpenFault;

/// Page cache of a connection, in KiB.
const CACHE_KIB: i32 = 65_536;

/// Statements that a connection keeps compiled: more than the program has.
const STATEMENTS: usize = 64;

/// The directory of `path`.
pub(super) fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

/// Makes an empty file at `path`, readable by its owner only, if there is none. SQLite's other files get
/// the same mode.
///
/// # Errors
/// [`OpenFault`] if there is no directory, it is on a network, or no file can be made in it.
pub(super) fn prepare(path: &Path) -> Result<(), OpenFault> {
    let directory = directory(path);
    if !directory.is_dir() {
        return Err(OpenFault::NoDirectory(directory));
    }
    if let Some(kind) = network_kind(&directory)? {
        return Err(OpenFault::Network(kind));
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        // The name must survive a power cut, as the contents do.
        Ok(file) => {
            file.sync_all()?;
            File::open(&directory)?.sync_all()?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !path.is_file() {
                return Err(OpenFault::NotAFile);
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// A connection for writing. Each commit is on the disk when it returns, and none waits for a
/// checkpoint.
pub(super) fn writing(path: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    // Without `CREATE`: a database that was removed is an error, not a new one.
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", CACHE_KIB.saturating_neg())?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    Ok(connection)
}

/// A connection that cannot write.
pub(super) fn reading(path: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let connection = writing(path, busy_timeout)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Puts the file into write-ahead-log mode, which stays with it.
///
/// # Errors
/// [`OpenFault::NoWal`] if the file system does not support it.
pub(super) fn use_wal(connection: &Connection) -> Result<(), OpenFault> {
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode.eq_ignore_ascii_case("wal") { Ok(()) } else { Err(OpenFault::NoWal) }
}

/// The identity of a file, whatever its name: the device and the number on it.
pub(super) type Identity = (u64, u64);

/// The file at `path`. `None` if there is none, or the system does not say.
pub(super) fn identity(path: &Path) -> Option<Identity> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
    }
    #[cfg(not(unix))]
    {
        let _unknown = path;
        None
    }
}

/// The write-ahead log that belongs to `path`.
pub(super) fn wal_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

/// The network file system that `directory` is on, if it is a known one. The log's index is memory shared
/// between processes, which these file systems do not support.
#[cfg(target_os = "linux")]
fn network_kind(directory: &Path) -> io::Result<Option<&'static str>> {
    let kind = rustix::fs::statfs(directory)?.f_type;
    // The width of the type differs between machines. The numbers are 32 bits.
    Ok(network_name(i128::from(kind) & 0xffff_ffff))
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature on every system")]
fn network_kind(_: &Path) -> io::Result<Option<&'static str>> {
    Ok(None)
}

/// The name of a network file system by the number that statfs(2) has for it.
#[cfg(target_os = "linux")]
const fn network_name(kind: i128) -> Option<&'static str> {
    match kind {
        0x6969 => Some("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Some("SMB"),
        0x5346_414f | 0x6b41_4653 => Some("AFS"),
        0x7375_7245 => Some("Coda"),
        _ => None,
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::network_name;

    #[test]
    fn network_file_systems_are_recognised() {
        assert_eq!(network_name(0x6969), Some("NFS"));
        for smb in [0x517b, 0xff53_4d42, 0xfe53_4d42] {
            assert_eq!(network_name(smb), Some("SMB"));
        }
        for afs in [0x5346_414f, 0x6b41_4653] {
            assert_eq!(network_name(afs), Some("AFS"));
        }
        assert_eq!(network_name(0x7375_7245), Some("Coda"));
        assert_eq!(network_name(0xef53), None, "ext4");
        assert_eq!(network_name(0x0102_1994), None, "tmpfs");
    }
}
