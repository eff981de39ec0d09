//! Applies the ordered faults to the answer of one RPC call.

use serde_json::{Value, json};

use super::{Fate, InjectedFault, Lie};
use crate::devnet::lattice::Lattice;
use crate::devnet::rpc::{self, RpcCall};
use crate::devnet::serve::{HttpAnswer, RpcService};

/// What a fault answers without carrying out the call.
enum Instead {
    Answer(HttpAnswer),
    Close,
}

impl RpcService {
    /// The answer to a call, with the faults that are ordered for it. `None` closes the connection.
    pub(in crate::devnet) async fn respond(&self, action: &str, call: &RpcCall) -> Option<HttpAnswer> {
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

impl Fate {
    fn instead(&self) -> Option<Instead> {
        self.faults.iter().find_map(|fault| match fault {
            InjectedFault::Refuse(text) => Some(Instead::Answer(HttpAnswer::json(&json!({ "error": text })))),
            InjectedFault::ServerError => Some(Instead::Answer(HttpAnswer {
                status: 500,
                content_type: "text/plain",
                body: "Internal Server Error".to_owned(),
            })),
            InjectedFault::Drop => Some(Instead::Close),
            InjectedFault::Delay(_)
            | InjectedFault::Hold
            | InjectedFault::LoseAnswer
            | InjectedFault::Lie(_)
            | InjectedFault::Stale => None,
        })
    }

    /// Waits as long as the ordered delays say, or until orders are lifted.
    async fn wait(&mut self) {
        for fault in &self.faults {
            let lifted = self.lifted.changed();
            match fault {
                InjectedFault::Delay(delay) => {
                    let _lifted_early = tokio::time::timeout(*delay, lifted).await.is_ok();
                }
                InjectedFault::Hold => {
                    let _lifted = lifted.await.is_ok();
                }
                InjectedFault::Refuse(_)
                | InjectedFault::ServerError
                | InjectedFault::Drop
                | InjectedFault::LoseAnswer
                | InjectedFault::Lie(_)
                | InjectedFault::Stale => {}
            }
        }
    }

    /// The answer with the ordered lies in it; `None` if it is to be lost.
    fn falsified(&self, mut answer: Value) -> Option<Value> {
        for fault in &self.faults {
            match fault {
                InjectedFault::Lie(lie) => falsify(&mut answer, lie),
                InjectedFault::LoseAnswer => return None,
                InjectedFault::Delay(_)
                | InjectedFault::Hold
                | InjectedFault::Refuse(_)
                | InjectedFault::ServerError
                | InjectedFault::Drop
                | InjectedFault::Stale => {}
            }
        }
        Some(answer)
    }
}

fn falsify(answer: &mut Value, lie: &Lie) {
    let Value::Object(fields) = answer else { return };
    for (name, value) in fields.iter_mut() {
        match (lie, name.as_str()) {
            (Lie::Confirmed, "confirmed") => *value = Value::from("true"),
            (Lie::Contents(block), "contents") => *value = rpc::contents(block, value.is_object()),
            // The block's hash covers its contents; only `Contents` lies about them.
            (_, "contents") => {}
            (Lie::Balance(raw), "balance" | "confirmed_balance") | (Lie::Amount(raw), "amount") => {
                *value = Value::from(raw.to_string());
            }
            (Lie::Representative(account), "representative" | "confirmed_representative") => {
                *value = Value::from(account.to_string());
            }
            _ => match value {
                Value::Array(items) => items.iter_mut().for_each(|item| falsify(item, lie)),
                Value::Object(_) => falsify(value, lie),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            },
        }
    }
}
