//! The facilitator's listener: other servers, behind an x402 middleware of any language, have their
//! challenges minted and their payments verified and settled here (PROTOCOL section 7; x402 v2
//! section 7; Faremeter's `/accepts`).
//!
//! It repeats no rule: `ask` reads a request, the cashier decides, `answer` renders. A payment that
//! is invalid is a good answer, 200; other statuses are for requests that cannot be read, callers
//! without the token, and times when nothing can be settled.

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
use crate::cashier::{Cashier, Wait};
use crate::ledger::Ledger;
use crate::metrics::{Metrics, UseResult};
use crate::store::Store;
use crate::store::capabilities::Use;
use crate::vault::BearerToken;
use crate::x402::{PaymentRequired, Resource};

use answer::Answer;
use ask::{Payment, Told};

/// The most bytes of a request's body: several times what the largest payment takes.
const MAX_BODY: usize = 64 * 1024;
/// Bytes of a body that is too long that are read all the same, so that its sender sees the answer.
const DRAINED: usize = 1024 * 1024;
/// How long each part of a request may take to arrive, and an answer to leave.
const PART_TIMEOUT: Duration = Duration::from_secs(10);

/// What can be asked for. The `endpoint` label of metrics.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Endpoint {
    Verify,
    Settle,
    Supported,
    Requirements,
    Accepts,
}

impl Endpoint {
    const ALL: [Self; 5] = [Self::Verify, Self::Settle, Self::Supported, Self::Requirements, Self::Accepts];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Settle => "settle",
            Self::Supported => "supported",
            Self::Requirements => "requirements",
            Self::Accepts => "accepts",
        }
    }

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

/// The `endpoint` label of a request for none of them.
const NO_ENDPOINT: &str = "none";

/// Answers the facilitator's endpoints.
#[derive(Debug)]
pub struct Facilitator<L, S> {
    cashier: Cashier<L, S>,
    metrics: Arc<Metrics>,
    token: Option<BearerToken>,
}

/// An answer, and the use of a settled payment that is spent by it.
struct Reply {
    answer: Answer,
    spends: Option<Use>,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self { answer, spends: None }
    }
}

/// The caller hung up before it had its answer.
struct Gone;

impl<L: Ledger, S: Store> Facilitator<L, S> {
    /// A facilitator that decides by `cashier`, for callers that show `token` where there is one.
    #[must_use]
    pub const fn new(cashier: Cashier<L, S>, metrics: Arc<Metrics>, token: Option<BearerToken>) -> Self {
        Self { cashier, metrics, token }
    }

    async fn reply(&self, session: &mut ServerSession) -> std::result::Result<Reply, Gone> {
        let body = body(session).await?;
        let request = session.req_header();
        let endpoint = Endpoint::of_path(request.uri.path());
        let method = request.method.clone();
        let reply = match endpoint {
            _ if !self.admits(session) => Answer::unauthorized().into(),
            None => Answer::not_found().into(),
            Some(it) if it.method() != method => Answer::wrong_method(&it.method()).into(),
            Some(it) => match body {
                Some(body) => self.serve(it, session, &body).await?,
                None => Answer::too_long(MAX_BODY).into(),
            },
        };
        let endpoint = endpoint.map_or(NO_ENDPOINT, Endpoint::as_str);
        self.metrics.facilitator_request(endpoint, reply.answer.outcome);
        tracing::debug!(endpoint, outcome = reply.answer.outcome.as_str(), "facilitator request");
        Ok(reply)
    }

    /// Whether the caller shows the token, if one is asked for.
    fn admits(&self, session: &ServerSession) -> bool {
        let Some(token) = &self.token else { return true };
        let mut shown = session.req_header().headers.get_all(AUTHORIZATION).iter();
        let (Some(shown), None) = (shown.next(), shown.next()) else { return false };
        let Some((scheme, credential)) = shown.to_str().ok().and_then(|it| it.split_once(' ')) else {
            return false;
        };
        scheme.eq_ignore_ascii_case("bearer") && token.is(credential.trim())
    }

    async fn serve(
        &self,
        endpoint: Endpoint,
        session: &mut ServerSession,
        body: &[u8],
    ) -> std::result::Result<Reply, Gone> {
        Ok(match endpoint {
            Endpoint::Supported => Answer::supported(&self.cashier.mechanisms()).into(),
            Endpoint::Verify => self.verify(session, body).await?.into(),
            Endpoint::Settle => self.settle(session, body).await?,
            Endpoint::Requirements => match ask::requirements(body) {
                Ok((resource, order)) => self.quote(resource, &[order]).into(),
                Err(told) => Answer::bad_request(&told).into(),
            },
            Endpoint::Accepts => match ask::accepts(body, |it| self.cashier.receives_at(it)) {
                Ok((resource, orders)) => self.quote(resource, &orders).into(),
                Err(told) => Answer::bad_request(&told).into(),
            },
        })
    }

    /// A whole bill for `orders`, all of the one resource.
    fn quote(&self, resource: Resource, orders: &[Order]) -> Answer {
        let mut accepts = Vec::new();
        for order in orders {
            match self.cashier.quote(order) {
                Ok(entries) => accepts.extend(entries),
                Err(wait) => return Answer::unavailable(answer::Shape::Bill, &wait),
            }
        }
        if accepts.is_empty() && !orders.is_empty() {
            return Answer::bad_request(&Told("none of these mechanisms is on, see /supported".to_owned()));
        }
        Answer::bill(&PaymentRequired { error: None, resource, accepts, extensions: serde_json::Map::new() })
    }

    async fn verify(&self, session: &mut ServerSession, body: &[u8]) -> std::result::Result<Answer, Gone> {
        let Payment { proof, demand } = match ask::payment(body) {
            Ok(payment) => payment,
            Err(ask::Unusable::Unreadable(told)) => return Ok(Answer::bad_request(&told)),
            Err(ask::Unusable::Invalid { reason, message }) => {
                return Ok(Answer::invalid(reason, &message, None));
            }
        };
        let payer = proof.payer();
        let verified = unless_gone(session, self.cashier.verify(proof, &demand)).await?;
        Ok(match verified {
            Ok(payer) => Answer::valid(payer),
            Err(unpaid) => Answer::unpaid(answer::Shape::Verify { payer }, &unpaid),
        })
    }

    async fn settle(&self, session: &mut ServerSession, body: &[u8]) -> std::result::Result<Reply, Gone> {
        let Payment { proof, demand } = match ask::payment(body) {
            Ok(payment) => payment,
            Err(ask::Unusable::Unreadable(told)) => return Ok(Answer::bad_request(&told).into()),
            Err(ask::Unusable::Invalid { reason, message }) => {
                return Ok(Answer::unsettled(reason, &message, None, None).into());
            }
        };
        let (block, payer) = (proof.block(), proof.payer());
        let unpaid = match unless_gone(session, self.cashier.settle(proof, &demand)).await? {
            Ok(admitted) => {
                let answer = Answer::settled(admitted.taken.held().intent());
                return Ok(Reply { answer, spends: Some(admitted.taken) });
            }
            // Another call is being answered with the use, and may yet hang up.
            Err(Unpaid::Wait(Wait::UsesOut)) => Unpaid::Wait(answer::pending(block)),
            Err(other) => other,
        };
        Ok(Answer::unpaid(answer::Shape::Settle { payer, block }, &unpaid).into())
    }

    /// Closes a use: spent and on the disk where the caller has been told, else given back, so that the
    /// same call made again is told. Told first, since a crash between the two must not cost the
    /// payer what he bought.
    async fn close(&self, mut taken: Use, told: bool) {
        let route = taken.held().intent().route.clone();
        let result = if told {
            fail::fail_point!("settle-answered", |_| std::process::abort());
            if let Err(error) = self.cashier.capabilities().commit_durably(&mut taken).await {
                tracing::warn!(%error, "the use of a settled payment is recorded later");
            }
            UseResult::Committed
        } else {
            taken.give_back();
            UseResult::GivenBack
        };
        self.metrics.capability_use(route.label(), result);
    }
}

/// Runs `work` unless the caller hangs up meanwhile, which is noticed first.
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

/// The request's body; nothing where it is longer than [`MAX_BODY`].
async fn body(session: &mut ServerSession) -> std::result::Result<Option<Vec<u8>>, Gone> {
    if session.req_header().headers.contains_key(EXPECT) {
        session.write_continue_response().await.map_err(|_| Gone)?;
    }
    let (mut body, mut length) = (Vec::new(), 0_usize);
    while let Some(part) = session.read_request_body().await.map_err(|_| Gone)? {
        length = length.saturating_add(part.len());
        if length <= MAX_BODY {
            body.extend_from_slice(&part);
        } else if length > DRAINED {
            break;
        }
    }
    Ok((length <= MAX_BODY).then_some(body))
}

async fn write(session: &mut ServerSession, answer: Answer) -> Result<()> {
    let Answer { status, headers, body, .. } = answer;
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

/// Sends an answer; false where the caller was gone before it had all of it.
async fn deliver(session: &mut ServerSession, answer: Answer) -> bool {
    match write(session, answer).await {
        Ok(()) => true,
        Err(error) => {
            tracing::info!(%error, "a facilitator's answer was not taken");
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
        // One request a connection: an idle one would keep a shutdown waiting.
        session.set_keepalive(None);
        let Ok(Reply { answer, spends }) = self.reply(&mut session).await else {
            tracing::info!("a facilitator's caller hung up before its answer");
            session.shutdown().await;
            return None;
        };
        let told = deliver(&mut session, answer).await;
        if let Some(taken) = spends {
            self.close(taken, told).await;
        }
        // The end of the connection comes after the commit.
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
