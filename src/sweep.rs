//! Plans the blocks that would empty a pool account. Planning changes nothing.
//!
//! A plan depends only on the account's state on the ledger, and the same state always gives the same
//! blocks. After a part of a plan was carried out, a plan from the new state is the rest of the first
//! plan. A sweep that was killed is therefore simply planned again.

use std::cmp::Reverse;

use crate::nano::{Account, NotProven, ProvenHead, ProvenSend, Raw, Representative, UnsignedBlock};

/// A pool account before its next blocks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolAccount {
    /// Its newest block must be confirmed: a block on any other is a fork.
    pub head: ProvenHead,
    /// The confirmed sends that it has not received, in any order.
    pub receivable: Vec<ProvenSend>,
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

vocabulary! {
    /// What a block of a plan does.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum Action {
        /// Receives with the account's first block.
        Open = "open",
        Receive = "receive",
        /// Sends all there is to the treasury.
        Send = "send",
    }
    /// The name shown to people.
    pub fn as_str;
}

/// One block of a plan.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Step {
    pub action: Action,
    /// The amount that the block moves.
    pub amount: Raw,
    /// The balance before the block.
    pub before: Raw,
    pub block: UnsignedBlock,
}

impl PoolAccount {
    /// What the account has, received or not, in raw.
    ///
    /// # Errors
    /// [`NotProven::MoreThanExists`].
    pub fn total(&self) -> Result<Raw, NotProven> {
        self.receivable
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
    let (mut steps, head) = receives(head, &account.receivable, None)?;
    let amount = head.balance();
    let block = head.send(rules.treasury, amount)?;
    steps.push(Step { action: Action::Send, amount, before: amount, block });
    Ok(steps)
}

/// The receives after which the account has at least `amount`, and its head after them, the fewest that there can be.
/// `None` if it has less, received or not.
///
/// # Errors
/// As [`plan`].
pub fn gather(account: &PoolAccount, amount: Raw) -> Result<Option<(Vec<Step>, ProvenHead)>, NotProven> {
    if account.total()? < amount {
        return Ok(None);
    }
    receives(account.head, &account.receivable, Some(amount)).map(Some)
}

/// The receives, the largest first, until there is `enough`, or all.
fn receives(
    mut head: ProvenHead,
    receivable: &[ProvenSend],
    enough: Option<Raw>,
) -> Result<(Vec<Step>, ProvenHead), NotProven> {
    let mut receivable = receivable.to_vec();
    receivable.sort_by_key(|it| (Reverse(it.amount()), it.hash()));
    let mut steps = Vec::with_capacity(receivable.len().saturating_add(1));
    for send in receivable {
        if enough.is_some_and(|it| head.balance() >= it) {
            break;
        }
        let action = if head.is_open() { Action::Receive } else { Action::Open };
        let block = head.receive(&send)?;
        steps.push(Step { action, amount: send.amount(), before: head.balance(), block });
        head = ProvenHead::after(&block);
    }
    Ok((steps, head))
}
