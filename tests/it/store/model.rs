//! The store's contract, written as simply as possible: everything in one place, each use on its own. The oracle that the engines are compared with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use faregate::nano::{BlockHash, UnixSeconds};
use faregate::payment::{IdentifierKey, Mechanism, RequestDigest};
use faregate::routes::Unit;
use faregate::store::deposits::{
    Deposit, DepositJournal, Mark, Noted, SeenDeposit, SweepBlock, SweepRecord, SweepState,
};
use faregate::store::{
    Answer, Answers, Begin, CapabilityId, CapabilityRecord, Claims, Filter, Forget, Grant, Grantee, Health,
    Holder, Intent, Lease, LeaseRequest, Meters, PaymentJournal, PaymentRecord, PaymentState, StoreError,
    StoreHealth,
};

#[derive(Default)]
pub(crate) struct Model(Mutex<State>);

#[derive(Default)]
struct State {
    journal: Vec<PaymentRecord>,
    capabilities: BTreeMap<CapabilityId, Capability>,
    marked: BTreeSet<[u8; 32]>,
    /// Payments that gave their id up and did not fail, with the request that they were made for.
    yielded: BTreeMap<[u8; 32], RequestDigest>,
    answers: BTreeMap<[u8; 32], (Answer, UnixSeconds)>,
    deposits: Vec<SeenDeposit>,
    sweeps: Vec<SweepRecord>,
}

#[derive(Clone)]
struct Capability {
    record: CapabilityRecord,
    uses: Vec<Use>,
    /// Answers that broke off since a use was last spent.
    broken: u32,
    holders: BTreeMap<[u8; 16], LastAnswer>,
}

/// Where one use is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Use {
    Free,
    Out(Holder),
    Spent,
}

/// The last answer to a holder, and how many of its uses lapsed.
#[derive(Clone, Copy)]
struct LastAnswer {
    sequence: u64,
    answer: Lease,
    late: u128,
}

fn unfit<T>(reason: &str) -> Result<T, StoreError> {
    Err(StoreError::NotApplied(reason.to_owned()))
}

impl State {
    fn find(&mut self, block: BlockHash) -> Option<&mut PaymentRecord> {
        self.journal.iter_mut().find(|payment| payment.intent.block == block)
    }

    fn add(&mut self, intent: &Intent, state: PaymentState, now: UnixSeconds) -> PaymentRecord {
        let sequence = self.journal.len() as u64 + 1;
        let payment =
            PaymentRecord { sequence, intent: intent.clone(), state, created_at: now, updated_at: now };
        self.journal.push(payment.clone());
        payment
    }

    fn holder(&mut self, id: IdentifierKey) -> Option<&mut PaymentRecord> {
        self.journal.iter_mut().find(|it| it.intent.identified.is_some_and(|it| it.id == id))
    }

    /// The other payment under the id of `intent`, which is not in the journal, unless it gives the id
    /// up. Where it does and one that gave it up before may yet be paid, that one has it back.
    fn id_held(&mut self, intent: &Intent) -> Option<BlockHash> {
        let wanted = intent.identified?;
        let holder = self.holder(wanted.id)?.clone();
        let one_frontier = frontier(intent).is_some() && frontier(intent) == frontier(&holder.intent);
        if holder.state != PaymentState::Failed && !(holder.state == PaymentState::Parked && one_frontier) {
            return Some(holder.intent.block);
        }
        let previous = frontier(&holder.intent).filter(|_| !one_frontier)?;
        let (yielded, had) = (self.yielded.clone(), holder.intent.identified?);
        let lives = |it: &PaymentRecord| matches!(it.state, PaymentState::Intent | PaymentState::Parked);
        let heir = self.journal.iter().find(|it| {
            lives(it)
                && frontier(&it.intent) == Some(previous)
                && yielded.get(&it.intent.block.0) == Some(&had.request)
        })?;
        let block = heir.intent.block;
        self.give_up(wanted.id);
        self.yielded.remove(&block.0);
        self.find(block).unwrap().intent.identified = Some(had);
        Some(block)
    }

    /// Whoever holds the id gives it up.
    fn give_up(&mut self, id: IdentifierKey) {
        let Some(holder) = self.holder(id) else { return };
        let (block, state) = (holder.intent.block, holder.state);
        let had = holder.intent.identified.take().unwrap();
        if state != PaymentState::Failed {
            self.yielded.insert(block.0, had.request);
        }
    }

    /// A payment that is confirmed has the id back that it gave up to another on its frontier.
    fn take_back(&mut self, block: BlockHash) {
        let Some(request) = self.yielded.get(&block.0).copied() else { return };
        let own = frontier(&self.find(block).unwrap().intent);
        let holder = self.journal.iter_mut().find(|it| {
            it.state != PaymentState::Granted
                && frontier(&it.intent) == own
                && it.intent.identified.is_some_and(|it| it.request == request)
        });
        let Some(id) = holder.and_then(|it| it.intent.identified.take()) else { return };
        self.yielded.remove(&block.0);
        self.find(block).unwrap().intent.identified = Some(id);
    }

    fn is_claimed(&self, block: BlockHash) -> bool {
        self.marked.contains(&block.0) || self.journal.iter().any(|it| it.intent.block == block)
    }

    /// The other live intent on the frontier of `intent`.
    fn rival(&self, intent: &Intent) -> Option<BlockHash> {
        let frontier = intent.signed?.previous;
        self.journal
            .iter()
            .filter(|it| it.state == PaymentState::Intent && it.intent.block != intent.block)
            .find(|it| it.intent.signed.is_some_and(|block| block.previous == frontier))
            .map(|it| it.intent.block)
    }
}

fn frontier(intent: &Intent) -> Option<BlockHash> {
    intent.signed.map(|block| block.previous)
}

impl Capability {
    /// Moves one use that is `from` to `to`, if there is one.
    fn shift(&mut self, from: Use, to: Use) -> bool {
        match self.uses.iter_mut().find(|it| **it == from) {
            Some(found) => {
                *found = to;
                true
            }
            None => false,
        }
    }

    fn count(&self, wanted: impl Fn(Use) -> bool) -> u128 {
        self.uses.iter().filter(|it| wanted(**it)).count() as u128
    }

    fn lapse(&mut self, now: UnixSeconds) {
        for (holder, mut last) in self.holders.clone() {
            if last.answer.expires_at <= now {
                while self.shift(Use::Out(Holder(holder)), Use::Free) {
                    last.late += 1;
                }
                self.holders.insert(holder, last);
            }
        }
    }

    fn answer(&self, holder: Holder, granted: u128, expires_at: UnixSeconds) -> Lease {
        Lease {
            granted,
            remaining: self.count(|it| it == Use::Free),
            elsewhere: self.count(|it| matches!(it, Use::Out(other) if other != holder)),
            broken: self.broken,
            expires_at,
            revoked: self.record.revoked,
        }
    }

    fn hand_out(&mut self, holder: Holder, want: u128, now: UnixSeconds) -> u128 {
        if self.record.revoked || self.record.expires_at <= now {
            return 0;
        }
        (0..want.min(self.record.stock)).filter(|_| self.shift(Use::Free, Use::Out(holder))).count() as u128
    }

    fn join(&mut self, holder: Holder, want: u128, ttl: u64, now: UnixSeconds) -> Lease {
        match self.holders.get(&holder.0) {
            Some(last) if last.sequence == 0 => Lease { revoked: self.record.revoked, ..last.answer },
            Some(last) => self.answer(holder, 0, last.answer.expires_at),
            None => {
                self.lapse(now);
                let granted = self.hand_out(holder, want, now);
                let answer = self.answer(holder, granted, now.plus(ttl));
                self.holders.insert(holder.0, LastAnswer { sequence: 0, answer, late: 0 });
                answer
            }
        }
    }

    fn lease(&mut self, request: &LeaseRequest, now: UnixSeconds) -> Result<Lease, StoreError> {
        let holder = request.holder;
        match self.holders.get(&holder.0) {
            Some(last) if last.sequence == request.sequence => {
                return Ok(Lease { revoked: self.record.revoked, ..last.answer });
            }
            Some(last) if last.sequence > request.sequence => return unfit("an old call"),
            None if request.sequence == 0 => return unfit("no number"),
            Some(_) | None => {}
        }
        self.lapse(now);
        let mut late = self.holders.get(&holder.0).map_or(0, |last| last.late);
        let had = self.count(|it| it == Use::Out(holder)) + late;
        if request.used.saturating_add(request.returned) > had {
            return unfit("more than it had");
        }
        let before = self.count(|it| it == Use::Spent);
        let mut spent_late = 0;
        for _ in 0..request.used {
            if !self.shift(Use::Out(holder), Use::Spent) {
                late -= 1;
                spent_late += 1;
            }
        }
        for _ in 0..request.returned {
            if !self.shift(Use::Out(holder), Use::Free) {
                late -= 1;
            }
        }
        for _ in 0..spent_late {
            self.shift(Use::Free, Use::Spent);
        }
        if self.count(|it| it == Use::Spent) > before {
            self.broken = 0;
        }
        self.broken += request.broken;
        let granted = self.hand_out(holder, request.want, now);
        let answer = self.answer(holder, granted, now.plus(request.ttl));
        self.holders.insert(holder.0, LastAnswer { sequence: request.sequence, answer, late });
        Ok(answer)
    }
}

impl Claims for Model {
    async fn begin(&self, intent: &Intent, now: UnixSeconds) -> Result<Begin, StoreError> {
        let mut state = self.0.lock().unwrap();
        if let Some(known) = state.find(intent.block).cloned() {
            if known.state != PaymentState::Parked || known.intent.challenge != intent.challenge {
                return Ok(Begin::Existing(known));
            }
            if let Some(rival) = state.rival(&known.intent) {
                return Ok(Begin::FrontierHeld(rival));
            }
            let known = state.find(intent.block).unwrap();
            known.state = PaymentState::Intent;
            known.updated_at = now;
            return Ok(Begin::Fresh(known.clone()));
        }
        if state.marked.contains(&intent.block.0) {
            return Ok(Begin::Spent);
        }
        if let Some(holder) = state.id_held(intent) {
            return Ok(Begin::IdHeld(holder));
        }
        if let Some(rival) = state.rival(intent) {
            return Ok(Begin::FrontierHeld(rival));
        }
        if let Some(under) = intent.identified {
            state.give_up(under.id);
        }
        Ok(Begin::Fresh(state.add(intent, PaymentState::Intent, now)))
    }

    async fn advance(
        &self,
        block: BlockHash,
        from: &[PaymentState],
        to: PaymentState,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        let mut state = self.0.lock().unwrap();
        if to == PaymentState::Granted {
            return unfit("only a grant grants");
        }
        let Some(known) = state.find(block).cloned() else { return Ok(false) };
        if known.state == PaymentState::Granted || !from.contains(&known.state) {
            return Ok(false);
        }
        if to == PaymentState::Intent && state.rival(&known.intent).is_some() {
            return unfit("another holds the frontier");
        }
        let known = state.find(block).unwrap();
        known.state = to;
        known.updated_at = now;
        Ok(true)
    }

    async fn mark_spent(&self, block: BlockHash, _: UnixSeconds) -> Result<bool, StoreError> {
        let mut state = self.0.lock().unwrap();
        Ok(state.find(block).is_none() && state.marked.insert(block.0))
    }
}

impl PaymentJournal for Model {
    async fn payment(&self, block: BlockHash) -> Result<Option<PaymentRecord>, StoreError> {
        Ok(self.0.lock().unwrap().find(block).cloned())
    }

    async fn identified(&self, id: IdentifierKey) -> Result<Option<PaymentRecord>, StoreError> {
        let state = self.0.lock().unwrap();
        Ok(state.journal.iter().find(|it| it.intent.identified.is_some_and(|it| it.id == id)).cloned())
    }

    async fn scan(&self, after: u64, filter: Filter, limit: usize) -> Result<Vec<PaymentRecord>, StoreError> {
        let state = self.0.lock().unwrap();
        let fits =
            |it: &&PaymentRecord| it.sequence > after && filter.state.is_none_or(|state| it.state == state);
        Ok(state.journal.iter().filter(fits).take(limit).cloned().collect())
    }
}

impl Meters for Model {
    async fn grant(&self, intent: &Intent, grantee: Grantee, now: UnixSeconds) -> Result<Grant, StoreError> {
        let mut state = self.0.lock().unwrap();
        let known = state.find(intent.block).cloned();
        if known.as_ref().is_some_and(|known| known.intent.challenge != intent.challenge) {
            return Ok(Grant::Taken);
        }
        if state.marked.contains(&intent.block.0) {
            return Ok(Grant::Taken);
        }
        let Grantee { id, holder, want, ttl } = grantee;
        let granted = known.as_ref().is_some_and(|known| known.state == PaymentState::Granted);
        if known.is_none()
            && let Some(holder) = state.id_held(intent)
        {
            return Ok(Grant::IdHeld(holder));
        }
        if !granted {
            if state.capabilities.contains_key(&id) {
                return unfit("the id is another payment's");
            }
            if known.is_none()
                && let Some(under) = intent.identified
            {
                state.give_up(under.id);
            }
            let bought = match &known {
                Some(known) => {
                    let row = state.find(known.intent.block).unwrap();
                    row.state = PaymentState::Granted;
                    row.updated_at = now;
                    let bought = row.intent.clone();
                    state.take_back(known.intent.block);
                    bought
                }
                None => state.add(intent, PaymentState::Granted, now).intent,
            };
            // The tag of a session is no part of what it buys.
            let (unit, stock) = match (bought.terms.stock(), bought.mechanism) {
                ((Unit::Raw, _), Mechanism::NanoTxn | Mechanism::NanoSignature) => {
                    (Unit::Raw, bought.amount.get())
                }
                (other, _) => other,
            };
            let adds_to = bought.adds_to();
            let mut record = CapabilityRecord {
                id,
                block: bought.block,
                route: bought.route.without_purse(),
                unit,
                stock,
                expires_at: now.plus(bought.terms.grants.seconds),
                revoked: false,
                added_to: None,
            };
            if let Some(purse) = adds_to.and_then(|it| state.capabilities.get_mut(&it))
                && (purse.record.unit, purse.record.revoked) == (Unit::Raw, false)
                && now < purse.record.expires_at
            {
                purse.uses.extend(vec![Use::Free; stock as usize]);
                purse.record.stock += stock;
                purse.record.expires_at = purse.record.expires_at.max(record.expires_at);
                (record.stock, record.added_to) = (0, Some(purse.record.id));
            }
            let stock = record.stock;
            let uses = vec![Use::Free; stock as usize];
            state.capabilities.insert(id, Capability { record, uses, broken: 0, holders: BTreeMap::new() });
        }
        let capability = state.capabilities.values_mut().find(|it| it.record.block == intent.block).unwrap();
        let lease = capability.join(holder, want, ttl, now);
        Ok(Grant::Granted { record: capability.record.clone(), lease, fresh: !granted })
    }

    async fn capability(&self, id: CapabilityId) -> Result<Option<CapabilityRecord>, StoreError> {
        Ok(self.0.lock().unwrap().capabilities.get(&id).map(|it| it.record.clone()))
    }

    async fn lease(&self, request: LeaseRequest, now: UnixSeconds) -> Result<Lease, StoreError> {
        let mut state = self.0.lock().unwrap();
        let Some(capability) = state.capabilities.get_mut(&request.capability) else {
            return unfit("no such capability");
        };
        let mut changed = capability.clone();
        let answer = changed.lease(&request, now)?;
        *capability = changed;
        Ok(answer)
    }

    async fn revoke(&self, id: CapabilityId, _: UnixSeconds) -> Result<bool, StoreError> {
        let mut state = self.0.lock().unwrap();
        let found = state.capabilities.get_mut(&id);
        Ok(found.map(|capability| capability.record.revoked = true).is_some())
    }
}

impl Answers for Model {
    async fn keep(&self, block: BlockHash, answer: &Answer, now: UnixSeconds) -> Result<bool, StoreError> {
        let mut state = self.0.lock().unwrap();
        let granted = state.find(block).is_some_and(|it| it.state == PaymentState::Granted);
        if !granted || state.answers.contains_key(&block.0) {
            return Ok(false);
        }
        state.answers.insert(block.0, (answer.clone(), now));
        Ok(true)
    }

    async fn kept(&self, block: BlockHash) -> Result<Option<Answer>, StoreError> {
        Ok(self.0.lock().unwrap().answers.get(&block.0).map(|(answer, _)| answer.clone()))
    }

    async fn forget(&self, what: Forget) -> Result<u32, StoreError> {
        let mut state = self.0.lock().unwrap();
        let (mut bodies, mut ids) = (Vec::new(), Vec::new());
        for payment in &state.journal {
            let block = payment.intent.block;
            if let Some((answer, at)) = state.answers.get(&block.0)
                && answer.body.is_some()
                && *at <= what.answers_until
            {
                bodies.push((*at, payment.sequence, block));
            }
            let undecided = payment.state == PaymentState::Intent;
            if payment.intent.identified.is_some() && !undecided && payment.updated_at <= what.ids_until {
                ids.push((payment.updated_at, payment.sequence, block));
            }
        }
        for oldest in [&mut bodies, &mut ids] {
            oldest.sort();
            oldest.truncate(what.limit as usize);
        }
        for (_, _, block) in &bodies {
            let (answer, _) = state.answers.get_mut(&block.0).unwrap();
            *answer = Answer::not_kept(answer.status);
        }
        for (_, _, block) in &ids {
            state.answers.remove(&block.0);
            state.find(*block).unwrap().intent.identified = None;
        }
        Ok((bodies.len() + ids.len()) as u32)
    }
}

impl StoreHealth for Model {
    fn is_writable(&self) -> bool {
        true
    }

    fn health(&self) -> Health {
        let state = self.0.lock().unwrap();
        let newest = state.journal.iter().map(|it| it.created_at.max(it.updated_at)).max();
        Health { writable: true, free_bytes: None, floor: 0, newest: newest.unwrap_or(UnixSeconds(0)) }
    }
}

impl DepositJournal for Model {
    async fn note_deposits(
        &self,
        deposits: &[Deposit],
        keep: u32,
        now: UnixSeconds,
    ) -> Result<Noted, StoreError> {
        let mut state = self.0.lock().unwrap();
        let mut noted = Noted::default();
        for deposit in deposits {
            let known = state.deposits.iter().any(|it| it.deposit.block == deposit.block);
            if !known && !state.is_claimed(deposit.block) {
                state.deposits.push(SeenDeposit { seen_at: now, deposit: *deposit });
                noted.fresh += 1;
            }
        }
        let keep = keep as usize;
        if state.deposits.len() > keep {
            let mut kept = std::mem::take(&mut state.deposits);
            kept.retain(|it| !state.is_claimed(it.deposit.block));
            kept.sort_by_key(|it| std::cmp::Reverse((it.deposit.amount, it.deposit.block)));
            noted.dropped = kept.len().saturating_sub(keep) as u64;
            kept.truncate(keep);
            state.deposits = kept;
        }
        Ok(noted)
    }

    async fn unclaimed(&self, after: Option<Mark>, limit: usize) -> Result<Vec<SeenDeposit>, StoreError> {
        let state = self.0.lock().unwrap();
        let open = state.deposits.iter().filter(|it| !state.is_claimed(it.deposit.block));
        let mut found: Vec<_> = open.filter(|it| Some(it.mark()) > after).copied().collect();
        found.sort_by_key(SeenDeposit::mark);
        found.truncate(limit);
        Ok(found)
    }

    async fn plan_sweep(&self, block: &SweepBlock, now: UnixSeconds) -> Result<(), StoreError> {
        let mut state = self.0.lock().unwrap();
        if !state.sweeps.iter().any(|it| it.block.block == block.block) {
            let record =
                SweepRecord { block: *block, state: SweepState::Planned, planned_at: now, ended_at: None };
            state.sweeps.push(record);
        }
        Ok(())
    }

    async fn end_sweep(
        &self,
        block: BlockHash,
        confirmed: bool,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        let mut state = self.0.lock().unwrap();
        let Some(found) = state.sweeps.iter_mut().find(|it| it.block.block == block) else {
            return Ok(false);
        };
        let moves = match found.state {
            SweepState::Planned => true,
            SweepState::Superseded => confirmed,
            SweepState::Confirmed => false,
        };
        if moves {
            found.state = if confirmed { SweepState::Confirmed } else { SweepState::Superseded };
            found.ended_at = Some(now);
        }
        Ok(moves)
    }

    async fn sweeps(
        &self,
        state: Option<SweepState>,
        after: Option<Mark>,
        limit: usize,
    ) -> Result<Vec<SweepRecord>, StoreError> {
        let held = self.0.lock().unwrap();
        let wanted = held.sweeps.iter().filter(|it| state.is_none_or(|state| it.state == state));
        let mut found: Vec<_> = wanted.filter(|it| Some(it.mark()) > after).copied().collect();
        found.sort_by_key(SweepRecord::mark);
        found.truncate(limit);
        Ok(found)
    }
}
