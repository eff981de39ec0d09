//! The headers in which revision 5 of NanoSession sends a session (sections 2.3, 3.1).

use super::session::iso_8601;
use super::{PaymentRequirements, Track};
use crate::nano::Raw;

/// The headers of revision 5 for `entry` in a 402; `None` for an entry of another mechanism. A client
/// sends the sum of amount and tag, which is the `amount` of the entry.
#[must_use]
pub fn session_headers(entry: &PaymentRequirements) -> Option<[(&'static str, String); 5]> {
    let Track::NanoSession(terms) = entry.extra.track else { return None };
    let session = entry.session()?;
    let tag = terms.tag();
    let base = entry.amount.checked_sub(Raw::new(u128::from(tag)))?;
    Some([
        ("X-PAYMENT-ADDRESS", session.pay_to.to_string()),
        ("X-PAYMENT-AMOUNT", base.to_string()),
        ("X-PAYMENT-TAG", tag.to_string()),
        ("X-PAYMENT-SESSION", session.to_string()),
        ("X-PAYMENT-EXPIRES", iso_8601(session.valid_before)),
    ])
}
