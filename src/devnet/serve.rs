//! The RPC over HTTP: one request a connection, as the reference node has it.

use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use pingora::apps::{HttpServerApp, ReusedHttpStream};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use serde_json::Value;

use super::faults::{Fate, Fault, Faults};
use super::lattice::Lattice;
use super::rpc::{self, Call, Cancel, Job, Reply, RpcError};
use super::world::World;
use crate::shutdown;

/// The largest body that is read; a request with a larger one is closed. The largest request that
/// makes sense names some thousand accounts of 70 bytes.
const MAX_BODY: usize = 1 << 20;

/// One node's RPC: the ledger that it shares with others, and the faults that are its own.
pub(super) struct Node {
    world: Arc<World>,
    faults: Faults,
}

/// What goes back to the client.
enum Answer {
    Json(Value),
    /// HTTP 500 with this text.
    Failure(&'static str),
    /// Nothing; the connection is closed.
    Silence,
}

impl Node {
    pub(super) fn new(world: Arc<World>) -> Self {
        Self { world, faults: Faults::default() }
    }

    pub(super) const fn faults(&self) -> &Faults {
        &self.faults
    }

    async fn answer(&self, method: &Method, body: &[u8]) -> Answer {
        if method != Method::POST {
            return Answer::Json(RpcError::NotPost.to_json());
        }
        let (action, call) = match Call::parse(body) {
            Ok(parsed) => parsed,
            Err(error) => return Answer::Json(error.to_json()),
        };
        let mut fate = self.faults.meet(&action);
        let outcome = match before(&fate) {
            Some(answer) => answer,
            None => match self.reply(&action, &call, &fate) {
                Ok(Reply::Now(answer)) => Answer::Json(answer),
                Ok(Reply::Work(job)) => Answer::Json(self.work(job).await),
                Err(error) => Answer::Json(error.to_json()),
            },
        };
        fate.wait().await;
        match outcome {
            Answer::Json(_) if fate.faults.iter().any(|fault| matches!(fault, Fault::LoseAnswer)) => {
                Answer::Silence
            }
            Answer::Json(mut answer) => {
                fate.falsify(&mut answer);
                Answer::Json(answer)
            }
            Answer::Failure(_) | Answer::Silence => outcome,
        }
    }

    fn reply(&self, action: &str, call: &Call, fate: &Fate) -> Result<Reply, RpcError> {
        let (mut ledger, now) = self.world.ledger();
        match &fate.snapshot {
            // It tells of the node's peers, which go on.
            Some(snapshot) if rpc::only_reads(action) && action != "telemetry" => {
                call.answer(action, &mut Lattice::clone(snapshot), now)
            }
            Some(_) | None => call.answer(action, &mut ledger, now),
        }
    }

    /// Computes work on a thread of its own, for as long as somebody waits for it.
    async fn work(&self, job: Job) -> Value {
        let Ok(_permit) = self.world.jobs().acquire().await else { return RpcError::WorkFailed.to_json() };
        let (_cancel_when_dropped, cancelled) = Cancel::new();
        let computed = tokio::task::spawn_blocking(move || job.run(&cancelled)).await;
        computed.unwrap_or(Err(RpcError::WorkFailed)).unwrap_or_else(|error| error.to_json())
    }
}

/// What is answered without doing anything, if that is ordered.
fn before(fate: &Fate) -> Option<Answer> {
    fate.faults.iter().find_map(|fault| match fault {
        Fault::Refuse(text) => Some(Answer::Json(RpcError::Ordered(text.clone()).to_json())),
        Fault::ServerError => Some(Answer::Failure("Internal Server Error")),
        Fault::Drop => Some(Answer::Silence),
        Fault::Delay(_) | Fault::Hold | Fault::LoseAnswer | Fault::Lie(_) | Fault::Stale => None,
    })
}

#[async_trait]
impl HttpServerApp for Node {
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
        // Closed, whatever came of it.
        None
    }
}

/// Reads a request, answers it and closes the connection.
async fn serve(node: &Node, session: &mut ServerSession) -> pingora::Result<()> {
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
    let (status, content_type, text) = match node.answer(&method, &body).await {
        Answer::Json(answer) => (200, "application/json", rpc::pretty(&answer)),
        Answer::Failure(text) => (500, "text/plain", text.to_owned()),
        Answer::Silence => return Ok(()),
    };
    let mut header = ResponseHeader::build(status, Some(2))?;
    header.insert_header("content-type", content_type)?;
    header.insert_header("content-length", text.len())?;
    session.write_response_header(Box::new(header)).await?;
    session.write_response_body(text.into(), true).await?;
    session.finish_body().await
}
