//! The reasons for which a payment is refused.

use std::fmt;

vocabulary! {
    /// The codes of x402.Nano's tracks A and B, and some that close gaps in them, marked **(ours)**. They
    /// are written only here. A refusal is answered with 402 and the code in `error`.
    #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
    pub enum Refusal {
        BlockNotFound = "BLOCK_NOT_FOUND",
        BroadcastFailed = "BROADCAST_FAILED",
        /// **(ours)** All uses are spent.
        CapabilityExhausted = "CAPABILITY_EXHAUSTED",
        CapabilityExpired = "CAPABILITY_EXPIRED",
        /// **(ours)** The operator ended it, or its holder closed it.
        CapabilityRevoked = "CAPABILITY_REVOKED",
        CapabilityUnknown = "CAPABILITY_UNKNOWN",
        /// **(ours)** This gateway did not mint the entry that was sent back.
        ChallengeUnknown = "CHALLENGE_UNKNOWN",
        ConfirmationTimeout = "CONFIRMATION_TIMEOUT",
        DuplicateBlockHash = "DUPLICATE_BLOCK_HASH",
        DuplicateFrontier = "DUPLICATE_FRONTIER",
        FrontierChanged = "FRONTIER_CHANGED",
        InsufficientAmount = "INSUFFICIENT_AMOUNT",
        InvalidSignature = "INVALID_SIGNATURE",
        InvalidWork = "INVALID_WORK",
        MalformedPayload = "MALFORMED_PAYLOAD",
        PaymentExpired = "PAYMENT_EXPIRED",
        SenderMismatch = "SENDER_MISMATCH",
        StaleFrontier = "STALE_FRONTIER",
        UnconfirmedBlock = "UNCONFIRMED_BLOCK",
        WrongBlockType = "WRONG_BLOCK_TYPE",
        WrongDestination = "WRONG_DESTINATION",
        /// **(ours)** The payment is for another route than the requested one.
        WrongResource = "WRONG_RESOURCE",
    }
    /// The code on the wire and the `reason` label of metrics.
    pub fn code;
}

impl Refusal {
    /// One sentence for the author of the client: what is wrong and what to do.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::BlockNotFound => "no node knows the block: broadcast it, then send the same proof again",
            Self::BroadcastFailed => {
                "the network refused the block: build a new one on the account's frontier"
            }
            Self::CapabilityExhausted => "every use of the capability is spent: pay again",
            Self::CapabilityExpired => "the capability's time is over: pay again",
            Self::CapabilityRevoked => {
                "the capability has ended: its holder has closed it, or the operator has revoked it; pay again, or ask the \
                 operator why"
            }
            Self::CapabilityUnknown => "this gateway knows no such capability: pay for one",
            Self::ChallengeUnknown => {
                "`accepted` is not an entry this gateway sent: echo one of `accepts` unchanged, `extra` and all"
            }
            Self::ConfirmationTimeout => "the block was not confirmed in time: send the same proof again",
            Self::DuplicateBlockHash => "the block has paid for something already: pay with a new one",
            Self::DuplicateFrontier => {
                "another payment from the same frontier is under way: wait for it, then build on it"
            }
            Self::FrontierChanged => {
                "another block was confirmed in its place: no money moved, pay again with a new block"
            }
            Self::InsufficientAmount => "the block does not move the price: see `amount`, in raw",
            Self::InvalidSignature => "the signature does not hold for the account",
            Self::InvalidWork => "the block's work is missing or below `workThreshold`",
            Self::MalformedPayload => "the payload is not what x402 version 2 asks for",
            Self::PaymentExpired => {
                "the challenge's time is over; this answer has a fresh one for the same address: a block that was \
                 sent in time can be presented under it"
            }
            Self::SenderMismatch => "the block was sent by another account than the proof names",
            Self::StaleFrontier => {
                "`previous` is not the account's confirmed frontier: build the block on the frontier"
            }
            Self::UnconfirmedBlock => "the block is not confirmed yet: send the same proof again",
            Self::WrongBlockType => "the block is not a send in a state block",
            Self::WrongDestination => "the block does not pay the challenge's `payTo`",
            Self::WrongResource => "paid for another route, or another call of it, than the one asked for",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
