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

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: ErrorCode) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(rusqlite::ffi::Error { code, extended_code: 0 }, None)
    }

    /// A call that does not fit must not be tried again, and one that the disk refused may be.
    #[test]
    fn what_does_not_fit_is_told_from_what_cannot_be_written() {
        let unfit = |code| matches!(Fault::from(error(code)).before_commit(), StoreError::NotApplied(_));
        for code in [
            ErrorCode::ConstraintViolation,
            ErrorCode::TypeMismatch,
            ErrorCode::ApiMisuse,
            ErrorCode::ParameterOutOfRange,
            ErrorCode::TooBig,
        ] {
            assert!(unfit(code), "{code:?}");
        }
        for code in [ErrorCode::DiskFull, ErrorCode::SystemIoFailure, ErrorCode::DatabaseBusy] {
            assert!(!unfit(code), "{code:?}");
        }
    }

    #[test]
    fn only_a_full_disk_is_full() {
        assert!(Fault::from(error(ErrorCode::DiskFull)).is_full());
        assert!(!Fault::from(error(ErrorCode::SystemIoFailure)).is_full());
        assert!(!Fault::Unfit(String::new()).is_full());
    }

    #[test]
    fn a_commit_that_was_not_begun_or_found_no_room_had_no_effect() {
        for code in [ErrorCode::DatabaseBusy, ErrorCode::DiskFull] {
            assert!(matches!(of_commit(&error(code)), StoreError::Unavailable(_)), "{code:?}");
        }
        assert!(matches!(of_commit(&error(ErrorCode::SystemIoFailure)), StoreError::Unknown(_)));
    }
}
