//! The right to an upstream, from the verdict to the end of the answer.
//!
//! ```text
//! free ─────────> answering ───────────────> closed
//! HeldUse ──────> AnsweringUse ────────────> closed: spent, or given back
//!    └── failed, or an answer that is not charged for ──> closed: given back
//! ```
//!
//! Each stage consumes the one before, so a use is closed once. A stage that is dropped before it is
//! closed gives its use back ([`Use`]). The order of the steps favours the payer if the process dies
//! between two of them: an answer is kept before its use is spent, and a use is given back before the
//! client learns that its request failed ([money guide](crate::guide::money), crash points).

mod answer_meter;
mod event_stream;
mod recorder;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::cashier::{Admitted, Cashier, How};
use crate::ledger::Ledger;
use crate::metrics::{Outcome, UseResult};
use crate::nano::Raw;
use crate::routes::Unit;
use crate::routes::{ChargeOn, Metering};
use crate::store::Store;
use crate::store::capabilities::{BrokenAnswer, Capabilities, Use};
pub use answer_meter::AnswerMeter;
use event_stream::EventStream;
use recorder::Recorder;

/// How an exchange ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// The client's connection took the whole answer.
    Whole,
    /// The client was gone first.
    ClientGone,
    /// The upstream or the gateway failed.
    Failed,
}

/// Whether an answer takes the use of its request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Charge {
    Taken,
    /// Nothing is charged, and nothing failed: the request is free, or the upstream says so.
    Excused,
    /// It only redirects to what is charged for in its turn.
    Redirected,
    /// The upstream failed, by the route's `charge_on`.
    Failed,
}

/// What is known of an answer beside its status.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnswerTraits {
    /// The upstream says that it is not to be charged for.
    pub is_excused: bool,
    /// It redirects to a path of the gateway that has a price.
    pub redirects: bool,
}

/// The right to an upstream, of a free request or of one that holds a use.
#[derive(Debug)]
pub struct Admission {
    stage: Stage,
    /// What was charged to a purse, once that is known.
    charged: Option<Raw>,
}

#[derive(Debug)]
enum Stage {
    Free,
    Held(HeldUse),
    /// An answer that takes no use has begun.
    FreeAnswering,
    Answering(AnsweringUse),
    Closed(Outcome),
}

/// A use that is held while the upstream is asked. There is no answer yet.
///
/// It cannot be closed twice:
///
/// ```compile_fail,E0382
/// # use faregate::{admission::{Ending, HeldUse}, store::{Store, capabilities::Capabilities}};
/// async fn twice<S: Store>(held: HeldUse, capabilities: &Capabilities<S>) {
///     let _first = held.close(capabilities, Ending::Failed).await;
///     let _second = held.close(capabilities, Ending::Failed).await;
/// }
/// ```
///
/// nor be closed once it is answered:
///
/// ```compile_fail,E0382
/// # use faregate::{admission::{Ending, HeldUse}, store::{Store, capabilities::Capabilities}};
/// async fn both<S: Store>(held: HeldUse, capabilities: &Capabilities<S>) {
///     let _answering = held.answer(capabilities, http::StatusCode::OK, &http::HeaderMap::new()).await;
///     let _closed = held.close(capabilities, Ending::Failed).await;
/// }
/// ```
///
/// nor be closed without a word about what became of it, which `unused_must_use` denies:
///
/// ```compile_fail
/// # #![deny(unused_must_use)]
/// # use faregate::{admission::{Ending, HeldUse}, store::{Store, capabilities::Capabilities}};
/// async fn silent<S: Store>(held: HeldUse, capabilities: &Capabilities<S>) {
///     held.close(capabilities, Ending::Failed).await;
/// }
/// ```
#[derive(Debug)]
#[must_use = "a held use is answered or closed"]
pub struct HeldUse {
    admitted: Admitted,
    charge_on: ChargeOn,
}

/// A use whose answer has begun and counts. It is spent once the client has the whole answer.
///
/// It is closed once:
///
/// ```
/// # use faregate::{admission::{AnsweringUse, Ending}, cashier::Cashier, ledger::Ledger};
/// # use faregate::{metrics::UseResult, store::Store};
/// async fn once<L: Ledger, S: Store>(answering: AnsweringUse, cashier: &Cashier<L, S>) -> UseResult {
///     answering.close(cashier, Ending::Whole).await.0
/// }
/// ```
///
/// It cannot be made without a use that was held:
///
/// ```compile_fail,E0451
/// # use faregate::{admission::AnsweringUse, cashier::Admitted};
/// fn forge(admitted: Admitted) -> AnsweringUse {
///     AnsweringUse { admitted, recorder: None, events: None, meter: None, charge_on: Default::default(), has_failed: false }
/// }
/// ```
///
/// nor be closed twice:
///
/// ```compile_fail,E0382
/// # use faregate::{admission::{AnsweringUse, Ending}, cashier::Cashier, ledger::Ledger};
/// # use faregate::{metrics::UseResult, store::Store};
/// async fn twice<L: Ledger, S: Store>(answering: AnsweringUse, cashier: &Cashier<L, S>) -> UseResult {
///     let _first = answering.close(cashier, Ending::Whole).await;
///     answering.close(cashier, Ending::Failed).await.0
/// }
/// ```
#[derive(Debug)]
#[must_use = "a use whose answer has begun is closed"]
pub struct AnsweringUse {
    admitted: Admitted,
    /// Set if the answer is to be kept under the client's payment identifier.
    recorder: Option<Recorder>,
    /// Set if the answer is a stream of events.
    events: Option<EventStream>,
    /// Set if a purse pays for what the answer uses.
    meter: Option<Box<AnswerMeter>>,
    charge_on: ChargeOn,
    /// Whether the answer said at its end that the call has failed, in a way that is not charged for.
    has_failed: bool,
}

impl HeldUse {
    /// The use that a verdict admitted, charged for as the route says.
    pub const fn new(admitted: Admitted, charge_on: ChargeOn) -> Self {
        Self { admitted, charge_on }
    }

    /// An answer that counts begins, with the headers that the client gets. Under strict metering the
    /// use is durably spent before this returns.
    pub async fn answer<S: Store>(
        self,
        capabilities: &Capabilities<S>,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> AnsweringUse {
        let Self { mut admitted, charge_on } = self;
        if is_recorded_first(&admitted) {
            Box::pin(record(capabilities, &mut admitted.taken)).await;
        }
        let largest = admitted.keeping.as_ref().map(|it| it.largest);
        let recorder = largest.map(|it| Recorder::begin(it, status, headers));
        let events = EventStream::begin(headers);
        AnsweringUse { admitted, recorder, events, meter: None, charge_on, has_failed: false }
    }

    /// Closes a use without an answer that counts. It is given back, but to a client that hangs up
    /// again and again. The failure is counted.
    #[must_use]
    pub async fn close<S: Store>(self, capabilities: &Capabilities<S>, ending: Ending) -> UseResult {
        let Admitted { taken, keeping, .. } = self.admitted;
        let result = match ending {
            Ending::ClientGone => Box::pin(broke(capabilities, taken)).await,
            Ending::Whole | Ending::Failed => {
                capabilities.fail(taken);
                UseResult::GivenBack
            }
        };
        // The next request under the same payment identifier has its turn now.
        drop(keeping);
        result
    }
}

impl HeldUse {
    /// Gives the use back because the answer is not charged for. That is no failure.
    fn excuse(self) -> UseResult {
        let Admitted { taken, keeping, .. } = self.admitted;
        taken.give_back();
        drop(keeping);
        UseResult::GivenBack
    }
}

impl AnsweringUse {
    /// Keeps the answer if it is to be kept, then spends the use or gives it back. A kept answer is the
    /// client's, however the connection ends; so is a stream of events once it has one of them. Any other
    /// answer that breaks off gives its use back at most twice before one is spent, whoever broke it.
    ///
    /// A purse is charged with what was used, however the connection ends. That comes second. Where the upstream failed,
    /// nothing is known of what was used and no event was handed on, what was set aside is treated like a use.
    pub async fn close<L: Ledger, S: Store>(
        self,
        cashier: &Cashier<L, S>,
        mut ending: Ending,
    ) -> (UseResult, Option<Raw>) {
        let Self { admitted, recorder, events, meter, has_failed, .. } = self;
        let how_it_ended = ending;
        if has_failed {
            // It began, so it counts among those that broke off: a client that sets its own deadline could
            // read it again and again.
            ending = Ending::Failed;
        }
        let whole = ending == Ending::Whole;
        let has_event = events.is_some_and(|it| it.has_event());
        if has_event {
            ending = Ending::Whole;
        }
        if let Some(answer) = recorder.and_then(|it| it.finish(whole)) {
            fail::fail_point!("answer-to-be-kept", |_| std::process::abort());
            if Box::pin(cashier.keep(&admitted, &answer)).await {
                ending = Ending::Whole;
            }
        }
        let Admitted { taken, keeping, .. } = admitted;
        let capabilities = cashier.capabilities();
        let result = match (meter, ending) {
            (Some(meter), _) => {
                let fails = how_it_ended == Ending::Failed && !has_event && !meter.counts_parts();
                if has_failed || fails {
                    broke_unpriced(capabilities, taken).await
                } else {
                    charge(capabilities, taken, meter.finish(how_it_ended)).await
                }
            }
            (None, Ending::Whole) => (commit(taken), None),
            (None, Ending::ClientGone | Ending::Failed) => (Box::pin(broke(capabilities, taken)).await, None),
        };
        // The next request under the same payment identifier has its turn now.
        drop(keeping);
        result
    }
}

fn commit(taken: Use) -> UseResult {
    fail::fail_point!("use-answered", |_| std::process::abort());
    taken.commit();
    UseResult::Committed
}

async fn broke<S: Store>(capabilities: &Capabilities<S>, taken: Use) -> UseResult {
    match capabilities.broke(taken).await {
        BrokenAnswer::GivenBack => UseResult::GivenBack,
        BrokenAnswer::Committed => UseResult::Committed,
    }
}

/// As [`broke`], of an answer paid from a purse of which nobody has said what it used.
async fn broke_unpriced<S: Store>(capabilities: &Capabilities<S>, taken: Use) -> (UseResult, Option<Raw>) {
    let reserved = taken.reserved();
    match Box::pin(broke(capabilities, taken)).await {
        UseResult::Committed => (UseResult::Committed, Some(Raw::new(reserved))),
        UseResult::GivenBack => (UseResult::GivenBack, Some(Raw::ZERO)),
    }
}

/// Whether a use is spent durably before its answer leaves. What is taken of a purse is known only at the end.
fn is_recorded_first(admitted: &Admitted) -> bool {
    admitted.taken.metering() == Metering::Strict && admitted.taken.held().record().unit == Unit::Use
}

/// Charges a purse with what the answer cost, as far as that is there. Under strict metering that is durable when
/// this returns.
async fn charge<S: Store>(
    capabilities: &Capabilities<S>,
    mut taken: Use,
    cost: Raw,
) -> (UseResult, Option<Raw>) {
    fail::fail_point!("use-answered", |_| std::process::abort());
    let lacking = cost.get().saturating_sub(taken.reserved());
    if lacking > 0 {
        let _got = Box::pin(capabilities.take_more(&mut taken, lacking)).await;
    }
    let strict = taken.metering() == Metering::Strict;
    let held = std::sync::Arc::clone(taken.held());
    let charged = taken.charge(cost.get());
    if strict && let Err(error) = Box::pin(capabilities.report_now(&held)).await {
        tracing::warn!(%error, "what an answer cost was not recorded at once");
    }
    (UseResult::Committed, Some(Raw::new(charged)))
}

/// How a request with a right ends, if nothing fails.
const fn how(admitted: &Admitted) -> Outcome {
    match admitted.how {
        How::Paid => Outcome::Paid,
        How::Unlocked => Outcome::Unlocked,
    }
}

/// Spends a use durably before its answer leaves.
async fn record<S: Store>(capabilities: &Capabilities<S>, taken: &mut Use) {
    fail::fail_point!("use-to-be-recorded", |_| std::process::abort());
    if let Err(error) = capabilities.commit_durably(taken).await {
        // It is paid for and the upstream has done its work: the report follows.
        tracing::warn!(%error, "a use was not recorded before its answer");
    }
    fail::fail_point!("use-recorded", |_| std::process::abort());
}

impl Admission {
    const fn at(stage: Stage) -> Self {
        Self { stage, charged: None }
    }

    /// Of a free request.
    #[must_use]
    pub const fn free() -> Self {
        Self::at(Stage::Free)
    }

    /// Of a request that holds a use.
    #[must_use]
    pub const fn held(held: HeldUse) -> Self {
        Self::at(Stage::Held(held))
    }

    /// What a verdict admitted, until it is closed; `None` for a free request.
    #[must_use]
    pub const fn admitted(&self) -> Option<&Admitted> {
        match &self.stage {
            Stage::Held(HeldUse { admitted, .. }) | Stage::Answering(AnsweringUse { admitted, .. }) => {
                Some(admitted)
            }
            Stage::Free | Stage::FreeAnswering | Stage::Closed(_) => None,
        }
    }

    /// Whether an answer with `status` is charged for. A redirect that is not is counted.
    #[must_use]
    pub fn judge(&self, status: StatusCode, traits: AnswerTraits) -> Charge {
        let Stage::Held(HeldUse { admitted, charge_on }) = &self.stage else { return Charge::Excused };
        if !charge_on.charges(status.as_u16()) {
            return Charge::Failed;
        }
        if traits.is_excused {
            return Charge::Excused;
        }
        let is_free = traits.redirects && !charge_on.charges_redirects();
        if is_free && admitted.taken.forgives_redirect() { Charge::Redirected } else { Charge::Taken }
    }

    /// The answer begins, with the headers that the client gets. It counts if it is charged for;
    /// otherwise the use is given back before the answer leaves, so that a client that tries again at
    /// once finds it. Returns what became of the use, once that is known.
    #[must_use]
    pub async fn answer<L: Ledger, S: Store>(
        &mut self,
        cashier: &Cashier<L, S>,
        charge: Charge,
        (status, headers): (StatusCode, &HeaderMap),
    ) -> Option<UseResult> {
        let (next, result) = match self.take() {
            Stage::Held(held) => match charge {
                Charge::Taken => {
                    (Stage::Answering(held.answer(cashier.capabilities(), status, headers).await), None)
                }
                // A redirect is what was asked for, and no failure of the upstream.
                Charge::Redirected => (Stage::Closed(how(&held.admitted)), Some(held.excuse())),
                Charge::Excused => (Stage::Closed(Outcome::UpstreamFailed), Some(held.excuse())),
                Charge::Failed => {
                    let result = held.close(cashier.capabilities(), Ending::Failed).await;
                    (Stage::Closed(Outcome::UpstreamFailed), Some(result))
                }
            },
            Stage::Free => (Stage::FreeAnswering, None),
            later @ (Stage::FreeAnswering | Stage::Answering(_) | Stage::Closed(_)) => (later, None),
        };
        self.stage = next;
        result
    }

    /// Whether [`Admission::answer`] with this charge asks the store: what fails there is found by its request.
    #[must_use]
    pub fn answer_asks_store(&self, charge: Charge) -> bool {
        let Stage::Held(HeldUse { admitted, .. }) = &self.stage else { return false };
        match charge {
            Charge::Taken => is_recorded_first(admitted),
            Charge::Failed => true,
            Charge::Excused | Charge::Redirected => false,
        }
    }

    /// Whether [`Admission::close`] asks the store if the answer was whole: the answer is kept there.
    #[must_use]
    pub const fn keeps_answer(&self) -> bool {
        matches!(&self.stage, Stage::Answering(AnsweringUse { recorder: Some(_), .. }))
    }

    /// A part of the answer's body passes; `end` says that it is the last.
    pub fn part(&mut self, part: Option<&Bytes>, end: bool) {
        let Stage::Answering(AnsweringUse { recorder, events, meter, .. }) = &mut self.stage else { return };
        if let Some((meter, part)) = meter.as_mut().zip(part) {
            meter.part(part);
        }
        if let Some(recorder) = recorder {
            recorder.part(part, end);
        }
        if let Some((events, part)) = events.as_mut().zip(part) {
            events.part(part);
        }
    }

    /// The most that a purse pays for an answer that is to be charged for so; `None` if no purse does.
    #[must_use]
    pub fn most(&self, charge: Charge) -> Option<Raw> {
        let taken = &self.admitted().filter(|_| charge == Charge::Taken)?.taken;
        (taken.held().record().unit == Unit::Raw).then(|| Raw::new(taken.most()))
    }

    /// Reads what the answer, which has begun, uses, if a purse pays for it.
    pub fn measure(&mut self, meter: AnswerMeter) {
        if let Stage::Answering(answering) = &mut self.stage
            && answering.admitted.taken.held().record().unit == Unit::Raw
        {
            answering.meter = Some(Box::new(meter));
        }
    }

    /// A trailer says what the answer cost.
    pub fn cost_trailer(&mut self, value: &[u8]) {
        if let Stage::Answering(AnsweringUse { meter: Some(meter), .. }) = &mut self.stage {
            meter.trailer(value);
        }
    }

    /// Whether the answer costs so much more than its purse has that it is to be cut off. Takes what it costs more
    /// than was set aside.
    #[must_use]
    pub fn is_overdrawn<S: Store>(&mut self, capabilities: &Capabilities<S>) -> bool {
        let Stage::Answering(AnsweringUse { meter: Some(meter), admitted, .. }) = &mut self.stage else {
            return false;
        };
        let taken = &mut admitted.taken;
        let mut lacking = meter.so_far().get().saturating_sub(taken.reserved());
        if lacking > 0 {
            lacking = lacking.saturating_sub(capabilities.extend(taken, lacking));
        }
        // What is elsewhere, in the store or leased by others, is there for one answer only.
        meter.cuts(taken.owe(lacking))
    }

    /// What is said at the end of the answer of its cost, if something is.
    #[must_use]
    pub fn last_words(&self) -> Option<Bytes> {
        let Stage::Answering(AnsweringUse { meter: Some(meter), admitted, .. }) = &self.stage else {
            return None;
        };
        meter.last_words(admitted.taken.most())
    }

    /// What was charged to a purse, once the admission is closed.
    #[must_use]
    pub const fn charged(&self) -> Option<Raw> {
        self.charged
    }

    /// The answer says at its end that it is to be judged as `status`. A use that was durably spent before the
    /// answer left stays spent.
    pub fn ends_as(&mut self, status: StatusCode) {
        if let Stage::Answering(answering) = &mut self.stage {
            let is_spent = is_recorded_first(&answering.admitted);
            answering.has_failed = !is_spent && !answering.charge_on.charges(status.as_u16());
        }
    }

    /// The exchange ended. Returns what became of the use, the first time.
    #[must_use]
    pub async fn close<L: Ledger, S: Store>(
        &mut self,
        cashier: &Cashier<L, S>,
        ending: Ending,
    ) -> Option<UseResult> {
        let result = match self.take() {
            Stage::Held(held) => {
                let taken = &held.admitted.taken;
                let hold = (taken.held().record().unit == Unit::Raw).then(|| Raw::new(taken.reserved()));
                let result = held.close(cashier.capabilities(), ending).await;
                self.charged = hold.filter(|_| result == UseResult::Committed);
                result
            }
            Stage::Answering(answering) => {
                let (result, charged) = answering.close(cashier, ending).await;
                self.charged = charged;
                result
            }
            Stage::Free if ending == Ending::Failed => {
                self.stage = Stage::Closed(Outcome::UpstreamFailed);
                return None;
            }
            Stage::Free | Stage::FreeAnswering | Stage::Closed(_) => return None,
        };
        if result == UseResult::GivenBack && ending != Ending::ClientGone {
            self.stage = Stage::Closed(Outcome::UpstreamFailed);
        }
        Some(result)
    }

    /// The exchange is dropped because it took too long. A use is given back, and the failure counted.
    #[must_use]
    pub fn abandon<S: Store>(&mut self, capabilities: &Capabilities<S>) -> Option<UseResult> {
        let taken = match self.take() {
            Stage::Held(HeldUse { admitted, .. }) | Stage::Answering(AnsweringUse { admitted, .. }) => {
                Some(admitted.taken)
            }
            Stage::Free | Stage::FreeAnswering | Stage::Closed(_) => None,
        };
        self.stage = Stage::Closed(Outcome::UpstreamFailed);
        taken.map(|taken| {
            capabilities.fail(taken);
            UseResult::GivenBack
        })
    }

    /// How the request ended, or how it stands.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match (&self.stage, self.admitted()) {
            (Stage::Closed(outcome), _) => *outcome,
            (_, admitted) => admitted.map_or(Outcome::Free, how),
        }
    }

    /// Takes the stage out and leaves the request closed as it stands.
    fn take(&mut self) -> Stage {
        let closed = Stage::Closed(self.outcome());
        std::mem::replace(&mut self.stage, closed)
    }
}
