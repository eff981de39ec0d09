//! Faults of one node's WebSocket: it drops connections, refuses new ones, or loses messages.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// What is ordered for all WebSocket connections of one node.
pub(in crate::devnet) struct SocketFaults {
    /// Counts the orders to drop every connection.
    dropped: watch::Sender<u64>,
    refusing: AtomicBool,
    muted: AtomicBool,
}

impl Default for SocketFaults {
    fn default() -> Self {
        Self {
            dropped: watch::Sender::new(0),
            refusing: AtomicBool::new(false),
            muted: AtomicBool::new(false),
        }
    }
}

impl SocketFaults {
    /// Closes every open connection.
    pub(in crate::devnet) fn drop_all(&self) {
        self.dropped.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(in crate::devnet) fn refuse(&self, refuse: bool) {
        self.refusing.store(refuse, Ordering::SeqCst);
    }

    pub(in crate::devnet) fn mute(&self, mute: bool) {
        self.muted.store(mute, Ordering::SeqCst);
    }

    pub(in crate::devnet) fn is_refusing(&self) -> bool {
        self.refusing.load(Ordering::SeqCst)
    }

    pub(in crate::devnet) fn is_muted(&self) -> bool {
        self.muted.load(Ordering::SeqCst)
    }

    /// Completes at the next order to drop every connection after this call, not after the first
    /// poll.
    pub(in crate::devnet) fn next_drop(&self) -> impl Future<Output = ()> + use<> {
        let mut dropped = self.dropped.subscribe();
        async move {
            let _ordered = dropped.changed().await.is_ok();
        }
    }
}
