//! Sweeps: everything in the pool reaches the treasury, to the last raw, whatever goes wrong.

mod command;
mod faults;
mod journal;
pub(crate) mod home;
mod legacy;
mod plan;
mod volume;

use std::sync::Arc;
use std::time::Duration;

use faregate::clock::Clock;
use faregate::devnet::{Devnet, DevnetOptions, THRESHOLDS};
use faregate::ledger::node::{NodeClient, NodeEndpoint, NodeLedger};
use faregate::ledger::work::WorkSource;
use faregate::nano::{Account, Raw, Representative, Seed};
use faregate::store::Engine;
use faregate::sweep::Rules;
use faregate::sweeper::{PoolPlace, SweepJournal, SweepSettings, Sweeper};
use faregate::vault::Vault;

const SEED: [u8; 32] = [0x77; 32];
const TREASURY: Account = Account([0x42; 32]);
const REPRESENTATIVE: Representative = Representative(Account([0x43; 32]));

/// A development ledger with a pool of accounts, and the amount sent to them.
struct Pool {
    devnet: Devnet,
    size: u32,
    funded: u128,
}

impl Pool {
    async fn new(size: u32) -> Self {
        Self::with(size, DevnetOptions::default()).await
    }

    async fn with(size: u32, options: DevnetOptions) -> Self {
        Self { devnet: Devnet::start(options).await.unwrap(), size, funded: 0 }
    }

    fn account(&self, index: u32) -> Account {
        Seed::from_bytes(SEED).key(index).account()
    }

    fn fund(&mut self, index: u32, amount: u128) {
        self.devnet.fund(self.account(index), Raw::new(amount)).unwrap();
        self.funded += amount;
    }

    /// Each account gets `count` sends of different amounts.
    fn fund_all(&mut self, count: u32) {
        for index in 0..self.size {
            for number in 0..count {
                self.fund(index, 1_000_000 + u128::from(index * 1000 + number));
            }
        }
    }

    fn sweeper(&self) -> Sweeper {
        self.sweeper_with(|_| {})
    }

    fn sweeper_with(&self, change: impl Fn(&mut SweepSettings)) -> Sweeper {
        let url = self.devnet.rpc_url().parse().unwrap();
        let endpoint = NodeEndpoint::from_url(url, Duration::from_secs(5)).unwrap();
        let ledger = NodeLedger::new(NodeClient::new(vec![endpoint]).unwrap());
        let mut settings = SweepSettings {
            rules: Rules { treasury: TREASURY, minimum: Raw::new(1), representative: Some(REPRESENTATIVE) },
            thresholds: THRESHOLDS,
            confirm_wait: Duration::from_secs(5),
            at_once: 8,
        };
        change(&mut settings);
        let vault = Vault::from_seed(Seed::from_bytes(SEED));
        let ranges = std::iter::once(0..self.size);
        Sweeper::new(ledger, vault, ranges, WorkSource::local(), settings).unwrap()
    }

    /// Like [`Pool::sweeper`], recorded in `store`.
    fn journalled(&self, store: &Arc<Engine>) -> Sweeper {
        self.sweeper().journalled_in(SweepJournal::new(Arc::clone(store), Clock::system()))
    }

    fn place(&self, index: u32) -> PoolPlace {
        PoolPlace { index, account: self.account(index) }
    }

    /// The amount sent to the treasury.
    fn treasury(&self) -> u128 {
        self.devnet.lattice().receivable_sum(TREASURY, true).get()
    }

    /// What the pool has, received or not.
    fn left(&self) -> u128 {
        let accounts = (0..self.size).map(|index| self.account(index));
        let ledger = self.devnet.lattice();
        accounts.map(|it| ledger.balance(it).get() + ledger.receivable_sum(it, false).get()).sum()
    }

    /// How many blocks an account has.
    fn height(&self, index: u32) -> u64 {
        self.devnet.lattice().chain(self.account(index)).map_or(0, |chain| chain.height)
    }

    #[track_caller]
    fn assert_nothing_lost(&self) {
        assert_eq!(self.treasury() + self.left(), self.funded, "treasury and pool together");
    }

    #[track_caller]
    fn assert_all_home(&self) {
        assert_eq!((self.left(), self.treasury()), (0, self.funded));
    }
}

#[tokio::test]
async fn a_sweep_empties_the_pool_and_the_next_finds_nothing() {
    let mut pool = Pool::new(4).await;
    pool.fund(0, 7);
    pool.fund(0, 1);
    pool.fund(2, u128::from(u64::MAX) * 3);
    // An account with a balance and nothing to receive.
    pool.fund(3, 100);
    pool.devnet.receive_all(&Seed::from_bytes(SEED).key(3)).unwrap();
    let round = pool.sweeper().sweep().await.unwrap();
    pool.assert_all_home();
    assert_eq!(round.sent().get(), pool.funded);
    let blocks: Vec<_> = round.accounts.iter().map(|it| (it.place.index, it.blocks.len())).collect();
    assert_eq!(blocks, [(0, 3), (2, 2), (3, 1)]);
    assert_eq!(round.failed().count(), 0);
    assert_eq!(pool.devnet.lattice().chain(pool.account(0)).unwrap().representative, REPRESENTATIVE);
    assert_eq!(pool.height(1), 0);

    let again = pool.sweeper().sweep().await.unwrap();
    assert!(again.accounts.is_empty());
    pool.fund(0, 5);
    assert_eq!(pool.sweeper().sweep().await.unwrap().sent().get(), 5);
    pool.assert_all_home();
}

#[tokio::test]
async fn an_account_below_the_minimum_is_left_as_it_is() {
    let mut pool = Pool::new(2).await;
    pool.fund(0, 60);
    pool.fund(0, 39);
    pool.fund(1, 60);
    pool.fund(1, 40);
    let sweeper = pool.sweeper_with(|it| it.rules.minimum = Raw::new(100));
    let round = sweeper.sweep().await.unwrap();
    assert_eq!((round.sent().get(), pool.left(), pool.height(0)), (100, 99, 0));
    pool.fund(0, 1);
    assert_eq!(sweeper.sweep().await.unwrap().sent().get(), 100);
    pool.assert_all_home();
}

#[tokio::test]
async fn a_treasury_in_the_pool_is_refused() {
    let pool = Pool::new(2).await;
    let url = pool.devnet.rpc_url().parse().unwrap();
    let client = NodeClient::new(vec![NodeEndpoint::from_url(url, Duration::from_secs(5)).unwrap()]).unwrap();
    let vault = Vault::from_seed(Seed::from_bytes(SEED));
    let rules = Rules { treasury: pool.account(1), minimum: Raw::new(1), representative: None };
    let settings =
        SweepSettings { rules, thresholds: THRESHOLDS, confirm_wait: Duration::from_secs(1), at_once: 1 };
    let ranges = std::iter::once(0..2);
    let made = Sweeper::new(NodeLedger::new(client), vault, ranges, WorkSource::local(), settings);
    assert!(made.is_err_and(|it| it.to_string().contains("account of the pool itself")));
}
