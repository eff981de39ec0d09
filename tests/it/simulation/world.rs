//! The world of one simulation: chance, the Nano network, and what every instance shares.

#![expect(clippy::disallowed_methods, reason = "the simulation's own clock")]

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use faregate::ledger::{Ledger, LedgerError, PublishError, Sighting};
use faregate::nano::{
    Account, BlockHash, Raw, Representative, SecretKey, Seed, Signature, StateBlock, UnixSeconds, Work,
};
use faregate::payment::{AccountFacts, BlockFacts};
use faregate::store::StoreError;
use tokio::time::Instant;

use crate::store::model::Model;

/// Seconds at which every simulation begins.
const EPOCH: u64 = 1_800_000_000;
pub(super) const FUNDS: Raw = Raw::new(1_000_000_000_000_000_000_000_000);

/// What is taken away from the gateway, to show that the simulation would notice.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Ablation {
    #[default]
    Nothing,
    /// The journal forgets: blocks are broadcast without a durable intent.
    ForgetIntents,
    /// A retry need not show the challenge that the payment was made under.
    UnboundRetry,
    /// A spent hash is not remembered.
    ForgetSpent,
    /// What a crashed instance had leased never comes back.
    LeaseForEver,
    /// A payment does not hold the id that it was made under.
    ForgetIds,
    /// Answers that broke off are not counted in the store.
    ForgetBreaks,
    /// An unconfirmed block counts as confirmed.
    TrustBroadcast,
    /// A rival of a payment's block counts as confirmed while it is not.
    TrustRivals,
    /// Strangers know the challenges of payers.
    LeakedChallenges,
    /// Nodes show whatever frontier a block claims for an account that they do not know.
    GullibleNodes,
    /// All clients have one address.
    OneClient,
    /// A client may take all settlements, and have anything looked up.
    NoShares,
    /// A client may take all connections.
    OpenDoor,
}

pub(super) struct World {
    state: Mutex<State>,
    /// The durable store all instances share.
    pub(super) store: Model,
    pub(super) ablation: Ablation,
    /// How long the answers of some calls of the store are on their way.
    slow: Mutex<BTreeMap<&'static str, Duration>>,
    began: Instant,
}

struct State {
    dice: u64,
    /// Whether anything goes wrong at all; off while the simulation settles.
    faults: bool,
    blocks: BTreeMap<BlockHash, Known>,
    chains: BTreeMap<Account, Chain>,
    /// Blocks that the nodes hold for now in place of a payment's, by the block that both build on.
    rivals: BTreeMap<BlockHash, Rival>,
    store_down_until: Instant,
    nodes_down_until: Instant,
    /// The challenge each block was presented under last, for [`Ablation::UnboundRetry`].
    presented: BTreeMap<BlockHash, faregate::payment::Nonce>,
    trace: Vec<String>,
    violations: Vec<String>,
}

#[derive(Clone, Copy)]
struct Known {
    block: StateBlock,
    before: Raw,
    confirmed: bool,
    confirms_at: Instant,
}

/// A block that loses an election in the end, to the payment's block that `wins` or to none.
#[derive(Clone, Copy)]
struct Rival {
    block: StateBlock,
    before: Raw,
    until: Instant,
    wins: Option<StateBlock>,
}

#[derive(Clone, Copy)]
struct Chain {
    frontier: BlockHash,
    confirmed_frontier: BlockHash,
    confirmed_balance: Raw,
}

impl World {
    pub(super) fn new(seed: u64, ablation: Ablation) -> Self {
        let state = State {
            dice: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            faults: true,
            blocks: BTreeMap::new(),
            chains: BTreeMap::new(),
            rivals: BTreeMap::new(),
            store_down_until: Instant::now(),
            nodes_down_until: Instant::now(),
            presented: BTreeMap::new(),
            trace: Vec::new(),
            violations: Vec::new(),
        };
        Self {
            state: Mutex::new(state),
            store: Model::default(),
            ablation,
            slow: Mutex::default(),
            began: Instant::now(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn now(&self) -> UnixSeconds {
        UnixSeconds(EPOCH + self.began.elapsed().as_secs())
    }

    /// A number below `bound`.
    pub(super) fn below(&self, bound: u64) -> u64 {
        let mut state = self.state();
        state.dice ^= state.dice << 13;
        state.dice ^= state.dice >> 7;
        state.dice ^= state.dice << 17;
        state.dice % bound
    }

    /// True in `percent` of a hundred cases.
    pub(super) fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// As [`World::chance`], and only while things go wrong.
    pub(super) fn fault(&self, percent: u64) -> bool {
        self.chance(percent) && self.state().faults
    }

    pub(super) fn calm(&self) {
        let mut state = self.state();
        state.faults = false;
        state.store_down_until = Instant::now();
        state.nodes_down_until = Instant::now();
    }

    pub(super) fn note(&self, line: impl FnOnce() -> String) {
        let at = self.began.elapsed();
        self.state().trace.push(format!("{at:>12.3?} {}", line()));
    }

    /// Holds a rule; where it is broken the simulation has failed, whichever task saw it.
    pub(super) fn hold(&self, holds: bool, rule: impl FnOnce() -> String) {
        if !holds {
            let broken = format!("VIOLATION {}", rule());
            self.note(|| broken.clone());
            self.state().violations.push(broken);
        }
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    pub(super) fn trace(&self) -> String {
        self.state().trace.join("\n")
    }

    pub(super) fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.below(256) as u8;
        }
    }

    pub(super) fn store_goes_down(&self, for_: Duration) {
        self.state().store_down_until = Instant::now() + for_;
    }

    pub(super) fn store_is_down(&self) -> bool {
        Instant::now() < self.state().store_down_until
    }

    pub(super) fn nodes_go_down(&self, for_: Duration) {
        self.state().nodes_down_until = Instant::now() + for_;
    }

    /// Keeps the answers to `call` of the store back for so long, after their effect.
    pub(super) fn slow_down(&self, call: &'static str, by: Duration) {
        self.slow.lock().unwrap().insert(call, by);
    }

    /// Waits as long as an answer to `call` takes.
    pub(super) async fn linger(&self, call: &'static str) {
        let by = self.slow.lock().unwrap().get(call).copied();
        if let Some(by) = by {
            tokio::time::sleep(by).await;
        }
    }

    fn nodes_are_down(&self) -> bool {
        Instant::now() < self.state().nodes_down_until
    }

    pub(super) fn present(&self, block: BlockHash, nonce: faregate::payment::Nonce) {
        self.state().presented.insert(block, nonce);
    }

    pub(super) fn last_presented(&self, block: BlockHash) -> Option<faregate::payment::Nonce> {
        self.state().presented.get(&block).copied()
    }

    // The network itself, as it truly is.

    /// An account with [`FUNDS`], whose chain begins with a made-up block.
    pub(super) fn open(&self, index: u32) -> SecretKey {
        let key = Seed::from_bytes([7; 32]).key(index);
        let first = BlockHash([index as u8 + 1; 32]);
        let chain = Chain { frontier: first, confirmed_frontier: first, confirmed_balance: FUNDS };
        self.state().chains.insert(key.account(), chain);
        key
    }

    /// A send on the account's confirmed frontier.
    pub(super) fn send(&self, key: &SecretKey, to: Account, amount: Raw) -> StateBlock {
        self.settle_due();
        let chain = self.state().chains[&key.account()];
        let block = StateBlock {
            account: key.account(),
            previous: chain.confirmed_frontier,
            representative: Representative(key.account()),
            balance: chain.confirmed_balance.checked_sub(amount).expect("funds"),
            link: to.0,
            signature: Signature([0; 64]),
            work: Some(Work(0)),
        };
        block.signed(key)
    }

    /// Whether the network has the block, and whether it is cemented.
    pub(super) fn truth(&self, hash: BlockHash) -> Option<bool> {
        self.settle_due();
        self.state().blocks.get(&hash).map(|it| it.confirmed)
    }

    /// Whether some block stands unconfirmed on the account's confirmed frontier.
    pub(super) fn is_unsettled(&self, account: Account) -> bool {
        self.settle_due();
        let state = self.state();
        state.chains.get(&account).is_some_and(|it| {
            it.frontier != it.confirmed_frontier || state.rivals.contains_key(&it.confirmed_frontier)
        })
    }

    pub(super) fn balance(&self, account: Account) -> Raw {
        self.settle_due();
        self.state().chains[&account].confirmed_balance
    }

    /// Hands a block to the network, as `process` does; what it would say.
    pub(super) fn process(&self, block: &StateBlock) -> Result<(), &'static str> {
        self.settle_due();
        let (delay, wins) = (Duration::from_millis(100 + self.below(6_000)), self.chance(40));
        let mut state = self.state();
        let hash = block.hash();
        if state.blocks.contains_key(&hash) {
            return Err("Old block");
        }
        let Some(chain) = state.chains.get(&block.account).copied() else { return Err("Gap previous block") };
        if block.previous != chain.confirmed_frontier || state.rivals.contains_key(&block.previous) {
            return Err("Fork");
        }
        if chain.frontier != chain.confirmed_frontier {
            // A rival is up for election: one of the two wins, the other is rolled back.
            if !wins {
                return Err("Fork");
            }
            state.blocks.remove(&chain.frontier);
        }
        let known = Known {
            block: *block,
            before: chain.confirmed_balance,
            confirmed: false,
            confirms_at: Instant::now() + delay,
        };
        state.blocks.insert(hash, known);
        state.chains.get_mut(&block.account).unwrap().frontier = hash;
        Ok(())
    }

    /// As [`World::process`], by nodes that hold a rival of the block, not confirmed, since a moment ago.
    /// They refuse the block as a fork; in most cases it wins the election nevertheless.
    fn process_amid_rival(&self, block: &StateBlock) -> Result<(), &'static str> {
        self.settle_due();
        let until = Instant::now() + Duration::from_millis(500 + self.below(8_000));
        let wins = self.chance(70).then_some(*block);
        {
            let mut state = self.state();
            let chain = state.chains.get(&block.account).copied();
            let fits = chain.is_some_and(|it| {
                it.frontier == it.confirmed_frontier && it.confirmed_frontier == block.previous
            });
            if fits && !state.rivals.contains_key(&block.previous) {
                let before = chain.map_or(Raw::ZERO, |it| it.confirmed_balance);
                let representative = Representative(Account([0x11; 32]));
                let rival = StateBlock { balance: before, link: [0; 32], representative, ..*block };
                state.rivals.insert(block.previous, Rival { block: rival, before, until, wins });
            }
        }
        self.process(block)
    }

    /// The network may lose a block that it took and has not confirmed.
    fn drop_block(&self, block: &StateBlock) {
        let mut state = self.state();
        let hash = block.hash();
        if state.blocks.get(&hash).is_some_and(|it| !it.confirmed) {
            state.blocks.remove(&hash);
            let chain = state.chains.get_mut(&block.account).unwrap();
            chain.frontier = chain.confirmed_frontier;
        }
    }

    /// Cements what is due.
    fn settle_due(&self) {
        let mut guard = self.state();
        let state = &mut *guard;
        let now = Instant::now();
        let over = state.rivals.extract_if(.., |_, rival| rival.until <= now).collect::<Vec<_>>();
        for (previous, rival) in over {
            let Some(block) = rival.wins else { continue };
            let chain = state.chains.get_mut(&block.account).unwrap();
            if chain.frontier == previous && chain.confirmed_frontier == previous {
                chain.frontier = block.hash();
                let known = Known { block, before: rival.before, confirmed: false, confirms_at: rival.until };
                state.blocks.insert(block.hash(), known);
            }
        }
        for (hash, known) in &mut state.blocks {
            if !known.confirmed && known.confirms_at <= now {
                known.confirmed = true;
                let chain = state.chains.get_mut(&known.block.account).unwrap();
                chain.confirmed_frontier = *hash;
                chain.confirmed_balance = known.block.balance;
            }
        }
    }

    fn known(&self, hash: BlockHash) -> Option<Known> {
        self.settle_due();
        let state = self.state();
        let rival = state.rivals.values().find(|it| it.block.hash() == hash);
        state.blocks.get(&hash).copied().or(rival.map(|it| Known {
            block: it.block,
            before: it.before,
            confirmed: self.ablation == Ablation::TrustRivals,
            confirms_at: it.until,
        }))
    }

    /// Every block that can be seen on the network.
    pub(super) fn public(&self) -> Vec<StateBlock> {
        self.settle_due();
        self.state().blocks.values().map(|it| it.block).collect()
    }
}

/// One instance's life: what it waits for never comes once it is killed.
#[derive(Default)]
pub(super) struct Life(std::sync::atomic::AtomicBool);

impl Life {
    pub(super) fn end(&self) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }

    pub(super) async fn alive(&self) {
        if self.is_over() {
            std::future::pending::<()>().await;
        }
    }
}

/// The network through the nodes of one instance: slow, lossy, now and then behind.
pub(super) struct Nodes {
    pub(super) world: std::sync::Arc<World>,
    pub(super) life: std::sync::Arc<Life>,
}

impl Nodes {
    /// A call on its way there and back; some never arrive, some answers are lost.
    async fn trip<T>(&self, effect: impl FnOnce(&World) -> T) -> Result<T, LedgerError> {
        self.life.alive().await;
        tokio::time::sleep(Duration::from_millis(1 + self.world.below(40))).await;
        self.life.alive().await;
        if self.world.fault(5) || self.world.nodes_are_down() {
            tokio::time::sleep(Duration::from_millis(500)).await;
            return Err(LedgerError::TimedOut);
        }
        let answer = effect(&self.world);
        tokio::time::sleep(Duration::from_millis(1 + self.world.below(40))).await;
        self.life.alive().await;
        if self.world.fault(5) { Err(LedgerError::TimedOut) } else { Ok(answer) }
    }

    fn facts(&self, known: &Known) -> BlockFacts {
        let confirmed = known.confirmed || self.world.ablation == Ablation::TrustBroadcast;
        BlockFacts::of_state_block(known.block.hash(), &known.block, known.before, confirmed).unwrap()
    }
}

impl Ledger for Nodes {
    async fn account(&self, account: Account) -> Result<Option<AccountFacts>, LedgerError> {
        self.trip(|world| {
            world.settle_due();
            let state = world.state();
            state.chains.get(&account).map(|it| AccountFacts {
                frontier: state.rivals.get(&it.confirmed_frontier).map_or(it.frontier, |it| it.block.hash()),
                confirmed_frontier: it.confirmed_frontier,
                confirmed_balance: it.confirmed_balance,
            })
        })
        .await
    }

    async fn account_at(
        &self,
        account: Account,
        previous: BlockHash,
    ) -> Result<Option<AccountFacts>, LedgerError> {
        let known = self.account(account).await?;
        let gullible = (self.world.ablation == Ablation::GullibleNodes).then_some(AccountFacts {
            frontier: previous,
            confirmed_frontier: previous,
            confirmed_balance: FUNDS,
        });
        Ok(known.or(gullible))
    }

    async fn block(&self, hash: BlockHash) -> Result<Option<BlockFacts>, LedgerError> {
        let known = self.trip(|world| world.known(hash)).await?;
        // A node that is behind.
        if self.world.fault(6) {
            return Ok(None);
        }
        Ok(known.map(|it| self.facts(&it)))
    }

    async fn successor(&self, hash: BlockHash) -> Result<Option<BlockHash>, LedgerError> {
        self.trip(|world| {
            world.settle_due();
            let state = world.state();
            let next = state.blocks.iter().find(|(_, it)| it.block.previous == hash).map(|(next, _)| *next);
            next.or(state.rivals.get(&hash).map(|it| it.block.hash()))
        })
        .await
    }

    async fn publish_send(&self, block: &StateBlock) -> Result<(), PublishError> {
        let amid_rival = self.world.fault(10);
        let process = if amid_rival { World::process_amid_rival } else { World::process };
        let answer = self.trip(|world| process(world, block)).await?;
        if answer.is_ok() && self.world.fault(4) {
            self.world.drop_block(block);
        }
        answer.map_err(|text| PublishError::Refused(text.to_owned()))
    }

    async fn await_confirmation(&self, hash: BlockHash, wait: Duration) -> Result<Sighting, LedgerError> {
        let until = Instant::now() + wait;
        loop {
            let seen = self.block(hash).await;
            if let Ok(Some(facts)) = &seen
                && facts.confirmed()
            {
                return Ok(Sighting::Confirmed(*facts));
            }
            if Instant::now() >= until {
                return seen.map(|it| it.map_or(Sighting::Unknown, Sighting::Unconfirmed));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn is_healthy(&self) -> bool {
        !self.world.nodes_are_down()
    }
}

/// What a store call that goes wrong says.
pub(super) fn store_fault(world: &World, applied: bool) -> StoreError {
    if applied || world.chance(50) {
        StoreError::Unknown("the connection broke".to_owned())
    } else {
        StoreError::Unavailable("the store is away".to_owned())
    }
}
