//! Which blocks would empty a pool account: a plan, nothing done.
//!
//! A plan is made of what the ledger says of the account and of nothing else, and the same facts
//! always give the same blocks. After any part of a plan was carried out, the plan made of the new
//! facts is the rest of it: that is why a sweep that was killed is simply planned again.

use std::cmp::Reverse;

use crate::nano::{Account, BlockHash, Raw, Representative, Signature, StateBlock};

/// A pool account as its next blocks need it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolAccount {
    pub account: Account,
    /// Nothing where the account has no block yet.
    pub head: Option<Head>,
    /// What was sent to the account and not received yet, in any order.
    pub waiting: Vec<Waiting>,
}

/// The newest block of an account, which must be confirmed: a block on any other is a fork.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    pub hash: BlockHash,
    /// The balance after it. It must come from the block itself: a balance that is understated
    /// turns a receive into a send to nobody.
    pub balance: Raw,
    pub representative: Representative,
}

/// A confirmed send that was not received.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Waiting {
    pub hash: BlockHash,
    pub amount: Raw,
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
    /// Without signature and work, which are not part of its hash.
    pub block: StateBlock,
}

/// What waits for an account together is more than can exist: the ledger is not told truly.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0} is said to have more than can exist")]
pub struct MoreThanExists(pub Account);

impl PoolAccount {
    /// What the account has, received or not.
    ///
    /// # Errors
    /// [`MoreThanExists`].
    pub fn total(&self) -> Result<Raw, MoreThanExists> {
        let balance = self.head.map_or(Raw::ZERO, |head| head.balance);
        self.waiting
            .iter()
            .try_fold(balance, |sum, it| sum.checked_add(it.amount))
            .ok_or(MoreThanExists(self.account))
    }
}

/// The blocks that empty the account, in the order in which they must be confirmed: each receive,
/// the largest first, then one send. Empty where there is nothing to do.
///
/// # Errors
/// [`MoreThanExists`].
pub fn plan(facts: &PoolAccount, rules: &Rules) -> Result<Vec<Step>, MoreThanExists> {
    let total = facts.total()?;
    if total.is_zero() || total < rules.minimum {
        return Ok(Vec::new());
    }
    let account = facts.account;
    let current = facts.head.map_or(Representative(account), |head| head.representative);
    let representative = rules.representative.unwrap_or(current);
    let mut previous = facts.head.map_or(BlockHash::ZERO, |head| head.hash);
    let mut balance = facts.head.map_or(Raw::ZERO, |head| head.balance);
    let mut steps = Vec::with_capacity(facts.waiting.len().saturating_add(1));
    let mut put = |action, amount, before, after, link| {
        let signature = Signature([0; 64]);
        let block =
            StateBlock { account, previous, representative, balance: after, link, signature, work: None };
        previous = block.hash();
        steps.push(Step { action, amount, before, block });
    };
    let mut waiting: Vec<Waiting> = facts.waiting.iter().copied().filter(|it| !it.amount.is_zero()).collect();
    waiting.sort_by_key(|it| (Reverse(it.amount), it.hash));
    let mut opened = facts.head.is_some();
    for Waiting { hash, amount } in waiting {
        let after = balance.checked_add(amount).ok_or(MoreThanExists(account))?;
        put(if opened { Action::Receive } else { Action::Open }, amount, balance, after, hash.0);
        (balance, opened) = (after, true);
    }
    put(Action::Send, balance, balance, Raw::ZERO, rules.treasury.0);
    Ok(steps)
}
