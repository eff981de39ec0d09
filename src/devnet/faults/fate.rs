//! The faults that one RPC call meets, and what they do to its answer.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{InjectedFault, Lie};
use crate::devnet::answer::HttpAnswer;
use crate::devnet::lattice::Lattice;
use crate::devnet::rpc;

/// What a fault answers without carrying out the call.
pub(in crate::devnet) enum Instead {
    Answer(HttpAnswer),
    Close,
}

/// The faults of one request.
pub(in crate::devnet) struct Fate {
    pub(super) faults: Vec<InjectedFault>,
    pub(in crate::devnet) snapshot: Option<Arc<Lattice>>,
    pub(super) lifted: watch::Receiver<u64>,
}

impl Fate {
    pub(in crate::devnet) fn instead(&self) -> Option<Instead> {
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
    pub(in crate::devnet) async fn wait(&mut self) {
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
    pub(in crate::devnet) fn falsified(&self, mut answer: Value) -> Option<Value> {
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
            (Lie::Legacy(block), "contents") if *value == rpc::contents(block, value.is_object()) => {
                *value = json!({ "type": "send", "previous": block.previous, "balance": "0" });
            }
            // The block's hash covers its contents; only these two lie about them.
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
