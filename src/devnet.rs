//! A Nano ledger for development: real rules, a node's RPC, money that is worth nothing.
//!
//! A [`Devnet`] is served on loopback by the process it runs in. Its keys and its genesis are its
//! own, so that nothing signed for it means anything on the main network. Tests order faults from
//! it ([`Faults`]); that is why the gateway needs no test hooks.

pub mod faults;
pub mod lattice;
mod rpc;
mod node;
mod serve;
mod signature;
mod socket;
mod world;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use faults::{Fault, Faults, Lie, Times};
pub use lattice::{ForkError, Lattice, Now, Refusal};
pub use node::{DevnetNode, NodeOptions};
pub use socket::SocketDialect;
pub use world::LedgerGuard;

use crate::clock::Clock;
use crate::nano::{
    Account, BlockHash, Raw, Representative, SecretKey, Seed, Signature, StateBlock, Threshold, Thresholds,
};
use world::World;

/// What a development ledger asks of work by itself: 64 tries for a send, 16 for a receive, a few
/// microseconds. Two levels, as on the main network.
pub const THRESHOLDS: Thresholds =
    Thresholds { send: Threshold(0xfc00_0000_0000_0000), receive: Threshold(0xf000_0000_0000_0000) };

/// How often a block is made anew when another was put on its account's chain meanwhile.
const ATTEMPTS: usize = 16;

/// A free port of loopback.
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// How a development ledger is to be.
#[derive(Clone, Debug)]
pub struct DevnetOptions {
    /// Where the RPC listens; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where the WebSocket listens, if there is to be one; port 0 picks a free one.
    pub websocket: Option<SocketAddr>,
    /// Whose habits the WebSocket has.
    pub dialect: SocketDialect,
    /// How long after its arrival a block is confirmed. Measured in real time, whatever `clock`
    /// shows.
    pub confirm_after: Duration,
    pub thresholds: Thresholds,
    /// What the ledger's timestamps are read from.
    pub clock: Clock,
}

impl Default for DevnetOptions {
    /// A free port of loopback, confirmation at once, work that costs nothing.
    fn default() -> Self {
        Self {
            listen: LOOPBACK,
            websocket: None,
            dialect: SocketDialect::Reference,
            confirm_after: Duration::ZERO,
            thresholds: THRESHOLDS,
            clock: Clock::system(),
        }
    }
}

/// Why a development ledger cannot do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum DevnetError {
    #[error(
        "the development ledger cannot listen on {address}: {error}; is another one running? Port 0 picks a free port"
    )]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error("{account} has {balance} raw, {amount} raw are to be sent")]
    Poor { account: Account, balance: Raw, amount: Raw },
    #[error("nothing can be sent: an amount of 0 raw makes no block")]
    Nothing,
    #[error("the ledger refused the block: {0}")]
    Refused(#[from] Refusal),
    #[error("{account} was used from elsewhere at the same time, {ATTEMPTS} times in a row")]
    Contended { account: Account },
}

/// A running development ledger with one node, or several. Ends when it is dropped.
pub struct Devnet {
    world: Arc<World>,
    node: DevnetNode,
    stop: watch::Sender<bool>,
    /// Tells of confirmations.
    published: JoinHandle<()>,
}

impl Devnet {
    /// Starts a ledger and serves it on the runtime this is called in.
    ///
    /// # Errors
    /// [`DevnetError::Listen`] where the address is taken or not ours.
    pub async fn start(options: DevnetOptions) -> Result<Self, DevnetError> {
        let world = Arc::new(World::new(options.thresholds, options.confirm_after, options.clock));
        let node =
            NodeOptions { listen: options.listen, websocket: options.websocket, dialect: options.dialect };
        let node = DevnetNode::start(Arc::clone(&world), node).await?;
        let (stop, shutdown) = watch::channel(false);
        let published = tokio::spawn(Arc::clone(&world).publish(shutdown));
        Ok(Self { world, node, stop, published })
    }

    /// Starts another node over the same ledger, with faults of its own. Ends when it is dropped.
    ///
    /// # Errors
    /// [`DevnetError::Listen`] where the address is taken or not ours.
    pub async fn add_node(&self, options: NodeOptions) -> Result<DevnetNode, DevnetError> {
        DevnetNode::start(Arc::clone(&self.world), options).await
    }

    /// Stops listening, closes the connections and returns when both is done.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.node.stop().await;
        if let Err(error) = self.published.await {
            tracing::error!(%error, "the development ledger ended badly");
        }
    }

    /// The first node.
    #[must_use]
    pub const fn node(&self) -> &DevnetNode {
        &self.node
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.node.address()
    }

    /// Where the first node's RPC is: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn rpc_url(&self) -> String {
        self.node.rpc_url()
    }

    /// Where the first node's WebSocket is, if it has one: `ws://127.0.0.1:PORT`.
    #[must_use]
    pub fn websocket_url(&self) -> Option<String> {
        self.node.websocket_url()
    }

    /// The seed whose account 0 holds the whole supply at first.
    #[must_use]
    pub const fn genesis_seed(&self) -> Seed {
        Seed::from_bytes(lattice::GENESIS_SEED)
    }

    #[must_use]
    pub fn genesis_account(&self) -> Account {
        lattice::genesis_key().account()
    }

    /// The ledger as it is in this instant, with everything confirmed that is due. No request is
    /// answered while the guard lives: keep it for one expression.
    pub fn lattice(&self) -> LedgerGuard<'_> {
        self.world.ledger().0
    }

    /// The first node's orders in force, and the calls that were counted.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        self.node.faults()
    }

    /// Orders that `fault` befalls requests of the first node for `action` ([`faults::ANY`]: for
    /// every one).
    pub fn order(&self, action: &str, fault: Fault, times: Times) {
        self.node.order(action, fault, times);
    }

    /// Confirms the block and what it stands on. Answers whether the ledger has it.
    #[must_use = "false: there is no such block"]
    pub fn confirm_now(&self, hash: BlockHash) -> bool {
        self.lattice().confirm_now(hash)
    }

    /// Lets `block` win against the unconfirmed block that has its account and predecessor.
    ///
    /// # Errors
    /// [`ForkError`].
    pub fn fork(&self, block: StateBlock) -> Result<BlockHash, ForkError> {
        let (mut ledger, now) = self.world.ledger();
        ledger.replace(block, now)
    }

    /// Hands a block in without the RPC and its subtypes.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn process(&self, block: StateBlock) -> Result<BlockHash, Refusal> {
        let (mut ledger, now) = self.world.ledger();
        ledger.process(block, now)
    }

    /// Sends `amount` from the genesis account to `account`; the send is confirmed when this
    /// returns, and not received yet.
    ///
    /// # Errors
    /// [`DevnetError`] where the genesis account has less than that or the amount is zero.
    pub fn fund(&self, account: Account, amount: Raw) -> Result<BlockHash, DevnetError> {
        let key = lattice::genesis_key();
        let hash = self.put(&key, || self.send_block(&key, account, amount).map(Some))?;
        hash.ok_or(DevnetError::Nothing)
    }

    /// Receives all confirmed sends to the key's account, each in a block that is confirmed when
    /// this returns. Opens the account if need be.
    ///
    /// # Errors
    /// [`DevnetError`] where the account is used from elsewhere at the same time.
    pub fn receive_all(&self, key: &SecretKey) -> Result<Vec<BlockHash>, DevnetError> {
        let mut received = Vec::new();
        while let Some(hash) = self.put(key, || Ok(self.receive_block(key)))? {
            received.push(hash);
        }
        Ok(received)
    }

    /// A send of `amount` on top of the account's frontier, signed and with work, not handed in.
    /// Computes the work here: a moment at the ledger's own thresholds, long at the main
    /// network's.
    ///
    /// # Errors
    /// [`DevnetError::Poor`] and [`DevnetError::Nothing`].
    pub fn send_block(&self, key: &SecretKey, to: Account, amount: Raw) -> Result<StateBlock, DevnetError> {
        if amount.is_zero() {
            return Err(DevnetError::Nothing);
        }
        let account = key.account();
        let chain = self.lattice().chain(account).copied();
        let balance = chain.map_or(Raw::ZERO, |chain| chain.balance);
        let poor = DevnetError::Poor { account, balance, amount };
        let (Some(chain), Some(rest)) = (chain, balance.checked_sub(amount)) else { return Err(poor) };
        let block = StateBlock {
            account,
            previous: chain.frontier,
            representative: chain.representative,
            balance: rest,
            link: to.0,
            signature: Signature([0; 64]),
            work: None,
        };
        Ok(self.finish(block, key, lattice::Kind::Send))
    }

    /// A block that receives one of the confirmed sends to the key's account, if there is one.
    fn receive_block(&self, key: &SecretKey) -> Option<StateBlock> {
        let account = key.account();
        let block = {
            let ledger = self.lattice();
            let (source, receivable) =
                ledger.receivables(account).find(|&(hash, _)| ledger.is_confirmed(hash))?;
            let chain = ledger.chain(account);
            StateBlock {
                account,
                previous: chain.map_or(BlockHash::ZERO, |chain| chain.frontier),
                representative: chain.map_or(Representative(account), |chain| chain.representative),
                balance: ledger.balance(account).checked_add(receivable.amount)?,
                link: source.0,
                signature: Signature([0; 64]),
                work: None,
            }
        };
        Some(self.finish(block, key, lattice::Kind::Receive))
    }

    /// The block with its work and signature.
    fn finish(&self, mut block: StateBlock, key: &SecretKey, kind: lattice::Kind) -> StateBlock {
        let threshold = self.lattice().threshold(kind);
        block.work = rpc::generate(&block.work_root(), threshold, &AtomicBool::new(false));
        block.signed(key)
    }

    /// Makes a block, hands it in and confirms it; makes it anew where another block took its
    /// place in the meantime.
    fn put(
        &self,
        key: &SecretKey,
        make: impl Fn() -> Result<Option<StateBlock>, DevnetError>,
    ) -> Result<Option<BlockHash>, DevnetError> {
        for _ in 0..ATTEMPTS {
            let Some(block) = make()? else { return Ok(None) };
            match self.process(block) {
                Ok(hash) => {
                    let _on_the_ledger = self.confirm_now(hash);
                    return Ok(Some(hash));
                }
                Err(Refusal::Fork | Refusal::Unreceivable) => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Err(DevnetError::Contended { account: key.account() })
    }
}
