//! The facilitator's listener: it mints challenges, and verifies and settles payments, for other servers
//! with an x402 middleware in any language ([facilitator guide](crate::guide::facilitator); x402 v2,
//! section 7; Faremeter's `/accepts`).
//!
//! It has no payment rules of its own: `ask` reads a request, the cashier decides, and `answer` writes the
//! JSON. An invalid payment is answered with 200; other statuses are for requests that cannot be read,
//! callers without the token, and times when nothing can be settled.

mod answer;
mod ask;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use pingora::apps::{HttpServerApp, ReusedHttpStream};
use pingora::http::ResponseHeader;
use pingora::prelude::Result;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;

use crate::cashier::facilitate::{Order, Unpaid};
use crate::cashier::{Cashier, Client, Wait};
use crate::ledger::Ledger;
use crate::listen::{Peer, TrustedProxies, forwarded};
use crate::metrics::{Metrics, RouteSeries, UseResult};
use crate::store::Store;
use crate::store::capabilities::Use;
use crate::vault::BearerToken;
use crate::x402::{PaymentRequired, Resource};

use answer::FacilitatorAnswer;
use ask::{PaymentCall, RequestFault};

/// The most bytes of a request's body: several times what the largest payment takes.
const MAX_BODY: usize = 64 * 1024;
/// The most bytes that are read of a body that is too long, so that its sender sees the answer.
const DRAINED: usize = 1024 * 1024;
/// How long each part of a request may take to arrive, and an answer to leave.
const PART_TIMEOUT: Duration = Duration::from_secs(10);

vocabulary! {
    /// An endpoint, which is also the `endpoint` label of metrics.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    enum Endpoint {
        Verify = "verify",
        Settle = "settle",
        Supported = "supported",
        Requirements = "requirements",
        Accepts = "accepts",
    }
    fn as_str;
}

impl Endpoint {
    const fn method(self) -> Method {
        match self {
            Self::Supported => Method::GET,
            Self::Verify | Self::Settle | Self::Requirements | Self::Accepts => Method::POST,
        }
    }

    fn of_path(path: &str) -> Option<Self> {
        let name = path.strip_prefix('/')?;
        Self::ALL.into_iter().find(|it| it.as_str() == name)
    }
}

/// The `endpoint` label of a request for another path.
const NO_ENDPOINT: &str = "none";

/// Answers the facilitator's endpoints.
#[derive(Debug)]
pub struct Facilitator<L, S> {
    cashier: Cashier<L, S>,
    metrics: Arc<Metrics>,
    token: Option<BearerToken>,
    proxies: TrustedProxies,
}

/// An answer, and the use of a settled payment that its delivery spends.
struct FacilitatorReply {
    answer: FacilitatorAnswer,
    spends: Option<Use>,
}

impl From<FacilitatorAnswer> for FacilitatorReply {
    fn from(answer: FacilitatorAnswer) -> Self {
        Self { answer, spends: None }
    }
}

/// The caller closed the connection before it got its answer.
struct Gone;

impl<L: Ledger, S: Store> Facilitator<L, S> {
    /// A facilitator that decides by `cashier`. With a `token`, callers must send it. `proxies` are believed
    /// about the callers they speak for.
    #[must_use]
    pub fn new(
        cashier: Cashier<L, S>,
        metrics: Arc<Metrics>,
        token: Option<BearerToken>,
        proxies: TrustedProxies,
    ) -> Self {
        for endpoint in Endpoint::ALL {
            metrics.begin_endpoint(endpoint.as_str());
        }
        metrics.begin_endpoint(NO_ENDPOINT);
        Self { cashier, metrics, token, proxies }
    }

    async fn reply(&self, session: &mut ServerSession) -> std::result::Result<FacilitatorReply, Gone> {
        // Before the body: nothing is kept of a caller that may not call.
        let is_admitted = self.admits(session);
        let body = body(session, if is_admitted { MAX_BODY } else { 0 }).await?;
        let request = session.req_header();
        let endpoint = Endpoint::of_path(request.uri.path());
        let method = request.method.clone();
        let reply = match endpoint {
            _ if !is_admitted => FacilitatorAnswer::unauthorized().into(),
            None => FacilitatorAnswer::not_found().into(),
            Some(it) if it.method() != method => FacilitatorAnswer::wrong_method(&it.method()).into(),
            Some(it) => match body {
                Some(body) => self.serve(it, session, &body).await?,
                None => FacilitatorAnswer::too_long(MAX_BODY).into(),
            },
        };
        let endpoint = endpoint.map_or(NO_ENDPOINT, Endpoint::as_str);
        self.metrics.facilitator_request(endpoint, reply.answer.outcome);
        tracing::debug!(endpoint, outcome = reply.answer.outcome.as_str(), "facilitator request");
        Ok(reply)
    }

    /// Whether the caller sent the token, if there is one.
    fn admits(&self, session: &ServerSession) -> bool {
        let Some(token) = &self.token else { return true };
        let mut shown = session.req_header().headers.get_all(AUTHORIZATION).iter();
        let (Some(shown), None) = (shown.next(), shown.next()) else { return false };
        let Some((scheme, credential)) = shown.to_str().ok().and_then(|it| it.split_once(' ')) else {
            return false;
        };
        scheme.eq_ignore_ascii_case("bearer") && token.is(credential.trim())
    }

    /// What the limits for each caller count by.
    fn caller(&self, session: &ServerSession) -> Option<Client> {
        let end = session.client_addr()?;
        let peer = end.as_inet().map(|it| it.ip().to_canonical());
        let is_trusted = peer.map_or_else(|| self.proxies.trusts(Peer::Unix), |it| self.proxies.contains(it));
        let headers = &session.req_header().headers;
        let named = is_trusted.then(|| forwarded::client_named(peer, headers, &self.proxies));
        let address = named.and_then(Result::ok).unwrap_or(peer);
        Some(address.map_or_else(Client::local_caller, Client::calling))
    }

    async fn serve(
        &self,
        endpoint: Endpoint,
        session: &mut ServerSession,
        body: &[u8],
    ) -> std::result::Result<FacilitatorReply, Gone> {
        Ok(match endpoint {
            Endpoint::Supported => FacilitatorAnswer::supported(&self.cashier.mechanisms()).into(),
            Endpoint::Verify => self.verify(session, body).await?.into(),
            Endpoint::Settle => self.settle(session, body).await?,
            Endpoint::Requirements => match ask::requirements(body) {
                Ok((resource, order)) => self.quote(resource, &[order]).into(),
                Err(fault) => FacilitatorAnswer::bad_request(&fault).into(),
            },
            Endpoint::Accepts => match ask::accepts(body, |it| self.cashier.receives_at(it)) {
                Ok((resource, orders)) => self.quote(resource, &orders).into(),
                Err(fault) => FacilitatorAnswer::bad_request(&fault).into(),
            },
        })
    }

    /// The bill for `orders`, all of one resource.
    fn quote(&self, resource: Resource, orders: &[Order]) -> FacilitatorAnswer {
        let mut accepts = Vec::new();
        for order in orders {
            match self.cashier.quote(order) {
                Ok(entries) => accepts.extend(entries),
                Err(wait) => return FacilitatorAnswer::unavailable(answer::AnswerShape::Bill, &wait),
            }
        }
        if accepts.is_empty() && !orders.is_empty() {
            return FacilitatorAnswer::bad_request(&RequestFault(
                "none of these mechanisms is on, see /supported".to_owned(),
            ));
        }
        FacilitatorAnswer::bill(&PaymentRequired {
            error: None,
            resource,
            accepts,
            extensions: serde_json::Map::new(),
        })
    }

    async fn verify(
        &self,
        session: &mut ServerSession,
        body: &[u8],
    ) -> std::result::Result<FacilitatorAnswer, Gone> {
        let PaymentCall { proof, demand } = match ask::payment(body) {
            Ok(payment) => payment,
            Err(ask::Unusable::Unreadable(fault)) => return Ok(FacilitatorAnswer::bad_request(&fault)),
            Err(ask::Unusable::Invalid { reason, message }) => {
                return Ok(FacilitatorAnswer::invalid(reason, &message, None));
            }
        };
        let (payer, caller) = (proof.payer(), self.caller(session));
        let verified = unless_gone(session, self.cashier.verify(proof, &demand, caller)).await?;
        Ok(match verified {
            Ok(payer) => FacilitatorAnswer::valid(payer),
            Err(unpaid) => FacilitatorAnswer::unpaid(answer::AnswerShape::Verify { payer }, &unpaid),
        })
    }

    async fn settle(
        &self,
        session: &mut ServerSession,
        body: &[u8],
    ) -> std::result::Result<FacilitatorReply, Gone> {
        let PaymentCall { proof, demand } = match ask::payment(body) {
            Ok(payment) => payment,
            Err(ask::Unusable::Unreadable(fault)) => {
                return Ok(FacilitatorAnswer::bad_request(&fault).into());
            }
            Err(ask::Unusable::Invalid { reason, message }) => {
                return Ok(FacilitatorAnswer::unsettled(reason, &message, None, None).into());
            }
        };
        let (block, payer, caller) = (proof.block(), proof.payer(), self.caller(session));
        let unpaid = match unless_gone(session, self.cashier.settle(proof, &demand, caller)).await? {
            Ok(admitted) => {
                let answer = FacilitatorAnswer::settled(admitted.taken.held().purchase());
                return Ok(FacilitatorReply { answer, spends: Some(admitted.taken) });
            }
            // Another call is being answered with the use. It is free again if that caller hangs up.
            Err(Unpaid::Wait(Wait::UsesOut)) => Unpaid::Wait(answer::pending(block)),
            Err(other) => other,
        };
        Ok(FacilitatorAnswer::unpaid(answer::AnswerShape::Settle { payer, block }, &unpaid).into())
    }

    /// Closes a use after its answer: spent and on the disk if the answer was delivered, else given back
    /// for the same call made again. The answer comes first, because a crash between the two must not
    /// cost the payer what it bought.
    async fn close(&self, mut taken: Use, delivered: bool) {
        let route = taken.held().record().route.clone();
        let result = if delivered {
            fail::fail_point!("settle-answered", |_| std::process::abort());
            if let Err(error) = self.cashier.capabilities().commit_durably(&mut taken).await {
                tracing::warn!(%error, "the use of a settled payment will be recorded later");
            }
            UseResult::Committed
        } else {
            taken.give_back();
            UseResult::GivenBack
        };
        self.metrics.capability_use(&RouteSeries::new(route.label()), result);
    }
}

/// Runs `work` unless the caller hangs up in the meantime, which is checked first.
async fn unless_gone<T>(
    session: &mut ServerSession,
    work: impl Future<Output = T>,
) -> std::result::Result<T, Gone> {
    tokio::select! {
        biased;
        _ = session.read_body_or_idle(true) => Err(Gone),
        done = work => Ok(done),
    }
}

/// The request's body; `None` if it is longer than `most` bytes. Then the rest is read up to [`DRAINED`]
/// bytes and not kept.
async fn body(session: &mut ServerSession, most: usize) -> std::result::Result<Option<Vec<u8>>, Gone> {
    if session.req_header().headers.contains_key(EXPECT) {
        session.write_continue_response().await.map_err(|_| Gone)?;
    }
    let (mut body, mut length) = (Vec::new(), 0_usize);
    while let Some(part) = session.read_request_body().await.map_err(|_| Gone)? {
        length = length.saturating_add(part.len());
        if length <= most {
            body.extend_from_slice(&part);
        } else if length > DRAINED {
            break;
        }
    }
    Ok((length <= most).then_some(body))
}

async fn write(session: &mut ServerSession, answer: FacilitatorAnswer) -> Result<()> {
    let FacilitatorAnswer { status, headers, body, .. } = answer;
    let body = Bytes::from(format!("{body}\n"));
    let mut response = ResponseHeader::build(status, Some(6))?;
    response.insert_header(CONTENT_TYPE, "application/json")?;
    response.insert_header(CONTENT_LENGTH, body.len())?;
    response.insert_header(CACHE_CONTROL, "no-store")?;
    for (name, value) in headers {
        response.insert_header(name, value)?;
    }
    session.write_response_header(Box::new(response)).await?;
    session.write_response_body(body, true).await
}

/// Sends an answer; false if the caller was gone before it had all of it.
async fn deliver(session: &mut ServerSession, answer: FacilitatorAnswer) -> bool {
    match write(session, answer).await {
        Ok(()) => true,
        Err(error) => {
            tracing::info!(%error, "a facilitator's answer could not be delivered");
            false
        }
    }
}

#[async_trait]
impl<L: Ledger, S: Store> HttpServerApp for Facilitator<L, S> {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        _: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        session.set_read_timeout(Some(PART_TIMEOUT));
        session.set_write_timeout(Some(PART_TIMEOUT));
        if !session.read_request().await.unwrap_or(false) {
            return None;
        }
        // One request per connection: an idle connection would delay a shutdown.
        session.set_keepalive(None);
        let Ok(FacilitatorReply { answer, spends }) = self.reply(&mut session).await else {
            tracing::info!("a facilitator's caller closed the connection before its answer");
            session.shutdown().await;
            return None;
        };
        let delivered = deliver(&mut session, answer).await;
        if let Some(taken) = spends {
            self.close(taken, delivered).await;
        }
        // The connection ends after the commit.
        drop(session.finish().await);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::Endpoint;

    #[test]
    fn only_whole_paths_are_endpoints() {
        assert_eq!(Endpoint::of_path("/settle"), Some(Endpoint::Settle));
        for path in ["settle", "/", "/settle/", "/settle/x", "//settle", "/Settle"] {
            assert_eq!(Endpoint::of_path(path), None, "{path}");
        }
    }
}
