//! Sends from before state blocks: nothing proves their amount but the ledger itself.

use faregate::devnet::{InjectedFault, Lie, Times};
use faregate::nano::{BlockHash, Raw};
use faregate::sweeper::SweepError;

use super::Pool;

impl Pool {
    /// Shows a block as one from before state blocks.
    fn age(&self, hash: BlockHash) {
        let block = self.devnet.lattice().entry(hash).unwrap().block;
        for action in ["block_info", "blocks_info"] {
            let lie = InjectedFault::Lie(Lie::Legacy(Box::new(block)));
            self.devnet.order(action, lie, Times::Always);
        }
    }

    fn send(&mut self, amount: u128) -> BlockHash {
        self.funded += amount;
        self.devnet.fund(self.account(0), Raw::new(amount)).unwrap()
    }
}

/// Regression: one such send, or one that follows such a block, kept the whole account from being swept.
#[tokio::test]
async fn a_send_from_before_state_blocks_is_received_with_the_others() {
    let mut pool = Pool::new(1).await;
    let old = pool.send(500);
    let last = pool.send(70);
    let after = pool.send(9);
    pool.age(old);
    assert_eq!(pool.devnet.lattice().entry(after).unwrap().block.previous, last);
    pool.age(last);
    let round = pool.sweeper().sweep().await.unwrap();
    assert_eq!((round.failed().count(), round.blocks()), (0, 4));
    pool.assert_all_home();
}

#[tokio::test]
async fn a_false_amount_of_such_a_send_moves_nothing() {
    let mut pool = Pool::new(1).await;
    let old = pool.send(500);
    pool.age(old);
    for amount in [1, 499, 501] {
        pool.devnet.order("receivable", InjectedFault::Lie(Lie::Amount(Raw::new(amount))), Times::Always);
        let swept = pool.sweeper().sweep_account(pool.place(0)).await;
        assert!(matches!(swept.error, Some(SweepError::Refused { .. })), "{amount}: {:?}", swept.error);
        assert_eq!((pool.height(0), pool.left()), (0, 500), "the ledger takes no receive of {amount}");
        pool.devnet.faults().lift("receivable");
    }
    pool.sweeper().sweep().await.unwrap();
    pool.assert_all_home();
}
