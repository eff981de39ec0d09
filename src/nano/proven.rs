//! Blocks that may be signed: what they move is proven by hashes, not by a node's word.
//!
//! A block's hash covers the balance *after* it, so what a block moves follows from the block before
//! it. A node that understates that balance would turn a small payment into a large one. So a block
//! is made from a [`ProvenHead`] only, whose balance and representative come from a block that was
//! hashed here; and every block is checked once more before it becomes an [`UnsignedBlock`], the only
//! thing that a vault signs.

use std::ops::Deref;

use super::{Account, BlockHash, Raw, Representative, Signature, StateBlock};

/// Why a block must not be signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotProven {
    #[error("asked for block {asked}, the contents that came hash to {came}")]
    OtherBlock { asked: BlockHash, came: BlockHash },
    #[error("block {hash} is of {found}, not of {asked}")]
    OtherAccount { hash: BlockHash, asked: Account, found: Account },
    #[error("block {0} does not follow the block that was shown before it")]
    OtherPredecessor(BlockHash),
    #[error("block {0} is not a send")]
    NoSend(BlockHash),
    #[error("block {send} is a send to {found}, not to {asked}")]
    OtherDestination { send: BlockHash, asked: Account, found: Account },
    #[error("{0} is said to have more than can exist")]
    MoreThanExists(Account),
    #[error("the balance of {account} is {balance} raw, which cannot change by {amount} raw")]
    Amount { account: Account, balance: Raw, amount: Raw },
}

/// An account before its next block, proven by the hash of its newest block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ProvenHead {
    account: Account,
    hash: BlockHash,
    balance: Raw,
    representative: Representative,
}

/// A send to be received, whose amount is proven by its own hash and its predecessor's, or by the ledger
/// when it is received ([`ProvenSend::listed`]).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ProvenSend {
    hash: BlockHash,
    destination: Account,
    amount: Raw,
}

/// A block without signature and work that moves exactly what it is meant to move. It reads as a
/// [`StateBlock`].
///
/// Nothing else makes one:
///
/// ```compile_fail
/// # use faregate::nano::{StateBlock, UnsignedBlock};
/// fn forged(block: StateBlock) -> UnsignedBlock {
///     UnsignedBlock(block)
/// }
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnsignedBlock(StateBlock);

/// What a block does to its account's balance.
#[derive(Clone, Copy)]
enum Movement {
    Out(Raw),
    In(Raw),
    None,
}

impl ProvenHead {
    /// The head of `account`, whose newest block is `frontier` and, according to a node, `block`.
    ///
    /// # Errors
    /// [`NotProven`], if the block has another hash or is of another account.
    pub fn of_block(account: Account, frontier: BlockHash, block: &StateBlock) -> Result<Self, NotProven> {
        prove_hash(frontier, block)?;
        if block.account != account {
            let found = block.account;
            return Err(NotProven::OtherAccount { hash: frontier, asked: account, found });
        }
        let StateBlock { balance, representative, .. } = *block;
        Ok(Self { account, hash: frontier, balance, representative })
    }

    /// The head of an account without a block. It is its own representative until it names another.
    #[must_use]
    pub const fn unopened(account: Account) -> Self {
        Self { account, hash: BlockHash::ZERO, balance: Raw::ZERO, representative: Representative(account) }
    }

    /// The head after `block` is confirmed.
    #[must_use]
    pub fn after(block: &UnsignedBlock) -> Self {
        let StateBlock { account, balance, representative, .. } = block.0;
        Self { account, hash: block.0.hash(), balance, representative }
    }

    #[must_use]
    pub const fn account(&self) -> Account {
        self.account
    }

    /// The newest block; zero if there is none.
    #[must_use]
    pub const fn hash(&self) -> BlockHash {
        self.hash
    }

    /// In raw.
    #[must_use]
    pub const fn balance(&self) -> Raw {
        self.balance
    }

    #[must_use]
    pub const fn representative(&self) -> Representative {
        self.representative
    }

    /// Whether the account has a block.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.hash != BlockHash::ZERO
    }

    /// A send of `amount` raw to `to`.
    ///
    /// # Errors
    /// [`NotProven::Amount`], if the balance is less or the amount is zero.
    pub fn send(&self, to: Account, amount: Raw) -> Result<UnsignedBlock, NotProven> {
        let balance = self.balance.checked_sub(amount).ok_or_else(|| self.cannot_change_by(amount))?;
        self.check(Movement::Out(amount), self.block(balance, to.0))
    }

    /// A receive of `send`. It opens an account without a block.
    ///
    /// # Errors
    /// [`NotProven`], if the send is to another account, or the sum is more than can exist.
    pub fn receive(&self, send: &ProvenSend) -> Result<UnsignedBlock, NotProven> {
        let ProvenSend { hash, destination, amount } = *send;
        if destination != self.account {
            let asked = self.account;
            return Err(NotProven::OtherDestination { send: hash, asked, found: destination });
        }
        let balance = self.balance.checked_add(amount).ok_or_else(|| self.cannot_change_by(amount))?;
        self.check(Movement::In(amount), self.block(balance, hash.0))
    }

    /// A block that names `representative` and moves nothing.
    ///
    /// # Errors
    /// [`NotProven`], if the account has no block.
    pub fn change(&self, representative: Representative) -> Result<UnsignedBlock, NotProven> {
        if !self.is_open() {
            return Err(self.cannot_change_by(Raw::ZERO));
        }
        let head = Self { representative, ..*self };
        self.check(Movement::None, head.block(self.balance, [0; 32]))
    }

    /// This head, whose next block names `representative`.
    #[must_use]
    pub const fn with_representative(self, representative: Representative) -> Self {
        Self { representative, ..self }
    }

    const fn block(&self, balance: Raw, link: [u8; 32]) -> StateBlock {
        let Self { account, hash, representative, .. } = *self;
        StateBlock {
            account,
            previous: hash,
            representative,
            balance,
            link,
            signature: Signature([0; 64]),
            work: None,
        }
    }

    /// The one way to an [`UnsignedBlock`]: `block` follows this head and moves exactly as meant.
    fn check(&self, meant: Movement, block: StateBlock) -> Result<UnsignedBlock, NotProven> {
        let (fits, amount) = match meant {
            Movement::Out(amount) => {
                (!amount.is_zero() && self.balance.checked_sub(block.balance) == Some(amount), amount)
            }
            Movement::In(amount) => {
                (!amount.is_zero() && block.balance.checked_sub(self.balance) == Some(amount), amount)
            }
            Movement::None => (block.balance == self.balance && block.link == [0; 32], Raw::ZERO),
        };
        let follows = block.account == self.account && block.previous == self.hash;
        if fits && follows { Ok(UnsignedBlock(block)) } else { Err(self.cannot_change_by(amount)) }
    }

    const fn cannot_change_by(&self, amount: Raw) -> NotProven {
        NotProven::Amount { account: self.account, balance: self.balance, amount }
    }
}

impl ProvenSend {
    /// The send `hash` to `destination` of `amount` raw, as a node lists it. Only for a send that is, or
    /// follows, a block from before state blocks, whose hash does not cover what would prove the amount.
    ///
    /// A receive of it raises the balance of a proven head by `amount`, so it moves nothing out. If the
    /// amount is wrong, no node accepts the receive.
    #[must_use]
    pub const fn listed(hash: BlockHash, destination: Account, amount: Raw) -> Self {
        Self { hash, destination, amount }
    }

    /// The send `hash`, which according to a node is `block` and follows `before`; `None` if it is its
    /// account's first block, which cannot be a send.
    ///
    /// # Errors
    /// [`NotProven`], if one of the two has another hash, or the block is not a send.
    pub fn of_blocks(
        hash: BlockHash,
        block: &StateBlock,
        before: Option<&StateBlock>,
    ) -> Result<Self, NotProven> {
        prove_hash(hash, block)?;
        let before = before.ok_or(NotProven::NoSend(hash))?;
        prove_hash(block.previous, before)?;
        if before.account != block.account {
            return Err(NotProven::OtherPredecessor(hash));
        }
        match before.balance.checked_sub(block.balance) {
            Some(amount) if !amount.is_zero() => Ok(Self { hash, destination: block.destination(), amount }),
            Some(_) | None => Err(NotProven::NoSend(hash)),
        }
    }

    #[must_use]
    pub const fn hash(&self) -> BlockHash {
        self.hash
    }

    #[must_use]
    pub const fn destination(&self) -> Account {
        self.destination
    }

    /// In raw; never zero.
    #[must_use]
    pub const fn amount(&self) -> Raw {
        self.amount
    }
}

impl Deref for UnsignedBlock {
    type Target = StateBlock;

    fn deref(&self) -> &StateBlock {
        &self.0
    }
}

fn prove_hash(asked: BlockHash, block: &StateBlock) -> Result<(), NotProven> {
    let came = block.hash();
    if came == asked { Ok(()) } else { Err(NotProven::OtherBlock { asked, came }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Account = Account([1; 32]);
    const OTHER: Account = Account([2; 32]);

    fn block(account: Account, previous: BlockHash, balance: u128, link: [u8; 32]) -> StateBlock {
        StateBlock {
            account,
            previous,
            representative: Representative(Account([9; 32])),
            balance: Raw::new(balance),
            link,
            signature: Signature([0; 64]),
            work: None,
        }
    }

    fn head(balance: u128) -> ProvenHead {
        let newest = block(OWN, BlockHash([7; 32]), balance, [3; 32]);
        ProvenHead::of_block(OWN, newest.hash(), &newest).unwrap()
    }

    fn send(to: Account, before: u128, after: u128) -> Result<ProvenSend, NotProven> {
        let first = block(OTHER, BlockHash::ZERO, before, [5; 32]);
        let send = block(OTHER, first.hash(), after, to.0);
        ProvenSend::of_blocks(send.hash(), &send, Some(&first))
    }

    #[test]
    fn a_head_is_what_its_block_says_and_no_other_block_will_do() {
        let newest = block(OWN, BlockHash([7; 32]), 100, [3; 32]);
        let proven = ProvenHead::of_block(OWN, newest.hash(), &newest).unwrap();
        assert_eq!((proven.balance(), proven.representative().0), (Raw::new(100), Account([9; 32])));
        let understated = StateBlock { balance: Raw::new(1), ..newest };
        let swapped = StateBlock { representative: Representative(OTHER), ..newest };
        for lie in [understated, swapped] {
            let refused = ProvenHead::of_block(OWN, newest.hash(), &lie);
            assert!(matches!(refused, Err(NotProven::OtherBlock { .. })), "{refused:?}");
        }
        let foreign = ProvenHead::of_block(OTHER, newest.hash(), &newest);
        assert!(matches!(foreign, Err(NotProven::OtherAccount { .. })), "{foreign:?}");
    }

    #[test]
    fn a_block_moves_exactly_what_is_asked() {
        let sent = head(100).send(OTHER, Raw::new(30)).unwrap();
        assert_eq!(
            (sent.balance, sent.destination(), sent.previous),
            (Raw::new(70), OTHER, head(100).hash())
        );
        assert_eq!(ProvenHead::after(&sent).balance(), Raw::new(70));
        assert!(head(100).send(OTHER, Raw::new(101)).is_err());
        assert!(head(100).send(OTHER, Raw::ZERO).is_err());

        let incoming = send(OWN, 50, 8).unwrap();
        let received = head(100).receive(&incoming).unwrap();
        assert_eq!((received.balance, received.link), (Raw::new(142), incoming.hash().0));
        assert!(head(u128::MAX).receive(&incoming).is_err());
        assert!(head(100).receive(&send(OTHER, 50, 8).unwrap()).is_err(), "sent to another account");

        let changed = head(100).change(Representative(OTHER)).unwrap();
        assert_eq!(
            (changed.balance, changed.link, changed.representative.0),
            (Raw::new(100), [0; 32], OTHER)
        );
        assert!(ProvenHead::unopened(OWN).change(Representative(OTHER)).is_err());
    }

    #[test]
    fn the_check_refuses_a_block_that_moves_anything_else() {
        let head = head(100);
        let follows = |balance| block(OWN, head.hash(), balance, OTHER.0);
        for balance in [69, 71, 100, 130] {
            assert!(head.check(Movement::Out(Raw::new(30)), follows(balance)).is_err(), "{balance}");
        }
        for balance in [70, 129, 131] {
            assert!(head.check(Movement::In(Raw::new(30)), follows(balance)).is_err(), "{balance}");
        }
        assert!(head.check(Movement::None, follows(100)).is_err(), "a change has no link");
        let elsewhere = block(OWN, BlockHash([8; 32]), 70, OTHER.0);
        assert!(head.check(Movement::Out(Raw::new(30)), elsewhere).is_err());
        let foreign = block(OTHER, head.hash(), 70, OTHER.0);
        assert!(head.check(Movement::Out(Raw::new(30)), foreign).is_err());
    }

    #[test]
    fn the_amount_of_a_send_comes_from_two_hashes() {
        assert_eq!(send(OWN, 50, 8).unwrap().amount(), Raw::new(42));
        for (before, after) in [(8, 50), (50, 50)] {
            assert!(matches!(send(OWN, before, after), Err(NotProven::NoSend(_))));
        }
        let first = block(OTHER, BlockHash::ZERO, 50, [5; 32]);
        let sent = block(OTHER, first.hash(), 8, OWN.0);
        let richer = StateBlock { balance: Raw::new(500), ..first };
        let larger = StateBlock { balance: Raw::new(1), ..sent };
        assert!(ProvenSend::of_blocks(sent.hash(), &sent, Some(&richer)).is_err());
        assert!(ProvenSend::of_blocks(sent.hash(), &larger, Some(&first)).is_err());
        assert!(ProvenSend::of_blocks(sent.hash(), &sent, None).is_err());
        let stolen = block(OWN, first.hash(), 8, OWN.0);
        assert!(ProvenSend::of_blocks(stolen.hash(), &stolen, Some(&first)).is_err());
    }
}
