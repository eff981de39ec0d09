//! The Pingora callbacks: HTTP in, a decision, HTTP out.
//!
//! Nothing is decided here. [`ask`] reads the request, the cashier decides, [`respond`] writes what
//! the gateway itself answers, [`forward`] rewrites what passes through. A request has an upstream
//! only when it has an [`Admission`], and only a decision makes one.

mod ask;
pub mod body;
mod calls;
pub mod discovery;
mod forward;
mod identified;
mod respond;
mod session;
pub mod tariff;
pub mod upstream;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use pingora::ErrorSource;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Error, ErrorType, HttpPeer, ProxyHttp, Result, Session};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::proxy::FailToProxy;
use pingora::upstreams::peer::Peer;

use crate::cashier::{Admitted, Cashier, How};
use crate::clock::Stopwatch;
use crate::ledger::Ledger;
use crate::metrics::{Metrics, Outcome, UseResult};
use crate::routes::{CanonicalTarget, ChargeOn, Metering, RouteName};
use crate::store::Store;
use crate::store::capabilities::{Capabilities, HangUp, Use};

use identified::Recorder;
use tariff::Tariff;
use upstream::{Chosen, Upstream};

/// The `route` label of requests that matched none.
const NO_ROUTE: &str = "unmatched";
/// How long a client may take to send the rest of a body that is not wanted any more.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may leave the gateway waiting for room to write to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// The gateway, to be served by Pingora.
#[derive(Debug)]
pub struct Gateway<L, S> {
    cashier: Cashier<L, S>,
    tariff: Arc<ArcSwap<Tariff>>,
    metrics: Arc<Metrics>,
}

/// What is known of one request while it is under way.
#[derive(Debug)]
pub struct Context {
    started: Stopwatch,
    tariff: Arc<Tariff>,
    route: Option<RouteName>,
    outcome: Outcome,
    admission: Option<Admission>,
    /// The room that a body takes up which was read before the decision.
    body: Option<body::Held>,
    /// The allowed origin that asks, if one does.
    origin: Option<String>,
}

/// The right to an upstream: of a free request, or of one that has taken a use.
#[derive(Debug)]
struct Admission {
    upstream: Arc<Upstream>,
    target: CanonicalTarget,
    priced: Option<Priced>,
    /// The server it goes to, once one is chosen.
    chosen: Option<Chosen>,
    /// The addresses that were chosen so far.
    tried: Vec<SocketAddr>,
}

/// A use under way, and what decides whether it is spent.
#[derive(Debug)]
struct Priced {
    admitted: Admitted,
    charge_on: ChargeOn,
    /// Whether the upstream's answer counts; nothing while there is none.
    counts: Option<bool>,
    /// The answer, where it is to be kept under a client's id.
    recorder: Option<Recorder>,
    /// Whether it is kept: then it is the client's, however this connection ends.
    kept: bool,
}

impl<L: Ledger, S: Store> Gateway<L, S> {
    /// A gateway that decides by `cashier` and takes its prices from `tariff`, which may be
    /// exchanged at any time: a request keeps the one that it started with.
    #[must_use]
    pub const fn new(cashier: Cashier<L, S>, tariff: Arc<ArcSwap<Tariff>>, metrics: Arc<Metrics>) -> Self {
        Self { cashier, tariff, metrics }
    }

    /// Settles what became of the use, if that is not settled yet.
    fn close(&self, context: &mut Context, error: Option<&Error>) {
        let Some(priced) = context.admission.as_mut().and_then(|it| it.priced.take()) else { return };
        let route = context.route.as_ref().map_or(NO_ROUTE, RouteName::as_str);
        let Priced { admitted: Admitted { taken, keeping, .. }, counts, kept, .. } = priced;
        let error = error.filter(|_| !kept);
        let client_gone = error.is_some_and(|it| *it.esource() == ErrorSource::Downstream);
        let result = match (error, counts) {
            (None, Some(true)) => {
                fail::fail_point!("use-answered", |_| std::process::abort());
                taken.commit();
                UseResult::Committed
            }
            (Some(_), Some(true) | None) if client_gone => match taken.hang_up() {
                HangUp::GivenBack => UseResult::GivenBack,
                HangUp::Committed => UseResult::Committed,
            },
            (_, _) => {
                taken.give_back();
                UseResult::GivenBack
            }
        };
        if result == UseResult::GivenBack && !client_gone {
            context.outcome = Outcome::UpstreamFailed;
        }
        self.metrics.capability_use(route, result);
        // The next request under the id has its turn when the use is where it belongs.
        drop(keeping);
    }

    /// Keeps the answer that has gone by, where it is to be kept, then settles what became of the
    /// use. In this order: a crash in between favours the payer.
    async fn finish(&self, context: &mut Context, error: Option<&Error>) {
        if let Some(priced) = context.admission.as_mut().and_then(|it| it.priced.as_mut())
            && priced.counts == Some(true)
            && let Some(answer) = priced.recorder.as_mut().and_then(|it| it.take(error.is_none()))
        {
            fail::fail_point!("answer-to-be-kept", |_| std::process::abort());
            priced.kept = self.cashier.keep(&priced.admitted, &answer).await;
        }
        self.close(context, error);
    }
}

#[async_trait]
impl<L: Ledger, S: Store> ProxyHttp for Gateway<L, S> {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context {
            started: Stopwatch::start(),
            tariff: self.tariff.load_full(),
            route: None,
            outcome: Outcome::Free,
            admission: None,
            body: None,
            origin: None,
        }
    }

    async fn early_request_filter(&self, session: &mut Session, context: &mut Context) -> Result<()> {
        // Pingora's defaults leave an idle connection, a slow body and a stuck client alone forever.
        session.set_keepalive(Some(context.tariff.limits.idle_connection.as_secs()));
        session.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
        session.set_write_timeout(Some(WRITE_TIMEOUT));
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        let decision = ask::decide(&self.cashier, session, context).await;
        match respond::respond(session, context, decision).await? {
            Some(admission) => {
                context.admission = Some(admission);
                fail::fail_point!("use-held", |_| std::process::abort());
                Ok(false)
            }
            None => Ok(true),
        }
    }

    async fn upstream_peer(&self, _: &mut Session, context: &mut Context) -> Result<Box<HttpPeer>> {
        let Some(admission) = context.admission.as_mut() else {
            return Error::e_explain(ErrorType::InternalError, "no upstream without an admission");
        };
        let Some(chosen) = admission.upstream.choose(&admission.tried) else {
            let why = "no address of the upstream is known and healthy";
            return Error::e_explain(ErrorType::HTTPStatus(502), why).map_err(|it: Box<Error>| it.into_up());
        };
        let peer = chosen.peer.clone();
        admission.tried.push(peer.address().clone());
        admission.chosen = Some(chosen);
        Ok(Box::new(peer))
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        context: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        // Nothing was sent: another address of the same upstream may be tried.
        let more = context.admission.as_ref().is_some_and(|it| it.tried.len() < it.upstream.addresses());
        error.set_retry(more);
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Context,
    ) -> Result<()> {
        match &context.admission {
            Some(admission) => forward::request(session, request, admission, context.body.is_some()),
            None => Error::e_explain(ErrorType::InternalError, "no upstream without an admission"),
        }
    }

    async fn response_filter(
        &self,
        _: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        forward::response(response, context)?;
        let priced = context.admission.as_mut().and_then(|it| it.priced.as_mut());
        if let Some(Priced { admitted, counts: Some(true), .. }) = priced
            && admitted.taken.metering() == Metering::Strict
        {
            record(self.cashier.capabilities(), &mut admitted.taken).await;
        }
        let priced = context.admission.as_mut().and_then(|it| it.priced.as_mut());
        match priced {
            // Before the answer leaves: whoever tries again at once finds the use.
            Some(Priced { counts: Some(false), .. }) => self.close(context, None),
            Some(Priced { counts: Some(true), recorder: Some(recorder), .. }) => recorder.begin(response),
            Some(_) | None => {}
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        context: &mut Context,
    ) -> Result<Option<Duration>> {
        let priced = context.admission.as_mut().and_then(|it| it.priced.as_mut());
        if let Some(recorder) = priced.and_then(|it| it.recorder.as_mut()) {
            recorder.part(body.as_ref(), end_of_stream);
        }
        Ok(None)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        context: &mut Context,
    ) -> FailToProxy {
        // The connection is not used again, and the answer says so: a client that found out by a reset
        // could not tell whether its next request was heard.
        session.set_keepalive(None);
        let failure = respond::failure(session, context, error);
        // Before the answer leaves, as above.
        self.finish(context, Some(error)).await;
        let error_code = match failure {
            Some(failure) => failure.send(session, context).await,
            None => 0,
        };
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, context: &mut Context) {
        let status = session.response_written().map_or(0, |it| it.status.as_u16());
        // A tunnel is what was bought; how it ends is for those who speak through it.
        self.finish(context, error.filter(|_| status != StatusCode::SWITCHING_PROTOCOLS.as_u16())).await;
        let route = context.route.as_ref().map_or(NO_ROUTE, RouteName::as_str);
        let took = context.started.elapsed();
        self.metrics.request(route, context.outcome, took);
        let duration_ms = took.as_millis();
        tracing::debug!(route, status, outcome = context.outcome.as_str(), duration_ms, "request");
        if let Some(error) = error {
            tracing::info!(route, status, error = %error.etype().as_str(), source = error.esource().as_str(), "request failed");
        }
    }

    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        // Pingora would log the whole URL, query and all; `logging` says what is needed.
        true
    }

    fn request_summary(&self, session: &Session, context: &Context) -> String {
        let route = context.route.as_ref().map_or(NO_ROUTE, RouteName::as_str);
        format!("{} on route {route}", session.req_header().method)
    }
}

/// Counts a use for good before its answer leaves.
async fn record<S: Store>(capabilities: &Capabilities<S>, taken: &mut Use) {
    fail::fail_point!("use-to-be-recorded", |_| std::process::abort());
    if let Err(error) = capabilities.commit_durably(taken).await {
        // It is paid for and the upstream has done its work: the report follows.
        tracing::warn!(%error, "a use was not recorded before its answer");
    }
    fail::fail_point!("use-recorded", |_| std::process::abort());
}

impl Admission {
    /// The label of requests that were let in this way.
    fn outcome(&self) -> Outcome {
        match self.priced.as_ref().map(|it| it.admitted.how) {
            None => Outcome::Free,
            Some(How::Paid) => Outcome::Paid,
            Some(How::Unlocked) => Outcome::Unlocked,
        }
    }
}
