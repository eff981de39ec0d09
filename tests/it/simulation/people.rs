//! Who uses the gateways of a simulation: honest payers by every mechanism, an eavesdropper who
//! sees the whole network, a payer who cheats. And the accidents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use faregate::cashier::{Admitted, Ask, Bill, Evidence, Presented, Proof, Verdict};
use faregate::nano::{Account, BlockHash, Raw, SecretKey, StateBlock};
use faregate::payment::capability::CapabilityId;
use faregate::payment::challenge::Challenge;
use faregate::payment::{Mechanism, Refusal, nano_session, nano_signature};
use faregate::routes::{Grants, RouteName, Terms, Unit};
use faregate::store::capabilities::BrokenAnswer;

use super::instance::Instance;
use super::names::Names;
use super::world::World;

/// How long a client waits for an answer before it takes the connection for dead.
pub(super) const CLIENT_TIMEOUT: Duration = Duration::from_secs(20);

/// The town: the instances that run, and what was served.
pub(super) struct Town {
    pub(super) world: Arc<World>,
    pub(super) instances: Mutex<Vec<Arc<Instance>>>,
    pub(super) book: Arc<Mutex<Book>>,
}

#[derive(Default)]
pub(super) struct Book {
    /// Whole answers that reached a client, by payment.
    pub(super) served: BTreeMap<CapabilityId, i64>,
    /// Uses bought, by payment.
    pub(super) bought: BTreeMap<CapabilityId, i64>,
    /// Payments that were added to a purse.
    added: BTreeSet<BlockHash>,
    /// Answers that a crash may have forgotten.
    pub(super) forgiven: BTreeMap<CapabilityId, i64>,
    /// Answers that broke off and whose uses were given back, by payment.
    pub(super) broken: BTreeMap<CapabilityId, i64>,
    pub(super) purchases: u64,
    pub(super) kills: u64,
    pub(super) names: Names,
}

/// What is sold: the cheap one for one request, the dear one for three.
pub(super) fn wares() -> [(RouteName, Terms); 2] {
    let terms = |amount, requests: u32| Terms {
        amount: Raw::new(amount),
        grants: Grants::of_requests(requests.try_into().unwrap(), 3600),
    };
    [(RouteName::new("cheap"), terms(10, 1)), (RouteName::new("dear"), terms(30, 3))]
}

/// A purse: what a request costs is known afterwards.
fn tokens() -> (RouteName, Terms) {
    (RouteName::new("tokens"), Terms { amount: Raw::new(200), grants: Grants::of_balance(3600) })
}

impl Book {
    /// What was bought, of which a request was admitted. A purse is first seen before anything is added to it.
    fn note(&mut self, admitted: &Admitted, stock: i64) {
        let bought = self.bought.entry(admitted.taken.held().record().id).or_insert(stock);
        if let Some(added) = &admitted.added
            && self.added.insert(added.record().block)
        {
            *bought += i64::try_from(added.purchase().terms.stock().1).unwrap();
        }
    }
}

/// How one request ended for its client.
enum Answer {
    /// What it cost: one use, or so many raw; and the token of what it was taken from.
    Served(u128, String),
    /// The upstream failed; nothing was delivered.
    Failed,
    /// Come again.
    Wait,
    Bill(Bill),
    /// No answer at all.
    Lost,
}

impl Town {
    pub(super) fn someone(&self) -> Arc<Instance> {
        let instances = self.instances.lock().unwrap();
        Arc::clone(&instances[self.world.below(instances.len() as u64) as usize])
    }

    /// Sends a request to some instance; an admitted one is forwarded and its outcome settled.
    async fn ask(&self, ware: &(RouteName, Terms), presented: Presented, patient: bool) -> Answer {
        self.ask_for(ware, presented, None, patient).await
    }

    /// As [`Town::ask`], for something that may cost so many raw.
    async fn ask_for(
        &self,
        ware: &(RouteName, Terms),
        presented: Presented,
        hold: Option<Raw>,
        patient: bool,
    ) -> Answer {
        let instance = self.someone();
        let ask = Ask {
            hold,
            route: ware.0.clone(),
            standing: Arc::default(),
            listed: ware.1.into(),
            quoted: Some(ware.1.into()),
            metering: faregate::routes::Metering::Leased,
            presented,
            identified: None,
            client: None,
            down: None,
            url: None,
        };
        let decided = tokio::time::timeout(CLIENT_TIMEOUT, instance.till.decide(ask)).await;
        if instance.life.is_over() {
            return Answer::Lost;
        }
        match decided {
            Err(_) => Answer::Lost,
            Ok(Verdict::Wait(_)) => Answer::Wait,
            Ok(Verdict::Replay(_) | Verdict::Conflict(_) | Verdict::Moved(_)) => {
                panic!("nobody gives an id, and no route is renamed")
            }
            Ok(Verdict::Bill(bill)) => Answer::Bill(bill),
            Ok(Verdict::Admit(admitted)) => self.forward(&instance, admitted, patient).await,
        }
    }

    async fn forward(&self, instance: &Instance, admitted: Admitted, patient: bool) -> Answer {
        let id = admitted.taken.held().record().id;
        let token = String::from_utf8(admitted.said.token().to_vec()).unwrap();
        let stock = i64::try_from(admitted.taken.held().record().stock).unwrap();
        self.book.lock().unwrap().note(&admitted, stock);
        tokio::time::sleep(Duration::from_millis(5 + self.world.below(2_000))).await;
        if instance.life.is_over() {
            return Answer::Lost;
        }
        if self.world.fault(15) {
            instance.till.capabilities().fail(admitted.taken);
            return Answer::Failed;
        }
        let is_purse = admitted.taken.held().record().unit == Unit::Raw;
        if !patient && !is_purse && self.world.chance(30) {
            self.break_off(instance, admitted).await;
            return Answer::Lost;
        }
        let cost = if is_purse { self.charge(instance, admitted).await } else { Self::commit(admitted) };
        let counted = i64::try_from(cost).unwrap();
        *self.book.lock().unwrap().served.entry(id).or_default() += counted;
        *instance.unreported.lock().unwrap().entry(id).or_default() += counted;
        Answer::Served(cost, token)
    }

    fn commit(admitted: Admitted) -> u128 {
        admitted.taken.commit();
        1
    }

    /// The answer costs less than was set aside for it, or more, as far as there is more.
    async fn charge(&self, instance: &Instance, admitted: Admitted) -> u128 {
        let mut taken = admitted.taken;
        let cost = u128::from(self.world.below(u64::try_from(taken.reserved()).unwrap() + 4));
        let lacking = cost.saturating_sub(taken.reserved());
        if lacking > 0 {
            let more = instance.till.capabilities().take_more(&mut taken, lacking);
            let _ = tokio::time::timeout(CLIENT_TIMEOUT, more).await;
        }
        if instance.life.is_over() {
            return 0;
        }
        taken.charge(cost)
    }

    /// The answer breaks off. Returns what became of the use, if the gateway lives to say it.
    pub(super) async fn break_off(&self, instance: &Instance, admitted: Admitted) -> Option<BrokenAnswer> {
        let id = admitted.taken.held().record().id;
        let broke = instance.till.capabilities().broke(admitted.taken);
        let broken = tokio::time::timeout(CLIENT_TIMEOUT, broke).await.ok()?;
        match broken {
            BrokenAnswer::GivenBack => *self.book.lock().unwrap().broken.entry(id).or_default() += 1,
            BrokenAnswer::Committed => *instance.unreported.lock().unwrap().entry(id).or_default() += 1,
        }
        Some(broken)
    }

    /// A challenge for `ware` by `mechanism`; asks until there is one.
    pub(super) async fn bill(&self, ware: &(RouteName, Terms), mechanism: Mechanism) -> Challenge {
        loop {
            if let Answer::Bill(bill) = self.ask(ware, Presented::Nothing, true).await
                && let Some(challenge) = challenge_by(&bill, mechanism)
            {
                return challenge;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// As [`Town::bill`], for what is added to the purse with this token.
    async fn bill_for(&self, ware: &(RouteName, Terms), mechanism: Mechanism, token: &str) -> Challenge {
        // More than can be in it.
        let hold = Some(Raw::new(u128::MAX));
        loop {
            let presented = Presented::Token(token.to_owned());
            if let Answer::Bill(bill) = self.ask_for(ware, presented, hold, true).await
                && let Some(challenge) = challenge_by(&bill, mechanism)
            {
                self.world.hold(challenge.adds_to().is_some(), || "a purse is not offered more".to_owned());
                return challenge;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Kills an instance and starts another in its place.
    fn crash(self: &Arc<Self>, addresses: u32) {
        let fresh = Arc::new(Instance::start(&self.world, addresses));
        let dead = {
            let mut instances = self.instances.lock().unwrap();
            let which = self.world.below(instances.len() as u64) as usize;
            std::mem::replace(&mut instances[which], fresh)
        };
        dead.kill();
        let mut book = self.book.lock().unwrap();
        book.kills += 1;
        for (id, count) in dead.unreported.lock().unwrap().iter() {
            *book.forgiven.entry(*id).or_default() += (*count).max(0);
        }
        self.world.note(|| "an instance is killed, another starts".to_owned());
    }
}

/// The challenge of a bill for this mechanism.
pub(super) fn challenge_by(bill: &Bill, mechanism: Mechanism) -> Option<Challenge> {
    bill.challenges.iter().find(|it| it.offer().mechanism == mechanism).cloned()
}

/// The proof by `nanoTxn`: the signed block.
pub(super) fn txn_proof(challenge: &Challenge, block: StateBlock) -> Presented {
    let evidence = Evidence::Txn(block);
    Presented::Proof(Box::new(Proof {
        nonce: challenge.nonce(),
        offer: challenge.offer().clone(),
        evidence,
        beside: None,
    }))
}

/// The proof by `nanoSignature`: a signature over the block and the challenge.
pub(super) fn signature_proof(
    challenge: &Challenge,
    block: BlockHash,
    account: Account,
    key: &SecretKey,
) -> Presented {
    let digest = faregate::nano::noms_digest(&nano_signature::message(block, challenge)).unwrap();
    let claim = nano_signature::SignatureEvidence { block, account, signature: key.sign(&digest) };
    let evidence = Evidence::Signature(claim);
    Presented::Proof(Box::new(Proof {
        nonce: challenge.nonce(),
        offer: challenge.offer().clone(),
        evidence,
        beside: None,
    }))
}

/// The proof by `nanoSession` of `block`.
fn session_proof(challenge: &Challenge, block: BlockHash) -> Presented {
    let evidence = Evidence::Session(nano_session::SessionEvidence { block, asked: Some(challenge.due()) });
    Presented::Proof(Box::new(Proof {
        nonce: challenge.nonce(),
        offer: challenge.offer().clone(),
        evidence,
        beside: None,
    }))
}

/// A block that was signed for a challenge.
#[derive(Clone)]
pub(super) struct Paid {
    pub(super) challenge: Challenge,
    pub(super) block: StateBlock,
    /// Refused for good while the network did not know the block.
    pub(super) given_up: bool,
    /// The journal holds the block under this challenge, which stays good for it when it runs out.
    pub(super) claimed: bool,
}

/// One honest payer: buys `purchases` things, one after the other, and uses each to its end.
pub(super) async fn honest(town: Arc<Town>, key: SecretKey, mechanism: Mechanism, purchases: u64) -> Raw {
    let mut spent = Raw::ZERO;
    for _ in 0..purchases {
        let [cheap, dear] = wares();
        let ware = [cheap, dear, tokens()][town.world.below(3) as usize].clone();
        let mut purse = None;
        loop {
            let paid = buy(&town, &key, mechanism, &ware, &mut purse).await;
            spent = spent.checked_add(paid).unwrap();
            town.book.lock().unwrap().purchases += 1;
            // A purse is topped up, again and again.
            if purse.is_none() || town.world.chance(50) {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(town.world.below(3_000))).await;
    }
    spent
}

/// Buys one thing, or adds to a purse that was bought before; what it cost.
async fn buy(
    town: &Arc<Town>,
    key: &SecretKey,
    mechanism: Mechanism,
    ware: &(RouteName, Terms),
    purse: &mut Option<String>,
) -> Raw {
    let world = &town.world;
    let (unit, mut left) = ware.1.stock();
    let mut cost = ware.1.amount;
    // Every block signed for this purchase: all build on one frontier, so one at most is confirmed.
    let mut signed_for: Vec<Paid> = Vec::new();
    let mut impatience = 1;
    while left > 0 {
        let on_chain = signed_for.iter().rfind(|it| world.truth(it.block.hash()).is_some()).cloned();
        let paid = match (on_chain, signed_for.last()) {
            (Some(paid), _) => paid,
            (None, Some(last))
                if !last.given_up && (last.claimed || !last.challenge.has_expired(world.now())) =>
            {
                last.clone()
            }
            (None, _) => {
                let challenge = match purse {
                    Some(token) => town.bill_for(ware, mechanism, token).await,
                    None => town.bill(ware, mechanism).await,
                };
                if world.is_unsettled(key.account())
                    || signed_for.iter().any(|it| world.truth(it.block.hash()).is_some())
                {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
                let block = world.send(key, challenge.offer().pay_to, challenge.due());
                if mechanism != Mechanism::NanoTxn {
                    world.hold(world.process(&block).is_ok(), || "an honest send was refused".to_owned());
                }
                signed_for.push(Paid { challenge, block, given_up: false, claimed: false });
                continue;
            }
        };
        let hash = paid.block.hash();
        let mut presented = match mechanism {
            Mechanism::NanoTxn => txn_proof(&paid.challenge, paid.block),
            Mechanism::NanoSignature => signature_proof(&paid.challenge, hash, key.account(), key),
            Mechanism::NanoSession => session_proof(&paid.challenge, hash),
        };
        if let Presented::Proof(proof) = &mut presented {
            proof.beside.clone_from(purse);
        }
        world.present(hash, paid.challenge.nonce());
        let patient = impatience == 0 || !world.chance(10);
        if !patient {
            impatience -= 1;
        }
        // To the last raw: nothing of a purse is lost.
        let hold = (unit == Unit::Raw).then(|| Raw::new(left.min(1 + u128::from(world.below(40)))));
        match town.ask_for(ware, presented, hold, patient).await {
            Answer::Served(used, token) => {
                if unit == Unit::Raw {
                    *purse = Some(token);
                }
                // After a crash there may be more in a purse than its owner knows.
                left = left.saturating_sub(used);
                cost = paid.challenge.due();
            }
            Answer::Failed | Answer::Lost => {}
            Answer::Wait => tokio::time::sleep(Duration::from_millis(700)).await,
            Answer::Bill(bill) => {
                let refusal = bill.refused.as_ref().map(|it| it.refusal);
                world.note(|| format!("{mechanism} {hash} refused: {refusal:?}, {left} left"));
                refused(world, &mut signed_for, &paid, &bill, refusal);
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
        }
    }
    cost
}

/// Has `left` more uses of what is bought, by its token.
pub(super) async fn use_up(town: &Town, ware: &(RouteName, Terms), token: &str, mut left: u32) {
    while left > 0 {
        match town.ask(ware, Presented::Token(token.to_owned()), true).await {
            Answer::Served(..) => left -= 1,
            Answer::Failed | Answer::Lost => {}
            Answer::Wait => tokio::time::sleep(Duration::from_millis(700)).await,
            Answer::Bill(bill) => {
                let why = bill.refused.map(|it| it.refusal);
                town.world.hold(false, || format!("{left} bought uses are refused: {why:?}"));
                return;
            }
        }
    }
}

/// Whether two proofs show one block under two challenges.
pub(super) fn is_twin(one: &Paid, other: &Paid) -> bool {
    one.block.hash() == other.block.hash() && one.challenge.nonce() != other.challenge.nonce()
}

/// What an honest payer makes of a refusal: which ones he may be given, and what he does.
fn refused(world: &World, signed_for: &mut Vec<Paid>, paid: &Paid, bill: &Bill, refusal: Option<Refusal>) {
    let (hash, mechanism) = (paid.block.hash(), paid.challenge.offer().mechanism);
    match (mechanism, refusal) {
        (Mechanism::NanoSignature, Some(Refusal::PaymentExpired)) => {
            let fresh = challenge_by(bill, mechanism).expect("a fresh challenge");
            let same = fresh.offer().pay_to == paid.challenge.offer().pay_to;
            world.hold(same, || format!("{hash} came late and was given another address"));
            signed_for.push(Paid { challenge: fresh, block: paid.block, given_up: false, claimed: false });
        }
        (Mechanism::NanoTxn, Some(Refusal::PaymentExpired)) => {
            let seen = world.truth(hash);
            world.hold(seen.is_none(), || format!("{hash} was broadcast and is called expired ({seen:?})"));
        }
        (
            Mechanism::NanoTxn,
            Some(
                Refusal::StaleFrontier
                | Refusal::InsufficientAmount
                | Refusal::DuplicateFrontier
                | Refusal::BroadcastFailed
                | Refusal::FrontierChanged,
            ),
        ) => {
            // Where the network shows the block after all, the same proof is shown again.
            if world.truth(hash).is_none() {
                signed_for.iter_mut().filter(|it| it.block.hash() == hash).for_each(|it| it.given_up = true);
            }
        }
        (Mechanism::NanoTxn, Some(Refusal::DuplicateBlockHash))
            if signed_for.iter().any(|it| is_twin(it, paid)) =>
        {
            // The same address and frontier made the same block under two challenges. It belongs to
            // the one it was shown under first, so that proof is shown again.
            if let Some(place) = signed_for.iter().position(|it| is_twin(it, paid)) {
                let first = signed_for.remove(place);
                signed_for.push(Paid { given_up: false, claimed: true, ..first });
            }
        }
        (_, other) => world.hold(false, || format!("an honest payment {hash} was answered {other:?}")),
    }
}

/// Sees every block of the network and tries to be served with it.
pub(super) async fn eavesdropper(town: Arc<Town>, key: SecretKey) {
    loop {
        tokio::time::sleep(Duration::from_millis(200 + town.world.below(1_500))).await;
        let blocks = town.world.public();
        if blocks.is_empty() {
            continue;
        }
        let block = blocks[town.world.below(blocks.len() as u64) as usize];
        let ware = &wares()[town.world.below(2) as usize];
        let mechanism = Mechanism::ALL[town.world.below(3) as usize];
        for _ in 0..4 {
            let challenge = town.bill(ware, mechanism).await;
            if challenge.offer().pay_to != block.destination() {
                continue;
            }
            let presented = match (mechanism, town.world.below(2)) {
                (Mechanism::NanoTxn, _) => txn_proof(&challenge, block),
                (Mechanism::NanoSignature, 0) => {
                    signature_proof(&challenge, block.hash(), block.account, &key)
                }
                (Mechanism::NanoSignature, _) => {
                    signature_proof(&challenge, block.hash(), key.account(), &key)
                }
                (Mechanism::NanoSession, _) => session_proof(&challenge, block.hash()),
            };
            town.world.present(block.hash(), challenge.nonce());
            let answer = town.ask(ware, presented, true).await;
            let got = matches!(answer, Answer::Served(..) | Answer::Failed);
            town.world.hold(!got, || format!("the eavesdropper was served with {}", block.hash()));
            break;
        }
    }
}

/// Pays for three uses and reads every answer but its end, as often as it is let.
pub(super) async fn breaker(town: Arc<Town>, key: SecretKey) {
    let [_, ware] = wares();
    let challenge = town.bill(&ware, Mechanism::NanoTxn).await;
    let block = town.world.send(&key, challenge.offer().pay_to, challenge.due());
    loop {
        let instance = town.someone();
        let ask = Ask {
            hold: None,
            route: ware.0.clone(),
            standing: Arc::default(),
            listed: ware.1.into(),
            quoted: Some(ware.1.into()),
            metering: faregate::routes::Metering::Leased,
            presented: txn_proof(&challenge, block),
            identified: None,
            client: None,
            down: None,
            url: None,
        };
        town.world.present(block.hash(), challenge.nonce());
        let decided = tokio::time::timeout(CLIENT_TIMEOUT, instance.till.decide(ask)).await;
        if let Ok(Verdict::Admit(admitted)) = decided
            && !instance.life.is_over()
        {
            let record = admitted.taken.held().record();
            town.book.lock().unwrap().bought.insert(record.id, i64::from(record.uses()));
            town.break_off(&instance, admitted).await;
        }
        tokio::time::sleep(Duration::from_millis(town.world.below(1_000))).await;
    }
}

/// Pays once and tries to be served more often: under other challenges, on other routes, by the
/// other mechanism, with two blocks on one frontier, hanging up before the end.
pub(super) async fn cheater(town: Arc<Town>, key: SecretKey) {
    loop {
        tokio::time::sleep(Duration::from_millis(town.world.below(4_000))).await;
        if town.world.is_unsettled(key.account()) {
            continue;
        }
        let ware = wares()[town.world.below(2) as usize].clone();
        let mechanism = Mechanism::ALL[town.world.below(3) as usize];
        let challenge = town.bill(&ware, mechanism).await;
        if town.world.is_unsettled(key.account()) {
            continue;
        }
        let block = town.world.send(&key, challenge.offer().pay_to, challenge.due());
        if mechanism != Mechanism::NanoTxn || town.world.chance(30) {
            let _known = town.world.process(&block);
        }
        if town.world.chance(30) {
            // Another block on the same frontier, straight to the network: back to himself.
            let rival = town.world.send(&key, key.account(), Raw::new(1));
            let _won = town.world.process(&rival);
        }
        let mut tries = Vec::new();
        for round in 0..6 {
            let (town, key, ware, challenge) =
                (Arc::clone(&town), key.clone(), ware.clone(), challenge.clone());
            tries.push(tokio::spawn(async move {
                let ware = if round % 3 == 2 { wares()[town.world.below(2) as usize].clone() } else { ware };
                let challenge = if round % 2 == 1 {
                    town.bill(&ware, challenge.offer().mechanism).await
                } else {
                    challenge
                };
                let presented = match challenge.offer().mechanism {
                    Mechanism::NanoTxn => txn_proof(&challenge, block),
                    Mechanism::NanoSignature => {
                        signature_proof(&challenge, block.hash(), key.account(), &key)
                    }
                    Mechanism::NanoSession => session_proof(&challenge, block.hash()),
                };
                for _ in 0..3 {
                    let again = match &presented {
                        Presented::Proof(proof) => Presented::Proof(proof.clone()),
                        Presented::Nothing
                        | Presented::Token(_)
                        | Presented::Plain(_)
                        | Presented::Malformed(_)
                        | Presented::Refused(_)
                        | Presented::Derived(_) => return,
                    };
                    town.world.present(block.hash(), challenge.nonce());
                    let _answer = town.ask(&ware, again, false).await;
                    tokio::time::sleep(Duration::from_millis(town.world.below(2_000))).await;
                }
            }));
        }
        for it in tries {
            it.await.unwrap();
        }
    }
}

/// What goes wrong in the world.
pub(super) async fn accidents(town: Arc<Town>, addresses: u32) {
    loop {
        tokio::time::sleep(Duration::from_millis(1_000 + town.world.below(7_000))).await;
        match town.world.below(5) {
            0..=2 => town.crash(addresses),
            3 => town.world.store_goes_down(Duration::from_millis(town.world.below(6_000))),
            _ => town.world.nodes_go_down(Duration::from_millis(town.world.below(8_000))),
        }
    }
}
