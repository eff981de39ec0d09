//! The result of a wallet's request: an answer and its cost, or an error.

use std::fmt;
use std::time::Duration;

use http::HeaderValue;
use reqwest::Response;

use super::MAX_THRESHOLD;
use super::allowance::AllowanceError;
use super::held::Capability;
use super::offer::OfferError;
use crate::ledger::LedgerError;
use crate::ledger::node::{NodeSetupError, ProcessError};
use crate::ledger::work::WorkError;
use crate::nano::{Account, BlockHash, Raw, Threshold};
use crate::payment::Mechanism;
use crate::vault::VaultError;

/// A payment that was signed for a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Payment {
    pub mechanism: Mechanism,
    /// In raw.
    pub amount: Raw,
    /// The account that paid.
    pub account: Account,
    pub pay_to: Account,
    /// The hash of the block, which identifies the payment.
    pub hash: BlockHash,
    /// Whether the gateway said that it accepted the payment. A `nanoTxn` block that it did not accept
    /// may never have been published.
    pub acknowledged: bool,
}

/// The answer to a request, and what it cost.
#[derive(Debug)]
pub struct Paid {
    pub response: Response,
    /// `None` if the request was free, or a capability paid for it.
    pub payment: Option<Payment>,
    /// The payment's proof, if the gateway did not say that it accepted the payment: money may have
    /// moved.
    pub proof: Option<Box<Proof>>,
    /// What is left of the capability that was bought or used.
    pub capability: Option<Capability>,
}

/// A payment and the header that proves it to a gateway. Keep it if an error holds one: it is what the
/// money was spent on.
#[derive(Clone, Eq, PartialEq)]
pub struct Proof {
    pub payment: Payment,
    pub(super) header: HeaderValue,
}

impl Proof {
    /// The value of `PAYMENT-SIGNATURE`.
    #[must_use]
    pub const fn header(&self) -> &HeaderValue {
        &self.header
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof").field("payment", &self.payment).field("header", &"****").finish()
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Payment { mechanism, amount, hash, .. } = self.payment;
        write!(f, "{} by {mechanism}, block {hash}", amount.xno())
    }
}

/// Why a request was not answered. After the variants with a [`Proof`], money may have moved.
#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    #[error("this is not a valid request: {0}")]
    NoRequest(String),
    #[error("the body of the request cannot be sent twice")]
    BodyNotRepeatable,
    #[error("{origin} cannot be reached: {error}")]
    Unreachable { origin: String, error: String },
    #[error("the 402 of {origin} is not an x402 bill: {error}")]
    NotAGateway { origin: String, error: OfferError },
    #[error("the bill cannot be paid: {0}")]
    NothingPayable(OfferError),
    #[error("the price is {}, above the limit of {} for a request", amount.xno(), max.xno())]
    TooExpensive { amount: Raw, max: Raw },
    #[error("not paid: {0}")]
    DayLimit(#[from] AllowanceError),
    #[error("work of {asked} is asked for, which is above the limit of {MAX_THRESHOLD}")]
    WorkTooHard { asked: Threshold },
    #[error(
        "not enough funds in {account}: {} needed, {} available, {} to receive",
        needed.xno(), balance.xno(), receivable.xno()
    )]
    NoFunds { account: Account, needed: Raw, balance: Raw, receivable: Raw },
    #[error("no usable answer from the Nano network: {0}")]
    Ledger(#[from] LedgerError),
    #[error("{account} still has an unconfirmed block after {wait:?}")]
    Unsettled { account: Account, wait: Duration },
    #[error("funds could not be received with block {hash}: {error}")]
    NotReceived { hash: BlockHash, error: ProcessError },
    #[error("no work: {0}")]
    Work(#[from] WorkError),
    #[error("the network did not accept block {hash}, and no node knows it: {error}")]
    NotSent { hash: BlockHash, error: ProcessError },
    #[error("the proof cannot be written: {0}")]
    Unwritable(OfferError),
    #[error("the gateway refused a payment ({proof}): {reason}")]
    Refused { reason: String, proof: Box<Proof> },
    #[error("the gateway has not settled a payment ({proof}) after {waited:?}; it may still do so")]
    Pending { proof: Box<Proof>, waited: Duration },
    #[error("the answer to a paid request was lost ({proof}): {error}")]
    AnswerLost { proof: Box<Proof>, error: String },
}

/// Why a wallet cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum WalletSetupError {
    #[error(transparent)]
    Seed(#[from] VaultError),
    #[error("{0:?} is not the URL of a node: {1}")]
    Address(String, url::ParseError),
    #[error(transparent)]
    Node(#[from] NodeSetupError),
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}
