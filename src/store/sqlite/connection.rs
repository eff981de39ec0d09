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
    Ok(network_name(i128::from(rustix::fs::statfs(directory)?.f_type)))
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature on every system")]
fn network_kind(_: &Path) -> io::Result<Option<&'static str>> {
    Ok(None)
}

/// The name of a network file system by the number that statfs(2) has for it. The width of the number and
/// whether it has a sign differ between machines; 32 bits of it count.
#[cfg(target_os = "linux")]
const fn network_name(kind: i128) -> Option<&'static str> {
    match kind & 0xffff_ffff {
        0x6969 => Some("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Some("SMB"),
        0x5346_414f | 0x6b41_4653 => Some("AFS"),
        0x7375_7245 => Some("Coda"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn network_file_systems_are_recognised() {
        assert_eq!(network_name(0x6969), Some("NFS"));
        for smb in [0x517b, 0xff53_4d42, 0xfe53_4d42] {
            assert_eq!(network_name(smb), Some("SMB"));
            let signed = i128::saturating_sub(smb, 1 << 32);
            assert_eq!(network_name(signed), Some("SMB"), "where the number has a sign");
        }
        for afs in [0x5346_414f, 0x6b41_4653] {
            assert_eq!(network_name(afs), Some("AFS"));
        }
        assert_eq!(network_name(0x7375_7245), Some("Coda"));
        assert_eq!(network_name(0xef53), None, "ext4");
        assert_eq!(network_name(0x0102_1994), None, "tmpfs");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_directory_that_cannot_be_asked_about_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(network_kind(&folder.path().join("missing")).is_err());
        assert_eq!(network_kind(folder.path()).unwrap(), None);
    }

    #[test]
    fn a_name_alone_is_a_file_in_the_current_directory() {
        assert_eq!(directory(Path::new("store.db")), Path::new("."));
        assert_eq!(directory(Path::new("data/store.db")), Path::new("data"));
        assert_eq!(directory(Path::new("/")), Path::new("."));
        assert_eq!(wal_path(Path::new("data/store.db")), Path::new("data/store.db-wal"));
    }

    #[test]
    fn a_file_that_cannot_be_made_is_told_from_what_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("x".repeat(300));
        assert!(matches!(prepare(&long), Err(OpenFault::Io(_))), "the system's own words");
        assert!(matches!(prepare(folder.path()), Err(OpenFault::NotAFile)));
    }

    #[test]
    #[cfg(unix)]
    fn a_file_is_known_again_under_another_name() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        std::fs::write(&one, b"").unwrap();
        std::fs::write(&two, b"").unwrap();
        let found = identity(&one);
        assert!(found.is_some());
        assert_ne!(found, identity(&two));
        std::fs::rename(&one, folder.path().join("three")).unwrap();
        assert_eq!(identity(&folder.path().join("three")), found);
        assert_eq!(identity(&one), None);
    }

    #[test]
    fn a_file_in_wal_mode_stays_in_it_and_one_that_cannot_be_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        prepare(&path).unwrap();
        use_wal(&writing(&path, Duration::ZERO).unwrap()).unwrap();
        let again = reading(&path, Duration::ZERO).unwrap();
        let mode: String = again.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
        assert_eq!(mode, "wal");
        let memory = Connection::open_in_memory().unwrap();
        assert!(matches!(use_wal(&memory), Err(OpenFault::NoWal)));
    }
}
