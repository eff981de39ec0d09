//! The answers that were bought under a client's id, kept so that a retry gets the same one.

use super::settle::repeat_unknown;
use super::{Store, StoreError};
use crate::nano::{BlockHash, UnixSeconds};

/// What a request was answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// Names and values in the order in which they came.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Nothing where it was handed over and is not kept: it was too large, or it is too long ago.
    pub body: Option<Vec<u8>>,
}

impl Answer {
    /// That something was handed over with this status, and what it was is not kept.
    #[must_use]
    pub const fn not_kept(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: None }
    }
}

/// What [`super::Store::forget`] lets go of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Forget {
    /// Ids of payments that were last touched at this time or before. An intent keeps its id: it is
    /// not decided yet.
    pub ids_until: UnixSeconds,
    /// What was answered at this time or before; that it was answered stays known with the id.
    pub answers_until: UnixSeconds,
    /// Rows of each kind at most.
    pub limit: u32,
}

/// Keeps the answer to the request that the payment with `block` was made for. False where one is
/// kept already, as after a call whose outcome was unknown.
///
/// # Errors
/// [`StoreError`]; the answer may be kept even so.
pub async fn keep<S: Store>(
    store: &S,
    block: BlockHash,
    answer: &Answer,
    now: UnixSeconds,
) -> Result<bool, StoreError> {
    repeat_unknown(|| store.keep(block, answer, now)).await
}
