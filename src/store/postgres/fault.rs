//! Errors of a call to the server, and what they mean to the caller.

use deadpool_postgres::{HookError, PoolError};
use tokio_postgres::Error;
use tokio_postgres::error::{DbError, SqlState};

use crate::outbound::chain;
use crate::store::StoreError;

/// Why a call failed, and whether it was applied.
#[derive(Debug)]
pub(in crate::store) enum Fault {
    /// The arguments do not fit what is stored.
    Unfit(String),
    /// Another call was faster. Nothing was applied. The same call, repeated, finds the result of the other.
    Overtaken(String),
    /// The server cannot do it, and nothing was applied.
    Unavailable(String),
    /// The server's disk is full, and nothing was applied.
    Full(String),
    /// The connection was lost after the call was sent.
    Unknown(String),
}

impl Fault {
    /// The error of a statement that commits nothing: it reads, or it is inside a transaction whose commit
    /// was not sent.
    pub(super) fn before_commit(error: Error) -> Self {
        match error.as_db_error() {
            Some(said) => Self::said(said),
            None => Self::Unavailable(chain(&error)),
        }
    }

    /// The error of a statement that commits. Only an answer of the server shows that it did not.
    pub(super) fn committing(error: Error) -> Self {
        match error.as_db_error() {
            Some(said) if !ends_connection(said) => Self::said(said),
            Some(_) | None => Self::Unknown(chain(&error)),
        }
    }

    fn said(said: &DbError) -> Self {
        let code = said.code();
        let lost_race = [
            SqlState::UNIQUE_VIOLATION,
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::LOCK_NOT_AVAILABLE,
        ];
        if lost_race.contains(code) {
            return Self::Overtaken(said.message().to_owned());
        }
        // 22: wrong values. 23: a broken constraint.
        if code.code().starts_with("22") || code.code().starts_with("23") {
            return Self::Unfit(said.message().to_owned());
        }
        let text = format!("{} ({})", said.message(), code.code());
        if *code == SqlState::DISK_FULL { Self::Full(text) } else { Self::Unavailable(text) }
    }

    /// The caller's view.
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Unfit(reason) => StoreError::NotApplied(reason),
            Self::Overtaken(reason) | Self::Unavailable(reason) | Self::Full(reason) => {
                StoreError::Unavailable(reason)
            }
            Self::Unknown(reason) => StoreError::Unknown(reason),
        }
    }
}

/// Whether the server ended the connection with this error: it may have committed before.
fn ends_connection(said: &DbError) -> bool {
    // `severity` is translated, the code is not. 57P: shut down or crashed. 08: the connection.
    let code = said.code().code();
    code.starts_with("57P") || code.starts_with("08") || matches!(said.severity(), "FATAL" | "PANIC")
}

/// Why there is no connection.
pub(super) fn unreachable(error: &PoolError) -> String {
    match error {
        PoolError::Backend(error) => chain(error),
        PoolError::PostCreateHook(HookError::Message(why)) => why.to_string(),
        PoolError::PostCreateHook(HookError::Backend(error)) => chain(error),
        PoolError::Timeout(_) | PoolError::Closed | PoolError::NoRuntimeSpecified => error.to_string(),
    }
}
