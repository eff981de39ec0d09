//! Answers a call with the faults that are ordered for it.

use serde_json::Value;

use super::RpcService;
use crate::devnet::answer::HttpAnswer;
use crate::devnet::faults::{Fate, Instead};
use crate::devnet::lattice::Lattice;
use crate::devnet::rpc::{self, RpcCall};

impl RpcService {
    /// The answer to a call, with the faults that are ordered for it. `None` closes the connection.
    pub(super) async fn respond(&self, action: &str, call: &RpcCall) -> Option<HttpAnswer> {
        let mut fate = self.faults.meet(action);
        let instead = fate.instead();
        let answer =
            if instead.is_none() { self.execute_as_of(action, call, &fate).await } else { Value::Null };
        fate.wait().await;
        match instead {
            Some(Instead::Answer(answer)) => Some(answer),
            Some(Instead::Close) => None,
            None => fate.falsified(answer).map(|answer| HttpAnswer::json(&answer)),
        }
    }

    /// Carries out a call: one that only reads, on the ledger as it was when a
    /// [`InjectedFault::Stale`] was ordered.
    async fn execute_as_of(&self, action: &str, call: &RpcCall, fate: &Fate) -> Value {
        match &fate.snapshot {
            // `telemetry` tells of the node's peers, which are not behind.
            Some(snapshot) if rpc::only_reads(action) && action != "telemetry" => {
                let now = self.world.ledger().1;
                let reply = call.answer(action, &mut Lattice::clone(snapshot), now);
                self.finish(reply).await
            }
            Some(_) | None => self.execute(action, call).await,
        }
    }
}
