//! One node of a development ledger: where it is reached, and what goes wrong with it. Several can
//! stand over one ledger, each cut off, behind or lying on its own.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::faults::{ANY, Fault, Faults, Times};
use super::serve::Node;
use super::socket::{self, SocketDialect, Sockets};
use super::world::World;
use super::{DevnetError, LOOPBACK};
use crate::listen;

/// How a node of a development ledger is to be.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Where the RPC listens; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where the WebSocket listens, if there is to be one; port 0 picks a free one.
    pub websocket: Option<SocketAddr>,
    /// Whose habits the WebSocket has.
    pub dialect: SocketDialect,
}

impl Default for NodeOptions {
    /// Free ports of loopback for both, the reference node's habits.
    fn default() -> Self {
        Self { listen: LOOPBACK, websocket: Some(LOOPBACK), dialect: SocketDialect::Reference }
    }
}

/// A running node of a development ledger. Ends when it is dropped.
pub struct DevnetNode {
    world: Arc<World>,
    node: Arc<Node>,
    address: SocketAddr,
    sockets: Option<(SocketAddr, Arc<Sockets>)>,
    stop: watch::Sender<bool>,
    served: Vec<JoinHandle<()>>,
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), DevnetError> {
    let listen_error = |error| DevnetError::Listen { address, error };
    let listener = TcpListener::bind(address).await.map_err(listen_error)?;
    let bound = listener.local_addr().map_err(listen_error)?;
    Ok((listener, bound))
}

impl DevnetNode {
    pub(super) async fn start(world: Arc<World>, options: NodeOptions) -> Result<Self, DevnetError> {
        let (listener, address) = bind(options.listen).await?;
        let (stop, shutdown) = watch::channel(false);
        let node = Arc::new(Node::new(Arc::clone(&world)));
        let mut served = vec![tokio::spawn(listen::serve(listener, Arc::clone(&node), shutdown.clone()))];
        let mut sockets = None;
        if let Some(wanted) = options.websocket {
            let (listener, address) = bind(wanted).await?;
            let all = Arc::new(Sockets::new(Arc::clone(&world), options.dialect));
            served.push(tokio::spawn(socket::serve(listener, Arc::clone(&all), shutdown)));
            sockets = Some((address, all));
        }
        Ok(Self { world, node, address, sockets, stop, served })
    }

    /// Stops listening, closes the connections and returns when both is done.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        for served in self.served {
            if let Err(error) = served.await {
                tracing::error!(%error, "a development node ended badly");
            }
        }
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the RPC is: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn rpc_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where the WebSocket is, if there is one: `ws://127.0.0.1:PORT`.
    #[must_use]
    pub fn websocket_url(&self) -> Option<String> {
        self.sockets.as_ref().map(|(address, _)| format!("ws://{address}"))
    }

    /// Orders in force, and the calls that were counted.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        self.node.faults()
    }

    /// Orders that `fault` befalls requests for `action` ([`ANY`]: for every one).
    pub fn order(&self, action: &str, fault: Fault, times: Times) {
        let (ledger, _) = self.world.ledger();
        self.node.faults().order(action, fault, times, &ledger);
    }

    /// From here on the node shows the ledger as it is in this instant, while the others go on,
    /// until [`Faults::clear`]. What it tells of its peers (`telemetry`) goes on with them.
    pub fn fall_behind(&self) {
        self.order(ANY, Fault::Stale, Times::Always);
    }

    /// Nothing is answered any more: connections are closed, open ones too, until
    /// [`DevnetNode::restore`].
    pub fn cut_off(&self) {
        self.order(ANY, Fault::Drop, Times::Always);
        self.refuse_sockets(true);
        self.drop_sockets();
    }

    /// Ends what [`DevnetNode::cut_off`] began, and every other order for this node.
    pub fn restore(&self) {
        self.faults().clear();
        self.refuse_sockets(false);
    }

    /// Closes every WebSocket without a word.
    pub fn drop_sockets(&self) {
        if let Some((_, sockets)) = &self.sockets {
            sockets.drop_all();
        }
    }

    /// Closes new WebSocket connections at once, or takes them again.
    pub fn refuse_sockets(&self, refuse: bool) {
        if let Some((_, sockets)) = &self.sockets {
            sockets.refuse(refuse);
        }
    }

    /// Loses each confirmation message, as a node may do, or sends them again.
    pub fn mute_sockets(&self, mute: bool) {
        if let Some((_, sockets)) = &self.sockets {
            sockets.mute(mute);
        }
    }

    /// Waits until as many connections as that are subscribed to confirmations.
    pub async fn subscribed(&self, count: usize) {
        if let Some((_, sockets)) = &self.sockets {
            sockets.subscribed(count).await;
        }
    }
}
