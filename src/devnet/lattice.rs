//! The ledger's rules: account chains of state blocks, what may follow what, what is confirmed.
//!
//! In memory, synchronous, and without a clock of its own: `now` comes in as an argument. The rules
//! are the reference node's for state blocks; epochs are left out (every account is as if it had
//! been upgraded).

mod cement;
mod invariants;
mod rollback;

use std::collections::BTreeMap;
use std::time::Duration;

use super::signature::node_accepts;
use crate::nano::{
    Account, BlockHash, Raw, Representative, SecretKey, Seed, Signature, StateBlock, Threshold, Thresholds,
    UnixSeconds, Work,
};

pub use rollback::ForkError;

/// Blocks that wait for one that is not here yet. One more is not kept.
pub const MAX_UNCHECKED: usize = 65_536;

/// The seed of the account that holds the whole supply at first, and its index 0. Known to
/// everyone: this ledger is for development.
pub const GENESIS_SEED: [u8; 32] = *b"faregate development ledger seed";

/// An instant, as the wall clock shows it and as time since the ledger started (which never jumps
/// and is finer than a second).
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    pub wall: UnixSeconds,
    pub elapsed: Duration,
}

/// What a block does to its account's balance. An opening block is a receive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Send,
    Receive,
    Change,
}

impl Kind {
    /// The `subtype` that a node prints for it.
    #[must_use]
    pub const fn subtype(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Change => "change",
        }
    }
}

/// A block on the ledger, with what the ledger knows about it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub block: StateBlock,
    pub kind: Kind,
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
pub struct Chain {
    pub open: BlockHash,
    pub frontier: BlockHash,
    pub height: u64,
    pub balance: Raw,
    pub representative: Representative,
    pub modified: UnixSeconds,
    /// How many of its blocks are confirmed.
    pub confirmed_height: u64,
    /// The last confirmed block; zero while none is.
    pub confirmed_frontier: BlockHash,
}

/// An amount that was sent and not received yet.
#[derive(Clone, Copy, Debug)]
pub struct Receivable {
    pub source: Account,
    pub amount: Raw,
}

/// Why a block is not taken. The texts are the reference node's.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
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

/// What a block would do, found by the rules and not done yet.
struct Step {
    kind: Kind,
    amount: Raw,
}

/// The ledger.
#[derive(Clone, Debug)]
pub struct Lattice {
    thresholds: Thresholds,
    confirm_after: Duration,
    genesis: BlockHash,
    blocks: BTreeMap<BlockHash, Entry>,
    chains: BTreeMap<Account, Chain>,
    receivable: BTreeMap<(Account, BlockHash), Receivable>,
    /// The send → the block that received it.
    received: BTreeMap<BlockHash, BlockHash>,
    /// The missing block → those that wait for it.
    unchecked: BTreeMap<BlockHash, Vec<StateBlock>>,
    agenda: cement::Agenda,
    /// In the order in which they were confirmed.
    confirmed: Vec<BlockHash>,
}

impl Lattice {
    /// A ledger with one confirmed block: the genesis account's, which holds the whole supply.
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
        lattice.append(block, genesis, &Step { kind: Kind::Receive, amount: Raw::MAX }, now);
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

    /// The block and what is known about it.
    #[must_use]
    pub fn entry(&self, hash: BlockHash) -> Option<&Entry> {
        self.blocks.get(&hash)
    }

    #[must_use]
    pub fn chain(&self, account: Account) -> Option<&Chain> {
        self.chains.get(&account)
    }

    /// The account's last block, confirmed or not.
    #[must_use]
    pub fn frontier(&self, account: Account) -> Option<BlockHash> {
        self.chain(account).map(|chain| chain.frontier)
    }

    /// The account's balance, confirmed or not; zero where it has no block.
    #[must_use]
    pub fn balance(&self, account: Account) -> Raw {
        self.chain(account).map_or(Raw::ZERO, |chain| chain.balance)
    }

    /// The balance after the account's last confirmed block; zero where none is.
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

    /// All blocks on the ledger; those that wait for others are not.
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

    /// How many blocks wait for one that is missing.
    #[must_use]
    pub fn unchecked_count(&self) -> usize {
        self.unchecked.values().map(Vec::len).sum()
    }

    /// What was sent to the account and not received, by the send's hash.
    pub fn receivables(&self, account: Account) -> impl Iterator<Item = (BlockHash, Receivable)> {
        let (first, last) = ((account, BlockHash::ZERO), (account, BlockHash([0xff; 32])));
        self.receivable.range(first..=last).map(|(&(_, hash), &receivable)| (hash, receivable))
    }

    /// The sum of what the account can receive, of all sends or of the confirmed ones only.
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

    /// The balances of all accounts that name this one their representative.
    #[must_use]
    pub fn weight(&self, account: Account) -> Raw {
        self.chains
            .values()
            .filter(|chain| chain.representative.0 == account)
            .fold(Raw::ZERO, |sum, chain| sum.checked_add(chain.balance).unwrap_or(Raw::MAX))
    }

    /// Puts a block on the ledger, and after it those that waited for it. One that comes before
    /// its predecessor or its source is refused and kept (NODE trap 2).
    ///
    /// # Errors
    /// [`Refusal`], in the order of the reference node's checks.
    pub fn process(&mut self, block: StateBlock, now: Now) -> Result<BlockHash, Refusal> {
        let outcome = self.apply(block, now);
        match outcome {
            Ok(hash) => self.apply_waiting(hash, now),
            Err(refusal) => self.keep(block, refusal),
        }
        outcome
    }

    /// Keeps a refused block that may follow later.
    fn keep(&mut self, block: StateBlock, refusal: Refusal) {
        let missing = match refusal {
            Refusal::GapPrevious => block.previous,
            Refusal::GapSource => BlockHash(block.link),
            Refusal::Old
            | Refusal::BadSignature
            | Refusal::OpensBurnAccount
            | Refusal::Fork
            | Refusal::Unreceivable
            | Refusal::BalanceMismatch
            | Refusal::InsufficientWork => return,
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

    fn apply(&mut self, block: StateBlock, now: Now) -> Result<BlockHash, Refusal> {
        let hash = block.hash();
        let step = self.judge(&block, hash)?;
        self.append(block, hash, &step, now);
        Ok(hash)
    }

    /// What the block would do.
    fn judge(&self, block: &StateBlock, hash: BlockHash) -> Result<Step, Refusal> {
        if self.blocks.contains_key(&hash) {
            return Err(Refusal::Old);
        }
        if !node_accepts(block) {
            return Err(Refusal::BadSignature);
        }
        if block.account == Account::BURN {
            return Err(Refusal::OpensBurnAccount);
        }
        let before = match self.chain(block.account) {
            Some(_) if block.previous == BlockHash::ZERO => return Err(Refusal::Fork),
            Some(_) if !self.blocks.contains_key(&block.previous) => return Err(Refusal::GapPrevious),
            Some(chain) if chain.frontier != block.previous => return Err(Refusal::Fork),
            Some(chain) => chain.balance,
            None if block.previous != BlockHash::ZERO => return Err(Refusal::GapPrevious),
            None if block.link == [0; 32] => return Err(Refusal::GapSource),
            None => Raw::ZERO,
        };
        let step = match before.checked_sub(block.balance) {
            Some(amount) if !amount.is_zero() => Step { kind: Kind::Send, amount },
            _ => self.judge_receive_or_change(block, before)?,
        };
        let threshold = self.threshold(step.kind);
        if block.work.is_some_and(|work| work.reaches(&block.work_root(), threshold)) {
            Ok(step)
        } else {
            Err(Refusal::InsufficientWork)
        }
    }

    /// For a balance that did not go down.
    fn judge_receive_or_change(&self, block: &StateBlock, before: Raw) -> Result<Step, Refusal> {
        let amount = block.balance.checked_sub(before).ok_or(Refusal::BalanceMismatch)?;
        if block.link == [0; 32] {
            return if amount.is_zero() {
                Ok(Step { kind: Kind::Change, amount })
            } else {
                Err(Refusal::BalanceMismatch)
            };
        }
        let source = BlockHash(block.link);
        if !self.blocks.contains_key(&source) {
            return Err(Refusal::GapSource);
        }
        match self.receivable.get(&(block.account, source)) {
            None => Err(Refusal::Unreceivable),
            Some(receivable) if receivable.amount != amount => Err(Refusal::BalanceMismatch),
            Some(_) => Ok(Step { kind: Kind::Receive, amount }),
        }
    }

    /// What a block of this kind needs for work.
    #[must_use]
    pub const fn threshold(&self, kind: Kind) -> Threshold {
        match kind {
            Kind::Send | Kind::Change => self.thresholds.send,
            Kind::Receive => self.thresholds.receive,
        }
    }

    fn append(&mut self, block: StateBlock, hash: BlockHash, step: &Step, now: Now) {
        match step.kind {
            Kind::Send => {
                let receivable = Receivable { source: block.account, amount: step.amount };
                self.receivable.insert((block.destination(), hash), receivable);
            }
            Kind::Receive => {
                self.receivable.remove(&(block.account, BlockHash(block.link)));
                self.received.insert(BlockHash(block.link), hash);
            }
            Kind::Change => {}
        }
        if let Some(previous) = self.blocks.get_mut(&block.previous) {
            previous.successor = Some(hash);
        }
        let chain = self.chains.entry(block.account).or_insert(Chain {
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
        let entry = Entry {
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

/// The key that signs for the whole supply at first.
#[must_use]
pub fn genesis_key() -> SecretKey {
    Seed::from_bytes(GENESIS_SEED).key(0)
}
