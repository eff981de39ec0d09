//! The answers that were bought under a client's id, kept so that a retry gets the same one.

use std::future::Future;

use super::StoreError;
use crate::nano::{BlockHash, UnixSeconds};

/// An answer to a paid request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// Names and values in the order in which they came.
    pub headers: Vec<(String, Vec<u8>)>,
    /// `None` if an answer was delivered and is not kept: it was too large, or it is too old.
    pub body: Option<Vec<u8>>,
}

impl Answer {
    /// Says that an answer with this status was delivered and is not kept.
    #[must_use]
    pub const fn not_kept(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: None }
    }
}

/// What [`Answers::forget`] forgets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Forget {
    /// Ids of payments that were last changed at this time or before. An intent keeps its id: it is not
    /// decided yet.
    pub ids_until: UnixSeconds,
    /// Answers kept at this time or before. The id still shows that there was an answer.
    pub answers_until: UnixSeconds,
    /// Rows of each kind at most.
    pub limit: u32,
}

/// Kept answers.
pub trait Answers: Send + Sync + 'static {
    /// Keeps the answer to the request that the granted payment with `block` was made for. The first
    /// answer stands: false if there is one, or no such payment.
    fn keep(
        &self,
        block: BlockHash,
        answer: &Answer,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// The answer to the request that the payment with `block` was made for, if it is kept.
    fn kept(&self, block: BlockHash) -> impl Future<Output = Result<Option<Answer>, StoreError>> + Send;

    /// Forgets ids and answers. Gives the number of rows it changed; the caller repeats it until it gives
    /// 0. Each call is small, because other writers wait for it.
    fn forget(&self, what: Forget) -> impl Future<Output = Result<u32, StoreError>> + Send;
}
