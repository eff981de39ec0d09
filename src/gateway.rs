//! The Pingora callbacks: HTTP in, a decision, HTTP out. They only hand on.
//!
//! # The path of a request
//!
//! From accept to log line, in the order in which it happens:
//!
//! 1. **Accept.** [`listen`] accepts the connection if its [`Door`](crate::listen::Door) lets
//!    it in; Pingora parses the request.
//! 2. **Begin**, [`Gateway::new_ctx`]: the clock starts, and the request keeps the [`Tariff`] of this
//!    moment, whatever is reloaded meanwhile. [`Gateway::early_request_filter`] sets the connection's time
//!    limits. [`Gateway::request_filter`] finds out who asks ([`Caller`]). The request counts among
//!    its client's unpaid ones ([`Unpaid`]) until it takes a use.
//! 3. **Read**, [`decide::decide`]: the framing ([`framing::check`]) and the one canonical target
//!    ([`target::canonical`]); a published document is answered, and who asks what a token is worth ([`holding`]), and a
//!    capability is closed ([`closing`]); the route is found. A preflight goes its
//!    own way ([`preflight::decide`]). The route's rules turn some away ([`Rulebook`]), and later let some pass
//!    without a bill. An MCP endpoint's body is read to learn what it calls
//!    ([`calls::price`]), and what it carries to pay for it ([`mcp::EnclosedCall`]). A free request goes on at step 7.
//! 4. **What came with it**, [`presented::read`]: a proof of payment, a capability, or nothing. A token that was
//!    derived from another has to let the request pass ([`presented::derived`]). With a payment identifier, the
//!    request it stands for ([`idempotency::read`]).
//! 5. **Decide**, [`Cashier::decide`]: a capability takes a use from the cache (the hot path). A proof
//!    passes the checks that need no ledger, then joins or starts its settlement. Nothing, or a refused
//!    payment, gets a bill with fresh challenges.
//! 6. **Settle**, in a task that no connection can cancel: journal, broadcast, wait for the confirmation,
//!    spend and grant in one durable step ([`store::settle`](crate::store::settle)).
//! 7. **Admit**, [`Admission`]: the right to an upstream, free or with a use that is held.
//! 8. **Respond**, [`respond::respond`]: a request without that right is answered, in its client's turn
//!    ([`Unpaid`]), and goes on at step 13.
//! 9. **Choose**, [`Gateway::upstream_peer`]: a healthy address of the upstream, another one if a
//!    connection fails.
//! 10. **Forward**, [`hop::request`] and [`forward::request`]: the request becomes one of the upstream's
//!     version of HTTP, payment headers and a payment in the body are removed, the gateway's own headers added.
//! 11. **Answer**, [`Gateway::response_filter`]: [`hop::answer`] makes it one of the client's version; an
//!     upstream's own bill fails ([`UpstreamBills::check`]);
//!     [`forward::response`] cleans the answer, leads its redirects back to the gateway
//!     ([`redirect::rewrite`]) and adds the receipt; [`Admission::answer`] records the use under strict
//!     metering, or gives it back if the answer is not charged for. [`Admission::part`] sees each part of
//!     the body. What was paid in the body has its receipt there.
//! 12. **Fail**, [`Gateway::fail_to_proxy`], instead of or after step 11: the use is given back, then the
//!     client is told. While Pingora waits for an upstream that takes no more of a body, it can do neither: then
//!     the request is dropped, and [`departure::if_dropped`] does both.
//! 13. **Close and log**, [`Gateway::logging`]: [`Admission::close`] keeps the answer if it is to be kept,
//!     spends the use or gives it back; [`Context::outcome`] says how the request ended, for the metrics
//!     the one line in the log, and its span, if it is traced.
//!
//! [`Admission`]: crate::admission::Admission
//! [`Admission::answer`]: crate::admission::Admission::answer
//! [`Admission::part`]: crate::admission::Admission::part
//! [`Admission::close`]: crate::admission::Admission::close

mod bill;
pub mod bill_text;
pub mod body;
mod calls;
mod client;
pub mod closing;
mod context;
mod decide;
mod decision;
mod departure;
pub mod discovery;
mod forward;
mod framing;
mod grpc;
mod holding;
mod hop;
mod idempotency;
mod mcp;
mod metered;
mod places;
mod preflight;
mod presented;
mod rejection;
mod rail_hint;
mod redirect;
mod refusal_lines;
mod reply;
pub mod request_id;
mod respond;
pub mod rulebook;
#[cfg(test)]
mod scenes;
mod session_headers;
mod target;
pub mod tariff;
pub mod to_https;
mod turns;
pub mod unpaid;
pub mod upstream;
mod upstream_bill;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version};
use pingora::ErrorSource;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Error, ErrorType, HttpPeer, ProxyHttp, Result, Session};
use pingora::protocols::Digest;
use pingora::proxy::FailToProxy;
use pingora::upstreams::peer::Peer;
use tracing::Instrument;

use crate::access_log::{AccessLog, RequestLine};
use crate::admission::{Admission, AnswerMeter, Charge, Ending};
use crate::cashier::{Cashier, Client};
use crate::ledger::Ledger;
use crate::listen::{self, Connection};
use crate::metrics::{Metrics, Outcome, ReachedLimit, UseResult};
use crate::shutdown::StopSignal;
use crate::store::Store;
use crate::store::refunds::RefundJournal;
use crate::traces::{TRACEPARENT, TRACESTATE, Traces};

use client::Caller;
use context::{Asked, IfDropped};
use decision::Decision;
use refusal_lines::RefusalLines;
use rejection::Rejection;
use request_id::{RequestIds, X_REQUEST_ID};
use rulebook::Rulebook;
use tariff::{EdgeLimits, Tariff};
use unpaid::Unpaid;
use upstream_bill::UpstreamBills;

pub use context::Context;

/// How long a client may take to send the rest of a body that is not needed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The gateway, to be served by Pingora.
#[derive(Debug)]
pub struct Gateway<L, S> {
    cashier: Cashier<L, S>,
    tariff: Arc<ArcSwap<Tariff>>,
    metrics: Arc<Metrics>,
    ids: Arc<RequestIds>,
    access_log: AccessLog,
    refusal_lines: RefusalLines,
    traces: Traces,
    unpaid: Unpaid,
    rulebook: Rulebook,
    upstream_bills: UpstreamBills,
    if_dropped: IfDropped,
    /// Once it says so, each answer ends its connection.
    drains: StopSignal,
}

impl<L: Ledger, S: Store + RefundJournal> Gateway<L, S> {
    /// A gateway that decides by `cashier` and takes its prices from `tariff`, which may be exchanged at
    /// any time: a request keeps the one it started with. `unpaid` counts what unpaid requests take, and
    /// `rulebook` what the rules of routes count. Once `drains` says so, each answer ends its connection. `ids` names
    /// all requests, `access_log` gets a line for those that the tariff says, and `traces` their spans.
    #[must_use]
    pub fn new(
        cashier: Cashier<L, S>,
        tariff: Arc<ArcSwap<Tariff>>,
        metrics: Arc<Metrics>,
        unpaid: Unpaid,
        rulebook: Rulebook,
        drains: StopSignal,
        (ids, access_log, traces): (Arc<RequestIds>, AccessLog, Traces),
    ) -> Self {
        let (log, spans) = (access_log.clone(), traces.clone());
        let if_dropped = departure::if_dropped(cashier.clone(), Arc::clone(&metrics), log, spans);
        let upstream_bills = UpstreamBills::new();
        Self {
            cashier,
            tariff,
            metrics,
            ids,
            access_log,
            refusal_lines: RefusalLines::new(),
            traces,
            unpaid,
            rulebook,
            upstream_bills,
            if_dropped,
            drains,
        }
    }

    /// Decides a request. If its client has too many unpaid ones under way, it has to show a right: a valid
    /// capability, or the proof of a payment that is known ([`Decision::shows_right`]). A request that holds a
    /// use is not one of them. An answer that sells nothing waits for its client's turn.
    async fn decide(&self, session: &mut Session, context: &mut Context) -> Decision {
        let limits = context.tariff.limits;
        let client = context.caller.client();
        context.unpaid = client.and_then(|it| self.unpaid.enter(it, &limits));
        let is_one_too_many = client.is_some() && context.unpaid.is_none();
        if is_one_too_many && (presented::has_proof(session) || mcp::may_enclose(session, &context.tariff)) {
            context.unpaid = client.and_then(|it| self.unpaid.enter_with_proof(it, &limits));
        }
        let mut decision = Decision::Reject(Rejection::Overloaded(ReachedLimit::ClientUnpaid));
        if !is_one_too_many || context.unpaid.is_some() || presented::has_token(session) {
            let decided = decide::decide(&self.cashier, &self.rulebook, session, context).await;
            if decided.holds_use() {
                context.unpaid = None;
            }
            if decided.shows_right() || !is_one_too_many {
                decision = decided;
            }
        }
        if let Decision::Forward(it) = &decision
            && it.admission.admitted().is_none()
        {
            match self.unpaid.forward(client, &limits) {
                Ok(counted) => context.at_upstream = Some(counted),
                Err(limit) => {
                    context.unbilled = None;
                    decision = Decision::Reject(Rejection::Overloaded(limit));
                }
            }
        }
        if let Decision::Reject(Rejection::Overloaded(limit)) = &decision {
            self.metrics.limit_reached(*limit);
        }
        if let Decision::Reject(Rejection::TooOften(_)) = &decision {
            self.metrics.limit_reached(ReachedLimit::RouteLimit);
        }
        if decision.sells() || decision.shows_right() {
            return decision;
        }
        // A proof that has its share beside was looked at: it takes a turn, or proofs could be had checked as fast as
        // they can be sent.
        let has_no_share = is_one_too_many && context.unpaid.is_none();
        if let Some(client) = client.filter(|_| has_no_share) {
            self.unpaid.turn_away(client, &limits).await;
            return decision;
        }
        self.in_turn(client, &limits, decision).await
    }

    /// A decision that sells nothing, once it is its client's turn.
    async fn in_turn(&self, client: Option<Client>, limits: &EdgeLimits, decision: Decision) -> Decision {
        let Some(client) = client else { return decision };
        let turn = self.unpaid.turn(client, limits).await;
        if turn != Ok(false) {
            self.metrics.limit_reached(ReachedLimit::ClientBills);
        }
        turn.map_or_else(|limit| Decision::Reject(Rejection::Overloaded(limit)), |_| decision)
    }

    /// The answer that is about to begin ends its connection if the gateway drains, also if it did not yet when
    /// the request came.
    fn part_if_draining(&self, session: &mut Session) {
        if *self.drains.borrow() {
            session.set_keepalive(None);
        }
    }

    /// Sees to it that a part of a metered answer is paid for, and adds to the last what it cost.
    fn measure(&self, admission: &mut Admission, body: &mut Option<Bytes>, is_last: bool) -> Result<()> {
        if admission.is_overdrawn(self.cashier.capabilities()) {
            let why = "the purse is dry";
            return Error::e_explain(respond::OVERDRAWN, why);
        }
        if is_last && let Some(words) = admission.last_words() {
            *body = Some(match body.take() {
                Some(part) => [part, words].concat().into(),
                None => words,
            });
        }
        Ok(())
    }

    /// Closes the request's admission, if it has one that is open.
    async fn close(&self, context: &mut Context, ending: Ending) {
        let Some(forwarding) = context.forwarding.as_mut() else { return };
        if let Some(unbilled) = &mut context.unbilled {
            unbilled.close(ending);
        }
        // Only what broke off, or is kept, has something to say.
        let speaks = ending != Ending::Whole || forwarding.admission.keeps_answer();
        let request_id = &context.request_id;
        let span = speaks.then(|| request_id.span());
        let closing = forwarding.admission.close(&self.cashier, ending);
        let result = match span {
            Some(span) => Box::pin(closing.instrument(span)).await,
            None => closing.await,
        };
        // A request is closed twice, by its failure and by its log line.
        if let (Some(charged), Some(_)) = (forwarding.admission.charged(), result) {
            self.metrics.charged(context.at_route.series.label(), charged);
        }
        self.count(context, result);
    }

    /// Whether the request, which ended as `outcome`, has a line in the access log.
    fn has_line(&self, context: &Context, outcome: Outcome) -> bool {
        self.access_log.is_on()
            && context.is_logged(outcome)
            && (!context.is_repeatable(outcome) || self.refusal_lines.has_one_more(context.caller.client()))
    }

    fn count(&self, context: &Context, result: Option<UseResult>) {
        if let Some(result) = result {
            self.metrics.capability_use(&context.at_route.series, result);
        }
    }
}

#[async_trait]
impl<L: Ledger, S: Store + RefundJournal> ProxyHttp for Gateway<L, S> {
    // By reference: Pingora's futures hold it, and are moved.
    type CTX = Box<Context>;

    fn new_ctx(&self) -> Box<Context> {
        Box::new(Context::new(self.tariff.load_full()))
    }

    async fn early_request_filter(&self, session: &mut Session, context: &mut Box<Context>) -> Result<()> {
        // Without these, Pingora leaves an idle connection, a slow body and a stuck client alone for ever.
        session.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
        session.set_write_timeout(Some(listen::STALL));
        session.set_read_timeout(Some(context.tariff.limits.body_idle));
        hop::upgrade(session);
        let is_tunnel = may_become_tunnel(session);
        // Whatever follows is the tunnel's. If there will be none, it is nobody's.
        let closes = is_tunnel || session.get_keepalive().is_none() || hop::closes(session.req_header());
        let idle = context.tariff.limits.idle_connection.as_secs();
        session.set_keepalive(Some(idle).filter(|_| !closes));
        session.set_pipelining_enabled(!is_tunnel);
        if let Some(connection) = Connection::of(session) {
            let head = session.req_header();
            connection.begin(head.version == Version::HTTP_11, framing::length_of_body(&head.headers));
        }
        hop::old_client(session);
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Box<Context>) -> Result<bool> {
        context.caller = Caller::of(session, &context.tariff.proxies);
        context.request_id = self.ids.of(session, &context.caller);
        let head = session.req_header();
        context.trace = self.traces.begin(&head.headers, context.caller.believed(head).is_some());
        let decision = self.decide(session, context).await;
        if let Some(reason) = decision.rejected_for() {
            self.metrics.refusal(context.route_label(), reason, None);
        }
        context.decided = decision.outcome();
        if self.access_log.is_on() {
            context.noted.payment = decision.payment();
            context.noted.refusal = decision.refusal();
        }
        self.part_if_draining(session);
        context.forwarding = respond::respond(session, context, decision).await?.map(|it| *it);
        if context.forwarding.is_some() {
            context.if_dropped = Some(self.if_dropped.clone());
            context.asked = Some(Asked::of(session.req_header()));
            // How it ends if it is dropped.
            let is_logged = self.access_log.is_on() && context.is_logged(Outcome::UpstreamFailed);
            if is_logged || context.is_traced() {
                context.noted.line = Some(line_of(session));
            }
            fail::fail_point!("use-held", |_| std::process::abort());
        }
        Ok(context.forwarding.is_none())
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        context: &mut Box<Context>,
    ) -> Result<Box<HttpPeer>> {
        context.noted.chosen_after = self.access_log.is_on().then(|| context.started.elapsed());
        let Some(forwarding) = context.forwarding.as_mut() else { return not_admitted() };
        let Some(chosen) = forwarding.upstream.choose(&forwarding.unreached) else {
            let why = "no address of the upstream is known and healthy";
            return Error::e_explain(ErrorType::HTTPStatus(502), why).map_err(|it: Box<Error>| it.into_up());
        };
        let mut peer = Box::new(chosen.peer.clone());
        forwarding.is_quiet = forward::may_be_quiet(&session.req_header().headers);
        peer.options.read_timeout = forwarding.upstream.idle(forwarding.is_quiet);
        if may_become_tunnel(session) {
            forwarding.upstream.prepare_tunnel(&mut peer);
        } else if forwarding.goes_alone(&session.req_header().method) && may_speak_http1(&peer) {
            // A group of its own, in which no connection of HTTP/1 is used twice: a request in it never finds
            // an old one. One of HTTP/2 is.
            peer.group_key = !peer.group_key;
        }
        forwarding.chosen = Some(chosen);
        Ok(peer)
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        peer: &HttpPeer,
        context: &mut Box<Context>,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(forwarding) = &context.forwarding {
            forwarding.upstream.failed(peer.address(), &error);
        }
        // Nothing was sent, so another address of the same upstream may be tried.
        error.set_retry(context.forwarding.as_mut().is_some_and(|it| {
            it.unreached.push(peer.address().clone());
            it.unreached.len() < it.upstream.addresses()
        }));
        error
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        reused: bool,
        peer: &HttpPeer,
        _: RawFd,
        _: Option<&Digest>,
        context: &mut Box<Context>,
    ) -> Result<()> {
        if let Some(forwarding) = context.forwarding.as_ref().filter(|_| !reused) {
            forwarding.upstream.connected(peer.address());
        }
        Ok(())
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        context: &mut Box<Context>,
        connection_was_reused: bool,
    ) -> Box<Error> {
        let is_late = context.is_late() && !context.is_answered;
        if (is_late || *error.esource() == ErrorSource::Upstream)
            && let Some(forwarding) = &context.forwarding
        {
            forwarding.doubt();
        }
        if is_late {
            return Error::explain(ErrorType::ReadTimedout, "the answer did not begin in time").into_up();
        }
        let mut error = error;
        // The upstream may have closed an old connection as the request arrived. What may be done twice is
        // sent once more, over a connection of its own (RFC 9110 section 9.2.2). Nothing else uses an old
        // connection, see `Forwarding::goes_alone`.
        let began = session.response_written().is_some_and(|it| respond::begins_answer(it.status));
        let is_lost = is_lost(&error);
        let again = session.req_header().method.is_idempotent() && !context.has_body && !began;
        match &mut context.forwarding {
            Some(forwarding) if again && !forwarding.is_repeated => {
                if is_lost && connection_was_reused {
                    error.set_retry(true);
                } else {
                    error.retry.decide_reuse(connection_was_reused);
                }
                forwarding.is_repeated = error.retry();
            }
            Some(_) | None => error.set_retry(false),
        }
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Box<Context>,
    ) -> Result<()> {
        if let Some(forwarding) = &context.forwarding {
            forwarding.upstream.check_version(request.version)?;
        }
        hop::request(session, request, context.has_body)?;
        if !context.has_body {
            context.awaits_answer(session.req_header());
        }
        let Some(forwarding) = &context.forwarding else { return not_admitted() };
        forward::request(session, request, forwarding, &context.caller, context.body.is_some())?;
        if let Some(metered) = &context.metered {
            metered.request(request)?;
        }
        if let Some(trace) = &context.trace {
            request.insert_header(TRACEPARENT, trace.traceparent())?;
            if !trace.goes_on() {
                request.remove_header(TRACESTATE);
            }
        }
        if let Some(call) = &mut context.call {
            call.request(request)?;
        }
        request.insert_header(X_REQUEST_ID, context.request_id.value())
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        context: &mut Box<Context>,
    ) -> Result<()> {
        if let Some(metered) = &context.metered {
            metered.request_body(body);
        }
        if let Some(call) = &mut context.call {
            call.request_body(body);
        }
        if end_of_stream {
            context.awaits_answer(session.req_header());
            // Pingora would write this as a last chunk, and then the last chunk (RFC 9112 section 7.1).
            *body = body.take().filter(|it| !it.is_empty());
            let keeps = context.metered.as_ref().is_some_and(|it| it.keeps_long_body());
            if let Some(permit) = context.body.as_mut().filter(|_| !keeps) {
                permit.release();
            }
            // What follows a request for a tunnel belongs to the tunnel.
            if let Some(connection) = Connection::of(session).filter(|_| !may_become_tunnel(session)) {
                connection.complete();
            }
        } else {
            context.awaits_progress();
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Box<Context>,
    ) -> Result<()> {
        if response.status == StatusCode::SWITCHING_PROTOCOLS && !may_become_tunnel(session) {
            // Nobody asked for it, and no answer would follow (RFC 9110 section 15.2.2).
            let why = "the upstream switches to a protocol that was not asked for";
            return Error::e_explain(ErrorType::InvalidHTTPHeader, why)
                .map_err(|it: Box<Error>| it.into_up());
        }
        hop::answer(session, response)?;
        if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS {
            forward::interim(response);
            return Ok(());
        }
        context.answered();
        self.part_if_draining(session);
        if let Some(forwarding) = &context.forwarding {
            // The client's side of a stream may pause as long as the upstream's.
            session.set_read_timeout(forwarding.upstream.idle(forwarding.is_quiet));
        }
        self.upstream_bills.check(response, context)?;
        let meter = context.metered.as_mut().map(|it| it.answer(response));
        if meter.is_some()
            && let Some(permit) = &mut context.body
        {
            permit.release();
        }
        let charge = forward::response(session.req_header(), response, context)?;
        response.insert_header(X_REQUEST_ID, context.request_id.value())?;
        let Some(forwarding) = context.forwarding.as_mut() else { return Ok(()) };
        let known = meter.as_ref().and_then(AnswerMeter::known);
        metered::announce(response, known.zip(forwarding.admission.most(charge)))?;
        forwarding.drops_body |= charge == Charge::Redirected;
        let head = (response.status, &response.headers);
        let request_id = &context.request_id;
        let span = forwarding.admission.answer_asks_store(charge).then(|| request_id.span());
        let answering = forwarding.admission.answer(&self.cashier, charge, head);
        let result = match span {
            Some(span) => Box::pin(answering.instrument(span)).await,
            None => answering.await,
        };
        if let Some(meter) = meter {
            forwarding.admission.measure(meter);
        }
        self.count(context, result);
        // What is kept of an answer is what the server said.
        match &mut context.call {
            Some(call) => call.answer(session, response),
            None => Ok(()),
        }
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        context: &mut Box<Context>,
    ) -> Result<Option<Duration>> {
        if let Some(forwarding) = context.forwarding.as_mut() {
            if forwarding.drops_body {
                *body = None;
            }
            forwarding.admission.part(body.as_ref(), end_of_stream);
            if context.metered.is_some() {
                return self.measure(&mut forwarding.admission, body, end_of_stream).map(|()| None);
            }
        }
        if let Some(call) = &mut context.call {
            call.answer_body(body, end_of_stream);
        }
        Ok(None)
    }

    async fn response_trailer_filter(
        &self,
        _: &mut Session,
        trailers: &mut HeaderMap,
        context: &mut Box<Context>,
    ) -> Result<Option<Bytes>> {
        let cost = context.metered.as_ref().and_then(|_| metered::said(trailers));
        if let Some((forwarding, cost)) = context.forwarding.as_mut().zip(cost) {
            forwarding.admission.cost_trailer(&cost);
        }
        forward::trailers(trailers);
        if let (Some(forwarding), Some(status)) = (context.forwarding.as_mut(), grpc::said(trailers)) {
            forwarding.admission.ends_as(status);
        }
        // What is held goes before the trailers, and so in their place.
        Ok(context.call.as_mut().and_then(|it| it.end()))
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        context: &mut Box<Context>,
    ) -> FailToProxy {
        // The connection is not used again, and the answer says so: a client that only saw a reset could
        // not tell whether its next request was read.
        session.set_keepalive(None);
        context.answered();
        let failure = respond::failure(session, context, error);
        // Before the answer leaves: a client that tries again at once finds the use.
        let answered = session.response_written().map(|it| it.status);
        self.close(context, ending(Some(error), answered)).await;
        let error_code = match failure {
            Some(failure) => failure.send(session, context).await,
            None => 0,
        };
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, context: &mut Box<Context>) {
        context.if_dropped = None;
        let answered = session.response_written().map(|it| it.status);
        let status = answered.map_or(0, |it| it.as_u16());
        let was_free = context.at_upstream.take().is_some();
        let took = context.started.elapsed();
        let mut ending = ending(error, answered);
        if ending == Ending::Whole
            && context.holds_use()
            && let Some(connection) = Connection::of(session)
            && connection.is_left().await
        {
            ending = Ending::ClientGone;
        }
        self.close(context, ending).await;
        if error.is_some() {
            departure::break_off(session);
        }
        let outcome = context.outcome();
        let has_line = self.has_line(context, outcome);
        if has_line || context.is_traced() {
            let line = context.noted.line.take().unwrap_or_else(|| line_of(session));
            let entry = context.entry(line, (status, session.body_bytes_sent()), took, outcome);
            context.end_trace(&self.traces, &entry);
            if has_line {
                self.access_log.line(entry);
            }
        }
        let (route, request_id) = (context.route_label(), context.request_id.as_str());
        self.metrics.request(&context.at_route.series, outcome, took);
        self.metrics.response(&context.at_route.series, status);
        let duration_ms = took.as_millis();
        tracing::debug!(request_id, route, status, outcome = outcome.as_str(), duration_ms, "request");
        let Some(error) = error else { return };
        let (kind, source, cause) = (error.etype().as_str(), error.esource(), upstream::cause(error));
        // A client that pays for nothing must not be able to fill the log.
        let is_paid = matches!(outcome, Outcome::Paid | Outcome::Unlocked);
        if *source == ErrorSource::Downstream && !is_paid {
            tracing::debug!(
                request_id,
                route,
                status,
                error = kind,
                source = source.as_str(),
                "request failed"
            );
        } else if let Some(held_back) = context.failure_is_said(was_free) {
            let source = source.as_str();
            tracing::info!(
                request_id,
                route,
                status,
                error = kind,
                source,
                cause,
                held_back,
                "request failed"
            );
        }
    }

    fn suppress_error_log(&self, _: &Session, _: &Box<Context>, _: &Error) -> bool {
        // Pingora would log the whole URL with its query. `logging` says what is needed.
        true
    }

    fn request_summary(&self, session: &Session, context: &Box<Context>) -> String {
        format!("{} on route {}, {}", session.req_header().method, context.route_label(), context.request_id)
    }
}

/// What a request asks for, as the access log says it.
fn line_of(session: &Session) -> RequestLine {
    let request = session.req_header();
    RequestLine::new(&request.method, request.uri.path(), request.version)
}

/// Whether an answer can make a tunnel of the request's connection.
fn may_become_tunnel(session: &Session) -> bool {
    let headers = &session.req_header().headers;
    forward::asks_for_websocket(headers) && preflight::method_asked_for(session).is_none()
}

/// How an exchange ended that ended with `error`, after an answer with the status `answered`.
fn ending(error: Option<&Error>, answered: Option<StatusCode>) -> Ending {
    // What was bought is the tunnel. How it ends is up to those who use it.
    let is_tunnel = answered == Some(StatusCode::SWITCHING_PROTOCOLS);
    match error.filter(|_| !is_tunnel).map(Error::esource) {
        None => Ending::Whole,
        Some(ErrorSource::Downstream) => Ending::ClientGone,
        Some(ErrorSource::Upstream | ErrorSource::Internal | ErrorSource::Unset) => Ending::Failed,
    }
}

/// Whether the connection to the upstream broke.
fn is_lost(error: &Error) -> bool {
    let broke =
        matches!(error.etype(), ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError);
    broke && *error.esource() == ErrorSource::Upstream
}

/// Whether a connection to `peer` may be one of HTTP/1, which carries one request at a time.
fn may_speak_http1(peer: &HttpPeer) -> bool {
    peer.get_alpn().is_none_or(|it| it.get_min_http_version() == 1)
}

fn not_admitted<T>() -> Result<T> {
    Error::e_explain(ErrorType::InternalError, "no upstream without an admission")
}

#[cfg(test)]
mod tests {
    use pingora::protocols::tls::ALPN;

    use super::*;

    #[test]
    fn a_connection_to_the_upstream_is_lost_if_it_broke_and_not_if_the_client_left_or_it_is_slow() {
        use ErrorType::{ConnectionClosed, InvalidHTTPHeader, ReadError, ReadTimedout, WriteError};
        for kind in [ConnectionClosed, ReadError, WriteError] {
            assert!(is_lost(&Error::explain(kind.clone(), "").into_up()), "{kind:?}");
            assert!(!is_lost(&Error::explain(kind.clone(), "").into_down()), "{kind:?}");
            assert!(!is_lost(&Error::explain(kind.clone(), "").into_in()), "{kind:?}");
        }
        for kind in [ReadTimedout, InvalidHTTPHeader] {
            assert!(!is_lost(&Error::explain(kind.clone(), "").into_up()), "{kind:?}");
        }
    }

    #[test]
    fn a_server_that_may_choose_http_1_may_speak_it() {
        let may = |alpn: ALPN| {
            let mut peer = HttpPeer::new(("127.0.0.1", 443), true, "a.example".to_owned());
            peer.options.alpn = alpn;
            may_speak_http1(&peer)
        };
        assert!(may(ALPN::H1) && may(ALPN::H2H1));
        assert!(!may(ALPN::H2));
    }

    #[test]
    fn an_exchange_ends_by_who_ended_it() {
        let error = |source: fn(Box<Error>) -> Box<Error>| source(Error::explain(ErrorType::ReadError, ""));
        for answered in [None, Some(StatusCode::OK)] {
            assert_eq!(ending(None, answered), Ending::Whole);
            assert_eq!(ending(Some(&error(Error::into_down)), answered), Ending::ClientGone);
            assert_eq!(ending(Some(&error(Error::into_up)), answered), Ending::Failed);
            assert_eq!(ending(Some(&error(Error::into_in)), answered), Ending::Failed);
        }
        for source in [Error::into_down, Error::into_up, Error::into_in] {
            let error = error(source);
            assert_eq!(ending(Some(&error), Some(StatusCode::SWITCHING_PROTOCOLS)), Ending::Whole);
        }
    }
}
