//! Which blocks would empty a pool account: a plan, nothing done.
//!
//! A plan is made of what the ledger says of the account and of nothing else, and the same facts
//! always give the same blocks. After any part of a plan was carried out, the plan made of the new
//! facts is the rest of it: that is why a sweep that was killed is simply planned again.

use std::cmp::Reverse;

use crate::nano::{Account, NotProven, ProvenHead, ProvenSend, Raw, Representative, UnsignedBlock};

/// A pool account before its next blocks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolAccount {
    /// Its newest block must be confirmed: a block on any other is a fork.
    pub head: ProvenHead,
    /// The confirmed sends that it has not received, in any order.
    pub waiting: Vec<ProvenSend>,
}

/// What a sweep is to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rules {
    /// Where everything goes. No account of the pool.
    pub treasury: Account,
    /// An account that has less than this, received or not, is left as it is.
    pub minimum: Raw,
    /// Who votes with what lies in the pool. Where there is none, an account keeps the one it has,
    /// and a new account names itself.
    pub representative: Option<Representative>,
}

/// What a block of a plan does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Receives with the account's first block.
    Open,
    Receive,
    /// Sends all there is to the treasury.
    Send,
}

impl Action {
    /// As it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Receive => "receive",
            Self::Send => "send",
        }
    }
}

/// One block of a plan.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Step {
    pub action: Action,
    /// What the block moves.
    pub amount: Raw,
    /// The balance before it.
    pub before: Raw,
    pub block: UnsignedBlock,
}

impl PoolAccount {
    /// What the account has, received or not, in raw.
    ///
    /// # Errors
    /// [`NotProven::MoreThanExists`].
    pub fn total(&self) -> Result<Raw, NotProven> {
        self.waiting
            .iter()
            .try_fold(self.head.balance(), |sum, it| sum.checked_add(it.amount()))
            .ok_or(NotProven::MoreThanExists(self.head.account()))
    }
}

/// The blocks that empty the account, in the order in which they must be confirmed: each receive,
/// the largest first, then one send. Empty if there is nothing to do.
///
/// # Errors
/// [`NotProven`], if more is said to wait than can exist, or a send is to another account.
pub fn plan(account: &PoolAccount, rules: &Rules) -> Result<Vec<Step>, NotProven> {
    let total = account.total()?;
    if total.is_zero() || total < rules.minimum {
        return Ok(Vec::new());
    }
    let mut head = account.head;
    if let Some(representative) = rules.representative {
        head = head.with_representative(representative);
    }
    let mut waiting = account.waiting.clone();
    waiting.sort_by_key(|it| (Reverse(it.amount()), it.hash()));
    let mut steps = Vec::with_capacity(waiting.len().saturating_add(1));
    for send in waiting {
        let action = if head.is_open() { Action::Receive } else { Action::Open };
        let block = head.receive(&send)?;
        steps.push(Step { action, amount: send.amount(), before: head.balance(), block });
        head = ProvenHead::after(&block);
    }
    let amount = head.balance();
    let block = head.send(rules.treasury, amount)?;
    steps.push(Step { action: Action::Send, amount, before: amount, block });
    Ok(steps)
}
