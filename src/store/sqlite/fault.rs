//! Errors of an operation, and what they mean to the caller.

use rusqlite::ErrorCode;

use crate::store::StoreError;

/// Why an operation did nothing.
#[derive(Debug)]
pub(super) enum Fault {
    /// The arguments do not fit what is stored.
    Unfit(String),
    /// SQLite refused.
    Engine(rusqlite::Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Engine(error)
    }
}

impl Fault {
    /// Whether the disk was full.
    pub(super) fn is_full(&self) -> bool {
        match self {
            Self::Unfit(_) => false,
            Self::Engine(error) => is_full(error),
        }
    }

    /// The caller's view of an error before the commit: it had no effect.
    pub(super) fn before_commit(self) -> StoreError {
        match self {
            Self::Unfit(reason) => StoreError::NotApplied(reason),
            Self::Engine(error) if is_unfit(&error) => StoreError::NotApplied(error.to_string()),
            Self::Engine(error) => StoreError::Unavailable(error.to_string()),
        }
    }
}

/// Whether the disk was full.
pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

/// Whether the statement or its values are wrong, and not the file or the machine.
fn is_unfit(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::ConstraintViolation
                | ErrorCode::TypeMismatch
                | ErrorCode::ApiMisuse
                | ErrorCode::ParameterOutOfRange
                | ErrorCode::TooBig
        )
    )
}

/// The caller's view of a commit that failed.
///
/// Busy: nothing was begun. Full: the record that makes a transaction valid is written last, so if any
/// write was refused it is not in the log. After any other error (above all a failed fsync) it may be in
/// the log, and a restart would find it.
pub(super) fn of_commit(error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DiskFull) => StoreError::Unavailable(error.to_string()),
        _ => StoreError::Unknown(error.to_string()),
    }
}
