//! Who gives ids to his payments, and who would like to have what was bought under them.
//!
//! The payer does what official wrappers do: after a lost answer, a 503 or a kill he shows the same
//! proof again, an older one, or one that it signs again, all under the id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use faregate::cashier::{Admitted, Ask, Bill, IdentifierRefusal, Presented, Verdict};
use faregate::nano::{Account, BlockHash, Raw, SecretKey};
use faregate::payment::{IdentifiedRequest, IdentifierKey, Mechanism, RequestDigest};
use faregate::routes::{Metering, RouteName, Terms};
use faregate::store::capabilities::BrokenAnswer;
use faregate::store::{Answer as Kept, PaymentJournal};

use super::instance::Instance;
use super::people::{self, CLIENT_TIMEOUT, Paid, Town, wares};
use super::world::World;

type Ware = (RouteName, Terms);

/// What was given and handed over under ids.
#[derive(Default)]
pub(super) struct Names {
    /// Everything that was ever asked for under an id; whoever listens knows it.
    known: Vec<(IdentifiedRequest, Ware)>,
    /// Which payment an id bought with.
    bought: BTreeMap<IdentifierKey, BlockHash>,
    /// Every answer that was made for a payment under an id.
    answers: BTreeMap<BlockHash, BTreeSet<Vec<u8>>>,
    /// Ids whose answer was handed over and could not be kept.
    unkept: BTreeSet<IdentifierKey>,
}

/// How one request under an id ended for its client.
enum Told {
    /// An answer, and what else the payment bought.
    Served(String),
    /// The upstream failed, or no answer came, or it was "come again".
    Again,
    Refused(Bill),
    Turned(IdentifierRefusal),
}

/// A request under an id, as it is on the wire.
struct Asked<'a> {
    ware: &'a Ware,
    identified: IdentifiedRequest,
    who: Account,
    /// Whether the client waits for the end of the answer, and the network brings it.
    patient: bool,
}

impl Town {
    async fn ask_under(&self, asked: &Asked<'_>, presented: Presented) -> Told {
        let instance = self.someone();
        let ask = Ask {
            hold: None,
            route: asked.ware.0.clone(),
            standing: Arc::default(),
            listed: asked.ware.1.into(),
            quoted: Some(asked.ware.1.into()),
            metering: Metering::Leased,
            presented,
            identified: Some(asked.identified),
            client: None,
            down: None,
            url: None,
        };
        let decided = tokio::time::timeout(CLIENT_TIMEOUT, instance.till.decide(ask)).await;
        self.world.note(|| format!("{} under {}: {}", asked.who, asked.identified.id, outcome(&decided)));
        if instance.life.is_over() {
            return Told::Again;
        }
        match decided {
            Err(_) | Ok(Verdict::Wait(_)) => Told::Again,
            Ok(Verdict::Bill(bill)) => Told::Refused(bill),
            Ok(Verdict::Moved(moved)) => panic!("no route is renamed: {moved:?}"),
            Ok(Verdict::Conflict(refusal)) => Told::Turned(refusal),
            Ok(Verdict::Replay(replay)) => {
                let purchase = replay.held.purchase();
                self.is_his(asked, purchase.block, purchase.payer);
                let made = self.book.lock().unwrap().names.answers.get(&purchase.block).cloned();
                let same = made.unwrap_or_default().contains(&replay.answer.body.unwrap_or_default());
                self.world.hold(same, || format!("{} was given an answer that nobody made", asked.who));
                if asked.patient {
                    Told::Served(String::from_utf8(replay.said.token().to_vec()).unwrap())
                } else {
                    Told::Again
                }
            }
            Ok(Verdict::Admit(admitted)) => {
                let purchase = admitted.taken.held().purchase();
                self.is_his(asked, purchase.block, purchase.payer);
                self.forward_under(&instance, asked, admitted).await
            }
        }
    }

    /// Holds that what `asked` gets was paid by who asks, and that one payment only stands for the id.
    fn is_his(&self, asked: &Asked<'_>, block: BlockHash, payer: Account) {
        let (who, id) = (asked.who, asked.identified.id);
        self.world.hold(payer == who, || format!("{who} was served under an id with {block} of {payer}"));
        let first = *self.book.lock().unwrap().names.bought.entry(id).or_insert(block);
        self.world.hold(first == block, || format!("{first} and {block} are granted under one id"));
    }

    /// What the gateway does with a request that was let in under an id.
    async fn forward_under(&self, instance: &Arc<Instance>, asked: &Asked<'_>, admitted: Admitted) -> Told {
        let (world, id) = (&self.world, asked.identified.id);
        let (capability, block) = (admitted.taken.held().record().id, admitted.taken.held().record().block);
        let uses = i64::from(admitted.taken.held().record().uses());
        let mut body = [0; 8];
        world.fill(&mut body);
        {
            let mut book = self.book.lock().unwrap();
            book.bought.insert(capability, uses);
            book.names.answers.entry(block).or_default().insert(body.to_vec());
        }
        tokio::time::sleep(Duration::from_millis(5 + world.below(2_000))).await;
        if instance.life.is_over() {
            return Told::Again;
        }
        if world.fault(15) {
            instance.till.capabilities().fail(admitted.taken);
            return Told::Again;
        }
        let unreported = Arc::clone(&instance.unreported);
        if !asked.patient && world.chance(50) {
            // He hung up before the end of the answer.
            if self.break_off(instance, admitted).await == Some(BrokenAnswer::Committed) {
                self.book.lock().unwrap().names.unkept.insert(id);
            }
            return Told::Again;
        }
        let told = String::from_utf8(admitted.said.token().to_vec()).unwrap();
        if asked.patient {
            *self.book.lock().unwrap().served.entry(capability).or_default() += 1;
        }
        *unreported.lock().unwrap().entry(capability).or_default() += 1;
        let (instance, book) = (Arc::clone(instance), Arc::clone(&self.book));
        tokio::spawn(async move {
            let answer = Kept { status: 200, headers: Vec::new(), body: Some(body.to_vec()) };
            if admitted.keeping.is_none() || !instance.till.keep(&admitted, &answer).await {
                book.lock().unwrap().names.unkept.insert(id);
            }
            admitted.taken.commit();
            drop(admitted.keeping);
        });
        if asked.patient { Told::Served(told) } else { Told::Again }
    }
}

/// What was decided, in a word.
fn outcome<E>(decided: &Result<Verdict, E>) -> String {
    match decided {
        Err(_) => "no answer".to_owned(),
        Ok(Verdict::Wait(wait)) => format!("wait {wait:?}"),
        Ok(Verdict::Bill(bill)) => format!("bill {:?}", bill.refused.as_ref().map(|it| it.refusal)),
        Ok(Verdict::Moved(moved)) => format!("{moved:?}"),
        Ok(Verdict::Conflict(refusal)) => format!("{refusal:?}"),
        Ok(Verdict::Replay(replay)) => format!("replay of {}", replay.held.record().block),
        Ok(Verdict::Admit(admitted)) => format!("admitted by {}", admitted.taken.held().record().block),
    }
}

/// Buys `purchases` things, each under an id of its own. Gives what that may have cost.
pub(super) async fn namer(town: Arc<Town>, key: SecretKey, mechanism: Mechanism, purchases: u64) -> Raw {
    let mut spent = Raw::ZERO;
    for number in 0..purchases {
        let ware = wares()[town.world.below(2) as usize].clone();
        let token = Purchase::new(&town, &key, mechanism, &ware, number).run().await;
        if let Some(token) = token {
            let left = ware.1.grants.count() - 1;
            people::use_up(&town, &ware, &token, left).await;
        }
        spent = spent.checked_add(ware.1.amount).unwrap();
        town.book.lock().unwrap().purchases += 1;
        tokio::time::sleep(Duration::from_millis(town.world.below(3_000))).await;
    }
    spent
}

/// One purchase under an id.
struct Purchase<'a> {
    town: &'a Arc<Town>,
    key: &'a SecretKey,
    mechanism: Mechanism,
    ware: &'a Ware,
    number: u64,
    /// How many ids somebody else took before him.
    taken: u64,
    identified: IdentifiedRequest,
    proofs: Vec<Paid>,
    /// He was told of a block under another challenge: he goes back to any of his proofs, the first
    /// among them, as README says.
    goes_back: bool,
}

impl<'a> Purchase<'a> {
    fn new(
        town: &'a Arc<Town>,
        key: &'a SecretKey,
        mechanism: Mechanism,
        ware: &'a Ware,
        number: u64,
    ) -> Self {
        let request = RequestDigest::of("GET", ware.0.as_str(), &[], b"");
        let identified = IdentifiedRequest { id: IdentifierKey([0; 32]), request };
        let (taken, proofs, goes_back) = (0, Vec::new(), false);
        let mut it = Self { town, key, mechanism, ware, number, taken, identified, proofs, goes_back };
        it.name();
        it
    }

    fn world(&self) -> &'a World {
        &self.town.world
    }

    fn is_unkept(&self) -> bool {
        self.town.book.lock().unwrap().names.unkept.contains(&self.identified.id)
    }

    fn name(&mut self) {
        let name = format!("{}-{}-{}", self.key.account(), self.number, self.taken);
        self.identified.id = IdentifierKey::of(&name);
        self.town.book.lock().unwrap().names.known.push((self.identified, self.ware.clone()));
    }

    /// Asks until he is served; gives what else he bought. `None` if an answer could not be kept:
    /// it is gone for good, or a use more was taken for another.
    async fn run(mut self) -> Option<String> {
        let mut impatience = 2;
        let mut sign_again = true;
        loop {
            if sign_again {
                self.sign().await;
            }
            let Some(newest) = self.proofs.len().checked_sub(1) else { continue };
            let reach = if self.goes_back { self.proofs.len() } else { 3 };
            let back = if self.world().chance(70) { 0 } else { self.world().below(reach as u64) as usize };
            let paid = self.proofs[newest.saturating_sub(back)].clone();
            let hash = paid.block.hash();
            let presented = match self.mechanism {
                Mechanism::NanoTxn => people::txn_proof(&paid.challenge, paid.block),
                Mechanism::NanoSignature | Mechanism::NanoSession => {
                    people::signature_proof(&paid.challenge, hash, self.key.account(), self.key)
                }
            };
            self.world().present(hash, paid.challenge.nonce());
            let patient = impatience == 0 || !self.world().chance(30);
            if !patient {
                impatience -= 1;
            }
            let (ware, identified, who) = (self.ware, self.identified, self.key.account());
            match self.town.ask_under(&Asked { ware, identified, who, patient }, presented).await {
                Told::Served(token) => return Some(token).filter(|_| !self.is_unkept()),
                Told::Again => sign_again = self.world().chance(40),
                Told::Refused(bill) => {
                    let why = bill.refused.map(|it| it.refusal);
                    self.world().note(|| format!("under an id {hash} was refused: {why:?}"));
                    sign_again = true;
                }
                Told::Turned(IdentifierRefusal::Gone) => {
                    self.world()
                        .hold(self.is_unkept(), || format!("what {hash} bought is gone and was never given"));
                    return None;
                }
                Told::Turned(refusal) => {
                    self.turned(&paid, refusal).await;
                    sign_again = true;
                }
            }
            tokio::time::sleep(Duration::from_millis(self.world().below(1_200))).await;
        }
    }

    /// Signs a proof for another bill. A block that is sent already is signed for, not sent again.
    async fn sign(&mut self) {
        let challenge = self.town.bill(self.ware, self.mechanism).await;
        let world = self.world();
        let (pay_to, due) = (challenge.offer().pay_to, challenge.due());
        let sent = self.proofs.last().filter(|_| self.mechanism != Mechanism::NanoTxn).map(|it| it.block);
        let block = match sent {
            Some(block) if block.destination() == pay_to => block,
            Some(_) => return,
            None if self.mechanism == Mechanism::NanoTxn => world.send(self.key, pay_to, due),
            None => {
                let block = world.send(self.key, pay_to, due);
                world.hold(world.process(&block).is_ok(), || "an honest send was refused".to_owned());
                block
            }
        };
        self.proofs.push(Paid { challenge, block, given_up: false, claimed: false });
    }

    /// The id leads nowhere, it is said.
    async fn turned(&mut self, paid: &Paid, refusal: IdentifierRefusal) {
        let (world, hash) = (self.world(), paid.block.hash());
        if self.proofs.iter().any(|it| people::is_twin(it, paid)) {
            // The same address and frontier made the same block under two challenges. Whoever sees it
            // on the ledger could have made the second.
            self.proofs.retain(|it| it.challenge.nonce() != paid.challenge.nonce());
            self.goes_back = true;
            return;
        }
        let holder = world.store.identified(self.identified.id).await.unwrap();
        let thief = holder.is_some_and(|it| it.intent.payer != self.key.account());
        world.hold(thief, || format!("an honest proof with {hash} was answered {refusal:?}"));
        // What he has sent himself is as good under another id.
        if self.mechanism == Mechanism::NanoTxn {
            let out = self.proofs.iter().any(|it| world.truth(it.block.hash()).is_some());
            world.hold(!out, || format!("{hash} is paid and its id is another's"));
            self.proofs.clear();
        }
        self.taken += 1;
        self.name();
    }
}

/// Knows every id and sees the whole network; broadcasts again what it had dropped.
pub(super) async fn thief(town: Arc<Town>, key: SecretKey) {
    let mut seen = BTreeMap::new();
    let mut own = BTreeSet::new();
    let who = key.account();
    loop {
        tokio::time::sleep(Duration::from_millis(200 + town.world.below(1_500))).await;
        seen.extend(town.world.public().into_iter().map(|it| (it.hash(), it)));
        let known = town.book.lock().unwrap().names.known.clone();
        if known.is_empty() || seen.is_empty() {
            continue;
        }
        let (identified, ware) = &known[town.world.below(known.len() as u64) as usize];
        let victims: Vec<_> = seen.values().filter(|it| it.account != who).copied().collect();
        let Some(block) = victims.get(town.world.below(victims.len().max(1) as u64) as usize) else {
            continue;
        };
        let asked = Asked { ware, identified: *identified, who, patient: true };
        match town.world.below(4) {
            0 => {
                if town.world.truth(block.hash()).is_none() {
                    let came_back = town.world.process(block).is_ok();
                    town.world.note(|| format!("{} is broadcast again: {came_back}", block.hash()));
                }
            }
            1 => {
                // A payment of his own under another's id: it must not be taken.
                let challenge = town.bill(ware, Mechanism::NanoTxn).await;
                let block = town.world.send(&key, challenge.offer().pay_to, challenge.due());
                if !own.insert(block.hash()) {
                    continue;
                }
                let told = town.ask_under(&asked, people::txn_proof(&challenge, block)).await;
                let taken = matches!(told, Told::Turned(_)) && town.world.truth(block.hash()).is_some();
                town.world.hold(!taken, || format!("{} was turned away and broadcast", block.hash()));
            }
            way => {
                let mechanism = Mechanism::ALL[town.world.below(2) as usize];
                let challenge = town.bill(ware, mechanism).await;
                if challenge.offer().pay_to != block.destination() {
                    continue;
                }
                let presented = match mechanism {
                    Mechanism::NanoTxn => people::txn_proof(&challenge, *block),
                    Mechanism::NanoSignature | Mechanism::NanoSession => {
                        let account = if way == 2 { block.account } else { who };
                        people::signature_proof(&challenge, block.hash(), account, &key)
                    }
                };
                town.world.present(block.hash(), challenge.nonce());
                // He may be served what he has paid for himself, and that only.
                let _told = town.ask_under(&asked, presented).await;
            }
        }
    }
}
