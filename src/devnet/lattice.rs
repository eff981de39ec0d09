//! The ledger's rules: account chains of state blocks, which block may follow which, and what is
//! confirmed.
//!
//! It is in memory and synchronous, and it reads no clock: `now` is an argument. The rules for state
//! blocks are the reference node's. There are no epochs: every account counts as upgraded.

mod cement;
#[cfg(feature = "devnet-faults")]
mod invariants;
#[cfg(feature = "devnet-faults")]
mod rollback;

use std::collections::BTreeMap;
use std::time::Duration;

use super::signature::node_accepts;
use crate::nano::{
    Account, BlockHash, Raw, Representative, SecretKey, Seed, Signature, StateBlock, Threshold, Thresholds,
    UnixSeconds, Work,
};

#[cfg(feature = "devnet-faults")]
pub use rollback::ForkError;

/// The most blocks that are kept until a missing block arrives. One more is dropped.
pub const MAX_UNCHECKED: usize = 65_536;

/// The seed whose account 0 holds the whole supply at the start. It is public: this ledger is for
/// development.
pub const GENESIS_SEED: [u8; 32] = *b"faregate development ledger seed";

/// A point in time: the wall clock's, and the time since the ledger started, which never jumps and is
/// finer than a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    pub wall: UnixSeconds,
    pub elapsed: Duration,
}

vocabulary! {
    /// What a block does to its account's balance. An account's first block is a receive.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum BlockKind {
        Send = "send",
        Receive = "receive",
        Change = "change",
    }
    /// The `subtype` in a node's answers.
    pub fn subtype;
}

/// A block on the ledger, and what the ledger knows about it.
#[derive(Clone, Copy, Debug)]
pub struct LedgerEntry {
    pub block: StateBlock,
    pub kind: BlockKind,
    /// How much the balance changed.
    pub amount: Raw,
    /// 1 for an account's first block.
    pub height: u64,
    pub arrived: UnixSeconds,
    pub successor: Option<BlockHash>,
    pub confirmed: bool,
}

/// An account's chain.
#[derive(Clone, Copy, Debug)]
pub struct AccountChain {
    pub open: BlockHash,
    pub frontier: BlockHash,
    pub height: u64,
    pub balance: Raw,
    pub representative: Representative,
    pub modified: UnixSeconds,
    /// The number of confirmed blocks.
    pub confirmed_height: u64,
    /// The last confirmed block; zero if none is.
    pub confirmed_frontier: BlockHash,
}

/// A send that has not been received.
#[derive(Clone, Copy, Debug)]
pub struct UnreceivedSend {
    pub source: Account,
    pub amount: Raw,
}

/// Why a block is refused. The texts are the reference node's.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BlockRefusal {
    #[error("Old block")]
    Old,
    #[error("Bad signature")]
    BadSignature,
    #[error("Block attempts to open the burn account")]
    OpensBurnAccount,
    #[error("Fork")]
    Fork,
    #[error("Gap previous block")]
    GapPrevious,
    #[error("Gap source block")]
    GapSource,
    #[error("Unreceivable")]
    Unreceivable,
    #[error("Balance and amount delta do not match")]
    BalanceMismatch,
    #[error("Block work is insufficient")]
    InsufficientWork,
}

/// What a block would do according to the rules; nothing is done yet.
struct Effect {
    kind: BlockKind,
    amount: Raw,
}

/// The ledger.
#[derive(Clone, Debug)]
pub struct Lattice {
    thresholds: Thresholds,
    confirm_after: Duration,
    genesis: BlockHash,
    blocks: BTreeMap<BlockHash, LedgerEntry>,
    chains: BTreeMap<Account, AccountChain>,
    receivable: BTreeMap<(Account, BlockHash), UnreceivedSend>,
    /// From a send to the block that received it.
    received: BTreeMap<BlockHash, BlockHash>,
    /// From a missing block to the blocks that wait for it.
    unchecked: BTreeMap<BlockHash, Vec<StateBlock>>,
    agenda: cement::Agenda,
    /// In the order of confirmation.
    confirmed: Vec<BlockHash>,
}

impl Lattice {
    /// A ledger with one confirmed block, which gives the genesis account the whole supply.
    #[must_use]
    pub fn new(thresholds: Thresholds, confirm_after: Duration, now: Now) -> Self {
        let key = genesis_key();
        let account = key.account();
        let block = StateBlock {
            account,
            previous: BlockHash::ZERO,
            representative: Representative(account),
            balance: Raw::MAX,
            link: account.0,
            signature: Signature([0; 64]),
            work: Some(Work(0)),
        }
        .signed(&key);
        let genesis = block.hash();
        let mut lattice = Self {
            thresholds,
            confirm_after,
            genesis,
            blocks: BTreeMap::new(),
            chains: BTreeMap::new(),
            receivable: BTreeMap::new(),
            received: BTreeMap::new(),
            unchecked: BTreeMap::new(),
            agenda: cement::Agenda::default(),
            confirmed: Vec::new(),
        };
        lattice.append(block, genesis, &Effect { kind: BlockKind::Receive, amount: Raw::MAX }, now);
        lattice.confirm_now(genesis);
        lattice
    }

    #[must_use]
    pub const fn thresholds(&self) -> Thresholds {
        self.thresholds
    }

    #[must_use]
    pub const fn genesis(&self) -> BlockHash {
        self.genesis
    }

    /// The block and what the ledger knows about it.
    #[must_use]
    pub fn entry(&self, hash: BlockHash) -> Option<&LedgerEntry> {
        self.blocks.get(&hash)
    }

    #[must_use]
    pub fn chain(&self, account: Account) -> Option<&AccountChain> {
        self.chains.get(&account)
    }

    /// The account's last block, confirmed or not.
    #[must_use]
    pub fn frontier(&self, account: Account) -> Option<BlockHash> {
        self.chain(account).map(|chain| chain.frontier)
    }

    /// The account's balance, confirmed or not; zero if it has no block.
    #[must_use]
    pub fn balance(&self, account: Account) -> Raw {
        self.chain(account).map_or(Raw::ZERO, |chain| chain.balance)
    }

    /// The balance after the account's last confirmed block; zero if it has none.
    #[must_use]
    pub fn confirmed_balance(&self, account: Account) -> Raw {
        self.chain(account)
            .and_then(|chain| self.entry(chain.confirmed_frontier))
            .map_or(Raw::ZERO, |entry| entry.block.balance)
    }

    #[must_use]
    pub fn is_confirmed(&self, hash: BlockHash) -> bool {
        self.entry(hash).is_some_and(|entry| entry.confirmed)
    }

    /// The number of blocks on the ledger, without those that wait for a missing block.
    #[must_use]
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    #[must_use]
    pub const fn confirmed_count(&self) -> usize {
        self.confirmed.len()
    }

    /// Every confirmed block, in the order of confirmation.
    #[must_use]
    pub fn confirmed(&self) -> &[BlockHash] {
        &self.confirmed
    }

    #[must_use]
    pub fn account_count(&self) -> usize {
        self.chains.len()
    }

    /// The number of blocks that wait for a missing block.
    #[must_use]
    pub fn unchecked_count(&self) -> usize {
        self.unchecked.values().map(Vec::len).sum()
    }

    /// The sends to the account that it has not received, by hash.
    pub fn receivables(&self, account: Account) -> impl Iterator<Item = (BlockHash, UnreceivedSend)> {
        let (first, last) = ((account, BlockHash::ZERO), (account, BlockHash([0xff; 32])));
        self.receivable.range(first..=last).map(|(&(_, hash), &receivable)| (hash, receivable))
    }

    /// The sum that the account can receive: from all sends, or from confirmed sends only.
    #[must_use]
    pub fn receivable_sum(&self, account: Account, only_confirmed: bool) -> Raw {
        self.receivables(account)
            .filter(|&(hash, _)| !only_confirmed || self.is_confirmed(hash))
            .fold(Raw::ZERO, |sum, (_, receivable)| sum.checked_add(receivable.amount).unwrap_or(Raw::MAX))
    }

    /// The block that received this send.
    #[must_use]
    pub fn received_by(&self, send: BlockHash) -> Option<BlockHash> {
        self.received.get(&send).copied()
    }

    /// The sum of the balances of all accounts that have this representative.
    #[must_use]
    pub fn weight(&self, account: Account) -> Raw {
        self.chains
            .values()
            .filter(|chain| chain.representative.0 == account)
            .fold(Raw::ZERO, |sum, chain| sum.checked_add(chain.balance).unwrap_or(Raw::MAX))
    }

    /// Puts a block on the ledger, and then the blocks that waited for it. A block that comes before its
    /// predecessor or its source is refused, and kept for later
    /// ([nodes guide](crate::guide::nodes)).
    ///
    /// # Errors
    /// [`BlockRefusal`], in the order of the reference node's checks.
    pub fn process(&mut self, block: StateBlock, now: Now) -> Result<BlockHash, BlockRefusal> {
        let outcome = self.apply(block, now);
        match outcome {
            Ok(hash) => self.apply_waiting(hash, now),
            Err(refusal) => self.keep(block, refusal),
        }
        outcome
    }

    /// Keeps a refused block that may become valid later.
    fn keep(&mut self, block: StateBlock, refusal: BlockRefusal) {
        let missing = match refusal {
            BlockRefusal::GapPrevious => block.previous,
            BlockRefusal::GapSource => BlockHash(block.link),
            BlockRefusal::Old
            | BlockRefusal::BadSignature
            | BlockRefusal::OpensBurnAccount
            | BlockRefusal::Fork
            | BlockRefusal::Unreceivable
            | BlockRefusal::BalanceMismatch
            | BlockRefusal::InsufficientWork => return,
        };
        if self.unchecked_count() >= MAX_UNCHECKED {
            return;
        }
        let waiting = self.unchecked.entry(missing).or_default();
        if waiting.iter().all(|kept| kept.hash() != block.hash()) {
            waiting.push(block);
        }
    }

    fn apply_waiting(&mut self, arrived: BlockHash, now: Now) {
        let mut arrived = vec![arrived];
        while let Some(hash) = arrived.pop() {
            for block in self.unchecked.remove(&hash).unwrap_or_default() {
                match self.apply(block, now) {
                    Ok(applied) => arrived.push(applied),
                    Err(refusal) => self.keep(block, refusal),
                }
            }
        }
    }

    fn apply(&mut self, block: StateBlock, now: Now) -> Result<BlockHash, BlockRefusal> {
        let hash = block.hash();
        let step = self.judge(&block, hash)?;
        self.append(block, hash, &step, now);
        Ok(hash)
    }

    /// The effect of the block.
    fn judge(&self, block: &StateBlock, hash: BlockHash) -> Result<Effect, BlockRefusal> {
        if self.blocks.contains_key(&hash) {
            return Err(BlockRefusal::Old);
        }
        if !node_accepts(block) {
            return Err(BlockRefusal::BadSignature);
        }
        if block.account == Account::BURN {
            return Err(BlockRefusal::OpensBurnAccount);
        }
        let before = match self.chain(block.account) {
            Some(_) if block.previous == BlockHash::ZERO => return Err(BlockRefusal::Fork),
            Some(_) if !self.blocks.contains_key(&block.previous) => return Err(BlockRefusal::GapPrevious),
            Some(chain) if chain.frontier != block.previous => return Err(BlockRefusal::Fork),
            Some(chain) => chain.balance,
            None if block.previous != BlockHash::ZERO => return Err(BlockRefusal::GapPrevious),
            None if block.link == [0; 32] => return Err(BlockRefusal::GapSource),
            None => Raw::ZERO,
        };
        let step = match before.checked_sub(block.balance) {
            Some(amount) if !amount.is_zero() => Effect { kind: BlockKind::Send, amount },
            _ => self.judge_receive_or_change(block, before)?,
        };
        let threshold = self.threshold(step.kind);
        if block.work.is_some_and(|work| work.reaches(&block.work_root(), threshold)) {
            Ok(step)
        } else {
            Err(BlockRefusal::InsufficientWork)
        }
    }

    /// The effect of a block whose balance did not go down.
    fn judge_receive_or_change(&self, block: &StateBlock, before: Raw) -> Result<Effect, BlockRefusal> {
        let amount = block.balance.checked_sub(before).ok_or(BlockRefusal::BalanceMismatch)?;
        if block.link == [0; 32] {
            return if amount.is_zero() {
                Ok(Effect { kind: BlockKind::Change, amount })
            } else {
                Err(BlockRefusal::BalanceMismatch)
            };
        }
        let source = BlockHash(block.link);
        if !self.blocks.contains_key(&source) {
            return Err(BlockRefusal::GapSource);
        }
        match self.receivable.get(&(block.account, source)) {
            None => Err(BlockRefusal::Unreceivable),
            Some(receivable) if receivable.amount != amount => Err(BlockRefusal::BalanceMismatch),
            Some(_) => Ok(Effect { kind: BlockKind::Receive, amount }),
        }
    }

    /// The work threshold for this kind of block.
    #[must_use]
    pub const fn threshold(&self, kind: BlockKind) -> Threshold {
        match kind {
            BlockKind::Send | BlockKind::Change => self.thresholds.send,
            BlockKind::Receive => self.thresholds.receive,
        }
    }

    fn append(&mut self, block: StateBlock, hash: BlockHash, step: &Effect, now: Now) {
        match step.kind {
            BlockKind::Send => {
                let receivable = UnreceivedSend { source: block.account, amount: step.amount };
                self.receivable.insert((block.destination(), hash), receivable);
            }
            BlockKind::Receive => {
                self.receivable.remove(&(block.account, BlockHash(block.link)));
                self.received.insert(BlockHash(block.link), hash);
            }
            BlockKind::Change => {}
        }
        if let Some(previous) = self.blocks.get_mut(&block.previous) {
            previous.successor = Some(hash);
        }
        let chain = self.chains.entry(block.account).or_insert(AccountChain {
            open: hash,
            frontier: hash,
            height: 0,
            balance: Raw::ZERO,
            representative: block.representative,
            modified: now.wall,
            confirmed_height: 0,
            confirmed_frontier: BlockHash::ZERO,
        });
        chain.frontier = hash;
        chain.height = chain.height.saturating_add(1);
        chain.balance = block.balance;
        chain.representative = block.representative;
        chain.modified = now.wall;
        let entry = LedgerEntry {
            block,
            kind: step.kind,
            amount: step.amount,
            height: chain.height,
            arrived: now.wall,
            successor: None,
            confirmed: false,
        };
        self.blocks.insert(hash, entry);
        self.agenda.schedule(hash, now.elapsed.saturating_add(self.confirm_after));
        self.advance(now);
    }
}

/// The key of the account that holds the whole supply at the start.
#[must_use]
pub fn genesis_key() -> SecretKey {
    Seed::from_bytes(GENESIS_SEED).key(0)
}
