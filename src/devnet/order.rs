//! How a test orders faults: from a node, or from the first node of a ledger.

use super::Devnet;
use super::faults::{ANY, InjectedFault, InjectedFaults, SocketFaults, Times};
use super::lattice::ForkError;
use super::node::DevnetNode;
use crate::nano::{BlockHash, StateBlock};

impl Devnet {
    /// The first node's orders and its counted calls.
    #[must_use]
    pub fn faults(&self) -> &InjectedFaults {
        self.node.faults()
    }

    /// Orders `fault` for the first node's requests for `action` ([`ANY`]: for every request).
    pub fn order(&self, action: &str, fault: InjectedFault, times: Times) {
        self.node.order(action, fault, times);
    }

    /// Lets `block` win against the unconfirmed block with the same account and predecessor.
    ///
    /// # Errors
    /// [`ForkError`].
    pub fn fork(&self, block: StateBlock) -> Result<BlockHash, ForkError> {
        let (mut ledger, now) = self.world.ledger();
        ledger.replace(block, now)
    }
}

impl DevnetNode {
    /// The orders in force and the counted calls.
    #[must_use]
    pub fn faults(&self) -> &InjectedFaults {
        &self.rpc.faults
    }

    /// Orders `fault` for requests for `action` ([`ANY`]: for every request).
    pub fn order(&self, action: &str, fault: InjectedFault, times: Times) {
        let (ledger, _) = self.world.ledger();
        self.rpc.faults.order(action, fault, times, &ledger);
    }

    /// From now on the node shows the ledger as it is at this moment, until
    /// [`InjectedFaults::clear`]. The other nodes go on, and so does what this one says of its peers
    /// (`telemetry`).
    pub fn fall_behind(&self) {
        self.order(ANY, InjectedFault::Stale, Times::Always);
    }

    /// The node stops answering and closes its open connections, until [`DevnetNode::restore`].
    pub fn cut_off(&self) {
        self.order(ANY, InjectedFault::Drop, Times::Always);
        self.refuse_sockets(true);
        self.drop_sockets();
    }

    /// Ends what [`DevnetNode::cut_off`] began, and every other order for this node.
    pub fn restore(&self) {
        self.faults().clear();
        self.refuse_sockets(false);
    }

    /// Closes every WebSocket without a close frame.
    pub fn drop_sockets(&self) {
        if let Some(faults) = self.socket_faults() {
            faults.drop_all();
        }
    }

    /// Closes new WebSocket connections at once, or accepts them again.
    pub fn refuse_sockets(&self, refuse: bool) {
        if let Some(faults) = self.socket_faults() {
            faults.refuse(refuse);
        }
    }

    /// Loses every confirmation message, as a node may do, or sends them again.
    pub fn mute_sockets(&self, mute: bool) {
        if let Some(faults) = self.socket_faults() {
            faults.mute(mute);
        }
    }

    fn socket_faults(&self) -> Option<&SocketFaults> {
        self.sockets.as_ref().map(|(_, sockets)| &sockets.faults)
    }
}
