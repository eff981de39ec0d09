//! NanoSession at the edge: the header pair of revision 5, and a word to those who sign as its
//! revision 7 has it.

use crate::cashier::{Evidence, Presented, Proof, Refused, Verdict};
use crate::nano::BlockHash;
use crate::payment::nano_signature::{self, SignatureEvidence};
use crate::payment::{Particular, Refusal};
use crate::routes::RouteName;
use crate::x402::SessionId;

pub(super) const BLOCK_HEADER: &str = "x-payment-block";
pub(super) const SESSION_HEADER: &str = "x-payment-session";

/// The proof in the two headers, for a request to `route`; `block` is the first one's value. A
/// session without a block proves nothing and is looked past.
///
/// # Errors
/// What is wrong with the headers.
pub(super) fn read(block: &str, session: Option<&str>, route: &RouteName) -> Result<Presented, String> {
    let block: BlockHash =
        block.trim().parse().map_err(|error| format!("{BLOCK_HEADER}: a block's hash: {error}"))?;
    let session = session.ok_or_else(|| format!("{BLOCK_HEADER} without {SESSION_HEADER}: send both"))?;
    // Of another gateway, or cut short: told as any other challenge that was not minted here.
    let Ok(session) = session.trim().parse::<SessionId>() else {
        return Ok(Presented::Refused(Refusal::ChallengeUnknown));
    };
    Ok(match Proof::of_session(&session, block, route) {
        Ok(proof) => Presented::Proof(Box::new(proof)),
        Err(refusal) => Presented::Refused(refusal),
    })
}

/// The claim whose signature may turn out to be of another kind.
pub(super) fn claim_of(presented: &Presented) -> Option<SignatureEvidence> {
    match presented {
        Presented::Proof(proof) => match proof.evidence {
            Evidence::Signature(claim) => Some(claim),
            Evidence::Txn(_) | Evidence::Session(_) => None,
        },
        Presented::Nothing | Presented::Token(_) | Presented::Refused(_) => None,
    }
}

/// Tells the sender of a claim that was refused for its signature, if it is one over the block and
/// the request's `url`.
pub(super) fn explain(
    verdict: Verdict,
    claim: Option<SignatureEvidence>,
    url: impl FnOnce() -> String,
) -> Verdict {
    match (verdict, claim) {
        (Verdict::Bill(mut bill), Some(claim)) => {
            if let Some(refused @ Refused { refusal: Refusal::InvalidSignature, .. }) = &mut bill.refused
                && nano_signature::is_url_bound(&claim, &url())
            {
                refused.particular = Some(Particular::UrlBound);
            }
            Verdict::Bill(bill)
        }
        (verdict, _) => verdict,
    }
}
