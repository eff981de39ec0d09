//! What the gateway knows about one request, from its beginning to its log line.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Version};
use pingora::http::RequestHeader;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::upstreams::peer::Peer;

use super::body::BodyPermit;
use super::client::Caller;
use super::grpc;
use super::mcp::EnclosedCall;
use super::metered::Metered;
use super::request_id::RequestId;
use super::rulebook::Unbilled;
use super::tariff::{AtRoute, Tariff};
use super::unpaid::AtUpstream;
use super::upstream::{Server, Upstream};
use crate::access_log::{Entry, LoggedRequests, Money, RequestLine};
use crate::admission::Admission;
use crate::cashier::{Admitted, Share};
use crate::clock::{self, Stopwatch};
use crate::config::PublicUrl;
use crate::listen::Deadline;
use crate::metrics::Outcome;
use crate::nano::BlockHash;
use crate::payment::Refusal;
use crate::payment::capability::CapabilityText;
use crate::routes::{CanonicalTarget, Left, Strip};
use crate::store::capabilities::CachedCapability;
use crate::traces::{Trace, Traces};

/// What is known about one request while it is under way.
#[derive(Debug)]
pub struct Context {
    pub(super) started: Stopwatch,
    pub(super) request_id: RequestId,
    /// Its place in a trace, if there are traces.
    pub(super) trace: Option<Box<Trace>>,
    pub(super) tariff: Arc<Tariff>,
    pub(super) at_route: Arc<AtRoute>,
    /// How the request ends if it is not forwarded.
    pub(super) decided: Outcome,
    /// Set once it is forwarded.
    pub(super) forwarding: Option<Forwarding>,
    pub(super) caller: Caller,
    /// What counts it among its client's unpaid requests.
    pub(super) unpaid: Option<Share>,
    /// What counts it among the free requests at upstreams.
    pub(super) at_upstream: Option<AtUpstream>,
    /// The memory of a body that was read before the decision.
    pub(super) body: Option<BodyPermit>,
    /// Set for a request to a route with a meter.
    pub(super) metered: Option<Box<Metered>>,
    /// Set for a call that is paid or billed inside its messages.
    pub(super) call: Option<Box<EnclosedCall>>,
    /// Whether the request has a body.
    pub(super) has_body: bool,
    /// Why it is not billed although it has a price.
    pub(super) unbilled: Option<Unbilled>,
    /// The origin of the page that asks, if it is allowed.
    pub(super) origin: Option<String>,
    /// The host that is asked for, if the route is for some hosts only.
    pub(super) host: Option<String>,
    /// The request headers on which the price depends, as a list.
    pub(super) varies_by: String,
    /// For the upstream's answer; `None` if the listener has none.
    pub(super) deadline: Option<Arc<Deadline>>,
    /// Whether an answer has begun.
    pub(super) is_answered: bool,
    /// What is done if the request is dropped before it is logged.
    pub(super) if_dropped: Option<IfDropped>,
    /// How it is answered then.
    pub(super) asked: Option<Asked>,
    pub(super) noted: Noted,
}

/// What the access log says of a request that is gone by the time it is written.
#[derive(Debug, Default)]
pub(super) struct Noted {
    /// Set if there may be no session any more.
    pub(super) line: Option<RequestLine>,
    pub(super) payment: Option<Payment>,
    pub(super) refusal: Option<Refusal>,
    /// When the upstream's server was chosen, from the beginning of the request.
    pub(super) chosen_after: Option<Duration>,
    /// How long that server took to begin its answer, or to fail.
    pub(super) upstream_took: Option<Duration>,
}

/// The payment that a request is about.
#[derive(Debug)]
pub(super) enum Payment {
    /// What it bought serves the request.
    Served { said: CapabilityText, held: Arc<CachedCapability> },
    /// It serves nothing, or not yet.
    Shown(BlockHash),
}

impl Payment {
    pub(super) fn of(admitted: &Admitted) -> Self {
        Self::Served { said: admitted.said.clone(), held: Arc::clone(admitted.taken.held()) }
    }

    const fn is_served(&self) -> bool {
        matches!(self, Self::Served { .. })
    }

    fn money(&self) -> Money {
        match self {
            Self::Served { said, held } => {
                let (remaining, balance_raw) = match held.left() {
                    Left::Uses(uses) => (Some(uses), None),
                    Left::Balance(raw) => (None, Some(raw.to_string().into())),
                };
                let (payer, block, amount_raw) =
                    (Some(said.payer()), Some(said.block()), Some(said.amount()));
                Money { payer, block, amount_raw, remaining, balance_raw, cost_raw: None }
            }
            Self::Shown(block) => Money { block: Some(block.to_string().into()), ..Money::default() },
        }
    }
}

/// What the form of an answer depends on, where there is no session any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) version: Version,
    pub(super) is_head: bool,
    pub(super) is_grpc: bool,
}

impl Asked {
    pub(super) fn of(request: &RequestHeader) -> Self {
        Self {
            version: request.version,
            is_head: request.method == Method::HEAD,
            is_grpc: grpc::is_call(request),
        }
    }
}

/// What is done about a request that is dropped, the same for all.
#[derive(Clone)]
pub(super) struct IfDropped(pub(super) Arc<dyn Fn(&mut Context) + Send + Sync>);

impl fmt::Debug for IfDropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IfDropped(..)")
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Some(IfDropped(act)) = self.if_dropped.take() {
            act(self);
        }
    }
}

/// A request that goes to an upstream.
#[derive(Debug)]
pub(super) struct Forwarding {
    pub(super) admission: Admission,
    pub(super) upstream: Arc<Upstream>,
    pub(super) target: CanonicalTarget,
    /// What the upstream does not see of the target.
    pub(super) strip: Option<Strip>,
    pub(super) has_body: bool,
    /// A preflight that the upstream answers: no body goes either way.
    pub(super) is_preflight: bool,
    /// Whether the answer may pause for long.
    pub(super) is_quiet: bool,
    /// Whether the answer's body is dropped.
    pub(super) drops_body: bool,
    /// The server it goes to, once one is chosen.
    pub(super) chosen: Option<Arc<Server>>,
    /// The addresses that could not be connected to.
    pub(super) unreached: Vec<SocketAddr>,
    /// Whether an old connection broke under it, so that it is sent once more.
    pub(super) is_repeated: bool,
}

impl Forwarding {
    /// Whether the request has a connection to the upstream that no other request has before or after it.
    ///
    /// Not before: an upstream closes idle connections when it likes, and what may be done only once, or
    /// whose body is gone, cannot be sent again. Not after: whatever a sloppy upstream leaves unread of a
    /// body, or sends beyond its answer to `HEAD`, must not meet the next client's request. An operator may
    /// say of an upstream that it reads all bodies: then a body goes over a connection that is shared.
    pub(super) fn goes_alone(&self, method: &Method) -> bool {
        let may_fail = self.has_body || !method.is_idempotent();
        self.is_repeated || *method == Method::HEAD || (may_fail && !self.upstream.keeps_after_body())
    }
}

impl Forwarding {
    /// Has the server tried that the request went to, because it failed.
    pub(super) fn doubt(&self) {
        if let Some(chosen) = &self.chosen {
            self.upstream.doubt(chosen.peer.address());
        }
    }

    /// What the upstream sees of the target, without its base path.
    pub(super) fn seen(&self) -> Cow<'_, str> {
        let whole = || Cow::Borrowed(self.target.as_str());
        self.strip.as_ref().map_or_else(whole, |it| it.rest_of(&self.target))
    }
}

impl Context {
    /// A request that begins now, at the prices of `tariff`.
    pub(super) fn new(tariff: Arc<Tariff>) -> Self {
        Self {
            started: Stopwatch::start(),
            request_id: RequestId::none(),
            trace: None,
            at_route: Arc::clone(&tariff.by_no_route),
            tariff,
            decided: Outcome::Free,
            forwarding: None,
            caller: Caller::default(),
            unpaid: None,
            at_upstream: None,
            body: None,
            metered: None,
            call: None,
            has_body: false,
            unbilled: None,
            origin: None,
            deadline: Deadline::current(),
            is_answered: false,
            if_dropped: None,
            asked: None,
            noted: Noted::default(),
            host: None,
            varies_by: String::new(),
        }
    }

    /// A part of the body, not the last, goes on to the upstream. The wait for the next one is limited where it
    /// is read.
    pub(super) fn awaits_progress(&self) {
        if let (Some(deadline), Some(forwarding), false) =
            (&self.deadline, &self.forwarding, self.is_answered)
        {
            deadline.set_for_part(forwarding.upstream.timeout());
        }
    }

    /// The whole request has gone on to the upstream: its answer is waited for.
    pub(super) fn awaits_answer(&self, request: &RequestHeader) {
        let (Some(deadline), Some(forwarding)) = (&self.deadline, &self.forwarding) else { return };
        if !self.is_answered {
            let own = grpc::deadline(request).unwrap_or(Duration::MAX);
            deadline.set(forwarding.upstream.timeout().min(own));
        }
    }

    /// The answer has begun, or the request has failed.
    pub(super) fn answered(&mut self) {
        self.is_answered = true;
        if let (Some(chosen), None) = (self.noted.chosen_after, self.noted.upstream_took) {
            self.noted.upstream_took = Some(self.started.elapsed().saturating_sub(chosen));
        }
        if let Some(deadline) = &self.deadline {
            deadline.clear();
        }
    }

    /// Whether the answer did not begin in time.
    pub(super) fn is_late(&self) -> bool {
        self.deadline.as_ref().is_some_and(|it| it.has_passed())
    }

    /// Where the client finds what it asks for: at the host that its route is for.
    pub(super) fn public_url(&self) -> PublicUrl {
        let public = &self.tariff.public_url;
        self.host.as_deref().map_or_else(|| public.clone(), |host| public.at(host))
    }

    /// The URL at which the client finds a `target`.
    pub(super) fn join(&self, target: &str) -> String {
        match &self.host {
            Some(_) => self.public_url().join(target),
            None => self.tariff.public_url.join(target),
        }
    }

    /// How the request ended, for metrics and log.
    pub(super) fn outcome(&self) -> Outcome {
        let outcome = self.forwarding.as_ref().map_or(self.decided, |it| it.admission.outcome());
        match (outcome, &self.unbilled) {
            (Outcome::Free, Some(unbilled)) => unbilled.outcome(),
            (outcome, _) => outcome,
        }
    }

    /// Whether the log says that the request failed, and how many it did not say that of. A failure of what is paid
    /// for is always said, of `free` requests now and then.
    pub(super) fn failure_is_said(&self, free: bool) -> Option<u64> {
        match &self.forwarding {
            Some(forwarding) if free => forwarding.upstream.free_failures.again(),
            Some(_) | None => Some(0),
        }
    }

    /// Whether a use waits for the end of the answer.
    pub(super) fn holds_use(&self) -> bool {
        self.forwarding.as_ref().is_some_and(|it| it.admission.admitted().is_some())
    }

    /// Whether the request has a line in the access log if it ends as `outcome`.
    pub(super) fn is_logged(&self, outcome: Outcome) -> bool {
        let had_use = self.noted.payment.as_ref().is_some_and(Payment::is_served);
        self.tariff.logged.include(outcome, had_use)
    }

    /// Whether its client can have such a line as often as it likes, at no cost, although not every request has one.
    pub(super) fn is_repeatable(&self, outcome: Outcome) -> bool {
        let is_turned_away = matches!(outcome, Outcome::Refused | Outcome::Unavailable | Outcome::Pending);
        let is_served = self.noted.payment.as_ref().is_some_and(Payment::is_served);
        self.tariff.logged == LoggedRequests::Paid && is_turned_away && !is_served
    }

    /// Whether the request's span is sent.
    pub(super) fn is_traced(&self) -> bool {
        self.trace.as_ref().is_some_and(|it| it.is_recorded())
    }

    /// Hands over the request's span, if it is sent. It says what the access log would.
    pub(super) fn end_trace(&self, traces: &Traces, entry: &Entry) {
        if let Some(trace) = &self.trace {
            traces.end(trace, entry, self.tariff.public_url.is_secure());
        }
    }

    /// The request's line in the access log: `line` was answered with `status` and so many `bytes` of a body,
    /// after so long, and ended as `outcome`.
    pub(super) fn entry(
        &self,
        line: RequestLine,
        (status, bytes): (u16, usize),
        duration_ms: Duration,
        outcome: Outcome,
    ) -> Box<Entry> {
        let chosen = self.forwarding.as_ref().and_then(|it| it.chosen.as_ref());
        let money = self.noted.payment.as_ref().map(Payment::money).unwrap_or_default();
        let charged = self.forwarding.as_ref().and_then(|it| it.admission.charged());
        let cost_raw = charged.map(|it| it.to_string().into());
        Box::new(Entry {
            time: clock::for_logs(),
            request_id: self.request_id.value().clone(),
            client: self.caller.address(),
            line,
            status,
            bytes,
            duration_ms,
            route: self.at_route.series.shared_label(),
            outcome,
            reason: self.noted.refusal.map(Refusal::code),
            upstream: chosen.and_then(|it| it.peer.address().as_inet()).copied(),
            upstream_ms: self.noted.upstream_took,
            money: Money { cost_raw, ..money },
        })
    }

    pub(super) fn route_label(&self) -> &str {
        self.at_route.series.label()
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenes::forwarding;
    use super::*;
    use crate::routes::Pattern;

    /// A connection that others use too must not be at the mercy of a body, or of what may be done once.
    #[test]
    fn what_cannot_be_sent_twice_or_may_leave_something_behind_goes_alone() {
        for (method, has_body, shared, kept) in [
            (Method::GET, false, false, false),
            (Method::GET, true, true, false),
            (Method::DELETE, false, false, false),
            (Method::POST, false, true, false),
            (Method::POST, true, true, false),
            (Method::HEAD, false, true, true),
        ] {
            let usual = forwarding("url: http://a", has_body);
            let keeping = forwarding("url: http://a, after_body: keep", has_body);
            assert_eq!(usual.goes_alone(&method), shared, "{method} {has_body}");
            assert_eq!(keeping.goes_alone(&method), kept, "{method} {has_body}, with `after_body: keep`");
        }
        let again = Forwarding { is_repeated: true, ..forwarding("url: http://a", false) };
        assert!(again.goes_alone(&Method::GET));
    }

    #[test]
    fn a_log_names_what_has_no_fields() {
        assert_eq!(format!("{:?}", IfDropped(Arc::new(|_| {}))), "IfDropped(..)");
        let forwarding = format!("{:?}", forwarding("url: http://a, timeout: 7s", false));
        assert!(forwarding.contains("Upstream {") && forwarding.contains("timeout: 7s"), "{forwarding}");
    }

    #[test]
    fn an_upstream_sees_the_target_without_the_prefix() {
        let whole = forwarding("url: http://a", false);
        assert_eq!(whole.seen(), "/a/b?q=1");
        let pattern = Pattern::parse("/a/**").unwrap();
        let stripped = Forwarding { strip: Some(Strip::new("/a", &pattern).unwrap()), ..whole };
        assert_eq!(stripped.seen(), "/b?q=1");
    }
}
