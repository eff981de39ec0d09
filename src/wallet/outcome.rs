//! The result of a wallet's request: an answer and its cost, or an error.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use reqwest::Response;

use super::allowance::AllowanceError;
use super::held::Capability;
use super::offer::OfferError;
use super::{MAX_THRESHOLD, cause};
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
    /// What was paid. `None` if the request was free, or a capability paid for it.
    pub proof: Option<Box<Proof>>,
    /// What is left of the capability that was bought or used.
    pub capability: Option<Capability>,
}

impl Paid {
    /// The payment that was made for this request.
    #[must_use]
    pub fn payment(&self) -> Option<Payment> {
        self.proof.as_ref().map(|proof| proof.payment)
    }

    /// The next part of the answer's body; `None` at its end.
    ///
    /// # Errors
    /// [`WalletError::AnswerBroken`], which holds what was paid and bought.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, WalletError> {
        let next = self.response.chunk().await;
        next.map_err(|error| WalletError::AnswerBroken { error: cause(error), so_far: self.so_far() })
    }

    /// The whole body, up to `max` bytes.
    ///
    /// # Errors
    /// [`WalletError::AnswerBroken`] and [`WalletError::AnswerTooLong`].
    pub async fn bytes(&mut self, max: usize) -> Result<Vec<u8>, WalletError> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if body.len().saturating_add(chunk.len()) > max {
                return Err(WalletError::AnswerTooLong { max, so_far: self.so_far() });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn so_far(&self) -> SoFar {
        SoFar { proof: self.proof.clone(), capability: self.capability.clone().map(Box::new) }
    }
}

/// What a request had cost and bought when it failed.
#[derive(Clone, Debug, Default)]
pub struct SoFar {
    /// What was paid; `None` if nothing was.
    pub proof: Option<Box<Proof>>,
    /// What is left of the capability that was bought or used. With its token the request can be sent
    /// again without another payment.
    pub capability: Option<Box<Capability>>,
}

impl fmt::Display for SoFar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.proof {
            Some(proof) => write!(f, "paid: {proof}"),
            None => f.write_str("nothing was paid"),
        }
    }
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

/// Why a request was not answered, or not to its end. [`WalletError::proof`] says what was paid before,
/// and [`WalletError::capability`] what that bought.
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
    #[error("the network did not accept a payment ({proof}), and no node knows it: {error}")]
    NotSent { proof: Box<Proof>, error: ProcessError },
    #[error("the proof cannot be written: {0}")]
    Unwritable(OfferError),
    #[error("the gateway refused a payment ({proof}): {reason}")]
    Refused { reason: String, proof: Box<Proof> },
    #[error("the gateway has not settled a payment ({proof}) after {waited:?}; it may still do so")]
    Pending { proof: Box<Proof>, waited: Duration },
    #[error("the answer to a paid request was lost ({proof}): {error}")]
    AnswerLost { proof: Box<Proof>, error: String },
    #[error("the answer broke off: {error} ({so_far})")]
    AnswerBroken { error: String, so_far: SoFar },
    #[error("the answer has more than {max} bytes ({so_far})")]
    AnswerTooLong { max: usize, so_far: SoFar },
    #[error("the redirect to {to} leads to a price of its own, and one payment was made already")]
    BilledAgain { to: String },
    #[error("after a redirect: {error} ({so_far})")]
    AfterRedirect { error: Box<WalletError>, so_far: SoFar },
}

impl WalletError {
    /// The payment after which this happened: money may have moved, so the request must not just be
    /// repeated. `None`: nothing was paid for this request.
    #[must_use]
    pub fn proof(&self) -> Option<&Proof> {
        self.so_far().0
    }

    /// The capability that was bought or used before this happened. With its token, in
    /// `PAYMENT-CAPABILITY`, the request can be sent again without another payment.
    #[must_use]
    pub fn capability(&self) -> Option<&Capability> {
        self.so_far().1
    }

    fn so_far(&self) -> (Option<&Proof>, Option<&Capability>) {
        match self {
            Self::NotSent { proof, .. }
            | Self::Refused { proof, .. }
            | Self::Pending { proof, .. }
            | Self::AnswerLost { proof, .. } => (Some(proof), None),
            Self::AnswerBroken { so_far, .. }
            | Self::AnswerTooLong { so_far, .. }
            | Self::AfterRedirect { so_far, .. } => (so_far.proof.as_deref(), so_far.capability.as_deref()),
            Self::NoRequest(_)
            | Self::DayLimit(_)
            | Self::BodyNotRepeatable
            | Self::Unreachable { .. }
            | Self::NotAGateway { .. }
            | Self::NothingPayable(_)
            | Self::TooExpensive { .. }
            | Self::WorkTooHard { .. }
            | Self::NoFunds { .. }
            | Self::Ledger(_)
            | Self::Unsettled { .. }
            | Self::NotReceived { .. }
            | Self::Work(_)
            | Self::BilledAgain { .. }
            | Self::Unwritable(_) => (None, None),
        }
    }
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
    /// [`WalletOptions::ca_file`](super::WalletOptions::ca_file) cannot be used.
    #[error("certificates of authorities: {0}")]
    Authorities(NodeSetupError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof() -> Proof {
        let account = Account([7; 32]);
        let payment = Payment {
            mechanism: Mechanism::NanoTxn,
            amount: Raw::new(1_000_000_000_000_000_000_000_000_000_000),
            account,
            pay_to: account,
            hash: BlockHash([1; 32]),
            acknowledged: false,
        };
        Proof { payment, header: HeaderValue::from_static("secret") }
    }

    /// Whoever only repeats a request after an error pays twice.
    #[test]
    fn an_error_gives_what_was_paid() {
        let boxed = || Box::new(proof());
        let so_far = || SoFar { proof: Some(boxed()), capability: None };
        let broken = WalletError::AnswerBroken { error: String::new(), so_far: so_far() };
        for error in [
            WalletError::Refused { reason: "why".to_owned(), proof: boxed() },
            WalletError::Pending { proof: boxed(), waited: Duration::ZERO },
            WalletError::AnswerLost { proof: boxed(), error: String::new() },
            WalletError::AnswerTooLong { max: 1, so_far: so_far() },
            WalletError::AfterRedirect { error: Box::new(broken), so_far: so_far() },
        ] {
            assert_eq!(error.proof(), Some(&proof()), "{error}");
            assert!(error.capability().is_none());
            assert!(error.to_string().contains("1 XNO by nanoTxn, block 0101"), "{error}");
        }
        let unpaid = WalletError::AnswerTooLong { max: 1, so_far: SoFar::default() };
        for error in [unpaid, WalletError::BodyNotRepeatable] {
            assert!(error.proof().is_none() && error.capability().is_none(), "{error}");
        }
        assert_eq!(SoFar::default().to_string(), "nothing was paid");
    }

    /// A proof is as good as what it bought.
    #[test]
    fn a_log_does_not_show_a_proof() {
        let shown = format!("{:?}", proof());
        assert!(shown.contains("payment") && !shown.contains("secret"), "{shown}");
    }

    fn answered(body: &'static str) -> Paid {
        let response = Response::from(http::Response::new(body));
        Paid { response, proof: Some(Box::new(proof())), capability: None }
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        assert_eq!(answered("1234").bytes(4).await.unwrap(), b"1234");
        let too_long = answered("12345").bytes(4).await.unwrap_err();
        assert!(matches!(too_long, WalletError::AnswerTooLong { max: 4, .. }), "{too_long}");
        assert_eq!(too_long.proof(), Some(&proof()), "it was paid for");
        let mut paid = answered("12");
        assert_eq!(paid.chunk().await.unwrap().as_deref(), Some(&b"12"[..]));
        assert_eq!(paid.chunk().await.unwrap(), None);
        assert_eq!(paid.payment(), Some(proof().payment));
    }
}
