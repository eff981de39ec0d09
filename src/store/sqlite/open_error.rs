//! Why a file cannot be opened as a store.

use std::io;
use std::path::PathBuf;

/// A store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the store {}: {fault}", path.display())]
pub struct OpenError {
    pub path: PathBuf,
    pub fault: OpenFault,
}

/// Why a store cannot be opened, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenFault {
    #[error("the directory {} does not exist: make it, or name another in `store: {{ path: … }}`", .0.display())]
    NoDirectory(PathBuf),
    #[error("this is not a file: name one in `store: {{ path: … }}`")]
    NotAFile,
    #[error("{0} is a network file system, which loses writes under SQLite: use a local disk, or PostgreSQL")]
    Network(&'static str),
    #[error("the file system does not support a write-ahead log: use a local disk, or PostgreSQL")]
    NoWal,
    #[error(
        "written by a newer Faregate (version {found} of the file, this program knows {known}): run that one"
    )]
    Newer { found: u32, known: u32 },
    #[error("the file is a database of another program: name another in `store: {{ path: … }}`")]
    Foreign,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}
