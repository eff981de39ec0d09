//! A Nano ledger for development: real rules, a node's RPC, money that is worth nothing.
//!
//! A [`Devnet`] is served on loopback by the process it runs in. Its keys and its genesis are its
//! own, so that nothing signed for it is valid on the main network. With the feature `devnet-faults`
//! tests order faults from it; that is why the gateway needs no test hooks.

mod answer;
#[cfg(feature = "devnet-faults")]
pub mod faults;
pub mod lattice;
mod node;
#[cfg(feature = "devnet-faults")]
mod order;
mod rpc;
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

#[cfg(feature = "devnet-faults")]
pub use faults::{InjectedFault, InjectedFaults, Lie, Times};
#[cfg(feature = "devnet-faults")]
pub use lattice::ForkError;
pub use lattice::{BlockRefusal, Lattice, Now};
pub use node::{DevnetNode, NodeOptions};
pub use socket::SocketDialect;
pub use world::LedgerGuard;

use crate::clock::Clock;
use crate::nano::{
    Account, BlockHash, Raw, Representative, SecretKey, Seed, Signature, StateBlock, Threshold, Thresholds,
};
use world::World;

/// The default work thresholds: 64 tries for a send and 16 for a receive, a few microseconds. There
/// are two levels, as on the main network.
pub const THRESHOLDS: Thresholds =
    Thresholds { send: Threshold(0xfc00_0000_0000_0000), receive: Threshold(0xf000_0000_0000_0000) };

/// How often a block is made again after another block took its place in the account's chain.
const ATTEMPTS: usize = 16;

/// Any free port of loopback.
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// The settings of a development ledger.
#[derive(Clone, Debug)]
pub struct DevnetOptions {
    /// The address of the first node's RPC; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The address of its WebSocket, if there is one; port 0 picks a free one.
    pub websocket: Option<SocketAddr>,
    /// Which implementation the WebSocket imitates.
    pub dialect: SocketDialect,
    /// How long after its arrival a block is confirmed, in real time, not in the time of `clock`.
    pub confirm_after: Duration,
    pub thresholds: Thresholds,
    /// The source of the ledger's timestamps.
    pub clock: Clock,
}

impl Default for DevnetOptions {
    /// A free port of loopback, immediate confirmation, work that costs almost nothing.
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

/// Why a development ledger cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DevnetError {
    #[error(
        "the development ledger cannot listen on {address}: {error}; is another one running? Port 0 picks a free port"
    )]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error("{account} has {balance} raw, which is less than the {amount} raw to send")]
    Poor { account: Account, balance: Raw, amount: Raw },
    #[error("a send of 0 raw is not possible")]
    Nothing,
    #[error("the ledger refused the block: {0}")]
    Refused(#[from] BlockRefusal),
    #[error("another program used {account} at the same time, {ATTEMPTS} times in a row")]
    Contended { account: Account },
}

/// A running development ledger with one or more nodes. It stops when it is dropped.
pub struct Devnet {
    world: Arc<World>,
    node: DevnetNode,
    stop: watch::Sender<bool>,
    /// The task that publishes confirmations.
    published: JoinHandle<()>,
}

impl Devnet {
    /// Starts a ledger and serves it on the current runtime.
    ///
    /// # Errors
    /// [`DevnetError::Listen`] if the address is taken or not local.
    pub async fn start(options: DevnetOptions) -> Result<Self, DevnetError> {
        let world = Arc::new(World::new(options.thresholds, options.confirm_after, options.clock));
        let node =
            NodeOptions { listen: options.listen, websocket: options.websocket, dialect: options.dialect };
        let node = DevnetNode::start(Arc::clone(&world), node).await?;
        let (stop, shutdown) = watch::channel(false);
        let published = tokio::spawn(Arc::clone(&world).publish(shutdown));
        Ok(Self { world, node, stop, published })
    }

    /// Starts another node over the same ledger. It stops when it is dropped.
    ///
    /// # Errors
    /// [`DevnetError::Listen`] if the address is taken or not local.
    pub async fn add_node(&self, options: NodeOptions) -> Result<DevnetNode, DevnetError> {
        DevnetNode::start(Arc::clone(&self.world), options).await
    }

    /// Stops listening, closes the connections, and returns when both are done.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.node.stop().await;
        if let Err(error) = self.published.await {
            tracing::error!(%error, "the development ledger failed");
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

    /// The URL of the first node's RPC: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn rpc_url(&self) -> String {
        self.node.rpc_url()
    }

    /// The URL of the first node's WebSocket, if it has one: `ws://127.0.0.1:PORT`.
    #[must_use]
    pub fn websocket_url(&self) -> Option<String> {
        self.node.websocket_url()
    }

    /// The seed whose account 0 holds the whole supply at the start.
    #[must_use]
    pub const fn genesis_seed(&self) -> Seed {
        Seed::from_bytes(lattice::GENESIS_SEED)
    }

    #[must_use]
    pub fn genesis_account(&self) -> Account {
        lattice::genesis_key().account()
    }

    /// The ledger at this moment, with everything confirmed that is due. No request is answered while
    /// the guard exists: keep it for one expression.
    pub fn lattice(&self) -> LedgerGuard<'_> {
        self.world.ledger().0
    }

    /// Confirms the block and everything it depends on. Returns whether the ledger has the block.
    #[must_use = "false: there is no such block"]
    pub fn confirm_now(&self, hash: BlockHash) -> bool {
        self.lattice().confirm_now(hash)
    }

    /// Publishes a block without the RPC and its subtypes.
    ///
    /// # Errors
    /// [`BlockRefusal`].
    pub fn process(&self, block: StateBlock) -> Result<BlockHash, BlockRefusal> {
        let (mut ledger, now) = self.world.ledger();
        ledger.process(block, now)
    }

    /// Sends `amount` from the genesis account to `account`. When this returns, the send is confirmed
    /// and not yet received.
    ///
    /// # Errors
    /// [`DevnetError`] if the genesis account has less, or the amount is zero.
    pub fn fund(&self, account: Account, amount: Raw) -> Result<BlockHash, DevnetError> {
        let key = lattice::genesis_key();
        let hash = self.put(&key, || self.send_block(&key, account, amount).map(Some))?;
        hash.ok_or(DevnetError::Nothing)
    }

    /// Receives all confirmed sends to the key's account. Each receive is confirmed when this returns.
    /// The first one opens the account.
    ///
    /// # Errors
    /// [`DevnetError`] if another program uses the account at the same time.
    pub fn receive_all(&self, key: &SecretKey) -> Result<Vec<BlockHash>, DevnetError> {
        let mut received = Vec::new();
        while let Some(hash) = self.put(key, || Ok(self.receive_block(key)))? {
            received.push(hash);
        }
        Ok(received)
    }

    /// A send of `amount` on the account's frontier, with signature and work, not published. The work
    /// is computed here: quickly at the ledger's own thresholds, slowly at the main network's.
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
        Ok(self.finish(block, key, lattice::BlockKind::Send))
    }

    /// A block that receives one confirmed send to the key's account; `None` if there is none.
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
        Some(self.finish(block, key, lattice::BlockKind::Receive))
    }

    /// The block with work and signature.
    fn finish(&self, mut block: StateBlock, key: &SecretKey, kind: lattice::BlockKind) -> StateBlock {
        let threshold = self.lattice().threshold(kind);
        block.work = rpc::generate(&block.work_root(), threshold, &AtomicBool::new(false));
        block.signed(key)
    }

    /// Makes a block, publishes it and confirms it. Makes it again if another block took its place in
    /// the meantime.
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
                Err(BlockRefusal::Fork | BlockRefusal::Unreceivable) => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Err(DevnetError::Contended { account: key.account() })
    }
}
