//! The JSON objects of x402 v2 and their form as headers.
//!
//! Pure, and about form only: [`payment`](crate::payment) decides whether a challenge was minted
//! here, is still valid and was paid. Unknown fields are ignored. A fault names the field by its path
//! (`accepted.extra.nonce`). Sources: the x402 v2 specification and its HTTP transport; x402.Nano
//! tracks A and B; the [protocol guide](crate::guide::protocol).

mod facilitate;
mod fault;
mod fields;
mod header;
pub mod mcp;
mod offer;
mod payload;
pub mod payment_identifier;
mod required;
mod session;
mod session_headers;
mod settlement;
mod template;

pub use facilitate::{AcceptsRequest, Demanded, FacilitatorRequest, Wanted, supported};
pub use fault::{FieldFault, Malformed, URL_BOUND};
pub(crate) use header::push_text;
pub use header::{UnreadableHeader, decode_header, encode_header, encode_text};
pub use offer::{NanoOffer, NanoOffers, ProofRequest};
pub use payload::{Credential, Payload, PaymentPayload, PaymentProof, PlainPayment, PresentedPayment};
pub use required::{
    Asset, Extra, PaymentRequired, PaymentRequirements, Resource, Scheme, Track, WorkPolicy, WorkTerms,
    grants_to_json,
};
pub use session::{NoSession, SessionId, SessionTerms, TAG_MODULUS};
pub use session_headers::session_headers;
pub use settlement::{CapabilityNotice, SettlementOutcome, SettlementResponse, failed_text};
pub use template::EntryTemplate;

/// The only version of x402 that is supported.
pub const X402_VERSION: u64 = 2;

/// The longest payment header that is read, in bytes. A longer one is refused without decoding it.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;

/// The limit for all headers of a response together, in bytes: the HTTP client of Node.js fails at
/// twice that.
pub const MAX_RESPONSE_HEADERS_BYTES: usize = 8 * 1024;

/// Reads a type by its `read_fields`: from a header, or from JSON.
macro_rules! readable {
    ($name:ident) => {
        impl $name {
            /// Reads the value of its header.
            ///
            /// # Errors
            /// [`Malformed`](super::Malformed): not readable (400), or readable but refused (402).
            pub fn from_header(value: impl AsRef<[u8]>) -> Result<Self, super::Malformed> {
                let object = super::decode_header(value)?;
                Ok(Self::read_fields(&super::fields::Fields::of(&object))?)
            }

            /// Reads its JSON form.
            ///
            /// # Errors
            /// [`FieldFault`](super::FieldFault), the first one found.
            pub fn read(json: &serde_json::Value) -> Result<Self, super::FieldFault> {
                Self::read_fields(&super::fields::Fields::of_value(json, "")?)
            }
        }
    };
}
use readable;

/// Implements serde for a type through its `to_json` and `read`, so that its JSON form and its error
/// messages are written once.
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
