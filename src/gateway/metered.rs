//! A request to a route with a meter: what it may cost, and how its answer is read.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Result, Session};

use super::calls::{Sale, plain_json};
use super::context::Context;
use super::rejection::Rejection;
use crate::admission::{AnswerMeter, Charge};
use crate::config::MAX_BODY;
use crate::nano::Raw;
use crate::routes::{Route, Terms, Unit};
use crate::usage::{Admitted, AnswerHead, MeterPlan};

/// With this the upstream says what an answer costs, and the gateway says it to the client.
const COST: HeaderName = HeaderName::from_static("faregate-cost");
/// The longest body that is read to learn what it asks for, in bytes.
const LONGEST: usize = 8 * 1024 * 1024;

/// What the answer to an admitted request is measured by.
#[derive(Debug)]
pub(super) struct Metered {
    plan: Arc<MeterPlan>,
    admitted: Admitted,
    /// The whole body, where Pingora does not have it or is to send another.
    whole: Option<Bytes>,
}

/// What is sold to a request to `route`, for which a payment of `terms` buys a purse. A request that may cost more
/// than that is offered a purse that is as large.
pub(super) async fn price(
    session: &mut Session,
    context: &mut Context,
    route: &Route,
    terms: Terms,
    plan: &Arc<MeterPlan>,
) -> Result<Sale, Rejection> {
    let mut body = None;
    if plan.reads_request() {
        plain_json(&session.req_header().headers)?;
        let read = context.tariff.bodies.read(session, context.caller.client(), LONGEST).await?;
        context.body = Some(read.permit);
        body = Some(read.bytes);
    }
    let admitted = plan.admit(body.as_deref()).map_err(|why| {
        if why.is_not_offered() {
            Rejection::NotOffered(why.to_string())
        } else {
            Rejection::Unreadable(why.to_string())
        }
    })?;
    let hold = admitted.hold;
    let long = body.as_ref().filter(|it| it.len() > MAX_BODY);
    let whole = admitted.body.as_ref().or(long).map(|it| Bytes::from(it.clone()));
    context.metered = Some(Box::new(Metered { plan: Arc::clone(plan), admitted, whole }));
    let terms = Terms { amount: terms.amount.max(hold), ..terms };
    Ok(Sale { hold: Some(hold), body, ..Sale::of(route.name.clone(), terms) })
}

impl Metered {
    /// The request as the upstream gets it: what it answers must be readable.
    pub(super) fn request(&self, request: &mut RequestHeader) -> Result<()> {
        let _removed = request.remove_header(&ACCEPT_ENCODING).is_some();
        match &self.whole {
            Some(whole) if request.headers.contains_key(CONTENT_LENGTH) => {
                request.insert_header(CONTENT_LENGTH, whole.len())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether a body longer than what Pingora would keep stays with the request: until its answer begins.
    pub(super) fn keeps_long_body(&self) -> bool {
        self.whole.as_ref().is_some_and(|it| it.len() > MAX_BODY)
    }

    /// The body as the upstream gets it, in the place of what Pingora kept of it.
    pub(super) fn request_body(&self, body: &mut Option<Bytes>) {
        if let (Some(whole), Some(_)) = (&self.whole, &body) {
            *body = Some(whole.clone());
        }
    }

    /// Reads the head of the upstream's answer, before anything is taken off it.
    pub(super) fn answer(&mut self, response: &ResponseHeader) -> AnswerMeter {
        // It is not sent again.
        self.whole = None;
        let headers = &response.headers;
        let value = |name: HeaderName| headers.get(name).map(|it| it.as_bytes());
        let content_type = value(CONTENT_TYPE);
        let encoding = value(CONTENT_ENCODING);
        let is_events = content_type.is_some_and(|it| {
            it.get(..17).is_some_and(|start| start.eq_ignore_ascii_case(b"text/event-stream"))
        });
        let is_encoded = encoding.is_some_and(|it| !it.trim_ascii().eq_ignore_ascii_case(b"identity"));
        let head = AnswerHead {
            status: response.status.as_u16(),
            content_type,
            is_encoded,
            cost_header: value(COST),
        };
        let gauge = self.plan.gauge(&self.admitted, head);
        let announces =
            self.plan.announce && is_events && !is_encoded && !headers.contains_key(CONTENT_LENGTH);
        AnswerMeter::begin(gauge, &self.plan, self.admitted.hold, is_events, announces)
    }
}

/// Says what an answer costs that its upstream has said beforehand, if a purse pays for it: as much as is there.
pub(super) fn announce(
    response: &mut ResponseHeader,
    context: &Context,
    (charge, cost): (Charge, Option<Raw>),
) -> Result<()> {
    let admitted = context.forwarding.as_ref().and_then(|it| it.admission.admitted());
    let purse = admitted.filter(|it| charge == Charge::Taken && it.taken.held().record().unit == Unit::Raw);
    match cost.zip(purse) {
        Some((cost, purse)) => response.insert_header(COST, cost.get().min(purse.taken.most()).to_string()),
        None => Ok(()),
    }
}

/// What a trailer says of the cost.
pub(super) fn said(trailers: &HeaderMap) -> Option<Vec<u8>> {
    trailers.get(COST).map(|it| it.as_bytes().to_vec())
}
