//! A request to a route with a meter: what it may cost, and how its answer is read.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::Result;

use crate::admission::AnswerMeter;
use crate::config::MAX_BODY;
use crate::nano::Raw;
use crate::usage::{Admitted, AnswerHead, MeterPlan, NoRate};

/// With this the upstream says what an answer costs, and the gateway says it to the client.
const COST: HeaderName = HeaderName::from_static("faregate-cost");

/// What the answer to an admitted request is measured by.
#[derive(Debug)]
pub(super) struct Metered {
    plan: Arc<MeterPlan>,
    admitted: Admitted,
    /// The whole body, where Pingora does not have it or is to send another.
    whole: Option<Bytes>,
}

impl Metered {
    /// Of a request with this `body`, if it was read, that the plan admits.
    ///
    /// # Errors
    /// [`NoRate`], if the request cannot be priced.
    pub(super) fn admit(plan: &Arc<MeterPlan>, body: Option<&Bytes>) -> std::result::Result<Self, NoRate> {
        let mut admitted = plan.admit(body.map(|it| &**it))?;
        let long = body.filter(|it| it.len() > MAX_BODY);
        // Not copied: a body counts once for what bodies may take.
        let whole = admitted.body.take().map(Bytes::from).or_else(|| long.cloned());
        Ok(Self { plan: Arc::clone(plan), admitted, whole })
    }

    /// What is set aside for the request.
    pub(super) const fn hold(&self) -> Raw {
        self.admitted.hold
    }

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

/// Says what an answer costs that its upstream has said beforehand, and the most that its purse pays.
pub(super) fn announce(response: &mut ResponseHeader, said: Option<(Raw, Raw)>) -> Result<()> {
    match said {
        Some((cost, most)) => response.insert_header(COST, cost.min(most).to_string()),
        None => Ok(()),
    }
}

/// What a trailer says of the cost.
pub(super) fn said(trailers: &HeaderMap) -> Option<Vec<u8>> {
    trailers.get(COST).map(|it| it.as_bytes().to_vec())
}
