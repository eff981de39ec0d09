//! Sends refunds: what is left of closed capabilities, from the pool's accounts to the accounts that paid.
//!
//! The block that sends a refund is journalled in its row before it is published, and published again after a crash
//! until it is confirmed. A refund gets another block only if a block that the pool's own key has signed is confirmed in
//! the first one's place, so that the first can never be. So a refund is sent once, however many processes try: of
//! their blocks the journal takes one, and no other is published. [`Turn`] keeps processes of one machine from making
//! blocks that exclude each other, which would be work in vain.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

use crate::clock::Clock;
use crate::ledger::work::WorkError;
use crate::ledger::{Ledger, LedgerError, PublishError, Sighting};
use crate::nano::{Account, BlockHash, NotProven, Raw, StateBlock};
use crate::shutdown::{self, StopSignal};
use crate::store::refunds::{RefundJournal, RefundRecord, RefundSearch, RefundState};
use crate::store::{Engine, StoreError, repeat_unknown};
use crate::sweep;
use crate::sweeper::{Hand, PoolPlace, SweepError};
use crate::vault::Turn;

/// Refunds that are sent at the same time.
const AT_ONCE: usize = 4;

/// How many seconds a refund is one instance's, and how long it waits for the next try after one that failed.
const TAKEN_SECONDS: u64 = 30;

/// How often the journal is asked for refunds.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many blocks are made in a row for one refund, if others are confirmed in their places.
const BLOCKS: u32 = 3;

/// Called for each refund that this process has seen confirmed first.
pub type RefundObserver = Arc<dyn Fn(&RefundRecord) + Send + Sync>;

/// Why a refund was not sent. The next try continues from journal and ledger.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RefundError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    NotProven(#[from] NotProven),
    #[error(transparent)]
    Work(#[from] WorkError),
    /// A receive of what the pool was sent failed.
    #[error(transparent)]
    Receive(#[from] SweepError),
    #[error("no account of the pool has {0} raw: send it there, or let `refunds.keep` leave more there")]
    NoFunds(Raw),
    #[error("block {hash} was refused: {why}")]
    Refused { hash: BlockHash, why: String },
    #[error("block {0} was published but not confirmed in time")]
    Unconfirmed(BlockHash),
    #[error("other blocks were confirmed in the place of each that was made")]
    Overtaken,
    #[error("the refund cannot be recorded: {0}")]
    Journal(#[from] StoreError),
}

/// What became of one refund.
#[derive(Clone, Debug)]
pub struct Sent {
    pub refund: RefundRecord,
    pub error: Option<RefundError>,
}

/// Sends the refunds of one pool.
#[derive(Clone)]
pub struct Refunder {
    hand: Hand,
    places: Arc<[PoolPlace]>,
    store: Arc<Engine>,
    clock: Clock,
    observer: Option<RefundObserver>,
    /// The pool's accounts of which this process makes a block.
    busy: Arc<Mutex<BTreeSet<Account>>>,
}

impl fmt::Debug for Refunder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refunder").field("accounts", &self.places.len()).finish_non_exhaustive()
    }
}

/// An account of the pool of which nobody else in this process makes a block, until this is dropped.
struct Reserved {
    place: PoolPlace,
    busy: Arc<Mutex<BTreeSet<Account>>>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.place.account);
    }
}

impl Refunder {
    /// A refunder that sends from the accounts at `places`, whose keys `hand` has.
    #[must_use]
    pub fn new(hand: Hand, places: Arc<[PoolPlace]>, store: Arc<Engine>, clock: Clock) -> Self {
        Self { hand, places, store, clock, observer: None, busy: Arc::default() }
    }

    /// Makes the refunder call `observer` for each refund that it is the first to see confirmed.
    #[must_use]
    pub fn observed_by(mut self, observer: RefundObserver) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Returns once there is something to be sent in `store`, or at `shutdown`. Gives whether there is.
    pub async fn is_needed(store: &Engine, mut shutdown: StopSignal) -> bool {
        let looks = async {
            loop {
                match is_anything_owed(store).await {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => tracing::debug!(%error, "the refunds cannot be read"),
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            () = looks => true,
            () = shutdown::asked_for(&mut shutdown) => false,
        }
    }

    /// Sends what is owed until `shutdown`. It waits while another process has the [`Turn`] of `seed_file`. What is
    /// under way at `shutdown` is aborted; the next start continues from there.
    pub async fn run(self, seed_file: PathBuf, mut shutdown: StopSignal) {
        let rounds = async {
            loop {
                if let Err(error) = self.round(&seed_file).await {
                    tracing::debug!(%error, "the refunds cannot be read");
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            () = rounds => {}
            () = shutdown::asked_for(&mut shutdown) => {}
        }
    }

    /// Takes a few refunds that are to be sent, and sends them.
    async fn round(&self, seed_file: &Path) -> Result<(), StoreError> {
        // Only a read, as long as there is nothing to do.
        if !is_anything_owed(&self.store).await? {
            return Ok(());
        }
        let _turn = match Turn::take(seed_file) {
            Ok(Some(turn)) => turn,
            Ok(None) => {
                tracing::debug!("blocks of this pool are being made elsewhere: refunds wait");
                return Ok(());
            }
            Err(error) => {
                tracing::error!(%error, "refunds cannot be sent");
                return Ok(());
            }
        };
        let now = self.clock.now();
        let taken = self.store.take_refunds(now.plus(TAKEN_SECONDS), AT_ONCE, now).await?;
        self.send_all(taken).await;
        Ok(())
    }

    /// Sends these refunds, a few at a time; what became of each.
    pub async fn send_all(&self, refunds: Vec<RefundRecord>) -> Vec<Sent> {
        stream::iter(refunds).map(|refund| self.send(refund)).buffer_unordered(AT_ONCE).collect().await
    }

    async fn send(&self, mut refund: RefundRecord) -> Sent {
        let error = self.carry_out(&mut refund).await.err();
        match &error {
            None => tracing::info!(
                capability = %refund.capability, account = %refund.account, amount_raw = %refund.amount,
                block = refund.block.map(|it| it.hash().to_string()), "a refund is confirmed"
            ),
            Some(error) => tracing::warn!(
                capability = %refund.capability, account = %refund.account, amount_raw = %refund.amount, %error,
                "a refund was not sent yet"
            ),
        }
        Sent { refund, error }
    }

    async fn carry_out(&self, refund: &mut RefundRecord) -> Result<(), RefundError> {
        for _ in 0..BLOCKS {
            let (block, _reserved) = match refund.block {
                Some(block) if !self.is_overtaken(&block).await? => {
                    let place = self.places.iter().find(|it| it.account == block.account);
                    (block, place.and_then(|it| self.reserve(*it)))
                }
                before => {
                    let before = before.map(|it| it.hash());
                    let (made, place) = self.make(refund).await?;
                    fail::fail_point!("refund-signed", |_| std::process::abort());
                    let now = self.clock.now();
                    let sign = || self.store.sign_refund(refund.capability, before, &made, now);
                    *refund = repeat_unknown(sign).await?;
                    fail::fail_point!("refund-journalled", |_| std::process::abort());
                    match (refund.state, refund.block) {
                        // Another process was faster, and all the way.
                        (RefundState::Confirmed, _) => return Ok(()),
                        (_, Some(block)) => (block, Some(place)),
                        (_, None) => return Err(RefundError::Overtaken),
                    }
                }
            };
            if self.publish(&block).await? {
                return self.confirmed(refund, block.hash()).await;
            }
        }
        Err(RefundError::Overtaken)
    }

    /// Publishes a journalled block and waits until it is confirmed. False if another is confirmed in its place.
    async fn publish(&self, block: &StateBlock) -> Result<bool, RefundError> {
        let (ledger, hash) = (self.hand.ledger(), block.hash());
        if let Err(PublishError::Refused(why)) = ledger.publish_send(block).await {
            // A block that the ledger already has is refused too; the text does not show which.
            if ledger.block(hash).await?.is_none() {
                return if self.is_overtaken(block).await? {
                    Ok(false)
                } else {
                    Err(RefundError::Refused { hash, why })
                };
            }
        }
        fail::fail_point!("refund-published", |_| std::process::abort());
        // If no node answered, the block may have been published all the same.
        match ledger.await_confirmation(hash, self.hand.confirm_wait()).await? {
            Sighting::Confirmed(_) => Ok(true),
            Sighting::Unconfirmed(_) | Sighting::Unknown => {
                if self.is_overtaken(block).await? {
                    Ok(false)
                } else {
                    Err(RefundError::Unconfirmed(hash))
                }
            }
        }
    }

    /// Notes that the refund's block is confirmed.
    async fn confirmed(&self, refund: &mut RefundRecord, block: BlockHash) -> Result<(), RefundError> {
        fail::fail_point!("refund-confirmed", |_| std::process::abort());
        let (id, now) = (refund.capability, self.clock.now());
        let is_first = repeat_unknown(|| self.store.confirm_refund(id, block, now)).await?;
        refund.state = RefundState::Confirmed;
        if let (true, Some(observer)) = (is_first, &self.observer) {
            observer(refund);
        }
        Ok(())
    }

    /// Whether another block is confirmed in this one's place. Only a block that the account's own key has signed
    /// proves that: a node alone could have a refund sent twice.
    async fn is_overtaken(&self, block: &StateBlock) -> Result<bool, LedgerError> {
        let ledger = self.hand.ledger();
        if ledger.block(block.hash()).await?.is_some_and(|it| it.confirmed()) {
            return Ok(false);
        }
        let Some(next) = ledger.successor(block.previous).await?.filter(|it| *it != block.hash()) else {
            return Ok(false);
        };
        if !ledger.block(next).await?.is_some_and(|it| it.confirmed()) {
            return Ok(false);
        }
        let rival = ledger.signed_block(next).await?;
        Ok(rival.account == block.account && rival.previous == block.previous)
    }

    /// A signed block that sends the refund, and nothing else; nothing of it is published. The account that it is of
    /// is reserved.
    async fn make(&self, refund: &RefundRecord) -> Result<(StateBlock, Reserved), RefundError> {
        // What was paid is usually still there. That saves a look at all accounts.
        let paid_to = self.places.iter().find(|it| it.account == refund.paid_to);
        if let Some(place) = paid_to.filter(|it| it.account != refund.account)
            && let Some(made) = self.make_at(*place, refund).await?
        {
            return Ok(made);
        }
        for place in self.with_enough(refund).await? {
            if let Some(made) = self.make_at(place, refund).await? {
                return Ok(made);
            }
        }
        Err(RefundError::NoFunds(refund.amount))
    }

    /// The same from one account. `None` if it has too little, or something else is made of it.
    async fn make_at(
        &self,
        place: PoolPlace,
        refund: &RefundRecord,
    ) -> Result<Option<(StateBlock, Reserved)>, RefundError> {
        let Some(reserved) = self.reserve(place) else { return Ok(None) };
        let (account, deposits) = self.hand.read(place).await?;
        let Some((receives, head)) = sweep::gather(&account, refund.amount)? else { return Ok(None) };
        if !receives.is_empty() {
            self.hand.came_in(&deposits).await?;
        }
        for step in &receives {
            self.hand.take(place, step).await?;
        }
        let block = head.send(refund.account, refund.amount)?;
        Ok(Some((self.hand.sign_send(place, &block).await?, reserved)))
    }

    /// The accounts that can send a refund: first those that need receive nothing for it, of those the smallest.
    async fn with_enough(&self, refund: &RefundRecord) -> Result<Vec<PoolPlace>, LedgerError> {
        let accounts: Vec<Account> = self.places.iter().map(|it| it.account).collect();
        let balances = self.hand.ledger().client().balances(&accounts).await?;
        let mut able: Vec<_> = self
            .places
            .iter()
            .zip(balances)
            .filter(|(place, _)| place.account != refund.account)
            .map(|(place, has)| {
                let total = has.balance.checked_add(has.receivable).unwrap_or(Raw::MAX);
                (has.balance < refund.amount, total, *place)
            })
            .filter(|(_, total, _)| *total >= refund.amount)
            .collect();
        able.sort_by_key(|(receives, total, place)| (*receives, *total, place.index));
        Ok(able.into_iter().map(|(_, _, place)| place).collect())
    }

    fn reserve(&self, place: PoolPlace) -> Option<Reserved> {
        let is_free = self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(place.account);
        is_free.then(|| Reserved { place, busy: Arc::clone(&self.busy) })
    }
}

/// Whether something is to be sent, or was and is not seen confirmed.
async fn is_anything_owed(store: &Engine) -> Result<bool, StoreError> {
    for state in [RefundState::Owed, RefundState::Signed] {
        let search = RefundSearch { state: Some(state), unfinished: true, after: None, limit: 1 };
        if !store.refunds(&search).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
