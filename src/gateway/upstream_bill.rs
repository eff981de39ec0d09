//! An upstream that asks for money itself. On a priced route its 402 is no bill of the gateway's: the client
//! has paid, and what is missing is the operator's to pay. It becomes a 502.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use pingora::http::ResponseHeader;
use pingora::prelude::{Error, ErrorType};

use super::context::Context;
use crate::clock::Stopwatch;

/// The kind of the error that stands for such an answer.
pub(super) const UPSTREAM_BILL: ErrorType = ErrorType::Custom("UpstreamPaymentRequired");

/// How often the log says so about one route.
const COMPLAIN_EVERY: Duration = Duration::from_secs(600);

/// When the log last said that the upstream of a route asks for money.
#[derive(Debug)]
pub(super) struct UpstreamBills(Mutex<BTreeMap<String, Stopwatch>>);

impl UpstreamBills {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// The error in place of an answer of the upstream, if that is a bill for somebody who has paid.
    pub(super) fn check(&self, response: &ResponseHeader, context: &Context) -> Result<(), Box<Error>> {
        let admission = context.forwarding.as_ref().map(|it| &it.admission);
        let has_paid = admission.is_some_and(|it| it.admitted().is_some());
        if response.status != StatusCode::PAYMENT_REQUIRED || !has_paid {
            return Ok(());
        }
        self.complain(context);
        Err(Error::explain(UPSTREAM_BILL, "the upstream answered 402").into_up())
    }

    fn complain(&self, context: &Context) {
        let route = context.route_label();
        // Held for a look into a short map, never while something is awaited.
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.get(route).is_some_and(|it| it.elapsed() < COMPLAIN_EVERY) {
            return;
        }
        let _before = said.insert(route.to_owned(), Stopwatch::start());
        drop(said);
        tracing::warn!(
            request_id = %context.request_id,
            route,
            "the upstream answers 402: it asks for money of its own. Look at your account with it. Clients are \
             answered 502 (upstream_payment_required) and are not charged"
        );
    }
}
