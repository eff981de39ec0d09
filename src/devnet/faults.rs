//! Faults for tests to order: a node that is late, down, forgetful, behind, or lies.
//!
//! An order names an RPC action, what goes wrong with it, and how often. All orders for one action
//! apply to the same request, and each counts it once. Only the feature `devnet-faults` compiles
//! this module: the shipped program has no fault to order.

mod fate;
mod sockets;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::lattice::Lattice;
use crate::nano::{Raw, Representative, StateBlock};

pub(super) use fate::{Fate, Instead};
pub(super) use sockets::SocketFaults;

/// Stands for every action in [`super::Devnet::order`].
pub const ANY: &str = "*";

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum InjectedFault {
    /// The answer comes this much later, or as soon as the order is lifted.
    Delay(Duration),
    /// The answer is held back until the order is lifted.
    Hold,
    /// Nothing is done; the answer is this error.
    Refuse(String),
    /// Nothing is done; the answer is an HTTP 500 that is not JSON.
    ServerError,
    /// Nothing is done; the connection is closed without an answer.
    Drop,
    /// The request is carried out; the connection is closed without an answer.
    LoseAnswer,
    /// The answer is true except for this.
    Lie(Lie),
    /// The answer is what it was when the order was given. Only actions that read are affected.
    Stale,
}

/// A false field of an answer, at any depth.
#[derive(Clone, Debug)]
pub enum Lie {
    /// `confirmed` is true.
    Confirmed,
    /// `contents` are this block's.
    Contents(Box<StateBlock>),
    /// The `contents` of this block are those of a block from before state blocks.
    Legacy(Box<StateBlock>),
    /// `balance` and `confirmed_balance` are this much.
    Balance(Raw),
    /// `amount` is this much.
    Amount(Raw),
    /// `representative` is this account.
    Representative(Representative),
}

/// How often an order applies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Times {
    /// To this many requests.
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

struct FaultOrder {
    action: String,
    fault: InjectedFault,
    times: Times,
    /// The ledger when the order was given; only [`InjectedFault::Stale`] keeps it.
    snapshot: Option<Arc<Lattice>>,
}

#[derive(Default)]
struct FaultState {
    orders: Vec<FaultOrder>,
    calls: BTreeMap<String, u64>,
}

/// The orders, and how often each action was called.
pub struct InjectedFaults {
    /// Locked while the orders are read, never across an await.
    state: Mutex<FaultState>,
    /// Counts calls, for tests that wait for one.
    called: watch::Sender<u64>,
    /// Counts lifted orders, for answers that are held back.
    lifted: watch::Sender<u64>,
}

impl Default for InjectedFaults {
    fn default() -> Self {
        Self { state: Mutex::default(), called: watch::Sender::new(0), lifted: watch::Sender::new(0) }
    }
}

impl InjectedFaults {
    fn state(&self) -> MutexGuard<'_, FaultState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn order(&self, action: &str, fault: InjectedFault, times: Times, ledger: &Lattice) {
        let snapshot = matches!(fault, InjectedFault::Stale).then(|| Arc::new(ledger.clone()));
        self.state().orders.push(FaultOrder { action: action.to_owned(), fault, times, snapshot });
    }

    /// Ends all orders for this action and releases the answers they held back. [`ANY`] ends the
    /// orders that were given for [`ANY`], no others.
    pub fn lift(&self, action: &str) {
        self.state().orders.retain(|order| order.action != action);
        self.lifted.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Ends all orders.
    pub fn clear(&self) {
        self.state().orders.clear();
        self.lifted.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// How often the action was called since the ledger started.
    pub fn calls(&self, action: &str) -> u64 {
        self.state().calls.get(action).copied().unwrap_or(0)
    }

    /// Waits until the action was called `count` times in all.
    pub async fn called(&self, action: &str, count: u64) {
        let mut called = self.called.subscribe();
        while self.calls(action) < count {
            if called.changed().await.is_err() {
                return;
            }
        }
    }

    /// Counts the call and takes the faults that are ordered for it.
    pub(super) fn meet(&self, action: &str) -> Fate {
        // Subscribed before the orders are read, so that an order lifted in between is noticed.
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
