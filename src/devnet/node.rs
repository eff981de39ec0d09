//! One node of a development ledger: its RPC and its WebSocket. Several nodes can share one ledger.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::serve::RpcService;
use super::socket::{self, SocketDialect, Sockets};
use super::world::World;
use super::{DevnetError, LOOPBACK};
use crate::listen;

/// The settings of one node.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The address of the RPC; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The address of the WebSocket, if there is one; port 0 picks a free one.
    pub websocket: Option<SocketAddr>,
    /// Which implementation the WebSocket imitates.
    pub dialect: SocketDialect,
}

impl Default for NodeOptions {
    /// Free ports of loopback for both; imitates the reference node.
    fn default() -> Self {
        Self { listen: LOOPBACK, websocket: Some(LOOPBACK), dialect: SocketDialect::Reference }
    }
}

/// A running node of a development ledger. Ends when it is dropped.
pub struct DevnetNode {
    #[cfg(feature = "devnet-faults")]
    pub(super) world: Arc<World>,
    #[cfg(feature = "devnet-faults")]
    pub(super) rpc: Arc<RpcService>,
    address: SocketAddr,
    pub(super) sockets: Option<(SocketAddr, Arc<Sockets>)>,
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
        let rpc = Arc::new(RpcService::new(Arc::clone(&world)));
        let mut served = vec![tokio::spawn(listen::serve(listener, Arc::clone(&rpc), shutdown.clone()))];
        let mut sockets = None;
        if let Some(wanted) = options.websocket {
            let (listener, address) = bind(wanted).await?;
            let all = Arc::new(Sockets::new(Arc::clone(&world), options.dialect));
            served.push(tokio::spawn(socket::serve(listener, Arc::clone(&all), shutdown)));
            sockets = Some((address, all));
        }
        Ok(Self {
            #[cfg(feature = "devnet-faults")]
            world,
            #[cfg(feature = "devnet-faults")]
            rpc,
            address,
            sockets,
            stop,
            served,
        })
    }

    /// Stops listening, closes the connections, and returns when both are done.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        for served in self.served {
            if let Err(error) = served.await {
                tracing::error!(%error, "a development node failed");
            }
        }
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of the RPC: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn rpc_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The URL of the WebSocket, if there is one: `ws://127.0.0.1:PORT`.
    #[must_use]
    pub fn websocket_url(&self) -> Option<String> {
        self.sockets.as_ref().map(|(address, _)| format!("ws://{address}"))
    }

    /// Waits until this many connections are subscribed to confirmations.
    pub async fn subscribed(&self, count: usize) {
        if let Some((_, sockets)) = &self.sockets {
            sockets.subscribed(count).await;
        }
    }
}
