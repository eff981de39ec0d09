//! Faults to order: a node that is late, down, forgetful, behind, or lies.
//!
//! An order names an RPC action, what is to go wrong with it, and how often. All orders for one
//! action apply to one request; each is used up once by it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use super::lattice::Lattice;
use super::rpc;
use crate::nano::{Raw, StateBlock};

/// Stands for every action in [`super::Devnet::order`].
pub const ANY: &str = "*";

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The answer comes that much later. Ends early when the order is lifted.
    Delay(Duration),
    /// The answer is kept back until the order is lifted.
    Hold,
    /// Nothing is done; the answer is this error.
    Refuse(String),
    /// Nothing is done; the answer is an HTTP 500 that is not JSON.
    ServerError,
    /// Nothing is done; the connection is closed without an answer.
    Drop,
    /// What was asked is done; the connection is closed without an answer.
    LoseAnswer,
    /// The answer is true but for this.
    Lie(Lie),
    /// The answer is what it was when the order was given. For actions that only read; the rest
    /// are answered as usual.
    Stale,
}

/// What an answer says that is not so, wherever in it the field stands.
#[derive(Clone, Debug)]
pub enum Lie {
    /// `confirmed` is true.
    Confirmed,
    /// `contents` are this block's.
    Contents(Box<StateBlock>),
    /// `balance` and `confirmed_balance` are this much.
    Balance(Raw),
    /// `amount` is this much.
    Amount(Raw),
}

/// How often an order holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Times {
    /// For so many requests.
    Only(u32),
    /// Until it is lifted.
    Always,
}

impl Times {
    pub const ONCE: Self = Self::Only(1);

    /// What is left after one request.
    const fn less_one(self) -> Self {
        match self {
            Self::Only(times) => Self::Only(times.saturating_sub(1)),
            Self::Always => Self::Always,
        }
    }
}

struct Order {
    action: String,
    fault: Fault,
    times: Times,
    /// The ledger when the order was given; only [`Fault::Stale`] keeps it.
    snapshot: Option<Arc<Lattice>>,
}

#[derive(Default)]
struct State {
    orders: Vec<Order>,
    calls: BTreeMap<String, u64>,
}

/// The orders, and how often each action was called.
pub struct Faults {
    /// Held for the length of a look-up, never across an await.
    state: Mutex<State>,
    /// Counts calls, for those who wait for one.
    called: watch::Sender<u64>,
    /// Counts liftings, for the answers that are held back.
    lifted: watch::Sender<u64>,
}

/// What one request meets.
pub(super) struct Fate {
    pub(super) faults: Vec<Fault>,
    pub(super) snapshot: Option<Arc<Lattice>>,
    lifted: watch::Receiver<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self { state: Mutex::default(), called: watch::Sender::new(0), lifted: watch::Sender::new(0) }
    }
}

impl Faults {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn order(&self, action: &str, fault: Fault, times: Times, ledger: &Lattice) {
        let snapshot = matches!(fault, Fault::Stale).then(|| Arc::new(ledger.clone()));
        self.state().orders.push(Order { action: action.to_owned(), fault, times, snapshot });
    }

    /// Ends all orders for this action, and answers what they held back. [`ANY`] ends the orders
    /// that were given for [`ANY`], no others.
    pub fn lift(&self, action: &str) {
        self.state().orders.retain(|order| order.action != action);
        self.lifted.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Ends all orders.
    pub fn clear(&self) {
        self.state().orders.clear();
        self.lifted.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// How often the action was asked for since the ledger started.
    pub fn calls(&self, action: &str) -> u64 {
        self.state().calls.get(action).copied().unwrap_or(0)
    }

    /// Waits until the action was asked for `count` times in all.
    pub async fn called(&self, action: &str, count: u64) {
        let mut called = self.called.subscribe();
        while self.calls(action) < count {
            if called.changed().await.is_err() {
                return;
            }
        }
    }

    /// Counts the call and takes what is ordered for it.
    pub(super) fn meet(&self, action: &str) -> Fate {
        // Subscribed before the orders are read, so that a lifting in between is seen.
        let mut fate = Fate { faults: Vec::new(), snapshot: None, lifted: self.lifted.subscribe() };
        let mut state = self.state();
        let calls = state.calls.entry(action.to_owned()).or_insert(0);
        *calls = calls.saturating_add(1);
        for order in &mut state.orders {
            if order.action == action || order.action == ANY {
                order.times = order.times.less_one();
                fate.faults.push(order.fault.clone());
                if order.snapshot.is_some() {
                    fate.snapshot.clone_from(&order.snapshot);
                }
            }
        }
        state.orders.retain(|order| order.times != Times::Only(0));
        drop(state);
        self.called.send_modify(|count| *count = count.wrapping_add(1));
        fate
    }
}

impl Fate {
    /// Waits as long as the delays among the faults say, or until orders are lifted.
    pub(super) async fn wait(&mut self) {
        for fault in &self.faults {
            let lifted = self.lifted.changed();
            match fault {
                Fault::Delay(delay) => {
                    let _ended_early = tokio::time::timeout(*delay, lifted).await.is_ok();
                }
                Fault::Hold => {
                    let _by_order = lifted.await.is_ok();
                }
                Fault::Refuse(_)
                | Fault::ServerError
                | Fault::Drop
                | Fault::LoseAnswer
                | Fault::Lie(_)
                | Fault::Stale => {}
            }
        }
    }

    /// Falsifies the answer as ordered.
    pub(super) fn falsify(&self, answer: &mut Value) {
        for fault in &self.faults {
            if let Fault::Lie(lie) = fault {
                falsify(answer, lie);
            }
        }
    }
}

fn falsify(answer: &mut Value, lie: &Lie) {
    let Value::Object(fields) = answer else { return };
    for (name, value) in fields.iter_mut() {
        match (lie, name.as_str()) {
            (Lie::Confirmed, "confirmed") => *value = Value::from("true"),
            (Lie::Contents(block), "contents") => *value = rpc::contents(block, value.is_object()),
            // What a block says of itself is under its hash; only `Contents` lies about that.
            (_, "contents") => {}
            (Lie::Balance(raw), "balance" | "confirmed_balance") | (Lie::Amount(raw), "amount") => {
                *value = Value::from(raw.to_string());
            }
            _ => match value {
                Value::Array(items) => items.iter_mut().for_each(|item| falsify(item, lie)),
                Value::Object(_) => falsify(value, lie),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            },
        }
    }
}
