//! The header pair of NanoSession's revision 5.

use http::HeaderName;

use crate::cashier::{Presented, Proof};
use crate::nano::BlockHash;
use crate::payment::Refusal;
use crate::routes::RouteName;
use crate::x402::SessionId;

pub(super) const BLOCK_HEADER: HeaderName = HeaderName::from_static("x-payment-block");
pub(super) const SESSION_HEADER: HeaderName = HeaderName::from_static("x-payment-session");

/// The proof in the two headers, for a request to the route of these `names`. A session without a block proves nothing
/// and is ignored. The route of the session need not be one of the names: what it opens is decided like that of any
/// other proof.
///
/// # Errors
/// What is wrong with the headers.
pub(super) fn read(
    block: &str,
    session: Option<&str>,
    names: impl Iterator<Item = RouteName>,
) -> Result<Presented, String> {
    let block: BlockHash =
        block.trim().parse().map_err(|error| format!("{BLOCK_HEADER}: a block's hash: {error}"))?;
    let session = session.ok_or_else(|| format!("{BLOCK_HEADER} without {SESSION_HEADER}: send both"))?;
    // Another gateway's, or cut short: answered like any other challenge that was not minted here.
    let Ok(session) = session.trim().parse::<SessionId>() else {
        return Ok(Presented::Refused(Refusal::ChallengeUnknown));
    };
    Ok(match session.route(names) {
        Some(route) => Presented::Proof(Box::new(Proof::of_session(&session, block, route))),
        None => Presented::Refused(Refusal::WrongResource),
    })
}
