//! Plans the blocks that would empty a pool account. Planning changes nothing.
//!
//! A plan depends only on the account's state on the ledger, and the same state always gives the same
//! blocks. After a part of a plan was carried out, a plan from the new state is the rest of the first
//! plan. A sweep that was killed is therefore simply planned again.

use std::cmp::Reverse;

use crate::nano::{Account, BlockHash, Raw, Representative, Signature, StateBlock};

/// The state of a pool account that its next blocks depend on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolAccount {
    pub account: Account,
    /// `None` if the account has no block yet.
    pub head: Option<Head>,
    /// What was sent to the account and not received yet, in any order.
    pub receivable: Vec<ReceivableSend>,
}

/// The newest block of an account. It must be confirmed; a block built on any other would be a fork.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    pub hash: BlockHash,
    /// The balance after it, taken from the block itself. With a balance that is too low, a receive
    /// would become a send that nobody can receive.
    pub balance: Raw,
    pub representative: Representative,
}

/// A confirmed send that is not received yet.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ReceivableSend {
    pub hash: BlockHash,
    pub amount: Raw,
}

/// The rules of a sweep.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rules {
    /// The account that everything is sent to. It must not be an account of the pool.
    pub treasury: Account,
    /// An account with less than this, received or not, is not swept.
    pub minimum: Raw,
    /// The representative of pool accounts. If `None`, an account keeps its representative, and a new
    /// account represents itself.
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
    /// The name shown to people.
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
    /// The amount that the block moves.
    pub amount: Raw,
    /// The balance before the block.
    pub before: Raw,
    /// The block without signature and work, which are not part of its hash.
    pub block: StateBlock,
}

/// An account's total is more than can exist, so a node's answer is false.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a node reports that {0} has more than can exist")]
pub struct MoreThanExists(pub Account);

impl PoolAccount {
    /// What the account has, received or not, in raw.
    ///
    /// # Errors
    /// [`MoreThanExists`].
    pub fn total(&self) -> Result<Raw, MoreThanExists> {
        let balance = self.head.map_or(Raw::ZERO, |head| head.balance);
        self.receivable
            .iter()
            .try_fold(balance, |sum, it| sum.checked_add(it.amount))
            .ok_or(MoreThanExists(self.account))
    }
}

/// The blocks that empty the account, in the order in which they have to be confirmed: the receives,
/// the largest first, then one send. Empty if there is nothing to do.
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
    let mut steps = Vec::with_capacity(facts.receivable.len().saturating_add(1));
    let mut put = |action, amount, before, after, link| {
        let signature = Signature([0; 64]);
        let block =
            StateBlock { account, previous, representative, balance: after, link, signature, work: None };
        previous = block.hash();
        steps.push(Step { action, amount, before, block });
    };
    let mut receivable: Vec<ReceivableSend> =
        facts.receivable.iter().copied().filter(|it| !it.amount.is_zero()).collect();
    receivable.sort_by_key(|it| (Reverse(it.amount), it.hash));
    let mut opened = facts.head.is_some();
    for ReceivableSend { hash, amount } in receivable {
        let after = balance.checked_add(amount).ok_or(MoreThanExists(account))?;
        put(if opened { Action::Receive } else { Action::Open }, amount, balance, after, hash.0);
        (balance, opened) = (after, true);
    }
    put(Action::Send, balance, balance, Raw::ZERO, rules.treasury.0);
    Ok(steps)
}
