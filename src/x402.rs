//! The envelopes of x402 v2 and their coding as headers.
//!
//! Pure, and about form only: whether a challenge was minted here, is in time and is paid for,
//! `payment` judges. What is written is typed; what is read may carry more than is known, which is
//! ignored, and what is missing or wrong is named by its path (`accepted.extra.nonce`). Sources:
//! the x402 v2 specification and its HTTP transport; x402.Nano tracks A and B; PROTOCOL sections
//! 2, 3, 5 and 6.

mod facilitate;
mod fault;
mod fields;
mod header;
mod offer;
mod payload;
pub mod payment_identifier;
mod required;
mod session;
mod settlement;

pub use facilitate::{AcceptsRequest, Demanded, FacilitatorRequest, Wanted, supported};
pub use fault::{Fault, Malformed, URL_BOUND};
pub use header::{Unreadable, decode_header, encode_header};
pub use offer::{Ask, Offer, Offers};
pub use payload::{Credential, Payment, PaymentPayload, Presented, Proof};
pub use required::{
    Asset, Extra, Grants, PaymentRequired, PaymentRequirements, Resource, Scheme, Track, WorkPolicy,
    WorkTerms,
};
pub use session::{NoSession, Session, SessionTerms, TAG_MODULUS, session_headers};
pub use settlement::{Capability, Outcome, SettlementResponse};

/// The one version of x402 that is spoken.
pub const X402_VERSION: u64 = 2;

/// The most bytes of a payment header that are looked at; a longer one is refused unread.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;

/// What all headers of a response must stay under together: Node's client fails at twice that.
pub const MAX_RESPONSE_HEADERS_BYTES: usize = 8 * 1024;

/// Gives an envelope its serde form by way of its `to_json` and `read`, so that there is one
/// spelling of it and one set of messages.
macro_rules! serde_json_form {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                serde::Serialize::serialize(&self.to_json(), to)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let value = <serde_json::Value as serde::Deserialize>::deserialize(from)?;
                Self::read(&value).map_err(serde::de::Error::custom)
            }
        }
    };
}
use serde_json_form;
