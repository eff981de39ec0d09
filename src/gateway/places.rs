//! Paths of the gateway's own.

/// Where the holder of a token closes what it opens.
pub(super) const CLOSE: &str = "/.well-known/x402/close";
/// Where the holder of a token learns what it is worth.
pub(super) const HOLDING: &str = "/.well-known/x402/capability";
