//! The store: what must outlive the process.
//!
//! One trait for each thing that callers need; a caller names those it uses:
//! * [`Claims`]: who has a block's hash, a frontier, a client's id.
//! * [`PaymentJournal`]: reads of the payments.
//! * [`Meters`]: capabilities and their uses.
//! * [`Answers`]: answers kept for retries.
//! * [`DepositJournal`](deposits::DepositJournal): deposits and sweeps of the pool.
//! * [`OperatorJournal`](operator::OperatorJournal): pages for the operator, and what was done by hand.
//! * [`RefundJournal`](refunds::RefundJournal): what goes back to those who paid.
//! * [`StoreHealth`]: whether a sale can be recorded.
//!
//! Every operation returns only when its effect is durable, is atomic, takes the time as an argument,
//! and is idempotent on its arguments: after [`StoreError::Unknown`] the caller repeats the same call.
//! Nothing in these traits shows which engine is behind them. See the
//! [money guide](crate::guide::money).

mod answers;
pub mod capabilities;
mod claim_rules;
mod columns;
pub mod deposits;
mod encoding;
mod engine;
mod escrow;
mod free_space;
mod health;
mod inspection;
mod journal;
mod meters;
pub mod operator;
mod outstanding;
mod postgres;
pub mod refunds;
mod repeat;
#[cfg(test)]
mod samples;
pub mod settle;
mod sqlite;

use std::sync::Arc;
use std::time::Duration;

pub use crate::payment::Intent;
pub use crate::payment::capability::CapabilityId;
pub use answers::{Answer, Answers, Forget};
pub use engine::Engine;
pub use health::{CLOCK_GRACE, Health, StoreHealth, Unsound};
pub use inspection::Inspection;
pub use journal::{Begin, Claims, Filter, PaymentJournal, PaymentRecord, PaymentState};
pub use meters::{CapabilityRecord, Grant, Grantee, Holder, Lease, LeaseRequest, Meters};
pub use outstanding::OutstandingGrants;
pub use postgres::{
    PostgresFault, PostgresOptions, PostgresStore, Replication, check_files as check_postgres_files,
    server as postgres_server,
};
pub use repeat::repeat_unknown;
pub use sqlite::{BackupError, OpenError, OpenFault, SqliteOptions, SqliteStore, backup_sqlite};

/// Why a call failed, and whether it had an effect.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StoreError {
    /// It had no effect and a repeat is useless: the arguments do not fit what is stored.
    #[error("not applied: {0}")]
    NotApplied(String),
    /// It may have had its effect. Repeat the same call to find out.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// It had no effect: the store cannot be reached or written (down, full, read-only).
    #[error("store unavailable: {0}")]
    Unavailable(String),
}

/// All that the gateway needs of a store.
pub trait Store: Claims + PaymentJournal + Meters + Answers + StoreHealth {}

impl<S: Claims + PaymentJournal + Meters + Answers + StoreHealth> Store for S {}

/// Something that a store did, for metrics.
#[derive(Clone, Copy, Debug)]
pub enum StoreEvent {
    /// A call was answered.
    Call {
        operation: &'static str,
        elapsed: Duration,
        /// False if the store failed. A refusal of the arguments is no failure.
        ok: bool,
    },
    /// A group of operations was committed together.
    Commit { operations: usize, elapsed: Duration },
}

/// Gets each event as it ends.
pub type StoreObserver = Arc<dyn Fn(StoreEvent) + Send + Sync>;
