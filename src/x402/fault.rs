//! What is wrong with a payment header, in messages that tell its author how to correct it.

use super::{UnreadableHeader, X402_VERSION};

/// The message for a client that signs as revision 7 of NanoSession specifies.
pub const URL_BOUND: &str = "NanoSession revision 7's nanoSignature, which signs `blockHash + url`, is not \
    accepted, since it names no challenge: sign `<blockHash>:<nonce>:<validBefore>` as an ORIS-001 message \
    and send `blockHash`, `account` and `signature` (x402.Nano Track B)";

/// Why a payment header is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Malformed {
    /// It cannot be read: 400.
    #[error(transparent)]
    Unreadable(#[from] UnreadableHeader),
    /// It can be read but is not a payment: 402 `MALFORMED_PAYLOAD`.
    #[error(transparent)]
    Refused(#[from] FieldFault),
}

/// What is wrong in a JSON object. The first fault is reported, in the order of the
/// [protocol guide](crate::guide::protocol), "Verification": version, scheme, network, asset, shape.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FieldFault {
    #[error("`x402Version` is {found}, only version {X402_VERSION} is supported")]
    Version { found: String },
    #[error("`{path}` is {found}, only \"exact\" is supported")]
    Scheme { path: String, found: String },
    #[error("`{path}` is {found}, only \"nano:mainnet\" is supported")]
    Network { path: String, found: String },
    #[error("`{path}` is {found}, only \"XNO\" is supported")]
    Asset { path: String, found: String },
    #[error("`{path}` is missing")]
    Missing { path: String },
    /// A field of the entry of `accepts` that the client had to send back unchanged.
    #[error("`{path}` is missing: `accepted` must be an entry of `accepts`, unchanged, with its `extra`")]
    NotEchoed { path: String },
    #[error("`{path}` is {found}, expected {expected}")]
    Type { path: String, expected: &'static str, found: &'static str },
    #[error("`{path}`: {why}")]
    Value { path: String, why: String },
    #[error(
        "`payload` proves no payment: expected `block` (nanoTxn), or `blockHash`, `account` and \
         `signature` (nanoSignature), or `proof` (nanoSession), or `mode` \"access\" and `credential`"
    )]
    NoProof,
    /// The `nanoSignature` of NanoSession revision 7, which is a different mechanism.
    #[error("{URL_BOUND}")]
    UrlBound,
    #[error("`payload` is a {payload} proof, but `accepted` is the {accepted} entry")]
    TrackDisagrees { payload: &'static str, accepted: &'static str },
}
