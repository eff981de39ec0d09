//! Strangers who hold no right to anything and take what they can: they show payers' blocks under
//! challenges and keys of their own, sign blocks on payers' frontiers with keys that they throw away,
//! spend look-ups and settlements, and hold all connections that they get. Every request and every answer
//! is on its way for a time of its own, so that the messages of all overtake one another. A payer whose
//! payment is good is served soon, and never billed again.
//!
//! A connection is here what the door of a listener counts: a share of its client's, and one of all. What
//! else a connection costs, over real sockets, is in `tests/it/floods.rs`.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use faregate::cashier::{Ask, Client, Presented, Refused, Share, Shares, Verdict, Wait};
use faregate::nano::{BlockHash, Raw, Representative, SecretKey, Seed, Signature, StateBlock, Work};
use faregate::payment::Mechanism;
use faregate::payment::challenge::Challenge;
use faregate::routes::Metering;
use tokio::time::Instant;

use super::instance::{Instance, Limits};
use super::people::{challenge_by, signature_proof, txn_proof, wares};
use super::world::{Ablation, FUNDS, World};

/// Seeds of an ordinary test run.
const SEEDS: u64 = 10;
const ADDRESSES: u32 = 2;
/// How long a payer may wait once its block is confirmed.
const SERVED_WITHIN: Duration = Duration::from_secs(5);
/// The longest that the network takes to confirm a block.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(7);
const PURCHASES: usize = 3;
/// Connections of all clients, and of one.
const CONNECTIONS: usize = 24;
const CONNECTIONS_PER_CLIENT: usize = 6;
/// The longest that a request or an answer is on its way, in milliseconds.
const ON_ITS_WAY: u64 = 400;

/// What strangers can see of a payment: its block, because the ledger is public. The challenge is known to
/// the payer alone, except in [`Ablation::LeakedChallenges`].
struct Seen {
    block: StateBlock,
    challenge: Challenge,
}

/// The door of a listener: how many connections there are, and whose.
#[derive(Default)]
struct Door {
    shares: Shares,
    open: Arc<()>,
}

/// An open connection. Dropped, it is closed.
struct Connected {
    _share: Share,
    _one_of_all: Arc<()>,
}

impl Door {
    /// Opens a connection of `client`, unless it has its share or there are too many.
    fn enter(&self, client: Client, per_client: usize) -> Option<Connected> {
        if Arc::strong_count(&self.open) > CONNECTIONS {
            return None;
        }
        let share = self.shares.take(client, 1, per_client)?;
        Some(Connected { _share: share, _one_of_all: Arc::clone(&self.open) })
    }
}

struct Street {
    world: Arc<World>,
    gateway: Instance,
    door: Door,
    /// The payments under way.
    seen: Mutex<Vec<Seen>>,
    /// What honest payers build on.
    frontiers: Mutex<Vec<BlockHash>>,
}

fn at(address: [u8; 4]) -> Client {
    Client::at(IpAddr::from(address))
}

impl Street {
    fn open(world: &Arc<World>) -> Self {
        let mut limits = Limits { pending: 12, per_client: 2, lookups: 20 };
        if world.ablation == Ablation::NoShares {
            limits = Limits { per_client: limits.pending, lookups: u32::MAX, ..limits };
        }
        let gateway = Instance::with_limits(world, ADDRESSES, limits);
        let (door, seen, frontiers) = (Door::default(), Mutex::default(), Mutex::default());
        Self { world: Arc::clone(world), gateway, door, seen, frontiers }
    }

    fn connect(&self, client: Client) -> Option<Connected> {
        let is_ablated = self.world.ablation == Ablation::OpenDoor;
        self.door.enter(client, if is_ablated { CONNECTIONS } else { CONNECTIONS_PER_CLIENT })
    }

    /// Tries until the door lets it in.
    async fn connected(&self, client: Client) -> Connected {
        loop {
            if let Some(connected) = self.connect(client) {
                return connected;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A message is on its way. Each takes a time of its own, so that a later one may arrive first.
    async fn on_its_way(&self) {
        tokio::time::sleep(Duration::from_millis(self.world.below(ON_ITS_WAY))).await;
    }

    /// Asks on an open connection.
    async fn ask(&self, presented: Presented, client: Client) -> Verdict {
        self.on_its_way().await;
        let verdict = self.ask_nearby(presented, client).await;
        self.on_its_way().await;
        verdict
    }

    /// Asks on an open connection that takes no time.
    async fn ask_nearby(&self, presented: Presented, client: Client) -> Verdict {
        let (route, terms) = wares()[0].clone();
        let client = if self.world.ablation == Ablation::OneClient { at([192, 0, 2, 1]) } else { client };
        let metering = Metering::Leased;
        let ask = Ask {
            hold: None,
            route,
            standing: Arc::default(),
            listed: terms.into(),
            quoted: Some(terms.into()),
            metering,
            presented,
            identified: None,
            client: Some(client),
            down: None,
            url: None,
        };
        self.gateway.till.decide(ask).await
    }

    async fn bill(&self, mechanism: Mechanism, client: Client) -> Challenge {
        let verdict = self.ask(Presented::Nothing, client).await;
        let Verdict::Bill(bill) = verdict else { panic!("no bill: {verdict:?}") };
        challenge_by(&bill, mechanism).unwrap()
    }

    /// One of the payments under way, if there is one.
    fn pick(&self) -> Option<(StateBlock, Challenge)> {
        let seen = self.seen.lock().unwrap();
        let at = self.world.below(seen.len().max(1) as u64) as usize;
        seen.get(at).map(|it| (it.block, it.challenge.clone()))
    }
}

/// Buys a few things, and expects to be served for each within a bound.
async fn payer(street: Arc<Street>, key: SecretKey, mechanism: Mechanism, client: Client) {
    let world = &street.world;
    for _ in 0..PURCHASES {
        let challenge = street.bill(mechanism, client).await;
        let block = world.send(&key, challenge.offer().pay_to, challenge.due());
        street.frontiers.lock().unwrap().push(block.previous);
        // Strangers get a moment on the frontier before the payer comes.
        tokio::time::sleep(Duration::from_millis(world.below(300))).await;
        street.seen.lock().unwrap().push(Seen { block, challenge: challenge.clone() });
        let mut bound = SERVED_WITHIN;
        match mechanism {
            Mechanism::NanoTxn => bound += CONFIRMED_WITHIN,
            Mechanism::NanoSignature | Mechanism::NanoSession => {
                world.process(&block).unwrap();
                while world.truth(block.hash()) != Some(true) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        #[expect(clippy::disallowed_methods, reason = "the test measures how long a payer waits")]
        let began = Instant::now();
        loop {
            let presented = match mechanism {
                Mechanism::NanoTxn => txn_proof(&challenge, block),
                Mechanism::NanoSignature | Mechanism::NanoSession => {
                    signature_proof(&challenge, block.hash(), key.account(), &key)
                }
            };
            // A payer opens a connection each time: it has none that was open before the strangers came.
            let connect = tokio::time::timeout(bound, street.connected(client)).await;
            let Ok(_connected) = connect else {
                world.hold(false, || format!("a payer by {mechanism} was not let in within {bound:?}"));
                return;
            };
            match street.ask(presented, client).await {
                Verdict::Admit(admitted) => {
                    admitted.taken.commit();
                    break;
                }
                Verdict::Bill(bill) => {
                    let refusal = bill.refused.map(|Refused { refusal, .. }| refusal);
                    world.hold(false, || format!("a payer was billed again: {refusal:?}"));
                    return;
                }
                Verdict::Wait(_) => {}
                other @ (Verdict::Replay(_) | Verdict::Conflict(_) | Verdict::Moved(_)) => {
                    panic!("nobody gives an id: {other:?}")
                }
            }
            if began.elapsed() > bound {
                world.hold(false, || format!("a payer by {mechanism} was not served within {bound:?}"));
                return;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        street.seen.lock().unwrap().clear();
        street.frontiers.lock().unwrap().clear();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Shows payers' blocks again and again, each time from another address.
async fn claimant(street: Arc<Street>, index: u8) {
    let key = Seed::from_bytes([0x51; 32]).key(u32::from(index));
    let mut round = 0_u8;
    loop {
        round = round.wrapping_add(1);
        let client = at([198, 51, round, index]);
        tokio::time::sleep(Duration::from_millis(1 + street.world.below(100))).await;
        let Some((block, payers)) = street.pick() else { continue };
        let Some(_connected) = street.connect(client) else { continue };
        let mut own = street.bill(Mechanism::NanoSignature, client).await;
        if street.world.ablation == Ablation::LeakedChallenges
            && payers.offer().mechanism == Mechanism::NanoSignature
        {
            own = payers;
        }
        let replayed = street.world.chance(30);
        let presented = if replayed && street.world.truth(block.hash()).is_some() {
            // A block that the gateway has broadcast is public too.
            txn_proof(&street.bill(Mechanism::NanoTxn, client).await, block)
        } else {
            signature_proof(&own, block.hash(), key.account(), &key)
        };
        let verdict = street.ask(presented, client).await;
        let got = matches!(verdict, Verdict::Admit(_));
        street.world.hold(!got, || format!("a stranger was served with {}", block.hash()));
    }
}

/// Signs blocks on payers' frontiers with keys that were never used.
async fn squatter(street: Arc<Street>, index: u8) {
    let mut round = 0_u8;
    loop {
        round = round.wrapping_add(1);
        let client = at([203, 0, round, index]);
        tokio::time::sleep(Duration::from_millis(1 + street.world.below(100))).await;
        let Some(previous) = street.frontiers.lock().unwrap().last().copied() else { continue };
        let Some(_connected) = street.connect(client) else { continue };
        let own = street.bill(Mechanism::NanoTxn, client).await;
        let key = Seed::from_bytes([round; 32]).key(1000 + u32::from(index));
        let unsigned = StateBlock {
            account: key.account(),
            previous,
            representative: Representative(key.account()),
            balance: FUNDS.checked_sub(own.due()).unwrap_or(Raw::ZERO),
            link: own.offer().pay_to.0,
            signature: Signature([0; 64]),
            work: Some(Work(0)),
        };
        let _verdict = street.ask(txn_proof(&own, unsigned.signed(&key)), client).await;
    }
}

/// Opens as many connections as one address gets, and holds them.
async fn holder(street: Arc<Street>, index: u8) {
    let mut held = Vec::new();
    loop {
        held.extend(street.connect(at([192, 0, 2, 100 + index])));
        tokio::time::sleep(Duration::from_millis(1 + street.world.below(20))).await;
    }
}

/// Has made-up hashes looked up, all from one address, over one connection and from nearby.
async fn spender(street: Arc<Street>, index: u8) {
    let key = Seed::from_bytes([0x53; 32]).key(u32::from(index));
    let client = at([192, 0, 2, 99]);
    let _connected = (index == 0).then(|| street.connect(client));
    loop {
        let own = street.bill(Mechanism::NanoSignature, client).await;
        for number in 0..50 {
            let made_up = BlockHash(std::array::from_fn(|_| index ^ number));
            let verdict =
                street.ask_nearby(signature_proof(&own, made_up, key.account(), &key), client).await;
            if matches!(verdict, Verdict::Wait(Wait::Overloaded)) {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

fn play(seed: u64, ablation: Ablation) -> Vec<String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let world = Arc::new(World::new(seed, ablation));
        world.calm();
        let street = Arc::new(Street::open(&world));
        let mut strangers = Vec::new();
        for index in 0..3 {
            strangers.push(tokio::spawn(claimant(Arc::clone(&street), index)));
            strangers.push(tokio::spawn(squatter(Arc::clone(&street), index)));
        }
        for index in 0..2 {
            strangers.push(tokio::spawn(holder(Arc::clone(&street), index)));
        }
        for index in 0..24 {
            strangers.push(tokio::spawn(spender(Arc::clone(&street), index)));
        }
        let payers = [Mechanism::NanoTxn, Mechanism::NanoSignature].map(|mechanism| {
            let index = mechanism as u8;
            let key = world.open(u32::from(index));
            tokio::spawn(payer(Arc::clone(&street), key, mechanism, at([192, 0, 2, 10 + index])))
        });
        for payer in payers {
            payer.await.unwrap();
        }
        for stranger in strangers {
            stranger.abort();
        }
        street.gateway.kill();
        world.violations()
    })
}

#[test]
fn a_payer_is_served_soon_whatever_strangers_do() {
    for seed in 0..SEEDS {
        let violations = play(seed, Ablation::Nothing);
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
    }
}

/// Takes one thing away; some schedule must show it.
fn is_missed(ablation: Ablation, sign: &str) {
    let seen = (0..SEEDS).any(|seed| play(seed, ablation).iter().any(|it| it.contains(sign)));
    assert!(seen, "nothing went wrong without it: the simulation cannot see {ablation:?}");
}

/// As if a settlement were joined by whoever shows its block.
#[test]
fn without_the_challenge_in_a_settlements_name_strangers_bill_payers() {
    is_missed(Ablation::LeakedChallenges, "billed again: Some(SenderMismatch)");
}

/// As if a frontier were held before the ledger says whose it is.
#[test]
fn without_the_ledgers_word_a_frontier_is_held_by_strangers() {
    is_missed(Ablation::GullibleNodes, "billed again: Some(DuplicateFrontier)");
}

#[test]
fn without_clients_one_spends_the_look_ups_of_all() {
    is_missed(Ablation::OneClient, "not served within");
}

#[test]
fn without_shares_one_client_has_all_settlements() {
    is_missed(Ablation::NoShares, "not served within");
}

/// As if the door did not count whose the connections are.
#[test]
fn without_a_share_of_connections_strangers_keep_payers_out() {
    is_missed(Ablation::OpenDoor, "not let in within");
}
