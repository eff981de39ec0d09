//! What is decided about a request, before any of it is carried out.

use std::sync::Arc;

use super::closing;
use super::context::{Context, Forwarding, Payment};
use super::discovery::Document;
use super::rejection::Rejection;
use crate::admission::Admission;
use crate::cashier::{Bill, Closed, Holding, IdentifierRefusal, Moved, PendingReason, Replay, Wait};
use crate::metrics::{Outcome, ReachedLimit};
use crate::payment::Refusal;
use crate::routes::{CanonicalTarget, Route, Strip, UpstreamName};

/// What to do with a request.
#[derive(Debug)]
pub(super) enum Decision {
    Forward(Box<Forwarding>),
    /// Answer 402.
    Bill(Box<Billed>),
    Wait(Wait),
    Replay(Box<Replay>),
    Conflict(IdentifierRefusal),
    /// What was bought opens nothing any more.
    Moved(Box<Moved>),
    /// Answer with what is published about the prices.
    Document(Arc<Document>),
    /// Say what a token is worth.
    Holding(Box<Holding>),
    /// Answer what became of a capability that was to be closed.
    Close(Box<Closed>),
    /// Answer an `OPTIONS` request: a cross-origin preflight, or one that is to go no further.
    Preflight,
    Reject(Rejection),
}

/// A bill, and what was asked for.
#[derive(Debug)]
pub(super) struct Billed {
    pub(super) bill: Bill,
    pub(super) route: Arc<Route>,
    pub(super) target: CanonicalTarget,
}

impl Decision {
    /// Whether the client gets something that it asked for and may have, paid or free.
    pub(super) const fn sells(&self) -> bool {
        match self {
            Self::Forward(_) | Self::Replay(_) => true,
            Self::Bill(_)
            | Self::Wait(_)
            | Self::Conflict(_)
            | Self::Moved(_)
            | Self::Document(_)
            | Self::Holding(_)
            | Self::Close(_)
            | Self::Preflight
            | Self::Reject(_) => false,
        }
    }

    /// Whether it is forwarded with a use.
    pub(super) fn holds_use(&self) -> bool {
        matches!(self, Self::Forward(it) if it.admission.admitted().is_some())
    }

    /// Whether what came with the request has shown a right to an answer: it opens something, or its payment is
    /// known and waits for its confirmation.
    pub(super) fn shows_right(&self) -> bool {
        match self {
            Self::Replay(_) | Self::Wait(Wait::Pending { reason: PendingReason::Settlement, .. }) => true,
            Self::Forward(_) => self.holds_use(),
            Self::Close(closed) => closed.refund().is_some(),
            Self::Wait(_)
            | Self::Bill(_)
            | Self::Conflict(_)
            | Self::Moved(_)
            | Self::Document(_)
            | Self::Holding(_)
            | Self::Preflight
            | Self::Reject(_) => false,
        }
    }

    /// The payment that it is about.
    pub(super) fn payment(&self) -> Option<Payment> {
        match self {
            Self::Forward(it) => it.admission.admitted().map(Payment::of),
            Self::Replay(it) => Some(Payment::Served { said: it.said.clone(), held: Arc::clone(&it.held) }),
            Self::Bill(it) => it.bill.refused.as_ref().and_then(|it| it.block).map(Payment::Shown),
            Self::Wait(Wait::Pending { block, .. }) => Some(Payment::Shown(*block)),
            Self::Moved(it) => Some(Payment::Shown(it.block)),
            Self::Close(it) => it.refund().map(|it| Payment::Shown(it.payment)),
            Self::Wait(_)
            | Self::Conflict(_)
            | Self::Document(_)
            | Self::Holding(_)
            | Self::Preflight
            | Self::Reject(_) => None,
        }
    }

    /// Why what came with the request was refused.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let Self::Bill(billed) = self else { return None };
        billed.bill.refused.as_ref().map(|it| it.refusal)
    }

    /// Why a request that wants to buy or use something goes no further than here, in one word: the limit that it
    /// reached, or that what it shows cannot be read. `None` for a request that is wrong in another way, or that the
    /// cashier has judged.
    pub(super) const fn rejected_for(&self) -> Option<&'static str> {
        match self {
            Self::Reject(Rejection::Overloaded(limit)) => Some(limit.as_str()),
            Self::Reject(Rejection::TooOften(_)) => Some(ReachedLimit::RouteLimit.as_str()),
            Self::Reject(Rejection::UnreadablePayment(_)) => Some("bad_request"),
            Self::Forward(_)
            | Self::Bill(_)
            | Self::Wait(_)
            | Self::Replay(_)
            | Self::Conflict(_)
            | Self::Moved(_)
            | Self::Document(_)
            | Self::Holding(_)
            | Self::Close(_)
            | Self::Preflight
            | Self::Reject(_) => None,
        }
    }

    /// How the request ends if it is decided like this.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Forward(forwarding) => forwarding.admission.outcome(),
            Self::Bill(billed) if billed.bill.refused.is_some() => Outcome::Refused,
            Self::Bill(_) => Outcome::Challenged,
            Self::Wait(Wait::Pending { .. } | Wait::UsesOut | Wait::SameId) => Outcome::Pending,
            Self::Wait(
                Wait::UpstreamDown(_)
                | Wait::UpstreamFailing(_)
                | Wait::NoNode
                | Wait::NoRate
                | Wait::NoStore
                | Wait::NoWork
                | Wait::Overloaded,
            ) => Outcome::Unavailable,
            Self::Replay(_) => Outcome::Replayed,
            Self::Conflict(_) | Self::Moved(_) => Outcome::Refused,
            Self::Document(_) | Self::Holding(_) | Self::Preflight => Outcome::Free,
            Self::Close(closed) => closing::outcome(closed),
            Self::Reject(rejection) => rejection.outcome(),
        }
    }
}

/// Where a request is forwarded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Destination<'r> {
    pub(super) upstream: &'r UpstreamName,
    /// What the upstream does not see of the target.
    pub(super) strip: Option<&'r Strip>,
}

impl<'r> Destination<'r> {
    pub(super) fn of(route: &'r Route) -> Self {
        Self { upstream: &route.upstream, strip: route.strip.as_ref() }
    }

    /// Of requests that no route covers.
    pub(super) const fn unmatched(upstream: &'r UpstreamName) -> Self {
        Self { upstream, strip: None }
    }
}

/// Forwards a request, with the right that `admission` is. One that holds no use waits while the upstream
/// is down.
///
/// # Errors
/// [`Rejection::NoUpstream`].
pub(super) fn forward(
    context: &Context,
    to: Destination<'_>,
    target: CanonicalTarget,
    admission: Admission,
    is_preflight: bool,
) -> Result<Decision, Rejection> {
    let upstream = Arc::clone(context.tariff.upstreams.get(to.upstream).ok_or(Rejection::NoUpstream)?);
    if admission.admitted().is_none()
        && let Some(pause) = upstream.down()
    {
        return Ok(Decision::Wait(Wait::UpstreamDown(pause)));
    }
    let has_body = context.has_body;
    let (drops_body, chosen, unreached) = (is_preflight, None, Vec::new());
    Ok(Decision::Forward(Box::new(Forwarding {
        admission,
        upstream,
        target,
        strip: to.strip.cloned(),
        has_body,
        is_preflight,
        is_quiet: false,
        drops_body,
        chosen,
        unreached,
        is_repeated: false,
    })))
}

#[cfg(test)]
mod tests {
    use super::super::scenes::{config, forwarding};
    use super::*;
    use crate::cashier::Refused;
    use crate::nano::BlockHash;
    use crate::payment::Refusal;

    fn billed(refused: Option<Refused>) -> Decision {
        let config = config("url: http://a");
        let route = Arc::clone(&config.table.routes()[0]);
        let bill = Bill { challenges: Vec::new(), refused };
        let target = CanonicalTarget::parse("/v1/x").unwrap();
        Decision::Bill(Box::new(Billed { bill, route, target }))
    }

    fn pending(reason: PendingReason) -> Decision {
        Decision::Wait(Wait::Pending { block: BlockHash([1; 32]), reason })
    }

    #[test]
    fn a_payment_that_waits_for_its_confirmation_shows_a_right_and_a_free_request_none() {
        assert!(pending(PendingReason::Settlement).shows_right());
        for decision in [
            pending(PendingReason::BlockNotFound),
            Decision::Wait(Wait::Overloaded),
            Decision::Preflight,
            Decision::Reject(Rejection::NotFound),
            Decision::Forward(Box::new(forwarding("url: http://a", false))),
            billed(None),
        ] {
            assert!(!decision.shows_right() && !decision.holds_use(), "{decision:?}");
        }
    }

    #[test]
    fn how_a_request_ends_is_what_the_metrics_say() {
        let refused = Refused {
            refusal: Refusal::PaymentExpired,
            mechanism: None,
            block: None,
            message: String::new(),
        };
        for (decision, outcome) in [
            (billed(None), Outcome::Challenged),
            (billed(Some(refused)), Outcome::Refused),
            (pending(PendingReason::BlockNotFound), Outcome::Pending),
            (Decision::Wait(Wait::UsesOut), Outcome::Pending),
            (Decision::Wait(Wait::SameId), Outcome::Pending),
            (Decision::Wait(Wait::NoStore), Outcome::Unavailable),
            (Decision::Wait(Wait::NoRate), Outcome::Unavailable),
            (Decision::Preflight, Outcome::Free),
            (Decision::Forward(Box::new(forwarding("url: http://a", false))), Outcome::Free),
        ] {
            assert_eq!(decision.outcome(), outcome, "{decision:?}");
        }
    }

    #[test]
    fn who_gets_what_it_may_have_waits_for_no_turn() {
        assert!(Decision::Forward(Box::new(forwarding("url: http://a", false))).sells());
        for decision in
            [Decision::Preflight, Decision::Wait(Wait::Overloaded), Decision::Reject(Rejection::NotFound)]
        {
            assert!(!decision.sells(), "{decision:?}");
        }
    }
}
