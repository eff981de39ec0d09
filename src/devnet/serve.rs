//! The RPC over HTTP: one request per connection, like the reference node.

#[cfg(feature = "devnet-faults")]
mod faulty;

use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use pingora::apps::{HttpServerApp, ReusedHttpStream};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use serde_json::Value;

use super::answer::HttpAnswer;
#[cfg(feature = "devnet-faults")]
use super::faults::InjectedFaults;
use super::rpc::{Cancel, RpcCall, RpcError, RpcReply, WorkJob};
use super::world::World;
use crate::shutdown;

/// The largest body that is read; a connection that sends more is closed. The largest sensible
/// request names a few thousand accounts of 70 bytes each.
const MAX_BODY: usize = 1 << 20;

/// One node's RPC over a ledger that it shares with other nodes.
pub(super) struct RpcService {
    world: Arc<World>,
    /// What tests have ordered for this node alone.
    #[cfg(feature = "devnet-faults")]
    pub(super) faults: InjectedFaults,
}

impl RpcService {
    pub(super) fn new(world: Arc<World>) -> Self {
        Self {
            world,
            #[cfg(feature = "devnet-faults")]
            faults: InjectedFaults::default(),
        }
    }

    /// The answer to a request. `None` closes the connection, which only an ordered fault does.
    async fn answer(&self, method: &Method, body: &[u8]) -> Option<HttpAnswer> {
        if method != Method::POST {
            return Some(HttpAnswer::json(&RpcError::NotPost.to_json()));
        }
        match RpcCall::parse(body) {
            Ok((action, call)) => self.respond(&action, &call).await,
            Err(error) => Some(HttpAnswer::json(&error.to_json())),
        }
    }

    #[cfg(not(feature = "devnet-faults"))]
    async fn respond(&self, action: &str, call: &RpcCall) -> Option<HttpAnswer> {
        Some(HttpAnswer::json(&self.execute(action, call).await))
    }

    /// Carries out a call on the ledger.
    async fn execute(&self, action: &str, call: &RpcCall) -> Value {
        let reply = {
            let (mut ledger, now) = self.world.ledger();
            call.answer(action, &mut ledger, now)
        };
        self.finish(reply).await
    }

    /// The JSON of a reply, after computing the work that it asks for.
    async fn finish(&self, reply: Result<RpcReply, RpcError>) -> Value {
        match reply {
            Ok(RpcReply::Now(answer)) => answer,
            Ok(RpcReply::Work(job)) => self.work(job).await,
            Err(error) => error.to_json(),
        }
    }

    /// Computes work on a thread of its own, as long as the client waits for it.
    async fn work(&self, job: WorkJob) -> Value {
        let Ok(_permit) = self.world.jobs().acquire().await else { return RpcError::WorkFailed.to_json() };
        let (_cancel_when_dropped, cancelled) = Cancel::new();
        let computed = tokio::task::spawn_blocking(move || job.run(&cancelled)).await;
        computed.unwrap_or(Err(RpcError::WorkFailed)).unwrap_or_else(|error| error.to_json())
    }
}

#[async_trait]
impl HttpServerApp for RpcService {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let mut shutdown = shutdown.clone();
        let answered = tokio::select! {
            answered = serve(self, &mut session) => answered,
            () = shutdown::asked_for(&mut shutdown) => return None,
        };
        if let Err(error) = answered {
            tracing::debug!(%error, "a request to the development ledger broke off");
        }
        // The connection is closed in any case.
        None
    }
}

/// Reads a request, answers it and closes the connection.
async fn serve(service: &RpcService, session: &mut ServerSession) -> pingora::Result<()> {
    if !session.read_request().await? {
        return Ok(());
    }
    session.set_keepalive(None);
    let mut body = Vec::new();
    while let Some(part) = session.read_request_body().await? {
        body.extend_from_slice(&part);
        if body.len() > MAX_BODY {
            return Ok(());
        }
    }
    let method = session.req_header().method.clone();
    let Some(HttpAnswer { status, content_type, body }) = service.answer(&method, &body).await else {
        return Ok(());
    };
    let mut header = ResponseHeader::build(status, Some(2))?;
    header.insert_header("content-type", content_type)?;
    header.insert_header("content-length", body.len())?;
    session.write_response_header(Box::new(header)).await?;
    session.write_response_body(body.into(), true).await?;
    session.finish_body().await
}
