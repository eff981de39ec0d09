//! Why a payment is refused.

use std::fmt;

/// The codes of x402.Nano's tracks A and B, and **(ours)** those that close a gap in them. Spelled
/// here and nowhere else; a refusal is answered 402 with the code in `error`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Refusal {
    BlockNotFound,
    BroadcastFailed,
    /// **(ours)** Used up, expired, revoked or of another route.
    CapabilityExhausted,
    CapabilityExpired,
    CapabilityUnknown,
    /// **(ours)** The echoed entry is not one that this gateway minted.
    ChallengeUnknown,
    ConfirmationTimeout,
    DuplicateBlockHash,
    DuplicateFrontier,
    FrontierChanged,
    InsufficientAmount,
    InvalidSignature,
    InvalidWork,
    MalformedPayload,
    PaymentExpired,
    SenderMismatch,
    StaleFrontier,
    UnconfirmedBlock,
    WrongBlockType,
    WrongDestination,
    /// **(ours)** Paid for another route than the one asked for.
    WrongResource,
}

impl Refusal {
    /// Every refusal, so that a test can hold that none is forgotten.
    pub const ALL: [Self; 21] = [
        Self::BlockNotFound,
        Self::BroadcastFailed,
        Self::CapabilityExhausted,
        Self::CapabilityExpired,
        Self::CapabilityUnknown,
        Self::ChallengeUnknown,
        Self::ConfirmationTimeout,
        Self::DuplicateBlockHash,
        Self::DuplicateFrontier,
        Self::FrontierChanged,
        Self::InsufficientAmount,
        Self::InvalidSignature,
        Self::InvalidWork,
        Self::MalformedPayload,
        Self::PaymentExpired,
        Self::SenderMismatch,
        Self::StaleFrontier,
        Self::UnconfirmedBlock,
        Self::WrongBlockType,
        Self::WrongDestination,
        Self::WrongResource,
    ];

    /// The code on the wire and the `reason` label of metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::BlockNotFound => "BLOCK_NOT_FOUND",
            Self::BroadcastFailed => "BROADCAST_FAILED",
            Self::CapabilityExhausted => "CAPABILITY_EXHAUSTED",
            Self::CapabilityExpired => "CAPABILITY_EXPIRED",
            Self::CapabilityUnknown => "CAPABILITY_UNKNOWN",
            Self::ChallengeUnknown => "CHALLENGE_UNKNOWN",
            Self::ConfirmationTimeout => "CONFIRMATION_TIMEOUT",
            Self::DuplicateBlockHash => "DUPLICATE_BLOCK_HASH",
            Self::DuplicateFrontier => "DUPLICATE_FRONTIER",
            Self::FrontierChanged => "FRONTIER_CHANGED",
            Self::InsufficientAmount => "INSUFFICIENT_AMOUNT",
            Self::InvalidSignature => "INVALID_SIGNATURE",
            Self::InvalidWork => "INVALID_WORK",
            Self::MalformedPayload => "MALFORMED_PAYLOAD",
            Self::PaymentExpired => "PAYMENT_EXPIRED",
            Self::SenderMismatch => "SENDER_MISMATCH",
            Self::StaleFrontier => "STALE_FRONTIER",
            Self::UnconfirmedBlock => "UNCONFIRMED_BLOCK",
            Self::WrongBlockType => "WRONG_BLOCK_TYPE",
            Self::WrongDestination => "WRONG_DESTINATION",
            Self::WrongResource => "WRONG_RESOURCE",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
