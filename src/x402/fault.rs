//! What is wrong with an envelope, told so that its maker can mend it.

use super::{Unreadable, X402_VERSION};

/// What a client is told that signs as revision 7 of NanoSession has it.
pub const URL_BOUND: &str = "NanoSession revision 7's nanoSignature, which signs `blockHash + url`, is not \
    accepted, since it names no challenge: sign `<blockHash>:<nonce>:<validBefore>` as an ORIS-001 message \
    and send `blockHash`, `account` and `signature` (x402.Nano Track B)";

/// Why a payment header is of no use.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Malformed {
    /// It cannot be read: 400.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It can be read and is no payment: 402 `MALFORMED_PAYLOAD`.
    #[error(transparent)]
    Refused(#[from] Fault),
}

/// What is wrong in an envelope that is an object. The first fault in the order of PROTOCOL
/// section 4 is told: version, scheme, network, asset, then shape.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    #[error("`x402Version` is {found}, only version {X402_VERSION} is spoken")]
    Version { found: String },
    #[error("`{path}` is {found}, only the scheme \"exact\" is taken")]
    Scheme { path: String, found: String },
    #[error("`{path}` is {found}, only the network \"nano:mainnet\" is served")]
    Network { path: String, found: String },
    #[error("`{path}` is {found}, only the asset \"XNO\" is taken")]
    Asset { path: String, found: String },
    #[error("`{path}` is missing")]
    Missing { path: String },
    /// A part of the entry of `accepts` that the client was to send back as it came.
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
    /// NanoSession revision 7's `nanoSignature`, a mechanism of another kind.
    #[error("{URL_BOUND}")]
    UrlBound,
    #[error("`payload` is a {payload} proof, but `accepted` is the {accepted} entry")]
    TrackDisagrees { payload: &'static str, accepted: &'static str },
}
